"""What the receiver lacks itself spends no attempt, loses no job and is told of (D21)."""

import errno
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from receiver import Event, Receiver, Settings
from receiver.handling.forward import Forwarder
from receiver.inbox.attempts import Settlement
from receiver.status_url import AskError
from receiver.testing import Client, Clock
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
JOB = {"jobId": "job_1", "status": "completed"}
URL = "http://127.0.0.1:9/status"
SOON = timedelta(minutes=15)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        secrets=(SECRET,),
        database_url=f"sqlite:///{tmp_path}/inbox.db",
        admin_key="test-admin-key-of-tests",
        handler_attempts=1,
        lost_after=60,
        drain_grace=0.1,
    )


@asynccontextmanager
async def opened(settings: Settings, handler: Any) -> AsyncIterator[Client]:
    clock = Clock()
    receiver = Receiver(settings, now_ms=clock)
    receiver.on("*")(handler)
    async with Client(receiver, SECRET, clock=clock) as client:
        yield client


async def message(client: Client) -> tuple[str, int]:
    """The state of the one message, and its attempts."""
    (one,) = (await client.receiver.inbox.page()).messages
    return one.state, one.attempts


async def figures(client: Client) -> str:
    transport = httpx.ASGITransport(app=client.receiver)
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as http:
        return (await http.get("/metrics")).text


def handled_at_last(client: Client) -> Any:
    async def is_handled() -> bool:
        await client.advance(timedelta(seconds=40))
        return await message(client) == ("handled", 1)

    return is_handled


@pytest.mark.parametrize(
    ("error", "lack"),
    [
        (OSError(errno.EMFILE, "test"), "descriptors"),
        (OSError(errno.EADDRNOTAVAIL, "test"), "ports"),
        (MemoryError(), "memory"),
    ],
)
async def test_what_we_could_not_forward_is_forwarded_later_unspent(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, error: Exception, lack: str
) -> None:
    """Its only attempt is left for the service."""
    errors, sent = [error], []

    def transport(request: httpx.Request) -> httpx.Response:
        if errors:
            raise httpx.ConnectError("test") from errors.pop()
        sent.append(request.headers["Postback-Attempt"])
        return httpx.Response(200)

    forwarder = Forwarder("http://127.0.0.1:9/", timeout_s=1)
    await forwarder.close()
    forwarder._client = httpx.AsyncClient(transport=httpx.MockTransport(transport))
    async with opened(settings, forwarder) as client:
        await client.send(JOB)
        await until(lambda: not errors)
        await until(handled_at_last(client))
        assert sent == ["1"]
        assert f'receiver_own_faults_total{{lack="{lack}"}} 1' in await figures(client)
    await forwarder.close()


async def test_while_nothing_can_be_forwarded_little_is_tried(settings: Settings) -> None:
    """I7: a backlog does not go round and round; and all of it is handled once it can be."""
    failing, tried = True, 0

    def transport(_request: httpx.Request) -> httpx.Response:
        nonlocal tried
        tried += failing
        if failing:
            raise httpx.ConnectError("test") from OSError(errno.EMFILE, "test")
        return httpx.Response(200)

    forwarder = Forwarder("http://127.0.0.1:9/", timeout_s=1)
    await forwarder.close()
    forwarder._client = httpx.AsyncClient(transport=httpx.MockTransport(transport))
    async with opened(settings, forwarder) as client:
        for n in range(60):
            await client.send({**JOB, "jobId": f"job_{n}"})
        await until(lambda: tried > settings.handler_concurrency)
        assert tried <= 3 * settings.handler_concurrency
        failing = False

        async def all_handled() -> bool:
            await client.advance(timedelta(seconds=40))
            page = await client.receiver.inbox.page()
            return {one.state for one in page.messages} == {"handled"}

        await until(all_handled)
    await forwarder.close()


async def test_a_service_that_cannot_be_reached_spends_its_attempt(settings: Settings) -> None:
    """What may be the service's own is the service's own."""

    def transport(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("test") from ConnectionRefusedError(errno.ECONNREFUSED, "test")

    forwarder = Forwarder("http://127.0.0.1:9/", timeout_s=1)
    await forwarder.close()
    forwarder._client = httpx.AsyncClient(transport=httpx.MockTransport(transport))
    async with opened(settings, forwarder) as client:
        await client.send(JOB)
        await client.idle()
        assert await message(client) == ("dead", 1)
    await forwarder.close()


async def test_without_a_thread_no_handler_has_failed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not run at all."""
    refused: list[bool] = []

    class Threads(threading.Thread):
        def start(self) -> None:
            if self.name == "receiver handler" and not refused:
                refused.append(True)
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(threading, "Thread", Threads)
    handled: list[Event] = []

    def handle(event: Event) -> None:
        handled.append(event)

    async with opened(settings, handle) as client:
        await client.send(JOB)
        await until(lambda: bool(refused))
        await until(handled_at_last(client))
        assert [event.attempt for event in handled] == [1]


async def test_an_outcome_is_written_whatever_writing_it_meets(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2: it would be handled again, or run for ever; where its error's text is what cannot be
    written, without it."""

    def handle(event: Event) -> None:
        raise ValueError("odd")

    async with opened(settings, handle) as client:
        inbox = client.receiver.inbox
        settle = inbox.settle

        async def picky(settlement: Settlement) -> bool:
            if settlement.error is not None:
                raise ValueError("this text is odd")
            return await settle(settlement)

        monkeypatch.setattr(inbox, "settle", picky)
        await client.send(JOB)

        async def is_dead() -> bool:
            return await message(client) == ("dead", 1)

        await until(is_dead)


async def test_a_job_that_we_could_not_ask_for_is_not_lost(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long we cannot: it counts neither as asked nor as a status URL that fails."""
    asked = 0

    async def ask(*_arguments: Any, **_named: Any) -> Any:
        nonlocal asked
        asked += 1
        raise AskError("test") from OSError(errno.EMFILE, "test")

    monkeypatch.setattr("receiver.reconciler.ask", ask)
    async with opened(settings, lambda _event: None) as client:
        await client.receiver.expect("job_1", URL, by=SOON)
        for hour in range(3):
            await client.advance(timedelta(hours=1))
            await until(lambda hour=hour: asked > hour)  # type: ignore[misc]
            await client.idle()
        (job,) = await client.receiver.inbox.expectations(state=None, limit=10)
        assert (job.state, job.asked, job.failing_since_ms) == ("expected", 0, None)
        assert 'receiver_own_faults_total{lack="descriptors"}' in await figures(client)
