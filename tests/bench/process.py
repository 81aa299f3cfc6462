"""Dispatchers as child processes: started, watched from outside, and ended by their ids."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from dispatcher.settings import variable
from tests.bench.payload import ADMIN_KEY

ROOT: Final = Path(__file__).parents[2]
# What differs from the defaults in every run, and is said so in the output.
SETTINGS: Final[Mapping[str, object]] = {
    "port": 0,
    "admin_key": ADMIN_KEY,
    "allow_networks": "127.0.0.0/8",
    "log_format": "json",
    "drain_grace": 0.2,
}
_START_S: Final = 60.0
_STOP_S: Final = 20.0
_LOG_TAIL_BYTES: Final = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes; `pss` counts pages shared with other processes in part. None where unknown."""

    rss: int | None
    pss: int | None
    peak_rss: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatcher:
    """A running one. `started_s` is the `time.monotonic()` just before its process was made."""

    pid: int
    url: str
    started_s: float

    def cpu_s(self) -> float | None:
        """CPU time that all its threads used so far, in seconds."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        except FileNotFoundError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> Memory:
        """What it takes up now, and at most took up so far."""
        status = _kib(Path(f"/proc/{self.pid}/status"))
        shares = _kib(Path(f"/proc/{self.pid}/smaps_rollup"))
        return Memory(rss=status.get("VmRSS"), pss=shares.get("Pss"), peak_rss=status.get("VmHWM"))

    def client(self) -> httpx.AsyncClient:
        """For what an operator does beside the load."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60.0, trust_env=False)


@asynccontextmanager
async def running(
    database: Path, *, store: str = "sqlite", core: int | None = None, **settings: object
) -> AsyncIterator[Dispatcher]:
    """A dispatcher on this file until the end of the block. Raises RuntimeError, with the end of
    its log, where it does not start."""
    log_path = database.with_suffix(".log")
    with log_path.open("ab") as log:
        started_s = time.monotonic()
        process = await _spawn(
            "tests.bench.child",
            store,
            *([] if core is None else [str(core)]),
            settings={"database_url": f"sqlite:///{database}", **SETTINGS, **settings},
            stderr=log.fileno(),
        )
    try:
        url = await _said(process)
        if not url:
            raise RuntimeError(f"the dispatcher did not start: {_tail(log_path)}")
        yield Dispatcher(pid=process.pid, url=url, started_s=started_s)
    finally:
        await _end(process)


async def run_module(module: str, *arguments: str, settings: Mapping[str, object]) -> str:
    """Run a module of the benchmark to its end; returns what it printed. Raises RuntimeError."""
    process = await _spawn(module, *arguments, settings=settings, stderr=None)
    try:
        printed, _ = await process.communicate()
    finally:
        await _end(process)
    if process.returncode != 0:
        raise RuntimeError(f"{module} failed with {process.returncode}")
    return printed.decode()


async def _spawn(
    module: str, *arguments: str, settings: Mapping[str, object], stderr: int | None
) -> Process:
    given = {name: value for name, value in os.environ.items() if not _ours(name)}
    given |= {variable(name): str(value) for name, value in settings.items()}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, stdout=PIPE, stderr=stderr, env=given, cwd=ROOT
    )


def _ours(name: str) -> bool:
    return name.startswith("DISPATCHER_")


async def _said(process: Process) -> str:
    if process.stdout is None:
        raise RuntimeError("a dispatcher's output is read through a pipe")
    async with asyncio.timeout(_START_S):
        return (await process.stdout.readline()).decode().strip()


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _tail(log_path: Path) -> str:
    return log_path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")


def _kib(path: Path) -> dict[str, int]:
    """The fields of a file of `Name:  123 kB` lines, in bytes."""
    try:
        lines = path.read_text("ascii", errors="replace").splitlines()
    except OSError:
        return {}
    split = (line.split() for line in lines)
    return {
        parts[0].rstrip(":"): int(parts[1]) * 1024
        for parts in split
        if len(parts) == 3 and parts[2] == "kB"
    }
