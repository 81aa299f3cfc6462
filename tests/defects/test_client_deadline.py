"""A call has an end, whatever the service does with its time, its bytes and its connections."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from dispatcher.client import (
    AsyncClient,
    BadAnswer,
    Client,
    Unauthorized,
    Unreachable,
    WaitTimeout,
)
from dispatcher.client.calls.callback import get, replay
from dispatcher.client.retry import RetryPolicy
from dispatcher.client.transport import Response
from tests.defects.wrong import Wrong, saying, serving
from tests.dispatcher.client.test_retries import SUBMIT, outcome

DRIP_S = 0.05
STOP = threading.Event()


class Dripping(Wrong):
    """Sends a byte now and then: of its head or of its body; or nothing at all."""

    def reply(self, body: bytes) -> None:
        if "silent" in self.path:
            STOP.wait(20)
            return
        head = b"HTTP/1.1 200 OK\r\nX-Drip: "
        if "head" not in self.path:
            head += b"x\r\nContent-Length: 100000\r\n\r\n"
        self.wfile.write(head)
        while not STOP.wait(DRIP_S):
            self.wfile.write(b" ")
            self.wfile.flush()

    def handle(self) -> None:
        with suppress(OSError):  # who was waiting has gone
            super().handle()


@pytest.fixture
def url() -> Iterator[str]:
    STOP.clear()
    with serving(Dripping) as url:
        yield url
        STOP.set()


@pytest.mark.parametrize("id", ["head", "body", "silent"])
def test_a_dripping_answer_ends_with_the_time_of_its_call(url: str, id: str) -> None:
    """`timeout_s` is for one try from end to end, `retry_for_s` for all of them."""
    begun = time.monotonic()
    client = Client(url, "k", timeout_s=0.3, retry_for_s=0.8)
    with client, pytest.raises(Unreachable, match="no whole answer within"):
        client.get(id)
    assert time.monotonic() - begun < 1.5


@pytest.mark.parametrize("id", ["head", "body", "silent"])
async def test_the_asyncio_client_has_the_same_end(url: str, id: str) -> None:
    """As the one for ordinary code."""
    begun = time.monotonic()
    async with AsyncClient(url, "k", timeout_s=0.3, retry_for_s=0.8) as client:
        with pytest.raises(Unreachable, match="no whole answer within"):
            await client.get(id)
    assert time.monotonic() - begun < 1.5


@pytest.mark.parametrize("id", ["head", "body", "silent"])
async def test_a_wait_ends_in_time_on_a_service_that_says_nothing(url: str, id: str) -> None:
    """WaitTimeout, as for a delivery that takes longer, and not after all tries of a call."""
    begun = time.monotonic()
    for retries in (5, 0):
        client = Client(url, "k", retries=retries)
        with client, pytest.raises(WaitTimeout, match="no answer"):
            client.wait(id, timeout=0.3)
    async with AsyncClient(url, "k") as other:
        with pytest.raises(WaitTimeout, match="no answer"):
            await other.wait(id, timeout=0.5)
    assert time.monotonic() - begun < 2


def test_a_wait_lasts_as_long_as_it_says() -> None:
    """A service that asks to come back later than that is asked no more, and no time is lost."""
    busy = b'{"error":"UNAVAILABLE","message":"starting"}'
    begun = time.monotonic()
    with serving(saying(503, busy, Retry_After="300")) as url:
        client = Client(url, "k")
        with client, pytest.raises(WaitTimeout, match="starting"):
            client.wait("cb_1", timeout=0.5)
    assert 0.5 <= time.monotonic() - begun < 1.5


def test_a_wait_tells_other_errors_as_they_are() -> None:
    """A key that is refused is refused at once; nobody there is unreachable once the tries are
    spent."""
    body = b'{"error":"UNAUTHORIZED","message":"no"}'
    with serving(saying(401, body)) as url:
        client = Client(url, "k")
        with client, pytest.raises(Unauthorized):
            client.wait("cb_1", timeout=30)
    with Client(url, "k", retries=1) as client, pytest.raises(Unreachable):
        client.wait("cb_1", timeout=30)


async def test_an_answer_is_read_up_to_a_limit() -> None:
    """BadAnswer beyond it; what is packed, though that was not asked for, is not unpacked."""
    packed = saying(200, b"\x1f\x8b\x08" + bytes(64), Content_Encoding="gzip")
    with serving(saying(200, b" " * 5_000)) as url:
        client = Client(url, "k", answer_bytes_max=4_096)
        with client, pytest.raises(BadAnswer, match="larger than 4096 bytes"):
            client.stats()
        async with AsyncClient(url, "k", answer_bytes_max=4_096) as other:
            with pytest.raises(BadAnswer, match="larger than 4096 bytes"):
                await other.stats()
    with serving(packed) as url, Client(url, "k") as client, pytest.raises(BadAnswer):
        client.stats()


@pytest.mark.parametrize("status", [502, 504])
def test_a_proxys_word_for_a_restart_is_tried_again_where_that_is_safe(status: int) -> None:
    """What is repeatable goes again; else it is told as an answer that was lost."""
    page = Response(status=status, body=b"<html>Bad Gateway</html>")
    for call in (SUBMIT, get("cb_1")):
        waits, end = outcome(call, [page, Response(status=200)])
        assert len(waits) == 2
        assert isinstance(end, Response)
    _, end = outcome(replay("cb_1"), [page])
    assert isinstance(end, Unreachable)
    assert end.status == status


def test_the_last_of_all_tries_has_what_time_is_left() -> None:
    """A first try may take its own time; a later one no more than is left of all."""
    policy = RetryPolicy(total_s=10, timeout_s=35)
    assert policy.timeout_s == 35
    assert policy.next_try_s(4) == 6
    assert policy.within(3) == RetryPolicy(total_s=3, timeout_s=3)
