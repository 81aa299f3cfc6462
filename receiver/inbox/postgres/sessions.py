"""The session that writes and the one that reads, each on a thread of its own."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import psycopg

from receiver.base.db.postgres import CannotConnect, connect, is_collision, is_transient, line
from receiver.inbox.commit import Op, apply, apply_alone
from receiver.inbox.inbox import InboxUnavailable
from receiver.inbox.postgres.migrate import SCHEMA, migrate
from receiver.inbox.postgres.tx import PostgresTx

Result = TypeVar("Result")
Connection = psycopg.Connection[Any]

_TRIES_MAX: Final = 6  # collisions are rare and short: these many in a row are neither
_AGAIN_S: Final = 0.01
# Plans by index, row by row, made once: one that was made while a table was empty would read all of
# it when it is full. The deadlines are for the other replicas' sake: a process that was frozen
# while it held jobs must let go of them.
_WRITER: Final[Mapping[str, str]] = {
    "search_path": SCHEMA,
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "lock_timeout": "3s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "5s",
}
_READER: Final[Mapping[str, str]] = {
    "search_path": SCHEMA,
    "jit": "off",
    "plan_cache_mode": "force_custom_plan",
    "default_transaction_read_only": "on",
}


class Session:
    """One session, made when it is first needed, and anew when it was lost."""

    def __init__(self, url: str, name: str, settings: Mapping[str, str]) -> None:
        self._url = url
        self._name = name
        self._settings = settings
        self._connection: Connection | None = None

    def connected(self) -> Connection:
        """Raise CannotConnect."""
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._url, self._name, self._settings)
        return self._connection

    def drop(self) -> None:
        """Lets go of the connection, whatever state it is in."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Writer:
    """Commits batches, one after another."""

    def __init__(self, url: str) -> None:
        self._session = Session(url, "postback receiver", _WRITER)

    def open(self) -> None:
        """Connect, and brings the database to our schema. Raises CannotConnect, SchemaError, and
        what the server raises."""
        migrate(self._session.connected())

    def commit(self, ops: Sequence[Op]) -> tuple[list[Any], bool]:
        """Return the outcomes of a batch in one durable transaction, and whether something is due
        now.

        What an operation raises is its own outcome: the batch is then done again, each in a
        savepoint. A batch that met another replica's, or a connection that was lost while idle, is
        done again. Raises InboxUnavailable; then it may have been committed all the same if the
        connection broke meanwhile, which is why every operation can be done twice.
        """
        careful = False
        for tried in range(_TRIES_MAX):
            try:
                return self._commit_once(ops, careful=careful)
            except CannotConnect as error:
                raise InboxUnavailable(str(error)) from None
            except psycopg.Error as error:
                if is_collision(error):
                    time.sleep(tried * _AGAIN_S)
                elif is_transient(error):
                    if tried or not self._was_idle:
                        raise _unavailable(error) from error
                elif careful:
                    raise
                else:
                    careful = True
            except Exception:
                if careful:
                    raise
                careful = True
        raise InboxUnavailable("other replicas' transactions are in the way")

    def close(self) -> None:
        self._session.drop()

    def _commit_once(self, ops: Sequence[Op], *, careful: bool) -> tuple[list[Any], bool]:
        self._was_idle = True
        connection = self._session.connected()
        try:
            connection.execute("BEGIN")
            self._was_idle = False
            tx = PostgresTx(connection)
            outcomes = apply_alone(tx, ops, is_transient) if careful else apply(tx, ops)
            connection.execute("COMMIT")
        except BaseException as error:
            self._undo(connection, error)
            raise
        return outcomes, tx.has_due

    def _undo(self, connection: Connection, error: BaseException) -> None:
        try:
            if is_collision(error) or not is_transient(error):
                connection.execute("ROLLBACK")
                return
        except psycopg.Error:
            pass  # it goes with the connection
        self._session.drop()


class Reader:
    """Looks, one at a time, each cut off by the server at its deadline."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        settings = {**_READER, "statement_timeout": f"{round(timeout_s * 1000)}ms"}
        self._session = Session(url, "postback receiver, reading", settings)

    def look(self, query: Callable[[PostgresTx], Result]) -> Result:
        """Return what a query finds. Raises InboxUnavailable."""
        for tried in range(2):
            try:
                return query(PostgresTx(self._session.connected()))
            except CannotConnect as error:
                raise InboxUnavailable(str(error)) from None
            except psycopg.errors.QueryCanceled:
                raise InboxUnavailable("the read took too long") from None
            except psycopg.Error as error:
                if not is_transient(error):
                    raise
                self._session.drop()
                if tried:
                    raise _unavailable(error) from error
        raise AssertionError("unreachable")

    def close(self) -> None:
        self._session.drop()


def _unavailable(error: psycopg.Error) -> InboxUnavailable:
    return InboxUnavailable(f"the database cannot be used just now: {line(error)}")
