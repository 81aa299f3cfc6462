"""What is sealed in the database (D19): it reads back with its key, in its place, and in no other;
what is plain reads as before; and all of it can be sealed again."""

import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dispatcher.settings import Settings
from dispatcher.store import open_store, reencrypt
from dispatcher.store.errors import CannotStart, CannotUnseal, NoKeyring
from dispatcher.store.reencrypt import Reencryption
from dispatcher.store.sealing import Counted, count, ring_of
from dispatcher.store.sqlite.key_file import key_file_of, make_key_file, read_key_file
from tests.dispatcher.postgres import folders
from tests.dispatcher.store.builders import FACTORIES, LOOKERS, TENANT, World, raises, secret
from tests.dispatcher.store.conftest import Build
from tests.theft import KEY, NEXT_KEY

HEADERS = (("Authorization", "Bearer of-the-customer"), ("X-Ü", "é"))
BODY = b'{"status":"completed","secret":"of-the-customer"}'
Look = Callable[[str], list[tuple[Any, ...]]]
Reopen = Callable[..., Awaitable[None]]


@pytest.fixture
def look(store_name: str, tmp_path: Path) -> Look:
    """Rows of the world's database, as another program sees them."""
    return partial(LOOKERS[store_name], tmp_path / "0")


@pytest.fixture
def reopen(store_name: str, tmp_path: Path) -> Reopen:
    """As after a restart with other settings."""

    async def reopening(world: World, **changes: Any) -> None:
        world.make = partial(FACTORIES[store_name], tmp_path / "0", changes)
        await world.reopen()

    return reopening


@pytest.fixture
def change(store_name: str, tmp_path: Path) -> Callable[[str], None]:
    """Write to the closed database, as somebody with a tool of his own does."""

    def changing(sql: str) -> None:
        connection: Any
        if store_name == "sqlite":
            connection = sqlite3.connect(tmp_path / "0" / "postback.db")
        else:
            connection = psycopg.connect(folders.url_for(tmp_path / "0", used=True))
        with closing(connection):
            connection.execute(sql)
            connection.commit()

    return changing


async def filled(world: World) -> str:
    """A tenant with a secret, a destination with its secret and headers, and a callback to it with
    headers of its own; returns its id."""
    await world.register("named", headers=HEADERS)
    submitted = await world.submit(name="named", url="", headers=HEADERS[:1], body=BODY)
    return submitted.id


async def all_is_there(world: World) -> None:
    secrets = await world.store.secrets(TENANT)
    assert [one.value.startswith("test-secret-") for one in secrets] == [True, True]
    assert (await world.destination("named")).headers == HEADERS
    delivery = await world.one()
    assert delivery.unopened is None
    assert delivery.body == BODY
    assert delivery.headers == HEADERS + HEADERS[:1]
    assert (await world.store.payload(TENANT, delivery.id)).body == BODY
    await world.store.release([delivery], now_ms=world.now_ms)


async def reencrypted(world: World) -> Reencryption:
    at = await world.store.begin_reencryption(now_ms=world.now_ms)
    assert await world.store.runs_reencryption()
    while at.place:
        at = await world.store.reencrypt(at, now_ms=world.now_ms)
    return await world.store.finish_reencryption(at, clean=True, now_ms=world.now_ms)


async def counted(world: World) -> dict[str, Counted]:
    """Of the kinds that there are."""
    return {one.what: one for one in await world.store._read(count) if one.total}


def stored(look: Look) -> dict[str, list[Any]]:
    return {
        "secrets": [row[0] for row in look("SELECT value FROM secrets")],
        "destinations": [row[0] for row in look("SELECT headers FROM destinations")],
        "callbacks": [row[0] for row in look("SELECT headers FROM payloads")],
        "bodies": [bytes(row[0]) for row in look("SELECT body FROM payloads")],
        "kids": [row[0] for row in look("SELECT kid FROM payloads")],
    }


async def test_all_that_is_secret_is_sealed_and_reads_back(build: Build, look: Look) -> None:
    world = await build(encryption_keys=KEY, encrypt_payloads="on")
    await filled(world)
    found = stored(look)
    for kind in ("secrets", "destinations", "callbacks"):
        assert found[kind], kind
        assert all(value.startswith("enc1:k1:") for value in found[kind])
    assert all(body.startswith(b"enc1:k1:") for body in found["bodies"])
    assert found["kids"] == ["k1"]
    assert "customer" not in str(found)
    await all_is_there(world)


async def test_payloads_stay_plain_unless_that_is_chosen(build: Build, look: Look) -> None:
    world = await build(encryption_keys=KEY)
    await filled(world)
    assert stored(look)["bodies"] == [BODY]
    assert stored(look)["kids"] == [None]
    await all_is_there(world)


async def test_a_delivery_without_anything_to_seal_is_stored_as_before(
    build: Build, look: Look
) -> None:
    world = await build(encryption_keys=KEY)
    body = b"enc1:k1:not sealed, though it looks so"
    submitted = await world.submit(body=body)
    assert stored(look)["callbacks"] == ["[]"]
    assert stored(look)["bodies"] == [body]
    assert (await world.one()).body == body
    assert (await world.store.payload(TENANT, submitted.id)).body == body


async def test_a_handed_over_delivery_has_all_that_a_claimed_one_has(build: Build) -> None:
    world = await build(encryption_keys=KEY, encrypt_payloads="on")
    await world.register("named", headers=HEADERS)
    submitted = await world.submit(name="named", url="", headers=HEADERS[:1], handover=True)
    assert submitted.delivery is not None
    assert submitted.delivery.headers == HEADERS + HEADERS[:1]


async def test_figures_are_of_the_plain_bytes(build: Build) -> None:
    """What a tenant may store counts what he handed over, sealed or not."""
    sizes = []
    for payloads in ("off", "on"):
        world = await build(encryption_keys=KEY, encrypt_payloads=payloads)
        one = await filled(world)
        shown = await world.get(one)
        sizes.append((shown.payload_size, shown.payload_sha256, world.store.stored_bytes(TENANT)))
    assert sizes[0] == sizes[1]
    assert sizes[0][0] == len(BODY)


async def test_a_database_of_before_reads_as_it_is_and_is_sealed_in_slices(
    build: Build, look: Look, reopen: Reopen, change: Callable[[str], None], store_name: str
) -> None:
    world = await build(encryption_keys=KEY)
    one = await filled(world)
    value = (await world.store.secrets(TENANT))[0]
    await world.store.close()
    # As it was before there were keys.
    change(f"UPDATE secrets SET value = 'test-secret-plain' WHERE id = '{value.id}'")
    change("""UPDATE destinations SET headers = '[["Authorization", "Bearer of-the-customer"]]'""")
    change("""UPDATE payloads SET headers = '[["X-A", "of-the-customer"]]'""")
    change("DELETE FROM sealed_by")
    world.store = world.make()
    await world.open()
    delivery = await world.one()
    assert delivery.headers == (HEADERS[0], ("X-A", "of-the-customer"))
    await world.store.release([delivery], now_ms=world.now_ms)
    assert {kind: one.plain for kind, one in (await counted(world)).items()} == {
        "signing secrets": 1,
        "destinations' headers": 1,
        "callbacks' headers": 1,
        "payloads": 1,
    }
    await reopen(world, encryption_keys=KEY, encrypt_payloads="on")
    done = await reencrypted(world)
    assert (done.state, done.sealed, done.unopened) == ("done", 4, 0)
    assert "customer" not in str(stored(look))
    assert "test-secret-plain" not in str(stored(look)["secrets"])
    assert {one.newest for one in (await counted(world)).values()} == {2, 1}
    assert (await world.get(one)).payload_size == len(BODY)
    assert "test-secret-plain" in [one.value for one in await world.store.secrets(TENANT)]
    again = await reencrypted(world)
    assert (again.sealed, again.unopened) == (0, 0)


async def test_a_key_is_changed_without_a_moment_when_something_cannot_be_read(
    build: Build, look: Look, reopen: Reopen
) -> None:
    world = await build(encryption_keys=KEY, encrypt_payloads="on")
    await filled(world)
    await reopen(world, encryption_keys=f"{NEXT_KEY},{KEY}", encrypt_payloads="on")
    await all_is_there(world)
    assert {one.older for one in (await counted(world)).values()} == {2, 1}
    done = await reencrypted(world)
    assert (done.sealed, done.unopened, done.kid) == (5, 0, "k2")
    assert "enc1:k1:" not in str(stored(look))
    await reopen(world, encryption_keys=NEXT_KEY)
    assert await world.store.missing_keys() is None
    await all_is_there(world)


async def test_many_rows_are_sealed_again_in_several_slices(
    build: Build, reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reencrypt, "_LOOKED", 7)
    monkeypatch.setattr(reencrypt, "_SLICE_BYTES", 3 * len(BODY))
    world = await build(encryption_keys=KEY)
    await filled(world)
    for number in range(20):
        await world.submit(f"job-{number}", body=BODY, headers=HEADERS if number % 2 else ())
    await reopen(world, encryption_keys=f"{NEXT_KEY},{KEY}", encrypt_payloads="on")
    at = await world.store.begin_reencryption(now_ms=world.now_ms)
    at = await world.store.reencrypt(at, now_ms=world.now_ms)
    await world.reopen()
    assert await world.store.reencryption() == at
    assert await world.store.begin_reencryption(now_ms=world.now_ms) == at
    while at.place:
        # A slice that is done already is not done twice: cursor and rows are one commit.
        before, at = at, await world.store.reencrypt(at, now_ms=world.now_ms)
        assert await world.store.reencrypt(before, now_ms=world.now_ms) == at
    # Two secrets, a destination, eleven callbacks' headers, and all bodies.
    assert at.sealed == 2 + 1 + 11 + 21
    assert {one.newest for one in (await counted(world)).values()} == {2, 1, 11, 21}


async def test_without_its_key_nothing_goes_out_and_others_do(build: Build, reopen: Reopen) -> None:
    """D21: the key of one delivery's headers is missing; that is no reason for another to wait."""
    world = await build(encryption_keys=KEY)
    await filled(world)
    await reopen(world, encryption_keys=NEXT_KEY)
    await world.submit("job-2", tenant="other")
    deliveries = {one.job_id: one for one in await world.claim()}
    assert deliveries["job-2"].unopened is None
    unopened = deliveries["job-1"].unopened
    assert unopened is not None
    assert (unopened.lack, deliveries["job-1"].body, deliveries["job-1"].headers) == (
        "keys",
        b"",
        (),
    )
    assert "the key k1, which is not in the ring" in unopened.message
    assert "DISPATCHER_ENCRYPTION_KEYS" in unopened.message
    secrets = await world.store.secrets(TENANT)
    assert [(one.value, one.unopened is not None) for one in secrets] == [("", True), ("", True)]
    shown = await world.destination("named")
    assert (shown.headers, shown.unopened is not None) == ((), True)
    missing = await world.store.missing_keys()
    assert missing == "cannot open 2 signing secrets (key k1), 1 destinations' headers (key k1)"
    done = await reencrypted(world)
    assert (done.sealed, done.unopened) == (0, 4)


async def test_what_is_submitted_for_unreadable_headers_is_stored_and_waits(
    build: Build, reopen: Reopen
) -> None:
    world = await build(encryption_keys=KEY)
    await world.register("named", headers=HEADERS)
    await reopen(world, encryption_keys=NEXT_KEY)
    submitted = await world.submit(name="named", url="", handover=True)
    assert (submitted.state, submitted.delivery) == ("pending", None)
    changed = await world.change("named", headers=HEADERS[1:])
    assert changed.headers == HEADERS[1:]
    assert (await world.one()).headers == HEADERS[1:]


async def test_a_payload_without_its_key_is_told_as_such(build: Build, reopen: Reopen) -> None:
    world = await build(encryption_keys=KEY, encrypt_payloads="on")
    one = await world.ended("job-1", "delivered", body=BODY)
    await reopen(world, encryption_keys=NEXT_KEY)
    error = await raises(CannotUnseal, world.store.payload(TENANT, one))
    assert "payloads/body/" in str(error)
    assert "DISPATCHER_ENCRYPTION_KEYS" in str(error)
    # What it costs nothing to know is known all the same, and a replay keeps the bytes.
    assert (await world.get(one)).payload_size == len(BODY)
    await world.store.replay(TENANT, one, now_ms=world.now_ms)
    assert (await world.one()).unopened is not None
    await reopen(world, encryption_keys=f"{NEXT_KEY},{KEY}")
    await world.store.take_over(now_ms=world.let_leases_go())
    assert (await world.store.payload(TENANT, one)).body == BODY


async def test_a_value_that_was_put_into_another_row_is_not_taken(
    build: Build, change: Callable[[str], None]
) -> None:
    """I9: not even by who writes to the database: a tenant's secret signs for no other."""
    world = await build(encryption_keys=KEY)
    for tenant in ("acme", "other"):
        await world.store.ensure_tenant(tenant, secret(tenant))
    await world.store.close()
    change(
        "UPDATE secrets SET value = (SELECT s.value FROM secrets s WHERE s.tenant = 'acme') "
        "WHERE tenant = 'other'"
    )
    world.store = world.make()
    await world.open()
    (acme,) = await world.store.secrets("acme")
    (other,) = await world.store.secrets("other")
    assert acme.unopened is None
    assert other.unopened is not None
    assert (other.unopened.lack, other.value) == ("damage", "")
    assert await world.store.missing_keys() is None


async def test_a_sealed_database_does_not_start_without_any_key(
    build: Build, reopen: Reopen, store_name: str, tmp_path: Path
) -> None:
    world = await build(encryption_keys=KEY)
    await filled(world)
    file = key_file_of(tmp_path / "0" / "postback.db")
    with pytest.raises(CannotStart, match=r"sealed with the key k1, which is not here: ") as raised:
        await reopen(world)
    assert "DISPATCHER_ENCRYPTION_KEYS" in str(raised.value)
    if store_name == "sqlite":
        assert str(file) in str(raised.value)
    assert not file.exists()
    await reopen(world, encryption_keys=KEY)
    await all_is_there(world)


async def test_required_means_that_keys_are_set(store_name: str, tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="DISPATCHER_ENCRYPTION_KEYS is not set"):
        FACTORIES[store_name](tmp_path, {"encryption": "required"})
    assert os.listdir(tmp_path) == []


async def test_what_only_keys_may_hold_is_refused_without(build: Build, store_name: str) -> None:
    world = await build()
    if store_name == "postgres":
        error = await raises(NoKeyring, world.store._write(lambda tx: ring_of(tx, "a credential")))
        assert "a credential is kept sealed only" in str(error)
        assert "DISPATCHER_ENCRYPTION_KEYS" in str(error)
        await raises(NoKeyring, world.store.begin_reencryption(now_ms=world.now_ms))
    else:
        assert await world.store._write(lambda tx: ring_of(tx, "a credential").kid)


# --- the key file of SQLite ---


def opened(folder: Path, **changes: Any) -> Any:
    return open_store(Settings(database_url=f"sqlite:///{folder}/postback.db", **changes))


async def test_the_first_start_makes_a_key_file_of_its_owner_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "postback.db.key"
    for _ in range(2):
        store = opened(tmp_path)
        await store.open()
        await store.ensure_tenant(TENANT, secret())
        await store.close()
    assert file.stat().st_mode & 0o777 == 0o600
    kid = file.read_text().partition(":")[0]
    with closing(sqlite3.connect(tmp_path / "postback.db")) as connection:
        ((value,),) = connection.execute("SELECT value FROM secrets").fetchall()
    assert value.startswith(f"enc1:{kid}:")
    assert caplog.text.count("made a key") == 1
    assert sorted(os.listdir(tmp_path)) == [
        "postback.db",
        "postback.db.key",
        "postback.db.lock",
    ]


async def test_a_lost_key_file_is_not_replaced(tmp_path: Path) -> None:
    store = opened(tmp_path)
    await store.open()
    await store.ensure_tenant(TENANT, secret())
    await store.close()
    file = tmp_path / "postback.db.key"
    text = file.read_text()
    kid = text.partition(":")[0]
    file.unlink()
    for _ in range(2):
        with pytest.raises(CannotStart) as raised:
            await opened(tmp_path).open()
        for part in (kid, str(file), "DISPATCHER_ENCRYPTION_KEYS"):
            assert part in str(raised.value)
        assert not file.exists()
    file.write_text("k9" + text[len(kid) :])  # another one is no help either
    with pytest.raises(CannotStart, match=kid):
        await opened(tmp_path).open()
    file.unlink()
    store = opened(tmp_path, encryption_keys=text)
    await store.open()
    assert (await store.secrets(TENANT))[0].value
    await store.close()


async def test_who_sets_keys_later_still_reads_what_the_file_sealed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    await store.open()
    await store.ensure_tenant(TENANT, secret())
    await store.close()
    for changes in ({}, {"encryption": "required"}):
        store = opened(tmp_path, encryption_keys=KEY, **changes)
        await store.open()
        assert (await store.secrets(TENANT))[0].value
        at = await store.begin_reencryption(now_ms=1)
        while at.place:
            at = await store.reencrypt(at, now_ms=1)
        await store.finish_reencryption(at, clean=True, now_ms=1)
        await store.close()
    (tmp_path / "postback.db.key").unlink()
    store = opened(tmp_path, encryption_keys=KEY, encryption="required")
    await store.open()
    assert (await store.secrets(TENANT))[0].value
    await store.close()


@pytest.mark.parametrize("text", ["", "nonsense", "k1:AAAA", "\xff\xfe"])
async def test_a_key_file_that_is_none_stops_the_start(tmp_path: Path, text: str) -> None:
    file = tmp_path / "postback.db.key"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(CannotStart, match="key file"):
        await opened(tmp_path).open()
    assert file.read_bytes() == text.encode("latin-1")
    file.unlink()
    store = opened(tmp_path)
    await store.open()
    await store.close()


@pytest.mark.parametrize("keys", ["nonsense", "k1:AAAA", f"{KEY},{KEY}"])
def test_keys_that_are_none_stop_the_start(tmp_path: Path, keys: str) -> None:
    with pytest.raises(CannotStart, match="DISPATCHER_ENCRYPTION_KEYS") as raised:
        opened(tmp_path, encryption_keys=keys)
    assert KEY.partition(":")[2] not in str(raised.value)


async def test_a_key_is_on_the_disk_before_anything_is_sealed_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut in between must not leave values whose key is gone: file, then folder."""
    synced: list[str] = []
    fsync = os.fsync

    def noting(handle: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    file = tmp_path / "postback.db.key"
    (tmp_path / "postback.db.key.new").write_text("what a crash left behind")
    keys = make_key_file(file)
    assert synced == ["postback.db.key.new", tmp_path.name]
    assert read_key_file(file) == keys
    assert os.listdir(tmp_path) == ["postback.db.key"]


async def test_a_key_file_that_others_may_read_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(tmp_path)
    await store.open()
    await store.close()
    assert "others may read" not in caplog.text
    (tmp_path / "postback.db.key").chmod(0o644)
    store = opened(tmp_path)
    await store.open()
    await store.close()
    assert "others may read the key file" in caplog.text


async def test_another_name_of_the_database_finds_the_same_key(tmp_path: Path) -> None:
    """Through symbolic links, as its lock does."""
    store = opened(tmp_path)
    await store.open()
    await store.ensure_tenant(TENANT, secret())
    await store.close()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "postback.db").symlink_to(tmp_path / "postback.db")
    store = opened(tmp_path / "other")
    await store.open()
    assert (await store.secrets(TENANT))[0].value
    await store.close()
    assert not (tmp_path / "other" / "postback.db.key").exists()
