"""What calls cost that last an hour is measured: nothing here looks at a time or at a figure."""

import subprocess
import sys

import pytest

from tests.bench.process import ROOT
from tests.dispatcher.postgres import server

pytestmark = pytest.mark.timeout(200)


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_calls_that_last_are_measured(store: str) -> None:
    if store == "postgres" and server.binaries() is None:
        server.absent()
    command = [sys.executable, "-m", "tests.bench.hour", f"--store={store}"]
    done = subprocess.run(
        [*command, "--calls=40", "--seconds=0.5", "--settle=0.1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"40 calls of an hour on {store}: ")
    assert "goal: 5% for 10,000" in done.stdout
