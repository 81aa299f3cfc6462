"""Numbered, forward-only migrations: plain .sql files, applied in order, one transaction each."""

from __future__ import annotations

import sqlite3
from importlib.resources import files

from dispatcher.store.base import CannotStart


def scripts(dialect: str) -> list[tuple[int, str]]:
    """The dialect's migrations as (number, SQL), in order."""
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
    if found > newest:
        raise CannotStart(
            f"the database has schema {found}, this version knows {newest}: "
            "run the version that wrote it, or a newer one"
        )
    for number, script in known:
        if number > found:
            connection.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
    return newest
