"""An engine on a real store, with a sender whose answers the test decides."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dispatcher.engine.engine import Engine
from dispatcher.metrics import Metrics
from dispatcher.outcome import Outcome
from dispatcher.policy import Policy, dump
from dispatcher.settings import Settings
from dispatcher.signing import SecretCache, Secrets
from dispatcher.store import open_store
from dispatcher.store.database import StoreEvents
from dispatcher.store.requests import ClaimRequest
from dispatcher.store.store import Store
from dispatcher.values import Callback, Delivery, Submitted
from receiver.base.clock import monotonic_ms, now_ms
from tests.dispatcher.store.builders import TENANT, callback, outcome, secret

Send = Callable[[Delivery, Secrets], Awaitable[Outcome]]
QUICK = dump(Policy(attempts=3, delays=(0.15,), jitter=0))


@dataclass(slots=True)
class Script:
    """Sends nothing: remembers what it was given and answers as it is told."""

    codes: list[int] = field(default_factory=list)  # the next answers; then 200
    go: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[Delivery] = field(default_factory=list)
    at_ms: list[int] = field(default_factory=list)
    running: dict[str, int] = field(default_factory=dict)  # per tenant, now
    most: int = 0
    most_of_one: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.go.set()

    async def send(self, delivery: Delivery, secrets: Secrets) -> Outcome:
        assert secrets.current
        self.sent.append(delivery)
        self.at_ms.append(now_ms())
        self.running[delivery.tenant] = self.running.get(delivery.tenant, 0) + 1
        self.most = max(self.most, sum(self.running.values()))
        self.most_of_one = max(self.most_of_one, *self.running.values())
        async with self._changed:
            self._changed.notify_all()
        try:
            await self.go.wait()
            await asyncio.sleep(0)
        finally:
            self.running[delivery.tenant] -= 1
        return outcome(self.codes.pop(0) if self.codes else 200, now_ms=now_ms())

    async def reached(self, count: int) -> None:
        """Until so many attempts have begun."""
        async with asyncio.timeout(60), self._changed:
            await self._changed.wait_for(lambda: len(self.sent) >= count)

    def hold(self) -> None:
        """Answer nobody until `go` is set."""
        self.go.clear()


@dataclass(slots=True)
class Rig:
    """The engine and its surroundings."""

    settings: Settings
    store: Store
    engine: Engine
    script: Script
    metrics: Metrics
    claims: int = 0
    in_vain: int = -1  # attempts that were under way when the last claim brought nothing

    async def submit(self, job: str = "job-1", **more: Any) -> Submitted:
        return await self.engine.submit(callback(job, **{"now_ms": now_ms(), **more}))

    async def many(self, count: int, **more: Any) -> list[str]:
        """Ids of `count` submits that shared commits; `{n}` in url or tenant is their number."""

        def filled(n: int) -> dict[str, Any]:
            return {
                name: value.format(n=n) if name in ("url", "tenant") else value
                for name, value in more.items()
            }

        made = await asyncio.gather(*(self.submit(f"job-{n}", **filled(n)) for n in range(count)))
        return [one.id for one in made]

    async def get(self, one: str, tenant: str = TENANT) -> Callback:
        return await self.store.get(tenant, one)

    async def until(self, met: Callable[[], Awaitable[bool]]) -> None:
        """Until `met`, looked at after each commit or so."""
        async with asyncio.timeout(60):
            while not await met():  # noqa: ASYNC110  # several parts must agree: no one event
                await asyncio.sleep(0.005)

    async def woken(self) -> None:
        """Until the claim that every start begins with is over."""

        async def claimed() -> bool:
            return self.claims > 0 and not self.engine.in_flight

        await self.until(claimed)

    async def claimed_in_vain(self) -> None:
        """Until the engine has looked for more than what is under way now, and got none."""

        async def in_vain() -> bool:
            return self.in_vain == self.engine.in_flight

        await self.until(in_vain)

    async def idle(self) -> None:
        """Until nothing waits and nothing is under way."""

        async def nothing() -> bool:
            return not self.store.queued() and not self.engine.in_flight

        await self.until(nothing)

    def figure(self, name: str) -> float:
        """A metric's value."""
        for line in self.metrics.render().decode().splitlines():
            if line.startswith(name) and line[len(name)] in " {":
                return float(line.split()[-1])
        raise AssertionError(f"no metric {name}")


@asynccontextmanager
async def rigged(
    folder: Path,
    *,
    started: bool = True,
    send: Send | None = None,
    secrets: SecretCache | None = None,
    monotonic_ms: Callable[[], int] = monotonic_ms,
    **changes: Any,
) -> AsyncIterator[Rig]:
    """A running engine, drained in the end; `send` makes the attempts instead of the script, and
    `secrets` are there in place of the store's."""
    settings = Settings(
        database_url=f"sqlite:///{folder}/engine.db", **{"drain_grace": 0.1, **changes}
    )
    store = open_store(settings)
    script, metrics = Script(), Metrics()
    engine = Engine(
        settings,
        store,
        send or script.send,
        secrets or SecretCache(store.secrets),
        metrics,
        monotonic_ms=monotonic_ms,
    )
    await store.open(StoreEvents(on_ready=engine.on_ready))
    for tenant in (TENANT, *(f"t{n}" for n in range(8))):
        await store.ensure_tenant(tenant, secret(tenant))
    rig = Rig(settings=settings, store=store, engine=engine, script=script, metrics=metrics)
    claim = store.claim

    async def counted(claim_: ClaimRequest) -> list[Delivery]:
        rig.claims += 1
        found = await claim(claim_)
        rig.in_vain = rig.in_vain if found else engine.in_flight
        return found

    setattr(store, "claim", counted)  # noqa: B010  # to see that nothing polls
    if started:
        engine.start()
    try:
        yield rig
    finally:
        script.go.set()
        await engine.drain()
        await store.close()
