"""Claims: capacity per endpoint, turns per customer, classes, tickets."""

from tests.dispatcher.store.jobs.builders import Jobs


async def test_jobs_start_in_the_order_of_their_tickets(jobs: Jobs) -> None:
    """First in, first out, and never more at once than the endpoint may have."""
    await jobs.endpoint(concurrency=3)
    ids = await jobs.many(5)
    assert [one.id for one in await jobs.claim()] == ids[:3]
    assert await jobs.claim() == []
    assert await jobs.states(ids) == ["running"] * 3 + ["queued"] * 2


async def test_an_idle_endpoint_starts_a_job_in_the_commit_that_stores_it(jobs: Jobs) -> None:
    """The straight hand-over: what was claimed says all that a claim of its own would have."""
    await jobs.endpoint(concurrency=1)
    first = await jobs.submit(handover=True, tags=(("team", "a"),))
    second = await jobs.submit(handover=True)
    assert (first.state, second.state) == ("running", "queued")
    assert first.claimed is not None
    assert second.claimed is None
