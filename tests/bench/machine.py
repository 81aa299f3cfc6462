"""The machine that the figures come from, and who gets which of its cores."""

import os
import platform
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """The dispatcher's core, and all of them; none where a process cannot be pinned or there is
    only one."""

    dispatcher: tuple[int, ...]
    every: tuple[int, ...]


@contextmanager
def pinned() -> Iterator[Cores]:
    """Keep this process (load and sink) off the core that is to be the dispatcher's alone."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if len(allowed) < 2:
        yield Cores(dispatcher=(), every=())
        return
    *others, last = allowed
    os.sched_setaffinity(0, others)
    try:
        yield Cores(dispatcher=(last,), every=tuple(allowed))
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def floating(cores: Cores, pids: Collection[int]) -> Iterator[None]:
    """Let this process and these run on every core, until the end of the block."""
    before: dict[int, set[int]] = {}
    for pid in (0, *pids) if cores.every else ():
        with suppress(ProcessLookupError):  # a database's session that has ended
            before[pid] = os.sched_getaffinity(pid)
            os.sched_setaffinity(pid, cores.every)
    try:
        yield
    finally:
        for pid, affinity in before.items():
            with suppress(ProcessLookupError):
                os.sched_setaffinity(pid, affinity)


def facts(directory: Path, cores: Cores) -> dict[str, object]:
    """What a reader needs to compare figures."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memoryBytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "databasesOn": _file_system(directory),
        "dispatcherPinned": bool(cores.dispatcher),
        "loadAverage": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _file_system(directory: Path) -> str:
    """Its type: on a tmpfs, an fsync costs nothing and shows nothing."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/mounts").read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return kind
    for mount in mounts:
        _, where, found, *_ = mount.split(" ")
        if directory.resolve().is_relative_to(where) and len(where) > len(best):
            best, kind = where, found
    return kind
