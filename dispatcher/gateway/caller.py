"""One call of a claimed job, by its endpoint's rules of the moment: made, and judged. What keeps us
from making it, or from ending it, is our own fault (D21)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final, Protocol

from dispatcher.blobs.blobs import Blobs, Gone
from dispatcher.blobs.spool import Spool
from dispatcher.engine.faults import INTERNAL, Faults, stored_secret_pause_ms
from dispatcher.gateway.endpoints import EndpointBook
from dispatcher.gateway.ends import UNKNOWN_RULES
from dispatcher.gateway.open_calls import Running
from dispatcher.gateway.streams import Streams
from dispatcher.ids import spelled
from dispatcher.jobs.blobs import INLINE_BYTES_MAX, CannotKeep, Range
from dispatcher.jobs.chunks import Sink
from dispatcher.jobs.endpoint import Endpoint, EndpointRules, StopCall
from dispatcher.jobs.judge import deadline_ms, judge
from dispatcher.jobs.values import CallKind, CallOutcome, ClaimedJob, JobSettlement, JobVerdict
from dispatcher.outcome import INTERRUPTED
from dispatcher.sending.asking import Reply
from dispatcher.sending.kinds import read
from dispatcher.sending.request import Long, UpstreamCall, is_as_stored
from dispatcher.signing import STORED_SECRETS, Secrets
from dispatcher.store.errors import NotFound, StoreError
from receiver.base import log
from receiver.base.lack import OwnLack, lack_of

_LOG: Final = log.get("dispatcher.gateway")
_GONE: Final = JobVerdict(
    state="cancelled", reason="endpoint_removed", error="its endpoint was removed"
)
SILENT: Final = "the upstream gave no sign of life in time"
_DETAIL_CHARS_MAX: Final = 300
_LARGE_BYTES: Final = 16 * 1024  # of shorter inputs thousands fit into memory


class Upstream(Protocol):
    """Makes calls (`sending.upstream.Upstreams`)."""

    def room(self, endpoint: str) -> Any:
        """Return what a call holds in memory of its answer: a `with` block that lasts until its
        outcome is stored."""

    async def call(self, call: UpstreamCall, room: Any) -> CallOutcome:
        """Make one call, and say what it met. Whoever cancels its task meanwhile gets an outcome
        too, and the task goes on. Raises nothing that the upstream could cause."""

    async def stop(self, call: UpstreamCall, stop: StopCall, *, limit_s: float) -> Reply:
        """Have an upstream stop working for a call that was closed; return what it said. Raises
        nothing that the upstream could cause."""


class EndpointGone(Exception):
    """The endpoint was removed: what waited for it is being ended."""


class Caller:
    """Makes calls, each within the task of its job. `secrets` gives what those of an endpoint are
    signed with, `may_start` whether our beats let us begin anything, and `on_sent` is told of each
    large input that is out. `links` gives the URLs by which a call's upstream tells of it, until
    its deadline, and `stop` has an upstream stop that an earlier process may have called."""

    def __init__(
        self,
        upstream: Upstream,
        book: EndpointBook,
        secrets: Callable[[Endpoint], Awaitable[Secrets]],
        faults: Faults,
        streams: Streams,
        blobs: Blobs,
        may_start: Callable[[], bool],
        on_sent: Callable[[Running], None],
        clock: Callable[[], int],
        chance: Callable[[], float],
        monotonic_ms: Callable[[], int],
        links: Callable[[ClaimedJob, int], tuple[str, str] | None],
        stop: Callable[[ClaimedJob, EndpointRules], Awaitable[object]],
    ) -> None:
        self._stop = stop
        self._upstream = upstream
        self._book = book
        self._secrets = secrets
        self._faults = faults
        self._streams = streams
        self._blobs = blobs
        self._may_start = may_start
        self._on_sent = on_sent
        self._clock = clock
        self._chance = chance
        self._monotonic_ms = monotonic_ms
        self._links = links

    def room(self, endpoint: str) -> Any:
        """Return what a call holds in memory: see `Upstream.room`."""
        return self._upstream.room(endpoint)

    async def call(self, one: Running, room: Any) -> CallOutcome:
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
        if outcome.kind == "cancelled" and one.closing == "silent":
            return replace(outcome, kind="silent", error=SILENT)
        if outcome.kind == "cancelled" and one.closing != "cancelled":
            return replace(outcome, kind="interrupted", error=INTERRUPTED)
        return outcome

    async def _attempt(self, one: Running, room: Any) -> CallOutcome:
        job = one.job
        if job.unopened is not None:
            raise OwnLack(job.unopened.lack, job.unopened.message)
        endpoint = self._book.get(job.endpoint) or await self._sought(job.endpoint)
        rules = one.rules = self._blobs.bounded(endpoint.rules)
        if job.interruptions and one.closing is None:
            await self._stop(job, endpoint.rules)
        try:
            secrets = await self._secrets(endpoint)
        except NotFound:
            raise EndpointGone(job.endpoint) from None
        if one.closing is not None:  # before this task had begun
            return self._unmade("cancelled", self._clock())
        if not self._may_start():  # it may have taken long, or this process stood still
            raise OwnLack("time", "no beat of this process was recorded for too long")
        ends_ms = deadline_ms(job, endpoint.rules, self._clock())
        links = self._links(job, ends_ms) if endpoint.rules.progress else None
        progress_url, complete_url = (None, None) if links is None else links
        if links is None and endpoint.rules.kind == "cog":
            raise OwnLack("secrets", "there is no key for the URL that its end would be told to")
        one.sign_ms = self._monotonic_ms()
        one.spool = self._blobs.spool(job.id, job.tenant, "output")
        job, long = await self._input(job, rules)
        call = UpstreamCall(
            job=job,
            rules=rules,
            deadline_ms=ends_ms,
            progress_url=progress_url,
            complete_url=complete_url,
            secrets=secrets,
            on_sent=partial(self._on_sent, one) if one.input_bytes > _LARGE_BYTES else None,
            sink=self._sink(one),
            spool=one.spool if rules.kind == "http" else None,  # others are read whole
            long=long,
        )
        return await _kept(one.spool, read(rules, await self._upstream.call(call, room)))

    async def _input(self, job: ClaimedJob, rules: EndpointRules) -> tuple[ClaimedJob, Long | None]:
        """Return a job with its input, of a long one what reads it where it is kept; where it does
        not go out as it is, it has to be there whole. Raises OwnLack, and what the database
        does."""
        blob = job.blob
        if blob is None:
            return job, None
        try:
            if is_as_stored(job, rules.body):
                whole = Range(0, blob.size)
                return job, Long(blob.size, partial(self._blobs.stream, blob, whole))
            return replace(job, body=await self._blobs.whole(blob)), None
        except Gone:
            raise OwnLack("storage", "what its input is kept as is not there") from None

    def _sink(self, one: Running) -> Sink | None:
        """Return what takes an answer that comes in chunks; whoever waits for it on the same
        connection gets it as it is."""
        if one.job.options.sync:
            return None
        one.stream = self._streams.open(one.job)
        return one.stream

    async def _sought(self, name: str) -> Endpoint:
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
        detail = str(error) if isinstance(error, OwnLack) else repr(error)
        outcome = self._unmade("interrupted", started_ms)
        return replace(outcome, error=INTERRUPTED, detail=detail[:_DETAIL_CHARS_MAX], lack=lack)

    def _unmade(self, kind: CallKind, started_ms: int) -> CallOutcome:
        """Return what came of a call that was not made: nothing went out."""
        duration_ms = max(0, self._clock() - started_ms)
        return CallOutcome(kind=kind, sent=False, started_ms=started_ms, duration_ms=duration_ms)

    # --- what follows ---

    def judge(self, one: Running, outcome: CallOutcome) -> JobSettlement:
        """Return what follows from what a call met."""
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


async def _kept(spool: Spool, outcome: CallOutcome) -> CallOutcome:
    """Return what a call met, with its output where that is kept: on disk by now."""
    if outcome.output is None or outcome.kind not in ("answered", "broken_off"):
        return outcome
    try:
        if not spool.size and outcome.output.size > INLINE_BYTES_MAX:
            await spool.write(outcome.output.body)
        blob = await spool.finish()
    except CannotKeep as error:
        return replace(outcome, kind="no_room", output=None, error=str(error))
    if blob is None:
        return outcome
    return replace(outcome, output=replace(outcome.output, blob=blob))


def _go_on() -> None:
    """Take back a cancelling that was noticed."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
