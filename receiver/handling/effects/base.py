"""What a customer's database does for us, whichever one it is, and how one transaction ends."""

import threading
from collections.abc import Callable
from typing import Protocol

from receiver.event import Event
from receiver.handling.tx import Tx


class EffectsError(Exception):
    """The customer's database cannot be used; the message says why, in one line."""


class Transaction:
    """One handler's transaction, from `Effects.begin` to `commit` or `abandon`."""

    def __init__(self, tx: Tx, end: Callable[[bool], None]) -> None:
        """`end` lets the next one in; it is told whether that may take over the connection."""
        self.tx = tx
        self._end = end
        self._ending = threading.Lock()
        self._ended = False
        self._handed_on = False  # the connection is the next one's

    def mark(self, event: Event, now_ms: int) -> bool:
        """Whether this message was not handled before."""
        return self.tx.mark(event, now_ms)

    def commit(self) -> None:
        """Effect and mark, or neither. Raises TransactionClosed or the driver's error."""
        self.tx.commit()
        with self._ending:
            if not self._ended:
                self._ended = self._handed_on = True
                self._end(True)

    def abandon(self) -> None:
        """Roll back what is not committed and lets the next one in; at once, even while the
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
        """Once the handler has truly ended."""
        self.abandon()
        if not self._handed_on:
            self.tx.close()


class Effects(Protocol):
    """Transactions on the customer's database. Its methods block; any thread may call them."""

    def prepare(self) -> None:
        """Make our table where it is missing. Raises EffectsError."""

    def begin(self) -> Transaction:
        """Once it is this one's turn. Raises EffectsError."""

    def forget(self, before_ms: int) -> None:
        """Delete marks that are older than any message in the inbox can be. Raises
        EffectsError."""

    def close(self) -> None:
        """Once no transaction runs any more; one that hangs keeps its own connection."""
