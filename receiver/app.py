"""The receiver as an ASGI application: what the customer makes, and what it is composed of."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final, Self, TypeVar

from receiver.base.clock import NowMs, now_ms
from receiver.base.http import Receive, Scope, Send
from receiver.base.settings import SettingError
from receiver.handling.effects import Effects, open_effects
from receiver.handling.handlers import Handlers
from receiver.handling.limits import Limits
from receiver.handling.worker import Worker
from receiver.housekeeping import Housekeeper
from receiver.http.router import Front
from receiver.inbox.expectations import Expectation
from receiver.inbox.inbox import Inbox, InboxError, InboxUnavailable
from receiver.inbox.opening import open_inbox
from receiver.metrics import Metrics
from receiver.reconcile.checks import ask_ms, check_job_id, check_status_url
from receiver.reconcile.credentials import Credentials, Tokens
from receiver.reconcile.reconciler import Asking, Reconciler
from receiver.settings import Settings, load
from receiver.source import Source
from receiver.sources import all_sources
from receiver.verification.identity import Dialect

Function = TypeVar("Function", bound=Callable[..., Any])
Part = TypeVar("Part")

_STOP_GRACE_SHARE: Final = 0.75  # of the drain's time: closing the inbox needs some too


def create_app(settings: Settings) -> "Receiver":
    """Return a receiver without handlers: it verifies, keeps and answers."""
    return Receiver(settings)


class Receiver:
    """Verifies, stores once, answers; then hands each completion to the customer's code, once.

        receiver = Receiver()  # settings from the RECEIVER_* variables

        @receiver.on("completed")
        def fulfil(event, tx):
            tx.execute("UPDATE orders SET result = ? WHERE job = ?", (…, event.job_id))

        app = Starlette(routes=[Mount("/hooks", app=receiver)], lifespan=receiver.lifespan)

    A server runs its lifespan where it stands alone; where it is mounted inside another
    application, give that one `lifespan=receiver.lifespan`, or use `async with receiver:`.
    Raises SettingError when nothing would vouch for a message.
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
        given = {source.path: source for source in sources}
        self.sources = given or all_sources(self.settings)
        self.handlers = Handlers()
        self.metrics = Metrics()
        self.now_ms = now_ms
        self._credentials = credentials or _tokens(self.settings)
        self._front = Front(self)
        self._inbox: Inbox | None = None
        self._worker: Worker | None = None
        self._reconciler: Reconciler | None = None
        self._housekeeper: Housekeeper | None = None
        self._closing: AsyncExitStack = AsyncExitStack()

    def on(self, *statuses: str) -> Callable[[Function], Function]:
        """Register a handler, `(event)` or `(event, tx)`, sync or async, for `completed`,
        `failed`, `cancelled`, `timeout`, `running` or `queued`, or for `*`: every one
        that has none of its own. Raises ValueError or TypeError for what cannot be one.

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
        self._check_expected(job_id, status_url, credentials, source)
        now_ms = self.now_ms()
        expectation = await self.inbox.expect(
            source=source or next(iter(self.sources)),
            job_id=job_id,
            status_url=status_url,
            credentials=credentials,
            platform=platform,
            now_ms=now_ms,
            ask_ms=ask_ms(by, now_ms),
        )
        self.wake()
        return expectation

    async def replay(self, id: int) -> bool:
        """Make a dead, ignored or skipped message due again; whether that could be."""
        return await self.inbox.replay(id, self.now_ms())

    def wake(self) -> None:
        """Look for due work now. A clock that jumps is noticed by itself within half a minute."""
        for one in (self._worker, self._reconciler):
            if one is not None:
                one.wake()

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
        """RuntimeError while it is not open."""
        return _opened(self._inbox)

    @property
    def housekeeper(self) -> Housekeeper:
        """RuntimeError while it is not open."""
        return _opened(self._housekeeper)

    async def __aenter__(self) -> Self:
        """Open the inbox and goes on with what is in it. Raises InboxError, EffectsError or
        SettingError, and then leaves nothing open."""
        async with AsyncExitStack() as opening:
            effects = await asyncio.to_thread(self._open_effects)
            if effects is not None:
                opening.push_async_callback(asyncio.to_thread, effects.close)
            inbox = await open_inbox(self.settings)
            opening.push_async_callback(inbox.close)
            await self._recover(inbox)
            if self.handlers:
                self._worker = self._new_worker(inbox, effects)
                opening.push_async_callback(
                    self._worker.stop, self.settings.drain_grace * _STOP_GRACE_SHARE
                )
                inbox.on_due = self._worker.wake
            self._housekeeper = self._new_housekeeper(inbox, effects)
            opening.push_async_callback(self._housekeeper.stop)
            self._reconciler = self._new_reconciler(inbox)
            opening.push_async_callback(self._reconciler.stop)
            self._inbox = inbox
            self._closing = opening.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._closing.aclose()  # what was opened last goes first
        finally:
            self._inbox = self._worker = self._housekeeper = self._reconciler = None

    @asynccontextmanager
    async def lifespan(self, _app: Any) -> AsyncIterator[None]:
        """Yield the lifespan for the application that it is mounted in."""
        async with self:
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._front(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._serve_lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
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

    async def _recover(self, inbox: Inbox) -> None:
        try:
            attempts_max = self.settings.handler_attempts
            await inbox.recover(now_ms=self.now_ms(), attempts_max=attempts_max)
        except InboxUnavailable as error:
            raise InboxError(str(error)) from None

    def _open_effects(self) -> Effects | None:
        names = self.handlers.take_tx
        if names and self.settings.effects_url is None:
            raise SettingError(f"RECEIVER_EFFECTS_URL is not set; {', '.join(names)} takes tx")
        return open_effects(self.settings)

    def _new_worker(self, inbox: Inbox, effects: Effects | None) -> Worker:
        settings = self.settings
        limits = Limits(
            concurrency=settings.handler_concurrency,
            timeout_s=settings.handler_timeout,
            attempts=settings.handler_attempts,
            retry_base_s=settings.handler_retry_base,
            retry_cap_s=settings.handler_retry_cap,
            poll_s=settings.poll,
        )
        return Worker(
            inbox,
            self.handlers,
            effects,
            limits=limits,
            now_ms=self.now_ms,
            metrics=self.metrics,
        )

    def _new_reconciler(self, inbox: Inbox) -> Reconciler:
        settings = self.settings
        asking = Asking(
            base_s=settings.ask_base,
            cap_s=settings.ask_cap,
            timeout_s=settings.ask_timeout,
            lost_after_s=settings.lost_after,
        )
        return Reconciler(
            inbox,
            self.handlers,
            self.sources,
            self._credentials,
            asking=asking,
            now_ms=self.now_ms,
            metrics=self.metrics,
        )

    def _new_housekeeper(self, inbox: Inbox, effects: Effects | None) -> Housekeeper:
        return Housekeeper(
            inbox,
            effects,
            keep_bodies_s=self.settings.keep_bodies,
            keep_messages_s=self.settings.keep_messages,
            now_ms=self.now_ms,
        )

    def _check_expected(
        self, job_id: str, status_url: str, credentials: str | None, source: str | None
    ) -> None:
        check_job_id(job_id)
        if source is not None and source not in self.sources:
            raise ValueError(f"there is no source {source!r}; there are: {', '.join(self.sources)}")
        check_status_url(status_url)
        if credentials is not None:
            try:
                self._credentials(credentials, status_url)
            except KeyError:
                raise ValueError(f"there are no credentials named {credentials!r}") from None


def _tokens(settings: Settings) -> Tokens:
    try:
        return Tokens(settings.credentials)
    except ValueError as error:
        raise SettingError(f"RECEIVER_CREDENTIALS: {error}") from None


def _opened(part: Part | None) -> Part:
    if part is None:
        raise RuntimeError("the inbox is not open: run the lifespan, or use `async with receiver:`")
    return part
