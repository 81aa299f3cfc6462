"""The README, walked: a fresh clone, one shell, and every block pasted into it from top to bottom,
on free ports. What is left out is the installation: the clone has the environment that we have."""

import itertools
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dispatcher.demo.processes import free_ports
from tests.readme.documents import README, ROOT, read

KEY: Final = "my-first-key"
_DONE: Final = "@@PASTED "
_FAILED: Final = "@@FAILED "


def every_block() -> list[tuple[str, str]]:
    """Return the blocks of code of the README with their languages, in order; pictures are none."""
    return re.findall(r"^```(\w+)\n(.*?)^```", read(README), re.DOTALL | re.MULTILINE)


@dataclass(slots=True)
class Walk:
    """The shell, and where its services are. `folder` is the clone."""

    folder: Path
    dispatcher_port: int
    receiver_port: int
    spare_port: int
    _shell: "subprocess.Popen[str]"
    _terminal: int
    _tty: str
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def here(self, text: str) -> str:
        """Return `text` of a document with its default ports replaced by ours."""
        text = text.replace(":8600", f":{self.dispatcher_port}")
        text = text.replace(":8700", f":{self.receiver_port}")
        text = text.replace(":9000", f":{self.spare_port}")
        return text.replace(", 9000)", f", {self.spare_port})")

    def paste(self, text: str, *, typed: str = "", may_fail: str = "") -> str:
        """Paste into the shell, with a terminal to answer on; return what it prints. Every command
        must succeed, but for one that begins with `may_fail`."""
        number = next(self._numbers)
        file = self.folder.parent / f"pasted-{number}"
        file.write_text(self.here(text))
        os.write(self._terminal, typed.encode())
        assert self._shell.stdin is not None
        # Not everything that is printed ends its line.
        self._shell.stdin.write(f". {file} <{self._tty}\nprintf '\\n{_DONE}{number}\\n'\n")
        self._shell.stdin.flush()
        printed = self._until(f"{_DONE}{number}\n").removesuffix("\n")
        lines = printed.splitlines(keepends=True)
        failed = [line for line in lines if line.startswith(_FAILED)]
        bad = [one for one in failed if not (may_fail and one.startswith(_FAILED + may_fail))]
        assert not bad, printed
        return "".join(line for line in lines if line not in failed)

    def run_python(self, text: str, before: str = "") -> str:
        """Paste a block of Python into a file, and run it from the shell."""
        file = self.folder.parent / f"block-{next(self._numbers)}.py"
        file.write_text(self.here(before + text))
        return self.paste(f"python {file}\n")

    def run(self, script: str, **more: str) -> str:
        """Paste `script` in another terminal, in the folder of the services; return what it prints.
        Fails if a command does."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(script)],
            cwd=self.folder / "build" / "try",
            env={**_environment(self.folder, self.dispatcher_port, self.receiver_port), **more},
            capture_output=True,
            check=False,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def _until(self, end: str) -> str:
        assert self._shell.stdout is not None
        printed = ""
        while (line := self._shell.stdout.readline()) != end:
            assert line, f"the shell ended early:\n{printed}"
            printed += line
        return printed


@contextmanager
def walk(folder: Path) -> Iterator[Walk]:
    """A shell in a fresh clone. On leaving, end what was started as the README says."""
    clone = folder / "postback"
    _clone(clone)
    first, second, third = free_ports(3)
    master, slave = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--norc", "-s"],
        cwd=clone,
        env=_environment(clone, first, second),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert shell.stdin is not None
    shell.stdin.write(f"set -uEo pipefail; trap 'echo \"{_FAILED}$BASH_COMMAND\"' ERR\n")
    try:
        made = Walk(clone, first, second, third, shell, master, os.ttyname(slave))
        yield made
        shell.communicate("trap - ERR; kill $(jobs -p); wait\n", timeout=60)
    finally:
        if shell.poll() is None:  # it hangs, and with it what it started
            os.killpg(shell.pid, signal.SIGKILL)
            shell.communicate()
        os.close(master)
        os.close(slave)


def _clone(clone: Path) -> None:
    """Make a clone of this checkout as it is now, changes that are not committed included, and have
    it think that `make install` was run."""
    if (ROOT / ".git").exists():
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        for name in [*_listed("diff", "--name-only", "HEAD"), *_listed("ls-files", "--others")]:
            place = clone / name
            place.unlink(missing_ok=True)
            if (ROOT / name).is_file():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, place)
    else:
        made_here = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "*.db*")
        shutil.copytree(ROOT, clone, ignore=made_here)
        subprocess.run(["git", "init", "-q", str(clone)], check=True)
    _pretend_installed(clone / ".venv")


def _listed(*words: str) -> list[str]:
    more = ["--exclude-standard"] if words[0] == "ls-files" else []
    listed = ["git", *words, *more, "-z"]
    ran = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True)
    return [name for name in ran.stdout.split("\0") if name]


def _pretend_installed(made: Path) -> None:
    """Make this environment the clone's, with a `pip` that only writes down what it was asked."""
    ours = Path(sys.executable).parent
    (made / "bin").mkdir(parents=True)
    shutil.copy(ours.parent / "pyvenv.cfg", made)
    (made / "lib").symlink_to(ours.parent / "lib")
    for program in ours.iterdir():
        if not program.name.startswith("pip"):
            (made / "bin" / program.name).symlink_to(program)
    (made / "bin" / "pip").write_text('#!/bin/sh\necho "pip $*" >>"$(dirname "$0")/../asked"\n')
    (made / "bin" / "pip").chmod(0o755)
    (made / ".installed").touch()


def _environment(clone: Path, dispatcher_port: int, receiver_port: int) -> Mapping[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DISPATCHER_", "RECEIVER_", "GIT_"))
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ports = {"DISPATCHER_PORT": f"{dispatcher_port}", "RECEIVER_PORT": f"{receiver_port}"}
    # The environment's own package is this checkout; the clone's is in front of it.
    return {**kept, **ports, "PATH": path, "PYTHONPATH": str(clone), "COLUMNS": "120"}
