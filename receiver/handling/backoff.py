"""When to try again. Pure: no clock, no sleep; randomness is an argument."""

from typing import Final

FACTOR: Final = 3.0
JITTER: Final = 0.2  # to either side, so that what failed together does not come back together


def retry_delay_ms(
    attempt: int, *, base_s: float, cap_s: float, random: float, factor: float = FACTOR
) -> int:
    """Return the wait after failed attempt `attempt` (from 1); `random` is from 0 to 1."""
    # Beyond this exponent every wait is at its cap, and larger powers overflow.
    delay_s = min(cap_s, base_s * factor ** min(attempt - 1, 60))
    return round(delay_s * 1000 * (1 - JITTER + 2 * JITTER * random))
