"""Many dispatchers on one PostgreSQL, killed and cut off: nothing lost, nothing stuck, limits held
over all of them together (I1, I2, I3, I4)."""

import asyncio
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psycopg
import pytest

from tests.dispatcher.postgres import server
from tests.dispatcher.postgres.fleet import (
    AUTH,
    POLICY,
    SCALE,
    Arrival,
    Platform,
    Sink,
    call,
    fleet,
    settled,
    sinking,
    until_status,
)
from tests.dispatcher.postgres.proxy import proxied
from tests.dispatcher.postgres.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def durable() -> Iterator[Server]:
    """A server that really syncs, of these tests' own: they restart it."""
    with server.private_server(durable=True) as running:
        yield running


@pytest.fixture
def url(durable: Server) -> Iterator[str]:
    with server.database(durable.url) as made:
        yield made


@dataclass(slots=True)
class Faults:
    """What befell them: which dispatcher was killed when, when the database was away, and which
    deliveries' answers did not come in time."""

    kills: list[Arrival] = field(default_factory=list)
    outages: list[tuple[float, float]] = field(default_factory=list)
    late: set[str] = field(default_factory=set)
    unanswered: set[tuple[str, Arrival]] = field(default_factory=set)
    # How long an answer may wait for its commit, and how late the sink may hear what lay in its
    # sockets already: so much on this machine, under this load.
    slack_s: float = 1.0

    def explain(self, one: str, before: Arrival) -> bool:
        """Whether a second delivery follows from a fault: the first's sender was killed before it
        can have recorded the answer, or the database was away then, or it says that it brought
        the answer after the lease (on a machine that is too slow for leases of three seconds), or
        it has recorded that none came."""
        killed = any(
            kill.sender == before.sender and abs(kill.at_s - before.at_s) <= self.slack_s
            for kill in self.kills
        )
        return (
            killed
            or one in self.late
            or (one, before) in self.unanswered
            or any(
                began - self.slack_s <= before.at_s <= ended + self.slack_s
                for began, ended in self.outages
            )
        )


def unanswered(url: str, sink: Sink) -> set[tuple[str, Arrival]]:
    """The arrivals whose senders have recorded that no answer came: these customers, who share a
    process with all who submit, took longer than an attempt may. Each such attempt is the arrival
    that came first after it began."""
    sql = (
        "SELECT callback, started_ms FROM attempts WHERE outcome IN ('unreachable', "
        "'protocol_error') OR (outcome = 'timeout' AND duration_ms > %s)"
    )
    found = set()
    with psycopg.connect(url) as connection:
        for one, began_ms in connection.execute(sql, (990 * POLICY["timeout"],)):
            later = (each for each in sink.arrivals.get(one, ()) if each.at_s * 1000 >= began_ms)
            if first := next(later, None):
                found.add((one, first))
    return found


def check_database(url: str, platform: Platform, sink: Sink) -> None:
    """What the tables say is what was acknowledged and what arrived."""
    with psycopg.connect(url) as connection:
        wrong = connection.execute(
            "SELECT tenant, state, count(*) FROM callbacks GROUP BY 1, 2 EXCEPT "
            "SELECT tenant, state, sum(n) FROM counts GROUP BY 1, 2"
        ).fetchall()
        assert wrong == []
        stored: dict[str, str] = dict(
            connection.execute("SELECT job_id, id FROM callbacks").fetchall()
        )
        without = connection.execute(
            "SELECT count(*) FROM callbacks c WHERE NOT EXISTS (SELECT 1 FROM attempts a "
            "WHERE a.callback = c.id AND a.outcome = 'acknowledged')"
        ).fetchone()
        assert without == (0,)
        sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert connection.execute(sql).fetchone() == (0,), "each stops deliveries for a second"
    assert stored == platform.acknowledged, "one callback a job, the acknowledged one"
    assert set(sink.arrivals) == set(stored.values())


@pytest.mark.parametrize("processes", [2, 4])
async def test_processes_killed_and_the_database_restarted_under_load(
    processes: int, durable: Server, url: str, tmp_path: Path
) -> None:
    """Nothing lost, nothing stuck; every duplicate is explained by a kill or a lost answer."""
    count = round(1_000 * SCALE)
    faults = Faults()
    async with sinking(0.002) as sink, fleet(url, tmp_path, processes) as members:
        platform = Platform(members, sink, destinations=50)
        began = time.monotonic()

        async def restart() -> None:
            away_s = time.time()
            await asyncio.to_thread(durable.stop, signal.SIGINT)
            await asyncio.to_thread(durable.start)
            faults.outages.append((away_s, time.time()))

        async def trouble() -> None:
            """Kill one at random every second or so, and restart the database once, from half way
            on."""
            while len(platform.acknowledged) < count or not faults.outages:
                await asyncio.sleep(random.uniform(0.4, 1.0))
                if not faults.outages and len(platform.acknowledged) > count / 2:
                    await restart()
                victim = random.choice(members)
                faults.kills.append(Arrival(time.time(), victim.number))
                await victim.end(kill=True)
                await asyncio.sleep(random.uniform(0.1, 0.3))
                await victim.start()

        troubling = asyncio.create_task(trouble())
        submitting = asyncio.create_task(platform.submit_all(count, per_second=600))
        await submitting
        await troubling
        counts = await settled(members[0])
        seconds = time.monotonic() - began
    faults.late = set().union(*(member.late() for member in members))
    faults.unanswered = unanswered(url, sink)
    faults.slack_s += 3 * platform.usual_wait_s
    explained = [one for one in sink.duplicates if faults.explain(*one[:2])]
    print(
        f"\n{processes} processes, 50 destinations: accepted={len(platform.acknowledged)} "
        f"delivered={counts['delivered']} duplicates={len(sink.duplicates)} "
        f"explained={len(explained)} kills={len(faults.kills)} outages={len(faults.outages)} "
        f"late={len(faults.late)} unanswered={len(faults.unanswered)} slack={faults.slack_s:.1f} s "
        f"at once={sink.twice_at_once} "
        f"refused={dict(platform.refused)} in {seconds:.1f} s"
    )
    assert counts == {"pending": 0, "sending": 0, "delivered": count, "dead": 0, "cancelled": 0}
    unexplained = [one for one in sink.duplicates if one not in explained]
    assert unexplained == [], faults
    assert len(faults.outages) == 1
    check_database(url, platform, sink)


async def test_a_concurrency_of_three_is_never_exceeded_over_four_processes(
    url: str, tmp_path: Path
) -> None:
    """Measured where it matters: at the customer."""
    count = round(150 * SCALE)
    async with sinking(0.01) as sink, fleet(url, tmp_path, 4) as members:
        platform = Platform(members, sink, destinations=3)
        await platform.submit_all(3)
        await settled(members[0])
        _, page = await call(members[0], "GET", "/v1/destinations?limit=100")
        (found,) = page["data"]  # three paths of one server
        status, _ = await call(
            members[0], "PATCH", f"/v1/destinations/{found['id']}", json={"concurrency": 3}
        )
        assert status == 200
        sink.most_of_all = 0
        platform.acknowledged.clear()
        sink.arrivals.clear()
        began = time.monotonic()
        await platform.submit_all(count + 3)
        counts = await settled(members[0])
        seconds = time.monotonic() - began
    print(
        f"\n4 processes, concurrency 3: delivered={counts['delivered']} "
        f"most at once={sink.most_of_all} in {seconds:.1f} s"
    )
    assert counts["delivered"] == count + 3
    assert sink.most_of_all == 3
    assert sink.duplicates == []


async def test_two_processes_deliver_everything_once(url: str, tmp_path: Path) -> None:
    """Without faults there are no duplicates, however the processes race."""
    count = round(800 * SCALE)
    async with sinking() as sink, fleet(url, tmp_path, 2) as members:
        platform = Platform(members, sink, destinations=20)
        await platform.submit_all(count)
        counts = await settled(members[1])
    assert counts["delivered"] == count
    lost = unanswered(url, sink)
    assert [one for one in sink.duplicates if one[:2] not in lost] == []
    check_database(url, platform, sink)


async def test_a_key_revoked_at_one_process_is_refused_by_all(url: str, tmp_path: Path) -> None:
    async with fleet(url, tmp_path, 2) as (here, there):
        asked = {"label": "test", "scopes": ["read"], "tenant": "default"}
        status, made = await call(here, "POST", "/v1/keys", json=asked)
        assert status == 201, made
        headers = {"Authorization": f"Bearer {made['key']}"}
        await until_status(there, "/v1/stats", 200, headers=headers)
        began = time.monotonic()
        async with (
            aiohttp.ClientSession(headers=AUTH) as session,
            session.delete(f"{here.url}/v1/keys/{made['id']}") as answer,
        ):
            assert answer.status == 204
        await until_status(there, "/v1/stats", 401, headers=headers)
        print(f"\nrevoked everywhere after {(time.monotonic() - began) * 1000:.0f} ms")


async def test_a_database_that_goes_away_is_503_and_comes_back_by_itself(
    url: str, tmp_path: Path
) -> None:
    """Readiness is red meanwhile, submits are told when to try again, and nothing is restarted."""
    async with proxied(url) as proxy, sinking() as sink, fleet(proxy.url, tmp_path, 1) as (one,):
        document = {"jobId": "a", "callbackUrl": f"{sink.url}/x", "payload": {}}
        assert (await call(one, "GET", "/readyz"))[0] == 200
        proxy.refusing = True
        proxy.cut()
        began = time.monotonic()
        async with (
            aiohttp.ClientSession(headers=AUTH) as session,
            session.post(f"{one.url}/v1/callbacks", json=document) as answer,
        ):
            assert (answer.status, "Retry-After" in answer.headers) == (503, True)
            assert (await answer.json())["error"] == "UNAVAILABLE"
        assert (await call(one, "GET", "/readyz"))[0] == 503
        assert (await call(one, "GET", "/healthz"))[0] == 200
        assert time.monotonic() - began < 30
        proxy.refusing = False
        await until_status(one, "/readyz", 200)
        assert (await call(one, "POST", "/v1/callbacks", json=document))[0] == 202
        assert (await settled(one))["delivered"] == 1
