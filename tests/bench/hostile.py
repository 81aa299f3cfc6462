"""What many hostile connections cost a half in memory.

`python -m tests.bench.hostile --half dispatcher --connections 10000`: a process for each kind, on
loopback: its memory before, with all of them open, and after they are closed. Time-outs and the
number of connections are set so that all stay; `--defaults` leaves them as they are. What the
kernel keeps in its buffers is told apart: it is no memory of the process.
"""

import argparse
import asyncio
import resource
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tests.bench.payload import ADMIN_KEY
from tests.bench.process import Child, receiving, running

KIB: Final = 1024
MIB: Final = 1024 * KIB
KEY: Final = ADMIN_KEY.rjust(24, "k")  # long enough for the receiver
SECRET: Final = "whsec_" + "dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
_AUTH: Final = f"Authorization: Bearer {ADMIN_KEY}\r\n"
_LONG_TIMES: Final = {"request_timeout": 900, "write_timeout": 900}
_CONNECT_S: Final = 10.0
_SETTLE_S_MAX: Final = 120.0
_FILES_SPARE: Final = 512
_ASIDE: Final = 128  # connections for us


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The figures of one kind, in bytes."""

    kind: str
    opened: int
    held: int
    before: int
    during: int
    after: int
    kernel: int

    def line(self) -> str:
        """Return the row of the table."""
        each = (self.during - self.before) / max(1, self.held) / KIB
        figures = (self.before, self.during, self.after, self.kernel)
        sizes = " | ".join(f"{size / MIB:.0f}" for size in figures)
        return f"| {self.kind} | {self.opened} | {self.held} | {sizes} | {each:.1f} |"


def request(path: str, *, method: str = "GET", more: str = "", auth: bool = False) -> bytes:
    """Return the head of a request."""
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{_AUTH if auth else ''}{more}\r\n".encode()


def attacks(half: str) -> dict[str, bytes]:
    """Return what a connection of each kind sends; of which nothing is read, but for `idle`."""
    if half == "dispatcher":
        head, long = 30 * KIB, request("/openapi.json")
        begun = request(
            "/v1/callbacks/batch",
            method="POST",
            more=f"Content-Type: application/x-ndjson\r\nContent-Length: {16 * MIB}\r\n",
            auth=True,
        )
    else:
        head, long = 90 * KIB, request("/metrics")
        begun = request("/webhooks", method="POST", more=f"Content-Length: {MIB}\r\n")
    return {
        "idle": request("/healthz"),
        "half a head": request("/healthz")[:-2]
        + b"".join(b"X-%d: %b\r\n" % (n, b"x" * KIB) for n in range(head // KIB - 2)),
        "half a body": begun + b"\n" * (100 * KIB),
        "pipelined, unread": request("/healthz") * (256 * KIB // len(request("/healthz"))),
        "slow reader": long * (64 * KIB // len(long)),
    }


async def measure(half: str, kind: str, sent: bytes, options: argparse.Namespace) -> Row:
    """Return the figures of one kind, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with _service(half, Path(folder), options) as child:
            return await asyncio.to_thread(_attack, child, kind, sent, options)


def _service(
    half: str, folder: Path, options: argparse.Namespace
) -> AbstractAsyncContextManager[Child]:
    given: dict[str, object] = {}
    if not options.defaults:
        given = {"connections_max": options.connections + _ASIDE, "peer_share": 1, **_LONG_TIMES}
    url, log = f"sqlite:///{folder}/{half}.db", folder / "log"
    if half == "dispatcher":
        if not options.defaults:
            given["slots"] = 64  # descriptors are for connections
        return running(url, log, store="sqlite", cores=(), **given)
    own = {"secrets": SECRET, "admin_key": KEY, "port": 0, "database_url": url}
    return receiving("receiver", log, cores=(), **own, **given)


def _attack(child: Child, kind: str, sent: bytes, options: argparse.Namespace) -> Row:
    connections, settled_s = options.connections, options.settle
    before, kernel = _rss(child), _kernel_bytes()
    peers: list[socket.socket] = []
    begin = partial(_begin, urlsplit(child.url).port or 0, sent, kind == "idle")
    try:
        # An address has some 28,000 ports, and a closed connection keeps its own for a while.
        peers.extend(begin(f"127.0.0.{2 + number // 5_000}") for number in range(connections))
        during = _settled(child, settled_s, lambda: _push(peers, sent, kind))
        held = sum(not _is_ended(peer) for peer in peers)
        kernel = _kernel_bytes() - kernel
    finally:
        for peer in peers:
            peer.close()
    after = _settled(child, settled_s, lambda: None, falls=True)
    return Row(
        kind=kind,
        opened=connections,
        held=held,
        before=before,
        during=during,
        after=after,
        kernel=kernel,
    )


def _begin(port: int, sent: bytes, is_read: bool, source: str) -> socket.socket:
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * KIB)
    peer.settimeout(_CONNECT_S)
    peer.bind((source, 0))
    peer.connect(("127.0.0.1", port))
    with suppress(OSError):
        if is_read:
            peer.sendall(sent)
            peer.recv(4 * KIB)
    peer.setblocking(False)
    return peer


_sent: Final[dict[socket.socket, int]] = {}


def _push(peers: list[socket.socket], sent: bytes, kind: str) -> None:
    """Send more of what each has to send, as far as it is taken."""
    if kind == "idle":
        return
    for peer in peers:
        done = _sent.get(peer, 0)
        if done < len(sent):
            with suppress(OSError):
                _sent[peer] = done + peer.send(sent[done : done + 64 * KIB])


def _settled(
    child: Child, settled_s: float, act: Callable[[], None], *, falls: bool = False
) -> int:
    """Return the memory once it has not grown (or fallen) for so long; `act` is done meanwhile."""
    best, since_s, began_s = _rss(child), time.monotonic(), time.monotonic()
    while time.monotonic() - since_s < settled_s and time.monotonic() - began_s < _SETTLE_S_MAX:
        act()
        time.sleep(0.05)
        now = _rss(child)
        if (now < best - MIB) if falls else (now > best + MIB):
            best, since_s = now, time.monotonic()
    return best


def _is_ended(peer: socket.socket) -> bool:
    """Whether the service has closed it; what it has sent is read for that."""
    try:
        while peer.recv(64 * KIB):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _rss(child: Child) -> int:
    return child.memory().rss or 0


def _kernel_bytes() -> int:
    """Return what the buffers of all TCP sockets of this machine take up."""
    for line in Path("/proc/net/sockstat").read_text("ascii").splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * resource.getpagesize()
    return 0


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hostile", description=__doc__)
    parser.add_argument("--half", choices=("dispatcher", "receiver"), default="dispatcher")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--defaults", action="store_true", help="with the limits as they are set")
    parser.add_argument("--kinds", help="some of them, separated by commas")
    parser.add_argument("--settle", type=float, default=2.0, help="seconds without growth")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < options.connections + _FILES_SPARE:
        parser.error(f"{hard} open files are allowed: fewer --connections")
    print(f"{options.half}, {'default limits' if options.defaults else 'all connections allowed'}")
    print("| kind | opened | held | RSS before, MiB | with them | after | kernel | KiB each |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, sent in attacks(options.half).items():
        if options.kinds is None or kind in options.kinds.split(","):
            print(asyncio.run(measure(options.half, kind, sent, options)).line(), flush=True)


if __name__ == "__main__":
    main()
