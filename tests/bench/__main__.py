"""The benchmark: `make bench`, or `python -m tests.bench --help`."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console

from dispatcher.clock import iso, now_ms
from tests.bench import backlog, machine, report, silence, sink, steady, throughput, together
from tests.bench.bench import Bench
from tests.bench.figures import Figures
from tests.bench.options import Options, parse

_MEASURES: Final = {
    1: throughput.measure,
    2: steady.measure,
    3: silence.measure,
    4: backlog.measure,
    5: together.measure,
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
        tempfile.TemporaryDirectory(prefix="postback-bench-", dir=options.directory) as directory,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_run(options, cores, Path(directory)))


async def _run(options: Options, cores: machine.Cores, directory: Path) -> None:
    _end_in_order()
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    facts = machine.facts(directory, cores)
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
        )
        for number in options.parts:
            parts[report.TITLES[number]] = await _MEASURES[number](bench)
            report.part(console, number, parts[report.TITLES[number]], options)
    seconds = round(time.monotonic() - began_s, 1)
    text = json.dumps({**found, "seconds": seconds}, indent=2, ensure_ascii=False)
    options.json_path.write_text(f"{text}\n", "utf-8")
    console.print(f"{seconds} s; figures in {options.json_path}", soft_wrap=True)


def _end_in_order() -> None:
    """SIGTERM ends the processes we started, as Ctrl-C does."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    main()
