"""Effects in a PostgreSQL database of the customer's. Needs psycopg."""

import threading
from contextlib import suppress
from typing import Final

import psycopg
from psycopg.rows import tuple_row

from receiver.base.db.postgres import conninfo, line
from receiver.base.db.url import shown
from receiver.handling.effects.base import EffectsError, Transaction
from receiver.handling.effects.postgres_tx import PostgresTx, WatchedCursor

# Beyond a handler's own time: by then it was abandoned, unless its whole process is frozen.
_IDLE_MARGIN_S: Final = 5.0
_TABLE_LOCK: Final = 0x706F7374  # "post": of two replicas that start at once, one makes the table

# Collation "C": a unique index must not depend on the system's idea of order, which updates change.
_TABLE: Final = """
    CREATE TABLE postback_handled (
        source     text COLLATE "C" NOT NULL,
        message    text COLLATE "C" NOT NULL,
        job_id     text NOT NULL,
        handled_ms bigint NOT NULL,
        PRIMARY KEY (source, message)
    )
"""
# Old marks lie side by side, so that the smallest of indexes finds them.
_INDEX: Final = "CREATE INDEX ON postback_handled USING brin (handled_ms)"


class PostgresEffects:
    """Transactions side by side, each on a connection of its own; idle ones are kept."""

    def __init__(self, url: str, *, idle_max: int, handler_s: float) -> None:
        """`handler_s` is the longest that a handler may take: the server ends a transaction in
        which nothing happens for longer than that, or a frozen process would hold its locks, and
        its mark, for ever."""
        self._url = url
        self._shown = shown(url)
        self._idle_max = idle_max
        self._idle_ms = round((handler_s + _IDLE_MARGIN_S) * 1000)
        self._lock = threading.Lock()
        self._idle: list[psycopg.Connection] = []
        self._closed = False

    def prepare(self) -> None:
        try:
            with self._connect() as connection, connection.transaction():
                connection.execute(f"SELECT pg_advisory_xact_lock({_TABLE_LOCK})")
                found = connection.execute("SELECT to_regclass('postback_handled')").fetchone()
                if found is None or found[0] is None:
                    connection.execute(_TABLE)
                    connection.execute(_INDEX)
        except psycopg.Error as error:
            raise self._unusable(error) from None

    def begin(self) -> Transaction:
        connection = self._take()
        if connection is not None:
            with suppress(psycopg.Error):
                return self._begun(connection)
            self._close_idle()  # it was lost while nobody used it, and the others with it
        try:
            return self._begun(self._connect())
        except psycopg.Error as error:
            raise self._unusable(error) from None

    def forget(self, before_ms: int) -> None:
        try:
            with self._connect() as connection:
                connection.execute(
                    "DELETE FROM postback_handled WHERE handled_ms < %s", (before_ms,)
                )
        except psycopg.Error as error:
            raise self._unusable(error) from None

    def close(self) -> None:
        self._closed = True
        self._close_idle()

    def _begun(self, connection: psycopg.Connection) -> Transaction:
        try:
            tx = PostgresTx(connection, idle_ms=self._idle_ms)
        except BaseException:
            connection.close()
            raise

        def end(fit: bool) -> None:
            if fit:
                self._clean(connection)

        return Transaction(tx, end)

    def _clean(self, connection: psycopg.Connection) -> None:
        """Return what the handler left in the session (settings, temporary tables, locks) is nobody
        else's business."""
        try:
            connection.execute("DISCARD ALL")
        except psycopg.Error:
            connection.close()
            return
        connection.row_factory = tuple_row
        connection.cursor_factory = WatchedCursor
        self._keep(connection)

    def _keep(self, connection: psycopg.Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < self._idle_max:
                self._idle.append(connection)
                return
        connection.close()

    def _take(self) -> psycopg.Connection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _close_idle(self) -> None:
        while (connection := self._take()) is not None:
            connection.close()

    def _connect(self) -> psycopg.Connection:
        # Nothing is prepared on the server, so a pooler in between does no harm.
        return psycopg.connect(
            conninfo(self._url, "postback effects"),
            autocommit=True,
            prepare_threshold=None,
            cursor_factory=WatchedCursor,
        )

    def _unusable(self, error: psycopg.Error) -> EffectsError:
        of_the_url = isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None
        why = "the URL has a parameter that is none" if of_the_url else line(error)
        return EffectsError(f"cannot use {self._shown}: {why}")
