"""Leases: what runs here stays ours for as long as the inbox hears from us.

Every third of a lease all of them are renewed. Where no renewal has succeeded for two thirds of
it, or the inbox says that a message is another replica's by now, its run is cut short: a third of
the lease is left until somebody else may begin. This holds as far as leases can: a thread cannot
be ended from outside, and a process that was frozen for longer than its lease finds out only when
it goes on. What such a one still does to a customer's database is kept out by the mark there; what
it does elsewhere may happen twice.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from receiver.base import log
from receiver.base.clock import NowMs
from receiver.inbox.inbox import Inbox, InboxUnavailable
from receiver.message import Claimed


class Lease:
    """This replica's claim on a message. `lost` once another one may have it."""

    def __init__(self, claimed: Claimed) -> None:
        self.claimed = claimed
        self.lost = False
        self.on_lost: Callable[[], None] = _nobody
        self.alarm: asyncio.TimerHandle | None = None

    def lose(self) -> None:
        """At most once has a consequence."""
        self.rest()
        if not self.lost:
            self.lost = True
            log.event(
                "lease lost",
                logging.ERROR,
                jobId=self.claimed.job_id,
                messageId=self.claimed.message_id,
                attempt=self.claimed.attempt,
            )
            self.on_lost()

    def rest(self) -> None:
        """No alarm any more."""
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None


class Leases:
    """Keeps what is held, until `close`. An inbox without leases costs nothing here."""

    def __init__(
        self, inbox: Inbox, *, attempts_max: int, now_ms: NowMs, on_due: Callable[[], None]
    ) -> None:
        """`on_due` is called when ended replicas left something to do."""
        self._inbox = inbox
        self._attempts_max = attempts_max
        self._now_ms = now_ms
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._held: set[Lease] = set()
        self._lease_s = inbox.lease_s
        self._task = (
            None
            if self._lease_s is None
            else asyncio.create_task(self._work(self._lease_s / 3), name="receiver leases")
        )

    def hold(self, claimed: Claimed, asked_s: float) -> Lease:
        """Keep what was claimed, by a question asked at `asked_s` of the loop's clock: the
        lease cannot have begun before."""
        lease = Lease(claimed)
        self._held.add(lease)
        self._set_alarm(lease, asked_s)
        return lease

    def release(self, lease: Lease) -> None:
        """Its outcome is recorded, or will never be."""
        self._held.discard(lease)
        lease.rest()

    async def close(self) -> None:
        """Renews nothing more."""
        for lease in self._held:
            lease.rest()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _work(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._renew(tuple(self._held))
                await self._recover()
            except InboxUnavailable as error:  # each lease has its own alarm
                log.event("renewing failed", logging.WARNING, reason=str(error))
            except Exception:  # a bug of ours must not end all renewing
                log.LOGGER.exception("bug")

    async def _renew(self, held: Iterable[Lease]) -> None:
        asked_s = self._loop.time()
        running = [(lease.claimed.id, lease.claimed.fence) for lease in held]
        ours = await self._inbox.renew(running) if running else set()
        for lease in self._held.intersection(held):  # not what has ended meanwhile
            if lease.claimed.id in ours:
                self._set_alarm(lease, asked_s)
            else:
                lease.lose()

    async def _recover(self) -> None:
        if await self._inbox.recover(now_ms=self._now_ms(), attempts_max=self._attempts_max):
            self._on_due()

    def _set_alarm(self, lease: Lease, asked_s: float) -> None:
        lease.rest()
        if self._lease_s is not None and not lease.lost:
            lease.alarm = self._loop.call_at(asked_s + self._lease_s * 2 / 3, lease.lose)


def _nobody() -> None:
    """Nothing runs yet."""
