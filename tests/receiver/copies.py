"""Many copies of each completion, sent at the same time over connections that stay open: by hand,
since a whole HTTP client would take longer than the receivers that it is to press."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from receiver.testing import callback_id, signed_request

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def post_copies(
    urls: Sequence[str], secret: str, jobs: Iterable[str], copies: int
) -> Counter[str]:
    """The verdicts on `copies` of each job's completion; all of one at once, spread over the
    URLs, one job after another."""
    verdicts: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        hosts = [urls[n % len(urls)] for n in range(copies)]
        connections = [await stack.enter_async_context(_connected(url)) for url in hosts]
        for n, job in enumerate(jobs):
            request = completion(job, secret, n)
            verdicts.update(await asyncio.gather(*(_post(one, request) for one in connections)))
    return verdicts


def completion(job: str, secret: str, n: int) -> bytes:
    """A signed request, as it goes over the wire."""
    body = f'{{"jobId":"{job}","status":"completed"}}'.encode()
    headers = signed_request(body, secret, message_id=callback_id(n))
    headers |= {"Host": "receiver", "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /webhooks HTTP/1.1\r\n{head}\r\n".encode() + body


@asynccontextmanager
async def _connected(url: str) -> Any:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def _post(connection: Connection, request: bytes) -> str:
    """What the receiver took it for."""
    reader, writer = connection
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    body = await reader.readexactly(int(length))
    return body.split(b'"')[3].decode()
