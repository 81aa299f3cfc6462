"""The event that a stored message is. Pure."""

from typing import Final

from receiver.event import Event, read_event
from receiver.message import Claimed
from receiver.verification.identity import Identity, identify

DEPTH_MAX: Final = 900  # whatever limit a body was let in under, it was below this


def event_of(claimed: Claimed) -> Event:
    """Parse again: it was read when it came, so it can be read again."""
    is_cerebrium = claimed.platform == "cerebrium" and claimed.job_id is not None
    document = identify(
        claimed.body,
        claimed.message_id or "known",
        request_id=claimed.job_id if is_cerebrium else None,
        dialect="auto" if claimed.platform == "other" else claimed.platform,
        depth_max=DEPTH_MAX,
    ).document
    identity = Identity(
        job_id=claimed.job_id,
        status=claimed.job_status,
        platform=claimed.platform,
        document=document,
    )
    return read_event(
        identity,
        claimed.body,
        message_id=claimed.message_id,
        source=claimed.source,
        content_type=claimed.content_type,
        attempt=claimed.attempt,
    )
