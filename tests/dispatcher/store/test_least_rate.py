"""A rate near nothing, as earlier versions took one, is the lowest there is: no tenant's limit can
stop what others do (I6)."""

import asyncio
from pathlib import Path

import pytest

from dispatcher.fairness import RATE_MIN
from dispatcher.values import Submitted
from receiver.base.db.sqlite import connect_writer
from tests.dispatcher.postgres import folders
from tests.dispatcher.store.builders import World
from tests.dispatcher.store.conftest import Build

INTERVAL_MS = round(1000 / RATE_MIN)


def store_rate(store_name: str, folder: Path, rate: str) -> None:
    """Store it where nothing checks it."""
    for table in ("destinations", "lanes"):
        sql = f"UPDATE {table} SET rate = {rate} WHERE tenant = 'evil'"
        if store_name == "postgres":
            folders.watcher(folder).execute(sql.encode())
            continue
        connection = connect_writer(folder / "postback.db", busy_ms=5_000)
        connection.execute(sql)
        connection.close()


@pytest.fixture(params=["1e-17", "1e-300", "5e-324"])
async def world(
    request: pytest.FixtureRequest, build: Build, tmp_path: Path, store_name: str
) -> World:
    made = await build()
    await made.register("slow", tenant="evil", rate_per_second=0.5)
    store_rate(store_name, tmp_path / "0", request.param)
    return made


async def test_a_stored_rate_near_nothing_fails_nobody(world: World) -> None:
    """Submits and settlements that share its commits are stored."""
    await world.many(8, "old", tenant="victim")
    claimed = await world.claim()
    answers = await asyncio.gather(
        *(world.submit(f"e{n}", tenant="evil", name="slow") for n in range(10)),
        *(world.submit(f"v{n}", tenant="victim", url=f"http://v{n}.test/") for n in range(10)),
        *(world.settle(one) for one in claimed),
        return_exceptions=True,
    )
    assert all(isinstance(one, Submitted) for one in answers[:20])
    assert answers[20:] == [True] * 8
    assert world.store.queued() == 20


async def test_what_waits_for_it_goes_out_one_in_a_quarter_of_an_hour(world: World) -> None:
    for n in range(3):
        await world.submit(f"e{n}", tenant="evil", name="slow")
    for _ in range(3):
        claimed = await world.claim()
        assert len(claimed) == 1
        assert await world.claim() == []
        await world.settle(claimed[0])
        next_ms = world.next_ready_ms()
        if next_ms is None:
            break
        assert isinstance(next_ms, int)
        assert 0 < next_ms - world.now_ms <= INTERVAL_MS + 1
        world.now_ms = next_ms


async def test_it_is_shown_as_what_it_counts_as(world: World) -> None:
    assert (await world.destination("slow", tenant="evil")).rate_per_second == RATE_MIN
    changed = await world.change("slow", tenant="evil", concurrency=3)
    assert changed.rate_per_second == RATE_MIN
