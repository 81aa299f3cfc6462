"""Recording how calls ended: settlements that are retried without end, places that are freed, and
the one line of log for each call."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from dispatcher.dialects.callbacks import callback_of
from dispatcher.dialects.snapshot import LinkTo
from dispatcher.engine.engine import Engine
from dispatcher.ids import new_id, spelled
from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.states import FINAL
from dispatcher.jobs.told import cost_of, end_of
from dispatcher.jobs.values import (
    CallOutcome,
    ClaimedJob,
    HeldJob,
    JobSettlement,
    JobVerdict,
    SettledJob,
)
from dispatcher.metrics import Metrics
from dispatcher.settings import Settings
from dispatcher.store.errors import StoreError
from dispatcher.store.jobs.store import JobStore
from dispatcher.values import NewCallback
from receiver.base import log

_LOG: Final = log.get("dispatcher.gateway")
_RETRY_S: Final = (0.05, 0.2, 1.0)  # then every second, until it is recorded
# An error that is not the store's may be one that what the upstream sent causes: after so many of
# them a result is recorded without its texts, after as many again without its output, and at last
# without its callback.
_ODD_ERRORS_MAX: Final = 3
_NOT_STORED: Final = "its output cannot be stored"
UNKNOWN_RULES: Final = EndpointRules(url="")
"""Of what was never read, since we lacked something before: nothing went out, so nothing of it says
what follows."""


class Ends:
    """Has the database know how calls ended, whatever that meets."""

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        deliveries: Engine,
        metrics: Metrics,
        clock: Callable[[], int],
        monotonic_ms: Callable[[], int],
        link: LinkTo,
    ) -> None:
        """`link` signs links to outputs."""
        self._link = link
        self._settings = settings
        self._store = store
        self._deliveries = deliveries
        self._metrics = metrics
        self._clock = clock
        self._monotonic_ms = monotonic_ms

    async def record(
        self,
        settlement: JobSettlement,
        rules: EndpointRules | None,
        *,
        if_gone: Callable[[], Awaitable[bool]] | None = None,
    ) -> bool:
        """Record the end of a call, by the rules that it was made by (None: it was not), and begin
        to deliver the callback that tells it. Where its claim had gone its place is free after
        `if_gone`, unless that says no. Return whether it was recorded."""
        rules = rules or UNKNOWN_RULES
        if rules.price_per_second and settlement.verdict.state in FINAL:
            cost = cost_of(rules, settlement.outcome.duration_ms)
            settlement = replace(settlement, cost=cost)
        settled = await self._settle(settlement, rules)
        job, outcome, verdict = settlement.job, settlement.outcome, settlement.verdict
        if not settled.recorded:
            self._late(job)
            if if_gone is None or await if_gone():
                await self.free(job)
            return False
        self._metrics.job_called(job.endpoint, outcome, verdict)
        if job.started_ms >= job.claimed_ms:  # the first call of this run
            self._metrics.job_waited(job.endpoint, (job.started_ms - job.queued_ms) / 1000)
        _LOG.info("call", **call_fields(job, outcome, verdict))
        return True

    async def record_once(self, settlement: JobSettlement, rules: EndpointRules) -> None:
        """Do the same, once: for who can be told that it failed, and say it again. Raises what the
        database does."""
        if rules.price_per_second:
            cost = cost_of(rules, settlement.outcome.duration_ms)
            settlement = replace(settlement, cost=cost)
        callback = self._callback(settlement, rules, new_id("cb", settlement.now_ms))
        settled = await self._settle_once(settlement, callback, handover=True)
        if settled.recorded and settled.state == settlement.verdict.state:
            job, outcome, verdict = settlement.job, settlement.outcome, settlement.verdict
            self._metrics.job_called(job.endpoint, outcome, verdict)
            _LOG.info("call", **call_fields(job, outcome, verdict))

    async def closed(self, job: ClaimedJob, outcome: CallOutcome) -> None:
        """Record that the call of a job has ended whose claim had gone: its place is free."""
        await self.free(job)
        if outcome.kind != "cancelled":  # it ended in the same moment
            self._late(job)
        _LOG.info("call", **call_fields(job, outcome, None))

    async def _settle(self, settlement: JobSettlement, rules: EndpointRules) -> SettledJob:
        """Retried without end, whatever it meets: an answer that the upstream gave must not be
        forgotten. Its callback has one id, however often it takes."""
        id = new_id("cb", settlement.now_ms)
        callback = self._callback(settlement, rules, id)
        waits, odd, handover = iter(_RETRY_S), 0, True
        while True:
            try:
                return await self._settle_once(settlement, callback, handover=handover)
            except StoreError as error:
                _LOG.warning(
                    "cannot settle a job yet",
                    id=_shown(settlement.job),
                    reason=str(error),
                )
            except Exception as error:
                odd += 1
                if odd <= _ODD_ERRORS_MAX:
                    _LOG.exception("settling a job failed", error, id=_shown(settlement.job))
                bare = _barer(settlement, odd)
                if bare is not settlement:
                    settlement, callback = bare, self._callback(bare, rules, id)
            handover = False  # its lease counts from when the callback was made
            await asyncio.sleep(next(waits, _RETRY_S[-1]))

    def _callback(
        self, settlement: JobSettlement, rules: EndpointRules, id: str
    ) -> NewCallback | None:
        """Return the callback that tells the end of a job, None where there is nothing to tell."""
        at_ms = settlement.now_ms
        end = end_of(settlement.verdict, settlement.outcome, rules, now_ms=at_ms)
        if end is None:
            return None
        try:
            return callback_of(
                settlement.job,
                end,
                id=id,
                now_ms=at_ms,
                inline_max=self._settings.inline_max,
                payload_max=self._settings.payload_bytes_max,
                public_url=self._settings.public_url or "",
                secret=settlement.job.secret,
                link=self._link,
            )
        except Exception as error:  # a job that ended must not run for ever
            _LOG.exception("the end of a job cannot be told", error, id=_shown(settlement.job))
            return None

    async def _settle_once(
        self, settlement: JobSettlement, callback: NewCallback | None, *, handover: bool
    ) -> SettledJob:
        """Settle, with a slot for the delivery of the callback, where it may go at once."""
        if callback is None or not handover:
            return await self._store.settle(settlement, callback=callback)
        tenant, size, high = callback.tenant, len(callback.body), callback.priority == "high"
        handover = self._deliveries.reserve(tenant, high=high, size=size)
        leased_ms = self._monotonic_ms() - max(0, self._clock() - callback.created_ms)
        delivery = None
        try:
            settled = await self._store.settle(settlement, callback=callback, handover=handover)
            delivery = settled.delivery
        finally:
            if handover and delivery is None:
                self._deliveries.free(tenant, high=high, size=size)
        if delivery is not None:
            self._deliveries.begin(delivery, leased_ms)
        return settled

    async def free(self, job: ClaimedJob | HeldJob) -> None:
        """Have the place of a job that was ended while it ran be free: its call has ended. As it
        was claimed, or as it is held since its end."""
        waits = iter(_RETRY_S)
        while True:
            try:
                await self._store.freed([job])
            except StoreError as error:
                _LOG.warning("cannot free a place yet", id=_shown(job), reason=str(error))
            except Exception as error:
                _LOG.exception("freeing a place failed", error, id=_shown(job))
            else:
                return
            await asyncio.sleep(next(waits, _RETRY_S[-1]))

    def _late(self, job: ClaimedJob) -> None:
        self._metrics.job_late()
        _LOG.warning("late result of an old claim", id=_shown(job), claim=job.claim)


def _shown(job: ClaimedJob | HeldJob) -> str:
    return spelled(job.id, "v1")


def _barer(settlement: JobSettlement, odd_errors: int) -> JobSettlement:
    """Return a settlement without what may be why it cannot be stored: first its texts, then its
    output, at last its callback."""
    job, outcome, verdict = settlement.job, settlement.outcome, settlement.verdict
    if odd_errors == _ODD_ERRORS_MAX:
        output = outcome.output and replace(outcome.output, headers=())
        outcome = replace(outcome, error=None, detail=None, output=output)
        return replace(settlement, outcome=outcome, verdict=replace(verdict, error=None))
    if odd_errors == 2 * _ODD_ERRORS_MAX and outcome.output is not None:
        if verdict.state in FINAL:
            verdict = JobVerdict(state="failed", reason="storage", error=_NOT_STORED)
        return replace(settlement, outcome=replace(outcome, output=None), verdict=verdict)
    if odd_errors == 3 * _ODD_ERRORS_MAX:
        job = replace(job, options=replace(job.options, callback=None))
        return replace(settlement, job=job)
    return settlement


def call_fields(
    job: ClaimedJob, outcome: CallOutcome, verdict: JobVerdict | None
) -> dict[str, Any]:
    """Return the fields of the one line that is written about each call; without a verdict its
    claim had gone: the job was cancelled, or taken over."""
    due_ms = None if verdict is None else verdict.due_ms
    ended_ms = outcome.started_ms + outcome.duration_ms
    return {
        "id": _shown(job),
        "tenant": job.tenant,
        "endpoint": job.endpoint,
        "run": job.run,
        "n": job.calls + outcome.sent,
        "outcome": outcome.kind,
        "statusCode": outcome.status_code,
        "durationMs": round(outcome.duration_ms, 1),
        "state": None if verdict is None else verdict.state,
        "dueInMs": None if due_ms is None else max(0, round(due_ms - ended_ms)),
        "reason": "claim_gone" if verdict is None else verdict.reason,
        "detail": outcome.detail,
    }
