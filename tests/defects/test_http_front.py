"""Smuggling, slow heads and paths against the HTTP front of both halves: each request is answered
once, or refused and the connection closed."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.settings import Settings as DispatcherSettings
from receiver import Receiver, Settings
from tests.base.wire import H2C, request, statuses, talk
from tests.receiver.serving import BOUNDS, served

KEY = "test-admin-key-of-tests"
AUTH = f"Authorization: Bearer {KEY}\r\n"
BODY = b'{"jobId":"s","callbackUrl":"http://127.0.0.1:9/x","payload":1}'
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = request("/healthz", headers="Connection: close\r\n")


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    settings = Settings(
        secrets=("test-secret-of-the-tests",),
        database_url=f"sqlite:///{tmp_path}/r.db",
        admin_key=KEY,
        request_timeout=0.3,
    )
    async with Receiver(settings) as running:
        yield running


@pytest.fixture
async def dispatcher(tmp_path: Path) -> AsyncIterator[Any]:
    settings = DispatcherSettings(
        database_url=f"sqlite:///{tmp_path}/d.db",
        admin_key=KEY,
        allow_networks=(ip_network("127.0.0.0/8"),),
        request_timeout=0.3,
        drain_grace=0.2,
    )
    async with Service(settings) as running:
        yield running.api


def serve(app: Any) -> Any:
    return served(app, bounds=replace(BOUNDS, head_timeout_s=0.3))


def post(headers: str, body: bytes, path: str = "/v1/callbacks", method: str = "POST") -> bytes:
    """A submit with these framing headers, whatever they say of the body."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{AUTH}Content-Type: application/json\r\n"
    return f"{head}{headers}\r\n".encode() + body


CHUNKED = "Transfer-Encoding: chunked\r\n"
TABBED = post("Transfer-Encoding:\tchunked\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (post(f"Content-Length: {5 + len(SMUGGLED)}\r\n{CHUNKED}", b"0\r\n\r\n" + SMUGGLED), [400]),
        (post(f"{CHUNKED}Content-Length: 4\r\n", b"5c\r\n" + SMUGGLED), [400]),
        (post(f"Transfer-Encoding: xchunked\r\nContent-Length: {len(BODY)}\r\n", BODY), [400]),
        (post("Transfer-Encoding: xchunked\r\n", BODY), [400]),
        (post("Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n" + SMUGGLED), [400]),
        (post("Transfer-Encoding : chunked\r\n", b"0\r\n\r\n" + SMUGGLED), [400]),
        (TABBED, [202, 200]),
        (post("Content-Length: 3\r\nContent-Length: 5\r\n", b"abcde"), [400]),
        (post("Content-Length: 3, 3\r\n", b"abc"), [400]),
        (post("Content-Length: +3\r\n", b"abc"), [400]),
        (post("Content-Length: 0x3\r\n", b"abc"), [400]),
        (post("Content-Length: 18446744073709551617\r\n", b"a"), [400]),
        (post("X: a\r\n b\r\nContent-Length: 0\r\n", b""), [400]),
        (post("Content-Length: 0\r\n", b"").replace(b"\r\n", b"\n"), [400]),
        (post("X: a\rb\r\nContent-Length: 0\r\n", b""), [400]),
        (post("X: a\0b\r\nContent-Length: 0\r\n", b""), [400]),
        (post(CHUNKED, b"1\nx\r\n0\r\n\r\n"), [400]),
        (post(CHUNKED, b"1;\nx\r\n0\r\n\r\n"), [400]),
        (post(CHUNKED, b"-1\r\nx\r\n0\r\n\r\n"), [400]),
        (post(f"Content-Length: {len(SMUGGLED)}\r\n", SMUGGLED, "/healthz", "GET"), [200, 200]),
        (b"GET /healthz HTTP/1.1\r\n\r\n", [400]),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", [400]),
        (b"GET http://evil/healthz HTTP/1.1\r\nHost: x\r\n\r\n", [200, 200]),
        (b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, [404]),
        (request("/healthz", headers=H2C), [200, 200]),
        (request("/healthz", headers="Connection: Upgrade\r\nUpgrade: websocket\r\n"), [200, 200]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED, [400]),
        (post(f"{AUTH}Content-Length: 0\r\n", b""), [400, 200]),
        (request("/docs/../v1/keys", headers=AUTH), [404, 200]),
        (request("/v1%2fcallbacks", headers=AUTH), [404, 200]),
        (request("/v1%2Fcallbacks/cb_1", headers=AUTH), [404, 200]),
        (request("/v1/callbacks/cb_1%2Fpayload", headers=AUTH), [404, 200]),
    ],
)
async def test_the_dispatcher_answers_each_request_once(
    dispatcher: Any, sent: bytes, expected: list[int]
) -> None:
    """What is ambiguous is 400 and the end of its connection: nothing behind it is answered."""
    async with serve(dispatcher) as url:
        assert statuses(await talk(url, sent + LAST)) == expected


@pytest.mark.parametrize(
    "path",
    ["/webhooks%2f", "/inbox%2f1", "/inbox/1%2Freplay", "/%2finbox", "%2finbox", "/inbox%2F"],
)
async def test_an_encoded_slash_separates_nothing_at_the_receiver(
    receiver: Receiver, path: str
) -> None:
    """404 on its own server, and mounted; the same path with a slash is there."""
    headers = {"Authorization": f"Bearer {KEY}"}
    transport = httpx.ASGITransport(receiver)
    async with httpx.AsyncClient(transport=transport, base_url="http://r", headers=headers) as one:
        answer = await one.get(f"http://r/{path.lstrip('/')}")
        assert answer.status_code == 404
        answer = await one.post(f"http://r/{path.lstrip('/')}")
        assert answer.status_code in (404, 405)
    if path.startswith("/"):
        async with serve(receiver) as url:
            assert statuses(await talk(url, request(path, headers=AUTH) + LAST)) == [404, 200]


@pytest.mark.parametrize("half", ["receiver", "dispatcher"])
@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /healthz HT", [408]),
        (request("/healthz") + b"GET /healthz HT", [200, 408]),
        (request("/healthz", headers=H2C) + b"GET /healthz HT", [200, 408]),
        (post("Content-Length: 1000\r\n", b"x", "/nosuch"), [404]),
    ],
)
async def test_what_does_not_end_holds_no_connection(
    half: str, sent: bytes, expected: list[int], receiver: Receiver, dispatcher: Any
) -> None:
    """Half a head, alone or behind a whole request; half a body to no route."""
    began_s = time.monotonic()
    async with serve(receiver if half == "receiver" else dispatcher) as url:
        assert statuses(await talk(url, sent)) == expected
    assert time.monotonic() - began_s < 10
