"""Asks for the jobs that stayed silent, and lets their answers in like any other message."""

import asyncio
import logging
import random
from dataclasses import dataclass, replace
from typing import Final

import httpx

from receiver.base import log
from receiver.base.clock import NowMs, wait_until
from receiver.base.tls import trusted
from receiver.handling.backoff import retry_delay_ms
from receiver.handling.handlers import Handlers
from receiver.inbox.expectations import Asked, Expectation
from receiver.inbox.inbox import Inbox, InboxUnavailable
from receiver.message import Message
from receiver.metrics import Metrics
from receiver.reconcile.ask import AskError, ask
from receiver.reconcile.credentials import Credentials
from receiver.source import Source
from receiver.verification.status import canonical

BATCH_MAX: Final = 16  # questions at once
FACTOR: Final = 2.0
STORE_RETRY_S: Final = 0.5
MARGIN_S: Final = 5.0  # on top of asking: for writing down what came of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How jobs are asked for; see the settings of the same names."""

    base_s: float
    cap_s: float
    timeout_s: float
    lost_after_s: float


class Reconciler:
    """Runs until `stop`. `wake` tells it that a job is expected."""

    def __init__(
        self,
        inbox: Inbox,
        handlers: Handlers,
        sources: dict[str, Source],
        credentials: Credentials,
        *,
        asking: Asking,
        now_ms: NowMs,
        metrics: Metrics,
    ) -> None:
        self._inbox = inbox
        self._handlers = handlers
        self._sources = sources
        self._credentials = credentials
        self._asking = asking
        self._now_ms = now_ms
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._work(), name="receiver reconciler")

    def wake(self) -> None:
        self._wake.set()

    async def stop(self) -> None:
        """At once: a question that was not answered is asked again after the next start."""
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _work(self) -> None:
        # Neither proxies nor .netrc from the environment: they would see the credentials.
        async with httpx.AsyncClient(
            verify=trusted(), trust_env=False, follow_redirects=False
        ) as client:
            while True:
                try:
                    due_ms = await self._ask_due(client)
                except InboxUnavailable:
                    await asyncio.sleep(STORE_RETRY_S)
                    continue
                except Exception:  # a bug of ours must not end all asking
                    log.LOGGER.exception("bug")
                    await asyncio.sleep(STORE_RETRY_S)
                    continue
                await wait_until(self._wake, due_ms, self._now_ms())

    async def _ask_due(self, client: httpx.AsyncClient) -> int | None:
        """Asks for all that is due, and says when the next one will be."""
        while True:
            now_ms = self._now_ms()
            due, next_ms = await self._inbox.take_expected(
                now_ms=now_ms,
                until_ms=now_ms + round((self._asking.timeout_s + MARGIN_S) * 1000),
                limit=BATCH_MAX,
            )
            if not due:
                return next_ms
            await asyncio.gather(*(self._ask(client, expectation) for expectation in due))

    async def _ask(self, client: httpx.AsyncClient, expectation: Expectation) -> None:
        try:
            message = await ask(
                client,
                expectation,
                self._credentials,
                timeout_s=self._asking.timeout_s,
                now_ms=self._now_ms(),
            )
        except AskError as error:
            await self._failed(expectation, str(error))
            return
        if message is None:
            await self._asked(expectation, "waiting")
        else:
            await self._ended(expectation, message)

    async def _ended(self, expectation: Expectation, message: Message) -> None:
        source = self._sources.get(expectation.source)
        wanted = self._handlers.find(canonical(message.job_status)) is not None
        latest = source is not None and source.reruns == "latest"
        verdict = await self._inbox.receive(replace(message, wanted=wanted, latest=latest))
        self._metrics.count_asked("ended")
        log.event("asked", outcome="ended", jobId=expectation.job_id, verdict=verdict)
        if verdict != "accepted":  # its end is known, so it is not expected; or it contradicts
            await self._asked(expectation, "waiting")

    async def _asked(self, expectation: Expectation, outcome: str) -> None:
        self._metrics.count_asked(outcome)
        now_ms = self._now_ms()
        await self._inbox.asked(
            Asked(
                source=expectation.source,
                job_id=expectation.job_id,
                now_ms=now_ms,
                ask_ms=now_ms + self._delay_ms(expectation),
            )
        )

    async def _failed(self, expectation: Expectation, reason: str) -> None:
        now_ms = self._now_ms()
        since_ms = expectation.failing_since_ms or now_ms
        give_up = now_ms - since_ms >= self._asking.lost_after_s * 1000
        lost = await self._inbox.asked(
            Asked(
                source=expectation.source,
                job_id=expectation.job_id,
                now_ms=now_ms,
                ask_ms=None if give_up else now_ms + self._delay_ms(expectation),
                failing_since_ms=since_ms,
                error=reason,
            )
        )
        self._metrics.count_asked("lost" if lost else "failed")
        level = logging.ERROR if lost else logging.WARNING
        outcome = "lost" if lost else "failed"
        log.event("asked", level, outcome=outcome, jobId=expectation.job_id, reason=reason)

    def _delay_ms(self, expectation: Expectation) -> int:
        return retry_delay_ms(
            expectation.asked + 1,
            base_s=self._asking.base_s,
            cap_s=self._asking.cap_s,
            random=random.random(),  # noqa: S311 - spreads questions; nothing is secret
            factor=FACTOR,
        )
