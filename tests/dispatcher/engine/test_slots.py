"""Slots, the alarm and a replay's pace: what bounds and wakes the engine."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.engine.alarm import Alarm
from dispatcher.engine.replayer import Pace
from dispatcher.engine.slots import Slots

KINDS = st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 50))


@given(st.lists(KINDS, max_size=60), st.integers(4, 20))
def test_what_is_given_back_is_free_again(
    works: list[tuple[str, bool, int]], slots_max: int
) -> None:
    slots = Slots(slots_max, bytes_max=1_000)
    before = slots.ask(0, waiting=9)
    slots.answered(before)
    taken = []
    for tenant, high, size in works:
        if slots.admits(tenant, high=high, size=size):
            slots.take(tenant, high=high, size=size)
            taken.append((tenant, high, size))
        assert 0 <= slots.taken <= slots_max
    assert sum(high for _, high, _ in taken) <= slots_max * 4 // 5
    for tenant in "abc":
        assert sum(one == tenant for one, _, _ in taken) <= slots_max - slots_max // 4
    assert sum(size for _, _, size in taken) <= 1_000
    for tenant, high, size in taken:
        slots.give(tenant, high=high, size=size)
    assert slots.ask(0, waiting=9) == before


def test_what_a_claim_asks_for_is_held_until_it_is_answered() -> None:
    """So that hand-over, which goes on meanwhile, never fills the same place."""
    slots = Slots(8, bytes_max=800)
    ask = slots.ask(5, waiting=9)
    assert (ask.slots, ask.slots_max, ask.bytes_free, ask.now_ms) == (6, 8, 600, 5)
    assert slots.free == 2
    slots.take("a", high=True, size=100)
    slots.take("a", high=False, size=100)
    assert not slots.admits("b", high=False, size=1)
    slots.answered(ask)
    assert slots.free == 6
    second = slots.ask(6, waiting=9)
    assert (second.busy, second.busy_high) == ({"a": 2}, 1)


@pytest.mark.parametrize(
    ("waiting", "slots"), [(-3, 25), (0, 25), (26, 26), (75, 75), (10_000, 75)]
)
def test_a_claim_holds_no_more_than_waits(waiting: int, slots: int) -> None:
    """What it holds, hand-over cannot have: a quarter at least, since others may have stored more,
    and three quarters at most."""
    asked = Slots(100, bytes_max=1)
    assert asked.ask(0, waiting=waiting).slots == slots
    assert asked.free == 100 - slots


def test_the_last_free_slot_can_be_claimed() -> None:
    slots = Slots(4, bytes_max=1)
    for _ in range(3):
        slots.take("a", high=False, size=0)
    assert slots.ask(0, waiting=9).slots == 1


async def test_the_alarm_rings_at_its_time() -> None:
    alarm, loop = Alarm(), asyncio.get_running_loop()
    began = loop.time()
    alarm.set(0.05)
    async with asyncio.timeout(60):
        await alarm.wait()
    assert loop.time() - began >= 0.049


@pytest.mark.parametrize("delay_s", [0.0, -5.0])
async def test_an_alarm_for_the_past_rings_at_once(delay_s: float) -> None:
    alarm = Alarm()
    alarm.set(delay_s)
    async with asyncio.timeout(60):
        await alarm.wait()


async def test_setting_the_alarm_again_forgets_the_time_before() -> None:
    alarm = Alarm()
    alarm.set(0.01)
    alarm.set(None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await alarm.wait()


async def test_a_ring_that_nobody_heard_yet_stays() -> None:
    alarm = Alarm()
    alarm.ring()
    alarm.set(None)
    async with asyncio.timeout(60):
        await alarm.wait()


@given(
    rate=st.floats(0.1, 1_000),
    steps=st.lists(st.integers(0, 2_000), min_size=1, max_size=50),
    rows_max=st.integers(1, 200),
)
def test_a_replays_pace_is_never_above_its_rate(
    rate: float, steps: list[int], rows_max: int
) -> None:
    pace, at_ms, fed = Pace(rate, 0), 0, 0
    assert pace.allows(0, rows_max=rows_max) == 1
    for step in steps:
        at_ms += step
        allowed = pace.allows(at_ms, rows_max=rows_max)
        assert 0 <= allowed <= rows_max
        pace.used(allowed)
        fed += allowed
        assert fed <= 1 + at_ms / 1000 * rate


def test_a_replay_without_a_rate_takes_all_it_may() -> None:
    assert Pace(None, 0).allows(0, rows_max=200) == 200
