"""The service as a whole: its parts made, bound to each other, opened and closed in order."""

import asyncio
import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final

from starlette.routing import Router

from dispatcher import VERSION
from dispatcher.access import Access
from dispatcher.api import Context, create_api
from dispatcher.audit import by_service
from dispatcher.engine.engine import Engine
from dispatcher.engine.eraser import Eraser
from dispatcher.engine.replayer import Replayer
from dispatcher.engine.resealer import Resealer
from dispatcher.engine.sweeper import Sweeper
from dispatcher.engine.trimmer import Trimmer
from dispatcher.gateway.figures import FigureBook
from dispatcher.gateway.gateway import Gateway
from dispatcher.gateway.intake import JobIntake
from dispatcher.gateway.job_sweeper import JobSweeper
from dispatcher.gauges import Gauges
from dispatcher.intake import Intake
from dispatcher.key_keeper import KeyKeeper
from dispatcher.metrics import Metrics
from dispatcher.quotas import Quotas
from dispatcher.sending.sender import Sender
from dispatcher.sending.trust import authorities
from dispatcher.settings import Settings, listening_url, not_default
from dispatcher.signing import SecretCache
from dispatcher.store import open_store
from dispatcher.store.database import StoreEvents
from dispatcher.store.errors import StoreError
from dispatcher.store.store import Store
from receiver.base import log
from receiver.base.clock import now_ms

_LOG: Final = log.get("dispatcher.service")
_TOLD_MAX: Final = 10
_RELOAD_RETRY_S: Final = 0.5
_USES_S: Final = 1.0  # for recording the last uses of keys, at the end


def tell_of_links(settings: Settings, url: str, endpoints: Sequence[str]) -> None:
    """Warn where what is sent to customers will begin with the address that is listened on, and
    say what needs another."""
    if settings.public_url is not None or not (endpoints or settings.apply):
        return
    _LOG.warning(
        "DISPATCHER_PUBLIC_URL is not set: links that are stored or sent begin with the address "
        "that is listened on; callbacks of jobs tell by one where an output is that they do not "
        "carry",
        url=url,
        endpoints=list(endpoints[:_TOLD_MAX]),
    )


class Service:
    """A dispatcher in this process: `async with Service(settings) as service` runs it, and
    `service.api` is its ASGI application."""

    def __init__(
        self, settings: Settings, *, store: Store | None = None, url: str | None = None
    ) -> None:
        """`url` is where it will listen, if that is known: links begin with it, unless the settings
        say how others reach us."""
        self._given = settings
        public_url = settings.public_url or url or listening_url(settings)
        self.settings = settings = replace(settings, public_url=public_url)
        self.store = open_store(settings) if store is None else store
        self.metrics = Metrics(destinations_max=settings.metrics_destinations)
        self.secrets = SecretCache(self.store.secrets, self.store.stored_values)
        self.sender = Sender(settings, tls=authorities(settings))
        self.access = Access(self.store, settings)
        self.engine = Engine(settings, self.store, self.sender.send, self.secrets, self.metrics)
        self.quotas = Quotas(settings, self.store, self.access, self.engine.drain_rate)
        self.gateway = Gateway(
            settings,
            self.store,
            self.secrets,
            self.engine,
            self.metrics,
            limits=self.access.running_limits,
            room=self.quotas,
        )
        self.replayer = Replayer(settings, self.store)
        self.eraser = Eraser(settings, self.store, on_erased=self._tenant_erased)
        self.key_keeper = KeyKeeper(self.access, self.store)
        self.resealer = Resealer(settings, self.store)
        self.sweeper = self._make_sweeper()
        self.intake = Intake(settings, self.access, self.quotas, self.engine, self.metrics)
        self.job_sweeper = JobSweeper(self.store.jobs, committed=lambda: self.store.committed)
        self.gauges = Gauges(
            self.store, self.metrics, destinations_max=settings.metrics_destinations
        )
        self.figures = FigureBook(self.store.jobs)
        self.job_intake = JobIntake(
            settings,
            self.access,
            self.quotas,
            self.store,
            self.gateway.engine,
            self.figures,
            self.metrics,
            spool=self.gateway.blobs.spool,
        )
        self.api: Router = create_api(self._context())
        self._reloading: asyncio.Task[None] | None = None
        self._reload_again = False
        self._unrecorded_jobs = 0
        self.new_key: str | None = None
        """The platform key that the first start made, to be shown once."""

    def _make_sweeper(self) -> Sweeper:
        trimmer = Trimmer(self.settings, self.store)
        return Sweeper(
            self.settings,
            self.store,
            self.metrics,
            held=self.engine.held,
            others=(self.key_keeper.step, trimmer.step, *self.gateway.steps),
        )

    def _context(self) -> Context:
        return Context(
            settings=self.settings,
            store=self.store,
            access=self.access,
            intake=self.intake,
            engine=self.engine,
            secrets=self.secrets,
            quotas=self.quotas,
            gateway=self.gateway,
            job_intake=self.job_intake,
            figures=self.figures,
            wake_replayer=self.replayer.wake,
            wake_job_sweeper=self.job_sweeper.wake,
            wake_eraser=self.eraser.wake,
            wake_resealer=self.resealer.wake,
            metrics=self.metrics,
            gauges=self.gauges,
        )

    async def start(self) -> None:
        """Open everything and begin to deliver. Raises CannotStart and SettingError."""
        await self.store.open(
            StoreEvents(
                on_ready=self.engine.on_ready,
                on_commit=self.metrics.committed,
                on_access=self._access_changed,
                on_replays=self.replayer.wake,
                on_jobs_ready=self.gateway.engine.on_ready,
                on_jobs_ended=self.gateway.on_ended,
                on_jobs_news=self.gateway.on_news,
                on_endpoints=self.gateway.on_endpoints,
            )
        )
        try:
            self.new_key = await self.access.bootstrap()
            await self.sender.open()
            await self.store.take_over(now_ms=now_ms())
            await self.gateway.open()
            await self._record_start()
        except BaseException:
            await self.gateway.close()
            await self.sender.close()
            await self.store.close()
            raise
        self._show_gauges()
        self.engine.start()
        self.gateway.start()
        self.replayer.start()
        self.job_sweeper.start()
        self.eraser.start()
        self.resealer.start()
        self.sweeper.start()

    async def _record_start(self) -> None:
        """Tell the audit trail of this process. A database that takes nothing now keeps nobody from
        delivering: then the log has it alone."""
        settings = not_default(self._given)
        where = f"{platform.node()}:{os.getpid()}"
        start = by_service(now_ms)("service.start", where, version=VERSION, settings=settings)
        try:
            await self.store.record(start)
        except StoreError as error:
            _LOG.warning("the start is not in the audit trail", reason=str(error), **settings)

    def refuse_submits(self) -> None:
        """Take no more callbacks and jobs: the process is about to stop. For signal handlers."""
        self.engine.refuse_submits()
        self.gateway.engine.refuse_submits()

    async def drain_jobs(self, grace_s: float) -> None:
        """Let the jobs that run go on for `grace_s`, then hand them back, while everything else
        goes on: what they end with is told like anything else."""
        self.refuse_submits()
        self._unrecorded_jobs += await self.gateway.drain(grace_s)

    async def stop(self, grace_s: float | None = None) -> int:
        """Let go in order: no new work, then what is in flight, within `grace_s` (by default the
        setting), then the store; jobs that are not drained yet have the same time before that.
        Returns how many results could not be recorded."""
        grace_s = self.settings.drain_grace if grace_s is None else grace_s
        await self.drain_jobs(min(grace_s, self.settings.job_drain))
        await self.sweeper.stop()
        await self.resealer.stop()
        await self.eraser.stop()
        await self.replayer.stop()
        await self.job_sweeper.stop()
        unrecorded = self._unrecorded_jobs + await self.engine.drain(grace_s)
        try:
            async with asyncio.timeout(_USES_S):
                await self.key_keeper.finish()
        except (StoreError, TimeoutError) as error:
            _LOG.warning("the last uses of API keys are not recorded", reason=str(error))
        await self.gateway.close()
        await self.sender.close()
        if self._reloading is not None:
            self._reloading.cancel()
        await self.store.close()
        return unrecorded

    async def __aenter__(self) -> "Service":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def _tenant_erased(self, tenant: str) -> None:
        self.access.forget_tenant(tenant)
        self.secrets.forget(tenant)

    def _access_changed(self) -> None:
        """Forget what another process on the same database changed: keys, tenants or secrets."""
        self.secrets.forget_all()
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload_access(), name="reload-access")
        else:
            self._reload_again = True

    async def _reload_access(self) -> None:
        """Until what was read is what was last announced, whatever that meets: a revoked key must
        not linger."""
        while True:
            self._reload_again = False
            try:
                await self.access.reload()
            except Exception as error:
                if isinstance(error, StoreError):
                    _LOG.warning("cannot read keys again yet", reason=str(error))
                else:
                    _LOG.exception("reading keys again failed", error)
                await asyncio.sleep(_RELOAD_RETRY_S)
                continue
            if not self._reload_again:
                return

    def _show_gauges(self) -> None:
        gauge = self.metrics.bind_gauge
        gauge("queued", "Deliveries pending or sending", self.store.queued)
        gauge("in_flight", "Attempts that run now", lambda: self.engine.in_flight)
        gauge("jobs_running", "Jobs that run now", lambda: self.gateway.engine.running)
        gauge("job_waiters", "Requests that wait for a job", lambda: self.gateway.waiters.held)
        gauge("store_used_bytes", "Database in use", lambda: self.store.usage().used_bytes)
        gauge("outputs_bytes", "Outputs that are kept", self.store.outputs_bytes)
        gauge("store_free_bytes", "Room left", lambda: self.store.usage().free_bytes)
        counter, tally = self.metrics.bind_counter, self.metrics.connections
        counter("replayed", "Callbacks made pending again by replays.", self.store.replayed)
        counter("connections_refused", "Surplus connections closed.", lambda: tally.refused)
        counter("connections_cut", "Connections whose peer did not read.", lambda: tally.cut)
        counter("log_lines_dropped", "Lines of the log that nobody read.", log.dropped)
