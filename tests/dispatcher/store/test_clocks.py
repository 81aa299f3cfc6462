"""Clocks that were wrong (D20): one that ran ahead and was put right stops nothing; one that is set
ahead takes nothing from who is sending it."""

from typing import Any

import pytest

from dispatcher.engine.sweeper import SLICE
from dispatcher.filters import Filter
from dispatcher.health import CIRCUIT_FAILURES, CIRCUIT_MOST_MS
from dispatcher.outcome import Kind
from dispatcher.policy import Policy, dump
from dispatcher.store.clocks import START, LeaseClock, Place
from tests.dispatcher.store.builders import LEASE_MS, T0, TENANT, URL, World
from tests.dispatcher.store.conftest import Build

HOUR_MS = 3_600_000
SLOW = "http://127.0.0.3:9/slow"  # a server with a rate
YEAR_MS = 365 * 24 * HOUR_MS
HOLD_MS = CIRCUIT_MOST_MS * 6 // 5


async def corrected(world: World, *, trusted: bool = False) -> int:
    """What a sweep corrects, as the sweeper does it."""
    total = 0
    while found := await world.store.bring_back(now_ms=world.now_ms, limit=SLICE):
        total += found
    place: Place | None = START
    while place is not None:
        found, place = await world.store.hasten(
            place, now_ms=world.now_ms, trusted=trusted, limit=2
        )
        total += found
    return total


async def served(world: World, count: int = 4, **more: Any) -> None:
    for n in range(count):
        await world.submit(f"served-{world.now_ms}-{n}", **more)
    for delivery in await world.claim():
        assert await world.settle(delivery)


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, YEAR_MS])
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_clock_put_right_stops_nothing(
    world: World, ahead_ms: int, restarted: bool
) -> None:
    """F2: what waits goes at once, of lanes and tenants that were served in the future, paced by a
    rate too, accepted then or now, after a restart as well; and repairs find nothing to complain
    of."""
    await world.register("rated", rate_per_second=10.0)
    await world.ended("slow", "delivered", url=SLOW)
    await world.change(SLOW, rate_per_second=10.0)
    await served(world)
    world.tick(ahead_ms)
    await served(world)
    await served(world, 1, name="rated")
    await served(world, 1, url=SLOW)
    left = await world.many(3, "left")
    world.tick(-ahead_ms)
    new = [*await world.many(3, "new"), (await world.submit("r", name="rated")).id]
    new.append((await world.submit("s", url=SLOW)).id)
    if restarted:
        await world.reopen()
    assert await corrected(world)
    world.tick(101)  # the pace of ten a second
    assert {one.id for one in await world.claim()} == {*left, *new}
    repaired, _ = await world.store.repair_lanes(now_ms=world.now_ms, after="", limit=100)
    assert repaired == 0
    assert await corrected(world) == 0


@pytest.mark.parametrize("ahead_ms", [HOUR_MS, YEAR_MS])
async def test_a_retry_that_was_put_off_waits_once_more_at_most(
    world: World, ahead_ms: int
) -> None:
    """No longer than the wait after its try, counted from now."""
    policy = dump(Policy(attempts=9, delays=(60.0,), jitter=0))
    one = await world.submit("j", policy=policy)
    world.tick(ahead_ms)
    assert await world.settle(await world.one(), "pending", code=404, due_in_ms=60_000)
    world.tick(-ahead_ms)
    await corrected(world)
    assert (await world.get(one.id)).due_ms == world.now_ms + 60_000
    world.tick(60_000)
    assert (await world.one()).id == one.id


async def test_waits_that_are_meant_stay(world: World) -> None:
    """Retries, what is not to go before a time, holds that a peer asked for, and, as long as no
    clock was wrong, waits that it asked for with other codes."""
    await world.submit("later", not_before_ms=T0 + 6 * 24 * HOUR_MS)
    policy = dump(Policy(attempts=9, delays=(3_600.0,), jitter=0.2))
    await world.submit("retried", policy=policy, url=URL + "/b")
    assert await world.settle(await world.one(), "pending", code=404, due_in_ms=4_320_000)
    await world.submit("asked", url=URL + "/c")
    assert await world.settle(await world.one(), "pending", code=500, due_in_ms=12 * HOUR_MS)
    assert await corrected(world, trusted=True) == 0


@pytest.mark.parametrize("kind", ["timeout", "unreachable"])
async def test_a_hold_lasts_as_long_as_one_of_its_kind_may(world: World, kind: Kind) -> None:
    """A circuit's, of a lane or of its whole server, or one that the peer asked for."""
    world.tick(YEAR_MS)
    await world.submit("a", url=URL + "/a")
    asked: dict[str, Any] = {"code": 503, "due_in_ms": HOUR_MS, "retry_after_ms": HOUR_MS}
    assert await world.settle(await world.one(), "pending", **asked)
    world.tick(-YEAR_MS)
    assert await corrected(world)
    held = await world.destination(URL + "/a")
    assert held.held_until_ms == world.now_ms + 24 * HOUR_MS

    world.tick(YEAR_MS)
    for n in range(CIRCUIT_FAILURES):
        failing = await world.submit(f"b{n}", url="http://127.0.0.2:9/", handover=True)
        assert failing.delivery is not None
        await world.settle(failing.delivery, "dead", kind=kind)
        world.tick(4_000)
    world.tick(-YEAR_MS)
    assert await corrected(world)
    held = await world.destination("http://127.0.0.2:9/")
    assert held.held_until_ms is not None
    assert held.held_until_ms <= world.now_ms + HOLD_MS
    new = await world.submit("c", url="http://127.0.0.2:9/")
    world.tick(HOLD_MS)
    assert [one.id for one in await world.claim()] == [new.id]


async def test_what_ended_in_the_future_can_be_replayed_now(world: World) -> None:
    """A replay's set is what had ended when it was made."""
    world.tick(HOUR_MS)
    await world.ended("j", "dead")
    world.tick(-HOUR_MS)
    counted = await world.store.preview_replay(TENANT, Filter(status="dead"), sample=1)
    assert counted.matched == 0
    assert await corrected(world)
    counted = await world.store.preview_replay(TENANT, Filter(status="dead"), sample=1)
    assert counted.matched == 1


async def test_a_lease_of_a_clock_that_ran_ahead_ends_as_one_given_now(world: World) -> None:
    """I2: a crash at that time strands nothing for as long as the clock was wrong."""
    world.tick(HOUR_MS)
    one = await world.submit("j", handover=True)
    world.tick(-HOUR_MS)
    assert await world.store.reclaim(now_ms=world.now_ms) == 0
    world.tick(70_000)  # the longest time-out and the margin
    assert await world.store.reclaim(now_ms=world.now_ms) == 1
    assert (await world.get(one.id)).state == "pending"


async def test_a_clock_set_ahead_ends_no_lease(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I4: those given before end by the time that passes; then all is as ever."""
    passed_ms = 0
    monkeypatch.setattr("dispatcher.store.store.monotonic_ms", lambda: passed_ms)
    world = await build()
    monkeypatch.setattr("dispatcher.store.store.monotonic_ms", lambda: passed_ms)
    await world.reopen()
    assert await world.store.reclaim(now_ms=world.tick()) == 0
    before = await world.submit("before", handover=True)
    assert await world.store.reclaim(now_ms=world.tick(HOUR_MS)) == 0
    passed_ms += LEASE_MS - 1
    assert await world.store.reclaim(now_ms=world.tick(LEASE_MS - 1)) == 0
    passed_ms += 1
    assert await world.store.reclaim(now_ms=world.tick(1)) == 1
    assert (await world.get(before.id)).state == "pending"


async def test_what_this_process_is_sending_is_never_taken_back(world: World) -> None:
    """I4: whatever the clocks say, by id and fence."""
    one = await world.submit("j", handover=True)
    assert one.delivery is not None
    world.tick(LEASE_MS)
    held = {(one.id, one.delivery.fence)}
    assert await world.store.reclaim(now_ms=world.now_ms, held=held) == 0
    assert await world.store.reclaim(now_ms=world.now_ms, held={(one.id, 7)}) == 1
    assert not await world.settle(one.delivery)


def test_a_lease_clock_does_not_leap_and_forgets_that_it_was_asked_to() -> None:
    at_ms = 0
    clock = LeaseClock(lambda: at_ms, lease_ms_max=70_000)
    assert clock.judge(1_000_000) == 1_000_000
    at_ms += 5_000
    assert clock.judge(1_005_000 + HOUR_MS) == 1_005_000
    at_ms += 5_000
    assert clock.judge(1_010_000) == 1_010_000  # put right again
    at_ms += 5_000
    assert clock.judge(1_015_000 + HOUR_MS) == 1_015_000
    at_ms += 70_000
    assert clock.judge(1_085_000 + HOUR_MS) == 1_085_000 + HOUR_MS
    at_ms += 5_000
    assert clock.judge(1_090_900 + HOUR_MS) == 1_090_900 + HOUR_MS  # small steps are none


async def test_a_servers_hold_and_rate_last_as_long_as_one_may(world: World) -> None:
    """What counts for a whole server, over all its lanes, is brought back as theirs is."""
    other = "http://other.test/hook"
    world.tick(HOUR_MS)
    for n in range(CIRCUIT_FAILURES):
        await world.submit(f"down-{n}", url=f"{URL}/{n}")
    for _ in range(CIRCUIT_FAILURES):
        world.tick(4_000)
        await world.settle(await world.one(), "dead", kind="unreachable")
    assert (await world.destination()).circuit_open
    await world.submit("paced", url=other)
    await world.change(other, rate_per_second=1.0)
    assert await world.settle(await world.one())
    world.tick(-HOUR_MS)
    await world.submit("held")
    await world.submit("again", url=other)
    assert await world.claim() == []
    assert await corrected(world)
    assert await corrected(world) == 0
    shown = await world.destination()
    assert shown.held_until_ms is not None
    assert shown.held_until_ms <= world.now_ms + HOLD_MS
    world.tick(2_000)
    assert [one.job_id for one in await world.claim()] == ["again"]
    world.tick(HOLD_MS)
    assert [one.job_id for one in await world.claim()] == ["held"]
