"""The wall clock of a running dispatcher is stepped (D20): nothing is lost, nothing stands still,
and nothing is sent twice for it."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.dispatcher.crash.test_crash import finish
from tests.dispatcher.crash.world import KEY, Dispatcher, Platform, Sink, settled
from tests.dispatcher.postgres import folders

HOUR_S = 3_600.0
CYCLES = max(1, round(4 * float(os.environ.get("POSTBACK_TEST_SCALE", "1"))))  # 20 at scale 5


async def call(dispatcher: Dispatcher, path: str, fields: dict[str, Any]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{dispatcher.url}/v1/{path}", json=fields) as response,
    ):
        assert response.status in (201, 202), await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


async def submit(dispatcher: Dispatcher, sink: Sink, job: str, **more: Any) -> None:
    to = {"callbackUrl": f"http://127.0.0.1:{sink.port}/{job}", "payload": 1}
    if "destination" in more:
        del to["callbackUrl"]
    await call(dispatcher, "callbacks", {"jobId": job, **to, **more})


@pytest.mark.slow
@pytest.mark.timeout(60 + 20 * CYCLES)
async def test_kill_dash_nine_and_a_stepped_clock_lose_nothing(
    dispatcher: Dispatcher, sink: Sink
) -> None:
    """I1, I2, I3, I4: under load the clock jumps an hour ahead or back, the process is killed and
    starts again by whatever time it is. Each duplicate has a crash between its attempts."""
    platform = Platform(sink)
    chance = random.Random(CYCLES)
    for _ in range(CYCLES):
        sink.life += 1
        await dispatcher.start()
        loading = asyncio.create_task(platform.load(dispatcher.url))
        for _ in range(2):
            await asyncio.sleep(chance.uniform(0.05, 0.4))  # the moment is what is random here
            dispatcher.set_clock(chance.choice((-HOUR_S, 0.0, HOUR_S)))
        await asyncio.sleep(chance.uniform(0.05, 0.4))
        assert await dispatcher.end(kill=True) == -9
        await loading
    assert platform.acknowledged, "nothing was submitted at all"
    dispatcher.set_clock(0)
    await finish(dispatcher, platform, sink, kills=CYCLES)


@pytest.fixture(params=["sqlite", "postgres"])
async def store(
    request: pytest.FixtureRequest, dispatcher: Dispatcher, tmp_path: Path
) -> AsyncIterator[None]:
    """Put the dispatcher on each store."""
    if request.param == "postgres":
        dispatcher.other_database = folders.url_for(tmp_path, used=True)
    yield
    if dispatcher.process is not None:
        await dispatcher.end(kill=True)
    folders.empty_under(tmp_path)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_clock_put_right_lets_everything_go_at_once(
    dispatcher: Dispatcher, sink: Sink, restarted: bool
) -> None:
    """F2: four deliveries an hour ahead, and then those of everyone: first attempts, a rate, what
    was waiting."""
    await dispatcher.start()
    url = f"http://127.0.0.1:{sink.port}/rated"
    await call(dispatcher, "destinations", {"name": "rated", "url": url, "ratePerSecond": 50})
    dispatcher.set_clock(HOUR_S)
    for n in range(4):
        await submit(dispatcher, sink, f"ahead-{n}")
        await submit(dispatcher, sink, f"ahead-rated-{n}", destination="rated")
    await settled(dispatcher.url)
    dispatcher.set_clock(0)
    if restarted:
        assert await dispatcher.end(kill=True) == -9
        sink.life += 1
        await dispatcher.start()
    for n in range(110):
        await submit(dispatcher, sink, f"job-{n}")
    for n in range(4):
        await submit(dispatcher, sink, f"rated-{n}", destination="rated")
    async with asyncio.timeout(30):
        assert (await settled(dispatcher.url))["delivered"] == 8 + 114
    assert sink.duplicates == 0


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
async def test_an_attempt_during_a_step_is_the_only_one(
    dispatcher: Dispatcher, sink: Sink, step_s: float
) -> None:
    """I4: however far beyond its lease; its result counts."""
    sink.silent = True
    await dispatcher.start()
    await submit(dispatcher, sink, "one", policy={"attempts": 1, "timeout": 2})
    async with asyncio.timeout(30):
        await sink.arrived.wait()
    dispatcher.set_clock(step_s)
    async with asyncio.timeout(30):
        assert (await settled(dispatcher.url))["dead"] == 1
    assert [len(received) for received in sink.got.values()] == [1]


async def test_a_clock_set_back_strands_no_retry_and_no_rate(
    dispatcher: Dispatcher, sink: Sink
) -> None:
    """Set back while a retry waits and a rate is used: both go on within the retry's own wait."""
    sink.fail_first = True
    await dispatcher.start()
    url = f"http://127.0.0.1:{sink.port}/rated"
    await call(dispatcher, "destinations", {"name": "rated", "url": url, "ratePerSecond": 50})
    policy = {"attempts": 5, "delays": [2], "jitter": 0}
    await submit(dispatcher, sink, "again", policy=policy)
    await submit(dispatcher, sink, "rated-0", destination="rated", policy=policy)
    async with asyncio.timeout(30):
        while len(sink.got) < 2:
            await sink.arrived.wait()
            await asyncio.sleep(0.01)
    dispatcher.set_clock(-HOUR_S)
    for n in range(1, 4):
        await submit(dispatcher, sink, f"rated-{n}", destination="rated")
        await submit(dispatcher, sink, f"plain-{n}")
    async with asyncio.timeout(20):
        assert (await settled(dispatcher.url))["delivered"] == 8
