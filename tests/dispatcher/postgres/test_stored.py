"""Stored secrets of several processes on one PostgreSQL: what one changes the others send, and two
that change at once never leave a header without its secret."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from ipaddress import ip_network
from itertools import count
from pathlib import Path

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.settings import Settings
from tests.dispatcher.api.talk import ADMIN_KEY, connect, submit
from tests.dispatcher.peers import OK, Peer, answers, listening
from tests.dispatcher.postgres import folders

KEY = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    yield folders.url_for(tmp_path)
    folders.drop_under(tmp_path)


@pytest.fixture
async def both(url: str) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """The APIs of two services on one database."""
    settings = Settings(
        database_url=url,
        admin_key=ADMIN_KEY,
        allow_networks=(ip_network("127.0.0.0/8"),),
        encryption_keys=KEY,
        drain_grace=0.2,
    )
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(2):
            service = await stack.enter_async_context(Service(settings))
            clients.append(await stack.enter_async_context(connect(service, ADMIN_KEY)))
        yield clients[0], clients[1]


async def put(api: httpx.AsyncClient, value: str) -> None:
    answer = await api.put("/v1/stored-secrets/crm", json={"secret": value})
    assert answer.status_code in (200, 201), answer.text


async def until_received(peer: Peer, number: int) -> None:
    async with asyncio.timeout(60):
        while len(peer.received) < number:  # noqa: ASYNC110  # a peer has no event for a number
            await asyncio.sleep(0.002)


async def test_what_one_process_stores_the_other_sends(
    both: tuple[httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    """Stored, named, replaced and deleted by the one, sent by either, without a restart: each
    delivery carries an old or a new one, and soon the new one."""
    one, other = both
    async with listening(answers(OK)) as peer:
        await put(one, "test-secret-0")
        registration = {"name": "crm", "url": peer.url, "headers": {"X-Key": "secret:crm"}}
        assert (await other.post("/v1/destinations", json=registration)).status_code == 201
        for n in range(1, 6):
            await put(both[n % 2], f"test-secret-{n}")
            for api in both:
                await until_sent(api, peer, f"test-secret-{n}")
        assert (await one.delete("/v1/stored-secrets/crm")).status_code == 409
        assert (await other.delete("/v1/stored-secrets/crm?force=true")).status_code == 204
        async with asyncio.timeout(60):
            while (await one.post("/v1/destinations/crm/test")).json()["outcome"] != "interrupted":
                pass  # it has not heard yet
        sent = len(peer.received)
        await submit(one, "unsent", "crm")
        assert len(peer.received) == sent
        await put(other, "test-secret-last")
        await until_received(peer, sent + 1)
        keys = [request.header("x-key") for request in peer.received]
        assert keys[-1] == "test-secret-last"
        assert None not in keys


async def until_sent(api: httpx.AsyncClient, peer: Peer, key: str) -> None:
    """Submit until a delivery carries this: whoever sends it has to hear of it."""
    async with asyncio.timeout(60):
        for n in count():
            sent = len(peer.received)
            await submit(api, f"job-{key}-{id(api)}-{n}", "crm")
            await until_received(peer, sent + 1)
            if peer.received[-1].header("x-key") == key:
                return


async def test_two_processes_that_store_and_forget_at_once_agree(
    both: tuple[httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    """A destination that was registered has its secret, whatever the other process did."""
    one, other = both
    for n in range(12):
        await put(one, "test-secret")
        name = f"d{n}"
        registration = {
            "name": name,
            "url": "http://127.0.0.1:9/",
            "headers": {"X-Key": "secret:crm"},
        }
        made, gone = await asyncio.gather(
            one.post("/v1/destinations", json=registration),
            other.delete("/v1/stored-secrets/crm"),
        )
        assert (made.status_code, gone.status_code) in ((201, 409), (422, 204)), (n, made.text)
        if made.status_code == 201:
            await other.delete(f"/v1/destinations/{name}")
