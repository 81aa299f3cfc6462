"""Why deliveries wait and fail, on every store: what holds them, what their destination answers,
what fails by group, and what became of a replay."""

from dataclasses import replace

import pytest

from dispatcher.filters import Filter
from dispatcher.policy import Verdict
from dispatcher.store.requests import Settlement
from dispatcher.values import FailureGroup, Replay, ReplayOutcomes
from dispatcher.waiting import Wait, wait_of
from tests.dispatcher.store.builders import SERVER, TENANT, URL, World, outcome

NAME = "billing"
HOUR_MS = 3_600_000


async def why(world: World, id: str) -> Wait | None:
    found = await world.get(id)
    return wait_of(found.schedule, found.due_ms, attempts=found.attempts, now_ms=world.now_ms)


async def retry_all(world: World, code: int = 401, due_in_ms: int = HOUR_MS) -> None:
    """Have all that can be claimed fail, to be tried again."""
    for delivery in await world.claim():
        assert await world.settle(delivery, "pending", code=code, due_in_ms=due_in_ms)


# --- what it waits for ---


async def test_a_paused_destination_is_the_reason(world: World) -> None:
    await world.register(NAME)
    await world.change(NAME, paused=True)
    held = (await world.submit(name=NAME)).id
    assert await why(world, held) == Wait("paused")
    await world.change(NAME, paused=False)
    assert await why(world, held) != Wait("paused")


async def test_a_peer_that_asks_for_a_pause_is_the_reason(world: World) -> None:
    first, second = await world.many(2)
    (delivery, *_) = await world.claim(1)
    waiting = ({first, second} - {delivery.id}).pop()
    await world.settle(
        delivery, "pending", code=429, retry_after_ms=9_000, due_in_ms=9_000, spent=False
    )
    assert await why(world, waiting) == Wait("retry-after", world.now_ms + 9_000)
    world.tick(9_001)
    assert await why(world, waiting) != Wait("retry-after", world.now_ms)


async def test_its_own_next_try_is_the_reason(world: World) -> None:
    await world.submit()
    await retry_all(world)
    (id,) = await world.search()
    assert await why(world, id) == Wait("retry", world.now_ms + HOUR_MS)


async def test_the_time_that_was_asked_for_is_the_reason(world: World) -> None:
    until_ms = world.now_ms + HOUR_MS
    later = (await world.submit(not_before_ms=until_ms)).id
    assert await why(world, later) == Wait("not-before", until_ms)


async def test_what_is_final_waits_for_nothing(world: World) -> None:
    id = await world.ended("job-1")
    assert (await world.get(id)).schedule is None


# --- what its destination answers ---


async def test_a_destination_keeps_what_its_last_attempt_met(world: World) -> None:
    """Until the next that is acknowledged; our own faults say nothing."""
    await world.submit("one")
    await retry_all(world, 401, due_in_ms=0)
    assert (await world.destination(SERVER)).last_error == "http_401"
    delivery = await world.one()
    await world.settle(delivery, "pending", kind="interrupted", spent=False)
    assert (await world.destination(SERVER)).last_error == "http_401"
    await world.settle(await world.one(), "delivered")
    assert (await world.destination(SERVER)).last_error is None


async def test_what_was_not_reached_is_kept_for_operators(world: World) -> None:
    """With its class and its reason, beside what the tenant is told."""
    await world.submit()
    delivery = await world.one()
    met = replace(
        outcome(kind="unreachable", now_ms=world.now_ms),
        cause="blocked",
        detail="127.0.0.1 is not allowed: loopback",
    )
    settlement = Settlement(
        delivery=delivery,
        outcome=met,
        verdict=Verdict(state="pending", due_ms=world.now_ms + 1),
        random=0.5,
        now_ms=world.now_ms,
    )
    assert await world.store.settle(settlement)
    (attempt,) = await world.store.attempts(TENANT, delivery.id)
    assert attempt.detail == "blocked: 127.0.0.1 is not allowed: loopback"


# --- what fails ---


def shown(groups: object) -> list[tuple[str | None, str, str | None, int]]:
    assert isinstance(groups, (list, tuple))
    return [
        (one.destination_name, one.state, one.error, one.count)
        for one in groups
        if isinstance(one, FailureGroup)
    ]


async def test_failures_are_grouped_by_destination_and_error(world: World) -> None:
    """Dead ones and those that are tried again, the most first; others are none."""
    await world.register(NAME)
    for n in range(3):
        await world.ended(f"dead-{n}", name=NAME)
    await world.ended("good", "delivered")
    await world.submit("again")
    await retry_all(world, 503)
    await world.submit("fresh", not_before_ms=world.now_ms + HOUR_MS)
    found = await world.store.failures(TENANT, Filter())
    assert found.complete
    assert shown(found.groups) == [
        (NAME, "dead", "http_404", 3),
        (None, "pending", "http_503", 1),
    ]
    assert found.groups[1].url == SERVER
    assert found.groups[0].message == "answered 404"
    assert found.groups[0].oldest < found.groups[0].sample


async def test_failures_are_filtered_as_a_listing_is(world: World) -> None:
    await world.ended("one", tags={"team": "a"})
    await world.ended("two", tags={"team": "b"})
    wanted = Filter(tags=(("team", "a"),))
    assert shown((await world.store.failures(TENANT, wanted)).groups) == [
        (None, "dead", "http_404", 1)
    ]
    assert not (await world.store.failures(TENANT, Filter(status="pending"))).groups
    assert not (await world.store.failures("other", Filter())).groups


async def test_one_look_at_failures_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it did not come to is told."""
    for name in ("SCAN_MAX", "COVERED_MAX"):
        monkeypatch.setattr(f"dispatcher.store.search.{name}", 2)
    for n in range(5):
        await world.ended(f"dead-{n}")
    found = await world.store.failures(TENANT, Filter(job_status="completed"))
    assert not found.complete
    assert sum(one.count for one in found.groups) <= 2


# --- what became of a replay ---


async def make(world: World, wanted: Filter) -> Replay:
    world.tick()
    made = await world.store.make_replay(TENANT, wanted, rate_per_second=None, now_ms=world.now_ms)
    world.tick()
    while made.state == "running":
        made = await world.store.feed_replay(made.id, limit=100, now_ms=world.now_ms)
    return await world.store.get_replay(TENANT, made.id)


async def test_a_replay_knows_what_became_of_it(world: World) -> None:
    """Delivered, failed again for good, to be tried again, and not tried yet."""
    ids = [await world.ended(f"old-{n}") for n in range(4)]
    made = await make(world, Filter(status="dead"))
    assert made.outcomes == ReplayOutcomes(waiting=4)
    deliveries = await world.claim(3)
    for delivery, state in zip(deliveries, ("delivered", "dead", "pending"), strict=True):
        await world.settle(delivery, state, due_in_ms=HOUR_MS)  # type: ignore[arg-type]
    found = await world.store.get_replay(TENANT, made.id)
    assert found.outcomes == ReplayOutcomes(delivered=1, failed=1, retrying=1, waiting=1)
    await world.store.cancel(TENANT, ({*ids} - {one.id for one in deliveries}).pop(),
                             now_ms=world.now_ms)  # fmt: skip
    found = await world.store.get_replay(TENANT, made.id)
    assert found.outcomes == ReplayOutcomes(delivered=1, failed=1, retrying=1, cancelled=1)


async def test_what_another_replay_took_up_is_that_ones(world: World) -> None:
    (id,) = [await world.ended("old")]
    first = await make(world, Filter(status="dead"))
    await world.settle(await world.one(), "dead")
    second = await make(world, Filter(status="dead"))
    assert (await world.store.get_replay(TENANT, first.id)).outcomes == ReplayOutcomes()
    assert second.outcomes == ReplayOutcomes(waiting=1)
    await world.settle(await world.one(), "dead")
    world.tick()
    await world.store.replay(TENANT, id, now_ms=world.now_ms)
    assert (await world.store.get_replay(TENANT, second.id)).outcomes == ReplayOutcomes()


# --- trying now ---


async def test_what_waits_is_tried_now(world: World) -> None:
    """All that waits when it is made: its try comes at once, with what is left of its budget, and
    counts for the replay."""
    await world.many(3)
    await retry_all(world)
    assert await world.claim() == []
    made = await make(world, Filter(status="pending", destination=URL))
    assert (made.matched, made.replayed, made.skipped) == (3, 3, 0)
    claimed = await world.claim()
    assert [delivery.tries for delivery in claimed] == [1, 1, 1]
    assert all(delivery.attempt == 2 for delivery in claimed)


async def test_what_is_not_to_go_yet_is_not_hurried(world: World) -> None:
    """The time that was asked for stays."""
    later = (await world.submit(not_before_ms=world.now_ms + HOUR_MS)).id
    made = await make(world, Filter(status="pending"))
    assert (made.replayed, made.skipped) == (0, 1)
    assert await world.claim() == []
    assert (await world.get(later)).state == "pending"


async def test_what_comes_after_is_not_in_the_set(world: World) -> None:
    await world.submit("one")
    await retry_all(world)
    world.tick()
    made = await world.store.make_replay(
        TENANT, Filter(status="pending"), rate_per_second=None, now_ms=world.now_ms
    )
    world.tick()
    later = (await world.submit("two")).id
    await retry_all(world)
    while made.state == "running":
        made = await world.store.feed_replay(made.id, limit=100, now_ms=world.now_ms)
    assert made.matched == 1
    assert later not in [delivery.id for delivery in await world.claim()]


async def test_trying_now_closes_a_circuit(world: World) -> None:
    """What was held behind it goes out."""
    await world.register(NAME)
    for n in range(25):
        await world.submit(f"job-{n}", name=NAME)
    for _ in range(30):
        for delivery in await world.claim():
            await world.settle(delivery, "pending", code=503, due_in_ms=0)
        world.tick(5_000)
        if (await world.destination(NAME)).circuit_open:
            break
    assert (await world.destination(NAME)).circuit_open
    made = await make(world, Filter(status="pending", destination=NAME))
    assert made.replayed == 25
    assert not (await world.destination(NAME)).circuit_open
    assert await world.claim()
