"""The admin routes: what is in the inbox, for who holds the admin key."""

import base64
import hmac
from typing import Any, Final, cast

from receiver.base.clock import iso
from receiver.base.http import Answer, Refusal, Request
from receiver.base.query import DIGITS_MAX, choice, invalid, number, read_query
from receiver.housekeeping import Housekeeper
from receiver.inbox.inbox import Inbox
from receiver.message import REPLAYABLE, STATES, State, StoredMessage

LIMIT_MAX: Final = 500
_LIMIT_DEFAULT: Final = 50
_STATUSES: Final = ("accepted", "conflict", "late")
_SECONDS_MAX: Final = 3650 * 86_400


def authorize(request: Request, admin_key: str) -> None:
    """Raise Refusal 401 unless the request carries the key, compared in constant time."""
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
    """`GET /inbox?status=&state=&jobId=&cursor=&limit=`: newest first."""
    query = read_query(request.query, ("status", "state", "jobId", "cursor", "limit"))
    limit = number(query, "limit", LIMIT_MAX)
    page = await inbox.page(
        below=number(query, "cursor", 10**DIGITS_MAX),
        limit=_LIMIT_DEFAULT if limit is None else limit,
        job_id=query.get("jobId"),
        verdict=choice(query, "status", _STATUSES),
        state=choice(query, "state", STATES),
    )
    cursor = None if page.next_below is None else str(page.next_below)
    data = [public(message) for message in page.messages]
    return Answer(document={"data": data, "nextCursor": cursor})


async def show_message(id: str, inbox: Inbox) -> Answer:
    """`GET /inbox/{id}`: one message with its body, and why its last attempt failed."""
    message = await _find(id, inbox)
    shown = {**public(message), "lastError": message.error}
    return Answer(document={**shown, **_public_body(message.body)})


async def replay_message(id: str, inbox: Inbox, now_ms: int) -> Answer:
    """`POST /inbox/{id}/replay`: due again at once. 409 where that must not be."""
    message = await _find(id, inbox)
    if await inbox.replay(message.id, now_ms):
        return Answer(status=202, document={"id": message.id, "state": "pending"})
    if message.state in ("pending", "running", "handled"):
        reason = f"it is {message.state}"
    elif message.verdict != "accepted":
        reason = f"it is a {message.verdict} message, kept beside the one that counts"
    elif message.body is None:
        reason = "its body is pruned"
    else:
        reason = "its job's end was handled already, in another message"
    raise Refusal(409, "CONFLICT", f"not replayed: {reason}", details={"state": message.state})


async def replay_messages(request: Request, inbox: Inbox, now_ms: int) -> Answer:
    """`POST /inbox/replay?state=dead`: all of a state that can be."""
    query = read_query(request.query, ("state",))
    state = choice(query, "state", REPLAYABLE)
    if state is None:
        raise invalid("state", "", f"is required; one of: {', '.join(REPLAYABLE)}")
    return Answer(document={"replayed": await inbox.replay_all(cast("State", state), now_ms)})


async def prune_messages(request: Request, housekeeper: Housekeeper) -> Answer:
    """`POST /inbox/prune?olderThan=SECONDS`: by default older than the configured periods."""
    query = read_query(request.query, ("olderThan",))
    older_s = number(query, "olderThan", _SECONDS_MAX, least=0)
    bodies, messages = await housekeeper.prune(older_s)
    return Answer(document={"bodies": bodies, "messages": messages})


def public(message: StoredMessage) -> dict[str, Any]:
    """Return a stored message in the words of the API; `status` is the verdict it got."""
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
        "platform": message.platform,
        "via": message.via,
        "state": message.state,
        "attempts": message.attempts,
        "nextAttemptAt": iso(message.due_ms),
        "handledAt": iso(message.handled_ms),
        "lastSeenAt": iso(message.last_seen_ms),
    }


async def _find(id: str, inbox: Inbox) -> StoredMessage:
    is_id = id.isascii() and id.isdecimal() and len(id) <= DIGITS_MAX
    message = await inbox.show(int(id)) if is_id else None
    if message is None:
        raise Refusal(404, "NOT_FOUND", "there is no such message")
    return message


def _public_body(body: bytes | None) -> dict[str, str]:
    """As text where it is UTF-8, in base64 where it is not; nothing once it is pruned."""
    if body is None:
        return {}
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"bodyBase64": base64.b64encode(body).decode("ascii")}
