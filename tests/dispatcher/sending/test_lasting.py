"""lasting.py: connections that are quiet for hours.

Hours cannot be waited for. What is shown: the options of a live socket, and that the system keeps
its word for them with short times: that a peer whose host has gone is noticed (its socket drops
every packet, as a host does that is not there), and one that is only quiet, or stopped, is not.
What is not shown: a NAT that forgets a connection; for it the probes are as good as data.
"""

import asyncio
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from typing import Any

import pytest

from dispatcher.sending import lasting
from dispatcher.sending.upstream import LOST
from tests.dispatcher.peers import OK, Peer, answers, listening
from tests.dispatcher.upstreams import call, calling

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="options and filters of Linux")

_TCP = socket.IPPROTO_TCP
_ATTACH_FILTER = 26


def vanish(writer: asyncio.StreamWriter) -> None:
    """Drop every packet that comes for a socket from now on, unacknowledged."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # return 0
    sock = writer.get_extra_info("socket")
    address = ctypes.addressof(program)
    sock.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", 1, address))


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that takes minutes takes seconds."""
    values = {"TCP_KEEPIDLE": 1, "TCP_KEEPINTVL": 1, "TCP_USER_TIMEOUT": 2_000}
    options = tuple(
        (level, option, next((values[n] for n in values if getattr(socket, n) == option), value))
        if level == _TCP
        else (level, option, value)
        for level, option, value in lasting._OPTIONS
    )
    monkeypatch.setattr(lasting, "_OPTIONS", options)
    monkeypatch.setattr(lasting, "GONE_MS", 2_000)
    monkeypatch.setattr(lasting, "BUSY_MS", 60_000)
    monkeypatch.setattr(lasting, "_LOOK_EVERY_S", 0.2)


@pytest.mark.parametrize("once", [False, True])
async def test_the_sockets_of_calls_are_kept_alive(once: bool) -> None:
    """SO_KEEPALIVE with 30 s idle, 10 s × 3, and TCP_USER_TIMEOUT, on the live socket. What it
    receives is bounded by the system alone: less would slow long outputs that come from afar."""
    seen: dict[str, int] = {}
    received: list[int] = []

    async def looks(peer: Peer, reader: Any, writer: Any) -> None:
        await peer.receive(reader)
        (exchange,) = live
        assert exchange.transport is not None
        sock = exchange.transport.get_extra_info("socket")
        seen["SO_KEEPALIVE"] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"):
            seen[name] = sock.getsockopt(_TCP, getattr(socket, name))
        received.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
        writer.write(OK)
        await writer.drain()

    live: list[lasting.Exchange] = []
    begin = lasting.Exchange.begin

    def begun(exchange: lasting.Exchange, handler: Any) -> None:
        begin(exchange, handler)
        live.append(exchange)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lasting.Exchange, "begin", begun)
        async with listening(looks) as peer, calling() as upstreams:
            outcome = await upstreams.call(call(peer.url, once=once))

    assert outcome.kind == "answered"
    assert seen == {
        "SO_KEEPALIVE": 1,
        "TCP_KEEPIDLE": 30,
        "TCP_KEEPINTVL": 10,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 60_000,
    }
    with socket.socket() as plain:
        assert received[0] >= plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@pytest.mark.usefixtures("soon")
async def test_a_host_that_has_gone_is_noticed_long_before_the_run_limit() -> None:
    """The call is unknown: its upstream may have done the work."""

    async def goes(peer: Peer, reader: Any, writer: Any) -> None:
        await peer.receive(reader)
        vanish(writer)
        await asyncio.Event().wait()

    async with listening(goes) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url, limit_s=60))

    assert (outcome.kind, outcome.error) == ("unknown", LOST)
    assert "timed out" in (outcome.detail or "")
    assert 1_500 < outcome.duration_ms < 20_000


@pytest.mark.usefixtures("soon")
async def test_a_host_that_goes_while_its_request_is_written_is_noticed() -> None:
    """What is unacknowledged tells, where no probe is sent."""

    async def goes(peer: Peer, reader: Any, writer: Any) -> None:
        vanish(writer)
        gone.set()
        await asyncio.Event().wait()

    gone = asyncio.Event()
    async with listening(goes) as peer, calling() as upstreams:
        body = b"x" * (lasting._LARGE_BYTES - 1_000)
        outcome = await upstreams.call(call(peer.url, body=body, limit_s=60))

    assert gone.is_set()
    assert outcome.kind == "unknown"
    assert outcome.duration_ms < 20_000


@pytest.mark.usefixtures("soon")
async def test_an_upstream_that_is_only_quiet_is_waited_for() -> None:
    """It is silent for longer than a host that has gone may be."""

    async def thinks(peer: Peer, reader: Any, writer: Any) -> None:
        await peer.receive(reader)
        await asyncio.sleep(5)
        writer.write(OK)
        await writer.drain()

    async with listening(thinks) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url, limit_s=60))

    assert outcome.kind == "answered"
    assert outcome.duration_ms > 4_900


@pytest.mark.usefixtures("soon")
async def test_a_busy_upstream_that_leaves_a_large_request_unread_is_waited_for() -> None:
    """With `TCP_USER_TIMEOUT` alone the system would end it, although its host answers: a server
    with one worker reads the next request when it has done with the last."""

    async def is_busy(peer: Peer, reader: Any, writer: Any) -> None:
        writer.transport.pause_reading()
        await asyncio.sleep(5)
        writer.transport.resume_reading()
        await answers(OK)(peer, reader, writer)

    async with listening(is_busy) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url, body=b"x" * (16 * 2**20), limit_s=60))

    assert outcome.kind == "answered", outcome
    assert outcome.duration_ms > 4_900


@pytest.mark.usefixtures("soon")
async def test_a_large_request_that_was_taken_leaves_its_host_no_excuse() -> None:
    async def takes_and_goes(peer: Peer, reader: Any, writer: Any) -> None:
        await peer.receive(reader)
        await asyncio.sleep(0.5)
        vanish(writer)
        await asyncio.Event().wait()

    async with listening(takes_and_goes) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url, body=b"x" * (4 * 2**20), limit_s=60))

    assert outcome.kind == "unknown"
    assert outcome.duration_ms < 20_000


_STOPPED = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.recv(65536)
print("there", flush=True)
connection.recv(1)
"""


@pytest.mark.usefixtures("soon")
async def test_a_stopped_process_is_quiet_and_a_killed_one_is_noticed_at_once() -> None:
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", _STOPPED], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        async with calling() as upstreams:
            task = asyncio.create_task(
                upstreams.call(call(f"http://127.0.0.1:{port}/", limit_s=60))
            )
            await asyncio.to_thread(process.stdout.readline)
            os.kill(process.pid, signal.SIGSTOP)
            await asyncio.sleep(4)
            assert not task.done()
            process.kill()
            killed_s = time.monotonic()
            outcome = await asyncio.wait_for(task, 20)
            assert time.monotonic() - killed_s < 10
    finally:
        process.kill()
        process.wait()
        process.stdout.close()

    assert outcome.kind == "unknown"
