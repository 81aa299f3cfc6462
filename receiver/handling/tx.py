"""The customer's database, as a handler sees it: one transaction that ends with the handler."""

import asyncio
import sqlite3
import threading
from typing import Any, Final


class TransactionClosed(Exception):
    """The handler took too long: its transaction was rolled back, and takes nothing more."""


class Tx:
    """Statements of the handler's. They commit when it returns and vanish when it raises.

    ``execute`` and ``executemany`` are those of the driver's connection, and return its cursor.
    SQLite itself refuses BEGIN, COMMIT and ROLLBACK in here: effect and mark end together.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection: Final = connection  # for libraries that want one
        connection.set_authorizer(_no_transactions)
        self._turn: Final = threading.Lock()
        self._closed = False

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        with self._turn:
            self._check()
            return self.connection.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
        with self._turn:
            self._check()
            return self.connection.executemany(sql, parameters)

    def commit(self) -> None:
        """Ours to call, after the handler. Raises TransactionClosed."""
        with self._turn:
            self._check()
            self._closed = True
            self.connection.set_authorizer(None)
            self.connection.execute("COMMIT")

    def abandon(self) -> None:
        """Rolls back, from whichever thread, and lets nothing more through."""
        self.connection.interrupt()
        with self._turn:
            self._closed = True
            self.connection.set_authorizer(None)
            if self.connection.in_transaction:
                self.connection.rollback()

    def _check(self) -> None:
        if self._closed:
            raise TransactionClosed("the transaction is over")


def _no_transactions(action: int, *_: object) -> int:
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK


class AsyncTx:
    """The same for an async handler; statements run beside the event loop."""

    def __init__(self, tx: Tx) -> None:
        self._tx: Final = tx

    async def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        return await asyncio.to_thread(self._tx.execute, sql, parameters)

    async def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
        return await asyncio.to_thread(self._tx.executemany, sql, parameters)
