"""What a completion says, typed, whichever platform sent it. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from receiver.base.completion import TERMINAL, ParseError, Reason, canonical, parse
from receiver.verification.identity import Identity, Platform

_MILLISECONDS: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One verified message about a job.

    What a platform left out, or sent in a form that its field cannot have, is None; `raw` holds
    the bytes as they came. A repr shows neither the body nor anything taken out of it.
    """

    job_id: str  # of a body that names no job: its signed message id
    status: str  # queued, running, completed, failed, cancelled, timeout or unknown
    sent_status: str | None = None  # as the platform spells it
    run: int = 1  # of the job: one that is run again under its id counts on
    output: Any = field(default=None, repr=False)
    error: Any = field(default=None, repr=False)  # text, or the JSON document it consists of
    execution_time: timedelta | None = None
    completed_at: datetime | None = None  # with its offset; UTC where none was sent
    tags: Mapping[str, str] = field(default_factory=dict, repr=False)
    cost: float | None = None
    raw: bytes = field(default=b"", repr=False)
    platform: Platform = "tensorone"
    message_id: str | None = None  # the signed webhook-id
    content_type: str | None = None  # as sent; not signed, never trusted
    source: str = ""  # the path it came in by; two sources' job ids never meet
    attempt: int = 1  # of handling it; pass it on with job_id where a key is needed
    unread: Reason | None = None  # why `raw` is no JSON that everybody reads alike

    @property
    def is_final(self) -> bool:
        """Whether the job has ended, one way or another."""
        return self.status in TERMINAL

    @property
    def key(self) -> str:
        """The name of this message for ever: the hash of its bytes, after its signed id where there
        is one. The id alone would not do: some senders sign all messages of a job with the same."""
        signed = f"{self.message_id}." if self.message_id else ""
        return f"{signed}sha256:{sha256(self.raw).hexdigest()}"


def read_event(
    identity: Identity,
    body: bytes,
    *,
    message_id: str | None,
    source: str = "",
    content_type: str | None = None,
    attempt: int = 1,
) -> Event:
    """Return the event in a verified and identified message. Raises nothing: a value that does not
    have its field's form is None."""
    fields = identity.document if isinstance(identity.document, dict) else {}
    job_id = identity.job_id or message_id or f"sha256:{sha256(body).hexdigest()}"
    common: dict[str, Any] = {
        "job_id": job_id,
        "status": canonical(identity.status),
        "sent_status": identity.status,
        "run": identity.run or 1,
        "unread": identity.unread,
        "raw": body,
        "platform": identity.platform,
        "message_id": message_id,
        "source": source,
        "content_type": content_type,
        "attempt": attempt,
    }
    if identity.platform == "cerebrium":
        return Event(**common, **_cerebrium(identity.document, canonical(identity.status)))
    if identity.platform == "other":
        return Event(**common, output=fields.get("output", identity.document))
    unit_s = _MILLISECONDS if identity.platform == "runpod" else 1.0
    return Event(
        **common,
        output=fields.get("output"),
        error=_error(fields.get("error")),
        execution_time=_duration(fields.get("executionTime"), unit_s),
        completed_at=_time(fields.get("completedAt")),
        tags=_tags(fields.get("tags")),
        cost=_amount(fields.get("cost")),
    )


def _cerebrium(document: Any, status: str) -> dict[str, Any]:
    """Read its envelope `{"run_id", "result", "run_time_ms"}`, or a bare result; of a job that
    ended otherwise, which is said beside it, the body is its error."""
    if status in TERMINAL and status != "completed":
        return {"error": document}
    if isinstance(document, dict) and "run_id" in document and "result" in document:
        taken = _duration(document.get("run_time_ms"), _MILLISECONDS)
        return {"output": document["result"], "execution_time": taken}
    return {"output": document}


def _error(value: Any) -> Any:
    """Read the JSON document that RunPod puts into a string; other text stays as it is. It is as
    strict as with the body: what is refused there (NUL, half a character) is not let in here."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            document = parse(value.encode())
        except ParseError:
            return value
        return document if isinstance(document, dict) else value
    return value


def _duration(value: Any, unit_s: float) -> timedelta | None:
    amount = _amount(value)
    if amount is None or amount < 0:
        return None
    try:
        return timedelta(seconds=amount * unit_s)
    except OverflowError:
        return None


def _time(value: Any) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _tags(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {name: text for name, text in value.items() if isinstance(text, str)}


def _amount(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
