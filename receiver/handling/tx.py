"""The customer's database, whichever one it is: the transaction that a handler sees, how it begins
and ends, and our marks in it."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from receiver.event import Event


class EffectsError(Exception):
    """The customer's database cannot be used; the message says why, in one line."""


class TransactionClosed(Exception):
    """The handler took too long: its transaction was rolled back, and takes nothing more."""


class Tx(ABC):
    """The handler's statements. They commit when it returns and are rolled back when it raises.

    `execute` and `executemany` are those of the driver, and return its cursor;
    `connection` is the driver's own, for libraries that want one, until the handler returns.
    What would begin or end a transaction is refused: effect and mark end together.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._turn = threading.Lock()
        self._closed = False

    def execute(self, sql: Any, parameters: Any = None) -> Any:
        with self._turn:
            self._check()
            if parameters is None:
                return self.connection.execute(sql)
            return self.connection.execute(sql, parameters)

    def executemany(self, sql: Any, parameters: Any) -> Any:
        with self._turn:
            self._check()
            cursor = self.connection.cursor()
            cursor.executemany(sql, parameters)
            return cursor

    @abstractmethod
    def mark(self, event: Event, now_ms: int) -> bool:
        """Mark the message as handled, if this commits; False where it was handled before. We call
        it, before the handler."""

    def commit(self) -> None:
        """Commit effect and mark, or raise and commit neither. We call it, after the handler. Who
        lost the connection meanwhile learns from the mark what came of it."""
        with self._turn:
            self._check()
            self._closed = True
            self._commit()

    @abstractmethod
    def abandon(self) -> None:
        """Roll back, from whichever thread, and let nothing more through."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection of an abandoned one, once the handler has truly ended."""

    @abstractmethod
    def _commit(self) -> None: ...

    def _check(self) -> None:
        if self._closed:
            raise TransactionClosed("the transaction is over")


class AsyncTx:
    """The same for an async handler; statements run beside the event loop."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx

    async def execute(self, sql: Any, parameters: Any = None) -> Any:
        return await asyncio.to_thread(self._tx.execute, sql, parameters)

    async def executemany(self, sql: Any, parameters: Any) -> Any:
        return await asyncio.to_thread(self._tx.executemany, sql, parameters)


class Transaction:
    """One handler's transaction, from `Effects.begin` to `commit` or `abandon`."""

    def __init__(self, tx: Tx, end: Callable[[bool], None]) -> None:
        """`end(fit)` lets the next transaction in; `fit`: whether the connection may be reused."""
        self.tx = tx
        self._end = end
        self._ending = threading.Lock()
        self._ended = False
        self._handed_on = False  # the connection is the next one's

    def mark(self, event: Event, now_ms: int) -> bool:
        """Whether this message was not handled before."""
        return self.tx.mark(event, now_ms)

    def commit(self) -> None:
        """Commit effect and mark, or neither. Raises TransactionClosed or the driver's error."""
        self.tx.commit()
        with self._ending:
            if not self._ended:
                self._ended = self._handed_on = True
                self._end(True)

    def abandon(self) -> None:
        """Roll back what is not committed and let the next one in; at once, even while the
        handler's thread still runs: nothing that it does afterwards reaches the database."""
        with self._ending:  # to the end, or close() would close what is being rolled back
            if self._ended:
                return
            self._ended = True
            try:
                self.tx.abandon()
            finally:
                self._end(False)

    def close(self) -> None:
        """Give up the connection, once the handler has truly ended."""
        self.abandon()
        if not self._handed_on:
            self.tx.close()


class Effects(Protocol):
    """Transactions on the customer's database. Its methods block; any thread may call them."""

    def prepare(self) -> None:
        """Make our table where it is missing. Raises EffectsError."""

    def begin(self) -> Transaction:
        """Begin a transaction, once it is this one's turn. Raises EffectsError."""

    def forget(self, before_ms: int, sources: Sequence[str]) -> None:
        """Delete marks that are older than any message of these sources can be: another service
        may have marks of its own in the same database. Raises EffectsError."""

    def close(self) -> None:
        """Close all connections, once no transaction runs; one that hangs keeps its own."""
