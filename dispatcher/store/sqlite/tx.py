"""The running transaction on SQLite; used on the connection's own thread."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from dispatcher.store.errors import StoreFull, StoreUnavailable
from dispatcher.store.sqlite import statements
from dispatcher.store.tx import ChangeSet, Row, Statements, Topic, Tx


class SqliteTx(Tx):
    """One transaction, or a reader's one look."""

    statements: Statements = statements
    sole_owner = True
    skew_ms = 0
    skip_locked = ""
    for_update = ""
    held = frozenset()

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.changes = ChangeSet()

    def at(self, process_ms: int) -> int:
        return process_ms

    def here(self, database_ms: int) -> int:
        return database_ms

    def all(self, sql: str, *params: object) -> list[Row]:
        return self._connection.execute(sql, params).fetchall()

    def one(self, sql: str, *params: object) -> Row | None:
        row: Row | None = self._connection.execute(sql, params).fetchone()
        return row

    def run(self, sql: str, *params: object) -> int:
        return self._connection.execute(sql, params).rowcount

    write = all

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        return self._connection.executemany(sql, rows).rowcount

    bulk = many

    def ids(self, values: Iterable[str]) -> object:
        return json.dumps(list(values))

    def touch(self) -> None:
        """Differs: every transaction that begins to write shows that it may."""

    def notify(self, topic: Topic) -> None:
        """Differs: there are no others."""

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        outer, self.changes = self.changes, ChangeSet()
        self._connection.execute("SAVEPOINT inner")
        try:
            yield
        except BaseException as error:
            self.changes = outer
            if not self.spoiled(error):
                self._connection.execute("ROLLBACK TO inner")
                self._connection.execute("RELEASE inner")
            raise
        self._connection.execute("RELEASE inner")
        outer.absorb(self.changes)
        self.changes = outer

    def spoiled(self, error: BaseException) -> bool:
        """Differs: whether SQLite has rolled everything back by itself, as on a full disk."""
        return not self._connection.in_transaction

    def translated(self, error: Exception) -> Exception:
        return translated(error) if isinstance(error, sqlite3.Error) else error

    def acquire(self, name: str) -> bool:
        return True

    def let_go(self, name: str) -> None:
        """Differs: nobody else could want it."""


_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG})
_TRANSIENT: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    }
)


def translated(error: sqlite3.Error) -> Exception:
    """Return what an error of SQLite means for the caller; one that is our fault stays what it
    is."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _FULL:
        return StoreFull("the disk has no room for this")
    if code in _TRANSIENT:
        return StoreUnavailable(f"the database cannot be used right now: {error}")
    return error
