"""Bounds on a connection, of both halves as processes: what waits, who does not read, how many
there may be, and that none of them keeps a process from ending."""

import json
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from typing import Final

import httpx
import pytest

from receiver.testing import signed_request
from tests.base.wire import request
from tests.defects.halves import KEY, SECRET, Half, Name, fill, running

MIB: Final = 1024 * 1024
HEALTHZ: Final = request("/healthz")
LAST: Final = request("/healthz", headers="Connection: close\r\n")
HALVES: Final[tuple[Name, ...]] = ("dispatcher", "receiver")
AUTH: Final = f"Authorization: Bearer {KEY}\r\n"
# The longest response of each, once the receiver has such a message.
LONG: Final = {
    "dispatcher": request("/openapi.json"),
    "receiver": request("/inbox/1", headers=AUTH),
}


@contextmanager
def running_with_long(name: Name, folder: Path, **settings: int) -> Iterator[Half]:
    """This half, with something to ask for that is long."""
    with running(name, folder, **settings) as half:  # type: ignore[arg-type]
        if name == "receiver":
            body = b'{"jobId":"j","status":"completed","text":"%b"}' % (b"x" * 200_000)
            headers = signed_request(body, SECRET)
            sent = httpx.post(f"{half.url}/webhooks", content=body, headers=headers)
            assert sent.status_code == 200
        yield half


def unread(half: Half, source: str = "127.0.0.1") -> socket.socket:
    """A connection whose peer has asked for more than it reads."""
    peer = half.connect(source=source, receive_bytes=2_048)
    fill(peer, LONG[half.name])
    return peer


def ended(peer: socket.socket, within_s: float) -> bool:
    """Whether the other side resets the connection within this time, with nothing read."""
    poll = select.poll()
    poll.register(peer, 0)  # hang-ups and errors alone
    return bool(poll.poll(within_s * 1000))


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("first", [b"", request("/nosuch", b"x" * 1000)])
def test_pipelined_requests_wait_outside(name: Name, first: bytes, tmp_path: Path) -> None:
    """One connection sends thousands at once: each is answered, and memory stays where it was."""
    count = 8_000
    answers: list[bytes] = []
    with running(name, tmp_path) as half, half.connect() as peer:
        assert half.get("/healthz").status_code == 200
        before = most = half.rss_bytes()
        reader = Thread(target=lambda: answers.extend(iter(lambda: peer.recv(65_536), b"")))
        writer = Thread(target=peer.sendall, args=(first + HEALTHZ * (count - 1) + LAST,))
        reader.start()
        writer.start()
        while reader.is_alive():
            most = max(most, half.rss_bytes())
            reader.join(0.02)
        writer.join()
    assert b"".join(answers).count(b"HTTP/1.1 200") == count
    assert most - before < 6 * MIB


@pytest.mark.parametrize("name", HALVES)
def test_who_does_not_read_is_cut_off(name: Name, tmp_path: Path) -> None:
    """At the deadline of writing: as many as there may be keep nobody out for longer."""
    with ExitStack() as stack:
        half = stack.enter_context(
            running_with_long(name, tmp_path, connections_max=20, peer_share=1, write_timeout=2)
        )
        began_s = time.monotonic()
        with ThreadPoolExecutor(20) as threads:
            peers = list(threads.map(lambda _: stack.enter_context(unread(half)), range(20)))
        filled_s = time.monotonic() - began_s
        assert half.get("/healthz").status_code == 503 or filled_s > 2
        assert all(ended(peer, 10) for peer in peers)
        while half.get("/healthz").status_code == 503:
            assert time.monotonic() - began_s < 20
            time.sleep(0.01)


@pytest.mark.parametrize(("name", "count"), [("dispatcher", 200), ("receiver", 200)])
def test_a_slow_reader_gets_all_of_it(name: Name, count: int, tmp_path: Path) -> None:
    """The deadline is for each response, not for the connection: this takes three times as long."""
    with running_with_long(name, tmp_path, write_timeout=1) as half, half.connect() as peer:
        size = (
            len(half.get(LONG[name].split()[1].decode(), Authorization=f"Bearer {KEY}").content)
            * count
        )
        writer = Thread(target=peer.sendall, args=(LONG[name] * count + LAST,))
        writer.start()
        began_s, answers = time.monotonic(), []
        while data := peer.recv(size // 600):
            answers.append(data)
            time.sleep(max(0, began_s + 0.005 * len(answers) - time.monotonic()))
        writer.join()
        assert time.monotonic() - began_s > 3
        assert b"".join(answers).count(b"HTTP/1.1 200") == count + 1


@pytest.mark.parametrize("name", HALVES)
def test_a_surplus_connection_is_closed_as_it_comes(name: Name, tmp_path: Path) -> None:
    """Without a byte from it, and with the reason."""
    with ExitStack() as stack:
        half = stack.enter_context(running(name, tmp_path, connections_max=2, peer_share=1))
        for _ in range(2):
            held = stack.enter_context(half.connect())
            held.sendall(HEALTHZ)
            assert b"200 OK" in held.recv(1000)
        with half.connect() as surplus:
            answer = b"".join(iter(lambda: surplus.recv(65_536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in head
        assert json.loads(body)["error"] == "BUSY"


@pytest.mark.parametrize("name", HALVES)
def test_one_address_does_not_take_all_connections(name: Name, tmp_path: Path) -> None:
    """It has its share; behind one proxy that is nearly all."""
    with ExitStack() as stack:
        half = stack.enter_context(running(name, tmp_path, connections_max=40))
        taken = 0
        for _ in range(40):
            peer = stack.enter_context(half.connect(source="127.0.0.2"))
            peer.sendall(HEALTHZ)
            taken += b"200 OK" in peer.recv(1000)
        assert taken == 30
        assert half.get("/healthz").status_code == 200


@pytest.mark.parametrize("name", HALVES)
def test_unread_responses_do_not_keep_a_process(name: Name, tmp_path: Path) -> None:
    """SIGTERM ends it within its grace, whatever the deadline of writing."""
    with (
        running_with_long(name, tmp_path, write_timeout=600, drain_grace=1) as half,
        unread(half),
        unread(half),
    ):
        assert half.terminate() < 10
        assert half.popen.returncode == 0
