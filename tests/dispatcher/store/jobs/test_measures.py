"""What jobs took and customers used, counted in the commits that end them; jobs by state."""

from functools import partial
from pathlib import Path

from dispatcher.jobs.endpoint import Keep
from dispatcher.jobs.estimates import DAYS
from dispatcher.jobs.states import STATES
from dispatcher.jobs.values import JobSettlement, JobVerdict
from dispatcher.store.jobs import measures
from dispatcher.store.jobs.retention import USAGE_DAYS
from tests.dispatcher.store.builders import DAY_MS, LOOKERS, T0, TENANT
from tests.dispatcher.store.jobs.builders import EP, Jobs, outcome

DAY = T0 // DAY_MS


async def test_a_run_that_ended_is_measured_once(jobs: Jobs) -> None:
    """How long it waited for its first start, how long its last call took, what it brought; calls
    after which it is called again count for nothing."""
    await jobs.endpoint()
    await jobs.submit()
    jobs.world.tick(3_000)
    await jobs.settle(await jobs.one(), outcome(kind="not_sent", sent=False))
    assert (await jobs.store.measured(EP, now_ms=jobs.world.now_ms))["wait"].n == 0
    jobs.world.tick(60_000)
    await jobs.settle(await jobs.one(), outcome(body=b"x" * 1_000))
    found = await jobs.store.measured(EP, now_ms=jobs.world.now_ms)
    assert [(what, found[what].n) for what in found] == [("wait", 1), ("run", 1), ("bytes", 1)]
    assert 2_400 < (found["wait"].mean or 0) < 3_600
    assert 3 < (found["run"].mean or 0) < 8
    assert 800 < (found["bytes"].mean or 0) < 1_200
    assert (await jobs.store.measured("other", now_ms=T0))["run"].n == 0


async def test_measurements_are_of_the_last_days_and_go_at_last(jobs: Jobs) -> None:
    await jobs.endpoint()
    for _ in range(3):
        await jobs.submit()
        await jobs.settle(await jobs.one())
        jobs.world.tick(DAY_MS)
    measured = await jobs.store.measured(EP, now_ms=jobs.world.now_ms)
    assert measured["run"].n == 3
    later_ms = T0 + 8 * DAY_MS
    assert (await jobs.store.measured(EP, now_ms=later_ms))["run"].n == 1
    jobs.world.tick(40 * DAY_MS)
    while await jobs.store.prune(now_ms=jobs.world.now_ms, limit=2):
        pass
    assert (await jobs.store.measured(EP, now_ms=T0))["run"].n == 0


async def test_what_a_customer_used_is_counted_by_endpoint_and_day(jobs: Jobs) -> None:
    await jobs.endpoint()
    await jobs.endpoint("other")
    await jobs.many(2)
    first, second = await jobs.claim()
    met = outcome(body=b"x" * 10)
    verdict = JobVerdict(state="completed")
    settlement = JobSettlement(
        job=first, outcome=met, verdict=verdict, random=0.5, now_ms=jobs.world.now_ms, cost=0.25
    )
    await jobs.store.settle(settlement)
    await jobs.settle(second, outcome(500, body=b"no"))
    await jobs.submit(tenant="b")
    await jobs.settle(await jobs.one())
    jobs.world.tick(DAY_MS)
    await jobs.submit(at="other")
    running = await jobs.one()
    await jobs.cancel(running.id)
    await jobs.cancel((await jobs.submit(at="other")).id)  # it never ran
    used = await jobs.store.usage(TENANT, since_day=DAY, until_day=DAY + 1)
    assert [(one.endpoint, one.day, one.runs, one.failed) for one in used] == [
        (EP, DAY, 2, 1),
        ("other", DAY + 1, 1, 1),
    ]
    assert (used[0].run_ms, used[0].cost, used[0].bytes) == (10, 0.25, 12)
    of_endpoint = await jobs.store.usage(TENANT, since_day=0, until_day=DAY + 9, endpoint="other")
    assert of_endpoint == used[1:]
    assert [one.runs for one in await jobs.store.usage("b", since_day=DAY, until_day=DAY)] == [1]


async def test_usage_is_read_page_by_page(jobs: Jobs) -> None:
    """By endpoint and day, from where the last page ended."""
    for name in ("a", "b", "c"):
        await jobs.endpoint(name)
    for _ in range(2):
        for name in ("a", "b", "c"):
            await jobs.submit(at=name)
            await jobs.settle(await jobs.one())
        jobs.world.tick(DAY_MS)
    found: list[tuple[str, int]] = []
    while True:
        page = await jobs.store.usage(
            TENANT,
            since_day=0,
            until_day=DAY + 9,
            after=found[-1] if found else None,
            limit=4,
        )
        found += [(one.endpoint, one.day) for one in page]
        if len(page) < 4:
            break
    assert found == [(name, DAY + n) for name in ("a", "b", "c") for n in (0, 1)]
    of_one = await jobs.store.usage(
        TENANT, since_day=0, until_day=DAY + 9, endpoint="b", after=("b", DAY)
    )
    assert [(one.endpoint, one.day) for one in of_one] == [("b", DAY + 1)]
    of_none = await jobs.store.usage(
        TENANT, since_day=0, until_day=DAY + 9, endpoint="b", after=("c", 0)
    )
    assert list(of_none) == []


async def test_figures_are_kept_for_as_long_as_they_are_of_use(
    jobs: Jobs, tmp_path: Path, store_name: str
) -> None:
    """Durations while they are read, what was used for 400 days; deleted in slices."""
    for name in ("a", "b"):
        await jobs.endpoint(name, keep=Keep(input=60, output=60, job=60))
        await jobs.submit(at=name)
        await jobs.settle(await jobs.one())
    look = partial(LOOKERS[store_name], tmp_path / "0")
    kept = len(look("SELECT 1 FROM durations"))
    jobs.world.tick(DAYS * DAY_MS)
    await pruned(jobs)
    assert len(look("SELECT 1 FROM durations")) == kept
    jobs.world.tick(DAY_MS)
    assert await jobs.store.prune(now_ms=jobs.world.now_ms, limit=2) == 2
    assert len(look("SELECT 1 FROM durations")) == kept - 2
    await pruned(jobs)
    assert look("SELECT 1 FROM durations") == []
    jobs.world.tick((USAGE_DAYS - DAYS - 1) * DAY_MS)
    await pruned(jobs)
    assert len(await jobs.store.usage(TENANT, since_day=0, until_day=DAY)) == 2
    jobs.world.tick(DAY_MS)
    await pruned(jobs)
    assert list(await jobs.store.usage(TENANT, since_day=0, until_day=DAY)) == []


async def pruned(jobs: Jobs) -> None:
    while await jobs.store.prune(now_ms=jobs.world.now_ms, limit=2):
        pass


async def test_jobs_are_counted_by_state(jobs: Jobs) -> None:
    """Of one tenant and of all; beside callbacks, of which the figures tell as before."""
    await jobs.endpoint()
    ids = await jobs.many(5)
    done, failed, running = await jobs.claim(3)
    await jobs.settle(done)
    await jobs.settle(failed, outcome(500, body=b"no"))
    await jobs.cancel(ids[3])
    await jobs.submit(tenant="b")
    expected = dict.fromkeys(STATES, 0) | {
        "completed": 1, "failed": 1, "running": 1, "cancelled": 1, "queued": 1,
    }  # fmt: skip
    assert await jobs.store.counts(TENANT) == expected
    assert (await jobs.store.counts(None))["queued"] == 2
    assert running.id == ids[2]
    await jobs.retry(failed.id)
    assert (await jobs.store.counts(TENANT))["failed"] == 0
    assert sum((await jobs.world.store.stats(TENANT)).counts.values()) == 0
    await jobs.world.reopen()
    assert (await jobs.store.counts(TENANT))["queued"] == 2


def test_a_day_is_utc() -> None:
    assert measures.DAY_MS == DAY_MS
