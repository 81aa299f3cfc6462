"""What only shows on a real socket: broken requests, slow ones, endless ones, hang-ups."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.settings import Settings
from dispatcher.store.tx import Tx
from receiver.base import server
from receiver.base.db.readers import Reader
from receiver.base.protocol import Bounds
from tests.dispatcher.api.talk import ADMIN_KEY, reject

HEAD = (
    "POST {path} HTTP/1.1\r\nHost: dispatcher.test\r\nAuthorization: Bearer " + ADMIN_KEY + "\r\n"
    "Content-Type: application/json\r\n"
)
BODY = b'{"jobId":"j","destination":"parked","payload":{"a":1}}'


@pytest.fixture
async def port(service: Service, settings: Settings) -> AsyncIterator[int]:
    """The service behind the real server, on a free loopback port."""
    bounds = Bounds(
        connections_max=64,
        peer_share=1.0,
        write_timeout_s=5,
        head_bytes_max=8_192,
        head_timeout_s=settings.request_timeout,
        body_bytes_max=settings.batch_bytes_max,
    )
    listening = asyncio.Event()
    with server.listen("127.0.0.1", 0) as listener:
        config = server.config(service.api, bounds, keep_alive_s=5, drain_s=1)
        listener_server = server.Server(config, on_listening=listening.set)
        running = asyncio.create_task(listener_server.serve(sockets=[listener]))
        await listening.wait()
        yield listener.getsockname()[1]
        listener_server.stop()
        await running


async def exchange(port: int, *pieces: bytes, hold: bool = False) -> bytes:
    """Send raw bytes and read until the server closes; `hold` keeps our side open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if not hold:
                writer.write_eof()
        async with asyncio.timeout(60):
            with suppress(ConnectionError):
                return await reader.read()
        return b""
    finally:
        writer.close()


def post(path: str = "/v1/callbacks", *headers: str) -> bytes:
    return (HEAD.format(path=path) + "".join(f"{one}\r\n" for one in headers) + "\r\n").encode()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def document(answer: bytes) -> dict[str, object]:
    found: dict[str, object] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


async def alive(port: int) -> bool:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200


async def test_a_dripping_body_is_408_within_its_deadline(
    port: int, settings: Settings, parked: str
) -> None:
    """One byte at a time does not hold a connection: one deadline for the whole body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post("/v1/callbacks", "Content-Length: 1000"))
    dripping = asyncio.create_task(_drip(writer))
    answer = await asyncio.wait_for(reader.read(), 60)
    assert status_of(answer) == 408
    assert document(answer)["error"] == "REQUEST_TIMEOUT"
    dripping.cancel()
    writer.close()
    assert await alive(port)


async def _drip(writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)


async def test_a_body_that_is_too_large_gets_its_answer(port: int, api: httpx.AsyncClient) -> None:
    """413 reaches a client that reads only after it has sent everything: no reset on the way."""
    large = b" " * 2_000_000
    for answer in (
        await exchange(port, post("/v1/callbacks", f"Content-Length: {len(large)}"), large),
        await exchange(
            port,
            post("/v1/callbacks", "Transfer-Encoding: chunked"),
            *[b"%x\r\n%s\r\n" % (len(large), large)] * 2,
            b"0\r\n\r\n",
        ),
    ):
        assert status_of(answer) == 413
        assert document(answer)["error"] == "PAYLOAD_TOO_LARGE"
    assert await alive(port)


@pytest.mark.parametrize(
    ("key", "path"),
    [("nobody's", "/v1/callbacks"), (ADMIN_KEY, "/v1/nope"), (ADMIN_KEY, "/healthz")],
)
async def test_an_early_answer_does_not_let_a_dripping_body_hold_the_connection(
    port: int, settings: Settings, key: str, path: str
) -> None:
    """Wrong key, path or method: the rest of the body has a deadline too."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = post(path, "Content-Length: 1000").replace(ADMIN_KEY.encode(), key.encode())
    writer.write(head)
    dripping = asyncio.create_task(_drip(writer))
    with suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(), 60)
        assert status_of(answer) in (401, 404, 405)
    dripping.cancel()
    writer.close()


async def test_a_client_that_asks_first_need_not_send_what_is_refused(port: int) -> None:
    """Expect: 100-continue with a body that is too large: 413 at once."""
    head = post("/v1/callbacks", "Content-Length: 99999999", "Expect: 100-continue")
    answer = await exchange(port, head, hold=True)
    assert status_of(answer) == 413
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/callbacks HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/callbacks HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/callbacks HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/callbacks HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/callbacks HTTP/1.1\r\nA: b\0c\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
        b"GET /v1/callbacks?%zz=%f HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%00/%ff\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_a_broken_request_is_a_4xx_and_the_next_one_is_served(
    port: int, request_bytes: bytes
) -> None:
    """Never a 5xx or a hang, whatever the bytes."""
    answer = await exchange(port, request_bytes)
    assert answer == b"" or 400 <= status_of(answer) < 500
    assert await alive(port)


async def test_hanging_up_in_the_middle_stores_nothing(
    port: int, api: httpx.AsyncClient, parked: str
) -> None:
    """Half a body is no callback."""
    head = post("/v1/callbacks", f"Content-Length: {len(BODY) + 1}")
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head + BODY)
    await writer.drain()
    writer.transport.abort()
    assert await alive(port)
    assert (await api.get("/v1/callbacks")).json()["data"] == []


async def test_requests_on_one_connection_are_answered_in_turn(port: int, parked: str) -> None:
    """Keep-alive and pipelining: an error answer does not confuse the next request."""
    good = post("/v1/callbacks", f"Content-Length: {len(BODY)}") + BODY
    bad = post("/v1/callbacks", "Content-Length: 2") + b"{}"
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await exchange(port, good + bad + good + last, hold=True)
    codes = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert codes == [202, 422, 200, 200]


async def test_a_chunked_body_and_expect_continue_are_taken(port: int, parked: str) -> None:
    """However HTTP carries it, the body is the body."""
    half = len(BODY) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(b), b) for b in (BODY[:half], BODY[half:], b""))
    head = post(
        "/v1/callbacks", "Transfer-Encoding: chunked", "Expect: 100-continue", "Connection: close"
    )
    answer = await exchange(port, head, chunks, hold=True)
    assert b"HTTP/1.1 202" in answer


async def test_a_batch_streams_over_the_wire(port: int, parked: str) -> None:
    """A result per line, through the real server."""
    lines = b"\n".join(BODY.replace(b'"j"', b'"j%d"' % n) for n in range(200))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        headers = {
            "Authorization": f"Bearer {ADMIN_KEY}",
            "Content-Type": "application/x-ndjson",
        }
        answer = await client.post("/v1/callbacks/batch", content=lines, headers=headers)
    assert answer.status_code == 200
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert [one["line"] for one in results] == list(range(1, 201))
    assert {one["status"] for one in results} == {"pending"}


async def test_head_is_get_without_a_body(port: int) -> None:
    """For probes that use it."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answer = await client.head("/healthz")
        assert (answer.status_code, answer.content) == (200, b"")
        reject(await client.get("/v1/callbacks"), 401, "UNAUTHORIZED")


# --- listings that take long ---

GET = f"GET /v1/callbacks HTTP/1.1\r\nHost: d\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n"


@dataclass
class SlowListings:
    """A store whose listings end only when they are interrupted."""

    service: Service
    began: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def search(self, tenant: str, *_args: object, **_named: object) -> Any:
        loop = asyncio.get_running_loop()

        def query(tx: Tx) -> Any:
            loop.call_soon_threadsafe(self.began.set)
            try:
                return tx.all(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
                    "SELECT max(i) FROM n"
                )
            finally:
                loop.call_soon_threadsafe(self.ended.set)

        return await self.service.store._read(query, Reader(tenant))


@pytest.fixture
def slow(service: Service, monkeypatch: pytest.MonkeyPatch) -> SlowListings:
    listings = SlowListings(service)
    monkeypatch.setattr(service.store, "search", listings.search)
    return listings


async def test_a_listing_whose_client_has_gone_is_not_read_on(
    port: int, slow: SlowListings
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET.encode())
    async with asyncio.timeout(4):  # less than a read's deadline
        await slow.began.wait()
        writer.close()
        await slow.ended.wait()
    assert await alive(port)


async def test_one_listing_more_than_may_wait_is_503_with_the_time_to_come_again(
    port: int, service: Service, slow: SlowListings
) -> None:
    """And another tenant's are answered meanwhile."""
    tenant = {"Authorization": f"Bearer {ADMIN_KEY}", "Postback-Tenant": "flood"}
    reads = [asyncio.create_task(slow.search("flood")) for _ in range(257)]
    await slow.began.wait()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        refused = await client.get("/v1/callbacks", headers=tenant)
        other = await client.get("/v1/stats", headers={**tenant, "Postback-Tenant": "default"})
    for one in reads:
        one.cancel()
    await asyncio.wait(reads)

    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json()["error"] == "UNAVAILABLE"
    assert other.status_code == 200
