"""The running transaction on SQLite; used on the connection's own thread."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from dispatcher.store.tx import Notes, Row, Tx


class SqliteTx(Tx):
    """One transaction, or a reader's one look."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.notes = Notes()

    @property
    def alive(self) -> bool:
        """False once SQLite has rolled everything back by itself, as on a full disk."""
        return self._connection.in_transaction

    def all(self, sql: str, *params: object) -> list[Row]:
        return self._connection.execute(sql, params).fetchall()

    def one(self, sql: str, *params: object) -> Row | None:
        row: Row | None = self._connection.execute(sql, params).fetchone()
        return row

    def run(self, sql: str, *params: object) -> int:
        return self._connection.execute(sql, params).rowcount

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        return self._connection.executemany(sql, rows).rowcount

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        outer, self.notes = self.notes, Notes()
        self._connection.execute("SAVEPOINT inner")
        try:
            yield
        except BaseException:
            self.notes = outer
            if self.alive:
                self._connection.execute("ROLLBACK TO inner")
                self._connection.execute("RELEASE inner")
            raise
        self._connection.execute("RELEASE inner")
        outer.absorb(self.notes)
        self.notes = outer


def ids(values: Iterable[str]) -> str:
    """Return a list as one parameter, to be read with `json_each(?)`."""
    return json.dumps(list(values))
