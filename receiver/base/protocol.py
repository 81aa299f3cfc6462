"""uvicorn's HTTP protocol with the bounds it lacks: on the size of a head, the time it takes to
arrive, and the bytes of one message on the wire; and with our shape of error."""

import asyncio
import json
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
)

from receiver.base.http import EXCHANGE, Receive, Refusal, Scope, Send, busy, send_response

# Chunked framing costs up to 6 bytes for one of the body; more is padding, or endless trailers.
WIRE_FACTOR_MAX = 8


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that is too large or too slow. `bounded_protocol` sets the bounds."""

    connections_max: int
    head_bytes_max: int
    head_timeout_s: float
    wire_bytes_max: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._heads = 0
        self._head_bytes = 0
        self._wire_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_since_s: float | None = None  # by the loop's clock, between two messages

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        in_head, heads = self._in_head, self._heads
        super().data_received(data)
        self._wire_bytes += len(data)
        if self._wire_bytes > self.wire_bytes_max:
            self.transport.close()
        elif in_head and self._in_head and heads == self._heads:
            self._head_bytes += len(data)
            self._start_timer()
            if self._head_bytes > self.head_bytes_max:
                self._refuse(431, "HEADERS_TOO_LARGE", "the head of the request is too large")

    def on_message_begin(self) -> None:
        self._wire_bytes = 0
        super().on_message_begin()
        cast(Scope, self.scope)[EXCHANGE] = self

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._heads += 1
        self._head_bytes = 0
        self._stop_timer()
        if len(self.connections) > self.connections_max:
            self.app = _too_many_connections
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, but for the timer: a connection has one for its life, which looks now and
        then, in place of one for each message."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again_in(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since_s = None

    def _look_again_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._look_at_idleness)

    def _look_at_idleness(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since_s is None:
            return  # at work: the timer is set again with its answer
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._look_again_in(left_s)
        else:
            self.timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "MALFORMED_REQUEST", msg)

    def whole_body(self, scope: Scope) -> bytes | None:
        """For an `Exchange`: what `RequestResponseCycle.receive` would give now."""
        cycle = self.cycle
        if cycle.scope is not scope or cycle.more_body or cycle.disconnected:
            return None
        body = bytes(cycle.body)
        cycle.body = bytearray()
        return body

    def respond(self, scope: Scope, status: int, head: bytes, body: bytes, *, close: bool) -> bool:
        """For an `Exchange`: as `RequestResponseCycle.send` does it with two events."""
        cycle = self.cycle
        if cycle.scope is not scope or cycle.response_started or scope["method"] == "HEAD":
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
            self.transport.close()
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
        self._refuse(408, "REQUEST_TIMEOUT", "the head of the request did not arrive in time")

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps(Refusal(status, code, message).document()).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()


async def _too_many_connections(scope: Any, receive: Receive, send: Send) -> None:
    request_id = f"req_{uuid.uuid4().hex}"
    response = busy("there are too many connections").response(request_id)
    await send_response(scope, send, response, request_id, close=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much one service takes: connections, bytes of a head and seconds until it is there,
    and bytes of a body, for which framing may take `WIRE_FACTOR_MAX` times as many."""

    connections_max: int
    head_bytes_max: int
    head_timeout_s: float
    body_bytes_max: int


def bounded_protocol(bounds: Bounds) -> type[BoundedProtocol]:
    """Return the protocol with these bounds."""
    members = {
        "connections_max": bounds.connections_max,
        "head_bytes_max": bounds.head_bytes_max,
        "head_timeout_s": bounds.head_timeout_s,
        "wire_bytes_max": bounds.head_bytes_max + WIRE_FACTOR_MAX * bounds.body_bytes_max,
    }
    return type("ConfiguredProtocol", (BoundedProtocol,), members)
