"""The service as a whole: its parts made, bound to each other, opened and closed in order."""

from __future__ import annotations

from types import TracebackType

from starlette.routing import Router

from dispatcher.access import Access
from dispatcher.api import Context, create_api
from dispatcher.clock import now_ms
from dispatcher.engine.engine import Engine
from dispatcher.engine.housekeeping import Housekeeping
from dispatcher.metrics import Metrics
from dispatcher.sender import Sender
from dispatcher.settings import Settings
from dispatcher.signing import SecretBook
from dispatcher.store import open_store
from dispatcher.store.base import Store


class Service:
    """A dispatcher in this process: `async with Service(settings) as service` runs it, and
    `service.api` is its ASGI application."""

    def __init__(self, settings: Settings, *, store: Store | None = None) -> None:
        self.settings = settings
        self.store = open_store(settings) if store is None else store
        self.metrics = Metrics()
        self.secret_book = SecretBook(self.store)
        self.sender = Sender(settings)
        self.access = Access(self.store, settings)
        self.engine = Engine(settings, self.store, self.sender, self.secret_book, self.metrics)
        self.housekeeping = Housekeeping(settings, self.store, self.metrics)
        self.api: Router = create_api(
            Context(
                settings=settings,
                store=self.store,
                access=self.access,
                engine=self.engine,
                secret_book=self.secret_book,
                metrics=self.metrics,
            )
        )
        self.new_key: str | None = None
        """The platform key that the first start made, to be shown once."""

    async def start(self) -> None:
        """Open everything and begin to deliver. Raises CannotStart and SettingError."""
        self.store.on_commit = self.metrics.committed
        await self.store.open()
        try:
            self.new_key = await self.access.bootstrap()
            await self.sender.open()
            await self.store.take_over(now_ms=now_ms())
        except BaseException:
            await self.sender.close()
            await self.store.close()
            raise
        self._show_gauges()
        self.engine.on_replays = self.housekeeping.wake_replays
        self.engine.start()
        self.housekeeping.start()

    async def stop(self) -> None:
        """Let go in order: no new work, then what is in flight, then the store."""
        await self.housekeeping.stop()
        await self.engine.drain()
        await self.sender.close()
        await self.store.close()

    async def __aenter__(self) -> Service:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def _show_gauges(self) -> None:
        gauge = self.metrics.bind_gauge
        gauge("queued", "Deliveries pending or sending", self.store.queued)
        gauge("in_flight", "Attempts that run now", lambda: self.engine.in_flight)
        gauge("store_used_bytes", "Database in use", lambda: self.store.usage().used_bytes)
        gauge("store_free_bytes", "Room left", lambda: self.store.usage().free_bytes)
