"""The SQLite database: one writer that commits for everyone, a few readers, one file (D3, D4)."""

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote

from dispatcher.settings import Settings
from dispatcher.store import database, lanes, sealing, upgrade
from dispatcher.store.access import (
    ENDING_KEYS,
    KEYS_SCHEMA,
    CurrentSecrets,
    EndingKey,
    current_secrets,
    ending_keys,
)
from dispatcher.store.callbacks import Totals
from dispatcher.store.database import Committed, Erased, StoreEvents, migrations
from dispatcher.store.errors import CannotStart, Conflict, StoreError, StoreUnavailable
from dispatcher.store.jobs import figures
from dispatcher.store.jobs.figures import JobFigures
from dispatcher.store.requests import (
    JobEnd,
    JobSubmitRequest,
    Rules,
    Settlement,
    SubmitRequest,
    Usage,
)
from dispatcher.store.sqlite import job_statements, statements
from dispatcher.store.sqlite.key_file import key_file_of, make_key_file, read_key_file
from dispatcher.store.tx import PLAIN, ChangeSet, JobStatements, Row, Sealing, Statements, Tx
from receiver.base.clock import now_ms as wall_ms
from receiver.base.db import sqlite
from receiver.base.db.readers import SERVICE, Reader
from receiver.base.db.sqlite import (
    FileInUse,
    FileLock,
    SqliteFile,
    commit_batch,
    connect_reader,
    give_back,
    in_transaction,
    make_durable,
    schema_version,
)

T = TypeVar("T")

URL_PREFIX: Final = "sqlite:///"
IN_USE_ADVICE: Final = "stop it first, or point DISPATCHER_DATABASE_URL at another file"
VERSION: Final = sqlite3.sqlite_version_info
_MEASURE_EVERY_S: Final = 1.0
# So little is done where it is asked for: what a job or a callback does on its way.
_SHORT_OPERATIONS: Final = 64
_SHORT_BYTES: Final = 256 * 1024
_BUSY_MS: Final = 2_000  # a backup may hold the file for a moment
# A checkpoint copies this many pages at once (16 MiB): rare enough to be cheap, small enough to
# keep the log file from growing without bound.
_CHECKPOINT_PAGES: Final = 4_096
_LOG_BYTES: Final = 64 * 2**20  # larger than this it is only beside a backup
# Writing a file of this size anew takes up to four seconds, for which commits wait.
_REWRITTEN_BYTES_MAX: Final = 256 * 2**20
# A little more than what a small submit writes: eight pages and their log entries.
_PROBE: Final = 32_768


class SqliteTx(Tx, sqlite.SqliteTx):
    """One transaction, or a reader's one query."""

    statements: Statements = statements
    job_statements: JobStatements = job_statements
    sole_owner = True
    skew_ms = 0
    for_update = ""
    held = frozenset()
    tight = frozenset()
    held_endpoints = frozenset()
    blocked = frozenset()

    def __init__(self, connection: sqlite3.Connection, sealing: Sealing = PLAIN) -> None:
        super().__init__(connection)
        self.ring, self.seals_payloads = sealing.ring, sealing.payloads
        self.changes = ChangeSet()

    def at(self, process_ms: int) -> int:
        return process_ms

    def here(self, database_ms: int) -> int:
        return database_ms

    def write(self, sql: str, *params: object) -> list[Row]:
        return self._connection.execute(sql, params).fetchall()

    def bulk(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        return self._connection.executemany(sql, rows).rowcount

    def ids(self, values: Iterable[str]) -> object:
        return json.dumps(list(values))

    def touch(self, *, probe: bool) -> None:
        """Differs: every transaction that begins to write shows that it may."""
        if probe:
            self.run("INSERT OR REPLACE INTO probe (id, body) VALUES (1, randomblob(?))", _PROBE)

    def acquire(self, name: str) -> bool:
        return True


class SqliteDatabase:
    """One SQLite file that this process owns."""

    shared = False
    skew_ms = 0

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = path_of(settings.database_url)
        self._given_keys = sealing.given_keys(settings)
        self._file = SqliteFile(
            self._path,
            readers=settings.readers,
            own_readers=database.OWN_READERS,
            read_timeout_s=settings.read_timeout,
            busy_ms=_BUSY_MS,
        )
        self._measured_s = 0.0
        self.usage = Usage(used_bytes=0, free_bytes=0)
        self.sealing = PLAIN

    async def open(self, events: StoreEvents, recount: Callable[[Totals], None]) -> None:
        try:
            self.usage = await self._file.open(self._prepare)
        except FileInUse as error:
            raise CannotStart(f"{error}: {IN_USE_ADVICE}") from error

    def _prepare(self, connection: sqlite3.Connection) -> Usage:
        prepare(connection, self._path)
        self.sealing = self._keys(connection)
        tx = SqliteTx(connection, self.sealing)
        in_transaction(connection, partial(sealing.begin, tx, now_ms=wall_ms()))
        return self._measure(connection)

    def _keys(self, connection: sqlite3.Connection) -> Sealing:
        """Return how to seal: by the keys that were given, else by those of a file beside the
        database, which is made where nothing has been sealed yet. Raises CannotStart."""
        file, given = key_file_of(self._path), self._given_keys
        kept = read_key_file(file)
        missing = sealing.kids(SqliteTx(connection)) - {kid for kid, _ in (*given, *kept)}
        if missing and not given:
            raise sealing.lost(missing, file)
        if not given and not kept:
            kept = make_key_file(file)
        return sealing.sealing_of(self._settings, [*given, *kept], file if kept else None)

    async def close(self) -> None:
        await self._file.close()

    async def backup(self, target: Path) -> None:
        await asyncio.to_thread(backup_file, self._path, target)

    async def write(self, operations: Sequence[object], rules: Rules) -> Committed:
        sealing = self.sealing
        if is_short(operations):
            committed = await self._file.commit_short(
                lambda connection: _apply(connection, operations, rules, sealing)
            )
        else:
            committed = await self._file.write(commit, operations, rules, sealing)
        if time.monotonic() - self._measured_s > _MEASURE_EVERY_S:
            self._measured_s = time.monotonic()
            # What is on disk must be answered as such: without a new figure the last one stays.
            with suppress(StoreError, sqlite3.Error, OSError):
                self.usage = await self._file.write(self._measure)
        return committed

    async def aside(self, act: Callable[[Tx], T], *, synced: bool = False) -> T:
        """Differs: by the one connection that writes (D4), between two commits."""
        return await self._file.write(aside, act)

    async def read(self, query: Callable[[Tx], T], reader: Reader = SERVICE) -> T:
        sealing = self.sealing
        return await self._file.readers.read(
            lambda connection: query(SqliteTx(connection, sealing)), reader
        )

    async def shrink(self, *, pages: int) -> int:
        return await self._file.write(give_back, pages)

    async def overwrite_deleted(self) -> None:
        await self._file.write(overwrite_deleted)

    async def erase_deleted(self, *, rewrite: bool) -> Erased:
        return await self._file.write(erase_deleted, rewrite)

    def _measure(self, connection: sqlite3.Connection) -> Usage:
        return measure(
            connection,
            self._path,
            bytes_max=self._settings.storage_bytes_max,
            reserve_bytes=self._settings.storage_reserve_bytes,
        )


def prepare(connection: sqlite3.Connection, path: Path, *, moved: bool = False) -> None:
    """Make the writing connection durable, and bring the file to our schema. Raises CannotStart,
    also for a file that was moved to another database, unless it may be `moved`."""
    make_durable(connection)
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    try:
        target = None if moved else moved_to(connection)
        if target is None:
            sqlite.migrate(connection, migrations("sqlite"))
    except sqlite3.Error as error:
        raise CannotStart(
            f"{path} cannot be used: {error}; it may not be a database of this program"
        ) from error
    if target is not None:
        raise CannotStart(
            f"{path} was moved to {target}: set DISPATCHER_DATABASE_URL to that database; "
            "to use the file all the same, drop its table `moved`"
        )
    if upgrade.is_due(SqliteTx(connection)):
        _upgrade(connection)


def moved_to(connection: sqlite3.Connection) -> str | None:
    """Return the database that the file's content was moved to, which goes on without it. Raises
    sqlite3.Error."""
    sql = "SELECT 1 FROM sqlite_schema WHERE name = 'moved'"
    if connection.execute(sql).fetchone() is None:
        return None
    row = connection.execute("SELECT target FROM moved").fetchone()
    return None if row is None else str(row[0])


def mark_moved(connection: sqlite3.Connection, target: str, now_ms: int) -> None:
    """Write into the file where its content is now: nobody is to go on with the old one. A table
    of its own, since only files that were moved have it."""

    def mark() -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS moved (target TEXT, at_ms INTEGER)")
        connection.execute("DELETE FROM moved")
        connection.execute("INSERT INTO moved VALUES (?, ?)", (target, now_ms))

    in_transaction(connection, mark)


def _upgrade(connection: sqlite3.Connection) -> None:
    """Do what an upgrade has left to do, slice by slice."""
    moved = -1
    while moved:
        tx = SqliteTx(connection)
        moved = in_transaction(connection, partial(upgrade.move_slice, tx, now_ms=wall_ms()))


def is_short(operations: Sequence[object]) -> bool:
    """Whether to apply these takes a few milliseconds at most."""
    if len(operations) > _SHORT_OPERATIONS:
        return False
    size = 0
    for one in operations:
        if isinstance(one, (SubmitRequest, JobSubmitRequest)):
            size += len(one.new.body)
        elif isinstance(one, JobEnd):
            output = one.settlement.outcome.output
            size += len(output.body) if output else 0
            size += len(one.callback.body) if one.callback else 0
        elif not isinstance(one, Settlement):
            return False
    return size <= _SHORT_BYTES


def commit(
    connection: sqlite3.Connection,
    operations: Sequence[object],
    rules: Rules,
    sealing: Sealing = PLAIN,
) -> Committed:
    """Do what `Database.write` does, on the writer's thread."""
    return commit_batch(connection, partial(_apply, connection, operations, rules, sealing))


def aside(connection: sqlite3.Connection, act: Callable[[Tx], T]) -> T:
    """Do what `Database.aside` does, on the writer's thread."""
    return in_transaction(connection, partial(act, SqliteTx(connection)))


def _apply(
    connection: sqlite3.Connection, operations: Sequence[object], rules: Rules, sealing: Sealing
) -> Committed:
    tx = SqliteTx(connection, sealing)
    results = database.apply(tx, operations, rules)
    _count(tx)
    return Committed(results, tx.changes, lanes.next_ready_ms(tx))


def _count(tx: Tx) -> None:
    moves = tx.changes.moves()
    if moves:
        tx.many(
            "INSERT INTO counts (tenant, state, n, bytes) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (tenant, state) DO UPDATE SET n = n + excluded.n, "
            "bytes = bytes + excluded.bytes",
            moves,
        )


# --- the file as such ---


def path_of(url: str) -> Path:
    """Return the file that `sqlite:///relative.db` or `sqlite:////absolute.db` names.

    Raises CannotStart for anything else.
    """
    name = unquote(url.removeprefix(URL_PREFIX))
    if not url.startswith(URL_PREFIX) or not name or name == ":memory:":
        raise CannotStart(
            f"cannot use the database URL {url.split('@')[-1]!r}: it takes a file, such as "
            "sqlite:///postback.db or sqlite:////var/lib/postback/postback.db"
        )
    return Path(name)


def measure(
    connection: sqlite3.Connection, path: Path, *, bytes_max: int, reserve_bytes: int
) -> Usage:
    """Return the bytes in use, and how many more the limit and the disk allow. What the log grows
    to beside a backup counts."""
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (unused,) = connection.execute("PRAGMA freelist_count").fetchone()
    disk = os.statvfs(path.absolute().parent)
    used = (pages - unused) * size + max(0, _log_bytes(connection, path) - _LOG_BYTES)
    on_disk = disk.f_bavail * disk.f_frsize - reserve_bytes + unused * size
    return Usage(used_bytes=used, free_bytes=max(0, min(bytes_max - used, on_disk)))


def _log_bytes(connection: sqlite3.Connection, path: Path) -> int:
    """Return the size of the log. One that grew beside a backup, which needs the file as it was
    when it began, is made small again as soon as that is over."""
    log = path.with_name(path.name + "-wal")
    size = log.stat().st_size if log.exists() else 0
    if size <= _LOG_BYTES:
        return size
    connection.execute("PRAGMA busy_timeout = 0")  # nobody waits for the backup's end
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return log.stat().st_size


def overwrite_deleted(connection: sqlite3.Connection) -> None:
    """From now on have zeros where something was deleted."""
    connection.execute("PRAGMA secure_delete = ON").fetchall()


def erase_deleted(connection: sqlite3.Connection, rewrite: bool) -> Erased:
    """Have nothing that was deleted or changed stay in the file or its log. A large file is left as
    it is, since writing it anew would keep everybody waiting: parts of pages that rows have left
    may then hold what they were."""
    connection.execute("PRAGMA secure_delete = OFF").fetchall()
    (count,) = connection.execute("PRAGMA page_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    small = count * size <= _REWRITTEN_BYTES_MAX
    if small and rewrite:
        connection.execute("VACUUM")
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        return "busy"
    return "clean" if small else "large"


def backup_file(path: Path, target: Path) -> None:
    """Write a consistent, compact copy of `path` to `target`, whoever is using `path`.

    Raises Conflict when `target` exists, StoreUnavailable when it cannot be read or written; a
    copy that failed leaves nothing behind.
    """
    if target.exists():
        raise Conflict(f"{target} exists already: name a new file")
    if not path.exists():
        raise StoreUnavailable(f"there is no database at {path}")
    partial = target.with_name(target.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        # Its owner's alone from the first byte: it will hold all secrets.
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connection = connect_reader(path)
        try:
            connection.execute("PRAGMA query_only = 0")
            connection.execute("VACUUM INTO ?", (str(partial),))
        finally:
            connection.close()
        _sync(partial)
        partial.rename(target)
        _sync(target.absolute().parent)
    except (sqlite3.Error, OSError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StoreUnavailable(f"cannot back up to {target}: {error}") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- what the doctor looks at ---


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """What the doctor wants to know of a database file. `damage` is what is wrong with its content,
    `unreadable` why that could not be told; `moved_to` the database that has it now; `owner` the
    process id of the service that has it open, "unknown" where its lock does not say."""

    path: Path
    bytes: int = 0
    schema: int | None = None
    damage: str | None = None
    unreadable: str | None = None
    moved_to: str | None = None
    owner: str | None = None
    secrets: CurrentSecrets = field(default_factory=CurrentSecrets)
    ending_keys: Sequence[EndingKey] = ()
    sealed: Sequence[sealing.Counted] = ()
    jobs: JobFigures | None = None


def inspect(url: str, with_keys: Sealing = PLAIN) -> FileState | None:
    """Return the state of the file that `url` names, None where there is none. Looking changes
    nothing, and a service may be using the file. Raises CannotStart for a URL that names no
    file."""
    path = path_of(url)
    if not path.exists():
        return None
    owner = _owner(path)
    try:
        with closing(connect_reader(path)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            schema = schema_version(connection)
            moved = moved_to(connection)
            tx = SqliteTx(connection, with_keys)
            secrets = current_secrets(tx) if schema else CurrentSecrets()
            sealed = sealing.count(tx) if schema >= sealing.SCHEMA else ()
            keys = ending_keys(connection.execute(ENDING_KEYS) if schema >= KEYS_SCHEMA else ())
            jobs = figures.figures(tx, now_ms=wall_ms()) if schema >= figures.SCHEMA else None
    except sqlite3.Error as error:
        return FileState(path=path, unreadable=str(error), owner=owner)
    log = path.with_name(path.name + "-wal")
    return FileState(
        path=path,
        bytes=path.stat().st_size + (log.stat().st_size if log.exists() else 0),
        schema=schema,
        damage=None if verdict == "ok" else str(verdict),
        moved_to=moved,
        owner=owner,
        secrets=secrets,
        ending_keys=keys,
        sealed=sealed,
        jobs=jobs,
    )


def _owner(path: Path) -> str | None:
    """Return the process that has the file open. Asking takes the lock for an instant."""
    lock = FileLock(path)
    try:
        lock.take()
    except FileInUse as error:
        return error.owner or "unknown"
    except CannotStart:
        return "unknown"
    lock.release()
    return None
