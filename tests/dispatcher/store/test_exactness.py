"""After any verbs in any order: counts are exact, lanes say when their work is ready, every
transition is a legal one, and nothing is stranded (I2, I9)."""

import asyncio
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from dispatcher.filters import Filter
from dispatcher.ids import destination_of
from dispatcher.policy import Policy, dump
from dispatcher.states import QUEUED, STATES, legal
from dispatcher.store.errors import StoreError
from dispatcher.store.requests import Retention
from dispatcher.store.rows import STORED_BYTES
from dispatcher.values import Delivery
from tests.dispatcher.postgres import folders
from tests.dispatcher.store.builders import DAY_MS, FACTORIES, LOOKERS, T0, World

T = TypeVar("T")

TENANTS: Final = ("acme", "other")
URLS: Final = tuple(f"http://127.0.0.1:9/{name}" for name in "abc")
SHORT: Final = dump(Policy(attempts=3, max_age=20, timeout=1))
CLASSES: Final = ((0, "ready_high"), (1, "ready_normal"), (2, "ready_replay"))

tenants = st.sampled_from(TENANTS)
urls = st.sampled_from(URLS)


class Machine(RuleBasedStateMachine):
    """One store, driven at random; checked after each step against what its tables hold."""

    store_name = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        name = self.store_name

        def make() -> Any:
            return FACTORIES[name](self.folder, {"destination_concurrency": 3})

        self.world = World(make=make, store=make())
        self.run(self.world.open())
        self.held: list[Delivery] = []
        self.states: dict[str, str] = {}
        self.jobs = 0
        self.random = random.Random(0)

    def run(self, awaited: Awaitable[T]) -> T:
        return self.loop.run_until_complete(_wait(awaited))

    def attempt(self, awaited: Awaitable[object]) -> None:
        """A verb that may well be refused."""
        try:
            self.run(awaited)
        except StoreError:
            self.refused = True

    def look(self, sql: str) -> list[tuple[Any, ...]]:
        return LOOKERS[self.store_name](self.folder, sql)

    def some_id(self, tenant: str) -> str:
        found = self.look(f"SELECT id FROM callbacks WHERE tenant = '{tenant}' ORDER BY id")
        return self.random.choice(found)[0] if found else "cb_none"

    # --- verbs ---

    @rule(
        tenant=tenants,
        url=urls,
        handover=st.booleans(),
        high=st.booleans(),
        short=st.booleans(),
        again=st.booleans(),
    )
    def submit(
        self, tenant: str, url: str, handover: bool, high: bool, short: bool, again: bool
    ) -> None:
        self.jobs += not again
        try:
            submitted = self.run(
                self.world.submit(
                    str(self.jobs),
                    tenant=tenant,
                    url=url,
                    handover=handover,
                    priority="high" if high else "normal",
                    policy=SHORT if short else None,
                    tags={"t": "1"},
                )
            )
        except StoreError:
            return
        if submitted.delivery is not None:
            self.held.append(submitted.delivery)

    @rule(slots=st.integers(1, 8), busy=st.booleans())
    def claim(self, slots: int, busy: bool) -> None:
        self.held += self.run(
            self.world.claim(slots, slots_max=16, busy={"acme": 2} if busy else {})
        )

    @rule(
        state=st.sampled_from(["delivered", "pending", "dead"]),
        kind=st.sampled_from(["answered", "timeout", "unreachable"]),
        due_in_ms=st.sampled_from([0, 1, 5_000]),
        retry_after_ms=st.sampled_from([None, 3_000]),
        keep=st.booleans(),
    )
    def settle(
        self, state: Any, kind: Any, due_in_ms: int, retry_after_ms: int | None, keep: bool
    ) -> None:
        """A kept one will be settled again later: a late result of an old claim."""
        if not self.held:
            return
        delivery = self.random.choice(self.held)
        if not keep:
            self.held.remove(delivery)
        code = None if state == "delivered" else 503
        self.run(
            self.world.settle(
                delivery,
                state,
                code=code,
                kind="answered" if state == "delivered" else kind,
                due_in_ms=due_in_ms,
                retry_after_ms=retry_after_ms,
            )
        )

    @rule()
    def release(self) -> None:
        if self.held:
            one = self.held.pop(self.random.randrange(len(self.held)))
            self.run(self.world.store.release([one], now_ms=self.world.now_ms))

    @rule(ms=st.sampled_from([1, 50, 5_000, 30_000, 2 * DAY_MS]))
    def tick(self, ms: int) -> None:
        self.world.tick(ms)

    @rule()
    def reclaim(self) -> None:
        self.run(self.world.store.reclaim(now_ms=self.world.now_ms))

    @rule(limit=st.integers(1, 3))
    def expire(self, limit: int) -> None:
        self.run(self.world.store.expire(now_ms=self.world.now_ms, limit=limit))

    @rule(tenant=tenants)
    def cancel(self, tenant: str) -> None:
        one = self.some_id(tenant)
        self.attempt(self.world.store.cancel(tenant, one, now_ms=self.world.now_ms))

    @rule(tenant=tenants)
    def replay(self, tenant: str) -> None:
        one = self.some_id(tenant)
        self.attempt(self.world.store.replay(tenant, one, now_ms=self.world.now_ms))

    @rule(tenant=tenants, limit=st.integers(1, 5))
    def replay_all(self, tenant: str, limit: int) -> None:
        made = self.run(
            self.world.store.make_replay(
                tenant, Filter(tags=(("t", "1"),)), rate_per_second=None, now_ms=self.world.now_ms
            )
        )
        self.world.tick()
        self.run(self.world.store.feed_replay(made.id, limit=limit, now_ms=self.world.now_ms))

    @rule(
        tenant=tenants,
        url=urls,
        change=st.sampled_from(
            [
                {"paused": True},
                {"paused": False},
                {"disabled_reason": "test"},
                {"disabled_reason": None},
                {"concurrency": 1},
                {"concurrency": None},
                {"rate_per_second": 3.0},
                {"rate_per_second": None},
            ]
        ),
    )
    def change(self, tenant: str, url: str, change: dict[str, object]) -> None:
        self.attempt(self.world.change(url, tenant=tenant, **change))

    @rule(tenant=tenants, url=urls)
    def remove(self, tenant: str, url: str) -> None:
        self.attempt(self.world.store.remove_destination(tenant, url, now_ms=self.world.now_ms))

    @rule()
    def repair(self) -> None:
        repaired, _ = self.run(
            self.world.store.repair_lanes(now_ms=self.world.now_ms, after="", limit=100)
        )
        assert repaired == 0

    @rule()
    def forget_schedules(self) -> None:
        self.run(self.world.store.forget_schedules(now_ms=self.world.now_ms, after="", limit=100))

    @rule(days=st.sampled_from([0, 1]))
    def prune(self, days: int) -> None:
        ms = days * DAY_MS
        keep = Retention(delivered_payload_ms=ms, delivered_ms=2 * ms, dead_ms=2 * ms)
        self.run(self.world.store.prune(keep, now_ms=self.world.now_ms, limit=5))
        self.states = self.states_now()

    @rule()
    def restart(self) -> None:
        self.run(self.world.reopen())
        self.run(self.world.store.take_over(now_ms=self.world.now_ms))

    # --- what must hold after each ---

    def states_now(self) -> dict[str, str]:
        return dict(self.look("SELECT id, state FROM callbacks"))

    @invariant()
    def every_transition_is_legal(self) -> None:
        now = self.states_now()
        for one, before in self.states.items():
            after = now.get(one)
            assert after is not None, "a callback vanished"
            assert after == before or legal(before, after), (before, after)  # type: ignore[arg-type]  # texts of the table
        self.states = now

    @invariant()
    def counts_are_exact(self) -> None:
        counted = Counter(self.look("SELECT tenant, state FROM callbacks"))
        stored = {
            (tenant, state): n
            for tenant, state, n in self.look(
                "SELECT tenant, state, sum(n) FROM counts GROUP BY tenant, state"
            )
            if n
        }
        assert stored == dict(counted)
        taken = self.look(f"SELECT tenant, {STORED_BYTES} FROM callbacks GROUP BY tenant")
        summed = self.look("SELECT tenant, sum(bytes) FROM counts GROUP BY tenant")
        assert {tenant: size for tenant, size in summed if size} == dict(taken)  # all may be gone
        for tenant, size in taken:
            assert self.world.store.stored_bytes(tenant) == size
        for tenant in (*TENANTS, None):
            stats = self.run(self.world.store.stats(tenant))
            for state in STATES:
                assert stats.counts[state] == sum(
                    n
                    for (whose, what), n in counted.items()
                    if what == state and tenant in (None, whose)
                )
            assert self.world.store.queued(tenant) == sum(stats.counts[one] for one in QUEUED)

    @invariant()
    def lanes_are_ready_when_their_work_is(self) -> None:
        due: dict[tuple[str, int], int] = {}
        for lane, number, at_ms in self.look(
            "SELECT destination, class, min(due_ms) FROM callbacks WHERE state = 'pending' "
            "GROUP BY destination, class"
        ):
            due[lane, number] = at_ms
        sending = Counter(
            row[0] for row in self.look("SELECT destination FROM callbacks WHERE state = 'sending'")
        )
        lanes = self.look(
            'SELECT id, tenant, paused, doomed, "window", rate, paced_ms, served_ms, '
            "held_until_ms, concurrency, ready_high, ready_normal, ready_replay FROM lanes"
        )
        servers = {
            row[0]: row[1:]
            for row in self.look("SELECT id, openings, held_until_ms, paced_ms FROM destinations")
        }
        of_server = Counter[str]()
        for lane, count in sending.items():
            of_server[destination_of(lane)] += count
        assert all(count <= 3 for count in of_server.values()), "more than its concurrency"
        assert {lane for lane, _ in due} <= {row[0] for row in lanes}, "stranded without a lane"
        ready: dict[tuple[str, int], list[int]] = {}
        for lane, tenant, paused, doomed, window, rate, _, served, held, most, *shown in lanes:
            server = destination_of(lane)
            openings, server_held, paced = servers[server]
            free = not paused and doomed is None and window > sending[lane]
            full = of_server[server] >= (1 if openings else most)
            pace = int(paced + 1000 / rate) + 1 if rate else 0
            for (number, column), value in zip(CLASSES, shown, strict=True):
                at_ms = due.get((lane, number))
                if not free or at_ms is None or (full and value is None):
                    assert value is None, (column, value)
                    continue
                # What another lane takes of their server is seen when this one is looked at; what
                # it leaves free, at once.
                latest = max(at_ms, held, served, pace, server_held)
                assert value is not None, (column, latest)
                assert max(at_ms, held, served) <= value <= latest, (column, value, latest)
                if value is not None:
                    ready.setdefault((tenant, number), []).append(value)
        self.tenants_turns_come_when_their_lanes_are_ready(ready)

    def tenants_turns_come_when_their_lanes_are_ready(
        self, ready: dict[tuple[str, int], list[int]]
    ) -> None:
        next_ms = []
        for tenant, served, *shown in self.look(
            "SELECT tenant, served_ms, ready_high, ready_normal, ready_replay FROM turns"
        ):
            for (number, _), value in zip(CLASSES, shown, strict=True):
                lanes = ready.pop((tenant, number), None)
                assert value == (None if lanes is None else max(served, min(lanes)))
                if value is not None:
                    next_ms.append(value)
        assert not ready, "a tenant without a turn"
        if self.world.ready:
            assert self.world.next_ready_ms() == min(next_ms, default=None)

    def teardown(self) -> None:
        """Whatever happened: with every hold lifted, all that waits can be delivered."""
        try:
            self.run(self.deliver_all())
        finally:
            self.run(self.world.store.close())
            self.loop.close()
            folders.empty_under(self.folder)
            shutil.rmtree(self.folder)

    async def deliver_all(self) -> None:
        world = self.world
        await world.store.take_over(now_ms=world.let_leases_go())
        await world.store.expire(now_ms=T0, limit=10_000)  # those of disabled ones
        for tenant in TENANTS:
            found, _ = await world.store.destinations(tenant, after=None, limit=100)
            for one in found:
                await world.change(one.id, tenant=tenant, paused=True)
                await world.change(one.id, tenant=tenant, paused=False, rate_per_second=None)
        for _ in range(500):
            world.now_ms = max(world.now_ms, world.next_ready_ms() or 0)
            for delivery in await world.claim():
                assert await world.settle(delivery)
            if not world.store.queued():
                return
        raise AssertionError(f"stuck: {world.store.queued()} can never be delivered")


async def _wait(awaited: Awaitable[T]) -> T:
    return await awaited


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_any_verbs_in_any_order_leave_everything_exact(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2, I4, I9."""

    class Named(Machine):
        store_name = name

    run_state_machine_as_test(
        Named,
        settings=settings(
            max_examples=20 if name == "sqlite" else 4,  # ten times as slow a step, by round trips
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
