"""claiming.py: when the loop asks for work, and when it does not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from dispatcher.engine import claiming
from dispatcher.engine.claiming import Claiming
from dispatcher.engine.faults import Faults
from dispatcher.metrics import Metrics
from dispatcher.store.errors import StoreUnavailable
from receiver.base import log
from receiver.base.clock import monotonic_ms, now_ms


@dataclass
class World:
    """A store that fails or is empty as it is told, and what the loop asked of it."""

    claiming: Claiming = field(init=False)
    room: int = 1
    pause_s: float = 0.0
    claims: int = 0
    fails: bool = False
    empty_ms: int = 0

    async def claim(self) -> int:
        self.claims += 1
        if self.fails:
            raise StoreUnavailable("test")
        self.claiming.on_ready(None)  # as each commit does
        return self.empty_ms

    async def claimed(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.claims < count:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@asynccontextmanager
async def looping(**given: Any) -> AsyncIterator[World]:
    world = World(**given)
    world.claiming = Claiming(
        world.claim,
        lambda: world.room,
        Faults(Metrics()),
        now_ms,
        monotonic_ms,
        log=log.get("test"),
        what="tests",
        pause_s=lambda: world.pause_s,
    )
    world.claiming.start()
    try:
        yield world
    finally:
        await world.claiming.stop()


async def test_a_claim_that_failed_is_made_again_whatever_is_known_of_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At a start nothing is known of it; a submit that fails as well gives its room back."""
    monkeypatch.setattr(claiming, "_RETRY_S", 0.05)
    async with looping(fails=True) as world:
        await world.claimed(1)
        await asyncio.sleep(0)
        world.claiming.on_room()
        await world.claimed(2)


async def test_a_store_that_is_away_is_not_asked_for_each_room_that_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claiming, "_RETRY_S", 60.0)
    async with looping(fails=True) as world:
        await world.claimed(1)
        async with asyncio.timeout(10):
            while not world.claiming._owed:  # noqa: ASYNC110  # its failure is known
                await asyncio.sleep(0)
        for _ in range(50):
            world.claiming.on_ready(0)
            world.claiming.on_room()
            await asyncio.sleep(0.001)
        assert world.claims == 1


async def test_what_may_not_be_claimed_yet_is_claimed_once_it_may() -> None:
    """Without a beat nothing is asked for; then it is, also where nothing was known of work."""
    async with looping(pause_s=0.05) as world:
        await asyncio.sleep(0.01)
        world.claiming.on_room()
        world.pause_s = 0.0
        await world.claimed(1)


async def test_room_that_is_given_back_has_what_waits_claimed() -> None:
    """It was due while there was none."""
    async with looping() as world:
        await world.claimed(1)
        world.room = 0
        world.claiming.on_ready(0)
        await asyncio.sleep(0.01)
        assert world.claims == 1
        world.room = 1
        world.claiming.on_room()
        await world.claimed(2)


async def test_a_claim_that_is_under_way_outlives_the_loop() -> None:
    """Who stops it waits for `incoming`."""
    go, ended = asyncio.Event(), asyncio.Event()

    async with looping() as world:
        await world.claimed(1)

        async def held() -> int:
            await go.wait()
            ended.set()
            return 0

        world.claiming._claim = held
        world.claiming.wake()
        await asyncio.sleep(0.01)
        await world.claiming.stop()
        assert world.claiming.incoming
        go.set()
        await claiming.wait_for(world.claiming.incoming, 5)
        assert ended.is_set()
