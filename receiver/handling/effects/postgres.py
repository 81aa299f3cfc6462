"""Effects in a PostgreSQL database of the customer's. Needs psycopg.

Connections first, then a handler's transaction: who may end it, and what its commit must not hide.
"""

import re
import socket
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Self

import psycopg
from psycopg.abc import Params
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row
from psycopg.sql import Composable

from receiver.base.db.postgres import conninfo, line
from receiver.base.db.url import redacted
from receiver.event import Event
from receiver.handling.tx import EffectsError, Transaction, Tx

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
_CANCEL_S: Final = 2.0  # a server that cannot even be reached in that time executes nothing of ours

# Where another replica is at the same message, this waits until that one commits or rolls back.
# The setting ends the transaction of a frozen process; it is made here to save a round trip.
_MARK: Final = """
    INSERT INTO postback_handled (source, message, job_id, handled_ms)
    SELECT %s::text, %s::text, %s::text, %s::bigint
     WHERE set_config('idle_in_transaction_session_timeout', %s, true) IS NOT NULL
    ON CONFLICT DO NOTHING RETURNING txid_current()
"""
_FORGET: Final = "DELETE FROM postback_handled WHERE handled_ms < %s AND source = ANY(%s::text[])"
_SAME: Final = "SELECT txid_current_if_assigned()"
# What is no statement's own words: comments, texts, quoted names, dollar-quoted texts.
_ASIDE: Final = re.compile(
    r"--[^\n]*|/\*.*?\*/"
    r"|\b[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
    r"|(?P<dollar>\$(?:[^\W\d]\w*)?\$).*?(?P=dollar)",
    re.DOTALL,
)
_WORDS: Final = re.compile(r"\s*([a-z]+)(?:\s+([a-z]+))?(?:\s+([a-z]+))?", re.IGNORECASE)
_ENDING: Final = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "ABORT"})
_WITH_TRANSACTION: Final = frozenset({"START", "PREPARE"})


class TransactionBroken(Exception):
    """The handler returned, but its transaction cannot commit as one; the message says why."""


class PostgresEffects:
    """Concurrent transactions, each on a connection of its own; idle connections are kept."""

    def __init__(self, url: str, *, idle_max: int, handler_s: float) -> None:
        """`handler_s` is the longest that a handler may take: the server ends a transaction in
        which nothing happens for longer than that, or a frozen process would hold its locks, and
        its mark, for ever."""
        self._url = url
        self._shown = redacted(url)
        self._idle_max = idle_max
        self._idle_ms = round((handler_s + _IDLE_MARGIN_S) * 1000)
        self._lock = threading.Lock()
        self._idle: list[psycopg.Connection] = []
        self._closed = False

    def prepare(self) -> None:
        try:
            with self._connect() as connection, connection.transaction():
                connection.execute(f"SELECT pg_advisory_xact_lock({_TABLE_LOCK})")
                row = connection.execute("SELECT to_regclass('postback_handled')").fetchone()
                if row is None or row[0] is None:
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

    def forget(self, before_ms: int, sources: Sequence[str]) -> None:
        try:
            with self._connect() as connection:
                connection.execute(_FORGET, (before_ms, list(sources)))
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
        """Discard what the handler left in the session: settings, temporary tables, locks."""
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


class WatchedCursor(psycopg.Cursor[Any]):
    """Refuses any statement that begins or ends a transaction, wherever the cursor is used."""

    def execute(
        self,
        query: Any,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        _refuse_control(query)
        return super().execute(query, params, prepare=prepare, binary=binary)

    def executemany(
        self, query: Any, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        _refuse_control(query)
        super().executemany(query, params_seq, returning=returning)


class PostgresTx(Tx):
    """`%s` stands for a parameter. The connection's own `commit` and `rollback` are refused
    by the driver; `connection.transaction()` makes a savepoint."""

    def __init__(self, connection: psycopg.Connection, *, idle_ms: int) -> None:
        """Begin it. Raises psycopg.Error."""
        super().__init__(connection)
        self._idle_ms = idle_ms
        self._xid: int | None = None  # where the mark is ours to make
        self._block = connection.transaction()
        self._transaction = self._block.__enter__()

    def mark(self, event: Event, now_ms: int) -> bool:
        values = (event.source, event.key, event.job_id, now_ms, str(self._idle_ms))
        row = self.execute(_MARK, values).fetchone()
        self._xid = None if row is None else row[0]
        return row is not None

    def abandon(self) -> None:
        """Shut the socket down instead of closing the connection: whichever thread is inside the
        driver just now meets the end of its input there, and nothing under it is freed."""
        self._closed = True
        pgconn = self.connection.pgconn
        with suppress(psycopg.Error, OSError):
            if pgconn.transaction_status == TransactionStatus.ACTIVE:
                # A server at work on a statement would notice only after it.
                self.connection.cancel_safe(timeout=_CANCEL_S)
        with (
            suppress(psycopg.Error, OSError),
            socket.socket(fileno=socket.dup(pgconn.socket)) as line,
        ):
            line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._turn:  # an async handler's statement may still be on its way out
            self.connection.close()

    def _commit(self) -> None:
        self._verify()
        self._block.__exit__(None, None, None)
        # On a connection that broke the driver leaves the block without a word.
        if self._transaction.status is not psycopg.Transaction.Status.COMMITTED:
            raise TransactionBroken("the connection was lost before the commit")

    def _verify(self) -> None:
        """Raise TransactionBroken unless it is still the transaction of the mark, and can commit: a
        failed one the server rolls back on COMMIT, which the driver takes for a success."""
        pgconn = self.connection.pgconn
        if pgconn.pipeline_status != PipelineStatus.OFF:
            raise TransactionBroken("the handler left a pipeline open")
        status = TransactionStatus(pgconn.transaction_status)
        if status is TransactionStatus.INERROR:
            raise TransactionBroken(
                "a statement failed, and the handler went on as if it had not; a savepoint "
                "(with tx.connection.transaction():) around it undoes that statement alone"
            )
        if status is not TransactionStatus.INTRANS:
            raise TransactionBroken(f"the transaction was left {status.name}")
        if self._xid is None:
            return
        cursor = self.connection.cursor(row_factory=tuple_row)  # the handler may have set its own
        if cursor.execute(_SAME).fetchone() != (self._xid,):
            raise TransactionBroken("the handler ended the transaction itself")


def _refuse_control(query: Any) -> None:
    statement = transaction_control(_text(query))
    if statement is not None:
        raise psycopg.ProgrammingError(
            f"{statement} is refused: the transaction ends with the handler, "
            "effect and mark together"
        )


def _text(query: Any) -> str:
    if isinstance(query, bytes):
        return query.decode("utf-8", "replace")
    if isinstance(query, Composable):
        return query.as_string(None)
    return query if isinstance(query, str) else ""


def transaction_control(sql: str) -> str | None:
    """Return the first statement in `sql` that would begin or end a transaction, by name; None
    where there is none. SAVEPOINT, RELEASE and ROLLBACK TO stay within one.

    It knows PostgreSQL's quoting but is no parser: what slips through (a comment in a comment) is
    found before the commit, when the transaction is another one.
    """
    for statement in _ASIDE.sub(_blank, sql).split(";"):
        words = _WORDS.match(statement)
        if words is None:
            continue
        first, *rest = [word.upper() for word in words.groups() if word]
        if first in _WITH_TRANSACTION and rest[:1] == ["TRANSACTION"]:
            return f"{first} TRANSACTION"
        if first in _ENDING and not (first == "ROLLBACK" and "TO" in rest):
            return first
    return None


def _blank(aside: re.Match[str]) -> str:
    """Replace a comment by a space, which separates words, and all else by a value."""
    return " " if aside[0].startswith(("--", "/*")) else "?"
