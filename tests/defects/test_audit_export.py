"""The audit trail leaves the process as a stream that is bounded in memory, whoever reads it how
slowly (I7)."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from dispatcher.audit import new_entry
from dispatcher.settings import Settings
from dispatcher.store import open_store
from receiver.base.clock import now_ms
from tests.base.wire import request
from tests.defects.halves import KEY, WITHIN_S, Half, running

MIB = 1024 * 1024
COUNT = 30_000
PATH = "/v1/audit/export?all=true&action=callback.replay"
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}


async def fill(url: str) -> None:
    """A trail of some 20 MiB."""
    store = open_store(Settings(database_url=url))
    await store.open()
    began_ms = now_ms() - COUNT
    fields = {"actor": "key_1", "tenant": "default", "reason": "x" * 400, "by_platform": False}
    for first in range(0, COUNT, 1_000):
        some = range(first, first + 1_000)
        await store.record(
            *(
                new_entry("callback.replay", at_ms=began_ms + n, target=f"cb_{n}", **fields)
                for n in some
            )
        )
    await store.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    asyncio.run(fill(f"sqlite:///{folder}/dispatcher.db"))
    return folder


@pytest.fixture
def half(filled: Path) -> Iterator[Half]:
    with running("dispatcher", filled, write_timeout=600) as half:
        yield half


def test_exports_that_nobody_reads_take_up_little_and_end_with_their_clients(half: Half) -> None:
    """A few of one tenant are read at once, each a page at a time; others wait for their turn and
    get it once those have gone."""
    whole = httpx.get(half.url + PATH, headers=AUTHORIZATION, trust_env=False, timeout=WITHIN_S)
    lines = whole.text.splitlines()
    assert [json.loads(line)["target"] for line in lines] == [
        f"cb_{n}" for n in reversed(range(COUNT))
    ]
    before = half.rss_bytes()
    head = f"Authorization: Bearer {KEY}\r\n"
    with ExitStack() as open_ones:
        for _ in range(20):
            peer = half.connect(receive_bytes=2_048)
            open_ones.enter_context(closing(peer))
            peer.sendall(request(PATH, headers=head))
            assert peer.recv(12) == b"HTTP/1.1 200"
        assert half.get("/v1/audit?all=true&limit=500", **AUTHORIZATION).status_code == 200
        assert half.rss_bytes() - before < 16 * MIB
    again = half.get(PATH, **AUTHORIZATION)
    assert again.text == whole.text


def test_an_export_that_is_cut_off_does_not_look_whole(filled: Path) -> None:
    """Its reader has as long as for any response; then the end of the body never comes."""
    with running("dispatcher", filled, write_timeout=1) as half, half.connect() as peer:
        peer.sendall(request(PATH, headers=f"Authorization: Bearer {KEY}\r\n"))
        received = peer.recv(12)
        cut = ""
        while "connections_cut_total 1" not in cut:
            cut = half.get("/metrics").text
        try:
            while more := peer.recv(1 << 20):
                received += more
        except ConnectionResetError:
            pass
        assert not received.endswith(b"0\r\n\r\n")
