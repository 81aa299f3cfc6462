"""The lock that gives a database file to one process."""

import fcntl
import os
from typing import Final, Self

HOLDER_BYTES_MAX: Final = 64  # what is read of a lock file: a process id


class LockedError(Exception):
    """Another process owns the file; the message says which."""


class FileLock:
    """Owns `<path>.lock` until closed, or until the process ends in whatever way.

    The kernel lets go of it after a `kill -9` too, so a file left behind locks nobody out.
    """

    def __init__(self, path: str) -> None:
        """Raise LockedError when another process holds it, OSError when it cannot be made."""
        # Through symbolic links: two names of one file are one file.
        self.path = os.path.realpath(path) + ".lock"
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._file, HOLDER_BYTES_MAX).decode("ascii", "replace").strip()
            os.close(self._file)
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise LockedError(f"{path} is in use by {who}; one process owns the file") from None
        except OSError:
            os.close(self._file)
            raise
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
