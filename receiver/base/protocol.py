"""uvicorn's HTTP protocol with what it lacks: bounds on the size of a head, the time that it takes
to arrive and the bytes of one message on the wire; bodies behind an offer to upgrade; one response
to each request, errors too in their turn."""

import asyncio
import json
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from receiver.base.http import EXCHANGE, Receive, Refusal, Scope, Send, busy, send_response

# Chunked framing costs up to 6 bytes for one of the body; more is padding, or endless trailers.
WIRE_FACTOR_MAX: Final = 8
# A connection that is closed on unread bytes is reset, and takes the last response with it: so
# long, and so many bytes, are still read and thrown away.
_LINGER_S: Final = 1.0
_LINGER_BYTES_MAX: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much one service takes: connections, bytes of a head and seconds until it is there,
    and bytes of a body, for which framing may take `WIRE_FACTOR_MAX` times as many."""

    connections_max: int
    head_bytes_max: int
    head_timeout_s: float
    body_bytes_max: int


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that is too large or too slow, and takes no offer to upgrade: such a request
    is read like any other. `bounded_protocol` sets the bounds."""

    connections_max: int
    head_bytes_max: int
    head_timeout_s: float
    wire_bytes_max: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._running: RequestResponseCycle | None = None  # where requests wait, not the newest
        self._awaits_head = True  # between two messages, or within a head
        self._in_head = False  # its first byte is there, its last one is not
        self._heads = 0
        self._head_bytes = 0
        self._wire_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_since_s: float | None = None  # by the loop's clock, between two messages
        self._is_refused = False  # nothing more is parsed
        self._refusal: bytes | None = None  # waits for the responses to earlier requests
        self._closer: asyncio.TimerHandle | None = None  # nothing more is written
        self._discarded_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        for timer in (self.timeout_keep_alive_task, self._closer):
            if timer is not None:
                timer.cancel()
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            self._discard(len(data))
            return
        awaited_head, heads = self._awaits_head, self._heads
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
        if self._awaits_head:
            head_only = awaited_head and heads == self._heads
            if head_only or self._in_head:
                self._start_timer()
            if head_only:
                self._head_bytes += len(data)
                if self._head_bytes > self.head_bytes_max:
                    self._refuse(431, "HEADERS_TOO_LARGE", "the head of the request is too large")
        elif self._wire_bytes > self.wire_bytes_max:
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
        super().on_message_begin()
        cast(Scope, self.scope)[EXCHANGE] = self

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # `_decline` follows
        self._in_head = False
        self._head_bytes = 0
        self._stop_timer()
        hosts = 0
        for name, _ in self.headers:
            if name == b"host":
                hosts += 1
        if hosts != 1 and (hosts or self.parser.get_http_version() > "1.0"):
            self.app = _wrong_host
        elif len(self.connections) > self.connections_max:
            self.app = _too_many_connections
        super().on_headers_complete()
        self._awaits_head = False
        self._heads += 1
        self.headers = []  # what stands behind a body is no header

    def on_message_complete(self) -> None:
        if self._awaits_head:
            return  # `_decline` follows
        self._awaits_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, but for the timer: a connection has one for its life, which rings now and
        then, in place of one for each message."""
        self.server_state.total_requests += 1
        if self._closer is not None or self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._end(self._refusal)
        elif not self._in_head:
            self._idle_since_s = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._check_idle_in(self.timeout_keep_alive)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

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
        cycle = self._running
        if cycle is None or cycle.scope is not scope or cycle.more_body or cycle.disconnected:
            return None
        body = bytes(cycle.body)
        cycle.body = bytearray()
        return body

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
        lines = [b"%b: %b\r\n" % header for header in cycle.default_headers]
        end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
        cycle.response_started = cycle.response_complete = True
        self.transport.write(b"".join((STATUS_LINE[status], *lines, head, end, body)))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self._end() if cycle.more_body else self.transport.close()
        cycle.on_response()
        return True

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._too_slow)

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
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        self._stop_timer()
        body = json.dumps(Refusal(status, code, message).document()).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        refusal = head.encode("ascii") + body
        cycle: Any = self.cycle  # None before the first request
        if self._awaits_head:
            is_next = cycle is None or cycle.response_complete
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
        self._is_refused = True
        self._refusal = None
        self._stop_timer()
        if self._closer is not None or self.transport.is_closing():
            return
        self.transport.write(response)
        if not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()
            self.flow.resume_reading()
            self._closer = self.loop.call_later(_LINGER_S, self.transport.close)

    def _discard(self, size: int) -> None:
        self._discarded_bytes += size
        if self._discarded_bytes > _LINGER_BYTES_MAX:
            self.flow.pause_reading() if self._closer is None else self.transport.close()


async def _too_many_connections(scope: Any, receive: Receive, send: Send) -> None:
    await _respond_and_close(scope, send, busy("there are too many connections"))


async def _wrong_host(scope: Any, receive: Receive, send: Send) -> None:
    refusal = Refusal(400, "MALFORMED_REQUEST", "the request must have one Host header")
    await _respond_and_close(scope, send, refusal)


async def _respond_and_close(scope: Scope, send: Send, refusal: Refusal) -> None:
    request_id = f"req_{uuid.uuid4().hex}"
    await send_response(scope, send, refusal.response(request_id), request_id, close=True)


def bounded_protocol(bounds: Bounds) -> type[BoundedProtocol]:
    """Return the protocol with these bounds."""
    members = {
        "connections_max": bounds.connections_max,
        "head_bytes_max": bounds.head_bytes_max,
        "head_timeout_s": bounds.head_timeout_s,
        "wire_bytes_max": bounds.head_bytes_max + WIRE_FACTOR_MAX * bounds.body_bytes_max,
    }
    return type("ConfiguredProtocol", (BoundedProtocol,), members)
