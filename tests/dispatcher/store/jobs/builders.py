"""What the tests of jobs are made of: endpoints, jobs, what calls met, and the verbs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from dispatcher.ids import destination_id, job_content, job_key, lane_id, new_job_id
from dispatcher.jobs.endpoint import Endpoint, EndpointRules, dump_rules
from dispatcher.jobs.values import (
    CallbackTarget,
    ClaimedJob,
    Dialect,
    Job,
    JobClaimRequest,
    JobOptions,
    JobPriority,
    NewJob,
    SubmittedJob,
)
from tests.dispatcher.store.builders import PLENTY, T0, TENANT, URL, World

EP: Final = "ep"
PROCESS: Final = "process-1"


def endpoint(name: str = EP, **rules: Any) -> Endpoint:
    """An endpoint with these rules."""
    fields = EndpointRules(url="http://127.0.0.1:9000/run", **rules)
    return Endpoint(name=name, rules=fields, text=dump_rules(fields), created_ms=T0, updated_ms=T0)


def target(
    url: str | None = URL, *, tenant: str = TENANT, name: str | None = None
) -> CallbackTarget:
    """Where an end is told."""
    where = destination_id(tenant, name=name, url=url)
    return CallbackTarget(
        url=None if name else url,
        destination_name=name,
        destination=where,
        lane=where if name or url is None else lane_id(tenant, url),
        headers=(),
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
        tags=tags,
        key=None if key is None else job_key(tenant, key),
        content=job_content(at, None, url, digest, "application/json"),
        created_ms=now_ms,
        not_before_ms=not_before_ms,
        expires_ms=now_ms + round(queue_s * 1000),
    )


@dataclass(slots=True)
class Jobs:
    """The verbs of jobs in a world, by its clock."""

    world: World
    process: str = PROCESS
    told: list[str] = field(default_factory=list)

    async def endpoint(self, name: str = EP, **rules: Any) -> Endpoint:
        """Make one."""
        return await self.world.store.jobs.put_endpoint(
            endpoint(name, **rules), create=True, now_ms=self.world.now_ms
        )

    async def submit(
        self, body: bytes = b'{"prompt":"a"}', *, handover: bool = False, **more: Any
    ) -> SubmittedJob:
        new = job(body, **{"now_ms": self.world.now_ms, **more})
        return await self.world.store.jobs.submit(new, process=self.process if handover else None)

    async def many(self, count: int, **more: Any) -> list[str]:
        """Ids of `count` queued jobs, in order."""
        return [(await self.submit(**more)).id for _ in range(count)]

    async def claim(
        self, places: int = 100, *, process: str | None = None, bytes_free: int = PLENTY
    ) -> list[ClaimedJob]:
        request = JobClaimRequest(
            process=process or self.process,
            places=places,
            bytes_free=bytes_free,
            now_ms=self.world.now_ms,
        )
        return await self.world.store.jobs.claim(request)

    async def get(self, id: str, tenant: str = TENANT, **more: Any) -> Job:
        return await self.world.store.jobs.get(tenant, id, **more)

    async def states(self, ids: Sequence[str], tenant: str = TENANT) -> list[str]:
        return [(await self.get(one, tenant)).state for one in ids]
