"""What is secret of jobs and endpoints: sealed at rest, sealed again with another key, and no trap
where the key is gone."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.access import new_secret
from dispatcher.jobs.endpoint import Keep
from dispatcher.jobs.filters import JobFilter
from dispatcher.jobs.judge import INTERRUPTIONS_MAX
from dispatcher.jobs.schema import InputSchema
from dispatcher.jobs.values import NewChunks
from dispatcher.store.errors import CannotUnseal
from receiver.base.clock import iso
from tests.dispatcher.store.builders import DAY_MS, FACTORIES, LOOKERS, T0, TENANT, raises
from tests.dispatcher.store.conftest import Build
from tests.dispatcher.store.jobs.builders import EP, Jobs, outcome, target
from tests.dispatcher.store.test_sealing import counted, reencrypted
from tests.theft import KEY, NEXT_KEY

SECRET = "of-the-customer"


async def filled(jobs: Jobs) -> str:
    """An endpoint with a header and a signing secret, a job that was run, and one that waits;
    returns the latter."""
    await jobs.endpoint(headers=(("X-Token", SECRET),), concurrency=1)
    await jobs.store.ensure_endpoint_secret(new_secret("", T0, endpoint=EP, value=SECRET))
    await jobs.submit(b"input " + SECRET.encode(), callback=target())
    await jobs.settle(await jobs.one(), outcome(body=b"output " + SECRET.encode()))
    await jobs.submit(b"{}")
    streams = await jobs.one()
    body = b'["chunk %b"]' % SECRET.encode()
    new = NewChunks(job=streams.id, tenant=TENANT, endpoint=EP, run=1, claim=streams.claim,
                    n=0, size=1, body=body)  # fmt: skip
    await jobs.store.put_chunks([new])
    await jobs.cancel(streams.id)
    await jobs.store.freed([streams])
    callback = target(headers=(("X-Callback", SECRET),))
    waiting = await jobs.submit(
        b"input " + SECRET.encode(), headers=(("X-Trace", SECRET),), callback=callback
    )
    return waiting.id


async def all_is_there(jobs: Jobs) -> None:
    assert (await jobs.store.endpoint(EP)).rules.headers == (("X-Token", SECRET),)
    assert [one.value for one in await jobs.store.endpoint_secrets(EP)] == [SECRET]
    claimed = await jobs.one()
    assert claimed.unopened is None
    assert claimed.body == b"input " + SECRET.encode()
    assert claimed.options.headers == (("X-Trace", SECRET),)
    assert claimed.options.callback is not None
    assert claimed.options.callback.headers == (("X-Callback", SECRET),)
    found = await jobs.store.search(TENANT, JobFilter(status="cancelled"), after=None, limit=1)
    chunks = await jobs.store.chunks(TENANT, found.jobs[0].id, seen=(0, 0), bytes_max=1_000)
    assert chunks.values == (b'"chunk %b"' % SECRET.encode(),)
    await jobs.store.release([claimed], now_ms=jobs.world.now_ms)


def everything(store_name: str, folder: Path) -> str:
    look = LOOKERS[store_name]
    found = [
        *look(folder, "SELECT rules FROM endpoints"),
        *look(folder, "SELECT value FROM endpoint_secrets"),
        *look(folder, "SELECT options FROM jobs"),
        *[(bytes(row[0]),) for row in look(folder, "SELECT body FROM inputs")],
        *[(bytes(row[0]),) for row in look(folder, "SELECT body FROM outputs")],
        *[(bytes(row[0]),) for row in look(folder, "SELECT body FROM chunks")],
    ]
    return str(found)


async def test_all_that_is_secret_is_sealed(build: Build, store_name: str, tmp_path: Path) -> None:
    """Inputs and outputs as callbacks' payloads are; headers wherever there are keys."""
    jobs = Jobs(await build(encryption_keys=KEY, encrypt_payloads="on"))
    await filled(jobs)
    found = everything(store_name, tmp_path / "0")
    assert SECRET not in found
    assert found.count("enc1:k1:") >= 5
    await all_is_there(jobs)


async def test_what_is_stored_is_sealed_again(
    build: Build, store_name: str, tmp_path: Path
) -> None:
    """With the key that seals now: then the one before can go."""
    world = await build(encryption_keys=KEY, encrypt_payloads="on")
    jobs = Jobs(world)
    await filled(jobs)
    folder = tmp_path / "0"
    for keys in (f"{NEXT_KEY},{KEY}", NEXT_KEY):
        changes = {"encryption_keys": keys, "encrypt_payloads": "on"}
        world.make = lambda changes=changes: FACTORIES[store_name](folder, changes)  # type: ignore[misc]
        await world.reopen()
        done = await reencrypted(world)
        assert done.unopened == 0
        found = everything(store_name, folder)
        assert "enc1:k1:" not in found
        assert SECRET not in found
        await all_is_there(jobs)
    assert {one.what for one in (await counted(world)).values()} >= {
        "endpoints' headers",
        "endpoints' signing secrets",
        "jobs' headers",
        "payloads",
    }


async def test_what_looks_like_a_secret_is_one_everywhere(build: Build) -> None:
    """What decides whether something is sealed decides whether it counts as plain: the doctor warns
    of nothing that a new value would be."""
    jobs = Jobs(await build(encryption_keys=KEY))
    schema = InputSchema({"properties": {"headers": {}}})
    await jobs.endpoint(schema=schema)
    await jobs.endpoint("other", functions=("headers", '"headers"'))
    await jobs.submit(tags=(("headers", "a"), ("b", 'c"headers"')), function="headers")
    await jobs.submit(tags=(("Headers", "a"),))
    await jobs.submit(headers=(("X-Trace", SECRET),))
    await jobs.submit()
    found = await counted(jobs.world)
    assert {what: found[what].plain for what in ("endpoints' headers", "jobs' headers")} == {
        "endpoints' headers": 0,
        "jobs' headers": 0,
    }
    claimed = await jobs.claim()
    assert dict(claimed[0].tags) == {"headers": "a", "b": 'c"headers"'}


async def test_a_job_that_cannot_be_opened_says_so(
    build: Build, store_name: str, tmp_path: Path
) -> None:
    """Nothing goes out, and it stops no other."""
    world = await build(encryption_keys=KEY, encrypt_payloads="on")
    jobs = Jobs(world)
    await jobs.endpoint()
    first = await jobs.submit(b"a", headers=(("X-Trace", SECRET),))
    changes = {"encryption_keys": NEXT_KEY, "encrypt_payloads": "on"}
    world.make = lambda: FACTORIES[store_name](tmp_path / "0", changes)
    await world.reopen()
    second = await jobs.submit(b"b")
    claimed = await jobs.claim()
    assert [one.id for one in claimed] == [first.id, second.id]
    assert claimed[0].unopened is not None
    assert claimed[0].body == b""
    assert claimed[1].body == b"b"
    assert claimed[1].tenant == TENANT


# --- ends without the key ---


async def with_keys(jobs: Jobs, store_name: str, folder: Path, keys: str) -> None:
    """As after a restart with these keys."""
    changes = {"encryption_keys": keys, "encrypt_payloads": "on"}
    jobs.world.make = lambda: FACTORIES[store_name](folder, changes)
    await jobs.world.reopen()
    jobs.beating.clear()


async def unopened(build: Build, store_name: str, folder: Path, **more: Any) -> tuple[Jobs, str]:
    """A job that waits, whose end is to be told, and that no key opens any more."""
    jobs = Jobs(await build(encryption_keys=KEY, encrypt_payloads="on"))
    await jobs.endpoint(concurrency=2)
    callback = target(headers=(("X-Callback", SECRET),))
    submitted = await jobs.submit(callback=callback, tags=(("team", "a"),), **more)
    await with_keys(jobs, store_name, folder, NEXT_KEY)
    return jobs, submitted.id


async def expires(jobs: Jobs, id: str) -> None:
    jobs.world.tick(2 * DAY_MS)
    assert await jobs.store.expire(now_ms=jobs.world.now_ms, limit=10) == 1


async def is_cancelled(jobs: Jobs, id: str) -> None:
    assert (await jobs.cancel(id)).changed


async def is_cancelled_in_bulk(jobs: Jobs, id: str) -> None:
    now_ms = jobs.world.now_ms
    sweep = await jobs.store.make_sweep(TENANT, "cancel", JobFilter(endpoint=EP), now_ms=now_ms)
    stepped = sweep
    while stepped.state == "running":
        stepped, _ = await jobs.store.step_sweep(TENANT, sweep.id, now_ms=now_ms)
    assert (stepped.state, stepped.done) == ("completed", 1)


async def is_purged(jobs: Jobs, id: str) -> None:
    now_ms = jobs.world.now_ms
    assert await jobs.store.purge(EP, tenant=TENANT, now_ms=now_ms) == 1
    await jobs.purged()
    (sweep,) = await jobs.store.sweeps(TENANT)
    assert (sweep.state, sweep.done) == ("completed", 1)


async def loses_its_endpoint(jobs: Jobs, id: str) -> None:
    await jobs.store.remove_endpoint(EP, now_ms=jobs.world.now_ms)
    await jobs.purged()
    await jobs.endpoint()  # its name is free


async def crashes(jobs: Jobs, id: str) -> None:
    for n in range(INTERRUPTIONS_MAX + 1):
        await jobs.one(process=f"process-{n}")
        await jobs.leaves(f"process-{n}")
        assert await jobs.store.reclaim_orphans(beside="me", now_ms=jobs.world.now_ms) == 1


async def cannot_be_run_in_time(jobs: Jobs, id: str) -> None:
    """As the engine ends it: it was claimed again and again, and could not be opened."""
    claimed = await jobs.one()
    jobs.world.tick(2 * DAY_MS)
    await jobs.settle(claimed, outcome(kind="interrupted", sent=False))


ENDS: dict[Callable[[Jobs, str], Awaitable[None]], tuple[str, str]] = {
    expires: ("timeout", "expired"),
    is_cancelled: ("cancelled", "user"),
    is_cancelled_in_bulk: ("cancelled", "user"),
    is_purged: ("cancelled", "purged"),
    loses_its_endpoint: ("cancelled", "endpoint_removed"),
    crashes: ("failed", "crash_loop"),
    cannot_be_run_in_time: ("timeout", "expired"),
}


@pytest.mark.parametrize("end", ENDS)
async def test_what_no_key_opens_ends_all_the_same(
    build: Build, store_name: str, tmp_path: Path, end: Callable[[Jobs, str], Awaitable[None]]
) -> None:
    """Whatever ends it, it keeps nothing else waiting; its end is told once the key is there."""
    jobs, id = await unopened(build, store_name, tmp_path / "0")
    await end(jobs, id)
    job = await jobs.get(id)
    assert (job.state, job.reason) == ENDS[end]
    assert job.callback is None
    assert await jobs.told() == 0
    assert await jobs.callbacks() == []
    await with_keys(jobs, store_name, tmp_path / "0", f"{NEXT_KEY},{KEY}")
    ended_ms = job.ended_ms
    jobs.world.tick(5_000)
    assert await jobs.told() == 1
    (callback,) = await jobs.callbacks()
    assert (callback.state, callback.job_status) == ("pending", ENDS[end][0])
    assert callback.created_ms == jobs.world.now_ms
    assert dict(callback.tags) == {"team": "a"}
    assert (await jobs.get(id)).callback == callback.id
    payload = await jobs.world.store.payload(TENANT, callback.id)
    assert json.loads(payload.body)["completedAt"] == iso(ended_ms)
    assert await jobs.told() == 0
    assert len(await jobs.callbacks()) == 1


async def test_each_run_is_told_even_if_it_was_retried_meanwhile(
    build: Build, store_name: str, tmp_path: Path
) -> None:
    jobs, id = await unopened(build, store_name, tmp_path / "0")
    await jobs.cancel(id)
    await raises(CannotUnseal, jobs.retry(id))
    await with_keys(jobs, store_name, tmp_path / "0", f"{NEXT_KEY},{KEY}")
    await jobs.retry(id)
    assert await jobs.told() == 1
    assert (await jobs.get(id)).callback is None  # that is of the last run that ended
    jobs.world.tick()
    await jobs.settle(await jobs.one())
    told = await jobs.callbacks()
    assert [(one.run, one.job_status) for one in told] == [(1, "cancelled"), (2, "completed")]
    assert (await jobs.get(id)).callback == told[1].id


async def test_nobody_is_told_who_is_not_to_be(
    build: Build, store_name: str, tmp_path: Path
) -> None:
    """A purge without callbacks, and a job without one."""
    jobs, _ = await unopened(build, store_name, tmp_path / "0")
    await with_keys(jobs, store_name, tmp_path / "0", f"{NEXT_KEY},{KEY}")
    other = await jobs.submit(headers=(("X-Trace", SECRET),))
    await with_keys(jobs, store_name, tmp_path / "0", "k9:" + NEXT_KEY.partition(":")[2])
    await jobs.cancel(other.id)
    await jobs.store.purge(EP, tenant=TENANT, callbacks=False, now_ms=jobs.world.now_ms)
    await jobs.purged()
    await with_keys(jobs, store_name, tmp_path / "0", f"{NEXT_KEY},{KEY}")
    assert await jobs.told() == 0
    assert await jobs.callbacks() == []


async def test_damaged_options_are_never_told_and_stop_no_other(
    build: Build, store_name: str, tmp_path: Path
) -> None:
    jobs, id = await unopened(build, store_name, tmp_path / "0")
    broken = "UPDATE jobs SET options = substr(options, 1, 60) || 'AAAA' || substr(options, 65)"
    await jobs.store._write(lambda tx: tx.run(f"{broken} WHERE id = ?", id))
    await jobs.cancel(id)
    await with_keys(jobs, store_name, tmp_path / "0", f"{NEXT_KEY},{KEY}")
    assert await jobs.told() == 0
    other = await jobs.submit(callback=target(headers=(("X-Callback", SECRET),)))
    await jobs.cancel(other.id)
    assert await jobs.told() == 0
    assert len(await jobs.callbacks()) == 1


async def test_an_input_that_no_key_opens_keeps_no_end_from_being_told(
    build: Build, store_name: str, tmp_path: Path
) -> None:
    """Where to is known: the end is told at once."""
    jobs = Jobs(await build(encryption_keys=KEY, encrypt_payloads="on"))
    await jobs.endpoint()
    await jobs.submit(callback=target())
    await with_keys(jobs, store_name, tmp_path / "0", NEXT_KEY)
    await cannot_be_run_in_time(jobs, "")
    assert [one.job_status for one in await jobs.callbacks()] == ["timeout"]


async def test_a_listing_shows_what_cannot_be_opened(
    build: Build, store_name: str, tmp_path: Path
) -> None:
    """One job that no key opens keeps no other from being seen; its tags are no secret."""
    jobs, id = await unopened(build, store_name, tmp_path / "0")
    other = await jobs.submit()
    page = await jobs.store.search(TENANT, JobFilter(), after=None, limit=10)
    assert [one.id for one in page.jobs] == [other.id, id]
    assert page.jobs[1].unopened is not None
    assert page.jobs[1].tags == (("team", "a"),)


# --- endpoints without the key ---


async def test_an_endpoint_that_cannot_be_opened_stops_no_other(
    build: Build, store_name: str, tmp_path: Path
) -> None:
    """It says so, and admits nobody; it can be paused, purged, replaced and removed."""
    jobs = Jobs(await build(encryption_keys=KEY))
    await jobs.endpoint(headers=(("X-Token", SECRET),))
    await jobs.endpoint("other")
    await jobs.endpoint("third", headers=(("X-Token", SECRET),))
    await jobs.submit(callback=target())
    await with_keys(jobs, store_name, tmp_path / "0", NEXT_KEY)
    now_ms = jobs.world.now_ms
    found = {one.name: one for one in await jobs.store.endpoints()}
    assert [name for name, one in found.items() if one.unopened is not None] == [EP, "third"]
    assert not found[EP].rules.admits(TENANT)
    assert SECRET not in found[EP].text
    assert (await jobs.store.set_paused(EP, paused=True, now_ms=now_ms)).paused
    assert not (await jobs.store.set_paused(EP, paused=False, now_ms=now_ms)).paused
    assert await jobs.store.purge(EP, tenant=None, now_ms=now_ms) == 1
    await jobs.purged()
    await jobs.store.remove_endpoint(EP, managed=False, now_ms=now_ms)
    await jobs.purged()
    await jobs.endpoint()
    replaced = await jobs.change("third", concurrency=2)
    assert replaced.unopened is None
    assert replaced.epoch > found["third"].epoch
    assert [one.unopened for one in await jobs.store.endpoints()] == [None] * 3


@pytest.mark.parametrize("end", [is_cancelled, cannot_be_run_in_time])
async def test_no_end_goes_out_without_what_it_is_to_be_signed_with(
    build: Build, store_name: str, tmp_path: Path, end: Callable[[Jobs, str], Awaitable[None]]
) -> None:
    """Where to is known, and the webhook's secret is not: it is told once that is, and signed. Also
    after the job's input is gone."""
    jobs = Jobs(await build(encryption_keys=KEY))
    await jobs.endpoint(keep=Keep(input=60))
    taken = await jobs.submit(dialect="cerebrium", callback=target(), secret=SECRET)
    await with_keys(jobs, store_name, tmp_path / "0", NEXT_KEY)
    await end(jobs, taken.id)
    assert await jobs.callbacks() == []
    jobs.world.tick(120_000)
    assert await jobs.store.prune(now_ms=jobs.world.now_ms, limit=9) == 1
    await with_keys(jobs, store_name, tmp_path / "0", f"{NEXT_KEY},{KEY}")
    assert await jobs.told() == 1
    (delivery,) = await jobs.world.claim()
    assert delivery.secret == SECRET


async def test_what_is_for_an_upstream_alone_keeps_no_end_from_being_told(
    build: Build, store_name: str, tmp_path: Path
) -> None:
    jobs = Jobs(await build(encryption_keys=KEY))
    await jobs.endpoint()
    await jobs.submit(dialect="runpod", callback=target(), secret='{"bucket":"b"}')
    await with_keys(jobs, store_name, tmp_path / "0", NEXT_KEY)
    await cannot_be_run_in_time(jobs, "")
    assert [one.job_status for one in await jobs.callbacks()] == ["timeout"]
