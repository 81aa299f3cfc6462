"""A dispatcher that runs jobs and dies, and what must be true afterwards: no accepted job is lost,
what may run once ran once, what ran again was in flight at a kill, and each run's end was told by
one callback (I1, I2, I3)."""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import pytest

from tests.dispatcher.crash.job_points import CALLS, Dialect
from tests.dispatcher.crash.job_world import (
    AUTH,
    ENDPOINTS,
    Call,
    Customer,
    Gateway,
    Platform,
    Told,
    Upstream,
    duplicates,
    get,
)

_POINT_S: Final = 20.0  # to come to a point, on a busy machine
_TURN_S: Final = 4.0  # to be called, or not to be
_STUCK_S: Final = 30.0  # in which not one job or callback comes to its end
_SHOWN_MAX: Final = 1_000  # jobs of which the API is asked, and not the database alone
# An answer that came so shortly before a kill may not have been recorded.
_SLACK_S: Final = 1.0
_QUICK_S: Final = 0.05  # a call that is open for longer is one that takes its time
_DRAINED: Final = ("settle-handed-back", "leave")
_AFTER_CRASH: Final = ("orphans", "reclaim")
_LIVES_MAX: Final = 4
# What comes once a life, or can only.
_ONCE: Final = (*_AFTER_CRASH, *_DRAINED, "settle-turned-away")
_KILLED_BY_UPSTREAM: Final = CALLS[1:3]


@dataclass(slots=True)
class World:
    """All that there is, and what befell it."""

    gateway: Gateway
    upstream: Upstream
    customer: Customer
    platform: Platform
    read: Callable[[str], list[tuple[Any, ...]]]
    dialect: Dialect
    kills: Counter[str] = field(default_factory=Counter)
    how: dict[str, Any] = field(default_factory=dict)  # its lives are
    missed: list[str] = field(default_factory=list)
    ended_s: dict[int, float] = field(default_factory=dict)  # of each life
    chance: random.Random = field(default_factory=lambda: random.Random(8))

    async def prepare(self) -> None:
        """A first life, in which the endpoints are made."""
        self.upstream.telling.reach = lambda: self.gateway.url
        assert await self.gateway.start(**self.how)
        await self.platform.prepare(self.gateway.url)
        await self.gateway.end(kill=True)

    async def cycle(self, point: str, *, steps: bool = False) -> None:
        """A life under load, that ends at a point; or, where its clocks take `steps`, at some
        moment after these. Where it never came to the point, another one: that had its chance by
        then, and this ends at the first time."""
        for tried in range(_LIVES_MAX):
            if await self._cycle(
                point, steps=steps, count=1 if tried else self.chance.randint(1, 4)
            ):
                return
        self.missed.append(point)

    async def _cycle(self, point: str, *, steps: bool, count: int) -> bool:
        """One life; whether it came to its point."""
        name = point.partition(" ")[2]
        if name in _AFTER_CRASH:
            await self._crash()
        self.upstream.life += 1
        count = 1 if name in _ONCE else count
        lost = 2 if name == "release" else 0
        started = await self.gateway.start(point=point, count=count, lost=lost, **self.how)
        came = not started or await self._live(point, drained=name in _DRAINED, steps=steps)
        self.kills[point or "random moment"] += 1
        self.ended_s[self.upstream.life] = time.monotonic()
        self.upstream.trap = None
        return came

    async def _live(self, point: str, *, drained: bool, steps: bool) -> bool:
        if point in _KILLED_BY_UPSTREAM:
            self.upstream.trap = (point, lambda: self.gateway.send(signal.SIGKILL))
        stop = asyncio.Event()
        loading = asyncio.create_task(self.platform.load(self.gateway.url, stop))
        dying = asyncio.create_task(self.gateway.dead())
        if drained:
            try:
                await self._hand_in()
            except TimeoutError:
                dying.cancel()  # who reads what is left can
                loading.cancel()
                raise
            self.gateway.send(signal.SIGTERM)
        if steps:
            await self._step()
            self.gateway.send(signal.SIGKILL)
        _, left = await asyncio.wait({dying}, timeout=_POINT_S)
        if left:
            self.gateway.send(signal.SIGKILL)
        code = await dying
        stop.set()
        await loading
        assert code == -signal.SIGKILL or drained, f"{point}: it ended by itself, with {code}"
        return not left and code == -signal.SIGKILL

    async def _step(self) -> None:
        for _ in range(3):
            await asyncio.sleep(self.chance.uniform(0.1, 0.6))  # the moment is what is random
            hours = self.chance.choice(((1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, -1), (0, 0)))
            process_s, database_s = (hour * 3_600.0 for hour in hours)
            self.gateway.set_clock(process_s, database_s=database_s)

    async def _crash(self) -> None:
        """A life that is killed while calls are open."""
        self.upstream.life += 1
        assert await self.gateway.start(**self.how)
        stop = asyncio.Event()
        loading = asyncio.create_task(self.platform.load(self.gateway.url, stop))
        await self._busy()
        await self.gateway.end(kill=True)
        stop.set()
        await loading
        self.kills["random moment"] += 1
        self.ended_s[self.upstream.life] = time.monotonic()

    async def _hand_in(self) -> None:
        """Have a call be open that lasts beyond any drain, and may be made again. What the load
        cancels, or keeps from its turn, is followed by another one."""
        async with asyncio.timeout(3 * _POINT_S), aiohttp.ClientSession(headers=AUTH) as session:
            while True:
                before = set(self.platform.accepted.values())
                await self.platform.submit(session, self.gateway.url, "again first-away")
                ids = set(self.platform.accepted.values()) - before
                ends_s = time.monotonic() + _TURN_S
                while time.monotonic() < ends_s:
                    if any(one.job in ids for one in self._open_long()):
                        return
                    await asyncio.sleep(0.01)

    def _open_long(self) -> list[Call]:
        since_s = time.monotonic() - _QUICK_S
        return [one for one in self.upstream.recent if one.met == "open" and one.began_s < since_s]

    async def _busy(self) -> None:
        """Until a call is open that takes its time."""
        async with asyncio.timeout(_POINT_S):
            while True:
                if self._open_long():
                    return
                await asyncio.sleep(0.01)

    # --- the end ---

    async def finish(self, *, put_right: bool = False) -> None:
        """A last life, left alone: then every promise can be checked. Its clock is `put_right` once
        it runs."""
        self.upstream.life += 1
        await self.upstream.light()
        assert await self.gateway.start(**self.how)
        if put_right:
            await asyncio.sleep(0.5)  # it has swept, by the wrong time
            self.gateway.set_clock(0)
        async with aiohttp.ClientSession(headers=AUTH) as session:
            await session.post(f"{self.gateway.url}/v1/endpoints/dark/resume")
            for name in self.platform.removed:
                await session.delete(f"{self.gateway.url}/v1/endpoints/{name}")
            await self._settled()
            await self.platform.followers.finish(session, self.gateway.url)
            await self._check_views(session)
        assert await self.gateway.end(kill=False) == 0
        self.check()

    def check(self, *, stood_still: bool = False) -> None:
        """Hold every promise against what is on disk, and what was seen outside. A process that
        `stood_still` had calls open whose jobs others ran."""
        self._report()
        self._check_jobs()
        self._check_calls()
        self._check_callbacks()
        self._check_telling()
        self._check_capacity()
        for name, rules in ENDPOINTS.items():
            crowd = f"{name}: {self.upstream.crowds.get(name)}"
            assert stood_still or self.upstream.most[name] <= rules["concurrency"], crowd
        assert self.missed == [], "points that were never come to"

    async def _settled(self) -> None:
        """Until nothing waits or runs. What was put off by all the kills may be much: it takes as
        long as it takes, while it becomes less."""
        fewest, since_s = 10**9, time.monotonic()
        while left := self._unsettled():
            if len(left) < fewest:
                fewest, since_s = len(left), time.monotonic()
            elif time.monotonic() - since_s > _STUCK_S:
                loads = self.read("SELECT * FROM endpoint_load WHERE queued > 0")
                pytest.fail(f"{len(left)} come to no end: {left[:10]} {loads}")
            await asyncio.sleep(0.1)

    def _unsettled(self) -> list[tuple[Any, ...]]:
        queued, pending = "state IN ('queued', 'running')", "state IN ('pending', 'sending')"
        columns = "id, endpoint, state, releasing, run, claim, due_ms, expires_ms"
        return [
            *self.read(f"SELECT {columns} FROM jobs WHERE {queued} OR releasing = 1"),
            *self.read(f"SELECT id, job_id, state, due_ms FROM callbacks WHERE {pending}"),
            *self.read("SELECT id, what, matched, done FROM job_sweeps WHERE state = 'running'"),
        ]

    @property
    def lost(self) -> set[str]:
        """Accepted jobs that have not come to an end."""
        ended = self.read(
            "SELECT id FROM jobs WHERE state IN ('completed', 'failed', 'cancelled', 'timeout')"
        )
        return set(self.platform.accepted.values()) - {f"job_{row[0]}" for row in ended}

    @property
    def ran_twice(self) -> list[list[Any]]:
        """Runs at most once that were called more often."""
        calls = self.upstream.calls.values()
        return [each for each in calls if each[0].endpoint == "once" and len(each) > 1]

    def _report(self) -> None:
        states = Counter(row[0] for row in self.read("SELECT state FROM jobs"))
        reasons = Counter(row[0] for row in self.read("SELECT reason FROM jobs"))
        calls = [one for each in self.upstream.calls.values() for one in each]
        again = duplicates(self.upstream.calls.values())
        own = sum(before.met == "fault" for before, _ in again)
        ids = {one.id for one in self.customer.got}
        print(
            f"\n{self.dialect}: kills={self.kills.total()} at {len(self.kills)} points "
            f"missed={self.missed} tried={self.platform.tried} "
            f"accepted={len(self.platform.accepted)} lost={len(self.lost)} "
            f"states={dict(states)} reasons={dict(reasons)} calls={len(calls)} "
            f"once: runs={sum(e[0].endpoint == 'once' for e in self.upstream.calls.values())} "
            f"run twice={len(self.ran_twice)} again={len(again)}, of these after the upstream's "
            f"own fault={own}, in flight at a kill={len(again) - own} callbacks={len(ids)} "
            f"arrived={len(self.customer.got)} refused={dict(self.platform.refused)}"
        )

    def _check_jobs(self) -> None:
        assert self.lost == set()
        accepted = self.platform.accepted.values()
        assert len(set(accepted)) == len(accepted), "two keys, and one job"
        rows = self.read("SELECT key, count(*) FROM jobs GROUP BY key HAVING count(*) > 1")
        assert rows == [], "a key, and two jobs"

    def _check_calls(self) -> None:
        """What ran again was in flight at a kill, or its upstream had lost it."""
        assert self.ran_twice == []
        for before, after in duplicates(self.upstream.calls.values()):
            if before.met == "fault":
                continue
            assert before.life < after.life, f"called again without a kill: {before} {after}"
            end_s = self.ended_s[before.life]
            assert before.ended_s > end_s - _SLACK_S, f"its answer had come: {before} {after}"
        recorded = self.read(
            "SELECT job, run, count(*) FROM job_attempts WHERE outcome = 'answered' "
            "AND status_code IN (200, 422) GROUP BY 1, 2 HAVING count(*) > 1"
        )
        assert recorded == [], "an answer, and called again"

    def _check_callbacks(self) -> None:
        """Each run that ended is told by one id, with the same bytes, however often."""
        by_id: dict[str, Told] = {}
        for one in self.customer.got:
            assert by_id.setdefault(one.id, one) == one, "a duplicate with other bytes"
        told = self.customer.by_run
        for key, each in told.items():
            assert len({one.id for one in each}) == 1, f"two callbacks about {key}"
        jobs = self.read("SELECT id, run, state, callback, endpoint FROM jobs")
        runs = {(f"job_{id}", n) for id, last, *_ in jobs for n in range(1, last + 1)}
        assert told.keys() == runs, "a run whose end was not told, or told for nothing"
        ends = "SELECT id FROM callbacks WHERE state <> 'delivered' AND job_status <> 'running'"
        assert self.read(ends) == []
        for id, run, state, callback, endpoint in jobs:
            last = told[f"job_{id}", run][0]
            assert (last.id, last.status) == (callback, state)
            document = json.loads(last.body)
            assert (document["jobId"], document["run"]) == (f"job_{id}", run)
            assert (document["status"], document["endpoint"]) == (state, endpoint)
            if state == "completed":
                output = self.upstream.calls[f"job_{id}", run][-1].output
                assert b'"output":' + output in last.body
        for (job, run), status in self.platform.cancelled.items():
            assert told[job, run][0].status == status, "answered one thing and told another"

    def _check_telling(self) -> None:
        """No chunk is kept or told twice, and nothing is told after an end. What upstreams end by
        URL ended once, by the word that counted, however often the dispatcher was killed since."""
        calls = self.upstream.calls
        self.platform.followers.check(lambda job, run: calls[job, run][-1].output)
        stored: dict[tuple[str, int], int] = {}
        for job, claim, n, size in self.read(
            "SELECT job, claim, n, size FROM chunks ORDER BY job, claim, n"
        ):
            assert n == stored.get((job, claim), 0), f"{job}: a chunk twice, or left out"
            stored[job, claim] = n + size
        kept = "SELECT 1 FROM chunks c JOIN jobs j ON j.id = c.job WHERE j.chunks IS NOT NULL"
        assert self.read(kept) == [], "an output, and its chunks beside it"
        ended = set()
        for job, run, event in self.customer.order:
            assert event == "end" or (job, run) not in ended, f"{job}: {event} after the end"
            if event == "end":
                ended.add((job, run))
        rows = self.read("SELECT id, run, state FROM jobs WHERE endpoint = 'later'")
        states = {(f"job_{id}", run): state for id, run, state in rows}
        for key, each in calls.items():
            if each[0].endpoint == "later":
                told = [one.told for one in each]
                assert set(told) <= {0, 200, 409}, f"{key}: {told}"
                assert told.count(200) <= 1, f"{key}: two ends"
                if states.get(key) == "completed":
                    assert told[-1] == 200, f"{key}: another call's word counted: {told}"

    def _check_capacity(self) -> None:
        busy = "SELECT id FROM jobs WHERE releasing = 1 OR process IS NOT NULL"
        assert self.read(busy) == [], "a place that nobody gave back"
        queues = self.read(
            "SELECT id FROM queues WHERE queued <> 0 OR ready_high IS NOT NULL "
            "OR ready_normal IS NOT NULL OR ready_low IS NOT NULL"
        )
        loads = self.read(
            "SELECT endpoint FROM endpoint_load WHERE queued <> 0 OR ready_ms IS NOT NULL"
        )
        assert (queues, loads) == ([], [])
        assert "repaired queues" not in self.gateway.told(), "counted wrong, and put right"
        names = {row[0] for row in self.read("SELECT name FROM endpoints")}
        assert names == ENDPOINTS.keys(), "an endpoint that was removed and stayed"
        assert self.read("SELECT id FROM job_sweeps WHERE state = 'running'") == []

    async def _check_views(self, session: aiohttp.ClientSession) -> None:
        """What the API says is what was told, and what the upstream answered."""
        told = self.customer.by_run
        ids = list(self.platform.accepted.values())
        for id in self.chance.sample(ids, min(len(ids), _SHOWN_MAX)):
            status, body = await get(session, f"{self.gateway.url}/v1/jobs/{id}")
            assert status == 200
            job = json.loads(body)
            last = told[id, job["run"]][0]
            assert (job["status"], job["callback"]["id"]) == (last.status, last.id)
            assert job["callback"]["status"] == "delivered"
            if job["status"] == "completed":
                status, body = await get(session, f"{self.gateway.url}/v1/jobs/{id}/output")
                assert (status, body) == (200, self.upstream.calls[id, job["run"]][-1].output)
