"""`receiver serve` as a process on a free port, with its log."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

ENDS_WITHIN_S = 15


class Process:
    """Started with further arguments and settings; ``first`` is its first line of log."""

    def __init__(
        self, words: tuple[str, ...], environ: dict[str, str], folder: Path | None = None
    ) -> None:
        self.environ = environ
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "receiver", "serve", *words],
            env={**os.environ, **environ},
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stderr is not None
        self.stderr = self.popen.stderr
        self.first: dict[str, Any] = json.loads(self.stderr.readline())
        self.port = int(self.first["port"])
        # A pipe that nobody empties fills up, and a full one stops who writes to it.
        self.reader = Thread(target=self.stderr.read)
        self.reader.start()

    def end(self, number: signal.Signals) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        code = self.popen.wait(ENDS_WITHIN_S)
        self.reader.join(ENDS_WITHIN_S)
        self.stderr.close()
        return code
