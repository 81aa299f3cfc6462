"""The PostgreSQL server as such: its URL, never shown with its password, and sessions on it."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dispatcher.store.errors import CannotStart, StoreUnavailable
from dispatcher.store.postgres.errors import line
from dispatcher.store.postgres.tx import adapt

VERSION_LEAST: Final = 13  # the oldest that we test; older ones get no fixes any more
_CONNECT_S: Final = 3
# A server that vanished without a word is noticed within about ten seconds.
_KEEPALIVE: Final[Mapping[str, Any]] = {
    "connect_timeout": _CONNECT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
    "target_session_attrs": "read-write",
    "client_encoding": "UTF8",
}

# Plans as SQLite's: by index, row by row, made once. Else a plan made while a table was empty would
# read all of it when it is full. The deadlines are for everyone else's sake: a process that was
# frozen while it held lanes must let go of them.
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


class Server:
    """Where sessions are made. `shown` names it without secrets."""

    def __init__(self, url: str) -> None:
        """Raise CannotStart for what is no URL of a PostgreSQL database."""
        self.shown = shown(url)
        self._url = url

    def connect(self, name: str, settings: Mapping[str, str]) -> psycopg.Connection:
        """Return a session of this name with these settings, outside any transaction. Raises
        StoreUnavailable."""
        try:
            connection = psycopg.connect(self.conninfo(name), autocommit=True, prepare_threshold=2)
        except psycopg.Error as error:
            raise StoreUnavailable(f"cannot reach {self.shown}: {line(error)}") from None
        adapt(connection)
        try:
            connection.execute(
                ";".join(f"SET {key} = '{value}'" for key, value in settings.items())
            )
        except psycopg.Error as error:
            connection.close()
            raise StoreUnavailable(f"cannot use {self.shown}: {line(error)}") from None
        return connection

    def conninfo(self, name: str) -> str:
        """Return the connection string of a session of this name: what the URL says, and else
        ours."""
        given = conninfo_to_dict(self._url)
        return make_conninfo(**{**_KEEPALIVE, "application_name": name, **given})


def shown(url: str) -> str:
    """`url` without its password and its parameters. Raises CannotStart."""
    takes = "it takes postgresql://USER:PASSWORD@HOST:5432/DATABASE"
    try:
        parts = urlsplit(url)
        conninfo_to_dict(url)
        port = f":{parts.port}" if parts.port else ""
    except (psycopg.Error, ValueError):
        # What libpq says of it may quote a piece of the password.
        raise CannotStart(
            f"cannot use the database URL: {takes}, with reserved characters as %XX"
        ) from None
    if parts.netloc.count("@") > 1:
        raise CannotStart(f"cannot use the database URL: {takes}, with an @ in the password as %40")
    user = f"{parts.username}@" if parts.username else ""
    return f"postgresql://{user}{parts.hostname or ''}{port}{parts.path}"


def check_database(connection: psycopg.Connection, name: str) -> None:
    """Raise CannotStart for a server that is too old, or text that is not UTF-8."""
    found = connection.info.server_version // 10_000
    if found < VERSION_LEAST:
        raise CannotStart(
            f"{name} runs PostgreSQL {found}, and this needs {VERSION_LEAST} or newer"
        )
    row = connection.execute("SHOW server_encoding").fetchone()
    if row is not None and row[0] != "UTF8":
        raise CannotStart(f"{name} stores text as {row[0]}: make one with ENCODING 'UTF8'")


def make_durable(connection: psycopg.Connection) -> None:
    """Return a database whose commits may be lost would make every 2xx a lie (I1)."""
    row = connection.execute("SHOW synchronous_commit").fetchone()
    if row is not None and row[0] == "off":
        connection.execute("SET synchronous_commit = on")
