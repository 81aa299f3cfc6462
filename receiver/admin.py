"""The admin routes: what is in the inbox, for who holds the admin key."""

import base64
import hmac
from typing import Any, Final
from urllib.parse import parse_qsl

from receiver.asgi import Answer, Refusal, Request
from receiver.inbox import Inbox
from receiver.log import iso
from receiver.message import StoredMessage

LIMIT_MAX: Final = 500
_LIMIT_DEFAULT: Final = 50
_STATUSES: Final = ("accepted", "conflict", "late")
_PARAMETERS: Final = ("status", "jobId", "cursor", "limit")
_DIGITS_MAX: Final = 18  # an id fits 63 bits


def authorize(request: Request, admin_key: str) -> None:
    """Raises Refusal 401 unless the request carries the key, compared in constant time."""
    scheme, _, key = (request.header(b"authorization") or "").partition(" ")
    given = key.strip().encode("latin-1")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given, admin_key.encode()):
        raise Refusal(
            401,
            "UNAUTHORIZED",
            "send the admin key as Authorization: Bearer …",
            headers={"www-authenticate": "Bearer"},
        )


async def list_messages(request: Request, inbox: Inbox) -> Answer:
    """``GET /inbox?status=&jobId=&cursor=&limit=``: newest first."""
    query = _query(request.query)
    status = query.get("status")
    if status is not None and status not in _STATUSES:
        raise _invalid("status", status, f"must be one of: {', '.join(_STATUSES)}")
    limit = _number(query, "limit", LIMIT_MAX)
    page = await inbox.page(
        below=_number(query, "cursor", 10**_DIGITS_MAX),
        limit=_LIMIT_DEFAULT if limit is None else limit,
        job_id=query.get("jobId"),
        verdict=status,
    )
    cursor = None if page.next_below is None else str(page.next_below)
    data = [public(message) for message in page.messages]
    return Answer(document={"data": data, "nextCursor": cursor})


async def show_message(id: str, inbox: Inbox) -> Answer:
    """``GET /inbox/{id}``: one message with its body."""
    is_id = id.isascii() and id.isdecimal() and len(id) <= _DIGITS_MAX
    message = await inbox.show(int(id)) if is_id else None
    if message is None:
        raise Refusal(404, "NOT_FOUND", "there is no such message")
    return Answer(document={**public(message), **_public_body(message.body or b"")})


def public(message: StoredMessage) -> dict[str, Any]:
    """A stored message in the words of the API; ``status`` is the verdict it got."""
    return {
        "id": message.id,
        "status": message.verdict,
        "jobId": message.job_id,
        "jobStatus": message.job_status,
        "messageId": message.message_id,
        "source": message.source,
        "kind": message.kind,
        "contentType": message.content_type,
        "bodySize": message.body_bytes,
        "bodySha256": message.body_sha256.hex(),
        "sentAt": iso(message.sent_ms),
        "receivedAt": iso(message.received_ms),
        "duplicates": message.duplicates,
        "lastSeenAt": iso(message.last_seen_ms),
    }


def _public_body(body: bytes) -> dict[str, str]:
    """As text where it is UTF-8, byte for byte in base64 where it is not."""
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"bodyBase64": base64.b64encode(body).decode("ascii")}


def _query(raw: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise _invalid("query", "", "has too many fields") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in _PARAMETERS:
            raise _invalid(name, value, f"unknown; there are: {', '.join(_PARAMETERS)}")
        if name in found:
            raise _invalid(name, value, "is there more than once")
        found[name] = value
    return found


def _number(query: dict[str, str], name: str, most: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    is_number = text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX
    if not is_number or not 1 <= int(text) <= most:
        what = "is not one of ours" if name == "cursor" else f"must be a number from 1 to {most}"
        raise _invalid(name, text, what)
    return int(text)


def _invalid(field: str, value: str, reason: str) -> Refusal:
    details = {"field": field[:100], "value": value[:100], "reason": reason}
    return Refusal(422, "VALIDATION_ERROR", f"{field[:100]} {reason}", details=details)
