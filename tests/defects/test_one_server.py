"""One server and many paths (D5, I6): a dead server whose paths hold a job's id each costs others
nothing, and a good path beside a dead and a busy one of the same host and port keeps its pace. What
is asserted are starts and slots; the times are only printed."""

import asyncio
import sqlite3
import statistics
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from dispatcher.ids import LANES, lane_id
from dispatcher.outcome import Outcome
from dispatcher.policy import Policy, dump
from dispatcher.signing import Secrets
from dispatcher.values import Delivery
from receiver.base.clock import now_ms
from tests.dispatcher.engine.rig import Rig, rigged
from tests.dispatcher.store.builders import SERVER, TENANT, outcome

PATIENT = dump(Policy(attempts=3, delays=(60.0,), jitter=0, timeout=30.0))
OTHER = "http://other.test/hook"


@dataclass(slots=True)
class Host:
    """Answers as the path says: `dead` never, `busy` 429, others after some milliseconds."""

    dead: Callable[[str], bool]
    busy: Callable[[str], bool] = lambda _url: False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    now: Counter[str] = field(default_factory=Counter)
    most: int = 0
    took_ms: dict[str, list[int]] = field(default_factory=dict)

    async def send(self, delivery: Delivery, secrets: Secrets) -> Outcome:
        host, url = urlsplit(delivery.url).netloc, delivery.url
        self.now[host] += 1
        self.most = max(self.most, self.now[host])
        try:
            if self.dead(url):
                await self.over.wait()
                return outcome(kind="timeout", now_ms=now_ms())
            if self.busy(url):
                return outcome(429, now_ms=now_ms(), retry_after_ms=60_000)
            await asyncio.sleep(0.002)
            self.took_ms.setdefault(url, []).append(now_ms() - delivery.created_ms)
            return outcome(200, now_ms=now_ms())
        finally:
            self.now[host] -= 1


def p99(times: list[int]) -> float:
    return statistics.quantiles(times, n=100)[98]


async def good_ones(rig: Rig, host: Host, url: str, count: int, prefix: str) -> float:
    """Submit one every few milliseconds until all have been answered; their p99."""
    host.took_ms.pop(url, None)
    for n in range(count):
        await rig.submit(f"{prefix}-{n}", url=url)
        await asyncio.sleep(0.002)

    async def answered() -> bool:
        return len(host.took_ms.get(url, ())) == count

    await rig.until(answered)
    return p99(host.took_ms[url])


async def test_a_dead_server_with_a_path_per_job_costs_others_nothing(tmp_path: Path) -> None:
    """F4: 3,000 callbacks, 3,000 paths: at most one destination's concurrency of slots is held, on
    at most sixteen lanes, while others of the same tenant are answered."""
    host = Host(dead=lambda url: url.startswith(SERVER))
    async with rigged(tmp_path, send=host.send) as rig:
        alone = await good_ones(rig, host, OTHER, 60, "alone")
        await rig.many(3_000, url=SERVER + "/jobs/{n}", policy=PATIENT)
        beside = await good_ones(rig, host, OTHER, 60, "beside")
        assert host.now[urlsplit(SERVER).netloc] <= 64
        assert host.most == 64
        with closing(sqlite3.connect(f"file:{tmp_path}/engine.db?mode=ro", uri=True)) as file:
            (lanes,) = file.execute("SELECT count(*) FROM lanes").fetchone()
        assert lanes <= LANES + 1
        found, _ = await rig.store.destinations(TENANT, after=None, limit=10)
        assert {one.url for one in found} == {SERVER, "http://other.test:80"}
        print(f"\np99 alone {alone:.0f} ms, beside a dead server {beside:.0f} ms")
        host.over.set()


async def test_a_good_path_beside_a_dead_and_a_busy_one_keeps_its_pace(tmp_path: Path) -> None:
    """On one host and port, each on a lane of its own: every good one starts while the dead ones
    hang and the busy ones are held."""
    urls: dict[str, str] = {}
    for n in range(100):
        urls.setdefault(lane_id(TENANT, f"{SERVER}/p{n}"), f"{SERVER}/p{n}")
    good, dead, busy = list(urls.values())[:3]
    host = Host(dead=lambda url: url == dead, busy=lambda url: url == busy)
    async with rigged(tmp_path, send=host.send) as rig:
        alone = await good_ones(rig, host, good, 200, "alone")
        for n in range(200):
            await rig.submit(f"dead-{n}", url=dead, policy=PATIENT)
            await rig.submit(f"busy-{n}", url=busy, policy=PATIENT)
        beside = await good_ones(rig, host, good, 200, "beside")
        assert host.now[urlsplit(SERVER).netloc] <= 8  # the dead path's window
        assert host.most <= 64
        print(f"\np99 alone {alone:.0f} ms, beside a dead and a busy path {beside:.0f} ms")
        host.over.set()
