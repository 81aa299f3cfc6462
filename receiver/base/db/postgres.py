"""A PostgreSQL server: sessions on it, whose password is never shown, what its errors mean, and
what differs there within a transaction. The one place that needs psycopg."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from typing import Any, Final, TypeAlias, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.numeric import Int8BinaryDumper

from receiver.base.db import CannotOpen, DatabaseFull, DatabaseUnavailable, Row, Tx
from receiver.base.db import readers as base
from receiver.base.db.arrays import ListDumper
from receiver.base.db.group_commit import PoisonedBatch, RetryBatch
from receiver.base.db.migrate import Migration, missing, reads_from
from receiver.base.db.url import POSTGRES_TAKES, DatabaseURLError, redacted

T = TypeVar("T")
Connection: TypeAlias = psycopg.Connection[Any]

VERSION_MIN: Final = 13  # the oldest that we test; older ones get no fixes any more
# Collisions with other processes' commits are rare and short; these many in a row are neither.
TRIES_MAX: Final = 6
_WAIT_S: Final = 0.01
_LINE_CHARS_MAX: Final = 200
# A server that vanished without a word is noticed within about ten seconds.
_KEEPALIVE: Final[Mapping[str, Any]] = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
    "target_session_attrs": "read-write",
    "client_encoding": "UTF8",
}
# Plans as SQLite's: by index, row by row, made once. Else a plan made while a table was empty would
# read all of it when it is full. The deadlines are for everyone else's sake: a process that was
# frozen while it held locks must let go of them.
WRITER: Final[Mapping[str, str]] = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "lock_timeout": "3s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "5s",
}
QUIET: Final[Mapping[str, str]] = {"jit": "off"}
# Commits that may be lost would make every acknowledgement a lie.
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'"
)

# --- errors ---

_FULL: Final = frozenset({"53100"})  # disk_full
# Connections (08), resources (53), operators (57), locks and timeouts, a standby that took our
# session (25006), a session ended for idling (25P03), no rights (42501), damage (58, XX001, XX002).
_TRANSIENT_CLASSES: Final = frozenset({"08", "53", "57", "58"})
_TRANSIENT: Final = frozenset(
    {"40001", "40P01", "55P03", "25006", "25P03", "42501", "XX001", "XX002"}
)
# Another process's commit was in the way: the same batch once more will pass.
_COLLISION: Final = frozenset({"40001", "40P01", "55P03"})
# A server that is going away, a session ended for idling, a standby.
_LOST: Final = frozenset({"25006", "25P03", "57P01", "57P02", "57P03"})
_CANCELLED: Final = "57014"
_CANCEL_S: Final = 5.0
# What says itself what is to become of a batch.
_OF_THE_BATCH: Final = (RetryBatch, PoisonedBatch, DatabaseUnavailable, DatabaseFull)


def is_lost(error: psycopg.Error, connection: Connection) -> bool:
    """Whether the connection is gone, or not worth keeping."""
    return connection.closed or error.sqlstate in _LOST


def is_collision(error: BaseException) -> bool:
    """Whether the batch only met another process's, and is to be done again."""
    return isinstance(error, psycopg.Error) and error.sqlstate in _COLLISION


def is_transient(error: BaseException) -> bool:
    """Whether it is the database's trouble, and so the whole transaction's, and not that of the
    operation that met it."""
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:  # raised by the driver: the connection is gone, or a value cannot be sent
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT


def translated(error: Exception) -> Exception:
    """Return what the caller gets; an error that is our fault stays what it is."""
    if not isinstance(error, psycopg.Error):
        return error
    if error.sqlstate in _FULL:
        return DatabaseFull("the database's disk has no room for this")
    if is_transient(error):
        return DatabaseUnavailable(f"the database cannot be used right now: {line(error)}")
    return error


def line(error: BaseException) -> str:
    """Return the first line of a message of the server or the driver, without its prefixes."""
    message = str(error).strip().split("\n")[0]
    for prefix in ("connection failed: ", "FATAL:  "):
        message = message.removeprefix(prefix)
    if "failed: " in message:
        message = message.rpartition("failed: ")[2].removeprefix("FATAL:  ")
    return message[:_LINE_CHARS_MAX] or type(error).__name__


# --- sessions ---


class Server:
    """Where sessions are made. `name` is its URL without secrets."""

    def __init__(self, url: str) -> None:
        """Raise CannotOpen for what is no URL of a PostgreSQL database."""
        try:
            self.name = redacted(url)
            conninfo_to_dict(url)
        except (DatabaseURLError, psycopg.Error):  # what that says may quote the password
            message = f"cannot use the database URL: it takes {POSTGRES_TAKES}"
            raise CannotOpen(message) from None
        self._url = url

    def connect(self, name: str, settings: Mapping[str, str]) -> Connection:
        """Return a session of this name with these settings, outside any transaction. Raises
        DatabaseUnavailable."""
        try:
            connection = psycopg.connect(self.conninfo(name), autocommit=True, prepare_threshold=2)
        except psycopg.Error as error:
            raise DatabaseUnavailable(f"cannot reach {self.name}: {line(error)}") from None
        # Every integer goes as a bigint: by default its size decides its type, and each mix of
        # types would be another prepared statement.
        connection.adapters.register_dumper(int, Int8BinaryDumper)
        connection.adapters.register_dumper(list, ListDumper)
        setting = [f"SET {key} = '{value}'" for key, value in settings.items()]
        try:
            connection.execute("; ".join([*setting, _DURABLE]).encode())
        except psycopg.Error as error:
            connection.close()
            raise DatabaseUnavailable(f"cannot use {self.name}: {line(error)}") from None
        return connection

    def conninfo(self, name: str) -> str:
        """Return the connection string of a session of this name: what the URL says, and else
        ours."""
        return conninfo(self._url, name)

    def check(self, connection: Connection) -> None:
        """Raise CannotOpen for a server that is too old, or text that is not UTF-8."""
        version = connection.info.server_version // 10_000
        if version < VERSION_MIN:
            raise CannotOpen(
                f"{self.name} runs PostgreSQL {version}, and this needs {VERSION_MIN} or newer"
            )
        row = connection.execute("SHOW server_encoding").fetchone()
        if row is not None and row[0] != "UTF8":
            raise CannotOpen(f"{self.name} stores text as {row[0]}: make one with ENCODING 'UTF8'")

    def opened(
        self, name: str, settings: Mapping[str, str], prepare: Callable[[Connection], None]
    ) -> Connection:
        """Return a session on a database that we can use, after `prepare` has brought it up to
        date. Raises CannotOpen for whatever the server says, and what `prepare` raises."""
        try:
            connection = self.connect(name, settings)
        except DatabaseUnavailable as error:
            raise CannotOpen(str(error)) from None
        try:
            self.check(connection)
            prepare(connection)
        except BaseException as error:
            connection.close()
            if isinstance(error, psycopg.Error):
                raise CannotOpen(f"cannot use {self.name}: {line(error)}") from None
            raise
        return connection


def conninfo(url: str, name: str) -> str:
    """Return what libpq connects with: what the URL says, and else what every session of ours
    needs. Raises psycopg.ProgrammingError, which may quote the URL."""
    return make_conninfo(**{**_KEEPALIVE, "application_name": name, **conninfo_to_dict(url)})


def migrate(
    connection: Connection,
    known: list[Migration],
    *,
    table: str,
    lock: int,
    writers: str,
    schema: str | None = None,
    finish: Callable[[Connection], None] | None = None,
) -> None:
    """Bring the database to the newest schema; processes that start at once do so one after the
    other, under the advisory lock `lock`. `table` holds the versions; `schema` is made where it is
    missing; `finish` does what SQL alone cannot, before others may start.

    Processes whose sessions `writers` names (a pattern) and that are too old for a migration must
    have stopped before. Raises CannotOpen, and what the server raises.
    """
    connection.execute(f"SELECT pg_advisory_lock({lock})".encode())
    try:
        if schema is not None:
            _make_schema(connection, schema)
        record = (
            f"CREATE TABLE IF NOT EXISTS {table} (version integer PRIMARY KEY);\n"
            f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS reads_from integer"
        )
        found = schema_version(connection, table)
        todo = missing(found, known, oldest_reader(connection, table))
        if found and any(reads_from(migration) > found for migration in todo):
            _refuse_beside(connection, writers)
        for number, script in todo:
            values = f"({number}, {reads_from((number, script))})"
            written = f"INSERT INTO {table} (version, reads_from) VALUES {values}"  # noqa: S608 - ours
            connection.execute(f"BEGIN;\n{script};\n{record};\n{written};\nCOMMIT".encode())
        if finish is not None:
            finish(connection)
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK")
            connection.execute(f"SELECT pg_advisory_unlock({lock})".encode())


def _refuse_beside(connection: Connection, writers: str) -> None:
    """Raise CannotOpen while processes of an older version use the database."""
    others = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name ~ %s AND pid <> pg_backend_pid()",
        (writers,),
    ).fetchone()
    if others is not None and others[0]:
        raise CannotOpen(
            f"{others[0]} process(es) of an older version use the database, and could not go on "
            "beside the schema of this one: stop them first"
        )


def oldest_reader(connection: Connection, table: str) -> int | None:
    """Return the oldest schema whose program may use the database; None where it does not say."""
    there = connection.execute(
        "SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = 'reads_from'",
        (table,),
    ).fetchone()
    if there is None:
        return None
    row = connection.execute(
        f"SELECT max(coalesce(reads_from, version)) FROM {table}".encode()  # noqa: S608 - ours
    ).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def refuse_older(connection: Connection, known: list[Migration], table: str) -> None:
    """Raise DatabaseUnavailable where a newer version brought the database, while this process was
    away, to a schema that it must not use."""
    oldest = oldest_reader(connection, table)
    if oldest is not None and oldest > known[-1][0]:
        raise DatabaseUnavailable(
            f"the database is for versions that know schema {oldest}, this one knows "
            f"{known[-1][0]}: restart with the newer version"
        )


def _make_schema(connection: Connection, schema: str) -> None:
    there = connection.execute("SELECT to_regnamespace(%s) IS NOT NULL", (schema,)).fetchone()
    if there is None or not there[0]:  # whoever made it for us need not let us make any
        connection.execute(f"CREATE SCHEMA {schema}".encode())


def schema_version(connection: Connection, table: str) -> int:
    """Return the number of the database's schema; 0 where there is none yet."""
    there = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (table,)).fetchone()
    if there is None or not there[0]:
        return 0
    row = connection.execute(f"SELECT max(version) FROM {table}".encode()).fetchone()  # noqa: S608 - a constant of ours
    return 0 if row is None or row[0] is None else int(row[0])


# --- transactions ---


class PostgresTx(Tx):
    """One transaction, or a reader's one query."""

    # Differs: several processes change rows; each takes what no other one holds.
    skip_locked = " FOR UPDATE SKIP LOCKED"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._cursor = connection.cursor(binary=True)

    def all(self, sql: str, *params: object) -> list[Row]:
        return self._cursor.execute(translated_sql(sql), params).fetchall()

    def one(self, sql: str, *params: object) -> Row | None:
        row: Row | None = self._cursor.execute(translated_sql(sql), params).fetchone()
        return row

    def run(self, sql: str, *params: object) -> int:
        return self._cursor.execute(translated_sql(sql), params).rowcount

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        """Differs: for the portable verbs only; the hot ones send arrays."""
        values = list(rows)
        if not values:
            return 0
        self._cursor.executemany(translated_sql(sql), values)
        return self._cursor.rowcount

    def send(self, sql: str, *params: object) -> psycopg.Cursor[Any]:
        """Return a cursor of its own, whose rows a pipeline brings later."""
        return self._connection.cursor(binary=True).execute(translated_sql(sql), params)

    def pipeline(self) -> AbstractContextManager[object]:
        """One round trip for all that is sent inside."""
        return self._connection.pipeline()

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        self._connection.execute("SAVEPOINT inside")
        try:
            yield
        except BaseException:
            if not self._connection.closed:
                # As a rollback does: what a broken-off pipeline was to prepare is not there.
                self._connection._prepared.clear()
                self._connection.execute("ROLLBACK TO inside; RELEASE inside")
            raise
        self._connection.execute("RELEASE inside")

    def is_fatal(self, error: Exception) -> bool:
        return self._connection.closed or is_transient(error)

    def translated(self, error: Exception) -> Exception:
        return translated(error)


@lru_cache(maxsize=2_048)
def translated_sql(sql: str) -> bytes:
    """Return SQL with `?` as the driver's placeholder, in binary: arrays then cost a third of the
    CPU."""
    return sql.replace("%", "%%").replace("?", "%b").encode()


class Session:
    """The one connection that writes; a lost one is replaced when it is next needed. Used on the
    writer's thread only."""

    def __init__(
        self,
        server: Server,
        name: str,
        settings: Mapping[str, str],
        *,
        check: Callable[[Connection], None] | None = None,
    ) -> None:
        """`check` is called with each new connection, and may refuse the database."""
        self._server = server
        self._name = name
        self._settings = settings
        self._check = check
        self._connection: Connection | None = None

    def connected(self) -> Connection:
        """Return the connection. Raises DatabaseUnavailable."""
        if self._connection is None or self._connection.closed:
            self._connection = None
            connection = self._server.connect(self._name, self._settings)
            try:
                self._on_connected(connection)
            except psycopg.Error as error:
                connection.close()
                message = f"cannot use {self._server.name}: {line(error)}"
                raise DatabaseUnavailable(message) from None
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _on_connected(self, connection: Connection) -> None:
        """Prepare a new connection."""
        if self._check is not None:
            self._check(connection)

    def begin_with(self, begin: Callable[[Connection], T]) -> T:
        """Return what `begin(connection)` does, which begins a transaction. A connection that was
        lost while it was idle is replaced: nothing is at stake. Raises DatabaseUnavailable."""
        failure: psycopg.Error | None = None
        for _ in range(2):
            connection = self.connected()
            try:
                return begin(connection)
            except psycopg.Error as error:
                failure = error
                self.drop()
        reason = "it does not answer" if failure is None else line(failure)
        raise DatabaseUnavailable(f"cannot reach {self._server.name}: {reason}")

    @contextmanager
    def rolled_back_on_error(self) -> Iterator[None]:
        """Undo the transaction if what is inside raises, before its commit. Raises RetryBatch
        where the same once more may pass, what the caller gets where the database is to blame, and
        else PoisonedBatch."""
        try:
            yield
        except psycopg.Error as error:
            connection = self._connection
            lost = connection is None or is_lost(error, connection)
            if lost:
                self.drop()
            else:
                self.roll_back()
            if lost or is_collision(error):
                raise RetryBatch from error
            told = translated(error)
            raise (PoisonedBatch if told is error else told) from error
        except BaseException as error:
            self.roll_back()
            if isinstance(error, Exception) and not isinstance(error, _OF_THE_BATCH):
                raise PoisonedBatch from error
            raise

    def commit(self) -> None:
        """Commit. Raises RetryBatch where it only met another process; DatabaseUnavailable where
        the connection broke meanwhile: then it may have been committed all the same."""
        connection = self.connected()
        try:
            status = connection.execute("COMMIT", prepare=False).statusmessage
        except psycopg.Error as error:
            if is_lost(error, connection):
                self.drop()
            else:
                self.roll_back()
            if is_collision(error):
                raise RetryBatch from error
            raise translated(error) from error
        if status != "COMMIT":
            raise RetryBatch("the server rolled it back")

    def roll_back(self) -> None:
        """End the transaction without a trace."""
        connection = self._connection
        try:
            if connection is not None and not connection.closed:
                # Not by `execute`: what a pipeline that was broken off was to prepare is forgotten,
                # whichever time this is.
                connection.rollback()
        except psycopg.Error:
            self.drop()

    def drop(self) -> None:
        """Let go of a connection that is of no more use."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def commit_with_retries(commit_once: Callable[[], T]) -> T:
    """Return what `commit_once` does, tried again where it raises RetryBatch, since it only met
    another process or lost its connection before the commit."""
    reason: BaseException | None = None
    for tried in range(TRIES_MAX):
        try:
            return commit_once()
        except RetryBatch as again:
            reason = again.__cause__ or again
            time.sleep(_WAIT_S * tried)
    raise (
        translated(reason)
        if isinstance(reason, psycopg.Error)
        else DatabaseUnavailable(str(reason))
    )


class Readers(base.Readers[Connection]):
    """A few read-only sessions, one thread each, each query under a deadline: a long one would keep
    vacuum from its work. Sessions are made when they are first needed, and again when they were
    lost."""

    def __init__(
        self,
        server: Server,
        name: str,
        *,
        settings: Mapping[str, str] | None = None,
        listings: int,
        own: int,
        timeout_s: float,
    ) -> None:
        # Differs: the server keeps the deadline of each statement; connecting takes time, too.
        super().__init__(listings=listings, own=own, timeout_s=timeout_s, deadline_s=2 * timeout_s)
        self._server = server
        self._name = name
        self._threads = ThreadPoolExecutor(self._connections, thread_name_prefix="postgres-reader")
        self._cancelling = ThreadPoolExecutor(
            self._connections, thread_name_prefix="postgres-cancel"
        )
        self._idle: list[Connection] = []
        self._used: dict[base.Reading[Any, Any], Connection] = {}
        self._settings = {
            **QUIET,
            **(settings or {}),
            "statement_timeout": f"{round(timeout_s * 1000)}ms",
            "plan_cache_mode": "force_custom_plan",
            "default_transaction_read_only": "on",
            "idle_in_transaction_session_timeout": "30s",
        }

    async def _disconnect(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        await asyncio.to_thread(self._cancelling.shutdown)
        while self._idle:
            self._idle.pop().close()

    async def _begin(self, reading: base.Reading[Connection, T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, reading)

    async def _interrupt(self, reading: base.Reading[Connection, Any]) -> None:
        """Differs: asks the server, through a connection of its own."""
        connection = self._used.get(reading)
        if connection is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._cancelling, _cancel, connection)

    def _release(self, reading: base.Reading[Connection, Any]) -> None:
        connection = self._used.pop(reading, None)
        if connection is None or connection.closed:
            return
        # One that was told to cancel may hear of it later, when another query runs there.
        if reading.stopped or self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    def _read(self, reading: base.Reading[Connection, T]) -> T:
        connection = self._used[reading] = self._begun(reading)
        try:
            return self._consistently(connection, reading)
        except psycopg.Error as error:
            if is_lost(error, connection):
                connection.close()
            if error.sqlstate == _CANCELLED:
                raise self.too_slow() from None
            raise translated(error) from error

    def _begun(self, reading: base.Reading[Connection, Any]) -> Connection:
        begin = b"BEGIN ISOLATION LEVEL REPEATABLE READ"
        reading.check()
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took the last
                break
            try:
                connection.execute(begin)
            except psycopg.Error:
                connection.close()  # lost while it was idle
                continue
            return connection
        connection = self._server.connect(self._name, self._settings)
        try:
            connection.execute(begin)
        except psycopg.Error as error:
            connection.close()
            raise translated(error) from error
        return connection

    def _consistently(self, connection: Connection, reading: base.Reading[Connection, T]) -> T:
        try:
            reading.check()
            return reading.query(connection)
        finally:
            if not connection.closed:
                connection.execute("ROLLBACK")


def _cancel(connection: Connection) -> None:
    with suppress(psycopg.Error):
        connection.cancel_safe(timeout=_CANCEL_S)
