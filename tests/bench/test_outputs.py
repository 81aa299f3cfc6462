"""What long outputs cost is measured: nothing here looks at a time or at memory."""

import subprocess
import sys

from tests.bench.process import ROOT


def test_long_outputs_are_measured() -> None:
    given = ["--place=file", "--large=3", "--many=2", "--size=2", "--rate=20", "--seconds=0.5"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.outputs", *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, many, beside = done.stdout.splitlines()
    assert one.startswith("file: 1 of 3 MiB: ")
    assert many.startswith("file: 2 of 2 MiB: ")
    assert "times" in beside
