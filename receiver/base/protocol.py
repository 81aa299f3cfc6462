"""uvicorn's HTTP protocol with what it lacks: bounds on the size of a head, the time that it takes
to arrive, the bytes of one message on the wire, the requests that wait and the time that a response
waits to be read; bodies behind an offer to upgrade; one response to each request, errors too in
their turn."""

import asyncio
import json
import logging
import struct
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from receiver.base.http import EXCHANGE, Headers, Receive, Refusal, Scope, Send, send_response

# Chunked framing costs up to 6 bytes for one of the body; more is padding, or endless trailers.
WIRE_FACTOR_MAX: Final = 8
# A connection that is closed on unread bytes is reset, and takes the last response with it: so
# long, and so many bytes, are still read and thrown away.
_LINGER_S: Final = 1.0
_LINGER_BYTES_MAX: Final = 1024 * 1024


_LONG_BYTES: Final = 64 * 1024
# Of a body: then reading pauses until its application asks for it. Thousands come in one turn.
_KEPT_BYTES: Final = 8 * 1024
# Closes without waiting for what is unsent.
_RESET: Final = struct.pack("ii", 1, 0)
# A head ends with it, as a body in chunks does.
_END: Final = b"\r\n\r\n"
_CACHED_URL_BYTES_MAX: Final = 256  # longer ones are read each time
# A body is parsed in steps of at least so many bytes, which may hold some requests behind it.
_STEP_BYTES_MIN: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much one service takes: connections, and the share of them that one address may have;
    bytes of a head and seconds until it is there; bytes of a body, for which framing may take
    `WIRE_FACTOR_MAX` times as many; and the seconds that a response may wait to be read."""

    connections_max: int
    peer_share: float
    head_bytes_max: int
    head_timeout_s: float
    body_bytes_max: int
    write_timeout_s: float

    @property
    def wire_bytes_max(self) -> int:
        """The most bytes of one message."""
        return self.head_bytes_max + WIRE_FACTOR_MAX * self.body_bytes_max


class _Flow(FlowControl):
    """As uvicorn's; but while requests wait nothing more is read, whatever the running one asks
    for: one more read would be thousands of requests."""

    is_full = False
    is_wanted = False  # more of the message that is being read

    def resume_reading(self) -> None:
        self.is_wanted = True
        if self.read_paused and not self.is_full:
            super().resume_reading()


_SPECIAL: Final = (b"connection", b"transfer-encoding")


class _Signal:
    """As `asyncio.Event`, which it makes once somebody waits: for most requests nobody does."""

    _event: asyncio.Event | None = None
    _is_set = False

    def set(self) -> None:
        self._is_set = True
        if self._event is not None:
            self._event.set()

    def clear(self) -> None:
        self._is_set = False
        if self._event is not None:
            self._event.clear()

    async def wait(self) -> None:
        if not self._is_set:
            self._event = self._event or asyncio.Event()
            await self._event.wait()


class _Cycle(RequestResponseCycle):
    """One request and its response: uvicorn's, of which each has only what is its own."""

    logger = logging.getLogger("uvicorn.error")
    access_logger = logging.getLogger("uvicorn.access")
    access_log = False
    disconnected = False
    body: Any = b""  # one piece as it came, or several in a bytearray
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding = None
    expected_content_length = 0
    _start: Any = None  # of the response, until there is something of its body

    def __init__(
        self, protocol: "BoundedProtocol", scope: Any, keep_alive: bool, waits: bool
    ) -> None:
        """Start with a head that has been read; `waits` says that the client sends the body once it
        is told to."""
        self.scope = scope
        self._respond = protocol.respond
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.default_headers = protocol.server_state.default_headers
        self.message_event: Any = _Signal()
        self.on_response = protocol.on_response_complete
        self.keep_alive = keep_alive
        self.waiting_for_100_continue = waits

    def add(self, body: bytes) -> None:
        """Take a further piece of the body."""
        if isinstance(self.body, bytes):
            self.body = bytearray(self.body)
        self.body += body

    async def send(self, message: Any) -> None:
        """As uvicorn's, but a response's head waits for what is behind it: each write is a system
        call, and mostly the whole response leaves in one."""
        start = self._start
        if start is None:
            if message["type"] == "http.response.start" and not self.response_started:
                self._start = message
                self.waiting_for_100_continue = False
                return
        else:
            self._start = None
            if self._is_sent_at_once(start, message):
                return
            await super().send(start)
        await super().send(message)

    def _is_sent_at_once(self, start: Any, message: Any) -> bool:
        """Send a response that is one piece, of the length that it says, and nothing special."""
        if message["type"] != "http.response.body" or message.get("more_body"):
            return False
        head: list[bytes] = []
        body, length = message.get("body", b""), None
        for given, value in start.get("headers", ()):
            name = given.lower()
            if name in _SPECIAL or HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
                return False
            if name == b"content-length":
                length = value
            head += (name, b": ", value, b"\r\n")
        if length != b"%d" % len(body):
            return False
        scope: Any = self.scope
        return self._respond(scope, start["status"], b"".join(head), body, close=False)

    async def send_500_response(self) -> None:
        self._start = None
        await super().send_500_response()


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that is too large or too slow, and takes no offer to upgrade: such a request
    is read like any other. While a request waits for the response to an earlier one, and that for
    its reader, nothing is read or parsed; who does not read for too long is cut off."""

    flow: _Flow

    def __init__(self, bounds: Bounds, on_cut: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._bounds = bounds
        self._asgi = {"version": self.asgi_version, "spec_version": "2.3"}
        self._on_cut = on_cut
        self._running: RequestResponseCycle | None = None  # where requests wait, not the newest
        self.awaits_request = True  # it is between two messages, or within a head
        self._in_head = False  # its first byte is there, its last one is not
        self._heads = 0
        self._head_bytes = 0
        self._wire_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_since_s: float | None = None  # by the loop's clock, between two messages
        self._unparsed = b""  # stands behind a request that waits
        self._unread_since_s = 0.0  # by the loop's clock
        self._unread_s = 0.0  # how long the running response has waited for its reader, in all
        self._write_timer: asyncio.TimerHandle | None = None
        self.is_refused = False  # nothing more is parsed
        self._refusal: bytes | None = None  # waits for the responses to earlier requests
        self._closer: asyncio.TimerHandle | None = None  # nothing more is written
        self._discarded_bytes = 0

    @property
    def is_within_body(self) -> bool:
        """Whether what comes is no request, and somebody takes it."""
        return self.is_refused or (self.flow.is_wanted and not self.awaits_request)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self.flow = _Flow(transport)
        transport.set_write_buffer_limits(high=0)  # writing pauses while anything is unread
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._unparsed = b""
        self.pipeline.clear()
        for timer in (self.timeout_keep_alive_task, self._closer, self._write_timer):
            if timer is not None:
                timer.cancel()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_refused:
            self._discard(len(data))
        elif self.flow.is_full:
            self._unparsed += data  # was read before reading paused
        else:
            # Mostly it holds the end of one head at most, and is parsed at once. Most bodies have
            # no carriage return, which is found much faster; and the last end than the first one.
            end = data.find(_END) if self.awaits_request else -1
            if data.find(b"\r", end + len(_END) if end >= 0 else 0) < 0 or data.rfind(_END) <= end:
                self._parse(data)
            else:
                self._unparsed = data
                self._parse_on()

    def _parse_on(self) -> None:
        """Parse what has come, a message at a time, until one has to wait."""
        data, start = self._unparsed, 0
        while start < len(data) and not self.flow.is_full and not self.is_refused:
            end = data.find(_END, start if self.awaits_request else start + _STEP_BYTES_MIN)
            end = len(data) if end < 0 else end + len(_END)
            self._parse(data[start:end])
            start = end
        self._unparsed = b"" if self.is_refused else data[start:]

    def _parse(self, data: bytes) -> None:
        awaited_head, heads = self.awaits_request, self._heads
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                self._decline(memoryview(data)[offer.args[0] :])
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
            return
        self._wire_bytes += len(data)
        if self.awaits_request:
            head_only = awaited_head and heads == self._heads
            if head_only or self._in_head:
                self._start_timer()
            if head_only:
                self._head_bytes += len(data)
                if self._head_bytes > self._bounds.head_bytes_max:
                    self._refuse(431, "HEADERS_TOO_LARGE", "the head of the request is too large")
        elif self._wire_bytes > self._bounds.wire_bytes_max:
            self._refuse(413, "PAYLOAD_TOO_LARGE", "the request takes too many bytes on the wire")

    def _decline(self, rest: memoryview) -> None:
        """Read a request again whose head offers another protocol, without the offer, and then the
        `rest` of what has come: the parser leaves that to whoever speaks the other protocol, the
        body too. Raises HttpParserError."""
        while True:
            method = self.parser.get_method()
            if method == b"CONNECT":
                self._refuse(400, "MALFORMED_REQUEST", "this is not a proxy")
                return
            version = self.parser.get_http_version().encode("ascii")
            lines = [b"%b %b HTTP/%b\r\n" % (method, self.url, version)]
            lines += [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(b"".join(lines) + b"\r\n")
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            else:
                return

    def on_message_begin(self) -> None:
        self._in_head = True
        self._wire_bytes = 0
        self._idle_since_s = None
        self.flow.is_wanted = False
        self.url = b""
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """As uvicorn's, which makes a scope in two steps, parses each URL, and looks at each header
        as it comes."""
        parser, headers = self.parser, self.headers
        if parser.should_upgrade():
            return  # `_decline` follows
        self._in_head = False
        self._head_bytes = 0
        if self._head_timer is not None:
            self._stop_timer()
        version, url = parser.get_http_version(), self.url
        read = _target if len(url) <= _CACHED_URL_BYTES_MAX else _target.__wrapped__
        path, raw_path, query = read(url)
        root_path = self.root_path
        scope = {
            "type": "http",
            "asgi": self._asgi,
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": parser.get_method().decode("ascii"),
            "root_path": root_path,
            "path": root_path + path if root_path else path,
            "raw_path": root_path.encode("ascii") + raw_path if root_path else raw_path,
            "query_string": query,
            "headers": headers,
            "state": self.app_state.copy(),
            EXCHANGE: self,
        }
        names = [name for name, _ in headers]
        hosts = names.count(b"host")
        is_host_right = hosts == 1 or (hosts == 0 and version <= "1.0")
        keep_alive = version != "1.0" and parser.should_keep_alive()
        waits = b"expect" in names and _waits_for_100(headers)
        self.headers = []  # what stands behind a body is no header
        self.awaits_request = False
        self._heads += 1
        self._begin(
            _Cycle(self, scope, keep_alive, waits), self.app if is_host_right else _wrong_host
        )

    def _begin(self, cycle: _Cycle, app: Any) -> None:
        """Start a request, or let it wait for the responses to earlier ones."""
        last: RequestResponseCycle | None = self.cycle
        self.cycle = cycle
        if last is None or last.response_complete:
            self._start_asgi_task(cycle, app)
        else:
            self.pipeline.appendleft((cycle, app))
        if self.pipeline:
            self.flow.is_full = True
            self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        cycle: Any = self.cycle
        if cycle.response_complete:
            return
        if cycle.body:
            cycle.add(body)
        else:
            cycle.body = body
        if len(cycle.body) > _KEPT_BYTES:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.awaits_request:
            return  # `_decline` follows
        self.awaits_request = True
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        """As uvicorn's, but for the timer: a connection has one for its life, which rings now and
        then, in place of one for each message."""
        self.server_state.total_requests += 1
        self._go_on()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self.flow.write_paused:  # the last response is unread, and is enough
            self.pipeline.appendleft((cycle, app))
        else:
            self._running = cycle
            self._unread_s = 0.0
            task = self.loop.create_task(cycle.run_asgi(app))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    def _go_on(self) -> None:
        """Start the request that waits, else read on; but one response at a time."""
        flow, running = self.flow, self._running
        if self._closer is not None or self.transport.is_closing() or flow.write_paused:
            return
        if running is not None and not running.response_complete:
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        flow.is_full = bool(self.pipeline)
        if self._unparsed:
            self._parse_on()
        flow.resume_reading()
        running = self._running
        if running is not None and not running.response_complete:
            return
        if self._refusal is not None:
            self._end(self._refusal)
        elif not self._in_head:
            self._idle_since_s = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._check_idle_in(self.timeout_keep_alive)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_since_s = self.loop.time()
        if self._write_timer is None:
            left_s = max(0.0, self._bounds.write_timeout_s - self._unread_s)
            self._write_timer = self.loop.call_later(left_s, self._cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        self._unread_s += self.loop.time() - self._unread_since_s
        self._go_on()

    def _cut(self) -> None:
        """End a connection whose peer does not read: it would hold its response for ever."""
        self._on_cut()
        with suppress(OSError, AttributeError):  # what the kernel holds would wait on
            self.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _RESET)
        self.transport.abort()

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since_s = None

    def _check_idle_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._check_idle)

    def _check_idle(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since_s is None:
            return  # at work: the timer is set again with its response
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._check_idle_in(left_s)
        else:
            self.timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "MALFORMED_REQUEST", msg)

    def whole_body(self, scope: Scope) -> bytes | None:
        """For an `Exchange`: what `RequestResponseCycle.receive` would give now."""
        cycle: Any = self._running
        if cycle is None or cycle.scope is not scope or cycle.more_body or cycle.disconnected:
            return None
        body = bytes(cycle.body)
        cycle.body = b""
        return body

    def renew(self) -> None:
        """For an `Exchange`."""
        self._unread_s = 0.0

    def respond(self, scope: Scope, status: int, head: bytes, body: bytes, *, close: bool) -> bool:
        """For an `Exchange`: as `RequestResponseCycle.send` does it with two events."""
        cycle = self._running
        if cycle is None or cycle.scope is not scope or cycle.response_started:
            return False
        if scope["method"] == "HEAD":
            return False
        if cycle.disconnected or cycle.flow.write_paused:
            return False
        cycle.keep_alive = cycle.keep_alive and not close
        headers = cycle.default_headers
        lines = _lines.lines if headers is _lines.headers else _lines.make(headers)
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        cycle.response_started = cycle.response_complete = True
        if len(body) < _LONG_BYTES:
            self.transport.write(b"".join((STATUS_LINE[status], lines, head, end, body)))
        else:  # one that many ask for is in memory once, however many do not read it
            self.transport.writelines((b"".join((STATUS_LINE[status], lines, head, end)), body))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._end() if cycle.more_body else self.transport.close()
        self.on_response_complete()
        return True

    async def sent(self) -> None:
        """For an `Exchange`: wait for the peer to read, or to be gone."""
        await self.flow.drain()

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._bounds.head_timeout_s, self._too_slow)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.flow.read_paused:
            self._start_timer()  # what has come since waits for us
        else:
            self._refuse(408, "REQUEST_TIMEOUT", "the head of the request did not arrive in time")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Respond to the request that is being read, or that cannot be, in its turn; then close."""
        if self.is_refused or self.transport.is_closing():
            return
        self.is_refused = True
        self._stop_timer()
        body = json.dumps(Refusal(status, code, message).document()).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        refusal = head.encode("ascii") + body
        cycle: Any = self.cycle  # None before the first request
        if self.awaits_request:
            is_next = cycle is None or (cycle.response_complete and not self.flow.write_paused)
        else:
            is_next = not self.pipeline
            if self.pipeline:
                self.pipeline.popleft()  # the newest one
            elif cycle.response_started:
                refusal = b""
            cycle.disconnected = True  # for its application: nothing is made of half a body
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
        if is_next:
            self._end(refusal)
        else:
            self._refusal = refusal

    def _end(self, response: bytes = b"") -> None:
        """Send the last response, and close when the peer has had time to read it."""
        self.is_refused = True
        self._refusal = None
        self._unparsed = b""
        self._stop_timer()
        if self._closer is not None or self.transport.is_closing():
            return
        self.transport.write(response)
        if not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()
            self.flow.is_full = False
            self.flow.resume_reading()
            self._closer = self.loop.call_later(_LINGER_S, self.transport.close)

    def _discard(self, size: int) -> None:
        self._discarded_bytes += size
        if self._discarded_bytes > _LINGER_BYTES_MAX:
            self.flow.pause_reading() if self._closer is None else self.transport.close()


@lru_cache(maxsize=256)  # webhooks come to few, and most of what else is asked for is asked again
def _target(url: bytes) -> tuple[str, bytes, bytes]:
    """Return the path, as text and as it is, and the query string. Raises HttpParserError, or
    UnicodeError."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return unquote(path) if "%" in path else path, parsed.path, parsed.query or b""


def _waits_for_100(headers: Headers) -> bool:
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)


class _Lines:
    """The lines of the headers that all responses have: the server makes a list a second."""

    def __init__(self) -> None:
        self.headers: Headers = []
        self.lines = b""

    def make(self, headers: Headers) -> bytes:
        """Return the lines of other headers than the last ones."""
        self.headers = headers
        self.lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        return self.lines


_lines: Final = _Lines()


async def _wrong_host(scope: Any, receive: Receive, send: Send) -> None:
    refusal = Refusal(400, "MALFORMED_REQUEST", "the request must have one Host header")
    await _respond_and_close(scope, send, refusal)


async def _respond_and_close(scope: Scope, send: Send, refusal: Refusal) -> None:
    request_id = f"req_{uuid.uuid4().hex}"
    await send_response(scope, send, refusal.response(request_id), request_id, close=True)
