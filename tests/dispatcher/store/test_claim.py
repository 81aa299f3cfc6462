"""Claim: what is due, once, in an order that is fair to classes, tenants and lanes (D5)."""

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from dispatcher.filters import Filter
from dispatcher.values import Delivery
from tests.dispatcher.store.builders import PLENTY, TENANT, URL, World
from tests.dispatcher.store.conftest import Build


def urls(count: int) -> list[str]:
    """As many servers."""
    return [f"http://lane-{n:05}.test/hook" for n in range(count)]


def jobs(deliveries: list[Delivery]) -> list[str]:
    return [one.job_id for one in deliveries]


async def replaying(world: World, count: int, url: str) -> None:
    """`count` deliveries wait in the class of replays."""
    for n in range(count):
        await world.ended(f"replay-{n}", url=url)
    made = await world.store.make_replay(
        TENANT,
        Filter(status="dead"),
        rate_per_second=None,
        now_ms=world.now_ms,
    )
    await world.store.feed_replay(made.id, limit=1_000, now_ms=world.tick())


# --- what a claim is ---


async def test_work_is_leased_once(world: World) -> None:
    """I4: concurrent claims never get the same delivery."""
    for url in urls(20):
        await world.many(3, url=url, prefix=url)
    ids: list[str] = []
    for _ in range(20):
        for got in await asyncio.gather(*(world.claim(10) for _ in range(5))):
            ids += (one.id for one in got)
    assert len(ids) == len(set(ids)) == 60


async def test_a_claim_never_gets_more_than_its_slots(world: World) -> None:
    for url in urls(5):
        await world.many(5, url=url, prefix=url)
    for slots in (1, 2, 7, 3):
        assert len(await world.claim(slots)) == slots


async def test_claim_numbers_only_grow(world: World) -> None:
    await world.submit()
    seen = []
    for _ in range(3):
        delivery = await world.one()
        seen.append(delivery.fence)
        await world.store.release([delivery], now_ms=world.tick())
    assert seen == [1, 2, 3]


async def test_work_is_due_when_it_says_and_not_before(world: World) -> None:
    await world.submit()
    await world.settle(await world.one(), "pending", due_in_ms=5_000)
    world.tick(4_999)
    assert await world.claim() == []
    assert world.next_ready_ms() == world.now_ms + 1
    world.tick()
    (delivery,) = await world.claim()
    assert (delivery.attempt, delivery.tries, delivery.fence) == (2, 1, 2)


async def test_a_commit_says_when_the_next_work_is_ready(world: World) -> None:
    await world.submit("a")
    assert world.next_ready_ms() == world.now_ms
    delivery = await world.one()
    assert world.next_ready_ms() is None
    await world.settle(delivery, "pending", due_in_ms=700)
    assert world.next_ready_ms() == world.now_ms + 700


# --- order within a lane and between classes ---


async def test_a_lane_is_served_in_order_of_due_time(world: World) -> None:
    due = {}
    for n, wait in enumerate((300, 100, 200, 0, 50)):
        await world.submit(f"job-{n}", now_ms=world.now_ms + wait)
        due[f"job-{n}"] = wait
    world.tick(1_000)
    assert jobs(await world.claim()) == sorted(due, key=lambda job: due[job])


async def test_high_priority_goes_first_and_replays_go_last(world: World) -> None:
    lanes = urls(3)
    await replaying(world, 2, url=lanes[0])
    await world.many(2, "normal", url=lanes[1])
    await world.many(2, "high", url=lanes[2], priority="high")
    order = [job.split("-")[0] for _ in range(6) for job in jobs(await world.claim(1))]
    assert order == ["high", "high", "normal", "normal", "replay", "replay"]


async def test_one_slot_in_five_stays_for_the_rest(world: World) -> None:
    for url in urls(10):
        await world.many(8, url + "-high", url=url, priority="high")
        await world.many(2, url + "-normal", url=url)
    got = await world.claim(10, slots_max=10)
    assert Counter(one.high for one in got) == {True: 8}  # as much as a tenant alone may have
    for url in urls(10):
        await world.many(2, url, url=url, tenant="other")
        await world.many(2, url, url=url, tenant="third")
    rest = await world.claim(2, slots_max=10, busy_high=8, busy={TENANT: 8})
    assert Counter(one.high for one in rest) == {False: 2}


async def test_high_priority_in_flight_counts_against_its_four_fifths(world: World) -> None:
    for tenant in "abcde":
        await world.many(8, "high", tenant=tenant, priority="high")
    got = await world.claim(6, slots_max=10, busy_high=5, busy={"x": 4})
    assert sum(one.high for one in got) == 3


async def test_a_future_retry_of_high_priority_hides_no_normal_work(world: World) -> None:
    """The prototype's trap: a lane's next due is kept per class."""
    await world.submit("high", priority="high")
    await world.settle(await world.one(), "pending", due_in_ms=60_000)
    await world.submit("normal")
    assert jobs(await world.claim()) == ["normal"]


async def test_a_future_normal_retry_hides_no_high_work(world: World) -> None:
    await world.submit("normal")
    await world.settle(await world.one(), "pending", due_in_ms=60_000)
    await world.submit("high", priority="high")
    assert jobs(await world.claim()) == ["high"]


# --- turns ---


async def test_lanes_of_a_tenant_take_turns(world: World) -> None:
    lanes = urls(4)
    for url in lanes:
        await world.many(5, url, url=url)
    seen = []
    for _ in range(8):
        world.tick()
        seen.append((await world.one()).url)
    assert sorted(seen[:4]) == lanes
    assert seen[4:] == seen[:4]


async def test_tenants_take_turns_however_many_lanes_one_of_them_has(world: World) -> None:
    """A tenant with a hundred lanes of old work gets one slot in two, not a hundred in one."""
    for url in urls(100):
        await world.submit(url, url=url, tenant="wide")
    world.tick(60_000)
    await world.many(5, tenant="narrow")
    turns = []
    for _ in range(10):
        world.tick()
        turns.append((await world.one()).tenant)
    assert Counter(turns) == {"wide": 5, "narrow": 5}


async def test_within_one_claim_slots_go_round_the_tenants(world: World) -> None:
    for url in urls(30):
        await world.submit(url, url=url, tenant="wide")
    for tenant in ("b", "c"):
        await world.many(8, tenant=tenant)
    got = await world.claim(9)
    assert Counter(one.tenant for one in got) == {"wide": 3, "b": 3, "c": 3}


async def test_under_contention_no_tenant_has_more_than_a_quarter(world: World) -> None:
    for tenant in ("a", "b"):
        for url in urls(10):
            await world.many(3, url, url=url, tenant=tenant)
    got = await world.claim(20, slots_max=20, busy={"a": 2})
    assert Counter(one.tenant for one in got) == {"a": 3, "b": 5}


async def test_contention_is_between_tenants_whatever_their_classes(world: World) -> None:
    for url in urls(10):
        await world.many(3, url, url=url, tenant="urgent", priority="high")
        await world.many(3, url, url=url, tenant="patient")
    got = await world.claim(20, slots_max=20)
    assert Counter(one.tenant for one in got) == {"urgent": 5, "patient": 5}


async def test_a_tenant_alone_leaves_a_quarter_for_whoever_comes_next(world: World) -> None:
    for url in urls(10):
        await world.many(5, url, url=url)
    assert len(await world.claim(20, slots_max=20)) == 15


async def test_tenants_at_their_share_do_not_hide_the_others(world: World) -> None:
    for tenant in ("a", "b", "c", "d"):
        await world.many(8, tenant=tenant)
    world.tick(1_000)
    await world.many(1, "late", tenant="e")
    busy = dict.fromkeys(("a", "b", "c", "d"), 5)
    assert jobs(await world.claim(1, slots_max=20, busy=busy)) == ["late-0"]


async def test_many_tenants_at_their_share_do_not_hide_a_newcomer(world: World) -> None:
    """More of them than are looked at first; each leaves the last slot to who has none."""
    tenants = [f"t{n}" for n in range(18)]
    for tenant in tenants:
        await world.many(2, tenant=tenant)
    world.tick(1_000)
    await world.many(1, "late", tenant="e")
    busy = dict.fromkeys(tenants, 1)
    assert jobs(await world.claim(1, slots_max=19, busy=busy)) == ["late-0"]
    assert await world.claim(1, slots_max=19, busy=busy) == []


async def test_four_tenants_leave_slots_for_a_fifth(world: World) -> None:
    """A quarter each would be all there are."""
    for tenant in "abcd":
        for url in urls(8):
            await world.many(8, url, url=url, tenant=tenant)
    busy: Counter[str] = Counter()
    for _ in range(8):
        free = 100 - busy.total()
        got = await world.claim(free, slots_max=100, busy=dict(busy))
        busy += Counter(one.tenant for one in got)
    assert set(busy) == set("abcd")
    assert 75 <= busy.total() < 100
    assert max(busy.values()) <= 25
    await world.many(4, "late", tenant="e")
    got = await world.claim(100 - busy.total(), slots_max=100, busy=dict(busy))
    assert {one.tenant for one in got} >= {"e"}


async def test_a_lane_never_has_more_in_flight_than_its_window(world: World) -> None:
    await world.many(30)
    assert len(await world.claim(100)) == 8
    assert await world.claim(100) == []
    assert world.next_ready_ms() is None


async def test_in_flight_is_counted_from_leases_not_from_claims(world: World) -> None:
    """A crash leaves no counter wrong: what is taken back makes room again."""
    await world.many(10)
    await world.claim()
    await world.reopen()
    await world.store.take_over(now_ms=world.let_leases_go())
    assert len(await world.claim()) == 8


# --- lanes that give nothing ---


async def test_a_paused_lane_gives_nothing_and_keeps_its_backlog(world: World) -> None:
    await world.many(2)
    await world.change(paused=True)
    assert await world.claim() == []
    assert world.next_ready_ms() is None
    assert (await world.destination()).backlog == 2
    await world.change(paused=False)
    assert len(await world.claim()) == 2


async def test_a_disabled_destination_gives_nothing_from_that_commit_on(world: World) -> None:
    ids = await world.many(3)
    await world.change(disabled_reason="test")
    assert await world.claim() == []
    await world.store.expire(now_ms=world.now_ms, limit=100)
    assert await world.states(ids) == ["dead"] * 3


async def test_a_held_lane_gives_nothing_until_its_hold_ends(world: World) -> None:
    await world.many(3)
    await world.settle(await world.one(), "dead", code=503, retry_after_ms=5_000)
    assert await world.claim() == []
    assert world.next_ready_ms() == world.now_ms + 5_000
    world.tick(5_000)
    assert len(await world.claim()) == 2


async def test_ready_lanes_are_found_behind_many_held_ones(world: World) -> None:
    for url in urls(50):
        await world.submit(url, url=url)
        await world.change(url, paused=True)
    await world.submit("free")
    assert jobs(await world.claim(1)) == ["free"]


# --- rates ---


@pytest.mark.parametrize("rate", [0.3, 1.0, 3.0, 7.0, 9.9, 10.0, 30.0, 250.0])
async def test_a_rate_is_reached_and_in_no_window_exceeded(world: World, rate: float) -> None:
    """Counted over every window: never more than the rate's share of it, plus the tenth of a
    second that a lane may catch up on (one at least)."""
    await world.register("paced", rate_per_second=rate, concurrency=1_000)
    await asyncio.gather(*(world.submit(f"{n}", name="paced") for n in range(int(rate * 3) + 9)))
    sent: list[int] = []
    for _ in range(1_000):
        at_ms = world.next_ready_ms()
        world.now_ms = max(world.now_ms + 1, at_ms or 0)
        claimed = await world.claim()
        sent += [world.now_ms] * len(claimed)
        await asyncio.gather(*(world.settle(delivery) for delivery in claimed))
        world.tick(int(len(sent) % 7 * 10 / rate))
        if len(sent) >= rate * 2 + 4:
            break
    assert len(sent) >= rate * 2 + 4, "the lane does not move at its rate"
    allowed = max(1.0, rate * 0.1)
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            span_s = (sent[last] - sent[first]) / 1000
            assert last - first + 1 <= rate * span_s + allowed + 1e-6
    assert (len(sent) - 1) / ((sent[-1] - sent[0]) / 1000) >= rate * 0.8


async def test_a_paced_lane_says_when_it_goes_on(world: World) -> None:
    await world.register("paced", rate_per_second=2.0)
    await world.many(3, name="paced")
    times = []
    for _ in range(3):
        at_ms = world.next_ready_ms()
        assert at_ms is not None
        world.now_ms = max(world.now_ms, at_ms)
        await world.settle(await world.one())
        times.append(world.now_ms)
    assert [500 <= later - earlier <= 502 for earlier, later in pairwise(times)] == [True, True]


# --- memory ---


async def test_no_more_payload_is_leased_than_may_be_in_memory(world: World) -> None:
    """And a tenant alone takes no more than three quarters of it."""
    await world.many(8, body=b"x" * 1_000)
    got = await world.claim(bytes_free=4_000, bytes_max=4_000)
    assert len(got) == 3
    assert await world.claim(bytes_free=0, bytes_max=4_000, busy={"other": 1}) == []


async def test_one_delivery_always_fits(world: World) -> None:
    await world.many(2, body=b"x" * 1_000)
    assert len(await world.claim(bytes_free=100, bytes_max=100)) == 1


async def test_a_claim_never_overdraws_what_may_be_in_memory(world: World) -> None:
    """What does not fit waits, however many ask for it."""
    for tenant in "abcd":
        for url in urls(4):
            await world.many(4, url, url=url, tenant=tenant, body=b"x" * 1_000)
    for bytes_free in (500, 1_999, 5_000, 20_000):
        got = await world.claim(bytes_free=bytes_free, bytes_max=20_000, busy={"other": 1})
        assert sum(len(one.body) for one in got) <= bytes_free


async def test_small_bodies_go_on_where_large_ones_do_not_fit(world: World) -> None:
    """Of other tenants, also in a claim for one slot; and within a lane nothing overtakes."""
    await world.many(4, "large", tenant="a", body=b"x" * 1_000)
    world.tick()
    await world.many(2, "behind", tenant="a", body=b"x")
    world.tick(1_000)
    await world.many(2, "small", tenant="b", body=b"x")
    held: dict[str, Any] = {
        "busy": {"a": 1, "other": 1},
        "busy_bytes": {"a": 100, "other": 14_400},
        "bytes_free": 1_500,
        "bytes_max": 16_000,
    }
    assert jobs(await world.claim(1, **held)) == ["small-0"]
    assert jobs(await world.claim(**held)) == ["small-1"]


async def test_tenants_whose_bodies_do_not_fit_hide_no_others(world: World) -> None:
    """However many stand before, in a claim for one slot."""
    tenants = [f"t{n}" for n in range(9)]
    for tenant in tenants:
        await world.many(2, tenant=tenant, body=b"x" * 4_000)
    world.tick(1_000)
    await world.many(1, "small", tenant="b", body=b"x")
    busy = dict.fromkeys(tenants, 1)
    got = await world.claim(
        1, busy=busy, busy_bytes=dict.fromkeys(tenants, 1), bytes_free=3_000, bytes_max=1 << 20
    )
    assert jobs(got) == ["small-0"]


async def test_a_rate_is_not_spent_on_what_had_no_room(world: World) -> None:
    await world.register("paced", rate_per_second=100.0, concurrency=100)
    await world.many(20, name="paced", body=b"x" * 1_000)
    assert len(await world.claim(bytes_free=1_000, busy={"other": 1})) == 1
    assert len(await world.claim(bytes_free=PLENTY)) == 7  # the rest of the window


async def test_the_order_of_a_claim_puts_urgent_work_first(world: World) -> None:
    lanes = urls(3)
    await world.many(2, "normal", url=lanes[0])
    await world.many(2, "high", url=lanes[2], priority="high")
    got = await world.claim()
    assert [one.high for one in got] == [True, True, False, False]


async def test_another_classs_limit_leaves_the_lanes_window_whole(build: Build) -> None:
    """A lane with work in all classes never gets more than its window from one claim."""
    world = await build(destination_concurrency=4)
    await world.many(4, "high", priority="high")
    await world.many(4, "normal")
    assert len(await world.claim()) == 4
    assert (await world.destination(URL)).sending == 4
