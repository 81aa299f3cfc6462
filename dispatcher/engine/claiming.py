"""Claiming what is due: one loop, woken when something is ready and there is room for it, and the
tasks that bring work in, which a shutdown waits for. Deliveries and jobs each have one."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, Final, TypeVar

from dispatcher.engine.alarm import Alarm
from dispatcher.engine.faults import Faults
from dispatcher.store.errors import StoreError
from receiver.base.log import Log

T = TypeVar("T")

RECORD_S: Final = 5.0
"""How long a stopping process tries on to record results, past its grace."""
# A generator of its own: whoever seeds the global one (a test, a library) does not seed our jitter.
RANDOM: Final = random.Random()  # noqa: S311 - spreads retries; nothing is secret
_RETRY_S: Final = 0.5


class Claiming:
    """Claims, as long as it runs, whatever that meets.

    `claim` takes on what is due, and returns for how many milliseconds nothing more is to be
    claimed unless room is given back: some, where it came back empty although work looked ready.
    `room` is how much could be taken on, and `pause_s` for how long nothing may be all the same (0:
    it may). `what` is what is claimed, in the log.
    """

    def __init__(
        self,
        claim: Callable[[], Awaitable[int]],
        room: Callable[[], int],
        faults: Faults,
        clock: Callable[[], int],
        monotonic_ms: Callable[[], int],
        *,
        log: Log,
        what: str,
        pause_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._claim = claim
        self._room = room
        self._faults = faults
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._log = log
        self._what = what
        self._pause_s = pause_s
        self._alarm = Alarm()
        self._next_ready_ms: int | None = None
        self._empty_until_ms = 0  # of the monotonic clock
        self._owed = False  # the alarm is set to look again, whatever is known of work and room
        self._task: asyncio.Task[None] | None = None
        self.incoming: set[asyncio.Future[Any]] = set()

    def start(self) -> None:
        """Begin to claim, at once."""
        self._task = asyncio.create_task(self._run(), name=f"claimer of {self._what}")
        self.wake()

    async def stop(self) -> None:
        """Claim no more. What is being claimed goes on: `incoming`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def wake(self) -> None:
        """Look for due work: some was made due."""
        self._alarm.ring()

    def on_ready(self, next_ready_ms: int | None) -> None:
        """Take over when the store's next work is due."""
        self._next_ready_ms = next_ready_ms
        self._arm()

    def on_room(self) -> None:
        """Look again: room was given back."""
        self._empty_until_ms = 0
        self._arm()

    def follow(
        self, stored: Awaitable[T], on_end: Callable[["asyncio.Future[T]"], None]
    ) -> "asyncio.Future[T]":
        """Have a shutdown wait for what is being stored, and may be handed over: `on_end` begins
        it, before anybody else hears of it."""

        def ended(future: "asyncio.Future[T]") -> None:
            try:
                on_end(future)
            finally:
                self._tracked(future)

        future = asyncio.ensure_future(stored)
        self.incoming.add(future)
        future.add_done_callback(ended)  # one, since each is a turn of the loop's
        return future

    def track(self, entering: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that may bring work in: a shutdown waits for it."""
        task = asyncio.create_task(entering)
        self.incoming.add(task)
        task.add_done_callback(self._tracked)
        return task

    def _tracked(self, task: "asyncio.Future[Any]") -> None:
        self.incoming.discard(task)
        if not task.cancelled():
            task.exception()  # seen: the caller may have gone

    def _arm(self) -> None:
        if self._owed:
            return
        if self._next_ready_ms is None or self._room() <= 0:
            self._alarm.set(None)
            return
        wait_ms = self._next_ready_ms - self._clock()
        if self._empty_until_ms:
            wait_ms = max(wait_ms, self._empty_until_ms - self._monotonic_ms())
        if self._faults.until_ms:
            wait_ms = max(wait_ms, self._faults.until_ms - self._monotonic_ms())
        self._alarm.set(wait_ms / 1000)

    async def _run(self) -> None:
        while True:
            await self._alarm.wait()
            self._owed = False
            if self._room() <= 0:
                continue
            pause_s = self._pause_s()
            if pause_s:
                self._look_again(pause_s)
                continue
            try:
                await asyncio.shield(self.track(self._claim_once()))
            except StoreError as error:
                self._log.warning(f"cannot claim {self._what}", reason=str(error))
                self._look_again(_RETRY_S)
            except Exception:
                # Loud, but no reason for everything else that waits to be stuck (I2).
                self._log.exception(f"claiming {self._what} failed")
                self._look_again(_RETRY_S)

    def _look_again(self, after_s: float) -> None:
        """Look again then: not sooner, so that what gives room back asks no store that is away
        again and again, and not never, whatever the store said of work before."""
        self._owed = True
        self._alarm.set(after_s)

    async def _claim_once(self) -> None:
        empty_ms = await self._claim()
        self._empty_until_ms = self._monotonic_ms() + empty_ms if empty_ms else 0
        self._arm()


async def wait_for(tasks: "Collection[asyncio.Future[Any]]", timeout_s: float) -> None:
    """Wait for tasks, for so long at most."""
    if tasks:
        await asyncio.wait(tasks, timeout=max(0.0, timeout_s))


def result_of(future: "asyncio.Future[T]") -> T | None:
    """Return what a future came to that has ended; None where it raised, or was given up."""
    return None if future.cancelled() or future.exception() is not None else future.result()
