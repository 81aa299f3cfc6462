"""figures.py: what the metrics tell of deliveries and destinations, on either store."""

from typing import Final

import pytest

from dispatcher.filters import Filter
from dispatcher.health import CIRCUIT_FAILURES, CIRCUIT_SPAN_MS
from dispatcher.store import figures
from dispatcher.store.figures import DeliveryFigures
from tests.dispatcher.store.builders import URL, World
from tests.dispatcher.store.conftest import Build

STEP_MS: Final = CIRCUIT_SPAN_MS // (CIRCUIT_FAILURES - 1) + 1
HOUR_MS: Final = 3_600_000


async def look(world: World, *, destinations_max: int = 100) -> DeliveryFigures:
    return await world.store.figures(destinations_max=destinations_max)


async def fail(world: World, url: str) -> None:
    """Attempts that open the circuit of a URL's lane."""
    await world.submit("broken", url=url)
    for _ in range(CIRCUIT_FAILURES):
        (one,) = await world.claim(1)
        await world.settle(one, "pending", code=500, due_in_ms=STEP_MS)
        world.tick(STEP_MS)


async def test_due_is_what_may_go_now_and_its_age_the_oldest_ones(world: World) -> None:
    """Of several lanes and classes; what is tried later is not due, and what waits is older each
    moment."""
    await world.submit("first")
    world.tick(2_000)
    await world.submit("second", url="http://other.test/hook", priority="high")
    await world.submit("later", not_before_ms=world.now_ms + HOUR_MS)
    world.tick(3_000)

    found = await look(world)

    assert found.due == 2
    assert found.now_ms - (found.due_since_ms or 0) == 5_000
    world.tick(HOUR_MS)
    assert (await look(world)).due == 3


async def test_nothing_is_due_of_a_service_that_keeps_up(world: World) -> None:
    """What is being sent is not due, nor what has ended."""
    delivery = (await world.submit("one", handover=True)).delivery
    assert delivery is not None
    assert (await look(world)).due_since_ms is None
    await world.settle(delivery)
    found = await look(world)
    assert (found.due, found.due_since_ms, found.held) == (0, None, {})


async def test_work_behind_an_open_circuit_or_a_pause_is_not_due(world: World) -> None:
    """It starts no more processes; it is told as held, by reason, once a destination."""
    await fail(world, URL)
    await world.register("parked", url="http://parked.test/hook")
    await world.change("parked", paused=True)
    await world.submit("waits", url=None, name="parked")

    found = await look(world)

    assert found.due == 0
    assert found.held == {"circuit": 1, "paused": 1}


async def test_a_hold_that_a_peer_asked_for_is_told_until_it_ends(world: World) -> None:
    """And the age of what waited behind it counts from its end."""
    await world.submit("one")
    (one,) = await world.claim(1)
    await world.settle(
        one, "pending", code=429, retry_after_ms=60_000, due_in_ms=60_000, spent=False
    )
    assert (await look(world)).held == {"retry-after": 1}

    world.tick(61_000)
    found = await look(world)

    assert found.held == {}
    assert found.due == 1
    assert found.now_ms - (found.due_since_ms or 0) == 1_000


async def test_a_disabled_destination_is_held_for_that(world: World) -> None:
    await world.register("gone")
    await world.change("gone", disabled_reason="by hand")

    assert (await look(world)).held == {"disabled": 1}


async def test_each_registered_destination_has_figures_of_its_own(world: World) -> None:
    """How many wait, since when, and what holds it; those of servers have none."""
    await world.register("busy", url="http://busy.test/hook")
    world.tick()
    await world.register("idle", url="http://idle.test/hook")
    await world.change("busy", paused=True)
    await world.many(3, url=None, name="busy")
    await world.submit("elsewhere")
    world.tick(10_000)

    found = await look(world)
    busy, idle = found.destinations

    assert (busy.name, busy.waiting, busy.reasons) == ("busy", 3, frozenset({"paused"}))
    assert found.now_ms - (busy.due_since_ms or 0) == 10_000
    assert (idle.name, idle.waiting, idle.due_since_ms) == ("idle", 0, None)
    assert not idle.reasons


async def test_i7_so_many_destinations_and_no_more(world: World) -> None:
    """The oldest ones; one that was removed makes room."""
    for n in range(5):
        await world.register(f"d{n}", url=f"http://d{n}.test/hook")
        world.tick()
    assert [one.name for one in (await look(world, destinations_max=2)).destinations] == [
        "d0",
        "d1",
    ]
    await world.store.remove_destination("acme", "d0", now_ms=world.now_ms)
    assert [one.name for one in (await look(world, destinations_max=2)).destinations] == [
        "d1",
        "d2",
    ]
    assert (await look(world, destinations_max=0)).destinations == []


async def test_i10_counting_ends_after_so_many(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much is due, a look counts a part of it and says so by its bound."""
    world = await build()
    for name, most in (("DUE_MAX", 10), ("WAITING_MAX", 4)):
        monkeypatch.setattr(figures, name, most)
    await world.register("busy")
    await world.many(30, url=None, name="busy")

    found = await look(world)

    assert found.due == 10
    assert found.destinations[0].waiting == 4


async def test_replays_that_run_and_what_they_have_left(world: World) -> None:
    """Counted while they run, and what they made pending again for ever after."""
    for n in range(3):
        await world.ended(f"dead-{n}")
    world.tick()
    replay = await world.store.make_replay(
        "acme", Filter(status="dead"), rate_per_second=None, now_ms=world.now_ms
    )
    found = await look(world)
    assert (found.replays, found.replays_left) == (1, 3)
    assert await world.store.feeds_replays()
    await world.store.feed_replay(replay.id, limit=2, now_ms=world.now_ms)
    assert (await look(world)).replays_left == 1
    assert world.store.replayed() == 2
    while (await look(world)).replays:
        await world.store.feed_replay(replay.id, limit=2, now_ms=world.now_ms)
    assert world.store.replayed() == 3


async def test_callbacks_by_state_are_exact(world: World) -> None:
    """After each commit of this process, and after a restart."""
    await world.ended("dead")
    await world.ended("done", "delivered")
    await world.submit("waits")
    expected = {"pending": 1, "sending": 0, "delivered": 1, "dead": 1, "cancelled": 0}
    assert world.store.states() == expected
    await world.reopen()
    assert world.store.states() == expected
