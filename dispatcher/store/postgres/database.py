"""The PostgreSQL database: one writer a process that commits for everyone in it, a few readers, and
one session that listens to the other processes (D3, D16)."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

import psycopg

from dispatcher.settings import Settings
from dispatcher.store import callbacks, database, lanes, sealing, submit
from dispatcher.store.access import (
    ENDING_KEYS,
    KEYS_SCHEMA,
    CurrentSecrets,
    current_secrets,
    ending_keys,
)
from dispatcher.store.callbacks import Totals
from dispatcher.store.database import Committed, Erased, ServerState, StoreEvents, migrations
from dispatcher.store.errors import CannotStart, Conflict, StoreUnavailable
from dispatcher.store.jobs import figures, scheduling
from dispatcher.store.jobs.touched import CallbackLane
from dispatcher.store.postgres import job_statements
from dispatcher.store.postgres.aside import Aside
from dispatcher.store.postgres.session import CHANNEL, SCHEMA_TABLE, PostgresTx, Session, migrate
from dispatcher.store.requests import Rules, Usage
from dispatcher.store.tx import PLAIN, Sealing, Topic, Tx
from dispatcher.values import NewCallback
from receiver.base import log
from receiver.base.clock import now_ms as wall_ms
from receiver.base.db.group_commit import RetryBatch
from receiver.base.db.postgres import (
    QUIET,
    Connection,
    Readers,
    Server,
    commit_with_retries,
    line,
    schema_version,
    translated,
)
from receiver.base.db.readers import SERVICE, Reader

T = TypeVar("T")

_LOG: Final = log.get("dispatcher.store")
_OBSERVE_EVERY_S: Final = 1.0
# How long after a lost connection the listener connects again.
_LISTEN_AGAIN_S: Final = 1.0
_OTHERS: Final = """
SELECT (SELECT n FROM revisions WHERE what = 'access'), (SELECT max(version) FROM postback_schema),
       (SELECT n FROM revisions WHERE what = 'endpoints')
"""
_SIZE: Final = "SELECT pg_database_size(current_database())"


OnNotification = Callable[..., None]
"""Told a topic, which session notified, and what of; on a new connection every topic, for what was
missed."""

# As the writer's: a look goes by its index as far as it may, and reads no table whole. One look
# takes one core.
_READER: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",
    "random_page_cost": "1.1",
}


class PostgresDatabase:
    """One PostgreSQL database that any number of processes share.

    `clock` is this process's; what is compared with what others stored is turned into the
    database's, whose distance each commit measures.
    """

    shared = True

    def __init__(self, settings: Settings, *, clock: Callable[[], int] = wall_ms) -> None:
        self._bytes_max = settings.storage_bytes_max
        self._clock = clock
        self._server = Server(settings.database_url)
        self.sealing = sealing.sealing_of(settings, sealing.given_keys(settings))
        self._session = Session(self._server, clock=clock, sealing=self.sealing)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="postgres-writer")
        self._aside = Aside(self._server)
        self._listener = Listener(self._server, self._on_notification)
        self._readers = Readers(
            self._server,
            "postback reader",
            settings=_READER,
            listings=settings.readers,
            own=database.OWN_READERS,
            timeout_s=settings.read_timeout,
        )
        self._events = StoreEvents()
        self._recount: Callable[[Totals], None] = lambda _totals: None
        self._watching: asyncio.Task[None] | None = None
        self._access_revision: int | None = None
        self._endpoints_revision: int | None = None
        self._schema = migrations("postgres")[-1][0]
        self.usage = Usage(used_bytes=0, free_bytes=0)

    @property
    def skew_ms(self) -> int:
        return self._session.skew_ms

    async def open(self, events: StoreEvents, recount: Callable[[Totals], None]) -> None:
        self._events, self._recount = events, recount
        try:
            await self._in_thread(self._prepare)
            await self._observe()
            await self._measure()
        except BaseException as error:
            await self._disconnect()
            if isinstance(error, StoreUnavailable | psycopg.Error):
                raise CannotStart(str(error)) from None
            raise
        self._listener.start()
        self._watching = asyncio.create_task(self._watch(), name="watch")

    def _prepare(self) -> None:
        """Differs: the schema is brought up to date by a session of its own, without deadlines."""
        prepare = partial(_bring_up_to_date, sealing_by=self.sealing)
        self._server.opened("postback migration", QUIET, prepare).close()
        self._session.open()

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        await self._listener.stop()
        await self._disconnect()

    async def _disconnect(self) -> None:
        await self._aside.close()
        await self._readers.close()
        with suppress(RuntimeError):  # closed before
            await self._in_thread(self._session.close)
        self._thread.shutdown()

    async def backup(self, target: Path) -> None:
        raise Conflict(
            "a PostgreSQL database is backed up by its own tools: "
            f"pg_dump --format=custom --file={target} DATABASE_URL"
        )

    async def write(self, operations: Sequence[object], rules: Rules) -> Committed:
        return await self._in_thread(commit, self._session, operations, rules)

    async def aside(self, act: Callable[[Tx], T], *, synced: bool = False) -> T:
        return await self._aside.run(act, synced=synced)

    async def read(self, query: Callable[[Tx], T], reader: Reader = SERVICE) -> T:
        sealing = self.sealing
        return await self._readers.read(
            lambda connection: query(PostgresTx(connection, sealing=sealing)), reader
        )

    async def shrink(self, *, pages: int) -> int:
        """Differs: autovacuum makes the room of what is gone usable again."""
        return 0

    async def overwrite_deleted(self) -> None:
        """Differs: the server does as it does."""

    async def erase_deleted(self, *, rewrite: bool) -> Erased:
        """Differs: what rows were stays in the server's files, until it writes over them."""
        return "elsewhere"

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    # --- the other processes ---

    def _on_notification(self, topic: str, session: str, *ids: str) -> None:
        if session == self._session.id:
            return
        if topic == "ready":
            self._events.on_ready(self._clock())
        elif topic == "access":
            self._events.on_access()
        elif topic == "replays":
            self._events.on_replays()
        elif topic == "jobs":
            self._events.on_jobs_ready(self._clock())
        elif topic == "endpoints":
            self._events.on_endpoints()
        elif topic == "ended" and ids:
            self._events.on_jobs_ended(ids)
        elif topic == "news" and ids:
            self._events.on_jobs_news(ids)

    async def _watch(self) -> None:
        """Look for what nobody could notify: a process that died between its commit and that."""
        while True:
            await asyncio.sleep(_OBSERVE_EVERY_S)
            try:
                await self._observe()
                await self._measure()
            except (StoreUnavailable, psycopg.Error) as error:
                _LOG.debug("cannot look at the database", reason=line(error))
            except Exception:
                _LOG.exception("watching the database failed")

    async def _observe(self) -> None:
        """Take over what the others changed."""
        try:
            seen = await self._in_thread(observe, self._session)
        except psycopg.Error as error:
            raise translated(error) from error
        self._recount(seen.totals)
        if self._access_revision not in (None, seen.access_revision):
            self._events.on_access()
        self._access_revision = seen.access_revision
        if self._endpoints_revision not in (None, seen.endpoints_revision):
            self._events.on_endpoints()
        self._endpoints_revision = seen.endpoints_revision
        if seen.schema > self._schema:
            self._schema = seen.schema
            _LOG.warning(
                "a newer version brought the database to a schema that this one does not know; "
                "it goes on as it is: restart it with the newer version",
                schema=seen.schema,
            )
        self._events.on_ready(seen.next_ready_ms)
        self._events.on_jobs_ready(seen.next_job_ms)

    async def _measure(self) -> None:
        row = await self.read(lambda tx: tx.one(_SIZE))
        used = 0 if row is None else int(row[0])
        self.usage = Usage(used_bytes=used, free_bytes=max(0, self._bytes_max - used))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What all processes together have: totals, when the next delivery and the next job are ready,
    how often keys, tenants or secrets were changed, and endpoints, and the schema."""

    totals: Totals
    next_ready_ms: int | None
    next_job_ms: int | None
    access_revision: int
    endpoints_revision: int
    schema: int


def observe(session: Session) -> Seen:
    """Look on the writer's thread, between two commits. Raises StoreUnavailable."""
    tx = session.begin()
    try:
        totals = callbacks.totals(tx)
        next_ready_ms = lanes.next_ready_ms(tx)
        next_job_ms = scheduling.next_ready_ms(tx)
        access_revision, schema, endpoints_revision = tx.one(_OTHERS) or (0, 0, 0)
    except BaseException:
        session.roll_back()
        raise
    session.end(tx)
    session.tell_jobs(ready=False)
    return Seen(
        totals=totals,
        next_ready_ms=next_ready_ms,
        next_job_ms=next_job_ms,
        access_revision=access_revision or 0,
        endpoints_revision=endpoints_revision or 0,
        schema=schema or 0,
    )


def _bring_up_to_date(connection: Connection, *, sealing_by: Sealing) -> None:
    migrate(connection)
    row = connection.execute("SELECT source FROM moves WHERE done_ms IS NULL").fetchone()
    if row is not None:
        raise CannotStart(
            f"the move of {row[0]} into this database is not finished: run the same "
            "`dispatcher move` again, it goes on where it stopped"
        )
    sealing.begin(PostgresTx(connection, sealing=sealing_by), now_ms=wall_ms())


# --- one commit ---


def commit(session: Session, operations: Sequence[object], rules: Rules) -> Committed:
    """Do what `Database.write` does, on the writer's thread.

    Differs: a batch that met another process's lock, or lost its connection before it was
    committed, is applied again; StoreUnavailable may mean that the connection broke while
    committing and could not be repaired in time to learn what became of it.
    """
    committed = commit_with_retries(partial(_commit_once, session, operations, rules))
    if session.is_past(committed.next_ready_ms):
        session.notify_ready()
    changes = committed.changes
    if changes.next_job is not None or changes.ended_jobs or changes.news:
        ready = changes.next_job is not None and session.is_past(changes.next_job.at_ms)
        session.tell_jobs(ready=ready, ended=changes.ended_jobs, news=changes.news)
    return committed


def _commit_once(session: Session, operations: Sequence[object], rules: Rules) -> Committed:
    tx = _begin_with_lanes(session, operations, rules)
    with session.rolled_back_on_error():
        results = database.apply(tx, operations, rules)
        next_ready_ms = session.mark(tx)
    committed = Committed(results, tx.changes, next_ready_ms)
    if not session.commit_marked(tx):
        raise RetryBatch("the connection was lost while committing, and nothing was committed")
    return committed


def _begin_with_lanes(session: Session, operations: Sequence[object], rules: Rules) -> PostgresTx:
    """Return a transaction that holds every lane which the batch is to touch.

    Lanes that there are not yet are made before, in a transaction that waits for no other lane:
    processes that made them while they held some would wait for each other in a circle.
    """
    while True:
        tx = session.begin()
        with session.rolled_back_on_error():
            touched, servers = database.rows_of(tx, operations)
            held = session.hold(tx, touched, servers, database.servers_of(operations))
            if held and (endpoints := database.endpoints_of(operations)):
                job_statements.hold_endpoints(tx, endpoints)
            unmade = held and database.unmade(tx, operations, touched - tx.held, rules)
        if held and not unmade:
            return tx
        session.end(tx)
        if unmade:
            _make_lanes(session, unmade, rules)


def _make_lanes(
    session: Session, submits: Sequence[NewCallback | CallbackLane], rules: Rules
) -> None:
    """Without a sync of its own: lanes are worth nothing without the callbacks that follow. Nor is
    it asked what became of a commit that was cut off: lanes are made once, however often."""
    tx = session.begin()
    with session.rolled_back_on_error():
        tx.run("SET LOCAL synchronous_commit = off")
        submit.make_lanes(tx, submits, rules)
        tx.run("COMMIT")


# --- the other processes ---


class Listener:
    """One connection that waits for notifications, made again whenever it is lost."""

    def __init__(self, server: Server, on_notification: OnNotification) -> None:
        self._server = server
        self._on_notification = on_notification
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._listen_on(), name="listener")

    async def stop(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _listen_on(self) -> None:
        missed = False
        while True:
            try:
                await self._listen(missed=missed)
            except psycopg.Error as error:
                _LOG.info("not listening", reason=line(error))
            except Exception:  # whatever it was, others still have to be heard
                _LOG.exception("listening failed")
            missed = True
            await asyncio.sleep(_LISTEN_AGAIN_S)

    async def _listen(self, *, missed: bool) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._server.conninfo("postback listener"), autocommit=True
        )
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            if missed:
                for topic in (*get_args(Topic), "jobs"):
                    self._on_notification(topic, "")
            async for notice in connection.notifies():
                self._on_notification(*notice.payload.split(" "))


# --- what the doctor looks at ---

_SERVER: Final = """
SELECT current_setting('server_version'), pg_database_size(current_database()),
       current_setting('fsync') = 'on', extract(epoch FROM clock_timestamp())::float8
"""
_SESSIONS: Final = """
SELECT current_setting('max_connections')::int
         - current_setting('superuser_reserved_connections')::int,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
"""
_ROWS: Final = """
SELECT n_live_tup, n_dead_tup FROM pg_stat_user_tables WHERE relname = 'callbacks'
"""
_OLDEST: Final = """
SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float8
FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
"""


def inspect(url: str, with_keys: Sealing = PLAIN) -> ServerState:
    """Return the state of the server that `url` names, through a session of its own beside running
    services. Raises CannotStart for one that cannot be used, StoreUnavailable for one that cannot
    be reached."""
    server = Server(url)
    with closing(server.connect("postback doctor", QUIET)) as connection:
        try:
            server.check(connection)
            version, size, syncs, now_s = _one(connection, _SERVER)
            skew_s = now_s - time.time()
            sessions_max, sessions = _one(connection, _SESSIONS)
            schema = schema_version(connection, SCHEMA_TABLE)
            live, dead = _one(connection, _ROWS) if schema else (0, 0)
            tx = PostgresTx(connection, sealing=with_keys)
            secrets = current_secrets(tx) if schema else CurrentSecrets()
            sealed = sealing.count(tx) if schema >= sealing.SCHEMA else ()
            keys = ending_keys(connection.execute(ENDING_KEYS) if schema >= KEYS_SCHEMA else ())
            jobs = None
            if schema >= figures.SCHEMA:
                jobs = figures.figures(tx, now_ms=round(now_s * 1000))
            (oldest_s,) = _one(connection, _OLDEST)
        except psycopg.Error as error:
            raise StoreUnavailable(line(error)) from None
    return ServerState(
        name=server.name,
        version=version.split()[0],
        bytes=size,
        syncs=syncs,
        skew_s=skew_s,
        sessions_max=sessions_max,
        sessions=sessions,
        schema=schema,
        live_rows=live,
        dead_rows=dead,
        oldest_transaction_s=oldest_s,
        secrets=secrets,
        ending_keys=keys,
        sealed=sealed,
        jobs=jobs,
    )


def _one(connection: psycopg.Connection, sql: str) -> tuple[Any, ...]:
    row = connection.execute(sql.encode()).fetchone()
    return () if row is None else tuple(row)
