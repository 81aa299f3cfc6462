"""The admin routes: what is in the inbox and which jobs are waited for, for who holds the admin
key. Submitters in other processes use them too."""

import asyncio
import base64
import hmac
import time
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any, Final, cast

from receiver.base.clock import NowMs, iso, parse_iso
from receiver.base.completion import STATUSES, ParseError, parse
from receiver.base.http import (
    DIGITS_MAX,
    Bodies,
    Refusal,
    Request,
    Response,
    choice,
    invalid,
    number,
    read_query,
)
from receiver.inbox.attempts import Which
from receiver.inbox.expectations import EXPECTED, Expectation
from receiver.inbox.inbox import Inbox, InboxUnavailable
from receiver.inbox.message import REPLAYABLE, STATES, State, StoredMessage
from receiver.inbox.reencrypt import START, Place, Sealing, from_text, to_text
from receiver.reconciler import Reconciler
from receiver.settings import Settings, not_default, shown_url
from receiver.sweeper import Sweeper
from receiver.verification.identity import DIALECTS

LIMIT_MAX: Final = 500
BODY_BYTES_MAX: Final = 64 * 1024
_LIMIT_DEFAULT: Final = 50
_REENCRYPT_S: Final = 0.5  # of one request: who ends the command ends the work
_SCRUB_WAIT_S: Final = 5.0  # under the time-out of whoever asks
_STATUSES: Final = ("accepted", "conflict", "late")
_SECONDS_MAX: Final = 3650 * 86_400
_SAMPLE: Final = 10
_WHICH: Final = ("source", "jobStatus", "jobId", "since", "until")
_EXPECT_FIELDS: Final = ("jobId", "statusUrl", "by", "credentials", "platform", "source")


class Admin:
    """Answers the requests below `/inbox` and `/expected`."""

    def __init__(
        self,
        settings: Settings,
        inbox: Inbox,
        reconciler: Reconciler,
        sweeper: Sweeper,
        *,
        now_ms: NowMs,
    ) -> None:
        self._settings = settings
        self._inbox = inbox
        self._reconciler = reconciler
        self._sweeper = sweeper
        self._now_ms = now_ms
        self._scrubbing: asyncio.Task[None] | None = None

    async def route(self, request: Request) -> Response:
        """Return the answer to a request with the admin key. Raises Refusal; 404 for everything
        where no key is set."""
        if self._settings.admin_key is None:
            raise not_found()
        _authorize(request, self._settings.admin_key)
        match request.path.removeprefix("/").split("/"):
            case ["expected"]:
                if allow(request, "GET", "HEAD", "POST") == "POST":
                    return await self._expect(request)
                return await self._list_expected(request)
            case ["inbox"]:
                allow(request, "GET", "HEAD")
                return await self._list(request)
            case ["inbox", "replay"]:
                allow(request, "POST")
                return await self._replay_all(request)
            case ["inbox", "prune"]:
                allow(request, "POST")
                return await self._prune(request)
            case ["inbox", "stats"]:
                allow(request, "GET", "HEAD")
                return await self._stats()
            case ["inbox", "reencrypt"]:
                allow(request, "POST")
                return await self._reencrypt(request)
            case ["inbox", "service"]:
                allow(request, "GET", "HEAD")
                return await self._service()
            case ["inbox", "scrub"]:
                allow(request, "POST")
                return await self._scrub()
            case ["inbox", id]:
                allow(request, "GET", "HEAD")
                return await self._show(id)
            case ["inbox", id, "replay"]:
                allow(request, "POST")
                return await self._replay(id)
            case _:
                raise not_found()

    async def _list(self, request: Request) -> Response:
        """`GET /inbox?status=&state=&jobId=&cursor=&limit=`: newest first."""
        query = read_query(request.query, ("status", "state", "jobId", "cursor", "limit"))
        page = await self._inbox.page(
            below=number(query, "cursor", max=10**DIGITS_MAX, reason="is not one of ours"),
            limit=number(query, "limit", max=LIMIT_MAX) or _LIMIT_DEFAULT,
            job_id=query.get("jobId"),
            verdict=choice(query, "status", _STATUSES),
            state=choice(query, "state", STATES),
        )
        cursor = None if page.next_below is None else str(page.next_below)
        data = [_public(message) for message in page.messages]
        return Response(document={"data": data, "nextCursor": cursor})

    async def _show(self, id: str) -> Response:
        """`GET /inbox/{id}`: one message with its body, and why its last attempt failed."""
        message = await self._find(id)
        document = {**_public(message), "lastError": message.error}
        return Response(document={**document, **_public_body(message.body)})

    async def _replay(self, id: str) -> Response:
        """`POST /inbox/{id}/replay`: due again at once. 409 where that must not be."""
        message = await self._find(id)
        if await self._inbox.replay(message.id, self._now_ms()):
            return Response(status=202, document={"id": message.id, "state": "pending"})
        if message.state in ("pending", "running", "handled"):
            reason = f"it is {message.state}"
        elif message.verdict != "accepted":
            reason = f"it is a {message.verdict} message, kept beside the one that counts"
        elif message.unread is not None:
            reason = message.unread
        elif message.body is None:
            reason = "its body is pruned"
        else:
            reason = "its job's end was handled already, in another message"
        raise Refusal(409, "CONFLICT", f"not replayed: {reason}", details={"state": message.state})

    async def _replay_all(self, request: Request) -> Response:
        """`POST /inbox/replay?state=dead&source=&jobStatus=&jobId=&since=&until=&dryRun=`: all of a
        state that can be; of a source alone, a status (one of ours), a job, or of what came in
        since or until then. A dry run says how many, and shows some."""
        query = read_query(request.query, ("state", *_WHICH, "dryRun"))
        state = choice(query, "state", REPLAYABLE)
        if state is None:
            raise invalid("state", "", f"is required; one of: {', '.join(REPLAYABLE)}")
        which = Which(
            source=query.get("source"),
            status=choice(query, "jobStatus", STATUSES),
            job_id=query.get("jobId"),
            since_ms=_time(query, "since"),
            until_ms=_time(query, "until"),
        )
        if choice(query, "dryRun", ("true", "false")) == "true":
            matched, shown = await self._inbox.replayable(
                cast("State", state), which, sample=_SAMPLE
            )
            sample = [_public(message) for message in shown]
            return Response(document={"matched": matched, "sample": sample})
        replayed = await self._inbox.replay_all(cast("State", state), self._now_ms(), which)
        return Response(document={"replayed": replayed})

    async def _service(self) -> Response:
        """`GET /inbox/service`: what this process was started with, without its secrets."""
        settings = self._settings
        return Response(
            document={
                "version": version("postback"),
                "database": shown_url(settings.database_url),
                "secrets": len(settings.secrets),
                "settings": not_default(settings),
            }
        )

    async def _prune(self, request: Request) -> Response:
        """`POST /inbox/prune?olderThan=SECONDS`: by default older than the configured periods."""
        query = read_query(request.query, ("olderThan",))
        older_s = number(query, "olderThan", max=_SECONDS_MAX, min=0)
        bodies, messages = await self._sweeper.prune(older_s)
        return Response(document={"bodies": bodies, "messages": messages})

    async def _stats(self) -> Response:
        """`GET /inbox/stats`: how many messages there are by state, and how what could be sealed is
        stored."""
        states, sealing = await self._inbox.stats()
        seals = self._inbox.seals
        encryption = {
            "key": None if seals is None else seals.kid,
            "sealing": seals is not None and seals.begun,
            "missingKeys": [] if seals is None else list(seals.lost),
            **{name: _public_sealing(counts) for name, counts in sealing.items()},
        }
        messages = {state: states.get(state, 0) for state in STATES}
        return Response(document={"messages": messages, "encryption": encryption})

    async def _reencrypt(self, request: Request) -> Response:
        """`POST /inbox/reencrypt?after=`: seal some of what is not sealed with the first key, from
        the place where the last answer says that the next one is."""
        query = read_query(request.query, ("after",))
        try:
            place: Place | None = from_text(query["after"]) if "after" in query else START
        except ValueError as error:
            raise invalid("after", query["after"], str(error)) from None
        sealed = unreadable = 0
        until_s = time.monotonic() + _REENCRYPT_S
        while place is not None and (not sealed or time.monotonic() < until_s):
            try:
                done = await self._inbox.reseal(place)
            except ValueError as error:
                details = {"state": "unsealed"}
                raise Refusal(409, "CONFLICT", f"not done: {error}", details=details) from None
            sealed, unreadable = sealed + done.sealed, unreadable + done.unreadable
            place = done.next
        after = None if place is None else to_text(place)
        return Response(document={"sealed": sealed, "unreadable": unreadable, "next": after})

    async def _scrub(self) -> Response:
        """`POST /inbox/scrub`: leave nothing in a SQLite file of what was deleted or written over.
        It may take longer than a request: asked again, it answers whether it is done."""
        if self._scrubbing is None:
            self._scrubbing = asyncio.create_task(self._inbox.scrub(), name="receiver scrub")
        await asyncio.wait((self._scrubbing,), timeout=_SCRUB_WAIT_S)
        if not self._scrubbing.done():
            return Response(status=202, document={"done": False})
        scrubbing, self._scrubbing = self._scrubbing, None
        try:
            await scrubbing
        except InboxUnavailable as error:
            raise Refusal(503, "UNAVAILABLE", f"not done: {error}") from None
        return Response(document={"done": True})

    async def _list_expected(self, request: Request) -> Response:
        """`GET /expected?state=&limit=`: newest first."""
        query = read_query(request.query, ("state", "limit"))
        expectations = await self._inbox.expectations(
            state=choice(query, "state", EXPECTED),
            limit=number(query, "limit", max=LIMIT_MAX) or _LIMIT_DEFAULT,
        )
        return Response(document={"data": [_public_expectation(one) for one in expectations]})

    async def _expect(self, request: Request) -> Response:
        """`POST /expected`: `{"jobId", "statusUrl", "by", "credentials"?, "platform"?, "source"?}`;
        `by` is a time (ISO-8601), or a number of seconds from now."""
        body = await request.body(
            bytes_max=BODY_BYTES_MAX,
            timeout_s=self._settings.request_timeout,
            bodies=Bodies(BODY_BYTES_MAX),
        )
        try:
            document = parse(body)
        except ParseError as error:
            details = {"reason": error.reason}
            raise Refusal(400, "MALFORMED_JSON", error.message, details=details) from None
        if not isinstance(document, dict):
            raise invalid("body", "", "must be an object")
        _check_fields(document)
        try:
            expectation = await self._reconciler.expect(
                document["jobId"],
                document["statusUrl"],
                by=_by(document["by"]),
                credentials=document.get("credentials"),
                platform=document.get("platform", "auto"),
                source=document.get("source"),
            )
        except ValueError as error:
            raise Refusal(422, "VALIDATION_ERROR", str(error)) from None
        return Response(document=_public_expectation(expectation))

    async def _find(self, id: str) -> StoredMessage:
        is_id = id.isascii() and id.isdecimal() and len(id) <= DIGITS_MAX
        message = await self._inbox.show(int(id)) if is_id else None
        if message is None:
            raise Refusal(404, "NOT_FOUND", "there is no such message")
        return message


def allow(request: Request, *methods: str) -> str:
    """Return the request's method; Refusal 405 where it is none of these."""
    if request.method not in methods:
        names = ", ".join(methods)
        raise Refusal(405, "METHOD_NOT_ALLOWED", f"use {names}", headers={"allow": names})
    return request.method


def not_found() -> Refusal:
    """Return the 404 of a path that is none of ours."""
    return Refusal(404, "NOT_FOUND", "there is nothing here")


def _authorize(request: Request, admin_key: str) -> None:
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


def _public(message: StoredMessage) -> dict[str, Any]:
    """Return a stored message in the words of the API; `status` is the verdict it got."""
    return {
        "id": message.id,
        "status": message.verdict,
        "jobId": message.job_id,
        "jobStatus": message.job_status,
        **({} if message.run is None else {"run": message.run}),
        "messageId": message.message_id,
        "source": message.source,
        "kind": message.kind,
        "contentType": message.content_type,
        "bodySize": message.body_bytes,
        "bodySha256": None if message.body_sha256 is None else message.body_sha256.hex(),
        **({} if message.kid is None else {"sealedWith": message.kid}),
        **({} if message.unread is None else {"unreadable": message.unread}),
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


def _public_sealing(counts: Sealing) -> dict[str, int]:
    return {
        "plain": counts.plain,
        "sealed": counts.sealed,
        "old": counts.old,
        "unreadable": counts.unreadable,
    }


def _public_body(body: bytes | None) -> dict[str, str]:
    """As text where it is UTF-8, in base64 where it is not; nothing once it is pruned."""
    if body is None:
        return {}
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"bodyBase64": base64.b64encode(body).decode("ascii")}


def _public_expectation(expectation: Expectation) -> dict[str, Any]:
    """Return an expectation in the words of the API."""
    return {
        "jobId": expectation.job_id,
        "source": expectation.source,
        "state": expectation.state,
        "statusUrl": None if expectation.unread else expectation.status_url,
        "credentials": expectation.credentials,
        "platform": expectation.platform,
        "createdAt": iso(expectation.created_ms),
        "nextAskAt": iso(expectation.ask_ms),
        "asked": expectation.asked,
        "failingSince": iso(expectation.failing_since_ms),
        "lastError": expectation.last_error,
        "settledAt": iso(expectation.settled_ms),
    }


def _check_fields(document: dict[str, Any]) -> None:
    for name, value in document.items():
        if name not in _EXPECT_FIELDS:
            raise invalid(name, "", f"unknown; there are: {', '.join(_EXPECT_FIELDS)}")
        if name != "by" and not isinstance(value, str):
            raise invalid(name, "", "must be a string")
    for name in ("jobId", "statusUrl", "by"):
        if name not in document:
            raise invalid(name, "", "is required")
    choice(document, "platform", DIALECTS)


def _time(query: dict[str, str], name: str) -> int | None:
    """Return a parameter that is a time, in milliseconds. Raises Refusal (422)."""
    if name not in query:
        return None
    try:
        return parse_iso(query[name])
    except ValueError:
        raise invalid(name, query[name], "must be an ISO-8601 time") from None


def _by(value: Any) -> datetime | timedelta:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return timedelta(seconds=value)
        except (OverflowError, ValueError):
            raise invalid("by", "", "is too large") from None
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise invalid("by", str(value), "must be a time with its offset, or seconds") from None
