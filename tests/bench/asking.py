"""One question after another on one connection, each timed: without what a client library costs."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from tests.bench.payload import ADMIN_KEY, address

_ANSWERED_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered, and after how many seconds its last byte was there."""

    status: int
    body: bytes
    seconds: float

    def json(self) -> Any:
        """The body as a document."""
        return json.loads(self.body)


class Asker:
    """A connection with nothing on its way."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Ask, as the operator. Raises RuntimeError for what is no success."""
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self._host}",
            f"Authorization: Bearer {ADMIN_KEY}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        request = "\r\n".join([*lines, "", ""]).encode() + body
        began_s = time.perf_counter()
        async with asyncio.timeout(_ANSWERED_S):
            self._writer.write(request)
            head = await self._reader.readuntil(b"\r\n\r\n")
            answered = await self._reader.readexactly(_length(head))
        answer = Answer(int(head[9:12]), answered, time.perf_counter() - began_s)
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {answered[:500]!r}")
        return answer


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if rest else 0


@asynccontextmanager
async def asking(url: str) -> AsyncIterator[Asker]:
    """A connection to a service, until the end of the block."""
    host, port = address(url)
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield Asker(reader, writer, f"{host}:{port}")
    finally:
        writer.close()
