"""http.py: the limits on one body, and on all that are arriving together; strict queries."""

import asyncio
import contextlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.base.http import (
    Budget,
    Disconnected,
    Event,
    Receive,
    Refusal,
    Request,
    read_query,
)


async def read(receive: Receive, budget: Budget | None = None, *, timeout_s: float = 1) -> bytes:
    """Return a body of at most 8 bytes, as a route does it."""
    budget = budget or Budget(100)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    request = Request(scope, receive, "req_1")
    try:
        return await request.body(bytes_max=8, timeout_s=timeout_s, budget=budget)
    finally:
        budget.give_back(request.taken_bytes)


def pieces(*given: bytes, end: bool = True) -> Receive:
    """An ASGI receive that hands out these pieces, and then hangs up."""
    last = len(given) - 1
    messages: Iterable[Event] = iter(
        {"type": "http.request", "body": piece, "more_body": n < last or not end}
        for n, piece in enumerate(given)
    )

    async def receive() -> Event:
        return next(iter(messages), {"type": "http.disconnect"})

    return receive


async def test_a_body_is_its_pieces() -> None:
    """In order, empty ones too."""
    assert await read(pieces(b"abcdefgh")) == b"abcdefgh"
    assert await read(pieces(b"a", b"", b"bc")) == b"abc"
    assert await read(pieces(b"")) == b""


@pytest.mark.parametrize("given", [(b"abcdefghi",), (b"abcd", b"efghi"), (b"abcdefghi", b"")])
async def test_one_byte_over_the_limit_is_413(given: tuple[bytes, ...]) -> None:
    """Whether it comes at once or in pieces."""
    with pytest.raises(Refusal) as caught:
        await read(pieces(*given))
    assert caught.value.status == 413


async def test_a_client_that_hangs_up_has_no_body() -> None:
    """Half a body is not taken for a whole one."""
    with pytest.raises(Disconnected):
        await read(pieces(b"a", end=False))


async def test_silence_is_408() -> None:
    """At the deadline, wherever it stops."""

    async def silent() -> Event:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(Refusal) as caught:
        await read(silent, timeout_s=0.02)
    assert caught.value.status == 408


async def test_i7_all_arriving_bodies_share_one_limit_and_give_it_back() -> None:
    """I7: beyond it 503; what was held is free again after success and after failure."""
    budget = Budget(10)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> Event:
        if not begun.is_set():
            begun.set()
            return {"type": "http.request", "body": b"x" * 8, "more_body": True}
        await go_on.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    waiting = asyncio.create_task(read(slow, budget, timeout_s=5))
    await begun.wait()
    for _ in range(2):
        with pytest.raises(Refusal) as caught:
            await read(pieces(b"abc", b""), budget)
        assert caught.value.status == 503
        assert "retry-after" in caught.value.headers
    assert await read(pieces(b"ab", b""), budget) == b"ab"
    go_on.set()
    assert await waiting == b"x" * 8
    assert await read(pieces(b"x" * 8, b""), budget) == b"x" * 8


@given(st.binary(max_size=60))
def test_any_query_string_is_parameters_or_a_refusal(raw: bytes) -> None:
    """Nothing else comes out of a query string."""
    with contextlib.suppress(Refusal):
        assert all(isinstance(value, str) for value in read_query(raw).values())


@pytest.mark.parametrize("raw", [b"a=1&a=2", b"a=%ff", b"a=\xff", b"&".join([b"a=1"] * 65)])
def test_a_query_that_says_two_things_or_is_no_text_is_refused(raw: bytes) -> None:
    """Repeated parameters, bad UTF-8 and floods are 422."""
    with pytest.raises(Refusal):
        read_query(raw)
