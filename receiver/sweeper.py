"""Retention, every hour: messages and marks go once they are done with and their time is over; what
nobody wants is ignored, what is dead for a very long time goes too."""

import asyncio
from collections.abc import Collection
from typing import Final

from receiver.base import log
from receiver.base.clock import NowMs
from receiver.handling.tx import Effects, EffectsError
from receiver.inbox.inbox import Inbox, InboxUnavailable
from receiver.metrics import Metrics
from receiver.settings import Settings

_LOG: Final = log.get("receiver.sweeper")

FIRST_S: Final = 5.0  # soon: a process that never lives for an hour prunes as well
EVERY_S: Final = 3600.0
# Marks outlive the messages they are for: an inbox that is restored from a backup still meets them.
MARKS_FACTOR: Final = 2
# How long it is remembered whose a source is while none of its processes runs.
KEEP_PROCESSES_S: Final = 30 * 86_400


class Sweeper:
    """Prunes every hour until `stop`, and whenever `prune` is called."""

    def __init__(
        self,
        inbox: Inbox,
        effects: Effects | None,
        sources: Collection[str],
        *,
        settings: Settings,
        now_ms: NowMs,
        metrics: Metrics,
    ) -> None:
        self._inbox = inbox
        self._effects = effects
        self._sources = list(sources)
        self._settings = settings
        self._now_ms = now_ms
        self._metrics = metrics
        self._task = asyncio.create_task(self._work(), name="receiver sweeper")

    async def prune(self, older_than_s: float | None = None) -> tuple[int, int]:
        """Delete what is done with and older, by default than the configured periods; return how
        many bodies and messages. Raises InboxUnavailable."""
        return await self._prune(await self._time_ms(), older_than_s)

    async def sweep(self) -> None:
        """Do what is done every hour. A clock that leapt is not believed at once: what it would
        delete or ignore has time. Raises InboxUnavailable and EffectsError."""
        now_ms = await self._inbox.trusted_ms(await self._time_ms())
        await self._ignore_unclaimed(now_ms)
        before_ms = now_ms - round(self._settings.keep_dead * 1000)
        dead, lost = await self._inbox.give_up(
            before_ms=before_ms, now_ms=now_ms, sources=self._sources
        )
        if dead or lost:
            _LOG.warning("given up after RECEIVER_KEEP_DEAD", deadMessages=dead, lostJobs=lost)
        bodies, messages = await self._prune(now_ms, None)
        if self._effects is not None:
            kept_ms = round(self._settings.keep_messages * 1000) * MARKS_FACTOR
            await asyncio.to_thread(self._effects.forget, now_ms - kept_ms, self._sources)
        await self._inbox.forget_processes(now_ms - KEEP_PROCESSES_S * 1000)
        _LOG.info("pruned", bodies=bodies, messages=messages)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _work(self) -> None:
        await asyncio.sleep(FIRST_S)
        while True:
            try:
                await self.sweep()
            except (InboxUnavailable, EffectsError) as error:
                _LOG.warning("pruning failed", reason=str(error))
            except Exception:  # a bug of ours must not end all pruning
                _LOG.exception("bug")
            await asyncio.sleep(EVERY_S)

    async def _time_ms(self) -> int:
        """Return the time by the slower of two clocks, where the inbox has one of its own."""
        shared_ms = await self._inbox.clock_ms()
        now_ms = self._now_ms()
        return now_ms if shared_ms is None else min(now_ms, shared_ms)

    async def _prune(self, now_ms: int, older_than_s: float | None) -> tuple[int, int]:
        bodies_s = self._settings.keep_bodies if older_than_s is None else older_than_s
        messages_s = self._settings.keep_messages if older_than_s is None else older_than_s
        return await self._inbox.prune(
            bodies_before_ms=now_ms - round(bodies_s * 1000),
            messages_before_ms=now_ms - round(messages_s * 1000),
            sources=self._sources,
        )

    async def _ignore_unclaimed(self, now_ms: int) -> None:
        after_s = self._settings.unclaimed
        counts = await self._inbox.ignore_unclaimed(
            before_ms=now_ms - round(after_s * 1000),
            sources=self._sources,
            reason=f"no process had a handler for it within RECEIVER_UNCLAIMED ({after_s:g} s)",
        )
        for (source, status), count in sorted(counts.items()):
            self._metrics.count_unclaimed(count)
            _LOG.warning(
                "ignored: nobody handles it", source=source, jobStatus=status, messages=count
            )
