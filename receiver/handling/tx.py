"""The customer's database, as a handler sees it: one transaction that ends with the handler."""

import asyncio
from abc import ABC, abstractmethod
from typing import Any

from receiver.event import Event


class TransactionClosed(Exception):
    """The handler took too long: its transaction was rolled back, and takes nothing more."""


class Tx(ABC):
    """Statements of the handler's. They commit when it returns and vanish when it raises.

    `execute` and `executemany` are those of the driver, and return its cursor;
    `connection` is the driver's own, for libraries that want one, until the handler returns.
    What would begin or end a transaction is refused: effect and mark end together.
    """

    connection: Any

    @abstractmethod
    def execute(self, sql: Any, parameters: Any = None) -> Any: ...

    @abstractmethod
    def executemany(self, sql: Any, parameters: Any) -> Any: ...

    @abstractmethod
    def mark(self, event: Event, now_ms: int) -> bool:
        """Ours to call, before the handler: whether the message was not handled before. From here
        on it is, if this commits."""

    @abstractmethod
    def commit(self) -> None:
        """Ours to call, after the handler: effect and mark, or an error and neither of them. Who
        lost the connection meanwhile learns from the mark what came of it."""

    @abstractmethod
    def abandon(self) -> None:
        """Roll back, from whichever thread, and lets nothing more through."""

    @abstractmethod
    def close(self) -> None:
        """Give up the connection of an abandoned one, once the handler has truly ended."""


class AsyncTx:
    """The same for an async handler; statements run beside the event loop."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx

    async def execute(self, sql: Any, parameters: Any = None) -> Any:
        return await asyncio.to_thread(self._tx.execute, sql, parameters)

    async def executemany(self, sql: Any, parameters: Any) -> Any:
        return await asyncio.to_thread(self._tx.executemany, sql, parameters)
