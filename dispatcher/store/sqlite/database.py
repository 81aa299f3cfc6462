"""The SQLite database: one writer that commits for everyone, a few readers, one file (D3, D4)."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite

from dispatcher.settings import Settings
from dispatcher.store import batch, lanes
from dispatcher.store.batch import Committed
from dispatcher.store.database import Counts, StoreEvents
from dispatcher.store.errors import CannotStart, StoreError, StoreUnavailable
from dispatcher.store.migrate import migrate_sqlite
from dispatcher.store.requests import Rules, Usage
from dispatcher.store.sqlite import file
from dispatcher.store.sqlite.readers import Readers, run
from dispatcher.store.sqlite.tx import SqliteTx, translated
from dispatcher.store.tx import Tx

T = TypeVar("T")

_MEASURE_EVERY_S: Final = 1.0


class SqliteDatabase:
    """One SQLite file that this process owns."""

    shared = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = file.path_of(settings.database_url)
        self._owner = file.Ownership(self._path)
        self._readers = Readers(
            self._path, connections=settings.readers, timeout_s=settings.read_timeout
        )
        self._connection: aiosqlite.Connection | None = None
        self._measured_s = 0.0
        self.usage = Usage(used_bytes=0, free_bytes=0)

    async def open(self, events: StoreEvents, recount: Callable[[Counts], None]) -> None:
        self._owner.take()
        try:
            self._connection = await aiosqlite.Connection(
                lambda: file.connect_writer(self._path), 64
            )
            await self._migrate(self._connection)
            self.usage = await run(self._connection, self._measure)
            await self._readers.open()
        except BaseException:
            await self.close()
            raise

    async def _migrate(self, connection: aiosqlite.Connection) -> None:
        try:
            await run(connection, migrate_sqlite)
        except sqlite3.Error as error:
            raise CannotStart(
                f"{self._path} cannot be used: {error}; it may not be a database of this program"
            ) from error

    async def close(self) -> None:
        await self._readers.close()
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
        self._owner.release()

    async def backup(self, target: Path) -> None:
        await asyncio.to_thread(file.backup, self._path, target)

    async def write(self, operations: Sequence[object], rules: Rules) -> Committed:
        committed = await self._on_writer(commit, operations, rules)
        if time.monotonic() - self._measured_s > _MEASURE_EVERY_S:
            self._measured_s = time.monotonic()
            # What is on disk must be answered as such: without a new figure the last one stays.
            with suppress(StoreError, sqlite3.Error, OSError):
                self.usage = await self._on_writer(self._measure)
        return committed

    async def read(self, query: Callable[[Tx], T]) -> T:
        return await self._readers.look(query)

    async def shrink(self, *, pages: int) -> int:
        return await self._on_writer(file.shrink, pages)

    async def _on_writer(self, function: Callable[..., T], *arguments: object) -> T:
        if self._connection is None:
            raise StoreUnavailable("the store is closed")
        try:
            return await run(self._connection, function, *arguments)
        except sqlite3.Error as error:
            raise translated(error) from error

    def _measure(self, connection: sqlite3.Connection) -> Usage:
        return file.measure(
            connection,
            self._path,
            bytes_max=self._settings.storage_bytes_max,
            reserve_bytes=self._settings.storage_reserve_bytes,
        )


def commit(connection: sqlite3.Connection, operations: Sequence[object], rules: Rules) -> Committed:
    """Do what `Database.write` does, on the writer's thread."""
    tx = SqliteTx(connection)
    try:
        connection.execute("BEGIN IMMEDIATE")
        results = batch.apply(tx, operations, rules)
        _count(tx)
        next_ready_ms = lanes.next_ready_ms(tx)
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise translated(error) from error
        raise
    return Committed(results, tx.changes, next_ready_ms)


def _count(tx: Tx) -> None:
    moves = tx.changes.moves()
    if moves:
        tx.many(
            "INSERT INTO counts (tenant, state, n) VALUES (?, ?, ?) "
            "ON CONFLICT (tenant, state) DO UPDATE SET n = n + excluded.n",
            moves,
        )
