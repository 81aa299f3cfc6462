"""Spools and storages: what comes is written as it comes, in bounded memory, and read again."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from dispatcher.blobs.blobs import Blobs, Gone
from dispatcher.blobs.spool import AnyRoom, Spool
from dispatcher.blobs.storage import Part, StorageError
from dispatcher.jobs.blobs import PART_BYTES, CannotKeep, NewBlob, Range
from dispatcher.settings import Settings
from dispatcher.store import open_store
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.store import Store
from receiver.base.lack import OwnLack
from tests.dispatcher.gateway.rig import KEYS

PATIENCE_S = 30.0


@pytest.fixture(params=["plain", "sealed"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    sealed = request.param == "sealed"
    more: dict[str, Any] = {"encryption_keys": KEYS, "encrypt_payloads": "on"} if sealed else {}
    made = open_store(Settings(database_url=f"sqlite:///{tmp_path}/a.db", **more))
    await made.open()
    yield made
    await made.close()


@pytest.fixture(params=["file", "database"])
async def blobs(
    request: pytest.FixtureRequest, store: Store, tmp_path: Path
) -> AsyncIterator[Blobs]:
    storage = f"file:{tmp_path}/kept" if request.param == "file" else "database"
    settings = Settings(database_url=f"sqlite:///{tmp_path}/a.db", outputs=storage)
    made = Blobs(settings, store.jobs, process="us")
    await made.open()
    yield made
    await made.close()


@pytest.mark.parametrize("size", [1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
async def test_what_is_written_is_read(blobs: Blobs, size: int) -> None:
    """Byte for byte, whole and in part, however it came."""
    body = os.urandom(size)
    spool = blobs.spool("a" * 32, "acme", "output")
    at = 0
    for step in (1, 70_000, 300_000, PART_BYTES, 2 * PART_BYTES):
        await spool.write(body[at : at + step])
        at += step
    blob = await spool.finish()
    assert blob is not None
    assert (blob.size, blob.sha256) == (size, sha256(body).digest())
    # Whatever reads it has a row that names it.
    assert await blobs.whole(blob) == body
    for start, end in ((0, 1), (size // 2, size), (size - 1, size)):
        if start < end:
            found = [part async for part in blobs.stream(blob, Range(start, end))]
            assert b"".join(found) == body[start:end]
    await spool.end()


async def test_what_nothing_names_goes(blobs: Blobs, store: Store) -> None:
    """The sweep leaves no byte of it, and no row."""
    spool = blobs.spool("a" * 32, "acme", "output")
    await spool.write(bytes(20 * PART_BYTES + 1))
    blob = await spool.finish()
    assert blob is not None
    assert await store.jobs.doomed_blobs(10) == []
    await spool.end()
    assert len(await store.jobs.doomed_blobs(10)) == 1
    while await blobs.sweep():
        pass
    assert await store.jobs.doomed_blobs(10) == []
    with pytest.raises(Gone):
        await blobs.part(blob, 0)
    assert not await blobs.sweep()


async def test_nothing_is_begun_for_nothing(blobs: Blobs, store: Store) -> None:
    """A spool that nobody wrote to leaves no trace."""
    spool = blobs.spool("a" * 32, "acme", "output")
    assert await spool.finish() is None
    await spool.end()
    assert await store.jobs.doomed_blobs(10) == []


async def test_the_next_process_deletes_what_was_left(blobs: Blobs, store: Store) -> None:
    """Of one that died while it wrote."""
    spool = blobs.spool("a" * 32, "acme", "output")
    await spool.write(bytes(3 * PART_BYTES))
    await spool.finish()
    after = Blobs(
        Settings(database_url="sqlite:///x.db", outputs=blobs.storage), store.jobs, process="next"
    )
    await after.open()
    while await after.sweep():
        pass
    assert await store.jobs.doomed_blobs(10) == []
    assert not await store.jobs.has_orphaned_blobs("next")
    await after.close()


async def test_what_is_damaged_is_not_given(tmp_path: Path) -> None:
    """A sealed part that was changed is our lack, not somebody's output."""
    url = f"sqlite:///{tmp_path}/a.db"
    store = open_store(Settings(database_url=url, encryption_keys=KEYS, encrypt_payloads="on"))
    await store.open()
    made = Blobs(Settings(database_url=url), store.jobs, process="us")
    await made.open()
    spool = made.spool("a" * 32, "acme", "output")
    await spool.write(b"x" * 100_000)
    blob = await spool.finish()
    assert blob is not None
    assert made.storage == f"file:{tmp_path}/a.db-outputs"
    (file,) = files(made.storage)
    stored = bytearray(file.read_bytes())
    assert b"xxxx" not in stored
    stored[5] ^= 1
    file.write_bytes(stored)
    with pytest.raises(OwnLack):
        await made.part(blob, 0)
    file.write_bytes(b"")
    with pytest.raises(OwnLack):
        await made.part(blob, 0)
    file.unlink()
    with pytest.raises(Gone):
        await made.part(blob, 0)
    await made.close()
    await store.close()


async def test_a_folder_may_be_moved(tmp_path: Path) -> None:
    """What was written in one is found in the one of the settings."""
    url = f"sqlite:///{tmp_path}/a.db"
    store = open_store(Settings(database_url=url))
    await store.open()
    before = Blobs(
        Settings(database_url=url, outputs=f"file:{tmp_path}/one"), store.jobs, process="a"
    )
    await before.open()
    spool = before.spool("a" * 32, "acme", "output")
    await spool.write(b"x" * 100_000)
    blob = await spool.finish()
    assert blob is not None
    await before.close()
    (tmp_path / "one").rename(tmp_path / "two")
    after = Blobs(
        Settings(database_url=url, outputs=f"file:{tmp_path}/two"), store.jobs, process="a"
    )
    assert await after.whole(blob) == b"x" * 100_000
    await spool.end()
    assert not await after.sweep()
    assert files(f"file:{tmp_path}/two") == []
    await after.close()
    await store.close()


def files(storage: str) -> list[Path]:
    """All that are kept there."""
    folder = Path(storage.removeprefix("file:"))
    return [one for one in folder.rglob("*") if one.is_file()]


# --- what goes wrong ---


@dataclass
class Rows:
    """A database that may be away."""

    begun: list[str] = field(default_factory=list)
    loosened: list[str] = field(default_factory=list)
    away: int = 0

    async def begin_blob(self, new: NewBlob) -> bool:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("away")
        self.begun.append(new.id)
        return False

    async def loosen_blob(self, id: str) -> None:
        self.loosened.append(id)


@dataclass
class Slow:
    """A storage that takes a part when it is told to."""

    go: asyncio.Event = field(default_factory=asyncio.Event)
    taken: list[bytes] = field(default_factory=list)
    fails: str | None = None
    is_abandoned: bool = False

    async def write(self, part: Part, *, synced: bool = False) -> None:
        await self.go.wait()
        if self.fails == "write":
            raise StorageError("the disk is full")
        self.taken.append(bytes(part))

    async def finish(self) -> None:
        if self.fails == "finish":
            raise StorageError("the disk is full")

    async def abandon(self) -> None:
        self.is_abandoned = True


async def written(spool: Spool, body: bytes) -> None:
    await spool.write(body)
    await spool.finish()


class Little(AnyRoom):
    """Room for so much."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take_output(self, tenant: str, size: int) -> bool:
        if size > self.left:
            return False
        self.left -= size
        return True

    def give_output(self, tenant: str, size: int) -> None:
        self.left += size


def spool_on(rows: Rows, storage: Slow, room: AnyRoom | None = None) -> Spool:
    new = NewBlob(
        id="bl_1", storage="slow", tenant="acme", job="a", what="output", process="us", created_ms=0
    )
    return Spool("acme", lambda: new, rows, lambda _id, _type: storage, room or AnyRoom())


async def test_who_brings_it_waits_for_who_writes_it() -> None:
    """No more than a part is being written, and one is filled."""
    rows, storage = Rows(), Slow()
    spool = spool_on(rows, storage)
    await spool.write(bytes(PART_BYTES))
    writing = asyncio.create_task(spool.write(bytes(PART_BYTES)))
    done, _ = await asyncio.wait({writing}, timeout=0.05)
    assert not done
    storage.go.set()
    await asyncio.wait_for(writing, PATIENCE_S)
    blob = await spool.finish()
    assert blob is not None
    assert blob.size == 2 * PART_BYTES
    await spool.end()


async def test_where_the_database_is_away_its_source_waits() -> None:
    """A row comes before the first byte."""
    rows, storage = Rows(away=1), Slow()
    storage.go.set()
    spool = spool_on(rows, storage)
    await spool.write(b"a" * 70_000)
    assert (await asyncio.wait_for(spool.finish(), PATIENCE_S)) is not None
    assert rows.begun == ["bl_1"]
    await spool.end()


@pytest.mark.parametrize("fails", ["write", "finish"])
async def test_what_cannot_be_stored_is_said(fails: str) -> None:
    """In words that a tenant may read; what was written is let go of."""
    rows, storage = Rows(), Slow(fails=fails)
    storage.go.set()
    spool = spool_on(rows, storage)
    with pytest.raises(CannotKeep, match="could not be stored"):
        await written(spool, bytes(PART_BYTES + 1))
    await spool.end()
    assert rows.loosened == ["bl_1"]
    assert storage.is_abandoned


async def test_no_more_comes_than_there_is_room_for() -> None:
    """The room is held until the end, and then it is given back."""
    rows, storage, room = Rows(), Slow(), Little(3 * PART_BYTES)
    storage.go.set()
    spool = spool_on(rows, storage, room)
    with pytest.raises(CannotKeep, match="no room"):
        await spool.write(bytes(4 * PART_BYTES))
    assert room.left == 0
    await spool.end()
    assert room.left == 3 * PART_BYTES


async def test_who_is_cancelled_leaves_nothing_running() -> None:
    """A part that is being written is given up."""
    rows, storage = Rows(), Slow()
    spool = spool_on(rows, storage)
    await spool.write(bytes(PART_BYTES))
    writing = asyncio.create_task(spool.finish())
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait({writing})
    await asyncio.wait_for(spool.end(), PATIENCE_S)
    assert rows.loosened == rows.begun
