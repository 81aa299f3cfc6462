"""The SQLite database: one writer that commits for everyone, a few readers, one file (D3, D4)."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from dispatcher.settings import Settings
from dispatcher.store import batch, lanes
from dispatcher.store.batch import Committed
from dispatcher.store.database import Counts, StoreEvents, migrations
from dispatcher.store.errors import CannotStart, StoreError
from dispatcher.store.requests import Rules, Usage
from dispatcher.store.sqlite import file, statements
from dispatcher.store.tx import ChangeSet, Row, Statements, Topic, Tx
from receiver.base.db import sqlite
from receiver.base.db.sqlite import FileInUse, SqliteFile, in_transaction, make_durable

T = TypeVar("T")

_MEASURE_EVERY_S: Final = 1.0
_BUSY_MS: Final = 2_000  # a backup may hold the file for a moment
# A checkpoint copies this many pages at once (16 MiB): rare enough to be cheap, small enough to
# keep the log file from growing without bound.
_CHECKPOINT_PAGES: Final = 4_096


class SqliteTx(Tx, sqlite.SqliteTx):
    """One transaction, or a reader's one query."""

    statements: Statements = statements
    sole_owner = True
    skew_ms = 0
    for_update = ""
    held = frozenset()

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.changes = ChangeSet()

    def at(self, process_ms: int) -> int:
        return process_ms

    def here(self, database_ms: int) -> int:
        return database_ms

    def write(self, sql: str, *params: object) -> list[Row]:
        return self._connection.execute(sql, params).fetchall()

    def bulk(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        return self._connection.executemany(sql, rows).rowcount

    def ids(self, values: Iterable[str]) -> object:
        return json.dumps(list(values))

    def touch(self) -> None:
        """Differs: every transaction that begins to write shows that it may."""

    def notify(self, topic: Topic) -> None:
        """Differs: there are no others."""

    def acquire(self, name: str) -> bool:
        return True

    def let_go(self, name: str) -> None:
        """Differs: nobody else could want it."""


class SqliteDatabase:
    """One SQLite file that this process owns."""

    shared = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = file.path_of(settings.database_url)
        self._file = SqliteFile(
            self._path,
            readers=settings.readers,
            read_timeout_s=settings.read_timeout,
            busy_ms=_BUSY_MS,
        )
        self._measured_s = 0.0
        self.usage = Usage(used_bytes=0, free_bytes=0)

    async def open(self, events: StoreEvents, recount: Callable[[Counts], None]) -> None:
        try:
            self.usage = await self._file.open(self._prepare)
        except FileInUse as error:
            raise CannotStart(f"{error}: {file.IN_USE_ADVICE}") from error

    def _prepare(self, connection: sqlite3.Connection) -> Usage:
        prepare(connection, self._path)
        return self._measure(connection)

    async def close(self) -> None:
        await self._file.close()

    async def backup(self, target: Path) -> None:
        await asyncio.to_thread(file.backup, self._path, target)

    async def write(self, operations: Sequence[object], rules: Rules) -> Committed:
        committed = await self._file.write(commit, operations, rules)
        if time.monotonic() - self._measured_s > _MEASURE_EVERY_S:
            self._measured_s = time.monotonic()
            # What is on disk must be answered as such: without a new figure the last one stays.
            with suppress(StoreError, sqlite3.Error, OSError):
                self.usage = await self._file.write(self._measure)
        return committed

    async def read(self, query: Callable[[Tx], T]) -> T:
        return await self._file.readers.read(lambda connection: query(SqliteTx(connection)))

    async def shrink(self, *, pages: int) -> int:
        return await self._file.write(file.shrink, pages)

    def _measure(self, connection: sqlite3.Connection) -> Usage:
        return file.measure(
            connection,
            self._path,
            bytes_max=self._settings.storage_bytes_max,
            reserve_bytes=self._settings.storage_reserve_bytes,
        )


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the writing connection durable, and bring the file to our schema. Raises CannotStart."""
    if path.stat().st_size == 0:
        path.chmod(0o600)  # it will hold signing secrets
    make_durable(connection)
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    try:
        sqlite.migrate(connection, migrations("sqlite"))
    except sqlite3.Error as error:
        raise CannotStart(
            f"{path} cannot be used: {error}; it may not be a database of this program"
        ) from error


def commit(connection: sqlite3.Connection, operations: Sequence[object], rules: Rules) -> Committed:
    """Do what `Database.write` does, on the writer's thread."""
    return in_transaction(connection, partial(_apply, SqliteTx(connection), operations, rules))


def _apply(tx: SqliteTx, operations: Sequence[object], rules: Rules) -> Committed:
    results = batch.apply(tx, operations, rules)
    _count(tx)
    return Committed(results, tx.changes, lanes.next_ready_ms(tx))


def _count(tx: Tx) -> None:
    moves = tx.changes.moves()
    if moves:
        tx.many(
            "INSERT INTO counts (tenant, state, n) VALUES (?, ?, ?) "
            "ON CONFLICT (tenant, state) DO UPDATE SET n = n + excluded.n",
            moves,
        )
