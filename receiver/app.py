"""The receiver as an ASGI application: what the customer makes, and what it consists of."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self, TypeVar

from receiver.base import log
from receiver.base.clock import NowMs, now_ms
from receiver.base.http import Receive, Refusal, Request, Scope, Send, send_response
from receiver.base.secrets import is_weak
from receiver.base.settings import SettingError
from receiver.base.stalls import Watch
from receiver.handling.effects import open_effects
from receiver.handling.handlers import Handlers
from receiver.handling.run import handler_of
from receiver.handling.tx import Effects
from receiver.handling.worker import Worker
from receiver.http.router import Router, request_id
from receiver.inbox.expectations import Expectation
from receiver.inbox.inbox import Inbox, InboxError, InboxUnavailable
from receiver.inbox.opening import open_inbox
from receiver.inbox.seals import Seals
from receiver.metrics import Metrics
from receiver.reconciler import Reconciler
from receiver.registration import InboxClock, Registration, wanted_by
from receiver.settings import Settings, load
from receiver.source import Source
from receiver.sources import all_sources, by_path
from receiver.status_url import Credentials, Tokens
from receiver.sweeper import Sweeper
from receiver.verification.identity import Dialect

Function = TypeVar("Function", bound=Callable[..., Any])

_LOG: Final = log.get("receiver.service")
_LOOP_LOG: Final = log.get("receiver.loop")

_NOT_OPEN: Final = "the inbox is not open: run the lifespan, or use `async with receiver:`"
_STOP_GRACE_SHARE: Final = 0.75  # of the drain's time: closing the inbox needs some too


def create_app(settings: Settings) -> "Receiver":
    """Return a receiver without handlers: it verifies, keeps and answers."""
    return Receiver(settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """What a receiver consists of while its inbox is open."""

    inbox: Inbox
    sweeper: Sweeper
    reconciler: Reconciler
    router: Router


class Receiver:
    """Verifies, stores once, answers; then hands each completion to the customer's code, once.

        receiver = Receiver()  # settings from the RECEIVER_* variables

        @receiver.on("completed")
        def fulfil(event, tx):
            tx.execute("UPDATE orders SET result = ? WHERE job = ?", (…, event.job_id))

        app = Starlette(routes=[Mount("/hooks", app=receiver)], lifespan=receiver.lifespan)

    A server runs its lifespan where it stands alone; where it is mounted inside another
    application, give that one `lifespan=receiver.lifespan`, or use `async with receiver:`.
    Raises SettingError when nothing would vouch for a message, or two sources have one path.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        sources: Iterable[Source] = (),
        credentials: Credentials | None = None,
        now_ms: NowMs = now_ms,
    ) -> None:
        self.settings = load() if settings is None else settings
        self.sources = by_path(sources) or all_sources(self.settings)
        self.handlers = Handlers()
        self.metrics = Metrics()
        self.now_ms = now_ms
        self._clock = InboxClock(now_ms)
        self._credentials = credentials or _tokens(self.settings)
        self._worker: Worker | None = None  # None without handlers
        self._running: _Opened | None = None
        self._stop_began_s: float | None = None
        self._closing = AsyncExitStack()

    def on(self, *statuses: str) -> Callable[[Function], Function]:
        """Register a handler, `(event)` or `(event, tx)`, sync or async, for `completed`,
        `failed`, `cancelled`, `timeout`, `running` or `queued`, or for `*`: every one
        that has none of its own. Raises ValueError or TypeError for what cannot be one, and
        RuntimeError once the receiver is open: what came before it would have been ignored.

        It runs after the message was acknowledged, again after each failure with a growing wait,
        never twice at once for one job. With `tx` its writes and our mark commit together: the
        effect happens once. Without, at least once: `event.job_id` is the key to pass on.
        """

        def register(function: Function) -> Function:
            self.handlers.add(function, *statuses)
            return function

        return register

    async def expect(
        self,
        job_id: str,
        status_url: str,
        *,
        by: datetime | timedelta,
        credentials: str | None = None,
        platform: Dialect = "auto",
        source: str | None = None,
    ) -> Expectation:
        """Wait for a job's end; one that is silent after `by` is asked for at `status_url`,
        with the credentials of this name. Call it before or after its callback, in any order, as
        often as you like. `source` is the path its callbacks come in by; the first where not
        given. Raises ValueError, or InboxUnavailable."""
        return await self._opened.reconciler.expect(
            job_id,
            status_url,
            by=by,
            credentials=credentials,
            platform=platform,
            source=source,
        )

    async def replay(self, id: int) -> bool:
        """Make a dead, ignored or skipped message due again; False where that must not be."""
        return await self.inbox.replay(id, self._clock())

    async def prune(self, older_than_s: float | None = None) -> tuple[int, int]:
        """Delete what is done with and older, by default than the configured periods; return how
        many bodies and messages. Raises InboxUnavailable."""
        return await self._opened.sweeper.prune(older_than_s)

    def wake(self) -> None:
        """Look for due work now. A clock that jumps is noticed by itself within half a minute."""
        if self._running is not None:
            self._wake_worker()
            self._running.reconciler.wake()

    async def due_ms(self) -> int | None:
        """When the first message that is handled here is due; 0 while one is being handled, None
        when none waits. Raises InboxUnavailable."""
        return await self.inbox.due_ms(wanted_by(self.handlers, self.sources))

    @property
    def is_idle(self) -> bool:
        """Whether no handler is at work."""
        return self._worker is None or self._worker.is_idle

    @property
    def is_stuck(self) -> bool:
        """Whether so many handlers hang that no other one is started."""
        return self._worker is not None and self._worker.is_stuck

    @property
    def inbox(self) -> Inbox:
        """The open inbox. Raises RuntimeError while it is not open."""
        return self._opened.inbox

    async def __aenter__(self) -> Self:
        """As `open`."""
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the inbox and go on with what is in it. Raises InboxError, EffectsError or
        SettingError, and then leaves nothing open."""
        self._stop_began_s = None
        async with AsyncExitStack() as opening:
            self.handlers.is_open = True
            opening.callback(setattr, self.handlers, "is_open", False)
            effects = await asyncio.to_thread(self._open_effects)
            if effects is not None:
                opening.push_async_callback(asyncio.to_thread, effects.close)
            inbox = await open_inbox(self.settings, on_due=self._wake_worker)
            opening.push_async_callback(inbox.close)
            registration = Registration(inbox, self.handlers, self.sources, self._clock)
            opening.push_async_callback(registration.stop)
            await self._prepare(inbox, registration)
            if self.handlers:
                self._worker = Worker(
                    inbox,
                    self.handlers,
                    effects,
                    settings=self.settings,
                    now_ms=self._clock,
                    metrics=self.metrics,
                    wanted=registration.wanted,
                )
                opening.push_async_callback(self._stop_worker, self._worker)
            self._running = self._start(opening, inbox, effects)
            opening.enter_context(Watch(_LOOP_LOG, self.metrics.stalls, handler_of))
            self._closing = opening.pop_all()
        _tell_of(inbox.seals)
        for source in self.sources.values():
            if any(map(is_weak, source.secrets)):
                _LOG.warning("a signing secret is weak: ask for a new one", source=source.path)

    def begin_to_stop(self) -> None:
        """Start no more handlers: `close` follows, and what runs has until then as well. For any
        thread."""
        if self._stop_began_s is None:
            self._stop_began_s = time.monotonic()
        if self._worker is not None:
            self._worker.claim_nothing_more()

    async def close(self) -> None:
        """Stop the handlers, within the time that stopping may take, and close the inbox."""
        try:
            await self._closing.aclose()  # what was opened last goes first
        finally:
            self._running = self._worker = None

    @asynccontextmanager
    async def lifespan(self, _app: Any) -> AsyncIterator[None]:
        """Yield while the receiver is open: the lifespan of the application it is mounted in."""
        async with self:
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            router = self._not_open if self._running is None else self._running.router
            await router(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._serve_lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    @property
    def _opened(self) -> _Opened:
        if self._running is None:
            raise RuntimeError(_NOT_OPEN)
        return self._running

    async def _not_open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond while nothing can be stored: the sender comes back, and the log says why."""
        request = Request(scope, receive, request_id())
        _LOG.error("bug", reason=_NOT_OPEN, requestId=request.id, path=request.path)
        refusal = Refusal(500, "INTERNAL", "something went wrong on our side")
        await send_response(scope, send, refusal.response(request.id), request.id, close=False)

    def _start(self, opening: AsyncExitStack, inbox: Inbox, effects: Effects | None) -> _Opened:
        sweeper = Sweeper(
            inbox,
            effects,
            self.sources,
            settings=self.settings,
            now_ms=self._clock,
            metrics=self.metrics,
        )
        opening.push_async_callback(sweeper.stop)
        reconciler = Reconciler(
            inbox,
            self.handlers,
            self.sources,
            self._credentials,
            settings=self.settings,
            now_ms=self._clock,
            metrics=self.metrics,
        )
        opening.push_async_callback(reconciler.stop)
        router = Router(
            self.settings,
            self.sources,
            self.handlers,
            inbox,
            reconciler=reconciler,
            sweeper=sweeper,
            metrics=self.metrics,
            now_ms=self.now_ms,
            clock=self._clock,
            is_stuck=lambda: self.is_stuck,
        )
        return _Opened(inbox=inbox, sweeper=sweeper, reconciler=reconciler, router=router)

    def _wake_worker(self) -> None:
        if self._worker is not None:
            self._worker.wake()

    async def _stop_worker(self, worker: Worker) -> None:
        grace_s = self.settings.drain_grace * _STOP_GRACE_SHARE
        if self._stop_began_s is not None:
            grace_s -= time.monotonic() - self._stop_began_s
        await worker.stop(max(0.0, grace_s))

    def _open_effects(self) -> Effects | None:
        names = self.handlers.take_tx
        if names and self.settings.effects_url is None:
            raise SettingError(f"RECEIVER_EFFECTS_URL is not set; {', '.join(names)} takes tx")
        return open_effects(self.settings)

    async def _prepare(self, inbox: Inbox, registration: Registration) -> None:
        """Take back what this file's last process left, and say what is wanted here."""
        try:
            if inbox.lease_s is None:
                attempts_max = self.settings.handler_attempts
                await inbox.recover(now_ms=self._clock(), attempts_max=attempts_max)
            await registration.start()
        except InboxUnavailable as error:
            raise InboxError(str(error)) from None

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.open()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})


def _tell_of(seals: Seals | None) -> None:
    """Say what is not as who set the keys will expect it."""
    if seals is not None and seals.lost:
        _LOG.error(
            "a key is missing: copies of what was stored with it are not known as such",
            keys=list(seals.lost),
            advice="put it back into RECEIVER_ENCRYPTION_KEYS and restart",
        )
    if seals is not None and not seals.begun:
        _LOG.warning(
            "not sealing yet: processes without RECEIVER_ENCRYPTION_KEYS use the inbox",
            advice="it begins within a minute after the last of them has ended",
        )


def _tokens(settings: Settings) -> Tokens:
    try:
        return Tokens(settings.credentials)
    except ValueError as error:
        raise SettingError(f"RECEIVER_CREDENTIALS: {error}") from None
