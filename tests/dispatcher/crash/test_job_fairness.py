"""What endpoints promise whoever shares them, measured where it matters: at the upstream. A flood
of one customer costs another a place at most; capacity and rate are exact over processes, also
while one of them dies, whose jobs go on within a lease."""

import asyncio
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from dispatcher.fairness import PACE_BURST_S
from dispatcher.settings import Settings
from dispatcher.store import open_store
from receiver.base.clock import now_ms
from tests.dispatcher.crash.job_proof import World
from tests.dispatcher.crash.job_world import AUTH, KEY, Call
from tests.dispatcher.crash.test_job_processes import LEASE_S, MORE_S, Processes, processes
from tests.dispatcher.store.jobs import builders

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120 + 1_200)]
SCALE: Final = float(os.environ.get("POSTBACK_TEST_SCALE", "1"))
FLOOD: Final = min(100_000, round(2_500 * SCALE))  # 100,000 at scale 40
_AT_ONCE: Final = 2_000


async def flood(world: World, endpoint: str, count: int) -> None:
    """High jobs of one customer, straight into the store."""
    store = open_store(Settings(database_url=world.gateway.database, admin_key=KEY))
    await store.open()
    try:
        for begun in range(0, count, _AT_ONCE):
            many = range(begun, min(count, begun + _AT_ONCE))
            await asyncio.gather(
                *(
                    store.jobs.submit(
                        builders.job(
                            b'{"n":%d,"do":"held"}' % n,
                            tenant="flood",
                            at=endpoint,
                            priority="high",
                            now_ms=now_ms(),
                        )
                    )
                    for n in many
                )
            )
    finally:
        await store.close()


async def submit(url: str, tenant: str, endpoint: str, do: str, **headers: str) -> str:
    """A job's id."""
    async with (
        aiohttp.ClientSession(headers={**AUTH, "Postback-Tenant": tenant, **headers}) as session,
        session.post(f"{url}/v1/endpoints/{endpoint}/jobs", json={"n": 0, "do": do}) as answer,
    ):
        document: dict[str, Any] = await answer.json()
        assert answer.status == 202, document
        return str(document["id"])


async def test_a_flood_of_high_jobs_delays_anothers_normal_job_by_one_place_at_most(
    world: World,
) -> None:
    """Measured over and over: how many of the flood's calls began after the other's job was
    accepted, and before its own. Where priority goes across customers, a flood of high jobs goes
    first, as is asked for: but one start in five is kept for the rest."""
    assert await world.gateway.start()
    for scope in ("customer", "endpoint"):
        await make(
            world.gateway.url, scope, world.upstream.url(scope),
            concurrency=1, queueMax=FLOOD, priorityScope=scope,
        )  # fmt: skip
    await world.gateway.end(kill=False)
    began_s = time.monotonic()
    for scope in ("customer", "endpoint"):
        await flood(world, scope, FLOOD)
    stored_s = time.monotonic() - began_s
    assert await world.gateway.start()
    for scope, most in (("customer", 1), ("endpoint", 5)):
        places = [await _places(world, scope) for _ in range(10)]
        print(
            f"\n{world.dialect}, priority of each {scope}: {FLOOD} high jobs (stored in "
            f"{stored_s:.0f} s) delayed ten normal ones of another customer by {places} places"
        )
        assert max(places) <= most
    await world.gateway.end(kill=True)


async def make(url: str, name: str, upstream: str, **rules: Any) -> None:
    """Make an endpoint."""
    document = {"name": name, "url": upstream, "adaptive": False, "queueMaxTenant": 200_000}
    async with (
        aiohttp.ClientSession(headers=AUTH) as session,
        session.post(f"{url}/v1/endpoints", json=document | rules) as answer,
    ):
        assert answer.status == 201, await answer.text()


async def _places(world: World, endpoint: str) -> int:
    """How many calls go before one job that is submitted now."""
    await _until_more(world, endpoint, 3)
    id = await submit(world.gateway.url, "quiet", endpoint, "ok")
    accepted_s = time.monotonic()
    async with asyncio.timeout(30):
        while (id, 1) not in world.upstream.calls:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    own_s = world.upstream.calls[id, 1][0].began_s
    return sum(accepted_s < one.began_s < own_s for one in _calls(world, endpoint))


def _calls(world: World, endpoint: str) -> list[Call]:
    calls = (one for each in world.upstream.calls.values() for one in each)
    return [one for one in calls if one.endpoint == endpoint]


async def _until_more(world: World, endpoint: str, count: int) -> None:
    """Until so many calls more have begun."""
    so_far = len(_calls(world, endpoint))
    async with asyncio.timeout(60):
        while len(_calls(world, endpoint)) < so_far + count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_capacity_and_rate_are_exact_over_four_processes_and_a_killed_ones_jobs_go_on(
    tmp_path: Path,
) -> None:
    """All four claim from the same endpoints; one of them is killed in the middle. Never are more
    calls open than `concurrency`, and all places are used; never begin more than `rate` allows, and
    nearly as many do; what the killed one had open is called again within a lease."""
    rate, concurrency, each = 40.0, 5, max(1, round(20 * SCALE))
    async with processes(tmp_path) as them:
        for _ in range(4):
            await them.add()
        url = them.gateways[0].url
        await make(url, "capacity", them.upstream.url("capacity"), concurrency=concurrency)
        await make(url, "rated", them.upstream.url("rated"), concurrency=50, rate=rate)
        await asyncio.sleep(0.5)  # the others have heard of them
        killed_s = await _load_and_kill(them, each)
        await them.settled()
        calls = them.upstream.calls
        again = [pair for pair in calls.values() if len(pair) > 1]
        assert len(again) >= 2
        for first, second, *more in again:
            assert not more
            assert first.ended_s > killed_s - 1, "its answer had come"
            assert second.began_s - killed_s <= LEASE_S + MORE_S
        assert {row[0] for row in them.read("SELECT state FROM jobs")} == {"completed"}
        assert len(calls) == 8 * each + 2
        began_s = sorted(
            one.began_s for pair in calls.values() for one in pair if one.endpoint == "rated"
        )
        most = _most_within(began_s, 1.0)
        owners = defaultdict(
            int, them.read("SELECT process, count(*) FROM job_attempts GROUP BY 1")
        )
    whole_s = began_s[-1] - began_s[0]
    taken_s = max(pair[1].began_s for pair in again) - killed_s
    print(
        f"\nfour processes, {8 * each} jobs: at most {them.upstream.most['capacity']} calls open "
        f"of {concurrency}; at most {most} starts in a second of {rate:g}, "
        f"{len(began_s) / whole_s:.1f} on average; {len(again)} calls of a killed process "
        f"made again {taken_s:.1f} s later; "
        f"calls by process: {sorted(owners.values())}"
    )
    assert them.upstream.most["capacity"] == concurrency
    # What was paced may arrive closer together than it was let go.
    assert most <= rate * (1 + PACE_BURST_S) + 1 + rate * 0.15
    assert len(owners) >= 2, "one process ran everything"


async def _load_and_kill(them: Processes, each: int) -> float:
    """Submit to all four, and kill one that has had two calls open from the beginning."""
    victim = them.gateways[3]
    held = [await submit(victim.url, "default", "capacity", "first-long") for _ in range(2)]
    await them.until(lambda: all(len(them.calls(id)) == 1 for id in held))
    await asyncio.gather(
        *(
            submit(one.url, "default", name, "slow")
            for one in them.gateways
            for name in ("capacity", "rated")
            for _ in range(each)
        )
    )
    killed_s = time.monotonic()
    await victim.end(kill=True)
    them.upstream.life += 1
    return killed_s


def _most_within(times_s: list[float], seconds: float) -> int:
    """The most that lie within any span of so many seconds."""
    most = first = 0
    for last, at_s in enumerate(times_s):
        while at_s - times_s[first] >= seconds:
            first += 1
        most = max(most, last - first + 1)
    return most
