"""What an error of PostgreSQL means: to the caller, and for the batch that met it."""

from typing import Final

import psycopg

from dispatcher.store.errors import StoreFull, StoreUnavailable

_FULL: Final = frozenset({"53100"})  # disk_full
# Connections (08), resources (53), operators (57), locks and timeouts, a standby that took our
# session (25006), a session ended for idling (25P03), damage (58, XX001, XX002).
_TRANSIENT_CLASSES: Final = frozenset({"08", "53", "57", "58"})
_TRANSIENT: Final = frozenset(
    {"40001", "40P01", "55P03", "25006", "25P03", "42501", "XX001", "XX002"}
)
# Another process's commit was in the way: the same batch once more will pass.
_COLLISION: Final = frozenset({"40001", "40P01", "55P03"})
_LINE_CHARS_MAX: Final = 200


# A server that is going away, a session ended for idling, a standby.
_LOST: Final = frozenset({"25006", "25P03", "57P01", "57P02", "57P03"})


def lost(error: psycopg.Error, connection: psycopg.Connection) -> bool:
    """Whether the connection is gone, or not worth keeping."""
    return connection.closed or error.sqlstate in _LOST


def collided(error: BaseException) -> bool:
    """Whether the batch only met another process's, and is to be done again."""
    return isinstance(error, psycopg.Error) and error.sqlstate in _COLLISION


def of_the_batch(error: BaseException) -> bool:
    """Whether an error concerns the whole transaction, not the operation that met it."""
    if not isinstance(error, psycopg.Error):
        return False
    state = error.sqlstate
    if state is None:  # raised by the driver: the connection is gone, or a value cannot be sent
        return isinstance(error, psycopg.OperationalError)
    return state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT


def translated(error: Exception) -> Exception:
    """Return what the caller gets; an error that is our fault stays what it is."""
    if not isinstance(error, psycopg.Error):
        return error
    if error.sqlstate in _FULL:
        return StoreFull("the database's disk has no room for this")
    if of_the_batch(error):
        return StoreUnavailable(f"the database cannot be used right now: {line(error)}")
    return error


def line(error: BaseException) -> str:
    """Return the first line of what the server or the driver said, without what it prefixes."""
    message = str(error).strip().split("\n")[0]
    for prefix in ("connection failed: ", "FATAL:  "):
        message = message.removeprefix(prefix)
    if "failed: " in message:
        message = message.rpartition("failed: ")[2].removeprefix("FATAL:  ")
    return message[:_LINE_CHARS_MAX] or type(error).__name__
