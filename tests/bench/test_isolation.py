"""Whatever one tenant or a stranger holds or does, another tenant's submits are taken and its
deliveries arrive meanwhile (I6). How fast is `python -m tests.bench --parts 7`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.bench.attack import BUSY, HOLDING
from tests.bench.process import ROOT
from tests.dispatcher.postgres import server

# What a tenant may keep is counted to the byte elsewhere; filling it takes long.
_HOLDING: Final = [name for name in HOLDING if name != "storage"]
TOGETHER: Final = {"holding": "+".join(_HOLDING), "busy": "+".join(BUSY)}
pytestmark = pytest.mark.timeout(320)
_SIZES: Final = ("--seconds", "0.3", "--warm-up", "0.1", "--rounds", "1", "--attack-scale", "0.25")
_END_S: Final = 300


@pytest.mark.parametrize(
    ("store", "attacks"), [("sqlite", "holding"), ("sqlite", "busy"), ("postgres", "busy")]
)
def test_nobody_waits_for_what_others_hold(store: str, attacks: str, tmp_path: Path) -> None:
    """All attacks at once, each larger than what there is of what it takes: who waited for one of
    them would wait for a minute, and be told of here. What is held is held in the process, on
    either store."""
    if store == "postgres" and server.binaries() is None:
        server.absent()
    target = tmp_path / "figures.json"
    asked = ("--parts=7", f"--store={store}", f"--attacks={TOGETHER[attacks]}", f"--json={target}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *_SIZES, *asked, f"--dir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_END_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    isolation = json.loads(target.read_text("utf-8"))["parts"]["isolation"][store]
    for name in ("without", "beside"):
        run = isolation[TOGETHER[attacks]][name]
        assert "failed" not in run, run
        assert run["submitted"] == run["accepted"] == run["arrived"] > 0
