"""Effects in a SQLite file of the customer's."""

import os
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from receiver.event import Event
from receiver.handling.tx import EffectsError, Transaction, TransactionClosed, Tx

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
_FORGET: Final = "DELETE FROM postback_handled WHERE handled_ms < ? AND source = ?"


class SqliteEffects:
    """Transactions on the customer's SQLite file, one at a time: SQLite has one writer anyway, and
    waiting here spares polling for its lock. Each has a connection of its own: what a handler did
    to it (a row factory, temporary tables, pragmas) is not the next one's."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._turn = threading.Lock()
        # Kept open beside them: the last connection to a file that closes checkpoints it.
        self._anchor: sqlite3.Connection | None = None
        self._anchored: tuple[int, int] | None = None  # which file that is

    def prepare(self) -> None:
        # One that is made here is its owner's alone: SQLite would make it as the umask says.
        with suppress(OSError):
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        self._run(_TABLE)

    def begin(self) -> Transaction:
        self._turn.acquire()
        try:
            self._anchor_file()
            connection = self._connect()
            try:
                connection.execute("BEGIN IMMEDIATE")
            except BaseException:
                connection.close()
                raise
        except BaseException as error:
            self._turn.release()
            if isinstance(error, sqlite3.Error | OSError):
                raise self._unusable(error) from None
            raise

        def end(fit: bool) -> None:
            if fit:
                connection.close()
            self._turn.release()

        return Transaction(SqliteTx(connection), end)

    def close(self) -> None:
        if self._turn.acquire(timeout=BUSY_TIMEOUT_S):
            self._let_go()
            self._turn.release()

    def _anchor_file(self) -> None:
        """Keep the file open; another one if it was replaced, as by a restore."""
        found = os.stat(self._path)
        file = (found.st_dev, found.st_ino)
        if file != self._anchored:
            self._let_go()
            self._anchor = self._connect()
            self._anchor.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            self._anchored = file

    def _let_go(self) -> None:
        anchor, self._anchor, self._anchored = self._anchor, None, None
        if anchor is not None:
            anchor.close()

    def forget(self, before_ms: int, sources: Sequence[str]) -> None:
        with self._turn:
            for source in sources:
                self._run(_FORGET, before_ms, source)

    def _run(self, sql: str, *parameters: int | str) -> None:
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
            self._path,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=0,  # what is prepared again is authorized again
        )

    def _unusable(self, error: sqlite3.Error | OSError) -> EffectsError:
        return EffectsError(f"cannot use {self._path}: {error}")


class SqliteTx(Tx):
    """SQLite itself refuses BEGIN, COMMIT and ROLLBACK in here; and everything, wherever it comes
    from, once it has ended the transaction by itself (ON CONFLICT ROLLBACK, RAISE(ROLLBACK), a
    full disk): it would write outside any, and do so again in the next attempt."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        connection.set_authorizer(self._authorize)

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

    def _check(self) -> None:
        super()._check()
        if not self.connection.in_transaction:
            raise TransactionClosed(
                "SQLite has rolled back the whole transaction by itself (ON CONFLICT ROLLBACK, "
                "RAISE(ROLLBACK) or a full disk): the handler must not go on"
            )

    def _authorize(self, action: int, *_: object) -> int:
        allowed = action != sqlite3.SQLITE_TRANSACTION and self.connection.in_transaction
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _nothing(*_: object) -> int:
    return sqlite3.SQLITE_DENY
