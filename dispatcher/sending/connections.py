"""Connections to destinations: guarded when dialled, limited while they answer.

What aiohttp leaves open is closed here: floods of informational answers, bytes that nobody asked
for, and idle connections to ever more hosts. And what it throws away is kept: a complete head, when
what comes with it or after it is garbled, and whether it came before the request was
written.
"""

import asyncio
import errno
import functools
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any, Final, Protocol, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from aiohttp.streams import StreamReader

from dispatcher.sending.resolver import ATTEMPT
from dispatcher.sending.response import HEAD_BYTES_MAX, find_head
from receiver.base.lack import OwnLack, Uplink, has_no_route, is_routed, lack_of

# Under the 5 s after which uvicorn and Node close an idle connection: we close it first, so that
# a delivery seldom meets one that is just being closed.
KEEPALIVE_S: Final = 4.0
# Idle connections save busy hosts their handshakes; more hosts than this are not all busy.
_IDLE_HOSTS_MAX: Final = 256
# So long a peer may take to say goodbye over TLS, where Python gives it 30 s.
_TLS_CLOSE_S: Final = 1.0
_COUNT_EVERY: Final = 64  # releases: idle connections are not counted at each
# Common servers send one 100 or 103, if any.
_INFORMATIONAL_MAX: Final = 8
# A connection that the peer had closed already shows it within a round trip. One that ends later
# may well have been handling the request.
_STALE_S: Final = 1.0


Prepare: TypeAlias = Callable[[socket.socket], None]
"""Sets options of a socket that is about to be dialled."""


class Guard(Protocol):
    """Judges what is about to be dialled."""

    def refuses(self, address: str, port: int) -> str | None:
        """Why this IP address must not be dialled at this port, or None if it may be."""


NOT_ALLOWED: Final = " is not allowed: "
"""What stands in each of these errors."""


class AddressRefused(OSError):
    """The egress guard does not let this address be dialled."""


class StaleConnection(aiohttp.ServerDisconnectedError):
    """A reused connection was closed by the peer, right away and without a byte of an answer."""


class Handler(ResponseHandler):
    """One connection. Knows whether it was used before, whether the peer has answered, and whether
    it did so before it had the whole request."""

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self.early = False
        self._uses = 0
        self._silent = True
        self._informational = 0
        self._requested_s = 0.0
        self._written = False
        self._answered = False
        self._received: bytes | bytearray = b""  # until the head is there
        self._params: dict[str, Any] = {}

    def set_response_params(self, **params: Any) -> None:
        """Prepare for a request that is about to be sent."""
        self._uses += 1
        self._silent = True
        self._informational = 0
        self._requested_s = self._loop.time()
        self._written = self._answered = self.early = False
        self._received = b""
        self._params = params
        if self._buffer or self._tail:
            # An answer before the question must not be taken for the answer to it.
            self._buffer.clear()
            self._tail = b""
            super().set_exception(StaleConnection("the peer sent an answer unasked"))
            if self.transport is not None:
                self.transport.close()
            return
        super().set_response_params(**params)

    def start_timeout(self) -> None:
        """Note that the request has been handed over whole: then aiohttp calls this."""
        self._written = True
        super().start_timeout()

    def data_received(self, data: bytes) -> None:
        self._silent = False
        if not self._answered:
            if not self._received:
                self._received = data
            elif len(self._received) < HEAD_BYTES_MAX:
                if isinstance(self._received, bytes):
                    self._received = bytearray(self._received)
                self._received += data
        super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take a response's head, unless too many informational ones came before it."""
        if data[0].code < 200:
            self._informational += 1
        else:
            self.early = self._is_unwritten()
            if self.early:
                self.force_close()  # what is left to write of this request must be no other's
            self._answered = True
            self._received = b""
        if self._informational > _INFORMATIONAL_MAX:
            self._refuse("too many informational answers")
        else:
            super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        if isinstance(exc, HttpProcessingError):
            if not self._answered and self._save_head():
                return
            if self._answered and self._payload is not None and not self._payload.is_eof():
                self._payload.set_exception(aiohttp.ClientPayloadError(str(exc)))
        disconnected = isinstance(exc, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError))
        if disconnected and self._uses > 1 and self._silent and self._closed_at_once():
            exc = StaleConnection(str(exc))
        super().set_exception(exc, *cause)

    def close(self) -> None:
        """Close the connection, at once in the middle of a request or of an answer: nobody waits
        for it any more, and a peer that does not read would keep socket and request for ever."""
        if self._is_at_rest():
            super().close()
        else:
            self.abort()

    def _is_at_rest(self) -> bool:
        if not self._answered or self._is_unwritten():
            return False
        return self._payload is None or self._payload.is_eof()

    def _save_head(self) -> bool:
        """Take a head that is complete, with what came after it as it came; whether there is one.
        The connection has been closed: nothing tells where the answer ends."""
        found = find_head(bytes(self._received), self, self._params)
        if found is None:
            return False
        self._take_head(*found)
        return True

    def _take_head(self, message: RawResponseMessage, payload: StreamReader) -> None:
        self._should_close = True
        self._parser = None
        self._payload = payload
        self.feed_data((message, payload))

    def _is_unwritten(self) -> bool:
        """Whether something of the request has not been handed to the system."""
        if self.transport is None or not self._written:
            return True
        return self.transport.get_write_buffer_size() > 0

    def _closed_at_once(self) -> bool:
        return self._loop.time() - self._requested_s <= _STALE_S

    def _refuse(self, reason: str) -> None:
        if self._exception is None:
            super().set_exception(BadHttpMessage(reason))
        if self.transport is not None:
            self.transport.abort()


class Response(aiohttp.ClientResponse):
    """An answer that knows whether it came before the request was written."""

    @property
    def early(self) -> bool:
        """Ask before anything else is awaited: then its connection may have the next request."""
        return isinstance(self._protocol, Handler) and self._protocol.early


class Connector(aiohttp.TCPConnector):
    """Dials what `egress` lets through; without one (behind a proxy) it dials what it is told.

    Has no limit of its own: only the engine's slots limit (D8). What we lack ourselves to connect
    is raised as OwnLack. An attempt dials `dials_max` addresses at once; about `idle_max` idle
    connections are kept. `prepare` is given each socket, before it is dialled.
    """

    def __init__(
        self,
        *,
        egress: Guard | None,
        resolver: AbstractResolver,
        reuse: bool,
        tls: ssl.SSLContext | None,
        uplink: Uplink,
        dials_max: int,
        idle_max: int,
        prepare: Prepare | None = None,
        handler: type[Handler] = Handler,
    ) -> None:
        super().__init__(
            resolver=resolver,
            use_dns_cache=False,  # the resolver keeps its own
            ssl=True if tls is None else tls,
            limit=0,
            limit_per_host=0,
            socket_factory=None if egress is None else functools.partial(_dialled, egress, prepare),
            force_close=not reuse,
            keepalive_timeout=KEEPALIVE_S if reuse else None,
        )
        made: type[ResponseHandler] = handler
        self._factory = functools.partial(made, loop=self._loop)
        self._ssl_shutdown_timeout = _TLS_CLOSE_S  # its parameter is deprecated
        self._uplink = uplink
        self._dials_max = dials_max
        self._idle_max = idle_max
        self._released = 0
        self._is_full = False

    async def _wrap_create_connection(
        self, *args: Any, addr_infos: list[Any], **named: Any
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        dialled = at_once(addr_infos, self._dials_max)
        try:
            return await super()._wrap_create_connection(*args, addr_infos=dialled, **named)
        except aiohttp.ClientConnectorError as error:
            lack = self._lack_of(error.os_error, dialled)
            if lack is None:
                raise
            if lack == "descriptors":
                self._close_idle()
            raise OwnLack(lack, str(error.os_error)) from error

    def _lack_of(self, error: OSError, dialled: Sequence[Any]) -> str | None:
        """Return what kept us from dialling, where that can be told from what is the peer's: no
        port of ours for an address that we could send to, no way out at all."""
        if error.errno == errno.EADDRNOTAVAIL:
            routed = all(is_routed(info[0], str(info[4][0])) for info in dialled)
            return "ports" if routed else None
        if has_no_route(error) and self._uplink.is_down():
            return "network"
        return lack_of(error)

    def _close_idle(self) -> None:
        idle, self._conns = self._conns, type(self._conns)(self._conns.default_factory)
        for protocol, _ in chain.from_iterable(idle.values()):
            protocol.close()

    async def close(self, *, abort_ssl: bool = True) -> None:
        """Close every connection, without goodbyes."""
        await super().close(abort_ssl=abort_ssl)

    async def connect(self, *args: Any, **named: Any) -> Any:
        """Return a connection; until there is one the attempt is `connecting`."""
        attempt = ATTEMPT.get(None)
        if attempt is None:
            return await super().connect(*args, **named)
        attempt.connecting = True
        connection = await super().connect(*args, **named)
        attempt.connecting = False
        return connection

    def _release(
        self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False
    ) -> None:
        self._released += 1
        if self._released % _COUNT_EVERY == 0:
            self._is_full = sum(map(len, self._conns.values())) >= self._idle_max
        crowded = len(self._conns) >= _IDLE_HOSTS_MAX and key not in self._conns
        crowded = crowded or self._is_full
        super()._release(key, protocol, should_close=should_close or crowded)


def at_once(addr_infos: list[Any], most: int) -> list[Any]:
    """Return the addresses to dial first: `most` of them, of each family in turn."""
    if len(addr_infos) <= most:
        return addr_infos
    families: dict[int, list[Any]] = {}
    for info in addr_infos:
        families.setdefault(info[0], []).append(info)
    in_turn = chain.from_iterable(zip_longest(*families.values()))
    return [info for info in in_turn if info is not None][:most]


def _dialled(guard: Guard, prepare: Prepare | None, info: Any) -> socket.socket:
    made = _guarded(guard, info)
    if prepare is not None:
        prepare(made)
    return made


def _guarded(guard: Guard, info: Any) -> socket.socket:
    family, kind, proto, _, address = info
    reason = guard.refuses(str(address[0]), address[1])
    if reason is not None:
        raise AddressRefused(f"{address[0]}{NOT_ALLOWED}{reason}")
    return socket.socket(family, kind, proto)
