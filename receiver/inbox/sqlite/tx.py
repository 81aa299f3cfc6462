"""The running transaction on SQLite; used on the connection's own thread."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from receiver.guard import Verdict
from receiver.inbox.sqlite.receive import receive
from receiver.inbox.tx import Row, Value
from receiver.message import Message


class SqliteTx:
    """One transaction, or a reader's one look."""

    skip_locked = ""  # nobody else writes here

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.has_due = False

    def all(self, sql: str, values: Mapping[str, Value]) -> Sequence[Row]:
        cursor = self.db.execute(sql, values)
        cursor.row_factory = sqlite3.Row
        return cursor.fetchall()

    def run(self, sql: str, values: Mapping[str, Value]) -> int:
        return self.db.execute(sql, values).rowcount

    def receive(self, messages: Sequence[Message]) -> Sequence[Verdict]:
        verdicts, has_due = receive(self.db, messages)
        self.has_due |= has_due
        return verdicts

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        self.db.execute("SAVEPOINT one")
        try:
            yield
        except BaseException:
            if self.db.in_transaction:  # a full disk may have ended it already
                self.db.execute("ROLLBACK TO one")
                self.db.execute("RELEASE one")
            raise
        self.db.execute("RELEASE one")
