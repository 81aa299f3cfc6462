"""Messages as they are when they have been verified and identified."""

from receiver.inbox.dedupe import Via, kind_of
from receiver.inbox.message import Message

NOW_MS = 1_700_000_000_000


def message(
    job_id: str | None = "job_1",
    status: str | None = "completed",
    *,
    id: str | None = None,
    text: str = "",
    source: str = "/webhooks",
    has_handler: bool = False,
    latest: bool = False,
    run: int | None = None,
    via: Via = "webhook",
) -> Message:
    return Message(
        source=source,
        message_id=id,
        body=f"{job_id} {status} {text}".encode(),
        content_type="application/json",
        kind=kind_of(job_id, status),
        job_id=job_id,
        job_status=status,
        sent_ms=None,
        received_ms=NOW_MS,
        has_handler=has_handler,
        latest=latest,
        run=run,
        via=via,
    )
