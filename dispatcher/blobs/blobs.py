"""All that is kept outside of its row: begun, read in parts, linked to, and deleted where nothing
names it any more."""

import os
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from typing import Final

from dispatcher.blobs import folder, tables
from dispatcher.blobs.cipher import Damaged, unseal
from dispatcher.blobs.folder import Folder
from dispatcher.blobs.spool import AnyRoom, Room, Spool
from dispatcher.blobs.storage import Missing, Storage, StorageError
from dispatcher.blobs.tables import Tables
from dispatcher.blobs.throttle import Throttle
from dispatcher.ids import new_id
from dispatcher.jobs.blobs import PART_BYTES, SEAL_BYTES, Blob, NewBlob, Range, What, parts_of
from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.values import Output
from dispatcher.settings import Settings
from dispatcher.store.jobs.store import JobStore
from receiver.base import log
from receiver.base.clock import now_ms
from receiver.base.keyring import KEY_BYTES
from receiver.base.lack import OwnLack

_LOG: Final = log.get("dispatcher.blobs")
_ANY_ROOM: Final = AnyRoom()
_SWEPT: Final = 50  # in one slice
S3_PREFIX: Final = "s3://"


class Gone(Exception):
    """Bytes are not where they were put."""


class Blobs:
    """What a process keeps, at `settings.outputs` unless that was elsewhere when it was written.
    `process` is who we are to the other processes, and `room` what tenants may keep."""

    def __init__(
        self,
        settings: Settings,
        store: JobStore,
        *,
        process: str,
        room: Room | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._settings = settings
        self._store = store
        self._process = process
        self._room = room or _ANY_ROOM
        self._throttle = Throttle(store.committed)
        self._clock = clock
        self._storages: dict[str, Storage] = {}
        self._swept = ""  # up to which id what is doomed was looked at
        self.storage = settings.outputs_storage

    async def open(self) -> None:
        """Open where new things are kept. Raises StorageError."""
        await self._storage(self.storage).open()

    async def close(self) -> None:
        """Let go of all storages."""
        for storage in self._storages.values():
            await storage.close()
        self._storages.clear()

    def _storage(self, name: str) -> Storage:
        storage = self._storages.get(name)
        if storage is None:
            storage = self._storages[name] = self._made(name)
        return storage

    def _made(self, name: str) -> Storage:
        if name.startswith(folder.PREFIX):
            return Folder(name)
        if name.startswith(S3_PREFIX):
            from dispatcher.blobs.bucket import Bucket

            return Bucket(name, self._settings)
        return Tables(self._store)

    # --- writing ---

    def bounded(self, rules: EndpointRules) -> EndpointRules:
        """Return rules by which no more comes than can be kept here."""
        bytes_max = self._settings.outputs_database_max
        if self.storage != tables.NAME or rules.output_max <= bytes_max:
            return rules
        return replace(rules, output_max=bytes_max)

    def spool(self, job: str, tenant: str, what: What) -> Spool:
        """Return what takes an input or an output of a job; nothing is begun before there is a part
        to write."""
        new = partial(self._new, job, tenant, what)
        room = self._room if what == "output" else _ANY_ROOM
        storage = self._storage(self.storage)
        throttle = self._throttle if storage.gives_way else None
        return Spool(tenant, new, self._store, storage.writer, room, throttle)

    def _new(self, job: str, tenant: str, what: What) -> NewBlob:
        at_ms = self._clock()
        return NewBlob(
            id=new_id("bl", at_ms),
            storage=self.storage,
            tenant=tenant,
            job=job,
            what=what,
            process=self._process,
            key=os.urandom(KEY_BYTES),
            created_ms=at_ms,
        )

    # --- reading ---

    async def part(self, blob: Blob, n: int) -> bytes:
        """Return a part. Raises Gone, OwnLack for what is damaged, and what the database does."""
        size = min(PART_BYTES, blob.size - n * PART_BYTES)
        stored_size = size if blob.key is None else size + SEAL_BYTES
        try:
            return _opened(blob, n, await self._read(blob, n, stored_size), stored_size)
        except Missing as error:
            _LOG.error(
                "what was kept is missing", id=blob.id, storage=blob.storage, reason=str(error)
            )
            raise Gone(blob.id) from error
        except Damaged as error:
            _LOG.error(
                "what was kept is damaged", id=blob.id, storage=blob.storage, reason=str(error)
            )
            raise OwnLack("damage", "what is stored is damaged") from error
        except StorageError as error:
            _LOG.error("what was kept cannot be read", storage=blob.storage, reason=error.reason)
            raise OwnLack("storage", "what is stored cannot be read now") from error

    async def _read(self, blob: Blob, n: int, size: int) -> bytes:
        try:
            return await self._storage(blob.storage).read(blob.id, n, blob.step, size)
        except Missing:
            if not self._is_moved(blob.storage):
                raise
            return await self._storage(self.storage).read(blob.id, n, blob.step, size)

    def _is_moved(self, storage: str) -> bool:
        """Whether a folder may have been moved: then its files are in the one of the settings."""
        prefix = folder.PREFIX
        return (
            storage != self.storage
            and storage.startswith(prefix)
            and self.storage.startswith(prefix)
        )

    async def stream(self, blob: Blob, wanted: Range) -> AsyncGenerator[bytes, None]:
        """Yield a range of what is kept, part by part. Raises what `part` does."""
        for part in parts_of(wanted):
            body = await self.part(blob, part.n)
            yield body if part.end - part.start == len(body) else body[part.start : part.end]

    async def whole(self, blob: Blob) -> bytes:
        """Return all that is kept; for what is short. Raises what `part` does."""
        parts = [part async for part in self.stream(blob, Range(0, blob.size))]
        return b"".join(parts)

    async def filled(self, output: Output, bytes_max: int) -> Output:
        """Return an output with its bytes in `body`, unless these are more than `bytes_max`. Raises
        what `part` does."""
        if output.is_here or output.blob is None or output.size > bytes_max:
            return output
        return replace(output, body=await self.whole(output.blob))

    async def link(self, blob: Blob, lasting_s: int) -> str | None:
        """Return where anybody may fetch it for so long without us, signed now; None where nobody
        can, or what is there is sealed."""
        if blob.key is not None:
            return None
        return await self._storage(blob.storage).link(blob.id, lasting_s)

    # --- sweeping ---

    async def sweep(self) -> bool:
        """Delete some of what nothing names; return whether there is more to do at once."""
        if await self._store.has_orphaned_blobs(self._process):
            count = await self._store.orphan_blobs(self._process)
            if count:
                _LOG.info("what dead processes were writing goes", count=count)
        found = await self._store.doomed_blobs(_SWEPT, after=self._swept)
        self._swept = found[-1][0] if len(found) == _SWEPT else ""
        gone = []
        is_more = False
        for id, storage in found:
            try:
                if await self._delete(id, storage):
                    gone.append(id)
                else:
                    is_more, self._swept = True, ""
            except Exception as error:
                reason = error.reason if isinstance(error, StorageError) else repr(error)
                _LOG.warning("cannot delete yet", id=id, storage=storage, reason=reason)
        if gone:
            await self._store.forget_blobs(gone)
        return is_more or (bool(gone) and len(found) == _SWEPT)

    async def _delete(self, id: str, storage: str) -> bool:
        is_gone = await self._storage(storage).delete(id)
        if is_gone and self._is_moved(storage):
            is_gone = await self._storage(self.storage).delete(id)
        return is_gone


def _opened(blob: Blob, n: int, stored: bytes, size: int) -> bytes:
    """Return what a part says, which should be stored in so many bytes. Raises Damaged."""
    if len(stored) != size:
        raise Damaged(f"part {n} of {blob.id} has {len(stored)} of {size} bytes")
    return stored if blob.key is None else unseal(blob.key, blob.id, n, stored)


def _lost(how: str, blob: Blob, error: Exception) -> None:
    _LOG.error(f"what was kept is {how}", id=blob.id, storage=blob.storage, reason=str(error))
