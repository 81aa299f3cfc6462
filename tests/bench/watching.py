"""What it costs others that jobs are followed: `python -m tests.bench.watching`.

Jobs whose upstream answers in chunks, each followed by several, beside a steady rate of other jobs
with their callbacks: these once without anybody who follows, and without streams, once beside
streams that nobody follows, and once beside all of it. Load generator, model and sink are one
process, those who follow another: what they spend on reading would else look like lateness of the
callbacks.
"""

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import httpx

from receiver.base.lack import raise_files_limit
from tests.bench import figures, jobs, process
from tests.bench.figures import Figures
from tests.bench.jobs import JobSubmits
from tests.bench.paced import Paced
from tests.bench.payload import ADMIN_KEY, address
from tests.bench.process import ROOT, Dispatcher

_STREAM: Final = "bench-stream"
_CHUNK: Final = b'{"token": "a few words of it, %d"}'
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
_MIB: Final = 1024 * 1024
_READ_BYTES: Final = 64 * 1024
_BETWEEN_S: Final = 0.01
_NICE: Final = 10  # those who follow are other machines


def main() -> None:
    """Measure, print, and leave nothing behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.watching", description=__doc__)
    parser.add_argument("--jobs", type=int, default=50, metavar="N", help="that stream")
    parser.add_argument("--watchers", type=int, default=500, metavar="N", help="of all of them")
    parser.add_argument("--chunks", type=float, default=4.0, help="of each job, a second")
    parser.add_argument("--rate", type=int, default=100, help="other jobs a second")
    parser.add_argument("--seconds", type=float, default=8.0, help="for which each is measured")
    parser.add_argument("--follow", metavar="URL", help=argparse.SUPPRESS)
    given = parser.parse_args()
    raise_files_limit()
    asyncio.run(_follow(given) if given.follow else _measure(given))


@dataclass(slots=True)
class Streams:
    """A model that answers in chunks until it is told to end."""

    every_s: float
    url: str = ""
    open: int = 0
    sent: int = 0
    over: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        await reader.readexactly(length)
        writer.write(_HEAD)
        self.open += 1
        for number in itertools.count():
            if self.over:
                break
            writer.write(b"data: " + _CHUNK % number + b"\n\n")
            await writer.drain()
            self.sent += 1
            await asyncio.sleep(self.every_s)
        writer.close()


@asynccontextmanager
async def streaming(every_s: float) -> AsyncIterator[Streams]:
    """A running one."""
    made = Streams(every_s)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/run"
    try:
        yield made
    finally:
        made.over = True
        server.close()


@dataclass(slots=True)
class Watchers:
    """Connections that follow jobs, and what came of it."""

    events: int = 0
    ended: int = 0
    refused: int = 0

    async def follow(self, url: str, id: str) -> None:
        """Read all events of a job."""
        host, port = address(url)
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(
            f"GET /v1/jobs/{id}/events HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Authorization: Bearer {ADMIN_KEY}\r\nConnection: close\r\n\r\n".encode()
        )
        while data := await reader.read(_READ_BYTES):
            self.events += data.count(b"event: output")
            self.ended += data.count(b"event: end")
            self.refused += data.startswith(b"HTTP/1.1") and not data.startswith(b"HTTP/1.1 200")
        writer.close()


async def _follow(given: argparse.Namespace) -> None:
    """Follow the jobs whose ids are on the first line, until their ends; say when all do, and what
    came of it."""
    os.nice(_NICE)
    ids = json.loads(sys.stdin.readline())
    watchers = Watchers()
    following = []
    for n in range(given.watchers):  # not all in one moment: so many reads may wait
        follow = watchers.follow(given.follow, ids[n % len(ids)])
        following.append(asyncio.create_task(follow))
        await asyncio.sleep(_BETWEEN_S)
    print("all follow", flush=True)
    await asyncio.gather(*following)
    print(json.dumps(asdict(watchers)), flush=True)


@dataclass(frozen=True, slots=True)
class Audience:
    """The process of those who follow."""

    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, url: str, ids: list[str], count: int) -> "Audience":
        """Start it, and return once all follow."""
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.watching", "--follow", url),
            *("--watchers", str(count)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        made = cls(child)
        if child.stdin is not None:
            child.stdin.write(json.dumps(ids).encode() + b"\n")
        await made.line()
        return made

    async def line(self) -> str:
        """Return what it says next."""
        if self.process.stdout is None:
            raise RuntimeError("it has no output")
        return (await self.process.stdout.readline()).decode()

    async def end(self) -> Watchers:
        """Return what came of it; the streams are over."""
        found = Watchers(**json.loads(await self.line()))
        await self.process.wait()
        return found


async def _measure(given: argparse.Namespace) -> None:
    numbers = itertools.count(1)
    with tempfile.TemporaryDirectory() as directory:
        database = f"sqlite:///{directory}/bench.db"
        log_path = Path(directory) / "dispatcher.log"
        async with (
            jobs.listening() as (model, sink),
            streaming(1 / given.chunks) as streams,
            process.running(
                database,
                log_path,
                store="sqlite",
                cores=(),
                connections_max=1_000 + 4 * given.watchers,  # an address has half of them
                waiters_max=4 * given.watchers,
            ) as dispatcher,
            dispatcher.client() as client,
        ):
            for name, url in ((jobs.ENDPOINT, model.url), (_STREAM, streams.url)):
                rules = {"name": name, "url": url, "concurrency": jobs.PLACES, "timeout": "1h"}
                (await client.post("/v1/endpoints", json=rules)).raise_for_status()

            async def paced() -> Figures:
                run = Paced(JobSubmits(dispatcher.url, sink.url), sink, numbers)
                return figures.latency(await run.run(rate=given.rate, seconds=given.seconds))

            await paced()  # it is warm
            await _told("alone", dispatcher, given, paced())
            ids = [await _submitted(client) for _ in range(given.jobs)]
            while streams.open < given.jobs:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await _told(f"beside {given.jobs} streams", dispatcher, given, paced())
            audience = await Audience.start(dispatcher.url, ids, given.watchers)
            await asyncio.sleep(2.0)
            name = f"beside {given.watchers} watchers of {given.jobs} streams"
            await _told(name, dispatcher, given, paced())
            await _told(f"{name}, again", dispatcher, given, paced())
            streams.over = True
            watchers = await audience.end()
            expected = streams.sent * given.watchers // given.jobs
            print(
                f"{streams.sent:,} chunks, {watchers.events:,} events of {expected:,}, "
                f"{watchers.ended:,} ends of {given.watchers:,}, {watchers.refused:,} refused"
            )


async def _submitted(client: httpx.AsyncClient) -> str:
    answer = await client.post(f"/v1/endpoints/{_STREAM}/jobs", content=b"{}")
    answer.raise_for_status()
    return str(answer.json()["id"])


async def _told(
    name: str, dispatcher: Dispatcher, given: argparse.Namespace, measured: Awaitable[Figures]
) -> None:
    cpu_s, began_s = dispatcher.cpu_s(), time.monotonic()
    found = await measured
    after_s = dispatcher.cpu_s()
    share = None if cpu_s is None or after_s is None else after_s - cpu_s
    share = None if share is None else share / (time.monotonic() - began_s)
    memory = dispatcher.memory().rss
    print(
        f"{name}: {given.rate} jobs/s, accepted p50/p99 {found['acceptP50Ms']}/"
        f"{found['acceptP99Ms']} ms, told {found['arrivalP50Ms']}/{found['arrivalP99Ms']} ms, "
        f"load generator late by {found['generatorLateP99Ms']} ms, "
        f"CPU {'?' if share is None else f'{share:.0%}'} of a core, "
        f"{'?' if memory is None else memory // _MIB} MiB"
    )


if __name__ == "__main__":
    main()
