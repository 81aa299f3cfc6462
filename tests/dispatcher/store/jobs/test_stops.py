"""Places of jobs whose upstreams are to be stopped yet, and endpoints that are not well."""

import pytest

from dispatcher.jobs.endpoint import HealthCheck, StopCall
from dispatcher.jobs.values import ClaimedJob, HeldJob, JobSettlement, JobVerdict
from dispatcher.store.errors import NotYet
from tests.dispatcher.store.builders import TENANT
from tests.dispatcher.store.jobs.builders import EP, PROCESS, Jobs, outcome

STOP = StopCall(path="/stop/{jobId}")
TIMED_OUT = JobVerdict(state="timeout", reason="run_limit", error="too long")


async def taken(jobs: Jobs, process: str = PROCESS) -> list[ClaimedJob]:
    found = await jobs.store.take_stops(process, now_ms=jobs.world.now_ms, limit=10)
    return list(found)


async def time_out(jobs: Jobs, claimed: ClaimedJob) -> None:
    """End a running job by its run limit, while its upstream is to be stopped yet."""
    settlement = JobSettlement(
        job=claimed,
        outcome=outcome(None, kind="timeout", now_ms=jobs.world.now_ms),
        verdict=TIMED_OUT,
        random=0.5,
        now_ms=jobs.world.now_ms,
        releasing=True,
    )
    assert (await jobs.store.settle(settlement)).recorded


async def by_url(jobs: Jobs) -> ClaimedJob:
    """A job that its upstream is to end by URL, held by no process."""
    claimed = await jobs.one()
    limit_ms = jobs.world.now_ms + 900_000
    verdict = JobVerdict(state="running", limit_ms=limit_ms, look_ms=limit_ms)
    assert (await jobs.settle(claimed, outcome(202), verdict)).recorded
    return claimed


async def test_a_job_that_ended_by_our_own_doing_keeps_its_place_until_it_is_said(
    jobs: Jobs,
) -> None:
    """Its end is told at once; its place is free once its upstream was stopped."""
    await jobs.endpoint(concurrency=1, cancel=STOP)
    await jobs.many(2)
    claimed = await jobs.one()
    await time_out(jobs, claimed)
    shown = await jobs.get(claimed.id)
    assert (shown.state, shown.releasing) == ("timeout", True)
    assert await jobs.claim() == []
    with pytest.raises(NotYet):
        await jobs.retry(claimed.id)
    await jobs.store.freed([HeldJob(claimed.id, claimed.claim, releasing=True)])
    assert len(await jobs.claim()) == 1


async def test_what_its_process_leaves_is_taken_on_by_whoever_finds_it(jobs: Jobs) -> None:
    """A process died while it stopped an upstream: another one does that, and until then the place
    is taken. Two never take on the same."""
    await jobs.endpoint(concurrency=1, cancel=STOP)
    await jobs.many(2)
    claimed = await jobs.one()
    await time_out(jobs, claimed)
    assert await taken(jobs, "process-2") == []
    await jobs.leaves(PROCESS)
    await jobs.known("process-2")
    assert await jobs.store.reclaim_orphans(beside="process-2", now_ms=jobs.world.now_ms) == 1
    assert await jobs.claim(process="process-2") == []
    (found,) = await taken(jobs, "process-2")
    assert (found.id, found.claim, found.body) == (claimed.id, claimed.claim, b"")
    assert await taken(jobs, "process-3") == []
    assert list(await jobs.store.held("process-2")) == [HeldJob(found.id, found.claim, True)]
    await jobs.store.freed([HeldJob(found.id, found.claim, releasing=True)])
    assert len(await jobs.claim(process="process-2")) == 1


async def test_a_place_of_an_endpoint_that_stops_nothing_is_free_with_its_process(
    jobs: Jobs,
) -> None:
    await jobs.endpoint(concurrency=1)
    await jobs.many(2)
    claimed = await jobs.one()
    await jobs.cancel(claimed.id)
    await jobs.leaves(PROCESS)
    await jobs.known("process-2")
    await jobs.store.reclaim_orphans(beside="process-2", now_ms=jobs.world.now_ms)
    assert await taken(jobs, "process-2") == []
    assert len(await jobs.claim(process="process-2")) == 1


async def test_a_cancel_of_what_no_process_holds_has_its_upstream_stopped(jobs: Jobs) -> None:
    """A job that its upstream is to end by URL: cancelled at once, its place is free when that one
    has stopped. Where nothing stops it, at once."""
    await jobs.endpoint(concurrency=1, cancel=STOP)
    await jobs.many(1)
    claimed = await by_url(jobs)
    changed = await jobs.cancel(claimed.id)
    assert (changed.state, changed.process) == ("cancelled", None)
    (found,) = await taken(jobs)
    assert found.id == claimed.id
    await jobs.store.freed([HeldJob(found.id, found.claim, releasing=True)])
    assert not (await jobs.get(claimed.id)).releasing
    await jobs.endpoint("plain", concurrency=1)
    await jobs.submit(at="plain")
    plain = await by_url(jobs)
    await jobs.cancel(plain.id)
    assert not (await jobs.get(plain.id)).releasing


async def test_what_failed_with_its_process_has_its_upstream_stopped(jobs: Jobs) -> None:
    """At most once: it is not run again, and what its upstream still does is of no use."""
    await jobs.endpoint(concurrency=1, cancel=STOP, delivery="at-most-once")
    await jobs.many(1)
    claimed = await jobs.one()
    await jobs.leaves(PROCESS)
    await jobs.known("process-2")
    await jobs.store.reclaim_orphans(beside="process-2", now_ms=jobs.world.now_ms)
    assert (await jobs.get(claimed.id)).reason == "interrupted"
    await jobs.store.reclaim_orphans(beside="process-2", now_ms=jobs.world.now_ms)
    (found,) = await taken(jobs, "process-2")
    assert found.id == claimed.id


async def test_a_run_of_a_job_has_one_claim(jobs: Jobs) -> None:
    """While it runs: a later run has another one, and what waits has none."""
    await jobs.endpoint()
    (id,) = await jobs.many(1)
    assert await jobs.store.claim_of(id, 1) is None
    claimed = await jobs.one()
    assert await jobs.store.claim_of(id, 1) == claimed.claim
    assert await jobs.store.claim_of(id, 2) is None


# --- health ---


async def test_nothing_is_started_while_a_health_check_fails(jobs: Jobs) -> None:
    """Neither by a claim nor at once; what waits says why, and more is taken."""
    await jobs.endpoint(health=HealthCheck(path="/health"))
    now_ms = jobs.world.now_ms
    assert await jobs.store.set_health(EP, well=False, now_ms=now_ms)
    assert not await jobs.store.set_health(EP, well=False, now_ms=now_ms)
    waiting = await jobs.submit(handover=True)
    assert waiting.state == "queued"
    assert await jobs.claim() == []
    wait = await jobs.store.waiting(TENANT, waiting.id, now_ms=now_ms)
    assert wait is not None
    assert (wait.reason, wait.until_ms) == ("unhealthy", None)
    assert (await jobs.store.load(EP)).unhealthy_ms == now_ms
    assert await jobs.store.set_health(EP, well=True, now_ms=now_ms)
    assert not await jobs.store.set_health(EP, well=True, now_ms=now_ms)
    assert len(await jobs.claim()) == 1


async def test_an_upstream_that_is_well_again_closes_its_circuit(jobs: Jobs) -> None:
    """What could not be reached before is no reason to wait any longer."""
    await jobs.endpoint(health=HealthCheck(path="/health"), concurrency=64)
    await jobs.many(30)
    for claimed in await jobs.claim(30):
        jobs.world.now_ms += 4_000
        met = outcome(None, kind="not_sent", sent=False, now_ms=jobs.world.now_ms)
        await jobs.settle(claimed, met)
    held = await jobs.store.load(EP)
    assert held.held_reason == "circuit"
    await jobs.store.set_health(EP, well=False, now_ms=jobs.world.now_ms)
    await jobs.store.set_health(EP, well=True, now_ms=jobs.world.now_ms)
    well = await jobs.store.load(EP)
    assert (well.held_reason, well.held_until_ms, well.unhealthy_ms) == (None, 0, None)
    assert well.window == 64


@pytest.mark.parametrize("how", ["resumed", "without its check"])
async def test_an_endpoint_that_is_not_well_goes_on_where_nobody_asks_any_more(
    jobs: Jobs, how: str
) -> None:
    """Until it is asked anew: after a resume, or with another check or none."""
    await jobs.endpoint(health=HealthCheck(path="/health"))
    await jobs.submit()
    now_ms = jobs.world.now_ms
    await jobs.store.set_health(EP, well=False, now_ms=now_ms)
    if how == "resumed":
        await jobs.store.set_paused(EP, paused=False, now_ms=now_ms)
    else:
        await jobs.change()
    assert len(await jobs.claim()) == 1


async def test_loads_are_told_of_all_endpoints_at_once(jobs: Jobs) -> None:
    """What each has to do, and whether any of it is worth waking somebody for."""
    await jobs.endpoint("a", concurrency=1)
    await jobs.endpoint("b")
    await jobs.endpoint("c")
    await jobs.submit(at="a")
    await jobs.submit(at="a")
    await jobs.submit(at="b", priority="low")
    await jobs.one()
    found = {one.endpoint: one for one in await jobs.store.loads(now_ms=jobs.world.now_ms)}
    assert (found["a"].queued, found["a"].running, found["a"].is_wanted) == (1, 1, True)
    assert (found["b"].queued, found["b"].is_wanted) == (1, False)
    assert (found["c"].queued, found["c"].running, found["c"].is_wanted) == (0, 0, False)
    assert found["a"].oldest_queued_ms == jobs.world.now_ms
