"""Processes that run jobs stand still, lose their database, or have their clocks stepped: others
take over after a lease of contact and never before it, and what comes too late changes nothing
(D20)."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import psycopg
import pytest

from dispatcher.gateway.beats import BEATS
from tests.dispatcher.crash.job_proof import World
from tests.dispatcher.crash.job_world import (
    AUTH,
    Call,
    Customer,
    Gateway,
    Platform,
    Upstream,
    customer,
    upstream,
)
from tests.dispatcher.postgres import folders
from tests.dispatcher.postgres.proxy import proxied

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
SCALE: Final = float(os.environ.get("POSTBACK_TEST_SCALE", "1"))
LEASE_S: Final = 2.0
BEAT_S: Final = LEASE_S / BEATS
# Beyond a lease: a beat that came before it, a look, and what a busy machine takes.
MORE_S: Final = 3 * BEAT_S + 5
HOUR_S: Final = 3_600.0
_EACH: Final = 4


class Processes:
    """Several dispatchers on one database, with a platform, an upstream and a customer."""

    def __init__(self, database: str, folder: Path, peers: tuple[Upstream, Customer]) -> None:
        self.database = database
        self.folder = folder
        self.upstream, self.customer = peers
        self.platform = Platform(*peers)
        self.gateways: list[Gateway] = []

    async def add(self, url: str | None = None, **how: Any) -> Gateway:
        """One more process, that reaches the database by `url`."""
        one = Gateway(url or self.database, self.folder, f"gateway-{len(self.gateways)}")
        self.gateways.append(one)
        assert await one.start(lease_s=LEASE_S, **how)
        return one

    async def close(self) -> None:
        for one in self.gateways:
            await one.close()
            print(one.name, one.told())

    async def submit(self, gateway: Gateway, *kinds: str, each: int = _EACH) -> list[str]:
        """Jobs of these kinds, accepted by one process; their ids."""
        before = set(self.platform.accepted)
        async with aiohttp.ClientSession(headers=AUTH) as session:
            for kind in kinds:
                for _ in range(each):
                    assert await self.platform.submit(session, gateway.url, kind)
        return [id for number, id in self.platform.accepted.items() if number not in before]

    def read(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database) as connection:
            return connection.execute(sql.encode()).fetchall()

    async def until(self, met: Callable[[], bool], seconds: float = 60) -> None:
        """Until it is so: other processes have no event to wait for."""
        async with asyncio.timeout(seconds):
            while not met():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def calls(self, id: str) -> list[Call]:
        return self.upstream.calls[id, 1]

    def state(self, id: str) -> tuple[str, str | None]:
        ((state, reason),) = self.read(
            f"SELECT state, reason FROM jobs WHERE id = '{id.removeprefix('job_')}'"
        )
        return state, reason

    def process(self, id: str) -> str:
        """Who runs it."""
        sql = f"SELECT process FROM jobs WHERE id = '{id.removeprefix('job_')}'"
        ((process,),) = self.read(sql)
        return str(process)

    async def cancel(self, gateway: Gateway, id: str) -> None:
        async with (
            aiohttp.ClientSession(headers=AUTH) as session,
            session.post(f"{gateway.url}/v1/jobs/{id}/cancel") as answer,
        ):
            self.platform.cancelled[id, 1] = (await answer.json())["status"]

    async def settled(self) -> None:
        """Until every job has ended and every end is told."""
        unsettled = (
            "SELECT id FROM jobs WHERE state IN ('queued', 'running') OR releasing = 1 "
            "UNION ALL SELECT id FROM callbacks WHERE state IN ('pending', 'sending')"
        )
        await self.until(lambda: not self.read(unsettled))

    def world(self, gateway: Gateway) -> World:
        """For its checks."""
        return World(gateway, self.upstream, self.customer, self.platform, self.read, "postgres")


@asynccontextmanager
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    async with upstream() as model, customer() as told:
        made = Processes(folders.url_for(tmp_path, used=True), tmp_path, (model, told))
        try:
            yield made
        finally:
            await made.close()
            folders.empty_under(tmp_path)


async def figure(gateway: Gateway, name: str) -> float:
    """A metric of a process."""
    async with (
        aiohttp.ClientSession(headers=AUTH) as session,
        session.get(f"{gateway.url}/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    return sum(float(one.split()[-1]) for one in lines if one.startswith(f"dispatcher_{name}"))


async def test_a_process_that_stands_still_for_two_leases_changes_nothing_when_it_wakes(
    tmp_path: Path,
) -> None:
    """SIGSTOP: the other takes over after a lease; of what the first one had open, answers that
    came meanwhile are dropped, calls that are still open are closed, and it works on."""
    async with processes(tmp_path) as them:
        first, second = await them.add(), await them.add()
        await them.platform.prepare(first.url)
        again = await them.submit(first, "again first-late", "again first-long", each=3)
        once = await them.submit(first, "once first-late", "once first-long", each=3)
        held = again + once
        await them.until(lambda: all(len(them.calls(id)) == 1 for id in held))
        assert len({them.process(id) for id in held}) == 1
        stopped_s = time.monotonic()
        first.send(signal.SIGSTOP)
        them.upstream.life += 1
        try:
            await them.until(lambda: all(len(them.calls(id)) == 2 for id in again))
            taken_s = min(them.calls(id)[1].began_s for id in again) - stopped_s
            assert LEASE_S - 2 * BEAT_S <= taken_s <= LEASE_S + MORE_S
            await them.until(lambda: all(them.state(id)[0] == "failed" for id in once))
            await them.settled()
            await asyncio.sleep(max(0.0, stopped_s + 2 * LEASE_S - time.monotonic()))
            told = {(one.id, one.body) for one in them.customer.got}
            rows = "SELECT id, state, claim, run, callback FROM jobs ORDER BY id"
            before = them.read(rows)
            open_here = sum(them.calls(id)[0].met == "open" for id in held)
            assert open_here == 6, "calls that last: they are open as long as it stands still"
        finally:
            first.send(signal.SIGCONT)
        await them.until(lambda: not any(them.calls(id)[0].met == "open" for id in held))
        assert sum(them.calls(id)[0].met == "closed" for id in held) == 6
        async with asyncio.timeout(20):
            while await figure(first, "job_late_results_total") < 6:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        more = await them.submit(first, "again ok", "once ok")
        await them.submit(second, "again ok", "once ok")
        await them.settled()
        assert them.read(rows)[: len(before)] == before, "its late results changed something"
        assert told <= {(one.id, one.body) for one in them.customer.got}
        assert {them.state(id) for id in again} == {("completed", None)}
        assert {them.state(id) for id in once} == {("failed", "interrupted")}
        assert {them.state(id) for id in more} == {("completed", None)}
        print(f"\nSIGSTOP: taken over after {taken_s:.2f} s of a lease of {LEASE_S:g} s")
        world = them.world(second)
        world.ended_s = {0: stopped_s}
        world.check(stood_still=True)


async def test_the_database_away_for_three_leases_has_nobody_taken_over_who_lives(
    tmp_path: Path,
) -> None:
    """Calls go on and their ends are stored when it is back, each once. Of a process that died
    meanwhile the jobs are taken over, but only after a full lease of contact."""
    async with processes(tmp_path) as them, proxied(them.database) as proxy:
        first, second, _ = [await them.add(proxy.url) for _ in range(3)]
        await them.platform.prepare(first.url)
        # Ended while it is away, and going on beyond that.
        dead = await them.submit(first, "again away", "once away", each=1)
        dead += await them.submit(first, "again first-long", "once first-long", each=1)
        ended = await them.submit(second, "again away", "once away", each=2)
        going = await them.submit(second, "again long", "once long", each=1)
        every = [*dead, *ended, *going]
        await them.until(lambda: all(len(them.calls(id)) == 1 for id in every))
        assert len({them.process(id) for id in dead}) == 1
        assert len({them.process(id) for id in ended + going}) == 1
        cut_s = time.monotonic()
        proxy.refusing = True
        proxy.cut()
        await asyncio.sleep(LEASE_S)
        killed_s = time.monotonic()
        await first.end(kill=True)
        them.upstream.life += 1
        async with aiohttp.ClientSession(headers=AUTH) as session:
            assert not await them.platform.submit(session, second.url, "again ok")
        await asyncio.sleep(max(0.0, killed_s + 2 * LEASE_S - time.monotonic()))
        proxy.refusing = False
        back_s = time.monotonic()
        await them.until(lambda: {them.state(id)[0] for id in ended} == {"completed"})
        await them.until(lambda: them.state(dead[1])[0] == "failed")
        taken_s = time.monotonic() - back_s
        assert LEASE_S - BEAT_S <= taken_s <= LEASE_S + MORE_S
        await asyncio.sleep(LEASE_S)
        assert {them.state(id)[0] for id in going} == {"running"}
        for id in going:
            await them.cancel(second, id)
        await them.settled()
        assert [them.state(id)[0] for id in dead] == ["completed", "failed"] * 2
        assert [len(them.calls(id)) for id in dead] == [2, 1] * 2
        assert {len(them.calls(id)) for id in ended + going} == {1}, "called again"
        print(f"\ntaken over {taken_s:.2f} s after the database was back")
        world = them.world(second)
        world.ended_s = {0: cut_s}  # what was answered since then nobody could record
        world.check()


async def test_clocks_that_are_stepped_while_processes_die_lose_nothing(world: World) -> None:
    """The process's clock, and the database's, an hour ahead or back, at any moment. Jobs that end
    by URL do, or by their limits, where nobody ever tells of them."""
    world.how = {"hold_s": 2.0}
    world.platform.also = "mute work"
    await world.prepare()
    for _ in range(max(1, round(2 * SCALE))):
        await world.cycle("", steps=True)
    world.gateway.set_clock(HOUR_S)
    await world.finish(put_right=True)
