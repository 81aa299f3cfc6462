"""The doctor's look at the database: through the store's own read-only connection, beside a
running service."""

import sqlite3  # for its errors and its version; connections are the store's own
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from dispatcher.cli.finding import Check
from dispatcher.cli.output import size
from dispatcher.settings import Settings
from dispatcher.store.errors import CannotStart
from dispatcher.store.migrate import scripts
from dispatcher.store.sqlite import file

# The WAL-reset bug: two connections that write and checkpoint at once can lose commits.
_BUG_FROM: Final = (3, 7, 0)
_BUG_TO: Final = (3, 51, 2)


def database(settings: Settings) -> Iterator[Check]:
    """Yield the file: there, readable, sound, of which schema, and whose."""
    try:
        path = file.path_of(settings.database_url)
    except CannotStart as error:
        yield Check(name="database", state="bad", message=str(error))
        return
    if not path.exists():
        yield _absent(path)
        return
    try:
        with closing(file.connect_reader(path)) as connection:
            yield _sound(connection, path)
            yield schema(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as error:
        yield Check(
            name="database",
            state="bad",
            message=f"{path} cannot be read: {error}",
            advice="keep the file as it is and restore a backup to another path",
        )
    yield _owner(path)


def sqlite_version(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> Check:
    """Which SQLite this Python links, and what follows."""
    shown = ".".join(map(str, version))
    if not _BUG_FROM <= version <= _BUG_TO:
        return Check(name="SQLite", state="ok", message=shown)
    return Check(
        name="SQLite",
        state="ok",
        message=f"{shown}, which has the WAL-reset bug (3.7.0 to 3.51.2)",
        advice="harmless here, since one process and one connection write; never open the file "
        "for writing with another program while the service runs",
    )


def schema(found: int, dialect: str = "sqlite") -> Check:
    """Whether this version can use a database with this schema."""
    newest = scripts(dialect)[-1][0]
    if found > newest:
        message = f"{found}, but this version knows {newest}"
        advice = "run the version that wrote it, or a newer one"
        return Check(name="schema", state="bad", message=message, advice=advice)
    if found < newest:
        message = f"{found}, to be brought to {newest}"
        advice = "the next `dispatcher serve` does it, or: dispatcher migrate"
        return Check(name="schema", state="warn", message=message, advice=advice)
    return Check(name="schema", state="ok", message=f"{found}, up to date")


def _absent(path: Path) -> Check:
    folder = path.absolute().parent
    if folder.is_dir():
        message = f"{path} is not there yet: the first start makes it"
        return Check(name="database", state="ok", message=message)
    message = f"{path}: there is no folder {folder}"
    advice = "make the folder, or set DISPATCHER_DATABASE_URL"
    return Check(name="database", state="bad", message=message, advice=advice)


def _sound(connection: sqlite3.Connection, path: Path) -> Check:
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        message = f"{path} is damaged: {verdict}"
        advice = "stop the service, keep the file as it is, restore a backup to another path"
        return Check(name="database", state="bad", message=message, advice=advice)
    log = path.with_name(path.name + "-wal")
    taken = path.stat().st_size + (log.stat().st_size if log.exists() else 0)
    message = f"{path} is sound, {size(taken)}"
    return Check(name="database", state="ok", message=message)


def _owner(path: Path) -> Check:
    """Who holds the file. Asking takes the lock for an instant."""
    lock = file.Ownership(path)
    try:
        lock.take()
    except CannotStart:
        owner = lock.owner() or "unknown"
        return Check(name="owner", state="ok", message=f"in use by process {owner}")
    lock.release()
    return Check(name="owner", state="ok", message="nobody has it open: no service runs here")
