"""The writer's session: the one connection that writes, and what it knows of its own commits."""

import os
import time
from collections.abc import Callable
from typing import Final

import psycopg

from dispatcher.store.errors import CannotStart, StoreUnavailable
from dispatcher.store.lanes import next_ready_ms
from dispatcher.store.postgres import statements
from dispatcher.store.postgres.errors import line, lost, translated
from dispatcher.store.postgres.server import WRITER, Server, make_durable
from dispatcher.store.postgres.tx import CHANNEL, PostgresTx
from receiver.base import log

_LOG: Final = log.get("dispatcher.store")
# Hosts kept by NTP differ by milliseconds. Below this nothing is corrected: the smallest lease
# margin is a second, and what is not corrected cannot be corrected wrongly.
SKEW_MS_MIN: Final = 100
_ASK_S: Final = 5.0
_ASK_AGAIN_S: Final = 0.05
_NOTIFY_EVERY_S: Final = 0.025
_SHARDS_MAX: Final = 4_096
_SHARD_LOCKS: Final = 0x706F7374  # the class of our advisory locks: "post"
_FORGET_WRITERS_MS: Final = 86_400_000

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
    INSERT INTO counts (tenant, state, seat, n)
    SELECT tenant, state, ?::integer, n FROM unnest(?::text[], ?::text[], ?::bigint[])
        u(tenant, state, n)
    ON CONFLICT (tenant, state, seat) DO UPDATE SET n = counts.n + excluded.n
)
{statements.NEXT_READY}
"""


class Session:
    """The one connection that writes; a lost one is replaced at the next batch. Used on the
    writer's thread only. `clock` is the process's, in milliseconds."""

    def __init__(self, server: Server, *, clock: Callable[[], int]) -> None:
        self._server = server
        self._clock = clock
        self._connection: psycopg.Connection | None = None
        self.id = os.urandom(12).hex()
        self._name = f"postback {self.id[:8]}"
        self._notified_s = 0.0
        self._batch = 0
        self._shard = 0
        self._skew_ms = 0
        self._acquired: set[str] = set()

    # --- life ---

    def open(self) -> None:
        """Connect. Raises CannotStart."""
        try:
            self._connected()
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
            connection.close()
        self._connection = None

    def _connected(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = None
            self._acquired.clear()
            connection = self._server.connect(self._name, WRITER)
            try:
                self._take_shard(connection)
            except psycopg.Error as error:
                connection.close()
                raise StoreUnavailable(f"cannot use {self._server.shown}: {line(error)}") from None
            self._connection = connection
        return self._connection

    def _take_shard(self, connection: psycopg.Connection) -> None:
        """Return a number that no other living session has: its rows of counts are ours alone. An
        earlier session of ours that does not know yet that it is alone is ended, with what it
        holds."""
        make_durable(connection)
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
        failure: psycopg.Error | None = None
        for _ in range(2):
            connection = self._connected()
            began_ms = self._clock()
            try:
                cursor = connection.execute(_BEGIN)
                cursor.nextset()
                row = cursor.fetchone()
            except psycopg.Error as error:  # it was lost while it was idle: nothing is at stake
                failure = error
                self.drop()
                continue
            if row is not None:
                self._skew_ms = skew_ms(began_ms, row[0], self._clock())
            return PostgresTx(
                connection, skew_ms=self._skew_ms, session=self.id, acquired=self._acquired
            )
        why = "it does not answer" if failure is None else line(failure)
        raise StoreUnavailable(f"cannot reach {self._server.shown}: {why}")

    def mark(self, tx: PostgresTx) -> int | None:
        """Write the counts, and into the commit itself that it is this one; returns when the next
        work is ready. A transaction that wrote nothing stays so, and costs no fsync."""
        if not tx.wrote:
            return next_ready_ms(tx)
        self._batch += 1
        moves = tx.changes.moves()
        columns = ([move[place] for move in moves] for place in range(3))
        row = tx.one(_MARK, self.id, self._batch, self._shard, *columns)
        ready_ms = None if row is None else row[0]
        return None if ready_ms is None else tx.here(ready_ms)

    def commit(self, tx: PostgresTx) -> bool:
        """Commit; False if it is certain that nothing was committed.

        Raises StoreUnavailable when the connection broke and the server cannot be asked in time.
        """
        connection = self._connection
        if connection is None:
            return False
        try:
            return connection.execute("COMMIT", prepare=False).statusmessage == "COMMIT"
        except psycopg.Error as error:
            if not lost(error, connection):
                self.roll_back()
                raise translated(error) from error
            self.drop()
            _LOG.warning("the connection was lost while committing", reason=line(error))
            return tx.wrote and self._happened(self._batch)

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

    def roll_back(self) -> None:
        """End the transaction without a trace."""
        connection = self._connection
        try:
            if connection is not None and not connection.closed:
                connection.execute("ROLLBACK")
        except psycopg.Error:
            self.drop()

    def drop(self) -> None:
        """Let go of a connection that is of no more use."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _happened(self, batch: int) -> bool:
        """Whether this batch is in the database: asked of the server, for as long as it is worth.

        The mark is read under its row's lock, so a commit that still runs is waited for.
        """
        until_s = time.monotonic() + _ASK_S
        while True:
            try:
                row = (
                    self._connected()
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
