"""Group commit (D3): one commit for all that wait, each answered after it, a bad one alone."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from dispatcher.access import Access
from dispatcher.filters import Filter
from dispatcher.quotas import Quotas
from dispatcher.settings import Settings
from dispatcher.store.errors import KeyReused, NotFound, StoreFull, StoreUnavailable
from dispatcher.values import Submitted
from receiver.base.db import group_commit
from receiver.base.db.group_commit import SHARE, GroupCommit, PoisonedBatch, QueueFull
from tests.dispatcher.store.builders import TENANT, World, callback, raises
from tests.dispatcher.store.conftest import Build


class Disk:
    """Commits when the test lets it: keeps each batch until `release` is set."""

    def __init__(self) -> None:
        self.batches: list[list[object]] = []
        self.began = asyncio.Event()
        self.release = asyncio.Event()
        self.error: Exception | None = None

    async def apply(self, operations: Sequence[object]) -> Sequence[object]:
        self.batches.append(list(operations))
        self.began.set()
        await self.release.wait()
        if self.error is not None:
            raise self.error
        return [f"{operation} done" for operation in operations]


async def queued(commits: GroupCommit, operation: str) -> asyncio.Future[object]:
    return commits.do(operation)


async def test_all_that_waits_while_a_commit_runs_shares_the_next() -> None:
    disk = Disk()
    commits = GroupCommit(disk.apply, operations_max=100)
    commits.start()
    first = await queued(commits, "a")
    await disk.began.wait()
    others = [await queued(commits, name) for name in "bcd"]
    assert not first.done()
    disk.release.set()
    assert [await task for task in (first, *others)] == ["a done", "b done", "c done", "d done"]
    assert disk.batches == [["a"], ["b", "c", "d"]]
    await commits.close()


async def test_nobody_is_answered_before_the_commit() -> None:
    """I1."""
    disk = Disk()
    commits = GroupCommit(disk.apply, operations_max=100)
    commits.start()
    tasks = [await queued(commits, name) for name in "ab"]
    await disk.began.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    disk.release.set()
    await asyncio.gather(*tasks)
    await commits.close()


async def test_a_commit_has_no_more_operations_than_its_limit() -> None:
    disk = Disk()
    disk.release.set()
    commits = GroupCommit(disk.apply, operations_max=2)
    tasks = [await queued(commits, name) for name in "abcde"]
    commits.start()
    await asyncio.gather(*tasks)
    assert disk.batches == [["a", "b"], ["c", "d"], ["e"]]
    await commits.close()


async def test_a_cancelled_callers_operation_is_committed_all_the_same() -> None:
    disk = Disk()
    commits = GroupCommit(disk.apply, operations_max=100)
    commits.start()
    gone, here = await queued(commits, "gone"), await queued(commits, "here")
    await disk.began.wait()
    gone.cancel()
    disk.release.set()
    assert await here == "here done"
    assert gone.cancelled() or (await asyncio.wait({gone}))
    assert "gone" in disk.batches[0]
    await commits.close()


async def test_when_nothing_was_committed_every_caller_is_told_and_the_next_commit_works() -> None:
    disk = Disk()
    disk.error = StoreUnavailable("test")
    disk.release.set()
    commits = GroupCommit(disk.apply, operations_max=100)
    commits.start()
    tasks = [await queued(commits, name) for name in "ab"]
    for task in tasks:
        await raises(StoreUnavailable, task)
    disk.error = None
    assert await commits.do("c") == "c done"
    await commits.close()


async def test_closing_commits_what_is_queued_and_takes_no_more() -> None:
    disk = Disk()
    commits = GroupCommit(disk.apply, operations_max=1)
    commits.start()
    tasks = [await queued(commits, name) for name in "abc"]
    closing = asyncio.create_task(commits.close())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="closed"):
        await commits.do("late")
    disk.release.set()
    assert await asyncio.gather(*tasks) == ["a done", "b done", "c done"]
    await closing


# --- whose fault it is ---


class Fragile(Disk):
    """Fails as a whole for as long as there is something bad in a batch."""

    async def apply(self, operations: Sequence[object]) -> Sequence[object]:
        self.batches.append(list(operations))
        for operation in operations:
            if str(operation).startswith("bad"):
                raise PoisonedBatch from ValueError(str(operation))
        return [f"{operation} done" for operation in operations]


@pytest.mark.parametrize("bad", [{0}, {99}, {17, 18}, {3, 50, 98}])
async def test_what_fails_a_batch_is_found_and_fails_alone(bad: set[int]) -> None:
    """In few more commits than there are bad ones: a caller that can do it cannot slow all down."""
    disk = Fragile()
    commits = GroupCommit(disk.apply, operations_max=100)
    names = [f"bad {n}" if n in bad else f"good {n}" for n in range(100)]
    tasks = [await queued(commits, name) for name in names]
    commits.start()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for name, result in zip(names, results, strict=True):
        if name.startswith("bad"):
            assert isinstance(result, ValueError)
            assert str(result) == name
        else:
            assert result == f"{name} done"
    assert len(disk.batches) <= 15 * len(bad)
    await commits.close()


# --- tenants in turn ---


async def told(disk: Disk, operations: Sequence[tuple[str | None, str]], room: int) -> None:
    """Commit these operations, which were all there from the beginning."""
    disk.release.set()
    commits = GroupCommit(disk.apply, operations_max=room)
    tasks: list[Any] = [commits.do(name, tenant) for tenant, name in operations]
    commits.start()
    await asyncio.gather(*tasks)
    await commits.close()


async def test_a_tenant_alone_fills_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has been alone for a while."""
    disk = Disk()
    monkeypatch.setattr("receiver.base.db.group_commit._TOGETHER_S", 0.0)
    await told(disk, [("a", f"a{n}") for n in range(300)], 100)
    assert [len(batch) for batch in disk.batches] == [100, 100, 100]


async def test_a_tenant_with_one_operation_is_in_the_next_commit_beside_one_with_thousands() -> (
    None
):
    """I6. And that commit is short."""
    disk = Disk()
    await told(disk, [*(("flood", f"f{n}") for n in range(5_000)), ("small", "s")], 512)
    assert "s" in disk.batches[0]
    assert len(disk.batches[0]) == SHARE + 1


async def test_of_more_tenants_than_a_commit_has_room_each_has_its_turn() -> None:
    disk = Disk()
    await told(disk, [(f"t{n}", f"{n} {m}") for m in range(3) for n in range(30)], 10)
    seen = [operation for batch in disk.batches for operation in batch]
    assert seen == [f"{n} {m}" for m in range(3) for n in range(30)]


async def test_what_is_no_tenants_goes_first_but_never_takes_all() -> None:
    """Settlements and claims do not wait behind submits, nor keep them out."""
    disk = Disk()
    floods = [(tenant, f"{tenant or 'settle'} {n}") for n in range(500) for tenant in ("a", None)]
    await told(disk, floods, 100)
    assert sum(str(one).startswith("settle") for one in disk.batches[0]) == 75
    assert disk.batches[0][0] == "settle 0"
    assert "a 0" in disk.batches[0]


async def test_what_waits_of_one_tenant_is_bounded_and_no_other_feels_it() -> None:
    """I7: a worth-trying-again error, at once."""
    disk = Disk()
    commits = GroupCommit(disk.apply, operations_max=100, waiting_max=3)
    tasks: list[Any] = [commits.do(n, "a") for n in range(3)]
    with pytest.raises(QueueFull):
        commits.do("one more", "a")
    tasks += [commits.do(n, "b") for n in range(3)]
    tasks += [commits.do(n) for n in range(10)]
    disk.release.set()
    commits.start()
    await asyncio.gather(*tasks)
    tasks = [commits.do("again", "a")]
    await asyncio.gather(*tasks)
    await commits.close()
    assert issubclass(QueueFull, StoreUnavailable)


# --- on a real store ---


async def test_a_bad_operation_fails_alone(world: World) -> None:
    """Its neighbours in the same commit are stored; it leaves nothing behind."""
    await world.submit("first", key="k")
    bad = callback("bad-name", name="nobody")
    broken = replace(callback("broken"), tags=(("t", "1"), ("t", "1")))  # not one row per tag
    unwritable = replace(callback("unwritable"), job_id="\ud800")
    answers = await asyncio.gather(
        world.submit("good-1"),
        world.store.submit(bad, handover=True),
        world.store.submit(broken, handover=True),
        world.store.submit(unwritable, handover=True),
        world.submit("first", key="k", body=b"other"),
        world.store.replay(TENANT, "cb_unknown", now_ms=world.now_ms),
        world.store.cancel("other", "cb_unknown", now_ms=world.now_ms),
        world.submit("good-2", handover=True),
        return_exceptions=True,
    )
    kinds = [type(answer) for answer in answers]
    assert kinds[0] is kinds[7] is Submitted
    assert [kinds[1], *kinds[4:7]] == [NotFound, KeyReused, NotFound, NotFound]
    assert issubclass(kinds[2], Exception)
    assert issubclass(kinds[3], Exception)
    page = await world.store.search(TENANT, Filter(), after=None, limit=100)
    jobs = {found.job_id for found in page.callbacks}
    assert jobs == {"first", "good-1", "good-2"}
    assert world.store.queued() == 3


async def test_submits_settlements_and_claims_share_commits(world: World) -> None:
    await world.many(8)
    claimed = await world.claim()
    world.commits.clear()
    await asyncio.gather(
        *(world.settle(one) for one in claimed),
        *(world.submit(f"new-{n}") for n in range(50)),
        world.claim(),
    )
    assert sum(world.commits) == 59
    assert len(world.commits) <= 3


async def test_a_caller_that_gives_up_finds_its_callback_stored(world: World) -> None:
    """I2: nothing vanishes with its caller, and the next commit goes on."""
    submitting = asyncio.create_task(world.submit("a"))
    await asyncio.sleep(0)
    submitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submitting
    assert (await world.submit("a")).duplicate
    assert world.store.queued() == 1


async def test_what_follows_a_commit_cannot_take_it_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 2xx is owed for what is on disk, even if measuring the disk fails after it."""

    def broken(_path: object) -> None:
        raise OSError("test")

    monkeypatch.setattr("os.statvfs", broken)
    monkeypatch.setattr("dispatcher.store.sqlite.database._MEASURE_EVERY_S", 0.0)
    assert (await world.submit("a")).state == "pending"
    assert world.store.queued() == 1


async def test_a_store_without_room_takes_nothing_and_says_so(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "receiver.base.settings.check_bounds", lambda *_: None
    )  # a store of one byte
    world = await build(storage_bytes_max=1)
    assert world.store.usage().free_bytes == 0
    await raises(StoreFull, world.store.check())
    settings = Settings()
    quotas = Quotas(settings, world.store, Access(world.store, settings), lambda: 0.0)
    assert (quotas.refusal() or "").startswith("the storage is full")


async def test_where_several_share_commits_one_takes_along_what_can_be_heard_by_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who goes on once the last commit has ended asks within two turns of the loop."""
    monkeypatch.setattr(group_commit, "_GATHER_S", 1e9)  # however busy the machine is
    disk = Disk()
    disk.release.set()
    commits = GroupCommit(disk.apply, operations_max=100)

    async def twice(name: str, turns: int) -> None:
        await commits.do(f"{name}1")
        for _ in range(turns):
            await asyncio.sleep(0)
        await commits.do(f"{name}2")

    asking = [asyncio.create_task(twice(name, turns)) for turns, name in enumerate("aabbcc")]
    await asyncio.sleep(0)
    commits.start()
    await asyncio.gather(*asking)
    assert [len(batch) for batch in disk.batches] == [6, 6]
    await commits.close()
