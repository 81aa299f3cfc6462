"""beats.py: who is dead, and who may start something, by clocks that nobody compares."""

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.gateway.beats import BEATS, Beats, Pulse, Watch
from dispatcher.store.errors import StoreUnavailable

LEASE_MS = 60_000
EVERY_MS = LEASE_MS // BEATS


def look(watch: Watch, at_ms: int, **beats: int) -> dict[str, int]:
    return watch.dead(beats, began_ms=at_ms, ended_ms=at_ms)


def test_a_beat_that_stands_still_for_a_lease_is_a_death() -> None:
    """An observer calls a process dead when it has seen `beat` unchanged for a lease of its own
    clock."""
    watch = Watch(LEASE_MS)
    for at_ms in range(1_000, LEASE_MS + 1_000, EVERY_MS):
        assert look(watch, at_ms, a=7, b=at_ms) == {}
    assert look(watch, LEASE_MS + 1_000, a=7, b=1) == {"a": 7}


def test_one_that_beats_lives_however_slowly_it_counts() -> None:
    watch = Watch(LEASE_MS)
    for n in range(100):
        assert look(watch, n * EVERY_MS, a=n // (BEATS - 1)) == {}


def test_after_an_outage_nobody_is_dead_before_a_lease_of_contact() -> None:
    """The database was reachable throughout, or nothing counts; three leases long or one beat."""
    watch = Watch(LEASE_MS)
    for at_ms in range(0, LEASE_MS, EVERY_MS):
        look(watch, at_ms, a=1)
    watch.away()
    back_ms = 4 * LEASE_MS
    for at_ms in range(back_ms, back_ms + LEASE_MS, EVERY_MS):
        assert look(watch, at_ms, a=1) == {}
    assert look(watch, back_ms + LEASE_MS, a=1) == {"a": 1}


def test_an_observer_that_stood_still_itself_has_seen_nothing() -> None:
    """SIGSTOP for two leases: it looks again, and does not take the others' lives."""
    watch = Watch(LEASE_MS)
    look(watch, 0, a=1)
    look(watch, EVERY_MS, a=1)
    assert look(watch, EVERY_MS + 2 * LEASE_MS, a=1) == {}


def test_a_look_counts_from_its_end_to_the_begin_of_the_other() -> None:
    """However long the database takes to answer."""
    watch = Watch(LEASE_MS)
    assert watch.dead({"a": 1}, began_ms=0, ended_ms=10_000) == {}
    for at_ms in range(20_000, 10_000 + LEASE_MS, 10_000):
        assert look(watch, at_ms, a=1) == {}
    assert watch.dead({"a": 1}, began_ms=69_999, ended_ms=90_000) == {}
    assert watch.dead({"a": 1}, began_ms=90_001, ended_ms=90_001) == {"a": 1}


def test_without_a_beat_nothing_is_started() -> None:
    pulse = Pulse(LEASE_MS)
    assert not pulse.may_start(0)
    pulse.beaten(1_000)
    assert pulse.may_start(1_000 + 44_999)
    assert not pulse.may_start(1_000 + 45_000)
    pulse.beaten(50_000)
    assert pulse.may_start(60_000)
    pulse.lost()
    assert not pulse.may_start(60_000)


steps = st.lists(
    st.tuples(
        st.integers(min_value=0, max_value=40_000),  # how long after the last step
        st.sampled_from(["beat", "look", "look", "look", "fail"]),
        st.integers(min_value=0, max_value=9_000),  # how long it takes
    ),
    max_size=60,
)


@given(steps=steps, offset_ms=st.integers(min_value=-(10**9), max_value=10**9))
def test_nobody_is_dead_who_may_start_something(
    steps: list[tuple[int, str, int]], offset_ms: int
) -> None:
    """Whatever is slow, fails or stands still, and whatever the two clocks say: who is called dead
    has had no right to start for a quarter of a lease."""
    watch, pulse, now_ms, beat = Watch(LEASE_MS), Pulse(LEASE_MS), 0, 0
    for after_ms, what, took_ms in steps:
        now_ms += after_ms
        if what == "beat":
            began_ms = now_ms
            now_ms += took_ms
            beat += 1  # on disk at the end of it at the latest; the others' first sight of it
            pulse.beaten(began_ms)
        elif what == "fail":
            watch.away()
        else:
            began_ms, seen = now_ms, beat
            now_ms += took_ms
            dead = watch.dead(
                {"a": seen}, began_ms=began_ms + offset_ms, ended_ms=now_ms + offset_ms
            )
            if dead:
                assert dead == {"a": beat}
                assert not pulse.may_start(began_ms - LEASE_MS // 4)


@given(jitter=st.lists(st.integers(min_value=0, max_value=2_000), min_size=40, max_size=40))
def test_who_is_gone_is_called_dead_within_a_lease_and_two_looks(jitter: list[int]) -> None:
    watch, now_ms = Watch(LEASE_MS), 0
    for late_ms in jitter:
        if look(watch, now_ms, a=3):
            break
        now_ms += EVERY_MS + late_ms
    assert LEASE_MS <= now_ms <= LEASE_MS + 2 * (EVERY_MS + 2_000)


class Rig:
    """Beats over a database that answers as it is told to."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.answers: list[Mapping[str, int] | Exception | None] = []
        self.taken: list[tuple[str, int]] = []
        self.beats = Beats(
            LEASE_MS / 1000,
            self._beat,
            self._take_over,
            monotonic_ms=lambda: self.now_ms,
        )

    async def _beat(self) -> Mapping[str, int] | None:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _take_over(self, id: str, beat: int) -> None:
        self.taken.append((id, beat))

    async def step(self, answer: Mapping[str, int] | Exception | None) -> None:
        self.answers.append(answer)
        await self.beats.step()
        self.now_ms += EVERY_MS


async def test_the_dead_are_taken_over_with_the_beat_they_died_at() -> None:
    rig = Rig()
    for n in range(BEATS):
        await rig.step({"a": 5, "b": n})
    assert rig.taken == []
    await rig.step({"a": 5, "b": 99})
    assert rig.taken == [("a", 5)]


async def test_who_was_taken_for_dead_starts_nothing_until_it_has_begun_anew() -> None:
    rig = Rig()
    await rig.step({})
    assert rig.beats.may_start()
    await rig.step(None)
    assert not rig.beats.may_start()
    await rig.step({})
    assert rig.beats.may_start()


async def test_a_beat_that_fails_raises_and_counts_for_nothing() -> None:
    rig = Rig()
    for _ in range(BEATS):
        await rig.step({"a": 5})
    with pytest.raises(StoreUnavailable):
        await rig.step(StoreUnavailable("gone"))
    assert rig.beats.may_start()
    await rig.step({"a": 5})
    assert rig.taken == []


async def test_it_beats_twelve_times_a_lease_and_oftener_while_that_fails() -> None:
    waits: list[float] = []
    waited_thrice = asyncio.Event()
    answers: list[Mapping[str, int] | Exception] = [{}, StoreUnavailable("gone"), {}]

    async def beat() -> Mapping[str, int]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if not answers:
            waited_thrice.set()
            await asyncio.Event().wait()

    async def nothing(_id: str, _beat: int) -> None: ...

    beats = Beats(60.0, beat, nothing, monotonic_ms=lambda: 0, sleep=sleep)
    beats.start()
    await asyncio.wait_for(waited_thrice.wait(), 5)
    await beats.stop()
    assert waits == [5.0, 1.0, 5.0]
