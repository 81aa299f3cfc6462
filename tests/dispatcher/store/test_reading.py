"""Reads have a share for each tenant, and the service's own have connections of their own; what
nobody waits for is not read."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from dispatcher.filters import Filter
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.tx import Tx
from receiver.base.db.readers import Reader
from tests.dispatcher.store.builders import TENANT, World, raises, secret
from tests.dispatcher.store.conftest import Build

T = TypeVar("T")

ATTACKER = "attacker"
LONG_S = 60.0  # no deadline of this file is meant to pass
SOON_S = 20.0  # far less than that, far more than any read here takes
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


def endless(tx: Tx) -> Any:
    return tx.all(ENDLESS)


def read(world: World, query: Callable[[Tx], T], tenant: str = ATTACKER) -> "asyncio.Task[T]":
    """A listing's read."""
    return asyncio.create_task(world.store._read(query, Reader(tenant)))


async def soon(awaited: Awaitable[T]) -> T:
    async with asyncio.timeout(SOON_S):
        return await awaited


async def in_a_thread(world: World, tenant: str = ATTACKER) -> "asyncio.Task[Any]":
    """A read that has begun, and does not end by itself."""
    began, loop = asyncio.Event(), asyncio.get_running_loop()

    def query(tx: Tx) -> Any:
        loop.call_soon_threadsafe(began.set)
        return endless(tx)

    reading = read(world, query, tenant)
    await soon(began.wait())
    return reading


@asynccontextmanager
async def flooded(world: World, count: int) -> AsyncIterator[list["asyncio.Task[Any]"]]:
    """One tenant's endless reads, many at once."""
    reads = [await in_a_thread(world), *(read(world, endless) for _ in range(count - 1))]
    await asyncio.sleep(0)
    try:
        yield reads
    finally:
        for one in reads:
            one.cancel()
        await asyncio.wait(reads)


async def test_i6_slow_listings_of_one_tenant_leave_everybody_elses_answered(build: Build) -> None:
    """Another tenant's, and all that the service reads for its own work."""
    world = await build(read_timeout=LONG_S)
    callback = (await world.submit()).id
    await world.store.ensure_tenant(TENANT, secret())
    await world.ended("old", url="http://127.0.0.1:9/other")
    world.tick()
    made = await world.store.make_replay(
        TENANT, Filter(status="dead"), rate_per_second=None, now_ms=world.now_ms
    )
    async with flooded(world, 150) as reads:
        assert callback in await soon(world.search())
        assert (await soon(world.get(callback))).id == callback
        assert [one.id for one in await soon(world.store.running_replays())] == [made.id]
        fed = await soon(
            world.store.feed_replay(made.id, limit=9, now_ms=world.tick(), tenant=TENANT)
        )
        assert fed.replayed == 1
        assert (await soon(world.change(concurrency=3))).concurrency == 3
        assert len(await soon(world.store.secrets(TENANT))) == 1
        assert await soon(world.store.bring_back(now_ms=world.now_ms, limit=9)) == 0
        assert not any(one.done() for one in reads)


async def test_the_attackers_own_changes_are_answered_beside_its_listings(build: Build) -> None:
    world = await build(read_timeout=LONG_S)
    await world.submit(tenant=ATTACKER)
    async with flooded(world, 20):
        changed = await soon(world.change(tenant=ATTACKER, paused=True))
        assert changed.paused


async def test_one_tenant_may_have_so_many_reads_waiting_and_no_more(build: Build) -> None:
    """Those over its share are refused at once; nobody else is."""
    world = await build(read_timeout=LONG_S)
    async with flooded(world, 300) as reads:
        refused = [one for one in reads if one.done()]
        assert len(refused) == 300 - 1 - 256
        assert {type(one.exception()) for one in refused} == {StoreUnavailable}
        assert "too many reads wait" in str(refused[0].exception())
        assert await soon(world.search()) == []


async def test_tenants_read_in_turn(build: Build) -> None:
    world = await build(readers=1, read_timeout=LONG_S)
    first = await in_a_thread(world, "z")
    order: list[str] = []
    reads = [
        read(world, lambda _tx, name=tenant: order.append(name), tenant)  # type: ignore[misc]
        for tenant in ("a", "a", "a", "a", "b", "c")
    ]
    await asyncio.sleep(0)
    first.cancel()
    await soon(asyncio.wait(reads))

    assert order == ["a", "b", "c", "a", "a", "a"]


async def test_a_read_whose_caller_went_away_before_its_turn_is_not_run(build: Build) -> None:
    world = await build(readers=1, read_timeout=LONG_S)
    ran: list[str] = []
    first = await in_a_thread(world)
    gone, waits = (
        read(world, lambda _tx: ran.append("gone")),
        read(world, lambda _tx: ran.append("waits")),
    )
    await asyncio.sleep(0)
    gone.cancel()
    first.cancel()
    await soon(waits)

    assert ran == ["waits"]


async def test_a_read_whose_caller_goes_away_is_ended_where_it_runs(build: Build) -> None:
    """Whatever it does next: the same reader then serves others."""
    world = await build(readers=1, read_timeout=LONG_S)
    met: list[str] = []
    began, loop = asyncio.Event(), asyncio.get_running_loop()

    def stubborn(tx: Tx) -> None:
        loop.call_soon_threadsafe(began.set)
        for _ in range(2):
            try:
                endless(tx)
            except Exception as error:
                met.append(type(error).__name__)
        raise RuntimeError("nobody sees this")

    reading = read(world, stubborn)
    await soon(began.wait())
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    assert await soon(world.search(ATTACKER)) == []
    assert len(met) == 2
    for _ in range(5):
        assert await soon(world.search(ATTACKER)) == []


async def test_what_waited_too_long_for_its_turn_is_not_run(build: Build) -> None:
    """A slow reader's deadline ends it, and those behind it say that they found none free."""
    world = await build(readers=1, read_timeout=0.3)
    first = asyncio.create_task(raises(StoreUnavailable, read(world, endless)))
    await asyncio.sleep(0)
    behind = [asyncio.create_task(raises(StoreUnavailable, read(world, endless))) for _ in range(2)]
    errors = [str(await soon(one)) for one in (first, *behind)]

    assert "took longer than 0.3 s" in errors[0]
    assert any("all readers are busy" in one for one in errors[1:])
    assert await soon(world.search(ATTACKER)) == []


async def test_closing_ends_what_is_being_read(build: Build) -> None:
    world = await build(readers=2, read_timeout=LONG_S)
    reads = [await in_a_thread(world, tenant) for tenant in ("a", "b")]
    waiting = read(world, endless, "a")
    await asyncio.sleep(0)
    await soon(world.store.close())
    ended = await soon(asyncio.gather(*reads, waiting, return_exceptions=True))

    assert [type(one) for one in ended] == [StoreUnavailable] * 3
    world.store = world.make()
    await world.open()
