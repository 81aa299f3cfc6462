"""Dispatchers and receivers as child processes: started, watched from outside, and ended by their
ids."""

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from dispatcher.settings import variable
from receiver.settings import variable as receiver_variable
from tests.bench.payload import ADMIN_KEY

ROOT: Final = Path(__file__).parents[2]
# What differs from the defaults in every run, and is said so in the output.
SETTINGS: Final[Mapping[str, object]] = {
    "port": 0,
    "admin_key": ADMIN_KEY,
    "allow_networks": "127.0.0.0/8",
    "log_format": "json",
    "drain_grace": 0.2,
    "job_drain": 0.2,
}
_START_S: Final = 60.0
_STOP_S: Final = 20.0
_LOG_TAIL_BYTES: Final = 4_000
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes; `pss` counts pages shared with other processes in part. None where unknown."""

    rss: int | None
    pss: int | None
    peak_rss: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A running service. `started_s` is the `time.monotonic()` just before its process was made."""

    pid: int
    url: str
    started_s: float

    def cpu_s(self) -> float | None:
        """CPU time that all its threads used so far, in seconds."""
        fields = stat(self.pid)
        return None if fields is None else (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def memory(self) -> Memory:
        """What it takes up now, and at most took up so far."""
        status = _kib(Path(f"/proc/{self.pid}/status"))
        shares = _kib(Path(f"/proc/{self.pid}/smaps_rollup"))
        return Memory(rss=status.get("VmRSS"), pss=shares.get("Pss"), peak_rss=status.get("VmHWM"))

    def written_bytes(self) -> int | None:
        """What it had the system write to disks so far; None where that is not told."""
        try:
            lines = Path(f"/proc/{self.pid}/io").read_text("ascii").splitlines()
        except OSError:
            return None
        return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatcher(Child):
    """A running dispatcher, and on which store."""

    store: str

    def client(self) -> httpx.AsyncClient:
        """For what an operator does beside the load."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60.0, trust_env=False)


@asynccontextmanager
async def running(
    database_url: str, log_path: Path, *, store: str, cores: Collection[int], **settings: object
) -> AsyncIterator[Dispatcher]:
    """A dispatcher on this database and these cores (none: its parent's), until the end of the
    block. Raises RuntimeError, with the end of its log, where it does not start."""
    given = _named({"database_url": database_url, **SETTINGS, **settings})
    async with _started("tests.bench.child", (store, _listed(cores)), given, log_path) as child:
        yield Dispatcher(pid=child.pid, url=child.url, started_s=child.started_s, store=store)


def receiving(
    kind: str, log_path: Path, *, cores: Collection[int], **settings: object
) -> AbstractAsyncContextManager[Child]:
    """A receiver, or a bare handler in its place, until the end of the block."""
    given = {receiver_variable(name): str(value) for name, value in settings.items()}
    return _started("tests.bench.receive", (kind, _listed(cores)), given, log_path)


def proxying(
    upstream: str, log_path: Path, *, cores: Collection[int]
) -> AbstractAsyncContextManager[Child]:
    """The bare proxy before an upstream, until the end of the block."""
    return _started("tests.bench.proxy", (upstream, _listed(cores)), {}, log_path)


def _listed(cores: Collection[int]) -> str:
    return ",".join(str(core) for core in cores)


@asynccontextmanager
async def _started(
    module: str, arguments: tuple[str, ...], given: Mapping[str, str], log_path: Path
) -> AsyncIterator[Child]:
    with log_path.open("ab") as log:
        started_s = time.monotonic()
        process = await _spawn(module, *arguments, given=given, stderr=log.fileno())
    try:
        url = await _said(process)
        if not url:
            raise RuntimeError(f"{module} did not start: {_tail(log_path)}")
        yield Child(pid=process.pid, url=url, started_s=started_s)
    finally:
        await _end(process)


async def run_module(module: str, *arguments: str, settings: Mapping[str, object]) -> str:
    """Run a module of the benchmark to its end; returns what it printed. Raises RuntimeError."""
    process = await _spawn(module, *arguments, given=_named(settings), stderr=None)
    try:
        printed, _ = await process.communicate()
    finally:
        await _end(process)
    if process.returncode != 0:
        raise RuntimeError(f"{module} failed with {process.returncode}")
    return printed.decode()


async def _spawn(
    module: str, *arguments: str, given: Mapping[str, str], stderr: int | None
) -> Process:
    environ = {name: value for name, value in os.environ.items() if not _ours(name)}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdout=PIPE,
        stderr=stderr,
        env=environ | dict(given),
        cwd=ROOT,
    )


def _named(settings: Mapping[str, object]) -> dict[str, str]:
    return {variable(name): str(value) for name, value in settings.items()}


def _ours(name: str) -> bool:
    return name.startswith(("DISPATCHER_", "RECEIVER_"))


async def _said(process: Process) -> str:
    if process.stdout is None:
        raise RuntimeError("a child's output is read through a pipe")
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


def stat(pid: int) -> list[str] | None:
    """The fields of a process from its state on: the second one is its parent, the twelfth and
    those behind it are CPU times. None where there is no such process, or no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return None


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
