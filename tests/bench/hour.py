"""What calls cost that last an hour: `python -m tests.bench.hour`.

A real dispatcher has so many calls open to an upstream that never answers (a process of its own);
its CPU time is measured from outside, all threads of it, while nothing comes: what is left is
beats, looks and sweeps, which an hour has no more of, second by second, than a minute. Prints the
share of one core, beside 5 %, and what each call takes in memory.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import httpx
import uvloop

from receiver.base.lack import raise_files_limit
from tests.bench import process
from tests.bench.calls import serving
from tests.bench.process import Dispatcher

GOAL: Final = 0.05
"""Of a core, for 10,000 calls."""
_NAME: Final = "hour"
_CREATED, _TAKEN = 201, 202
_CLIENTS: Final = 32
_ALL_S: Final = 600.0


def main() -> None:
    """Measure, print, and leave nothing behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hour", description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000, metavar="N")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which they are watched")
    parser.add_argument("--settle", type=float, default=10.0, help="seconds before that")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    given = parser.parse_args()
    raise_files_limit()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postback-hour-")))
        url = f"sqlite:///{directory}/hour.db"
        if given.store == "postgres":
            from tests.bench import databases

            url = stack.enter_context(databases.serving()).url(_NAME)
        port = stack.enter_context(serving())
        print(uvloop.run(_measure(given, url, port, directory / "hour.log")))


async def _measure(given: argparse.Namespace, url: str, port: int, log: Path) -> str:
    settings = {
        "job_places": given.calls * 9 // 8 + 100,
        "connections_max": 200,
        "log_level": "warning",
    }
    async with process.running(url, log, store=given.store, cores=(), **settings) as dispatcher:
        before = dispatcher.memory().rss or 0
        async with dispatcher.client() as client:
            await _open(client, given.calls, port)
        await asyncio.sleep(given.settle)
        begun_s, used_s = time.monotonic(), _cpu_s(dispatcher)
        await asyncio.sleep(given.seconds)
        share = (_cpu_s(dispatcher) - used_s) / (time.monotonic() - begun_s)
        each = ((dispatcher.memory().rss or 0) - before) / given.calls
        async with dispatcher.client() as client:
            running = (await _load(client))["running"]
    if running != given.calls:
        raise RuntimeError(f"{running:,} of {given.calls:,} calls are open")
    return (
        f"{given.calls:,} calls of an hour on {given.store}: {share:.2%} of a core while nothing "
        f"comes (goal: {GOAL:.0%} for 10,000), {each / 1024:.1f} KiB each"
    )


async def _open(client: httpx.AsyncClient, calls: int, port: int) -> None:
    """Have so many calls be open."""
    rules = {
        "name": _NAME,
        "url": f"http://127.0.0.1:{port}/silent",
        "concurrency": calls,
        "timeout": "1h",
        "queueMax": calls,
        "queueMaxTenant": calls,
    }
    answer = await client.post("/v1/endpoints", json=rules)
    if answer.status_code != _CREATED:
        raise RuntimeError(f"the endpoint was not made: {answer.text}")
    left = iter(range(calls))
    await asyncio.gather(*(_submit(client, left) for _ in range(_CLIENTS)))
    async with asyncio.timeout(_ALL_S):
        while (await _load(client))["running"] < calls:  # noqa: ASYNC110
            await asyncio.sleep(0.5)


async def _submit(client: httpx.AsyncClient, left: Iterator[int]) -> None:
    for number in left:
        answer = await client.post(f"/v1/endpoints/{_NAME}/jobs", json={"number": number})
        if answer.status_code != _TAKEN:
            raise RuntimeError(f"a job was not taken: {answer.text}")


async def _load(client: httpx.AsyncClient) -> dict[str, int]:
    answer = await client.get(f"/v1/endpoints/{_NAME}/load")
    answer.raise_for_status()
    found: dict[str, int] = answer.json()
    return found


def _cpu_s(dispatcher: Dispatcher) -> float:
    used_s = dispatcher.cpu_s()
    if used_s is None:
        raise RuntimeError("this system does not tell what a process uses")
    return used_s


if __name__ == "__main__":
    main()
