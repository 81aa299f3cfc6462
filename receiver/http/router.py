"""The receiver's HTTP side: which path does what, and one log line per request."""

import itertools
import logging
import os
import time
from collections.abc import Callable
from itertools import chain
from typing import Final, get_args

from receiver.base import log
from receiver.base.clock import NowMs
from receiver.base.forwarded import Proxies
from receiver.base.http import (
    Disconnected,
    Receive,
    Refusal,
    Request,
    Response,
    Scope,
    Send,
    send_response,
)
from receiver.handling.handlers import Handlers
from receiver.http.admin import Admin, allow, not_found
from receiver.http.webhook import Webhook, unavailable
from receiver.inbox.dedupe import Verdict
from receiver.inbox.inbox import Inbox, InboxUnavailable
from receiver.metrics import CONTENT_TYPE, Metrics
from receiver.reconciler import Reconciler
from receiver.settings import Settings
from receiver.source import Source
from receiver.sweeper import Sweeper

_LOG: Final = log.get("receiver.http")

# Read and thrown away before a refusal, so that a client still sending gets to read the response.
DRAIN_BYTES_MAX: Final = 8 * 1024 * 1024
# Cerebrium tries again after a 404 or a broken connection, and after nothing else: what passes is
# told to it as a 404, or a result of its would be gone for good.
_PASSING: Final = (408, 500, 503)
_PROBES: Final = ("/healthz", "/readyz", "/metrics")
_RESPONSES: Final = {
    verdict: Response(text=f'{{"status":"{verdict}"}}') for verdict in get_args(Verdict)
}


# Names requests for ever: this process by chance, its requests by their number. Randomness for each
# would cost a system call, in which another thread takes the interpreter away from us.
_process: Final = os.urandom(10).hex()
_numbers: Final = itertools.count(1)


class Router:
    """Answers every request of a receiver."""

    def __init__(
        self,
        settings: Settings,
        sources: dict[str, Source],
        handlers: Handlers,
        inbox: Inbox,
        *,
        reconciler: Reconciler,
        sweeper: Sweeper,
        metrics: Metrics,
        now_ms: NowMs,
        clock: NowMs,
        is_stuck: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._proxies = Proxies(settings.trusted_proxies)
        self._sources = sources
        self._inbox = inbox
        self._metrics = metrics
        self._now_ms = clock
        self._is_stuck = is_stuck
        self._webhook = Webhook(settings, handlers, inbox, now_ms=now_ms, clock=clock)
        self._admin = Admin(settings, inbox, reconciler, sweeper, now_ms=clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, request_id(), self._proxies)
        started = time.perf_counter()
        close = False
        try:
            try:
                response = await self._respond(request)
            except Refusal as refusal:
                response = self._refused(request, refusal)
                refusal.__traceback__ = None  # it has the body
                close = not request.is_read and await request.finish(
                    refusal.status,
                    timeout_s=self._settings.request_timeout,
                    bytes_max=DRAIN_BYTES_MAX,
                )
            await send_response(scope, send, response, request.id, close=close)
            status: int | None = response.status
        except Disconnected:
            request.notes.setdefault("outcome", "disconnected")
            status = None
        self._log(request, status, time.perf_counter() - started)

    async def _respond(self, request: Request) -> Response:
        try:
            self._check_head(request)
            source = self._sources.get(request.path)
            if source is None:
                routed = self._route(request)
                is_look = request.method in ("GET", "HEAD")
                return await (request.while_there(routed) if is_look else routed)
            allow(request, "POST")
            verdict = await self._webhook.receive(request, source)
            self._metrics.count_received(verdict)
            if "unknownStatus" in request.notes:
                self._metrics.count_unknown()
            return _RESPONSES[verdict]
        except InboxUnavailable as error:
            raise unavailable(error, self._settings) from error
        except (Refusal, Disconnected):
            raise
        except Exception as error:
            _LOG.exception("bug", requestId=request.id)
            raise Refusal(500, "INTERNAL", "something went wrong on our side") from error

    def _check_head(self, request: Request) -> None:
        size = len(b"".join(chain.from_iterable(request.headers)))
        if (
            len(request.headers) > self._settings.headers_max
            or size > self._settings.header_bytes_max
        ):
            raise Refusal(431, "HEADERS_TOO_LARGE", "the request has too many or too long headers")

    async def _route(self, request: Request) -> Response:
        if request.path in _PROBES:
            allow(request, "GET", "HEAD")
            return await self._probe(request)
        if request.path.partition("/")[2].partition("/")[0] in ("inbox", "expected"):
            return await self._admin.route(request)
        raise not_found()

    async def _probe(self, request: Request) -> Response:
        if request.path == "/healthz":
            return Response(document={"status": "ok"})
        if request.path == "/readyz":
            await self._inbox.check()
            # Still ready: what comes in is kept until handling goes on.
            stuck = {"handling": "stuck"} if self._is_stuck() else {}
            return Response(document={"status": "ready", **stuck, **await self._sealed()})
        text = self._metrics.exposition(await self._inbox.backlog(), self._now_ms())
        return Response(text=text, content_type=CONTENT_TYPE.encode("ascii"))

    async def _sealed(self) -> dict[str, object]:
        """Return what cannot be opened, where something is sealed; still ready, as above."""
        seals = self._inbox.seals
        if seals is None:
            return {}
        unreadable = await self._inbox.unreadable()
        return {
            **({"unreadableMessages": unreadable} if unreadable else {}),
            **({"missingKeys": seals.lost} if seals.lost else {}),
        }

    def _refused(self, request: Request, refusal: Refusal) -> Response:
        notes, source = request.notes, self._sources.get(request.path)
        notes["outcome"] = refusal.code
        notes["reason"] = reason = refusal.details.get("reason")
        if isinstance(refusal.__cause__, InboxUnavailable):
            notes["reason"] = str(refusal.__cause__)
        elif source is not None:
            self._metrics.count_refused(str(reason or refusal.code).lower())
        if source is not None and source.dialect == "cerebrium" and refusal.status in _PASSING:
            refusal.status = 404
        return refusal.response(request.id)

    def _log(self, request: Request, status: int | None, duration_s: float) -> None:
        _LOG.log(
            _level(request, status),
            "request",
            method=request.method,
            path=request.path,
            status=status,
            durationMs=round(duration_s * 1000, 1),
            address=request.address,
            requestId=request.id,
            **request.notes,
        )


def _level(request: Request, status: int | None) -> int:
    """Probes are noise; a conflict, a status that nobody knows, or a fault of ours, is for an
    operator to see."""
    if request.path in _PROBES and status == 200:
        return logging.DEBUG
    is_news = request.notes.get("outcome") == "conflict" or "unknownStatus" in request.notes
    is_news = is_news or (status or 0) >= 500
    return logging.WARNING if is_news else logging.INFO


def request_id() -> str:
    """Return a name that no other request has."""
    return f"req_{_process}{next(_numbers):012x}"
