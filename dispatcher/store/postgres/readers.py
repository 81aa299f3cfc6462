"""Read-only sessions, each look under a deadline: a long one would keep vacuum from its work."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import LifoQueue
from typing import TypeVar

import psycopg

from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.postgres.errors import lost, translated
from dispatcher.store.postgres.server import QUIET, Server
from dispatcher.store.postgres.tx import PostgresTx
from dispatcher.store.tx import Tx

T = TypeVar("T")

_CANCELLED = "57014"


class Readers:
    """A small pool, one thread a session; looks queue for one. Sessions are made when they are
    first needed, and anew when they were lost."""

    def __init__(self, server: Server, *, connections: int, timeout_s: float) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(connections, thread_name_prefix="postgres-reader")
        self._idle: LifoQueue[psycopg.Connection] = LifoQueue()
        # Differs: the server keeps the deadline, so that nothing runs on for nobody.
        self._settings = {
            **QUIET,
            "statement_timeout": f"{round(timeout_s * 1000)}ms",
            "plan_cache_mode": "force_custom_plan",
            "default_transaction_read_only": "on",
            "idle_in_transaction_session_timeout": "30s",
        }

    async def close(self) -> None:
        """Wait for what is being read, at most until its deadline, and disconnect."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        while not self._idle.empty():
            self._idle.get_nowait().close()

    async def look(self, see: Callable[[Tx], T]) -> T:
        """Return what `see` finds in one consistent view. Raises StoreUnavailable past the
        deadline."""
        work = asyncio.get_running_loop().run_in_executor(self._threads, self._look, see)
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                return await asyncio.shield(work)
        except TimeoutError as error:
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise StoreUnavailable("all readers are busy; try again in a moment") from error

    def _look(self, see: Callable[[Tx], T]) -> T:
        connection = self._session()
        try:
            return self._see(connection, see)
        except psycopg.Error as error:
            if lost(error, connection):
                connection.close()
            if error.sqlstate == _CANCELLED:
                raise StoreUnavailable(
                    f"reading took longer than {self._timeout_s:g} s; narrow the filter"
                ) from None
            raise translated(error) from error
        finally:
            if not connection.closed:
                self._idle.put(connection)

    def _session(self) -> psycopg.Connection:
        while not self._idle.empty():
            connection = self._idle.get_nowait()
            try:
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            except psycopg.Error:
                connection.close()  # lost while it was idle
                continue
            return connection
        connection = self._server.connect("postback reader", self._settings)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        return connection

    def _see(self, connection: psycopg.Connection, see: Callable[[Tx], T]) -> T:
        try:
            return see(PostgresTx(connection))
        finally:
            if not connection.closed:
                connection.execute("ROLLBACK")
