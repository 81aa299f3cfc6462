"""`receiver serve` as a process on a free port, with its log, and a client of it."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import httpx

ENDS_WITHIN_S = 60.0


class Process:
    """Started with further arguments and settings; `first` is the line of its log that says where
    it listens; there may be warnings before."""

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
        while self.first["level"] == "warning":
            self.first = json.loads(self.stderr.readline())
        self.port = int(self.first["port"])
        # A pipe that nobody empties fills up, and a full one stops who writes to it.
        self.reader = Thread(target=self.stderr.read)
        self.reader.start()
        self.http = httpx.Client(trust_env=False, timeout=ENDS_WITHIN_S)

    def post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """Delivers a message."""
        return self.http.post(self.first["url"], content=body, headers=headers)

    def connect(self) -> socket.socket:
        """A connection for a test that speaks HTTP itself."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=ENDS_WITHIN_S)

    def end(self, number: signal.Signals) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        code = self.popen.wait(ENDS_WITHIN_S)
        self.reader.join(ENDS_WITHIN_S)
        self.stderr.close()
        self.http.close()
        return code
