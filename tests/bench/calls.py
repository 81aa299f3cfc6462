"""What calls of upstreams cost: `python -m tests.bench.calls`.

Memory and CPU of calls that are open and wait, and the CPU of a call that is answered at once with
1 KiB, beside a bare POST by the same HTTP client. The calls alone: no store, no engine.
"""

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import aiohttp
import uvloop

from dispatcher.sending.upstream import Upstreams
from receiver.base.lack import raise_files_limit
from tests.bench.process import ROOT
from tests.dispatcher.certificates import server_context, trusting
from tests.dispatcher.peers import SECRETS
from tests.dispatcher.upstreams import call, calling

_WARM: Final = 50
_WAVE: Final = 100
_AT_ONCE: Final = 32
_BODY_BYTES: Final = 1_024


def main() -> None:
    """Measure, print, and leave nothing behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.calls", description=__doc__)
    parser.add_argument("--open", type=int, default=2_000, metavar="N", help="calls that wait")
    parser.add_argument("--calls", type=int, default=20_000, metavar="N", help="calls answered")
    parser.add_argument("--seconds", type=float, default=5.0, help="for which the idle are watched")
    parser.add_argument("--settle", type=float, default=2.0, help="seconds before each look")
    given = parser.parse_args()
    raise_files_limit()
    for tls in (False, True):
        print(uvloop.run(_open(given, tls=tls)))
    print(uvloop.run(_answered(given.calls)))


@contextmanager
def serving(*arguments: str) -> Iterator[int]:
    """A model server as a process of its own; its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.model", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if process.stdout is None:
            raise RuntimeError("a child's output is read through a pipe")
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate()


async def _open(given: argparse.Namespace, *, tls: bool) -> str:
    """What so many calls take that wait for an answer."""
    with tempfile.TemporaryDirectory() as directory:
        _, certificate = server_context(Path(directory))
        arguments = ("--tls", str(Path(directory) / "server.pem")) if tls else ()
        with serving(*arguments) as port:
            scheme = "https" if tls else "http"
            url = f"{scheme}://127.0.0.1:{port}/silent"
            async with calling(tls=trusting(certificate) if tls else None) as upstreams:
                each, idle = await _watched(upstreams, url, given)
    return (
        f"{given.open:,} open calls{' over TLS' if tls else ''}: {each / 1024:.1f} KiB each, "
        f"{idle * 100:.3f} % of a core while nothing comes"
    )


async def _watched(
    upstreams: Upstreams, url: str, given: argparse.Namespace
) -> tuple[float, float]:
    count, seconds = given.open, given.seconds
    tasks = [_begun(upstreams, url) for _ in range(_WARM)]
    await asyncio.sleep(given.settle)
    gc.collect()
    before = _rss_bytes()
    for begun in range(0, count, _WAVE):
        tasks += [_begun(upstreams, url) for _ in range(min(_WAVE, count - begun))]
        await asyncio.sleep(0.2)
    await asyncio.sleep(given.settle)
    gc.collect()
    each = (_rss_bytes() - before) / count
    cpu_s = time.process_time()
    await asyncio.sleep(seconds)
    idle = (time.process_time() - cpu_s) / seconds
    for task in tasks:
        if task.done():
            raise RuntimeError(f"a call ended: {task.result()}")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks)
    return each, idle


def _begun(upstreams: Upstreams, url: str) -> "asyncio.Task[object]":
    body = os.urandom(_BODY_BYTES // 2).hex().encode()  # none shares its input with another
    return asyncio.create_task(upstreams.call(call(url, body=body, limit_s=3_600, secrets=SECRETS)))


async def _answered(count: int) -> str:
    """CPU of a call, pooled and fresh, beside a bare POST."""
    body = b"x" * _BODY_BYTES
    with serving() as port:
        url = f"http://127.0.0.1:{port}/"
        async with calling() as upstreams, aiohttp.ClientSession(auto_decompress=False) as session:

            async def bare() -> None:
                async with session.post(url, data=body) as response:
                    await response.read()

            async def ours(*, once: bool, signed: bool = True) -> None:
                secrets = SECRETS if signed else None
                made = call(url, body=body, limit_s=60, once=once, secrets=secrets)
                outcome = await upstreams.call(made)
                if outcome.kind != "answered":
                    raise RuntimeError(f"a call was not answered: {outcome}")

            found = {
                "bare POST": await _each_us(bare, count),
                "call": await _each_us(lambda: ours(once=False), count),
                "call, unsigned": await _each_us(lambda: ours(once=False, signed=False), count),
                "call on a fresh connection": await _each_us(lambda: ours(once=True), count // 4),
            }
    return "CPU, µs each: " + ", ".join(f"{name} {us:.0f}" for name, us in found.items())


async def _each_us(work: Callable[[], Awaitable[None]], count: int) -> float:
    async def several(times: int) -> None:
        for _ in range(times):
            await work()

    await asyncio.gather(*(several(10) for _ in range(_AT_ONCE)))
    cpu_s = time.process_time()
    await asyncio.gather(*(several(count // _AT_ONCE) for _ in range(_AT_ONCE)))
    return (time.process_time() - cpu_s) / (count // _AT_ONCE * _AT_ONCE) * 1e6


def _rss_bytes() -> int:
    status = Path("/proc/self/smaps_rollup").read_text("ascii")
    return int(status.partition("Rss:")[2].split()[0]) * 1024


if __name__ == "__main__":
    main()
