"""What a job brings for its upstream alone, or for the signature of its callback: always sealed,
never shown, and gone when it is not needed any more."""

import json
from pathlib import Path
from typing import Any

import pytest

from dispatcher.jobs.endpoint import Keep
from dispatcher.jobs.values import Dialect
from dispatcher.store.errors import InputGone, NoKeyring
from dispatcher.store.requests import Retention
from tests.dispatcher.store.builders import (
    FACTORIES,
    LOOKERS,
    TENANT,
    World,
    raises,
    secret,
)
from tests.dispatcher.store.conftest import Build
from tests.dispatcher.store.jobs.builders import Jobs, outcome, target
from tests.dispatcher.store.test_sealing import counted, reencrypted
from tests.theft import KEY, NEXT_KEY

S3 = json.dumps({"accessSecret": "fake-secret-of-a-bucket"})
WEBHOOK = "fake-secret-of-a-webhook"
AT_ONCE = Retention(delivered_payload_ms=0, delivered_ms=0, dead_ms=0)
MINE: dict[Dialect, str] = {"runpod": S3, "cerebrium": WEBHOOK}
each = pytest.mark.parametrize("dialect", list(MINE))


@pytest.fixture
async def world(build: Build) -> World:
    return await build(encryption_keys=KEY)  # payloads are not sealed: these are, all the same


async def submit(jobs: Jobs, dialect: Dialect, **more: Any) -> str:
    given: dict[str, Any] = {"callback": target(), "secret": MINE[dialect], **more}
    return (await jobs.submit(dialect=dialect, **given)).id


def kept(store_name: str, folder: Path) -> dict[str, list[Any]]:
    """What stands in the columns: of jobs, and of payloads."""
    look = LOOKERS[store_name]
    return {
        table: [row[0] for row in look(folder, f"SELECT secret FROM {table}")]
        for table in ("jobs", "payloads")
    }


def everything(store_name: str, folder: Path) -> str:
    look = LOOKERS[store_name]
    tables = ("jobs", "inputs", "outputs", "job_attempts", "callbacks", "payloads", "audit")
    return str([look(folder, f"SELECT * FROM {table}") for table in tables])


@each
async def test_it_is_sealed_whatever_else_is(
    jobs: Jobs, dialect: Dialect, store_name: str, tmp_path: Path
) -> None:
    """In a column of its own; who claims the job has it, and what is shown of it has it not."""
    await jobs.endpoint()
    id = await submit(jobs, dialect)
    [stored] = kept(store_name, tmp_path / "0")["jobs"]
    assert stored.startswith("enc1:k1:")
    assert MINE[dialect] not in str(await jobs.get(id))
    claimed = await jobs.one()
    assert claimed.secret == MINE[dialect]
    assert MINE[dialect] not in str(claimed)
    assert MINE[dialect] not in everything(store_name, tmp_path / "0")


async def test_a_job_that_starts_at_once_has_it_too(jobs: Jobs) -> None:
    await jobs.endpoint()
    taken = await jobs.submit(dialect="runpod", secret=S3, handover=True)
    assert taken.claimed is not None
    assert taken.claimed.secret == S3
    assert S3 not in str(taken)


@each
async def test_it_goes_when_the_job_completes(
    jobs: Jobs, dialect: Dialect, store_name: str, tmp_path: Path
) -> None:
    """And the job is not run again without it, though somebody insists."""
    await jobs.endpoint()
    id = await submit(jobs, dialect)
    plain = (await jobs.submit(dialect=dialect)).id
    await jobs.settle(await jobs.one())
    await jobs.settle(await jobs.one())
    assert sorted(str(one) for one in kept(store_name, tmp_path / "0")["jobs"]) == ["", "None"]
    await raises(InputGone, jobs.retry(id, force=True))
    assert (await jobs.retry(plain, force=True)).run == 2


@each
async def test_a_retry_has_it_again(jobs: Jobs, dialect: Dialect) -> None:
    """What failed, timed out or was cancelled keeps it, with its input."""
    await jobs.endpoint(attempts=1)
    id = await submit(jobs, dialect)
    await jobs.settle(await jobs.one(), outcome(500))
    await jobs.retry(id)
    assert (await jobs.one()).secret == MINE[dialect]
    await jobs.cancel(id)


@each
@pytest.mark.parametrize("gone", ["input", "job"])
async def test_it_goes_with_the_input(
    jobs: Jobs, dialect: Dialect, gone: str, store_name: str, tmp_path: Path
) -> None:
    """By retention, also of a job whose key holds still; then a retry has nothing to run with."""
    keep = Keep(input=10, output=10, job=20 if gone == "job" else 86_400)
    await jobs.endpoint(attempts=1, keep=keep)
    id = await submit(jobs, dialect, key="once")
    await jobs.settle(await jobs.one(), outcome(500))
    jobs.world.tick(60_000)
    await jobs.store.prune(now_ms=jobs.world.now_ms, limit=10)
    assert kept(store_name, tmp_path / "0")["jobs"] == [None]
    await raises(InputGone, jobs.retry(id))


async def test_a_callbacks_own_secret_goes_with_its_payload(
    jobs: Jobs, store_name: str, tmp_path: Path
) -> None:
    """Whatever ended the job: an answer, a cancel, its queue timeout. It is leased with the
    delivery, and gone with the payload."""
    await jobs.endpoint(queue_timeout=60.0)
    answered = await submit(jobs, "cerebrium")
    await jobs.settle(await jobs.one(), handover=True)
    cancelled = await submit(jobs, "cerebrium")
    await jobs.cancel(cancelled)
    expired = await submit(jobs, "cerebrium", queue_s=1.0)
    jobs.world.tick(2_000)
    await jobs.store.expire(now_ms=jobs.world.now_ms, limit=10)
    assert await jobs.states([answered, cancelled, expired]) == [
        "completed", "cancelled", "timeout",
    ]  # fmt: skip
    found = kept(store_name, tmp_path / "0")["payloads"]
    assert len(found) == 3
    assert all(one.startswith("enc1:k1:") for one in found)
    assert WEBHOOK not in everything(store_name, tmp_path / "0")
    jobs.world.tick(120_000)
    deliveries = await jobs.world.claim()
    assert [one.secret for one in deliveries] == [WEBHOOK] * len(deliveries)
    assert len(deliveries) >= 2
    assert WEBHOOK not in str(deliveries)
    for one in deliveries:
        await jobs.world.settle(one)
    jobs.world.tick(1)
    while await jobs.world.store.prune(AT_ONCE, now_ms=jobs.world.now_ms, limit=100):
        pass
    left = kept(store_name, tmp_path / "0")["payloads"]
    assert len(left) == 3 - len(deliveries)


async def test_a_callback_that_goes_at_once_has_it_too(jobs: Jobs) -> None:
    await jobs.endpoint()
    await submit(jobs, "cerebrium")
    settled = await jobs.settle(await jobs.one(), handover=True)
    assert settled.delivery is not None
    assert settled.delivery.secret == WEBHOOK


async def test_what_is_the_upstreams_is_in_no_callback(
    jobs: Jobs, store_name: str, tmp_path: Path
) -> None:
    await jobs.endpoint()
    await submit(jobs, "runpod")
    await jobs.settle(await jobs.one())
    await jobs.cancel(await submit(jobs, "runpod"))
    assert kept(store_name, tmp_path / "0")["payloads"] == [None, None]


async def test_without_keys_it_is_refused(build: Build) -> None:
    """And the rest of the batch is not."""
    jobs = Jobs(await build())
    await jobs.endpoint()
    if jobs.world.store.is_sealing:  # SQLite has a key of its own
        assert (await jobs.submit(dialect="runpod", secret=S3)).state == "queued"
    else:
        await raises(NoKeyring, jobs.submit(dialect="runpod", secret=S3))
    assert (await jobs.submit(dialect="runpod")).state == "queued"


@each
async def test_it_is_sealed_again_with_the_rest(
    build: Build, dialect: Dialect, store_name: str, tmp_path: Path
) -> None:
    """Of jobs and of payloads; what there is is counted."""
    world = await build(encryption_keys=KEY)
    jobs = Jobs(world)
    await jobs.endpoint()
    await submit(jobs, dialect)
    await jobs.settle(await jobs.one(), outcome(500))
    waiting = await submit(jobs, dialect)
    done = await submit(jobs, dialect)
    in_payloads = 1 if dialect == "cerebrium" else 0
    for keys in (f"{NEXT_KEY},{KEY}", NEXT_KEY):
        world.make = lambda keys=keys: FACTORIES[store_name](  # type: ignore[misc]
            tmp_path / "0", {"encryption_keys": keys}
        )
        await world.reopen()
        assert (await reencrypted(world)).unopened == 0
        found = [one for part in kept(store_name, tmp_path / "0").values() for one in part if one]
        assert len(found) == 3 + in_payloads
        assert all(one.startswith("enc1:k2:") for one in found)
    of = await counted(world)
    assert (of["jobs' secrets"].newest, of["jobs' secrets"].plain) == (3, 0)
    if in_payloads:
        assert (of["callbacks' secrets"].newest, of["callbacks' secrets"].plain) == (1, 0)
    assert {one.id: one.secret for one in await jobs.claim()} == {
        waiting: MINE[dialect],
        done: MINE[dialect],
    }


@each
async def test_what_no_key_opens_is_left_out(
    build: Build, dialect: Dialect, store_name: str, tmp_path: Path
) -> None:
    """Nothing goes out without it, and it stops no other."""
    world = await build(encryption_keys=KEY)
    jobs = Jobs(world)
    await jobs.endpoint()
    first = await submit(jobs, dialect)
    world.make = lambda: FACTORIES[store_name](tmp_path / "0", {"encryption_keys": NEXT_KEY})
    await world.reopen()
    second = await submit(jobs, dialect)
    claimed = {one.id: one for one in await jobs.claim()}
    assert claimed[first].unopened is not None
    assert claimed[first].secret is None
    assert claimed[second].secret == MINE[dialect]


async def test_an_erased_tenant_leaves_none(jobs: Jobs, store_name: str, tmp_path: Path) -> None:
    world = jobs.world
    await world.store.ensure_tenant(TENANT, secret())
    await jobs.endpoint()
    await submit(jobs, "cerebrium")
    await jobs.settle(await jobs.one())
    await submit(jobs, "runpod")
    await world.store.begin_erasing(TENANT, now_ms=world.now_ms)
    world.tick(10_000)
    while await world.store.erase(TENANT, now_ms=world.now_ms, limit=10) == "going on":
        pass
    assert kept(store_name, tmp_path / "0") == {"jobs": [], "payloads": []}


async def test_an_output_is_handed_out_once(jobs: Jobs) -> None:
    """Of each run that completes; of another run, or of what goes on, there is nothing."""
    await jobs.endpoint()
    id = (await jobs.submit(dialect="runpod")).id

    async def is_handed_out() -> bool:
        return (await jobs.store.hand_out(TENANT, id, bytes_max=1_000)).whole

    assert not await is_handed_out()
    await jobs.settle(await jobs.one())
    assert [await is_handed_out() for _ in range(3)] == [True, False, False]
    await jobs.retry(id, force=True)
    assert not await is_handed_out()
    await jobs.settle(await jobs.one())
    assert [await is_handed_out() for _ in range(2)] == [True, False]


async def test_a_tenants_load_is_its_own(jobs: Jobs) -> None:
    """What waits and runs of it, and what came of its runs."""
    await jobs.endpoint(concurrency=2, attempts=1)
    failed = (await jobs.submit()).id
    await jobs.settle(await jobs.one(), outcome(500))
    await jobs.retry(failed)
    await jobs.settle(await jobs.one())
    await jobs.many(4)
    await jobs.submit(tenant="other")
    await jobs.claim(2)
    load = await jobs.store.tenant_load(TENANT, "ep")
    other = await jobs.store.tenant_load("other", "ep")
    assert load.running + other.running == 2
    assert load.queued + other.queued == 3
    assert (load.completed, load.failed, load.retried) == (1, 1, 1)
    assert (other.completed, other.failed, other.retried) == (0, 0, 0)
