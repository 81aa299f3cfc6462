"""Running jobs: claim → call → judge → settle, for many at once, and an orderly end.

A job's rules are its endpoint's of the moment when its call is made. The place of a job that was
cancelled is free once its call has ended.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from dispatcher.audit import Entry
from dispatcher.blobs.blobs import Blobs
from dispatcher.dialects.snapshot import LinkTo
from dispatcher.engine.alarm import EMPTY_CLAIM_WAIT_MS
from dispatcher.engine.claiming import RANDOM, RECORD_S, Claiming, result_of, wait_for
from dispatcher.engine.engine import Engine
from dispatcher.engine.faults import Faults
from dispatcher.gateway.by_url import ByUrl
from dispatcher.gateway.caller import Caller, Upstream
from dispatcher.gateway.endpoints import EndpointBook
from dispatcher.gateway.ends import Ends
from dispatcher.gateway.heartbeats import Heartbeats
from dispatcher.gateway.open_calls import OpenCalls, Running
from dispatcher.gateway.places import Places
from dispatcher.gateway.stopping import Stopper
from dispatcher.gateway.streams import Streams
from dispatcher.ids import spelled
from dispatcher.jobs.endpoint import Endpoint, EndpointRules
from dispatcher.jobs.states import JobReason
from dispatcher.jobs.values import (
    ChangedJob,
    ClaimedJob,
    NewJob,
    RunningLimits,
    SubmittedJob,
)
from dispatcher.metrics import Metrics
from dispatcher.settings import Settings
from dispatcher.signing import Secrets
from dispatcher.store.jobs.store import JobStore
from receiver.base import log
from receiver.base.clock import monotonic_ms, now_ms

_LOG: Final = log.get("dispatcher.gateway")
_EMPTY_WAIT_MS_MAX: Final = 320
_NO_BEAT_S: Final = 1.0
_IDS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What running a job needs of the gateway's other parts, each asked when it comes to it."""

    secrets: Callable[[Endpoint], Awaitable[Secrets]]
    """Gives what an endpoint's calls are signed with."""
    links: Callable[[ClaimedJob, int], tuple[str, str] | None]
    """Gives the URLs by which a call's upstream tells of it, until its deadline."""
    output_link: LinkTo
    """Gives the link to a run's output."""
    on_begun: Callable[[ClaimedJob], None]
    """Is told of each job that is run."""
    before_end: Callable[[str], Awaitable[None] | None]
    """Gives what is to be done before a job's end is stored, if anything is."""
    may_start: Callable[[], bool]
    """Whether our beats let us begin anything."""
    limits: Callable[[], RunningLimits | None]
    """How many jobs of tenants may run at once."""


class JobEngine:
    """Takes jobs on while places are free and sees each through to its settlement. `streams` takes
    what calls bring in chunks, `blobs` keeps what is long, and `process` is who we are to the other
    processes on the database."""

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        upstream: Upstream,
        book: EndpointBook,
        deliveries: Engine,
        metrics: Metrics,
        around: Surroundings,
        *,
        streams: Streams,
        blobs: Blobs,
        process: str,
        clock: Callable[[], int] = now_ms,
        chance: Callable[[], float] = RANDOM.random,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._on_begun = around.on_begun
        self._before_end = around.before_end
        self._store = store
        self._book = book
        self._process = process
        self._may_start = around.may_start
        self._limits = around.limits
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._places = Places(settings.job_places, bytes_max=settings.job_bytes_max)
        self._faults = Faults(metrics, "we cannot run jobs: the fault is ours")
        self._ends = Ends(
            settings, store, deliveries, metrics, clock, monotonic_ms, around.output_link
        )
        self._caller = Caller(
            upstream,
            book,
            around.secrets,
            self._faults,
            streams,
            blobs,
            around.may_start,
            self._on_sent,
            clock,
            chance,
            monotonic_ms,
            around.links,
            self._before,
        )
        self._open = OpenCalls(
            store, process, clock, monotonic_ms, lease_ms=round(settings.job_lease * 1000)
        )
        self.stopper = Stopper(
            store, upstream, book, around.secrets, self._open, self._ends, metrics, process, clock
        )
        self._heartbeats = Heartbeats(store, book, self._open, monotonic_ms)
        self.by_url = ByUrl(
            store, book, self._ends, self.stopper.stop, blobs, clock=clock, chance=chance
        )
        self._claiming = self._make_claiming()
        self._empty_claims = 0  # in a row
        self._closed = False  # what begins now is closed at once
        self.ready = False

    def _make_claiming(self) -> Claiming:
        return Claiming(
            self._claim,
            lambda: self._places.free,
            self._faults,
            self._clock,
            self._monotonic_ms,
            log=_LOG,
            what="jobs",
            pause_s=lambda: 0.0 if self._may_start() else _NO_BEAT_S,
        )

    @property
    def running(self) -> int:
        """Jobs that this process has now, each in a place."""
        return self._places.taken

    def endpoint(self, name: str) -> Endpoint | None:
        """Return an endpoint as this process knows it, None where there is none of this name."""
        return self._book.get(name)

    def missing_key(self) -> str | None:
        """Return what could not be run lately, since no key of ours opens it; None where there was
        nothing."""
        return self._faults.missing_key(self._monotonic_ms())

    # --- life ---

    def start(self) -> None:
        """Begin to claim and to take submits."""
        self._claiming.start()
        self.ready = True

    def refuse_submits(self) -> None:
        """Take no more jobs: the process is about to stop."""
        self.ready = False

    async def drain(self, grace_s: float) -> int:
        """Stop claiming, let calls go on for `grace_s`, then close them: what may run again is
        handed back, what may not fails as interrupted. Returns how many results could not be
        recorded; the other processes, or the next start, take these over."""
        self.refuse_submits()
        clock = asyncio.get_running_loop().time
        ends_s = clock() + grace_s
        recorded_s = ends_s + RECORD_S
        await self._claiming.stop()
        await wait_for(self._claiming.incoming, recorded_s - clock())  # what they claim is ours
        await wait_for(self._open.tasks(), ends_s - clock())
        self._closed = True
        self.stopper.hurry()
        for one in self._open.all():
            one.close("interrupted")
        await wait_for(self._open.tasks(), recorded_s - clock())
        return await self._give_up()

    async def _give_up(self) -> int:
        """Forget what could not be recorded, loudly; return how much."""
        self.stopper.close()
        left = self._open.all()
        tasks = self._open.tasks().union(self._claiming.incoming, self._open.looking)
        for task in tasks:
            task.cancel()
        await wait_for(tasks, RECORD_S)
        if left:
            _LOG.error(
                "results of jobs were not recorded: they are taken over",
                jobs=len(left),
                ids=[spelled(one.job.id, "v1") for one in left[:_IDS_SHOWN]],
            )
        return len(left)

    # --- what the API asks for ---

    async def submit(self, new: NewJob) -> SubmittedJob:
        """Store durably, and start where the endpoint is idle. Raises what `JobStore.submit`
        raises."""
        size = new.held_bytes
        handover = self.ready and new.not_before_ms is None and not self._faults.until_ms
        handover = handover and self._may_start() and self._places.admits(new.endpoint, size)
        if handover:
            self._places.take(new.endpoint, size)
        process, limits = self._process if handover else None, self._limits()
        running_max = None if limits is None else limits.of(new.tenant)
        try:
            stored = self._claiming.follow(
                self._store.submit(new, process=process, running_max=running_max),
                partial(self._submitted, new, handover),
            )
        except BaseException:
            if handover:
                self._free(new.endpoint, size)
            raise
        # Shielded: a caller that goes away does not keep a claimed job from its call.
        return await asyncio.shield(stored)

    def _submitted(
        self, new: NewJob, handover: bool, stored: "asyncio.Future[SubmittedJob]"
    ) -> None:
        submitted = result_of(stored)
        if submitted is not None and submitted.claimed is not None:
            self._begin(submitted.claimed)
        elif handover:
            self._free(new.endpoint, new.held_bytes)
        elif submitted is not None and self._limits() is not None:
            # What was found to wait may all be of tenants at their limits: this may start.
            self._empty_claims = 0
            self._claiming.on_room()

    async def cancel(
        self, tenant: str, job: str, *, reason: JobReason = "user", entries: Sequence[Entry] = ()
    ) -> ChangedJob:
        """Cancel a job, told in the same commit; its call, wherever that is open, is closed. Not
        `changed` if it had ended. Raises NotFound."""
        changed = await self._store.cancel(
            tenant, job, reason=reason, now_ms=self._clock(), entries=entries
        )
        if changed.changed and changed.process is None:
            self.stopper.wake()
        return changed

    async def retry(
        self, tenant: str, job: str, *, force: bool = False, entries: Sequence[Entry] = ()
    ) -> ChangedJob:
        """Queue a job that has ended again: the same id, the next run. Raises what
        `JobStore.retry` raises."""
        return await self._store.retry(
            tenant, job, force=force, now_ms=self._clock(), entries=entries
        )

    def wake(self) -> None:
        """Look for due jobs: some were made due."""
        self._claiming.wake()

    # --- what the store tells of ---

    def on_ready(self, next_ready_ms: int | None) -> None:
        """Take over when the store's next job may start."""
        self._claiming.on_ready(next_ready_ms)

    def on_ended(self, jobs: Collection[str]) -> None:
        """Close the calls of jobs that ended, or were taken from their process: see `OpenCalls`."""
        self._open.on_ended(jobs)

    def sign(self, job: str, claim: int) -> bool:
        """Note a sign of life of a job; return whether its call is open here under this claim."""
        return self._open.sign(job, claim)

    def open_job(self, job: str, claim: int) -> ClaimedJob | None:
        """Return a job whose call is open here under this claim."""
        return self._open.job(job, claim)

    async def look_for_signs(self) -> None:
        """Give up the calls that gave no sign of life in time."""
        await self._heartbeats.look()

    async def look(self) -> None:
        """Compare what runs here with what the database says of it: see `OpenCalls`."""
        await self._open.look()

    # --- running ---

    async def _claim(self) -> int:
        probes = self._faults.probes(self._monotonic_ms())
        request = self._places.ask(self._process, self._clock(), places_max=probes)
        limits = self._limits()
        if limits is not None:
            request = replace(request, limits=limits)
        try:
            jobs = await self._store.claim(request)
        finally:
            self._places.answered()
        for job in jobs:
            self._places.take(job.endpoint, job.held_bytes)
            self._begin(job)
        if jobs:
            self._empty_claims = 0
            return 0
        # Longer each time: what waits may be an endpoint's that leaves the last places to others,
        # for as long as its calls last.
        self._empty_claims += 1
        return min(EMPTY_CLAIM_WAIT_MS << min(self._empty_claims, 8), _EMPTY_WAIT_MS_MAX)

    def _begin(self, job: ClaimedJob) -> None:
        """Run a job that is ours, in the place that is held for it."""
        size = job.held_bytes
        one = Running(job, size, closing="interrupted" if self._closed else None)
        self._open.add(one)
        self._on_begun(job)
        one.task = asyncio.create_task(self._run(one))
        one.task.add_done_callback(_ended)

    async def _run(self, one: Running) -> None:
        one.begun = True
        try:
            with self._caller.room(one.job.endpoint) as room:
                outcome = await self._caller.call(one, room)
                one.calling = False
                if (left := self._before_end(one.job.id)) is not None:
                    await left
                if one.stream is not None and one.stream.joined.count:
                    is_all = outcome.output is not None and outcome.output.blob is not None
                    await one.stream.end(is_kept=is_all or outcome.output is None, is_all=is_all)
                await self.stopper.end(one, outcome, self._caller.judge)
        finally:
            try:
                if one.spool is not None:
                    await one.spool.end()
            finally:
                self._open.remove(one)
                self._free(one.job.endpoint, one.input_bytes)

    async def _before(self, job: ClaimedJob, rules: EndpointRules) -> None:
        await self.stopper.before(job, rules)

    def _on_sent(self, one: Running) -> None:
        """Make room for other inputs: this one is out, however long its call lasts."""
        one.job.let_go()
        self._places.give_bytes(one.job.endpoint, one.input_bytes)
        one.input_bytes = 0
        self._claiming.on_room()

    def _free(self, endpoint: str, size: int) -> None:
        self._places.give(endpoint, size)
        self._empty_claims = 0
        self._claiming.on_room()


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _LOG.error("running a job failed", error=repr(task.exception()))
