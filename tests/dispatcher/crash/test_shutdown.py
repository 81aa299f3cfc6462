"""SIGTERM: not ready, no new work, what is in flight is finished or handed back; a second one
leaves at once (D7)."""

import asyncio
import sqlite3
import time
from pathlib import Path

import aiohttp

from tests.dispatcher.crash.world import KEY, Dispatcher, Platform, Sink, settled


async def submit(dispatcher: Dispatcher, platform: Platform, count: int) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
        await asyncio.gather(*(platform.submit(session, dispatcher.url) for _ in range(count)))


def states(database: Path) -> dict[tuple[str, int, int], int]:
    """How many callbacks are in which state, with how many tries and attempts."""
    connection = sqlite3.connect(database)
    found = connection.execute(
        "SELECT state, tries, attempts, count(*) FROM callbacks GROUP BY 1, 2, 3"
    ).fetchall()
    connection.close()
    return {(state, tries, attempts): n for state, tries, attempts, n in found}


async def test_sigterm_under_load_loses_nothing_and_sends_nothing_twice(
    dispatcher: Dispatcher, sink: Sink
) -> None:
    """I1, I3: an orderly end is no excuse for a duplicate."""
    platform = Platform(sink)
    for _ in range(2):
        sink.life += 1
        await dispatcher.start()
        loading = asyncio.create_task(platform.load(dispatcher.url))
        platform.taken.clear()
        async with asyncio.timeout(60):
            await platform.taken.wait()
        await asyncio.sleep(0.2)  # the moment is arbitrary: under load is what counts
        assert await dispatcher.end(kill=False) == 0
        await loading
    assert {state for state, _, _ in states(dispatcher.database)} <= {"delivered", "pending"}
    await dispatcher.start()
    await settled(dispatcher.url)
    assert await dispatcher.end(kill=False) == 0
    assert platform.acknowledged.keys() <= sink.got.keys()
    assert sink.duplicates == 0


async def test_after_the_grace_period_what_is_in_flight_is_handed_back_unspent(
    dispatcher: Dispatcher, sink: Sink
) -> None:
    sink.silent = True
    platform = Platform(sink)
    await dispatcher.start(grace_s=0.3)
    await submit(dispatcher, platform, 6)
    async with asyncio.timeout(60):
        await sink.arrived.wait()
    began = time.monotonic()
    assert await dispatcher.end(kill=False) == 0
    assert time.monotonic() - began < 10
    assert states(dispatcher.database) == {("pending", 0, 0): 6}
    sink.silent = False
    await dispatcher.start()
    assert (await settled(dispatcher.url))["delivered"] == 6


async def test_a_second_signal_leaves_at_once_and_loses_nothing(
    dispatcher: Dispatcher, sink: Sink
) -> None:
    """I1, I2."""
    sink.silent = True
    platform = Platform(sink)
    await dispatcher.start(grace_s=60)
    await submit(dispatcher, platform, 6)
    async with asyncio.timeout(60):
        await sink.arrived.wait()
    process = dispatcher.process
    assert process is not None
    process.terminate()
    await not_ready(dispatcher.url)
    process.terminate()
    async with asyncio.timeout(60):
        assert await dispatcher.dead() == -15
    sink.silent = False
    await dispatcher.start()
    assert (await settled(dispatcher.url))["delivered"] == 6


async def not_ready(url: str) -> None:
    """Until the service takes nothing any more: it answers 503, or no connection at all."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while True:
            try:
                async with session.get(f"{url}/readyz") as answer:
                    if answer.status == 503:
                        return
            except aiohttp.ClientError:
                return
