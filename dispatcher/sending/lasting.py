"""Connections to upstreams: quiet for hours, and never sent on twice by themselves.

A host that has gone, or a NAT that has forgotten us, is noticed by keep-alive probes within a
minute; aiohttp sets none. `TCP_USER_TIMEOUT` does the same for what was written and is not
acknowledged. It also ends a connection whose peer lives and reads nothing for so long, as a server
does that is busy with another call and has a large request waiting: so it is longer while a request
is on its way that no peer's buffer takes for certain.

What the system receives for a call is bounded too: thousands of answers that begin in one moment
are read before anybody can say that there is no room for them.
"""

import asyncio
import fcntl
import socket
import struct
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection

from dispatcher.jobs.chunks import Joined
from dispatcher.sending.connections import Handler
from dispatcher.sending.resolver import ATTEMPT, Attempt
from dispatcher.sending.response import body_of, split_head, status_of

IDLE_S: Final = 30
PROBES_S: Final = 10
PROBES: Final = 3
GONE_MS: Final = (IDLE_S + PROBES_S * PROBES) * 1000
"""After so long without a word from its host a connection is lost."""
BUSY_MS: Final = 900_000
"""So long a peer may leave a large request unread."""
_LARGE_BYTES: Final = 16 * 1024  # the smallest buffer for what is received that is in common use
_LOOK_FIRST_S: Final = 0.25
_LOOK_EVERY_S: Final = 5.0
_HEAD_BYTES_MAX: Final = 64 * 1024  # of all heads of an answer: thousands of them fit into memory
_CLOSING_S: Final = 1.0

_TCP: Final = socket.IPPROTO_TCP
# Not every system has all of these; macOS calls the first one otherwise.
_OPTIONS: Final = tuple(
    (level, getattr(socket, name), value)
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (_TCP, "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE", IDLE_S),
        (_TCP, "TCP_KEEPINTVL", PROBES_S),
        (_TCP, "TCP_KEEPCNT", PROBES),
        (_TCP, "TCP_USER_TIMEOUT", GONE_MS),
    )
    if hasattr(socket, name)
)
_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)


def keep_alive(sock: socket.socket) -> None:
    """Set what tells a quiet peer from one that has gone."""
    for level, option, value in _OPTIONS:
        sock.setsockopt(level, option, value)


@dataclass(slots=True)
class Exchange(Attempt):
    """What is known of a call while it goes on. `sent` says that a byte of its request may have
    reached the upstream; times are those of `time.perf_counter`, 0.0 for what was not reached."""

    sent: bool = False
    handler: "LastingHandler | None" = None
    transport: asyncio.Transport | None = None
    response: aiohttp.ClientResponse | None = None
    head: aiohttp.ClientResponse | None = None  # the same, where it is an answer
    early: bool = False  # the head came before the request was out
    body: bytearray = field(default_factory=bytearray)
    chunks: Joined | None = None  # instead of a body
    is_whole: bool = False  # nothing is left to come: its connection may go on
    on_sent: Callable[[], None] | None = None  # to call once
    is_test: bool = False
    address: str | None = None  # that was dialled, of a test
    connected_s: float = 0.0
    head_s: float = 0.0

    @property
    def is_reused(self) -> bool:
        """Whether its connection was used before."""
        return self.handler is not None and self.handler.is_reused

    @property
    def is_half_sent(self) -> bool:
        """Whether its answer has ended before its request was out."""
        return self.early and self.handler is not None and self.handler.early

    def begin(self, handler: Any) -> None:
        """Note the connection that it has."""
        self.connected_s = time.perf_counter()
        self.handler = handler
        self.transport = handler.transport
        if self.is_test and self.transport is not None:
            self.address = str((self.transport.get_extra_info("peername") or ("",))[0]) or None

    def write(self) -> None:
        """Note that the request is about to be written. It is not to a connection that has ended
        before: nothing goes out on it."""
        if self.transport is not None and not self.transport.is_closing():
            self.sent = True

    def written(self) -> None:
        """Note that the request has been handed over; it is out once the system has all of it."""
        transport = self.transport
        if self.on_sent is None or not self.sent or transport is None:
            return
        if transport.is_closing() or transport.get_write_buffer_size() == 0:
            on_sent, self.on_sent = self.on_sent, None
            on_sent()

    def forget(self) -> None:
        """Let go of what takes memory: the context of a connection that lives on knows this."""
        self.handler = self.transport = self.response = self.head = self.on_sent = None
        self.body, self.chunks = bytearray(), None

    async def close(self) -> None:
        """Close the connection now, whatever is left to write or to read. Whoever cancels this is
        not heeded: it ends by itself, within moments."""
        if self.transport is None or self.handler is None:
            return
        closed = self.handler.closed
        self.transport.abort()
        if self.response is not None:
            self.response.close()
        if closed is None:
            return
        try:
            await asyncio.wait((closed,), timeout=_CLOSING_S)
        except asyncio.CancelledError:
            heed_not()
        if closed.done() and not closed.cancelled():
            closed.exception()  # seen


def heed_not() -> None:
    """Take back a cancelling that was noticed."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


class LastingHandler(Handler):
    """One connection to an upstream. A body that is garbled or reset is told from one that ended,
    heads are bounded together, and an early answer is early only if it ends before its request."""

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self._head_bytes = 0
        self._looking: asyncio.TimerHandle | None = None
        self._exchange: Exchange | None = None  # whose large request is on its way

    @property
    def is_reused(self) -> bool:
        """Whether a request went before the present one."""
        return self._uses > 1

    @property
    def status(self) -> int | None:
        """The code of the status line, where one has come and its head is not complete."""
        return status_of(bytes(self._received))

    def set_response_params(self, **params: Any) -> None:
        """Prepare for a request that is about to be sent."""
        self._head_bytes = 0
        self._exchange = None
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._answered:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES_MAX:
                self._refuse("its head has too many bytes")

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take a response's head."""
        super().feed_data(data, size)
        if self.early:
            data[1].on_eof(self._ended)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note the end. One that was reset ends no body that has no other end."""
        payload = self._payload
        if exc is not None and payload is not None and not payload.is_eof():
            payload.set_exception(aiohttp.ClientPayloadError(f"Connection lost: {exc}"))
        if self._looking is not None:
            self._looking.cancel()
            self._looking = self._exchange = None
        super().connection_lost(exc)

    def wait_for_reader(self, size: int, exchange: Exchange) -> None:
        """Give the peer of a large request the time to read it."""
        if size > _LARGE_BYTES:
            self._exchange = exchange
            self._set_user_timeout(BUSY_MS)
            self._looking = self._loop.call_later(_LOOK_FIRST_S, self._look)

    def _look(self) -> None:
        """See whether the peer's host has taken the whole request: then it has no excuse left."""
        self._looking = None
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._exchange is not None:
            self._exchange.written()
        if transport.get_write_buffer_size() == 0 and _unacknowledged(transport) == 0:
            self._exchange = None
            self._set_user_timeout(GONE_MS)
        else:
            self._looking = self._loop.call_later(_LOOK_EVERY_S, self._look)

    def _set_user_timeout(self, ms: int) -> None:
        sock = None if self.transport is None else self.transport.get_extra_info("socket")
        if sock is not None and _USER_TIMEOUT is not None:
            sock.setsockopt(_TCP, _USER_TIMEOUT, ms)

    def _ended(self) -> None:
        self.early = self._is_unwritten()

    def _save_head(self) -> bool:
        """Take a head whose body is garbled: what follows is its body only where its length says
        so, and that much is there."""
        found = split_head(bytes(self._received), self, self._params)
        if found is None:
            return False
        message, rest = found
        length = message.headers.get("Content-Length", "")
        framed = length.isdecimal() and "Transfer-Encoding" not in message.headers
        is_there = framed and int(length) <= len(rest)
        self._take_head(message, body_of(message, rest[: int(length)] if is_there else None, self))
        return True


class LastingRequest(aiohttp.ClientRequest):
    """A request that says when it is written."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Begin to write."""
        exchange = ATTEMPT.get(None)
        if isinstance(exchange, Exchange):
            exchange.begin(conn.protocol)
            if self._body is None:
                exchange.write()
        return await super().send(conn)

    async def write_bytes(
        self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None
    ) -> None:
        """Write head and body."""
        exchange = ATTEMPT.get(None)
        if isinstance(exchange, Exchange):
            exchange.write()
            if exchange.handler is not None:
                declared = int(self.headers.get("Content-Length", 0))
                exchange.handler.wait_for_reader(content_length or declared, exchange)
        await super().write_bytes(writer, conn, content_length)
        if isinstance(exchange, Exchange) and exchange.on_sent is not None:
            self._body = None
            exchange.written()


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Return how many bytes the peer's host has not acknowledged yet."""
    sock = transport.get_extra_info("socket")
    try:
        (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))
    except (OSError, ValueError):
        return 0
    return int(count)
