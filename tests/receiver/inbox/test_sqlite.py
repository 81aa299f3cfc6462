"""The inbox on a file: alone on it, durable, and up again by itself."""

import asyncio
import hashlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from receiver.base.db import DatabaseUnavailable
from receiver.inbox.inbox import Inbox, InboxError, InboxUnavailable
from receiver.inbox.sqlite.database import APPLICATION_ID, MIGRATIONS, SqliteDatabase
from tests.receiver.inbox.messages import message


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "receiver.db")


@pytest.fixture
def database(path: str) -> SqliteDatabase:
    return SqliteDatabase(path, lock_timeout_s=0.05, read_timeout_s=0.5)


@pytest.fixture
async def inbox(database: SqliteDatabase) -> AsyncIterator[Inbox]:
    opened = await Inbox.open(database)
    yield opened
    await opened.close()


async def on_reader(database: SqliteDatabase, act: Callable[[sqlite3.Connection], Any]) -> Any:
    return await database._file.readers.read(act)


async def test_a_second_process_is_told_who_holds_the_file(inbox: Inbox, path: str) -> None:
    """By any name of the file; and the first goes on undisturbed."""
    link = path + ".link"
    os.symlink(path, link)
    for name in (path, link):
        with pytest.raises(InboxError, match=f"in use by process {os.getpid()}"):
            await Inbox.open(SqliteDatabase(name))
    assert await inbox.receive(message()) == "accepted"


async def test_the_pragmas_that_make_it_durable_are_in_force(
    inbox: Inbox, database: SqliteDatabase
) -> None:
    """WAL with FULL synchronous, incremental vacuum, and a reader that cannot write."""

    def read(db: sqlite3.Connection) -> list[Any]:
        names = ("journal_mode", "synchronous", "auto_vacuum", "application_id", "user_version")
        return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    found = await database._file.write(read)
    assert found == ["wal", 2, 2, APPLICATION_ID, len(MIGRATIONS)]
    with pytest.raises(DatabaseUnavailable, match="readonly"):
        await on_reader(database, lambda db: db.execute("DELETE FROM messages"))


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        ("CREATE TABLE t (x)", "another program"),
        (
            f"PRAGMA application_id={APPLICATION_ID}; CREATE TABLE t (x); PRAGMA user_version=999",
            "newer",
        ),
    ],
)
def test_a_foreign_or_newer_file_is_refused_and_left_alone(
    path: str, prepare: str, told: str
) -> None:
    """Not one byte of it changes."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(prepare)
    before = Path(path).read_bytes()
    with pytest.raises(InboxError, match=told):
        asyncio.run(Inbox.open(SqliteDatabase(path)))
    assert Path(path).read_bytes() == before


async def test_a_file_that_cannot_be_a_database_is_one_line(tmp_path: Path) -> None:
    """Garbage, a directory, a missing directory."""
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"not a database, but long enough to look like one" * 100)
    for bad in (garbage, tmp_path, tmp_path / "missing" / "x.db"):
        with pytest.raises(InboxError) as caught:
            await Inbox.open(SqliteDatabase(str(bad)))
        assert "\n" not in str(caught.value)
    garbage.unlink()
    opened = await Inbox.open(SqliteDatabase(str(garbage)))  # the lock was given back
    await opened.close()


async def test_a_locked_file_is_unavailable_and_comes_back_by_itself(
    inbox: Inbox, path: str
) -> None:
    """Nothing is stored meanwhile; the next message after the lock is."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(
            *(inbox.receive(message(id=f"m{n}")) for n in range(3)), return_exceptions=True
        )
        assert [type(result) for result in results] == [InboxUnavailable] * 3
        with pytest.raises(InboxUnavailable, match="locked"):
            await inbox.check()
        other.execute("ROLLBACK")
    await inbox.check()
    assert not inbox.failing
    assert await inbox.receive(message(id="m1")) == "accepted"


async def test_a_full_disk_is_unavailable_and_comes_back_by_itself(
    inbox: Inbox, database: SqliteDatabase
) -> None:
    """A message that does not fit is not there afterwards, in part or whole."""

    def pages(most: int) -> Any:
        return lambda db: db.execute(f"PRAGMA max_page_count = {most}").fetchone()

    await inbox.receive(message("small"))
    (used,) = await database._file.write(lambda db: db.execute("PRAGMA page_count").fetchone())
    await database._file.write(pages(used))
    big = replace(message("big"), body=b"x" * 100_000)
    with pytest.raises(InboxUnavailable, match="no room"):
        await inbox.receive(big)
    assert [m.job_id for m in (await inbox.page()).messages] == ["small"]
    await database._file.write(pages(1_000_000))
    assert await inbox.receive(big) == "accepted"


async def test_waiting_messages_share_a_commit(inbox: Inbox, database: SqliteDatabase) -> None:
    """What queues while one commit runs goes into the next: far fewer commits than messages."""
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    await database._file.write(lambda db: db.set_trace_callback(count))
    await asyncio.gather(*(inbox.receive(message(f"job_{n}")) for n in range(200)))
    assert 1 <= commits <= 5


async def test_a_read_ends_at_its_deadline(inbox: Inbox) -> None:
    """And the next read is served: the statement was interrupted, not left behind."""
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
    with pytest.raises(InboxUnavailable, match=r"longer than 0\.5 s"):
        await inbox._read(lambda tx: tx.all(endless))
    assert (await inbox.page()).messages == []


async def test_a_file_of_an_earlier_schema_is_brought_up_with_all_that_it_knows(path: str) -> None:
    """Ends, copies and what waited are the same to the new schema."""
    with closing(sqlite3.connect(path)) as db:
        for n, script in MIGRATIONS[:2]:
            db.executescript(f"{script}; PRAGMA user_version = {n}")
        for id, job in enumerate(("ended", "other", "running"), start=1):
            sent = message(job, "running" if job == "running" else "completed", id=f"m{id}")
            values = (id, f"m{id}", hashlib.sha256(sent.body).digest(), sent.kind, job)
            db.execute(
                "INSERT INTO messages (id, source, message_id, body_sha256, body_bytes, kind,"
                " job_id, job_status, verdict, received_ms, last_seen_ms, state, due_ms)"
                " VALUES (?, '/webhooks', ?, ?, 1, ?, ?, 'completed', 'accepted', 1, 1,"
                " 'pending', 1)",
                values,
            )
            db.execute("INSERT INTO bodies VALUES (?, ?)", (id, sent.body))
        db.execute("INSERT INTO jobs VALUES ('/webhooks', 'ended', 1, 'completed', NULL, 'x')")
        db.commit()
    inbox = await Inbox.open(SqliteDatabase(path))
    story = [message("ended", id="m1"), message("ended", "failed"), message("running", "running")]
    assert [await inbox.receive(one) for one in story] == ["duplicate", "conflict", "duplicate"]
    assert await inbox.receive(message("running")) == "accepted"
    assert len((await inbox.claim(now_ms=1, limit=9)).claimed) == 3
    await inbox.close()


async def test_retention_goes_by_its_index(inbox: Inbox, database: SqliteDatabase) -> None:
    """A file of millions is not read through every hour."""
    slices: list[str] = []

    def trace(db: sqlite3.Connection) -> None:
        def note(sql: str) -> None:
            if sql.lstrip().startswith("SELECT id, source, received_ms"):
                slices.append(sql)

        db.set_trace_callback(note)

    await database._file.write(trace)
    await inbox.prune(bodies_before_ms=1, messages_before_ms=1)
    assert slices
    for sql in slices:
        (row,) = await on_reader(database, partial(explained, sql=sql))
        assert "messages_done (body_kept=? AND received_ms>? AND received_ms<?)" in row[3]


def explained(db: sqlite3.Connection, *, sql: str) -> list[Any]:
    return db.execute(f"EXPLAIN QUERY PLAN {sql}").fetchall()
