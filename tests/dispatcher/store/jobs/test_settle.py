"""Settlements: output, verdict and callback in one commit, under the current claim alone."""

import asyncio
import base64
import json
import os
from dataclasses import replace
from typing import Any

import pytest

from dispatcher.jobs.values import JobVerdict, Output
from dispatcher.store import submit as callback_submit
from dispatcher.store.errors import KeyReused
from tests.dispatcher.store.builders import DAY_MS, LOOKERS, TENANT, URL, World
from tests.dispatcher.store.conftest import Build
from tests.dispatcher.store.jobs.builders import Jobs, outcome, target


async def test_a_completed_job_has_its_output_and_its_callback(jobs: Jobs) -> None:
    """All in the commit that settles it: the state, the output as it came, and a callback under a
    key of its run that says which it was."""
    await jobs.endpoint()
    submitted = await jobs.submit(callback=target(), handover=True)
    assert submitted.claimed is not None
    settled = await jobs.settle(submitted.claimed, outcome(200, body=b'{"a": 1}'))
    assert settled.recorded
    job = await jobs.get(submitted.id, output=True)
    assert (job.state, job.reason, job.status_code, job.calls) == ("completed", None, 200, 1)
    assert job.output is not None
    assert (job.output.body, job.output.content_type) == (b'{"a": 1}', "application/json")
    assert (job.output_bytes, job.output_type) == (8, "application/json")
    assert job.ended_ms == jobs.world.now_ms
    (callback,) = await jobs.callbacks()
    assert callback.id == job.callback == settled.callback
    assert (callback.job_status, callback.run, callback.state) == ("completed", 1, "pending")
    payload = await jobs.world.store.payload(TENANT, callback.id)
    assert json.loads(payload.body)["output"] == {"a": 1}
    assert jobs.world.jobs_ended == [job.id]


@pytest.mark.parametrize(
    ("met", "state", "reason"),
    [
        (outcome(500, body=b"oh"), "failed", "rejected"),
        (outcome(kind="timeout"), "timeout", "run_limit"),
        (outcome(kind="too_large"), "failed", None),
        (outcome(kind="broken_off"), "queued", None),
        (outcome(kind="not_sent", sent=False), "queued", None),
        (outcome(429), "queued", None),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
async def test_every_outcome(jobs: Jobs, met: Any, state: str, reason: str | None) -> None:
    """The verdict is taken as it is given; every final state has its callback."""
    await jobs.endpoint()
    await jobs.submit(callback=target())
    claimed = await jobs.one()
    settled = await jobs.settle(claimed, met)
    job = await jobs.get(claimed.id)
    assert job.state == settled.state == state
    if reason is not None:
        assert job.reason == reason
    assert job.calls == int(met.sent)
    callbacks = await jobs.callbacks()
    assert [one.job_status for one in callbacks] == ([] if state == "queued" else [state])


async def test_a_late_result_changes_nothing(jobs: Jobs) -> None:
    """Only the holder of the current claim settles."""
    await jobs.endpoint()
    await jobs.submit(callback=target())
    old = await jobs.one()
    assert await jobs.store.release([old], now_ms=jobs.world.now_ms) == 1
    assert not (await jobs.settle(old)).recorded
    assert (await jobs.get(old.id)).state == "queued"
    new = await jobs.one()
    assert new.claim > old.claim
    assert not (await jobs.settle(old, outcome(500))).recorded
    assert (await jobs.settle(new)).recorded
    assert len(await jobs.callbacks()) == 1


async def test_a_settlement_that_is_repeated_was_recorded(jobs: Jobs) -> None:
    """One whose reply was lost comes again: that is no late result, and there is one callback."""
    await jobs.endpoint()
    await jobs.submit(callback=target())
    claimed = await jobs.one()
    first = await jobs.settle(claimed)
    again = await jobs.settle(claimed)
    assert first.recorded
    assert again.recorded
    assert again.callback == first.callback
    assert len(await jobs.callbacks()) == 1


async def test_the_same_settlement_twice_at_one_moment(jobs: Jobs) -> None:
    """Both are told that it is recorded, or the second that it is not; it is recorded once."""
    await jobs.endpoint()
    await jobs.submit(callback=target())
    claimed = await jobs.one()
    settled = await asyncio.gather(jobs.settle(claimed), jobs.settle(claimed))
    assert settled[0].recorded
    assert len(await jobs.callbacks()) == 1


async def test_a_callback_may_be_handed_over(jobs: Jobs) -> None:
    """It is leased in the commit that ends its job, where the settlement asks for that."""
    await jobs.endpoint()
    await jobs.submit(callback=target())
    settled = await jobs.settle(await jobs.one(), handover=True)
    assert settled.delivery is not None
    assert settled.delivery.id == settled.callback
    assert settled.delivery.url == URL
    assert await jobs.world.settle(settled.delivery)


@pytest.mark.parametrize("refusal", ["disabled", "removed", "limit", "error", "reused"])
async def test_nothing_refuses_at_the_end(
    build: Build, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback that cannot be taken is born dead, with its reason, and can be replayed: no job
    is kept running by it."""
    world = await build(tenant_destinations_max=2)
    jobs = Jobs(world)
    await jobs.endpoint()
    where = target()
    if refusal in ("disabled", "removed"):
        await world.register("named")
        where = target(name="named")
    await jobs.submit(callback=where)
    await _refuse(world, refusal, monkeypatch)
    claimed = await jobs.one()
    settled = await jobs.settle(claimed)
    assert settled.recorded
    assert (await jobs.get(claimed.id)).state == "completed"
    monkeypatch.undo()
    if refusal == "reused":
        return  # a callback of this run is there
    (dead,) = [one for one in await jobs.callbacks() if one.run is not None]
    assert (dead.id, dead.state) == (settled.callback, "dead")
    assert dead.last_error
    if refusal in ("limit", "error"):
        await world.store.replay(TENANT, dead.id, now_ms=world.now_ms)
        assert dead.id in {one.id for one in await world.claim()}


async def _refuse(world: World, refusal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if refusal == "disabled":
        await world.change("named", disabled_reason="test")
    elif refusal == "removed":
        await world.store.remove_destination(TENANT, "named", now_ms=world.now_ms)
    elif refusal == "limit":
        for n in range(2):
            await world.submit(f"other-{n}", url=f"http://other-{n}.test/")
    else:
        error: Exception = KeyReused("cb_1") if refusal == "reused" else OSError("anything")

        def failing(_tx: object, requests: Any, _rules: object) -> list[Exception]:
            if refusal == "reused":
                return [error] * len(requests)
            raise error

        monkeypatch.setattr(callback_submit, "submit", failing)


async def test_nothing_that_an_upstream_says_keeps_a_job_running(jobs: Jobs) -> None:
    """Texts that no database holds are stored as far as they can be."""
    await jobs.endpoint()
    odd = "a\0b\udcffc\u00fc"
    await jobs.submit(callback=target())
    claimed = await jobs.one()
    met = replace(
        outcome(500, body=b"\0"),
        output=Output(body=b"\0\xff", content_type=odd, headers=(("X-Odd", odd),)),
        error=odd,
    )
    verdict = JobVerdict(state="failed", reason="rejected", error=odd)
    assert (await jobs.settle(claimed, met, verdict)).recorded
    job = await jobs.get(claimed.id, output=True)
    assert (job.state, job.error) == ("failed", "a\ufffdb?c\u00fc")
    assert job.output is not None
    assert job.output.body == b"\0\xff"


async def test_a_second_run_replaces_the_output_of_the_first(jobs: Jobs) -> None:
    """After its end, and not before; one that brings none leaves none."""
    await jobs.endpoint()
    await jobs.submit(callback=target())
    claimed = await jobs.one()
    await jobs.settle(claimed, outcome(500, body=b"first"))
    await jobs.retry(claimed.id)
    before = await jobs.get(claimed.id, output=True)
    assert before.output is not None
    assert before.output.body == b"first"
    second = await jobs.one()
    await jobs.settle(second, outcome(200, body=b'"second"'))
    after = await jobs.get(claimed.id, output=True)
    assert after.output is not None
    assert after.output.body == b'"second"'
    await jobs.retry(claimed.id, force=True)
    await jobs.settle(await jobs.one(), outcome(kind="timeout"))
    assert (await jobs.get(claimed.id, output=True)).output is None
    assert [one.run for one in await jobs.callbacks()] == [1, 2, 3]


async def test_tries_and_waits(jobs: Jobs) -> None:
    """A try that was spent is counted; a job that waits again keeps its ticket, and its queue
    timeout is the verdict's."""
    await jobs.endpoint()
    await jobs.many(1)
    claimed = await jobs.one()
    expires_ms = jobs.world.now_ms + 10 * DAY_MS
    verdict = JobVerdict(
        state="queued", due_ms=jobs.world.now_ms + 1_000, expires_ms=expires_ms, spent=True
    )
    await jobs.settle(claimed, outcome(502), verdict)
    assert await jobs.claim() == []
    jobs.world.tick(1_000)
    again = await jobs.one()
    assert (again.tries, again.calls, again.claim) == (1, 1, 2)
    assert again.expires_ms == expires_ms
    assert again.started_ms == claimed.started_ms


async def test_a_job_turned_away_while_others_are_answered_is_counted(jobs: Jobs) -> None:
    """From that count on each refusal spends a try; while nobody is answered it is no fault of
    the job's."""
    await jobs.endpoint(concurrency=1)
    poison, good = await jobs.many(2)
    turned_away = []
    for _ in range(4):
        for claimed in await jobs.claim(1):
            if claimed.id == poison:
                turned_away.append(claimed.turned_away)
                await jobs.settle(claimed, outcome(429, now_ms=jobs.world.now_ms))
            else:
                await jobs.settle(claimed, outcome(now_ms=jobs.world.now_ms))
        jobs.world.tick(400_000)
        if good:
            await jobs.submit()
    assert turned_away[0] == 0
    assert turned_away == sorted(turned_away)


async def test_the_attempts_are_kept(jobs: Jobs, tmp_path: Any, store_name: str) -> None:
    """One row a call, those that never went out too."""
    await jobs.endpoint()
    await jobs.many(1)
    await jobs.settle(await jobs.one(), outcome(kind="not_sent", sent=False))
    jobs.world.tick(10_000)
    await jobs.settle(await jobs.one(), outcome(200))
    rows = LOOKERS[store_name](
        tmp_path / "0", "SELECT run, n, outcome, status_code, process FROM job_attempts ORDER BY n"
    )
    assert rows == [
        (1, 1, "not_sent", None, "process-1"),
        (1, 2, "answered", 200, "process-1"),
    ]


async def test_bodies_are_sealed_where_payloads_are(
    build: Build, tmp_path: Any, store_name: str
) -> None:
    """Inputs, outputs and the headers of options; each bound to its place."""
    key = f"k1:{base64.b64encode(os.urandom(32)).decode()}"
    jobs = Jobs(await build(encryption_keys=key, encrypt_payloads="on"))
    await jobs.endpoint()
    await jobs.submit(b"an input", headers=(("X-Secret", "a header"),))
    claimed = await jobs.one()
    assert claimed.body == b"an input"
    assert claimed.options.headers == (("X-Secret", "a header"),)
    await jobs.settle(claimed, outcome(body=b"an output"))
    job = await jobs.get(claimed.id, output=True)
    assert job.output is not None
    assert job.output.body == b"an output"
    look = LOOKERS[store_name]
    for table in ("inputs", "outputs"):
        ((body, kid),) = look(tmp_path / "0", f"SELECT body, kid FROM {table}")
        assert kid == "k1"
        assert b"an " not in bytes(body)
    ((options,),) = look(tmp_path / "0", "SELECT options FROM jobs")
    assert "a header" not in options


async def test_calls_that_we_cannot_make_fill_no_history(jobs: Jobs) -> None:
    """However often a job is tried while something of ours is lacking: of those in a row the last
    is kept; calls that were made, or met something else, all are."""
    await jobs.endpoint()
    submitted = await jobs.submit()
    lacking = replace(outcome(kind="interrupted", sent=False), lack="keys")
    for met in (
        *[lacking] * 3,
        outcome(kind="not_sent", sent=False),
        outcome(kind="not_sent", sent=False),
        *[lacking] * 2,
        outcome(429),
        lacking,
    ):
        jobs.world.tick(600_000)
        await jobs.settle(await jobs.one(), met)
    history = await jobs.store.attempts(TENANT, submitted.id)
    assert [(one.n, one.outcome) for one in history] == [
        (3, "interrupted"),
        (4, "not_sent"),
        (5, "not_sent"),
        (7, "interrupted"),
        (8, "answered"),
        (9, "interrupted"),
    ]
