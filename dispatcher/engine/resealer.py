"""Sealing everything again with the key that seals now, slice by slice between everyone else's
commits, when an operator asks for it."""

import asyncio
from typing import Final

from dispatcher.settings import Settings
from dispatcher.store.errors import StoreError
from dispatcher.store.reencrypt import Reencryption
from dispatcher.store.store import Store
from receiver.base import log
from receiver.base.clock import now_ms

_LOG: Final = log.get("dispatcher.resealer")
_PAUSE_S: Final = 0.005  # between slices: others' commits go first
_PAGES: Final = 256  # free ones that are given back at once: a few milliseconds
_ERASE_TRIES: Final = 10  # while a listing reads an older state of the file
_ERASE_AGAIN_S: Final = 1.0


class Resealer:
    """Goes on with what was asked for until it is done; a fault is logged and tried again.

    Call `wake` when it was asked for. What a stop interrupts goes on at the next start.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._interval_s = settings.sweep_interval  # one that another process left is found then
        self._store = store
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with what a stop interrupted."""
        self._awake.set()
        self._task = asyncio.create_task(self._run(), name="resealer")

    async def stop(self) -> None:
        """Stop where it is; every slice is whole."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def wake(self) -> None:
        """Look for what to do."""
        self._awake.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._awake.wait()
            except TimeoutError:
                if not self._store.shared:
                    continue  # nobody else could have asked
            self._awake.clear()
            try:
                at = await self._store.reencryption()
                if at is not None and at.state == "running" and self._store.is_sealing:
                    await self._go_on(at)
            except StoreError as error:
                _LOG.warning("will try again", reason=str(error))
                self._awake.set()
                await asyncio.sleep(_ERASE_AGAIN_S)
            except Exception:
                _LOG.exception("sealing again failed")

    async def _go_on(self, at: Reencryption) -> None:
        if not await self._store.runs_reencryption():
            return
        await self._store.overwrite_deleted()
        while at.place:
            at = await self._store.reencrypt(at, now_ms=now_ms())
            await asyncio.sleep(_PAUSE_S)
        clean = await self._erased()
        done = await self._store.finish_reencryption(at, clean=clean, now_ms=now_ms())
        _LOG.info(
            "sealed again",
            kid=done.kid,
            values=done.sealed,
            looked=done.looked,
            unopened=done.unopened,
            clean=clean,
        )

    async def _erased(self) -> bool:
        """Whether nothing of what was there before is left in the file."""
        try:
            while await self._store.shrink(pages=_PAGES) == _PAGES:  # noqa: ASYNC110 - it acts
                await asyncio.sleep(_PAUSE_S)
            erased = await self._store.erase_deleted(rewrite=True)
            for _ in range(_ERASE_TRIES):
                if erased != "busy":
                    break
                await asyncio.sleep(_ERASE_AGAIN_S)
                erased = await self._store.erase_deleted(rewrite=False)
        except StoreError as error:  # there may be no room to write the file anew
            _LOG.warning("what is sealed now may still stand in unused pages", reason=str(error))
            return False
        return erased == "clean"
