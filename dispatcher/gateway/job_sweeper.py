"""Bulk changes of jobs, made: each fixed set walked in small slices between everyone else's
commits, with rests between, those of all customers in turn. One process does it for all."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from dispatcher.jobs.looks import JobSweep
from dispatcher.store.errors import Conflict, NotFound, StoreError
from dispatcher.store.jobs.store import JobStore
from receiver.base import log
from receiver.base.clock import monotonic_ms, now_ms
from receiver.base.slices import Slices

_LOG: Final = log.get("dispatcher.gateway")
# One slice of 200 rows holds a commit up for a few milliseconds, as of callbacks.
SLICE: Final = 200
# How often it looks for what other processes have begun; and how long a retry waits whose queue is
# full.
_LOOK_S: Final = 1.0
_FULL_MS: Final = 2_000


class JobSweeper:
    """Runs until it is stopped; what fails is logged and tried again the next time."""

    def __init__(
        self,
        jobs: JobStore,
        *,
        committed: Callable[[], int],
        clock: Callable[[], int] = now_ms,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        """Make it of a count of what this process has `committed`."""
        self._jobs = jobs
        self._slices = Slices(committed, rows_max=SLICE)
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._awake = asyncio.Event()
        self._held_until_ms: dict[str, int] = {}
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._running = asyncio.create_task(self._run(), name="job sweeper")

    async def stop(self) -> None:
        """Stop where it is; every slice is whole, and the next start goes on from there."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    def wake(self) -> None:
        """Look at once: a bulk change was begun."""
        self._awake.set()

    async def _run(self) -> None:
        while True:
            self._awake.clear()
            if await self._try():
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._awake.wait()

    async def _try(self) -> bool:
        try:
            return await self.step()
        except StoreError as error:
            _LOG.warning("bulk changes of jobs will go on", reason=str(error))
        except Exception:
            _LOG.exception("a bulk change of jobs was broken off")
        return False

    async def step(self) -> bool:
        """Do a slice of each bulk change that runs; return whether there is more to do at once.
        Purges of very many queues first: until they are through, their endpoints start nothing."""
        more = False
        for endpoint in await self._jobs.purging():
            more = await self._jobs.purge_on(endpoint, now_ms=self._clock()) or more
        running = await self._jobs.running_sweeps()
        self._held_until_ms = {
            sweep.id: self._held_until_ms[sweep.id]
            for sweep in running
            if sweep.id in self._held_until_ms
        }
        if not running or not await self._jobs.sweeps_jobs():
            return more
        for sweep in running:
            if self._held_until_ms.get(sweep.id, 0) <= self._monotonic_ms():
                more = await self._slice(sweep) or more
        return more

    async def _slice(self, sweep: JobSweep) -> bool:
        try:
            now, moved = await self._slices.do(
                lambda rows: self._jobs.step_sweep(
                    sweep.tenant, sweep.id, now_ms=self._clock(), limit=rows
                )
            )
        except (NotFound, Conflict) as error:  # its tenant was erased, or another process sweeps
            _LOG.info("a bulk change of jobs is left alone", id=sweep.id, reason=str(error))
            return False
        except StoreError:
            raise
        except Exception as error:  # what is wrong with one keeps no other waiting
            _LOG.exception("a bulk change of jobs was broken off", error, id=sweep.id)
            return False
        if now.state != "running":
            _LOG.info(
                "bulk change of jobs ended",
                id=now.id,
                what=now.what,
                state=now.state,
                done=now.done,
                skipped=now.skipped,
            )
            return False
        if moved:
            await self._slices.rest()
        else:
            self._held_until_ms[sweep.id] = self._monotonic_ms() + _FULL_MS
        return moved
