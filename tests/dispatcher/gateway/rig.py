"""A real service with the gateway, real upstreams that do as they are told, and a receiver that
checks what it gets."""

import asyncio
import time
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import Any, Final

from aiohttp import web

from dispatcher.app import Service
from dispatcher.jobs.endpoint import Endpoint, EndpointRules, RetryWaits, dump_rules
from dispatcher.jobs.values import CallbackTarget, Job, NewJob, SubmittedJob
from dispatcher.settings import Settings
from receiver.base.clock import now_ms
from receiver.signature import verify
from tests.dispatcher.store.jobs import builders

ADMIN_KEY: Final = "test-admin-key-of-the-gateway"
SECRET: Final = "whsec_dGVzdC1zZWNyZXQtb2YtdGhpcnR5LXR3by1ieXRlcyE="
KEYS: Final = f"k1:{b64encode(bytes(range(32))).decode()}"
TENANT: Final = "default"
PATIENCE_S: Final = 60.0


@dataclass(slots=True)
class Upstream:
    """A model server: holds calls while it is told to, and sees whether they are closed."""

    url: str = ""
    status: int = 200
    body: bytes = b'{"answer":42}'
    headers: dict[str, str] = field(default_factory=dict)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    open: int = 0
    most: int = 0
    closed: int = 0  # by us, before they were answered
    by_job: Counter[str] = field(default_factory=Counter)
    slow_to_close: asyncio.Event | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.go.set()

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.calls.append(({k.lower(): v for k, v in request.headers.items()}, body))
        self.by_job[request.headers["X-Job-Id"]] += 1
        self.open += 1
        self.most = max(self.most, self.open)
        await self._tell()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.closed += 1
            raise
        finally:
            self.open -= 1
            await self._tell()
        return web.Response(
            status=self.status,
            body=self.body,
            headers={"Content-Type": "application/json", **self.headers},
        )

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, met: Callable[["Upstream"], bool]) -> None:
        """Until it is as `met` says."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: met(self))

    async def reached(self, count: int) -> None:
        """Until so many calls have come."""
        await self.until(lambda one: len(one.calls) >= count)


@dataclass(slots=True)
class Sink:
    """A customer: verifies each callback, and keeps it."""

    url: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        verify(body, dict(request.headers), SECRET, now_s=time.time())
        self.got.append(({k.lower(): v for k, v in request.headers.items()}, body))
        async with self._changed:
            self._changed.notify_all()
        return web.Response()

    async def received(self, count: int) -> list[tuple[dict[str, str], bytes]]:
        """What came, once that is so many."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(lambda: len(self.got) >= count)
        return self.got


@asynccontextmanager
async def served(take: Any) -> AsyncIterator[str]:
    """A server on loopback, for every path."""
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_route("*", "/{tail:.*}", take)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def upstream(**fields: Any) -> AsyncIterator[Upstream]:
    """A running upstream."""
    made = Upstream(**fields)
    async with served(made.take) as url:
        made.url = f"{url}/run"
        yield made
        made.go.set()


@asynccontextmanager
async def sink() -> AsyncIterator[Sink]:
    """A running customer."""
    made = Sink()
    async with served(made.take) as url:
        made.url = f"{url}/hook"
        yield made


def settings_of(database_url: str, **changes: Any) -> Settings:
    """Settings for a gateway on this machine."""
    given: dict[str, Any] = {
        "admin_key": ADMIN_KEY,
        "signing_secret": SECRET,
        "encryption_keys": KEYS,
        "allow_networks": (ip_network("127.0.0.0/8"),),
        "drain_grace": 5.0,
        "job_drain": 0.2,
        "job_lease": 15.0,
        "sweep_interval": 0.1,
    }
    return Settings(database_url=database_url, **given | changes)


@dataclass(slots=True)
class World:
    """A service, and what tests do with it."""

    service: Service

    async def endpoint(self, url: str, name: str = "ep", **rules: Any) -> Endpoint:
        """Make an endpoint, known to this process when this returns."""
        if "retry" in rules:
            rules["retry"] = RetryWaits(**rules["retry"])
        made = EndpointRules(url=url, **rules)
        at_ms = now_ms()
        stored = await self.service.store.jobs.put_endpoint(
            Endpoint(
                name=name, rules=made, text=dump_rules(made), created_ms=at_ms, updated_ms=at_ms
            ),
            create=True,
            now_ms=at_ms,
        )
        await self.service.gateway.book.reload()
        return stored

    async def change(self, before: Endpoint, **rules: Any) -> Endpoint:
        """Change an endpoint, known to this process when this returns."""
        changed = replace(before.rules, **rules)
        stored = await self.service.store.jobs.put_endpoint(
            replace(before, rules=changed, text=dump_rules(changed)), create=False, now_ms=now_ms()
        )
        await self.service.gateway.book.reload()
        return stored

    def job(self, body: bytes = b'{"prompt":"a"}', **more: Any) -> NewJob:
        return builders.job(body, **{"now_ms": now_ms(), "tenant": TENANT, **more})

    async def submit(self, body: bytes = b'{"prompt":"a"}', **more: Any) -> SubmittedJob:
        return await self.service.gateway.engine.submit(self.job(body, **more))

    async def get(self, id: str, tenant: str = TENANT, **more: Any) -> Job:
        return await self.service.store.jobs.get(tenant, id, **more)

    async def until(self, met: Callable[[], Any]) -> None:
        """Until `met`, looked at now and then: several parts must agree."""
        async with asyncio.timeout(PATIENCE_S):
            while not await met():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def until_state(self, id: str, *states: str, tenant: str = TENANT) -> Job:
        """The job, once it is in one of these states."""

        async def is_in() -> bool:
            return (await self.get(id, tenant)).state in states

        await self.until(is_in)
        return await self.get(id, tenant)

    async def until_idle(self) -> None:
        """Until no job runs here."""

        async def is_idle() -> bool:
            return not self.service.gateway.engine.running

        await self.until(is_idle)

    def figure(self, name: str, **labels: str) -> float:
        """A metric's value: the sum of all that have these labels."""
        starts = f"dispatcher_{name} ", f"dispatcher_{name}{{"
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = self.service.metrics.render().decode().splitlines()
        found = [one for one in lines if one.startswith(starts) and all(w in one for w in wanted)]
        return sum(float(one.split()[-1]) for one in found)


@asynccontextmanager
async def running(database_url: str, **changes: Any) -> AsyncIterator[World]:
    """A service that runs jobs."""
    async with Service(settings_of(database_url, **changes)) as service:
        await service.access.ensure_tenant(TENANT)
        yield World(service)


def told_at(sink: Sink, *, tenant: str = TENANT) -> CallbackTarget:
    """Where a job's end is told."""
    return builders.target(sink.url, tenant=tenant)


def spelled(ids: Collection[str]) -> set[str]:
    """Ids as upstreams get them."""
    return {f"job_{one}" for one in ids}
