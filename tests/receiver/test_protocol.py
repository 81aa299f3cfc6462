"""protocol.py: bodies and answers in one piece are what they would be in several."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from receiver import Receiver
from receiver.settings import Settings
from receiver.testing import signed_request
from tests.receiver.serving import served

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[Receiver]:
    settings = Settings(secrets=(SECRET,), database_url=f"sqlite:///{tmp_path}/receiver.db")
    async with Receiver(settings) as receiver:
        yield receiver


@pytest.fixture
async def url(app: Receiver) -> AsyncIterator[str]:
    async with served(app) as url:
        yield url


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    yield reader, writer
    writer.close()
    await writer.wait_closed()


def message(number: int, *, first_line: str = "POST /webhooks HTTP/1.1", more: str = "") -> bytes:
    body = b'{"jobId":"job_%d","status":"completed"}' % number
    headers = {"Host": "r", "Content-Length": str(len(body)), **signed_request(body, SECRET)}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{first_line}\r\n{lines}{more}\r\n".encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """The status line, the headers and the body of the next answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return first, headers, await reader.readexactly(int(headers["content-length"]))


async def test_pipelined_messages_are_answered_each_in_turn(url: str) -> None:
    """Whichever of them has arrived when the first one is handled."""
    async with connected(url) as (reader, writer):
        writer.write(b"".join(message(n % 3) for n in range(6)))
        answers = [await answer(reader) for _ in range(6)]
    verdicts = [body for _, _, body in answers]
    assert verdicts == [b'{"status":"accepted"}'] * 3 + [b'{"status":"duplicate"}'] * 3
    assert len({headers["x-request-id"] for _, headers, _ in answers}) == 6


async def test_a_body_may_come_in_pieces_and_behind_its_head(url: str) -> None:
    """It is the same message."""
    sent = message(1)
    body = sent.index(b"\r\n\r\n") + 4
    async with connected(url) as (reader, writer):
        for piece in (sent[: body - 10], sent[body - 10 : body], sent[body : body + 5]):
            writer.write(piece)
            await writer.drain()
            for _ in range(20):  # turns of the loop that the server reads in
                await asyncio.sleep(0)
        writer.write(sent[body + 5 :])
        assert (await answer(reader))[2] == b'{"status":"accepted"}'
        writer.write(sent)
        assert (await answer(reader))[2] == b'{"status":"duplicate"}'


@pytest.mark.parametrize(
    ("first_line", "more"),
    [
        ("POST /webhooks HTTP/1.0", ""),
        ("POST /webhooks HTTP/1.1", "Connection: close\r\n"),
    ],
)
async def test_who_wants_no_more_is_answered_and_closed(
    url: str, first_line: str, more: str
) -> None:
    """And told so."""
    async with connected(url) as (reader, writer):
        writer.write(message(1, first_line=first_line, more=more))
        first, headers, body = await answer(reader)
        assert (first, body) == ("HTTP/1.1 200 OK", b'{"status":"accepted"}')
        assert headers["connection"] == "close"
        assert await reader.read() == b""


async def test_a_head_request_is_answered_without_a_body(url: str) -> None:
    """Its content-length is that of a GET; the next answer follows on the same connection."""
    async with connected(url) as (reader, writer):
        writer.write(b"HEAD /healthz HTTP/1.1\r\nHost: r\r\n\r\n")
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert "content-length: 15\r\n" in head
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n")
        assert (await answer(reader))[2] == b'{"status":"ok"}'


async def test_an_idle_connection_is_closed_after_its_time(app: Receiver) -> None:
    """An answer in one write starts the keep-alive time as every answer does."""
    async with served(app, keep_alive_s=1) as url, connected(url) as (reader, writer):
        writer.write(message(1))
        await answer(reader)
        began_s = time.monotonic()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        assert time.monotonic() - began_s > 0.5


async def test_every_server_sends_the_same_answers(app: Receiver, url: str) -> None:
    """Ours in one write, another one's in two events: accepted, refused, not there, not allowed."""
    requests = [
        ("POST", "/webhooks"),
        ("GET", "/webhooks"),
        ("GET", "/nowhere"),
        ("GET", "/healthz"),
        ("GET", "/metrics"),
    ]
    other = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://r")
    async with other, httpx.AsyncClient(base_url=url, trust_env=False) as ours:
        for method, path in requests:
            one, two = [await client.request(method, path) for client in (ours, other)]
            assert one.status_code == two.status_code
            for name in ("date", "x-request-id", "content-length"):  # metrics grow as we look
                one.headers.pop(name)
                two.headers.pop(name, "")
            assert one.headers == two.headers
