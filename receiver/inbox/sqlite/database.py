"""The inbox's SQLite file: how its transactions get to it."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from receiver.base.db import CannotOpen, DatabaseUnavailable
from receiver.base.db.migrate import migrations, missing
from receiver.base.db.readers import Reader
from receiver.base.db.sqlite import (
    FileInUse,
    SqliteFile,
    SqliteTx,
    commit_batch,
    give_back,
    make_durable,
    migrate,
    schema_version,
)
from receiver.inbox.sqlite import statements

T = TypeVar("T")

APPLICATION_ID: Final = 1346521938  # as 0001_inbox.sql sets it
MIGRATIONS: Final = migrations("receiver.inbox.sqlite")
VACUUM_PAGES: Final = 256  # 1 MiB given back to the file system at a time
_CHECKPOINTS_MAX: Final = 20  # each waits as long as a write waits for a lock


class SqliteDatabase:
    """One file that this process owns while it is open."""

    statements = statements
    errors: type[Exception] = sqlite3.Error
    lease_s: float | None = None
    rows_max: int | None = None

    def __init__(
        self, path: str, *, lock_timeout_s: float = 1.0, read_timeout_s: float = 5.0
    ) -> None:
        self._file = SqliteFile(
            Path(path),
            readers=1,
            own_readers=1,
            read_timeout_s=read_timeout_s,
            busy_ms=round(lock_timeout_s * 1000),
        )

    async def open(self) -> None:
        """Take the file for this process, and bring it to our schema. Raises CannotOpen."""
        try:
            await self._file.open(_prepare)
        except FileInUse as error:
            raise CannotOpen(f"{error}; one process owns the file") from None

    async def close(self) -> None:
        """Disconnect and let another process have the file."""
        await self._file.close()

    async def commit(self, apply: Callable[[Any], T]) -> T:
        """Return what `apply(tx)` did, once it is on disk. Raises PoisonedBatch,
        DatabaseUnavailable and DatabaseFull."""
        return await self._file.write(_commit, apply)

    async def read(self, query: Callable[[Any], T], reader: Reader) -> T:
        """Return what a query finds. Raises DatabaseUnavailable."""
        return await self._file.readers.read(lambda connection: query(SqliteTx(connection)), reader)

    async def shrink(self) -> None:
        """Give unused pages back to the file system, in slices. Not in a transaction, where it
        would do nothing."""
        while await self._file.write(give_back, VACUUM_PAGES) == VACUUM_PAGES:
            pass

    async def scrub(self) -> None:
        """Write the file anew, without what was deleted or written over, and empty its log of what
        was there before. Needs as much room again as the file has."""
        await self._file.write(_scrub)


def _scrub(connection: sqlite3.Connection) -> None:
    connection.execute("VACUUM")
    for _ in range(_CHECKPOINTS_MAX):
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return
    raise DatabaseUnavailable("the log could not be emptied: somebody reads the file; try again")


def _prepare(connection: sqlite3.Connection) -> None:
    _check(connection)
    make_durable(connection)
    migrate(connection, MIGRATIONS)
    connection.execute("PRAGMA foreign_keys = ON")  # not before: rebuilding a table empties others


def _check(connection: sqlite3.Connection) -> None:
    """Raise CannotOpen, with nothing changed, for a file that is not ours or newer than we are."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application_id != APPLICATION_ID:
        raise CannotOpen("the file is a database of another program")
    missing(schema_version(connection), MIGRATIONS)


def _commit(connection: sqlite3.Connection, apply: Callable[[Any], T]) -> T:
    return commit_batch(connection, lambda: apply(SqliteTx(connection)))
