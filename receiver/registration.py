"""What this process handles, said to all that share the inbox; and the clock that they share."""

import asyncio
import os
from collections.abc import Collection
from typing import Final

from receiver.base import log
from receiver.base.clock import NowMs
from receiver.base.completion import STATUSES
from receiver.handling.handlers import Handlers
from receiver.inbox.inbox import Inbox, InboxUnavailable
from receiver.inbox.wanted import Wanted

_LOG: Final = log.get("receiver.inbox")

RENEW_S: Final = 60.0  # a tenth of what a process may be silent
# A clock that differs by less is not corrected, and one that differs by more is no clock of today:
# what it wrote is bounded where it is read.
SKEW_MS_MIN: Final = 1_000
SKEW_MS_MAX: Final = 86_400_000


class InboxClock:
    """The time by which what is due is written and read: this process's clock, set right by the
    database's where several processes share one inbox."""

    def __init__(self, now_ms: NowMs) -> None:
        self._now_ms = now_ms
        self._skew_ms = 0

    def __call__(self) -> int:
        return self._now_ms() + self._skew_ms

    async def correct(self, inbox: Inbox) -> None:
        """Look how far the two clocks differ. Raises InboxUnavailable."""
        shared_ms = await inbox.clock_ms()
        if shared_ms is not None:
            skew_ms = shared_ms - self._now_ms()
            self._skew_ms = skew_ms if SKEW_MS_MIN < abs(skew_ms) <= SKEW_MS_MAX else 0


def wanted_by(handlers: Handlers, sources: Collection[str]) -> Wanted:
    """Return what a process handles: for each source every status that finds a handler."""
    statuses = [status for status in STATUSES if handlers.find(status) is not None]
    return frozenset((source, status) for source in sources for status in statuses)


class Registration:
    """Registers a process when it is started, and renews that until `stop`."""

    def __init__(
        self, inbox: Inbox, handlers: Handlers, sources: Collection[str], clock: InboxClock
    ) -> None:
        self._inbox = inbox
        self._sources = list(sources)
        self._clock = clock
        self._process = os.urandom(10).hex()
        self._task: asyncio.Task[None] | None = None
        self.wanted = wanted_by(handlers, sources)

    async def start(self) -> None:
        """Register: from now on what is wanted here is kept for us. Raises InboxUnavailable."""
        await self._clock.correct(self._inbox)
        new = await self._register()
        await self._inbox.wake_unreadable(self._clock())
        self._task = asyncio.create_task(self._work(new), name="receiver registration")

    async def stop(self) -> None:
        """Stop renewing. What is wanted here is kept for a while: a restart takes no longer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _register(self) -> set[tuple[str, str]]:
        return await self._inbox.register(self._process, self._sources, self.wanted, self._clock())

    async def _work(self, new: set[tuple[str, str]]) -> None:
        while True:
            try:
                while await self._inbox.sort():
                    pass
                if new:
                    await self._tell(new)
                    new = set()
                await asyncio.sleep(RENEW_S)
                await self._clock.correct(self._inbox)
                if not await self._inbox.renew_registration(self._process, self._clock()):
                    await self._register()
                await self._inbox.wake_unreadable(self._clock())
                if await self._inbox.begin_sealing():
                    _LOG.info("sealing from now on: nobody is left who has no key")
            except InboxUnavailable as error:
                _LOG.warning("registering handlers failed", reason=str(error))
                await asyncio.sleep(1)
            except Exception:  # a bug of ours must not end all registering
                _LOG.exception("bug")
                await asyncio.sleep(RENEW_S)

    async def _tell(self, new: set[tuple[str, str]]) -> None:
        """Say what was ignored until now of what is handled from now on."""
        counts = await self._inbox.ignored()
        for source, status in sorted(new & counts.keys()):
            _LOG.warning(
                "ignored before there was a handler",
                source=source,
                jobStatus=status,
                messages=counts[source, status],
                replay=f"receiver inbox replay --ignored --source {source} --job-status {status}",
            )
