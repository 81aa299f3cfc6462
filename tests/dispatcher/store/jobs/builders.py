"""What the tests of jobs are made of: endpoints, jobs, what calls met, and the verbs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from dispatcher.dialects.callbacks import callback_of
from dispatcher.filters import Filter
from dispatcher.ids import destination_id, job_content, job_key, lane_id, new_id, new_job_id
from dispatcher.jobs.endpoint import Endpoint, EndpointRules, dump_rules
from dispatcher.jobs.judge import judge
from dispatcher.jobs.told import end_of
from dispatcher.jobs.values import (
    CallbackTarget,
    CallKind,
    CallOutcome,
    ChangedJob,
    ClaimedJob,
    Dialect,
    Job,
    JobClaimRequest,
    JobOptions,
    JobPriority,
    JobSettlement,
    JobVerdict,
    NewJob,
    Output,
    RunningLimits,
    SettledJob,
    SubmittedJob,
)
from dispatcher.store.jobs.store import JobStore
from dispatcher.values import Callback, Headers
from tests.dispatcher.store.builders import PLENTY, T0, TENANT, URL, World

EP: Final = "ep"
PROCESS: Final = "process-1"


def endpoint(name: str = EP, **rules: Any) -> Endpoint:
    """An endpoint with these rules."""
    fields = EndpointRules(url="http://127.0.0.1:9000/run", **rules)
    return Endpoint(name=name, rules=fields, text=dump_rules(fields), created_ms=T0, updated_ms=T0)


def target(
    url: str | None = URL,
    *,
    tenant: str = TENANT,
    name: str | None = None,
    headers: Headers = (),
) -> CallbackTarget:
    """Where an end is told."""
    where = destination_id(tenant, name=name, url=url)
    return CallbackTarget(
        url=None if name else url,
        destination_name=name,
        destination=where,
        lane=where if name or url is None else lane_id(tenant, url),
        headers=headers,
    )


def job(
    body: bytes = b'{"prompt":"a"}',
    *,
    tenant: str = TENANT,
    at: str = EP,
    priority: JobPriority = "normal",
    key: str | None = None,
    dialect: Dialect = "v1",
    callback: CallbackTarget | None = None,
    now_ms: int = T0,
    not_before_ms: int | None = None,
    queue_s: float = 86_400.0,
    tags: tuple[tuple[str, str], ...] = (),
    secret: str | None = None,
    **options: Any,
) -> NewJob:
    """A submit as the API builds it."""
    digest = sha256(body).digest()
    url = None if callback is None else callback.url
    return NewJob(
        id=new_job_id(now_ms),
        tenant=tenant,
        endpoint=at,
        dialect=dialect,
        priority=priority,
        body=body,
        content_type="application/json",
        options=JobOptions(callback=callback, **options),
        secret=secret,
        tags=tags,
        key=None if key is None else job_key(tenant, key),
        content=job_content(at, None, url, digest, "application/json"),
        created_ms=now_ms,
        not_before_ms=not_before_ms,
        expires_ms=now_ms + round(queue_s * 1000),
    )


def outcome(
    code: int | None = 200,
    *,
    kind: CallKind = "answered",
    body: bytes | None = b'{"image":"b"}',
    now_ms: int = T0,
    sent: bool = True,
    retry_after_ms: int | None = None,
) -> CallOutcome:
    """What a call met."""
    answered = kind == "answered"
    return CallOutcome(
        kind=kind,
        sent=sent,
        started_ms=now_ms,
        duration_ms=5.0,
        status_code=code if answered else None,
        output=Output(body=body, content_type="application/json") if answered and body else None,
        error=None if answered else kind,
        retry_after_ms=retry_after_ms,
    )


@dataclass(slots=True)
class Jobs:
    """The verbs of jobs in a world, by its clock."""

    world: World
    process: str = PROCESS
    rules: dict[str, EndpointRules] = field(default_factory=dict)
    beating: set[str] = field(default_factory=set)

    @property
    def store(self) -> JobStore:
        return self.world.store.jobs

    async def endpoint(self, name: str = EP, **rules: Any) -> Endpoint:
        """Make one."""
        made = await self.store.put_endpoint(
            endpoint(name, **rules), create=True, now_ms=self.world.now_ms
        )
        self.rules[name] = made.rules
        return made

    async def change(self, name: str = EP, **rules: Any) -> Endpoint:
        """Write one anew."""
        changed = await self.store.put_endpoint(
            endpoint(name, **rules), create=False, now_ms=self.world.now_ms
        )
        self.rules[name] = changed.rules
        return changed

    async def known(self, process: str) -> None:
        """Have a process be known by its beats."""
        if process not in self.beating:
            self.beating.add(process)
            await self.store.beat(process, begins=True, now_ms=self.world.now_ms)

    async def submit(
        self,
        body: bytes = b'{"prompt":"a"}',
        *,
        handover: bool = False,
        running_max: int | None = None,
        **more: Any,
    ) -> SubmittedJob:
        if handover:
            await self.known(self.process)
        new = job(body, **{"now_ms": self.world.now_ms, **more})
        process = self.process if handover else None
        return await self.store.submit(new, process=process, running_max=running_max)

    async def many(self, count: int, **more: Any) -> list[str]:
        """Ids of `count` queued jobs, in order."""
        return [(await self.submit(**more)).id for _ in range(count)]

    async def claim(
        self,
        places: int = 100,
        *,
        process: str | None = None,
        bytes_free: int = PLENTY,
        limits: RunningLimits | None = None,
    ) -> list[ClaimedJob]:
        await self.known(process or self.process)
        request = JobClaimRequest(
            process=process or self.process,
            places=places,
            places_max=places,
            bytes_free=bytes_free,
            bytes_max=PLENTY,
            part=0.0,  # nothing stays for others
            limits=limits,
            now_ms=self.world.now_ms,
        )
        return await self.store.claim(request)

    async def one(self, **more: Any) -> ClaimedJob:
        """Claim exactly one."""
        (claimed,) = await self.claim(1, **more)
        return claimed

    async def leaves(self, process: str) -> None:
        """Have a process be forgotten, whatever it runs."""
        self.beating.discard(process)
        await self.store.leave(process)

    async def settle(
        self,
        claimed: ClaimedJob,
        met: CallOutcome | None = None,
        verdict: JobVerdict | None = None,
        *,
        handover: bool = False,
    ) -> SettledJob:
        """Settle as the engine does: by what the call met, unless another verdict is given."""
        met = met or outcome(now_ms=self.world.now_ms)
        rules = self.rules[claimed.endpoint]
        now_ms = self.world.now_ms
        verdict = verdict or judge(met, claimed, rules, now_ms=now_ms, random=0.5)
        settlement = JobSettlement(
            job=claimed,
            outcome=met,
            verdict=verdict,
            random=0.5,
            now_ms=now_ms,
        )
        end = end_of(verdict, met, rules, now_ms=now_ms)
        told = None
        if end is not None:
            told = callback_of(
                claimed,
                end,
                id=new_id("cb", now_ms),
                now_ms=now_ms,
                inline_max=256 * 1024,
                public_url="http://127.0.0.1:8600",
                secret=claimed.secret,
            )
        return await self.store.settle(settlement, callback=told, handover=handover)

    async def cancel(self, id: str, tenant: str = TENANT, **more: Any) -> ChangedJob:
        return await self.store.cancel(tenant, id, now_ms=self.world.now_ms, **more)

    async def retry(self, id: str, tenant: str = TENANT, **more: Any) -> ChangedJob:
        return await self.store.retry(tenant, id, now_ms=self.world.now_ms, **more)

    async def purged(self, *, limit: int = 10) -> list[int]:
        """End all that was purged, or waits for a removed endpoint; returns how many each slice
        ended."""
        ended = []
        while True:
            done = await self.store.end_purged(now_ms=self.world.now_ms, limit=limit)
            ended.append(done.ended)
            if not done.more:
                return ended

    async def told(self) -> int:
        """Tell what could not be told; returns how many ends."""
        return await self.store.tell_untold(now_ms=self.world.now_ms, limit=200)

    async def get(self, id: str, tenant: str = TENANT, **more: Any) -> Job:
        return await self.store.get(tenant, id, **more)

    async def states(self, ids: Sequence[str], tenant: str = TENANT) -> list[str]:
        return [(await self.get(one, tenant)).state for one in ids]

    async def callbacks(self, tenant: str = TENANT, **wanted: Any) -> list[Callback]:
        """The callbacks that there are, oldest first."""
        page = await self.world.store.search(tenant, Filter(**wanted), after=None, limit=500)
        return sorted(page.callbacks, key=lambda one: one.id)
