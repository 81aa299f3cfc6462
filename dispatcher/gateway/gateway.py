"""The gateway of a process: its parts made, bound to each other, started and stopped in order."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Final

from dispatcher.audit import MakeEntry, by_service
from dispatcher.blobs.blobs import Blobs
from dispatcher.blobs.spool import Room
from dispatcher.blobs.storage import StorageError
from dispatcher.engine.engine import Engine
from dispatcher.gateway import apply
from dispatcher.gateway.apply import ApplyError, Plan
from dispatcher.gateway.beats import Beats
from dispatcher.gateway.call_secrets import CallSecrets
from dispatcher.gateway.endpoints import EndpointBook
from dispatcher.gateway.engine import JobEngine, Surroundings
from dispatcher.gateway.events import EventCallbacks
from dispatcher.gateway.feeds import Feeds
from dispatcher.gateway.header_values import HeaderValues
from dispatcher.gateway.links import Links
from dispatcher.gateway.pieces import StoredPieces
from dispatcher.gateway.reports import Reports
from dispatcher.gateway.streams import Streams
from dispatcher.gateway.upkeep import SLICE, Upkeep
from dispatcher.gateway.waiters import Waiters
from dispatcher.gateway.watching import Watching
from dispatcher.jobs import kinds
from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.fields import RuleError
from dispatcher.jobs.values import ClaimedJob, RunningLimits
from dispatcher.metrics import Metrics
from dispatcher.sending.trust import authorities
from dispatcher.sending.upstream import Upstreams
from dispatcher.settings import Settings, variable
from dispatcher.signing import SecretCache
from dispatcher.store.errors import (
    CannotStart,
    Conflict,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from dispatcher.store.store import Store
from receiver.base import log
from receiver.base.clock import monotonic_ms, now_ms

_LOG: Final = log.get("dispatcher.gateway")
# What keeps an endpoint of a file from being stored, but not for ever.
_LATER: Final = (Conflict, StoreFull, StoreUnavailable)


class Gateway:
    """Jobs, as this process runs them."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        secrets: SecretCache,
        deliveries: Engine,
        metrics: Metrics,
        *,
        limits: Callable[[], RunningLimits | None] = lambda: None,
        room: Room | None = None,
        clock: Callable[[], int] = now_ms,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._settings = settings
        self._store = store
        self._jobs = store.jobs
        self._metrics = metrics
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._process = uuid.uuid4().hex
        self._begins = True  # we are not known by this name yet
        self._unapplied: str | None = None  # our own file, while something of it has to wait
        self.upkeep = Upkeep(settings, store, metrics, self._process, clock, monotonic_ms)
        values = HeaderValues(settings, secrets)
        self.secrets = CallSecrets(self._jobs, values, clock=clock)
        self.book = EndpointBook(self._jobs.endpoints)
        self.upstreams = Upstreams(settings, values.get, tls=authorities(settings))
        self.waiters = Waiters(settings.held_requests_max, self._jobs.ended, metrics)
        self.feeds = Feeds(self._jobs.news)
        self.blobs = Blobs(settings, self._jobs, process=self._process, room=room, clock=clock)
        self.streams = Streams(
            self._jobs.put_chunks, on_progress=self._progressed, on_output=self._brought
        )
        self.beats = Beats(settings.job_lease, self._beat, self._take_over)
        base_url = settings.upstream_callback_url or settings.public_url or ""
        self.links = Links(self._jobs, base_url, clock=clock)
        self.engine = JobEngine(
            settings,
            self._jobs,
            self.upstreams,
            self.book,
            deliveries,
            metrics,
            self._around_jobs(limits),
            streams=self.streams,
            blobs=self.blobs,
            process=self._process,
            clock=clock,
        )
        self.watching = self._make_watching()
        self.events = EventCallbacks(
            self._jobs, self.book, self.engine.open_job, settings.public_url or "", clock
        )
        self.reports = self._make_reports()

    def _around_jobs(self, limits: Callable[[], RunningLimits | None]) -> Surroundings:
        return Surroundings(
            secrets=self.secrets.of,
            links=self.links.of_call,
            output_link=self.links.of_output,
            on_begun=self._begun,
            before_end=self._before_end,
            may_start=self.beats.may_start if self._store.shared else lambda: True,
            limits=limits,
        )

    def _make_watching(self) -> Watching:
        return Watching(
            self._jobs,
            self.upstreams,
            self.book,
            self.secrets.of,
            self._metrics,
            shared=self._store.shared,
            clock=self._clock,
        )

    def _make_reports(self) -> Reports:
        pieces = StoredPieces(
            self._jobs, self.book, self.engine.open_job, self.events.output, self._clock
        )
        return Reports(
            self._jobs,
            self.engine.sign,
            pieces=pieces,
            on_written=self.events.written,
            clock=self._clock,
            monotonic_ms=self._monotonic_ms,
        )

    # --- what the store tells of ---

    def on_endpoints(self) -> None:
        """Know again what was changed of endpoints, and what signs their calls."""
        self.book.changed()
        self.secrets.forget_all()
        self.links.changed()

    def on_ended(self, jobs: Sequence[str]) -> None:
        """Wake who waits for jobs that ended, and close their calls, if any is open here."""
        self.waiters.end(jobs)
        self.feeds.tell(jobs)
        self.engine.on_ended(jobs)

    def on_news(self, jobs: Collection[str]) -> None:
        """Wake who follows jobs that have something new."""
        self.feeds.tell(jobs)

    def _progressed(self, job: ClaimedJob, data: bytes) -> None:
        self.reports.progress(job, data)

    def _brought(self, job: ClaimedJob, value: bytes) -> None:
        self.events.output(job, value)

    def _before_end(self, job: str) -> Awaitable[None] | None:
        return self.reports.write_now(job)

    def _begun(self, job: ClaimedJob) -> None:
        self.feeds.tell((job.id,))
        self.events.started(job)

    # --- life ---

    async def open(self) -> None:
        """Get to know the endpoints, those of our own file first, and make ourselves known to the
        other processes; a sole owner takes over what its predecessor ran. Raises ApplyError, and
        what the database does."""
        await self.upstreams.open()
        await self._open_blobs()
        await self.links.open()
        if self._settings.apply is None:
            await self.book.reload()
        else:
            await self._apply_at_start(self._settings.apply)
        if self._store.shared:
            await self.beats.step()
            _LOG.info("known to the other processes", process=self._process)
        else:
            while await self.upkeep.orphans():
                pass
        # Before anything is started again: then it shows if a clock ran ahead that is right now.
        while await self.upkeep.correct():
            pass

    async def _open_blobs(self) -> None:
        """Raise CannotStart where nothing can be kept that was meant to be."""
        if self._settings.outputs is None:  # it is made when there is something to keep
            return
        try:
            await self.blobs.open()
        except StorageError as error:
            where = self.blobs.storage
            raise CannotStart(f"nothing can be kept at {where}: {error.reason}") from error

    def start(self) -> None:
        """Begin to run jobs."""
        if self._store.shared:
            self.beats.start()
        self.engine.start()
        self.watching.start()

    def refuse_submits(self) -> None:
        """Take no more jobs, and hold no more requests: the process is about to stop."""
        self.engine.refuse_submits()
        self.waiters.stop()
        self.feeds.stop()

    async def drain(self, grace_s: float) -> int:
        """Let what runs go on for `grace_s`, then hand it back; returns how many results could not
        be recorded. The beats go on until then: nobody takes over what is still being run."""
        self.refuse_submits()
        return await self.engine.drain(grace_s)

    async def close(self) -> None:
        """Let go of everything; `drain` comes before. What could not be recorded then is for the
        other processes, at once."""
        await self.watching.stop()
        self.book.stop()
        self.links.stop()
        await self.streams.stop()
        await self.reports.flush()
        await self.events.stop()
        await self.beats.stop()
        await self.upstreams.close()
        await self.blobs.close()
        if self._store.shared:
            try:
                await self._jobs.leave(self._process)
            except StoreError as error:
                _LOG.info("left a mark behind", reason=str(error))

    # --- endpoints of files ---

    async def _apply_at_start(self, path: str) -> None:
        """Put our own file in force, or what of it can be now: that the rest has to wait keeps
        nobody's jobs from being run. Raises ApplyError."""
        try:
            await self.apply_own_file(path, by_service(self._clock))
        except _LATER as error:
            _LOG.warning("endpoints cannot be applied yet", file=path, reason=str(error))
            self._unapplied = path

    async def _apply_again(self) -> bool:
        if self._unapplied is not None:
            try:
                await self.apply_own_file(self._unapplied, by_service(self._clock))
            except _LATER:
                return False
            except ApplyError as error:  # it was changed meanwhile
                _LOG.error("endpoints cannot be applied", reason=str(error))
            self._unapplied = None
        return False

    async def apply_own_file(self, path: str, entry: MakeEntry, *, is_dry: bool = False) -> Plan:
        """Make the endpoints of a file on this server's disk the managed ones; what their headers
        name there must be to be had. Raises ApplyError."""
        wanted = await asyncio.to_thread(
            apply.read_own, path, variable("apply"), self._settings.upstream_secrets
        )
        try:
            return await self.apply(wanted, entry, is_dry=is_dry)
        except RuleError as error:
            raise ApplyError(f"{path}: {error}", path=path, field=error.field) from None

    async def apply(
        self, wanted: Mapping[str, EndpointRules], entry: MakeEntry, *, is_dry: bool = False
    ) -> Plan:
        """Make these the managed endpoints, and know them; returns what was, or would be, done.
        Raises RuleError for an upstream that no call could go to."""
        for name, rules in wanted.items():
            for field, url in kinds.urls_of(rules).items():
                fault = self.upstreams.guard.check_url(url)
                if fault is not None:
                    raise RuleError(f"endpoints.{name}.{field}", url, fault)
        if is_dry:
            return apply.plan_of(await self._jobs.endpoints(), wanted)
        try:
            plan = await apply.apply(self._jobs, wanted, now_ms=self._clock(), entry=entry)
        finally:  # some may have been stored before another was refused
            await self.book.reload()
        if plan.changes:
            _LOG.info("endpoints applied", **asdict(plan))
        return plan

    # --- beats ---

    async def _beat(self) -> Mapping[str, int] | None:
        beats = await self._jobs.beat(self._process, begins=self._begins, now_ms=self._clock())
        self._begins = beats is None
        if beats is None:
            await self.engine.look()
        return beats

    async def _take_over(self, process: str, beat: int) -> None:
        taken = await self._jobs.reclaim(process, beat, now_ms=self._clock(), limit=SLICE)
        if taken:
            self._metrics.jobs_taken_over(taken)
            _LOG.warning("jobs of a dead process go on", process=process, jobs=taken)

    # --- steps of the sweeper's ---

    @property
    def steps(self) -> Sequence[Callable[[], Awaitable[bool]]]:
        """What is due to nobody's request, a slice each."""
        return (
            self.upkeep.correct,
            self._apply_again,
            self._look,
            self.engine.stopper.step,
            self.upkeep.orphans,
            self.upkeep.expire,
            self._look_for_signs,
            self.engine.by_url.look,
            self.links.step,
            self.upkeep.end_purged,
            self.upkeep.tell,
            self.upkeep.repair,
            self.upkeep.prune,
            self.upkeep.show_loads,
            self.blobs.sweep,
        )

    async def _look(self) -> bool:
        await self.engine.look()
        return False

    async def _look_for_signs(self) -> bool:
        await self.engine.look_for_signs()
        return False
