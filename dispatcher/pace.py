"""How fast something may come: so many a second, of which a second's worth may come at once. Pure;
times are milliseconds of a clock that only goes forward."""

import math
from dataclasses import dataclass
from typing import Final

# How many seconds' worth may come at one moment.
_BURST_S: Final = 1.0
# What sums of a third of a second may be off by.
_NOISE_MS: Final = 0.001


def paced(used_ms: float, rate: float, now_ms: float) -> tuple[float, float]:
    """Return until when a rate is used once one more has come, and how long that one must wait (0:
    it may come): a second's worth may come at once, one always."""
    interval_ms, slack_ms = _times(rate)
    used_ms = min(used_ms, now_ms + slack_ms + interval_ms)  # it may have been another rate's
    wait_ms = used_ms - slack_ms - now_ms
    return (used_ms, wait_ms) if wait_ms > _NOISE_MS else (max(used_ms, now_ms) + interval_ms, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """A rate as it is said to whom it binds: `quota` in `window_s` seconds, of which `left` may
    come now; `reset_s` until that is more. With a `wait_ms` this one came too early."""

    quota: int
    window_s: int
    left: int
    reset_s: int
    wait_ms: float


def quota(used_ms: float, rate: float, now_ms: float, wait_ms: float) -> Quota:
    """Return what is left of a rate that is used until then; `wait_ms` as `paced` returned it."""
    interval_ms, slack_ms = _times(rate)
    most = max(1, math.floor(rate * _BURST_S))
    left = math.floor((now_ms + slack_ms - used_ms + _NOISE_MS) / interval_ms) + 1
    return Quota(
        quota=most,
        window_s=_seconds(most * interval_ms),
        left=0 if wait_ms else max(0, min(most, left)),
        reset_s=_seconds(wait_ms or used_ms - now_ms),
        wait_ms=wait_ms,
    )


def _seconds(ms: float) -> int:
    return max(1, math.ceil((ms - _NOISE_MS) / 1000))


def _times(rate: float) -> tuple[float, float]:
    """Return how far apart two may come for ever, and how much earlier than that one may come."""
    interval_ms = 1000 / rate
    return interval_ms, max(0.0, _BURST_S * 1000 - interval_ms)
