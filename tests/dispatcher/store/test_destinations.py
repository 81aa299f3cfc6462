"""Destinations: registered or known by their URL, shown with the health of their lanes."""

import pytest

from dispatcher.policy import PRESETS
from dispatcher.store.errors import Conflict, NotFound, NotYet
from tests.dispatcher.store.builders import DAY_MS, SERVER, TENANT, URL, World, raises


async def test_a_registered_destination_reads_back_by_id_and_by_name(world: World) -> None:
    made = await world.register(
        "named", headers=(("X-A", "1"),), policy="runpod", concurrency=3, rate_per_second=2.5
    )
    assert await world.destination("named") == made
    assert await world.destination(made.id) == made
    assert (made.name, made.url, made.headers) == ("named", URL, (("X-A", "1"),))
    assert (made.policy, made.concurrency, made.rate_per_second) == ("runpod", 3, 2.5)
    assert (made.paused, made.disabled_reason, made.backlog, made.sending) == (False, None, 0, 0)
    assert made.id in {one.destination for one in await world.store.secrets(TENANT)}


async def test_a_name_is_taken_once_per_tenant(world: World) -> None:
    await world.register("named")
    await raises(Conflict, world.register("named", url=URL + "/other"))
    assert (await world.destination("named")).url == URL
    theirs = await world.register("named", tenant="other", url=URL + "/theirs")
    assert (await world.destination("named", "other")).id == theirs.id
    assert (await world.destination("named")).id != theirs.id


async def test_a_server_is_a_destination_from_its_first_callback_on(world: World) -> None:
    """Whatever the paths: `last_url` is the last one used."""
    await raises(NotFound, world.destination())
    await world.submit("a", handover=True)
    await world.submit("b")
    await world.submit("c", url=URL + "/job-c?token=1")
    for which in (URL, SERVER, SERVER + "/other"):
        shown = await world.destination(which)
        assert (shown.name, shown.url, shown.backlog, shown.sending) == (None, SERVER, 2, 1)
        assert shown.last_url == URL + "/job-c?token=1"


async def test_pages_are_in_the_order_of_ids_and_of_one_tenant_only(world: World) -> None:
    for n in range(5):
        await world.register(f"n{n}")
        await world.register(f"n{n}", tenant="other")
    seen, after = [], None
    while True:
        found, after = await world.store.destinations(TENANT, after=after, limit=2)
        seen += [one.id for one in found]
        if after is None:
            break
    assert seen == sorted({(await world.destination(f"n{n}")).id for n in range(5)})


@pytest.mark.parametrize("verb", ["get", "change", "remove"])
async def test_another_tenants_destination_is_unknown(world: World, verb: str) -> None:
    """I9: by name, by id and by URL."""
    theirs = await world.register("named", tenant="other")
    await world.submit("a", tenant="other")
    for which in ("named", theirs.id, URL):
        if verb == "get":
            await raises(NotFound, world.destination(which))
        elif verb == "change":
            await raises(NotFound, world.change(which, paused=True))
        else:
            await raises(
                NotFound, world.store.remove_destination(TENANT, which, now_ms=world.now_ms)
            )
    assert (await world.destination("named", "other")) == theirs


async def test_changes_mend_the_backlog_too(world: World) -> None:
    """A registered destination's own URL, headers and policy apply at send time."""
    await world.register("named")
    await world.submit("a", name="named")
    await world.change("named", url=URL + "/new", headers=(("X-B", "2"),), policy="cerebrium")
    one = await world.one()
    assert (one.url, one.headers) == (URL + "/new", (("X-B", "2"),))
    assert one.policy == PRESETS["cerebrium"]


async def test_a_change_changes_only_what_it_names(world: World) -> None:
    before = await world.register("named", concurrency=3, rate_per_second=9.0, policy="runpod")
    after = await world.change("named", paused=True)
    for field in ("url", "policy", "headers", "concurrency", "rate_per_second", "created_ms"):
        assert getattr(after, field) == getattr(before, field)
    assert (after.paused, after.held_reason) == (True, "paused")


async def test_a_changed_concurrency_holds_from_the_next_claim_on(world: World) -> None:
    await world.many(20)
    await world.change(concurrency=3)
    assert len(await world.claim()) == 3
    await world.change(concurrency=None)
    await world.many(1, "more")
    assert (await world.destination()).concurrency is None


async def test_a_lane_made_after_the_change_has_the_changed_limits(world: World) -> None:
    await world.register("named")
    await world.change("named", concurrency=2, paused=True)
    await world.many(5, name="named")
    assert await world.claim() == []
    await world.change("named", paused=False)
    assert len(await world.claim()) == 2


async def test_removing_forgets_the_secret_and_ends_the_backlog(world: World) -> None:
    made = await world.register("named")
    ids = await world.many(3, name="named")
    await world.store.remove_destination(TENANT, "named", now_ms=world.now_ms)
    await raises(NotFound, world.destination("named"))
    assert (await world.store.destinations(TENANT, after=None, limit=10))[0] == []
    assert made.id not in {one.destination for one in await world.store.secrets(TENANT)}
    assert await world.claim() == []
    await world.store.expire(now_ms=world.now_ms, limit=10)
    assert await world.states(ids) == ["dead"] * 3
    assert (await world.get(ids[0])).destination_name == "named"


async def test_a_removed_name_can_be_registered_anew_once_its_backlog_has_ended(
    world: World,
) -> None:
    """I2: nothing of the old backlog is stranded, or goes to the new owner of the name."""
    await world.register("named")
    ids = await world.many(2, name="named")
    running = await world.one()
    await world.store.remove_destination(TENANT, "named", now_ms=world.now_ms)
    await raises(NotYet, world.register("named", url=URL + "/new"))
    await world.store.expire(now_ms=world.now_ms, limit=10)
    await raises(NotYet, world.register("named", url=URL + "/new"))
    assert await world.settle(running, "pending")
    await world.store.expire(now_ms=world.now_ms, limit=10)
    await world.register("named", url=URL + "/new")
    assert await world.states(ids) == ["dead", "dead"]
    await world.submit("new", name="named")
    assert [one.url for one in await world.claim()] == [URL + "/new"]


async def test_what_an_operator_set_on_a_url_outlives_its_idle_lane(world: World) -> None:
    await world.ended("a")
    await world.change(paused=True)
    await world.store.repair_lanes(now_ms=world.tick(2 * DAY_MS), after="", limit=10)
    assert (await world.destination()).paused
    await world.submit("b")
    assert await world.claim() == []


async def test_a_backlog_is_counted_to_a_bound_and_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.store.destinations.COUNTED_MAX", 6)
    await world.many(4)
    await world.many(1, url="http://other.test/")
    shown = await world.destination()
    assert (shown.backlog, shown.backlog_exactly) == (4, True)
    listed, _ = await world.store.destinations(TENANT, after=None, limit=10)
    found = {one.url: (one.backlog, one.backlog_exactly) for one in listed}
    assert found == {SERVER: (3, False), "http://other.test:80": (1, True)}
