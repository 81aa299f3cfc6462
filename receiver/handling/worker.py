"""Handling, from claim to settlement: a limited number at once, never two of one job, and no
message again before its handler has truly ended."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from receiver.base import log
from receiver.base.clock import NowMs, iso, monotonic_ms, wait_until
from receiver.base.lack import Lacks, OwnLack
from receiver.event import Event
from receiver.handling.handlers import Handler, Handlers
from receiver.handling.leases import Lease, Leases
from receiver.handling.retry import JITTER, failure_of, settlement_of
from receiver.handling.run import HandlerTimeout, Run, event_of
from receiver.handling.slots import Slots
from receiver.handling.tx import Effects
from receiver.inbox.attempts import Settlement
from receiver.inbox.inbox import Inbox, InboxUnavailable
from receiver.inbox.message import Claimed
from receiver.inbox.wanted import Wanted
from receiver.metrics import Metrics
from receiver.settings import Settings

_LOG: Final = log.get("receiver.handling")
_RANDOM: Final = random.Random()  # noqa: S311 - spreads retries; nothing is secret

CANCEL_GRACE_S: Final = 1.0  # after which a handler that does not end is reported
_MARGIN_S: Final = 1.0  # by which replicas' clocks may differ unnoticed
STORE_RETRY_S: Final = 0.5  # between attempts at an inbox that is down
PROBE_EVERY_MS: Final = 1_000
ODD_ERRORS_MAX: Final = 3  # that are not the inbox's, until an outcome is written without its error
ADVICE: Final = {
    "descriptors": "raise the limit of open files (systemd: LimitNOFILE), or lower "
    "RECEIVER_CONNECTIONS_MAX and RECEIVER_HANDLER_CONCURRENCY",
    "threads": "raise the limit of processes (systemd: TasksMax), or lower "
    "RECEIVER_HANDLER_CONCURRENCY",
    "key": "put the key that the detail names back into RECEIVER_ENCRYPTION_KEYS and restart; what "
    "needs it waits, and spends no attempt",
    "network": "this machine has no way out: look at its network",
}

Job: TypeAlias = tuple[str, str | int]  # a source's; a message without one stands for itself


class Worker:
    """Runs until `stop`. `wake` tells it that something may be due."""

    def __init__(
        self,
        inbox: Inbox,
        handlers: Handlers,
        effects: Effects | None,
        *,
        settings: Settings,
        now_ms: NowMs,
        metrics: Metrics,
        wanted: Wanted,
    ) -> None:
        """`wanted` is what the handlers handle, of the sources that this process has."""
        self._wanted = wanted
        wait_max_s = settings.handler_retry_cap * (1 + JITTER) + _MARGIN_S
        self._wait_max_ms = round(wait_max_s * 1000)
        self._inbox = inbox
        self._handlers = handlers
        self._effects = effects
        self._settings = settings
        self._now_ms = now_ms
        self._metrics = metrics
        self._lacks = Lacks(_LOG, "cannot run handlers: the fault is ours", ADVICE)
        self._unread = Lacks(_LOG, "cannot open messages: the fault is ours", ADVICE)
        self._lacking_until_ms = 0  # by the monotonic clock
        self._wake = asyncio.Event()
        self._slots = Slots(settings.handler_concurrency, self.wake)
        self._runs: dict[Job, Run] = {}
        self._stopping = False
        self._cutting_short = False
        self._leases = Leases(
            inbox, attempts_max=settings.handler_attempts, now_ms=now_ms, on_due=self.wake
        )
        self._loop = asyncio.create_task(self._work(), name="receiver worker")

    def wake(self) -> None:
        self._wake.set()

    @property
    def is_idle(self) -> bool:
        """Whether no handler is at work."""
        return not self._slots.tasks

    @property
    def is_stuck(self) -> bool:
        """Whether so many handlers hang that no other one is started."""
        return self._slots.all_blocked

    def claim_nothing_more(self) -> None:
        """Begin to stop. For any thread."""
        self._stopping = True
        self._loop.get_loop().call_soon_threadsafe(self.wake)

    async def stop(self, grace_s: float) -> None:
        """Claim nothing more, let what runs end within `grace_s`, and hand back the rest. A thread
        that is still at work then keeps its message until the next start, or until its lease
        ends."""
        self._stopping = True
        self.wake()
        await self._loop
        await self._slots.wait_empty(grace_s)
        self._cutting_short = True
        for run in self._runs.values():
            run.cut_short()
        await self._slots.wait_empty(CANCEL_GRACE_S)
        await self._leases.close()
        for task in (*self._slots.tasks, *(run.work for run in self._runs.values())):
            task.cancel()

    async def _work(self) -> None:
        while not self._stopping:
            try:
                due_ms = await self._claim()
            except Exception as error:
                if not isinstance(error, InboxUnavailable):
                    _LOG.exception("bug")  # it must not end all handling
                await asyncio.sleep(STORE_RETRY_S)
                continue
            now_ms = self._now_ms()
            if self._inbox.lease_s is not None:
                look_ms = now_ms + round(self._settings.poll * 1000)
                due_ms = look_ms if due_ms is None else min(due_ms, look_ms)
            await wait_until(self._wake, due_ms, now_ms)

    async def _claim(self) -> int | None:
        """Start what is due, as far as there are slots; return when the next message may be due."""
        while free := self._slots.free:
            if self._lacking_until_ms:  # one goes first, to see whether it can be done
                held_ms = self._lacking_until_ms - monotonic_ms()
                if held_ms > 0:
                    return self._now_ms() + held_ms
                self._lacking_until_ms += PROBE_EVERY_MS
                free = 1
            sent_s = asyncio.get_running_loop().time()
            batch = await self._inbox.claim(
                now_ms=self._now_ms(),
                limit=free,
                wanted=self._wanted,
                wait_max_ms=self._wait_max_ms,
            )
            for claimed in batch.claimed:
                lease = self._leases.hold(claimed, sent_s)
                self._slots.take(asyncio.create_task(self._run_claimed(claimed, lease)))
            self._tell_unread(batch.unread)
            if not batch.claimed and not batch.unread:
                return batch.next_due_ms
        return None  # whoever ends first will wake us

    def _tell_unread(self, unread: Sequence[str]) -> None:
        """Tell of what no key of ours opens; it waits where it is."""
        for detail in unread:
            self._metrics.count_own_fault("key")
            self._unread.pause_ms("key", detail, chance=0, monotonic_ms=monotonic_ms())

    async def _run_claimed(self, claimed: Claimed, lease: Lease) -> None:
        try:
            event = event_of(claimed)
            handler = self._handlers.find(event.status)
        except Exception as bug:  # it was read when it came; it is kept, and shown as dead
            _LOG.exception("bug")
            await self._record(self._settlement(claimed, bug))
        else:
            if handler is None:  # an earlier version took its status for another one
                await self._hand_back(claimed, event.status)
            else:
                await self._handle(claimed, lease, event, handler)
        finally:
            self._leases.release(lease)

    async def _handle(self, claimed: Claimed, lease: Lease, event: Event, handler: Handler) -> None:
        job: Job = (claimed.source, claimed.job_id or claimed.id)
        # Its lease was lost and a thread of ours lives on: whoever else may run it, we do not.
        while (other := self._runs.get(job)) is not None:
            with self._slots.released_while_blocked():
                await asyncio.wait((other.work,))
        if self._is_cut_short(lease):
            await self._hand_back(claimed, event.status)
            return
        started = time.perf_counter()
        error = await self._run(job, lease, event, handler)
        if error is not None and self._is_cut_short(lease):
            await self._hand_back(claimed, event.status)
            return
        if isinstance(error, OwnLack):
            self._metrics.count_own_fault(error.what)
            pause_ms = self._lacks.pause_ms(
                error.what, str(error), chance=_RANDOM.random(), monotonic_ms=monotonic_ms()
            )
            self._lacking_until_ms = monotonic_ms() + pause_ms
            await self._hand_back(claimed, event.status, pause_ms=pause_ms)
            return
        self._lacks.end()
        self._lacking_until_ms = 0
        settlement = self._settlement(claimed, error)
        if await self._record(settlement):
            self._log(event, settlement, error, time.perf_counter() - started)
        else:
            _LOG.warning(
                "outcome not recorded: the message is another replica's by now",
                jobId=event.job_id,
                attempt=event.attempt,
            )

    def _is_cut_short(self, lease: Lease) -> bool:
        return self._cutting_short or lease.lost

    async def _run(
        self, job: Job, lease: Lease, event: Event, handler: Handler
    ) -> BaseException | None:
        run = self._runs[job] = Run(handler, event, self._effects, self._now_ms)
        lease.on_lost(run.cut_short)
        try:
            return await self._outcome(run, event)
        finally:
            del self._runs[job]

    async def _outcome(self, run: Run, event: Event) -> BaseException | None:
        """Return what the handler raised, once it has ended; None where it did its work, even
        late."""
        timeout_s = self._settings.handler_timeout
        await asyncio.wait((run.work, run.begun), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((run.work,), timeout=timeout_s)
        if run.work.done() and not run.work.cancelled():
            return run.work.exception()
        run.cut_short()
        await asyncio.wait((run.work,), timeout=CANCEL_GRACE_S)
        if not run.work.done():
            # It holds its job until it ends: running it twice would be worse.
            _LOG.error("handler hangs", jobId=event.job_id, attempt=event.attempt)
            with self._metrics.hanging(), self._slots.released_while_blocked():
                await asyncio.wait((run.work,))
        error = None if run.work.cancelled() else run.work.exception()
        if run.work.cancelled() or (error is not None and run.has_transaction):
            return HandlerTimeout(f"the handler did not end within {timeout_s:g} s")
        return error

    def _settlement(self, claimed: Claimed, error: BaseException | None) -> Settlement:
        spread = _RANDOM.random()
        return settlement_of(claimed, error, self._settings, now_ms=self._now_ms(), random=spread)

    async def _record(self, settlement: Settlement) -> bool:
        """Write what came of an attempt, however long the inbox is down and whatever that meets: an
        attempt whose outcome is not written would happen again. False where it does not count: the
        message was taken away from us."""
        odd = 0
        while True:
            try:
                return await self._inbox.settle(settlement)
            except InboxUnavailable:
                pass
            except Exception:
                odd += 1
                if odd <= ODD_ERRORS_MAX:
                    _LOG.exception("bug")
                if odd == ODD_ERRORS_MAX:  # it may be the text that cannot be written
                    settlement = replace(settlement, error=None)
            await asyncio.sleep(STORE_RETRY_S)

    async def _hand_back(self, claimed: Claimed, status: str, *, pause_ms: int = 0) -> None:
        due_ms = self._now_ms() + pause_ms
        try:
            await self._inbox.hand_back(claimed.id, claimed.fence, due_ms, status)
        except InboxUnavailable as error:  # the next start, or another replica, takes it back
            _LOG.warning("cannot hand back", id=claimed.id, reason=str(error))

    def _log(
        self, event: Event, settlement: Settlement, error: BaseException | None, took_s: float
    ) -> None:
        outcome = "failed" if settlement.state == "pending" else settlement.state
        levels = {"handled": logging.INFO, "failed": logging.WARNING, "dead": logging.ERROR}
        self._metrics.count_handling(outcome)
        _LOG.log(
            levels[outcome],
            "handling",
            outcome=outcome,
            jobId=event.job_id,
            jobStatus=event.status,
            messageId=event.message_id,
            attempt=event.attempt,
            # It may quote the message: where such things are kept sealed, the log has them neither.
            **failure_of(error, told=not self._settings.encryption_keys),
            retryAt=iso(settlement.due_ms),
            durationMs=round(took_s * 1000, 1),
        )
