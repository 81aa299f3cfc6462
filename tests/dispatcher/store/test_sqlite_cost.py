"""What statements cost (I10), told without a clock: by their plans, and by the steps that SQLite's
virtual machine takes."""

import re
import sqlite3
from collections.abc import Awaitable
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from dispatcher.audit import EntryFilter, new_entry
from dispatcher.filters import Filter
from dispatcher.ids import lane_id
from dispatcher.store import replays
from dispatcher.store.clocks import START
from dispatcher.store.requests import ClaimRequest, Retention
from tests.dispatcher.store.builders import DAY_MS, PLENTY, T0, TENANT, URL, World, secret
from tests.dispatcher.store.sqlite_hooks import on_readers, on_writer, sqlite_world, submit_many

T = TypeVar("T")
FAST: Final = "http://fast.test/hook"

# Small by what they hold: at most as many entries as there are slots, lanes with a backlog to end,
# replays that run, tenants or keys.
_SMALL: Final = re.compile(
    r"SCAN (c |callbacks )?USING (COVERING )?INDEX callbacks_sending"
    r"|SCAN callbacks USING (COVERING )?INDEX callbacks_sending"
    r"|SCAN (lanes|turns|replays|tenants|keys|counts|secrets|json_each|j|t|due|waiting|ready|r)\b"
    # The servers of a batch's lanes, the lanes of a claim, and a tenant's twenty newest callbacks.
    r"|SCAN (s|server|l|newest)\b"
    # What is counted to a bound, the tenants for whom something waits, one row.
    r"|SCAN (few|counted|m|w|waiting|aliases)\b"
    r"|SCAN (\d+ )?CONSTANT ROW|SCAN \(subquery"
)


async def exercise(world: World) -> None:
    """Every verb that runs while callbacks come and go, and every listing."""
    store = world.store
    await store.ensure_tenant(TENANT, secret())
    await world.register("named", rate_per_second=10.0)
    await submit_many(world, 20, tags={"team": "a", "env": "b"})
    await world.submit("again", key="k", name="named")
    await world.submit("again", key="k", name="named")
    for n, one in enumerate(await world.claim()):
        state: Any = ("delivered", "dead", "pending")[n % 3]
        await world.settle(one, state, due_in_ms=1_000)
    await store.release(await world.claim(2), now_ms=world.tick())
    await store.reclaim(now_ms=world.now_ms)
    await store.expire(now_ms=world.now_ms, limit=10)
    await store.repair_lanes(now_ms=world.now_ms, after="", limit=10)
    found = await world.search(status="dead")
    await store.replay(TENANT, found[0], now_ms=world.now_ms)
    await store.cancel(TENANT, found[0], now_ms=world.now_ms)
    made = await store.make_replay(
        TENANT, Filter(status="dead"), rate_per_second=None, now_ms=world.now_ms
    )
    await store.preview_replay(TENANT, Filter(status="dead"), sample=5)
    await store.feed_replay(made.id, limit=5, now_ms=world.tick())
    await world.change(paused=True)
    await world.change(disabled_reason="test")
    await store.expire(now_ms=world.now_ms, limit=3)
    keep = Retention(delivered_payload_ms=0, delivered_ms=0, dead_ms=0, audit_ms=DAY_MS)
    await store.prune(keep, now_ms=world.tick(), limit=5)
    await store.record(*(new_entry("key.create", at_ms=T0, actor="k", tenant=TENANT) for _ in "ab"))
    await store.trim_audit("", entries_max=1, limit=5)
    await listings(world, found[-1])


async def listings(world: World, one: str) -> None:
    store = world.store
    for wanted in (
        *(Filter(status=state) for state in ("pending", "sending", "delivered", "dead")),
        Filter(status="cancelled"),
        Filter(),
        Filter(job_id="many-1"),
        Filter(job_status="completed"),
        Filter(destination=URL),
        Filter(priority="high"),
        Filter(error="http_404"),
        Filter(since_ms=T0, until_ms=T0 + 1),
        Filter(tags=(("team", "a"), ("env", "b"))),
        Filter(status="dead", tags=(("team", "a"),), since_ms=T0),
    ):
        await store.search(TENANT, wanted, after="cb_f", limit=10)
        await store.search(TENANT, wanted, after=None, limit=10)
    await store.get(TENANT, one)
    await store.attempts(TENANT, one)
    await store.stats(TENANT)
    await store.stats(None)
    await store.destinations(TENANT, after=None, limit=10)
    await store.running_replays()
    await store.secrets(TENANT)
    for tenant, action, target in product((TENANT, None), ("key.create", None), ("x", None)):
        trail = EntryFilter(tenant=tenant, action=action, target=target, since_ms=T0)
        await store.audit_trail(trail, after="au_f", limit=10)
        await store.audit_trail(replace(trail, since_ms=None), after=None, limit=10)


async def traced(world: World, act: Awaitable[None]) -> list[str]:
    """The statements that ran while `act` did, each once."""
    seen: list[str] = []
    hook = seen.append

    def listen(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(hook)

    def stop(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(None)

    await on_writer(world, listen)
    await on_readers(world, listen)
    await act
    await on_writer(world, stop)
    await on_readers(world, stop)
    return sorted({one for one in seen if one.split()[0] in ("SELECT", "UPDATE", "DELETE", "WITH")})


async def plan(world: World, sql: str) -> list[str]:
    def explain(connection: sqlite3.Connection) -> list[str]:
        return [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]

    return await on_writer(world, explain)


async def test_no_statement_scans_what_grows(tmp_path: Path) -> None:
    """I10: each finds what it needs by an index."""
    async with sqlite_world(tmp_path) as world:
        statements = await traced(world, exercise(world))
        assert len(statements) > 40
        scans: list[tuple[str, str]] = []
        for sql in statements:
            scans += (
                (step, sql[:300])
                for step in await plan(world, sql)
                if step.startswith("SCAN") and not _SMALL.match(step)
            )
        assert scans == []


async def test_listings_come_in_their_indexs_order(tmp_path: Path) -> None:
    """A page costs its rows: nothing is sorted but what one job or one page's tags hold, and what
    is being sent."""
    async with sqlite_world(tmp_path) as world:
        await submit_many(world, 5, tags={"team": "a"})
        (one, *_) = await world.search()
        sorts = []
        for sql in await traced(world, listings(world, one)):
            steps_taken = await plan(world, sql)
            if any("TEMP B-TREE" in step for step in steps_taken) and "job_id =" not in sql:
                sorts.append(sql)
        small = (
            "FROM tags WHERE callback IN", "DESC LIMIT 20) newest", "c.state = 'sending'",
            "FROM counts",
        )  # fmt: skip
    assert [sql for sql in sorts if not any(part in sql for part in small)] == []


# --- steps ---


async def steps(world: World, verb: Awaitable[T]) -> tuple[int, T]:
    """How many steps of the writer's virtual machine `verb` took, about."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 10
        return 0

    await on_writer(world, lambda connection: connection.set_progress_handler(count, 10))
    result = await verb
    await on_writer(world, lambda connection: connection.set_progress_handler(None, 0))
    return counted, result


async def round_trip(world: World, job: str) -> dict[str, int]:
    """The steps that one submit, claim and settle take together with others waiting."""
    url = FAST
    submit, _ = await steps(world, world.submit(job, url=url))
    claim, got = await steps(world, world.claim(16))
    assert [one.job_id for one in got] == [job]
    settle, _ = await steps(world, world.settle(got[0]))
    straight, handed = await steps(world, world.submit(job + "-2", url=url, handover=True))
    assert handed.delivery is not None
    await world.settle(handed.delivery, "pending", due_in_ms=10**9)
    return {"submit": submit, "claim": claim, "settle": settle, "hand-over": straight}


def pile(connection: sqlite3.Connection, destination: str, count: int, due_ms: int) -> None:
    """`count` pending deliveries on one lane, without the time that submitting them takes."""
    connection.execute(
        "INSERT INTO callbacks (id, tenant, job_id, priority, destination, payload_size, "
        "payload_sha256, explicit_key, content, created_ms, expires_ms, state, class, due_ms) "
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "SELECT printf('cb_0%031d', i), ?, 'pile-' || i, 1, ?, 1, x'00', 0, x'00', ?, ?, "
        "'pending', 1, ? + i FROM n",
        (count, TENANT, destination, T0, T0 + 10**12, due_ms),
    )


async def pile_up(world: World) -> None:
    """Fifty thousand for the one destination that there is, once."""
    where = lane_id(TENANT, URL)
    if (await world.destination()).backlog < 50_000:
        await on_writer(world, lambda connection: pile(connection, where, 50_000, T0))


@pytest.mark.parametrize("held", ["paused", "later"])
async def test_fifty_thousand_waiting_deliveries_cost_the_others_nothing(
    tmp_path: Path, held: str
) -> None:
    """I10: on a paused lane, or on the very lane as retries of later."""
    async with sqlite_world(tmp_path) as world:
        await world.submit("slow")
        await world.change(paused=True)
        await round_trip(world, "warm-up")
        before = await round_trip(world, "before")
        slow = lane_id(TENANT, URL)
        fast = lane_id(TENANT, FAST)
        where, due_ms = (slow, T0) if held == "paused" else (fast, T0 + 10**10)
        await on_writer(world, lambda connection: pile(connection, where, 50_000, due_ms))
        after = await round_trip(world, "after")
        for verb, taken in after.items():
            assert taken <= before[verb] * 1.1 + 200, (verb, before, after)


@pytest.mark.parametrize("kind", ["lanes", "tenants"])
async def test_a_claims_cost_is_its_slots_not_how_much_is_ready(tmp_path: Path, kind: str) -> None:
    """With 5,000 ready lanes or tenants beside 50: the same claim takes about the same steps."""
    taken = {}
    for count in (50, 5_000):
        (tmp_path / str(count)).mkdir()
        async with sqlite_world(tmp_path / str(count)) as world:
            spread = {"url": "http://host-{n}.test/"} if kind == "lanes" else {"tenant": "t{n}"}
            await submit_many(world, count, **spread)
            ask = ClaimRequest(
                slots=10, slots_max=1_000, bytes_free=PLENTY, bytes_max=PLENTY, now_ms=world.tick()
            )
            taken[count], got = await steps(world, world.store.claim(ask))
            assert len(got) == 10
    assert taken[5_000] <= taken[50] * 1.2 + 500, taken


async def test_a_claim_looks_at_few_lanes_of_each_of_many_tenants(tmp_path: Path) -> None:
    taken = {}
    for lanes in (10, 70):
        (tmp_path / str(lanes)).mkdir()
        async with sqlite_world(tmp_path / str(lanes)) as world:
            for tenant in range(70):
                await submit_many(world, lanes, tenant=f"t{tenant}", url="http://host-{n}.test/")
            taken[lanes], got = await steps(world, world.claim(70, slots_max=1_000))
            assert len({one.tenant for one in got}) == len(got) == 70
    assert taken[70] <= taken[10] * 1.3 + 500, taken


async def test_holding_or_ending_a_destination_costs_the_same_whatever_its_backlog(
    tmp_path: Path,
) -> None:
    """D5: one row; all the others' commits wait behind it."""
    async with sqlite_world(tmp_path) as world:
        await world.submit("a")
        changes: tuple[dict[str, Any], ...] = (
            {"paused": True},
            {"paused": False},
            {"concurrency": 3},
            {"disabled_reason": "test"},
            {"disabled_reason": None},
        )
        taken = []
        for _ in range(2):
            of_all = 0
            for change in changes:
                of_one, _shown = await steps(world, world.change(**change))
                of_all += of_one
            taken.append(of_all)
            await pile_up(world)
        assert taken[1] <= taken[0] * 1.1 + 500, taken
        removing = world.store.remove_destination(TENANT, URL, now_ms=world.now_ms)
        removed, _ = await steps(world, removing)
        assert removed <= 2_000


async def test_lanes_that_disagree_with_their_deliveries_are_repaired_and_counted(
    tmp_path: Path,
) -> None:
    """I2: the sweeper's promise, for what no verb can do."""
    async with sqlite_world(tmp_path) as world:
        await submit_many(world, 3, url="http://host-{n}.test/")
        await on_writer(
            world, lambda c: c.execute("UPDATE lanes SET ready_normal = NULL").connection.commit()
        )
        await on_writer(
            world, lambda c: c.execute("UPDATE turns SET ready_normal = NULL").connection.commit()
        )
        assert await world.claim() == []
        repaired, _ = await world.store.repair_lanes(now_ms=world.now_ms, after="", limit=100)
        assert repaired == 3
        assert len(await world.claim()) == 3


# --- looking ---


def history(connection: sqlite3.Connection, first: int, count: int) -> None:
    """`count` finished callbacks from number `first` on: one in six dead, one in five tagged."""
    numbers = "WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?2)"
    span = (first, first + count)
    connection.execute(
        "INSERT INTO callbacks (id, tenant, job_id, job_status, priority, destination, url, "
        "payload_size, payload_sha256, explicit_key, content, created_ms, expires_ms, state, "
        f"class, attempts, finished_ms, last_error) {numbers} SELECT "
        "printf('cb_0%031d', i), ?3, 'job-' || i, 'completed', 1, ?4, ?5, 1, x'00', 0, x'00', "
        "?6, ?6, CASE WHEN i % 6 = 0 THEN 'dead' ELSE 'delivered' END, 1, 1, ?6 + i, "
        "CASE WHEN i % 6 = 0 THEN 'http_503' END FROM n",
        (*span, TENANT, lane_id(TENANT, URL), URL, T0),
    )
    connection.execute(
        f"INSERT INTO tags {numbers} "
        "SELECT ?3, 'team', 'a', printf('cb_0%031d', i) FROM n WHERE i % 5 = 0",
        (*span, TENANT),
    )


async def looked(world: World, verb: Awaitable[Any]) -> int:
    """How many steps of the readers' virtual machines `verb` took, to the nearest ten."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 10
        return 0

    await on_readers(world, lambda connection: connection.set_progress_handler(count, 10))
    await verb
    await on_readers(world, lambda connection: connection.set_progress_handler(None, 0))
    return counted


def filters() -> list[dict[str, Any]]:
    """Each filter with a value that much matches and one that nothing does, and every pair."""
    parts: dict[str, tuple[Any, ...]] = {
        "status": ("delivered", "dead", "pending", "sending", "cancelled"),
        "job_status": ("completed", "nosuch"),
        "job_id": ("job-7", "nosuch"),
        "tags": ((("team", "a"),), (("team", "nosuch"),), (("team", "a"), ("user", "x"))),
        "destination": (URL, FAST),
        "callback_url": (URL, FAST),
        "priority": ("normal", "high"),
        "error": ("http_503", "http_999"),
        "since_ms": (1,),
        "until_ms": (T0,),
    }
    single = [{name: value} for name, values in parts.items() for value in values]
    pairs = [one | other for one, other in combinations(single, 2) if set(one) != set(other)]
    return [{}, *single, *pairs]


async def costs_of_looking(world: World) -> dict[str, int]:
    store = world.store
    costs = {}
    for fields in filters():
        wanted = Filter(**fields)
        costs[f"list {fields}"] = await looked(
            world, store.search(TENANT, wanted, after=None, limit=50)
        )
        if wanted.status not in ("pending", "sending"):
            costs[f"dry run {fields}"] = await looked(
                world, store.preview_replay(TENANT, wanted, sample=10)
            )
    costs["stats"] = await looked(world, store.stats(TENANT))
    costs["stats of all"] = await looked(world, store.stats(None))
    costs["destinations"] = await looked(world, store.destinations(TENANT, after=None, limit=50))
    return costs


async def test_looking_costs_the_same_however_much_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I10: with eight times as much, every filter and pair of filters, dry run and figure takes as
    many steps as before."""
    monkeypatch.setattr("dispatcher.store.search.SCAN_MAX", 200)
    monkeypatch.setattr("dispatcher.store.search.COVERED_MAX", 400)
    monkeypatch.setattr("dispatcher.store.replays.COUNTED_MAX", 100)
    async with sqlite_world(tmp_path) as world:
        await world.submit("one")
        await on_writer(world, lambda connection: history(connection, 0, 10_000))
        before = await costs_of_looking(world)
        await on_writer(world, lambda connection: history(connection, 10_000, 70_000))
        after = await costs_of_looking(world)
    grown = {
        what: (before[what], steps)
        for what, steps in after.items()
        if steps > before[what] * 1.1 + 200
    }
    assert grown == {}
    assert max(after.values()) < replays.LOOKS_MAX * 400 * 20


async def test_what_is_dead_is_looked_through_by_its_index_alone(tmp_path: Path) -> None:
    """No row is read of what does not match."""
    fields: tuple[dict[str, Any], ...] = (
        {"destination": FAST},
        {"error": "x"},
        {"job_status": "x"},
        {"priority": "high"},
    )
    async with sqlite_world(tmp_path) as world:
        await world.submit("one")
        for one in fields:
            wanted = Filter(status="dead", **one)
            for look in (
                world.store.search(TENANT, wanted, after=None, limit=5),
                world.store.preview_replay(TENANT, wanted, sample=5),
            ):
                statements = await traced(world, discard(look))
                walks = [sql for sql in statements if "state = 'dead'" in sql]
                assert walks
                for sql in walks:
                    steps_taken = "\n".join(await plan(world, sql))
                    assert "COVERING INDEX callbacks_dead" in steps_taken, (sql, steps_taken)


async def discard(verb: Awaitable[Any]) -> None:
    await verb


async def test_a_backlog_shown_costs_no_more_than_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.store.destinations.COUNTED_MAX", 1_000)
    async with sqlite_world(tmp_path) as world:
        await world.submit("one")
        where = lane_id(TENANT, URL)
        await on_writer(world, lambda connection: pile(connection, where, 50_000, T0))
        taken = await looked(world, world.destination())
        assert taken < 1_000 * 10
        shown = await world.destination()
        assert (shown.backlog, shown.backlog_exactly) == (1_000, False)


async def test_figures_of_all_ask_only_about_tenants_for_whom_something_waits(
    tmp_path: Path,
) -> None:
    async with sqlite_world(tmp_path) as world:
        for n in range(3):
            await world.submit("waiting", tenant=f"t{n}")
        before = await looked(world, world.store.stats(None))
        await on_writer(
            world,
            lambda connection: connection.executemany(
                "INSERT INTO turns (tenant) VALUES (?)", [(f"was-{n}",) for n in range(5_000)]
            ),
        )
        assert await looked(world, world.store.stats(None)) <= before + 50


# --- sweeping ---


async def costs_of_sweeping(world: World) -> dict[str, int]:
    """The steps that each slice of a sweep takes on the writer."""
    store, keep = world.store, Retention(delivered_payload_ms=1, delivered_ms=1, dead_ms=1)
    verbs: dict[str, Awaitable[Any]] = {
        "bring back": store.bring_back(now_ms=world.now_ms, limit=200),
        "reclaim": store.reclaim(now_ms=world.now_ms),
        "expire": store.expire(now_ms=world.now_ms, limit=200),
        "repair": store.repair_lanes(now_ms=world.now_ms, after="", limit=200),
        "prune": store.prune(keep, now_ms=world.now_ms, limit=200),
    }
    return {name: (await steps(world, verb))[0] for name, verb in verbs.items()}


def replays_that_run(connection: sqlite3.Connection, count: int) -> None:
    connection.execute(
        "INSERT INTO replays (id, tenant, filter, rate, state, matched, created_ms) "
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "SELECT printf('rp_0%031d', i), ?, '{}', 0.001, 'running', 1, ? FROM n",
        (count, TENANT, T0),
    )


async def test_what_waits_and_replays_that_run_do_not_slow_the_sweeps(tmp_path: Path) -> None:
    """I10."""
    async with sqlite_world(tmp_path) as world:
        await world.submit("one")
        await world.change(paused=True)
        before = await costs_of_sweeping(world)
        where = lane_id(TENANT, URL)
        await on_writer(world, lambda connection: pile(connection, where, 50_000, T0 + 10**9))
        await on_writer(world, lambda connection: replays_that_run(connection, 5_000))
        after = await costs_of_sweeping(world)
        started = await looked(world, hastened(world))
    assert all(taken <= before[name] * 1.1 + 200 for name, taken in after.items()), (before, after)
    assert started < 1_000 * 100


async def hastened(world: World) -> None:
    """One slice of the walk over all that waits: 1,000 of 50,000."""
    _, place = await world.store.hasten(START, now_ms=world.now_ms, trusted=True, limit=1_000)
    assert place is not None
