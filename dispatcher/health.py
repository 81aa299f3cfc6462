"""A lane's health: its window of slots, its circuit, and what holds it. Pure. What it shares with
that of an endpoint, whose window moves by other rules, is public (see `jobs.health`).

A lane starts with a small window that doubles while its peer answers, and shrinks to one slot when
it times out: so a silent destination costs few slots from the first second on (I6). A peer that
turns deliveries away halves it and is left alone for a while; what was held comes back with what is
left of the window, and from there the window grows slowly, as TCP does after a loss.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from dispatcher.outcome import Outcome

HeldReason = Literal["circuit", "retry-after", "turned-away"]

# Thirty silent lanes then occupy 240 of the default 1,024 slots until their first time-outs.
WINDOW_START: Final = 8
CIRCUIT_FAILURES: Final = 20
CIRCUIT_SPAN_MS: Final = 60_000
CIRCUIT_FIRST_MS: Final = 5_000
CIRCUIT_MOST_MS: Final = 300_000
TURNED_AWAY_FIRST_MS: Final = 1_000
TURNED_AWAY_MOST_MS: Final = 300_000


class Met(Protocol):
    """What is asked of the outcome of any call: when it began, and what wait the peer asked for."""

    @property
    def started_ms(self) -> int: ...

    @property
    def retry_after_ms(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Health:
    """What a lane remembers of its peer, in the order of the store's columns. `openings` counts the
    circuit's holds since it opened, zero means closed; `turned_away` counts the holds in a row
    after which the peer only turned away again. From `threshold` slots on (None: nowhere) the
    window grows slowly."""

    window: int = WINDOW_START
    failures: int = 0
    failing_since_ms: int | None = None
    openings: int = 0
    held_until_ms: int = 0
    held_reason: HeldReason | None = None
    turned_away: int = 0
    threshold: int | None = None

    @property
    def answering(self) -> bool:
        """Whether the peer has answered some delivery since it last turned one away."""
        return not self.turned_away


def after(
    health: Health, outcome: Outcome, *, now_ms: int, random: float, concurrency: int
) -> Health:
    """Return the lane's health once `outcome` is known. `concurrency` caps the window; `random` in
    [0, 1) spreads holds by ±20 %."""
    if outcome.kind == "interrupted" or _steady(health, outcome, concurrency):
        return health
    if outcome.turned_away:
        health = answered(health)
        if is_news(health, outcome):
            half = max(1, min(concurrency, health.window) // 2)
            health = replace(health, window=half, threshold=half)
        return turned_away(health, outcome, now_ms, random)
    health = failed(health, outcome, now_ms, random) if outcome.down else answered(health)
    if outcome.kind == "answered":
        if health.turned_away and is_news(health, outcome):
            health = replace(health, turned_away=0)
        window = max(1, min(concurrency, _grown(health, outcome, random)))
        if window != health.window:
            health = replace(health, window=window)
    elif outcome.kind == "timeout":
        health = replace(health, window=1)
    return health


def shrunk(health: Health, outcome: Outcome, failures: int) -> Health:
    """Return a lane's health once an attempt met its server down, for the `failures`th time: that
    counts for the server, but silence and an open circuit cost the lane its slots just the same."""
    if health.window == 1 or (outcome.kind != "timeout" and failures < CIRCUIT_FAILURES):
        return health
    return replace(health, window=1)


def reached(health: Health, outcome: Outcome) -> Health:
    """Return a server's health once an attempt reached it, whatever it met there."""
    return health if outcome.kind == "interrupted" else answered(health)


def _steady(health: Health, outcome: Outcome, concurrency: int) -> bool:
    """Whether nothing changes: another response from a peer that is well. The common case."""
    clean = not (health.failures or health.openings or health.turned_away)
    well = outcome.kind == "answered" and not outcome.down and not outcome.turned_away
    return clean and well and health.window == concurrency


def _grown(health: Health, outcome: Outcome, random: float) -> int:
    """One more slot for each answer doubles the window once per round trip, like TCP's slow start;
    from the threshold on one more per round trip, by chance; none for a server's error, nor for
    what was out before a hold. While the circuit is open one probe at a time goes out."""
    if health.openings:
        return 1
    if outcome.down or not is_news(health, outcome):
        return health.window
    slowly = health.threshold is not None and health.window >= health.threshold
    return health.window + (not slowly or random * health.window < 1)


# --- of any peer ---


def is_news(health: Health, met: Met) -> bool:
    """Whether a call began after the last hold: what was already out when its peer was held says
    nothing of what it takes now."""
    return met.started_ms >= health.held_until_ms


def answered(health: Health) -> Health:
    """Return the health of a peer that lives: the circuit closes and its hold ends."""
    if not health.failures and not health.openings:
        return health
    closed = replace(health, failures=0, failing_since_ms=None, openings=0)
    if closed.held_reason == "circuit":
        closed = replace(closed, held_until_ms=0, held_reason=None)
    return closed


def turned_away(health: Health, met: Met, now_ms: int, random: float) -> Health:
    """Return the health of a peer that turned a call away: held for as long as it asks for, else
    for longer each time in a row. What is no news holds it only by a longer `Retry-After`."""
    new = is_news(health, met)
    if new:
        health = replace(health, turned_away=health.turned_away + 1)
    if met.retry_after_ms:
        return _held(health, now_ms + met.retry_after_ms, "retry-after")
    if new:
        hold_ms = _hold_ms(TURNED_AWAY_FIRST_MS, TURNED_AWAY_MOST_MS, health.turned_away - 1)
        return _held(health, now_ms + round(hold_ms * _spread(random)), "turned-away")
    return health


def failed(health: Health, met: Met, now_ms: int, random: float) -> Health:
    """Return the health of a peer that was not reached: after so many failures in a row, over so
    long a time, the circuit opens; then one probe at a time goes out, after longer and longer
    holds. Failures that are no news do not open it again."""
    since_ms = now_ms if health.failing_since_ms is None else health.failing_since_ms
    failing = replace(health, failures=health.failures + 1, failing_since_ms=since_ms)
    spent = failing.failures >= CIRCUIT_FAILURES and now_ms - since_ms >= CIRCUIT_SPAN_MS
    if not spent or (health.openings and not is_news(health, met)):
        return failing
    hold_ms = _hold_ms(CIRCUIT_FIRST_MS, CIRCUIT_MOST_MS, health.openings)
    opened = replace(failing, window=1, openings=health.openings + 1)
    return _held(opened, now_ms + round(hold_ms * _spread(random)), "circuit")


def _hold_ms(first_ms: int, most_ms: int, times: int) -> int:
    return min(most_ms, first_ms << min(times, 16))


def _spread(random: float) -> float:
    return 0.8 + 0.4 * random


def _held(health: Health, until_ms: int, reason: HeldReason) -> Health:
    """Hold until the later of two times, for the reason of that one."""
    if until_ms <= health.held_until_ms:
        return health
    return replace(health, held_until_ms=until_ms, held_reason=reason)
