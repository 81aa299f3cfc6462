"""The running transaction on PostgreSQL; used on the connection's own thread."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from receiver.guard import Verdict
from receiver.inbox.postgres.receive import receive
from receiver.inbox.tx import Row, Value
from receiver.message import Message

_PARAMETER: Final = re.compile(r"(?<!:):([a-z_][a-z_0-9]*)")


class PostgresTx:
    """One transaction, or a reader's one look."""

    skip_locked = " FOR UPDATE SKIP LOCKED"

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self._cursor = connection.cursor(binary=True, row_factory=dict_row)
        self.has_due = False

    def all(self, sql: str, values: Mapping[str, Value]) -> Sequence[Row]:
        return self._execute(sql, values).fetchall()

    def run(self, sql: str, values: Mapping[str, Value]) -> int:
        return self._execute(sql, values).rowcount

    def receive(self, messages: Sequence[Message]) -> Sequence[Verdict]:
        verdicts, has_due = receive(self.connection, messages)
        self.has_due |= has_due
        return verdicts

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        self.connection.execute("SAVEPOINT one")
        try:
            yield
        except BaseException:
            if not self.connection.closed:
                self.connection.execute("ROLLBACK TO one; RELEASE one")
            raise
        self.connection.execute("RELEASE one")

    def _execute(self, sql: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        return self._cursor.execute(translated(sql), values)


@lru_cache(maxsize=256)
def translated(sql: str) -> bytes:
    """`:name` as the driver's placeholder, in binary."""
    return _PARAMETER.sub(r"%(\1)b", sql.replace("%", "%%")).encode()
