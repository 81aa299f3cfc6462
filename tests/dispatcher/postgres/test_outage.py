"""The way to the database breaks: what was promised holds, what was not is tried again, and nothing
needs a restart (I1, I2, I3)."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from dispatcher.app import Service
from dispatcher.policy import Policy, dump
from dispatcher.settings import Settings
from dispatcher.store import open_store
from dispatcher.store.errors import StoreError, StoreUnavailable
from dispatcher.store.postgres import database
from dispatcher.store.postgres.session import CHANNEL
from receiver.base.clock import now_ms
from receiver.base.db.postgres import WRITER, Server
from tests.dispatcher.peers import LOOPBACK, OK, answers, listening
from tests.dispatcher.postgres import folders
from tests.dispatcher.postgres.proxy import Fault, Proxy, proxied
from tests.dispatcher.store.builders import TENANT, World, callback, raises, secret
from tests.receiver.waiting import until

FAULTS: tuple[Fault, ...] = ("answer lost", "commit lost", "half open")
# The first submit for a destination makes its lane, in a commit before its own.
COMMITS: Final = {"making the lane": 0, "storing": 1}


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with proxied(folders.url_for(tmp_path, used=True)) as running:
        yield running
    folders.empty_under(tmp_path)


@pytest.fixture
async def world(proxy: Proxy) -> AsyncIterator[World]:
    """A store that reaches its database through the proxy."""

    def make() -> Any:
        return open_store(Settings(database_url=proxy.url, read_timeout=1.0))

    world = World(make=make, store=make())
    await world.open()
    yield world
    proxy.refusing = False
    await world.store.close()


def count(tmp_path: Path, table: str) -> int:
    (row,) = folders.watcher(tmp_path).execute(f"SELECT count(*) FROM {table}".encode())
    return int(row[0])


async def until_back(world: World) -> None:
    """The store recovers by itself."""
    async with asyncio.timeout(60):
        while True:
            try:
                await world.store.check()
            except StoreUnavailable:
                await asyncio.sleep(0.02)
            else:
                return


# --- the connection is cut right after COMMIT was sent ---


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("commit", COMMITS)
async def test_a_submit_whose_commit_was_cut_off_is_stored_once_and_answered(
    fault: Fault, commit: str, world: World, proxy: Proxy, tmp_path: Path
) -> None:
    """The database is asked what became of it; what did not happen is done again."""
    proxy.fault, proxy.commits_before = fault, COMMITS[commit]
    began = time.monotonic()
    answers = await asyncio.gather(
        *(world.submit(f"job-{n}", handover=True) for n in range(5)), world.submit("more")
    )
    assert proxy.failed.is_set()
    assert time.monotonic() - began < 30
    assert [one.duplicate for one in answers] == [False] * 6
    assert sum(one.delivery is not None for one in answers) == 5
    assert count(tmp_path, "callbacks") == count(tmp_path, "payloads") == 6
    for one in answers:
        if one.delivery is not None:
            assert await world.settle(one.delivery)
    assert (await world.store.stats(TENANT)).counts["delivered"] == 5
    assert world.store.queued() == 1


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_settlement_whose_commit_was_cut_off_is_recorded_once(
    fault: Fault, world: World, proxy: Proxy, tmp_path: Path
) -> None:
    delivery = (await world.submit(handover=True)).delivery
    assert delivery is not None
    proxy.fault = fault
    assert await world.settle(delivery)
    assert proxy.failed.is_set()
    assert count(tmp_path, "attempts") == 1
    assert (await world.get(delivery.id)).state == "delivered"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("commit", COMMITS)
async def test_what_became_of_a_commit_cannot_be_learnt_so_nobody_is_told_it_worked(
    fault: Fault,
    commit: str,
    world: World,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caller's retry makes no second callback, whatever had happened."""
    monkeypatch.setattr("dispatcher.store.postgres.session._ASK_S", 0.2)
    proxy.fault, proxy.refuse_after_fault = fault, True
    proxy.commits_before = COMMITS[commit]
    await raises(StoreUnavailable, world.submit("a"))
    proxy.refusing = False
    await until_back(world)
    again = await world.submit("a")
    assert again.duplicate is (fault == "answer lost" and commit == "storing")
    assert count(tmp_path, "callbacks") == 1
    assert (await world.get(again.id)).state == "pending"


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_settlement_tried_again_after_an_unknown_commit_is_not_stale(
    fault: Fault, world: World, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own earlier commit is recognised as recorded, by the attempt that it left."""
    monkeypatch.setattr("dispatcher.store.postgres.session._ASK_S", 0.2)
    delivery = (await world.submit(handover=True)).delivery
    assert delivery is not None
    proxy.fault, proxy.refuse_after_fault = fault, True
    await raises(StoreUnavailable, world.settle(delivery, "pending", due_in_ms=50))
    proxy.refusing = False
    await until_back(world)
    assert await world.settle(delivery, "pending", due_in_ms=50)
    assert count(tmp_path, "attempts") == 1
    shown = await world.get(delivery.id)
    assert (shown.state, shown.attempts, shown.tries) == ("pending", 1, 1)


async def test_the_same_callback_twice_after_an_unknown_commit_is_one(
    world: World, tmp_path: Path
) -> None:
    """A batch that is applied again finds its own callbacks: they are no duplicates."""
    new = callback("a")
    assert not (await world.store.submit(new, handover=False)).duplicate
    again = await world.store.submit(new, handover=False)
    assert (again.id, again.duplicate) == (new.id, False)
    assert count(tmp_path, "callbacks") == count(tmp_path, "payloads") == 1
    assert world.store.queued() == 1


# --- the server is away ---


async def test_without_a_server_everything_is_refused_quickly_and_recovers(
    world: World, proxy: Proxy
) -> None:
    held = (await world.submit("held", handover=True)).delivery
    assert held is not None
    proxy.refusing = True
    proxy.cut()
    began = time.monotonic()
    refused = await asyncio.gather(
        world.submit("a"),
        world.claim(),
        world.settle(held),
        world.store.check(),
        world.get(held.id),
        world.store.reclaim(now_ms=world.now_ms),
        return_exceptions=True,
    )
    assert [type(one) for one in refused] == [StoreUnavailable] * 6
    assert all("test-password" not in str(one) for one in refused)
    assert time.monotonic() - began < 30
    proxy.refusing = False
    await until_back(world)
    assert await world.settle(held)
    assert not (await world.submit("a")).duplicate
    assert world.store.queued() == 1


async def test_sessions_that_the_server_ends_cost_nobody_an_error(
    world: World, tmp_path: Path
) -> None:
    """An administrator, or a restart in the middle of nothing: writers and readers connect anew."""
    watcher = folders.watcher(tmp_path)
    for n in range(5):
        one = (await world.submit(f"job-{n}")).id
        watcher.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert (await world.get(one)).state == "pending"
    assert world.store.queued() == 5


async def test_a_lane_that_another_program_locks_delays_and_then_refuses(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No commit waits for ever, and the batch leaves nothing behind."""
    monkeypatch.setattr("receiver.base.db.postgres.TRIES_MAX", 1)
    monkeypatch.setitem(WRITER, "lock_timeout", "200ms")
    await world.reopen()
    await world.submit("a")
    url = folders.url_for(tmp_path)
    with psycopg.connect(url) as other:
        other.execute("SELECT * FROM lanes FOR UPDATE")
        with pytest.raises(StoreError):
            await world.submit("b")
    assert not (await world.submit("b")).duplicate
    assert count(tmp_path, "callbacks") == 2


# --- deliveries that are leased when the server goes away ---


@asynccontextmanager
async def delivering(proxy: Proxy, **settings: Any) -> AsyncIterator[Service]:
    """A whole service that reaches its database through the proxy; what it has read of secrets is
    always old."""
    given = {"allow_networks": (LOOPBACK,), "read_timeout": 1.0, "drain_grace": 0.1, **settings}
    async with Service(Settings(database_url=proxy.url, admin_key="k" * 32, **given)) as service:
        await service.store.ensure_tenant(TENANT, secret(TENANT))
        yield service
        proxy.refusing = False


def cut_when_secrets_are_read(
    service: Service, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is away from the next reading of secrets on."""
    read = service.store.secrets

    async def secrets(tenant: str) -> Any:
        proxy.refusing = True
        proxy.cut()
        return await read(tenant)

    monkeypatch.setattr(service.secrets, "_read", secrets)


def until_delivered(service: Service, one: str) -> Callable[[], Awaitable[bool]]:
    async def is_delivered() -> bool:
        try:
            return (await service.store.get(TENANT, one)).state == "delivered"
        except StoreUnavailable:
            return False

    return is_delivered


async def test_secrets_that_were_read_before_sign_during_an_outage(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2, I3: however long it lasts, leased work goes out, once, and is recorded after it."""
    monkeypatch.setattr("dispatcher.signing._FRESH_MS", 0)
    async with listening(answers(OK)) as peer, delivering(proxy) as service:
        first = await service.engine.submit(callback("first", url=peer.url, now_ms=now_ms()))
        await until(until_delivered(service, first.id))
        cut_when_secrets_are_read(service, proxy, monkeypatch)
        one = await service.engine.submit(callback("one", url=peer.url, now_ms=now_ms()))
        await until(lambda: len(peer.received) == 2)  # while the server is away
        assert proxy.refusing
        proxy.refusing = False
        await until(until_delivered(service, one.id))
        assert (await service.store.get(TENANT, one.id)).attempts == 1
        assert len(peer.received) == 2


async def test_work_whose_lease_ends_before_its_secrets_can_be_read_is_sent_once(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I3, I4: handed back unspent as soon as that can be written, and not sent by who waited."""
    async with (
        listening(answers(OK)) as peer,
        delivering(proxy, lease_margin=1.0, sweep_interval=0.05) as service,
    ):
        cut_when_secrets_are_read(service, proxy, monkeypatch)
        policy = dump(Policy(attempts=1, timeout=0.5))
        new = callback("one", url=peer.url, now_ms=now_ms(), policy=policy)
        one = await service.engine.submit(new)

        def given_up() -> bool:
            return b'own_faults_total{lack="secrets"}' in service.metrics.render()

        await until(given_up)
        assert peer.received == []
        monkeypatch.setattr(service.secrets, "_read", service.store.secrets)
        proxy.refusing = False
        await until(until_delivered(service, one.id))
        assert len(peer.received) == 1


async def test_keys_are_read_again_whatever_that_meets(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D14: what another process revoked does not linger, also where the first look fails oddly."""
    async with delivering(proxy) as service:
        reload, failures = service.access.reload, iter([ValueError("odd"), MemoryError()])
        reloaded = asyncio.Event()

        async def failing() -> None:
            for error in failures:
                raise error
            await reload()
            reloaded.set()

        monkeypatch.setattr(service.access, "reload", failing)
        service._access_changed()
        async with asyncio.timeout(60):
            await reloaded.wait()


async def test_a_listener_goes_on_whatever_it_meets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception of any kind, also of what it calls, ends no listening for good; what was missed
    meanwhile is made up for."""
    monkeypatch.setattr(database, "_LISTEN_AGAIN_S", 0.01)
    failed: list[str] = []
    heard: asyncio.Queue[str] = asyncio.Queue()

    def hear(topic: str, _session: str) -> None:
        if not failed:
            failed.append(topic)
            raise ValueError("test")
        heard.put_nowait(topic)

    url = folders.url_for(tmp_path, used=True)
    listener = database.Listener(Server(url), hear)
    listener.start()
    try:
        async with asyncio.timeout(60):
            with psycopg.connect(url, autocommit=True) as connection:
                while not failed:
                    connection.execute(f"NOTIFY {CHANNEL}, 'ready test'".encode())
                    await asyncio.sleep(0.05)
            assert {await heard.get() for _ in range(3)} == {"ready", "access", "replays"}
    finally:
        await listener.stop()
        folders.empty_under(tmp_path)
