"""Numbered, forward-only migrations: plain .sql files, applied in order, one transaction each."""

import sqlite3
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from dispatcher.store.errors import CannotStart

if TYPE_CHECKING:
    import psycopg  # only who uses PostgreSQL needs it installed

# Any number will do, as long as nobody else takes it for a lock of their own in this database.
_MIGRATING: Final = 0x706F737462616B


def scripts(dialect: str) -> list[tuple[int, str]]:
    """Return the dialect's migrations as (number, SQL), in order."""
    folder = files("dispatcher.store") / "migrations" / dialect
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name.split("_")[0]), (folder / name).read_text("utf-8")) for name in names]


def migrate_sqlite(connection: sqlite3.Connection) -> int:
    """Bring the file's schema up to date and return its number.

    Raises CannotStart when the file was written by a newer version of this program.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    known = scripts("sqlite")
    newest = known[-1][0]
    _refuse_newer(found, newest)
    for number, script in known:
        if number > found:
            connection.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
    return newest


def migrate_postgres(connection: "psycopg.Connection") -> int:
    """Bring the database's schema up to date and return its number; processes that start at once
    do so one after the other.

    Raises CannotStart when a newer version of this program was here, and what the server raises.
    """
    connection.execute(f"SELECT pg_advisory_lock({_MIGRATING})")
    try:
        found = postgres_schema(connection)
        known = scripts("postgres")
        newest = known[-1][0]
        _refuse_newer(found, newest)
        for number, script in known:
            if number > found:
                connection.execute(f"BEGIN;\n{script}\n{_RECORD.format(number)}\nCOMMIT;".encode())
        return newest
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK")
            connection.execute(f"SELECT pg_advisory_unlock({_MIGRATING})")


def postgres_schema(connection: "psycopg.Connection") -> int:
    """Return the number of the database's schema; 0 where there is none yet."""
    there = connection.execute("SELECT to_regclass('postback_schema') IS NOT NULL").fetchone()
    if there is None or not there[0]:
        return 0
    row = connection.execute("SELECT max(version) FROM postback_schema").fetchone()
    return 0 if row is None or row[0] is None else int(row[0])


_RECORD: Final = """
CREATE TABLE IF NOT EXISTS postback_schema (version integer PRIMARY KEY);
INSERT INTO postback_schema (version) VALUES ({});
"""


def _refuse_newer(found: int, newest: int) -> None:
    if found > newest:
        raise CannotStart(
            f"the database has schema {found}, this version knows {newest}: "
            "run the version that wrote it, or a newer one"
        )
