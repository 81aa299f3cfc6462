"""One thing on its way to where it is kept: taken as it comes, in bounded memory.

A row that says so comes before the first byte, and is named by the commit that ends a job; what
nothing names in the end is deleted (`store/jobs/blobs.py`). While one part is being written the
next one is filled, and then its source waits.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from typing import Any, Final, Protocol

from dispatcher.blobs.cipher import seal
from dispatcher.blobs.storage import Part, StorageError, Writer
from dispatcher.blobs.throttle import Throttle
from dispatcher.jobs.blobs import PART_BYTES, Blob, CannotKeep, NewBlob
from dispatcher.store.errors import StoreError, StoreFull, StoreUnavailable
from receiver.base import log

_LOG: Final = log.get("dispatcher.blobs")
_AGAIN_S: Final = 0.5
NO_ROOM: Final = "there is no room for its output within what the tenant may store"


class Room(Protocol):
    """What a tenant may still keep (`quotas.Quotas`)."""

    def take_output(self, tenant: str, size: int) -> bool:
        """Hold room for so many bytes more; False where there is none."""

    def give_output(self, tenant: str, size: int) -> None:
        """Let go of it: by now it is counted, or will never be."""


class AnyRoom:
    """As much as there is."""

    def take_output(self, tenant: str, size: int) -> bool:
        """Return True."""
        return True

    def give_output(self, tenant: str, size: int) -> None:
        """Do nothing."""


class Rows(Protocol):
    """What the database notes of it (`JobStore`)."""

    async def begin_blob(self, new: NewBlob) -> bool:
        """Note what is about to be kept; return whether it is to be sealed."""

    async def loosen_blob(self, id: str) -> None:
        """Have what nothing names be deleted."""


class Spool:
    """Takes the bytes of one thing."""

    __slots__ = (
        "_buffer",
        "_digest",
        "_has_begun",
        "_key",
        "_make",
        "_n",
        "_new",
        "_open",
        "_pending",
        "_room",
        "_rows",
        "_size",
        "_tenant",
        "_throttle",
        "_writer",
        "blob",
        "content_type",
    )

    def __init__(
        self,
        tenant: str,
        make: Callable[[], NewBlob],
        rows: Rows,
        writer: Callable[[str, str], Writer],
        room: Room,
        throttle: Throttle | None = None,
    ) -> None:
        """`make` is called once there is something to keep: of most there is not. `throttle` is how
        fast it may go where others wait for the same disk."""
        self.content_type = "application/octet-stream"
        self.blob: Blob | None = None
        self._tenant = tenant
        self._make = make
        self._rows = rows
        self._open = writer
        self._room = room
        self._throttle = throttle
        self._new: NewBlob | None = None
        self._writer: Writer | None = None
        self._key: bytes | None = None
        self._buffer: bytearray | None = None
        self._digest: Any = None
        self._size = 0
        self._n = 0
        self._pending: asyncio.Task[None] | None = None
        self._has_begun = False

    @property
    def size(self) -> int:
        """How many bytes came."""
        return self._size + len(self._buffer or b"")

    async def write(self, data: bytes) -> None:
        """Take some more, waiting until there is room for it. Raises CannotKeep."""
        with memoryview(data) as rest:
            at = 0
            while at < len(rest):
                buffer = self._buffer
                if buffer is None:
                    buffer = self._buffer = bytearray()
                taken = min(PART_BYTES - len(buffer), len(rest) - at)
                buffer += rest[at : at + taken]
                at += taken
                if len(buffer) == PART_BYTES:
                    self._buffer = None
                    await self._send(buffer)

    async def finish(self) -> Blob | None:
        """Return what it is, once all is on disk; None where nothing came. Raises CannotKeep."""
        if self._buffer:
            part, self._buffer = bytes(self._buffer), None
            await self._send(part)
        await self._written()
        new, writer = self._new, self._writer
        if new is None or writer is None:
            return None
        try:
            await writer.finish()
        except StorageError as error:
            self._failed(error)
            raise
        self.blob = Blob(
            id=new.id,
            storage=new.storage,
            size=self._size,
            sha256=self._digest.digest(),
            key=self._key,
        )
        return self.blob

    async def end(self) -> None:
        """Let go of everything; what no commit has had something name by now is to be deleted."""
        self._buffer = None
        pending = self._pending
        if pending is not None and not pending.done():
            pending.cancel()
            await asyncio.wait((pending,))
        if self._writer is not None and self.blob is None:
            await self._writer.abandon()
        if self._size:
            self._room.give_output(self._tenant, self._size)
            self._size = 0
        if self._has_begun and self._new is not None:
            with suppress(StoreError):  # the sweeper of whoever comes next finds it
                await self._rows.loosen_blob(self._new.id)

    async def _send(self, part: Part) -> None:
        if not self._room.take_output(self._tenant, len(part)):
            raise CannotKeep(NO_ROOM)
        self._size += len(part)
        await self._written()
        n, self._n = self._n, self._n + 1
        self._pending = asyncio.create_task(self._store(n, part), name="spool")

    async def _written(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            await asyncio.shield(pending)
        except asyncio.CancelledError:
            self._pending = pending
            raise
        except StorageError as error:
            self._failed(error)
            raise

    def _failed(self, error: StorageError) -> None:
        storage = None if self._new is None else self._new.storage
        _LOG.error("what came cannot be stored", storage=storage, reason=error.reason)

    async def _store(self, n: int, part: Part) -> None:
        new, writer = self._new, self._writer
        if new is None or writer is None:
            new = self._new = self._make()
            self._digest = sha256()
            await self._begin(new)
            writer = self._writer = self._open(new.id, self.content_type)
        prepared = await asyncio.to_thread(self._prepared, new.id, n, part)
        if self._throttle is None:
            await writer.write(prepared)
        else:
            await self._throttle.write(partial(_write, writer, prepared))

    async def _begin(self, new: NewBlob) -> None:
        """Note it. Where the database is away its source waits."""
        self._has_begun = True
        while True:
            try:
                is_sealed = await self._rows.begin_blob(new)
            except StoreFull as error:
                raise StorageError(str(error)) from error
            except StoreUnavailable as error:
                _LOG.warning("cannot begin to store yet", reason=str(error))
                await asyncio.sleep(_AGAIN_S)
            else:
                self._key = new.key if is_sealed else None
                return

    def _prepared(self, id: str, n: int, part: Part) -> Part:
        self._digest.update(part)
        return part if self._key is None else seal(self._key, id, n, part)


async def _write(writer: Writer, part: Part, synced: bool) -> None:
    await writer.write(part, synced=synced)
