"""Looking at jobs: listings, what went in and came out, loads, and what a job waits for."""

from typing import Any

import pytest

from dispatcher.jobs.endpoint import Keep
from dispatcher.jobs.filters import JobFilter
from dispatcher.store import search as looks
from dispatcher.store.errors import NotFound, PayloadGone
from dispatcher.store.jobs import load, search
from tests.dispatcher.store.builders import T0, TENANT, raises
from tests.dispatcher.store.conftest import Build
from tests.dispatcher.store.jobs.builders import EP, Jobs, outcome
from tests.theft import KEY


async def found(jobs: Jobs, *, tenant: str = TENANT, **wanted: Any) -> list[str]:
    """All ids that match, page by page."""
    ids: list[str] = []
    after = None
    for _ in range(200):
        page = await jobs.store.search(tenant, JobFilter(**wanted), after=after, limit=2)
        ids += [one.id for one in page.jobs]
        after = page.next_id
        if after is None:
            return ids
    raise AssertionError("the pages have no end")


@pytest.fixture
async def full(jobs: Jobs) -> dict[str, str]:
    """One job of each state, at two endpoints, by what it is."""
    await jobs.endpoint(concurrency=2)
    await jobs.endpoint("other", concurrency=1)
    ids = {}
    for name in ("completed", "failed", "cancelled", "running"):
        jobs.world.tick(10)
        ids[name] = (await jobs.submit(tags=(("team", "a"), ("kind", name)))).id
        if name == "cancelled":
            await jobs.cancel(ids[name])
            continue
        claimed = await jobs.one()
        if name != "running":
            code, body = (200, b"yes") if name == "completed" else (500, b"no")
            await jobs.settle(claimed, outcome(code, body=body))
    for name in ("queued", "high"):
        jobs.world.tick(10)
        priority = "high" if name == "high" else "normal"
        at = "other" if name == "high" else EP
        ids[name] = (await jobs.submit(at=at, priority=priority, tags=(("team", "b"),))).id
    await jobs.submit(tenant="somebody else")
    return ids


@pytest.mark.parametrize("scan_max", [1, 3, 25_000])
async def test_a_filter_finds_what_matches_newest_first(
    jobs: Jobs, full: dict[str, str], scan_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page, however little one look is about."""
    monkeypatch.setattr(looks, "SCAN_MAX", scan_max)
    newest = ["high", "queued", "running", "cancelled", "failed", "completed"]
    for wanted, names in (
        ({}, newest),
        ({"status": "queued"}, ["high", "queued"]),
        ({"status": "running"}, ["running"]),
        ({"status": "failed"}, ["failed"]),
        ({"status": "cancelled"}, ["cancelled"]),
        ({"status": "completed"}, ["completed"]),
        ({"status": "timeout"}, []),
        ({"endpoint": "other"}, ["high"]),
        ({"endpoint": "other", "status": "queued"}, ["high"]),
        ({"endpoint": EP, "status": "failed"}, ["failed"]),
        ({"endpoint": "third", "status": "queued"}, []),
        ({"priority": "high"}, ["high"]),
        ({"reason": "rejected"}, ["failed"]),
        ({"tags": (("team", "a"),)}, newest[2:]),
        ({"tags": (("team", "a"), ("kind", "failed"))}, ["failed"]),
        ({"tags": (("team", "b"),), "status": "failed"}, []),
        ({"since_ms": T0 + 20, "until_ms": T0 + 40}, ["cancelled", "failed"]),
        ({"since_ms": T0 + 20, "status": "failed"}, ["failed"]),
    ):
        assert await found(jobs, **wanted) == [full[name] for name in names], wanted


async def test_what_waits_is_walked_where_it_is_much(
    jobs: Jobs, full: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_FEW_MAX", 1)
    assert await found(jobs, status="queued") == [full["high"], full["queued"]]


async def test_jobs_of_others_are_not_found(jobs: Jobs, full: dict[str, str]) -> None:
    """I9: word for word as an unknown one."""
    assert len(await found(jobs, tenant="somebody else")) == 1
    assert await found(jobs, tenant="nobody", status="queued") == []
    for verb in ("attempts", "input", "output"):
        read = getattr(jobs.store, verb)
        told = [
            str(await raises(NotFound, read("nobody", one))).replace(one, "ID")
            for one in (full["completed"], "0" * 32)
        ]
        assert told[0] == told[1]


async def test_what_went_in_and_what_came_out(jobs: Jobs) -> None:
    """Byte for byte, with their types; of a job that failed, its body is its error."""
    await jobs.endpoint()
    completed, failed = await jobs.many(2, body=b"\x00in")
    assert await jobs.store.input(TENANT, completed) == await jobs.store.input(TENANT, failed)
    went_in = await jobs.store.input(TENANT, completed)
    assert (went_in.body, went_in.content_type) == (b"\x00in", "application/json")
    await raises(NotFound, jobs.store.output(TENANT, completed))
    first, second = await jobs.claim()
    await jobs.settle(first, outcome(body=b"\xffout"))
    await jobs.settle(second, outcome(500, body=b"why"))
    assert (await jobs.store.output(TENANT, completed)).body == b"\xffout"
    assert (await jobs.store.output(TENANT, failed)).body == b"why"


async def test_bodies_that_are_sealed_are_opened(build: Build) -> None:
    world = await build(encryption_keys=KEY, encrypt_payloads="on")
    jobs = Jobs(world)
    await jobs.endpoint()
    submitted = await jobs.submit(b"secret in")
    await jobs.settle(await jobs.one(), outcome(body=b"secret out"))
    assert (await jobs.store.input(TENANT, submitted.id)).body == b"secret in"
    assert (await jobs.store.output(TENANT, submitted.id)).body == b"secret out"


async def test_an_output_past_its_retention_is_said_to_be(jobs: Jobs) -> None:
    await jobs.endpoint(keep=Keep(output=0.0))
    submitted = await jobs.submit()
    await jobs.settle(await jobs.one())
    jobs.world.tick(1)
    assert await jobs.store.prune(now_ms=jobs.world.now_ms, limit=10)
    await raises(PayloadGone, jobs.store.output(TENANT, submitted.id))


async def test_the_calls_of_all_runs_in_their_order(jobs: Jobs) -> None:
    """Those that never went out too; a page goes on after a number."""
    await jobs.endpoint(concurrency=1)
    submitted = await jobs.submit()
    await jobs.settle(await jobs.one(), outcome(kind="not_sent", sent=False))
    jobs.world.tick(120_000)
    await jobs.settle(await jobs.one(), outcome(500, body=b"no"))
    await jobs.retry(submitted.id)
    await jobs.settle(await jobs.one(), outcome(200))
    calls = await jobs.store.attempts(TENANT, submitted.id)
    assert [(one.run, one.outcome, one.status_code) for one in calls] == [
        (1, "not_sent", None),
        (1, "answered", 500),
        (2, "answered", 200),
    ]
    assert {one.process for one in calls} == {jobs.process}
    after = await jobs.store.attempts(TENANT, submitted.id, after=calls[0].n, limit=1)
    assert after == [calls[1]]


# --- loads ---


async def test_what_an_endpoint_has_to_do(jobs: Jobs) -> None:
    await raises(NotFound, jobs.store.load(EP))
    await jobs.endpoint(concurrency=2)
    idle = await jobs.store.load(EP)
    assert (idle.queued, idle.running, idle.oldest_queued_ms) == (0, 0, None)
    first = T0
    for tenant, priority in ((TENANT, "low"), ("b", "normal"), ("c", "high"), ("b", "normal")):
        await jobs.submit(tenant=tenant, priority=priority)
        jobs.world.tick(1_000)
    busy = await jobs.store.load(EP)
    assert (busy.queued, busy.window, busy.oldest_queued_ms) == (4, 2, first)
    running = await jobs.claim()
    await jobs.cancel(running[0].id, running[0].tenant)
    now = await jobs.store.load(EP)
    assert (now.queued, now.running, now.releasing) == (2, 1, 1)


# --- positions ---


async def waits(jobs: Jobs, id: str, tenant: str = TENANT) -> tuple[object, ...]:
    found = await jobs.store.waiting(tenant, id, now_ms=jobs.world.now_ms)
    assert found is not None
    return (found.position, found.exact, found.ahead, found.reason)


async def test_a_position_counts_its_own_queue_alone(jobs: Jobs) -> None:
    """High before normal, in the order of tickets; how many go before it at its endpoint, those
    that run included, is beside it."""
    await jobs.endpoint(concurrency=1)
    running = (await jobs.submit(handover=True)).id
    assert await jobs.store.waiting(TENANT, running, now_ms=jobs.world.now_ms) is None
    first, second = await jobs.many(2)
    high = (await jobs.submit(priority="high")).id
    low = (await jobs.submit(priority="low")).id
    for _ in range(5):
        await jobs.submit(tenant="flood")
    assert await waits(jobs, high) == (1, True, 1 + 1, "capacity")
    assert await waits(jobs, first) == (2, True, 1 + 1 + 2, "capacity")
    assert await waits(jobs, second) == (3, True, 1 + 2 + 3, "capacity")
    assert await waits(jobs, low) == (4, True, 1 + 3 + 4, "capacity")
    await raises(NotFound, jobs.store.waiting("flood", first, now_ms=T0))


async def test_far_back_a_position_is_what_its_tickets_tell(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never less than what was counted, and never more than wait."""
    monkeypatch.setattr(load, "COUNTED_MAX", 3)
    await jobs.endpoint(concurrency=1)
    ids = await jobs.many(8)
    await jobs.one()
    assert [(await waits(jobs, one))[:2] for one in ids[1:]] == [
        (1, True), (2, True), (3, True), (4, False), (5, False), (6, False), (7, False),
    ]  # fmt: skip


async def test_a_job_says_what_it_waits_for(jobs: Jobs) -> None:
    await jobs.endpoint(concurrency=2, rate=0.1)
    await jobs.submit()
    await jobs.one()
    later = (await jobs.submit(not_before_ms=jobs.world.now_ms + 5_000)).id
    waiting = (await jobs.submit()).id
    paced = await jobs.store.waiting(TENANT, waiting, now_ms=jobs.world.now_ms)
    assert paced is not None
    assert paced.until_ms is not None
    assert (paced.reason, paced.until_ms > jobs.world.now_ms) == ("rate", True)
    due = await jobs.store.waiting(TENANT, later, now_ms=jobs.world.now_ms)
    assert due is not None
    assert (due.reason, due.until_ms) == ("not_before", jobs.world.now_ms + 5_000)
    await jobs.change(concurrency=1)
    assert (await waits(jobs, waiting))[3] == "capacity"
    await jobs.store.set_paused(EP, paused=True, now_ms=jobs.world.now_ms)
    assert (await waits(jobs, waiting))[3] == "paused"


async def test_a_hold_says_why_and_until_when(jobs: Jobs) -> None:
    await jobs.endpoint(concurrency=1)
    await jobs.submit()
    waiting = (await jobs.submit()).id
    await jobs.settle(await jobs.one(), outcome(429, retry_after_ms=30_000))
    held = await jobs.store.waiting(TENANT, waiting, now_ms=jobs.world.now_ms)
    assert held is not None
    assert (held.reason, held.held_reason) == ("held", "retry-after")
    assert held.until_ms == jobs.world.now_ms + 30_000


async def test_what_was_purged_waits_for_nothing(jobs: Jobs) -> None:
    """It is being cancelled."""
    await jobs.endpoint()
    (id,) = await jobs.many(1)
    await jobs.store.purge(EP, tenant=TENANT, now_ms=jobs.world.now_ms)
    assert await jobs.store.waiting(TENANT, id, now_ms=jobs.world.now_ms) is None
    assert await found(jobs, status="queued") == []
