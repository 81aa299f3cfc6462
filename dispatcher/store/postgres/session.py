"""The writer's session: the one connection that writes, and what it knows of its own commits."""

import os
import time
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Final

import psycopg

from dispatcher.store import upgrade
from dispatcher.store.database import migrations
from dispatcher.store.errors import CannotStart, StoreUnavailable
from dispatcher.store.lanes import next_ready_ms
from dispatcher.store.postgres import job_statements, statements
from dispatcher.store.tx import PLAIN, ChangeSet, JobStatements, Row, Sealing, Statements, Tx
from receiver.base import log
from receiver.base.clock import now_ms as wall_ms
from receiver.base.db import postgres
from receiver.base.db.postgres import WRITER, Connection, Server, is_lost, line, translated

_LOG: Final = log.get("dispatcher.store")
CHANNEL: Final = "postback"
SCHEMA_TABLE: Final = "postback_schema"
# Any number will do, as long as nobody else takes it for a lock of their own in this database.
_MIGRATING: Final = 0x706F737462616B
# Hosts kept by NTP differ by milliseconds. Below this nothing is corrected: the smallest lease
# margin is a second, and what is not corrected cannot be corrected wrongly.
SKEW_MS_MIN: Final = 100
_ASK_S: Final = 5.0
_ASK_AGAIN_S: Final = 0.05
_NOTIFY_EVERY_S: Final = 0.025
# Ids of jobs in one notification, which holds less than 8,000 bytes, and in all that are told at
# once: who misses one looks all the same, a second later.
_ENDED_EACH: Final = 200
_ENDED_MAX: Final = 2_000
_SHARDS_MAX: Final = 4_096
_SHARD_LOCKS: Final = 0x706F7374  # the class of our advisory locks: "post"
_FORGET_WRITERS_MS: Final = 86_400_000
# What a commit met the next ones expect, for so many; and so many servers are remembered.
_EXPECTED_COMMITS: Final = 32
_TIGHT_MAX: Final = 1_024
# Of a transaction that only held something there is nothing to keep.
_END: Final = "SET LOCAL synchronous_commit = off; END"

# The database's clock comes with the transaction's beginning, in one round trip.
_BEGIN: Final = "BEGIN; SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_TAKE_SHARD: Final = (
    f"SELECT n FROM generate_series(0, {_SHARDS_MAX}) n "
    f"WHERE pg_try_advisory_lock({_SHARD_LOCKS}, n) LIMIT 1"
)
_NOW_MS: Final = "(extract(epoch FROM now()) * 1000)::bigint"
_END_EARLIER: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = %s AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%%'
"""
# One round trip for all that ends a commit.
_MARK: Final = f"""
WITH marked AS (
    INSERT INTO writers (id, batch, seen_ms) VALUES (?, ?, {_NOW_MS})
    ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, seen_ms = excluded.seen_ms
), counted AS (
    INSERT INTO counts (tenant, state, seat, n, bytes)
    SELECT tenant, state, ?::integer, n, bytes
    FROM unnest(?::text[], ?::text[], ?::bigint[], ?::bigint[]) u(tenant, state, n, bytes)
    ON CONFLICT (tenant, state, seat)
        DO UPDATE SET n = counts.n + excluded.n, bytes = counts.bytes + excluded.bytes
)
{statements.NEXT_READY}
"""


def migrate(connection: Connection) -> None:
    """Bring the database to the newest schema. Raises CannotStart when a newer version of this
    program was here, and what the server raises."""
    postgres.migrate(
        connection,
        migrations("postgres"),
        table=SCHEMA_TABLE,
        lock=_MIGRATING,
        writers="^postback [0-9a-f]{8}$",
        finish=_finish_upgrade,
    )


def _refuse_older(connection: Connection) -> None:
    postgres.refuse_older(connection, migrations("postgres"), SCHEMA_TABLE)


def _finish_upgrade(connection: Connection) -> None:
    """Do what an upgrade has left to do, slice by slice; nobody else works in the database."""
    while upgrade.is_due(PostgresTx(connection)):
        connection.execute("BEGIN")
        moved = upgrade.move_slice(PostgresTx(connection), now_ms=wall_ms())
        connection.execute("COMMIT")
        if moved:
            _LOG.info("upgrading", destinations=moved)


class PostgresTx(Tx, postgres.PostgresTx):
    """One transaction, or a reader's one query."""

    statements: Statements = statements
    job_statements: JobStatements = job_statements
    sole_owner = False
    for_update = " FOR UPDATE"

    def __init__(
        self,
        connection: Connection,
        *,
        skew_ms: int = 0,
        session: str = "",
        acquired: set[str] | None = None,
        sealing: Sealing = PLAIN,
    ) -> None:
        """`acquired` are the names that the session has."""
        super().__init__(connection)
        self.ring, self.seals_payloads = sealing.ring, sealing.payloads
        self._session = session
        self._acquired = set() if acquired is None else acquired
        self.skew_ms = skew_ms
        self.changes = ChangeSet()
        self.wrote = False
        self.held: frozenset[str] = frozenset()
        self.tight: frozenset[str] = frozenset()
        self.held_endpoints: frozenset[str] = frozenset()
        self.blocked: frozenset[str] = frozenset()

    def run(self, sql: str, *params: object) -> int:
        self.wrote = True
        return super().run(sql, *params)

    def write(self, sql: str, *params: object) -> list[Row]:
        self.wrote = True
        return self.all(sql, *params)

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        self.wrote = True
        return super().many(sql, rows)

    def bulk(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        return self.run(sql, *statements.columns(rows))

    def ids(self, values: Iterable[str]) -> object:
        """Differs: sorted, so that every process takes its locks in the same order."""
        return sorted(set(values))

    def touch(self, *, probe: bool) -> None:
        """Differs: what marks the commit is written anyway."""
        self.wrote = True

    def tell(self) -> None:
        """Notify the others of what there is to tell, in the same order as they do."""
        for topic in sorted(self.changes.topics):
            self.run("UPDATE revisions SET n = n + 1 WHERE what = ?", topic)
            self.one("SELECT pg_notify(?, ?)", CHANNEL, f"{topic} {self._session}")

    def acquire(self, name: str) -> bool:
        if name not in self._acquired:
            row = self.one("SELECT pg_try_advisory_lock(hashtextextended(?, 0))", name)
            if row is None or not row[0]:
                return False
            self._acquired.add(name)
        return True


class Session(postgres.Session):
    """The one connection that writes, and what it knows of its own commits. Used on the writer's
    thread only. `clock` is the process's, in milliseconds."""

    def __init__(
        self, server: Server, *, clock: Callable[[], int], sealing: Sealing = PLAIN
    ) -> None:
        self.sealing = sealing
        self.id = os.urandom(12).hex()
        super().__init__(server, f"postback {self.id[:8]}", WRITER, check=_refuse_older)
        self._clock = clock
        self._notified_s = 0.0
        self._batch = 0
        self._shard = 0
        self.skew_ms = 0
        self._acquired: set[str] = set()
        self._waiting = 0  # commits that expect work to wait for servers
        self._tight: dict[str, int] = {}  # commits that expect a server to be tight
        self._told_s = 0.0
        self._jobs_ready = False
        self._ended_jobs: list[str] = []
        self._jobs_news: set[str] = set()

    # --- life ---

    def open(self) -> None:
        """Connect. Raises CannotStart."""
        try:
            self.connected()
        except StoreUnavailable as error:
            raise CannotStart(str(error)) from None

    def close(self) -> None:
        """Forget who we were, as far as the server can be reached, and disconnect."""
        connection = self._connection
        if connection is not None and not connection.closed:
            try:
                connection.execute("DELETE FROM writers WHERE id = %s", (self.id,))
            except psycopg.Error as error:
                _LOG.info("left a mark behind", reason=line(error))
        self.drop()

    def _on_connected(self, connection: Connection) -> None:
        """Take a number that no other living session has: its rows of counts are ours alone. An
        earlier session of ours that does not know yet that it is alone is ended, with what it
        holds."""
        super()._on_connected(connection)
        self._acquired.clear()
        connection.execute(_END_EARLIER, (self._name,))
        row = connection.execute(_TAKE_SHARD).fetchone()
        if row is None:
            raise StoreUnavailable(f"more than {_SHARDS_MAX} processes use this database")
        self._shard = row[0]
        connection.execute(f"DELETE FROM writers WHERE seen_ms < {_NOW_MS} - {_FORGET_WRITERS_MS}")

    # --- one commit ---

    def begin(self) -> PostgresTx:
        """Return a transaction, with the database's clock read at its beginning. Raises
        StoreUnavailable."""
        return self.begin_with(self._begin)

    def _begin(self, connection: Connection) -> PostgresTx:
        began_ms = self._clock()
        cursor = connection.execute(_BEGIN)
        cursor.nextset()
        row = cursor.fetchone()
        if row is not None:
            self.skew_ms = skew_ms(began_ms, row[0], self._clock())
        return PostgresTx(
            connection,
            skew_ms=self.skew_ms,
            session=self.id,
            acquired=self._acquired,
            sealing=self.sealing,
        )

    def hold(self, tx: PostgresTx, lanes: Set[str], servers: Set[str], leased: Set[str]) -> bool:
        """Lock what the transaction is to touch, as its first thing: `lanes`, `servers`, and those
        `leased` for that were tight lately. False if that is more than was expected: then do the
        same in another transaction."""
        tight = leased & self._tight.keys()
        if not (self._waiting or servers or tight):
            self._waiting = _EXPECTED_COMMITS * statements.hold(tx, lanes)
            return not self._waiting
        waits = statements.hold_all(tx, lanes, servers, tight)
        self._waiting = _EXPECTED_COMMITS if waits else max(0, self._waiting - 1)
        for server in tight:
            self._tight[server] -= 1
            if not self._tight[server]:
                del self._tight[server]
        return True

    def _expect(self, tight: Set[str]) -> None:
        """Have the next commits hold these servers from their beginning."""
        if len(self._tight) + len(tight) > _TIGHT_MAX:
            self._tight.clear()
        self._tight |= dict.fromkeys(tight, _EXPECTED_COMMITS)

    def mark(self, tx: PostgresTx) -> int | None:
        """Write the counts, and into the commit itself that it is this one; returns when the next
        work is ready. A transaction that wrote nothing stays so, and costs no fsync."""
        self._expect(tx.tight)
        if tx.changes.topics:
            tx.tell()
        if not tx.wrote:
            return next_ready_ms(tx)
        self._batch += 1
        moves = tx.changes.moves()
        columns = ([move[place] for move in moves] for place in range(4))
        row = tx.one(_MARK, self.id, self._batch, self._shard, *columns)
        ready_ms = None if row is None else row[0]
        return None if ready_ms is None else tx.here(ready_ms)

    def commit_marked(self, tx: PostgresTx) -> bool:
        """Commit; False if it is certain that nothing was committed.

        Raises StoreUnavailable when the connection broke and the server cannot be asked in time.
        """
        connection = self._connection
        if connection is None:
            return False
        try:
            return connection.execute("COMMIT", prepare=False).statusmessage == "COMMIT"
        except psycopg.Error as error:
            if not is_lost(error, connection):
                self.roll_back()
                raise translated(error) from error
            self.drop()
            _LOG.warning("the connection was lost while committing", reason=line(error))
            return tx.wrote and self._happened(self._batch)

    def end(self, tx: PostgresTx) -> None:
        """End a transaction that wrote nothing, so that the driver keeps the plans of statements,
        which it forgets with a rollback."""
        connection = self._connection
        if tx.wrote or connection is None:
            self.roll_back()
            return
        try:
            connection.execute(_END)
        except psycopg.Error:
            self.drop()

    def is_past(self, ready_ms: int | None) -> bool:
        """Whether this time has come."""
        return ready_ms is not None and ready_ms <= self._clock()

    def notify_ready(self) -> None:
        """Wake the others: there is work that this commit did not take. Apart from the commit,
        since commits that notify wait for each other, and no oftener than others can react; a
        word that is lost is made up for by what everyone observes once a second."""
        if time.monotonic() - self._notified_s < _NOTIFY_EVERY_S or self._connection is None:
            return
        self._notified_s = time.monotonic()
        try:
            self._connection.execute(
                f"BEGIN; SET LOCAL synchronous_commit = off; "
                f"NOTIFY {CHANNEL}, 'ready {self.id}'; COMMIT"
            )
        except psycopg.Error as error:
            _LOG.info("could not wake the others", reason=line(error))
            self.drop()

    def tell_jobs(
        self, *, ready: bool, ended: Sequence[str] = (), news: Iterable[str] = ()
    ) -> None:
        """Tell the others of jobs that may start, of those that have ended, and of those that
        have something new, as `notify_ready` does; what there was no time for is told with the
        next commit or look."""
        self._ended_jobs += ended
        self._jobs_news |= set(news)
        self._jobs_ready |= ready
        if not (self._ended_jobs or self._jobs_news or self._jobs_ready):
            return
        if self._connection is None:
            return
        if time.monotonic() - self._told_s < _NOTIFY_EVERY_S:
            return
        self._told_s = time.monotonic()
        told = [f"jobs {self.id}"] if self._jobs_ready else []
        for topic, jobs in (("ended", self._ended_jobs), ("news", sorted(self._jobs_news))):
            ids = jobs[-_ENDED_MAX:]
            told += [
                f"{topic} {self.id} {' '.join(ids[at : at + _ENDED_EACH])}"
                for at in range(0, len(ids), _ENDED_EACH)
            ]
        self._ended_jobs, self._jobs_news, self._jobs_ready = [], set(), False
        notices = "; ".join(f"NOTIFY {CHANNEL}, '{one}'" for one in told)
        try:
            self._connection.execute(
                f"BEGIN; SET LOCAL synchronous_commit = off; {notices}; COMMIT".encode()
            )
        except psycopg.Error as error:
            _LOG.info("could not tell the others", reason=line(error))
            self.drop()

    def _happened(self, batch: int) -> bool:
        """Whether this batch is in the database: asked of the server, for as long as it is worth.

        The mark is read under its row's lock, so a commit that still runs is waited for.
        """
        until_s = time.monotonic() + _ASK_S
        while True:
            try:
                row = (
                    self.connected()
                    .execute("SELECT batch FROM writers WHERE id = %s FOR UPDATE", (self.id,))
                    .fetchone()
                )
            except (psycopg.Error, StoreUnavailable) as error:
                if time.monotonic() > until_s:
                    raise StoreUnavailable(
                        "the connection broke while committing, and the database cannot be asked "
                        f"what became of it: {line(error)}"
                    ) from None
                time.sleep(_ASK_AGAIN_S)
            else:
                happened = row is not None and row[0] == batch
                _LOG.warning("asked after the commit", happened=happened)
                return happened


def skew_ms(began_ms: int, database_ms: int, ended_ms: int) -> int:
    """How far the database's clock is ahead, as asked between two readings of ours; 0 while the
    answer is one that equal clocks could have given."""
    if began_ms - SKEW_MS_MIN <= database_ms <= ended_ms + SKEW_MS_MIN:
        return 0
    return database_ms - (began_ms + ended_ms) // 2
