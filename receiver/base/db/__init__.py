"""Databases: group commit, migrations, SQLite and PostgreSQL."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

Row: TypeAlias = tuple[Any, ...]


class DatabaseError(Exception):
    """Something the caller must be told about; the message is one line, and fit to show."""


class DatabaseUnavailable(DatabaseError):
    """The database did not take or give the data; nothing was changed. Worth trying again."""


class DatabaseFull(DatabaseError):
    """The disk has no room for this; nothing was changed."""


class CannotOpen(DatabaseError):
    """The database cannot be used as it is: the message says why."""


class Tx(Protocol):
    """The running transaction, whichever database it runs on: plain SQL in, tuples out.
    Parameters are `?`. Used on the connection's own thread."""

    skip_locked: str
    """What ends a SELECT of rows to be changed, where other processes change rows as well."""

    def all(self, sql: str, *params: object) -> list[Row]:
        """Return every row."""

    def one(self, sql: str, *params: object) -> Row | None:
        """Return the first row, if any."""

    def run(self, sql: str, *params: object) -> int:
        """Return how many rows were changed."""

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> int:
        """Return how many rows were changed by all."""

    def savepoint(self) -> AbstractContextManager[None]:
        """Undo everything inside if it raises."""

    def is_fatal(self, error: Exception) -> bool:
        """Whether an error ends the whole transaction, and not only the operation that met it."""

    def translated(self, error: Exception) -> Exception:
        """Return what the caller gets of the driver's error; any other stays what it is."""
