"""New SQLite files as copies of one that is up to date: its migrations take longer than most tests.
What a migration does to a file that has rows, or an older schema, is not touched, nor what another
process does."""

import sqlite3
from collections.abc import Callable
from typing import Final, TypeAlias

from receiver.base.db import sqlite
from receiver.base.db.migrate import Migration

_Migrate: TypeAlias = Callable[[sqlite3.Connection, list[Migration]], None]
_MADE: Final[dict[tuple[Migration, ...], sqlite3.Connection]] = {}


def use() -> None:
    """From now on, in this process."""
    by_themselves = sqlite.migrate

    def migrate(connection: sqlite3.Connection, known: list[Migration]) -> None:
        if _is_new(connection):
            _ready(by_themselves, known).backup(connection)
        else:
            by_themselves(connection, known)

    vars(sqlite)["migrate"] = migrate


def _is_new(connection: sqlite3.Connection) -> bool:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return not tables and not sqlite.schema_version(connection)


def _ready(migrate: _Migrate, known: list[Migration]) -> sqlite3.Connection:
    """The one that these migrations have made, kept until this process ends."""
    key = tuple(known)
    if key not in _MADE:
        made = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        made.execute("PRAGMA auto_vacuum = INCREMENTAL")
        migrate(made, known)
        _MADE[key] = made
    return _MADE[key]
