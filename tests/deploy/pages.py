"""Pages of deploy/, put into practice: their files written as they say, their commands pasted."""

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from tests.readme.documents import ROOT, blocks
from tests.sdk.installed import SDK, lacking

TOOLS: Final = SDK / "tools" / "bin"
MODULES: Final = SDK / "frameworks" / "node_modules"
_STARTS_WITHIN_S: Final = 60.0
_ENDS_WITHIN_S: Final = 30.0
_NAMED: Final = re.compile(r"(?:#|//) ([\w./-]+\.(?:py|mjs|go))\b.*\n")


def program(name: str) -> str:
    """Return where a program is; skip where there is none."""
    found = shutil.which(name)
    if found is None:
        lacking(f"there is no {name} on this machine")
    assert found is not None
    return found


def write_files(page: Path, folder: Path) -> list[str]:
    """Write each block that begins with the name of a file; of two of one name, and where there is
    such a file, the later is added."""
    names = []
    for block in blocks(page):
        if named := _NAMED.match(block):
            path = folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(block)
            names.append(named[1])
    return names


def last_commands(page: Path, word: str) -> str:
    """Return the block of commands in which `word` begins a line."""
    found = [one for one in blocks(page, "sh") if re.search(rf"^{word} ", one, re.MULTILINE)]
    return found[-1]


@contextmanager
def running(
    script: str | Sequence[str],
    folder: Path,
    listening: str,
    *,
    path: Sequence[Path] = (),
    **variables: str,
) -> Iterator[str]:
    """Paste a script, or start a command, that does not end; what the group of `listening` finds in
    its output, once it is there. It is ended with all that it has started."""
    words = ["bash", "-euo", "pipefail", "-c", script] if isinstance(script, str) else [*script]
    lines: queue.Queue[str] = queue.Queue()
    process = subprocess.Popen(
        words,
        cwd=folder,
        env=environment(path, variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    reader = threading.Thread(target=_read, args=(process, lines))
    reader.start()
    try:
        yield _first(listening, lines)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_ENDS_WITHIN_S)
        finally:
            os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
            reader.join()
            assert process.stdout is not None
            process.stdout.close()


def environment(path: Sequence[Path], variables: Mapping[str, str]) -> dict[str, str]:
    """Ours, without the settings that it has, and with the package `receiver` of this checkout."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DISPATCHER_", "RECEIVER_", "PG"))
    }
    search = ":".join([*map(str, path), kept["PATH"]])
    return {**kept, "PATH": search, "PYTHONPATH": str(ROOT), **variables}


def _read(process: "subprocess.Popen[str]", lines: "queue.Queue[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")  # it has ended


def _first(pattern: str, lines: "queue.Queue[str]") -> str:
    seen = ""
    while line := lines.get(timeout=_STARTS_WITHIN_S):
        seen += line
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError(f"it ended early:\n{seen}")


@contextmanager
def effects(read: Callable[[], Mapping[str, Sequence[str]]]) -> Iterator[str]:
    """The URL of what was handled: for `receiver check --effects`."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(read()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


PYTHON: Final = Path(sys.executable).parent
