"""What upstreams tell: progress under the current claim alone, jobs that no process holds, events
that the end takes back, and the keys of links."""

import os
from dataclasses import replace
from typing import Any

import pytest

from dispatcher.dialects.callbacks import event_of
from dispatcher.gateway.links import Links
from dispatcher.ids import new_id
from dispatcher.jobs.progress import Progress
from dispatcher.jobs.values import ClaimedJob, JobVerdict, Report
from dispatcher.store.jobs.events import EventTold
from dispatcher.values import LinkKey
from tests.dispatcher.store.builders import TENANT
from tests.dispatcher.store.jobs.builders import Jobs, outcome, target


def report(jobs: Jobs, job: ClaimedJob, percent: float | None = None, **more: Any) -> Report:
    at_ms = jobs.world.now_ms
    said = Progress(percent=percent, since_ms=at_ms, at_ms=at_ms, **more)
    return Report(job=job.id, claim=job.claim, progress=said)


async def begun(jobs: Jobs, **more: Any) -> ClaimedJob:
    await jobs.submit(**more)
    return await jobs.one()


async def progress(jobs: Jobs, id: str) -> Progress | None:
    return (await jobs.get(id, output=True)).progress


async def let_go(jobs: Jobs, job: ClaimedJob, *, limit_s: float = 60, look_s: float = 60) -> None:
    """Have no process hold it."""
    now_ms = jobs.world.now_ms
    verdict = JobVerdict(
        state="running",
        limit_ms=now_ms + round(limit_s * 1000),
        look_ms=now_ms + round(look_s * 1000),
    )
    settled = await jobs.settle(job, outcome(202), verdict=verdict)
    assert settled.recorded


# --- progress ---


async def test_reports_are_kept_under_the_current_claim_alone(jobs: Jobs) -> None:
    """What is told in one write adds to what was told before; what comes late changes nothing."""
    await jobs.endpoint()
    job = await begun(jobs)
    claim = (job.id, job.claim)
    assert await jobs.store.report([report(jobs, job, 10, step="a")]) == {claim}
    assert await jobs.store.report([report(jobs, job, 20, metadata="{}")]) == {claim}
    known = await progress(jobs, job.id)
    assert known is not None
    assert (known.percent, known.step, known.metadata, known.n) == (20, "a", "{}", 2)
    assert await jobs.store.signs([claim]) == {claim: 2}
    assert await jobs.store.report([replace(report(jobs, job, 90), claim=job.claim + 1)]) == set()
    await jobs.store.release([job], now_ms=jobs.world.now_ms)
    assert await jobs.store.report([report(jobs, job, 90)]) == set()
    again = await jobs.one()
    assert await jobs.store.report([report(jobs, job, 90)]) == set()
    assert await jobs.store.report([report(jobs, again, 1)]) == {(job.id, again.claim)}
    known = await progress(jobs, job.id)
    assert known is not None
    assert (known.percent, known.step, known.n) == (1, None, 1)


async def test_many_are_written_in_one_commit(jobs: Jobs) -> None:
    await jobs.endpoint(concurrency=20)
    running = [await begun(jobs) for _ in range(20)]
    told = [report(jobs, job, n) for n, job in enumerate(running)]
    assert len(await jobs.store.report(told)) == 20
    for n, job in enumerate(running):
        known = await progress(jobs, job.id)
        assert known is not None
        assert known.percent == n


async def test_what_was_reported_stays_with_the_run(jobs: Jobs) -> None:
    """Also after its end, so that it shows how far it came; of the next run nothing is known."""
    await jobs.endpoint()
    job = await begun(jobs)
    await jobs.store.report([report(jobs, job, 60, step="rendering")])
    await jobs.settle(job, outcome(500))
    known = await progress(jobs, job.id)
    assert known is not None
    assert known.step == "rendering"
    await jobs.retry(job.id)
    assert await progress(jobs, job.id) is None


# --- jobs that no process holds ---


async def test_a_job_that_is_let_go_runs_on(jobs: Jobs) -> None:
    """Under the same claim, in its place, held by nobody: no process is asked for it, and none
    takes it over. To let it go again is no late result."""
    await jobs.endpoint(concurrency=1)
    job = await begun(jobs)
    await let_go(jobs, job)
    await let_go(jobs, job)
    view = await jobs.get(job.id)
    assert (view.state, view.calls) == ("running", 0)
    assert await jobs.store.held(jobs.process) == []
    now_ms = jobs.world.now_ms
    assert await jobs.store.reclaim_orphans(beside="another", now_ms=now_ms) == 0
    assert await jobs.store.attempts(TENANT, job.id) == []
    assert await jobs.store.current([(job.id, job.claim)]) == {(job.id, job.claim)}
    await jobs.submit()
    assert await jobs.claim() == []
    found = await jobs.store.running(job.id, job.claim, now_ms=now_ms)
    assert found is not None
    assert (found.job.id, found.job.claim, found.job.body) == (job.id, job.claim, b"")
    assert await jobs.store.running(job.id, job.claim + 1, now_ms=now_ms) is None
    assert (await jobs.settle(found.job)).recorded
    assert (await jobs.get(job.id)).calls == 1
    assert len(await jobs.store.attempts(TENANT, job.id)) == 1
    assert await jobs.store.ended_under(job.id, job.claim) == (TENANT, "completed")
    assert len(await jobs.claim()) == 1


async def test_it_is_found_when_its_time_is_over(jobs: Jobs) -> None:
    """Looked at later where it lives."""
    await jobs.endpoint()
    job = await begun(jobs)
    await let_go(jobs, job, limit_s=60, look_s=10)

    async def late() -> list[str]:
        found = await jobs.store.late_by_url(now_ms=jobs.world.now_ms, limit=10)
        return [one.job.id for one in found]

    assert await late() == []
    jobs.world.now_ms += 11_000
    assert await late() == [job.id]
    await jobs.store.look_later(
        job.id, job.claim, look_ms=jobs.world.now_ms + 1_000, now_ms=jobs.world.now_ms
    )
    assert await late() == []
    jobs.world.now_ms += 2_000
    assert await late() == [job.id]
    await jobs.cancel(job.id)
    assert await late() == []
    assert not (await jobs.get(job.id)).releasing
    assert await jobs.store.ended_under(job.id, job.claim) is None


async def test_who_runs_again_is_held_again(jobs: Jobs) -> None:
    """Its earlier limit says nothing of the new run."""
    await jobs.endpoint()
    job = await begun(jobs)
    await let_go(jobs, job, limit_s=1, look_s=1)
    await jobs.cancel(job.id)
    await jobs.retry(job.id)
    jobs.world.now_ms += 5_000
    again = await jobs.one()
    assert await jobs.store.late_by_url(now_ms=jobs.world.now_ms, limit=10) == []
    assert [one.id for one in await jobs.store.held(jobs.process)] == [again.id]
    assert (await jobs.settle(again)).recorded


# --- events ---


async def told(jobs: Jobs, job: ClaimedJob) -> tuple[EventTold, str]:
    """Tell that a job runs."""
    at_ms = jobs.world.now_ms
    new = event_of(job, "progress", id=new_id("cb", at_ms), now_ms=at_ms, public_url="")
    assert new is not None
    return await jobs.store.tell_event(job.id, job.claim, new, now_ms=at_ms), new.id


@pytest.mark.parametrize("how", ["settle", "cancel"])
async def test_the_end_takes_back_what_was_to_be_told(jobs: Jobs, how: str) -> None:
    """In its commit, whatever ends the job; each event takes back the one before it, and after the
    end there is none."""
    await jobs.endpoint()
    job = await begun(jobs, callback=target())
    _, first = await told(jobs, job)
    what, second = await told(jobs, job)
    assert what == "told"
    states = {one.id: one.state for one in await jobs.callbacks()}
    assert states == {first: "cancelled", second: "pending"}
    if how == "settle":
        await jobs.settle(job)
    else:
        await jobs.cancel(job.id)
    what, third = await told(jobs, job)
    assert what == "gone"
    after: dict[str, str] = {one.id: one.state for one in await jobs.callbacks()}
    assert (after.pop(first), after.pop(second)) == ("cancelled", "cancelled")
    assert third not in after
    assert list(after.values()) == ["pending"]


@pytest.mark.parametrize("over", ["delivered", "dead", "pending", "handed back", "lost"])
@pytest.mark.parametrize("how", ["settle", "cancel"])
async def test_the_end_waits_for_what_is_under_way(jobs: Jobs, how: str, over: Any) -> None:
    """So nothing arrives after it, and the next event waits too. It goes out when that attempt is
    over, whatever it met, and is tried no second time; where nobody says so, with its lease."""
    await jobs.endpoint()
    job = await begun(jobs, callback=target())
    _, event = await told(jobs, job)
    (under_way,) = await jobs.world.claim(1)
    assert under_way.id == event
    assert (await told(jobs, job))[0] == "later"
    if how == "settle":
        settled = await jobs.settle(job, handover=True)
        assert (settled.recorded, settled.delivery) == (True, None)
    else:
        await jobs.cancel(job.id)
    assert await jobs.world.claim() == []
    (end,) = [one for one in await jobs.callbacks() if one.id != event]
    assert (end.state, (await jobs.get(job.id)).callback) == ("pending", end.id)
    assert end.due_ms is not None
    if over == "lost":
        jobs.world.tick(end.due_ms - jobs.world.now_ms + 1)
    elif over == "handed back":
        await jobs.world.store.release([under_way], now_ms=jobs.world.tick())
    else:
        jobs.world.tick()
        assert await jobs.world.settle(under_way, over)
    (goes,) = await jobs.world.claim()
    assert (goes.id, goes.attempt) == (end.id, 1)
    if over != "lost":
        state = "delivered" if over == "delivered" else "cancelled"
        assert {one.id: one.state for one in await jobs.callbacks()}[event] == state


async def test_what_is_over_by_the_end_keeps_nothing_waiting(jobs: Jobs) -> None:
    await jobs.endpoint()
    job = await begun(jobs, callback=target())
    await told(jobs, job)
    (event,) = await jobs.world.claim(1)
    assert await jobs.world.settle(event)
    settled = await jobs.settle(job, handover=True)
    assert settled.delivery is not None
    assert await jobs.world.settle(settled.delivery)


# --- keys of links ---


def key(n: int) -> LinkKey:
    return LinkKey(id=new_id("lk", 1_000 + n), value=os.urandom(32), created_ms=n)


async def test_there_is_one_key_and_two_are_good(jobs: Jobs) -> None:
    """Made where there is none; a rotation keeps the one before it, and no more. Of several
    processes that rotate it one does."""
    first, second, third = key(1), key(2), key(3)
    assert await jobs.store.ensure_link_key(first) == [first]
    assert await jobs.store.ensure_link_key(second) == [first]
    assert await jobs.store.rotate_link_key(second, after=first.id) == [second, first]
    assert await jobs.store.rotate_link_key(third, after=first.id) == [second, first]
    assert await jobs.store.rotate_link_key(third, after=second.id) == [third, second]
    assert await jobs.store.ensure_link_key(first) == [third, second]


async def test_a_key_that_a_clock_ahead_made_is_replaced_as_any_other(jobs: Jobs) -> None:
    """When it has made links for long, by one that makes them from then on: what the key before it
    had made is good until then."""
    day_ms = 86_400_000
    jobs.world.tick(90 * day_ms)
    await Links(jobs.store, "", clock=lambda: jobs.world.now_ms).open()
    jobs.world.tick(-90 * day_ms)
    links = Links(jobs.store, "", clock=lambda: jobs.world.now_ms)
    await links.open()
    made = [links._keys[0]]
    for days, replaced in ((0, False), (29, False), (2, True), (0, False), (31, True)):
        jobs.world.tick(days * day_ms)
        await links.step()
        if replaced:
            assert links._keys[1] == made[-1]
            made.append(links._keys[0])
        assert links._keys[0] == made[-1]
    assert len(set(made)) == 3
