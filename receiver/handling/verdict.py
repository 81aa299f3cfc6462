"""What follows from one attempt. Pure: time and randomness are arguments."""

import traceback
from typing import Final

from receiver.handling.backoff import retry_delay_ms
from receiver.handling.limits import Limits
from receiver.inbox.handling import Settlement
from receiver.message import Claimed

ERROR_CHARS_MAX: Final = 16_000  # of a traceback that is kept: some 200 frames


def verdict(
    claimed: Claimed, error: BaseException | None, limits: Limits, *, now_ms: int, random: float
) -> Settlement:
    """Decide: handled; or due again after a wait; or dead. `random` is from 0 to 1."""
    if error is None:
        return Settlement(id=claimed.id, fence=claimed.fence, state="handled", now_ms=now_ms)
    dead = claimed.attempt >= limits.attempts
    wait_ms = retry_delay_ms(
        claimed.attempt, base_s=limits.retry_base_s, cap_s=limits.retry_cap_s, random=random
    )
    return Settlement(
        id=claimed.id,
        fence=claimed.fence,
        state="dead" if dead else "pending",
        now_ms=now_ms,
        due_ms=None if dead else now_ms + wait_ms,
        error="".join(traceback.format_exception(error))[-ERROR_CHARS_MAX:],
    )
