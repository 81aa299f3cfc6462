"""The writing connection, and what its thread does with a batch."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import aiosqlite

from receiver.inbox.commit import Op, apply, apply_alone
from receiver.inbox.sqlite.migrate import SchemaError, check, migrate
from receiver.inbox.sqlite.tx import SqliteTx

Result = TypeVar("Result")

# Hashes and ids fall all over their indexes: what does not fit here is read again for each row.
CACHE_KIB: Final = 32 * 1024
_OF_ONE: Final = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError)


async def on_thread(
    connection: aiosqlite.Connection, function: Callable[[sqlite3.Connection], Result]
) -> Result:
    """Run one function on the connection's thread: one hop, however many statements."""
    work = lambda: function(connection._conn)  # noqa: E731 - the connection is bound on its thread
    result: Result = await connection._execute(work)  # type: ignore[no-untyped-call]  # aiosqlite has no public way to run a function on its thread
    return result


async def open_writer(path: str, lock_timeout_s: float) -> aiosqlite.Connection:
    """Return the connection that writes, to a file of our schema. Raises SchemaError,
    sqlite3.Error."""
    writer = await aiosqlite.connect(path, isolation_level=None, timeout=lock_timeout_s)
    try:
        await on_thread(writer, _prepare)
    except BaseException:
        await writer.close()
        raise
    return writer


def commit(db: sqlite3.Connection, ops: Sequence[Op]) -> tuple[list[Any], bool]:
    """Return the outcomes of a batch in one durable transaction, and whether something is due now.

    What an operation raises is its own outcome: the batch is then done again, each in a savepoint.
    Raises sqlite3.Error, with nothing changed, for the database's trouble.
    """
    try:
        return _in_transaction(db, lambda tx: apply(tx, ops))
    except Exception as error:
        if _is_fatal(error):
            raise
        return _in_transaction(db, lambda tx: apply_alone(tx, ops, _is_fatal))


def touch(db: sqlite3.Connection) -> None:
    """Return a real write: a full disk or a lock would not show in less."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    db.execute(f"PRAGMA user_version = {version:d}")


def _in_transaction(
    db: sqlite3.Connection, work: Callable[[SqliteTx], list[Any]]
) -> tuple[list[Any], bool]:
    tx = SqliteTx(db)
    db.execute("BEGIN IMMEDIATE")
    try:
        outcomes = work(tx)
        db.execute("COMMIT")
    finally:
        if db.in_transaction:  # a full disk may have ended it already
            db.execute("ROLLBACK")
    return outcomes, tx.has_due


def _is_fatal(error: Exception) -> bool:
    """Return the database's trouble, not one operation's."""
    return isinstance(error, sqlite3.Error) and not isinstance(error, _OF_ONE)


def _prepare(db: sqlite3.Connection) -> None:
    check(db)
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect on a new file only
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    (synchronous,) = db.execute("PRAGMA synchronous").fetchone()
    if (mode, synchronous) != ("wal", 2):
        raise SchemaError(
            f"the file system gives journal_mode={mode} and synchronous={synchronous}; "
            "durability needs wal and 2 (FULL)"
        )
    migrate(db)
    db.execute("PRAGMA foreign_keys = ON")  # not before: rebuilding a table would empty others
