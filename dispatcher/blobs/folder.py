"""Bytes in files of a folder: `file:/var/lib/postback/outputs`. Processes on several machines need
a folder that they share.

A file is synced, and the folder that names it, before anything says that it is there.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from dispatcher.blobs.storage import Missing, Part, StorageError

T = TypeVar("T")
Run = Callable[[Callable[[], None]], Awaitable[None]]
PREFIX: Final = "file:"
_THREADS: Final = 4
_FLUSH_BYTES: Final = 8 * 1024 * 1024
"""So much is handed to the disk at a time, so that there is little left to wait for at the end."""
_SHARD_CHARS: Final = 2


class Folder:
    """Files in a folder, made where it is not there: owners alone can read them."""

    gives_way = True

    def __init__(self, name: str) -> None:
        """`name` is `file:` and a path."""
        self.name = name
        self._path = Path(name.removeprefix(PREFIX))
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="outputs")

    async def open(self) -> None:
        await self._run(self._open)

    def _open(self) -> None:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = self._path / ".probe"
        probe.touch(0o600)
        probe.unlink(missing_ok=True)

    def path(self, id: str) -> Path:
        """Return the file of an id: by its last characters, which are random, in one of many
        folders."""
        return self._path / id[-_SHARD_CHARS:] / id

    def writer(self, id: str, content_type: str) -> "FileWriter":
        return FileWriter(self._path, self.path(id), self._run)

    async def read(self, id: str, n: int, step: int, size: int) -> bytes:
        return await self._run(lambda: _read(self.path(id), n * step, size))

    async def delete(self, id: str) -> bool:
        await self._run(lambda: _delete(self.path(id)))
        return True

    async def link(self, id: str, lasting_s: int) -> str | None:
        return None

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except FileNotFoundError as error:
            raise Missing(str(error)) from error
        except OSError as error:
            raise StorageError(str(error)) from error


def _read(path: Path, start: int, size: int) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while size:
            part = os.pread(handle, size, start)
            if not part:
                break
            parts.append(part)
            start += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(handle)


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)


class FileWriter:
    """Writes one file: a part at a time, on a thread."""

    def __init__(self, root: Path, path: Path, run: Run) -> None:
        self._root = root
        self._path = path
        self._run = run
        self._handle = -1
        self._written = 0
        self._flushed = 0

    async def write(self, part: Part, *, synced: bool = False) -> None:
        await self._run(lambda: self._write(part, synced))

    def _write(self, part: Part, synced: bool) -> None:
        if self._handle < 0:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._handle = os.open(self._path, flags, 0o600)
        view = memoryview(part)
        while view:
            view = view[os.write(self._handle, view) :]
        self._written += len(part)
        if synced:
            os.fdatasync(self._handle)
        if self._written - self._flushed >= _FLUSH_BYTES:
            # Begins to write what is dirty, and lets go of what is written: our pages would else
            # push out those that others read.
            os.posix_fadvise(self._handle, 0, self._written, os.POSIX_FADV_DONTNEED)
            self._flushed = self._written

    async def finish(self) -> None:
        await self._run(self._finish)

    def _finish(self) -> None:
        os.fsync(self._handle)
        self._close()
        for folder in (self._path.parent, self._root, self._root.parent):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    async def abandon(self) -> None:
        with suppress(Exception):
            await self._run(self._close)

    def _close(self) -> None:
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            os.close(handle)
