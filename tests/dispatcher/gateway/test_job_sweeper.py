"""Bulk changes of jobs go on by themselves, all customers' in turn."""

import asyncio
from typing import Any

import pytest

from dispatcher.gateway.job_sweeper import SLICE, JobSweeper
from dispatcher.jobs.looks import JobSweep
from dispatcher.store.errors import Conflict, StoreUnavailable


def sweep(id: str, tenant: str = "acme", state: Any = "running", **more: Any) -> JobSweep:
    fields: dict[str, Any] = {
        "what": "retry", "endpoint": None, "filter": {}, "callbacks": True, "matched": 9,
        "matched_exactly": True, "done": 0, "skipped": 0, "created_ms": 0, "ended_ms": None,
    }  # fmt: skip
    return JobSweep(**fields | {"id": id, "tenant": tenant, "state": state} | more)


class FakeJobs:
    """A store whose sweeps have so many slices, or are stuck."""

    def __init__(self, slices: dict[str, int]) -> None:
        self.slices = slices
        self.ours = True
        self.stuck: set[str] = set()
        self.failing: Exception | None = None
        self.broken: set[str] = set()
        self.purges: dict[str, int] = {}
        self.log: list[str] = []
        self.limits: list[int] = []
        self.committed = 0
        self.others = 0

    async def running_sweeps(self) -> list[JobSweep]:
        if self.failing is not None:
            failing, self.failing = self.failing, None
            raise failing
        return [sweep(id) for id, left in self.slices.items() if left]

    async def purging(self) -> list[str]:
        return [name for name, left in self.purges.items() if left]

    async def purge_on(self, name: str, *, now_ms: int) -> bool:
        self.log.append(name)
        self.purges[name] -= 1
        return self.purges[name] > 0

    async def sweeps_jobs(self) -> bool:
        return self.ours

    async def step_sweep(
        self, tenant: str, id: str, *, now_ms: int, limit: int
    ) -> tuple[JobSweep, bool]:
        self.log.append(id)
        self.limits.append(limit)
        self.committed += 1 + self.others
        if id in self.broken:
            raise RuntimeError("a filter that nobody understands")
        if id in self.stuck:
            return sweep(id), False
        self.slices[id] -= 1
        return sweep(id, state="running" if self.slices[id] else "completed"), True


def sweeper(jobs: FakeJobs, clock: list[int]) -> JobSweeper:
    return JobSweeper(
        jobs,  # type: ignore[arg-type]
        committed=lambda: jobs.committed,
        clock=lambda: 0,
        monotonic_ms=lambda: clock[0],
    )


async def test_all_have_a_slice_in_turn() -> None:
    jobs = FakeJobs({"a": 3, "b": 1, "c": 2})
    one = sweeper(jobs, [0])
    while await one.step():
        pass
    assert jobs.log == ["a", "b", "c", "a", "c", "a"]


async def test_one_that_is_broken_keeps_no_other_waiting() -> None:
    jobs = FakeJobs({"a": 2, "b": 1, "c": 2})
    jobs.broken = {"b"}
    one = sweeper(jobs, [0])
    while await one.step():
        pass
    assert jobs.log == ["a", "b", "c", "a", "b", "c"]
    assert jobs.slices == {"a": 0, "b": 1, "c": 0}


async def test_purges_of_very_many_queues_go_on_in_each_process() -> None:
    """Also in one that makes no bulk changes, and before these."""
    jobs = FakeJobs({"a": 1})
    jobs.purges = {"ep": 2}
    jobs.ours = False
    one = sweeper(jobs, [0])
    assert [await one.step() for _ in range(3)] == [True, False, False]
    assert jobs.log == ["ep", "ep"]
    jobs.purges, jobs.ours = {"ep": 1}, True
    await one.step()
    assert jobs.log[2:] == ["ep", "a"]


async def test_one_that_comes_nowhere_holds_no_other_up_and_is_asked_later() -> None:
    """A retry whose queue is full."""
    jobs, clock = FakeJobs({"a": 1, "b": 2}), [0]
    jobs.stuck = {"a"}
    one = sweeper(jobs, clock)
    while await one.step():
        pass
    assert jobs.log == ["a", "b", "b"]
    clock[0] += 10_000
    jobs.stuck = set()
    await one.step()
    assert jobs.slices == {"a": 0, "b": 0}


async def test_while_others_commit_slices_are_short_with_rests_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that who commits beside a sweep of a million jobs seldom waits for a slice."""
    rests: list[float] = []
    jobs = FakeJobs({"a": 40})
    jobs.others = 1
    one = sweeper(jobs, [0])

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    async def slow(*given: Any, **more: Any) -> tuple[JobSweep, bool]:
        now_s[0] += more["limit"] * 0.000_1
        return await FakeJobs.step_sweep(jobs, *given, **more)

    now_s = [100.0]
    jobs.step_sweep = slow  # type: ignore[method-assign]
    monkeypatch.setattr(one._slices, "_sleep", rest)
    monkeypatch.setattr(one._slices, "_clock_s", lambda: now_s[0])
    while await one.step():
        pass
    assert max(jobs.limits) < SLICE / 2
    assert len(rests) == 39
    assert sum(rests) >= 3 * sum(jobs.limits) * 0.000_1


async def test_one_process_makes_them_for_all() -> None:
    jobs = FakeJobs({"a": 1})
    jobs.ours = False
    assert not await sweeper(jobs, [0]).step()
    assert jobs.log == []


async def test_it_goes_on_after_whatever_fails_and_when_it_is_woken() -> None:
    jobs = FakeJobs({"a": 2})
    jobs.failing = StoreUnavailable("away")
    one = JobSweeper(jobs, committed=lambda: 0)  # type: ignore[arg-type]
    one.start()
    try:
        for _ in range(50):
            one.wake()
            await asyncio.sleep(0.01)
            if not jobs.slices["a"]:
                break
        assert jobs.slices == {"a": 0}
    finally:
        await one.stop()


async def test_what_another_process_took_over_is_left_to_it() -> None:
    jobs = FakeJobs({"a": 1})

    async def refuse(*_: Any, **__: Any) -> Any:
        raise Conflict("another process makes the bulk changes of jobs")

    jobs.step_sweep = refuse  # type: ignore[method-assign]
    assert not await sweeper(jobs, [0]).step()
