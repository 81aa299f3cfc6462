"""Reading bodies: the limits on one, and on all that are arriving together."""

import asyncio
from collections.abc import Iterable, Mapping

import pytest
from starlette.types import Message, Receive

from dispatcher.api.body import BodyReader, ClientGone
from dispatcher.api.errors import ApiError

NO_HEADERS: Mapping[bytes, bytes] = {}


def pieces(*given: bytes, end: bool = True) -> Receive:
    """An ASGI receive that hands out these pieces, and then hangs up."""
    last = len(given) - 1
    messages: Iterable[Message] = iter(
        {"type": "http.request", "body": piece, "more_body": n < last or not end}
        for n, piece in enumerate(given)
    )

    async def receive() -> Message:
        return next(iter(messages), {"type": "http.disconnect"})

    return receive


async def test_a_body_is_its_pieces() -> None:
    """In order, empty ones too."""
    reader = BodyReader(timeout_s=1)
    assert await reader.read(pieces(b"abc"), NO_HEADERS, bytes_max=3) == b"abc"
    assert await reader.read(pieces(b"a", b"", b"bc"), NO_HEADERS, bytes_max=3) == b"abc"
    assert await reader.read(pieces(b""), NO_HEADERS, bytes_max=3) == b""


@pytest.mark.parametrize("given", [(b"abcd",), (b"ab", b"cd"), (b"abcd", b"")])
async def test_one_byte_over_the_limit_is_413(given: tuple[bytes, ...]) -> None:
    """Whether it comes at once or in pieces."""
    with pytest.raises(ApiError) as caught:
        await BodyReader(timeout_s=1).read(pieces(*given), NO_HEADERS, bytes_max=3)
    assert caught.value.status == 413


async def test_a_client_that_hangs_up_has_no_body() -> None:
    """Half a body is not taken for a whole one."""
    with pytest.raises(ClientGone):
        await BodyReader(timeout_s=1).read(pieces(b"a", end=False), NO_HEADERS, bytes_max=3)


async def test_silence_is_408() -> None:
    """At the deadline, wherever it stops."""

    async def silent() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(ApiError) as caught:
        await BodyReader(timeout_s=0.02).read(silent, NO_HEADERS, bytes_max=3)
    assert caught.value.status == 408


async def test_i7_all_arriving_bodies_share_one_limit_and_give_it_back() -> None:
    """I7: beyond it 503; what was held is free again after success and after failure."""
    reader = BodyReader(timeout_s=5, buffered_bytes_max=10)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> Message:
        if not begun.is_set():
            begun.set()
            return {"type": "http.request", "body": b"x" * 8, "more_body": True}
        await go_on.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    waiting = asyncio.create_task(reader.read(slow, NO_HEADERS, bytes_max=8))
    await begun.wait()
    for _ in range(2):
        with pytest.raises(ApiError) as caught:
            await reader.read(pieces(b"abc", b""), NO_HEADERS, bytes_max=8)
        assert caught.value.status == 503
        assert "Retry-After" in caught.value.headers
    assert await reader.read(pieces(b"ab", b""), NO_HEADERS, bytes_max=8) == b"ab"
    go_on.set()
    assert await waiting == b"x" * 8
    assert await reader.read(pieces(b"x" * 8, b""), NO_HEADERS, bytes_max=8) == b"x" * 8
