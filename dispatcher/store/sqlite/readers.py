"""Read-only connections, each look under a deadline: a long one would pin the log file."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import aiosqlite

from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.sqlite import file
from dispatcher.store.sqlite.tx import SqliteTx, translated
from dispatcher.store.tx import Tx

T = TypeVar("T")


class Readers:
    """A small pool; looks queue for a connection."""

    def __init__(self, path: Path, *, connections: int, timeout_s: float) -> None:
        self._path = path
        self._connections = connections
        self._timeout_s = timeout_s
        self._all: list[aiosqlite.Connection] = []
        self._free: asyncio.LifoQueue[aiosqlite.Connection] = asyncio.LifoQueue()

    async def open(self) -> None:
        """Connect."""
        for _ in range(self._connections):
            connection = await aiosqlite.Connection(lambda: file.connect_reader(self._path), 64)
            self._all.append(connection)
            self._free.put_nowait(connection)

    async def close(self) -> None:
        """Interrupt what is being read and disconnect."""
        for connection in self._all:
            await connection.interrupt()
            await connection.close()
        self._all.clear()

    async def look(self, see: Callable[[Tx], T]) -> T:
        """Return what `see` finds in one consistent view. Raises StoreUnavailable past the
        deadline."""
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._free.get()
        except TimeoutError as error:
            raise StoreUnavailable("all readers are busy; try again in a moment") from error
        work = asyncio.ensure_future(run(connection, _consistently, see))
        work.add_done_callback(lambda ended: self._give_back(connection, ended))
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(work)
        except asyncio.CancelledError:
            await _interrupt(connection, work)
            raise
        except TimeoutError as error:
            await _interrupt(connection, work)
            raise StoreUnavailable(
                f"reading took longer than {self._timeout_s:g} s; narrow the filter"
            ) from error
        except sqlite3.Error as error:
            raise translated(error) from error

    def _give_back(self, connection: aiosqlite.Connection, ended: asyncio.Future[T]) -> None:
        self._free.put_nowait(connection)
        if not ended.cancelled():
            ended.exception()  # seen: nobody else looks when the caller has gone


async def _interrupt(connection: aiosqlite.Connection, work: asyncio.Future[T]) -> None:
    if not work.done():  # else the connection is somebody else's by now
        await connection.interrupt()


async def run(
    connection: aiosqlite.Connection, function: Callable[..., T], *arguments: object
) -> T:
    """Run `function(sqlite3 connection, *arguments)` on the connection's own thread.

    aiosqlite offers one statement a hop only; several at once need its internal `_execute`
    (16 lanes claimed statement by statement took five times as long as in one call).
    """
    execute: Callable[..., Awaitable[T]] = connection._execute
    return await execute(function, connection._conn, *arguments)


def _consistently(connection: sqlite3.Connection, see: Callable[[Tx], T]) -> T:
    connection.execute("BEGIN")
    try:
        return see(SqliteTx(connection))
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
