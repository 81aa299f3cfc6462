"""Tenants, API keys and signing secrets."""

import asyncio

from dispatcher.ids import new_id
from dispatcher.store.errors import Conflict, NotFound
from dispatcher.values import Key
from tests.dispatcher.store.builders import DAY_MS, T0, TENANT, World, raises, secret


def key(label: str, tenant: str | None = None, now_ms: int = T0) -> Key:
    return Key(
        id=new_id("key", now_ms),
        digest=label.encode().ljust(32, b"."),
        tenant=tenant,
        scopes=frozenset({"read", "submit"}),
        label=label,
        created_ms=now_ms,
    )


async def test_a_tenant_comes_into_being_once_with_one_secret(world: World) -> None:
    first = secret()
    await world.store.ensure_tenant(TENANT, first)
    await asyncio.gather(*(world.store.ensure_tenant(TENANT, secret()) for _ in range(5)))
    await world.store.ensure_tenant("other", secret("other"))
    assert [one.name for one in await world.store.tenants()] == [TENANT, "other"]
    assert await world.store.secrets(TENANT) == [first]


async def test_keys_read_back_and_go_when_removed(world: World) -> None:
    mine, theirs = key("platform"), key("tenant", TENANT, T0 + 1)
    await world.store.add_key(mine)
    await world.store.add_key(theirs)
    await world.store.add_key(mine)
    assert list(await world.store.keys()) == [mine, theirs]
    assert await world.store.remove_key(mine.id) == mine
    assert list(await world.store.keys()) == [theirs]
    await raises(NotFound, world.store.remove_key(mine.id))


async def test_neither_keys_nor_secrets_show_in_a_repr(world: World) -> None:
    """I8."""
    one = secret()
    assert one.value not in repr(one)
    assert repr(key("label").digest) not in repr(key("label"))


async def rotate(world: World, *, force: bool = False, destination: str | None = None) -> str:
    new = secret(destination=destination, now_ms=world.now_ms)
    await world.store.rotate_secret(new, overlap_ms=DAY_MS, force=force, now_ms=world.now_ms)
    return new.id


async def test_a_rotated_secret_signs_beside_the_new_one_until_the_overlap_ends(
    world: World,
) -> None:
    first = secret()
    await world.store.ensure_tenant(TENANT, first)
    world.tick()
    second = await rotate(world)
    found = {one.id: one.expires_ms for one in await world.store.secrets(TENANT)}
    assert found == {second: None, first.id: world.now_ms + DAY_MS}
    assert [one.id for one in await world.store.secrets(TENANT)] == [second, first.id]


async def test_a_second_rotation_waits_for_the_overlap_unless_forced(world: World) -> None:
    first = secret()
    await world.store.ensure_tenant(TENANT, first)
    world.tick()
    second = await rotate(world)
    world.tick(DAY_MS - 1)
    before = await world.store.secrets(TENANT)
    await raises(Conflict, rotate(world))
    assert await world.store.secrets(TENANT) == before
    third = await rotate(world, force=True)
    assert {one.id for one in await world.store.secrets(TENANT)} == {second, third}
    world.tick(DAY_MS)
    fourth = await rotate(world)
    assert {one.id for one in await world.store.secrets(TENANT)} == {third, fourth}


async def test_a_destinations_secret_rotates_apart_from_its_tenants(world: World) -> None:
    named = await world.register("named")
    world.tick()
    await rotate(world)
    own = await rotate(world, destination=named.id)
    current = {
        one.destination: one.id for one in await world.store.secrets(TENANT) if not one.expires_ms
    }
    assert current[named.id] == own
    assert len(current) == 2


async def test_an_unknown_tenant_has_nothing_to_rotate(world: World) -> None:
    await raises(NotFound, rotate(world))
    assert await world.store.secrets(TENANT) == []


async def test_a_revealed_secret_says_when(world: World) -> None:
    one = secret()
    await world.store.ensure_tenant(TENANT, one)
    await world.store.mark_revealed(TENANT, one.id, by="key_1", now_ms=T0 + 5)
    (found,) = await world.store.secrets(TENANT)
    assert found.revealed_ms == T0 + 5
    await raises(
        NotFound, world.store.mark_revealed("other", one.id, by="key_1", now_ms=world.now_ms)
    )


async def test_secrets_and_keys_survive_reopening(world: World) -> None:
    one, platform = secret(), key("platform")
    await world.store.ensure_tenant(TENANT, one)
    await world.store.add_key(platform)
    await world.reopen()
    assert await world.store.secrets(TENANT) == [one]
    assert list(await world.store.keys()) == [platform]
