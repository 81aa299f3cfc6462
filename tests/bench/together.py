"""Part 5: one process on PostgreSQL beside one on SQLite, and two on one PostgreSQL at the same
total load; the server's own CPU apart."""

from __future__ import annotations

from tests.bench import databases, figures, process
from tests.bench.bench import Bench
from tests.bench.closed import Window
from tests.bench.figures import Figures
from tests.bench.process import Dispatcher

_RUNS = ("sqlite", "one", "two")


async def measure(bench: Bench) -> Figures:
    """Rounds of all three in turn."""
    if not databases.available():
        return {"absent": "no PostgreSQL is installed here"}
    url = databases.url_for(bench.directory / "together")
    windows: dict[str, list[Window]] = {name: [] for name in _RUNS}
    server: dict[str, list[float | None]] = {name: [] for name in _RUNS}
    core = bench.cores.dispatcher
    lite_path, one_path, two_path = (bench.database(f"together-{name}") for name in _RUNS)
    async with (
        process.running(lite_path, core=core) as lite,
        process.running(one_path, core=core, database_url=url) as one,
        process.running(two_path, database_url=url) as two,
    ):
        teams: dict[str, tuple[Dispatcher, ...]] = {
            "sqlite": (lite,),
            "one": (one,),
            "two": (one, two),
        }
        for _ in range(bench.options.rounds):
            for name, team in teams.items():
                before_s = databases.cpu_s()
                window = await bench.saturate(*team)
                server[name].append(_server_us(before_s, databases.cpu_s(), window, bench))
                windows[name].append(window)
    found = {name: figures.saturation(rounds) for name, rounds in windows.items()}
    return {
        **{name: found[name] | {"serverCpuUs": figures.middle(server[name])} for name in _RUNS},
        "oneToSqlite": figures.ratio(
            found["one"]["deliveredPerSecond"], found["sqlite"]["deliveredPerSecond"]
        ),
        "twoToOne": figures.ratio(
            found["two"]["deliveredPerSecond"], found["one"]["deliveredPerSecond"]
        ),
        "twice": sum(window.others for rounds in windows.values() for window in rounds),
    }


def _server_us(
    before_s: float | None, after_s: float | None, window: Window, bench: Bench
) -> float | None:
    """Per delivery, warm-up included on both sides as far as it goes at the same pace."""
    if before_s is None or after_s is None or not window.delivered:
        return None
    seconds = window.seconds + bench.options.warm_up
    return (after_s - before_s) / (window.delivered_per_s * seconds) * 1e6
