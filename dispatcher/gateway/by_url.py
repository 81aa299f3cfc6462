"""Jobs that their upstreams end by URL: what such a request comes to, and what becomes of those
whose time is over without one. No process holds them; whoever is asked settles, under the claim."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Literal

from dispatcher.blobs.blobs import Blobs
from dispatcher.gateway.caller import SILENT
from dispatcher.gateway.endpoints import EndpointBook
from dispatcher.gateway.ends import UNKNOWN_RULES, Ends
from dispatcher.jobs import kinds
from dispatcher.jobs.blobs import INLINE_BYTES_MAX, CannotKeep
from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.judge import judge
from dispatcher.jobs.states import FINAL
from dispatcher.jobs.values import (
    CallOutcome,
    ClaimedJob,
    JobByUrl,
    JobSettlement,
    JobVerdict,
    Output,
)
from dispatcher.store.jobs.store import JobStore

OVER: Final = "it was not completed in time"
Told = Literal["completed", "failed"]
_CODES: Final[dict[Told, int]] = {"completed": 200, "failed": 500}
SLICE: Final = 100


class ByUrl:
    """Ends such jobs, through `ends`; `stop` has an upstream stop working for one."""

    def __init__(
        self,
        store: JobStore,
        book: EndpointBook,
        ends: Ends,
        stop: Callable[[ClaimedJob, EndpointRules], Awaitable[object]],
        blobs: Blobs,
        *,
        clock: Callable[[], int],
        chance: Callable[[], float],
    ) -> None:
        self._store = store
        self._book = book
        self._ends = ends
        self._stop = stop
        self._blobs = blobs
        self._clock = clock
        self._chance = chance

    async def running(self, job: str, claim: int) -> JobByUrl | None:
        """Return a job that runs under this claim, None where none does."""
        return await self._store.running(job, claim, now_ms=self._clock())

    def rules(self, endpoint: str) -> EndpointRules:
        """Return an endpoint's rules; those of nothing in particular where it was removed, or no
        key of ours opens them."""
        found = self._book.find(endpoint)
        rules = UNKNOWN_RULES if found is None or found.unopened is not None else found.rules
        return self._blobs.bounded(rules)

    async def complete(
        self, one: JobByUrl, told: Told, output: Output, *, verdict: JobVerdict | None = None
    ) -> None:
        """End a job as its upstream says (by `verdict`, where that is more than it says), unless it
        has ended, or runs anew: the first word counts. Where there is no room for its output, it
        has failed. Raises what the database does: then it may be said again."""
        spool = self._blobs.spool(one.job.id, one.job.tenant, "output")
        try:
            if output.size > INLINE_BYTES_MAX:
                spool.content_type = output.content_type
                await spool.write(output.body)
                output = replace(output, blob=await spool.finish())
            await self._complete(one, told, output, verdict)
        except CannotKeep as error:
            verdict = JobVerdict(state="failed", reason="storage", error=str(error))
            await self._complete(one, "failed", None, verdict)
        finally:
            await spool.end()

    async def _complete(
        self, one: JobByUrl, told: Told, output: Output | None, verdict: JobVerdict | None
    ) -> None:
        at_ms = self._clock()
        outcome = CallOutcome(
            kind="answered",
            sent=True,
            started_ms=one.called_ms,
            duration_ms=float(max(0, at_ms - one.called_ms)),
            status_code=_CODES[told],
            output=output,
        )
        if verdict is None and told == "failed":
            is_said = output is not None and output.size > 0
            error = None if is_said else "the upstream reported that it failed"
            verdict = JobVerdict(state="failed", reason="rejected", error=error)
        verdict = verdict or JobVerdict(state="completed")
        settlement = JobSettlement(
            job=one.job, outcome=outcome, verdict=verdict, random=self._chance(), now_ms=at_ms
        )
        await self._ends.record_once(settlement, self.rules(one.job.endpoint))

    async def look(self, *, limit: int = SLICE) -> bool:
        """End those whose run limit is over, and those that gave no sign of life for longer than
        their endpoints allow; returns whether there may be more."""
        late = await self._store.late_by_url(now_ms=self._clock(), limit=limit)
        await asyncio.gather(*map(self._look_at, late))
        return len(late) >= limit

    async def _look_at(self, one: JobByUrl) -> None:
        job, at_ms, rules = one.job, self._clock(), self.rules(one.job.endpoint)
        limit_ms = at_ms if one.limit_ms is None else one.limit_ms
        silent_ms = limit_ms
        if rules.heartbeat_timeout is not None:
            silent_ms = min(at_ms, one.sign_ms) + round(rules.heartbeat_timeout * 1000)
        look_ms = min(limit_ms, silent_ms)
        if look_ms > at_ms:
            await self._store.look_later(job.id, job.claim, look_ms=look_ms, now_ms=at_ms)
            return
        is_over = limit_ms <= at_ms
        outcome = CallOutcome(
            kind="timeout" if is_over else "silent",
            sent=True,
            started_ms=one.called_ms,
            duration_ms=float(max(0, at_ms - one.called_ms)),
            error=OVER if is_over else SILENT,
        )
        chance = self._chance()
        verdict = judge(outcome, job, rules, now_ms=at_ms, random=chance)
        to_stop, is_final = kinds.stops(rules), verdict.state in FINAL
        if to_stop and not is_final:
            await self._stop(job, rules)
        settlement = JobSettlement(
            job=job,
            outcome=outcome,
            verdict=verdict,
            random=chance,
            now_ms=at_ms,
            releasing=to_stop and is_final,  # whoever finds it next stops it
        )
        await self._ends.record(settlement, rules)
