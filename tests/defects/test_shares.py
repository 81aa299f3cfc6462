"""What one tenant holds for long leaves room for the next: slots, bytes in memory, test callbacks.

Against services on both databases, with destinations that take a request and never answer (I6).
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.settings import Settings
from dispatcher.store.requests import ClaimRequest
from dispatcher.values import Delivery
from tests.dispatcher.api.talk import ADMIN_KEY, connect
from tests.dispatcher.peers import OK, Behaviour, Peer, listening, silent
from tests.dispatcher.postgres import folders

# Whoever waits for a silent attempt to end waits longer than any test.
PATIENT = {"attempts": 1, "timeout": 60}
MIB = 1 << 20


@dataclass
class Running:
    """A service, and whether it found nothing more that it may claim."""

    service: Service
    in_vain: asyncio.Event = field(default_factory=asyncio.Event)

    def client(self, tenant: str) -> httpx.AsyncClient:
        return connect(self.service, ADMIN_KEY, **{"Postback-Tenant": tenant})

    async def settled(self, least: int) -> None:
        """Until all slots are taken, or at least so many and none of the rest may be."""
        async with asyncio.timeout(60):
            while self.sending < self.service.settings.slots:
                self.in_vain.clear()
                vain = asyncio.create_task(self.in_vain.wait())
                await asyncio.wait({vain}, timeout=0.2)
                if not vain.cancel() and self.sending >= least:
                    break

    @property
    def sending(self) -> int:
        """Attempts under way."""
        return len(self.service.engine.held())


@asynccontextmanager
async def serving(url: str, **changes: Any) -> AsyncIterator[Running]:
    settings = Settings(
        database_url=url,
        admin_key=ADMIN_KEY,
        allow_networks=(ip_network("127.0.0.0/8"),),
        destination_concurrency=512,
        drain_grace=0.05,
        **changes,
    )
    async with Service(settings) as service:
        running = Running(service)
        claim = service.store.claim

        async def watched(request: ClaimRequest) -> list[Delivery]:
            claimed = await claim(request)
            if not claimed and service.store.queued():
                running.in_vain.set()
            return claimed

        setattr(service.store, "claim", watched)  # noqa: B010  # to see when nothing more goes
        yield running


@pytest.fixture(params=["postgres", "sqlite"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/d.db"
    else:
        yield folders.url_for(tmp_path, used=True)
        folders.empty_under(tmp_path)


def telling(received: asyncio.Event) -> Behaviour:
    """Answers 200 to each request, and tells of it."""

    async def behave(
        peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while await peer.receive(reader) is not None:
            writer.write(OK)
            received.set()

    return behave


async def flood(
    api: httpx.AsyncClient, hole: Peer, count: int, *, size: int = 1, **fields: Any
) -> None:
    """Callbacks to so many paths of a silent server, one batch."""
    lines = [
        httpx.Request(
            "POST",
            "http://x",
            json={
                "jobId": f"job-{n}",
                "callbackUrl": f"{hole.url}/{n}",
                "payload": "x" * size,
                "policy": PATIENT,
                **fields,
            },
        ).content
        for n in range(count)
    ]
    for first in range(0, count, 8):
        taken = await api.post(
            "/v1/callbacks/batch",
            content=b"\n".join(lines[first : first + 8]),
            headers={"Content-Type": "application/x-ndjson"},
        )
        assert taken.status_code == 200, taken.text
        assert '"error"' not in taken.text, taken.text


async def delivered_at_once(running: Running, tenant: str) -> float:
    """Seconds until a small callback of this tenant has arrived, directly and by a claim."""
    began, longest = time.monotonic(), 0.0
    received = asyncio.Event()
    async with listening(telling(received)) as quick, running.client(tenant) as api:
        for n, fields in enumerate(({}, {"notBefore": 0.05})):
            received.clear()
            began = time.monotonic()
            body = {"jobId": f"quick-{n}", "callbackUrl": quick.url, "payload": 1, **fields}
            taken = await api.post("/v1/callbacks", json=body)
            assert taken.status_code == 202, taken.text
            async with asyncio.timeout(60):
                await received.wait()
            longest = max(longest, time.monotonic() - began)
    return longest


@pytest.mark.parametrize("tenants", [2, 4])
@pytest.mark.parametrize("later", [False, True], ids=["direct", "claimed"])
async def test_silent_destinations_of_some_tenants_leave_slots_for_another(
    database: str, tenants: int, later: bool
) -> None:
    """By hand-over one after the other, and by claims for all of them at once."""
    fields: dict[str, Any] = {"notBefore": 1.0} if later else {}
    async with listening(silent) as hole, serving(database, slots=64) as running:
        for tenant in "abcd"[:tenants]:
            async with running.client(tenant) as api:
                await flood(api, hole, 100, **fields)
        await running.settled(32)
        assert await delivered_at_once(running, "newcomer") < 15
        assert await delivered_at_once(running, "another") < 15


async def test_a_tenant_alone_still_has_three_quarters_of_the_slots(database: str) -> None:
    async with listening(silent) as hole, serving(database, slots=64) as running:
        async with running.client("a") as api:
            await flood(api, hole, 100)
        await running.settled(48)
        assert running.sending == 48


@pytest.mark.parametrize("later", [False, True], ids=["direct", "claimed"])
async def test_silent_attempts_of_a_mebibyte_each_leave_memory_for_others(
    database: str, later: bool
) -> None:
    """Of 64 MiB one tenant's have 48 at most, by either way."""
    fields: dict[str, Any] = {"notBefore": 2.0} if later else {}
    async with listening(silent) as hole, serving(database) as running:
        async with running.client("a") as api:
            await flood(api, hole, 64, size=MIB - 2, **fields)
        await running.settled(48)
        assert running.sending == 48
        assert await delivered_at_once(running, "b") < 15


async def test_silent_test_callbacks_leave_room_for_another_tenants(database: str) -> None:
    received = asyncio.Event()
    async with (
        listening(silent) as hole,
        listening(telling(received)) as quick,
        serving(database) as running,
        running.client("a") as a,
        running.client("b") as b,
    ):
        silent_one = {"name": "silent", "url": hole.url, "policy": PATIENT}
        assert (await a.post("/v1/destinations", json=silent_one)).status_code == 201
        assert (
            await b.post("/v1/destinations", json={"name": "quick", "url": quick.url})
        ).status_code == 201
        tests = [
            asyncio.create_task(a.post("/v1/destinations/silent/test", timeout=None))
            for _ in range(40)
        ]
        async with asyncio.timeout(60):
            done, waiting = await asyncio.wait(tests, return_when=asyncio.FIRST_COMPLETED)
            while len(waiting) > 16:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert {one.result().status_code for one in done} == {503}
            tested = await b.post("/v1/destinations/quick/test")
        assert tested.status_code == 200, tested.text
        for one in waiting:
            one.cancel()
        await asyncio.wait(waiting)
