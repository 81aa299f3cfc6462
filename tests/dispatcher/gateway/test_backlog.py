"""A change of an endpoint acts on what waits: its rules are those of when a call is made, but for
what the request itself said, and what was settled when the job was taken."""

import json
from typing import Any

import pytest

from dispatcher.jobs.values import Job
from receiver.base.clock import now_ms
from tests.dispatcher.gateway.rig import World, running, sink, told_at, upstream


async def changed_while_it_waits(
    world: World, url: str, before: dict[str, Any], after: dict[str, Any], **job: Any
) -> str:
    """Submit a job while its endpoint is paused, change that, and go on; returns the job's id."""
    await world.endpoint(url, **before)
    store = world.service.store.jobs
    paused = await store.set_paused("ep", paused=True, now_ms=now_ms())
    await world.service.gateway.book.reload()
    taken = await world.submit(**job)
    assert taken.state == "queued"
    await world.change(paused, **after)
    await store.set_paused("ep", paused=False, now_ms=now_ms())
    return taken.id


@pytest.mark.parametrize(
    ("before", "after", "limit_s"),
    [
        ({}, {"timeout": 0.3}, None),
        ({"timeout": 600.0}, {"timeout": 0.3}, None),
        ({"timeout": 600.0}, {"timeout_max": 0.3}, None),
        ({}, {"timeout_max": 0.3}, 600.0),
        ({"timeout": 600.0}, {"timeout": 700.0}, 0.3),
    ],
)
async def test_how_long_a_call_may_take(
    database: str, before: dict[str, Any], after: dict[str, Any], limit_s: float | None
) -> None:
    """`timeout` and `timeout_max` of the moment; a request's own limit stays its own, beneath what
    may be at most."""
    async with upstream() as model, running(database) as world:
        model.go.clear()
        id = await changed_while_it_waits(world, model.url, before, after, limit_s=limit_s)
        job = await world.until_state(id, "timeout", "failed", "completed")
        assert (job.state, job.reason) == ("timeout", "run_limit")


@pytest.mark.parametrize(
    ("status", "before", "after", "expected"),
    [
        (503, {}, {"delivery": "at-most-once"}, ("failed", "unknown_outcome")),
        (
            500,
            {"retry_codes": frozenset({500})},
            {"retry_codes": frozenset()},
            ("failed", "rejected"),
        ),
        (502, {"attempts": 9}, {"attempts": 1}, ("failed", "attempts")),
        (502, {}, {"repeat_within": 0.0}, ("failed", "unknown_outcome")),
        (200, {}, {"output_max": 3}, ("failed", "output_too_large")),
    ],
)
async def test_what_follows_from_a_call(
    database: str,
    status: int,
    before: dict[str, Any],
    after: dict[str, Any],
    expected: tuple[str, str],
) -> None:
    """Tries, what is tried again, how often a call is made, and how much is taken."""
    async with upstream(status=status) as model, running(database) as world:
        id = await changed_while_it_waits(world, model.url, before, after)
        job = await world.until_state(id, "failed", "completed")
        assert (job.state, job.reason) == expected
        assert len(model.calls) == 1


async def test_what_goes_out(database: str) -> None:
    """URL, method, headers and how the body is cut."""
    async with upstream() as old, upstream() as new, running(database) as world:
        after = {
            "url": f"{new.url}/{{function}}",
            "method": "PUT",
            "body": "input",
            "headers": (("X-Team", "new"),),
        }
        before = {"headers": (("X-Team", "old"), ("X-Old", "1"))}
        body = b'{"input":{"n":1.10}}'
        id = await changed_while_it_waits(world, old.url, before, after, body=body, function="draw")
        await world.until_state(id, "completed")
        ((headers, sent),) = new.calls
        assert sent == b'{"n":1.10}'
        assert (headers["x-team"], "x-old" in headers) == ("new", False)
        assert old.calls == []


async def test_how_many_run_at_once(database: str) -> None:
    """More at once, and fewer, from the next start on; a rate too."""
    async with upstream() as model, running(database) as world:
        made = await world.endpoint(model.url, concurrency=1, adaptive=False)
        model.go.clear()
        for _ in range(8):
            await world.submit()
        await model.reached(1)
        made = await world.change(made, concurrency=4)
        await model.until(lambda one: one.open == 4)
        made = await world.change(made, concurrency=1)
        model.go.set()
        await model.reached(8)
        assert model.most == 4
        await world.until_idle()
        await world.change(made, rate=0.001)
        model.go.clear()
        await world.submit()
        await model.reached(9)
        waiting = await world.submit()
        found = await world.service.store.jobs.waiting("default", waiting.id, now_ms=now_ms())
        assert found is not None


async def test_what_it_costs(database: str) -> None:
    """By the price of when it ran."""
    async with upstream() as model, sink() as customer, running(database) as world:
        await changed_while_it_waits(
            world,
            model.url,
            {"price_per_second": 1.0},
            {"price_per_second": 1_000_000.0},
            callback=told_at(customer),
        )
        ((_, body),) = await customer.received(1)
        assert json.loads(body)["cost"] > 1


async def test_where_and_how_its_end_is_told_is_settled_when_it_is_taken(database: str) -> None:
    """Nothing may refuse at the end: so a change of `callback` is for what comes after it. Until
    when a job may wait is told with it, and stays."""
    async with upstream() as model, sink() as customer, running(database) as world:
        id = await changed_while_it_waits(
            world,
            model.url,
            {"queue_timeout": 3_600.0},
            {"queue_timeout": 0.1},
            callback=told_at(customer),
        )
        job: Job = await world.until_state(id, "completed")
        assert job.expires_ms - job.created_ms == 86_400_000  # as the submit said
        await customer.received(1)
