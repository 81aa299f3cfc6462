"""What the doctor wants to know of a SQLite file. Looking changes nothing, and a service may be
using the file."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dispatcher.store.errors import CannotStart
from dispatcher.store.sqlite import file
from receiver.base.db.sqlite import FileInUse, FileLock, connect_reader, schema_version

VERSION: Final = sqlite3.sqlite_version_info


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """A database file. `damage` is what is wrong with its content, `unreadable` why that could not
    be told; `owner` the process id of the service that has it open, "unknown" where its lock
    does not say."""

    path: Path
    bytes: int = 0
    schema: int | None = None
    damage: str | None = None
    unreadable: str | None = None
    owner: str | None = None


def inspect(url: str) -> FileState | None:
    """Return the state of the file that `url` names, None where there is none. Raises CannotStart
    for a URL that names no file."""
    path = file.path_of(url)
    if not path.exists():
        return None
    owner = _owner(path)
    try:
        with closing(connect_reader(path)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            schema = schema_version(connection)
    except sqlite3.Error as error:
        return FileState(path=path, unreadable=str(error), owner=owner)
    log = path.with_name(path.name + "-wal")
    return FileState(
        path=path,
        bytes=path.stat().st_size + (log.stat().st_size if log.exists() else 0),
        schema=schema,
        damage=None if verdict == "ok" else str(verdict),
        owner=owner,
    )


def _owner(path: Path) -> str | None:
    """Return the process that has the file open. Asking takes the lock for an instant."""
    lock = FileLock(path)
    try:
        lock.take()
    except FileInUse as error:
        return error.owner or "unknown"
    except CannotStart:
        return "unknown"
    lock.release()
    return None
