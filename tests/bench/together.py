"""Part 5: one process on PostgreSQL beside two on one database, at the same total load. All of
them, the server and the load may use every core: only the number of dispatchers differs."""

import os
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

from tests.bench import figures, machine
from tests.bench.bench import Bench
from tests.bench.closed import Window, since
from tests.bench.figures import Figures
from tests.bench.process import Dispatcher

_BUSY: Final = 0.9  # of a core: the rest is the noise of a shared machine
_COUNTS: Final = {"one": 1, "two": 2}


async def measure(bench: Bench) -> Figures:
    """Rounds of one and two in turn: all run all the time, some have work."""
    windows: dict[str, list[Window]] = {name: [] for name in _COUNTS}
    shares: dict[str, list[list[float | None]]] = {name: [] for name in _COUNTS}
    pids = bench.postgres.pids() if bench.postgres else []
    with bench.sink.counting() as arrivals, machine.floating(bench.cores, pids):
        async with AsyncExitStack() as stack:
            teams = {name: await _team(bench, stack, name) for name in _COUNTS}
            for _ in range(bench.options.rounds):
                for name, team in teams.items():
                    began_s, before = time.monotonic(), [one.cpu_s() for one in team]
                    windows[name].append(await bench.saturate(*team))
                    took_s, after = time.monotonic() - began_s, [one.cpu_s() for one in team]
                    shares[name].append(_shares(before, after, took_s))
        # The dispatchers have ended: whatever they were to deliver twice has arrived.
        duplicates = sum(count - 1 for count in arrivals.values())
    found = {name: _figures(windows[name], shares[name]) for name in _COUNTS}
    return {
        "cores": os.cpu_count(),
        **found,
        "twoToOne": figures.ratio(
            found["two"]["deliveredPerSecond"], found["one"]["deliveredPerSecond"]
        ),
        "arrived": len(arrivals),
        "duplicates": duplicates,
    }


async def _team(bench: Bench, stack: AsyncExitStack, name: str) -> list[Dispatcher]:
    return [
        await stack.enter_async_context(
            bench.running(name, "postgres", cores=bench.cores.every, log_name=f"{name}-{n}")
        )
        for n in range(_COUNTS[name])
    ]


def _shares(
    before: list[float | None], after: list[float | None], seconds: float
) -> list[float | None]:
    """Of a core, of each process, over a whole round with its warm-up."""
    used = [since(*times) for times in zip(before, after, strict=True)]
    return [None if cpu_s is None else cpu_s / seconds for cpu_s in used]


def _figures(windows: list[Window], shares: list[list[float | None]]) -> Figures:
    found = figures.saturation(windows)
    each = [figures.middle(of_one, 2) for of_one in zip(*shares, strict=True)]
    return found | {"eachCpuShare": each, "boundBy": bound_by(found | {"each": each})}


def bound_by(run: Mapping[str, Any], cores: int | None = None) -> str:
    """What most likely keeps a run from being faster, by who uses how much of the cores."""
    cores = cores or os.cpu_count() or 1
    used = sum(run[name] or 0.0 for name in ("cpuShare", "serverCpuShare", "loadCpuShare"))
    if used >= _BUSY * cores:
        return f"the {cores} cores, all busy"
    if any((share or 0.0) >= _BUSY for share in run["each"]):
        return "the dispatcher's own core"
    if (run["loadCpuShare"] or 0.0) >= _BUSY:
        return "the load generator"
    return f"waiting: {used:.2f} of {cores} cores used; the rest is commits or other work here"
