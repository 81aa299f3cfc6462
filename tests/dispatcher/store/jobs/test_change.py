"""What users do: cancel and retry."""

import asyncio
import json

from dispatcher.store.errors import Conflict, InputGone, JobQueueFull, NotFound, NotYet
from tests.dispatcher.store.builders import TENANT, raises
from tests.dispatcher.store.jobs.builders import EP, Jobs, outcome, target


async def test_a_queued_job_is_cancelled_at_once(jobs: Jobs) -> None:
    """With its callback, in the same commit; it never runs."""
    await jobs.endpoint()
    first, second = await jobs.many(2, callback=target())
    changed = await jobs.cancel(first)
    assert (changed.state, changed.reason, changed.changed) == ("cancelled", "user", True)
    assert changed.process is None
    (callback,) = await jobs.callbacks()
    assert (callback.job_status, callback.id) == ("cancelled", (await jobs.get(first)).callback)
    assert [one.id for one in await jobs.claim()] == [second]
    assert jobs.world.jobs_ended == [first]


async def test_a_running_job_is_cancelled_at_once_and_takes_its_place_until_its_call_ends(
    jobs: Jobs,
) -> None:
    """The next job does not meet a busy upstream; a late result changes nothing."""
    await jobs.endpoint(concurrency=1)
    await jobs.many(2, callback=target())
    running = await jobs.one()
    changed = await jobs.cancel(running.id, reason="disconnected")
    assert (changed.state, changed.process) == ("cancelled", jobs.process)
    assert (await jobs.get(running.id)).reason == "disconnected"
    assert len(await jobs.callbacks()) == 1
    assert await jobs.claim() == []
    assert not (await jobs.settle(running)).recorded
    assert await jobs.claim() == []
    await jobs.store.freed([running])
    assert (await jobs.one()).id != running.id
    await jobs.store.freed([running])  # twice is once
    assert len(await jobs.callbacks()) == 1


async def test_places_are_freed_by_what_a_process_is_said_to_hold(jobs: Jobs) -> None:
    """Of a call whose job has ended its place is free as `held` tells of it; a running one's is
    not."""
    await jobs.endpoint(concurrency=2)
    await jobs.many(3)
    ended, _ = await jobs.claim(2)
    await jobs.cancel(ended.id)
    assert await jobs.claim() == []
    held = await jobs.store.held(jobs.process)
    assert {one.id: one.releasing for one in held}[ended.id]
    await jobs.store.freed(held)
    assert not (await jobs.get(ended.id)).releasing
    assert len(await jobs.claim()) == 1


async def test_a_late_word_frees_nobody_elses_place(jobs: Jobs) -> None:
    """Whose claim was taken over says nothing of the call that the next one has open."""
    await jobs.endpoint(concurrency=1)
    await jobs.submit()
    lost = await jobs.one()
    await jobs.store.release([lost], now_ms=jobs.world.now_ms)
    again = await jobs.one()
    assert again.id == lost.id
    await jobs.cancel(again.id)
    await jobs.store.freed([lost])
    assert (await jobs.get(again.id)).releasing
    await jobs.store.freed([again])
    assert not (await jobs.get(again.id)).releasing


async def test_a_job_that_has_ended_tells_how(jobs: Jobs) -> None:
    """After the end commit a cancel changes nothing."""
    await jobs.endpoint()
    await jobs.submit(callback=target())
    claimed = await jobs.one()
    settled, changed = await asyncio.gather(jobs.settle(claimed), jobs.cancel(claimed.id))
    assert settled.recorded
    assert (changed.state, changed.changed) == ("completed", False)
    again = await jobs.cancel(claimed.id)
    assert (again.state, again.changed) == ("completed", False)
    assert [one.job_status for one in await jobs.callbacks()] == ["completed"]


async def test_jobs_of_others_are_not_there(jobs: Jobs) -> None:
    """A tenant cannot see or touch anything of another tenant (I9)."""
    await jobs.endpoint()
    submitted = await jobs.submit(tenant="other")
    await raises(NotFound, jobs.cancel(submitted.id))
    await raises(NotFound, jobs.retry(submitted.id))
    await raises(NotFound, jobs.get(submitted.id))
    await raises(NotFound, jobs.cancel("0" * 32))


async def test_a_retry_is_the_same_job_in_its_next_run(jobs: Jobs) -> None:
    """Behind all that waits, with all its tries before it; its end is told by a callback of its
    own run."""
    await jobs.endpoint(concurrency=1)
    failed, waiting = await jobs.many(2, callback=target())
    first = await jobs.one()
    jobs.world.tick(5)
    await jobs.settle(first, outcome(500, body=b"no"))
    jobs.world.tick(5)
    changed = await jobs.retry(failed)
    assert (changed.state, changed.run, changed.changed) == ("queued", 2, True)
    job = await jobs.get(failed)
    assert (job.state, job.reason, job.calls, job.status_code, job.error) == (
        "queued", None, 0, None, None,
    )  # fmt: skip
    assert (job.queued_ms, job.started_ms, job.ended_ms) == (jobs.world.now_ms, None, None)
    other = await jobs.one()
    assert other.id == waiting
    await jobs.settle(other)
    second = await jobs.one()
    assert (second.id, second.run, second.tries, second.calls) == (failed, 2, 0, 0)
    assert second.body == first.body
    assert second.claim > first.claim
    assert not (await jobs.settle(first)).recorded
    await jobs.settle(second)
    told = [one for one in await jobs.callbacks() if one.job_id.endswith(failed)]
    assert [(one.run, one.job_status) for one in told] == [(1, "failed"), (2, "completed")]


async def test_what_may_not_be_retried(jobs: Jobs) -> None:
    """Nothing that waits or runs; what is completed only where that is forced; nothing whose call
    has not ended; nothing without its input; nothing for an endpoint that is gone."""
    await jobs.endpoint(concurrency=2)
    one, two = await jobs.many(2)
    await raises(Conflict, jobs.retry(one))
    first, second = await jobs.claim()
    await raises(Conflict, jobs.retry(one))
    await jobs.settle(first)
    await raises(Conflict, jobs.retry(one))
    assert (await jobs.retry(one, force=True)).run == 2
    await jobs.cancel(two)
    await raises(NotYet, jobs.retry(two))
    await jobs.store.freed([second])
    await jobs.world.store._write(lambda tx: tx.run("DELETE FROM inputs WHERE job = ?", two))
    await raises(InputGone, jobs.retry(two))
    gone = await jobs.submit()
    await jobs.cancel(gone.id)
    await jobs.store.remove_endpoint(EP, now_ms=jobs.world.now_ms)
    await raises(NotFound, jobs.retry(gone.id))


async def test_a_retry_needs_room_in_its_queue(jobs: Jobs) -> None:
    """As a submit does."""
    await jobs.endpoint(queue_max_tenant=1)
    first = await jobs.submit()
    await jobs.cancel(first.id)
    await jobs.submit()
    await raises(JobQueueFull, jobs.retry(first.id))


async def test_a_time_to_live_counts_anew_in_each_run(jobs: Jobs) -> None:
    await jobs.endpoint()
    submitted = await jobs.submit(ttl_s=60.0)
    await jobs.cancel(submitted.id)
    jobs.world.tick(100_000)
    await jobs.retry(submitted.id)
    claimed = await jobs.one()
    assert claimed.ends_ms == jobs.world.now_ms + 60_000
    assert claimed.expires_ms == claimed.ends_ms


async def test_a_callback_tells_who_has_been_cancelled(jobs: Jobs) -> None:
    """In the shape of the dialect, also where nothing was answered."""
    await jobs.endpoint()
    submitted = await jobs.submit(callback=target(), tags=(("team", "a"),))
    await jobs.cancel(submitted.id)
    (callback,) = await jobs.callbacks()
    assert callback.tags == {"team": "a"}
    payload = json.loads((await jobs.world.store.payload(TENANT, callback.id)).body)
    assert (payload["status"], payload["run"], payload["endpoint"]) == ("cancelled", 1, EP)
