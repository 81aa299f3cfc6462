"""Hostile and broken upstreams: each call ends as the outcome that says what is known of it, in
bounded memory and time (D23)."""

import asyncio
import gzip
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dispatcher.jobs.values import CallKind, CallOutcome
from dispatcher.sending.upstream import (
    BROKEN_OFF,
    LOST,
    NO_HTTP,
    TOO_EARLY,
    TOO_LATE,
    UNREACHABLE,
)
from tests.dispatcher.peers import (
    OK,
    Behaviour,
    Peer,
    answer,
    answers,
    answers_and_closes,
    deaf,
    drips,
    floods,
    hangs_up,
    listening,
    resets_after,
    resets_at_once,
    silent,
)
from tests.dispatcher.upstreams import call, calling

HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 10\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
HINT = b"HTTP/1.1 103 Hints\r\n\r\n"
_MIB = 2**20
# What the kernel buffers for a loopback connection on both sides, with room to spare.
_KERNEL_BYTES = 16 * _MIB

# What an upstream does once it has the request, what is known then, and the code that it said.
TABLE: list[tuple[str, Behaviour, CallKind, int | None]] = [
    ("reset-before-answer", resets_after(b""), "unknown", None),
    ("closed-without-answer", hangs_up, "unknown", None),
    ("closed-in-status-line", answers_and_closes(b"HTTP/1.1 20"), "unknown", None),
    ("closed-after-hint", answers_and_closes(HINT), "unknown", None),
    ("closed-in-hint", answers_and_closes(HINT[:-2]), "unknown", None),
    ("not-http", answers(b"SSH-2.0-OpenSSH_9.6\r\n"), "unknown", None),
    ("http-0.9", answers_and_closes(b"<html>hello</html>"), "unknown", None),
    ("http-2", answers(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"), "unknown", None),
    ("nonsense-status", answers(b"HTTP/1.1 banana OK\r\n\r\n"), "unknown", None),
    ("upgrade-unasked",
     answers(b"HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
     "unknown", None),
    ("status-line-without-end", answers(b"HTTP/1.1 200 " + b"x" * 20_000), "unknown", None),
    ("nine-informational", answers(HINT * 9 + OK), "unknown", None),
    ("closed-in-headers", answers_and_closes(HEAD + b"X-A: 1\r\n"), "broken_off", 200),
    ("closed-in-headers-after-hint", answers_and_closes(HINT + HEAD), "broken_off", 200),
    ("reset-in-headers", resets_after(b"HTTP/1.1 503 No\r\nX-A: 1\r\n"), "broken_off", 503),
    ("two-lengths", answers(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
     "broken_off", 200),
    ("negative-length", answers(HEAD + b"Content-Length: -1\r\n\r\n"), "broken_off", 200),
    ("huge-length", answers(HEAD + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n"),
     "broken_off", 200),
    ("long-header", answers(HEAD + b"X-A: " + b"x" * 20_000 + b"\r\n\r\n"), "broken_off", 200),
    ("long-header-name", answers(HEAD + b"X" * 20_000 + b": 1\r\n\r\n"), "broken_off", 200),
    ("many-headers", answers(HEAD + b"X-A: 1\r\n" * 101 + b"Content-Length: 0\r\n\r\n"),
     "broken_off", 200),
    ("nul-in-header", answers(HEAD + b"X-A: a\x00b\r\nContent-Length: 0\r\n\r\n"),
     "broken_off", 200),
    ("cut", answers_and_closes(HEAD + LENGTH + b"abc"), "broken_off", 200),
    ("cut-error", answers_and_closes(b"HTTP/1.1 500 No\r\n" + LENGTH + b"abc"), "broken_off", 500),
    ("no-byte", answers_and_closes(HEAD + LENGTH), "broken_off", 200),
    ("reset", resets_after(HEAD + LENGTH + b"abc"), "broken_off", 200),
    ("reset-without-length", resets_after(HEAD + b"\r\nabc"), "broken_off", 200),
    ("half-chunked", answers_and_closes(HEAD + CHUNKED + b"5\r\nab"), "broken_off", 200),
    ("no-last-chunk", answers_and_closes(HEAD + CHUNKED + b"2\r\nab\r\n"), "broken_off", 200),
    ("chunk-garbage", answers(HEAD + CHUNKED + b"zz\r\nab\r\n"), "broken_off", 200),
    ("chunk-overflow", answers(HEAD + CHUNKED + b"f" * 40 + b"\r\n"), "broken_off", 200),
    ("chunk-without-end", answers(HEAD + CHUNKED + b"2\r\nabXX2\r\nab\r\n0\r\n\r\n"),
     "broken_off", 200),
    ("length-and-chunks",
     answers(HEAD + b"Content-Length: 2\r\n" + CHUNKED + b"2\r\nok\r\n0\r\n\r\n"),
     "broken_off", 200),
    ("bad-trailer", answers(HEAD + CHUNKED + b"0\r\nX Y\r\n\r\n"), "broken_off", 200),
    ("redirect", answers(answer("302 Found", "Location: http://127.0.0.1:1/")), "answered", 302),
    ("odd-code", answers(answer("999 Odd")), "answered", 999),
    ("no-reason", answers(b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"), "answered", 200),
    ("no-content", answers(b"HTTP/1.1 204 None\r\nContent-Length: 99999999\r\n\r\n"),
     "answered", 204),
    ("old-and-closing", answers_and_closes(b"HTTP/1.0 200 OK\r\n\r\nfine"), "answered", 200),
    ("hints-first", answers(HINT + HINT + OK), "answered", 200),
    ("garbage-after", answers(OK + b"GARBAGE\0\xff"), "answered", 200),
    ("another-answer-after", answers(OK + OK), "answered", 200),
    ("length-too-large", answers(HEAD + b"Content-Length: 1048577\r\n\r\n"), "too_large", 200),
    ("error-too-large", answers(b"HTTP/1.1 429 No\r\nContent-Length: 1048577\r\n\r\n"),
     "too_large", 429),
    ("endless", floods(HEAD + b"\r\n", b"x" * 65_536), "too_large", 200),
    ("endless-chunks", floods(HEAD + CHUNKED, b"10\r\n" + b"x" * 16 + b"\r\n"), "too_large", 200),
    ("endless-headers", floods(HEAD, b"X-A: 1\r\n" * 8_192), "broken_off", 200),
    ("endless-header", floods(HEAD + b"X-A: ", b"x" * 65_536), "broken_off", 200),
    ("endless-status-line", floods(b"HTTP/1.1 ", b"2" * 65_536), "unknown", None),
    ("endless-100s", floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 4_096), "unknown", None),
    ("endless-103s", floods(b"", b"HTTP/1.1 103 H\r\nX-A: " + b"x" * 8_000 + b"\r\n\r\n"),
     "unknown", None),
]  # fmt: skip


@pytest.mark.parametrize("once", [False, True], ids=["at-least-once", "at-most-once"])
@pytest.mark.parametrize(
    ("behaviour", "kind", "code"), [case[1:] for case in TABLE], ids=[case[0] for case in TABLE]
)
async def test_what_a_hostile_upstream_does_is_the_outcome_that_says_what_is_known(
    behaviour: Behaviour, kind: CallKind, code: int | None, once: bool
) -> None:
    """By what was read, not by the run limit; with one request sent, and in bounded memory."""
    tracemalloc.start()
    try:
        async with listening(behaviour) as peer, calling() as upstreams:
            outcome = await upstreams.call(call(peer.url, limit_s=60.0, once=once))
            assert (upstreams.budget.held, upstreams.budget.waiting) == (0, 0)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (outcome.kind, outcome.status_code) == (kind, code), outcome
    assert outcome.sent
    assert outcome.duration_ms < 30_000
    assert len(peer.received) == peer.connections == 1
    assert peer.written < _KERNEL_BYTES
    assert peak_bytes < 24 * _MIB  # reads of the event loop, on both sides of the test
    if kind == "unknown":
        assert outcome.error in (LOST, NO_HTTP, "the answer had the status 101")
        assert outcome.output is None
    if kind == "broken_off":
        assert outcome.error == BROKEN_OFF
    if code == 200 and kind == "too_large":
        assert outcome.output is None


@pytest.mark.parametrize(
    "behaviour",
    [
        silent,
        drips(HEAD[:-2], b"x"),
        drips(HEAD + b"X-Drip: ", b"x"),
        drips(HEAD, b"X-Drip: x\r\n"),
        drips(HEAD + b"Content-Length: 999999\r\n\r\n", b"x"),
        drips(HEAD + b"\r\n", b"x"),
        drips(HEAD + CHUNKED, b"1\r\nx\r\n"),
        drips(b"HTTP/1.1 500 No\r\n\r\n", b"x"),
        answers(HEAD + LENGTH),
    ],
    ids=[
        "silence", "status", "header", "headers", "body", "to-the-end", "chunks", "error", "stalled"
    ],
)  # fmt: skip
async def test_the_run_limit_ends_silence_and_every_kind_of_dripping(behaviour: Behaviour) -> None:
    """Running → timeout: the connection is closed."""
    gone = asyncio.Event()

    async def watched(peer: Peer, reader: Any, writer: Any) -> None:
        try:
            await behaviour(peer, reader, writer)
        finally:
            gone.set()

    async with listening(watched) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url, limit_s=0.3))
        if behaviour is not silent:
            await asyncio.wait_for(gone.wait(), 10)

    if outcome.kind == "broken_off":  # so many headers within the limit, on a slow machine
        return
    assert (outcome.kind, outcome.error, outcome.sent) == ("timeout", TOO_LATE, True), outcome
    assert 290 < outcome.duration_ms < 10_000
    assert len(peer.received) == 1


async def test_a_peer_that_never_reads_is_ended_by_the_run_limit() -> None:
    async with listening(deaf) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url, limit_s=0.3, body=b"x" * (8 * _MIB)))

    assert (outcome.kind, outcome.sent) == ("timeout", True)
    assert outcome.duration_ms < 10_000


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_connection_that_is_never_made_was_not_sent(scheme: str) -> None:
    """TLS that never ends its handshake, a port where nobody listens."""
    async with listening(deaf) as peer, calling(connect_s=0.2) as upstreams:
        port = peer.port if scheme == "https" else 1
        outcome = await upstreams.call(call(f"{scheme}://127.0.0.1:{port}/"))

    assert (outcome.kind, outcome.sent, outcome.error) == ("not_sent", False, UNREACHABLE)
    assert outcome.detail
    assert "127.0.0.1" not in (outcome.error or "")


async def test_a_run_limit_that_ends_before_there_is_a_connection_has_sent_nothing() -> None:
    async with listening(deaf) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(f"https://127.0.0.1:{peer.port}/", limit_s=0.2))

    assert (outcome.kind, outcome.sent) == ("timeout", False)


async def test_a_reset_at_once_is_never_told_as_an_answer() -> None:
    async with listening(resets_at_once) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url))

    assert outcome.kind in ("unknown", "not_sent")
    assert outcome.sent == (outcome.kind == "unknown")


async def test_what_arrived_of_a_broken_answer_is_kept() -> None:
    raw = HEAD + b"Content-Type: text/plain\r\n" + LENGTH + b"abc"
    async with listening(answers_and_closes(raw)) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url))

    assert outcome.output is not None
    assert (outcome.output.body, outcome.output.content_type) == (b"abc", "text/plain")


async def test_the_beginning_of_an_error_that_is_too_large_is_kept() -> None:
    raw = answer("429 Slow", "Retry-After: 7", body=b"x" * 200_000)
    async with listening(answers(raw)) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url, output_max=100_000))

    assert (outcome.kind, outcome.status_code, outcome.retry_after_ms) == ("too_large", 429, 7_000)
    raw = b"HTTP/1.1 429 Slow\r\n\r\n" + b"x" * 200_000
    async with listening(answers(raw)) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url, output_max=100_000))

    assert (outcome.kind, outcome.status_code) == ("too_large", 429)
    assert outcome.output is not None
    assert outcome.output.body == b"x" * 65_536


async def test_a_compressed_bomb_is_not_inflated() -> None:
    bomb = gzip.compress(b"A" * (32 * _MIB))
    raw = answer("200 OK", "Content-Encoding: gzip", "Content-Type: text/plain", body=bomb)
    tracemalloc.start()
    try:
        async with listening(answers(raw)) as peer, calling() as upstreams:
            outcome = await upstreams.call(call(peer.url))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert outcome.output is not None
    assert outcome.output.body == bomb
    assert outcome.output.headers == (("content-encoding", "gzip"),)
    assert peak_bytes < 8 * _MIB
    assert peer.received[0].header("Accept-Encoding") == "identity"


# --- an answer before the request is out (D11) ---


def early(raw: bytes, *, reads: bool, closes: bool = False) -> Behaviour:
    """Answers `raw` to a head, and then reads the rest of the request, or never does."""

    async def behave(peer: Peer, reader: Any, writer: Any) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        start, rest = raw[:-1], raw[-1:]
        writer.write(start)
        await writer.drain()
        if reads:
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
        writer.write(rest)
        await writer.drain()
        if not closes:
            await asyncio.Event().wait()

    return behave


LARGE = b"x" * (16 * _MIB)  # more than the kernel takes


async def test_an_early_2xx_to_half_a_request_acknowledges_nothing() -> None:
    async with listening(early(OK, reads=False)) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url, body=LARGE, limit_s=30.0))

    assert (outcome.kind, outcome.error, outcome.output) == ("unknown", TOO_EARLY, None)
    assert outcome.duration_ms < 10_000


async def test_an_upstream_that_answers_while_it_reads_is_an_answer() -> None:
    """Its answer ends after the request is out."""
    async with listening(early(OK, reads=True)) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url, body=LARGE, limit_s=30.0))

    assert (outcome.kind, outcome.status_code) == ("answered", 200), outcome
    assert outcome.output is not None
    assert outcome.output.body == b"ok"


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("status", ["413 Large", "401 Who", "503 Busy", "302 There"])
async def test_an_early_refusal_is_an_answer(status: str, closes: bool) -> None:
    raw = answer(status, "Retry-After: 3", body=b"go away")
    async with listening(early(raw, reads=False, closes=closes)) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url, body=LARGE, limit_s=30.0))

    if closes and outcome.kind == "unknown":  # its reset was faster than its answer
        return
    assert (outcome.kind, outcome.status_code) == ("answered", int(status[:3])), outcome
    assert outcome.retry_after_ms == 3_000
    assert outcome.duration_ms < 10_000


async def test_the_connection_of_an_early_answer_is_not_used_again() -> None:
    async with listening(early(OK, reads=True)) as peer, calling() as upstreams:
        for _ in range(2):
            await upstreams.call(call(peer.url, body=LARGE, limit_s=30.0))

    assert peer.connections == 2


# --- whatever bytes ---

PIECES = st.lists(
    st.one_of(
        st.sampled_from([HEAD, LENGTH, CHUNKED, HINT, OK, b"\r\n", b"\r\n\r\n", b"HTTP/1.1 ", b"5",
                         b"5\r\nhello\r\n", b"0\r\n\r\n", b"Content-Length: 3\r\n",
                         b"Upgrade: x\r\nConnection: upgrade\r\n", b"Content-Encoding: gzip\r\n"]),
        st.binary(max_size=40),
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(pieces=PIECES, ends=st.sampled_from(["close", "reset", "stay"]), once=st.booleans())
@example(pieces=[OK], ends="reset", once=False)
def test_whatever_an_upstream_sends_a_call_has_an_outcome_by_its_limit(
    pieces: list[bytes], ends: str, once: bool
) -> None:
    async def behave(peer: Peer, reader: Any, writer: Any) -> None:
        await peer.receive(reader)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        await writer.drain()
        if ends == "reset":
            writer.transport.abort()
        elif ends == "stay":
            await asyncio.Event().wait()

    async def run() -> CallOutcome:
        async with listening(behave) as peer, calling() as upstreams:
            return await asyncio.wait_for(
                upstreams.call(call(peer.url, limit_s=0.1, once=once)), 10
            )

    outcome = asyncio.run(run())
    assert outcome.kind in ("answered", "unknown", "broken_off", "timeout"), outcome
    assert outcome.sent or outcome.kind == "timeout"  # on a slow machine
    if outcome.kind == "answered":
        assert outcome.output is not None
