"""Brings a database file to this program's schema: numbered .sql files, forward only."""

import sqlite3
from importlib import resources
from typing import Final

APPLICATION_ID: Final = 1346521938  # as 0001_inbox.sql sets it


class SchemaError(Exception):
    """The file is another program's, or of a newer version of this one. It is left as it was."""


def migrations() -> list[str]:
    """Return the scripts in order; script n brings schema n - 1 to n."""
    folder = resources.files("receiver.inbox.sqlite") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(folder / name).read_text("utf-8") for name in names]


def check(connection: sqlite3.Connection) -> None:
    """Change nothing. Raises SchemaError for a file that is not ours or newer than we are."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if tables and application_id != APPLICATION_ID:
        raise SchemaError("the file is a database of another program")
    version, known = _version(connection), len(migrations())
    if version > known:
        raise SchemaError(
            f"the file has schema {version}, written by a newer version; this one knows {known}"
        )


def migrate(connection: sqlite3.Connection) -> None:
    """Apply what is missing, each script in a transaction of its own."""
    version = _version(connection)
    for n, script in enumerate(migrations()[version:], start=version + 1):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {n};\nCOMMIT;"
            )
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)
