"""After any verbs of jobs in any order: each job is where it should be, in the order of its ticket,
no endpoint has more open than it may, queues show what is in them, and each run that ended was told
once."""

import asyncio
import random
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dispatcher.ids import parse_job_id
from dispatcher.jobs.endpoint import Keep
from dispatcher.jobs.filters import JobFilter
from dispatcher.jobs.states import FINAL, STATES, legal
from dispatcher.jobs.values import CallOutcome, ClaimedJob
from dispatcher.store.errors import StoreError
from dispatcher.store.jobs import purge
from dispatcher.store.jobs.rows import STORED_BYTES as JOB_BYTES
from dispatcher.store.rows import STORED_BYTES as CALLBACK_BYTES
from tests.dispatcher.postgres import folders
from tests.dispatcher.store.builders import FACTORIES, LOOKERS, World
from tests.dispatcher.store.jobs.builders import EP, Jobs, outcome, target

T = TypeVar("T")

TENANTS: Final = ("acme", "other")
CONCURRENCY: Final = 3
CLASSES: Final = {0: "ready_high", 1: "ready_normal", 2: "ready_low"}
ENDPOINTS: Final[dict[str, dict[str, Any]]] = {
    EP: {"concurrency": CONCURRENCY, "keep": Keep(output=0.1)},
    "fast": {"concurrency": 2, "rate": 5.0},
}
tenants = st.sampled_from(TENANTS)
names = st.sampled_from(sorted(ENDPOINTS))
MET: Final[dict[str, dict[str, Any]]] = {
    "completed": {"code": 200},
    "failed": {"code": 500},
    "timeout": {"kind": "timeout"},
    "unknown": {"kind": "unknown"},
    "not sent": {"kind": "not_sent", "sent": False},
    "turned away": {"code": 429},
    "held": {"code": 429, "retry_after_ms": 2_000},
    "interrupted": {"kind": "interrupted"},
}


class Machine(RuleBasedStateMachine):
    """One store, driven at random; checked after each step against what its tables hold."""

    store_name = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        name = self.store_name

        def make() -> Any:
            return FACTORIES[name](self.folder, {})

        self.world = World(make=make, store=make())
        self.run(self.world.open())
        self.jobs = Jobs(self.world)
        for endpoint, rules in ENDPOINTS.items():
            self.run(self.jobs.endpoint(endpoint, **rules))
        self.held: list[ClaimedJob] = []
        self.closing: list[ClaimedJob] = []  # cancelled; their calls are open
        self.states: dict[str, str] = {}
        self.runs: dict[str, int] = {}
        self.purged: set[tuple[str, int]] = set()  # what waited when its queue was
        self.random = random.Random(0)

    def run(self, awaited: Awaitable[T]) -> T:
        return self.loop.run_until_complete(_wait(awaited))

    def attempt(self, awaited: Awaitable[object]) -> bool:
        """A verb that may well be refused."""
        try:
            self.run(awaited)
        except StoreError:
            return False
        return True

    def look(self, sql: str) -> list[tuple[Any, ...]]:
        return LOOKERS[self.store_name](self.folder, sql)

    def some_job(self) -> tuple[str, str]:
        found = self.look("SELECT id, tenant FROM jobs ORDER BY id")
        return self.random.choice(found) if found else ("0" * 32, TENANTS[0])

    # --- verbs ---

    @rule(
        name=names,
        tenant=tenants,
        priority=st.sampled_from(["high", "normal", "low"]),
        handover=st.booleans(),
        later=st.sampled_from([None, None, 500]),
        count=st.integers(1, 4),
    )
    def submit(
        self, name: str, tenant: str, priority: Any, handover: bool, later: int | None, count: int
    ) -> None:
        not_before_ms = None if later is None else self.world.now_ms + later
        acts = [
            self.jobs.submit(
                at=name,
                tenant=tenant,
                priority=priority,
                handover=handover,
                callback=target(tenant=tenant),
                not_before_ms=not_before_ms,
                queue_s=60.0,
            )
            for _ in range(count)
        ]
        for submitted in self.run(_together(acts)):
            if submitted.claimed is not None:
                self.held.append(submitted.claimed)

    @rule(places=st.integers(1, 5))
    def claim(self, places: int) -> None:
        waiting = self.look(
            "SELECT j.queue, j.class, j.ticket, j.id FROM jobs j JOIN queues q ON q.id = j.queue "
            f"WHERE j.state = 'queued' AND j.epoch = q.epoch AND j.due_ms <= {self.world.now_ms}"
        )
        claimed = self.run(self.jobs.claim(places))
        assert len(claimed) <= places
        self.held += claimed
        started = {one.id for one in claimed}
        assert len(started) == len(claimed)
        of_queue: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for queue, *place, id in waiting:
            of_queue[queue].append((*place, id))
        for queue, due in of_queue.items():
            first = [id for *_, id in sorted(due)]
            taken = [one.id for one in claimed if f"{one.endpoint}/{one.tenant}" == queue]
            assert taken == first[: len(taken)], "not in the order of classes and tickets"

    @precondition(lambda self: self.held)
    @rule(met=st.sampled_from(sorted(MET)))
    def settle(self, met: str) -> None:
        claimed = self.held.pop(self.random.randrange(len(self.held)))
        found: CallOutcome = outcome(now_ms=self.world.now_ms, **MET[met])
        current = self.run(self.jobs.store.current([(claimed.id, claimed.claim)]))
        settled = self.run(self.jobs.settle(claimed, found))
        assert settled.recorded == bool(current)

    @rule()
    def cancel(self) -> None:
        job, tenant = self.some_job()
        running = [one for one in self.held if one.id == job]
        if self.attempt(self.jobs.cancel(job, tenant)):
            self.closing += running

    @precondition(lambda self: self.closing)
    @rule()
    def call_ends(self) -> None:
        self.run(self.jobs.store.freed([self.closing.pop()]))

    @rule(force=st.booleans())
    def retry(self, force: bool) -> None:
        job, tenant = self.some_job()
        self.attempt(self.jobs.retry(job, tenant, force=force))

    @precondition(lambda self: self.held)
    @rule()
    def release(self) -> None:
        released, self.held = self.held[:2], self.held[2:]
        self.run(self.jobs.store.release(released, now_ms=self.world.now_ms))

    @rule(ms=st.sampled_from([1, 100, 1_000, 20_000]))
    def time_passes(self, ms: int) -> None:
        self.world.tick(ms)

    @rule()
    def expire(self) -> None:
        self.run(self.jobs.store.expire(now_ms=self.world.now_ms, limit=3))

    @rule(name=names, tenant=st.sampled_from([*TENANTS, None]))
    def purge(self, name: str, tenant: str | None) -> None:
        waiting = self.look(
            "SELECT id, run FROM jobs "
            f"WHERE state = 'queued' AND endpoint = '{name}' AND tenant LIKE '{tenant or '%'}'"
        )
        if self.attempt(self.jobs.store.purge(name, tenant=tenant, now_ms=self.world.now_ms)):
            self.purged.update(waiting)

    @rule(name=names)
    def purge_on(self, name: str) -> None:
        self.run(self.jobs.store.purge_on(name, now_ms=self.world.now_ms))

    @rule()
    def end_purged(self) -> None:
        self.run(self.jobs.store.end_purged(now_ms=self.world.now_ms, limit=3))

    @rule(name=names, paused=st.booleans())
    def pause(self, name: str, paused: bool) -> None:
        self.run(self.jobs.store.set_paused(name, paused=paused, now_ms=self.world.now_ms))

    @rule(what=st.sampled_from(["cancel", "retry"]), tenant=tenants)
    def change_in_bulk(self, what: Any, tenant: str) -> None:
        running = {one.id: one for one in self.held}
        store, now_ms = self.jobs.store, self.world.now_ms
        self.run(store.make_sweep(tenant, what, JobFilter(), now_ms=now_ms))
        for _ in range(2):
            for sweep in self.run(store.running_sweeps()):
                self.run(store.step_sweep(sweep.tenant, sweep.id, now_ms=now_ms, limit=2))
        for (id,) in self.look("SELECT id FROM jobs WHERE releasing = 1"):
            if id in running and running[id] not in self.closing:
                self.closing.append(running[id])

    @rule()
    def prune(self) -> None:
        """Outputs go soon; jobs never do here."""
        self.run(self.jobs.store.prune(now_ms=self.world.now_ms, limit=3))

    @rule()
    def restart(self) -> None:
        self.run(self.world.reopen())
        self.run(self.jobs.leaves(self.jobs.process))
        self.held, self.closing = [], []
        while self.run(
            self.jobs.store.reclaim_orphans(beside="new", now_ms=self.world.now_ms, limit=2)
        ):
            pass

    # --- what must hold after each ---

    @invariant()
    def every_transition_is_legal(self) -> None:
        now = {id: (state, run) for id, state, run in self.look("SELECT id, state, run FROM jobs")}
        for one, before in self.states.items():
            state, run = now[one]
            if state != before:
                # A verb may do two steps in one commit: back to the queue, and on.
                assert legal(before, state) or any(  # type: ignore[arg-type]  # texts of the table
                    legal(before, between) and legal(between, state)  # type: ignore[arg-type]
                    for between in STATES
                ), (before, state)
            assert run >= self.runs[one]
        self.states = {id: state for id, (state, _) in now.items()}
        self.runs = {id: run for id, (_, run) in now.items()}

    @invariant()
    def what_was_purged_is_what_had_waited(self) -> None:
        """None of it ever starts, and nothing else ends with it."""
        assert self.purged.isdisjoint((one.id, one.run) for one in self.held)
        ended = self.look(
            "SELECT id, run FROM jobs WHERE state = 'cancelled' AND reason = 'purged'"
        )
        assert self.purged.issuperset(ended)

    @invariant()
    def no_endpoint_has_more_open_than_it_may(self) -> None:
        busy = Counter(
            row[0]
            for row in self.look(
                "SELECT endpoint FROM jobs WHERE state = 'running' OR releasing = 1"
            )
        )
        for name, rules in ENDPOINTS.items():
            assert busy[name] <= rules["concurrency"]

    @invariant()
    def every_end_was_told_once(self) -> None:
        told = Counter(
            (parse_job_id(job), run) for job, run in self.look("SELECT job_id, run FROM callbacks")
        )
        assert all(n == 1 for n in told.values())
        for id, state, run, reason in self.look("SELECT id, state, run, reason FROM jobs"):
            assert ((id, run) in told) == (state in FINAL), (state, reason)
            for earlier in range(1, run):
                assert (id, earlier) in told

    @invariant()
    def what_is_kept_of_them_is_what_there_is(self) -> None:
        """How many are in each state, what they take up, and which parts are there."""
        counted = {
            (tenant, state): n
            for tenant, state, n in self.look(
                "SELECT tenant, state, sum(n) FROM counts WHERE state LIKE 'job:%' "
                "GROUP BY tenant, state"
            )
            if n
        }
        jobs = self.look(
            "SELECT tenant, state, count(*) FROM jobs WHERE state NOT IN ('queued', 'running') "
            "GROUP BY tenant, state"
        )
        assert counted == {(tenant, f"job:{state}"): n for tenant, state, n in jobs}
        kept = self.look("SELECT tenant, sum(bytes) FROM counts GROUP BY tenant ORDER BY tenant")
        callbacks = dict(
            self.look(f"SELECT tenant, {CALLBACK_BYTES} FROM callbacks GROUP BY tenant")
        )
        sizes = self.look(f"SELECT tenant, {JOB_BYTES} FROM jobs GROUP BY tenant ORDER BY tenant")
        assert kept == [(tenant, size + callbacks.get(tenant, 0)) for tenant, size in sizes]
        outputs = self.look("SELECT sum(length(body)) FROM outputs")
        assert outputs == self.look("SELECT sum(output_bytes) FROM jobs")
        assert self.run(self.jobs.store.repair(after="", limit=99)) == (0, None)

    @invariant()
    def queues_show_what_is_in_them(self) -> None:
        waiting = self.look("SELECT queue, epoch, class, due_ms FROM jobs WHERE state = 'queued'")
        queues = self.look(
            "SELECT id, endpoint, epoch, queued, ready_high, ready_normal, ready_low FROM queues"
        )
        of_endpoint = Counter[str]()
        first: dict[str, list[int]] = defaultdict(list)
        for id, endpoint, epoch, queued, *ready in queues:
            # One that a purge of all comes to yet has jobs of its next epoch, too.
            assert queued == sum(row[0] == id and row[1] >= epoch for row in waiting)
            present = [row[2:] for row in waiting if row[:2] == (id, epoch)]
            of_endpoint[endpoint] += queued
            for number, shown in zip(CLASSES, ready, strict=True):
                due = [due_ms for of_class, due_ms in present if of_class == number]
                assert shown == min(due, default=None)
                first[endpoint] += due
        self.endpoints_show_when_they_are_ready(of_endpoint, first)

    def endpoints_show_when_they_are_ready(
        self, of_endpoint: Counter[str], first: dict[str, list[int]]
    ) -> None:
        ready = []
        for name, paused, queued, window, held_ms, rate, paced_ms, shown in self.look(
            "SELECT endpoint, paused = 1 OR purge_after IS NOT NULL, queued, "
            '"window", held_until_ms, rate, paced_ms, ready_ms FROM endpoint_load'
        ):
            assert queued == of_endpoint[name]
            ((busy,),) = self.look(
                f"SELECT count(*) FROM jobs WHERE endpoint = '{name}' "
                "AND (state = 'running' OR releasing = 1)"
            )
            pace = int(paced_ms + 1000 / rate) + 1 if rate else 0
            due = first.get(name)
            expected = None if paused or busy >= window or not due else min(due)
            if expected is not None:
                expected = max(expected, held_ms, pace)
                ready.append(expected)
            assert shown == expected
        if self.world.jobs_ready:
            assert self.world.jobs_ready[-1] == min(ready, default=None)

    def teardown(self) -> None:
        """Whatever happened: all that waits can be run, and all is told."""
        try:
            self.run(self.finish_all())
            self.every_end_was_told_once()
        finally:
            self.run(self.world.store.close())
            self.loop.close()
            folders.empty_under(self.folder)
            shutil.rmtree(self.folder)

    async def finish_all(self) -> None:
        store, world = self.jobs.store, self.world
        for name in ENDPOINTS:
            for paused in (True, False):
                await store.set_paused(name, paused=paused, now_ms=world.now_ms)
        await self.jobs.leaves(self.jobs.process)
        while await store.reclaim_orphans(beside="none", now_ms=world.now_ms):
            pass
        for _ in range(500):
            for name in await store.purging():
                while await store.purge_on(name, now_ms=world.now_ms):
                    pass
            await self.jobs.purged(limit=100)
            await store.expire(now_ms=world.now_ms, limit=100)
            world.now_ms = max(world.now_ms, world.jobs_ready[-1] or 0)
            for claimed in await self.jobs.claim():
                assert (await self.jobs.settle(claimed)).recorded
            left = self.look("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")
            if left == [(0,)]:
                return
        raise AssertionError("stuck: some can never be run")


async def _wait(awaited: Awaitable[T]) -> T:
    return await awaited


async def _together(acts: list[Any]) -> list[Any]:
    return await asyncio.gather(*acts)


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_any_verbs_in_any_order_leave_every_job_where_it_should_be(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Purges of all go on for a while, too."""
    monkeypatch.setattr(purge, "QUEUES_MAX", 1)

    class Named(Machine):
        store_name = name

    run_state_machine_as_test(
        Named,
        settings=settings(
            max_examples=15 if name == "sqlite" else 4,  # ten times as slow a step, by round trips
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
