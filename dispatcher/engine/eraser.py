"""Erasing tenants: slice by slice between everyone else's commits, each tenant in turn, with rests
while others commit."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from dispatcher.settings import Settings
from dispatcher.store.errors import StoreError
from dispatcher.store.store import Store
from dispatcher.store.tenants import Erasure
from receiver.base import log
from receiver.base.clock import now_ms
from receiver.base.slices import Slices

_LOG: Final = log.get("dispatcher.eraser")
# A slice holds a commit up for a few milliseconds (measured: 75 µs a callback, with all its parts).
SLICE: Final = 100
_LOOK_AGAIN_S: Final = 0.5  # at what waits for its last attempts


class Eraser:
    """Erases every tenant that is to be, until it is gone; a fault is logged and tried again.

    Call `wake` when one was added. What a stop interrupts goes on at the next start.
    `on_erased` is called with the name of each that this process has erased.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        on_erased: Callable[[str], None],
        clock: Callable[[], int] = now_ms,
    ) -> None:
        # One that another process left is found after this long.
        self._interval_s = settings.sweep_interval
        self._store = store
        self._slices = Slices(lambda: store.committed, rows_max=SLICE)
        self._on_erased = on_erased
        self._clock = clock
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with the tenants whose erasure a stop interrupted."""
        self._awake.set()
        self._task = asyncio.create_task(self._run(), name="eraser")

    async def stop(self) -> None:
        """Stop where it is; every slice is whole."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def wake(self) -> None:
        """Look for tenants to erase."""
        self._awake.set()

    async def _run(self) -> None:
        wait_s = 0.0
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._awake.wait()
            except TimeoutError:
                pass
            self._awake.clear()
            wait_s = self._interval_s
            try:
                if await self._erase_all(await self._store.erasing()):
                    wait_s = min(wait_s, _LOOK_AGAIN_S)
            except StoreError as error:
                _LOG.warning("will try again", reason=str(error))
            except Exception:
                _LOG.exception("erasing failed")

    async def _erase_all(self, tenants: Sequence[str]) -> bool:
        """Erase a slice of each in turn, until all that are left wait for something; returns
        whether some do."""
        todo, waiting = list(tenants), False
        while todo:
            going_on = []
            for tenant in todo:
                came = await self._slices.do(partial(self._erase, tenant))
                if came == "going on":
                    going_on.append(tenant)
                    await self._slices.rest()
                elif came == "done":
                    _LOG.info("tenant erased", tenant=tenant)
                    self._on_erased(tenant)
                waiting = waiting or came == "waiting"
            todo = going_on
        return waiting

    async def _erase(self, tenant: str, rows: int) -> Erasure:
        return await self._store.erase(tenant, now_ms=self._clock(), limit=rows)
