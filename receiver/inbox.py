"""The durable inbox: a SQLite file of this process alone, in which a message is stored once."""

import asyncio
import sqlite3
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import aiosqlite

from receiver.commit import GroupCommit, on_thread, rows
from receiver.guard import Known, Verdict, judge
from receiver.lock import FileLock, LockedError
from receiver.message import Message, Page, StoredMessage
from receiver.migrate import SchemaError, check, migrate

T = TypeVar("T")

_KNOWN: Final = """
    SELECT
        (SELECT id FROM messages
          WHERE source = :source AND body_sha256 = :sha256 LIMIT 1) AS same_bytes,
        (SELECT id FROM messages
          WHERE source = :source AND body_sha256 = :sha256
            AND ifnull(message_id, '') IN ('', :message_id) LIMIT 1) AS same_message,
        EXISTS (SELECT 1 FROM messages
          WHERE source = :source AND message_id = :message_id
            AND body_sha256 <> :sha256) AS id_taken,
        EXISTS (SELECT 1 FROM messages
          WHERE source = :source AND job_id = :job_id
            AND kind = 'terminal' AND verdict = 'accepted') AS job_ended
"""
_INSERT: Final = """
    INSERT INTO messages (source, message_id, body_sha256, body_bytes, content_type, kind, job_id,
        job_status, verdict, sent_ms, received_ms, last_seen_ms)
    VALUES (:source, :message_id, :sha256, :body_bytes, :content_type, :kind, :job_id,
        :job_status, :verdict, :sent_ms, :received_ms, :received_ms)
"""
_SEEN_AGAIN: Final = """
    UPDATE messages SET duplicates = duplicates + 1, last_seen_ms = :received_ms WHERE id = :id
"""
_PAGE: Final = """
    SELECT * FROM messages
     WHERE id < :below {filters}
     ORDER BY id DESC LIMIT :limit
"""
_SHOW: Final = "SELECT * FROM messages JOIN bodies USING (id) WHERE id = :id"
_ID_MAX: Final = 2**63 - 1


class InboxError(Exception):
    """The inbox cannot be opened; the message tells the operator why, in one line."""


class InboxUnavailable(Exception):
    """The inbox cannot write or read just now (disk full, locked, too slow). Nothing was stored."""


class Inbox:
    """Open it with ``await Inbox.open(path)``. One connection writes, another one reads."""

    def __init__(
        self,
        lock: FileLock,
        writer: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        *,
        read_timeout_s: float,
        commit_rows_max: int,
    ) -> None:
        self._lock: Final = lock
        self._writer: Final = writer
        self._reader: Final = reader
        self._read_turn: Final = asyncio.Lock()
        self._read_timeout_s: Final = read_timeout_s
        self._commits: Final = GroupCommit(writer, _receive, rows_max=commit_rows_max)
        self.failing = False  # whether the last commit failed

    @classmethod
    async def open(
        cls,
        path: str,
        *,
        lock_timeout_s: float = 1.0,
        read_timeout_s: float = 5.0,
        commit_rows_max: int = 256,
    ) -> Self:
        """Takes the file for this process and brings it to our schema. Raises InboxError."""
        try:
            lock = FileLock(path)
        except LockedError as error:
            raise InboxError(str(error)) from None
        except OSError as error:
            raise InboxError(f"cannot open {path}: {error.strerror}") from None
        try:
            writer = await _open_writer(path, lock_timeout_s)
            reader = await _open_reader(path, writer)
        except BaseException as error:
            lock.close()
            if isinstance(error, SchemaError | sqlite3.Error):
                raise InboxError(f"cannot use {path}: {error}") from None
            raise
        return cls(
            lock, writer, reader, read_timeout_s=read_timeout_s, commit_rows_max=commit_rows_max
        )

    async def receive(self, message: Message) -> Verdict:
        """Stores a message that is new, and says what it is. On return it is on disk.

        Of any number of copies, at the same time or later, one is stored. Raises InboxUnavailable.
        """
        try:
            verdict = await self._commits.submit(message)
        except sqlite3.Error as error:
            self.failing = True
            raise InboxUnavailable(str(error)) from error
        self.failing = False
        return verdict

    async def page(
        self,
        *,
        below: int | None = None,
        limit: int = 50,
        job_id: str | None = None,
        verdict: str | None = None,
    ) -> Page:
        """Messages, newest first. Raises InboxUnavailable."""
        parameters = {
            "below": min(below or _ID_MAX, _ID_MAX),
            "limit": limit + 1,
            "job_id": job_id,
            "verdict": verdict,
        }
        filters = "".join(
            f" AND {name} = :{name}"
            for name in ("job_id", "verdict")
            if parameters[name] is not None
        )
        sql = _PAGE.format(filters=filters)
        found = await self._read(lambda db: rows(db, sql, parameters))
        messages = [StoredMessage(**row) for row in found[:limit]]
        return Page(messages=messages, next_below=messages[-1].id if len(found) > limit else None)

    async def show(self, id: int) -> StoredMessage | None:
        """One message with its body, or None. Raises InboxUnavailable."""
        if not 0 < id <= _ID_MAX:
            return None
        found = await self._read(lambda db: rows(db, _SHOW, {"id": id}))
        return StoredMessage(**found[0]) if found else None

    async def check(self) -> None:
        """Whether it can read, and write if the last commit failed. Raises InboxUnavailable."""
        await self._read(lambda db: db.execute("SELECT 1").fetchone())
        if self.failing:
            await self._check_write()

    async def close(self) -> None:
        """Commits what waits, then gives the file up."""
        await self._commits.close()
        await self._reader.close()
        await self._writer.close()
        self._lock.close()

    async def _check_write(self) -> None:
        try:
            # A real write: a full disk or a lock would not show in less.
            await on_thread(self._writer, _touch)
        except sqlite3.Error as error:
            raise InboxUnavailable(str(error)) from error
        self.failing = False

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """One query at a time, cut off at its deadline: a long one would pin the log."""
        async with self._read_turn:
            work = asyncio.ensure_future(on_thread(self._reader, query))
            try:
                done, _ = await asyncio.wait((work,), timeout=self._read_timeout_s)
                if not done:
                    raise InboxUnavailable("the read took too long")
                return work.result()
            except sqlite3.Error as error:
                raise InboxUnavailable(str(error)) from error
            finally:
                await self._end(work)

    async def _end(self, work: "asyncio.Future[Any]") -> None:
        """A statement outlives the await that started it: interrupt it, and see it end."""
        while not work.done():
            await self._reader.interrupt()
            await asyncio.wait((work,), timeout=0.05)
        if not work.cancelled():
            work.exception()


def _receive(db: sqlite3.Connection, message: Message) -> Verdict:
    """Look, judge, write: in one savepoint, on the only writing connection."""
    parameters = {
        "source": message.source,
        "message_id": message.message_id,
        "sha256": sha256(message.body).digest(),
        "body_bytes": len(message.body),
        "content_type": message.content_type,
        "kind": message.kind,
        "job_id": message.job_id,
        "job_status": message.job_status,
        "sent_ms": message.sent_ms,
        "received_ms": message.received_ms,
    }
    (known,) = rows(db, _KNOWN, parameters)
    same_message = known["same_message"] if message.message_id else known["same_bytes"]
    verdict = judge(
        message.kind,
        Known(
            same_bytes=known["same_bytes"] is not None,
            same_message=same_message is not None,
            id_taken=bool(known["id_taken"]),
            job_ended=bool(known["job_ended"]),
        ),
    )
    if verdict == "duplicate":
        original = same_message or known["same_bytes"]
        db.execute(_SEEN_AGAIN, {"id": original, "received_ms": message.received_ms})
    else:
        inserted = db.execute(_INSERT, {**parameters, "verdict": verdict})
        db.execute("INSERT INTO bodies VALUES (?, ?)", (inserted.lastrowid, message.body))
    return verdict


def _touch(db: sqlite3.Connection) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    db.execute(f"PRAGMA user_version = {version:d}")


async def _open_writer(path: str, lock_timeout_s: float) -> aiosqlite.Connection:
    writer = await aiosqlite.connect(path, isolation_level=None, timeout=lock_timeout_s)
    try:
        await on_thread(writer, _prepare)
    except BaseException:
        await writer.close()
        raise
    return writer


def _prepare(db: sqlite3.Connection) -> None:
    check(db)
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect on a new file only
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA synchronous = FULL")
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    (synchronous,) = db.execute("PRAGMA synchronous").fetchone()
    if (mode, synchronous) != ("wal", 2):
        raise SchemaError(
            f"the file system gives journal_mode={mode} and synchronous={synchronous}; "
            "durability needs wal and 2 (FULL)"
        )
    migrate(db)


async def _open_reader(path: str, writer: aiosqlite.Connection) -> aiosqlite.Connection:
    """Read-only, so that it can neither write nor checkpoint: that is the writer's alone."""
    try:
        return await aiosqlite.connect(
            f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None
        )
    except BaseException:
        await writer.close()
        raise
