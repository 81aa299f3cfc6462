"""Ask for the jobs that stayed silent, and let their ends in like any other message."""

import asyncio
import logging
import random
from datetime import datetime, timedelta
from typing import Final

import httpx

from receiver.base import log
from receiver.base.clock import NowMs, monotonic_ms, wait_until
from receiver.base.completion import canonical
from receiver.base.lack import Lacks, Uplink, descriptors_left, lack_of
from receiver.base.tls import trusted
from receiver.handling.handlers import Handlers
from receiver.handling.retry import JITTER, retry_delay_ms
from receiver.handling.worker import ADVICE
from receiver.inbox.expectations import AskResult, Expectation, NewExpectation
from receiver.inbox.inbox import Inbox, InboxUnavailable
from receiver.inbox.message import Message
from receiver.metrics import Metrics
from receiver.names import with_own_lookups
from receiver.settings import CA_FILE, Settings
from receiver.source import Source
from receiver.status_url import (
    AskError,
    Credentials,
    StatusReply,
    ask,
    ask_ms,
    check_job_id,
    check_names,
    check_status_url,
)
from receiver.verification.identity import Dialect

_LOG: Final = log.get("receiver.reconciler")
_RANDOM: Final = random.Random()  # noqa: S311 - spreads retries; nothing is secret

BATCH_MAX: Final = 16  # questions at once
FACTOR: Final = 2.0
STORE_RETRY_S: Final = 0.5
MARGIN_S: Final = 5.0  # on top of asking: for writing down what came of it


class Reconciler:
    """Runs until `stop`. `wake` tells it that a job is expected. Raises SettingError for
    authorities that cannot be used."""

    def __init__(
        self,
        inbox: Inbox,
        handlers: Handlers,
        sources: dict[str, Source],
        credentials: Credentials,
        *,
        settings: Settings,
        now_ms: NowMs,
        metrics: Metrics,
    ) -> None:
        self._inbox = inbox
        self._handlers = handlers
        self._sources = sources
        self._credentials = credentials
        self._settings = settings
        wait_max_s = settings.ask_cap * (1 + JITTER) + settings.ask_timeout + 2 * MARGIN_S
        self._wait_max_ms = round(wait_max_s * 1000)
        self._now_ms = now_ms
        self._metrics = metrics
        self._lacks = Lacks(_LOG, "cannot ask status URLs: the fault is ours", ADVICE)
        self._uplink = Uplink()
        self._wake = asyncio.Event()
        self._tls = trusted(CA_FILE, settings.ca_file)
        self._task = asyncio.create_task(self._work(), name="receiver reconciler")

    async def expect(
        self,
        job_id: str,
        status_url: str,
        *,
        by: datetime | timedelta,
        credentials: str | None,
        platform: Dialect,
        source: str | None,
    ) -> Expectation:
        """Wait for a job's end; see `Receiver.expect`. Raises ValueError, or InboxUnavailable."""
        check_job_id(job_id)
        check_names(credentials, platform, source)
        if source is not None and source not in self._sources:
            there_are = ", ".join(self._sources)
            raise ValueError(f"there is no source {source!r}; there are: {there_are}")
        check_status_url(status_url)
        if credentials is not None:
            try:
                self._credentials(credentials, status_url)
            except KeyError:
                raise ValueError(f"there are no credentials named {credentials!r}") from None
        now_ms = self._now_ms()
        new = NewExpectation(
            source=source or next(iter(self._sources)),
            job_id=job_id,
            status_url=status_url,
            credentials=credentials,
            platform=platform,
            now_ms=now_ms,
            ask_ms=ask_ms(by, now_ms),
        )
        expectation = await self._inbox.expect(new)
        self.wake()
        return expectation

    def wake(self) -> None:
        self._wake.set()

    async def stop(self) -> None:
        """Stop at once: a question without a reply is asked again after the next start."""
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _work(self) -> None:
        # Neither proxies nor .netrc from the environment: they would see the credentials.
        async with with_own_lookups(
            httpx.AsyncClient(verify=self._tls, trust_env=False, follow_redirects=False)
        ) as client:
            while True:
                try:
                    due_ms = await self._ask_due(client)
                except Exception as error:
                    if not isinstance(error, InboxUnavailable):
                        _LOG.exception("bug")  # it must not end all asking
                    await asyncio.sleep(STORE_RETRY_S)
                    continue
                await wait_until(self._wake, due_ms, self._now_ms())

    async def _ask_due(self, client: httpx.AsyncClient) -> int | None:
        """Ask for all that is due; return when the next one will be."""
        while True:
            now_ms = self._now_ms()
            due, next_ms = await self._inbox.take_expected(
                now_ms=now_ms,
                until_ms=now_ms + round((self._settings.ask_timeout + MARGIN_S) * 1000),
                limit=BATCH_MAX,
                sources=tuple(self._sources),
                wait_max_ms=self._wait_max_ms,
            )
            if not due:
                return next_ms
            await asyncio.gather(*(self._ask(client, expectation) for expectation in due))

    async def _ask(self, client: httpx.AsyncClient, expectation: Expectation) -> None:
        timeout_s, asked_ms = self._settings.ask_timeout, self._now_ms()
        if expectation.unread is not None:
            await self._not_asked(expectation, "key", expectation.unread)
            return
        try:
            reply = await ask(client, expectation, self._credentials, timeout_s=timeout_s)
        except Exception as error:
            lack = self._lack_of(error)
            if lack is not None:
                await self._not_asked(expectation, lack, str(error))
            elif isinstance(error, AskError):
                await self._failed(expectation, str(error))
            else:
                raise
            return
        self._lacks.end()
        if reply.is_final:
            await self._ended(expectation, reply, asked_ms)
        else:
            await self._waiting(expectation)

    def _lack_of(self, error: Exception) -> str | None:
        """Return what of ours kept us from asking, None where that may be the status URL's."""
        lack = lack_of(error)
        if lack is None and isinstance(error.__cause__, httpx.ConnectError):
            if not descriptors_left():
                return "descriptors"
            if self._uplink.is_down():
                return "network"
        return lack

    async def _not_asked(self, expectation: Expectation, lack: str, reason: str) -> None:
        """Ask again soon: the job is no nearer to being lost than it was."""
        self._metrics.count_own_fault(lack)
        pause_ms = self._lacks.pause_ms(
            lack, reason, chance=_RANDOM.random(), monotonic_ms=monotonic_ms()
        )
        now_ms = self._now_ms()
        result = AskResult(
            source=expectation.source,
            job_id=expectation.job_id,
            now_ms=now_ms,
            ask_ms=now_ms + pause_ms,
            failing_since_ms=expectation.failing_since_ms,
            error=expectation.last_error,
            was_asked=False,
        )
        await self._inbox.record_ask(result)

    async def _ended(self, expectation: Expectation, reply: StatusReply, asked_ms: int) -> None:
        source = self._sources.get(expectation.source)
        message = Message(
            source=expectation.source,
            message_id=None,
            body=reply.body,
            content_type=reply.content_type,
            kind="terminal",
            job_id=expectation.job_id,
            job_status=reply.identity.status,
            sent_ms=None,
            received_ms=asked_ms,
            platform=reply.identity.platform,
            via="status",
            latest=source is not None and source.reruns == "latest",
            has_handler=self._handlers.find(canonical(reply.identity.status)) is not None,
        )
        verdict = await self._inbox.receive(message)
        self._metrics.count_asked("ended")
        _LOG.info("asked", outcome="ended", jobId=expectation.job_id, verdict=verdict)
        if verdict != "accepted":  # its end is known, so it is not expected any more
            await self._record(expectation, self._now_ms())

    async def _waiting(self, expectation: Expectation) -> None:
        self._metrics.count_asked("waiting")
        await self._record(expectation, self._now_ms())

    async def _failed(self, expectation: Expectation, reason: str) -> None:
        now_ms = self._now_ms()
        since_ms = expectation.failing_since_ms or now_ms
        lost = await self._record(expectation, now_ms, failing_since_ms=since_ms, error=reason)
        outcome = "lost" if lost else "failed"
        self._metrics.count_asked(outcome)
        level = logging.ERROR if lost else logging.WARNING
        _LOG.log(level, "asked", outcome=outcome, jobId=expectation.job_id, reason=reason)

    async def _record(
        self,
        expectation: Expectation,
        now_ms: int,
        *,
        failing_since_ms: int | None = None,
        error: str | None = None,
    ) -> bool:
        """Write what asking led to; whether the job is given up as lost."""
        lost_after_ms = self._settings.lost_after * 1000
        give_up = failing_since_ms is not None and now_ms - failing_since_ms >= lost_after_ms
        result = AskResult(
            source=expectation.source,
            job_id=expectation.job_id,
            now_ms=now_ms,
            ask_ms=None if give_up else now_ms + self._delay_ms(expectation),
            failing_since_ms=failing_since_ms,
            error=error,
        )
        return await self._inbox.record_ask(result)

    def _delay_ms(self, expectation: Expectation) -> int:
        return retry_delay_ms(
            expectation.asked + 1,
            base_s=self._settings.ask_base,
            cap_s=self._settings.ask_cap,
            random=_RANDOM.random(),
            factor=FACTOR,
        )
