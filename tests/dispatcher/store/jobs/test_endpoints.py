"""Endpoints: made, changed, paused and removed, with what their rules do to the backlog."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dispatcher.jobs.endpoint import LocalRef, dump_rules
from dispatcher.store.errors import Conflict, EndpointChanged, NotFound, NotYet
from dispatcher.values import SecretRef
from tests.dispatcher.store.builders import LOOKERS, T0, TENANT, raises, secret
from tests.dispatcher.store.jobs.builders import EP, Jobs, endpoint, outcome


async def test_what_is_written_is_read_back(jobs: Jobs) -> None:
    """All rules, those that are not the default, and headers that name secrets."""
    rules: dict[str, Any] = {
        "concurrency": 7,
        "rate": 2.5,
        "busy": frozenset({429, 503}),
        "tenants": ("acme", "other"),
        "headers": (
            ("Authorization", SecretRef("token", "Bearer ")),
            ("X-Local", LocalRef("env", "DISPATCHER_UPSTREAM_TOKEN")),
            ("X-Plain", "a"),
        ),
    }
    made = await jobs.endpoint(**rules)
    assert made.rules == endpoint(**rules).rules
    assert await jobs.store.endpoint(EP) == made
    assert await jobs.store.endpoints() == [made]
    assert made.created_ms == T0


async def test_headers_are_sealed_at_rest(jobs: Jobs, tmp_path: Path, store_name: str) -> None:
    """An endpoint's headers are in no file as they stand, where there are keys."""
    await jobs.endpoint(headers=(("X-Plain", "a-plain-value"),))
    if store_name == "sqlite":  # which makes itself a key
        ((stored,),) = LOOKERS[store_name](tmp_path / "0", "SELECT rules FROM endpoints")
        assert stored.startswith("enc1:")


async def test_a_name_is_taken_once(jobs: Jobs) -> None:
    await jobs.endpoint()
    now_ms = jobs.world.now_ms
    await raises(Conflict, jobs.store.put_endpoint(endpoint(), create=True, now_ms=now_ms))
    other = endpoint("other")
    await raises(NotFound, jobs.store.put_endpoint(other, create=False, now_ms=now_ms))
    await raises(NotFound, jobs.store.endpoint("other"))
    await raises(NotFound, jobs.store.set_paused("other", paused=True, now_ms=now_ms))
    await raises(NotFound, jobs.store.remove_endpoint("other", now_ms=now_ms))


async def test_a_change_acts_on_the_backlog(jobs: Jobs) -> None:
    """Rules are read when a job is claimed, not frozen in it."""
    await jobs.endpoint(concurrency=1)
    await jobs.many(4)
    assert len(await jobs.claim()) == 1
    await jobs.change(concurrency=3)
    assert len(await jobs.claim()) == 2


async def test_another_upstream_forgets_what_was_learned_of_the_last(jobs: Jobs) -> None:
    """An open circuit and a hold end with the URL that they were about, and what is out teaches
    nothing of the next."""
    await jobs.endpoint(concurrency=2)
    await jobs.many(3)
    first, second = await jobs.claim()
    await jobs.settle(first, outcome(429, retry_after_ms=60_000))
    assert await jobs.claim() == []
    changed = await jobs.store.put_endpoint(
        endpoint(concurrency=2, method="PUT"), create=False, now_ms=jobs.world.now_ms
    )
    assert changed.epoch > first.epoch
    await jobs.settle(second, outcome(429, retry_after_ms=60_000))
    assert len(await jobs.claim()) == 1  # what was turned away waits for a time of its own


async def test_a_paused_endpoint_starts_nothing(jobs: Jobs) -> None:
    """Neither by claims nor by hand-over; what is submitted waits, and goes on when it is
    resumed."""
    await jobs.endpoint()
    paused = await jobs.store.set_paused(EP, paused=True, now_ms=jobs.world.now_ms)
    assert paused.paused
    ids = [(await jobs.submit(handover=True)).id for _ in range(2)]
    assert await jobs.claim() == []
    resumed = await jobs.store.set_paused(EP, paused=False, now_ms=jobs.world.now_ms)
    assert not resumed.paused
    assert [one.id for one in await jobs.claim()] == ids


@pytest.mark.parametrize("changes", [(True, False), (False,)])
async def test_resuming_ends_a_hold(jobs: Jobs, changes: Sequence[bool]) -> None:
    """Also of an endpoint that nobody had paused."""
    await jobs.endpoint(concurrency=1)
    await jobs.many(2)
    await jobs.settle(await jobs.one(), outcome(429, retry_after_ms=600_000))
    assert await jobs.claim() == []
    for paused in changes:
        await jobs.store.set_paused(EP, paused=paused, now_ms=jobs.world.now_ms)
    assert len(await jobs.claim()) == 1


async def test_a_removed_endpoint_takes_nothing_and_its_backlog_is_cancelled(jobs: Jobs) -> None:
    """With a callback each, in slices; what runs goes on, and then the name is free."""
    world = jobs.world
    await jobs.endpoint(concurrency=1)
    await jobs.endpoint("ep-2")
    running = (await jobs.submit(handover=True)).claimed
    assert running is not None
    waiting = await jobs.many(5)
    await jobs.store.remove_endpoint(EP, now_ms=world.now_ms)
    await raises(NotFound, jobs.submit())
    await raises(NotFound, jobs.store.endpoint(EP))
    assert [one.name for one in await jobs.store.endpoints()] == ["ep-2"]
    assert await jobs.claim() == []
    again = jobs.store.put_endpoint(endpoint(), create=True, now_ms=world.now_ms)
    await raises(NotYet, again)
    assert await jobs.purged(limit=3) == [3, 2, 0]
    assert await jobs.states(waiting) == ["cancelled"] * 5
    assert (await jobs.get(waiting[0])).reason == "endpoint_removed"
    assert (await jobs.settle(running)).recorded
    assert await jobs.purged(limit=3) == [0, 0]
    await jobs.endpoint()
    assert (await jobs.get(running.id)).state == "completed"
    assert [one.tenant for one in await jobs.callbacks()] == []  # nobody asked to be told


async def test_a_removed_endpoint_whose_call_goes_on_holds_no_other_up(jobs: Jobs) -> None:
    """The backlog of the next one is ended, and its name is free, however long that takes."""
    now_ms = jobs.world.now_ms
    for name in ("ep-1", "ep-2"):
        await jobs.endpoint(name)
    running = (await jobs.submit(at="ep-1", handover=True)).claimed
    assert running is not None
    waiting = await jobs.many(2, at="ep-2")
    for name in ("ep-1", "ep-2"):
        await jobs.store.remove_endpoint(name, now_ms=now_ms)
    await jobs.purged()
    assert await jobs.states(waiting) == ["cancelled"] * 2
    await jobs.endpoint("ep-2")
    assert (await jobs.settle(running)).recorded


async def test_jobs_outlive_their_endpoint(jobs: Jobs) -> None:
    """They are shown as they ended; nothing runs them again, and they go with their tenant."""
    world, store = jobs.world, jobs.world.store
    await store.ensure_tenant(TENANT, secret(now_ms=world.now_ms))
    await jobs.endpoint()
    (id,) = await jobs.many(1)
    await jobs.settle(await jobs.one())
    await jobs.store.remove_endpoint(EP, now_ms=world.now_ms)
    assert await jobs.purged() == [0, 0]
    changed = await jobs.cancel(id)
    assert (changed.state, changed.changed) == ("completed", False)
    await raises(NotFound, jobs.retry(id, force=True))
    await store.begin_erasing(TENANT, now_ms=world.now_ms)
    assert await store.erase(TENANT, now_ms=world.now_ms, limit=10) == "going on"
    await raises(NotFound, jobs.get(id))


# --- changes of what was looked at ---


async def test_what_was_decided_by_a_look_is_stored_only_if_it_still_holds(jobs: Jobs) -> None:
    """Of two changes at once the later one is told so: nothing of the first is undone by it."""
    seen = await jobs.endpoint(concurrency=1)
    now_ms = jobs.world.now_ms
    first = replace(seen.rules, concurrency=5)
    changed = replace(seen, rules=first, text=dump_rules(first))
    made = await jobs.store.put_endpoint(changed, create=False, seen=seen, now_ms=now_ms)
    second = replace(seen.rules, rate=3.0)
    other = replace(seen, rules=second, text=dump_rules(second))
    late = jobs.store.put_endpoint(other, create=False, seen=seen, now_ms=now_ms)
    await raises(EndpointChanged, late)
    assert (await jobs.store.endpoint(EP)).rules == first
    both = replace(made.rules, rate=3.0)
    again = replace(made, rules=both, text=dump_rules(both))
    await jobs.store.put_endpoint(again, create=False, seen=made, now_ms=now_ms)
    assert (await jobs.store.endpoint(EP)).rules == both


async def test_who_manages_an_endpoint_is_looked_at_where_it_is_changed(jobs: Jobs) -> None:
    """One that comes from a file meanwhile is neither changed nor removed as one that does not."""
    seen = await jobs.endpoint()
    now_ms = jobs.world.now_ms
    managed = replace(seen, managed=True)
    await jobs.store.put_endpoint(managed, create=False, now_ms=now_ms)
    changed = jobs.store.put_endpoint(seen, create=False, seen=seen, now_ms=now_ms)
    await raises(EndpointChanged, changed)
    await raises(EndpointChanged, jobs.store.remove_endpoint(EP, managed=False, now_ms=now_ms))
    assert (await jobs.store.endpoint(EP)).managed
    await jobs.store.remove_endpoint(EP, managed=True, now_ms=now_ms)
    await raises(NotFound, jobs.store.endpoint(EP))
