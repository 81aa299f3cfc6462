"""Handling, from claim to settlement: at most so many at once, never two of one job, and no
message again before its handler has truly ended."""

import asyncio
import logging
import random
import time
import traceback
from dataclasses import dataclass
from typing import Final

from receiver import log
from receiver.clock import NowMs, wait_until
from receiver.event import Event, read_event
from receiver.handling.backoff import retry_delay_ms
from receiver.handling.effects import Effects
from receiver.handling.handlers import Handlers
from receiver.handling.run import HandlerTimeout, Run
from receiver.identity import Identity, identify
from receiver.message import Claimed
from receiver.metrics import Metrics
from receiver.store.handling import Settlement
from receiver.store.inbox import Inbox, InboxUnavailable

ERROR_CHARS_MAX: Final = 16_000  # of a traceback that is kept: some 200 frames
DEPTH_MAX: Final = 900  # whatever limit a body was let in under, it was below this
CANCEL_GRACE_S: Final = 1.0  # after which a handler that does not end is reported
STORE_RETRY_S: Final = 0.5  # between attempts at an inbox that is down


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How handlers are run; see the settings of the same names."""

    concurrency: int
    timeout_s: float
    attempts: int
    retry_base_s: float
    retry_cap_s: float


class Worker:
    """Runs until ``stop``. ``wake`` tells it that something may be due."""

    def __init__(
        self,
        inbox: Inbox,
        handlers: Handlers,
        effects: Effects | None,
        *,
        limits: Limits,
        now_ms: NowMs,
        metrics: Metrics,
    ) -> None:
        self._inbox: Final = inbox
        self._handlers: Final = handlers
        self._effects: Final = effects
        self._limits: Final = limits
        self._now_ms: Final = now_ms
        self._metrics: Final = metrics
        self._wake: Final = asyncio.Event()
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._runs: Final[dict[int, Run]] = {}
        self._stopping = False
        self._cutting_short = False
        self._loop: Final = asyncio.create_task(self._work(), name="receiver worker")

    def wake(self) -> None:
        self._wake.set()

    @property
    def is_idle(self) -> bool:
        """Whether no handler is at work."""
        return not self._tasks

    async def stop(self, grace_s: float) -> None:
        """Claims nothing more; lets what runs end within ``grace_s``, and hands back the rest. A
        thread that is still at work then keeps its message until the next start."""
        self._stopping = True
        self.wake()
        await self._loop
        await _ended(self._tasks, grace_s)
        self._cutting_short = True
        for run in self._runs.values():
            run.cut_short()
        await _ended(self._tasks, CANCEL_GRACE_S)
        for task in (*self._tasks, *(run.work for run in self._runs.values())):
            task.cancel()

    async def _work(self) -> None:
        while not self._stopping:
            try:
                due_ms = await self._claim()
            except InboxUnavailable:
                await asyncio.sleep(STORE_RETRY_S)
                continue
            except Exception:  # a bug of ours must not end all handling
                log.LOGGER.exception("bug")
                await asyncio.sleep(STORE_RETRY_S)
                continue
            await wait_until(self._wake, due_ms, self._now_ms())

    async def _claim(self) -> int | None:
        """Starts what is due, as far as there is room; when the next one's turn may come."""
        while free := self._limits.concurrency - len(self._tasks):
            turn = await self._inbox.claim(now_ms=self._now_ms(), limit=free)
            for claimed in turn.claimed:
                task = asyncio.create_task(self._attend(claimed))
                self._tasks.add(task)
                task.add_done_callback(self._leave)
            if not turn.claimed:
                return turn.next_due_ms
        return None  # whoever ends first will wake us

    def _leave(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self.wake()
        if not task.cancelled() and (error := task.exception()):
            log.LOGGER.error("bug", exc_info=error)

    async def _attend(self, claimed: Claimed) -> None:
        try:
            event = event_of(claimed)
        except Exception as bug:  # it was read when it came; it is kept, and shown as dead
            log.LOGGER.exception("bug")
            await self._record(self._judge(claimed, bug))
            return
        handler = self._handlers.find(event.status)
        if handler is None:  # it was wanted when it came; the handlers are others now
            await self._record(
                Settlement(
                    id=claimed.id,
                    attempt=claimed.attempt,
                    state="ignored",
                    now_ms=self._now_ms(),
                )
            )
            return
        started = time.perf_counter()
        run = self._runs[claimed.id] = Run(handler, event, self._effects, self._now_ms)
        try:
            error = await self._outcome(run, event)
        finally:
            del self._runs[claimed.id]
        if error is not None and self._cutting_short:
            await self._inbox.hand_back(claimed.id, claimed.attempt, self._now_ms())
            return
        settlement = self._judge(claimed, error)
        await self._record(settlement)
        self._tell(event, settlement, error, time.perf_counter() - started)

    async def _outcome(self, run: Run, event: Event) -> BaseException | None:
        """What the handler raised, once it has ended; None where it did its work, even late."""
        timeout_s = self._limits.timeout_s
        await asyncio.wait((run.work, run.begun), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((run.work,), timeout=timeout_s)
        if run.work.done() and not run.work.cancelled():
            return run.work.exception()
        run.cut_short()
        await asyncio.wait((run.work,), timeout=CANCEL_GRACE_S)
        if not run.work.done():
            # It holds its job and its place until it ends: running it twice would be worse.
            log.event("handler hangs", logging.ERROR, jobId=event.job_id, attempt=event.attempt)
            with self._metrics.hanging():
                await asyncio.wait((run.work,))
        error = None if run.work.cancelled() else run.work.exception()
        if run.work.cancelled() or (error is not None and run.has_transaction):
            return HandlerTimeout(f"the handler did not end within {timeout_s:g} s")
        return error

    def _judge(self, claimed: Claimed, error: BaseException | None) -> Settlement:
        now_ms = self._now_ms()
        if error is None:
            return Settlement(
                id=claimed.id, attempt=claimed.attempt, state="handled", now_ms=now_ms
            )
        dead = claimed.attempt >= self._limits.attempts
        wait_ms = retry_delay_ms(
            claimed.attempt,
            base_s=self._limits.retry_base_s,
            cap_s=self._limits.retry_cap_s,
            random=random.random(),  # noqa: S311 - spreads retries; nothing is secret
        )
        return Settlement(
            id=claimed.id,
            attempt=claimed.attempt,
            state="dead" if dead else "pending",
            now_ms=now_ms,
            due_ms=None if dead else now_ms + wait_ms,
            error="".join(traceback.format_exception(error))[-ERROR_CHARS_MAX:],
        )

    async def _record(self, settlement: Settlement) -> None:
        """However long the inbox is down: an outcome that is not written would happen again."""
        while True:
            try:
                await self._inbox.settle(settlement)
                return
            except InboxUnavailable:
                await asyncio.sleep(STORE_RETRY_S)

    def _tell(
        self, event: Event, settlement: Settlement, error: BaseException | None, took_s: float
    ) -> None:
        outcome = "failed" if settlement.state == "pending" else settlement.state
        levels = {"handled": logging.INFO, "failed": logging.WARNING, "dead": logging.ERROR}
        self._metrics.count_handling(outcome)
        log.event(
            "handling",
            levels[outcome],
            outcome=outcome,
            jobId=event.job_id,
            jobStatus=event.status,
            messageId=event.message_id,
            attempt=event.attempt,
            error=None if error is None else type(error).__name__,
            retryAt=log.iso(settlement.due_ms),
            durationMs=round(took_s * 1000, 1),
        )


def event_of(claimed: Claimed) -> Event:
    """The event that a stored message is. It was read when it came, so it can be read again."""
    is_cerebrium = claimed.platform == "cerebrium" and claimed.job_id is not None
    document = identify(
        claimed.body,
        claimed.message_id or "known",
        request_id=claimed.job_id if is_cerebrium else None,
        dialect="auto" if claimed.platform == "other" else claimed.platform,
        depth_max=DEPTH_MAX,
    ).document
    identity = Identity(
        job_id=claimed.job_id,
        status=claimed.job_status,
        platform=claimed.platform,
        document=document,
    )
    return read_event(
        identity,
        claimed.body,
        message_id=claimed.message_id,
        source=claimed.source,
        content_type=claimed.content_type,
        attempt=claimed.attempt,
    )


async def _ended(tasks: set["asyncio.Task[None]"], timeout_s: float) -> None:
    if tasks:
        await asyncio.wait(tuple(tasks), timeout=timeout_s)
