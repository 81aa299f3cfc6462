"""A proxy before PostgreSQL that fails at the worst moments."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

COMMIT: Final = b"COMMIT\0"
Fault = Literal["answer lost", "commit lost", "half open"]
"""The next COMMIT is forwarded and its answer dropped; or dropped; or dropped while the server's
side of the connection stays open, as when a host vanishes."""


@dataclass(slots=True)
class Proxy:
    """Forwards everything, until it is told to fail."""

    host: str
    port: int
    url: str = ""
    fault: Fault | None = None
    commits_before: int = 0  # the fault
    refusing: bool = False
    refuse_after_fault: bool = False
    silent: bool = False  # what comes from now on is swallowed, and nobody hangs up
    failed: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _lingering: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        if self.refusing:
            writer.close()
            return
        server_reader, server_writer = await asyncio.open_connection(self.host, self.port)
        self._writers |= {writer, server_writer}
        answers = asyncio.create_task(_copy(server_reader, writer))
        try:
            while data := await reader.read(1 << 16):
                if self.silent:
                    continue
                if self.fault is not None and COMMIT in data and not self._passes():
                    await self._fail(data, answers, server_reader, writer, server_writer)
                    return
                server_writer.write(data)
                await server_writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            if server_writer not in self._lingering:
                server_writer.close()

    def _passes(self) -> bool:
        self.commits_before -= 1
        return self.commits_before >= 0

    async def _fail(
        self,
        data: bytes,
        answers: asyncio.Task[None],
        server_reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        fault, self.fault = self.fault, None
        self.refusing = self.refuse_after_fault
        answers.cancel()
        await asyncio.wait({answers})
        if fault == "answer lost":
            server_writer.write(data)
            await server_reader.read(1 << 16)  # the server has answered: it is committed
        elif fault == "half open":
            self._lingering.append(server_writer)
        writer.transport.abort()
        self.failed.set()

    def cut(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """A proxy before the server of `url`."""
    parts = urlsplit(url)
    proxy = Proxy(host=parts.hostname or "127.0.0.1", port=parts.port or 5432)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    user = f"{parts.username}@" if parts.username else ""
    proxy.url = urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}"))
    async with server:
        yield proxy
        proxy.cut()
        for writer in proxy._lingering:
            writer.close()
