"""What is shown: the machine, then a table for each part, with the target where there is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.bench import bustle, silence, steady
from tests.bench.bench import DESTINATIONS
from tests.bench.options import Options

Row = tuple[str, str, str]  # figure, value, target
Part = Mapping[str, Any]

TITLES: Final = {
    1: "throughput",
    2: "latency",
    3: "silence",
    4: "backlog",
    5: "together",
}


def machine(console: Console, facts: Mapping[str, Any], options: Options) -> None:
    """The first lines: where this ran, and how."""
    pinned = "on a core of its own" if facts["dispatcherPinned"] else "not pinned to a core"
    console.print(
        f"{facts['cores']} cores, {facts['cpu']}, {_mib(facts['memoryBytes'])} of memory; "
        f"{facts['system']}; load average {facts['loadAverage']}\n"
        f"Python {facts['python']}, SQLite {facts['sqlite']}, files on {facts['databasesOn']}; "
        f"dispatcher {pinned}\n"
        f"Settings that are not the defaults: a port, keys, loopback allowed, JSON logs into a "
        f"file, drain grace 0.2 s. Rounds: {options.rounds}; medians are shown.\n",
        highlight=False,
        soft_wrap=True,
    )


def part(console: Console, number: int, found: Part, options: Options) -> None:
    """One part's table."""
    table = Table(title=_title(number, found, options), title_justify="left", title_style="bold")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("target", justify="right")
    for row in _ROWS[number](found):
        table.add_row(*row)
    console.print(table)
    console.print()


def _title(number: int, found: Part, options: Options) -> str:
    if number == 1:
        text = f"1. Saturation: {options.in_flight} in flight, {DESTINATIONS} destinations"
        return f"{text}, {options.seconds:g} s a round"
    if number == 2:
        return f"2. Steady {steady.RATE_PER_S}/s, {DESTINATIONS} destinations"
    if number == 3:
        return (
            f"3. Silence: {silence.DESTINATIONS} destinations, {silence.RATE_PER_S}/s in all, "
            f"{options.silence_seconds:g} s a run, timeout {found['timeoutSeconds']:g} s"
        )
    if number == 5:
        return "5. Together: two processes on one PostgreSQL, at the same total load"
    return f"4. Backlog: {found['backlog']:,} pending on a paused destination"


def _throughput(found: Part) -> Iterator[Row]:
    for name in ("durable", "relay", "busy"):
        run = found[name]
        yield f"{name}: accepted / delivered a second", _pair(run), ""
        yield f"{name}: CPU per delivery", _of(run["cpuUsPerDelivery"], "µs"), ""
        shares = f"{_of(run['cpuShare'])} / {_of(run['loadCpuShare'])}"
        yield f"{name}: cores used, dispatcher / load", shares, ""
    yield "durable to relay", _of(found["durableToRelay"]), "≥ 0.65"
    cpu = _ratio(found["relay"]["cpuUsPerDelivery"], found["durable"]["cpuUsPerDelivery"])
    yield "durable to relay, by CPU per delivery", cpu, ""
    yield "busy to relay", _of(found["busyToRelay"]), ""
    beside = found["beside"]
    yield f"busy: searches, {bustle.SEARCHES_PER_S}/s at most", _of(beside["searches"]), ""
    yield f"busy: replayed, {bustle.REPLAYED_PER_S}/s at most", _of(beside["replayed"]), ""
    yield "busy: keep periods", "1 s", ""


def _steady(found: Part) -> Iterator[Row]:
    yield "accept p50", _of(found["acceptP50Ms"], "ms"), ""
    yield "accept p99", _of(found["acceptP99Ms"], "ms"), "≤ 15 ms"
    yield "submit to arrival p50, accept included", _of(found["arrivalP50Ms"], "ms"), "≤ 5 ms"
    yield "submit to arrival p99", _of(found["arrivalP99Ms"], "ms"), ""
    yield "CPU per delivery", _of(found["cpuUsPerDelivery"], "µs"), ""
    yield "load generator late p99 (included above)", _of(found["generatorLateP99Ms"], "ms"), ""


def _silence(found: Part) -> Iterator[Row]:
    spans = f"whole run / first {silence.FIRST_S:g} s / later / median second"
    yield "p99 of the others, in ms, over", spans, ""
    for name, silent in silence.SILENT_COUNTS.items():
        run = found[name]
        p99s = " / ".join(_of(run[f"{key}P99Ms"]) for key in silence.SPANS.values())
        yield f"{silent} silent", p99s, ""
        yield f"{silent} silent: p50", _of(run["arrivalP50Ms"], "ms"), ""
    for name, target in (("one", "≤ 1.1"), ("thirty", "≤ 1.3")):
        ratios = " / ".join(_of(found[f"{name}ToNone{span}"]) for span in silence.SPANS)
        yield f"{silence.SILENT_COUNTS[name]} silent to none", ratios, target


def _backlog(found: Part) -> Iterator[Row]:
    for name, about in (("empty", "without"), ("full", "with")):
        run = found[name]
        yield f"{about}: accepted / delivered a second", _pair(run), ""
        yield f"{about}: CPU per delivery", _of(run["cpuUsPerDelivery"], "µs"), ""
        memory = " / ".join(_mib(run[key]) for key in ("rssBytes", "pssBytes", "peakRssBytes"))
        yield f"{about}: memory, RSS / PSS / peak RSS", memory, "≤ 200 MiB" * (name == "full")
        first = _of(run["startToFirstSeconds"], "s")
        yield f"{about}: start to first delivery", first, "≤ 2 s" * (name == "full")
    yield "with to without, delivered a second", _of(found["fullToEmpty"]), "≥ 0.9"
    yield "filled through the store's submit in", _of(found["fillSeconds"], "s"), ""


def _together(found: Part) -> Iterator[Row]:
    if "absent" in found:
        yield "not measured", str(found["absent"]), ""
        return
    for name, about in (
        ("sqlite", "SQLite"),
        ("one", "PostgreSQL, one process"),
        ("two", "PostgreSQL, two processes, in all"),
    ):
        run = found[name]
        yield f"{about}: accepted / delivered a second", _pair(run), ""
        yield f"{about}: CPU per delivery, dispatchers", _of(run["cpuUsPerDelivery"], "µs"), ""
        if name != "sqlite":
            yield f"{about}: CPU per delivery, server", _of(run["serverCpuUs"], "µs"), ""
    yield "PostgreSQL to SQLite, one process", _of(found["oneToSqlite"]), "≥ 0.7"
    yield "two processes to one", _of(found["twoToOne"]), "≥ 1"
    yield "delivered twice", _of(found["twice"]), "0"


_ROWS: Final = {1: _throughput, 2: _steady, 3: _silence, 4: _backlog, 5: _together}


def _pair(run: Part) -> str:
    return f"{_of(run['acceptedPerSecond'])} / {_of(run['deliveredPerSecond'])}"


def _of(value: float | None, unit: str = "") -> str:
    return "–" if value is None else f"{value:,} {unit}".rstrip()


def _ratio(value: float | None, base: float | None) -> str:
    return "–" if value is None or not base else f"{value / base:.3f}"


def _mib(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**20:,.0f} MiB"
