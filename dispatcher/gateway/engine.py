"""Running jobs: claim → call → judge → settle, for many at once, and an orderly end.

A job's rules are its endpoint's of the moment when its call is made. What ends a call before its
upstream does is one of two: its claim is no longer the current one, since somebody cancelled the
job or another process has taken it over; or this process stops. The place of a job that was
cancelled is free once its call has ended.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol, TypeVar

from dispatcher.audit import Entry
from dispatcher.engine.alarm import EMPTY_CLAIM_WAIT_MS, Alarm
from dispatcher.engine.engine import RECORD_S, Engine
from dispatcher.engine.faults import INTERNAL, Faults, stored_secret_pause_ms
from dispatcher.gateway.endpoints import EndpointBook
from dispatcher.gateway.ends import UNKNOWN_RULES, Ends
from dispatcher.gateway.places import Places
from dispatcher.ids import spelled
from dispatcher.jobs.endpoint import Endpoint, EndpointRules
from dispatcher.jobs.judge import deadline_ms, judge
from dispatcher.jobs.states import JobReason
from dispatcher.jobs.values import (
    CallKind,
    CallOutcome,
    ChangedJob,
    ClaimedJob,
    HeldJob,
    JobSettlement,
    JobVerdict,
    NewJob,
    SubmittedJob,
)
from dispatcher.metrics import Metrics
from dispatcher.outcome import INTERRUPTED
from dispatcher.sending.request import UpstreamCall
from dispatcher.settings import Settings
from dispatcher.signing import STORED_SECRETS, SecretMissing, Secrets
from dispatcher.store.errors import StoreError
from dispatcher.store.jobs.store import JobStore
from receiver.base import log
from receiver.base.clock import monotonic_ms, now_ms
from receiver.base.lack import OwnLack, lack_of

T = TypeVar("T")

_LOG: Final = log.get("dispatcher.gateway")
_CLAIM_RETRY_S: Final = 0.5
_EMPTY_WAIT_MS_MAX: Final = 320
_NO_BEAT_S: Final = 1.0
_GONE: Final = JobVerdict(
    state="cancelled", reason="endpoint_removed", error="its endpoint was removed"
)
_IDS_SHOWN: Final = 20
_ASKED_MAX: Final = 500  # claims in one question
_DETAIL_CHARS_MAX: Final = 300
_RANDOM: Final = random.Random()  # noqa: S311 - spreads retries; nothing is secret

Closing = Literal["cancelled", "interrupted"]
"""Why a call is closed before its upstream ends it: its claim has gone, or we stop."""


class Upstream(Protocol):
    """Makes calls (`sending.upstream.Upstreams`)."""

    def room(self, endpoint: str) -> Any:
        """Return what a call holds in memory of its answer: a `with` block that lasts until its
        outcome is stored."""

    async def call(self, call: UpstreamCall, room: Any) -> CallOutcome:
        """Make one call, and say what it met. Whoever cancels its task meanwhile gets an outcome
        too, and the task goes on. Raises nothing that the upstream could cause."""


@dataclass(slots=True, eq=False)
class Running:
    """A job that this process runs. `calling`: its call has not ended; `gone`: its endpoint was
    removed before it began."""

    job: ClaimedJob
    task: asyncio.Task[None] | None = None
    begun: bool = False
    calling: bool = True
    closing: Closing | None = None
    gone: bool = False
    rules: EndpointRules | None = field(default=None, repr=False)

    @property
    def is_calling(self) -> bool:
        """Whether its call is open, and nobody has closed it yet."""
        return self.calling and self.closing is None


class EndpointGone(Exception):
    """The endpoint was removed: what waited for it is being ended."""


class JobEngine:
    """Takes jobs on while places are free and sees each through to its settlement.

    `secrets` are what calls are signed with. `process` is who we are to the other processes on the
    database, and `may_start` whether our beats let us begin anything.
    """

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        upstream: Upstream,
        book: EndpointBook,
        secrets: Callable[[], Awaitable[Secrets | None]],
        deliveries: Engine,
        metrics: Metrics,
        *,
        process: str,
        may_start: Callable[[], bool] = lambda: True,
        clock: Callable[[], int] = now_ms,
        chance: Callable[[], float] = _RANDOM.random,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._book = book
        self._secrets = secrets
        self._process = process
        self._may_start = may_start
        self._clock = clock
        self._chance = chance
        self._monotonic_ms = monotonic_ms
        self._places = Places(settings.job_places, bytes_max=settings.job_bytes_max)
        self._faults = Faults(metrics, "we cannot run jobs: the fault is ours")
        self._ends = Ends(settings, store, deliveries, metrics, clock, monotonic_ms)
        self._alarm = Alarm()
        self._next_ready_ms: int | None = None
        self._empty_claims = 0  # in a row
        self._empty_until_ms = 0  # of the monotonic clock
        self._incoming: set[asyncio.Task[Any]] = set()
        self._astray: dict[HeldJob, int] = {}  # since when
        self._astray_ms = round(settings.job_lease * 1000)
        self._looking: set[asyncio.Task[None]] = set()
        self._running: dict[str, list[Running]] = {}  # by id; rarely with several claims of it
        self._claiming: asyncio.Task[None] | None = None
        self._closed = False  # what begins now is closed at once
        self.ready = False

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
        self._claiming = asyncio.create_task(self._claim_when_due(), name="job-claimer")
        self.ready = True
        self._alarm.ring()

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
        if self._claiming is not None:
            self._claiming.cancel()
            await asyncio.wait({self._claiming})
        recorded_s = ends_s + RECORD_S
        await _wait(self._incoming, recorded_s - clock())  # what they claim is ours to finish
        await _wait(self._tasks(), ends_s - clock())
        self._closed = True
        for one in self._all():
            self._close(one, "interrupted")
        await _wait(self._tasks(), recorded_s - clock())
        return await self._give_up()

    def _all(self) -> list[Running]:
        return [one for running in self._running.values() for one in running]

    def _tasks(self) -> set[asyncio.Task[None]]:
        return {one.task for one in self._all() if one.task is not None}

    async def _give_up(self) -> int:
        """Forget what could not be recorded, loudly; return how much."""
        left = self._all()
        tasks = self._tasks() | self._incoming
        for task in tasks:
            task.cancel()
        await _wait(tasks, RECORD_S)
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
        size = len(new.body)
        handover = self.ready and new.not_before_ms is None and not self._faults.until_ms
        handover = handover and self._may_start() and self._places.admits(new.endpoint, size)
        if handover:
            self._places.take(new.endpoint, size)
        # Shielded: a caller that goes away does not keep a claimed job from its call.
        return await asyncio.shield(self._track(self._submit(new, handover, size)))

    async def _submit(self, new: NewJob, handover: bool, size: int) -> SubmittedJob:
        claimed = None
        try:
            process = self._process if handover else None
            submitted = await self._store.submit(new, process=process)
            claimed = submitted.claimed
        finally:
            if handover and claimed is None:
                self._free(new.endpoint, size)
        if claimed is not None:
            self._begin(claimed)
        return submitted

    async def cancel(
        self, tenant: str, job: str, *, reason: JobReason = "user", entries: Sequence[Entry] = ()
    ) -> ChangedJob:
        """Cancel a job, told in the same commit; its call, wherever that is open, is closed. Not
        `changed` if it had ended. Raises NotFound."""
        return await self._store.cancel(
            tenant, job, reason=reason, now_ms=self._clock(), entries=entries
        )

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
        self._alarm.ring()

    def _track(self, entering: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that may begin jobs: a shutdown waits for it."""
        task = asyncio.create_task(entering)
        self._incoming.add(task)
        task.add_done_callback(self._tracked)
        return task

    def _tracked(self, task: asyncio.Task[Any]) -> None:
        self._incoming.discard(task)
        if not task.cancelled():
            task.exception()  # seen: the caller may have gone

    # --- what ends a call before its upstream does ---

    def on_ended(self, jobs: Collection[str]) -> None:
        """Look whether jobs that ended, or were taken from their process, are some whose calls are
        open here. What is told may be old news: only the database says which claims are current."""
        running = [one for job in jobs for one in self._running.get(job, ())]
        asked = [one for one in running if one.is_calling]
        if asked:
            task = asyncio.create_task(self._look_at(asked), name="look-at-claims")
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def look(self) -> None:
        """Compare what runs here with what the database says of it, in case that nobody could tell:
        close the calls of claims that are no longer ours, and hand back what we were given in a
        commit whose reply was lost."""
        known = [one for one in self._all() if one.is_calling]
        ours = await self._store.held(self._process)
        running = {(one.id, one.claim) for one in ours if not one.releasing}
        for one in known:
            if (one.job.id, one.job.claim) not in running:
                self._close(one, "cancelled")
        await self._disown([one for one in ours if one.id not in self._running])

    async def _disown(self, astray: Sequence[HeldJob]) -> None:
        """Hand back what is said to run here and does not, once that was so for a lease: the reply
        to a commit may be on its way for long."""
        at_ms = self._monotonic_ms()
        self._astray = {one: self._astray.get(one, at_ms) for one in astray}
        left = [one for one, since_ms in self._astray.items() if at_ms - since_ms > self._astray_ms]
        if left:
            _LOG.warning("jobs were given to us that we do not know: handed back", jobs=len(left))
            await self._store.disown(left, now_ms=self._clock())

    async def _look_at(self, asked: Sequence[Running]) -> None:
        for at in range(0, len(asked), _ASKED_MAX):
            part = asked[at : at + _ASKED_MAX]
            try:
                current = await self._store.current([(one.job.id, one.job.claim) for one in part])
            except StoreError as error:
                _LOG.warning("cannot look at claims: will try again", reason=str(error))
                return
            for one in part:
                if (one.job.id, one.job.claim) not in current:
                    self._close(one, "cancelled")

    def _close(self, one: Running, why: Closing) -> None:
        if one.is_calling:
            one.closing = why
            if one.begun and one.task is not None:
                one.task.cancel()

    # --- claiming ---

    def on_ready(self, next_ready_ms: int | None) -> None:
        """Take over when the store's next job may start."""
        self._next_ready_ms = next_ready_ms
        self._arm()

    def _arm(self) -> None:
        if self._next_ready_ms is None or self._places.free <= 0:
            self._alarm.set(None)
            return
        wait_ms = self._next_ready_ms - self._clock()
        if self._empty_until_ms:
            wait_ms = max(wait_ms, self._empty_until_ms - self._monotonic_ms())
        if self._faults.until_ms:
            wait_ms = max(wait_ms, self._faults.until_ms - self._monotonic_ms())
        self._alarm.set(wait_ms / 1000)

    async def _claim_when_due(self) -> None:
        while True:
            await self._alarm.wait()
            if self._places.free <= 0:
                continue
            if not self._may_start():
                self._alarm.set(_NO_BEAT_S)
                continue
            try:
                await asyncio.shield(self._track(self._claim()))
            except StoreError as error:
                _LOG.warning("cannot claim jobs", reason=str(error))
                self._alarm.set(_CLAIM_RETRY_S)
            except Exception:
                # Loud, but no reason for everything else that waits to be stuck (I2).
                _LOG.exception("claiming jobs failed")
                self._alarm.set(_CLAIM_RETRY_S)

    async def _claim(self) -> None:
        probes = self._faults.probes(self._monotonic_ms())
        request = self._places.ask(self._process, self._clock(), places_max=probes)
        try:
            jobs = await self._store.claim(request)
        finally:
            self._places.answered()
        for job in jobs:
            self._places.take(job.endpoint, len(job.body))
            self._begin(job)
        self._empty_claims = 0 if jobs else self._empty_claims + 1
        # Longer each time: what waits may be an endpoint's that leaves the last places to others,
        # for as long as its calls last.
        wait_ms = min(EMPTY_CLAIM_WAIT_MS << min(self._empty_claims, 8), _EMPTY_WAIT_MS_MAX)
        self._empty_until_ms = 0 if jobs else self._monotonic_ms() + wait_ms
        self._arm()

    # --- running ---

    def _begin(self, job: ClaimedJob) -> None:
        """Run a job that is ours, in the place that is held for it."""
        one = Running(job, closing="interrupted" if self._closed else None)
        self._running.setdefault(job.id, []).append(one)
        one.task = asyncio.create_task(self._run(one))
        one.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("running a job failed", error=repr(task.exception()))

    async def _run(self, one: Running) -> None:
        one.begun = True
        try:
            with self._upstream.room(one.job.endpoint) as room:
                outcome = await self._call(one, room)
                one.calling = False
                if one.closing == "cancelled":
                    await self._ends.closed(one.job, outcome)
                else:
                    await self._ends.record(self._judge(one, outcome), one.rules)
        finally:
            self._forget(one)

    async def _call(self, one: Running, room: Any) -> CallOutcome:
        """Return what a call met; that we could not make it, or not end it, is ours (D21)."""
        started_ms = self._clock()
        try:
            outcome = await self._attempt(one, room)
        except asyncio.CancelledError:
            if one.closing is None:
                raise  # given up
            _go_on()
            outcome = self._unmade("cancelled", started_ms)
        except EndpointGone:
            one.gone = True
            return self._unmade("cancelled", started_ms)
        except Exception as error:
            outcome = self._own_fault(one, error, started_ms)
        if outcome.kind == "cancelled" and one.closing != "cancelled":
            return replace(outcome, kind="interrupted", error=INTERRUPTED)
        return outcome

    async def _attempt(self, one: Running, room: Any) -> CallOutcome:
        job = one.job
        if job.unopened is not None:
            raise OwnLack(job.unopened.lack, job.unopened.message)
        endpoint = await self._endpoint(job.endpoint)
        one.rules = endpoint.rules
        secrets = await self._secrets()
        if one.closing is not None:  # before this task had begun
            return self._unmade("cancelled", self._clock())
        if not self._may_start():  # it may have taken long, or this process stood still
            raise OwnLack("time", "no beat of this process was recorded for too long")
        call = UpstreamCall(
            job=job,
            rules=endpoint.rules,
            deadline_ms=deadline_ms(job, endpoint.rules, self._clock()),
            secrets=secrets,
        )
        return await self._upstream.call(call, room)

    async def _endpoint(self, name: str) -> Endpoint:
        endpoint = self._book.get(name)
        if endpoint is None:
            await self._book.reload()
            endpoint = self._book.get(name)
        if endpoint is None:
            raise EndpointGone(name)
        return endpoint

    def _own_fault(self, one: Running, error: Exception, started_ms: int) -> CallOutcome:
        lack = lack_of(error) or INTERNAL
        if isinstance(error, StoreError):
            lack = "secrets"
        elif lack == INTERNAL:
            _LOG.exception("running a job failed", error, id=spelled(one.job.id, "v1"))
        shown, detail = INTERRUPTED, str(error) if isinstance(error, OwnLack) else repr(error)
        if isinstance(error, SecretMissing):
            shown, detail = str(error), error.detail
        outcome = self._unmade("interrupted", started_ms)
        return replace(outcome, error=shown, detail=detail[:_DETAIL_CHARS_MAX], lack=lack)

    def _unmade(self, kind: CallKind, started_ms: int) -> CallOutcome:
        """Return what came of a call that was not made: nothing went out."""
        duration_ms = max(0, self._clock() - started_ms)
        return CallOutcome(kind=kind, sent=False, started_ms=started_ms, duration_ms=duration_ms)

    # --- the end of a call ---

    def _judge(self, one: Running, outcome: CallOutcome) -> JobSettlement:
        job, at_ms, chance = one.job, self._clock(), self._chance()
        if one.gone:
            verdict = _GONE
        else:
            rules = one.rules or UNKNOWN_RULES
            verdict = judge(outcome, job, rules, now_ms=at_ms, random=chance)
            verdict = self._after_fault(job, outcome, verdict, at_ms, chance)
        return JobSettlement(job=job, outcome=outcome, verdict=verdict, random=chance, now_ms=at_ms)

    def _after_fault(
        self, job: ClaimedJob, outcome: CallOutcome, verdict: JobVerdict, at_ms: int, chance: float
    ) -> JobVerdict:
        """Return when a job is due again that we could not run for want of something of ours: later
        with each such fault in a row."""
        if outcome.lack is None:
            if outcome.kind != "interrupted":
                self._faults.none()
            return verdict
        pause_ms = self._faults.pause_ms(
            outcome.lack, outcome.detail, chance=chance, monotonic_ms=self._monotonic_ms()
        )
        if verdict.due_ms is None:
            return verdict
        if outcome.lack == STORED_SECRETS:  # until somebody stores it, however many wait
            pause_ms = max(pause_ms, stored_secret_pause_ms(job.claim, chance))
        return replace(verdict, due_ms=max(verdict.due_ms, at_ms + pause_ms))

    def _forget(self, one: Running) -> None:
        running = self._running[one.job.id]
        running.remove(one)
        if not running:
            del self._running[one.job.id]
        self._free(one.job.endpoint, len(one.job.body))

    def _free(self, endpoint: str, size: int) -> None:
        self._places.give(endpoint, size)
        self._empty_until_ms = self._empty_claims = 0
        self._arm()


def _go_on() -> None:
    """Take back a cancelling that was noticed."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


async def _wait(tasks: Collection[asyncio.Task[Any]], timeout_s: float) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=max(0.0, timeout_s))
