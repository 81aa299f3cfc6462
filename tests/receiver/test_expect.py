"""Nothing missed: a job whose every callback was lost is asked for; one that cannot be is lost,
and said so. Against real status servers on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from receiver import Event, Receiver, Settings
from receiver.base.settings import SettingError
from receiver.status_url import Tokens
from receiver.testing import Client, Clock
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
ADMIN = {"Authorization": "Bearer test-admin-key-of-tests"}
SOON = timedelta(minutes=15)


class StatusServer:
    """Answers every question with what it is told to, and remembers who asked."""

    def __init__(self) -> None:
        self.answer: Callable[[], bytes] = lambda: http(404, {})
        self.asked: list[bytes] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2/jobs/job_1/status"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        answer = self.answer()
        if answer:
            writer.write(answer)
            await writer.drain()
        else:  # silence
            await reader.read()
        writer.close()


def http(status: int, document: Any) -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


@pytest.fixture
async def status() -> AsyncIterator[StatusServer]:
    made = StatusServer()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        secrets=(SECRET,),
        database_url=f"sqlite:///{tmp_path}/inbox.db",
        admin_key="test-admin-key-of-tests",
        credentials=("platform@127.0.0.1=test-token",),
        ask_timeout=0.3,
        lost_after=3600,
    )


class Customer:
    """A receiver with a handler, and what it was handed."""

    def __init__(self, client: Client, handled: list[Event]) -> None:
        self.client, self.handled = client, handled
        self.receiver = client.receiver

    async def expect(self, url: str, **more: Any) -> str:
        wanted = {"by": SOON, **more}
        return (await self.receiver.expect("job_1", url, **wanted)).state

    async def state(self) -> str:
        (one,) = await self.receiver.inbox.expectations(state=None, limit=10)
        return one.state

    async def pass_(self, time: timedelta, *, asked: int) -> None:
        """Lets time pass, and waits until as many questions have been asked in all."""
        await self.client.advance(time)

        async def done() -> bool:
            (one,) = await self.receiver.inbox.expectations(state=None, limit=10)
            return one.asked >= asked or one.state != "expected"

        await until(done)
        await self.client.idle()


@asynccontextmanager
async def customer(settings: Settings) -> AsyncIterator[Customer]:
    clock = Clock()
    receiver = Receiver(settings, now_ms=clock)
    handled: list[Event] = []
    receiver.on("*")(handled.append)
    async with Client(receiver, SECRET, clock=clock) as client:
        yield Customer(client, handled)


def files(settings: Settings) -> list[bytes]:
    """All that the inbox has on disk."""
    folder = Path(settings.database_url.removeprefix("sqlite:///")).parent
    return [file.read_bytes() for file in folder.iterdir()]


DONE = {"jobId": "job_1", "status": "completed", "output": {"pages": 50}, "executionTime": 2}


async def test_a_job_whose_every_callback_was_lost_is_handled_all_the_same(
    settings: Settings, status: StatusServer
) -> None:
    """Asked for only after its time, with the named credentials; as a typed event."""
    status.answer = lambda: http(200, DONE)
    async with customer(settings) as here:
        assert await here.expect(status.url, credentials="platform") == "expected"
        await here.client.advance(SOON - timedelta(seconds=1))
        assert status.asked == []
        await here.pass_(timedelta(seconds=1), asked=1)
        (event,) = here.handled
        assert (event.job_id, event.status, event.output) == ("job_1", "completed", {"pages": 50})
        assert event.execution_time == timedelta(seconds=2)
        assert await here.state() == "known"
        assert b"authorization: bearer test-token" in status.asked[0].lower()
    assert not any(b"test-token" in content for content in files(settings))


@pytest.mark.parametrize(
    ("stated", "known"), [("succeeded", "completed"), ("ERROR", "failed"), ("who knows", None)]
)
async def test_a_status_is_understood_however_it_is_spelled(
    settings: Settings, status: StatusServer, stated: str, known: str | None
) -> None:
    """An end is handed on; a word that nobody knows settles nothing."""
    status.answer = lambda: http(200, {**DONE, "status": stated})
    async with customer(settings) as here:
        await here.expect(status.url)
        await here.pass_(SOON, asked=1)
        assert [event.status for event in here.handled] == ([] if known is None else [known])
        assert await here.state() == ("expected" if known is None else "known")


async def test_the_callback_after_the_answer_is_a_duplicate_unless_it_differs(
    settings: Settings, status: StatusServer
) -> None:
    """The same end in other bytes is no conflict when we asked for it; another end is."""
    status.answer = lambda: http(200, {**DONE, "progress": 100})
    async with customer(settings) as here:
        await here.expect(status.url)
        await here.pass_(SOON, asked=1)
        assert await here.client.send(DONE) == "duplicate"
        assert await here.client.send({**DONE, "status": "failed"}) == "conflict"
        assert len(here.handled) == 1


async def test_a_callback_before_its_expectation_is_not_lost(
    settings: Settings, status: StatusServer
) -> None:
    """It is known at once, and nobody is asked."""
    async with customer(settings) as here:
        assert await here.client.send(DONE) == "accepted"
        assert await here.expect(status.url) == "known"
        assert await here.expect(status.url) == "known"
        await here.client.advance(timedelta(days=1))
        assert status.asked == []


async def test_a_callback_after_its_expectation_ends_the_waiting(
    settings: Settings, status: StatusServer
) -> None:
    """No question is asked."""
    async with customer(settings) as here:
        await here.expect(status.url)
        await here.client.send({**DONE, "status": "running"})
        assert await here.state() == "expected"
        await here.client.send(DONE)
        assert await here.state() == "known"
        await here.client.advance(timedelta(days=1))
        assert status.asked == []


async def test_a_job_that_goes_on_is_asked_for_again_and_never_lost(
    settings: Settings, status: StatusServer
) -> None:
    """With growing waits, for as long as it answers; its progress is nobody's event."""
    status.answer = lambda: http(200, {"jobId": "job_1", "status": "running", "progress": 65})
    async with customer(settings) as here:
        await here.expect(status.url)
        await here.pass_(SOON, asked=1)
        for n in range(2, 6):
            await here.pass_(timedelta(hours=2), asked=n)
        assert (await here.state(), here.handled) == ("expected", [])
        status.answer = lambda: http(200, DONE)
        await here.pass_(timedelta(hours=2), asked=6)
        assert await here.state() == "known"


NAMELESS = {"jobId": "job_1"}
BAD_ANSWERS = {
    "404": lambda: http(404, DONE),
    "redirect": lambda: b"HTTP/1.1 302 X\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
    "another job": lambda: http(200, {**DONE, "jobId": "job_2"}),
    "no job": lambda: http(200, {"status": "completed"}),
    "no status": lambda: http(200, NAMELESS),
    "no JSON": lambda: http(200, b"<html>"),
    "too large": lambda: http(200, b" " * (2 * 1024 * 1024)),
    "no HTTP": lambda: b"hello\r\n\r\n",
    "silence": lambda: b"",
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_a_status_url_that_keeps_failing_ends_as_lost_and_says_why(
    settings: Settings, status: StatusServer, answer: Callable[[], bytes]
) -> None:
    """After its time, not before; nothing was handled. A callback that comes at last is."""
    status.answer = answer
    async with customer(settings) as here:
        await here.expect(status.url)
        await here.pass_(SOON, asked=1)
        assert await here.state() == "expected"
        await here.pass_(timedelta(seconds=3601), asked=2)
        (lost,) = await here.receiver.inbox.expectations(state="lost", limit=1)
        assert lost.last_error
        assert here.handled == []
        metrics = (await here.client._http.get("/metrics")).text
        assert 'receiver_expected_jobs{state="lost"} 1' in metrics
        assert await here.client.send(DONE) == "accepted"
        assert await here.state() == "known"


async def test_one_answer_starts_the_count_of_failures_anew(
    settings: Settings, status: StatusServer
) -> None:
    """A platform's bad hour loses no job."""
    async with customer(settings) as here:
        await here.expect(status.url)
        await here.pass_(SOON, asked=1)
        status.answer = lambda: http(200, {"jobId": "job_1", "status": "queued"})
        await here.pass_(timedelta(seconds=3000), asked=2)
        status.answer = lambda: http(500, {})
        await here.pass_(timedelta(seconds=3000), asked=3)
        assert await here.state() == "expected"


async def test_expectations_survive_a_restart(settings: Settings, status: StatusServer) -> None:
    """The job is asked for by the next process."""
    async with customer(settings) as here:
        await here.expect(status.url)
    status.answer = lambda: http(200, DONE)
    async with customer(settings) as here:
        await here.pass_(SOON, asked=1)
        assert [event.job_id for event in here.handled] == ["job_1"]


async def test_a_runpod_job_is_read_in_its_own_dialect(
    settings: Settings, status: StatusServer
) -> None:
    """Upper case, `id`, milliseconds."""
    answer = {"id": "job_1", "status": "TIMED_OUT", "executionTime": 1500}
    status.answer = lambda: http(200, answer)
    async with customer(settings) as here:
        await here.expect(status.url, platform="runpod")
        await here.pass_(SOON, asked=1)
        (event,) = here.handled
        assert (event.status, event.platform) == ("timeout", "runpod")
        assert event.execution_time == timedelta(seconds=1.5)


async def test_other_processes_expect_through_the_admin_route(
    settings: Settings, status: StatusServer
) -> None:
    """By a time, or in so many seconds; and list what is waited for."""
    async with customer(settings) as here:
        ask = here.client._http
        at = datetime.fromtimestamp(here.receiver.now_ms() / 1000, UTC) + SOON
        for by in (at.isoformat(), SOON.total_seconds()):
            document = {"jobId": "job_1", "statusUrl": status.url, "by": by}
            answer = await ask.post("/expected", json=document, headers=ADMIN)
            assert answer.json()["state"] == "expected"
            assert answer.json()["nextAskAt"] == "2023-11-14T22:28:20.000Z"
        listed = (await ask.get("/expected?state=expected", headers=ADMIN)).json()["data"]
        assert [job["jobId"] for job in listed] == ["job_1"]
        assert (await ask.post("/expected", json={})).status_code == 401


GOOD = {"jobId": "job_1", "statusUrl": "https://api.example/x", "by": 60}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ([], "object"),
        ({}, "jobId"),
        ({**GOOD, "jobId": ""}, "jobId"),
        ({**GOOD, "jobId": 7}, "jobId"),
        ({**GOOD, "statusUrl": "ftp://x/"}, "statusUrl"),
        ({**GOOD, "statusUrl": "https://"}, "statusUrl"),
        ({**GOOD, "statusUrl": "https://[::1"}, "statusUrl"),
        ({**GOOD, "statusUrl": "https://u:p@api.example/"}, "credentials"),
        ({**GOOD, "statusUrl": "https://api.example/" + "x" * 3000}, "statusUrl"),
        ({**GOOD, "by": "tomorrow"}, "by"),
        ({**GOOD, "by": "2024-01-01T00:00:00"}, "by"),
        ({**GOOD, "by": True}, "by"),
        ({**GOOD, "by": 1e300}, "by"),
        ({**GOOD, "by": 1e14}, "by"),
        ({**GOOD, "credentials": "unknown"}, "no credentials"),
        ({**GOOD, "credentials": "platform"}, "for 127.0.0.1 alone"),
        ({**GOOD, "platform": "heroku"}, "platform"),
        ({**GOOD, "source": "/other"}, "no source"),
        ({**GOOD, "more": 1}, "more"),
    ],
)
async def test_a_bad_expectation_is_refused_whole(
    settings: Settings, document: Any, told: str
) -> None:
    """A 4xx that names what is wrong, and no row."""
    async with customer(settings) as here:
        answer = await here.client._http.post("/expected", json=document, headers=ADMIN)
        assert answer.status_code in (400, 422), answer.text
        assert told in answer.json()["message"]
        assert await here.receiver.inbox.expectations(state=None, limit=1) == []


@pytest.mark.parametrize(
    "entry", ["token", "a=b", "@h=t", "a@=t", "a@h=", "a@h=t\x07", "platform@h=t"]
)
def test_bad_credentials_are_told_without_showing_a_token(settings: Settings, entry: str) -> None:
    """At the start, by their number."""
    with pytest.raises(SettingError, match="entry") as caught:
        Receiver(replace(settings, credentials=("platform@h=secret-token", entry)))
    assert "secret-token" not in str(caught.value)


def test_a_token_is_shown_to_its_own_host_over_https_alone() -> None:
    """A status URL is data; it does not choose who sees a token."""
    tokens = Tokens(["a@api.example=t"])
    assert tokens("a", "https://API.example/x") == {"authorization": "Bearer t"}
    for url in ("https://evil.example/", "http://api.example/", "https://api.example.evil/"):
        with pytest.raises(ValueError, match="credentials a"):
            tokens("a", url)
    with pytest.raises(KeyError):
        tokens("b", "https://api.example/")
