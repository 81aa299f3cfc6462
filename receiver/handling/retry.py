"""What follows from one attempt, and when to try again. Pure: time and chance are arguments."""

import os
import sysconfig
import traceback
from pathlib import Path
from typing import Final

from receiver.inbox.attempts import Settlement
from receiver.inbox.message import Claimed
from receiver.settings import Settings

FACTOR: Final = 3.0
JITTER: Final = 0.2  # to either side, so that what failed together does not come back together
_OTHERS: Final = tuple(
    f"{place}{os.sep}"
    for place in (
        Path(__file__).parents[1],
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    )
)
ERROR_CHARS_MAX: Final = 16_000  # of a traceback that is kept: some 200 frames


def retry_delay_ms(
    attempt: int, *, base_s: float, cap_s: float, random: float, factor: float = FACTOR
) -> int:
    """Return the wait after failed attempt `attempt` (from 1); `random` is from 0 to 1."""
    # Beyond this exponent every wait is at its cap, and larger powers overflow.
    delay_s = min(cap_s, base_s * factor ** min(attempt - 1, 60))
    return round(delay_s * 1000 * (1 - JITTER + 2 * JITTER * random))


def failure_of(error: BaseException | None, *, told: bool = True) -> dict[str, str | None]:
    """Return what a line of the log says of a failure: its class, its message (unless that is not
    to be `told`), and where it arose: the last place that is neither a library's nor ours."""
    if error is None:
        return {"error": None, "reason": None, "at": None}
    reason = str(error) or None if told else None
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if not one.filename.startswith(_OTHERS)]
    last = (own or frames)[-1:]
    at = f"{Path(last[0].filename).name}:{last[0].lineno}" if last else None
    return {"error": type(error).__name__, "reason": reason, "at": at}


def settlement_of(
    claimed: Claimed, error: BaseException | None, settings: Settings, *, now_ms: int, random: float
) -> Settlement:
    """Decide: handled; or due again after a wait; or dead. `random` is from 0 to 1."""
    if error is None:
        return Settlement(id=claimed.id, fence=claimed.fence, state="handled", now_ms=now_ms)
    dead = claimed.attempt >= settings.handler_attempts
    wait_ms = retry_delay_ms(
        claimed.attempt,
        base_s=settings.handler_retry_base,
        cap_s=settings.handler_retry_cap,
        random=random,
    )
    return Settlement(
        id=claimed.id,
        fence=claimed.fence,
        state="dead" if dead else "pending",
        now_ms=now_ms,
        due_ms=None if dead else now_ms + wait_ms,
        error="".join(traceback.format_exception(error))[-ERROR_CHARS_MAX:],
    )
