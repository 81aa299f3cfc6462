"""The running transaction on PostgreSQL; used on the connection's own thread."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import psycopg
from psycopg.types.numeric import Int8BinaryDumper

from dispatcher.store.postgres import errors, statements
from dispatcher.store.tx import ChangeSet, Row, Statements, Topic, Tx

CHANNEL: Final = "postback"


class PostgresTx(Tx):
    """One transaction, or a reader's one look."""

    statements: Statements = statements
    sole_owner = False
    # Differs: several processes prune at once; each takes what no other one holds.
    skip_locked = " FOR UPDATE SKIP LOCKED"
    for_update = " FOR UPDATE"

    def __init__(
        self,
        connection: psycopg.Connection,
        *,
        skew_ms: int = 0,
        session: str = "",
        acquired: set[str] | None = None,
    ) -> None:
        """`acquired` are the names that the session has."""
        self._connection = connection
        self._cursor = connection.cursor(binary=True)
        self._session = session
        self._acquired = set() if acquired is None else acquired
        self.skew_ms = skew_ms
        self.changes = ChangeSet()
        self.wrote = False
        self.held: frozenset[str] = frozenset()

    def lost(self, error: psycopg.Error) -> bool:
        """Whether the connection is gone, or not worth keeping."""
        return errors.lost(error, self._connection)

    def all(self, sql: str, *params: object) -> list[Row]:
        return self._execute(sql, params).fetchall()

    def one(self, sql: str, *params: object) -> Row | None:
        return self._execute(sql, params).fetchone()

    def run(self, sql: str, *params: object) -> int:
        self.wrote = True
        return self._execute(sql, params).rowcount

    def write(self, sql: str, *params: object) -> list[Row]:
        self.wrote = True
        return self._execute(sql, params).fetchall()

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        given = list(rows)
        if not given:
            return 0
        self.wrote = True
        self._cursor.executemany(translated(sql), given)
        return self._cursor.rowcount

    def bulk(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        return self.run(sql, *statements.columns(rows))

    def ids(self, values: Iterable[str]) -> object:
        """Differs: sorted, so that every process takes its locks in the same order."""
        return sorted(set(values))

    def touch(self) -> None:
        self.wrote = True

    def notify(self, topic: Topic) -> None:
        self.run("UPDATE revisions SET n = n + 1 WHERE what = ?", topic)
        self.one("SELECT pg_notify(?, ?)", CHANNEL, f"{topic} {self._session}")

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        outer, self.changes = self.changes, ChangeSet()
        held = self.held
        self._connection.execute("SAVEPOINT inside")
        try:
            yield
        except BaseException:
            self.changes, self.held = outer, held
            if not self._connection.closed:
                self._connection.execute("ROLLBACK TO inside; RELEASE inside")
            raise
        self._connection.execute("RELEASE inside")
        outer.absorb(self.changes)
        self.changes = outer

    def spoiled(self, error: BaseException) -> bool:
        return self._connection.closed or errors.of_the_batch(error)

    def translated(self, error: Exception) -> Exception:
        return errors.translated(error)

    def acquire(self, name: str) -> bool:
        if name not in self._acquired:
            row = self.one("SELECT pg_try_advisory_lock(hashtextextended(?, 0))", name)
            if row is None or not row[0]:
                return False
            self._acquired.add(name)
        return True

    def let_go(self, name: str) -> None:
        if name in self._acquired:
            self.one("SELECT pg_advisory_unlock(hashtextextended(?, 0))", name)
            self._acquired.discard(name)

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
