"""http.py: the limits on one body, and on all that are arriving together; strict queries."""

import asyncio
import contextlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.base.http import (
    Bodies,
    Disconnected,
    Event,
    Receive,
    Refusal,
    Request,
    invalid,
    read_query,
)


async def read(receive: Receive, bodies: Bodies | None = None, *, timeout_s: float = 1) -> bytes:
    """Return a body of at most 8 bytes, as a route does it."""
    bodies = bodies or Bodies(100)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    request = Request(scope, receive, "req_1")
    try:
        return await request.body(bytes_max=8, timeout_s=timeout_s, bodies=bodies)
    finally:
        bodies.give_back(request)


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
    bodies = Bodies(10)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> Event:
        if not begun.is_set():
            begun.set()
            return {"type": "http.request", "body": b"x" * 8, "more_body": True}
        await go_on.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    waiting = asyncio.create_task(read(slow, bodies, timeout_s=5))
    await begun.wait()
    for _ in range(2):
        with pytest.raises(Refusal) as caught:
            await read(pieces(b"abc", b""), bodies)
        assert caught.value.status == 503
        assert "retry-after" in caught.value.headers
    assert await read(pieces(b"ab", b""), bodies) == b"ab"
    go_on.set()
    assert await waiting == b"x" * 8
    assert await read(pieces(b"x" * 8, b""), bodies) == b"x" * 8


@pytest.mark.parametrize(
    ("status", "headers", "left", "closes"),
    [
        (413, [], 7, False),
        (200, [], 7, False),
        (413, [], 9, True),  # more than is thrown away
        (408, [], 1, True),  # it was waited for already
        (413, [(b"expect", b"100-continue")], 1, True),  # reading would ask for it
    ],
)
async def test_an_early_response_leaves_the_connection_usable_or_closes_it(
    status: int, headers: list[tuple[bytes, bytes]], left: int, closes: bool
) -> None:
    """What a client still sends is thrown away within limits, so that it reads the response."""
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    request = Request(scope, pieces(*[b"x" * 4] * (left // 4), b"x" * (left % 4)), "req_1")
    assert await request.finish(status, timeout_s=1, bytes_max=8) is closes


async def test_an_early_response_does_not_wait_for_a_silent_client() -> None:
    """Its connection is closed at the deadline."""

    async def silent() -> Event:
        await asyncio.Event().wait()
        raise AssertionError

    request = Request({"type": "http", "method": "GET", "path": "/", "headers": []}, silent, "r")
    assert await request.finish(413, timeout_s=0.02, bytes_max=8)


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("limit", "x", "x"),
        ("limit", 2**60, None),
        ("limit", float("inf"), None),
        ("name", "y" * 1_000, "y" * 99 + "…"),
        ("callbackUrl", "https://u:pw@h/", "https://…"),
        ("callbackUrl", "https://h/?token=t", "https://h/"),
        ("secret", "whsec_x", None),
        ("headers.Authorization", "x", None),
        ("tags", {"a": "é"}, '{"a":"é"}'),
    ],
)
def test_a_wrong_value_is_shown_bounded_and_without_secrets(
    field: str, value: object, shown: object
) -> None:
    """D13: field, value and reason."""
    refusal = invalid(field, value, "is wrong")
    assert (refusal.status, refusal.code) == (422, "VALIDATION_ERROR")
    assert refusal.details == {"field": field, "value": shown, "reason": "is wrong"}


def test_a_header_that_decides_is_there_once() -> None:
    """400 where it is not; others may be there twice."""
    headers = [(b"a", b"1"), (b"b", b"1"), (b"a", b"2")]
    request = Request(
        {"type": "http", "method": "GET", "path": "/", "headers": headers}, pieces(b""), "req_1"
    )
    request.check_single((b"b", b"c"))
    assert request.header(b"a") == "1"
    with pytest.raises(Refusal, match="a is there twice"):
        request.check_single((b"a",))


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
