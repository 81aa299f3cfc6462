"""A lane's health: its window of slots, its circuit, and what holds it. Pure.

A lane starts with a small window that doubles while its peer answers, and shrinks to one slot when
it times out: so a silent destination costs few slots from the first second on (I6).
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

from dispatcher.outcome import Outcome

HeldReason = Literal["circuit", "retry-after"]

# Thirty silent lanes then occupy 240 of the default 1,024 slots until their first time-outs.
WINDOW_START: Final = 8
CIRCUIT_FAILURES: Final = 20
CIRCUIT_SPAN_MS: Final = 60_000
CIRCUIT_FIRST_MS: Final = 5_000
CIRCUIT_MOST_MS: Final = 300_000
_HOLDING_CODES: Final = frozenset({429, 503})


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a lane remembers of its peer. `openings` counts the circuit's holds since it opened;
    zero means closed."""

    window: int = WINDOW_START
    failures: int = 0
    failing_since_ms: int | None = None
    openings: int = 0
    held_until_ms: int = 0
    held_reason: HeldReason | None = None


def after(
    health: Health, outcome: Outcome, *, now_ms: int, random: float, concurrency: int
) -> Health:
    """Return the lane's health once `outcome` is known. `concurrency` caps the window; `random` in
    [0, 1) spreads the circuit's probes by ±20 %."""
    if outcome.kind == "interrupted" or _steady(health, outcome, concurrency):
        return health
    health = _failed(health, outcome, now_ms, random) if outcome.down else _answered(health)
    if outcome.kind == "answered":
        health = replace(health, window=max(1, min(concurrency, _grown(health))))
    elif outcome.kind == "timeout":
        health = replace(health, window=1)
    if outcome.retry_after_ms and outcome.status_code in _HOLDING_CODES:
        until_ms = now_ms + outcome.retry_after_ms
        if until_ms > health.held_until_ms:
            health = replace(health, held_until_ms=until_ms, held_reason="retry-after")
    return health


def _steady(health: Health, outcome: Outcome, concurrency: int) -> bool:
    """Whether nothing changes: another response from a peer that is well. The common case."""
    clean = not health.failures and not health.openings and health.window == concurrency
    return clean and outcome.kind == "answered" and not outcome.down and not outcome.retry_after_ms


def _grown(health: Health) -> int:
    """One more slot for each answer doubles the window once per round trip, like TCP's slow
    start; while the circuit is open one probe at a time goes out."""
    return 1 if health.openings else health.window + 1


def _answered(health: Health) -> Health:
    """Any answer but a 5xx shows a living peer: the circuit closes and its hold ends."""
    if not health.failures and not health.openings:
        return health
    closed = replace(health, failures=0, failing_since_ms=None, openings=0)
    if closed.held_reason == "circuit":
        closed = replace(closed, held_until_ms=0, held_reason=None)
    return closed


def _failed(health: Health, outcome: Outcome, now_ms: int, random: float) -> Health:
    since_ms = now_ms if health.failing_since_ms is None else health.failing_since_ms
    failing = replace(health, failures=health.failures + 1, failing_since_ms=since_ms)
    spent = failing.failures >= CIRCUIT_FAILURES and now_ms - since_ms >= CIRCUIT_SPAN_MS
    # Attempts that were already out when the circuit opened say nothing new.
    if not spent or (health.openings and outcome.started_ms < health.held_until_ms):
        return failing
    hold_ms = min(CIRCUIT_MOST_MS, CIRCUIT_FIRST_MS * 2 ** min(health.openings, 16))
    hold_ms = round(hold_ms * (0.8 + 0.4 * random))
    return replace(
        failing,
        window=1,
        openings=health.openings + 1,
        held_until_ms=max(now_ms + hold_ms, health.held_until_ms),
        held_reason="circuit",
    )
