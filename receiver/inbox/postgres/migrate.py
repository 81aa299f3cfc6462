"""Brings a database to this program's schema: numbered .sql files, forward only, in a schema of
our own."""

from importlib import resources
from typing import Any, Final

import psycopg

SCHEMA: Final = "postback_receiver"
# Any number will do, as long as nobody else takes it for a lock of their own in this database.
_MIGRATING: Final = 0x7265636569766572

_FOUND: Final = "SELECT max(version) FROM schema_version"
_RECORD: Final = """
    CREATE TABLE IF NOT EXISTS schema_version (version integer PRIMARY KEY);
    INSERT INTO schema_version (version) VALUES ({})
"""


class SchemaError(Exception):
    """The database was written by a newer version of this program. It is left as it was."""


def migrations() -> list[str]:
    """Return the scripts in order; script n brings schema n - 1 to n."""
    folder = resources.files("receiver.inbox.postgres") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(folder / name).read_text("utf-8") for name in names]


def migrate(connection: psycopg.Connection[Any]) -> None:
    """Apply what is missing, each script in a transaction of its own; replicas that start at
    once do so one after the other. Raises SchemaError, and what the server raises."""
    connection.execute(f"SELECT pg_advisory_lock({_MIGRATING})")
    try:
        version, scripts = _version(connection), migrations()
        if version > len(scripts):
            raise SchemaError(
                f"the database has schema {version}, written by a newer version; "
                f"this one knows {len(scripts)}"
            )
        for n, script in enumerate(scripts[version:], start=version + 1):
            connection.execute(f"BEGIN;\n{script};\n{_RECORD.format(n)};\nCOMMIT".encode())
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK")
            connection.execute(f"SELECT pg_advisory_unlock({_MIGRATING})")


def _version(connection: psycopg.Connection[Any]) -> int:
    there = connection.execute("SELECT to_regnamespace(%s)", (SCHEMA,)).fetchone()
    if there is None or there[0] is None:  # whoever made it for us need not let us make any
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
    found = connection.execute("SELECT to_regclass('schema_version')").fetchone()
    if found is None or found[0] is None:
        return 0
    row = connection.execute(_FOUND).fetchone()
    return 0 if row is None or row[0] is None else int(row[0])
