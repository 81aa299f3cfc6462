"""A handler's transaction on PostgreSQL: who may end it, and what its commit must not hide."""

import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, Self

import psycopg
from psycopg.abc import Params
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row
from psycopg.sql import Composable

from receiver.event import Event
from receiver.handling.effects.statements import transaction_control
from receiver.handling.tx import TransactionClosed, Tx

_CANCEL_S: Final = 2.0  # a server that cannot even be reached in that time executes nothing of ours

# Where another replica is at the same message, this waits until that one commits or rolls back.
# The setting ends the transaction of a frozen process; it is made here to save a round trip.
_MARK: Final = """
    INSERT INTO postback_handled (source, message, job_id, handled_ms)
    SELECT %s::text, %s::text, %s::text, %s::bigint
     WHERE set_config('idle_in_transaction_session_timeout', %s, true) IS NOT NULL
    ON CONFLICT DO NOTHING RETURNING txid_current()
"""
_SAME: Final = "SELECT txid_current_if_assigned()"


class TransactionBroken(Exception):
    """The handler returned, but its transaction cannot commit as one; the message says why."""


class WatchedCursor(psycopg.Cursor[Any]):
    """Sends no statement that begins or ends a transaction, wherever the cursor is used."""

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
        """Begins it. Raises psycopg.Error."""
        self.connection: psycopg.Connection[Any] = connection
        self._idle_ms = idle_ms
        self._turn = threading.Lock()
        self._closed = False
        self._xid: int | None = None  # where the mark is ours to make
        self._block = connection.transaction()
        self._transaction = self._block.__enter__()

    def execute(self, sql: Any, parameters: Params | None = None) -> psycopg.Cursor[Any]:
        with self._turn:
            self._check()
            return self.connection.execute(sql, parameters)

    def executemany(self, sql: Any, parameters: Iterable[Params]) -> psycopg.Cursor[Any]:
        with self._turn:
            self._check()
            cursor = self.connection.cursor()
            cursor.executemany(sql, parameters)
            return cursor

    def mark(self, event: Event, now_ms: int) -> bool:
        values = (event.source, event.key, event.job_id, now_ms, str(self._idle_ms))
        found = self.execute(_MARK, values).fetchone()
        self._xid = None if found is None else found[0]
        return found is not None

    def commit(self) -> None:
        with self._turn:
            self._check()
            self._closed = True
            self._verify()
            self._block.__exit__(None, None, None)
            # On a connection that broke the driver leaves the block without a word.
            if self._transaction.status is not psycopg.Transaction.Status.COMMITTED:
                raise TransactionBroken("the connection was lost before the commit")

    def abandon(self) -> None:
        """Cuts the line instead of closing the connection: whichever thread is inside the driver
        just now meets the end of its input there, and nothing under it is freed."""
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

    def _verify(self) -> None:
        """Whether it is still the transaction of the mark, and can commit: to a failed one the
        server answers COMMIT with a rollback, which the driver takes for a success."""
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

    def _check(self) -> None:
        if self._closed:
            raise TransactionClosed("the transaction is over")


def _refuse_control(query: Any) -> None:
    found = transaction_control(_text(query))
    if found is not None:
        raise psycopg.ProgrammingError(
            f"{found} is refused: the transaction ends with the handler, effect and mark together"
        )


def _text(query: Any) -> str:
    if isinstance(query, bytes):
        return query.decode("utf-8", "replace")
    if isinstance(query, Composable):
        return query.as_string(None)
    return query if isinstance(query, str) else ""
