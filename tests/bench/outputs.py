"""What long outputs cost: `python -m tests.bench.outputs`.

One of a gibibyte, and twenty of 100 MiB at once, through each place where they are kept: how fast,
beside a plain copy to a synced file and, for S3, beside the same library's plain upload to the same
server; what the process takes of memory meanwhile; and what it costs submits beside it.
"""

import argparse
import asyncio
import itertools
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from receiver.base.lack import raise_files_limit
from tests.bench import databases, figures, jobs, process
from tests.bench.figures import Figures
from tests.bench.jobs import JobSubmits
from tests.bench.paced import Paced
from tests.bench.process import ROOT, Dispatcher
from tests.dispatcher.blobs import s3

_MIB: Final = 1024 * 1024
_WARM_MIB: Final = 4  # before anything is measured
_PLACES: Final = ("file", "database", "s3")
_LONG: Final = "bench-long"
_HEAD: Final = (
    "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n"
    "Connection: close\r\n\r\n"
)
_BLOCK: Final = os.urandom(_MIB)
_RESET_PEAK: Final = "5"


def main() -> None:
    """Measure, print, and leave nothing behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.outputs", description=__doc__)
    parser.add_argument("--place", choices=_PLACES, action="append", help="default: all")
    parser.add_argument("--large", type=int, default=1_024, metavar="MIB", help="of the one")
    parser.add_argument("--many", type=int, default=20, metavar="N", help="at once")
    parser.add_argument("--size", type=int, default=100, metavar="MIB", help="of each of these")
    parser.add_argument("--rate", type=int, default=50, help="jobs a second beside it; 0: none")
    parser.add_argument("--seconds", type=float, default=6.0, help="for which those are measured")
    parser.add_argument("--folder", default=None, help="on the disk that is meant")
    parser.add_argument("--model", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    raise_files_limit()
    if given.model:
        _model()
        return
    for place in given.place or _PLACES:
        with tempfile.TemporaryDirectory(dir=given.folder) as directory:
            asyncio.run(_measure(place, Path(directory), given))


# --- the model, a process of its own ---


def _model() -> None:
    """Answer `/N` with N mebibytes, as fast as they are taken, and for as little CPU as there is to
    it: its cores are the dispatcher's."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        print(f"http://127.0.0.1:{server.getsockname()[1]}", flush=True)
        while True:
            peer, _ = server.accept()
            threading.Thread(target=_answer, args=(peer,), daemon=True).start()


def _answer(peer: socket.socket) -> None:
    with peer, suppress(ConnectionError):
        asked = peer.makefile("rb")
        length = 0
        while (line := asked.readline()) not in (b"", b"\r\n"):
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        count = int(asked.read(length) or b"0")
        peer.sendall(_HEAD.format(count * _MIB).encode())
        for _ in range(count):
            peer.sendall(_BLOCK)


@asynccontextmanager
async def _modelling() -> AsyncIterator[str]:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.outputs", "--model"),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert child.stdout is not None
        yield (await child.stdout.readline()).decode().strip()
    finally:
        child.terminate()
        await child.wait()


# --- measuring ---


@dataclass(frozen=True, slots=True)
class Stage:
    """A dispatcher before the model."""

    dispatcher: Dispatcher
    client: httpx.AsyncClient

    async def run(self, *sizes: int) -> tuple[float, float, float]:
        """Have outputs of so many mebibytes be kept, all at once; return how many of them a second,
        by how many the process grew meanwhile, at most, and its milliseconds of CPU for each."""
        before, cpu_s = self._reset(), self.dispatcher.cpu_s() or 0.0
        begun_s = time.perf_counter()
        ids = [await self._submitted(size) for size in sizes]
        for id in ids:
            await self._ended(id)
        took_s = time.perf_counter() - begun_s
        after = self.dispatcher.memory().peak_rss or 0
        spent_s = (self.dispatcher.cpu_s() or 0.0) - cpu_s
        return sum(sizes) / took_s, (after - before) / _MIB, 1e3 * spent_s / sum(sizes)

    def _reset(self) -> int:
        with suppress(OSError):
            Path(f"/proc/{self.dispatcher.pid}/clear_refs").write_text(_RESET_PEAK)
        return self.dispatcher.memory().rss or 0

    async def _submitted(self, size: int) -> str:
        answer = await self.client.post(f"/v1/endpoints/{_LONG}/jobs", content=str(size))
        answer.raise_for_status()
        return str(answer.json()["id"])

    async def _ended(self, id: str) -> None:
        view: dict[str, Any] = {"status": "queued"}
        while view["status"] in ("queued", "running"):
            view = (await self.client.get(f"/v1/jobs/{id}", params={"wait": "30"})).json()
        if view["status"] != "completed":
            raise RuntimeError(f"{view['status']}: {view.get('error')}")


async def _measure(place: str, folder: Path, given: argparse.Namespace) -> None:
    with ExitStack() as stack:
        database, store = f"sqlite:///{folder}/bench.db", "sqlite"
        settings: dict[str, object] = {"outputs": f"file:{folder}/outputs"}
        copy: Callable[[int], Awaitable[float]] = _Copy(folder)
        against = "a plain copy to a synced file"
        if place == "database":
            if not databases.found():
                print("database: there is no PostgreSQL here")
                return
            server = stack.enter_context(databases.serving())
            database, store = server.url("outputs"), "postgres"
            settings = {"outputs": "database"}
        elif place == "s3":
            if s3.program() is None:
                print("s3: there is no S3 server here")
                return
            bucket = stack.enter_context(s3.running(folder))
            settings = dict(bucket.settings)
            copy, against = _Upload(bucket, folder), "a plain upload"
        most = max(given.large, given.size, _WARM_MIB) * _MIB
        settings |= {
            "outputs_database_max": most,
            "tenant_storage_bytes_max": 1 << 40,
            "storage_bytes_max": 1 << 40,
        }
        async with (
            _modelling() as model,
            jobs.listening() as (short, sink),
            process.running(
                database, folder / "dispatcher.log", store=store, cores=(), **settings
            ) as dispatcher,
            dispatcher.client() as client,
        ):
            for name, url in ((jobs.ENDPOINT, short.url), (_LONG, model)):
                rules = {
                    "name": name,
                    "url": url,
                    "concurrency": jobs.PLACES,
                    "outputMax": most,
                    "timeout": "1h",
                }
                (await client.post("/v1/endpoints", json=rules)).raise_for_status()
            stage = Stage(dispatcher, client)
            await stage.run(_WARM_MIB)
            await _told(place, stage, copy, against, given)
            if given.rate:
                await _beside(place, stage, JobSubmits(dispatcher.url, sink.url), sink, given)


async def _told(
    place: str,
    stage: Stage,
    copy: Callable[[int], Awaitable[float]],
    against: str,
    given: argparse.Namespace,
) -> None:
    for sizes in ((given.large,), (given.size,) * given.many):
        before = await copy(sum(sizes))
        rate, grown, cpu_ms = await stage.run(*sizes)
        after = await copy(sum(sizes))
        base = (before + after) / 2
        print(
            f"{place}: {len(sizes)} of {sizes[0]} MiB: {rate:.0f} MiB/s, {rate / base:.2f} of "
            f"{against} ({before:.0f} and {after:.0f} MiB/s); memory + {grown:.0f} MiB, "
            f"{grown / len(sizes):.1f} a stream; CPU {cpu_ms:.2f} ms a MiB",
            flush=True,
        )


async def _beside(
    place: str, stage: Stage, submits: JobSubmits, sink: Any, given: argparse.Namespace
) -> None:
    numbers = itertools.count(1)

    async def paced() -> Figures:
        run = Paced(submits, sink, numbers)
        return figures.latency(await run.run(rate=given.rate, seconds=given.seconds))

    async def endless() -> None:
        while True:
            await stage.run(given.size)

    await paced()  # it is warm
    alone = await paced()
    going = asyncio.create_task(endless())
    beside = await paced()
    going.cancel()
    await asyncio.wait({going})
    ratio = figures.ratio(beside["acceptP99Ms"], alone["acceptP99Ms"])
    print(
        f"{place}: submits, {given.rate} a second: p50/p99 {alone['acceptP50Ms']}/"
        f"{alone['acceptP99Ms']} ms alone, {beside['acceptP50Ms']}/{beside['acceptP99Ms']} ms "
        f"beside outputs of {given.size} MiB: {ratio} times",
        flush=True,
    )


# --- what it is compared with ---


class _Copy:
    """Copies a file of so many mebibytes, synced; returns how many a second."""

    def __init__(self, folder: Path) -> None:
        self._source, self._target = folder / "source", folder / "target"

    async def __call__(self, size: int) -> float:
        return await asyncio.to_thread(self._run, size)

    def _run(self, size: int) -> float:
        _made(self._source, size)
        begun_s = time.perf_counter()
        with self._source.open("rb") as source, self._target.open("wb") as target:
            while block := source.read(_MIB):
                target.write(block)
            target.flush()
            os.fsync(target.fileno())
        took_s = time.perf_counter() - begun_s
        self._target.unlink()
        self._source.unlink()
        return size / took_s


class _Upload:
    """Uploads a file as the library does by itself."""

    def __init__(self, server: s3.S3, folder: Path) -> None:
        self._server, self._source = server, folder / "source"

    async def __call__(self, size: int) -> float:
        return await asyncio.to_thread(self._run, size)

    def _run(self, size: int) -> float:
        _made(self._source, size)
        client = self._server.client()
        begun_s = time.perf_counter()
        client.upload_file(str(self._source), s3.BUCKET, "plain")
        took_s = time.perf_counter() - begun_s
        client.delete_object(Bucket=s3.BUCKET, Key="plain")
        self._source.unlink()
        return size / took_s


def _made(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(size):
            file.write(_BLOCK)
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
