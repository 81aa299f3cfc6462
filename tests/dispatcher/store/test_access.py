"""Tenants, API keys and signing secrets."""

import asyncio
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

from dispatcher.ids import new_id
from dispatcher.keys import Limits
from dispatcher.store.access import Rotation
from dispatcher.store.errors import Conflict, NotFound
from dispatcher.values import Key, KeyUse
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


# --- what keys are bound to, their rotation and their uses ---

BOUND = Limits(
    expires_ms=T0 + DAY_MS,
    networks=(ip_network("203.0.113.0/24"), ip_network("2001:db8::/32")),
    destinations=frozenset({"billing", "https://example.com:443"}),
    rate_per_second=0.25,
)


async def test_what_a_key_is_bound_to_reads_back(world: World) -> None:
    one = replace(key("bound"), limits=BOUND)
    await world.store.add_key(one)
    await world.reopen()
    assert list(await world.store.keys()) == [one]
    assert await world.store.key_of(one.digest) == one
    assert await world.store.key_of(b"?" * 32) is None


def rotation(world: World, digest: bytes, **changes: Any) -> Rotation:
    named: dict[str, Any] = {"overlap_ms": 1_000, "force": False, "expires_ms": None, **changes}
    return Rotation(digest=digest, now_ms=world.now_ms, **named)


async def test_a_rotated_key_keeps_all_but_its_text(world: World) -> None:
    one = replace(key("one"), limits=BOUND)
    await world.store.add_key(one)
    rotated = await world.store.rotate_key(one.id, rotation(world, b"2" * 32))
    assert rotated == replace(
        one,
        digest=b"2" * 32,
        previous_digest=one.digest,
        previous_until_ms=world.now_ms + 1_000,
    )
    assert list(await world.store.keys()) == [rotated]
    assert await world.store.key_of(b"2" * 32) == rotated
    await raises(NotFound, world.store.rotate_key("key_0", rotation(world, b"3" * 32)))


async def test_a_key_rotates_again_after_the_overlap_or_by_force(world: World) -> None:
    one = key("one")
    await world.store.add_key(one)
    await world.store.rotate_key(one.id, rotation(world, b"2" * 32))
    world.tick(999)
    await raises(Conflict, world.store.rotate_key(one.id, rotation(world, b"3" * 32)))
    forced = await world.store.rotate_key(one.id, rotation(world, b"3" * 32, force=True))
    assert forced.previous_digest == b"2" * 32
    world.tick(1_000)
    last = await world.store.rotate_key(
        one.id, rotation(world, b"4" * 32, expires_ms=T0 + 9 * DAY_MS)
    )
    assert last.limits.expires_ms == T0 + 9 * DAY_MS


async def test_of_rotations_at_once_one_succeeds(world: World) -> None:
    """Whoever made the others was told so, and handed out no text."""
    one = key("one")
    await world.store.add_key(one)
    came = await asyncio.gather(
        *(world.store.rotate_key(one.id, rotation(world, bytes([n]) * 32)) for n in range(5)),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in came) == ["Conflict"] * 4 + ["Key"]
    (stored,) = await world.store.keys()
    assert stored in came


async def test_the_text_before_lives_no_longer_than_it_would_have(world: World) -> None:
    one = replace(key("one"), limits=Limits(expires_ms=T0 + 500))
    await world.store.add_key(one)
    rotated = await world.store.rotate_key(
        one.id, rotation(world, b"2" * 32, expires_ms=T0 + DAY_MS)
    )
    assert rotated.previous_until_ms == T0 + 500


def used(id: str, at_ms: int, previous_ms: int | None = None) -> KeyUse:
    return KeyUse(key=id, used_ms=at_ms, previous_used_ms=previous_ms)


async def test_a_use_is_recorded_once_a_minute_whoever_records_it(world: World) -> None:
    """Never backwards; of a key that has gone, nothing. The use of a text before counts apart."""
    keys = [key(f"key-{n}", now_ms=T0 + n) for n in range(3)]
    for one in keys:
        await world.store.add_key(one)
    first, second, third = (one.id for one in keys)
    await world.store.mark_used([used(second, T0), used(first, T0), used("key_0", T0)])
    await world.store.mark_used([used(first, T0 + 59_999), used(second, T0 + 60_000, T0 + 60_000)])
    await world.store.mark_used([used(second, T0 + 60_001, T0 + 60_001), used(first, T0 - 90_000)])
    found = {one.key: one for one in await world.store.uses([first, second, third, "key_0"])}
    assert found == {
        first: used(first, T0),
        second: used(second, T0 + 60_000, T0 + 60_000),
        third: KeyUse(key=third, used_ms=None, previous_used_ms=None),
    }
    await world.store.mark_used([used(first, T0 + 61_000, T0 + 61_000)])
    await world.store.rotate_key(first, rotation(world, b"2" * 32))
    assert await world.store.uses([first]) == [used(first, T0 + 61_000)]
    assert await world.store.uses([]) == []
