"""The benchmark: `make bench`, or `python -m tests.bench --help`."""

import asyncio
import gc
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop
from rich.console import Console

from receiver.base.clock import iso, now_ms
from tests.bench import (
    backlog,
    gateway,
    isolation,
    machine,
    receiving,
    report,
    silence,
    sink,
    steady,
    throughput,
    together,
)
from tests.bench.bench import Bench
from tests.bench.figures import Figures
from tests.bench.options import Options, parse

if TYPE_CHECKING:  # its driver is an extra, which SQLite alone does not need
    from tests.bench.databases import Postgres

_WHOLE: Final = {1: throughput.measure, 5: together.measure, 6: receiving.measure}
_BY_STORE: Final = {
    2: steady.measure,
    3: silence.measure,
    4: backlog.measure,
    7: isolation.measure,
    8: gateway.measure,
}

_WIDTH: Final = 110  # of what is not a terminal


def main() -> None:
    """Measure what the command line asks for, print it and write it."""
    options = parse()
    try:
        _measure(options)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("ended early: nothing was written, and nothing is left running")


def _measure(options: Options) -> None:
    # A cycle collection of our own would look like a pause of the dispatcher's.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    with (
        machine.pinned() as cores,
        ExitStack() as stack,
        tempfile.TemporaryDirectory(prefix="postback-bench-", dir=options.directory) as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        options, postgres = _with_postgres(options, stack)
        runner.run(_run(options, cores, Path(directory), postgres))


def _with_postgres(options: Options, stack: ExitStack) -> "tuple[Options, Postgres | None]":
    """A server where one is asked for and there are binaries; else what remains to be done."""
    if "postgres" not in options.stores:
        return options, None
    from tests.bench import databases

    if databases.found():
        return options, stack.enter_context(databases.serving())
    remaining = options.without_postgres()
    if "sqlite" not in options.stores or not remaining.parts:
        sys.exit(databases.ABSENT)
    print(f"{databases.ABSENT}: SQLite alone")
    return remaining, None


async def _run(
    options: Options, cores: machine.Cores, directory: Path, postgres: "Postgres | None"
) -> None:
    _end_in_order()
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    facts = machine.facts(directory, cores)
    if postgres is not None:
        shared = "the cores that are not the dispatcher's" if cores.every else "every core"
        facts |= {"postgres": postgres.version, "postgresCores": shared}
    report.machine(console, facts, options)
    began_s = time.monotonic()
    parts: dict[str, Figures] = {}
    found = {
        "startedAt": iso(now_ms()),
        "machine": facts,
        "options": {name: _plain(value) for name, value in asdict(options).items()},
        "parts": parts,
    }
    async with sink.listening() as listening:
        bench = Bench(
            options=options,
            sink=listening,
            cores=cores,
            directory=directory,
            numbers=itertools.count(),
            postgres=postgres,
        )
        for number in options.parts:
            parts[report.TITLES[number]] = found_now = await _part(bench, number)
            report.part(console, number, found_now, options)
            if postgres is not None:
                postgres.forget()
    seconds = round(time.monotonic() - began_s, 1)
    text = json.dumps(
        {**found, "loadAverageAfter": os.getloadavg()[0], "seconds": seconds},
        indent=2,
        ensure_ascii=False,
    )
    options.json_path.write_text(f"{text}\n", "utf-8")
    load = os.getloadavg()[0]
    console.print(
        f"{seconds} s, load average {load:.2f}; figures in {options.json_path}", soft_wrap=True
    )


async def _part(bench: Bench, number: int) -> Figures:
    """A part's figures: as they are, or by store."""
    if number in _WHOLE:
        return await _WHOLE[number](bench)
    return {store: await _BY_STORE[number](bench, store) for store in bench.options.stores}


def _end_in_order() -> None:
    """SIGTERM ends the processes we started, as Ctrl-C does."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    main()
