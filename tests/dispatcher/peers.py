"""Destinations on loopback sockets, well-behaved and hostile, and deliveries to send them."""

import asyncio
import ipaddress
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from dispatcher.policy import Policy
from dispatcher.sending.sender import Sender
from dispatcher.sending.trust import authorities
from dispatcher.settings import Settings
from dispatcher.signing import Secrets
from dispatcher.values import Delivery

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
SECRETS = Secrets(current="whsec_dGVzdC1zZWNyZXQtb2YtdGhpcnR5LXR3by1ieXRlcyE=")


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came in, headers in their order and spelling."""

    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case."""
        found = (value for key, value in self.headers if key.lower() == name.lower())
        return next(found, None)

    @property
    def as_dict(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers}


@dataclass(slots=True)
class Peer:
    """A listening destination, and what has happened to it."""

    port: int = 0
    scheme: str = "http"
    connections: int = 0
    written: int = 0
    received: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook"

    async def receive(self, reader: asyncio.StreamReader) -> Received | None:
        """The next request, or None when the other side has gone."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *lines = head[:-4].split("\r\n")
            headers = tuple((name, value) for name, _, value in (h.partition(": ") for h in lines))
            request = Received(line, headers, b"")
            size = int(request.header("content-length") or "0")
            request = replace(request, body=await reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self.received.append(request)
        return request


Behaviour = Callable[[Peer, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(
    behaviour: Behaviour, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Peer]:
    """A peer that treats each connection with `behaviour`, until the end of the block."""
    peer = Peer(scheme="https" if tls else "http")
    running: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        peer.connections += 1
        try:
            with suppress(ConnectionError, asyncio.CancelledError):
                await behaviour(peer, reader, writer)
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    peer.port = server.sockets[0].getsockname()[1]
    try:
        yield peer
    finally:
        server.close()
        for task in tuple(running):
            task.cancel()
        if running:
            await asyncio.wait(tuple(running))


def answers(*raw: bytes) -> Behaviour:
    """Answers each request with the next of `raw` (the last one again and again), keeping the
    connection open."""

    async def behave(
        peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while await peer.receive(reader) is not None:
            writer.write(raw[min(len(peer.received), len(raw)) - 1])

    return behave


def answers_and_closes(raw: bytes) -> Behaviour:
    """Answers with `raw` and ends the connection."""

    async def behave(
        peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await peer.receive(reader)
        writer.write(raw)
        await writer.drain()

    return behave


def drips(start: bytes, drop: bytes) -> Behaviour:
    """Answers `start` and then `drop` every few milliseconds, without an end."""

    async def behave(
        peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await peer.receive(reader)
        writer.write(start)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(0.01)

    return behave


def floods(start: bytes, wave: bytes) -> Behaviour:
    """Answers `start` and then `wave` as fast as it is taken, without an end."""

    async def behave(
        peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await peer.receive(reader)
        writer.write(start)
        while True:
            writer.write(wave)
            await writer.drain()
            peer.written += len(wave)

    return behave


async def silent(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the request and never answers."""
    await peer.receive(reader)
    await asyncio.Event().wait()


async def deaf(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accepts the connection and never reads from it."""
    await asyncio.Event().wait()


async def hangs_up(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the request and closes without an answer."""
    await peer.receive(reader)


async def resets_at_once(
    peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Resets the connection as soon as it is there."""
    _reset(writer)


def resets_after(raw: bytes) -> Behaviour:
    """Takes the request, answers `raw` and resets the connection."""

    async def behave(
        peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await peer.receive(reader)
        writer.write(raw)
        await writer.drain()
        _reset(writer)

    return behave


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer(status: str, *headers: str, body: bytes = b"") -> bytes:
    """A complete answer, with its length."""
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""])
    return head.encode("latin-1") + body


@asynccontextmanager
async def sending(
    *,
    tls: ssl.SSLContext | None = None,
    lookup: Callable[[str], Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Sender]:
    """An open sender that may reach loopback, unless `settings` say otherwise."""
    settings = {"allow_networks": (LOOPBACK,)} | settings
    extra: dict[str, Any] = {} if lookup is None else {"lookup": lookup}
    chosen = Settings(**settings)
    sender = Sender(chosen, tls=tls or authorities(chosen), **extra)
    await sender.open()
    try:
        yield sender
    finally:
        await sender.close()


def delivery(url: str, **changes: Any) -> Delivery:
    """A delivery to `url`; with `timeout` (seconds) in its policy."""
    policy = Policy(attempts=1, timeout=changes.pop("timeout", 10.0))
    fields: dict[str, Any] = {
        "id": "cb_0190f3a1b2c3d4e5f60718293a4b5c6d",
        "tenant": "default",
        "job_id": "job_1",
        "destination": "ds_1",
        "registered": False,
        "url": url,
        "body": b'{"jobId": "job_1",  "status":"completed"}',
        "content_type": "application/json",
        "headers": (),
        "policy": policy,
        "fence": 1,
        "attempt": 1,
        "tries": 0,
        "created_ms": 0,
        "expires_ms": 2**53,
        "high": False,
    }
    return Delivery(**fields | changes)
