"""Either half as a process of its own on loopback, and raw connections to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Final, Literal
from urllib.parse import urlsplit

import httpx

Name = Literal["dispatcher", "receiver"]
KEY: Final = "test-admin-key-of-tests"
SECRET: Final = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Half:
    """One that runs. `log` is what it has written so far, where that is read."""

    name: Name
    popen: subprocess.Popen[str]
    port: int
    log: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rss_bytes(self) -> int:
        """The memory that it takes up now."""
        status = Path(f"/proc/{self.popen.pid}/status").read_text("ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Ask for it, on a connection of its own."""
        return httpx.get(f"{self.url}{path}", headers=headers, trust_env=False, timeout=WITHIN_S)

    def connect(self, *, source: str = "127.0.0.1", receive_bytes: int = 0) -> socket.socket:
        """A connection from this address; with a receive buffer of this size, if any."""
        peer = socket.socket()
        if receive_bytes:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        peer.bind((source, 0))
        peer.settimeout(WITHIN_S)
        peer.connect(("127.0.0.1", self.port))
        return peer

    def terminate(self) -> float:
        """Send SIGTERM; return how long it took to end, in seconds."""
        began_s = time.monotonic()
        self.popen.send_signal(signal.SIGTERM)
        self.popen.wait(WITHIN_S)
        return time.monotonic() - began_s


@contextmanager
def running(
    name: Name, folder: Path, *, reads_log: bool = True, **settings: object
) -> Iterator[Half]:
    """This half with these settings, until the end of the block. Its log goes to a pipe, which is
    read to the end, unless after its start nobody does."""
    given = {
        "database_url": f"sqlite:///{folder}/{name}.db",
        "port": 0,
        "admin_key": KEY,
        "log_format": "json",
        **({"secrets": SECRET} if name == "receiver" else {"allow_networks": "127.0.0.0/8"}),
        **settings,
    }
    popen = subprocess.Popen(
        [sys.executable, "-m", name, "serve"],
        env={**os.environ, **{f"{name}_{key}".upper(): str(value) for key, value in given.items()}},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    stderr = popen.stderr
    assert stderr is not None
    half = Half(name, popen, _port(iter(stderr.readline, "")))
    reader = Thread(target=lambda: half.log.extend(iter(stderr.readline, "")))
    try:
        if reads_log:
            reader.start()
        yield half
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait(WITHIN_S)
        if reads_log:
            reader.join(WITHIN_S)
        stderr.close()


def _port(lines: Iterator[str]) -> int:
    for line in lines:
        entry = json.loads(line)
        if entry["event"] == "listening":
            return urlsplit(entry["url"]).port or 0
    raise AssertionError("it did not start")


def fill(peer: socket.socket, request: bytes, *, bytes_max: int = 4_000_000) -> int:
    """Send this request again and again, reading nothing, until no more is taken for a while or so
    many bytes are sent; return how many."""
    many = request * (1 + 65_536 // len(request))
    peer.settimeout(0.3)
    sent = 0
    try:
        while sent < bytes_max:
            sent += peer.send(many)
    except TimeoutError:
        pass
    peer.settimeout(WITHIN_S)
    return sent
