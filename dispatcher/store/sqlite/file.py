"""The SQLite file as such: one owner, its pragmas set and read back, its size, its backup (D4)."""

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote, unquote

from dispatcher.store.errors import CannotStart, Conflict, StoreUnavailable
from dispatcher.store.requests import Usage

URL_PREFIX: Final = "sqlite:///"
CACHE_KIB: Final = 32 * 1024
# A checkpoint copies this many pages at once (16 MiB): rare enough to be cheap, small enough to
# keep the log file from growing without bound.
CHECKPOINT_PAGES: Final = 4_096


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


class Ownership:
    """The lock that makes one process the file's owner until it is released or dies."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Raise CannotStart, naming the process that owns the file."""
        try:
            handle = self._path.open("a+", encoding="ascii")
        except OSError as error:
            raise CannotStart(f"cannot create {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = self.owner() or "unknown"
            handle.close()
            raise CannotStart(
                f"{self._path.with_suffix('')} is in use by process {owner}: stop it first, or "
                "point DISPATCHER_DATABASE_URL at another file"
            ) from error
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        self._file = handle

    def owner(self) -> str:
        """Return the process id that the lock file names, or an empty text."""
        try:
            return self._path.read_text("ascii").strip()
        except OSError:
            return ""

    def release(self) -> None:
        """Let another process have the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def connect_writer(path: Path) -> sqlite3.Connection:
    """Return the one connection that writes and checkpoints. Raises CannotStart."""
    try:
        new = not path.exists() or path.stat().st_size == 0
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        if new:
            path.chmod(0o600)  # it holds signing secrets
        _configure(connection)
    except (sqlite3.Error, OSError) as error:
        raise CannotStart(f"cannot open {path}: {error}") from error
    return connection


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only has effect on a new file
    wanted = {"journal_mode": "wal", "synchronous": "2"}  # 2 is FULL
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    for pragma, value in wanted.items():
        (found,) = connection.execute(f"PRAGMA {pragma}").fetchone()
        if str(found) != value:
            raise CannotStart(
                f"SQLite refused {pragma} = {value} (it is {found}): the file system may not "
                "support it; use a local disk"
            )
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA busy_timeout = 2000")  # a backup may hold the file for a moment


def connect_reader(path: Path) -> sqlite3.Connection:
    """Return a connection that can neither write nor checkpoint."""
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA query_only = 1")
    connection.execute("PRAGMA cache_size = -8192")
    return connection


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
