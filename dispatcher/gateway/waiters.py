"""Requests that wait for the end of a job: a bounded number of them, woken by the commit that ends
it, here or in another process. None is needed: who is not held asks again."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from dispatcher.metrics import Metrics
from dispatcher.store.errors import StoreError
from receiver.base import log

_LOG: Final = log.get("dispatcher.waiters")
_TENANT_PART: Final = 4  # a tenant has a quarter of all places at most
_POLL_S: Final = 1.0  # for ends that nobody could tell of
_ASKED_MAX: Final = 500  # ids in one question


class Waiters:
    """So many places as there may be held requests. `ended` returns which of some jobs have come to
    a final state, or are gone."""

    def __init__(
        self,
        places: int,
        ended: Callable[[Sequence[str]], Awaitable[Collection[str]]],
        metrics: Metrics,
        *,
        poll_s: float = _POLL_S,
    ) -> None:
        self._places = places
        self._tenant_places = max(1, places // _TENANT_PART)
        self._ended = ended
        self._metrics = metrics
        self._poll_s = poll_s
        self._waiting: dict[str, set[asyncio.Future[bool]]] = {}
        self._taken = 0
        self._by_tenant = Counter[str]()
        self._polling: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def held(self) -> int:
        """Requests that wait now."""
        return self._taken

    @property
    def is_stopped(self) -> bool:
        """Whether nobody is held any more: the process is about to stop."""
        return self._stopped

    async def wait(self, tenant: str, job: str, seconds: float) -> bool:
        """Return True once a job that had not ended a moment ago has; False when the time is over,
        and at once where there is no room for one more, or the process is about to stop."""
        if seconds <= 0:
            return False
        with self.place(tenant) as held:
            return held and await self.wait_in_place(job, seconds)

    @contextmanager
    def place(self, tenant: str) -> Iterator[bool]:
        """Take the place of one request for as long as the block lasts: of one that waits several
        times, or must know before it begins. Yields False where there is no room."""
        held = not self._stopped and self._has_room(tenant)
        self._metrics.job_wait(held=held)
        if not held:
            yield False
            return
        self._taken += 1
        self._by_tenant[tenant] += 1
        try:
            yield True
        finally:
            self._taken -= 1
            self._by_tenant[tenant] -= 1
            if not self._by_tenant[tenant]:
                del self._by_tenant[tenant]

    async def wait_in_place(self, job: str, seconds: float) -> bool:
        """Wait as `wait` does, for a request that has a place."""
        if self._stopped or seconds <= 0:
            return False
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._add(job, future)
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return False
        finally:
            self._remove(job, future)

    def end(self, jobs: Iterable[str]) -> None:
        """Wake who waits for these: they have ended."""
        for job in jobs:
            self._wake(self._waiting.get(job, ()), ended=True)

    def stop(self) -> None:
        """Answer all that wait, and hold nobody any more: the process is about to stop."""
        self._stopped = True
        for waiting in self._waiting.values():
            self._wake(waiting, ended=False)

    def _has_room(self, tenant: str) -> bool:
        return self._taken < self._places and self._by_tenant[tenant] < self._tenant_places

    def _add(self, job: str, future: asyncio.Future[bool]) -> None:
        self._waiting.setdefault(job, set()).add(future)
        if self._polling is None:
            self._polling = asyncio.create_task(self._poll(), name="poll-jobs")

    def _remove(self, job: str, future: asyncio.Future[bool]) -> None:
        waiting = self._waiting[job]
        waiting.discard(future)
        if not waiting:
            del self._waiting[job]
        if not self._waiting and self._polling is not None:
            self._polling.cancel()
            self._polling = None

    def _wake(self, waiting: Iterable[asyncio.Future[bool]], *, ended: bool) -> None:
        for future in waiting:
            if not future.done():
                future.set_result(ended)

    async def _poll(self) -> None:
        """Ask the database now and then, as long as somebody waits."""
        while True:
            await asyncio.sleep(self._poll_s)
            jobs = list(self._waiting)
            for at in range(0, len(jobs), _ASKED_MAX):
                try:
                    self.end(await self._ended(jobs[at : at + _ASKED_MAX]))
                except StoreError as error:
                    _LOG.debug("cannot ask for jobs", reason=str(error))
                except Exception as error:
                    _LOG.exception("asking for jobs failed", error)
