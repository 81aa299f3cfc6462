"""Part 8 runs, and its figures fit each other: nothing here looks at a time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.bench.process import ROOT
from tests.dispatcher.postgres import server

BACKLOG: Final = 300
OPEN_CALLS: Final = 20
LOOKS: Final = 10
_SIZES: Final = (
    *("--seconds", "0.3", "--warm-up", "0.1", "--rounds", "1"),
    *("--backlog", str(BACKLOG), "--open-calls", str(OPEN_CALLS), "--looks", str(LOOKS)),
)
_END_S: Final = 300
pytestmark = pytest.mark.timeout(_END_S + 20)


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_every_job_is_called_and_told_of(store: str, tmp_path: Path) -> None:
    """By the gateway and by the proxy beside it; what waits is not touched."""
    if store == "postgres" and server.binaries() is None:
        server.absent()
    target = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.bench", "--parts=8", f"--store={store}", *_SIZES]
    done = subprocess.run(
        [*command, f"--dir={tmp_path}", f"--json={target}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_END_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "8. Jobs" in done.stdout
    found = json.loads(target.read_text("utf-8"))["parts"]["gateway"][store]
    for name in ("gateway", "proxy"):
        assert found[name]["delivered"] > 0
        assert found[name]["others"] == 0
    steady = found["steady"]
    assert steady["submitted"] == steady["accepted"] == steady["arrived"] > 0
    for name in ("accept", "called", "told"):
        assert 0 < steady[f"{name}P50Ms"] <= steady[f"{name}P99Ms"]
    assert found["open"]["calls"] == OPEN_CALLS
    assert found["waited"]["calls"] == LOOKS
    assert 0 < found["waited"]["directP50Ms"] <= found["waited"]["waitP50Ms"]
    held = found["held"]
    assert held["backlog"] == (BACKLOG // 5 if store == "postgres" else BACKLOG)
    assert held["withToWithout"] > 0
    assert held["statusHasPosition"]
    assert held["loadQueued"] > held["backlog"]  # those that were looked at wait there too
    assert 0 < held["startWithoutSeconds"] < _END_S
    assert 0 < held["startSeconds"] < _END_S
