"""The quick start's two services, on free ports and in a folder of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dispatcher.demo.processes import free_ports
from tests.readme.documents import README, ROOT, block

KEY = "my-first-key"


@dataclass(frozen=True, slots=True)
class Started:
    """What the quick start printed, and where its services are."""

    folder: Path
    dispatcher_port: int
    receiver_port: int
    spare_port: int
    output: str

    def here(self, text: str) -> str:
        """Return `text` of a document with its default ports replaced by ours."""
        return text.replace(":8600", f":{self.dispatcher_port}").replace(
            ":8700", f":{self.receiver_port}"
        )

    def run(self, script: str, **more: str) -> str:
        """Paste `script` in another terminal; return what it prints. Fails if a command does."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(script)],
            cwd=self.folder,
            env={**_environment(self.dispatcher_port, self.receiver_port), **more},
            capture_output=True,
            check=False,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


@contextmanager
def quick_start(folder: Path) -> Iterator[Started]:
    """Paste the README's quick start from top to bottom into one shell, in a checkout whose
    environment is installed; on leaving, end what it started as the README says."""
    _pretend_checkout(folder)
    dispatcher_port, receiver_port, spare_port = free_ports(3)
    where = Started(folder, dispatcher_port, receiver_port, spare_port, "")
    # What was pasted leaves the shell open: it waits for the next line, which ends it.
    script = where.here(block(README, "make install"))
    script += "\necho PASTED; read -r _; kill %1 %2; wait"
    shell = subprocess.Popen(
        ["bash", "-uo", "pipefail", "-c", script],
        cwd=folder,
        env=_environment(dispatcher_port, receiver_port),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert shell.stdout is not None
    try:
        output = ""
        while (line := shell.stdout.readline()) != "PASTED\n":
            assert line, f"the shell ended early:\n{output}"
            output += line
        yield replace(where, folder=folder / "build" / "try", output=output)
        shell.communicate("\n", timeout=60)
    finally:
        if shell.poll() is None:  # it hangs, and with it what it started
            os.killpg(shell.pid, signal.SIGKILL)
            shell.communicate()


def _pretend_checkout(folder: Path) -> None:
    """Make `folder` a checkout, with this interpreter's environment for its own."""
    (folder / "Makefile").write_text("install:\n", "utf-8")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)


def _environment(dispatcher_port: int, receiver_port: int) -> Mapping[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DISPATCHER_", "RECEIVER_"))
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ports = {"DISPATCHER_PORT": f"{dispatcher_port}", "RECEIVER_PORT": f"{receiver_port}"}
    return {**kept, **ports, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
