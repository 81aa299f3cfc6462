"""Retention: payloads, then rows, each after its own period; what waits is never touched; the
file gives its space back."""

import asyncio
from pathlib import Path

import pytest

from dispatcher.filters import Filter
from dispatcher.store.errors import NotFound, PayloadGone
from dispatcher.store.requests import Retention
from tests.dispatcher.store.builders import DAY_MS, TENANT, World, raises
from tests.dispatcher.store.conftest import Build

KEEP = Retention(delivered_payload_ms=7 * DAY_MS, delivered_ms=30 * DAY_MS, dead_ms=90 * DAY_MS)


async def prune(world: World, limit: int = 1_000) -> int:
    return await world.store.prune(KEEP, now_ms=world.now_ms, limit=limit)


async def test_each_period_is_kept_to_the_millisecond(world: World) -> None:
    delivered = await world.ended("delivered", "delivered", tags={"t": "1"})
    dead = await world.ended("dead", "dead", tags={"t": "1"})
    cancelled = (await world.submit("cancelled")).id
    await world.store.cancel(TENANT, cancelled, now_ms=world.now_ms)
    ended_ms = world.now_ms

    async def at(ms: int) -> int:
        world.now_ms = ended_ms + ms
        return await prune(world)

    assert await at(7 * DAY_MS) == 0
    assert await at(7 * DAY_MS + 1) == 2
    for one in (delivered, cancelled):
        await raises(PayloadGone, world.store.payload(TENANT, one))
    assert len(await world.store.attempts(TENANT, delivered)) == 1
    assert await at(30 * DAY_MS) == 0
    assert await at(30 * DAY_MS + 1) == 2
    for one in (delivered, cancelled):
        await raises(NotFound, world.get(one))
    assert await at(90 * DAY_MS) == 0
    assert (await world.store.payload(TENANT, dead)).body
    assert await at(90 * DAY_MS + 1) == 1
    await raises(NotFound, world.get(dead))
    assert await world.search(tags=(("t", "1"),)) == []
    stats = await world.store.stats(TENANT)
    assert set(stats.counts.values()) == {0}


async def test_what_waits_or_is_under_way_is_never_pruned(world: World) -> None:
    waiting = (await world.submit("waiting")).id
    await world.change(paused=True)
    under_way = (await world.submit("sending", url="http://other.test/b", handover=True)).id
    world.tick(10_000 * DAY_MS)
    assert await prune(world) == 0
    assert await world.states([waiting, under_way]) == ["pending", "sending"]
    assert (await world.store.payload(TENANT, waiting)).body


async def test_a_replay_begins_its_period_anew(world: World) -> None:
    ended = await world.ended("a", "delivered")
    world.tick(6 * DAY_MS)
    await world.store.replay(TENANT, ended, now_ms=world.now_ms)
    assert await world.settle(await world.one())
    world.tick(6 * DAY_MS)
    assert await prune(world) == 0
    assert (await world.store.payload(TENANT, ended)).body


async def test_pruning_goes_in_slices_oldest_first(world: World) -> None:
    ids = []
    for n in range(5):
        ids.append(await world.ended(str(n), "delivered"))
        world.tick()
    world.tick(8 * DAY_MS)
    assert await prune(world, 2) == 2
    pruned = [(await world.get(one)).payload_pruned for one in ids]
    assert pruned == [True, True, False, False, False]
    assert [await prune(world, 2) for _ in range(3)] == [2, 1, 0]


async def test_the_key_of_a_pruned_callback_is_free(world: World) -> None:
    first = await world.ended("a", "delivered", key="k")
    world.tick(31 * DAY_MS)
    while await prune(world):
        pass
    again = await world.submit("a", key="k")
    assert not again.duplicate
    assert again.id != first


@pytest.mark.parametrize("store_name", ["sqlite"])  # the other one's files are its server's
async def test_the_file_gives_space_back(build: Build, tmp_path: Path) -> None:
    """I7."""
    world = await build()
    body = b"x" * 50_000
    for n in range(6):
        await asyncio.gather(
            *(world.submit(f"{n}-{m}", body=body, handover=False) for m in range(20))
        )
    await world.reopen()  # what is in the log goes to the file
    file = tmp_path / "0" / "postback.db"
    full = file.stat().st_size
    used = world.store.usage().used_bytes
    assert full > 120 * 50_000
    while claimed := await world.claim():
        for one in claimed:
            await world.settle(one)
    world.tick(8 * DAY_MS)
    while await prune(world, 50):
        pass
    given = []
    while pages := await world.store.shrink(pages=200):
        given.append(pages)
    assert sum(given) > 1_000
    assert set(given[:-1]) == {200}  # not a page a call
    await world.reopen()
    assert file.stat().st_size < full / 5
    assert world.store.usage().used_bytes < used / 5


async def test_ended_replays_are_forgotten_with_the_dead(world: World) -> None:
    """A replay's record goes after the period of the dead it may have been about, never before,
    and never while it runs."""
    made = await world.store.make_replay(
        TENANT, Filter(status="dead"), rate_per_second=None, now_ms=world.now_ms
    )
    world.tick(KEEP.dead_ms)
    await prune(world)
    assert (await world.store.get_replay(TENANT, made.id)).state == "done"
    world.tick()
    await prune(world)
    await raises(NotFound, world.store.get_replay(TENANT, made.id))


async def test_a_slice_of_retention_ends_no_more_records_than_it_may(world: World) -> None:
    """I7: however many replays there were, and however many run."""
    await world.ended("dead", "dead")
    wanted = Filter(status="delivered")
    for _ in range(5):
        await world.store.make_replay(TENANT, wanted, rate_per_second=None, now_ms=world.now_ms)
    running = await world.store.make_replay(
        TENANT, Filter(job_id="dead", status="dead"), rate_per_second=None, now_ms=world.now_ms
    )
    world.tick(KEEP.dead_ms + 1)
    assert [await prune(world, 2) for _ in range(4)] == [2, 2, 2, 0]
    assert (await world.store.get_replay(TENANT, running.id)).state == "running"


@pytest.mark.parametrize("store_name", ["sqlite"], indirect=True)
async def test_the_file_is_cut_even_where_little_is_written_afterwards(
    build: Build, tmp_path: Path
) -> None:
    """I7: not only when the log is full, which may be far."""
    world = await build()
    for n in range(100):
        await world.submit(f"j-{n}", body=b"x" * 100_000)
    await world.reopen()
    while claimed := await world.claim():
        for one in claimed:
            await world.settle(one)
    world.tick(8 * DAY_MS)
    while await prune(world):
        pass
    while await world.store.shrink(pages=256):
        pass
    assert (tmp_path / "0" / "postback.db").stat().st_size < 5 * 2**20
