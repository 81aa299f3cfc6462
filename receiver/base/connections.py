"""The connections of a server: how many there may be, in all and from one address, and how much is
read from each at once."""

import asyncio
import json
from typing import Any, Final

from receiver.base.budget import Budget, Tally, site_of
from receiver.base.http import busy
from receiver.base.protocol import BoundedProtocol, Bounds

# Between two messages a read is requests, which may have to wait; within a body it is bytes.
_READ_BYTES: Final = 8 * 1024
_READ_BODY_BYTES: Final = 32 * 1024

Transport = asyncio.Transport


class Connections:
    """The connections of one server, and the factory of their protocols."""

    def __init__(self, bounds: Bounds, tally: Tally) -> None:
        self.bounds = bounds
        self.tally = tally
        self.places = Budget(bounds.connections_max, bounds.peer_share)
        # One for all: what is in it is parsed, or copied, before the next read.
        self.read_buffer = memoryview(bytearray(_READ_BODY_BYTES))
        self.small_buffer = self.read_buffer[:_READ_BYTES]

    def __call__(self, **kwargs: Any) -> "_Connection":
        """Return the protocol of a new connection; the arguments are uvicorn's."""
        return _Connection(self, kwargs)

    def protocol(self, kwargs: dict[str, Any]) -> BoundedProtocol:
        """Return what speaks HTTP on a connection that is taken."""
        return BoundedProtocol(self.bounds, self._count_cut, **kwargs)

    def _count_cut(self) -> None:
        self.tally.cut += 1


class _Connection(asyncio.BufferedProtocol):
    """Takes a connection or closes it at once, and reads for it: no more at a time than it has use
    for, since what has to wait is kept."""

    __slots__ = ("_arguments", "_connections", "_peer", "_protocol")

    def __init__(self, connections: Connections, arguments: dict[str, Any]) -> None:
        self._connections = connections
        self._arguments = arguments
        self._peer = ""
        self._protocol: BoundedProtocol | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as in uvicorn
        connections = self._connections
        peername = transport.get_extra_info("peername")
        self._peer = site_of(peername[0]) if isinstance(peername, tuple) else ""
        if connections.places.take(1, self._peer):
            self._protocol = connections.protocol(self._arguments)
            self._protocol.connection_made(transport)
        else:
            connections.tally.refused += 1
            transport.write(_SURPLUS)
            transport.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        protocol, connections = self._protocol, self._connections
        if protocol is None or (protocol.awaits_request and not protocol.is_refused):
            return connections.small_buffer
        return connections.read_buffer if protocol.is_within_body else connections.small_buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._protocol is not None:
            self._protocol.data_received(bytes(self._connections.read_buffer[:nbytes]))

    def eof_received(self) -> None:
        if self._protocol is not None:
            self._protocol.eof_received()

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._protocol is not None:
            self._protocol.connection_lost(exc)
            self._protocol = None
            self._connections.places.give_back(1, self._peer)


def _surplus() -> bytes:
    refusal = busy("there are too many connections")
    body = json.dumps(refusal.document()).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **refusal.headers,
        "connection": "close",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 503 Service Unavailable\r\n{lines}\r\n".encode("ascii") + body


_SURPLUS: Final = _surplus()
