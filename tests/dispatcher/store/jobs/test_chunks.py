"""Chunks of what upstreams answer: each once, in order, under the claim that it came under, and
none once that is over."""

from dataclasses import replace
from pathlib import Path

from dispatcher.jobs.endpoint import Keep
from dispatcher.jobs.looks import HandedOut, Seen
from dispatcher.jobs.progress import Progress
from dispatcher.jobs.values import CallOutcome, ClaimedJob, JobVerdict, NewChunks, Report
from tests.dispatcher.store.builders import TENANT, secret
from tests.dispatcher.store.jobs.builders import Jobs, outcome
from tests.dispatcher.store.jobs.test_retention import bytes_agree

MANY = 2**20


def joined(values: tuple[bytes, ...]) -> bytes:
    return b"[" + b",".join(values) + b"]"


def new(job: ClaimedJob, n: int, *values: bytes) -> NewChunks:
    return NewChunks(
        job=job.id,
        tenant=job.tenant,
        endpoint=job.endpoint,
        run=job.run,
        claim=job.claim,
        n=n,
        size=len(values),
        body=joined(values),
    )


def streamed(*values: bytes) -> CallOutcome:
    """What a call met that answered in chunks."""
    return replace(outcome(body=joined(values)), chunks=len(values))


async def begun(jobs: Jobs) -> ClaimedJob:
    await jobs.endpoint()
    await jobs.submit(dialect="runpod")
    return await jobs.one()


async def values(jobs: Jobs, job: str, claim: int = 0, count: int = 0) -> list[bytes]:
    found = await jobs.store.chunks(TENANT, job, seen=(claim, count), bytes_max=MANY)
    return list(found.values)


async def handed(jobs: Jobs, job: str, size: int = MANY) -> HandedOut:
    return await jobs.store.hand_out(TENANT, job, bytes_max=size)


async def test_chunks_are_stored_once_and_read_in_order(jobs: Jobs) -> None:
    """Whatever is stored a second time, since the reply to its commit was lost."""
    job = await begun(jobs)
    claim = (job.id, job.claim)
    assert await jobs.store.put_chunks([new(job, 0, b"1", b'{"a": 2}')]) == {claim}
    assert await jobs.store.put_chunks([new(job, 2)]) == {claim}
    assert await jobs.store.put_chunks([new(job, 2, b'"3"')]) == {claim}
    assert await jobs.store.put_chunks([new(job, 2, b'"3"')]) == {claim}
    assert await values(jobs, job.id) == [b"1", b'{"a": 2}', b'"3"']
    assert await values(jobs, job.id, job.claim, 1) == [b'{"a": 2}', b'"3"']
    assert await values(jobs, job.id, job.claim, 3) == []
    assert await values(jobs, job.id, job.claim - 1, 3) == [b"1", b'{"a": 2}', b'"3"']
    found = await jobs.store.chunks(TENANT, job.id, seen=(0, 0), bytes_max=1)
    assert (found.values, found.total, found.is_all) == ((b"1", b'{"a": 2}'), 3, False)


async def test_nothing_is_stored_after_the_end(jobs: Jobs) -> None:
    """Nor under a claim that is no longer the current one."""
    job = await begun(jobs)
    assert await jobs.store.put_chunks([new(replace(job, claim=job.claim - 1), 0, b"0")]) == set()
    await jobs.cancel(job.id)
    assert await jobs.store.put_chunks([new(job, 0, b"1")]) == set()
    assert await values(jobs, job.id) == []


async def test_a_completed_jobs_chunks_are_its_output(jobs: Jobs) -> None:
    """No copy of them is kept; those that were not stored before come with it."""
    job = await begun(jobs)
    await jobs.store.put_chunks([new(job, 0, b"1", b"2")])
    await jobs.settle(job, streamed(b"1", b"2", b'["3"]'))
    assert (await jobs.store.output(TENANT, job.id)).body == b'[1,2,["3"]]'
    assert await values(jobs, job.id) == [b"1", b"2", b'["3"]']
    assert await values(jobs, job.id, job.claim, 2) == [b'["3"]']
    found = await jobs.store.chunks(TENANT, job.id, seen=(0, 0), bytes_max=2)
    assert (found.values, found.total) == ((b"1", b"2"), 3)


async def test_what_ended_otherwise_keeps_what_came(jobs: Jobs) -> None:
    """Cancelled, or out of time."""
    job = await begun(jobs)
    await jobs.store.put_chunks([new(job, 0, b"1", b"2")])
    await jobs.cancel(job.id)
    assert await values(jobs, job.id) == [b"1", b"2"]
    await jobs.store.freed([job])

    await jobs.submit()
    late = await jobs.one()
    await jobs.store.put_chunks([new(late, 0, b"1")])
    met = replace(outcome(kind="timeout"), chunks=1)
    await jobs.settle(late, met, JobVerdict(state="timeout", reason="run_limit"))
    assert await values(jobs, late.id) == [b"1"]


async def test_a_repeat_of_a_call_begins_anew(jobs: Jobs) -> None:
    """Of the call before nothing is seen from then on: not while the job waits, not when it runs,
    and not at its end."""
    job = await begun(jobs)
    await jobs.store.put_chunks([new(job, 0, b"1", b"2")])
    assert (await handed(jobs, job.id)).values == (b"1", b"2")
    met = replace(outcome(kind="broken_off"), chunks=2)
    await jobs.settle(job, met, JobVerdict(state="queued", due_ms=0))
    assert await values(jobs, job.id) == []
    again = await jobs.one()
    assert await values(jobs, job.id) == []
    await jobs.store.put_chunks([new(again, 0, b"3")])
    assert await values(jobs, job.id, job.claim, 2) == [b"3"]
    assert (await handed(jobs, job.id)).values == (b"3",)
    await jobs.settle(again, streamed(b"3", b"4"))
    last = await handed(jobs, job.id)
    assert (last.values, last.is_last, last.state) == ((b"4",), True, "completed")


async def test_what_a_dead_process_had_stored_is_not_seen(jobs: Jobs) -> None:
    job = await begun(jobs)
    await jobs.store.put_chunks([new(job, 0, b"1")])
    await jobs.store.release([job], now_ms=jobs.world.now_ms)
    again = await jobs.one()
    assert await values(jobs, job.id) == []
    await jobs.settle(again, outcome(400))
    assert await values(jobs, job.id) == []


async def test_another_run_has_chunks_of_its_own(jobs: Jobs) -> None:
    job = await begun(jobs)
    await jobs.store.put_chunks([new(job, 0, b"1")])
    await jobs.cancel(job.id)
    await jobs.store.freed([job])
    await jobs.retry(job.id)
    assert await values(jobs, job.id) == []
    await jobs.settle(await jobs.one(), streamed(b"2"))
    assert await values(jobs, job.id) == [b"2"]
    await jobs.retry(job.id, force=True)
    assert await values(jobs, job.id) == []


async def test_a_stream_hands_each_out_once(jobs: Jobs) -> None:
    """In answers of bounded size; it is the last one that says so, after the end too."""
    job = await begun(jobs)
    assert not await jobs.store.has_chunks(TENANT, job.id)
    await jobs.store.put_chunks([new(job, 0, b"1")])
    assert await jobs.store.has_chunks(TENANT, job.id)
    assert await handed(jobs, job.id) == HandedOut(state="running", run=1, values=(b"1",))
    assert not await jobs.store.has_chunks(TENANT, job.id)
    assert (await handed(jobs, job.id)).values == ()
    await jobs.settle(job, streamed(b"1", b'"22"', b'"33"', b'"44"'))
    assert await jobs.store.has_chunks(TENANT, job.id)
    told = [await handed(jobs, job.id, 8) for _ in range(3)]
    assert [one.values for one in told] == [(b'"22"', b'"33"'), (b'"44"',), ()]
    assert [one.is_last for one in told] == [False, True, True]


async def test_what_went_with_the_output_is_not_handed_out(jobs: Jobs) -> None:
    job = await begun(jobs)
    await jobs.change(keep=replace(jobs.rules["ep"].keep, output=1.0, input=1.0))
    await jobs.store.put_chunks([new(job, 0, b"1")])
    await jobs.settle(job, streamed(b"1", b"2"))
    await jobs.submit()
    late = await jobs.one()
    await jobs.store.put_chunks([new(late, 0, b"1")])
    met = replace(outcome(kind="timeout"), chunks=1)
    await jobs.settle(late, met, JobVerdict(state="timeout", reason="run_limit"))
    jobs.world.tick(10_000)
    while await jobs.store.prune(now_ms=jobs.world.now_ms, limit=10):
        pass
    for one in (job, late):
        told = await handed(jobs, one.id)
        assert (told.values, told.is_last) == ((), True)


async def test_news_are_of_all_that_are_followed(jobs: Jobs) -> None:
    """Those that run, with what came since; those that ended, that they have."""
    await jobs.endpoint(concurrency=3)
    await jobs.many(4)
    runs, ends, silent = await jobs.claim(3)
    waits = (await jobs.submit()).id
    await jobs.store.put_chunks([new(runs, 0, b"1", b"2"), new(ends, 0, b"1")])
    await jobs.settle(ends, streamed(b"1"))
    asked = [Seen(runs.id, runs.claim, 1), Seen(ends.id), Seen(silent.id), Seen(waits), Seen("x")]
    found = await jobs.store.news(asked, bytes_max=MANY)
    assert found.keys() == {runs.id, ends.id, silent.id, waits}
    assert [found[one].state for one in (runs.id, ends.id, silent.id, waits)] == [
        "running",
        "completed",
        "running",
        "queued",
    ]
    chunks = found[runs.id].chunks
    assert chunks is not None
    assert (chunks.first, chunks.values, chunks.total) == (1, (b"2",), 2)
    assert found[ends.id].chunks is None


async def test_what_they_take_up_is_counted(jobs: Jobs, store_name: str, tmp_path: Path) -> None:
    """With their tenant's bytes, for as long as they are kept: once, however often they are stored,
    and not after a repeat has made them void. What is reported of a job counts just so."""

    def agree() -> None:
        bytes_agree(jobs.world, tmp_path / "0", store_name)

    before = jobs.world.store.stored_bytes(TENANT)
    await jobs.endpoint(keep=Keep(input=10, output=20, job=30))
    await jobs.submit()
    job = await jobs.one()
    for _ in range(2):
        await jobs.store.put_chunks([new(job, 0, b"1", b"22"), new(job, 2, b"3" * 500)])
        agree()
    at_ms = jobs.world.now_ms
    for step in ("a" * 500, "b"):
        said = Progress(step=step, log=step, since_ms=at_ms, at_ms=at_ms)
        await jobs.store.report([Report(job=job.id, claim=job.claim, progress=said)])
        agree()
    await jobs.store.release([job], now_ms=jobs.world.now_ms)
    again = await jobs.one()
    await jobs.store.put_chunks([new(again, 0, b"4")])
    assert await jobs.store.append_chunk(again.id, again.claim, b"55", bytes_max=MANY)
    agree()
    await jobs.cancel(job.id)
    await jobs.store.freed([again])
    agree()
    jobs.world.tick(15_000)
    for _ in range(3):
        jobs.world.tick(10_000)
        await jobs.store.prune(now_ms=jobs.world.now_ms, limit=10)
        agree()
    assert jobs.world.store.stored_bytes(TENANT) == before


async def test_they_go_with_their_tenant(jobs: Jobs) -> None:
    await jobs.world.store.ensure_tenant(TENANT, secret())
    job = await begun(jobs)
    await jobs.store.put_chunks([new(job, 0, b"1")])
    await jobs.cancel(job.id)
    await jobs.store.freed([job])
    store, now_ms = jobs.world.store, jobs.world.now_ms
    await store.begin_erasing(TENANT, now_ms=now_ms)
    jobs.world.tick(10_000)
    while await store.erase(TENANT, now_ms=jobs.world.now_ms, limit=10) == "going on":
        pass
    assert await jobs.store.news([Seen(job.id)], bytes_max=MANY) == {}
