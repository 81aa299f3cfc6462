"""The inbox on SQLite: one connection writes, another one reads."""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import aiosqlite

from receiver.inbox.commit import Op
from receiver.inbox.handling import Turn
from receiver.inbox.inbox import Inbox, InboxError, InboxUnavailable
from receiver.inbox.sqlite.claim import claim, recover
from receiver.inbox.sqlite.lock import FileLock, LockedError
from receiver.inbox.sqlite.migrate import SchemaError
from receiver.inbox.sqlite.tx import SqliteTx
from receiver.inbox.sqlite.writer import commit, on_thread, open_writer, touch

T = TypeVar("T")

VACUUM_PAGES: Final = 256  # 1 MiB given back to the file system at a time


class SqliteInbox(Inbox):
    """Open it with `await SqliteInbox.open(path)`."""

    def __init__(
        self,
        lock: FileLock,
        writer: aiosqlite.Connection,
        reader: aiosqlite.Connection,
        *,
        read_timeout_s: float,
        commit_rows_max: int,
    ) -> None:
        super().__init__(commit_rows_max=commit_rows_max)
        self._lock = lock
        self._writer = writer
        self._reader = reader
        self._read_turn = asyncio.Lock()
        self._read_timeout_s = read_timeout_s

    @classmethod
    async def open(
        cls,
        path: str,
        *,
        lock_timeout_s: float = 1.0,
        read_timeout_s: float = 5.0,
        commit_rows_max: int = 256,
    ) -> Self:
        """Take the file for this process and brings it to our schema. Raises InboxError."""
        try:
            lock = FileLock(path)
        except LockedError as error:
            raise InboxError(str(error)) from None
        except OSError as error:
            raise InboxError(f"cannot open {path}: {error.strerror}") from None
        try:
            writer = await open_writer(path, lock_timeout_s)
            reader = await _open_reader(path, writer)
        except BaseException as error:
            lock.close()
            if isinstance(error, SchemaError | sqlite3.Error):
                raise InboxError(f"cannot use {path}: {error}") from None
            raise
        return cls(
            lock, writer, reader, read_timeout_s=read_timeout_s, commit_rows_max=commit_rows_max
        )

    async def claim(self, *, now_ms: int, limit: int) -> Turn:
        return await self._write(partial(claim, now_ms=now_ms, limit=limit))

    async def renew(self, running: Sequence[tuple[int, int]]) -> set[int]:
        return {id for id, _ in running}

    async def recover(self, *, now_ms: int, attempts_max: int) -> int:
        return await self._write(partial(recover, now_ms=now_ms, attempts_max=attempts_max))

    async def close(self) -> None:
        await self._commits.close()
        await self._reader.close()
        await self._writer.close()
        self._lock.close()

    async def _commit_batch(self, ops: Sequence[Op]) -> Sequence[Any]:
        try:
            outcomes, has_due = await on_thread(self._writer, lambda db: commit(db, ops))
        except sqlite3.Error as error:
            raise InboxUnavailable(str(error)) from error
        if has_due:
            self.on_due()
        return outcomes

    async def _give_back(self) -> None:
        """Not in a transaction, where it would do nothing."""
        await self._on_writer(
            lambda db: db.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
        )

    async def _check_write(self) -> None:
        await self._on_writer(touch)

    async def _on_writer(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        try:
            await on_thread(self._writer, work)
        except sqlite3.Error as error:
            raise InboxUnavailable(str(error)) from error

    async def _read(self, query: Callable[[Any], T]) -> T:
        """One query at a time, cut off at its deadline: a long one would pin the log."""
        async with self._read_turn:
            look = on_thread(self._reader, lambda db: query(SqliteTx(db)))
            work = asyncio.ensure_future(look)
            try:
                done, _ = await asyncio.wait((work,), timeout=self._read_timeout_s)
                if not done:
                    raise InboxUnavailable("the read took too long")
                return work.result()
            except sqlite3.Error as error:
                raise InboxUnavailable(str(error)) from error
            finally:
                await self._end(work)

    async def _end(self, work: asyncio.Future[Any]) -> None:
        """Return a statement outlives the await that started it: interrupt it, and see it end."""
        while not work.done():
            await self._reader.interrupt()
            await asyncio.wait((work,), timeout=0.05)
        if not work.cancelled():
            work.exception()


async def _open_reader(path: str, writer: aiosqlite.Connection) -> aiosqlite.Connection:
    """Read-only, so that it can neither write nor checkpoint: that is the writer's alone."""
    try:
        return await aiosqlite.connect(
            f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None
        )
    except BaseException:
        await writer.close()
        raise
