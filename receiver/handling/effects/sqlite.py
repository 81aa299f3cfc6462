"""Effects in a SQLite file of the customer's."""

import sqlite3
import threading
from typing import Final

from receiver.event import Event
from receiver.handling.tx import EffectsError, Transaction, Tx

BUSY_TIMEOUT_S: Final = 5.0  # SQLite's own customary wait for another program's lock

_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS postback_handled (
        source     TEXT NOT NULL,
        message    TEXT NOT NULL,
        job_id     TEXT NOT NULL,
        handled_ms INTEGER NOT NULL,
        PRIMARY KEY (source, message)
    ) WITHOUT ROWID
"""
_MARK: Final = "INSERT OR IGNORE INTO postback_handled VALUES (?, ?, ?, ?)"
_FORGET: Final = "DELETE FROM postback_handled WHERE handled_ms < ?"


class SqliteEffects:
    """Transactions on the customer's SQLite file, one at a time: SQLite has one writer anyway, and
    waiting here spares polling for its lock."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._turn = threading.Lock()
        # Kept open from one transaction to the next: the last one to close a file checkpoints it.
        self._spare: sqlite3.Connection | None = None

    def prepare(self) -> None:
        self._run(_TABLE)

    def begin(self) -> Transaction:
        self._turn.acquire()
        try:
            connection, self._spare = self._spare or self._connect(), None
            try:
                connection.execute("BEGIN IMMEDIATE")
            except BaseException:
                connection.close()
                raise
        except BaseException as error:
            self._turn.release()
            if isinstance(error, sqlite3.Error):
                raise self._unusable(error) from None
            raise

        def end(fit: bool) -> None:
            self._spare = connection if fit else None
            self._turn.release()

        return Transaction(SqliteTx(connection), end)

    def close(self) -> None:
        if self._turn.acquire(timeout=BUSY_TIMEOUT_S):
            spare, self._spare = self._spare, None
            self._turn.release()
            if spare is not None:
                spare.close()

    def forget(self, before_ms: int) -> None:
        with self._turn:
            self._run(_FORGET, before_ms)

    def _run(self, sql: str, *parameters: int) -> None:
        try:
            connection = self._connect()
            try:
                connection.execute(sql, parameters)
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )

    def _unusable(self, error: sqlite3.Error) -> EffectsError:
        return EffectsError(f"cannot use {self._path}: {error}")


class SqliteTx(Tx):
    """SQLite itself refuses BEGIN, COMMIT and ROLLBACK in here."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        connection.set_authorizer(_no_transactions)

    def mark(self, event: Event, now_ms: int) -> bool:
        values = (event.source, event.key, event.job_id, now_ms)
        return bool(self.execute(_MARK, values).rowcount > 0)

    def abandon(self) -> None:
        self.connection.interrupt()
        with self._turn:
            self._closed = True
            self.connection.set_authorizer(None)
            if self.connection.in_transaction:
                self.connection.rollback()
            # Who kept the connection would now write outside any transaction.
            self.connection.set_authorizer(_nothing)

    def close(self) -> None:
        self.connection.close()

    def _commit(self) -> None:
        self.connection.set_authorizer(None)
        self.connection.execute("COMMIT")


def _no_transactions(action: int, *_: object) -> int:
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK


def _nothing(*_: object) -> int:
    return sqlite3.SQLITE_DENY
