"""The running transaction on PostgreSQL; used on the connection's own thread."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.types.numeric import Int8BinaryDumper

from dispatcher.store.postgres.errors import lost
from dispatcher.store.tx import Notes, Row, Tx


class PostgresTx(Tx):
    """One transaction, or a reader's one look."""

    # Differs: several processes prune at once; each takes what no other one holds.
    skip_locked = " FOR UPDATE SKIP LOCKED"

    def __init__(self, connection: psycopg.Connection, *, skew_ms: int = 0) -> None:
        self._connection = connection
        self._cursor = connection.cursor(binary=True)
        self._skew_ms = skew_ms
        self.notes = Notes()
        self.wrote = False
        self.locked: frozenset[str] = frozenset()
        """The lanes that are held until the end of the transaction."""
        self.served_ms = 0
        """When a claim of this transaction served the tenants that it noted."""

    @property
    def alive(self) -> bool:
        """False once the connection is gone."""
        return not self._connection.closed

    def lost(self, error: psycopg.Error) -> bool:
        """Whether the connection is gone, or not worth keeping."""
        return lost(error, self._connection)

    def at(self, process_ms: int) -> int:
        """Return a time of this process's clock by the database's clock, which all processes
        share."""
        return process_ms + self._skew_ms

    def here(self, database_ms: int) -> int:
        """Return a time of the database's clock by this process's clock."""
        return database_ms - self._skew_ms

    def all(self, sql: str, *params: object) -> list[Row]:
        return self._execute(sql, params).fetchall()

    def one(self, sql: str, *params: object) -> Row | None:
        return self._execute(sql, params).fetchone()

    def run(self, sql: str, *params: object) -> int:
        self.wrote = True
        return self._execute(sql, params).rowcount

    def write(self, sql: str, *params: object) -> list[Row]:
        """Return what a statement that writes returns."""
        self.wrote = True
        return self._execute(sql, params).fetchall()

    def touch(self) -> None:
        """Have the commit write its mark, whatever else it does: proof that the disk takes it."""
        self.wrote = True

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        """Differs: for the portable verbs only; the hot ones send arrays."""
        given = list(rows)
        if not given:
            return 0
        self.wrote = True
        self._cursor.executemany(translated(sql), given)
        return self._cursor.rowcount

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        outer, self.notes = self.notes, Notes()
        locked = self.locked
        self._connection.execute("SAVEPOINT inside")
        try:
            yield
        except BaseException:
            self.notes, self.locked = outer, locked
            if self.alive:
                self._connection.execute("ROLLBACK TO inside; RELEASE inside")
            raise
        self._connection.execute("RELEASE inside")
        outer.absorb(self.notes)
        self.notes = outer

    def _execute(self, sql: str, params: Sequence[object]) -> psycopg.Cursor[Any]:
        return self._cursor.execute(translated(sql), params)


@lru_cache(maxsize=2_048)
def translated(sql: str) -> bytes:
    """`?` as the driver's placeholder, in binary: arrays then cost a third of the CPU."""
    return sql.replace("%", "%%").replace("?", "%b").encode()


def adapt(connection: psycopg.Connection) -> None:
    """Every integer goes as a bigint: by default its size decides its type, and each mix of types
    would be another prepared statement."""
    connection.adapters.register_dumper(int, Int8BinaryDumper)


def ids(values: Iterable[str]) -> list[str]:
    """Return a list as one parameter, to be read with `= ANY(?)` or `unnest(?)`. In their order, so
    that every process takes its locks in the same one."""
    return sorted(set(values))


def text(value: str | None) -> str | None:
    """Return what a peer said, without the one character that PostgreSQL's text cannot hold."""
    return value if value is None or "\0" not in value else value.replace("\0", "\ufffd")
