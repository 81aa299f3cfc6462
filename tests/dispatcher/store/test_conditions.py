"""What is written carries the condition that it was decided on: what changed since it was looked at
is left alone, and counted as little (I2, I4)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.ids import destination_id
from dispatcher.store import callbacks, clocks, destinations, expiry
from dispatcher.store.errors import Conflict, NotFound, PayloadGone
from dispatcher.store.requests import Retention
from dispatcher.store.tx import Tx
from receiver.base.db.sqlite import connect_writer
from tests.dispatcher.postgres import folders
from tests.dispatcher.store.builders import LOOKERS, TENANT, World, raises
from tests.dispatcher.store.conftest import Build

NOTHING_KEPT = Retention(delivered_payload_ms=0, delivered_ms=0, dead_ms=0)
PAYLOADS_GO = Retention(delivered_payload_ms=0, delivered_ms=10**12, dead_ms=10**12)
Exact = Callable[[World], None]


@pytest.fixture
def exact(tmp_path: Path, store_name: str) -> Exact:
    """Checks that the counts, those on disk and those in memory, are what the rows are."""

    def check(world: World) -> None:
        look, folder = LOOKERS[store_name], tmp_path / "0"
        rows = look(folder, "SELECT tenant, state, count(*) FROM callbacks GROUP BY 1, 2")
        sums = "SELECT tenant, state, CAST(sum(n) AS bigint) FROM counts GROUP BY 1, 2"
        assert sorted(row for row in look(folder, sums) if row[2]) == sorted(rows)
        waiting = sum(n for _, state, n in rows if state in ("pending", "sending"))
        assert world.store.queued() == waiting

    return check


def run_elsewhere(store_name: str, folder: Path, sql: str) -> None:
    """Run a statement as another program."""
    if store_name == "postgres":
        folders.watcher(folder).execute(sql.encode())
        return
    connection = connect_writer(folder / "postback.db", busy_ms=5_000)
    connection.execute(sql)
    connection.close()


async def written(world: World, act: Callable[[Tx], Any]) -> Any:
    return await world.store._write(act)


async def test_what_is_sending_is_not_ended_by_an_earlier_look(world: World, exact: Exact) -> None:
    """Two looked at as waiting, of which one was claimed meanwhile."""
    first, second = await world.many(2)
    claimed = await world.one()
    assert claimed.id == first
    ended = await written(
        world,
        lambda tx: callbacks.finish(
            tx, [first, second, "cb_gone"], "dead", error="expired", now_ms=world.now_ms
        ),
    )
    assert ended == 1
    assert await world.states([first, second]) == ["sending", "dead"]
    assert await world.settle(claimed)
    exact(world)


async def test_a_lease_is_ended_under_its_own_fence_alone(world: World, exact: Exact) -> None:
    """And once: what was settled, or claimed again, is somebody else's."""
    await world.many(3)
    claimed = await world.claim()
    await world.settle(claimed[0])
    pairs = [(one.id, one.fence) for one in claimed] + [(claimed[1].id, claimed[1].fence + 1)]
    for expected in (2, 0):
        ended = await written(world, lambda tx: expiry._end_leases(tx, pairs, world.now_ms))
        assert ended == expected
    again = await world.claim()
    assert [one.fence for one in again] == [2, 2]
    assert await written(world, lambda tx: expiry._end_leases(tx, pairs, world.now_ms)) == 1
    exact(world)


async def test_what_was_cancelled_while_it_was_sent_ends_with_its_lease(
    world: World, exact: Exact
) -> None:
    (one,) = await world.many(1)
    claimed = await world.one()
    await world.store.cancel(TENANT, one, now_ms=world.now_ms)
    await world.store.release([claimed, claimed], now_ms=world.now_ms)
    assert await world.states([one]) == ["cancelled"]
    exact(world)


async def test_a_replay_decided_on_an_earlier_look_is_refused(world: World, exact: Exact) -> None:
    """By what is true when it writes: it was replayed already, its payload is gone, or all is."""
    one = await world.ended("a", "delivered")
    before = await world.get(one)

    async def late() -> None:
        def act(tx: Tx) -> None:
            callbacks.make_pending(tx, before, before.lane, class_number=None, now_ms=world.now_ms)

        await written(world, act)

    await world.store.replay(TENANT, one, now_ms=world.now_ms)
    await raises(Conflict, late())
    await world.settle(await world.one(now_ms=world.tick()))
    assert await world.store.prune(PAYLOADS_GO, now_ms=world.tick(), limit=10) == 1
    await raises(PayloadGone, late())
    assert await world.store.prune(NOTHING_KEPT, now_ms=world.tick(), limit=10) == 1
    await raises(NotFound, late())
    exact(world)


async def test_only_what_waits_as_it_did_is_hastened(world: World, exact: Exact) -> None:
    late = []
    for n in range(3):
        await world.submit(f"j{n}", url=f"http://h{n}.test/")
        delivery = await world.one()
        await world.settle(delivery, "pending", due_in_ms=10**9)
        due_ms = world.now_ms + 10**9
        late.append(clocks.Late(delivery.id, delivery.lane, due_ms, world.now_ms))
    await world.store.cancel(TENANT, late[0].id, now_ms=world.now_ms)
    late[1] = clocks.Late(late[1].id, late[1].lane, late[1].due_ms - 1, world.now_ms)
    assert await written(world, lambda tx: clocks.hasten(tx, late)) == 1
    exact(world)


async def test_what_has_no_payload_is_ended_when_it_is_claimed(
    build: Build, tmp_path: Path, store_name: str, exact: Exact
) -> None:
    """I2: not found due again and again. Its neighbours go out, and nothing is due afterwards."""
    world = await build()
    ids = await world.many(3)
    run_elsewhere(store_name, tmp_path / "0", f"DELETE FROM payloads WHERE callback = '{ids[1]}'")
    claimed = await world.claim()
    # Of one millisecond: the planner has which is first, and the server may plan anew at any time.
    assert sorted(one.id for one in claimed) == [ids[0], ids[2]]
    assert await world.states(ids) == ["sending", "dead", "sending"]
    assert (await world.get(ids[1])).last_error == "payload_gone"
    assert world.next_ready_ms() is None
    for one in claimed:
        await world.settle(one)
    assert await world.claim() == []
    exact(world)


async def test_a_destination_that_is_removed_twice_at_once_is_made_anew_once(
    world: World, exact: Exact
) -> None:
    """Its lanes are not taken from who brought it back at this moment."""
    await world.ended("a", "delivered", url="http://h.test/1")
    await world.store.remove_destination(TENANT, "http://h.test", now_ms=world.now_ms)
    (one,) = await world.many(1, "again", url="http://h.test/2")

    def forget_late(tx: Tx) -> bool:
        where = destination_id(TENANT, url="http://h.test/")
        tx.run("UPDATE callbacks SET destination = ? WHERE id = ?", "elsewhere", one)
        gone = destinations.forget(tx, where)
        lanes = tx.all("SELECT count(*) FROM lanes WHERE id > ?", where)
        tx.run("UPDATE callbacks SET destination = ? WHERE id = ?", found.lane, one)
        return gone and bool(lanes[0][0])

    found = await world.get(one)
    assert await written(world, forget_late)
    assert (await world.one()).id == one
    exact(world)
