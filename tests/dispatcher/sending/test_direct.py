"""direct.py beside aiohttp's own session: the same bytes go out, the same comes back or is raised,
and connections live as long. Real sockets; each case is done both ways and compared."""

import ast
import asyncio
import inspect
import io
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import connector
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_writer import _serialize_headers
from yarl import URL

from dispatcher.sending import direct
from dispatcher.sending.connections import Handler, StaleConnection
from dispatcher.sending.egress import Egress, parse_url
from dispatcher.sending.lasting import LastingRequest
from dispatcher.sending.sessions import Dialling, Sessions, open_sessions
from dispatcher.settings import Settings
from receiver.base.lack import Uplink
from receiver.base.lookups import look_up
from tests.dispatcher.certificates import server_context, trusting
from tests.dispatcher.peers import (
    LOOPBACK,
    OK,
    Behaviour,
    Peer,
    answer,
    answers,
    answers_and_closes,
    deaf,
    drips,
    hangs_up,
    listening,
    resets_after,
    resets_at_once,
    silent,
)
from tests.dispatcher.upstreams import until

_MIB = 2**20
_HEADERS = [("Content-Type", "application/json"), ("X-A", "1")]
_LONG = b"x" * (direct.SHORT_BYTES_MAX + 1)

Send = Callable[..., Awaitable[aiohttp.ClientResponse]]


async def _by_session(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    headers: list[tuple[str, str]],
    body: Any,
) -> aiohttp.ClientResponse:
    return await session.request(method, url, data=body, headers=headers, allow_redirects=False)


WAYS: tuple[Send, Send] = (_by_session, direct.request)
_way = pytest.mark.parametrize("send", WAYS, ids=["session", "direct"])


@dataclass
class Noted:
    """Connections that were made, and how many of them have ended."""

    made: int = 0
    ended: int = 0


@asynccontextmanager
async def _opened(
    noted: Noted | None = None, tls: Any = None, connect_s: float | None = None
) -> AsyncIterator[Sessions]:
    seen = noted or Noted()

    class Watched(Handler):
        def connection_made(self, transport: Any) -> None:
            seen.made += 1
            super().connection_made(transport)

        def connection_lost(self, exc: BaseException | None) -> None:
            seen.ended += 1
            super().connection_lost(exc)

    opened = open_sessions(
        Settings(),
        Dialling(
            guard=Egress((LOOPBACK,)),
            uplink=Uplink(),
            lookup=look_up,
            lookups_max=8,
            calls_max=8,
            handler=Watched,
            tls=tls,
            connect_s=connect_s,
        ),
    )
    try:
        yield opened
    finally:
        await opened.close()


@dataclass
class Met:
    """What a request met: its answer or what was raised, what went out, and what became of its
    connection."""

    answer: Any = None
    line: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    idle: int = 0
    acquired: int = 0
    connections: int = 0


async def _meet(
    send: Send,
    behaviour: Behaviour,
    *,
    method: str = "POST",
    path: str = "/hook",
    headers: list[tuple[str, str]] = _HEADERS,
    body: Any = b"{}",
    fresh: bool = False,
    reads: bool = True,
    requests: int = 1,
) -> list[Met]:
    met = []
    async with listening(behaviour) as peer, _opened() as opened:
        session = opened.fresh if fresh else opened.pooled
        url = parse_url(f"http://127.0.0.1:{peer.port}{path}")
        pool: Any = session.connector
        for number in range(requests):
            one = Met()
            try:
                async with asyncio.timeout(5):
                    response = await send(session, method, url, headers, body)
                one.answer = await _read(response, reads=reads)
            except (aiohttp.ClientError, OSError, ValueError, TypeError) as error:
                one.answer = type(error).__name__
            one.idle, one.acquired = sum(map(len, pool._conns.values())), len(pool._acquired)
            if len(peer.received) > number:
                got = peer.received[number]
                one.line, one.body = got.line, got.body
                one.headers = {name: value for name, value in got.headers if name != "Host"}
                assert len(one.headers) == len(got.headers) - 1
                assert got.header("host") == f"127.0.0.1:{peer.port}"
            one.connections = peer.connections
            met.append(one)
    return met


def _body(size: int) -> bytes | io.BytesIO:
    """A body as it is given: a large one as a file."""
    body = b"x" * size
    return body if size <= _MIB else io.BytesIO(body)


async def _read(response: aiohttp.ClientResponse, *, reads: bool) -> Any:
    try:
        async with asyncio.timeout(5):
            body = await response.content.read() if reads else b""
    except aiohttp.ClientError as error:
        body = type(error).__name__.encode()
    finally:
        response.release()
    return response.status, dict(response.headers), body


_REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no-body": {"body": None},
    "no-body-get": {"method": "GET", "body": None},
    "no-body-delete": {"method": "DELETE", "body": None},
    "body-get": {"method": "GET"},
    "put": {"method": "PUT"},
    "empty-body": {"body": b""},
    "short": {"body": b"x" * direct.SHORT_BYTES_MAX},
    "long": {"body": _LONG},
    "longer": {"body": b"x" * _MIB},
    "fresh": {"fresh": True},
    "fresh-long": {"fresh": True, "body": _LONG},
    "query": {"path": "/a%20b/%C3%A9?b=%26&a=1+2&a=2&empty=#part"},
    "no-path": {"path": ""},
    "own-agent": {"headers": [*_HEADERS, ("user-agent", "them"), ("ACCEPT", "text/plain")]},
    "own-coding": {"headers": [*_HEADERS, ("accept-encoding", "gzip")]},
    "utf-8": {"headers": [*_HEADERS, ("X-B", "naïve ☃")]},
    "tab-and-empty": {"headers": [*_HEADERS, ("X-B", "a\tb"), ("X-C", "")]},
    "carriage-return": {"headers": [*_HEADERS, ("X-B", "a\rX-C: 1")]},
    "line-feed": {"headers": [*_HEADERS, ("X-B", "a\nX-C: 1")]},
    "nul": {"headers": [*_HEADERS, ("X-B", "a\0b")]},
    "delete": {"headers": [*_HEADERS, ("X-B", "a\x7fb")]},
    "line-feed-in-name": {"headers": [*_HEADERS, ("X-B: 1\nX-C", "a")]},
    "half-a-surrogate": {"headers": [*_HEADERS, ("X-B", "a\ud800")]},
    "no-text": {"headers": [*_HEADERS, ("X-B", 1)]},
}


@pytest.mark.parametrize("request_", _REQUESTS.values(), ids=_REQUESTS)
async def test_what_goes_out_is_what_aiohttps_session_sends(request_: dict[str, Any]) -> None:
    """Line, headers and body; a header that would break the head is refused, and nothing of it
    goes out."""
    by_session, directly = [await _meet(send, answers(OK), **request_) for send in WAYS]

    assert directly == by_session


@pytest.mark.parametrize(
    "url",
    [
        "http://host.example/a",
        "http://host.example:80/a",
        "http://host.example:8080/a",
        "https://host.example:443/a",
        "https://host.example:80/a",
        "http://[::1]/a",
        "http://[2001:db8::1]:8080/a",
        "https://[::ffff:127.0.0.1]:443/a",
        "http://bücher.example/a",
        "https://host.example./a",
        "https://HOST.example/a",
    ],
)
async def test_the_host_is_named_as_aiohttp_names_it(url: str) -> None:
    """Without a default port, an IPv6 address in brackets, an international name in ASCII."""
    parsed = parse_url(url)
    async with _opened() as opened:
        made = aiohttp.ClientRequest("POST", parsed, loop=asyncio.get_running_loop())
        head = direct._head(opened.pooled, "POST", parsed, [], b"").decode()

    assert f"\r\nHost: {made.headers['Host']}\r\n" in head


def _then(first: bytes, *rest: bytes) -> Behaviour:
    """Answers in pieces, each a moment later, and keeps the connection open."""

    async def behave(peer: Peer, reader: Any, writer: Any) -> None:
        while await peer.receive(reader) is not None:
            writer.write(first)
            for piece in rest:
                await asyncio.sleep(0.02)
                writer.write(piece)

    return behave


_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
_PEERS: dict[str, Behaviour] = {
    "whole": answers(OK),
    "empty": answers(answer("200 OK")),
    "in-pieces": _then(OK[:20], OK[20:-1], OK[-1:]),
    "chunked": answers(_CHUNKED + b"2\r\nok\r\n0\r\n\r\n"),
    "chunked-in-pieces": _then(_CHUNKED + b"2\r\no", b"k\r\n", b"0\r\n\r\n"),
    "chunks-cut-off": answers_and_closes(_CHUNKED + b"5\r\nok"),
    "chunks-garbled": answers_and_closes(_CHUNKED + b"zz\r\n"),
    "204": answers(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "304": answers(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
    "to-its-end": answers_and_closes(b"HTTP/1.1 200 OK\r\n\r\nfine"),
    "cut-off": answers_and_closes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfine"),
    "reset-in-the-body": resets_after(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfine"),
    "1.0": answers_and_closes(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "1.0-open": answers(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    "1.0-kept": answers(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
    ),
    "closes": answers_and_closes(answer("200 OK", "Connection: close", body=b"ok")),
    "says-that-it-closes": answers(answer("200 OK", "Connection: close", body=b"ok")),
    "continue": answers(b"HTTP/1.1 100 Continue\r\n\r\n" + OK),
    "hints": _then(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", OK),
    "upgrade": answers_and_closes(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n"
    ),
    "redirect": answers(answer("302 Found", "Location: /elsewhere")),
    "cookie": answers(answer("200 OK", "Set-Cookie: a=1")),
    "coded": answers(answer("200 OK", "Content-Encoding: gzip", body=b"no gzip")),
    "answers-twice": answers(OK + OK),
    "a-byte-more": answers(OK + b"x"),
    "no-http": answers_and_closes(b"hello\r\n\r\n"),
    "bad-length": answers_and_closes(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
    "half-a-head": answers_and_closes(b"HTTP/1.1 200 OK\r\nContent-"),
    "hangs-up": hangs_up,
    "resets-at-once": resets_at_once,
    "resets": resets_after(b""),
}


@pytest.mark.parametrize("body", [b"{}", _LONG], ids=["short", "long"])
@pytest.mark.parametrize("behaviour", _PEERS.values(), ids=_PEERS)
async def test_what_comes_back_is_what_aiohttps_session_gives(
    behaviour: Behaviour, body: bytes
) -> None:
    """The answer or what is raised, twice in a row, and whether the connection goes on."""
    by_session, directly = [await _meet(send, behaviour, body=body, requests=2) for send in WAYS]

    assert directly == by_session


@pytest.mark.parametrize(
    "behaviour",
    [answers(OK), answers(answer("200 OK", body=b"x" * _MIB)), drips(_CHUNKED, b"1\r\nx\r\n")],
    ids=["whole", "large", "endless"],
)
async def test_a_connection_with_an_answer_that_was_not_read_goes_on_only_if_all_of_it_is_there(
    behaviour: Behaviour,
) -> None:
    by_session, directly = [await _meet(send, behaviour, reads=False, requests=2) for send in WAYS]

    assert [one.acquired for one in directly] == [0, 0]
    assert directly == by_session


async def test_an_answer_to_head_has_no_body_whatever_its_length_says() -> None:
    only_head = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
    by_session, directly = [
        await _meet(send, only_head, method="HEAD", body=None, requests=2) for send in WAYS
    ]

    assert directly == by_session
    assert directly[1].connections == 1


@_way
@pytest.mark.parametrize("body", [b"{}", b"x" * _MIB], ids=["short", "long"])
async def test_a_request_that_is_cancelled_ends_its_connection(send: Send, body: bytes) -> None:
    """It is not used for another one."""
    noted = Noted()
    async with listening(silent) as peer, _opened(noted) as opened:
        pool: Any = opened.pooled.connector
        url = parse_url(peer.url)
        task = asyncio.ensure_future(send(opened.pooled, "POST", url, _HEADERS, body))
        await until(lambda: bool(peer.received))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: noted.ended == 1)

        assert (len(pool._conns), len(pool._acquired)) == (0, 0)


@_way
async def test_a_request_that_is_cancelled_while_it_connects_leaves_nothing(send: Send) -> None:
    async with listening(deaf) as peer, _opened() as opened:
        pool: Any = opened.pooled.connector
        url = parse_url(f"https://127.0.0.1:{peer.port}/")
        task = asyncio.ensure_future(send(opened.pooled, "POST", url, _HEADERS, b"{}"))
        await until(lambda: peer.connections == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert (len(pool._conns), len(pool._acquired)) == (0, 0)


@_way
@pytest.mark.parametrize("size", [direct.SHORT_BYTES_MAX, _MIB, 8 * _MIB])
async def test_a_peer_that_reads_nothing_keeps_no_connection_once_nobody_waits(
    send: Send, size: int
) -> None:
    """What is left to write is thrown away: else socket and request stay for as long as the peer
    likes."""
    noted = Noted()
    async with listening(deaf) as peer, _opened(noted) as opened:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await send(opened.pooled, "POST", parse_url(peer.url), _HEADERS, _body(size))
        await until(lambda: noted.ended == noted.made == 1)


def _ended(behaviour: Behaviour) -> Behaviour:
    """Ends its connection in the end without waiting for a goodbye over TLS."""

    async def behave(peer: Peer, reader: Any, writer: Any) -> None:
        try:
            await behaviour(peer, reader, writer)
        finally:
            writer.transport.abort()
            await asyncio.sleep(0.01)

    return behave


@_way
@pytest.mark.parametrize("size", [2, 200_000, 8 * _MIB])
async def test_a_tls_peer_that_reads_nothing_keeps_none_either(
    send: Send, tmp_path: Path, size: int
) -> None:
    """Python would wait half a minute for its goodbye."""
    noted = Noted()
    server, certificate = server_context(tmp_path)
    async with (
        listening(_ended(deaf), tls=server) as peer,
        _opened(noted, tls=trusting(certificate)) as opened,
    ):
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await send(opened.pooled, "POST", parse_url(peer.url), _HEADERS, _body(size))
        async with asyncio.timeout(10):
            await until(lambda: noted.ended == noted.made == 1)


@_way
async def test_a_tls_peer_that_says_no_goodbye_keeps_none_for_long(
    send: Send, tmp_path: Path
) -> None:
    """It has answered, and then reads no more, and leaves the connection open."""

    async def stays(peer: Peer, reader: Any, writer: Any) -> None:
        await peer.receive(reader)
        writer.write(answer("200 OK", "Connection: close", body=b"ok"))
        writer.transport.pause_reading()
        await asyncio.Event().wait()

    noted = Noted()
    server, certificate = server_context(tmp_path)
    async with (
        listening(_ended(stays), tls=server) as peer,
        _opened(noted, tls=trusting(certificate)) as opened,
    ):
        response = await send(opened.pooled, "POST", parse_url(peer.url), _HEADERS, b"{}")
        assert (await _read(response, reads=True))[2] == b"ok"
        async with asyncio.timeout(10):
            await until(lambda: noted.ended == noted.made == 1)


@_way
async def test_sessions_end_whatever_their_peers_do_not_read(send: Send) -> None:
    """A request that runs at the end ends with them."""
    async with listening(deaf) as peer, asyncio.timeout(10):
        async with _opened() as opened:
            url = parse_url(peer.url)
            body = _body(8 * _MIB)
            task = asyncio.ensure_future(send(opened.pooled, "POST", url, _HEADERS, body))
            await until(lambda: peer.connections == 1)
            await asyncio.sleep(0.1)
        with pytest.raises(aiohttp.ClientError):
            await task


@_way
async def test_a_connection_has_its_own_limit_of_time(send: Send) -> None:
    """TLS and all; what comes then is bounded by whoever waits for it."""
    async with listening(deaf) as peer, _opened(connect_s=0.2) as opened:
        url = parse_url(f"https://127.0.0.1:{peer.port}/")
        with pytest.raises(aiohttp.ConnectionTimeoutError):
            await send(opened.pooled, "POST", url, _HEADERS, b"{}")


@_way
async def test_a_closed_session_sends_nothing(send: Send) -> None:
    async with _opened() as opened:
        pass
    with pytest.raises(RuntimeError, match="Session is closed"):
        await send(opened.pooled, "POST", parse_url("http://127.0.0.1:9/"), _HEADERS, b"{}")


@_way
@pytest.mark.parametrize("body", [b"{}", _LONG], ids=["short", "long"])
async def test_a_kept_connection_that_has_ended_is_told_from_one_that_ends(
    send: Send, body: bytes
) -> None:
    """Only the first may be sent on once more. It ends as the request goes out."""

    async def ends_second(peer: Peer, reader: Any, writer: Any) -> None:
        await peer.receive(reader)
        writer.write(OK)
        await reader.read(1)

    async with listening(ends_second) as peer, _opened() as opened:
        url = parse_url(peer.url)
        await _read(await send(opened.pooled, "POST", url, _HEADERS, body), reads=True)
        with pytest.raises(StaleConnection):
            await send(opened.pooled, "POST", url, _HEADERS, body)


async def test_a_connection_that_ends_as_it_is_made_is_written_to_by_neither() -> None:
    """It is raised as one that was lost, and not as one that was kept and has ended."""
    raised = []
    for send in WAYS:
        async with listening(silent) as peer, _opened() as opened:
            pool: Any = opened.pooled.connector
            connect = pool.connect

            async def connected(*args: Any, connect: Any = connect, **named: Any) -> Any:
                connection = await connect(*args, **named)
                connection.transport.close()
                return connection

            pool.connect = connected
            with pytest.raises(aiohttp.ClientError) as error:
                await send(opened.pooled, "POST", parse_url(peer.url), _HEADERS, b"{}")
            raised.append(error.type)
            assert not peer.received
            assert (len(pool._conns), len(pool._acquired)) == (0, 0)

    assert not any(issubclass(one, StaleConnection) for one in raised)


async def test_over_tls_both_ways_say_the_same(tmp_path: Path) -> None:
    server, certificate = server_context(tmp_path)
    met = []
    for send in WAYS:
        async with (
            listening(answers(OK), tls=server) as peer,
            _opened(tls=trusting(certificate)) as opened,
            _opened() as distrusting,
        ):
            url = parse_url(peer.url)
            for body in (b"{}", _LONG, b"x" * _MIB):
                response = await send(opened.pooled, "POST", url, _HEADERS, body)
                assert await _read(response, reads=True) == (200, {"Content-Length": "2"}, b"ok")
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await send(distrusting.pooled, "POST", url, _HEADERS, b"{}")
            received = [(one.line, one.body) for one in peer.received]
            met.append((received, peer.connections))

    assert met[0] == met[1]


async def test_a_large_request_is_not_kept_once_it_is_answered() -> None:
    """Neither by its answer nor by a connection that goes on."""
    async with listening(answers(OK)) as peer, _opened() as opened:
        url = parse_url(peer.url)
        await _read(await direct.request(opened.pooled, "POST", url, [], b"{}"), reads=True)
        tracemalloc.start()
        try:
            response = await direct.request(opened.pooled, "POST", url, [], bytes(900_000))
            peer.received.clear()
            await asyncio.sleep(0.05)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        response.release()

    assert held < 500_000


async def _all_requests() -> None:
    for given in _REQUESTS.values():
        by_session, directly = [await _meet(send, answers(OK), **given) for send in WAYS]
        assert directly == by_session, given


async def _all_peers() -> None:
    for name, behaviour in _PEERS.items():
        by_session, directly = [await _meet(send, behaviour, requests=2) for send in WAYS]
        assert directly == by_session, name


async def _ends() -> None:
    for size in (direct.SHORT_BYTES_MAX, 8 * _MIB):
        await test_a_peer_that_reads_nothing_keeps_no_connection_once_nobody_waits(
            direct.request, size
        )
    for body in (b"{}", _LONG):
        await test_a_request_that_is_cancelled_ends_its_connection(direct.request, body)
        await test_a_kept_connection_that_has_ended_is_told_from_one_that_ends(direct.request, body)
    await test_sessions_end_whatever_their_peers_do_not_read(direct.request)
    with TemporaryDirectory() as folder:
        await test_a_tls_peer_that_reads_nothing_keeps_none_either(
            direct.request, Path(folder), 200_000
        )
    with TemporaryDirectory() as folder:
        await test_a_tls_peer_that_says_no_goodbye_keeps_none_for_long(direct.request, Path(folder))
    await test_a_connection_that_ends_as_it_is_made_is_written_to_by_neither()


@pytest.mark.parametrize("case", [_all_requests, _all_peers, _ends])
def test_it_is_so_on_the_loop_that_serves(case: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """uvloop's: transports, and when they write, are the loop's."""
    uvloop.run(case())


# --- aiohttp's own names ---


def _of(tree: ast.AST, name: str) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == name
    }


async def test_a_short_request_has_all_that_a_connector_of_aiohttp_asks_of_one() -> None:
    """`headers`, `request_info` and `send` are of the request to a proxy, which we have not here.
    What a new release asks for besides shows here before it shows in a call."""
    asked = _of(ast.parse(inspect.getsource(connector)), "req")
    async with _opened() as opened:
        short = direct._Short(opened.pooled, "POST", URL("https://host.example/a"))
        full = aiohttp.ClientRequest(
            "POST", short.url, loop=asyncio.get_running_loop(), session=opened.pooled
        )
        for name in asked - {"headers", "request_info", "send"}:
            given, needed = getattr(short, name), getattr(full, name)
            if not callable(needed):
                assert given == needed, name
        assert short.is_ssl() == full.is_ssl()
        assert asked >= {"connection_key", "host", "port", "ssl", "proxy"}


async def test_the_names_of_aiohttp_that_are_used_beyond_its_public_ones_are_there() -> None:
    """It changes them without notice: this is where that shows first."""
    prepared = inspect.signature(ResponseHandler.set_response_params).parameters
    assert set(prepared) == {
        "self", "timer", "skip_payload", "read_until_eof", "auto_decompress", "read_timeout",
        "read_bufsize", "timeout_ceil_threshold", "max_line_size", "max_field_size", "max_headers",
    }  # fmt: skip
    response = inspect.signature(aiohttp.ClientResponse.__init__).parameters
    assert set(response) == {
        "self", "method", "url", "writer", "continue100", "timer", "request_info", "traces", "loop",
        "session", "stream_writer",
    }  # fmt: skip
    assert list(inspect.signature(aiohttp.BaseConnector.connect).parameters) == [
        "self", "req", "traces", "timeout",
    ]  # fmt: skip
    assert list(inspect.signature(LastingRequest.__base__.write_bytes).parameters) == [  # type: ignore[union-attr]
        "self", "writer", "conn", "content_length",
    ]  # fmt: skip
    assert _serialize_headers("GET / HTTP/1.1", {"A": "b"}) == b"GET / HTTP/1.1\r\nA: b\r\n\r\n"  # type: ignore[arg-type]
    async with _opened() as opened:
        session, pool = opened.pooled, opened.pooled.connector
        for name in (
            "_loop", "_default_headers", "_prepare_headers", "_request_class", "_response_class",
            "_auto_decompress", "_read_bufsize", "_max_line_size", "_max_field_size",
            "_max_headers", "_retry_connection", "_connector",
        ):  # fmt: skip
            assert hasattr(session, name), name
        assert session._default_headers["Accept-Encoding"] == "identity"
        for name in (
            "_conns",
            "_acquired",
            "_factory",
            "_loop",
            "_release",
            "force_close",
            "_ssl_shutdown_timeout",
        ):
            assert hasattr(pool, name), name
        assert hasattr(aiohttp.TCPConnector, "_wrap_create_connection")
        assert pool._timeout_ceil_threshold == 5  # type: ignore[union-attr]
        handler = ResponseHandler(asyncio.get_running_loop())
        for name in (
            "_buffer", "_tail", "_payload", "_parser", "_exception", "_should_close", "_loop",
            "transport", "closed", "start_timeout", "force_close", "abort",
        ):  # fmt: skip
            assert hasattr(handler, name), name
    assert {"_protocol", "_connection"} <= _of(
        ast.parse(inspect.getsource(aiohttp.client_reqrep)), "self"
    )
    assert sys.modules["aiohttp"].__version__.startswith("3.14.")
