"""A SQLite file: one owner, one connection that writes and checkpoints, a few that read."""

import asyncio
import fcntl
import os
import sqlite3
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiosqlite

from receiver.base.db import CannotOpen, DatabaseFull, DatabaseUnavailable, Row, Tx
from receiver.base.db import readers as base
from receiver.base.db.group_commit import PoisonedBatch
from receiver.base.db.migrate import Migration, missing
from receiver.base.forks import not_for_children

T = TypeVar("T")

# Hashes and ids fall all over their indexes: what does not fit here is read again for each row.
CACHE_KIB: Final = 32 * 1024
READER_CACHE_KIB: Final = 8 * 1024
_SURPLUS_BYTES: Final = 4 * 2**20  # what a file may be too long by
_OWNER_BYTES_MAX: Final = 64  # what is read of a lock file: a process id
# An exclusive lock of one byte, far beyond what a file can hold (SQLite locks others), that belongs
# to the open handle, not to the process: where the system has such locks (Linux).
_LOCK: Final = (
    struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 1 << 62, 1, 0)
    if hasattr(fcntl, "F_OFD_SETLK")
    else None
)
# What is done on the event loop's thread for longer than this is done elsewhere for so long.
_LONG_S: Final = 0.01
_SLOW_S: Final = 1.0
_BUSY_S: Final = 0.005  # between two tries to lock a file
_RESULTS: Final = 64  # how many results aiosqlite reads at a time; we do not read through it

_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG})
_TRANSIENT: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    }
)


def translated(error: Exception) -> Exception:
    """Return what an error of SQLite means for the caller; one that is our fault stays what it
    is."""
    if not isinstance(error, sqlite3.Error):
        return error
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _FULL:
        return DatabaseFull("the disk has no room for this")
    if code in _TRANSIENT:
        return DatabaseUnavailable(f"the database cannot be used right now: {error}")
    return error


class SqliteTx(Tx):
    """One transaction, or a reader's one query."""

    skip_locked = ""  # nobody else writes here

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def all(self, sql: str, *params: object) -> list[Row]:
        return self._connection.execute(sql, params).fetchall()

    def one(self, sql: str, *params: object) -> Row | None:
        row: Row | None = self._connection.execute(sql, params).fetchone()
        return row

    def run(self, sql: str, *params: object) -> int:
        return self._connection.execute(sql, params).rowcount

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        return self._connection.executemany(sql, rows).rowcount

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        self._connection.execute("SAVEPOINT inside")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK TO inside")
                self._connection.execute("RELEASE inside")
            raise
        self._connection.execute("RELEASE inside")

    def is_fatal(self, error: Exception) -> bool:
        """Whether SQLite has rolled everything back by itself, as on a full disk."""
        return not self._connection.in_transaction

    def translated(self, error: Exception) -> Exception:
        return translated(error)


def in_transaction(connection: sqlite3.Connection, work: Callable[[], T]) -> T:
    """Return what `work` did, durably, or do nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work()
        connection.execute("COMMIT")
    finally:
        _roll_back(connection)
    return result


def commit_batch(connection: sqlite3.Connection, apply: Callable[[], T]) -> T:
    """Return what `apply` did, durably. Raises PoisonedBatch for what it raised, unless that is
    the database's trouble."""
    result = begin_batch(connection, apply)
    end_batch(connection)
    return result


def begin_batch(connection: sqlite3.Connection, apply: Callable[[], T]) -> T:
    """Do the first half of `commit_batch`: nothing is durable before `end_batch`."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        return apply()
    except BaseException as error:
        _roll_back(connection)
        if not isinstance(error, Exception):
            raise
        if isinstance(translated(error), DatabaseUnavailable | DatabaseFull):
            raise
        raise PoisonedBatch from error


def end_batch(connection: sqlite3.Connection) -> None:
    """Make durable what `begin_batch` did, or take it back."""
    try:
        connection.execute("COMMIT")
    finally:
        _roll_back(connection)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # a full disk may have ended it already
        connection.execute("ROLLBACK")


def schema_version(connection: sqlite3.Connection) -> int:
    """Return the number of the file's schema; 0 where there is none yet."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, known: list[Migration]) -> None:
    """Bring the file to the newest schema. Raises CannotOpen and sqlite3.Error."""
    for number, script in missing(schema_version(connection), known):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\n;PRAGMA user_version = {number};\nCOMMIT;"
            )
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def connect_writer(path: Path, *, busy_ms: int) -> sqlite3.Connection:
    """Return a connection that writes, not yet durable. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
    return connection


def make_durable(connection: sqlite3.Connection) -> None:
    """Set what durability needs, and read it back. Raises CannotOpen where SQLite refused."""
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect on a new file only
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    for pragma, value in (("journal_mode", "wal"), ("synchronous", "2")):  # 2 is FULL
        (found,) = connection.execute(f"PRAGMA {pragma}").fetchone()
        if str(found) != value:
            raise CannotOpen(
                f"SQLite refused {pragma} = {value} (it is {found}): the file system may not "
                "support it; use a local disk"
            )
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")


def give_back(connection: sqlite3.Connection, pages: int) -> int:
    """Give up to `pages` unused pages back to the file system; return how many. Not in a
    transaction, where it would do nothing."""
    (before,) = connection.execute("PRAGMA freelist_count").fetchone()
    if before:
        # As a script: the statement has no columns, so that fetching would end after one page.
        connection.executescript(f"PRAGMA incremental_vacuum({pages})")
    (after,) = connection.execute("PRAGMA freelist_count").fetchone()
    if before - after < pages and _surplus_bytes(connection) > _SURPLUS_BYTES:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(before - after)


def _surplus_bytes(connection: sqlite3.Connection) -> int:
    """Return by how much the file is longer than its content: it is cut by a checkpoint, and where
    little is written the next one may be far."""
    _, _, name = connection.execute("PRAGMA database_list").fetchone()
    (count,) = connection.execute("PRAGMA page_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return os.stat(name).st_size - int(count * size)


def connect_reader(path: Path) -> sqlite3.Connection:
    """Return a connection that can neither write nor checkpoint. Raises sqlite3.Error."""
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = 1")
    connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
    return connection


async def run(
    connection: aiosqlite.Connection, function: Callable[..., T], *arguments: object
) -> T:
    """Run `function(sqlite3 connection, *arguments)` on the connection's own thread.

    aiosqlite offers one statement a hop only; several at once need its internal `_execute`
    (16 lanes claimed statement by statement took five times as long as in one call).
    """
    execute: Callable[..., Awaitable[T]] = connection._execute
    return await execute(function, connection._conn, *arguments)


async def connected(connect: Callable[[], sqlite3.Connection]) -> aiosqlite.Connection:
    """Return a connection with a thread of its own, which is gone again where `connect` fails: it
    reports to the event loop, and would find it closed. Raises what `connect` raises."""
    made = aiosqlite.Connection(connect, _RESULTS)
    try:
        return await made
    except BaseException:
        await asyncio.to_thread(made._thread.join)
        raise


class FileInUse(CannotOpen):
    """Another process owns the file: `owner` is its id, or an empty text."""

    def __init__(self, path: Path, owner: str) -> None:
        by = f"process {owner}" if owner else "another process"
        super().__init__(f"{path} is in use by {by}")
        self.owner = owner


class FileLock:
    """What makes one process the file's owner until it lets go, or ends in whatever way: a lock on
    `<path>.lock`, which says whose it is, and one on the file itself, which holds under whatever
    name it is opened: another link, or the one that it was moved to. Files left behind lock nobody
    out, nor do forked children."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: list[int] = []

    def take(self, *, make: bool = False) -> None:
        """Raise FileInUse, or CannotOpen where there can be no lock. With `make` the file is made
        where there is none; an empty one is its owner's alone."""
        not_for_children(self, FileLock.release)
        self._take_name()
        try:
            self._take_file(make)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let another process have the file. Not before all connections to it are closed: the
        system drops SQLite's own locks with the first handle of a process that is closed."""
        while self._files:
            os.close(self._files.pop())

    def _take_name(self) -> None:
        # Through symbolic links: two names of one file are one file.
        name = os.path.realpath(self._path) + ".lock"
        try:
            file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotOpen(f"cannot create {self._path}.lock: {error.strerror}") from None
        self._files.append(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)
            os.write(file, f"{os.getpid()}\n".encode())
        except BlockingIOError:
            owner = os.read(file, _OWNER_BYTES_MAX).decode("ascii", "replace").strip()
            self.release()
            raise FileInUse(self._path, owner if owner.isdigit() else "") from None
        except OSError as error:
            self.release()
            raise CannotOpen(f"cannot lock {self._path}.lock: {error.strerror}") from None

    def _take_file(self, make: bool) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if make else 0)
        try:
            file = os.open(self._path, flags, 0o600)
        except OSError:
            return  # SQLite says better what is wrong with it
        self._files.append(file)
        if make and os.fstat(file).st_size == 0:
            os.fchmod(file, 0o600)  # it will hold secrets; its log files follow it
        if _LOCK is not None:
            try:
                fcntl.fcntl(file, fcntl.F_OFD_SETLK, _LOCK)
            except (BlockingIOError, PermissionError):
                raise FileInUse(self._path, "") from None
            except OSError:
                pass  # a file system without such locks


class SqliteFile:
    """A database file that this process owns while it is open."""

    def __init__(
        self, path: Path, *, readers: int, own_readers: int, read_timeout_s: float, busy_ms: int
    ) -> None:
        """`readers` connections are for listings, `own_readers` for the service's own work;
        `busy_ms` is how long a write waits for another program's lock."""
        self.path = path
        self._busy_ms = busy_ms
        self._lock = FileLock(path)
        self._writer: aiosqlite.Connection | None = None
        self._turn = asyncio.Lock()  # one at a time, on whichever thread
        self._slow_until_s = 0.0
        self.readers = Readers(path, listings=readers, own=own_readers, timeout_s=read_timeout_s)

    async def open(self, prepare: Callable[[sqlite3.Connection], T]) -> T:
        """Take the file for this process; returns what `prepare` does on the writing connection
        before anything else. Raises CannotOpen, and what `prepare` raises."""
        self._lock.take(make=True)
        try:
            self._writer = await connected(lambda: connect_writer(self.path, busy_ms=self._busy_ms))
            prepared = await run(self._writer, prepare)
            await run(self._writer, _wait_no_more)
            await self.readers.open()
        except BaseException as error:
            await self.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise CannotOpen(f"cannot open {self.path}: {error}") from error
            raise
        return prepared

    async def close(self) -> None:
        """Disconnect and let another process have the file."""
        await self.readers.close()
        if self._writer is not None:
            await self._writer.close()
            self._writer = None
        self._lock.release()

    async def write(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what `function(connection, *arguments)` does on the writer's thread. Nobody else
        writes before it has ended, also where who waits for it is cancelled. Raises
        DatabaseUnavailable and DatabaseFull."""
        async with self._turn:
            try:
                return await self._write(function, *arguments)
            except asyncio.CancelledError:
                await self._still()
                raise

    async def commit_short(self, apply: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `apply` did, durably, as `commit_batch` does. It takes so little that it is
        done here, and only the disk is waited for on the writer's thread: two threads that change
        places at each statement take longer than the statements. Where something made it slow, as a
        disk that has to be read, all of it is done there for a while. Not to be cancelled. Raises
        PoisonedBatch, DatabaseUnavailable and DatabaseFull."""
        async with self._turn:
            writer, begun_s = self._writer, time.monotonic()
            if writer is None or begun_s < self._slow_until_s:
                return await self._write(_commit, apply)
            try:
                result = begin_batch(writer._conn, partial(apply, writer._conn))
            except sqlite3.Error as error:
                if _is_busy(error):  # another program has the file locked
                    return await self._write(_commit, apply)
                raise translated(error) from error
            ended_s = time.monotonic()
            if ended_s - begun_s > _LONG_S:
                self._slow_until_s = ended_s + _SLOW_S
            try:
                await run(writer, end_batch)
            except sqlite3.Error as error:
                raise translated(error) from error
            return result

    async def _write(self, function: Callable[..., T], *arguments: object) -> T:
        writer = self._writer
        if writer is None:
            raise DatabaseUnavailable("the database is closed")
        execute: Callable[..., Awaitable[T]] = writer._execute  # as in `run`: one frame less
        try:
            return await execute(_patiently, writer._conn, self._busy_ms, function, *arguments)
        except sqlite3.Error as error:
            raise translated(error) from error

    async def _still(self) -> None:
        """Return once the writer's thread has ended what it was given, however often this is
        cancelled. Only who was cancelled waits so: a task for each write would cost everybody two
        turns of the loop, which are long where it has much to do."""
        writer = self._writer
        if writer is None:
            return
        execute: Callable[..., Coroutine[Any, Any, None]] = writer._execute
        last = asyncio.create_task(execute(_nothing))
        while not last.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({last})
        last.exception()  # a connection that was closed meanwhile does nothing any more


def _nothing() -> None:
    """Do nothing, in one's turn."""


def _wait_no_more(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA busy_timeout = 0")


def _patiently(
    connection: sqlite3.Connection, busy_ms: int, function: Callable[..., T], *arguments: object
) -> T:
    """Do what does nothing while another program has the file locked: again until it has not, so
    long at most. SQLite itself does not wait, since it may be asked on the event loop's thread."""
    until_s = time.monotonic() + busy_ms / 1000
    while True:
        try:
            return function(connection, *arguments)
        except sqlite3.Error as error:
            if not _is_busy(error) or time.monotonic() >= until_s:
                raise
        time.sleep(_BUSY_S)


def _is_busy(error: sqlite3.Error) -> bool:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_BUSY


def _commit(connection: sqlite3.Connection, apply: Callable[[sqlite3.Connection], T]) -> T:
    return commit_batch(connection, partial(apply, connection))


class Readers(base.Readers[sqlite3.Connection]):
    """A few read-only connections, each query under a deadline: a long one would pin the log
    file."""

    def __init__(self, path: Path, *, listings: int, own: int, timeout_s: float) -> None:
        super().__init__(listings=listings, own=own, timeout_s=timeout_s)
        self._path = path
        self._all: list[aiosqlite.Connection] = []
        self._free: list[aiosqlite.Connection] = []
        self._used: dict[base.Reading[Any, Any], aiosqlite.Connection] = {}

    async def open(self) -> None:
        """Connect. Raises sqlite3.Error."""
        self._closed = False
        for _ in range(self._connections):
            connection = await connected(lambda: connect_reader(self._path))
            self._all.append(connection)
            self._free.append(connection)

    async def _disconnect(self) -> None:
        for connection in self._all:
            await connection.close()
        self._all.clear()

    async def _begin(self, reading: base.Reading[sqlite3.Connection, T]) -> T:
        connection = self._used[reading] = self._free.pop()
        try:
            return await run(connection, _consistently, reading)
        except sqlite3.Error as error:
            raise translated(error) from error

    async def _interrupt(self, reading: base.Reading[sqlite3.Connection, Any]) -> None:
        if connection := self._used.get(reading):
            await connection.interrupt()

    def _release(self, reading: base.Reading[sqlite3.Connection, Any]) -> None:
        if connection := self._used.pop(reading, None):
            self._free.append(connection)


def _consistently(
    connection: sqlite3.Connection, reading: base.Reading[sqlite3.Connection, T]
) -> T:
    reading.check()
    connection.execute("BEGIN")
    try:
        return reading.query(connection)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
