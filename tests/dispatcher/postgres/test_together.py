"""Several stores on one database: limits hold over all of them, work and changes reach all of them,
and clocks that differ do no harm (I4, D16)."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dispatcher.access import SCOPES, Access, Principal, Unauthorized
from dispatcher.filters import Filter
from dispatcher.ids import lane_id
from dispatcher.keys import Limits, new_text
from dispatcher.settings import Settings
from dispatcher.store.errors import Conflict, StoreError, TenantErasing
from dispatcher.store.lanes import forget_schedules
from dispatcher.store.postgres.database import PostgresDatabase, inspect
from dispatcher.store.postgres.session import skew_ms
from dispatcher.store.store import Store
from dispatcher.values import Delivery
from receiver.base.clock import monotonic_ms, now_ms
from tests.dispatcher.postgres import folders
from tests.dispatcher.store.builders import LEASE_MS, TENANT, URL, World, raises, secret

HOUR_MS = 3_600_000


class Together:
    """Stores that are open at once; each has a world, and a clock that may be wrong."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.worlds: list[World] = []

    async def join(
        self, *, ahead_ms: int = 0, on_access: Callable[[], None] = lambda: None, **changes: Any
    ) -> World:
        """One more process, whose clock is ahead of the others'."""

        def make() -> Any:
            settings = Settings(database_url=self.url, **changes)
            database = PostgresDatabase(settings, clock=lambda: now_ms() + ahead_ms)
            return Store(database, settings)

        world = World(
            make=make,
            store=make(),
            now_ms=now_ms() + ahead_ms,
            on_access=on_access,
        )
        await world.open()
        self.worlds.append(world)
        return world


@pytest.fixture
async def together(tmp_path: Path) -> AsyncIterator[Together]:
    joined = Together(folders.url_for(tmp_path, used=True))
    yield joined
    for world in joined.worlds:
        await world.store.close()
    assert deadlocks(joined.url) == 0
    folders.empty_under(tmp_path)


def deadlocks(url: str) -> int:
    """How often the server had to end a circle of waiting: each stops deliveries for a second."""
    sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    with psycopg.connect(url) as connection:
        found = connection.execute(sql).fetchone()
    return int(found[0]) if found else 0


async def until(true: Callable[[], bool]) -> None:
    """There is no event for what a background task of another store does."""
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def all_held(worlds: list[World], held: list[list[Delivery]]) -> list[str]:
    return [one.id for part in held for one in part]


# --- limits ---


async def test_racing_claims_lease_everything_once(together: Together) -> None:
    """I4."""
    worlds = [await together.join(slots=1_000) for _ in range(3)]
    for n in range(10):
        await worlds[0].many(8, f"job-{n}", url=f"http://host-{n}.test/")
    got: list[str] = []
    while worlds[0].store.queued() and len(got) < 80:
        for part in await asyncio.gather(*(world.claim(7) for world in worlds)):
            got += [one.id for one in part]
    assert len(got) == len(set(got)) == 80


async def test_racing_hand_overs_stay_within_one_window(together: Together) -> None:
    """A lane that nobody has seen yet has eight slots, however many processes meet it at once."""
    worlds = [await together.join() for _ in range(3)]
    for n in range(5):
        submits = [
            world.submit(f"job-{n}-{who}-{m}", url=f"http://host-{n}.test/", handover=True)
            for who, world in enumerate(worlds)
            for m in range(10)
        ]
        answers = await asyncio.gather(*submits)
        assert sum(one.delivery is not None for one in answers) == 8
        shown = await worlds[0].destination(f"http://host-{n}.test")
        assert (shown.sending, shown.backlog) == (8, 22)


async def test_racing_leases_stay_within_their_servers_bound(together: Together) -> None:
    """On different lanes of one server, by direct dispatch and by claims."""
    worlds = [await together.join() for _ in range(3)]
    await worlds[0].submit("first", url="http://host.test/", handover=True)
    await worlds[0].change("http://host.test", concurrency=5)
    for n in range(5):
        submits = [
            world.submit(f"job-{n}-{who}-{m}", url=f"http://host.test/{n}/{m}", handover=True)
            for who, world in enumerate(worlds)
            for m in range(8)
        ]
        await asyncio.gather(*submits)
        await asyncio.gather(*(world.claim(now_ms=now_ms() + 1) for world in worlds))
        assert (await worlds[0].destination("http://host.test")).sending <= 5
    for _ in range(100):
        await asyncio.gather(*(world.claim(now_ms=now_ms() + 1) for world in worlds))
    assert (await worlds[0].destination("http://host.test")).sending == 5


async def test_one_key_is_stored_once_whoever_takes_it(together: Together) -> None:
    worlds = [await together.join() for _ in range(3)]
    answers = await asyncio.gather(
        *(world.submit(f"a-{n % 5}", key=f"k-{n % 5}") for n in range(20) for world in worlds)
    )
    assert len({one.id for one in answers}) == 5
    assert sum(not one.duplicate for one in answers) == 5


async def test_keys_in_opposite_orders_do_not_lock_each_other_out(together: Together) -> None:
    """No batch waits in a circle, whatever lanes and keys it touches in which order."""
    worlds = [await together.join() for _ in range(2)]
    for turn in range(10):
        numbers = list(range(20))
        submits = []
        for world in worlds:
            submits += [
                world.submit(f"{turn}-{n}", key=f"{turn}-{n}", url=f"{URL}/{n % 7}")
                for n in numbers
            ]
            numbers.reverse()
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*submits)
        assert sum(not one.duplicate for one in answers) == 20


async def test_who_waits_for_another_to_make_a_lane_holds_none(together: Together) -> None:
    """Else two processes that make lanes, each beside some that it holds, wait in a circle."""
    world = await together.join()
    known, new = "http://known.test/", "http://new.test/"
    await world.submit("first", url=known)
    await world.submit("second", url="http://other.test/")
    copied = "INSERT INTO {0} SELECT (json_populate_record(t, %s)).* FROM {0} t WHERE id = %s"
    lane = lane_id(TENANT, "http://other.test/")
    async with await psycopg.AsyncConnection.connect(together.url) as other:
        made = json.dumps({"id": lane_id(TENANT, new)})
        await other.execute(copied.format("lanes").encode(), (made, lane))
        both = asyncio.gather(world.submit("known", url=known), world.submit("new", url=new))
        await until_waiting(together.url)
        held = "SELECT 1 FROM lanes WHERE id = %s FOR UPDATE NOWAIT"
        assert await (await other.execute(held, (lane_id(TENANT, known),))).fetchone()
    assert [one.state for one in await both] == ["pending", "pending"]


async def until_waiting(url: str) -> None:
    """Until some session waits for a lock."""
    sql = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as looking:
        async with asyncio.timeout(60):
            while True:
                found = await (await looking.execute(sql)).fetchone()
                if found and found[0]:
                    return
                await asyncio.sleep(0.01)


async def test_every_verb_at_once_from_all_sides(together: Together, tmp_path: Path) -> None:
    """There is no deadlock, not even one that is repaired, and the counts are exact in the end."""
    worlds = [await together.join() for _ in range(3)]

    async def live(world: World, who: int) -> None:
        for n in range(15):
            submits = [
                world.submit(f"{who}-{n}-{m}", url=f"{URL}/{m}", handover=m % 2 == 0)
                for m in range(4)
            ]
            answers = await asyncio.gather(*submits)
            claimed, *_ = await asyncio.gather(
                world.claim(20),
                world.store.expire(now_ms=world.now_ms, limit=10),
                world.store.reclaim(now_ms=world.now_ms),
                world.store.repair_lanes(now_ms=world.now_ms, after="", limit=100),
                _cancelled(world, answers[1].id),
            )
            ours = [*claimed, *(one.delivery for one in answers if one.delivery)]
            await asyncio.gather(*(world.settle(one) for one in ours))

    async with asyncio.timeout(60):
        await asyncio.gather(*(live(world, who) for who, world in enumerate(worlds)))
        for world in worlds:
            for delivery in await world.claim(100):
                await world.settle(delivery)
    stats = await worlds[0].store.stats(None)
    assert (stats.counts["pending"], stats.counts["sending"]) == (0, 0)
    assert sum(stats.counts.values()) == 3 * 15 * 4
    repaired = await worlds[0].store.repair_lanes(now_ms=worlds[0].now_ms, after="", limit=100)
    assert repaired == (0, None)
    watcher = folders.watcher(tmp_path)
    sql = b"SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert watcher.execute(sql).fetchone() == (0,)


async def test_schedules_that_go_meanwhile_leave_nothing_behind(together: Together) -> None:
    """I2: several tenants' go at one process while their work becomes ready at others; nobody
    waits in a circle (`together`)."""
    *worlds, other = [await together.join() for _ in range(4)]
    tenants = [f"tenant-{n}" for n in range(4)]
    later_ms = other.now_ms + 2 * 24 * HOUR_MS  # by which all are idle that have nothing ready

    async def live(world: World, who: int) -> None:
        for n in range(40):
            chosen = tenants[n % 2 :: 1 + n % 3]
            submits = [world.submit(f"{who}-{n}-{one}", tenant=one, url=URL) for one in chosen]
            await asyncio.gather(*submits)
            await drained(world)

    async def forget() -> int:
        rounds = 0
        while any(not one.done() for one in living):
            await other.store._write(lambda tx: forget_schedules(tx, tenants, now_ms=later_ms))
            rounds += 1
        return rounds

    async with asyncio.timeout(60):
        living = [asyncio.create_task(live(world, who)) for who, world in enumerate(worlds)]
        assert await forget() > 40
        await asyncio.gather(*living)
        while await drained(worlds[0]):
            pass
    stats = await worlds[0].store.stats(None)
    assert (stats.counts["pending"], stats.counts["sending"]) == (0, 0)
    assert stats.counts["delivered"] > 0
    repaired = await worlds[0].store.repair_lanes(now_ms=worlds[0].now_ms, after="", limit=100)
    assert repaired == (0, None)


async def drained(world: World) -> int:
    """How many more were there to deliver."""
    deliveries = await world.claim(100, now_ms=now_ms())
    for delivery in deliveries:
        await world.settle(delivery)
    return len(deliveries)


async def _cancelled(world: World, callback: str) -> None:
    with suppress(StoreError):
        await world.store.cancel(TENANT, callback, now_ms=world.now_ms)


async def test_a_rate_holds_over_all_processes(together: Together) -> None:
    worlds = [await together.join() for _ in range(2)]
    await worlds[0].register("paced", rate_per_second=0.01, concurrency=100)
    await worlds[0].many(30, name="paced")
    got = [await world.claim(now_ms=world.now_ms + 1_000) for world in worlds]
    assert len(all_held(worlds, got)) == 1


async def test_a_hold_is_everybodys(together: Together) -> None:
    """A `Retry-After` that one process got stops all of them."""
    one, other = await together.join(), await together.join()
    await one.many(5)
    await one.settle(await one.one(), "dead", code=503, retry_after_ms=60_000)
    assert await other.claim() == []
    assert (await other.submit("new", handover=True)).delivery is None


# --- what reaches the others ---


async def test_work_that_one_cannot_take_wakes_the_others(together: Together) -> None:
    one, other = await together.join(), await together.join()
    await asyncio.sleep(0.05)  # the other listens by now; else it finds out within a second
    other.ready.clear()
    await one.submit("a")
    await until(lambda: any(ready is not None for ready in other.ready))
    assert len(await other.claim(now_ms=now_ms() + 1)) == 1


async def test_a_key_revoked_in_one_process_is_refused_in_all(together: Together) -> None:
    heard = asyncio.Event()
    one, other = await together.join(), await together.join(on_access=heard.set)
    settings = Settings(database_url=together.url)
    here, there = Access(one.store, settings), Access(other.store, settings)
    await here.bootstrap()
    await there.bootstrap()
    heard.clear()
    key, text = await here.make_key(tenant="acme", scopes=["read"], label="test")
    async with asyncio.timeout(60):
        await heard.wait()
    await there.reload()
    assert (await there.principal(f"Bearer {text}")).key_id == key.id
    heard.clear()
    await here.remove_key(key.id, None)
    async with asyncio.timeout(60):
        await heard.wait()
    await there.reload()
    assert key.id not in {one.id for one in there.keys(None)}


async def test_a_new_text_is_good_everywhere_before_others_have_heard_of_it(
    together: Together,
) -> None:
    """Whoever gets one uses it at once, and need not meet the process that made it; one that was
    revoked meanwhile is no good for that."""
    one, other = await together.join(), await together.join()
    settings = Settings(database_url=together.url)
    here, there = Access(one.store, settings), Access(other.store, settings)
    await here.bootstrap()
    await there.bootstrap()
    key, text = await here.make_key(tenant="acme", scopes=["read"], label="test")
    admin = Principal(key_id=key.id, tenant=None, scopes=SCOPES)
    assert (await there.principal(f"Bearer {text}")).key_id == key.id
    _, rotated = await here.rotate_key(key.id, admin)
    for one_text in (rotated, text):
        assert (await there.principal(f"Bearer {one_text}")).key_id == key.id
    await here.remove_key(key.id, None)
    await there.reload()
    for one_text in (rotated, text):
        await raises(Unauthorized, there.principal(f"Bearer {one_text}"))


async def test_keys_that_nobody_knows_are_looked_for_a_few_times_a_second(
    together: Together,
) -> None:
    """However many come: guessing costs the database next to nothing."""
    one = await together.join()
    looks = 0
    key_of = one.store.key_of

    async def counted(digest: bytes) -> Any:
        nonlocal looks
        looks += 1
        return await key_of(digest)

    setattr(one.store, "key_of", counted)  # noqa: B010  # to count
    access = Access(one.store, Settings(database_url=together.url), monotonic_ms=lambda: 1_000)
    await access.bootstrap()
    for _ in range(100):
        await raises(Unauthorized, access.principal(f"Bearer {new_text()}"))
    assert looks == 10


async def test_the_doctor_finds_the_keys_that_end(together: Together) -> None:
    """Those that end first, first; those without an end are none of them."""
    one = await together.join()
    access = Access(one.store, Settings(database_url=together.url))
    await access.bootstrap()
    for ends_ms in (3, None, 2):
        limits = Limits(expires_ms=ends_ms, rate_per_second=1)
        await access.make_key(tenant=None, scopes=["read"], label=f"l{ends_ms}", limits=limits)
    ending = inspect(together.url).ending_keys
    assert [(key.label, key.expires_ms) for key in ending] == [("l2", 2), ("l3", 3)]


async def test_counts_are_everybodys(together: Together) -> None:
    one, other = await together.join(), await together.join()
    await asyncio.gather(one.many(5, "a"), other.many(7, "b"))
    await until(lambda: one.store.queued() == other.store.queued() == 12)
    stats = await other.store.stats(TENANT)
    assert stats.counts["pending"] == 12


async def test_a_replay_is_fed_by_one_process_until_it_is_gone(together: Together) -> None:
    one, other = await together.join(), await together.join()
    for n in range(6):
        await one.ended(f"dead-{n}", url=f"{URL}/{n}")
    made = await one.store.make_replay(
        TENANT, Filter(status="dead"), rate_per_second=None, now_ms=now_ms() + 1_000
    )
    fed = await one.store.feed_replay(made.id, limit=2, now_ms=one.now_ms)
    assert fed.replayed == 2
    await raises(Conflict, other.store.feed_replay(made.id, limit=2, now_ms=other.now_ms))
    assert not await other.store.feeds_replays()
    await one.store.close()
    together.worlds.remove(one)
    async with asyncio.timeout(60):  # the server may need a moment to see that the session ended
        while not await other.store.feeds_replays():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    await other.store.feed_replay(made.id, limit=2, now_ms=now_ms())
    assert (await other.store.get_replay(TENANT, made.id)).replayed == 4


# --- tenants ---


async def test_a_tenants_limits_and_its_end_are_everybodys(
    together: Together, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one process sets or counts the others know, and one erases for all."""
    monkeypatch.setattr("dispatcher.store.tenants.HEARD_MS", 0)
    one, other = await together.join(), await together.join()
    await one.store.ensure_tenant(TENANT, secret())
    settings = Settings(database_url=together.url)
    here, there = Access(one.store, settings), Access(other.store, settings)
    await here.reload()
    await one.many(5, "a")
    await until(lambda: other.store.stored_bytes(TENANT) == one.store.stored_bytes(TENANT) > 0)
    await here.change_tenant(TENANT, {"queue_max": 5})
    await there.reload()
    known = there.tenant(TENANT)
    assert known is not None
    assert known.queue_max == 5
    await here.erase_tenant(TENANT)
    await there.reload()
    await raises(TenantErasing, there.ensure_tenant(TENANT))
    while await one.store.erase(TENANT, now_ms=now_ms(), limit=2) == "going on":
        assert await other.store.erase(TENANT, now_ms=now_ms(), limit=2) == "another's"
    assert await one.store.erase(TENANT, now_ms=now_ms(), limit=2) == "done"
    await there.reload()
    assert there.tenant(TENANT) is None
    await until(lambda: other.store.stored_bytes(TENANT) == other.store.queued(TENANT) == 0)


# --- clocks ---


def test_clocks_that_could_be_equal_are_taken_as_equal() -> None:
    assert skew_ms(1_000, 1_001, 1_002) == 0
    assert skew_ms(1_000, 900, 1_002) == 0
    assert skew_ms(1_000, 1_102, 1_002) == 0
    assert skew_ms(1_000, 5_001, 1_002) == 4_000
    assert skew_ms(10_000, 1_001, 10_002) == -9_000


@pytest.mark.parametrize("ahead_ms", [-HOUR_MS, HOUR_MS, 30 * HOUR_MS])
async def test_a_host_whose_clock_is_wrong_does_no_harm(
    together: Together, monkeypatch: pytest.MonkeyPatch, ahead_ms: int
) -> None:
    """Neither takes it others' leases, nor does it hold work back, nor send it early."""
    passed_ms = 0
    monkeypatch.setattr("dispatcher.store.store.monotonic_ms", lambda: monotonic_ms() + passed_ms)
    right, wrong = await together.join(), await together.join(ahead_ms=ahead_ms)
    mine = await right.submit("a", handover=True)
    assert await wrong.store.reclaim(now_ms=now_ms() + ahead_ms) == 0
    assert await wrong.store.expire(now_ms=now_ms() + ahead_ms, limit=10) == 0
    theirs = await wrong.submit("b", now_ms=now_ms() + ahead_ms)
    (taken,) = await right.claim(now_ms=now_ms() + 200)
    assert taken.id == theirs.id
    wrong.now_ms = now_ms() + ahead_ms
    held = await wrong.submit("c", handover=True)
    assert held.delivery is not None
    assert await right.store.reclaim(now_ms=now_ms()) == 0
    passed_ms = LEASE_MS + 200
    assert await right.store.reclaim(now_ms=now_ms() + LEASE_MS + 200) == 3
    assert mine.delivery is not None
    assert not await right.settle(mine.delivery)
    wrong.now_ms = now_ms() + ahead_ms
    again = await wrong.claim(now_ms=now_ms() + ahead_ms + LEASE_MS + 400)
    assert {one.id for one in again} == {mine.id, theirs.id, held.id}
    first = again[0]
    assert abs(first.expires_ms - (now_ms() + ahead_ms) - 604_800_000) < 60_000
    wrong.now_ms = now_ms() + ahead_ms
    assert await wrong.settle(first, "pending", due_in_ms=60_000)
    shown = await right.get(first.id)
    assert shown.due_ms is not None
    assert abs(shown.due_ms - now_ms() - 60_000) < 5_000


async def test_the_store_says_when_work_is_ready_by_its_own_clock(together: Together) -> None:
    wrong = await together.join(ahead_ms=HOUR_MS)
    await wrong.submit("a")
    ready_ms = wrong.next_ready_ms()
    assert ready_ms is not None
    assert abs(ready_ms - (now_ms() + HOUR_MS)) < 5_000


async def test_secrets_rotate_once_at_a_time(together: Together) -> None:
    """Two rotations at once from two processes: one wins, and one secret signs."""
    one, other = await together.join(), await together.join()
    await one.store.ensure_tenant(TENANT, secret())
    answers = await asyncio.gather(
        *(
            world.store.rotate_secret(secret(), overlap_ms=60_000, force=False, now_ms=now_ms())
            for world in (one, other)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, StoreError) for answer in answers) == 1
    found = await one.store.secrets(TENANT)
    assert sum(secret.expires_ms is None for secret in found) == 1
