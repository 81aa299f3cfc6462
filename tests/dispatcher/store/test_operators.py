"""Single deliveries in the hands of operators and of time: replay, cancel, release, reclaim,
take over, expire."""

import asyncio

import pytest

from dispatcher.filters import Filter
from dispatcher.policy import Policy, dump
from dispatcher.store.errors import Conflict, DestinationDisabled, NotFound, PayloadGone
from dispatcher.store.lanes import forget_schedules as forget
from dispatcher.store.requests import Retention
from tests.dispatcher.store.builders import DAY_MS, LEASE_MS, TENANT, URL, World, raises

FOREVER = 10**13


# --- replay ---


@pytest.mark.parametrize("state", ["dead", "delivered"])
async def test_a_replay_sends_the_same_bytes_under_the_same_id_again(
    world: World, state: str
) -> None:
    """I3: same id, same bytes; a fresh budget; the history goes on."""
    body = b'{"a" :\t1}'
    ended = await world.ended("a", state, body=body)  # type: ignore[arg-type]  # parametrised
    world.tick(5)
    shown = await world.store.replay(TENANT, ended, now_ms=world.now_ms)
    assert (shown.state, shown.due_ms, shown.tries) == ("pending", world.now_ms, 0)
    assert (shown.finished_ms, shown.attempts) == (None, 1)
    again = await world.one()
    assert (again.id, again.body, again.attempt, again.tries) == (ended, body, 2, 0)
    assert again.expires_ms == world.now_ms + 604_800_000


async def test_a_cancelled_delivery_can_be_replayed(world: World) -> None:
    one = (await world.submit()).id
    await world.store.cancel(TENANT, one, now_ms=world.now_ms)
    assert (await world.store.replay(TENANT, one, now_ms=world.now_ms)).state == "pending"


async def test_what_is_on_its_way_cannot_be_replayed(world: World) -> None:
    one = (await world.submit()).id
    await raises(Conflict, world.store.replay(TENANT, one, now_ms=world.now_ms))
    await world.one()
    await raises(Conflict, world.store.replay(TENANT, one, now_ms=world.now_ms))


async def test_a_replay_needs_the_payload(world: World) -> None:
    ended = await world.ended("a", "delivered")
    keep = Retention(delivered_payload_ms=0, delivered_ms=FOREVER, dead_ms=FOREVER)
    assert await world.store.prune(keep, now_ms=world.tick(), limit=10) == 1
    await raises(PayloadGone, world.store.replay(TENANT, ended, now_ms=world.now_ms))
    assert (await world.get(ended)).state == "delivered"


async def test_a_replay_to_a_disabled_destination_is_refused(world: World) -> None:
    await world.register("named")
    ended = await world.ended("a", name="named")
    await world.change("named", disabled_reason="test")
    await raises(DestinationDisabled, world.store.replay(TENANT, ended, now_ms=world.now_ms))


@pytest.mark.parametrize("name", [None, "named"])
async def test_a_replay_long_after_its_lane_was_forgotten_is_delivered(
    world: World, name: str | None
) -> None:
    """I2: idle lanes are deleted; a replay brings its own back."""
    if name:
        await world.register(name)
    ended = await world.ended("a", name=name)
    world.tick(2 * DAY_MS)
    assert await world.store.repair_lanes(now_ms=world.now_ms, after="", limit=10) == (0, None)
    await world.store.replay(TENANT, ended, now_ms=world.now_ms)
    again = await world.one()
    assert (again.id, again.url) == (ended, URL)
    assert await world.settle(again)


async def test_a_filtered_replay_brings_forgotten_lanes_back_too(world: World) -> None:
    ended = await world.ended("a")
    world.tick(2 * DAY_MS)
    await world.store.repair_lanes(now_ms=world.now_ms, after="", limit=10)
    made = await world.store.make_replay(
        TENANT, Filter(status="dead"), rate_per_second=None, now_ms=world.now_ms
    )
    await world.store.feed_replay(made.id, limit=10, now_ms=world.tick())
    assert (await world.one()).id == ended


# --- cancel ---


async def test_cancelling_what_waits_ends_it_at_once(world: World) -> None:
    one = (await world.submit()).id
    shown = await world.store.cancel(TENANT, one, now_ms=world.now_ms)
    assert (shown.state, shown.due_ms, shown.finished_ms) == ("cancelled", None, world.now_ms)
    assert await world.claim() == []
    assert world.next_ready_ms() is None


@pytest.mark.parametrize("state", ["dead", "delivered"])
async def test_what_has_ended_cannot_be_cancelled(world: World, state: str) -> None:
    ended = await world.ended("a", state)  # type: ignore[arg-type]  # parametrised
    await raises(Conflict, world.store.cancel(TENANT, ended, now_ms=world.now_ms))


async def test_cancelling_twice_while_sending_is_fine(world: World) -> None:
    one = (await world.submit(handover=True)).id
    for _ in range(2):
        assert (await world.store.cancel(TENANT, one, now_ms=world.now_ms)).state == "sending"


@pytest.mark.parametrize("verb", ["replay", "cancel"])
async def test_another_tenants_callback_is_as_unknown_as_none(world: World, verb: str) -> None:
    """I9."""
    theirs = await world.ended("a")
    act = getattr(world.store, verb)
    told = [
        str(await raises(NotFound, act("other", one, now_ms=world.now_ms)))
        for one in (theirs, "cb_unknown")
    ]
    assert told[0].replace(theirs, "ID") == told[1].replace("cb_unknown", "ID")
    assert (await world.get(theirs)).state == "dead"


# --- leases ---


async def test_released_work_is_due_at_once_and_unspent(world: World) -> None:
    await world.submit()
    one = await world.one()
    await world.store.release([one], now_ms=world.tick())
    again = await world.one()
    assert (again.id, again.tries, again.attempt, again.fence) == (one.id, 0, 1, 2)


async def test_releasing_an_old_claim_changes_nothing(world: World) -> None:
    await world.submit()
    old = await world.one()
    await world.store.release([old], now_ms=world.now_ms)
    new = await world.one()
    await world.store.release([old], now_ms=world.now_ms)
    assert (await world.get(old.id)).state == "sending"
    assert await world.settle(new)


async def test_reclaim_takes_only_what_has_outlived_its_lease(world: World) -> None:
    await world.submit("a")
    await world.one()
    world.tick(1_000)
    await world.submit("b")
    await world.one()
    world.tick(LEASE_MS - 1_000)
    assert await world.store.reclaim(now_ms=world.now_ms) == 1
    assert (await world.one()).job_id == "a"


async def test_take_over_makes_all_that_was_leased_due(world: World) -> None:
    await world.many(5)
    await world.claim()
    await world.reopen()
    assert await world.store.take_over(now_ms=world.let_leases_go()) == 5
    assert len(await world.claim()) == 5


# --- maximum age, and backlogs of disabled ones ---


@pytest.mark.parametrize("held", ["free", "paused", "retry-after"])
async def test_a_delivery_past_its_maximum_age_is_dead_held_or_not(world: World, held: str) -> None:
    old = dump(Policy(attempts=5, max_age=60))
    if held == "retry-after":
        await world.settle(
            (await world.submit("x", handover=True)).delivery,  # type: ignore[arg-type]  # idle
            "dead",
            code=429,
            retry_after_ms=DAY_MS,
        )
    short = (await world.submit("short", policy=old)).id
    long = (await world.submit("long")).id
    if held == "paused":
        await world.change(paused=True)
    assert await world.store.expire(now_ms=world.now_ms + 59_999, limit=10) == 0
    assert await world.store.expire(now_ms=world.now_ms + 60_000, limit=10) == 1
    assert await world.states([short, long]) == ["dead", "pending"]
    assert (await world.get(short)).last_error == "expired"
    assert await world.store.attempts(TENANT, short) == []


async def test_expire_works_in_slices(world: World) -> None:
    await world.many(5)
    later = world.now_ms + 30 * DAY_MS
    assert [await world.store.expire(now_ms=later, limit=2) for _ in range(4)] == [2, 2, 1, 0]


async def test_a_running_attempt_is_not_expired(world: World) -> None:
    await world.submit(handover=True)
    assert await world.store.expire(now_ms=world.now_ms + 30 * DAY_MS, limit=10) == 0


async def test_every_disabled_destinations_backlog_ends_however_many_there_are(
    world: World,
) -> None:
    """I2: those that are empty already do not stand in the way."""
    urls = [f"http://127.0.0.1:9/{n}" for n in range(120)]
    await asyncio.gather(*(world.submit(url, url=url) for url in urls))
    await asyncio.gather(*(world.change(url, disabled_reason="test") for url in urls))
    for _ in range(10):
        await world.store.expire(now_ms=world.now_ms, limit=50)
    assert world.store.queued() == 0


async def test_a_doomed_backlog_ends_in_slices(world: World) -> None:
    await world.many(5)
    await world.change(disabled_reason="test")
    ended = [await world.store.expire(now_ms=world.now_ms, limit=2) for _ in range(4)]
    assert ended == [2, 2, 1, 0]


# --- lanes that disagree, lanes that are idle ---


async def test_mending_walks_all_lanes_in_slices(world: World) -> None:
    for n in range(5):
        await world.submit(str(n), url=f"http://127.0.0.1:9/{n}")
    after: str | None = ""
    walks = 0
    while after is not None:
        repaired, after = await world.store.repair_lanes(now_ms=world.now_ms, after=after, limit=2)
        assert repaired == 0
        walks += 1
    assert walks == 3


async def test_idle_lanes_are_forgotten_and_busy_ones_never(world: World) -> None:
    """I7: also those of a peer that never answered."""
    await world.ended("idle", url="http://idle.test/")
    failed = (await world.submit("failing", url="http://failing.test/", handover=True)).delivery
    assert failed is not None
    await world.settle(failed, "dead", kind="timeout")
    await world.submit("waiting", url="http://waiting.test/")
    await world.change("http://waiting.test", paused=True)
    await world.submit("sending", url="http://sending.test/", handover=True)
    await world.register("kept")
    await world.store.repair_lanes(now_ms=world.tick(2 * DAY_MS), after="", limit=100)
    found, _ = await world.store.destinations(TENANT, after=None, limit=100)
    assert {one.name or one.url for one in found} == {
        "http://waiting.test:80",
        "http://sending.test:80",
        "kept",
    }


# --- tenants' schedules ---


async def scheduled(world: World) -> list[str]:
    """The tenants that have a schedule."""
    rows = await world.store._read(lambda tx: tx.all("SELECT tenant FROM turns ORDER BY tenant"))
    return [row[0] for row in rows]


async def forget_schedules(world: World) -> None:
    """A walk over all of them, in slices."""
    after: str | None = ""
    while after is not None:
        after = await world.store.forget_schedules(now_ms=world.now_ms, after=after, limit=2)


async def test_schedules_of_idle_tenants_are_forgotten(world: World) -> None:
    """Not before they are idle for a day, and none of a tenant with something that waits."""
    for tenant in ("a", "b", "idle-1", "idle-2", "idle-3"):
        await world.submit("1", tenant=tenant)
    for delivery in await world.claim():
        await world.settle(delivery)
    await world.submit("2", tenant="a", not_before_ms=world.now_ms + 10 * DAY_MS)
    await world.change(tenant="b", paused=True)
    await world.submit("2", tenant="b")
    everyone = ["a", "b", "idle-1", "idle-2", "idle-3"]
    world.tick(DAY_MS - 1_000)
    await forget_schedules(world)
    assert await scheduled(world) == everyone
    world.tick(2_000)
    await forget_schedules(world)
    assert await scheduled(world) == ["a", "b"]
    await world.change(tenant="b", paused=False)
    assert [one.tenant for one in await world.claim()] == ["b"]


@pytest.mark.parametrize("lanes", ["kept", "forgotten"])
async def test_what_comes_for_a_forgotten_tenant_is_delivered(world: World, lanes: str) -> None:
    """I2: on the lanes that are still there, and on new ones; fair as ever."""
    await world.ended("first")
    world.tick(2 * DAY_MS)
    if lanes == "forgotten":
        await world.store.repair_lanes(now_ms=world.now_ms, after="", limit=10)
    await forget_schedules(world)
    assert await scheduled(world) == []
    assert world.next_ready_ms() is None
    second = await world.submit("second")
    assert world.next_ready_ms() == world.now_ms
    (delivery,) = await world.claim()
    assert delivery.id == second.id
    assert await world.settle(delivery, "pending", kind="timeout", due_in_ms=2 * DAY_MS)
    await forget_schedules(world)
    assert await scheduled(world) == [TENANT]


async def test_a_schedule_is_not_forgotten_in_the_commit_that_makes_work_ready(
    world: World,
) -> None:
    await world.ended("first")
    world.tick(2 * DAY_MS)
    submitted, _ = await asyncio.gather(
        world.submit("second"),
        world.store._write(lambda tx: forget(tx, [TENANT], now_ms=world.now_ms)),
    )
    assert [one.id for one in await world.claim()] == [submitted.id]


async def test_ready_work_without_a_schedule_is_found_and_gets_one(world: World) -> None:
    """A process of an earlier version makes none for a tenant that it was forgotten of."""
    submitted = await world.submit("1")
    await world.store._write(lambda tx: tx.run("DELETE FROM turns"))
    assert await world.claim() == []
    repaired, _ = await world.store.repair_lanes(now_ms=world.now_ms, after="", limit=10)
    assert repaired == 1
    assert [one.id for one in await world.claim()] == [submitted.id]
    assert await world.store.repair_lanes(now_ms=world.now_ms, after="", limit=10) == (0, None)
