"""fairness.py and slots.py: what stays free for newcomers, whoever holds the rest (I6)."""

import math
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dispatcher import fairness
from dispatcher.engine.slots import Probes, Slots
from dispatcher.fairness import ReadyLane, share

SIZES = st.integers(4, 5_000)
# How many tenants, one after the other and each taking all that it may, there are slots for.
CROWDS = [(4, 2), (16, 4), (64, 8), (256, 21), (1_024, 60)]
KIB = 1 << 10
MIB = 1 << 20


@dataclass
class Process:
    """One process's slots and those that hold them, and claims as the store answers them."""

    slots: Slots
    running: list[tuple[str, bool, int]] = field(default_factory=list)

    def hand_over(self, tenant: str, *, high: bool = False, size: int = 0) -> bool:
        if not self.slots.admits(tenant, high=high, size=size):
            return False
        self._begin(tenant, high, size)
        return True

    def claim(self, hungry: str, meanwhile: str = "") -> None:
        """Give all slots that they may have to tenants with work without end; `meanwhile`
        others submit."""
        ask = self.slots.ask(0, waiting=10**6)
        for tenant in meanwhile:
            self.hand_over(tenant)
        if not ask.slots:
            self.slots.answered(ask)
            return
        free = ask.slots_max - sum(ask.busy.values())
        kept = fairness.claim_reserves(ask.slots_max, ask.slots, free)
        share_of = share(
            [ReadyLane(id=tenant, tenant=tenant, room=10**6) for tenant in hungry],
            ask.slots,
            {tenant: ask.slots_max - ask.busy.get(tenant, 0) for tenant in hungry},
            held=ask.busy,
            grants_max=[ask.slots - one for one in kept],
        )
        self.slots.answered(ask)
        for tenant, count in share_of.items():
            for _ in range(count):
                self._begin(tenant, False, 0)

    def _begin(self, tenant: str, high: bool, size: int) -> None:
        self.slots.take(tenant, high=high, size=size)
        self.running.append((tenant, high, size))

    def end(self, which: int) -> None:
        tenant, high, size = self.running.pop(which)
        self.slots.give(tenant, high=high, size=size)

    def held(self) -> Counter[str]:
        return Counter(tenant for tenant, _, _ in self.running)


def process(slots_max: int, bytes_max: int = 1 << 40) -> Process:
    return Process(Slots(slots_max, bytes_max=bytes_max))


# --- the curve ---


@given(SIZES, st.integers(0, 6_000), st.integers(0, 6_000))
def test_who_holds_more_leaves_more(most: int, one: int, other: int) -> None:
    fewer, more = sorted((one, other))
    assert fairness.reserve(0, most) == 0
    assert fairness.reserve(fewer, most) <= fairness.reserve(more, most)
    assert fairness.reserve(more, most) <= max(1, most // 4)
    assert fairness.reserve(max(1, most // 4), most) == max(1, most // 4)


@given(SIZES, st.integers(1, 50))
def test_direct_dispatch_divides_three_quarters_and_nobodys_part_is_less_than_one(
    most: int, tenants: int
) -> None:
    got = fairness.direct_slots(most, tenants)
    assert got >= max(1, most // 4)
    assert got <= most - most // 4
    assert fairness.direct_slots(most, 1) == most - most // 4


# --- slots ---

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.text("abcdef", min_size=1, max_size=40)),
        st.tuples(st.just("claim"), st.text("abcdef", max_size=6)),
        st.tuples(st.just("both"), st.text("abcdef", max_size=12)),
        st.tuples(st.just("end"), st.text("x", max_size=20)),
    ),
    max_size=25,
)


def run(one: Process, steps: list[tuple[str, str]]) -> None:
    for step, tenants in steps:
        match step:
            case "submit":
                for tenant in tenants:
                    one.hand_over(tenant)
            case "end":
                for _ in tenants[: len(one.running)]:
                    one.end(len(tenants) % len(one.running))
            case "claim":
                one.claim("".join(dict.fromkeys(tenants)))
            case "both":
                one.claim("".join(dict.fromkeys(tenants)), meanwhile=tenants)


@given(st.integers(64, 300), STEPS)
def test_whatever_six_tenants_hold_a_newcomer_is_sent_at_once(
    slots_max: int, steps: list[tuple[str, str]]
) -> None:
    """By hand-over, and by a claim, in which those stand first."""
    one = process(slots_max)
    run(one, steps)
    assert 0 < one.slots.free <= slots_max
    assert one.slots.admits("new", high=False, size=0)
    one.claim("abcdefn")
    assert one.held()["n"] > 0


@given(SIZES, STEPS)
@example(4, [("both", "a")])
def test_there_are_never_more_than_all_and_one_tenant_leaves_a_quarter(
    slots_max: int, steps: list[tuple[str, str]]
) -> None:
    one = process(slots_max)
    run(one, steps)
    held = one.held()
    assert held.total() == one.slots.taken <= slots_max
    assert max(held.values(), default=0) <= slots_max - slots_max // 4


@given(SIZES, st.booleans())
def test_a_tenant_alone_has_three_quarters_by_either_way(slots_max: int, claims: bool) -> None:
    one = process(slots_max)
    for _ in range(slots_max):
        if claims:
            one.claim("a")
        else:
            one.hand_over("a")
    assert one.slots.taken == slots_max - slots_max // 4


@pytest.mark.parametrize(("slots_max", "crowd"), CROWDS)
@pytest.mark.parametrize("claims", [False, True])
def test_there_is_room_for_a_crowd(slots_max: int, crowd: int, claims: bool) -> None:
    """Each takes all that it may before the next one comes, and gives nothing back."""
    one = process(slots_max)
    for tenant in map(chr, range(0x4E00, 0x4E00 + crowd)):
        assert one.hand_over(tenant), "no room for a newcomer"
        for _ in range(slots_max):
            if claims:
                one.claim(tenant)
            elif not one.hand_over(tenant):
                break


def test_tenants_that_come_together_share_three_quarters() -> None:
    """Of 1,024 slots two that submit without end have 384 each, four of them nearly as claims."""
    for tenants, least in (("ab", 380), ("abcd", 190)):
        one = process(1_024)
        for _ in range(1_024):
            for tenant in tenants:
                one.hand_over(tenant)
        held = one.held()
        assert min(held.values()) >= least
        assert max(held.values()) <= least + 10


def test_high_priority_leaves_newcomers_of_its_own() -> None:
    """Four slots in five are high's at most; a tenant's flood of it leaves some of those too."""
    one = process(1_024)
    for tenant in "abcdefgh":
        assert one.hand_over(tenant, high=True)
        while one.hand_over(tenant, high=True):
            pass
    assert one.held()["a"] == 768
    assert one.held().total() < 819
    assert one.hand_over("new", high=False)


# --- bytes ---


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 64 * KIB)), max_size=200),
    st.integers(MIB, 4 * MIB),
)
def test_no_bytes_are_overdrawn_and_a_newcomers_small_body_fits(
    works: list[tuple[str, int]], bytes_max: int
) -> None:
    one = process(100_000, bytes_max)
    for tenant, size in works:
        one.hand_over(tenant, size=size)
    total = sum(size for _, _, size in one.running)
    assert total <= bytes_max
    for tenant in "abcd":
        held = sum(size for who, _, size in one.running if who == tenant)
        assert held <= bytes_max * 3 / 4 + 64 * KIB
    assert one.hand_over("new", size=bytes_max // 1_024)


@given(st.integers(1, 64 * MIB), st.integers(MIB, 64 * MIB))
def test_any_body_goes_when_nothing_is_in_memory(size: int, bytes_max: int) -> None:
    """And one at most is more than there may be."""
    one = process(1_024, bytes_max)
    assert one.hand_over("a", size=size)
    if size > bytes_max:
        assert not one.hand_over("b", size=1)


@given(st.integers(1, 4 * MIB))
def test_a_body_of_a_tenant_whose_others_go_on_and_on_waits_no_longer_than_they(size: int) -> None:
    """However small those are: what a tenant alone leaves is enough for a larger one too."""
    one = process(100_000, 64 * MIB)
    while one.hand_over("a", size=64 * KIB):
        pass
    one.end(0)
    part = math.ceil((16 * MIB + 64 * KIB) * 0.75)
    assert fairness.bytes_fit(size, part, 48 * MIB - 64 * KIB, 64 * MIB, part=0.75)
    assert one.hand_over("a", size=size)


def test_of_64_mib_one_tenant_has_48_and_large_ones_leave_the_last_for_small_ones() -> None:
    one = process(100_000, 64 * MIB)
    tenants = list("abcdefgh")
    for tenant in tenants:
        while one.hand_over(tenant, size=MIB):
            pass
    assert one.held()["a"] == 48
    assert set(one.held()) == set(tenants)
    assert not one.hand_over("large", size=MIB)
    for n in range(50):
        assert one.hand_over(f"small-{n}", size=50)


# --- test callbacks ---


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=300))
def test_tests_of_six_tenants_leave_room_for_one_of_a_seventh(
    works: list[tuple[str, bool]],
) -> None:
    probes, running = Probes(64, 16), list[str]()
    for tenant, ends in works:
        if ends and tenant in running:
            running.remove(tenant)
            probes.give(tenant)
        elif probes.take(tenant):
            running.append(tenant)
    assert max(Counter(running).values(), default=0) <= 16
    assert len(running) < 64
    assert probes.take("new")
