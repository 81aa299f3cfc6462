"""Serving an ASGI application as a process: listen, take signals, drain, leave; and uvicorn's HTTP
protocol with the bounds it lacks, on the size of a head, the time that it takes to arrive, and the
bytes of one message on the wire."""

import asyncio
import gc
import json
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from types import FrameType
from typing import Any, Final, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from receiver.base.http import EXCHANGE, Receive, Refusal, Scope, Send, busy, send_response

BACKLOG: Final = 2048  # connections the kernel holds while we are busy; uvicorn's own default
# Chunked framing costs up to 6 bytes for one of the body; more is padding, or endless trailers.
WIRE_FACTOR_MAX: Final = 8
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_DATE_S: Final = 1.0  # how often the responses' Date header is made again
_TICKS_PER_DATE: Final = 10  # as uvicorn counts
_CLOSE_S: Final = 0.1  # for connections to close where there is no time to finish anything
_CLOSED_POLL_S: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much one service takes: connections, bytes of a head and seconds until it is there,
    and bytes of a body, for which framing may take `WIRE_FACTOR_MAX` times as many."""

    connections_max: int
    head_bytes_max: int
    head_timeout_s: float
    body_bytes_max: int


class CannotListen(Exception):
    """The address cannot be listened on; the message says why, in one line."""


class Server(uvicorn.Server):
    """uvicorn's server; announces itself, leaves signals to `signals`, and stops when it is told
    to, where uvicorn's polls ten times a second."""

    def __init__(self, config: uvicorn.Config, *, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Take no more connections, finish the requests in flight, and leave `serve`. For any
        thread, and for signal handlers."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self._on_listening()

    async def main_loop(self) -> None:
        tick = 0
        while not await self.on_tick(tick):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _DATE_S)
            tick += _TICKS_PER_DATE

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown or _CLOSE_S):
                # A connection notifies nobody when it is closed.
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110
                    await asyncio.sleep(_CLOSED_POLL_S)
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's raises the signal again on leaving, before anything could be closed.
        yield

    @contextmanager
    def signals(self, on_stopping: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Inside, the first SIGINT or SIGTERM calls `on_stopping` and drains; a second one ends
        the process at once, which is safe: what was acknowledged is on disk."""

        def stop(number: int, _frame: FrameType | None) -> None:
            if self.should_exit:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            on_stopping()
            self.stop()

        previous = {number: signal.signal(number, stop) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def config(app: Any, bounds: Bounds, *, keep_alive_s: float, drain_s: float) -> uvicorn.Config:
    """Return uvicorn's configuration for `app`, whose lifespan is the caller's affair."""
    return uvicorn.Config(
        app,
        http=bounded_protocol(bounds),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=round(keep_alive_s),
        timeout_graceful_shutdown=round(drain_s),
        backlog=BACKLOG,
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises CannotListen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        # create_server() adds the address to the text, where it stands already.
        reason = (getattr(error, "strerror", None) or "not an address").partition(" (")[0]
        raise CannotListen(f"cannot listen on {host}:{port}: {reason}") from None


def url_of(listener: socket.socket) -> str:
    """Return the URL that a socket listens at."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def tune_gc() -> None:
    """Make garbage collection rarer; call it when everything is set up. Requests make many objects
    and few cycles: at Python's own thresholds looking for cycles took 25 to 60 µs of CPU from each
    of the dispatcher's deliveries (measured at saturation, of some 350)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, where there is one for this platform."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


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
        """As uvicorn's, but for the timer: a connection has one for its life, which rings now and
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
            self._check_idle_in(self.timeout_keep_alive)

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


def bounded_protocol(bounds: Bounds) -> type[BoundedProtocol]:
    """Return the protocol with these bounds."""
    members = {
        "connections_max": bounds.connections_max,
        "head_bytes_max": bounds.head_bytes_max,
        "head_timeout_s": bounds.head_timeout_s,
        "wire_bytes_max": bounds.head_bytes_max + WIRE_FACTOR_MAX * bounds.body_bytes_max,
    }
    return type("ConfiguredProtocol", (BoundedProtocol,), members)
