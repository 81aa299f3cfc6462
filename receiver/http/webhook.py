"""The path of a message: read → verify → parse → identify → store → answer. In this order, so
that nothing is believed before its signature and nothing is answered before it is on disk."""

from typing import Any, Final

from receiver.base.clock import NowMs
from receiver.base.completion import UNKNOWN, ParseError, canonical
from receiver.base.http import Bodies, Refusal, Request, query_values
from receiver.handling.handlers import Handlers
from receiver.inbox.dedupe import Verdict, kind_of
from receiver.inbox.inbox import Inbox, InboxUnavailable
from receiver.inbox.message import Message
from receiver.settings import Settings
from receiver.signature import SignatureError, Verified
from receiver.source import Source
from receiver.verification.cerebrium import ID_HEADER
from receiver.verification.identity import Identity
from receiver.verification.verify import authenticate, identity_of

CONTENT_TYPE_CHARS_MAX: Final = 200  # kept with a message; real ones stay under 80
REQUEST_ID: Final = ID_HEADER.encode()

# What a body says of itself in the wrong form is the sender's 422; what cannot be read is a 400.
_UNPROCESSABLE: Final = ("identity", "job_id")


class Webhook:
    """Takes the messages of all sources into the inbox."""

    def __init__(
        self,
        settings: Settings,
        handlers: Handlers,
        inbox: Inbox,
        *,
        now_ms: NowMs,
        clock: NowMs,
    ) -> None:
        """`now_ms` judges timestamps; `clock` is the inbox's, and says when messages came."""
        self._clock = clock
        self._body_bytes_max = settings.body_bytes_max
        self._body_timeout_s = settings.request_timeout
        self._bodies = Bodies(
            settings.in_flight_bytes_max,
            share=settings.peer_share,
            body_bytes_max=settings.body_bytes_max,
        )
        self._handlers = handlers
        self._inbox = inbox
        self._now_ms = now_ms

    async def receive(self, request: Request, source: Source) -> Verdict:
        """Return the verdict, once the message is on disk: a 200. Raises Refusal, or
        InboxUnavailable."""
        now_ms = self._now_ms()
        request.check_encoding()
        request.holder = request.peer  # nobody has vouched for it yet
        try:
            body = request.whole_body(self._body_bytes_max, self._bodies)
            if body is None:
                body = await request.body(
                    bytes_max=self._body_bytes_max,
                    timeout_s=self._body_timeout_s,
                    bodies=self._bodies,
                )
            verdict = await self._inbox.receive(self._message(request, source, body, now_ms))
        finally:
            self._bodies.give_back(request)
        request.notes["outcome"] = verdict
        return verdict

    def _message(self, request: Request, source: Source, body: bytes, now_ms: int) -> Message:
        notes = request.notes
        notes["bodyBytes"] = len(body)
        tokens = () if source.url_token is None else query_values(request.query, "token")
        try:
            verified = authenticate(
                source, body, request.headers, tokens=tokens, now_s=now_ms / 1000
            )
        except SignatureError as error:
            details = {"reason": error.reason}
            raise Refusal(401, "SIGNATURE_INVALID", error.message, details=details) from None
        notes["schemes"] = "+".join(verified.schemes)
        notes["messageId"] = verified.message_id
        request_id = request.header(REQUEST_ID)
        identity = _identify(body, verified, source, request_id)
        status = canonical(identity.status)
        notes["jobId"], notes["jobStatus"] = identity.job_id, identity.status
        if identity.run is not None:
            notes["run"] = identity.run
        if status == UNKNOWN:  # for an operator to see
            notes["unknownStatus"] = True
        content_type = request.header(b"content-type")
        return Message(
            source=source.path,
            message_id=verified.message_id,
            body=body,
            content_type=content_type[:CONTENT_TYPE_CHARS_MAX] if content_type else None,
            kind=kind_of(identity.job_id, identity.status),
            job_id=identity.job_id,
            job_status=identity.status,
            run=identity.run,
            sent_ms=None if verified.timestamp is None else verified.timestamp * 1000,
            received_ms=self._clock(),
            platform=identity.platform,
            latest=source.reruns == "latest",
            has_handler=self._handlers.find(status) is not None,
        )


def unavailable(error: InboxUnavailable, settings: Settings) -> Refusal:
    """Return the 503 of an inbox that is down. The cause is for our log, not for the sender."""
    retry_after = max(1, round(settings.retry_after))
    return Refusal(
        503,
        "UNAVAILABLE",
        "the inbox cannot store messages just now; nothing was stored",
        details={"retryAfter": retry_after},
        headers={"retry-after": str(retry_after)},
    )


def _identify(body: bytes, verified: Verified, source: Source, request_id: str | None) -> Identity:
    try:
        return identity_of(source, body, verified, request_id=request_id)
    except ParseError as error:
        details: dict[str, Any] = {"reason": error.reason}
        if error.reason in _UNPROCESSABLE:
            details["field"] = error.field
            raise Refusal(422, "VALIDATION_ERROR", error.message, details=details) from None
        raise Refusal(400, "MALFORMED_JSON", error.message, details=details) from None
