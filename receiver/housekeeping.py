"""Retention, every hour: what is done with goes after its time, and the file gives space back."""

import asyncio
import logging
from typing import Final

from receiver.base import log
from receiver.base.clock import NowMs
from receiver.handling.effects import Effects, EffectsError
from receiver.inbox.inbox import Inbox, InboxUnavailable

EVERY_S: Final = 3600.0
# Marks outlive the messages they are for: an inbox that is restored from a backup still meets them.
MARKS_FACTOR: Final = 2


class Housekeeper:
    """Prunes at once when asked, and every hour by itself."""

    def __init__(
        self,
        inbox: Inbox,
        effects: Effects | None,
        *,
        keep_bodies_s: float,
        keep_messages_s: float,
        now_ms: NowMs,
    ) -> None:
        self._inbox = inbox
        self._effects = effects
        self._keep_bodies_s = keep_bodies_s
        self._keep_messages_s = keep_messages_s
        self._now_ms = now_ms
        self._task = asyncio.create_task(self._work(), name="receiver housekeeping")

    async def prune(self, older_than_s: float | None = None) -> tuple[int, int]:
        """Lets go of what is done with and older, by default than the configured periods:
        (bodies, messages) deleted. Raises InboxUnavailable."""
        bodies_s = self._keep_bodies_s if older_than_s is None else older_than_s
        messages_s = self._keep_messages_s if older_than_s is None else older_than_s
        now_ms = self._now_ms()
        return await self._inbox.prune(
            bodies_before_ms=now_ms - round(bodies_s * 1000),
            messages_before_ms=now_ms - round(messages_s * 1000),
        )

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                bodies, messages = await self.prune()
                await self._forget_marks()
                log.event("pruned", bodies=bodies, messages=messages)
            except (InboxUnavailable, EffectsError) as error:
                log.event("pruning failed", logging.WARNING, reason=str(error))

    async def _forget_marks(self) -> None:
        if self._effects is not None:
            kept_ms = round(self._keep_messages_s * 1000) * MARKS_FACTOR
            await asyncio.to_thread(self._effects.forget, self._now_ms() - kept_ms)
