"""One job, from its submit to the customer's receiver, on real sockets and both databases."""

import asyncio
import json
from base64 import b64encode
from typing import Any

import pytest

from dispatcher.jobs.endpoint import Keep
from dispatcher.jobs.values import ClaimedJob, JobClaimRequest, JobSettlement, SettledJob
from dispatcher.store.errors import NotFound, StoreUnavailable
from dispatcher.values import SecretRef
from receiver.base.clock import now_ms
from receiver.signature import verify
from tests.dispatcher.gateway.rig import running, sink, spelled, told_at, upstream


async def test_a_job_is_run_and_its_end_is_told(database: str) -> None:
    """Submit, call, completed, and a callback that the receiver verifies: in two commits and two
    requests."""
    async with upstream() as model, sink() as customer, running(database) as world:
        await world.endpoint(model.url)
        taken = await world.submit(callback=told_at(customer))
        assert taken.state == "running"  # handed straight over
        ((headers, body),) = await customer.received(1)
        told = json.loads(body)
        assert (told["jobId"], told["status"]) == (f"job_{taken.id}", "completed")
        assert (told["output"], told["run"], told["endpoint"]) == ({"answer": 42}, 1, "ep")
        assert headers["x-postback-job-id"] == f"job_{taken.id}"
        assert (headers["x-postback-job-status"], headers["x-postback-job-run"]) == (
            "completed",
            "1",
        )
        ((called, sent),) = model.calls
        assert sent == b'{"prompt":"a"}'
        assert called["x-job-id"] == called["idempotency-key"] == f"job_{taken.id}"
        job = await world.get(taken.id, output=True)
        assert (job.state, job.calls, job.status_code) == ("completed", 1, 200)
        assert job.output is not None
        assert job.output.body == b'{"answer":42}'
        assert job.callback == headers["webhook-id"]
        await world.until_idle()
        assert world.figure("job_calls_total", endpoint="ep", state="completed") == 1


async def test_calls_are_signed(database: str) -> None:
    """An upstream can verify our calls, by the secret of its endpoint."""
    async with upstream() as model, running(database) as world:
        await world.endpoint(model.url)
        await world.submit()
        await model.reached(1)
        ((called, sent),) = model.calls
        now_s = int(called["webhook-timestamp"])
        (signs,) = await world.service.gateway.secrets.all_of("ep")
        assert verify(sent, called, signs.value, now_s=now_s, require="standard")


async def test_more_than_may_run_at_once_wait_and_are_claimed(database: str) -> None:
    """Capacity is exact: never more calls are open than the endpoint's concurrency."""
    async with upstream() as model, running(database) as world:
        await world.endpoint(model.url, concurrency=3, adaptive=False)
        model.go.clear()
        ids = [(await world.submit()).id for _ in range(12)]
        await model.reached(3)
        model.go.set()
        for id in ids:
            await world.until_state(id, "completed")
        assert model.most == 3
        assert model.by_job.keys() == spelled(ids)
        assert set(model.by_job.values()) == {1}


async def test_jobs_take_no_slots_of_deliveries(database: str) -> None:
    """Thousands of idle calls never eat the deliveries' slots; there are as many places as are set,
    and an endpoint leaves some of them for others."""
    async with upstream() as model, running(database, slots=4, job_places=20) as world:
        await world.endpoint(model.url, concurrency=50, adaptive=False)
        await world.endpoint(model.url, "other")
        model.go.clear()
        for _ in range(30):
            await world.submit()
        await model.reached(18)
        other = await world.submit(at="other")
        await model.until(lambda one: f"job_{other.id}" in one.by_job)
        assert world.service.engine.in_flight == 0
        assert world.service.gateway.engine.running <= 20
        model.go.set()
        await model.reached(31)
        assert model.most <= 20


async def test_an_input_takes_memory_until_its_request_is_out(database: str) -> None:
    """However long its call lasts: other inputs are not kept waiting for its end."""
    async with upstream() as model, running(database, job_bytes_max=2 * 2**20) as world:
        await world.endpoint(model.url, concurrency=10, adaptive=False)
        model.go.clear()
        ids = [(await world.submit(b"x" * 2**20)).id for _ in range(6)]
        await model.reached(6)
        assert model.most == 6
        model.go.set()
        for id in ids:
            await world.until_state(id, "completed")
        assert all(body == b"x" * 2**20 for _, body in model.calls)


async def test_a_large_input_goes_out_again_with_the_next_call(database: str) -> None:
    """What was sent is not kept for another call: that one has it from the database."""
    async with upstream(status=502) as model, running(database) as world:
        await world.endpoint(model.url, retry={"base": 0.01})
        taken = await world.submit(b"x" * 2**20)
        await model.reached(2)
        model.status = 200
        await world.until_state(taken.id, "completed")
        assert {len(body) for _, body in model.calls} == {2**20}


async def test_a_failed_job_is_told_with_the_upstreams_words(database: str) -> None:
    """Another answer is the job's end; the body is the error."""
    async with (
        upstream(status=422, body=b"no such style") as model,
        sink() as customer,
        running(database) as world,
    ):
        await world.endpoint(model.url)
        taken = await world.submit(callback=told_at(customer))
        ((headers, body),) = await customer.received(1)
        assert json.loads(body)["status"] == headers["x-postback-job-status"] == "failed"
        job = await world.get(taken.id)
        assert (job.state, job.reason, job.status_code) == ("failed", "rejected", 422)


async def test_the_rules_are_those_of_the_moment(database: str) -> None:
    """A change acts on the backlog: what waits is called by the rules of when it is called."""
    async with upstream() as old, upstream() as new, running(database) as world:
        made = await world.endpoint(old.url, concurrency=1, adaptive=False)
        old.go.clear()
        await world.submit()
        waiting = await world.submit()
        await old.reached(1)
        await world.change(made, url=new.url)
        old.go.set()
        await world.until_state(waiting.id, "completed")
        assert (len(old.calls), len(new.calls)) == (1, 1)


async def test_what_is_not_sent_waits_and_costs_nothing(database: str) -> None:
    """A refused connection spends no try, and the job goes when its upstream is there."""
    async with running(database) as world:
        await world.endpoint("http://127.0.0.1:9/run", attempts=1, retry={"base": 0.05})
        taken = await world.submit()

        async def is_back() -> bool:
            job = await world.get(taken.id)
            return job.state == "queued" and job.calls == 0

        await world.until(is_back)
        async with upstream() as model:
            made = await world.service.store.jobs.endpoint("ep")
            await world.change(made, url=model.url)
            job = await world.until_state(taken.id, "completed")
            assert job.calls == 1


async def test_an_end_that_cannot_be_stored_is_stored_later(database: str) -> None:
    """Our lack is never charged to the job: the answer is kept until the database takes it, and
    its callback goes out."""
    async with upstream() as model, sink() as customer, running(database) as world:
        await world.endpoint(model.url)
        jobs, failures = world.service.store.jobs, 3
        settle = jobs.settle

        async def fails(settlement: JobSettlement, **more: Any) -> SettledJob:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise StoreUnavailable("away") if failures % 2 else ValueError("odd")
            return await settle(settlement, **more)

        setattr(jobs, "settle", fails)  # noqa: B010
        taken = await world.submit(callback=told_at(customer))
        await customer.received(1)
        job = await world.get(taken.id)
        assert (job.state, job.calls) == ("completed", 1)
        assert len(model.calls) == 1


async def test_a_job_of_which_nothing_can_be_stored_still_ends(database: str) -> None:
    """Whatever refuses at the end, the job does not run for ever: its output is given up first."""
    async with upstream() as model, running(database) as world:
        await world.endpoint(model.url)
        settle = world.service.store.jobs.settle

        async def picky(settlement: JobSettlement, **more: Any) -> SettledJob:
            if settlement.outcome.output is not None:
                raise ValueError("this output cannot be stored")
            return await settle(settlement, **more)

        setattr(world.service.store.jobs, "settle", picky)  # noqa: B010
        taken = await world.submit()
        job = await world.until_state(taken.id, "failed")
        assert job.reason == "storage"


async def test_a_header_that_cannot_be_made_keeps_the_job_waiting(database: str) -> None:
    """A stored secret that is not there is our own lack: it spends no try and is told, and the job
    goes when it is stored."""
    async with upstream() as model, running(database) as world:
        headers = (("Authorization", SecretRef("token", "Bearer ")),)
        await world.endpoint(model.url, headers=headers, attempts=1)
        taken = await world.submit()

        async def is_back() -> bool:
            job = await world.get(taken.id)
            return job.state == "queued" and world.figure("own_faults_total") == 1

        await world.until(is_back)
        assert world.figure("own_faults_total", lack="stored_secrets") == 1
        store = world.service.store
        await store.store_secret("", "token", "t-1", now_ms=now_ms())
        world.service.secrets.forget("")
        job = await world.until_state(taken.id, "completed")
        assert (job.calls, model.calls[0][0]["authorization"]) == (1, "Bearer t-1")


async def test_without_a_beat_nothing_is_started(database: str) -> None:
    """A process that could not beat for three quarters of a lease starts nothing new: what comes
    is stored, and waits."""
    async with upstream() as model, running(database) as world:
        await world.endpoint(model.url)
        engine = world.service.gateway.engine
        may_start, engine._may_start = engine._may_start, lambda: False
        taken = await world.submit()
        assert taken.state == "queued"
        engine.wake()
        await asyncio.sleep(0.2)
        assert model.calls == []
        engine._may_start = may_start
        await world.until_state(taken.id, "completed")


async def test_a_job_of_a_removed_endpoint_is_cancelled(database: str) -> None:
    async with upstream() as model, sink() as customer, running(database) as world:
        await world.endpoint(model.url, concurrency=1, adaptive=False)
        model.go.clear()
        runs = await world.submit(callback=told_at(customer))
        waits = await world.submit(callback=told_at(customer))
        await model.reached(1)
        await world.service.store.jobs.remove_endpoint("ep", now_ms=now_ms())
        cancelled = await world.until_state(waits.id, "cancelled")
        assert cancelled.reason == "endpoint_removed"
        model.go.set()
        await world.until_state(runs.id, "completed")
        await customer.received(2)


async def test_what_waits_for_too_long_is_told_so(database: str) -> None:
    """Expired: held or not, and never called."""
    async with sink() as customer, running(database) as world:
        await world.endpoint("http://127.0.0.1:9/run", queue_timeout=0.3)
        taken = await world.submit(callback=told_at(customer), queue_s=0.3)
        job = await world.until_state(taken.id, "timeout")
        assert job.reason == "expired"
        ((headers, _),) = await customer.received(1)
        assert headers["x-postback-job-status"] == "timeout"


async def test_a_job_whose_end_cannot_be_told_still_ends(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with it: the job does not run for ever."""

    def fails(*_: object, **__: object) -> None:
        raise ValueError("this end cannot be told")

    monkeypatch.setattr("dispatcher.gateway.ends.callback_of", fails)
    async with upstream() as model, sink() as customer, running(database) as world:
        await world.endpoint(model.url)
        taken = await world.submit(callback=told_at(customer))
        assert (await world.until_state(taken.id, "completed")).callback is None


async def test_jobs_go_when_their_time_is_over(database: str) -> None:
    """`keep` counts from the end: nothing is left of a job then, and what runs is not touched."""
    keep = Keep(input=0.1, output=0.1, job=0.1)
    async with upstream() as model, running(database) as world:
        await world.endpoint(model.url, keep=keep)
        taken = await world.submit()
        await world.until_state(taken.id, "completed")

        async def is_gone() -> bool:
            try:
                await world.get(taken.id)
            except NotFound:
                return True
            return False

        await world.until(is_gone)
        assert world.figure("jobs_pruned_total") >= 1
        assert world.figure("job_queues_repaired_total") == 0


async def test_what_may_not_start_here_is_not_asked_for_without_end(database: str) -> None:
    """An endpoint that leaves the last places to others, for hours: its queue costs a few claims a
    second, and another one's job starts all the same."""
    async with upstream() as model, running(database, job_places=20) as world:
        await world.endpoint(model.url, concurrency=50, adaptive=False)
        await world.endpoint(model.url, "other", concurrency=1, adaptive=False)
        model.go.clear()
        for _ in range(40):
            await world.submit()
        await model.reached(18)
        claims, claim = 0, world.service.store.jobs.claim

        async def counted(request: JobClaimRequest) -> list[ClaimedJob]:
            nonlocal claims
            claims += 1
            return await claim(request)

        setattr(world.service.store.jobs, "claim", counted)  # noqa: B010
        await asyncio.sleep(2.0)
        assert claims <= 15
        other = await world.submit(at="other")
        await model.until(lambda one: f"job_{other.id}" in one.by_job)


async def test_an_input_that_no_key_opens_waits_and_is_told(database: str) -> None:
    """Our own lack: nothing goes out, no try is spent, and `/readyz` says what is missing; the job
    goes once the key is back."""
    other = f"k2:{b64encode(bytes(range(1, 33))).decode()}"
    async with upstream() as model:
        async with running(database, encrypt_payloads="on") as world:
            await world.endpoint(model.url)
            await world.service.store.jobs.set_paused("ep", paused=True, now_ms=now_ms())
            taken = await world.submit()
        async with running(database, encryption_keys=other) as world:
            await world.service.store.jobs.set_paused("ep", paused=False, now_ms=now_ms())

            async def is_told() -> bool:
                return world.service.gateway.engine.missing_key() is not None

            await world.until(is_told)
            assert world.figure("own_faults_total", lack="keys") >= 1
            job = await world.until_state(taken.id, "queued")
            assert (job.calls, model.calls) == (0, [])
        async with running(database) as world:
            upkeep = world.service.gateway.upkeep
            upkeep._put_off_ms = 0  # it waits for a minute, and is looked at now
            await world.until_state(taken.id, "completed")
