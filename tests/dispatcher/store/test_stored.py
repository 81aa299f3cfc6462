"""Secrets that are stored by name: sealed, bounded, of one owner, and not to be lost while a header
names them."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from dispatcher.store.errors import (
    Conflict,
    LimitReached,
    NoKeyring,
    NotFound,
    RedirectsSecret,
    UnknownSecret,
)
from dispatcher.store.stored import PLATFORM, USED_BY_MAX
from dispatcher.store.tenants import HEARD_MS
from dispatcher.store.tx import PLAIN
from dispatcher.values import DestinationHeaders, SecretRef
from tests.dispatcher.store.builders import FACTORIES, LOOKERS, T0, TENANT, World, raises, secret
from tests.dispatcher.store.conftest import Build
from tests.dispatcher.store.test_sealing import reencrypted
from tests.theft import KEY, NEXT_KEY

VALUE: Final = "test-value-that-nobody-reads"
OTHER: Final = "test-value-that-came-after-it"
NAMING: Final[DestinationHeaders] = (
    ("X-Team", "a"),
    ("Authorization", SecretRef("crm", "Bearer ")),
    ("X-Key", SecretRef("crm")),
)


@pytest.fixture
async def world(build: Build) -> World:
    return await build(encryption_keys=KEY)


@pytest.fixture
async def tenants(world: World) -> World:
    for tenant in (TENANT, "other"):
        await world.store.ensure_tenant(tenant, secret(tenant))
    return world


async def put(world: World, name: str, value: str = VALUE, owner: str = TENANT) -> bool:
    return await world.store.store_secret(owner, name, value, now_ms=world.now_ms)


async def value(world: World, name: str, owner: str = TENANT) -> str | None:
    found = (await world.store.stored_values(owner)).get(name)
    return None if found is None else found.value


async def names(world: World, owner: str = TENANT) -> list[str]:
    return [one.name for one in await world.store.stored_secrets(owner)]


async def test_one_is_stored_replaced_listed_and_deleted(tenants: World) -> None:
    """Listed without its value; what replaces it has its name and its age."""
    assert await put(tenants, "crm")
    tenants.tick(5)
    assert not await put(tenants, "crm", OTHER)
    assert await put(tenants, "billing")
    (billing, crm) = await tenants.store.stored_secrets(TENANT)
    assert (billing.name, crm.name) == ("billing", "crm")
    assert (crm.created_ms, crm.updated_ms, crm.uses) == (T0, T0 + 5, 0)
    assert await value(tenants, "crm") == OTHER
    for shown in (crm, await tenants.store.stored_values(TENANT)):
        assert OTHER not in repr(shown)
        assert VALUE not in repr(shown)
    assert (await tenants.store.forget_secret(TENANT, "crm", force=False)).name == "crm"
    assert await names(tenants) == ["billing"]
    await raises(UnknownSecret, tenants.store.forget_secret(TENANT, "crm", force=True))
    await raises(UnknownSecret, tenants.store.stored_secret(TENANT, "crm"))


async def test_it_outlives_the_process(tenants: World) -> None:
    await put(tenants, "crm")
    await put(tenants, "upstream", OTHER, PLATFORM)
    await tenants.reopen()
    assert await value(tenants, "crm") == VALUE
    assert await value(tenants, "upstream", PLATFORM) == OTHER


async def test_i9_every_owner_has_names_of_his_own(tenants: World) -> None:
    """Nobody counts, reads, replaces or deletes another's, nor the platform's."""
    for owner, mine in ((TENANT, "a"), ("other", "b"), (PLATFORM, "c")):
        assert await put(tenants, "same", VALUE + mine, owner)
    await put(tenants, "only", owner="other")
    await put(tenants, "only-platform", owner=PLATFORM)
    assert await names(tenants) == ["same"]
    assert await value(tenants, "same") == VALUE + "a"
    for theirs in ("only", "only-platform"):
        await raises(UnknownSecret, tenants.store.forget_secret(TENANT, theirs, force=True))
        await raises(
            UnknownSecret,
            tenants.register("r", headers=(("X-Key", SecretRef(theirs)),)),
        )
    await tenants.store.forget_secret(TENANT, "same", force=False)
    assert await value(tenants, "same", "other") == VALUE + "b"
    assert await value(tenants, "same", PLATFORM) == VALUE + "c"


async def test_i7_an_owner_has_so_many(build: Build) -> None:
    """Replacing one is possible all the same; the platform's count on their own."""
    world = await build(encryption_keys=KEY, tenant_secrets_max=2)
    await world.store.ensure_tenant(TENANT, secret())
    for owner in (TENANT, PLATFORM):
        await put(world, "a", owner=owner)
        await put(world, "b", owner=owner)
        error = await raises(LimitReached, put(world, "c", owner=owner))
        assert "DISPATCHER_TENANT_SECRETS_MAX" in str(error)
        assert not await put(world, "b", OTHER, owner)
    results = await asyncio.gather(
        world.store.forget_secret(TENANT, "a", force=False),
        *(put(world, f"n{n}") for n in range(4)),
        return_exceptions=True,
    )
    assert len(await names(world)) == 2, results


async def test_a_tenant_that_there_is_not_has_none(world: World) -> None:
    await raises(NotFound, put(world, "crm", owner="nobody"))


async def test_nothing_is_stored_plain(
    tenants: World, store_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealed where it stands; without keys it is refused, with the setting that it needs, and what
    is there says why it cannot be used."""
    await put(tenants, "crm")
    ((kept,),) = LOOKERS[store_name](tmp_path / "0", "SELECT value FROM stored_secrets")
    assert kept.startswith("enc1:")
    assert VALUE not in kept
    database: Any = tenants.store._database
    for part in (database, getattr(database, "_session", database)):
        monkeypatch.setattr(part, "sealing", PLAIN)
    for name in ("crm", "other"):
        error = await raises(NoKeyring, put(tenants, name))
        assert "DISPATCHER_ENCRYPTION_KEYS" in str(error)
    found = (await tenants.store.stored_values(TENANT))["crm"]
    assert found.value == ""
    assert found.unopened is not None
    assert "DISPATCHER_ENCRYPTION_KEYS" in found.unopened.message


async def test_a_destination_names_only_what_is_stored(tenants: World) -> None:
    """By registration and by change, each of which is refused whole."""
    error = await raises(UnknownSecret, tenants.register("crm", headers=NAMING))
    assert getattr(error, "name") == "crm"  # noqa: B009
    await raises(NotFound, tenants.destination("crm"))
    await tenants.register("crm", headers=(("X-Key", "plain"),))
    await raises(UnknownSecret, tenants.change("crm", headers=NAMING, paused=True))
    shown = await tenants.destination("crm")
    assert (shown.headers, shown.paused) == ((("X-Key", "plain"),), False)


async def test_who_names_it_is_told_and_keeps_it(tenants: World) -> None:
    """Until its headers name it no more, or it is removed."""
    await put(tenants, "crm")
    assert (await tenants.register("one", headers=NAMING)).headers == NAMING
    await tenants.register("two")
    await tenants.change("two", headers=NAMING)
    found = await tenants.store.stored_secret(TENANT, "crm")
    assert (found.uses, found.used_by) == (2, ("one", "two"))
    error = await raises(Conflict, tenants.store.forget_secret(TENANT, "crm", force=False))
    assert "one, two" in str(error)
    await tenants.change("one", headers=())
    await raises(Conflict, tenants.store.forget_secret(TENANT, "crm", force=False))
    await tenants.store.remove_destination(TENANT, "two", now_ms=tenants.now_ms)
    await tenants.store.forget_secret(TENANT, "crm", force=False)


async def test_i7_of_many_that_name_it_the_first_are_told(tenants: World) -> None:
    await put(tenants, "crm")
    for n in range(USED_BY_MAX + 2):
        await tenants.register(f"d{n:02}", headers=NAMING)
    found = await tenants.store.stored_secret(TENANT, "crm")
    assert (found.uses, len(found.used_by)) == (USED_BY_MAX + 2, USED_BY_MAX)
    error = await raises(Conflict, tenants.store.forget_secret(TENANT, "crm", force=False))
    assert "d19, …" in str(error)


async def test_deliveries_say_what_they_need_and_not_what_it_is(tenants: World) -> None:
    """Claimed, and handed over directly; with the callback's own headers behind."""
    await put(tenants, "crm")
    await tenants.register("crm", headers=NAMING)
    own = (("X-Team", "b"),)
    await tenants.submit("one", name="crm", headers=own)
    handed = await tenants.submit("two", name="crm", headers=own, handover=True)
    one = await tenants.one()
    for delivery in (one, handed.delivery or await tenants.one()):
        assert delivery.headers == (("X-Team", "a"), *own)
        assert delivery.secret_headers == NAMING[1:]
        assert VALUE not in repr(delivery)


async def test_another_url_needs_who_may_redirect_what_headers_name(tenants: World) -> None:
    """Whoever says where a secret is sent can read it."""
    await put(tenants, "crm")
    await tenants.register("crm", headers=NAMING)
    before = await tenants.destination("crm")
    elsewhere = "http://127.0.0.1:9/elsewhere"
    await raises(RedirectsSecret, tenants.change("crm", url=elsewhere, paused=True))
    assert await tenants.destination("crm") == before
    assert (await tenants.change("crm", url=before.url, paused=True)).paused
    changed = await tenants.change("crm", url=elsewhere, headers=())
    assert changed.url == elsewhere
    await tenants.change("crm", headers=NAMING)
    moved = await tenants.store.change_destination(
        TENANT, "crm", {"url": before.url}, redirects=True, now_ms=tenants.now_ms
    )
    assert moved.url == before.url


async def test_they_go_with_their_tenant(tenants: World) -> None:
    await put(tenants, "crm")
    await put(tenants, "crm", owner="other")
    await tenants.register("crm", headers=NAMING)
    await tenants.store.begin_erasing(TENANT, now_ms=tenants.now_ms)
    tenants.tick(HEARD_MS)
    while await tenants.store.erase(TENANT, now_ms=tenants.now_ms, limit=10) != "done":
        tenants.tick()
    assert await names(tenants) == []
    assert await names(tenants, "other") == ["crm"]
    await raises(NotFound, put(tenants, "crm"))


async def test_a_name_and_its_header_never_miss_each_other(tenants: World) -> None:
    """Registered and deleted at once: either it is named and kept, or gone and refused."""
    for n in range(20):
        await put(tenants, f"s{n}")
        naming: DestinationHeaders = (("X-Key", SecretRef(f"s{n}")),)
        registered, deleted = await asyncio.gather(
            tenants.register(f"d{n}", headers=naming),
            tenants.store.forget_secret(TENANT, f"s{n}", force=False),
            return_exceptions=True,
        )
        failed = [type(one) for one in (registered, deleted) if isinstance(one, Exception)]
        assert failed in ([UnknownSecret], [Conflict]), (registered, deleted)


async def test_they_are_sealed_again_with_a_new_key(
    tenants: World, store_name: str, tmp_path: Path
) -> None:
    """Nobody's is lost, the platform's neither; then the old key is not needed."""
    await put(tenants, "crm")
    await put(tenants, "crm", OTHER, PLATFORM)
    for keys in (f"{NEXT_KEY},{KEY}", NEXT_KEY):
        tenants.make = partial(FACTORIES[store_name], tmp_path / "0", {"encryption_keys": keys})
        await tenants.reopen()
        assert await value(tenants, "crm") == VALUE
        assert await value(tenants, "crm", PLATFORM) == OTHER
        if keys != NEXT_KEY:
            assert (await reencrypted(tenants)).unopened == 0
    kept = LOOKERS[store_name](tmp_path / "0", "SELECT value FROM stored_secrets")
    assert [one[:8] for (one,) in kept] == ["enc1:k2:"] * 2


async def test_i9_a_row_that_was_given_to_another_opens_nothing(tenants: World) -> None:
    """By somebody with a tool of his own: it is bound to its tenant."""
    await put(tenants, "crm")
    await put(tenants, "mine", owner="other")
    given = "UPDATE stored_secrets SET tenant = 'other' WHERE name = 'crm'"
    await tenants.store._write(lambda tx: tx.run(given))
    found = await tenants.store.stored_values("other")
    assert found["mine"].value == VALUE
    assert found["crm"].value == ""
    assert found["crm"].unopened is not None
    assert found["crm"].unopened.lack == "damage"
