"""The SQLite file: one owner, its pragmas, its schema, its backup (D4)."""

import asyncio
import os
import shutil
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Literal

import pytest

from dispatcher.settings import Settings
from dispatcher.store import backup, open_store
from dispatcher.store.database import OWN_READERS
from dispatcher.store.errors import CannotStart, Conflict, StoreUnavailable
from tests.dispatcher.store.builders import TENANT, raises
from tests.dispatcher.store.sqlite_hooks import (
    on_readers,
    on_writer,
    pragma,
    sqlite_world,
    submit_many,
)


def names(path: Path) -> Settings:
    return Settings(database_url=f"sqlite:///{path}")


async def test_a_second_owner_is_told_who_the_first_is(tmp_path: Path) -> None:
    async with sqlite_world(tmp_path) as world:
        error = await raises(CannotStart, open_store(names(tmp_path / "postback.db")).open())
        assert f"process {os.getpid()}" in str(error)
        assert str(tmp_path / "postback.db") in str(error)
        assert (await world.submit()).state == "pending"


async def test_the_file_is_free_again_when_its_owner_lets_go(tmp_path: Path) -> None:
    async with sqlite_world(tmp_path) as world:
        kept = (await world.submit()).id
    async with sqlite_world(tmp_path) as world:
        assert await world.states([kept]) == ["pending"]


async def test_the_promised_pragmas_are_in_force(tmp_path: Path) -> None:
    async with sqlite_world(tmp_path) as world:
        assert await pragma(world, "journal_mode") == "wal"
        assert await pragma(world, "synchronous") == 2  # FULL
        assert await pragma(world, "auto_vacuum") == 2  # INCREMENTAL


async def test_readers_can_neither_write_nor_checkpoint(tmp_path: Path) -> None:
    """The single writer is what makes the WAL-reset bug harmless."""

    def meddle(connection: sqlite3.Connection) -> str:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM callbacks")
        try:
            connection.execute("PRAGMA query_only = 0")
            connection.execute("DELETE FROM callbacks")
        except sqlite3.OperationalError as error:
            return str(error)
        return "written"

    async with sqlite_world(tmp_path, readers=2) as world:
        await world.submit()
        assert await on_readers(world, meddle) == ["attempt to write a readonly database"] * (
            2 + OWN_READERS
        )


async def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    """I8: it holds signing secrets."""
    async with sqlite_world(tmp_path):
        mode = (tmp_path / "postback.db").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with sqlite_world(tmp_path) as world:
        known = await pragma(world, "user_version")
        await pragma(world, "user_version", known + 1)
    path = tmp_path / "postback.db"
    error = await raises(CannotStart, open_store(names(path)).open())
    assert f"schema {known + 1}" in str(error)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (known + 1,)
    connection.close()


async def test_opening_twice_in_turn_migrates_once(tmp_path: Path) -> None:
    for _ in range(2):
        async with sqlite_world(tmp_path) as world:
            assert await pragma(world, "user_version") >= 1


@pytest.mark.parametrize("kind", ["garbage", "foreign", "folder", "nowhere", "read-only"])
async def test_what_cannot_be_used_is_said_so_and_nothing_is_left_running(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "postback.db"
    if kind == "garbage":
        path.write_bytes(b"not a database " * 1_000)
    elif kind == "foreign":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE tenants (something)")
        connection.close()
    elif kind == "folder":
        path.mkdir()
    elif kind == "nowhere":
        path = tmp_path / "missing" / "postback.db"
    elif kind == "read-only":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE t (x)")
        connection.close()
        path.chmod(0o400)
        if os.access(path, os.W_OK):
            path.unlink()
            path.symlink_to("/proc/version")  # root may write all but this
    before = set(threading.enumerate())
    store = open_store(names(path))
    error = await raises(CannotStart, store.open())
    assert path.name in str(error)
    for thread in set(threading.enumerate()) - before:
        if "connection_worker" in thread.name:
            await asyncio.to_thread(thread.join, 5)
            assert not thread.is_alive()
    await store.close()


@pytest.mark.parametrize(
    "url", ["mysql://user:test-password@host/db", "sqlite:///:memory:", "sqlite:///", "file.db"]
)
def test_a_url_that_names_no_file_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(CannotStart) as met:
        open_store(Settings(database_url=url))
    assert "test-password" not in str(met.value)


# --- backup ---


def bring_key(folder: Path) -> None:
    """Put the key, which no backup holds, beside the copy."""
    shutil.copy(folder / "postback.db.key", folder / "copy")


async def test_a_backup_taken_while_work_goes_on_is_whole(tmp_path: Path) -> None:
    """It opens, its parts agree with each other, and it holds all that was acknowledged before."""
    (tmp_path / "copy").mkdir()
    target = tmp_path / "copy" / "postback.db"
    async with sqlite_world(tmp_path) as world:
        before = await submit_many(world, 300, body=b"x" * 2_000)
        copied = asyncio.Event()

        async def go_on() -> int:
            done = 0
            while not copied.is_set():
                await submit_many(world, 20, url=f"http://127.0.0.1:9/{done}")
                for one in await world.claim():
                    await world.settle(one)
                done += 1
            return done

        working = asyncio.create_task(go_on())
        await world.store.backup(target)
        copied.set()
        assert await working >= 1
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
    bring_key(tmp_path)
    async with sqlite_world(tmp_path / "copy") as copy:
        await copy.store.take_over(now_ms=copy.now_ms)
        assert "none" not in await copy.states(before)
        (whole,) = await on_writer(copy, lambda c: c.execute("PRAGMA integrity_check").fetchone())
        assert whole == "ok"
        counted = await on_writer(
            copy,
            lambda c: c.execute(
                "SELECT tenant, state, count(*) FROM callbacks GROUP BY 1, 2 EXCEPT "
                "SELECT tenant, state, n FROM counts"
            ).fetchall(),
        )
        assert counted == []
        lost = await on_writer(
            copy,
            lambda c: c.execute(
                "SELECT count(*) FROM callbacks WHERE id NOT IN (SELECT callback FROM payloads)"
            ).fetchone(),
        )
        assert lost == (0,)
        assert await copy.claim()


@pytest.mark.parametrize("moment", range(3))
async def test_what_comes_out_of_a_live_backup_has_nothing_to_repair(
    tmp_path: Path, moment: int
) -> None:
    """Whatever was under way when it was taken: at its first start, while its leases are taken
    back, it is claimed, settled and swept at once, and lanes and queues are what their rows say. An
    operator is told an error for nothing else."""
    (tmp_path / "copy").mkdir()
    async with sqlite_world(tmp_path) as world:
        await submit_many(world, 100, url="http://127.0.0.1:9/a")
        under_way = asyncio.Event()

        async def go_on() -> None:
            for number in range(30):
                url = f"http://127.0.0.1:9/{number % 5}"
                ids = await submit_many(world, 10, url=url)
                under_way.set()
                claimed = await world.claim(20)
                states: list[Literal["delivered", "pending", "dead"]]
                states = ["delivered", "dead", "pending"]
                ends = [world.settle(one, states[n % 3]) for n, one in enumerate(claimed[:15])]
                cancels = [world.store.cancel(TENANT, ids[0], now_ms=world.now_ms)]
                await asyncio.gather(*ends, *cancels, return_exceptions=True)

        working = asyncio.create_task(go_on())
        await under_way.wait()
        for _ in range(moment):
            await submit_many(world, 1)
        await world.store.backup(tmp_path / "copy" / "postback.db")
        await working
    bring_key(tmp_path)
    async with sqlite_world(tmp_path / "copy") as copy:
        copy.now_ms = world.now_ms
        started, swept, queues = await asyncio.gather(
            copy.store.take_over(now_ms=copy.now_ms),
            copy.store.repair_lanes(now_ms=copy.now_ms, after="", limit=1_000),
            copy.store.jobs.repair(after="", limit=1_000),
        )
        assert started >= 0
        assert (swept, queues) == ((0, None), (0, None))
        claimed = await copy.claim(20)
        assert claimed
        settling = [asyncio.ensure_future(copy.settle(one, "delivered")) for one in claimed]
        swept = await copy.store.repair_lanes(now_ms=copy.now_ms, after="", limit=1_000)
        assert swept == (0, None)
        await asyncio.gather(*settling)


async def test_a_backup_overwrites_nothing(tmp_path: Path) -> None:
    async with sqlite_world(tmp_path) as world:
        there = tmp_path / "there"
        there.write_bytes(b"mine")
        await raises(Conflict, world.store.backup(there))
        assert there.read_bytes() == b"mine"


async def test_a_backup_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    async with sqlite_world(tmp_path) as world:
        await raises(StoreUnavailable, world.store.backup(tmp_path / "missing" / "copy.db"))
        assert not (tmp_path / "missing").exists()


async def test_a_backup_needs_no_running_service(tmp_path: Path) -> None:
    async with sqlite_world(tmp_path) as world:
        kept = (await world.submit()).id
    (tmp_path / "copy").mkdir()
    await backup(names(tmp_path / "postback.db"), tmp_path / "copy" / "postback.db")
    bring_key(tmp_path)
    async with sqlite_world(tmp_path / "copy") as copy:
        assert await copy.states([kept]) == ["pending"]


async def test_there_is_nothing_to_back_up_where_no_database_is(tmp_path: Path) -> None:
    await raises(StoreUnavailable, backup(names(tmp_path / "none.db"), tmp_path / "copy.db"))
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240


async def test_a_log_that_grows_beside_a_backup_counts_as_storage_and_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I7: a backup needs the file as it was, so the log keeps all that is written meanwhile."""
    monkeypatch.setattr("dispatcher.store.sqlite.database._LOG_BYTES", 2**20)
    monkeypatch.setattr("dispatcher.store.sqlite.database._MEASURE_EVERY_S", 0.0)
    async with sqlite_world(tmp_path) as world:
        await world.submit("first")
        reader = sqlite3.connect(tmp_path / "postback.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM callbacks").fetchone()
        before = world.store.usage().used_bytes
        # The same few pages over and over.
        for n in range(60):
            await asyncio.gather(*(world.change(concurrency=1 + (n + m) % 9) for m in range(3)))
            await world.submit(f"job-{n}", body=b"x" * 40_000)
        log = (tmp_path / "postback.db-wal").stat().st_size
        pages = await pragma(world, "page_count")
        assert log > 3 * 2**20
        assert world.store.usage().used_bytes - before >= log - 2**20
        assert world.store.usage().used_bytes > pages * 4_096
        reader.close()
        await world.submit("last")
        assert (tmp_path / "postback.db-wal").stat().st_size == 0
        assert world.store.usage().used_bytes <= pages * 4_096 + 2**20
