"""What is kept outside of its row: named by a commit or deleted, counted, and told by its state."""

from dataclasses import replace
from typing import Any

import pytest

from dispatcher.ids import new_id
from dispatcher.jobs.blobs import Blob, NewBlob, What
from dispatcher.jobs.values import Output
from dispatcher.store.errors import StoreUnavailable
from tests.dispatcher.store.builders import DAY_MS, TENANT
from tests.dispatcher.store.conftest import Build
from tests.dispatcher.store.jobs.builders import PROCESS, Jobs, job, outcome

SIZE = 300_000


async def begun(jobs: Jobs, id: str, what: What = "output", process: str = PROCESS) -> Blob:
    """Something that a process has written of a job."""
    new = NewBlob(
        id=new_id("bl", jobs.world.now_ms),
        storage="file:/nowhere",
        tenant=TENANT,
        job=id,
        what=what,
        process=process,
        key=bytes(range(32)),
        created_ms=jobs.world.now_ms,
    )
    is_sealed = await jobs.store.begin_blob(new)
    key = new.key if is_sealed else None
    return Blob(id=new.id, storage=new.storage, size=SIZE, sha256=bytes(32), key=key)


def brought(blob: Blob, code: int = 200, head: bytes = b"") -> Any:
    """A call that brought it."""
    output = Output(body=head, content_type="image/png", blob=blob)
    return replace(outcome(code), output=output)


async def doomed(jobs: Jobs) -> set[str]:
    return {id for id, _ in await jobs.store.doomed_blobs(100)}


async def completed(jobs: Jobs, **more: Any) -> tuple[str, Blob]:
    """A job that brought one."""
    claimed = await jobs.one() if more.pop("waits", False) else None
    if claimed is None:
        submitted = await jobs.submit(handover=True, **more)
        assert submitted.claimed is not None
        claimed = submitted.claimed
    blob = await begun(jobs, claimed.id)
    assert (await jobs.settle(claimed, brought(blob))).recorded
    return claimed.id, blob


async def test_an_output_names_what_was_written(jobs: Jobs) -> None:
    """In the commit that ends its job; it is counted as any output is, and shown with its size and
    digest."""
    await jobs.endpoint()
    before = jobs.world.store.stored_bytes(TENANT)
    id, blob = await completed(jobs)
    found = await jobs.get(id, output=True)
    assert found.output is not None
    assert found.output.blob == blob
    assert (found.output_bytes, found.output.size, found.output.body) == (SIZE, SIZE, b"")
    assert not found.output.is_here
    assert jobs.world.store.output_bytes(TENANT) == SIZE
    assert jobs.world.store.stored_bytes(TENANT) - before >= SIZE
    await jobs.store.loosen_blob(blob.id)  # it is named: nothing happens
    assert await doomed(jobs) == set()


async def test_a_failure_has_its_beginning_beside_it(jobs: Jobs) -> None:
    """What tells of an error needs no look at where the rest is kept."""
    await jobs.endpoint()
    submitted = await jobs.submit(handover=True)
    assert submitted.claimed is not None
    blob = await begun(jobs, submitted.id)
    await jobs.settle(submitted.claimed, brought(blob, 500, b"oh" * 50_000))
    found = await jobs.get(submitted.id, output=True)
    assert found.output is not None
    assert found.output.body == (b"oh" * 50_000)[: 64 * 1024]
    assert found.output.size == SIZE


async def test_what_nothing_names_is_to_be_deleted(jobs: Jobs) -> None:
    """And is forgotten only then; nothing can name it any more."""
    await jobs.endpoint()
    submitted = await jobs.submit(handover=True)
    assert submitted.claimed is not None
    blob = await begun(jobs, submitted.id)
    assert await doomed(jobs) == set()
    await jobs.store.loosen_blob(blob.id)
    assert await doomed(jobs) == {blob.id}
    assert not (await jobs.settle(submitted.claimed, brought(blob))).recorded
    assert (await jobs.get(submitted.id)).state == "running"
    await jobs.store.forget_blobs([blob.id])
    assert await doomed(jobs) == set()


async def test_what_a_dead_process_wrote_is_to_be_deleted(jobs: Jobs) -> None:
    """Not what one writes that lives."""
    await jobs.endpoint()
    await jobs.known(PROCESS)
    ours, theirs = await begun(jobs, "a" * 32), await begun(jobs, "b" * 32, process="gone")
    assert await jobs.store.has_orphaned_blobs(PROCESS)
    assert await jobs.store.orphan_blobs(PROCESS) == 1
    assert await doomed(jobs) == {theirs.id} != {ours.id}
    assert not await jobs.store.has_orphaned_blobs(PROCESS)


async def test_another_run_takes_the_place_of_the_last_one(jobs: Jobs) -> None:
    """What a run brought is there until the next one has ended, and then it goes."""
    await jobs.endpoint()
    id, first = await completed(jobs)
    await jobs.retry(id, force=True)
    assert (await jobs.store.linked_output(id, 1)) is not None
    _, second = await completed(jobs, waits=True)
    assert await doomed(jobs) == {first.id}
    assert await jobs.store.linked_output(id, 1) is None
    linked = await jobs.store.linked_output(id, 2)
    assert linked is not None
    assert linked.output.blob == second
    assert jobs.world.store.output_bytes(TENANT) == SIZE
    await jobs.retry(id, force=True)
    await jobs.settle(await jobs.one(), outcome(200, body=b"short"))
    assert await doomed(jobs) == {first.id, second.id}
    assert jobs.world.store.output_bytes(TENANT) == len(b"short")
    await jobs.retry(id, force=True)
    await jobs.cancel(id)
    assert jobs.world.store.output_bytes(TENANT) == 0


@pytest.mark.parametrize("what", ["output", "job"])
async def test_what_is_past_its_time_is_to_be_deleted(jobs: Jobs, what: str) -> None:
    """After seven days an output is, and with it goes what it counted; so does all of a job."""
    await jobs.endpoint()
    _, blob = await completed(jobs)
    world = jobs.world
    world.now_ms += 7 * DAY_MS + 1 if what == "output" else 31 * DAY_MS
    while await jobs.store.prune(now_ms=world.now_ms, limit=10):
        pass
    assert await doomed(jobs) == {blob.id}
    assert world.store.output_bytes(TENANT) == 0
    assert (world.store.stored_bytes(TENANT) == 0) == (what == "job")


async def test_a_long_input_is_named_by_its_job(jobs: Jobs) -> None:
    """Its claim brings it, and it counts; that of a job that is not taken is let go of."""
    await jobs.endpoint()
    new = job(b"")
    blob = await begun(jobs, new.id, "input")
    submitted = await jobs.store.submit(replace(new, blob=blob))
    assert not submitted.duplicate
    assert jobs.world.store.stored_bytes(TENANT) >= SIZE
    claimed = await jobs.one()
    assert (claimed.blob, claimed.body) == (blob, b"")
    stored = await jobs.store.input(TENANT, new.id)
    assert stored.blob == blob
    await jobs.settle(claimed, outcome(200))
    jobs.world.now_ms += 7 * DAY_MS + 1
    while await jobs.store.prune(now_ms=jobs.world.now_ms, limit=10):
        pass
    assert await doomed(jobs) == {blob.id}


async def test_a_job_whose_input_is_gone_is_not_taken(jobs: Jobs) -> None:
    """It may be submitted again."""
    await jobs.endpoint()
    new = job(b"")
    blob = await begun(jobs, new.id, "input")
    await jobs.store.loosen_blob(blob.id)
    with pytest.raises(StoreUnavailable):
        await jobs.store.submit(replace(new, blob=blob))


async def test_parts_are_kept_and_dropped(jobs: Jobs) -> None:
    """Each once, whoever writes it again; they go a few at a time."""
    for n in range(5):
        await jobs.store.put_blob_part("bl_1", n, bytes([n]))
    await jobs.store.put_blob_part("bl_1", 0, b"other")
    assert await jobs.store.blob_part("bl_1", 0) == b"\0"
    assert await jobs.store.blob_part("bl_1", 5) is None
    assert await jobs.store.drop_blob_parts("bl_1", 3)
    assert await jobs.store.blob_part("bl_1", 1) == b"\1"
    assert not await jobs.store.drop_blob_parts("bl_1", 3)
    assert await jobs.store.blob_part("bl_1", 0) is None


async def test_keys_of_parts_are_sealed(build: Build) -> None:
    """Where payloads are: by the ring, so that another key of it needs no byte written anew."""
    from tests.dispatcher.gateway.rig import KEYS

    world = await build(encryption_keys=KEYS, encrypt_payloads="on")
    jobs = Jobs(world)
    await jobs.endpoint()
    id, blob = await completed(jobs)
    assert blob.key == bytes(range(32))
    found = await jobs.get(id, output=True)
    assert found.output is not None
    assert found.output.blob == blob


async def test_sizes_are_the_tenants_own(jobs: Jobs) -> None:
    """The newest outputs of those that completed, at one endpoint."""
    await jobs.endpoint()
    await jobs.endpoint("other")
    for size in (1, 2, 3):
        await jobs.submit()
        await jobs.settle(await jobs.one(), outcome(200, body=b"x" * size))
    await jobs.submit()
    await jobs.settle(await jobs.one(), outcome(500))
    assert await jobs.store.output_sizes(TENANT, "ep", limit=2) == [3, 2]
    assert await jobs.store.output_sizes(TENANT, "other", limit=2) == []
    assert await jobs.store.output_sizes("somebody", "ep", limit=2) == []
