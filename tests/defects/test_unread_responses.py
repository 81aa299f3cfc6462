"""Long responses that nobody reads: bounded in memory, with a share for each tenant (I6, I7)."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.base.wire import request
from tests.defects.halves import KEY, WITHIN_S, Half, running

MIB = 1024 * 1024
LARGE = 40 * MIB


@pytest.fixture
def half(tmp_path: Path) -> Iterator[Half]:
    with running("dispatcher", tmp_path, payload_bytes_max=LARGE, write_timeout=600) as half:
        yield half


def keep(half: Half, tenant: str, size: int) -> str:
    """The path of the payload of a callback that waits."""
    headers = {"Authorization": f"Bearer {KEY}", "Postback-Tenant": tenant}
    with httpx.Client(
        base_url=half.url, headers=headers, trust_env=False, timeout=WITHIN_S
    ) as client:
        paused = {"name": "paused", "url": "http://127.0.0.1:9/hook"}
        assert client.post("/v1/destinations", json=paused).status_code == 201
        changed = client.patch("/v1/destinations/paused", json={"paused": True})
        assert changed.status_code == 200
        made = client.post(
            "/v1/callbacks/raw",
            params={"jobId": "j", "destination": "paused"},
            content=b"x" * size,
            headers={"Content-Type": "application/octet-stream"},
        )
        assert made.status_code == 202, made.text
        return f"/v1/callbacks/{made.json()['id']}/payload"


def ask(half: Half, path: str, tenant: str) -> tuple[socket.socket, bytes]:
    """A connection that has asked for it, and the first bytes of the response: no more are read."""
    peer = half.connect(receive_bytes=2_048)
    headers = f"Authorization: Bearer {KEY}\r\nPostback-Tenant: {tenant}\r\n"
    peer.sendall(request(path, headers=headers))
    return peer, peer.recv(12)


def test_a_tenant_that_reads_nothing_holds_so_much_memory_and_no_more(half: Half) -> None:
    """Beyond that it is 503; another tenant is answered; what is read makes room."""
    large, small = keep(half, "a", LARGE), keep(half, "b", MIB)
    before = half.rss_bytes()
    with ExitStack() as open_ones:
        beginnings = []
        for _ in range(12):
            peer, beginning = ask(half, large, "a")
            open_ones.enter_context(closing(peer))
            beginnings.append((beginning, peer))
        statuses = [beginning.split()[1] for beginning, _ in beginnings]
        assert statuses == [b"200"] * 3 + [b"503"] * 9
        headers = {"Authorization": f"Bearer {KEY}", "Postback-Tenant": "b"}
        assert len(half.get(small, **headers).content) == MIB
        assert half.rss_bytes() - before < 5 * LARGE

        _, first = beginnings[0]
        first.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
        left = LARGE
        while left > 0 and (chunk := first.recv(MIB)):
            left -= len(chunk)
        again, beginning = ask(half, large, "a")
        open_ones.enter_context(closing(again))
        assert beginning.split()[1] == b"200"


def test_who_hangs_up_gives_the_room_back(half: Half) -> None:
    large = keep(half, "a", LARGE)
    for _ in range(3):
        with ExitStack() as open_ones:
            for _ in range(3):
                peer, beginning = ask(half, large, "a")
                open_ones.enter_context(closing(peer))
                assert beginning.split()[1] == b"200"
