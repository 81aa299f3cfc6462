"""The receiver as an ASGI application: routes, lifespan, one log line per request."""

import logging
import time
import uuid
from collections.abc import Callable
from typing import Final, Self

from receiver import log
from receiver.admin import authorize, list_messages, show_message
from receiver.asgi import (
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
from receiver.inbox import Inbox, InboxUnavailable
from receiver.settings import SettingError, Settings, database_path
from receiver.webhook import receive_message, unavailable

_HEALTH_PATHS: Final = ("/healthz", "/readyz")


def wall_clock_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def create_app(settings: Settings) -> "Receiver":
    """The application. A server runs its lifespan; where it is mounted inside another
    application, that one's lifespan does it with ``async with app:``."""
    return Receiver(settings)


class Receiver:
    """Verifies, stores once, answers. Raises SettingError when it has no secret to verify with."""

    def __init__(self, settings: Settings, *, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        if not settings.secrets:
            raise SettingError("RECEIVER_SECRETS is not set: give at least one signing secret")
        self.settings: Final = settings
        self._now_ms: Final = now_ms
        self._budget: Final = Budget(settings.in_flight_bytes_max)
        self._inbox: Inbox | None = None

    async def __aenter__(self) -> Self:
        """Opens the inbox. Raises InboxError."""
        self._inbox = await Inbox.open(
            database_path(self.settings.database_url),
            lock_timeout_s=self.settings.lock_timeout,
            read_timeout_s=self.settings.read_timeout,
            commit_rows_max=self.settings.commit_rows_max,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            await inbox.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(Request(scope, receive, f"req_{uuid.uuid4().hex}"), send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.__aenter__()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.__aexit__()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, request: Request, send: Send) -> None:
        started = time.perf_counter()
        close = False
        try:
            try:
                answer = await self._answer(request)
            except Refusal as refusal:
                answer = self._refused(request, refusal)
                too_slow = refusal.status == 408  # waiting for more would be waiting twice
                close = too_slow or not await request.drain(self.settings.request_timeout)
            await send_answer(send, answer, request.id, close=close)
            status: int | None = answer.status
        except Disconnected:
            request.notes.setdefault("outcome", "disconnected")
            status = None
        self._log(request, status, time.perf_counter() - started)

    async def _answer(self, request: Request) -> Answer:
        try:
            self._check_head(request)
            return await self._route(request)
        except InboxUnavailable as error:
            raise unavailable(error, self.settings) from error
        except (Refusal, Disconnected):
            raise
        except Exception as error:
            log.LOGGER.exception("bug", extra={"fields": {"requestId": request.id}})
            raise Refusal(500, "INTERNAL", "something went wrong on our side") from error

    def _check_head(self, request: Request) -> None:
        size = sum(len(name) + len(value) for name, value in request.headers)
        if (
            len(request.headers) > self.settings.headers_max
            or size > self.settings.header_bytes_max
        ):
            raise Refusal(431, "HEADERS_TOO_LARGE", "the request has too many or too long headers")

    async def _route(self, request: Request) -> Answer:
        inbox = self._inbox
        if inbox is None:
            raise RuntimeError("the inbox is not open: run the lifespan, or use `async with app:`")
        settings = self.settings
        if request.path == settings.path:
            _allow(request, "POST")
            return await receive_message(request, settings, self._budget, inbox, self._now_ms())
        if request.path in _HEALTH_PATHS:
            _allow(request, "GET", "HEAD")
            return await self._health(request, inbox)
        if request.path == "/inbox" or request.path.startswith("/inbox/"):
            return await self._admin(request, inbox)
        raise _not_found()

    async def _health(self, request: Request, inbox: Inbox) -> Answer:
        if request.path == "/readyz":
            await inbox.check()
            return Answer(document={"status": "ready"})
        return Answer(document={"status": "ok"})

    async def _admin(self, request: Request, inbox: Inbox) -> Answer:
        if self.settings.admin_key is None:
            raise _not_found()
        authorize(request, self.settings.admin_key)
        _allow(request, "GET", "HEAD")
        if request.path == "/inbox":
            return await list_messages(request, inbox)
        return await show_message(request.path.removeprefix("/inbox/"), inbox)

    def _refused(self, request: Request, refusal: Refusal) -> Answer:
        request.notes.update(outcome=refusal.code, reason=refusal.details.get("reason"))
        if isinstance(refusal.__cause__, InboxUnavailable):
            request.notes["reason"] = str(refusal.__cause__)
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
    if request.path in _HEALTH_PATHS and status == 200:
        return logging.DEBUG
    is_news = request.notes.get("outcome") == "conflict" or (status or 0) >= 500
    return logging.WARNING if is_news else logging.INFO


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        allow = ", ".join(methods)
        raise Refusal(405, "METHOD_NOT_ALLOWED", f"use {allow}", headers={"allow": allow})


def _not_found() -> Refusal:
    return Refusal(404, "NOT_FOUND", "there is nothing here")
