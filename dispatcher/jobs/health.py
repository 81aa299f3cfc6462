"""An endpoint's health: its window of calls, its circuit, and what holds it. Pure.

The window begins at the endpoint's `concurrency`. Where it is adaptive, an upstream that turns a
call away takes one place off it, and answers bring them back one by one. A call that runs into its
limit says nothing: it is the job that is slow. Only what was not sent counts for the circuit.
"""

from dataclasses import replace
from typing import Final

from dispatcher import health as peers
from dispatcher.health import Health
from dispatcher.jobs.values import CallOutcome

_SERVER_ERRORS: Final = 500
_ANSWERS: Final = ("answered", "too_large", "no_room")
_OURS: Final = ("interrupted", "cancelled")


def fresh(concurrency: int) -> Health:
    """Return the health of an upstream that nothing is known of."""
    return Health(window=concurrency)


def resized(health: Health, concurrency: int) -> Health:
    """Return an endpoint's health once its `concurrency` or `adaptive` were written anew: what its
    window had learned is forgotten, holds and the circuit stay."""
    if health.openings:
        return replace(health, threshold=concurrency)
    return replace(health, window=concurrency, threshold=None)


def after(
    health: Health,
    outcome: CallOutcome,
    *,
    turned_away: bool,
    now_ms: int,
    random: float,
    concurrency: int,
    adaptive: bool,
) -> Health:
    """Return an endpoint's health once a call's outcome is known; `turned_away` is its verdict's.

    The window is what may be open now: one while the circuit is open; meanwhile `threshold` keeps
    what it was. `random` in [0, 1) spreads holds by ±20 %.
    """
    if outcome.kind in _OURS:
        return health
    if not outcome.sent:
        return _not_sent(health, outcome, now_ms, random)
    if turned_away:
        health = _reached(health, concurrency)
        if adaptive and peers.is_news(health, outcome):
            health = replace(health, window=max(1, min(concurrency, health.window) - 1))
        return peers.turned_away(health, outcome, now_ms, random)
    if _steady(health, concurrency):
        return health
    health = _reached(health, concurrency)
    if outcome.kind not in _ANSWERS or not peers.is_news(health, outcome):
        return health
    if health.turned_away:
        health = replace(health, turned_away=0)
    if not adaptive:
        return health if health.window == concurrency else replace(health, window=concurrency)
    # One more per round trip, by chance; none for a server's error.
    well = (outcome.status_code or 0) < _SERVER_ERRORS
    if well and health.window < concurrency and random * health.window < 1:
        health = replace(health, window=health.window + 1)
    return health


def _steady(health: Health, concurrency: int) -> bool:
    """Whether another answer changes nothing: the common case."""
    clean = not (health.failures or health.openings or health.turned_away)
    return clean and health.window == concurrency


def _not_sent(health: Health, outcome: CallOutcome, now_ms: int, random: float) -> Health:
    failed = peers.failed(health, outcome, now_ms, random)
    if failed.openings and not health.openings:
        return replace(failed, threshold=health.window)
    return failed


def _reached(health: Health, concurrency: int) -> Health:
    """Close the circuit, and give back the window of before."""
    if health.openings:
        window = min(concurrency, health.threshold or concurrency)
        health = replace(health, window=window, threshold=None)
    return peers.answered(health)
