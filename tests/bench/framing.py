"""Cutting a stream into HTTP messages, with nothing that a benchmark's own ends do not need."""

import asyncio
from typing import cast


class Framed(asyncio.Protocol):
    """One keep-alive connection. Every message must carry its length, spelt `length_name`."""

    length_name: bytes

    def __init__(self) -> None:
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand over each message that is complete; keep the rest."""
        if self._rest:
            data = self._rest + data
        start = 0
        while (head_end := data.find(b"\r\n\r\n", start)) >= 0:
            body = head_end + 4
            end = body + self._length(data, start, body)
            if end > len(data):
                break
            self.message(data, start, body, end)
            start = end
        self._rest = data[start:]

    def message(self, data: bytes, start: int, body: int, end: int) -> None:
        """One message stands in `data[start:end]`, its body from `body` on."""
        raise NotImplementedError

    def _length(self, data: bytes, start: int, body: int) -> int:
        found = data.find(self.length_name, start, body)
        if found < 0:
            raise RuntimeError(f"a message without a length: {data[start:body]!r}")
        value = found + len(self.length_name)
        return int(data[value : data.index(b"\r", value)])
