"""The durable inbox: a SQLite file of this process alone, in which a message is stored once."""

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import aiosqlite

from receiver.guard import Verdict
from receiver.identity import Dialect
from receiver.message import Message, Page, State, StoredMessage
from receiver.store import expectations, handling, listing, retention
from receiver.store.commit import GroupCommit, on_thread
from receiver.store.expectations import Asked, Expectation
from receiver.store.handling import Settlement, Turn
from receiver.store.listing import Backlog
from receiver.store.lock import FileLock, LockedError
from receiver.store.migrate import SchemaError, check, migrate
from receiver.store.receive import receive

T = TypeVar("T")


# Hashes and ids fall all over their indexes: what does not fit here is read again for each row.
CACHE_KIB: Final = 32 * 1024


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
        self._commits: Final = GroupCommit(writer, rows_max=commit_rows_max)
        self.failing = False  # whether the last commit failed
        self.on_due: Callable[[], None] = _nobody  # called when something is there to handle

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
        receipt = await self._write(partial(receive, message=message))
        if receipt.due:
            self.on_due()
        return receipt.verdict

    async def claim(self, *, now_ms: int, limit: int) -> Turn:
        """The messages whose turn it is, at most ``limit``, marked as running."""
        return await self._write(partial(handling.claim, now_ms=now_ms, limit=limit))

    async def settle(self, settlement: Settlement) -> None:
        """Writes what came of an attempt."""
        await self._write(partial(handling.settle, settlement=settlement))

    async def hand_back(self, id: int, now_ms: int) -> None:
        """Makes a running message due again, its attempt unspent."""
        await self._write(partial(handling.hand_back, id=id, now_ms=now_ms))

    async def recover(self, *, now_ms: int, attempts_max: int) -> int:
        """Takes back what an ended process left running; how many that were."""
        work = partial(handling.recover, now_ms=now_ms, attempts_max=attempts_max)
        return await self._write(work)

    async def replay(self, id: int, now_ms: int) -> bool:
        """Whether a message could be made due again."""
        replayed = await self._write(partial(handling.replay, id=id, now_ms=now_ms))
        if replayed:
            self.on_due()
        return replayed

    async def replay_all(self, state: State, now_ms: int) -> int:
        """Replays all messages of a state that can be, in slices; how many."""
        count, above = 0, 0
        while True:
            work = partial(
                handling.replay_all,
                state=state,
                now_ms=now_ms,
                limit=retention.SLICE_ROWS,
                above=above,
            )
            replayed, last = await self._write(work)
            if last is None:
                return count
            count, above = count + replayed, last
            self.on_due()

    async def expect(
        self,
        *,
        source: str,
        job_id: str,
        status_url: str,
        credentials: str | None,
        platform: Dialect,
        now_ms: int,
        ask_ms: int,
    ) -> Expectation:
        """Waits for a job from now on; it is asked for at ``ask_ms`` if it stays silent."""
        work = partial(
            expectations.expect,
            source=source,
            job_id=job_id,
            status_url=status_url,
            credentials=credentials,
            platform=platform,
            now_ms=now_ms,
            ask_ms=ask_ms,
        )
        return await self._write(work)

    async def expected_due(
        self, *, now_ms: int, limit: int
    ) -> tuple[list[Expectation], int | None]:
        """The jobs to ask for now, and when the next one will be."""
        return await self._read(partial(expectations.due, now_ms=now_ms, limit=limit))

    async def asked(self, result: Asked) -> bool:
        """Writes what asking for a job led to; whether it is lost now."""
        return await self._write(partial(expectations.asked, result=result))

    async def expectations(self, *, state: str | None, limit: int) -> list[Expectation]:
        """The jobs that are or were waited for, newest first."""
        return await self._read(partial(expectations.listed, state=state, limit=limit))

    async def prune(self, *, bodies_before_ms: int, messages_before_ms: int) -> tuple[int, int]:
        """Lets go of what was done with before these times: (bodies, messages) deleted. In
        slices, so that messages that come in meanwhile do not wait."""
        bodies = await self._prune(retention.prune_bodies, bodies_before_ms)
        messages = await self._prune(retention.prune_messages, messages_before_ms)
        if bodies or messages:
            await self._vacuum()
        return bodies, messages

    async def page(
        self,
        *,
        below: int | None = None,
        limit: int = 50,
        job_id: str | None = None,
        verdict: str | None = None,
        state: str | None = None,
    ) -> Page:
        """Messages, newest first. Raises InboxUnavailable."""
        query = partial(
            listing.page, below=below, limit=limit, job_id=job_id, verdict=verdict, state=state
        )
        return await self._read(query)

    async def show(self, id: int) -> StoredMessage | None:
        """One message with its body, or None. Raises InboxUnavailable."""
        return await self._read(partial(listing.show, id=id))

    async def backlog(self) -> Backlog:
        """What is not done with. Raises InboxUnavailable."""
        return await self._read(listing.backlog)

    async def due_ms(self) -> int | None:
        """When the first that waits is due; 0 while one is being handled, None when none waits."""
        return await self._read(listing.due_ms)

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

    async def _prune(self, slice: Callable[[sqlite3.Connection, int], int], before_ms: int) -> int:
        count = 0
        while found := await self._write(lambda db: slice(db, before_ms)):
            count += found
        return count

    async def _vacuum(self) -> None:
        """Not in a transaction, where it would do nothing."""
        try:
            await on_thread(self._writer, retention.give_back)
        except sqlite3.Error as error:
            raise InboxUnavailable(str(error)) from error

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of ``work`` once it is on disk. Raises InboxUnavailable."""
        try:
            result = await self._commits.submit(work)
        except sqlite3.Error as error:
            self.failing = True
            raise InboxUnavailable(str(error)) from error
        self.failing = False
        return result

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


def _nobody() -> None:
    """Without handlers there is nobody to tell."""


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
    db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
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
