"""The database's own clock jumps: it was set, or another server took over (D16, D20)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from dispatcher.engine.sweeper import SLICE
from dispatcher.store.clocks import START
from dispatcher.store.postgres import session
from receiver.base.clock import now_ms
from tests.dispatcher.postgres import folders
from tests.dispatcher.postgres.test_together import Together
from tests.dispatcher.store.builders import World

HOUR_MS = 3_600_000

SetClock = Callable[[int], None]


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Sets by how much the database's clock, as every session reads it, is ahead."""
    true = session._BEGIN

    def setting(ahead_ms: int) -> None:
        monkeypatch.setattr(session, "_BEGIN", f"{true} + {ahead_ms}")

    return setting


@pytest.fixture
async def together(tmp_path: Path) -> AsyncIterator[Together]:
    joined = Together(folders.url_for(tmp_path, used=True))
    yield joined
    for world in joined.worlds:
        await world.store.close()
    folders.empty_under(tmp_path)


async def claimed(world: World) -> set[str]:
    return {one.id for one in await world.claim(now_ms=now_ms())}


@pytest.mark.parametrize("step_ms", [HOUR_MS, -HOUR_MS])
async def test_a_step_takes_nothing_from_who_is_sending_it(
    together: Together, set_clock: SetClock, step_ms: int
) -> None:
    """I4: neither at that process nor at another, at the step or when it is put right."""
    mine, other = await together.join(), await together.join()
    for world in (mine, other):
        assert await world.store.reclaim(now_ms=now_ms()) == 0
    sent = await mine.submit("a", handover=True, now_ms=now_ms())
    assert sent.delivery is not None
    for ahead_ms in (step_ms, 0, step_ms):
        set_clock(ahead_ms)
        for world in (mine, other):
            assert await world.store.reclaim(now_ms=now_ms()) == 0
    assert await mine.settle(sent.delivery)


@pytest.mark.parametrize("set_back", ["the database's", "the process's"])
async def test_nor_does_one_before_the_first_sweep(
    together: Together, set_clock: SetClock, set_back: str
) -> None:
    """I4: at a process that has just started; also where its own clock was set back between its
    look at it and the commit, which takes that for a database an hour ahead."""
    mine, other = await together.join(), await together.join()
    for world in (mine, other):
        assert await world.store.take_over(now_ms=now_ms()) == 0
    sent = await mine.submit("a", handover=True, now_ms=now_ms())
    assert sent.delivery is not None
    if set_back == "the database's":
        set_clock(HOUR_MS)
        looked_ms = now_ms()
    else:
        looked_ms = now_ms() + HOUR_MS
    for world in (mine, other):
        assert await world.store.reclaim(now_ms=looked_ms) == 0
    set_clock(0)
    for world in (mine, other):
        assert await world.store.reclaim(now_ms=now_ms()) == 0
    assert await mine.settle(sent.delivery)


async def test_a_clock_that_falls_back_stops_nothing(
    together: Together, set_clock: SetClock
) -> None:
    """F2: whoever sweeps first brings back what all had stored by the earlier clock."""
    mine, other = await together.join(), await together.join()
    set_clock(HOUR_MS)
    for n in range(4):
        await mine.submit(f"ahead-{n}", now_ms=now_ms())
    for delivery in await mine.claim(now_ms=now_ms()):
        assert await mine.settle(delivery)
    left = await mine.submit("left", now_ms=now_ms())
    set_clock(0)
    new = await other.submit("new", now_ms=now_ms())
    assert await claimed(mine) == set()
    assert await other.store.bring_back(now_ms=now_ms(), limit=SLICE) > 0
    await other.store.hasten(START, now_ms=now_ms(), trusted=False, limit=SLICE)
    async with asyncio.timeout(5):
        found = await claimed(mine)
        while found != {left.id, new.id}:  # the clocks of tests differ by what is not corrected
            await asyncio.sleep(0.05)
            found |= await claimed(mine)
