"""A locked database, a full disk, a read that takes too long: told as such, nothing lost, and it
recovers by itself."""

import asyncio
import gc
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dispatcher.store.errors import StoreError, StoreFull, StoreUnavailable
from dispatcher.store.sqlite import database
from dispatcher.store.tx import Tx
from tests.dispatcher.store.builders import World, raises
from tests.dispatcher.store.sqlite_hooks import (
    database_of,
    pragma,
    sqlite_world,
    submit_many,
)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(database, "_BUSY_MS", 50)
    async with sqlite_world(tmp_path, readers=1, read_timeout=0.15) as opened:
        yield opened


def lock(folder: Path) -> sqlite3.Connection:
    """Somebody else's transaction, such as a careless shell's."""
    connection = sqlite3.connect(folder / "postback.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


async def test_a_locked_database_is_unavailable_until_it_is_free(
    world: World, tmp_path: Path
) -> None:
    kept = (await world.submit("kept")).id
    delivery = await world.one()
    other = lock(tmp_path)
    await raises(StoreUnavailable, world.submit("refused"))
    await raises(StoreUnavailable, world.settle(delivery))
    await raises(StoreUnavailable, world.store.check())
    assert await world.states([kept]) == ["sending"]
    other.execute("ROLLBACK")
    other.close()
    assert await world.settle(delivery)
    await world.store.check()
    assert not (await world.submit("refused")).duplicate
    assert world.store.queued() == 1


async def fill(world: World) -> None:
    """No page more than there are."""
    await pragma(world, "max_page_count", await pragma(world, "page_count"))


async def test_a_full_disk_refuses_what_needs_room_and_loses_nothing(world: World) -> None:
    """All of a batch is refused, since SQLite takes all of it back."""
    kept = (await world.submit("kept")).id
    await fill(world)
    answers = await asyncio.gather(
        *(world.submit(f"refused-{n}", body=b"x" * 200_000) for n in range(3)),
        return_exceptions=True,
    )
    assert [type(one) for one in answers] == [StoreFull] * 3
    assert await world.search() == [kept]
    assert world.store.queued() == 1
    await pragma(world, "max_page_count", 1_000_000)
    assert not (await world.submit("refused-0", body=b"x" * 200_000)).duplicate
    assert world.store.queued() == 2


async def test_a_full_disk_spoils_no_delivery(world: World) -> None:
    """A settlement that found no room is recorded when there is some; its claim still holds."""
    ids = await submit_many(world, 8)
    claimed = await world.claim()
    await fill(world)
    answers = await asyncio.gather(
        *(world.settle(one) for one in claimed),
        *(world.submit(f"big-{n}", body=b"x" * 200_000) for n in range(2)),
        return_exceptions=True,
    )
    assert all(one is True or isinstance(one, StoreFull) for one in answers)
    assert any(isinstance(one, StoreFull) for one in answers)
    await pragma(world, "max_page_count", 1_000_000)
    for one, answer in zip(claimed, answers, strict=False):
        assert answer is True or await world.settle(one)
    assert await world.states(ids) == ["delivered"] * 8


async def test_the_storage_limit_shows_in_what_is_free(tmp_path: Path) -> None:
    async with sqlite_world(tmp_path, storage_bytes_max=2**20) as world:
        usage = world.store.usage()
        assert 0 < usage.used_bytes < 2**20
        assert usage.free_bytes == 2**20 - usage.used_bytes


# --- reads ---


def endless(tx: Tx) -> Any:
    return tx.all(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    )


async def test_a_read_past_its_deadline_is_ended_and_its_connection_goes_on(world: World) -> None:
    kept = (await world.submit()).id
    for _ in range(2):
        error = await raises(StoreUnavailable, database_of(world).read(endless))
        assert "longer than 0.15 s" in str(error)
        assert await world.search() == [kept]


async def test_a_reader_whose_caller_went_away_is_free_at_once(world: World) -> None:
    """And what became of its read is nobody's surprise."""
    surprises: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: surprises.append(context))
    kept = (await world.submit()).id
    reading = asyncio.create_task(database_of(world).read(endless))
    await asyncio.sleep(0.02)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    del reading
    assert await world.search() == [kept]
    gc.collect()
    assert surprises == []


async def test_a_busy_reader_makes_others_wait_no_longer_than_the_deadline(world: World) -> None:
    """And writes go on meanwhile."""
    answers = await asyncio.gather(
        database_of(world).read(endless),
        database_of(world).read(endless),
        world.submit("a"),
        return_exceptions=True,
    )
    assert [isinstance(one, StoreUnavailable) for one in answers] == [True, True, False]
    assert len(await world.search()) == 1


async def test_a_long_read_does_not_see_what_comes_after_it_began(world: World) -> None:
    """One consistent view for all its statements."""
    await world.submit("a")
    began, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(tx: Tx) -> tuple[int, int]:
        first = len(tx.all("SELECT id FROM callbacks"))
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(5)
        return first, len(tx.all("SELECT id FROM callbacks"))

    reading = asyncio.create_task(database_of(world).read(slow))
    await began.wait()
    await world.submit("b")
    go_on.set()
    assert await reading == (1, 1)


async def test_closed_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    async with sqlite_world(tmp_path) as world:
        await world.submit()
    with pytest.raises((StoreError, RuntimeError)):
        await world.submit("late")
