"""Names whose servers never answer stop neither handlers' statements nor other questions (I6)."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from receiver import Receiver, Settings
from receiver.base.lack import lack_of
from receiver.handling.forward import Forwarder
from receiver.names import with_own_lookups
from receiver.testing import Client
from tests.dispatcher.peers import OK, Peer, answers, listening
from tests.receiver.waiting import until

SOON_S = 20.0
SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"


class NameServers:
    """What `hang.test` answers, it answers when it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.hanging = threading.Semaphore(0)

    def __call__(self, host: str) -> tuple[str, ...]:
        if host.endswith("hang.test"):
            self.hanging.release()
            self.released.wait()
        if host == "gone.test":
            raise OSError("no such host")
        return ("127.0.0.1",)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServers]:
    servers = NameServers()
    monkeypatch.setattr("receiver.names.look_up", servers)
    yield servers
    servers.released.set()


@asynccontextmanager
async def asking() -> AsyncIterator[tuple[httpx.AsyncClient, Peer]]:
    async with (
        listening(answers(OK)) as peer,
        with_own_lookups(httpx.AsyncClient(trust_env=False, timeout=SOON_S)) as client,
    ):
        yield client, peer


async def test_i6_hung_names_stop_no_thread_of_anybody_else(servers: NameServers) -> None:
    """More of them than Python has threads for everything."""
    async with asking() as (client, peer), asyncio.timeout(SOON_S):
        hung = [
            asyncio.create_task(client.get(f"http://x{n}.hang.test:{peer.port}/"))
            for n in range(16)
        ]
        for _ in hung:
            await asyncio.get_running_loop().run_in_executor(None, servers.hanging.acquire)
        assert await asyncio.to_thread(lambda: "done") == "done"
        assert (await client.get(f"http://well.test:{peer.port}/")).status_code == 200
        servers.released.set()
        assert {one.status_code for one in await asyncio.gather(*hung)} == {200}


async def test_a_name_that_is_not_there_is_told_as_such(servers: NameServers) -> None:
    async with asking() as (client, _):
        with pytest.raises(httpx.ConnectError, match="no such host"):
            await client.get("http://gone.test/")


async def test_no_place_for_a_look_up_is_our_lack(
    servers: NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.names._LOOKUPS_MAX", 1)
    async with asking() as (client, peer):
        hung = asyncio.create_task(client.get(f"http://x.hang.test:{peer.port}/"))
        await asyncio.to_thread(servers.hanging.acquire)
        with pytest.raises(OSError, match="no place") as met:
            await client.get(f"http://well.test:{peer.port}/", timeout=0.1)
        assert lack_of(met.value) == "lookups"
        servers.released.set()
        assert (await hung).status_code == 200


async def test_the_next_address_serves_where_one_does_not(
    servers: NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.names.look_up", lambda _: ("127.0.0.2", "127.0.0.1"))
    async with asking() as (client, peer):
        assert (await client.get(f"http://two.test:{peer.port}/")).status_code == 200
        assert (await client.get(f"http://127.0.0.1:{peer.port}/")).status_code == 200


async def test_what_is_forwarded_and_what_is_asked_for_goes_to_names_looked_up_so(
    tmp_path: Path, servers: NameServers
) -> None:
    settings = Settings(
        secrets=(SECRET,),
        database_url=f"sqlite:///{tmp_path}/inbox.db",
        admin_key="test-admin-key-of-tests",
        drain_grace=0.1,
    )
    async with listening(answers(OK)) as peer:
        forwarder = Forwarder(f"http://forward.test:{peer.port}/f", timeout_s=SOON_S)
        receiver = Receiver(settings)
        receiver.on("*")(forwarder)
        async with Client(receiver, SECRET) as client:
            await client.send({"jobId": "job_1", "status": "completed"})
            await receiver.expect(
                "job_2", f"http://status.test:{peer.port}/s", by=timedelta(seconds=0)
            )
            await until(lambda: len(peer.received) >= 2)
        await forwarder.close()
    assert {one.line.split()[1] for one in peer.received} == {"/f", "/s"}
