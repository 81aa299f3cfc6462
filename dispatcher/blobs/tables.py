"""Bytes in rows of the database itself, a part a row: `database`. For services on several machines
that have nothing else in common."""

import asyncio
from typing import Final

from dispatcher.blobs.storage import Missing, Part, StorageError
from dispatcher.jobs.blobs import PART_BYTES, SEAL_BYTES
from dispatcher.store.errors import StoreError, StoreUnavailable
from dispatcher.store.jobs.store import JobStore
from receiver.base import log

_LOG: Final = log.get("dispatcher.blobs")
NAME: Final = "database"
_DROPPED: Final = 16  # parts in one transaction
_AGAIN_S: Final = 0.5


class Tables:
    """Parts in rows."""

    name = NAME
    gives_way = True

    def __init__(self, store: JobStore) -> None:
        self._store = store

    async def open(self) -> None:
        """Do nothing: the database is there, or nothing is."""

    def writer(self, id: str, content_type: str) -> "RowWriter":
        return RowWriter(self._store, id)

    async def read(self, id: str, n: int, step: int, size: int) -> bytes:
        found = await self._store.blob_part(id, n)
        if found is None:
            raise Missing(f"part {n} of {id} is not there")
        return found

    async def delete(self, id: str) -> bool:
        return not await self._store.drop_blob_parts(id, _DROPPED)

    async def link(self, id: str, lasting_s: int) -> str | None:
        return None

    async def close(self) -> None:
        """Nothing is open."""


class RowWriter:
    """Writes the rows of one thing."""

    def __init__(self, store: JobStore, id: str) -> None:
        self._store = store
        self._id = id
        self._n = 0

    async def write(self, part: Part, *, synced: bool = False) -> None:
        if len(part) > PART_BYTES + SEAL_BYTES:
            raise ValueError("a part is too long")
        while True:
            try:
                await self._store.put_blob_part(self._id, self._n, part, synced=synced)
            except StoreUnavailable as error:  # who reads waits, and its upstream with it
                _LOG.warning("cannot store a part yet", id=self._id, reason=str(error))
                await asyncio.sleep(_AGAIN_S)
            except StoreError as error:
                raise StorageError(str(error)) from error
            else:
                self._n += 1
                return

    async def finish(self) -> None:
        """Do nothing: what names it is committed later, and with that it is on disk."""

    async def abandon(self) -> None:
        """Nothing is open."""
