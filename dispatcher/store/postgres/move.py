"""Moving a SQLite file into a PostgreSQL database: table by table in the order of their keys, so
that a move that was interrupted goes on after the last row that arrived."""

import sqlite3
import time
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from dispatcher.store import sealing
from dispatcher.store.errors import KEYS_SETTING, CannotStart, Conflict, StoreUnavailable
from dispatcher.store.jobs.rows import STORED_BYTES as JOB_BYTES
from dispatcher.store.lanes import NEVER_MS
from dispatcher.store.postgres.session import migrate
from dispatcher.store.postgres.statements import text
from dispatcher.store.rows import STORED_BYTES
from dispatcher.store.sqlite.database import IN_USE_ADVICE, SqliteTx, mark_moved, prepare
from dispatcher.store.sqlite.key_file import key_file_of, read_key_file
from dispatcher.store.tx import JOB_COUNT, OUTPUTS_COUNT
from receiver.base.clock import now_ms
from receiver.base.db.postgres import QUIET, Server, line
from receiver.base.db.sqlite import FileInUse, FileLock, connect_writer
from receiver.base.db.url import redacted

# In this order, each by its primary key. Counts are not moved but counted again.
TABLES: Final[dict[str, tuple[str, ...]]] = {
    "tenants": ("name",),
    "keys": ("id",),
    "secrets": ("id",),
    "stored_secrets": ("id",),
    "destinations": ("id",),
    "aliases": ("id",),
    "upgrades": ("what",),
    "lanes": ("id",),
    "turns": ("tenant",),
    "callbacks": ("id",),
    "payloads": ("callback",),
    "tags": ("tenant", "key", "value", "callback"),
    "attempts": ("callback", "n"),
    "replays": ("id",),
    "audit": ("id",),
    "endpoints": ("name",),
    "endpoint_secrets": ("id",),
    "endpoint_load": ("endpoint",),
    "queues": ("id",),
    "jobs": ("id",),
    "inputs": ("job",),
    "outputs": ("job",),
    "job_attempts": ("job", "run", "n"),
    "job_progress": ("job",),
    "link_keys": ("id",),
    "chunks": ("id",),
    "blobs": ("id",),
    "blob_parts": ("blob", "n"),
    "job_tags": ("tenant", "key", "value", "job"),
    "job_untold": ("job", "run"),
    "durations": ("endpoint", "day", "what", "bucket"),
    "job_usage": ("tenant", "endpoint", "day"),
    "job_sweeps": ("id",),
}
# Rows in one commit: what an interruption may cost, and few enough that large payloads do not fill
# the server's log at once.
_SLICE: Final = 2_000
_PARTS: Final = 32  # a mebibyte each
_BUSY_MS: Final = 2_000
_LOCK_WAIT_S: Final = 2.0  # the server may still be ending a move that was killed
_LOCK_LOOK_S: Final = 0.05
_MOVING: Final = 0x6D6F7665  # the advisory lock of a move: "move"

_COUNT: Final = f"""
INSERT INTO counts (tenant, state, seat, n, bytes)
SELECT tenant, state, 0, count(*), {STORED_BYTES} FROM callbacks GROUP BY tenant, state
UNION ALL
SELECT tenant, '{JOB_COUNT}' || state, 0,
       CASE WHEN state IN ('queued', 'running') THEN 0 ELSE count(*) END, {JOB_BYTES}
FROM jobs GROUP BY tenant, state
UNION ALL
SELECT tenant, '{OUTPUTS_COUNT}', 0, sum(output_bytes), 0
FROM jobs WHERE output_bytes > 0 GROUP BY tenant
"""

_SEALED_BY: Final = "INSERT INTO sealed_by (kid, first_ms) VALUES (%s, %s) ON CONFLICT DO NOTHING"

# Asked of both databases; the answers must be the same.
CHECKS: Final[dict[str, str]] = {
    **{f"rows of {table}": f"SELECT count(*) FROM {table}" for table in TABLES},
    "callbacks by tenant and state": (
        "SELECT tenant, state, class, count(*), sum(attempts), sum(tries), min(id), max(id) "
        "FROM callbacks GROUP BY tenant, state, class ORDER BY tenant, state, class"
    ),
    "schedules": "SELECT sum(due_ms), sum(lease_ms), sum(expires_ms), sum(claim) FROM callbacks",
    "payload bytes": "SELECT sum(length(body)) FROM payloads",
    "stored bytes": f"SELECT CAST({STORED_BYTES} AS bigint) FROM callbacks",
    "jobs by endpoint, tenant and state": (
        "SELECT endpoint, tenant, state, class, count(*), sum(run), sum(claim), sum(calls), "
        "sum(ticket), min(id), max(id) FROM jobs GROUP BY endpoint, tenant, state, class "
        "ORDER BY endpoint, tenant, state, class"
    ),
    "schedules of jobs": "SELECT sum(due_ms), sum(expires_ms), sum(ended_ms) FROM jobs",
    "bytes of inputs": "SELECT sum(length(body)) FROM inputs",
    "bytes of outputs": "SELECT sum(length(body)) FROM outputs",
    "bytes of parts": "SELECT sum(length(body)) FROM blob_parts",
    "stored bytes of jobs": f"SELECT CAST({JOB_BYTES} AS bigint) FROM jobs",
    "queues": "SELECT sum(epoch), sum(ticket), sum(begun), sum(turn), sum(queued) FROM queues",
}

Progress = Callable[[str, int, int], None]
"""Told the table, how many of its rows are there, and how many there will be."""


@dataclass(slots=True)
class Moved:
    """What a move came to: rows per table, how many of them this run brought, and the checks in
    which the two databases differ."""

    rows: dict[str, int] = field(default_factory=dict)
    brought: int = 0
    differing: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Move:
    """What is moved to where, as it is shown."""

    source: str
    target: str


def move(
    source: Path, target_url: str, progress: Progress, *, kids: Set[str] = frozenset()
) -> Moved:
    """Move everything in the file, which no service may be using, into the database, which must be
    empty or hold an interrupted move of the same file. The file keeps all that it has, and says
    at the end where that is now: no service starts on it any more. What is sealed stays so: `kids`
    are the names of the keys that the services on the database will have.

    Raises CannotStart, Conflict and StoreUnavailable; after each of them it can be run again.
    """
    if not source.exists():
        raise CannotStart(f"there is no database at {source}")
    owner = FileLock(source)
    try:
        owner.take()
    except FileInUse as error:
        raise CannotStart(f"{error}: {IN_USE_ADVICE}") from None
    try:
        with _opened(source) as old, closing(_connected(target_url)) as new, _alone(new):
            _check_keys(old, source, kids)
            return _move(old, new, _Move(str(source.absolute()), redacted(target_url)), progress)
    except (sqlite3.Error, psycopg.Error) as error:
        raise StoreUnavailable(
            f"the move was interrupted: {line(error)}; run it again, it goes on from here"
        ) from error
    finally:
        owner.release()


def _check_keys(old: sqlite3.Connection, source: Path, kids: Set[str]) -> None:
    """Raise CannotStart where services on the new database could not open what is sealed."""
    missing = sealing.kids(SqliteTx(old)) - kids
    if not missing:
        return
    file = key_file_of(source)
    there = file.exists() and missing <= {kid for kid, _ in read_key_file(file)}
    advice = f'with {KEYS_SETTING}="$(cat {file})"' if there else f"with it in {KEYS_SETTING}"
    raise CannotStart(
        f"{source} is sealed with the key {', '.join(sorted(missing))}, which is not in "
        f"{KEYS_SETTING}: run this, and then every service on the new database, {advice}"
    )


@contextmanager
def _opened(source: Path) -> Iterator[sqlite3.Connection]:
    with ExitStack() as closing_it:
        try:
            connection = connect_writer(source, busy_ms=_BUSY_MS)
            closing_it.enter_context(closing(connection))
            prepare(connection, source, moved=True)
        except sqlite3.Error as error:
            raise CannotStart(f"cannot open {source}: {error}") from None
        yield connection


def _connected(url: str) -> psycopg.Connection:
    return Server(url).opened("postback move", QUIET, migrate)


@contextmanager
def _alone(new: psycopg.Connection) -> Iterator[None]:
    """Hold the lock of a move, and let it go before the session ends, which may keep it for a
    moment: whatever became of this move, the next one may follow at once. Raises Conflict."""
    until_s = time.monotonic() + _LOCK_WAIT_S
    while not _number(new.execute(f"SELECT pg_try_advisory_lock({_MOVING})::integer").fetchone()):
        if time.monotonic() > until_s:
            raise Conflict("another move into this database is running")
        time.sleep(_LOCK_LOOK_S)
    try:
        yield
    finally:
        with suppress(psycopg.Error):  # the lock went with the connection
            new.execute(f"SELECT pg_advisory_unlock({_MOVING})")


def _move(
    old: sqlite3.Connection, new: psycopg.Connection, names: _Move, progress: Progress
) -> Moved:
    _begin(old, new, names)
    moved = Moved()
    for table, key in TABLES.items():
        total = _number(old.execute(f"SELECT count(*) FROM {table}").fetchone())
        there = _number(new.execute(f"SELECT count(*) FROM {table}".encode()).fetchone())
        progress(table, there, total)
        for rows in _slices(old, new, table, key):
            there += rows
            moved.brought += rows
            progress(table, there, total)
        moved.rows[table] = there
    moved.differing = [what for what, sql in CHECKS.items() if not _same(old, new, sql)]
    if not moved.differing:
        with new.transaction():
            new.execute("DELETE FROM counts")
            new.execute(_COUNT)
            for row in old.execute("SELECT kid, first_ms FROM sealed_by"):
                new.execute(_SEALED_BY, row)
            new.execute("UPDATE moves SET done_ms = %s WHERE source = %s", (now_ms(), names.source))
        mark_moved(old, names.target, now_ms())
        new.execute("ANALYZE")
    return moved


def _begin(old: sqlite3.Connection, new: psycopg.Connection, names: _Move) -> None:
    """Raise Conflict where this file cannot be moved to this database."""
    source = names.source
    found: dict[str, int | None] = dict(new.execute("SELECT source, done_ms FROM moves").fetchall())
    if found.get(source) is not None:
        mark_moved(old, names.target, now_ms())  # which an interruption may have prevented
        raise Conflict(f"{source} was moved into this database already")
    if source in found:
        return
    there = [
        table
        for table in ("tenants", "keys", "callbacks", "endpoints", "jobs")
        if new.execute(f"SELECT 1 FROM {table} LIMIT 1".encode()).fetchone()
    ]
    if found or there:
        what = f"a move of {next(iter(found))}" if found else ", ".join(there)
        raise Conflict(f"the database is not empty (it has {what}): name a new one")
    new.execute("INSERT INTO moves (source) VALUES (%s)", (source,))


def _slices(
    old: sqlite3.Connection, new: psycopg.Connection, table: str, key: tuple[str, ...]
) -> Iterator[int]:
    """Copy the rows after the last that arrived, slice by slice; yields how many each had."""
    columns = [row[1] for row in old.execute(f"PRAGMA table_info({table})")]
    names = ", ".join(f'"{name}"' for name in columns)
    values = ", ".join(map(_value, columns))
    order = ", ".join(key)
    backwards = ", ".join(f"{name} DESC" for name in key)
    places = [columns.index(name) for name in key]
    after = new.execute(
        f"SELECT {order} FROM {table} ORDER BY {backwards} LIMIT 1".encode()
    ).fetchone()
    limit = _PARTS if table == "blob_parts" else _SLICE
    while True:
        bound = f"WHERE ({order}) > ({', '.join('?' * len(key))})" if after else ""
        rows = old.execute(
            f"SELECT {values} FROM {table} {bound} ORDER BY {order} LIMIT {limit}", after or ()
        )
        number, last = _copy(new, f"COPY {table} ({names}) FROM STDIN", rows)
        if last is None:
            return
        yield number
        after = tuple(last[place] for place in places)


def _value(column: str) -> str:
    """Return what to read of a column. When a lane is ready is a time, but where an earlier version
    computed it of a rate near nothing, perhaps as no integer: then a claim is to look."""
    if column.startswith("ready_"):
        return f"CASE WHEN {column} > {NEVER_MS} THEN 0 ELSE {column} END"
    return f'"{column}"'


def _copy(
    new: psycopg.Connection, statement: str, rows: sqlite3.Cursor
) -> tuple[int, tuple[Any, ...] | None]:
    """One commit. Returns how many rows, and the last one."""
    number, last = 0, None
    with new.cursor().copy(statement.encode()) as copy:
        for row in rows:
            copy.write_row([text(value) if isinstance(value, str) else value for value in row])
            number, last = number + 1, row
    return number, last


def _same(old: sqlite3.Connection, new: psycopg.Connection, sql: str) -> bool:
    return old.execute(sql).fetchall() == new.execute(sql.encode()).fetchall()


def _number(row: Any) -> int:
    return 0 if row is None else int(row[0])
