"""server.py: one request, one answer, in turn, however the requests come over the wire."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from random import Random

import pytest

from receiver.base import server
from receiver.base.http import (
    Bodies,
    Disconnected,
    Receive,
    Refusal,
    Request,
    Response,
    Scope,
    Send,
    send_response,
)
from tests.base.wire import (
    H2C,
    OFFERS,
    pieces,
    read,
    request,
    statuses,
    strangely_framed,
    talk,
)
from tests.receiver.serving import BOUNDS, served

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: r\r\n\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n"
BODIES = (b"", b"x", SMUGGLED, SMUGGLED * 3, b"\r\n\r\n", b"0\r\n\r\n", b"y" * 5000)
LAST = request("/last", headers="Connection: close\r\n")


class Echo:
    """Answers with what it read. `/slow` takes its time, `/early` answers without its body."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, "req_1")
        self.seen.append(request.path)
        response, close = Response(document={"path": request.path}), False
        try:
            if not request.path.startswith("/early"):
                response.document["body"] = (await self._body(request)).decode("latin-1")
            if request.path.startswith("/slow"):
                await asyncio.sleep(0.3)
        except Refusal as refusal:
            response = refusal.response("req_1")
            close = await request.finish(refusal.status, timeout_s=1, bytes_max=1000)
        except Disconnected:
            self.seen.append("disconnected")
            return
        response.document["headers"] = [name.decode() for name, _ in request.headers]
        await send_response(scope, send, response, "req_1", close=close)

    async def _body(self, request: Request) -> bytes:
        body = request.whole_body(1_000_000)
        if body is None:
            body = await request.body(bytes_max=1_000_000, timeout_s=5, bodies=Bodies(10**9))
        return body


@pytest.fixture
def app() -> Echo:
    return Echo()


@pytest.fixture
async def url(app: Echo) -> AsyncIterator[str]:
    bounds = replace(BOUNDS, head_timeout_s=0.2, body_bytes_max=10_000)
    async with served(app, bounds=bounds) as url:
        yield url


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("pause_s", [0, 0.02])
async def test_an_offer_to_upgrade_is_ignored(url: str, offer: str, pause_s: float) -> None:
    """The body is read, at once or in packets of its own, and is no request; the next one is."""
    head = request("/a", b"x" * len(SMUGGLED), offer)[: -len(SMUGGLED)]
    for parts in ((head + SMUGGLED + LAST,), (head, SMUGGLED, LAST)):
        one, two = await talk(url, *parts, pause_s=pause_s)
        assert (one.status, one.document["body"]) == (200, SMUGGLED.decode())
        assert "upgrade" not in one.document["headers"]
        assert (two.status, two.document["path"]) == (200, "/last")


async def test_an_offer_may_come_byte_by_byte_and_often(url: str) -> None:
    """Also in HTTP/1.0, with Connection: close, with Expect, and without a body."""
    many = request("/a", b"abc", H2C) * 3 + request("/b", headers=H2C)
    one = request("/c", b"abc", H2C + "Connection: close\r\n")
    answers = await talk(url, *(bytes([byte]) for byte in many + one[:-1]), one[-1:] + SMUGGLED)
    assert [answer.document["path"] for answer in answers] == ["/a", "/a", "/a", "/b", "/c"]
    old = request("/d", b"abc", H2C).replace(b"HTTP/1.1", b"HTTP/1.0")
    (answer,) = await talk(url, old + SMUGGLED)
    assert answer.document["body"] == "abc"
    assert answer.headers["connection"] == "close"


async def test_a_request_that_waits_to_be_asked_may_offer_too(url: str) -> None:
    """100 Continue, and then its answer."""
    head = request("/a", b"abc", H2C + "Expect: 100-continue\r\nConnection: close\r\n")[:-3]
    address = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(address[0], int(address[1]))
    writer.write(head)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    (answer,) = read(await reader.read())
    assert answer.document["body"] == "abc"
    writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"CONNECT r:1 HTTP/1.1\r\nHost: r\r\n\r\n" + SMUGGLED,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: r\r\nConnection: up\r\n grade\r\nUpgrade: x\r\n\r\n",
        request("/", b"abc", H2C + "Content-Length: 4\r\n"),
        request("/", b"abc", H2C + "Transfer-Encoding: chunked\r\n"),
        b"GET / HTTP/1.1\r\n\r\n" + SMUGGLED,
        b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n" + SMUGGLED,
        b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n" + SMUGGLED,
        H2C.join(["GET / HTTP/1.1\r\n", "\r\n"]).encode() + SMUGGLED,
    ],
)
async def test_what_cannot_be_framed_is_400_once_and_closed(
    app: Echo, url: str, sent: bytes
) -> None:
    """A tunnel, HTTP/2, folded lines, two lengths, no Host or several; nothing behind it counts."""
    for before in (b"", request("/slow")):
        (*earlier, answer) = await talk(url, before + sent)
        assert statuses(earlier) == [200] * bool(before)
        assert (answer.status, answer.document["error"]) == (400, "MALFORMED_REQUEST")
        assert answer.headers["connection"] == "close"
    assert set(app.seen) <= {"/slow"}


async def test_http_1_0_needs_no_host(url: str) -> None:
    """It did not have one."""
    (answer,) = await talk(url, b"GET /a HTTP/1.0\r\n\r\n")
    assert answer.document["path"] == "/a"


@pytest.mark.parametrize(
    ("behind", "more", "status"),
    [
        (b"\0garbage\r\n\r\n", SMUGGLED, 400),
        (b"POST /x HTTP/1.1\r\nHost: r\r\nContent-Length: x\r\n\r\n", b"abc", 400),
        (CHUNKED + b"3\r\nabczz", SMUGGLED, 400),
        (b"GET /x HT", b"", 408),
        (b"GET /x HTTP/1.1\r\nX: x", b"x" * 100_000, 431),
        (CHUNKED + b"1;", b"x" * 200_000, 413),
    ],
)
async def test_an_error_waits_for_the_answers_before_it(
    app: Echo, url: str, behind: bytes, more: bytes, status: int
) -> None:
    """The earlier requests are answered first, then it; then the connection is closed. A request
    that began well is told that its client has gone."""
    parts = [request("/slow1", b"abc") + request("/slow2") + behind, more, more]
    answers = await talk(url, *parts, pause_s=0.01)
    assert statuses(answers) == [200, 200, status]
    assert [answer.document["path"] for answer in answers[:2]] == ["/slow1", "/slow2"]
    began = ["/x", "disconnected"] if status == 413 else []
    assert app.seen == ["/slow1", "/slow2", *began]


async def test_a_broken_body_is_no_body(app: Echo, url: str) -> None:
    """Its application is told that the client has gone; the client that it was wrong."""
    head = b"POST /a HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    (answer,) = await talk(url, head, b"zz\r\n", SMUGGLED, pause_s=0.02)
    assert answer.status == 400
    assert app.seen == ["/a", "disconnected"]


async def test_a_broken_body_behind_its_answer_is_the_end(app: Echo, url: str) -> None:
    """One request has one answer."""
    head = b"POST /early HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    assert statuses(await talk(url, head, b"zz\r\n", SMUGGLED, pause_s=0.05)) == [200]


async def test_trailers_are_no_headers(url: str) -> None:
    """However early they are there."""
    head = b"POST /a HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = head + b"3\r\nabc\r\n0\r\nAuthorization: x\r\nHost: evil\r\n\r\n"
    one, _ = await talk(url, sent + LAST)
    assert one.document["headers"] == ["host", "transfer-encoding"]


@pytest.mark.parametrize("first", [b"", request("/a"), request("/a", b"abc"), request("/slow")])
async def test_a_head_has_its_time_from_its_first_byte(url: str, first: bytes) -> None:
    """Also where that came in one packet with a whole request."""
    began_s = time.monotonic()
    answers = await talk(url, first + b"GET /b HTTP/1.1\r\nHo")
    assert statuses(answers) == [200] * bool(first) + [408]
    assert 0.15 < time.monotonic() - began_s < 5  # where the keep-alive time is 75 s
    began_s = time.monotonic()
    drips = [bytes([byte]) for byte in b"GET /b HTTP/1.1\r\nHost: r\r\nX: " + b"x" * 500]
    with suppress(ConnectionError):  # it is still dripping
        assert statuses(await talk(url, first, *drips, pause_s=0.02))[-1] == 408
    assert time.monotonic() - began_s < 5


async def test_a_body_that_drips_behind_its_answer_holds_nothing(app: Echo) -> None:
    """The keep-alive time runs from the answer."""
    async with served(app, keep_alive_s=1) as url:
        head = b"POST /early HTTP/1.1\r\nHost: r\r\nContent-Length: 1000\r\n\r\n"
        began_s = time.monotonic()
        assert statuses(await talk(url, head, b"x", b"x", pause_s=0.1)) == [200]
        assert time.monotonic() - began_s < 10


async def test_an_encoded_slash_is_part_of_a_name(url: str) -> None:
    """What separates is the slash that was sent; other escapes are what they stand for."""
    answers = await talk(url, request("/a%2fb") + request("/a%2Fb/c") + request("/%61") + LAST)
    paths = [answer.document["path"] for answer in answers]
    assert paths == ["/a%2fb", "/a%2Fb/c", "/a", "/last"]


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_is_sent_is_answered_once_and_in_turn(url: str, seed: int) -> None:
    """Pipelined, cut anywhere, counted or in chunks, with and without offers to upgrade, and
    sometimes with something broken at the end."""
    random = Random(seed)
    sent, expected = b"", []
    for number in range(random.randrange(1, 12)):
        body = random.choice(BODIES)
        path = random.choice(["/a", "/b", "/early"]) + str(number)
        sent += strangely_framed(random, path, body)
        expected.append((path, None if path.startswith("/early") else body.decode()))
    broken = random.random() < 0.3
    sent += b"\0garbage\r\n\r\n" + SMUGGLED if broken else LAST
    answers = await talk(url, *pieces(random, sent), pause_s=random.choice([0, 0, 0.002]))
    last = answers.pop()
    assert last.status == (400 if broken else 200)
    assert [(one.document["path"], one.document.get("body")) for one in answers] == expected


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="this system names it otherwise")
def test_a_client_that_vanished_is_noticed_within_a_minute() -> None:
    """Its host has gone, or a NAT has forgotten it: no word of it would come, however long it is
    waited for. Each connection is asked for signs of life."""
    with (
        server.listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
    ):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            idle_s, every_s, count = (
                connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            )
    assert idle_s + every_s * count <= 60
