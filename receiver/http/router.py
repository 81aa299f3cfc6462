"""The receiver's HTTP side: which path does what, and one log line per request."""

import itertools
import logging
import os
import time
from itertools import chain
from typing import TYPE_CHECKING, Final, get_args

from receiver.base import log
from receiver.base.http import (
    Answer,
    Budget,
    Disconnected,
    Receive,
    Refusal,
    Request,
    Scope,
    Send,
    send_answer,
)
from receiver.guard import Verdict
from receiver.http.admin import (
    authorize,
    list_messages,
    prune_messages,
    replay_message,
    replay_messages,
    show_message,
)
from receiver.http.expected import expect_job, list_expected
from receiver.http.webhook import receive_message, unavailable
from receiver.inbox.inbox import InboxUnavailable
from receiver.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from receiver.app import Receiver

_PROBES: Final = ("/healthz", "/readyz", "/metrics")
_ANSWERS: Final = {
    verdict: Answer(text=f'{{"status":"{verdict}"}}') for verdict in get_args(Verdict)
}


# Names requests for ever: this process by chance, its requests by their number. Randomness for each
# would cost a system call, in which another thread takes the interpreter away from us.
_process: Final = os.urandom(10).hex()
_numbers: Final = itertools.count(1)


class Front:
    """Answers every request of a receiver, whatever it is made of."""

    def __init__(self, receiver: "Receiver") -> None:
        self._receiver = receiver
        self._settings = receiver.settings
        self._budget = Budget(self._settings.in_flight_bytes_max)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, _request_id())
        started = time.perf_counter()
        close = False
        try:
            try:
                answer = await self._answer(request)
            except Refusal as refusal:
                answer = self._refused(request, refusal)
                if not request.has_arrived:
                    too_slow = refusal.status == 408  # waiting for more would be waiting twice
                    close = too_slow or not await request.drain(self._settings.request_timeout)
            await send_answer(scope, send, answer, request.id, close=close)
            status: int | None = answer.status
        except Disconnected:
            request.notes.setdefault("outcome", "disconnected")
            status = None
        self._log(request, status, time.perf_counter() - started)

    async def _answer(self, request: Request) -> Answer:
        try:
            self._check_head(request)
            source = self._receiver.sources.get(request.path)
            if source is None:
                return await self._route(request)
            _allow(request, "POST")
            verdict = await receive_message(
                request,
                source,
                self._settings,
                self._budget,
                self._receiver.inbox,
                self._receiver.handlers,
                self._receiver.now_ms(),
            )
            self._receiver.metrics.count_received(verdict)
            return _ANSWERS[verdict]
        except InboxUnavailable as error:
            raise unavailable(error, self._settings) from error
        except (Refusal, Disconnected):
            raise
        except Exception as error:
            log.LOGGER.exception("bug", extra={"fields": {"requestId": request.id}})
            raise Refusal(500, "INTERNAL", "something went wrong on our side") from error

    def _check_head(self, request: Request) -> None:
        size = len(b"".join(chain.from_iterable(request.headers)))
        if (
            len(request.headers) > self._settings.headers_max
            or size > self._settings.header_bytes_max
        ):
            raise Refusal(431, "HEADERS_TOO_LARGE", "the request has too many or too long headers")

    async def _route(self, request: Request) -> Answer:
        if request.path in _PROBES:
            _allow(request, "GET", "HEAD")
            return await self._probe(request)
        if request.path.partition("/")[2].partition("/")[0] in ("inbox", "expected"):
            return await self._admin(request)
        raise _not_found()

    async def _probe(self, request: Request) -> Answer:
        inbox = self._receiver.inbox
        if request.path == "/healthz":
            return Answer(document={"status": "ok"})
        if request.path == "/readyz":
            await inbox.check()
            # Still ready: what comes in is kept until handling goes on.
            stuck = {"handling": "stuck"} if self._receiver.is_stuck else {}
            return Answer(document={"status": "ready", **stuck})
        backlog = await inbox.backlog()
        text = self._receiver.metrics.exposition(backlog, self._receiver.now_ms())
        return Answer(text=text, content_type=CONTENT_TYPE.encode("ascii"))

    async def _admin(self, request: Request) -> Answer:
        if self._settings.admin_key is None:
            raise _not_found()
        authorize(request, self._settings.admin_key)
        inbox, now_ms = self._receiver.inbox, self._receiver.now_ms()
        first, *rest = request.path.removeprefix("/").split("/")
        match (first, *rest):
            case ("expected",):
                if _allow(request, "GET", "HEAD", "POST") == "POST":
                    return await expect_job(request, self._receiver)
                return await list_expected(request, inbox)
            case ("inbox",):
                _allow(request, "GET", "HEAD")
                return await list_messages(request, inbox)
            case ("inbox", "replay"):
                _allow(request, "POST")
                return await replay_messages(request, inbox, now_ms)
            case ("inbox", "prune"):
                _allow(request, "POST")
                return await prune_messages(request, self._receiver.housekeeper)
            case ("inbox", id):
                _allow(request, "GET", "HEAD")
                return await show_message(id, inbox)
            case ("inbox", id, "replay"):
                _allow(request, "POST")
                return await replay_message(id, inbox, now_ms)
            case _:
                raise _not_found()

    def _refused(self, request: Request, refusal: Refusal) -> Answer:
        reason = refusal.details.get("reason")
        request.notes.update(outcome=refusal.code, reason=reason)
        if isinstance(refusal.__cause__, InboxUnavailable):
            request.notes["reason"] = str(refusal.__cause__)
        elif request.path in self._receiver.sources:
            self._receiver.metrics.count_refused(str(reason or refusal.code).lower())
        return refusal.answer(request.id)

    def _log(self, request: Request, status: int | None, duration_s: float) -> None:
        log.event(
            "request",
            _level(request, status),
            method=request.method,
            path=request.path,
            status=status,
            durationMs=round(duration_s * 1000, 1),
            requestId=request.id,
            **request.notes,
        )


def _level(request: Request, status: int | None) -> int:
    """Probes are noise; a conflict, or a fault of ours, is for an operator to see."""
    if request.path in _PROBES and status == 200:
        return logging.DEBUG
    is_news = request.notes.get("outcome") == "conflict" or (status or 0) >= 500
    return logging.WARNING if is_news else logging.INFO


def _request_id() -> str:
    return f"req_{_process}{next(_numbers):012x}"


def _allow(request: Request, *methods: str) -> str:
    if request.method not in methods:
        allow = ", ".join(methods)
        raise Refusal(405, "METHOD_NOT_ALLOWED", f"use {allow}", headers={"allow": allow})
    return request.method


def _not_found() -> Refusal:
    return Refusal(404, "NOT_FOUND", "there is nothing here")
