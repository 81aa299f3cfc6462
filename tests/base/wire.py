"""HTTP/1.1 as bytes: requests however they may be framed, sent in whatever pieces, and the answers
to them."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import urlsplit

# What curl --http2 and Java's HttpClient send before their first request over http://.
H2C = (
    "Connection: Upgrade, HTTP2-Settings\r\n"
    "Upgrade: h2c\r\n"
    "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
)
OFFERS = (
    H2C,
    "connection: keep-alive, uPgRaDe\r\nUPGRADE: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "Connection: keep-alive\r\nUpgrade: a/1, b\r\nConnection: x\r\nConnection:\tupgrade\r\n",
    "Upgrade: h2c\r\nUpgrade: TLS/1.0\r\nConnection: ,, upgrade ,\r\n",
)
NO_OFFERS = (
    "Upgrade: h2c\r\n",
    "Connection: Upgrade\r\n",
    "Connection: upgrades\r\nUpgrade: x\r\n",
    "Upgrade: \r\nConnection: Upgrade\r\n",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


def request(
    target: str, body: bytes | None = None, headers: str = "", method: str | None = None
) -> bytes:
    """A request with a counted body, if any."""
    length = "" if body is None else f"Content-Length: {len(body)}\r\n"
    method = method or ("GET" if body is None else "POST")
    head = f"{method} {target} HTTP/1.1\r\nHost: r\r\n{headers}{length}\r\n"
    return head.encode() + (body or b"")


def strangely_framed(random: Random, target: str, body: bytes, headers: str = "") -> bytes:
    """A POST like any other, with or without an offer to upgrade, counted or in chunks."""
    lines = [f"{line}\r\n" for line in headers.split("\r\n") if line]
    if random.random() < 0.5:
        lines.append(random.choice(OFFERS if random.random() < 0.8 else NO_OFFERS))
    if random.random() < 0.5:
        lines.append(f"{random.choice(['Content-Length', 'content-length'])}: {len(body)}\r\n")
        framed = body
    else:
        lines.append(
            random.choice(["Transfer-Encoding: chunked\r\n", "TRANSFER-encoding:chunked\r\n"])
        )
        framed = chunked(random, body)
    random.shuffle(lines)
    return f"POST {target} HTTP/1.1\r\nHost: r\r\n{''.join(lines)}\r\n".encode() + framed


def chunked(random: Random, body: bytes) -> bytes:
    """The body in chunks of any size, with what may stand beside and behind them."""
    cuts = sorted(random.randrange(len(body) + 1) for _ in range(random.randrange(4)))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    extension = random.choice([b"", b"", b";a=b"])
    chunks = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts if part]
    trailer = random.choice([b"", b"", b"Upgrade: x\r\nConnection: Upgrade\r\n", b"Host: evil\r\n"])
    return b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"


def pieces(random: Random, data: bytes) -> list[bytes]:
    """The same bytes, cut anywhere."""
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.choice([0, 1, 4, 20])))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


async def talk(url: str, *parts: bytes, pause_s: float = 0) -> list[Answer]:
    """Send these parts, and return every answer until the server closes."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        return read(await _talk(reader, writer, parts, pause_s))
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _talk(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    parts: Iterable[bytes],
    pause_s: float,
) -> bytes:
    async with asyncio.timeout(30):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        return await reader.read()


def read(data: bytes) -> list[Answer]:
    """The answers that these bytes are; each has a Content-Length."""
    answers = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        assert first.startswith("HTTP/1.1 "), first
        headers = dict(line.lower().split(": ", 1) for line in lines)
        size = int(headers["content-length"])
        assert len(data) >= size, "an answer was cut"
        answers.append(Answer(int(first.split()[1]), headers, data[:size]))
        data = data[size:]
    return answers


def statuses(answers: Sequence[Answer]) -> list[int]:
    return [answer.status for answer in answers]
