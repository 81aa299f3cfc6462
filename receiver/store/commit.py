"""Group commit: all that queues while the last fsync runs goes into the next commit."""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

import aiosqlite

Result = TypeVar("Result")
Op: TypeAlias = Callable[[sqlite3.Connection], Any]


async def on_thread(
    connection: aiosqlite.Connection, function: Callable[[sqlite3.Connection], Result]
) -> Result:
    """Runs one function on the connection's thread: one hop, however many statements."""
    work = lambda: function(connection._conn)  # noqa: E731 - the connection is bound on its thread
    result: Result = await connection._execute(work)  # type: ignore[no-untyped-call]  # aiosqlite has no public way to run a function on its thread
    return result


class GroupCommit:
    """One writer, one transaction, many waiting callers; each is answered after the fsync.

    An operation runs on the connection's thread. What one raises goes to its caller alone and
    undoes its own writes only: the batch is then done again, each in a savepoint of its own. A
    failing transaction (disk full, file locked) fails everyone in it, changes nothing, and the
    next commit is tried afresh.
    """

    def __init__(self, connection: aiosqlite.Connection, *, rows_max: int) -> None:
        self._connection: Final = connection
        self._rows_max: Final = rows_max
        self._waiting: Final[deque[tuple[Op, asyncio.Future[Any]]]] = deque()
        self._wake: Final = asyncio.Event()
        self._closing = False
        self._task: Final = asyncio.create_task(self._run(), name="group commit")

    async def submit(self, op: Callable[[sqlite3.Connection], Result]) -> Result:
        """The result of ``op``, once it is on disk. A cancelled caller's op may still be done."""
        if self._closing:
            raise sqlite3.OperationalError("the database is closing")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((op, future))
        self._wake.set()
        return await future

    async def close(self) -> None:
        """Commits what waits, then stops. The connection stays open."""
        self._closing = True
        self._wake.set()
        await self._task

    async def _run(self) -> None:
        while not (self._closing and not self._waiting):
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                rows = min(len(self._waiting), self._rows_max)
                await self._commit([self._waiting.popleft() for _ in range(rows)])

    async def _commit(self, batch: list[tuple[Op, "asyncio.Future[Any]"]]) -> None:
        ops = [op for op, _ in batch]
        try:
            results = await on_thread(self._connection, lambda db: self._transaction(db, ops))
        except Exception as error:  # whatever it is, the callers are owed it and the writer goes on
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue  # its caller has gone away
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _transaction(self, db: sqlite3.Connection, ops: list[Op]) -> list[Any]:
        try:
            return _in_transaction(db, lambda: [op(db) for op in ops])
        except sqlite3.OperationalError:
            raise  # the database's trouble, not one op's
        except Exception:
            return _in_transaction(db, lambda: [_alone(db, op) for op in ops])


def _in_transaction(db: sqlite3.Connection, work: Callable[[], list[Any]]) -> list[Any]:
    db.execute("BEGIN IMMEDIATE")
    try:
        results = work()
        db.execute("COMMIT")
    finally:
        if db.in_transaction:  # a full disk may have ended it already
            db.execute("ROLLBACK")
    return results


def _alone(db: sqlite3.Connection, op: Op) -> Any:
    db.execute("SAVEPOINT one")
    try:
        result = op(db)
    except sqlite3.OperationalError:
        raise
    except Exception as error:
        db.execute("ROLLBACK TO one")
        db.execute("RELEASE one")
        return error
    db.execute("RELEASE one")
    return result


def rows(db: sqlite3.Connection, sql: str, parameters: dict[str, Any]) -> list[sqlite3.Row]:
    """All rows of a query, by column name."""
    cursor = db.execute(sql, parameters)
    cursor.row_factory = sqlite3.Row
    return cursor.fetchall()
