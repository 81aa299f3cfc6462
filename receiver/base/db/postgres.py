"""Sessions on a PostgreSQL server, whose password is never shown, and what its errors mean."""

from collections.abc import Mapping
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.numeric import Int8BinaryDumper

from receiver.base.db.url import DatabaseURLError, shown

VERSION_LEAST: Final = 13  # the oldest that is tested
LINE_CHARS_MAX: Final = 200
# A server that vanished without a word is noticed within about ten seconds.
_KEEPALIVE: Final[Mapping[str, Any]] = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
    "target_session_attrs": "read-write",
    "client_encoding": "UTF8",
}
# Connections (08), resources (53), operators (57), damage (58, XX001, XX002); locks, time-outs, a
# standby that took our session (25006), a session ended for idling (25P03), no rights (42501).
_TRANSIENT_CLASSES: Final = frozenset({"08", "53", "57", "58"})
_TRANSIENT: Final = frozenset(
    {"40001", "40P01", "55P03", "25006", "25P03", "42501", "XX001", "XX002"}
)
_COLLISION: Final = frozenset({"40001", "40P01", "55P03"})


class CannotConnect(Exception):
    """No session can be had; the message says why, in one line and without a password."""


def connect(url: str, name: str, settings: Mapping[str, str]) -> psycopg.Connection[Any]:
    """Return a session called `name`, in autocommit mode, with these settings. Raises
    CannotConnect."""
    where = shown_url(url)
    try:
        connection = psycopg.connect(conninfo(url, name), autocommit=True, prepare_threshold=2)
    except psycopg.Error as error:
        raise CannotConnect(f"cannot reach {where}: {line(error)}") from None
    # By default an integer's size decides its type, and each mix would be another statement.
    connection.adapters.register_dumper(int, Int8BinaryDumper)
    try:
        _check_server(connection, where)
        for key, value in settings.items():
            connection.execute(f"SET {key} = '{value}'".encode())
    except psycopg.Error as error:
        connection.close()
        raise CannotConnect(f"cannot use {where}: {line(error)}") from None
    except CannotConnect:
        connection.close()
        raise
    return connection


def conninfo(url: str, name: str) -> str:
    """Return what libpq connects with: what the URL says, and else what every session of ours
    needs. Raises psycopg.ProgrammingError, which may quote the URL."""
    return make_conninfo(**{**_KEEPALIVE, "application_name": name, **conninfo_to_dict(url)})


def shown_url(url: str) -> str:
    """`url` without its password and its parameters. Raises CannotConnect."""
    try:
        conninfo_to_dict(url)
        return shown(url)
    except DatabaseURLError as error:
        raise CannotConnect(f"the database URL {error}") from None
    except psycopg.Error:  # what it says may quote a piece of the password
        raise CannotConnect("the database URL has a parameter that is none") from None


def is_collision(error: BaseException) -> bool:
    """Whether it only met another session's transaction: the same once more will pass."""
    return isinstance(error, psycopg.Error) and error.sqlstate in _COLLISION


def is_transient(error: BaseException) -> bool:
    """Whether it is the database's trouble, and not that of the statement that met it."""
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:  # raised by the driver: the connection is gone, or a value cannot be sent
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT


def line(error: BaseException) -> str:
    """Return the first line of what the server or the driver said, without what it prefixes."""
    said = str(error).strip().split("\n")[0].removeprefix("connection failed: ")
    if "failed: " in said:
        said = said.rpartition("failed: ")[2]
    return said.removeprefix("FATAL:  ")[:LINE_CHARS_MAX] or type(error).__name__


def _check_server(connection: psycopg.Connection[Any], where: str) -> None:
    found = connection.info.server_version // 10_000
    if found < VERSION_LEAST:
        raise CannotConnect(
            f"{where} runs PostgreSQL {found}, and this needs {VERSION_LEAST} or newer"
        )
    row = connection.execute("SHOW server_encoding").fetchone()
    if row is not None and row[0] != "UTF8":
        raise CannotConnect(f"{where} stores text as {row[0]}: make one with ENCODING 'UTF8'")
    row = connection.execute("SHOW synchronous_commit").fetchone()
    if row is not None and row[0] == "off":  # what may be lost must not be acknowledged
        connection.execute("SET synchronous_commit = on")
