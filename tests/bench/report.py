"""What is shown: the machine, then a table for each part; stores stand side by side."""

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.bench import figures, gateway, isolation, jobs, rows, silence, steady
from tests.bench.bench import DESTINATIONS
from tests.bench.options import SHARED, Options
from tests.bench.rows import RECEIVER, WHOLE, Part

TITLES: Final = {
    1: "throughput",
    2: "latency",
    3: "silence",
    4: "backlog",
    SHARED: "together",
    RECEIVER: "receiver",
    7: "isolation",
    8: "gateway",
}
NAMES: Final = {"sqlite": "SQLite", "postgres": "PostgreSQL"}


def machine(console: Console, facts: Mapping[str, Any], options: Options) -> None:
    """The first lines: where this ran, and how."""
    pinned = "on a core of its own" if facts["dispatcherPinned"] else "not pinned to a core"
    memory = f"{facts['memoryBytes'] / 2**20:,.0f} MiB"
    console.print(
        f"{facts['cores']} cores, {facts['cpu']}, {memory} of memory; "
        f"{facts['system']}; load average {facts['loadAverage']}\n"
        f"Python {facts['python']}, SQLite {facts['sqlite']}, files on {facts['databasesOn']}; "
        f"dispatcher {pinned}\n"
        f"Settings that are not the defaults: a port, keys, loopback allowed, JSON logs into a "
        f"file, drain grace 0.2 s. Rounds: {options.rounds}; medians are shown.",
        highlight=False,
        soft_wrap=True,
    )
    if "postgres" in facts:
        console.print(
            f"PostgreSQL {facts['postgres']}: a private server, fsync on, its other settings the "
            f"defaults but for 200 connections and an autovacuum nap of 5 s; it has "
            f"{facts['postgresCores']}. Its CPU is told apart.",
            highlight=False,
            soft_wrap=True,
        )
        share = f"{options.backlog_of('postgres'):,} instead of {options.backlog:,}"
        console.print(
            f"Part 4 holds {share} on PostgreSQL, where a fill takes longer.",
            highlight=False,
            soft_wrap=True,
        )
    console.print()


def part(console: Console, number: int, found: Part, options: Options) -> None:
    """One part's table."""
    table = Table(title=_title(number, options), title_justify="left", title_style="bold")
    sides = {"": found} if number in WHOLE else {NAMES[store]: found[store] for store in found}
    table.add_column("figure")
    for name in sides:
        table.add_column(name or "value", justify="right")
    table.add_column("target", justify="right")
    for row in _beside({name: list(rows.OF[number](side)) for name, side in sides.items()}):
        table.add_row(*row)
    if number == 1 and len(sides) > 1:
        told = rows.of(postgres_to_sqlite(found))
        table.add_row("durable, delivered a second, to SQLite", "1", told, "≥ 0.7")
    console.print(table)
    console.print()


def postgres_to_sqlite(found: Part) -> float | None:
    """Part 1's ratio of the stores."""
    delivered = [found[store]["durable"]["deliveredPerSecond"] for store in ("postgres", "sqlite")]
    return figures.ratio(*delivered)


def _beside(sides: Mapping[str, list[rows.Row]]) -> list[tuple[str, ...]]:
    """One row for each figure, in the order of the side that has most of them."""
    values = {name: {figure: value for figure, value, _ in side} for name, side in sides.items()}
    return [
        (figure, *(values[name].get(figure, "–") for name in sides), target)
        for figure, _, target in max(sides.values(), key=len)
    ]


def _title(number: int, options: Options) -> str:
    load = f"{options.in_flight} in flight"
    spans = f"{options.seconds:g} s a round"
    return {
        1: f"1. Saturation: {load}, {DESTINATIONS} destinations, {spans}",
        2: f"2. Steady {steady.RATE_PER_S}/s, {DESTINATIONS} destinations",
        3: f"3. Silence: {silence.DESTINATIONS} destinations, {silence.RATE_PER_S}/s in all, "
        f"{options.silence_seconds:g} s a run, timeout {silence.FIRST_S - 1:g} s",
        4: "4. Backlog on a paused destination",
        SHARED: f"5. Together: processes on one PostgreSQL, {load} in all; server and load share "
        "the same cores",
        RECEIVER: f"6. Receiver on one core: {options.in_flight} connections, {spans}, no handlers",
        7: f"7. Isolation: a tenant's {isolation.RATE_PER_S}/s beside attacks, {spans}",
        8: f"8. Jobs: {jobs.IN_FLIGHT} in flight, {spans}; {gateway.RATE_PER_S}/s; beside a "
        "bare proxy that stores nothing",
    }[number]
