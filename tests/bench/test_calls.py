"""What calls of upstreams cost is measured: nothing here looks at a time or at memory."""

import subprocess
import sys

from tests.bench.process import ROOT


def test_calls_that_wait_and_calls_that_are_answered_are_measured() -> None:
    command = [sys.executable, "-m", "tests.bench.calls"]
    done = subprocess.run(
        [*command, "--open=30", "--calls=640", "--seconds=0.2", "--settle=0.1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    plain, tls, cpu = done.stdout.splitlines()
    assert plain.startswith("30 open calls: ")
    assert tls.startswith("30 open calls over TLS: ")
    assert "bare POST" in cpu
