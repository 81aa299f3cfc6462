"""What the tables say: each part's figures as rows, with the target where there is one."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from tests.bench import bustle, silence
from tests.bench.options import SHARED

Row = tuple[str, str, str]  # figure, value, target
Part = Mapping[str, Any]
RECEIVER: Final = 6
WHOLE: Final = (SHARED, RECEIVER)
"""The parts that are not about one store or another."""


def _throughput(found: Part) -> Iterator[Row]:
    for name in ("durable", "relay", "busy"):
        run = found[name]
        yield f"{name}: accepted / delivered a second", _pair(run), ""
        yield f"{name}: CPU per delivery", of(run["cpuUsPerDelivery"], "µs"), ""
        yield f"{name}: cores used, dispatcher / load", _shares(run, "cpuShare", "loadCpuShare"), ""
        yield from _server(name, run)
    yield "durable to relay", of(found["durableToRelay"]), "≥ 0.65"
    cpu = _ratio(found["relay"]["cpuUsPerDelivery"], found["durable"]["cpuUsPerDelivery"])
    yield "durable to relay, by CPU per delivery", cpu, ""
    yield "busy to relay", of(found["busyToRelay"]), ""
    beside = found["beside"]
    yield f"busy: searches, {bustle.SEARCHES_PER_S}/s at most", of(beside["searches"]), ""
    yield f"busy: replayed, {bustle.REPLAYED_PER_S}/s at most", of(beside["replayed"]), ""
    yield "busy: keep periods", "1 s", ""


def _steady(found: Part) -> Iterator[Row]:
    yield "accept p50", of(found["acceptP50Ms"], "ms"), ""
    yield "accept p99", of(found["acceptP99Ms"], "ms"), "≤ 15 ms"
    yield "submit to arrival p50, accept included", of(found["arrivalP50Ms"], "ms"), "≤ 5 ms"
    yield "submit to arrival p99", of(found["arrivalP99Ms"], "ms"), ""
    yield "CPU per delivery", of(found["cpuUsPerDelivery"], "µs"), ""
    if found["serverCpuUsPerDelivery"] is not None:
        yield "CPU per delivery, server", of(found["serverCpuUsPerDelivery"], "µs"), ""
    yield "load generator late p99 (included above)", of(found["generatorLateP99Ms"], "ms"), ""


def _silence(found: Part) -> Iterator[Row]:
    spans = f"run / first {silence.FIRST_S:g} s / rest / median second"
    yield "p99 of the others, in ms, over", spans, ""
    for name, silent in silence.SILENT_COUNTS.items():
        run = found[name]
        p99s = " / ".join(of(run[f"{key}P99Ms"]) for key in silence.SPANS.values())
        yield f"{silent} silent", p99s, ""
        yield f"{silent} silent: p50", of(run["arrivalP50Ms"], "ms"), ""
    for name, target in (("one", "≤ 1.1"), ("thirty", "≤ 1.3")):
        ratios = " / ".join(of(found[f"{name}ToNone{span}"]) for span in silence.SPANS)
        yield f"{silence.SILENT_COUNTS[name]} silent to none", ratios, target


def _backlog(found: Part) -> Iterator[Row]:
    yield "pending on a paused destination", of(found["backlog"]), ""
    for name, about in (("empty", "without"), ("full", "with")):
        run = found[name]
        yield f"{about}: accepted / delivered a second", _pair(run), ""
        yield f"{about}: CPU per delivery", of(run["cpuUsPerDelivery"], "µs"), ""
        yield from _server(about, run)
        memory = " / ".join(_mib(run[key]) for key in ("rssBytes", "pssBytes", "peakRssBytes"))
        yield f"{about}: memory, RSS / PSS / peak RSS", memory, "≤ 200 MiB" * (name == "full")
        first = of(run["startToFirstSeconds"], "s")
        yield f"{about}: start to first delivery", first, "≤ 2 s" * (name == "full")
    yield "with to without, delivered a second", of(found["fullToEmpty"]), "≥ 0.9"
    yield "filled through the store's submit in", of(found["fillSeconds"], "s"), ""


def _together(found: Part) -> Iterator[Row]:
    for name, about in (("one", "one process"), ("two", "two processes")):
        run = found[name]
        yield f"{about}: delivered a second, in all", of(run["deliveredPerSecond"]), ""
        yield f"{about}: CPU per delivery", of(run["cpuUsPerDelivery"], "µs"), ""
        each = " + ".join(of(share) for share in run["eachCpuShare"])
        yield f"{about}: cores used, each dispatcher", each, ""
        yield from _server(about, run)
        yield f"{about}: cores used, load", of(run["loadCpuShare"]), ""
        yield f"{about}: bound by", run["boundBy"], ""
    yield "two to one, delivered a second", of(found["twoToOne"]), "≥ 1 (not bound)"
    yield f"duplicates among {found['arrived']:,} at the sink", of(found["duplicates"]), "0"


def _receiver(found: Part) -> Iterator[Row]:
    for name, about in (("durable", "receiver"), ("bare", "bare handler")):
        run = found[name]
        yield f"{about}: requests a second", of(run["acceptedPerSecond"]), ""
        yield f"{about}: CPU per request", of(run["cpuUsPerDelivery"], "µs"), ""
        yield f"{about}: cores used, server / load", _shares(run, "cpuShare", "loadCpuShare"), ""
    yield "receiver to bare handler", of(found["durableToBare"]), "≥ 0.5"
    cpu = _ratio(found["bare"]["cpuUsPerDelivery"], found["durable"]["cpuUsPerDelivery"])
    yield "receiver to bare handler, by CPU per request", cpu, ""
    if found["shared"] is not None:
        yield "on PostgreSQL: requests a second", of(found["shared"]["acceptedPerSecond"]), ""
        cpu = of(found["shared"]["cpuUsPerDelivery"], "µs")
        yield "on PostgreSQL: CPU per request", cpu, ""
    rate, flooded, swamped = found["ratePerSecond"], found["flooded"], found["swamped"]
    yield f"{rate}/s: p50 / p99, ms", _quantiles(found["steady"]), "p99 ≤ 15 ms"
    if found["sharedSteady"] is not None:
        shared = _quantiles(found["sharedSteady"])
        yield f"{rate}/s on PostgreSQL: p50 / p99, ms", shared, "p99 ≤ 15 ms"
    flood = f"{rate}/s among {flooded['floodPerSecond']:,} badly signed a second"
    yield f"{flood}: p50 / p99, ms", _quantiles(flooded), ""
    yield "among a flood to without, p99", of(found["floodedToSteady"]), "≤ 1.5"
    swamp = f"{rate}/s among {swamped['floodConnections']} connections of nothing else"
    yield f"{swamp}: p50 / p99, ms", _quantiles(swamped), ""
    yield "among those connections to without, p99", of(found["swampedToSteady"]), ""
    yield "flood alone: refused a second", of(found["flood"]["acceptedPerSecond"]), ""
    yield "flood alone: bytes written by the process", of(found["floodWrittenBytes"], "B"), "0 B"
    yield "flood alone: rounds that changed the inbox's files", of(found["floodFilesChanged"]), "0"
    yield "said to be kept / found in the file", f"{found['kept']:,} / {found['stored']:,}", "equal"


def _isolation(found: Part) -> Iterator[Row]:
    for name, attack in found.items():
        if not isinstance(attack, dict):
            continue
        without, beside = attack["without"], attack["beside"]
        target = "≤ 1.3 × + 5"
        if "equal" in attack or name == "keys":
            target = "≤ 50, ≤ 2 × equal"
        yield f"{name}: p99 without, ms", _arrival(without), ""
        yield f"{name}: p99 beside it, ms", _arrival(beside), target
        if "equal" in attack:
            yield f"{name}: p99 beside equal tenants, ms", _arrival(attack["equal"]), ""
        did = ", ".join(f"{what}: {count:,}" for what, count in beside.get("did", {}).items())
        yield f"{name}: the attack's own", did or "–", ""


def _gateway(found: Part) -> Iterator[Row]:
    for name in ("gateway", "proxy"):
        run = found[name]
        yield f"{name}: jobs a second", of(run["deliveredPerSecond"]), ""
        yield f"{name}: CPU per job", of(run["cpuUsPerDelivery"], "µs"), ""
        yield f"{name}: cores used, service / load", _shares(run, "cpuShare", "loadCpuShare"), ""
        yield from _server(name, run)
    yield "gateway to proxy, jobs a second", of(found["gatewayToProxy"]), "≥ 0.45"
    cpu = _ratio(found["proxy"]["cpuUsPerDelivery"], found["gateway"]["cpuUsPerDelivery"])
    yield "gateway to proxy, by CPU per job", cpu, ""
    steady, rate = found["steady"], found["ratePerSecond"]
    for about, name, target in (
        ("submit to 202", "accept", "3, 15"),
        ("submit to the upstream", "called", "4, 20"),
        ("its answer to the callback", "told", "5, 25"),
    ):
        told = f"{of(steady[f'{name}P50Ms'])} / {of(steady[f'{name}P99Ms'])}"
        yield f"{rate}/s: {about}, p50 / p99, ms", told, f"≤ {target}"
    waited = found["waited"]
    longer = (waited["waitP50Ms"] or 0) - (waited["directP50Ms"] or 0)
    yield "`Prefer: wait` longer than a direct call, p50, ms", of(round(longer, 3)), "≤ 5"
    p99 = f"{of(waited['directP99Ms'])} / {of(waited['waitP99Ms'])}"
    yield "direct call / `Prefer: wait`, p99, ms", p99, ""
    opened = found["open"]
    each = opened["bytesEach"]
    known = "–" if each is None else f"{each / 1024:,.1f} KiB"
    yield f"{opened['calls']:,} open calls: memory each", known, "≤ 60 KiB"
    yield "open calls: cores used while nothing comes", of(opened["idleCpuShare"]), "≤ 0.02"
    held = found["held"]
    yield "queued at a paused endpoint", of(held["backlog"]), ""
    yield "with to without, jobs a second", of(held["withToWithout"]), "≥ 0.95"
    yield "with: memory, RSS", _mib(held["rssBytes"]), "≤ 250 MB"
    status = f"{of(held['statusP50Ms'])} / {of(held['statusP99Ms'])}"
    place = "with position" if held["statusHasPosition"] else "without position"
    yield f"status {place}, p50 / p99, ms", status, "p99 ≤ 5"
    load = f"{of(held['loadP50Ms'])} / {of(held['loadP99Ms'])}"
    yield "`/load`, p50 / p99, ms", load, "p99 ≤ 20"
    start = f"{of(held['startWithoutSeconds'])} / {of(held['startSeconds'])}"
    yield "ready after, without / with, s", start, "≤ 2 with"
    yield "purge of all: answered in", of(held["purgeMs"], "ms"), "≤ 50 ms"
    beside = f"{of(held['acceptP99Ms'])} / {of(held['acceptBesidePurgeP99Ms'])}"
    yield "others' 202 before / beside the purge, p99, ms", beside, "≤ 1.3 ×"
    yield "filled through the store's submit in", of(held["fillSeconds"], "s"), ""


def _arrival(run: Part) -> str:
    return run["failed"] if "failed" in run else of(run["arrivalP99Ms"])


OF: Final[Mapping[int, Callable[[Part], Iterator[Row]]]] = {
    1: _throughput,
    2: _steady,
    3: _silence,
    4: _backlog,
    SHARED: _together,
    RECEIVER: _receiver,
    7: _isolation,
    8: _gateway,
}


def _server(about: str, run: Part) -> Iterator[Row]:
    """The database server's own CPU, where there is one."""
    if run["serverCpuShare"] is not None:
        yield f"{about}: cores used, server", of(run["serverCpuShare"]), ""
        cpu = of(run["serverCpuUsPerDelivery"], "µs")
        yield f"{about}: CPU per delivery, server", cpu, ""


def _pair(run: Part) -> str:
    return f"{of(run['acceptedPerSecond'])} / {of(run['deliveredPerSecond'])}"


def _shares(run: Part, *names: str) -> str:
    return " / ".join(of(run[name]) for name in names)


def _quantiles(run: Part) -> str:
    return f"{of(run['acceptP50Ms'])} / {of(run['acceptP99Ms'])}"


def of(value: float | None, unit: str = "") -> str:
    """A figure as text; a dash for what is not known."""
    return "–" if value is None else f"{value:,} {unit}".rstrip()


def _ratio(value: float | None, base: float | None) -> str:
    return "–" if value is None or not base else f"{value / base:.3f}"


def _mib(size: int | None) -> str:
    return "–" if size is None else f"{size / 2**20:,.0f} MiB"
