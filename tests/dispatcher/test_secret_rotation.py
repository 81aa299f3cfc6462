"""The drill of a signing secret's rotation under load: what is delivered meanwhile verifies with
the secrets that the customer has at that moment, and nothing goes out unsigned (D10).

Sized by POSTBACK_TEST_SCALE: rounds.
"""

import asyncio
import itertools
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import httpx
import pytest
from aiohttp import web

from dispatcher.app import Service
from dispatcher.settings import Settings
from receiver.signature import SignatureError, verify
from tests.dispatcher.api.talk import ADMIN_KEY
from tests.dispatcher.postgres import folders
from tests.receiver.serving import served

SCALE: Final = float(os.environ.get("POSTBACK_TEST_SCALE", "1"))
ROUNDS: Final = max(2, round(4 * SCALE))
OVERLAP_S: Final = 60.0  # ended by the next rotation, which is forced
STEP_S: Final = 0.3  # between what the platform does and what the customer does
PLATFORMS: Final = 8
AUTH: Final = {"Authorization": f"Bearer {ADMIN_KEY}"}


@dataclass
class Customer:
    """A receiver that has these secrets, and what it thought of each delivery."""

    secrets: tuple[str, ...] = ()
    thought: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)
    schemes: Counter[tuple[str, ...]] = field(default_factory=Counter)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            verified = verify(body, dict(request.headers), self.secrets, now_s=time.time())
        except SignatureError as error:
            self.thought[error.reason] += 1
            return web.Response(status=401)
        self.thought["verified"] += 1
        self.schemes[verified.schemes] += 1
        self.ids[request.headers["webhook-id"]] += 1
        self.arrived.set()
        return web.Response()


@asynccontextmanager
async def listening(customer: Customer) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/hook", customer.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


@pytest.fixture(params=["postgres", "sqlite"])
async def urls(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[str]]:
    """A process on SQLite, two on PostgreSQL."""
    is_postgres = request.param == "postgres"
    database = folders.url_for(tmp_path, used=True) if is_postgres else f"sqlite:///{tmp_path}/d.db"
    settings = Settings(
        database_url=database,
        admin_key=ADMIN_KEY,
        allow_networks=(ip_network("127.0.0.0/8"),),
        drain_grace=5,
    )
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(1 + is_postgres):
            service = await stack.enter_async_context(Service(settings))
            found.append(await stack.enter_async_context(served(service.api)))
        yield found
    folders.empty_under(tmp_path)


async def secret(http: httpx.AsyncClient, url: str, verb: str, **body: object) -> str:
    answer = await http.post(f"{url}/v1/secrets/{verb}", json=body, headers=AUTH)
    assert answer.status_code in (200, 201), answer.text
    text: str = answer.json()["secret"]
    return text


async def test_every_delivery_verifies_while_secrets_are_rotated(urls: list[str]) -> None:
    """As the README says to do it: the customer adds the new secret within the overlap, and drops
    the old one once what was on its way has arrived."""
    customer, accepted, numbers = Customer(), set[str](), itertools.count()
    stopping = asyncio.Event()
    async with httpx.AsyncClient(timeout=30) as http, listening(customer) as hook:
        customer.secrets = (await secret(http, urls[0], "reveal"),)

        async def platform(n: int) -> None:
            while not stopping.is_set():
                body = {"jobId": f"job-{next(numbers)}", "callbackUrl": hook, "payload": {"n": 1}}
                url = f"{urls[n % len(urls)]}/v1/callbacks"
                answer = await http.post(url, json=body, headers=AUTH)
                assert answer.status_code == 202, answer.text
                accepted.add(answer.json()["id"])

        async with asyncio.TaskGroup() as group:
            for n in range(PLATFORMS):
                group.create_task(platform(n))
            for _ in range(ROUNDS):
                await asyncio.sleep(STEP_S)
                new = await secret(http, urls[0], "rotate", overlap=OVERLAP_S, force=True)
                await asyncio.sleep(STEP_S)
                customer.secrets = (*customer.secrets, new)
                await asyncio.sleep(STEP_S)
                customer.secrets = (new,)
            stopping.set()
        async with asyncio.timeout(60):
            while customer.ids.keys() != accepted:
                customer.arrived.clear()
                await customer.arrived.wait()
    print(f"\n{len(urls)} processes, {ROUNDS} rotations:", dict(customer.thought))
    assert set(customer.thought) == {"verified"}
    assert set(customer.schemes) == {("sha256", "standard")}
    assert set(customer.ids.values()) == {1}
