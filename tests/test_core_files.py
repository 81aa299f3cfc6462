"""A process of ours that crashes leaves no core file, in which secrets would be plain to read."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

PATTERN: Final = Path("/proc/sys/kernel/core_pattern")
HERE: Final = str(Path(__file__).parents[1])
SECRET: Final = "test-secret-of-nobody-at-all"
COMMANDS: Final = {
    "dispatcher": ["-m", "dispatcher", "serve"],
    "receiver": ["-m", "receiver", "serve"],
    "another program": ["-c", "print('listening', flush=True); input()"],
}


def crashed(command: list[str], folder: Path) -> list[str]:
    """The files that a process leaves which is ended by SIGABRT once it listens; it starts with
    core files allowed."""
    given = {
        "DISPATCHER_DATABASE_URL": f"sqlite:///{folder}/dispatcher.db",
        "DISPATCHER_PORT": "0",
        "DISPATCHER_SIGNING_SECRET": "whsec_" + "YSB0ZXN0IHNlY3JldCBvZiBub2JvZHk0",
        "RECEIVER_DATABASE_URL": f"sqlite:///{folder}/receiver.db",
        "RECEIVER_PORT": "0",
        "RECEIVER_SECRETS": SECRET,
    }
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **given, "PYTHONPATH": HERE},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),  # noqa: PLW1509
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            assert process.stdout is not None
            while b"listening" not in (line := process.stdout.readline()):
                assert line, "it ended before it listened"
            process.send_signal(signal.SIGABRT)
            assert process.wait(30) == -signal.SIGABRT
        finally:
            process.kill()
    return [one.name for one in folder.iterdir() if one.name.startswith("core")]


@pytest.mark.skipif(
    not PATTERN.exists() or PATTERN.read_text().strip() != "core",
    reason="core files do not go into the working folder here",
)
@pytest.mark.parametrize("program", COMMANDS)
def test_a_crash_leaves_no_core_file(program: str, tmp_path: Path) -> None:
    """Of another program, by the way, there is one: so they are looked for where they are."""
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("no process may leave a core file here")
    assert (crashed(COMMANDS[program], tmp_path) == []) == (program != "another program")
