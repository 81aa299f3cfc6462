"""sharing.py: who gets the free slots, and how a rate is kept."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.fairness import (
    PACE_BURST_S,
    ReadyLane,
    high_slots,
    paced_after,
    paced_room,
    share,
    tenant_slots,
)

lanes = st.lists(
    st.builds(
        ReadyLane,
        id=st.uuids().map(str),
        tenant=st.sampled_from("abcd"),
        room=st.integers(-2, 10),
    ),
    max_size=30,
    unique_by=lambda lane: lane.id,
)


def lane(name: str, room: int = 100, tenant: str = "t") -> ReadyLane:
    return ReadyLane(id=name, tenant=tenant, room=room)


@given(lanes, st.integers(0, 50), st.dictionaries(st.sampled_from("abcd"), st.integers(-2, 20)))
def test_no_room_is_exceeded_and_nothing_is_left_that_somebody_could_have(
    ready: list[ReadyLane], slots: int, rooms: dict[str, int]
) -> None:
    given_ = share(ready, slots, rooms)
    by_tenant: Counter[str] = Counter()
    for one in ready:
        assert 0 <= given_.get(one.id, 0) <= max(0, one.room)
        by_tenant[one.tenant] += given_.get(one.id, 0)
    for tenant, taken in by_tenant.items():
        assert taken <= max(0, rooms.get(tenant, 0))
    could = sum(
        min(
            max(0, rooms.get(tenant, 0)),
            sum(max(0, one.room) for one in ready if one.tenant == tenant),
        )
        for tenant in "abcd"
    )
    assert sum(given_.values()) == min(slots, could)
    assert all(count > 0 for count in given_.values())


@given(lanes, st.integers(0, 50))
def test_tenants_with_enough_work_differ_by_one_slot_at_most(
    ready: list[ReadyLane], slots: int
) -> None:
    given_ = share(ready, slots, dict.fromkeys("abcd", 10**6))
    taken = Counter(dict.fromkeys("abcd", 0))
    work = Counter(dict.fromkeys("abcd", 0))
    for one in ready:
        taken[one.tenant] += given_.get(one.id, 0)
        work[one.tenant] += max(0, one.room)
    hungry = [taken[tenant] for tenant in "abcd" if taken[tenant] < work[tenant]]
    if hungry:
        assert max(taken.values()) <= min(hungry) + 1


def test_slots_go_round_the_tenants_and_round_their_lanes() -> None:
    ready = [lane("a1", tenant="a"), lane("a2", tenant="a"), lane("b1", tenant="b")]
    assert share(ready, 1, {"a": 9, "b": 9}) == {"a1": 1}
    assert share(ready, 2, {"a": 9, "b": 9}) == {"a1": 1, "b1": 1}
    assert share(ready, 6, {"a": 9, "b": 9}) == {"a1": 2, "a2": 1, "b1": 3}


@given(st.integers(0, 2_000), st.integers(4, 2_000), st.integers(0, 2_000))
def test_high_priority_leaves_one_slot_in_five(free: int, most: int, busy: int) -> None:
    got = high_slots(free, most, busy)
    assert 0 <= got <= free
    assert busy + got <= max(busy, most * 4 // 5)


@pytest.mark.parametrize(
    ("most", "contended", "alone"), [(1_024, 256, 768), (4, 1, 3), (5, 1, 4), (100, 25, 75)]
)
def test_a_tenants_share_is_a_quarter_or_all_but_a_quarter(
    most: int, contended: int, alone: int
) -> None:
    assert tenant_slots(most, contended=True) == contended
    assert tenant_slots(most, contended=False) == alone


# --- rates ---

NOW_MS = 1_790_000_000_123


def test_no_rate_is_no_limit() -> None:
    assert paced_room(None, 0.0, NOW_MS) is None


@given(st.floats(0.001, 10_000), st.integers(0, 10**6))
def test_a_lane_that_rested_always_has_room(rate: float, more_ms: int) -> None:
    """For every rate: an interval without a short binary fraction is no reason to stand still."""
    rested_ms = max(1000 / rate, PACE_BURST_S * 1000) + 1
    room = paced_room(rate, NOW_MS - rested_ms - more_ms, NOW_MS)
    assert room is not None
    assert room >= 1
    assert room <= max(1, rate * PACE_BURST_S) + 1e-6


@given(
    st.floats(0.05, 2_000),
    st.lists(st.integers(0, 3_000), min_size=2, max_size=60),
    st.integers(1, 50),
)
def test_no_window_has_more_than_its_rate_and_a_tenth_of_a_second(
    rate: float, steps: list[int], greed: int
) -> None:
    paced_ms, at_ms = 0.0, NOW_MS
    sent: list[int] = []
    for step in steps:
        at_ms += step
        room = paced_room(rate, paced_ms, at_ms)
        assert room is not None
        taken = min(room, greed)
        if taken:
            paced_ms = paced_after(rate, paced_ms, taken, at_ms)
            sent += [at_ms] * taken
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            span_s = (sent[last] - sent[first]) / 1000
            assert last - first + 1 <= rate * span_s + max(1.0, rate * PACE_BURST_S) + 1e-6
