"""The customer's own database, where an effect and our mark of it commit together.

Our table there, ``postback_handled``, is the one that counts: the inbox keeps a copy of what it
says. It may lie in any SQLite file of the customer's; nothing else in it is touched.
"""

import sqlite3
import threading
from typing import Final

from receiver.event import Event
from receiver.handling.tx import Tx

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


class EffectsError(Exception):
    """The customer's database cannot be opened; the message says why, in one line."""


class Effects:
    """Transactions on the customer's SQLite file, one at a time: SQLite has one writer anyway, and
    who waits here need not poll for its lock."""

    def __init__(self, path: str) -> None:
        self._path: Final = path
        self._turn: Final = threading.Lock()
        # Kept open from one transaction to the next: the last one to close a file checkpoints it.
        self._spare: sqlite3.Connection | None = None

    def prepare(self) -> None:
        """Makes our table where it is missing. Raises EffectsError."""
        try:
            connection = self._connect()
            try:
                connection.execute(_TABLE)
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise EffectsError(f"cannot use {self._path}: {error}") from None

    def begin(self) -> "Transaction":
        """Blocks until it is this one's turn. Raises sqlite3.Error."""
        self._turn.acquire()
        try:
            connection, self._spare = self._spare or self._connect(), None
            try:
                connection.execute("BEGIN IMMEDIATE")
            except BaseException:
                connection.close()
                raise
        except BaseException:
            self._turn.release()
            raise
        return Transaction(connection, self)

    def end(self, connection: sqlite3.Connection | None) -> None:
        """Lets the next one in; it takes over the connection, if that is fit for it."""
        self._spare = connection
        self._turn.release()

    def close(self) -> None:
        """Once no transaction runs any more; one that hangs keeps its own connection."""
        if self._turn.acquire(timeout=BUSY_TIMEOUT_S):
            spare, self._spare = self._spare, None
            self._turn.release()
            if spare is not None:
                spare.close()

    def forget(self, before_ms: int) -> None:
        """Deletes marks that are older than any message in the inbox can be."""
        with self._turn:
            connection = self._connect()
            try:
                connection.execute(_FORGET, (before_ms,))
            finally:
                connection.close()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )


class Transaction:
    """One handler's transaction, from ``Effects.begin`` to ``commit`` or ``abandon``."""

    def __init__(self, connection: sqlite3.Connection, effects: Effects) -> None:
        self.tx: Final = Tx(connection)
        self._connection: Final = connection
        self._effects: Final = effects
        self._ending: Final = threading.Lock()
        self._ended = False
        self._handed_on = False  # the connection is the next one's

    def mark(self, event: Event, now_ms: int) -> bool:
        """Whether this message was not handled before; from here on it is, if this commits."""
        values = (event.source, event.key, event.job_id, now_ms)
        return self.tx.execute(_MARK, values).rowcount > 0

    def commit(self) -> None:
        """Effect and mark, or neither. Raises TransactionClosed or sqlite3.Error."""
        self.tx.commit()
        with self._ending:
            if not self._ended:
                self._ended = self._handed_on = True
                self._effects.end(self._connection)

    def abandon(self) -> None:
        """Rolls back what is not committed and lets the next one in; at once, even while the
        handler's thread still runs: nothing that it does afterwards reaches the database."""
        with self._ending:  # to the end, or close() would close what is being rolled back
            if self._ended:
                return
            self._ended = True
            try:
                self.tx.abandon()
            finally:
                self._effects.end(None)

    def close(self) -> None:
        """Once the handler has truly ended."""
        self.abandon()
        if not self._handed_on:
            self._connection.close()
