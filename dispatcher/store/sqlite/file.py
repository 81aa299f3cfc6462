"""The SQLite file as such: its name, its size, its backup (D4)."""

import os
import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from dispatcher.store.errors import CannotStart, Conflict, StoreUnavailable
from dispatcher.store.requests import Usage
from receiver.base.db.sqlite import connect_reader

URL_PREFIX: Final = "sqlite:///"
IN_USE_ADVICE: Final = "stop it first, or point DISPATCHER_DATABASE_URL at another file"


def path_of(url: str) -> Path:
    """Return the file that `sqlite:///relative.db` or `sqlite:////absolute.db` names.

    Raises CannotStart for anything else.
    """
    name = unquote(url.removeprefix(URL_PREFIX))
    if not url.startswith(URL_PREFIX) or not name or name == ":memory:":
        raise CannotStart(
            f"cannot use the database URL {url.split('@')[-1]!r}: it takes a file, such as "
            "sqlite:///postback.db or sqlite:////var/lib/postback/postback.db"
        )
    return Path(name)


def measure(
    connection: sqlite3.Connection, path: Path, *, bytes_max: int, reserve_bytes: int
) -> Usage:
    """Return the bytes in use, and how many more the limit and the disk allow."""
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (unused,) = connection.execute("PRAGMA freelist_count").fetchone()
    disk = os.statvfs(path.absolute().parent)
    used = (pages - unused) * size
    on_disk = disk.f_bavail * disk.f_frsize - reserve_bytes + unused * size
    return Usage(used_bytes=used, free_bytes=max(0, min(bytes_max - used, on_disk)))


def backup(path: Path, target: Path) -> None:
    """Write a consistent, compact copy of `path` to `target`, whoever is using `path`.

    Raises Conflict when `target` exists, StoreUnavailable when it cannot be read or written; a
    copy that failed leaves nothing behind.
    """
    if target.exists():
        raise Conflict(f"{target} exists already: name a new file")
    if not path.exists():
        raise StoreUnavailable(f"there is no database at {path}")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        connection = connect_reader(path)
        try:
            connection.execute("PRAGMA query_only = 0")
            connection.execute("VACUUM INTO ?", (str(partial),))
        finally:
            connection.close()
        partial.chmod(0o600)
        _sync(partial)
        partial.rename(target)
        _sync(target.absolute().parent)
    except (sqlite3.Error, OSError) as error:
        partial.unlink(missing_ok=True)
        raise StoreUnavailable(f"cannot back up to {target}: {error}") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def shrink(connection: sqlite3.Connection, pages: int) -> int:
    """Give up to `pages` unused pages back to the file system; returns how many."""
    (before,) = connection.execute("PRAGMA freelist_count").fetchone()
    if before:
        connection.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
    (after,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(before - after)
