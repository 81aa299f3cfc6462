"""waiters.py: held requests have a budget, and are woken."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from dispatcher.gateway.waiters import Waiters
from dispatcher.metrics import Metrics
from dispatcher.store.errors import StoreUnavailable

LONG_S = 30.0


class World:
    def __init__(self) -> None:
        self.over: set[str] = set()
        self.away = False
        self.asked: list[list[str]] = []
        self.asking = asyncio.Event()
        self.waiters = Waiters(8, self._ended, Metrics(), poll_s=0.01)
        self.tasks: list[asyncio.Task[bool]] = []

    async def _ended(self, jobs: Sequence[str]) -> set[str]:
        self.asked.append(list(jobs))
        self.asking.set()
        if self.away:
            raise StoreUnavailable("gone")
        return self.over & set(jobs)

    async def wait(self, tenant: str, job: str, seconds: float = LONG_S) -> asyncio.Task[bool]:
        """A request that waits, begun."""
        task = asyncio.create_task(self.waiters.wait(tenant, job, seconds))
        self.tasks.append(task)
        await asyncio.sleep(0)
        return task


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    assert made.waiters.held == 0


async def test_an_end_wakes_all_that_wait_for_it(world: World) -> None:
    first, second, other = [await world.wait(*one) for one in (("a", "j"), ("b", "j"), ("a", "k"))]
    world.waiters.end(["j", "nobody waits for this"])
    assert await first
    assert await second
    assert not other.done()


async def test_it_waits_no_longer_than_it_was_asked_to(world: World) -> None:
    assert not await asyncio.wait_for(await world.wait("a", "j", 0.01), 5)
    assert not await world.waiters.wait("a", "j", 0)


async def test_a_tenant_has_a_quarter_of_the_places(world: World) -> None:
    """Beyond it a request is answered at once with the present state."""
    held = [await world.wait("a", f"j{n}") for n in range(2)]
    assert not await world.waiters.wait("a", "j9", LONG_S)
    assert not any(one.done() for one in held)
    world.waiters.end(["j0"])
    assert await held[0]
    assert not (await world.wait("a", "j9")).done()


async def test_all_have_as_many_places_as_there_are(world: World) -> None:
    for tenant in "abcd":
        for n in range(2):
            await world.wait(tenant, f"{tenant}{n}")
    assert world.waiters.held == 8
    assert not await world.waiters.wait("e", "j", LONG_S)


async def test_at_the_end_of_the_process_all_are_answered_at_once(world: World) -> None:
    held = await world.wait("a", "j")
    world.waiters.stop()
    assert not await asyncio.wait_for(held, 5)
    assert not await world.waiters.wait("a", "j", LONG_S)


async def test_an_end_that_nobody_told_of_is_found(world: World) -> None:
    """A poll is the backstop; also after the database was away for a while."""
    held = await world.wait("a", "j")
    world.away = True
    await asyncio.wait_for(world.asking.wait(), 5)
    world.over.add("j")
    world.away = False
    assert await asyncio.wait_for(held, 5)


async def test_many_are_asked_for_in_parts_and_nobody_when_nobody_waits() -> None:
    world = World()
    world.waiters = Waiters(8_000, world._ended, Metrics(), poll_s=0.01)
    for n in range(1_100):
        await world.wait("a", f"j{n}")
    await asyncio.wait_for(world.asking.wait(), 5)
    world.waiters.stop()
    await asyncio.gather(*world.tasks)
    assert max(map(len, world.asked)) == 500
    world.asked.clear()
    await asyncio.sleep(0.05)
    assert world.asked == []


async def test_who_hangs_up_leaves_its_place(world: World) -> None:
    held = await world.wait("a", "j")
    held.cancel()
    await asyncio.wait({held})
    assert world.waiters.held == 0


async def test_a_place_is_taken_once_for_several_waits(world: World) -> None:
    """And before what is waited for is known: who finds none can say so first."""
    with world.waiters.place("a") as held, world.waiters.place("a") as more:
        assert held
        assert more
        assert world.waiters.held == 2
        with world.waiters.place("a") as third:
            assert not third
        assert not await world.waiters.wait("a", "j", LONG_S)
        assert not await world.waiters.wait_in_place("j", 0.01)
        waiting = asyncio.create_task(world.waiters.wait_in_place("j", LONG_S))
        await asyncio.sleep(0)
        assert world.waiters.held == 2
        world.waiters.end(["j"])
        assert await waiting
        world.waiters.stop()
        assert world.waiters.is_stopped
        assert not await world.waiters.wait_in_place("j", LONG_S)
    assert world.waiters.held == 0
    with world.waiters.place("b") as late:
        assert not late
