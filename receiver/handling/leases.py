"""Leases: what runs here stays ours for as long as the inbox hears from us.

All leases are renewed every third of their time. Each renewal changes a mark, and another replica's
lease has ended when its mark has not changed for the whole of it, by our own monotonic clock: what
the time of day does, here or in the database, ends none. Where no renewal has succeeded for two
thirds of it, or the inbox says that a message is another replica's by now, its run is cut short: a
third of the lease is left until somebody else may begin. This holds as far as leases can: a thread
cannot be ended from outside, and a process that was frozen for longer than its lease finds out only
when it goes on. What it then still does to a customer's database is kept out by the mark there;
what it does elsewhere may happen twice.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from receiver.base import log
from receiver.base.clock import NowMs
from receiver.inbox.attempts import Running
from receiver.inbox.inbox import Inbox, InboxUnavailable
from receiver.inbox.message import Claimed

_LOG: Final = log.get("receiver.handling")


class Lease:
    """This replica's claim on a message; `lost` once another replica may have it."""

    def __init__(self, claimed: Claimed) -> None:
        self.claimed = claimed
        self.lost = False
        self._cut_short: Callable[[], None] | None = None
        self._alarm: asyncio.TimerHandle | None = None

    def on_lost(self, cut_short: Callable[[], None]) -> None:
        """Register what ends the run of this message where the lease is lost."""
        self._cut_short = cut_short

    def set_alarm(self, alarm: asyncio.TimerHandle | None) -> None:
        """Replace the timer that would call `lose`; None cancels it."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = alarm

    def lose(self) -> None:
        """Mark the lease lost and end its run, the first time it is called."""
        self.set_alarm(None)
        if not self.lost:
            self.lost = True
            _LOG.error(
                "lease lost",
                jobId=self.claimed.job_id,
                messageId=self.claimed.message_id,
                attempt=self.claimed.attempt,
            )
            if self._cut_short is not None:
                self._cut_short()


class Watch:
    """What runs anywhere, and since when we have seen its lease under its mark."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._since: dict[Running, float] = {}

    def left(self, running: Iterable[Running], at_s: float) -> list[Running]:
        """Return what was not renewed for a whole lease, of all that runs at `at_s`."""
        self._since = {one: self._since.get(one, at_s) for one in running}
        return [one for one, since_s in self._since.items() if at_s - since_s >= self._lease_s]


class Leases:
    """Renews the leases that are held, until `close`. Does nothing where an inbox has none."""

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
        self._watch = Watch(inbox.lease_s or 0)
        self._task = (
            None
            if self._lease_s is None
            else asyncio.create_task(self._work(self._lease_s / 3), name="receiver leases")
        )

    def hold(self, claimed: Claimed, sent_s: float) -> Lease:
        """Keep what was claimed by a request sent at `sent_s` of the loop's clock: the lease cannot
        have begun earlier."""
        lease = Lease(claimed)
        self._held.add(lease)
        self._set_alarm(lease, sent_s)
        return lease

    def release(self, lease: Lease) -> None:
        """Let go of a lease whose outcome is recorded, or never will be."""
        self._held.discard(lease)
        lease.set_alarm(None)

    async def close(self) -> None:
        """Stop renewing."""
        for lease in self._held:
            lease.set_alarm(None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _work(self, every_s: float) -> None:
        while True:
            try:
                await self._renew(tuple(self._held))
                await self._recover()
            except InboxUnavailable as error:  # each lease has its own alarm
                _LOG.warning("renewing failed", reason=str(error))
            except Exception:  # a bug of ours must not end all renewing
                _LOG.exception("bug")
            await asyncio.sleep(every_s)

    async def _renew(self, held: Iterable[Lease]) -> None:
        sent_s = self._loop.time()
        running = [(lease.claimed.id, lease.claimed.fence) for lease in held]
        ours = await self._inbox.renew(running) if running else set()
        for lease in self._held.intersection(held):  # not what has ended meanwhile
            if lease.claimed.id in ours:
                self._set_alarm(lease, sent_s)
            else:
                lease.lose()

    async def _recover(self) -> None:
        left = self._watch.left(await self._inbox.running(), self._loop.time())
        ours = {(lease.claimed.id, lease.claimed.fence) for lease in self._held}
        left = [one for one in left if (one.id, one.fence) not in ours]
        if left and await self._inbox.recover(
            left, now_ms=self._now_ms(), attempts_max=self._attempts_max
        ):
            self._on_due()

    def _set_alarm(self, lease: Lease, sent_s: float) -> None:
        if self._lease_s is not None and not lease.lost:
            lease.set_alarm(self._loop.call_at(sent_s + self._lease_s * 2 / 3, lease.lose))
