"""Limits of a tenant, and its end: everything it has goes, slice by slice, and nothing else."""

from pathlib import Path
from typing import Any

import pytest

from dispatcher.filters import Filter
from dispatcher.ids import new_id
from dispatcher.store.errors import LimitReached, NotFound, TenantErasing
from dispatcher.store.tenants import HEARD_MS
from dispatcher.values import Key
from tests.dispatcher.store.builders import LOOKERS, T0, Ending, World, raises, secret
from tests.dispatcher.store.conftest import Build

TABLES = (
    "callbacks", "payloads", "tags", "attempts", "destinations", "lanes", "turns", "counts",
    "secrets", "keys", "replays", "aliases", "tenants",
)  # fmt: skip
OF_CALLBACKS = ("payloads", "attempts")


def key(tenant: str) -> Key:
    id = new_id("key", T0)
    return Key(
        id=id,
        digest=id.encode(),
        tenant=tenant,
        scopes=frozenset({"submit"}),
        label="",
        created_ms=T0,
    )


async def live(world: World, tenant: str) -> None:
    """Give a tenant something of everything."""
    await world.store.ensure_tenant(tenant, secret(tenant))
    await world.store.add_key(key(tenant))
    await world.register("billing", tenant=tenant)
    await world.register("gone", tenant=tenant)
    await world.store.remove_destination(tenant, "gone", now_ms=world.now_ms)
    for n in range(12):
        tags = {"team": "a"} if n % 2 else None
        await world.submit(f"old-{n}", tenant=tenant, url=f"http://h{n}.test/", tags=tags)
    for n, delivery in enumerate(await world.claim(8)):
        state: Ending = ("delivered", "dead", "pending")[n % 3]
        await world.settle(delivery, state, due_in_ms=1)
    world.tick()
    await world.store.make_replay(
        tenant, Filter(status="dead"), rate_per_second=None, now_ms=world.tick()
    )
    await world.submit("waiting", tenant=tenant, name="billing")


def left(folder: Path, store_name: str, tenant: str) -> dict[str, int]:
    """How many rows of the tenant each table has."""
    look = LOOKERS[store_name]
    found = {}
    for table in TABLES:
        of = f"tenant = '{tenant}'" if table != "tenants" else f"name = '{tenant}'"
        if table in OF_CALLBACKS:
            of = f"callback IN (SELECT id FROM callbacks WHERE tenant = '{tenant}')"
        ((found[table],),) = look(folder, f"SELECT count(*) FROM {table} WHERE {of}")
    return {table: n for table, n in found.items() if n}


async def erase(world: World, tenant: str, limit: int = 5) -> str:
    while True:
        came = await world.store.erase(tenant, now_ms=world.tick(), limit=limit)
        if came != "going on":
            return came


async def test_a_tenant_is_erased_with_all_that_it_has_and_no_other_is_touched(
    build: Build, store_name: str, tmp_path: Path
) -> None:
    world = await build()
    folder = tmp_path / "0"
    await live(world, "acme")
    await live(world, "other")
    before = left(folder, store_name, "other")
    assert set(before) >= set(TABLES) - {"aliases"}
    under_way = await world.claim(2)
    size = world.store.stored_bytes("other")

    marked = await world.store.begin_erasing("acme", now_ms=world.now_ms)
    assert marked.erasing_ms == world.now_ms
    assert [one.tenant for one in await world.store.keys()] == ["other"], "its keys end at once"
    again = await world.store.begin_erasing("acme", now_ms=world.tick())
    assert again == marked
    await raises(TenantErasing, world.store.change_tenant("acme", {"queue_max": 1}))
    await world.store.erase("acme", now_ms=world.now_ms, limit=5)

    # After a restart it goes on. What is being sent comes to its end before the rest goes.
    await world.reopen()
    assert await world.store.erasing() == ["acme"]
    assert await erase(world, "acme") == "waiting"
    for delivery in under_way:
        if delivery.tenant == "acme":
            assert await world.settle(delivery, "pending")
    assert await world.claim() != [], "others are served"
    assert await erase(world, "acme") == "waiting", "others may not have heard of it yet"
    world.tick(HEARD_MS)
    assert await erase(world, "acme") == "done"
    assert await erase(world, "acme") == "done"

    assert left(folder, store_name, "acme") == {}
    assert left(folder, store_name, "other") == before
    assert world.store.stored_bytes("acme") == 0
    assert world.store.stored_bytes("other") == size
    assert world.store.queued("acme") == 0
    assert await world.store.erasing() == []
    await raises(NotFound, world.store.begin_erasing("acme", now_ms=world.now_ms))
    # Parts of callbacks that are gone would be found by nobody.
    for part in (*OF_CALLBACKS, "tags"):
        sql = f"SELECT count(*) FROM {part} WHERE callback NOT IN (SELECT id FROM callbacks)"
        assert LOOKERS[store_name](folder, sql) == [(0,)]


async def test_a_tenant_that_is_erased_is_claimed_no_more(world: World) -> None:
    await live(world, "acme")
    await world.store.begin_erasing("acme", now_ms=world.now_ms)
    await world.store.erase("acme", now_ms=world.now_ms, limit=200)
    assert await world.claim() == []
    assert world.next_ready_ms() is None


async def test_limits_are_changed_and_go_back_to_the_default(world: World) -> None:
    await world.store.ensure_tenant("acme", secret("acme"))
    changes: dict[str, Any] = {
        "label": "Acme",
        "storage_bytes_max": 10,
        "queue_max": 0,
        "rate_per_second": 0.5,
    }
    changed = await world.store.change_tenant("acme", changes)
    assert {name: getattr(changed, name) for name in changes} == changes
    await world.reopen()
    assert list(await world.store.tenants()) == [changed]
    changed = await world.store.change_tenant("acme", {"storage_bytes_max": None})
    assert (changed.storage_bytes_max, changed.queue_max) == (None, 0)
    await raises(NotFound, world.store.change_tenant("nobody", {"queue_max": 1}))


async def test_a_tenant_has_no_more_destinations_than_it_may(build: Build) -> None:
    """Registered ones and servers; what is there goes on, other tenants too."""
    world = await build(tenant_destinations_max=3)
    await world.register("billing")
    await world.submit("1", url="http://one.test/")
    await world.submit("2", url="http://two.test/")
    await raises(LimitReached, world.submit("3", url="http://three.test/"))
    await raises(LimitReached, world.register("more"))
    await world.submit("4", url="http://one.test/another-path")
    await world.submit("5", name="billing")
    await world.submit("6", tenant="other", url="http://three.test/")
    # One that goes makes room, at the latest a second later.
    await world.store.remove_destination("acme", "billing", now_ms=world.now_ms)
    world.tick(1_000)
    await world.submit("3", url="http://three.test/")
    await raises(LimitReached, world.submit("7", url="http://four.test/"))


async def test_as_many_filtered_replays_run_as_may(build: Build) -> None:
    world = await build(tenant_replays_max=2)
    for tenant in ("acme", "other"):
        await world.ended("dead", "dead", tenant=tenant)
    world.tick()

    async def make(tenant: str = "acme") -> str:
        made = await world.store.make_replay(
            tenant, Filter(status="dead"), rate_per_second=1e-6, now_ms=world.tick()
        )
        return made.id

    first, _ = await make(), await make()
    error = await raises(LimitReached, make())
    assert "DISPATCHER_TENANT_REPLAYS_MAX" in str(error)
    await make("other")
    await world.store.cancel_replay("acme", first, now_ms=world.now_ms)
    await make()


async def test_of_replays_that_ended_the_newest_are_kept(
    build: Build, store_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.store.replays._KEPT", 3)
    world = await build()
    made = [
        await world.store.make_replay("acme", Filter(), rate_per_second=None, now_ms=world.tick())
        for _ in range(6)
    ]
    kept = LOOKERS[store_name](tmp_path / "0", "SELECT id FROM replays ORDER BY id")
    assert [row[0] for row in kept] == [one.id for one in made[-4:]][-len(kept) :]
    assert len(kept) <= 4
