"""The benchmark runs, and its figures fit each other. Nothing here looks at a time."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.bench.options import PARTS, parse
from tests.bench.process import ROOT
from tests.bench.report import TITLES
from tests.bench.together import bound_by
from tests.dispatcher.postgres import server

BACKLOG = 300
POSTGRES_BACKLOG = 60
POSTGRES = server.binaries() is not None
STORES = ("sqlite", "postgres") if POSTGRES else ("sqlite",)
ROUNDS = 1
_TINY = (
    *("--seconds", "0.3", "--warm-up", "0.1", "--silence-seconds", "0.3", "--in-flight", "32"),
    *("--rounds", str(ROUNDS), "--backlog", str(BACKLOG)),
)
# Nothing here looks at a time, so two runs may share the cores. Pace is kept on either store.
_RUNS = {"1,6": "both", "2,3": "sqlite", "4,5" if POSTGRES else "4": "both"}
_END_S = 300  # a tenth of it is enough on two cores that are not busy

pytestmark = pytest.mark.timeout(_END_S + 20)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """What a tiny run of all parts wrote, what it printed, and where its files were: several
    runs, two at the same time."""
    directory = tmp_path_factory.mktemp("bench")
    with ThreadPoolExecutor(2) as threads:
        runs = list(threads.map(lambda parts: _run(parts, directory), _RUNS))
    found = runs[0][0]
    parts = {name: part for document, _ in runs for name, part in document["parts"].items()}
    return found | {"parts": parts}, "".join(printed for _, printed in runs), directory


def _run(parts: str, directory: Path) -> tuple[dict[str, Any], str]:
    """What a run of these parts wrote, and what it printed."""
    target, store = directory / f"figures-{parts}.json", _RUNS[parts]
    command = [sys.executable, "-m", "tests.bench", *_TINY]
    done = subprocess.run(
        [
            *command,
            f"--parts={parts}",
            f"--store={store}",
            f"--dir={directory}",
            f"--json={target}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_END_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(target.read_text("utf-8"))
    return found, done.stdout


def test_every_part_is_printed_and_written(ran: tuple[dict[str, Any], str, Path]) -> None:
    """The table is for people, the JSON for programs; both name the machine."""
    found, printed, _ = ran
    # Parts 7 and 8 have tests of their own: `test_isolation.py`, `test_gateway.py`.
    parts = {title for number, title in TITLES.items() if (POSTGRES or number != 5) and number < 7}
    assert set(found["parts"]) == parts
    for name in ("throughput", "backlog"):
        assert tuple(found["parts"][name]) == STORES
    assert found["machine"]["sqlite"] in printed
    assert found["machine"]["cores"] == os.cpu_count()
    for title in ("1. Saturation", "2. Steady", "3. Silence", "4. Backlog", "6. Receiver"):
        assert title in printed


@pytest.mark.parametrize("store", STORES)
def test_saturation_counts_what_went_in_and_out(
    ran: tuple[dict[str, Any], str, Path], store: str
) -> None:
    """In a window, accepted and delivered differ at most by what is in flight at its two ends."""
    found, _, _ = ran
    throughput = found["parts"]["throughput"][store]
    for name in ("durable", "relay", "busy"):
        run = throughput[name]
        assert len(run["rounds"]) == ROUNDS
        for one in run["rounds"]:
            assert one["delivered"] > 0
            assert abs(one["accepted"] - one["delivered"]) <= 2 * found["options"]["in_flight"]
        assert run["delivered"] == sum(one["delivered"] for one in run["rounds"])
    assert throughput["durable"]["others"] == throughput["relay"]["others"] == 0
    assert throughput["beside"]["replayed"] >= throughput["busy"]["others"] > 0
    assert throughput["beside"]["searches"] > 0
    assert throughput["durableToRelay"] > 0


def test_every_paced_submit_is_answered_and_arrives(ran: tuple[dict[str, Any], str, Path]) -> None:
    """At a steady rate nothing is left out of the quantiles: neither what was slow nor what was
    sent late."""
    found, _, _ = ran
    latency, silence = (found["parts"][name]["sqlite"] for name in ("latency", "silence"))
    assert latency["submitted"] == ROUNDS * round(latency["ratePerSecond"] * 0.6)
    for run in (latency, silence["none"], silence["one"], silence["thirty"]):
        assert run["submitted"] == run["accepted"] == run["arrived"] > 0
        assert 0 < run["acceptP50Ms"] <= run["acceptP99Ms"]
        assert 0 < run["arrivalP50Ms"] <= run["arrivalP99Ms"] <= run["arrivalMostMs"]
    # The same destinations are looked at, whoever is silent.
    assert silence["none"]["submitted"] == silence["thirty"]["submitted"]


@pytest.mark.parametrize("store", STORES)
def test_the_backlog_stays_where_it_is(ran: tuple[dict[str, Any], str, Path], store: str) -> None:
    """The held deliveries are pending before and after everybody else's were delivered."""
    backlog = ran[0]["parts"]["backlog"][store]
    held = POSTGRES_BACKLOG if store == "postgres" else BACKLOG
    assert backlog["pendingBefore"] == backlog["pendingAfter"] == backlog["backlog"] == held
    for name in ("empty", "full"):
        assert backlog[name]["delivered"] > 0
        assert backlog[name]["startToFirstSeconds"] > 0
    assert backlog["fullToEmpty"] > 0


def test_two_processes_deliver_nothing_twice(ran: tuple[dict[str, Any], str, Path]) -> None:
    """Both have work, and each job reaches the sink once; the server's CPU is told apart."""
    if not POSTGRES:
        server.absent()
    together = ran[0]["parts"]["together"]
    assert together["duplicates"] == 0
    delivered = sum(together[name]["delivered"] for name in ("one", "two"))
    assert together["arrived"] >= delivered > 0
    for name, count in (("one", 1), ("two", 2)):
        assert len(together[name]["eachCpuShare"]) == count
        assert together[name]["deliveredPerSecond"] > 0
        assert together[name]["boundBy"]
    assert "5. Together" in ran[1]


def test_what_the_receiver_keeps_is_in_its_file(ran: tuple[dict[str, Any], str, Path]) -> None:
    """Every message it answered 200 is a row; nothing that it refused left a byte."""
    receiver = ran[0]["parts"]["receiver"]
    assert receiver["stored"] == receiver["kept"] > receiver["durable"]["accepted"] > 0
    assert receiver["bare"]["accepted"] > 0
    assert receiver["durableToBare"] > 0
    assert receiver["flood"]["accepted"] > 0
    # Its handlers are registered again once a minute, which may be in a round.
    renewed = receiver["floodFilesChanged"]
    assert renewed <= 1
    assert (receiver["floodWrittenBytes"] or 0) <= renewed * 64 * 1024  # None: we are not told
    for name in ("steady", "flooded", "swamped"):
        assert receiver[name]["submitted"] == receiver[name]["accepted"] > 0
        assert 0 < receiver[name]["acceptP50Ms"] <= receiver[name]["acceptP99Ms"]


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ((0.9, 0.5, 0.5, [0.9]), "the 2 cores, all busy"),
        ((0.95, 0.1, 0.1, [0.95]), "the dispatcher's own core"),
        ((0.4, 0.1, 0.95, [0.2, 0.2]), "the load generator"),
        ((0.5, None, 0.1, [None, 0.5]), "waiting: 0.60 of 2 cores used"),
    ],
)
def test_what_bounds_a_run_is_told_by_who_is_busy(
    shares: tuple[float, float | None, float, list[float | None]], told: str
) -> None:
    """All cores before one process, one process before nobody."""
    dispatchers, database, load, each = shares
    run = {"cpuShare": dispatchers, "serverCpuShare": database, "loadCpuShare": load, "each": each}
    assert bound_by(run, cores=2).startswith(told)


def test_nothing_is_left_behind(ran: tuple[dict[str, Any], str, Path]) -> None:
    """Databases and logs are removed with their directory."""
    _, _, directory = ran
    figures = {f"figures-{parts}.json" for parts in _RUNS}
    assert {path.name for path in directory.iterdir()} == figures


def test_what_needs_postgresql_runs_only_where_it_is_asked_for() -> None:
    """SQLite alone is the default, and what remains where there is no server."""
    alone = (1, 2, 3, 4, 6, 7, 8)
    assert parse([]).parts == alone
    both = parse(["--store", "both"])
    assert (both.stores, both.parts) == (("sqlite", "postgres"), PARTS)
    left = both.without_postgres()
    assert (left.stores, left.parts) == (("sqlite",), alone)


@pytest.mark.parametrize(
    ("parts", "said"), [("9", "numbers from 1 to 8"), ("5", "add --store postgres, or both")]
)
def test_a_wrong_option_is_a_usage_error(parts: str, said: str) -> None:
    """Exit 2 and a line that says why, as commands do."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--parts", parts],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_END_S,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize("half", ["dispatcher", "receiver"])
def test_hostile_connections_are_measured(half: str) -> None:
    """A row of the table for each kind."""
    command = [sys.executable, "-m", "tests.bench.hostile", "--half", half, "--connections", "20"]
    done = subprocess.run(
        [*command, "--kinds", "half a head,slow reader", "--settle=0.3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_END_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    _, _, _, *rows = done.stdout.splitlines()
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| half a head", "20", "20"],
        ["| slow reader", "20", "20"],
    ]
