"""The benchmark runs, and its figures fit each other. Nothing here looks at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.process import ROOT
from tests.bench.report import TITLES

BACKLOG = 300
ROUNDS = 1
_TINY = (
    *("--seconds", "0.3", "--warm-up", "0.1", "--silence-seconds", "0.3", "--in-flight", "32"),
    *("--rounds", str(ROUNDS), "--backlog", str(BACKLOG)),
)
_END_S = 100


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """What a tiny run of all parts wrote, what it printed, and where its files were."""
    directory = tmp_path_factory.mktemp("bench")
    target = directory / "figures.json"
    command = [
        sys.executable,
        "-m",
        "tests.bench",
        *_TINY,
        f"--dir={directory}",
        f"--json={target}",
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=_END_S, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(target.read_text("utf-8"))
    return found, done.stdout, directory


def test_every_part_is_printed_and_written(ran: tuple[dict[str, Any], str, Path]) -> None:
    """The table is for people, the JSON for programs; both name the machine."""
    found, printed, _ = ran
    assert set(found["parts"]) == set(TITLES.values())
    assert found["machine"]["sqlite"] in printed
    assert found["machine"]["cores"] == os.cpu_count()
    for title in ("1. Saturation", "2. Steady", "3. Silence", "4. Backlog", "5. Together"):
        assert title in printed


def test_saturation_counts_what_went_in_and_out(ran: tuple[dict[str, Any], str, Path]) -> None:
    """In a window, accepted and delivered differ at most by what is in flight at its two ends."""
    found, _, _ = ran
    throughput = found["parts"]["throughput"]
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


def test_every_paced_submit_is_answered_and_arrives(
    ran: tuple[dict[str, Any], str, Path],
) -> None:
    """At a steady rate nothing is left out of the quantiles: neither what was slow nor what was
    sent late."""
    found, _, _ = ran
    latency, silence = found["parts"]["latency"], found["parts"]["silence"]
    assert latency["submitted"] == ROUNDS * round(latency["ratePerSecond"] * 0.6)
    for run in (latency, silence["none"], silence["one"], silence["thirty"]):
        assert run["submitted"] == run["accepted"] == run["arrived"] > 0
        assert 0 < run["acceptP50Ms"] <= run["acceptP99Ms"]
        assert 0 < run["arrivalP50Ms"] <= run["arrivalP99Ms"] <= run["arrivalMostMs"]
    # The same destinations are looked at, whoever is silent.
    assert silence["none"]["submitted"] == silence["thirty"]["submitted"]


def test_the_backlog_stays_where_it_is(ran: tuple[dict[str, Any], str, Path]) -> None:
    """The held deliveries are pending before and after everybody else's were delivered."""
    backlog = ran[0]["parts"]["backlog"]
    assert backlog["pendingBefore"] == backlog["pendingAfter"] == backlog["backlog"] == BACKLOG
    for name in ("empty", "full"):
        assert backlog[name]["delivered"] > 0
        assert backlog[name]["startToFirstSeconds"] > 0
    assert backlog["fullToEmpty"] > 0


def test_nothing_is_left_behind(ran: tuple[dict[str, Any], str, Path]) -> None:
    """Databases and logs are removed with their directory."""
    _, _, directory = ran
    assert [path.name for path in directory.iterdir()] == ["figures.json"]


def test_a_wrong_option_is_a_usage_error() -> None:
    """Exit 2 and a line that says why, as commands do."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--parts", "5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_END_S,
        check=False,
    )
    assert done.returncode == 2
    assert "numbers from 1 to 4" in done.stderr
