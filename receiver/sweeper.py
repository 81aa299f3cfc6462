"""Retention, every hour: messages and marks go once they are done with and their time is over."""

import asyncio
from typing import Final

from receiver.base import log
from receiver.base.clock import NowMs
from receiver.handling.tx import Effects, EffectsError
from receiver.inbox.inbox import Inbox, InboxUnavailable
from receiver.settings import Settings

_LOG: Final = log.get("receiver")

FIRST_S: Final = 5.0  # soon: a process that never lives for an hour prunes as well
EVERY_S: Final = 3600.0
# Marks outlive the messages they are for: an inbox that is restored from a backup still meets them.
MARKS_FACTOR: Final = 2


class Sweeper:
    """Prunes every hour until `stop`, and whenever `prune` is called."""

    def __init__(
        self, inbox: Inbox, effects: Effects | None, *, settings: Settings, now_ms: NowMs
    ) -> None:
        self._inbox = inbox
        self._effects = effects
        self._settings = settings
        self._now_ms = now_ms
        self._task = asyncio.create_task(self._work(), name="receiver sweeper")

    async def prune(self, older_than_s: float | None = None) -> tuple[int, int]:
        """Delete what is done with and older, by default than the configured periods; return how
        many bodies and messages. Raises InboxUnavailable."""
        bodies_s = self._settings.keep_bodies if older_than_s is None else older_than_s
        messages_s = self._settings.keep_messages if older_than_s is None else older_than_s
        now_ms = self._now_ms()
        return await self._inbox.prune(
            bodies_before_ms=now_ms - round(bodies_s * 1000),
            messages_before_ms=now_ms - round(messages_s * 1000),
        )

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _work(self) -> None:
        await asyncio.sleep(FIRST_S)
        while True:
            try:
                await self._sweep()
            except (InboxUnavailable, EffectsError) as error:
                _LOG.warning("pruning failed", reason=str(error))
            except Exception:  # a bug of ours must not end all pruning
                _LOG.exception("bug")
            await asyncio.sleep(EVERY_S)

    async def _sweep(self) -> None:
        bodies, messages = await self.prune()
        await self._forget_marks()
        _LOG.info("pruned", bodies=bodies, messages=messages)

    async def _forget_marks(self) -> None:
        if self._effects is not None:
            kept_ms = round(self._settings.keep_messages * 1000) * MARKS_FACTOR
            await asyncio.to_thread(self._effects.forget, self._now_ms() - kept_ms)
