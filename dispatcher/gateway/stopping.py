"""Stopping what upstreams still do for calls that have ended without them: they are told so where
their endpoints say how, and then the place rests for as long as those say. Until both are over the
place is taken, so that the next job does not meet a busy upstream.

Who had the call does it. What nobody does (its process died, or it was the upstream's to end it by
URL) is taken on by whichever process finds it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from dispatcher.gateway.caller import Upstream
from dispatcher.gateway.endpoints import EndpointBook
from dispatcher.gateway.ends import Ends
from dispatcher.gateway.open_calls import OpenCalls, Running
from dispatcher.ids import spelled
from dispatcher.jobs import kinds
from dispatcher.jobs.endpoint import Endpoint, EndpointRules, StopCall
from dispatcher.jobs.states import FINAL
from dispatcher.jobs.values import CallOutcome, ClaimedJob, HeldJob, JobSettlement
from dispatcher.metrics import Metrics, Stopped
from dispatcher.sending.asking import Reply
from dispatcher.sending.request import UpstreamCall
from dispatcher.signing import Secrets
from dispatcher.store.errors import StoreError
from dispatcher.store.jobs.store import JobStore
from receiver.base import log

_LOG: Final = log.get("dispatcher.gateway")
SLICE: Final = 100
_TRIES: Final = 3
_STOPPED_MAX: Final = 10_000
_RETRY_S: Final = 1.0
_LIMIT_S: Final = 10.0
_HURRIED_LIMIT_S: Final = 2.0  # while this process stops


class Stopper:
    """Stops upstreams, as `process`. `secrets` gives what requests to an endpoint's are signed
    with."""

    def __init__(
        self,
        store: JobStore,
        upstream: Upstream,
        book: EndpointBook,
        secrets: Callable[[Endpoint], Awaitable[Secrets]],
        open_calls: OpenCalls,
        ends: Ends,
        metrics: Metrics,
        process: str,
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._upstream = upstream
        self._book = book
        self._secrets = secrets
        self._open = open_calls
        self._ends = ends
        self._metrics = metrics
        self._process = process
        self._clock = clock
        self._stopped: set[tuple[str, int, int]] = set()  # after an interruption
        self._hurried = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def hurry(self) -> None:
        """Let no place rest any longer: this process stops. Another one does it anew."""
        self._hurried.set()

    def close(self) -> None:
        """Take nothing on any more."""
        if self._looking is not None:
            self._looking.cancel()

    # --- at the end of a call ---

    async def end(
        self,
        one: Running,
        outcome: CallOutcome,
        judge: Callable[[Running, CallOutcome], JobSettlement],
    ) -> None:
        """Record what a call met. An upstream that may still work for it is stopped: once the end
        is told, but before the job is called again."""
        job, rules = one.job, one.rules
        stops = rules is not None and kinds.stops(rules)
        # Also what a process that died had begun: the job may be cancelled before it is run again.
        cancelled = one.closing == "cancelled"
        to_stop = stops and (kinds.must_stop(outcome) or (cancelled and job.interruptions > 0))
        stop = None if rules is None else partial(self._stop_if_over, job, rules)
        if cancelled:
            if not to_stop or stop is None or await stop():
                await self._ends.closed(job, outcome)
            return
        settlement = judge(one, outcome)
        state = settlement.verdict.state
        if rules is None or not stops:
            await self._ends.record(settlement, rules)
            return
        releasing = to_stop and state in FINAL
        if to_stop and not releasing:
            await self.stop(job, rules)
        recorded = await self._ends.record(
            replace(settlement, releasing=releasing),
            rules,
            if_gone=stop if releasing or state == "running" else None,
        )
        if recorded and releasing and await self.stop(job, rules):
            await self._ends.free(HeldJob(job.id, job.claim, releasing=True))

    async def before(self, job: ClaimedJob, rules: EndpointRules) -> None:
        """Stop what an upstream may still do for a process that died, before it is called again:
        once, however often that is tried. A cog server takes the same call as the one that it
        has."""
        if kinds.stop_call(rules) is None or rules.kind == "cog":
            return
        interrupted = job.id, job.run, job.interruptions
        if interrupted in self._stopped:
            return
        if len(self._stopped) >= _STOPPED_MAX:
            self._stopped.clear()
        await self.stop(job, rules)
        self._stopped.add(interrupted)

    async def _stop_if_over(self, job: ClaimedJob, rules: EndpointRules) -> bool:
        """Stop the work for a job whose claim has gone, unless somebody else runs it by now."""
        return not await self._is_over(job) or await self.stop(job, rules)

    async def _is_over(self, job: ClaimedJob) -> bool:
        """Whether a job has ended, so that nobody else runs it: what another process has taken over
        is not ours to stop. Asked without end: a place depends on it."""
        while True:
            try:
                return job.id in await self._store.ended([job.id])
            except StoreError as error:
                _LOG.warning("cannot look whether a job has ended yet", reason=str(error))
            await asyncio.sleep(_RETRY_S)

    # --- stopping ---

    async def stop(self, job: ClaimedJob, rules: EndpointRules) -> bool:
        """Have an upstream stop working for a job, and let its place rest. False where this process
        stops meanwhile: then its place is not free."""
        stop = kinds.stop_call(rules)
        if stop is not None:
            await self._tell(job, rules, stop)
        if rules.cool_down <= 0:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(rules.cool_down):
                await self._hurried.wait()
        return not self._hurried.is_set()

    async def _tell(self, job: ClaimedJob, rules: EndpointRules, stop: StopCall) -> None:
        reply = Reply()
        for left in reversed(range(_TRIES)):
            reply = await self._ask(job, rules, stop)
            code = reply.status_code
            if code is not None and code < 500 and code != 429:
                break
            if not left or self._hurried.is_set():
                break
            await asyncio.sleep(_RETRY_S)
        result: Stopped = "stopped" if reply.is_well else "unknown"
        if reply.status_code is None or reply.status_code >= 500 or reply.status_code == 429:
            result = "failed"
        self._metrics.job_stopped(job.endpoint, result)
        write = _LOG.warning if result == "failed" else _LOG.info
        write(
            "an upstream was told to stop",
            id=spelled(job.id, "v1"),
            endpoint=job.endpoint,
            run=job.run,
            statusCode=reply.status_code,
            reason=reply.fault,
        )

    async def _ask(self, job: ClaimedJob, rules: EndpointRules, stop: StopCall) -> Reply:
        endpoint, secrets = self._book.find(job.endpoint), None
        if endpoint is not None:  # of one that was removed meanwhile nothing is left to sign with
            try:
                secrets = await self._secrets(endpoint)
            except Exception as error:  # whatever keeps us from signing keeps us from asking
                return Reply(fault=f"it cannot be signed: {error}")
        call = UpstreamCall(job=job, rules=rules, deadline_ms=0, secrets=secrets)
        limit_s = _HURRIED_LIMIT_S if self._hurried.is_set() else _LIMIT_S
        return await self._upstream.stop(call, stop, limit_s=limit_s)

    # --- what nobody stops ---

    def wake(self) -> None:
        """Look soon for what nobody stops, if any endpoint's is to be."""
        if self._looking is not None and not self._looking.done():
            return
        if any(kinds.stops(one.rules) for one in self._book.all()):
            self._looking = asyncio.create_task(self._look(), name="look-for-stops")

    async def _look(self) -> None:
        try:
            while await self.step():
                pass
        except StoreError as error:
            _LOG.warning("cannot look for what is to be stopped yet", reason=str(error))
        except Exception as error:
            _LOG.exception("looking for what is to be stopped failed", error)

    async def step(self) -> bool:
        """Take on a slice of what nobody stops; return whether there may be more."""
        if self._hurried.is_set():
            return False
        taken = await self._store.take_stops(self._process, now_ms=self._clock(), limit=SLICE)
        for job in taken:
            one = Running(job, 0, begun=True, calling=False)
            self._open.add(one)
            one.task = asyncio.create_task(self._take_on(one))
        return len(taken) >= SLICE

    async def _take_on(self, one: Running) -> None:
        try:
            endpoint = self._book.find(one.job.endpoint)
            rules = None if endpoint is None or endpoint.unopened is not None else endpoint.rules
            if rules is None or await self.stop(one.job, rules):
                await self._ends.free(HeldJob(one.job.id, one.job.claim, releasing=True))
        finally:
            self._open.remove(one)
