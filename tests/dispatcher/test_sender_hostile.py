"""sender.py with hostile and broken peers: each becomes an outcome, within its deadline and
without more memory or connections than a well-behaved one (I6, I7)."""

import asyncio
import gzip
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.outcome import Kind, Outcome
from dispatcher.sending.connections import KEEPALIVE_S
from dispatcher.sending.sender import UNREACHABLE, Sender
from tests.dispatcher.certificates import server_context, trusting
from tests.dispatcher.peers import (
    OK,
    SECRETS,
    Behaviour,
    Peer,
    answer,
    answers,
    answers_and_closes,
    deaf,
    delivery,
    drips,
    floods,
    hangs_up,
    listening,
    resets_after,
    resets_at_once,
    sending,
    silent,
)

HEAD = b"HTTP/1.1 200 OK\r\n"
_MIB = 2**20
# What the kernel buffers for a loopback connection on both sides, with room to spare.
_KERNEL_BYTES = 16 * _MIB


@pytest.mark.parametrize(
    "behaviour",
    [
        silent,
        deaf,
        drips(b"", b"H"),
        drips(HEAD + b"X-Drip: ", b"x"),
        drips(HEAD, b"X-Drip: x\r\n"),
    ],
    ids=["silence", "deaf", "drip-status", "drip-header", "drip-headers"],
)
async def test_one_deadline_ends_silence_and_every_kind_of_dripping(behaviour: Behaviour) -> None:
    body = b"x" * (8 * _MIB) if behaviour is deaf else b"{}"
    async with listening(behaviour) as peer, sending() as sender:
        outcome = await sender.send(delivery(peer.url, timeout=0.3, body=body), SECRETS)

    assert outcome.kind in ("timeout", "protocol_error")
    if outcome.kind == "timeout":
        assert outcome.error == "no complete answer within 0.3 s"
        assert outcome.duration_ms > 290  # uvloop's timers count whole milliseconds
    assert outcome.duration_ms < 10_000


async def test_the_deadline_covers_a_tls_handshake_that_never_ends() -> None:
    async with listening(deaf) as peer, sending() as sender:
        url = f"https://127.0.0.1:{peer.port}/"
        outcome = await sender.send(delivery(url, timeout=0.3), SECRETS)

    assert outcome.kind == "timeout"
    assert outcome.duration_ms < 10_000


BROKEN: list[tuple[str, Behaviour, Kind]] = [
    ("reset-at-accept", resets_at_once, "unreachable"),
    ("reset-before-answer", resets_after(b""), "unreachable"),
    ("closed-without-answer", hangs_up, "unreachable"),
    ("closed-in-status-line", answers_and_closes(b"HTTP/1.1 20"), "unreachable"),
    ("closed-in-headers", answers_and_closes(HEAD + b"X-A: 1\r\n"), "unreachable"),
    ("not-http", answers(b"SSH-2.0-OpenSSH_9.6\r\n"), "protocol_error"),
    ("http-0.9", answers_and_closes(b"<html>hello</html>"), "protocol_error"),
    ("http-2", answers(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"), "protocol_error"),
    ("nonsense-status", answers(b"HTTP/1.1 banana OK\r\n\r\n"), "protocol_error"),
    ("status-too-small", answers(b"HTTP/1.1 042 Odd\r\nContent-Length: 0\r\n\r\n"),
     "protocol_error"),
    ("upgrade-unasked",
     answers(b"HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
     "protocol_error"),
    ("two-lengths", answers(HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
     "protocol_error"),
    ("negative-length", answers(HEAD + b"Content-Length: -1\r\n\r\n"), "protocol_error"),
    ("huge-length", answers(HEAD + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n"),
     "protocol_error"),
    ("long-status-line", answers(b"HTTP/1.1 200 " + b"x" * 20_000 + b"\r\n\r\n"),
     "protocol_error"),
    ("long-header", answers(HEAD + b"X-A: " + b"x" * 20_000 + b"\r\n\r\n"), "protocol_error"),
    ("long-header-name", answers(HEAD + b"X" * 20_000 + b": 1\r\n\r\n"), "protocol_error"),
    ("many-headers", answers(HEAD + b"X-A: 1\r\n" * 101 + b"Content-Length: 0\r\n\r\n"),
     "protocol_error"),
    ("nul-in-header", answers(HEAD + b"X-A: a\x00b\r\nContent-Length: 0\r\n\r\n"),
     "protocol_error"),
    ("nine-informational", answers(b"HTTP/1.1 103 Hints\r\n\r\n" * 9 + OK), "protocol_error"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("behaviour", "kind"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN]
)
async def test_every_broken_answer_is_an_outcome(behaviour: Behaviour, kind: Kind) -> None:
    async with listening(behaviour) as peer, sending() as sender:
        outcome = await sender.send(delivery(peer.url, timeout=60.0), SECRETS)

    assert outcome.kind == kind, outcome
    assert outcome.error
    assert outcome.status_code is None
    assert outcome.duration_ms < 30_000  # by what was read, not by the deadline
    if kind == "unreachable":
        assert outcome.error == UNREACHABLE
    assert len(peer.received) <= 1


LENGTH = b"Content-Length: 10\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
# What comes after "HTTP/1.1 <code> <reason>\r\n", and how.
BODIES: list[tuple[str, Callable[[bytes], Behaviour], bytes]] = [
    ("cut", answers_and_closes, LENGTH + b"abc"),
    ("reset", resets_after, LENGTH + b"abc"),
    ("silent", answers, LENGTH + b"abc"),
    ("no-byte", answers, LENGTH),
    ("dripping", lambda raw: drips(raw, b"x"), b"Content-Length: 9999\r\n\r\n"),
    ("dripping-to-the-end", lambda raw: drips(raw, b"x"), b"\r\n"),
    ("dripping-chunks", lambda raw: drips(raw, b"1\r\nx\r\n"), CHUNKED),
    ("silent-to-the-end", answers, b"\r\n"),
    ("half-chunked", answers_and_closes, CHUNKED + b"5\r\nab"),
    ("chunk-garbage", answers, CHUNKED + b"zz\r\nab\r\n"),
    ("chunk-overflow", answers, CHUNKED + b"f" * 40 + b"\r\n"),
    ("chunk-without-end", answers, CHUNKED + b"2\r\nabXX2\r\nab\r\n0\r\n\r\n"),
    ("garbage-after", answers, b"Content-Length: 2\r\n\r\nokGARBAGE\0\xff"),
    ("another-answer-after", answers, b"Content-Length: 2\r\n\r\nok" + HEAD + LENGTH),
    ("nothing-and-bytes", answers, b"Content-Length: 0\r\n\r\n\r\nok"),
    ("two-equal-lengths", answers, b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
    ("length-and-chunks", answers, b"Content-Length: 2\r\n" + CHUNKED + b"2\r\nok\r\n0\r\n\r\n"),
    ("chunks-and-length", answers,
     b"Transfer-Encoding: chunked\r\nContent-Length: 12\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
    ("odd-coding", answers_and_closes, b"Transfer-Encoding: foo\r\n\r\nok"),
    ("bytes-without-length", answers_and_closes, b"\r\nok"),
    ("bad-trailer", answers, CHUNKED + b"0\r\nX Y\r\n\r\n"),
]  # fmt: skip


@pytest.mark.parametrize("code", [200, 204, 503])
@pytest.mark.parametrize(
    ("how", "rest"), [case[1:] for case in BODIES], ids=[case[0] for case in BODIES]
)
async def test_a_complete_head_is_the_answer_whatever_its_body_does(
    how: Callable[[bytes], Behaviour], rest: bytes, code: int
) -> None:
    """Its code is what counts, soon, and its connection is not used again."""
    raw = b"HTTP/1.1 %d Any\r\n" % code + rest
    async with listening(how(raw)) as peer, sending() as sender:
        outcome = await sender.send(delivery(peer.url, timeout=30.0), SECRETS)

    assert (outcome.kind, outcome.status_code) == ("answered", code), outcome
    assert outcome.duration_ms < 5_000
    assert len(peer.received) == 1


@pytest.mark.parametrize(
    "rest",
    [
        CHUNKED + b"zz\r\n",
        b"Content-Length: 0\r\n\r\nX",
        b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_head_in_pieces_or_after_informational_ones_is_found_all_the_same(
    rest: bytes,
) -> None:
    async def trickles(peer: Peer, reader: Any, writer: Any) -> None:
        await peer.receive(reader)
        for part in (b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 2", b"01 Made\r\nX-A: 1\r\n"):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(rest)
        await reader.read()

    async with listening(trickles) as peer, sending() as sender:
        outcome = await sender.send(delivery(peer.url), SECRETS)

    assert (outcome.kind, outcome.status_code) == ("answered", 201), outcome


async def test_a_body_that_turns_bad_later_ends_the_reading_at_once() -> None:
    async def turns(peer: Peer, reader: Any, writer: Any) -> None:
        await peer.receive(reader)
        writer.write(HEAD + CHUNKED + b"2\r\nok\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"zz\r\n")
        await reader.read()

    async with listening(turns) as peer, sending() as sender:
        outcome = await sender.send(delivery(peer.url), SECRETS)

    assert (outcome.error_code, outcome.excerpt) == ("http_200", "ok")
    assert outcome.duration_ms < 900


async def test_the_next_delivery_after_a_garbled_body_goes_out_on_a_fresh_connection() -> None:
    raw = HEAD + CHUNKED + b"zz\r\n"
    async with listening(answers(raw, OK)) as peer, sending() as sender:
        for _ in range(3):
            assert (await sender.send(delivery(peer.url), SECRETS)).error_code == "http_200"

    assert peer.connections == 2
    assert len(peer.received) == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [("200 OK", "protocol_error"), ("413 Large", "answered"), ("503 Busy", "answered")],
)
async def test_an_answer_to_half_a_request_acknowledges_nothing(status: str, kind: Kind) -> None:
    """It is tried again; a refusal counts, that came early."""

    async def answers_early(peer: Peer, reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(status))
        await writer.drain()
        await asyncio.Event().wait()

    for size in (16 * _MIB, _MIB - 1):  # more than the kernel takes
        async with listening(answers_early) as peer, sending() as sender:
            body = b"x" * size
            outcome = await sender.send(delivery(peer.url, body=body, timeout=30.0), SECRETS)
        if size > _MIB or kind == "answered":
            assert outcome.kind == kind, outcome
        assert outcome.status_code == (None if outcome.kind != "answered" else int(status[:3]))
        assert outcome.duration_ms < 10_000


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK, "http_200"),
        (b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", "http_999"),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "http_200"),
        (b"HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n", "http_204"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: \xff\xfe\r\nContent-Length: 1\r\n\r\n\xff", "http_200"),
    ],
    ids=["informational-first", "odd-code", "no-reason", "length-without-body", "binary"],
)
async def test_odd_but_complete_answers_count_by_their_code(raw: bytes, code: str) -> None:
    async with listening(answers(raw)) as peer, sending() as sender:
        outcome = await sender.send(delivery(peer.url, timeout=5.0), SECRETS)

    assert outcome.error_code == code, outcome


async def test_an_old_peer_that_ends_its_answer_by_closing_is_understood() -> None:
    raw = b"HTTP/1.0 200 OK\r\n\r\nfine"
    async with listening(answers_and_closes(raw)) as peer, sending() as sender:
        outcome = await sender.send(delivery(peer.url), SECRETS)

    assert (outcome.error_code, outcome.excerpt) == ("http_200", "fine")


@pytest.mark.parametrize(
    ("start", "wave", "kind"),
    [
        (HEAD + b"Content-Length: 99999999999\r\n\r\n", b"x" * 65_536, "answered"),
        (HEAD + b"\r\n", b"x" * 65_536, "answered"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 8_192, "answered"),
        (HEAD, b"X-A: 1\r\n" * 8_192, "protocol_error"),
        (HEAD + b"X-A: ", b"x" * 65_536, "protocol_error"),
        (b"HTTP/1.1 ", b"2" * 65_536, "protocol_error"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 4_096, "protocol_error"),
        (b"", b"HTTP/1.1 103 H\r\nX-A: " + b"x" * 8_000 + b"\r\n\r\n", "protocol_error"),
    ],
    ids=[
        "body", "body-to-the-end", "chunks", "headers", "header", "status-line", "100s", "103s",
    ],
)  # fmt: skip
async def test_i7_floods_are_cut_off(start: bytes, wave: bytes, kind: Kind) -> None:
    """The answer counts by its code where there is one; no more than the limit is read."""
    tracemalloc.start()
    try:
        async with listening(floods(start, wave)) as peer, sending() as sender:
            outcome = await sender.send(delivery(peer.url, timeout=60.0), SECRETS)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert outcome.kind == kind, outcome
    assert outcome.duration_ms < 30_000
    assert peer.written < _KERNEL_BYTES
    # One read of the event loop (256 KiB) and what is parsed from it, on both sides of the test.
    assert peak_bytes < 24 * _MIB


async def test_an_answer_over_the_limit_counts_by_its_code_and_ends_the_connection() -> None:
    big = answer("202 Accepted", body=b"x" * 200_000)
    async with listening(answers(big)) as peer, sending(response_bytes_max=1_000) as sender:
        for _ in range(2):
            outcome = await sender.send(delivery(peer.url), SECRETS)
            assert outcome.error_code == "http_202"
            assert len(outcome.excerpt or "") == 1_024

    assert peer.connections == 2


async def test_a_compressed_bomb_is_not_inflated() -> None:
    bomb = gzip.compress(b"A" * (32 * _MIB))
    raw = answer("200 OK", "Content-Encoding: gzip", "Content-Type: text/plain", body=bomb)
    tracemalloc.start()
    try:
        async with listening(answers(raw)) as peer, sending() as sender:
            outcome = await sender.send(delivery(peer.url), SECRETS)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert outcome.error_code == "http_200"
    assert "AAAA" not in (outcome.excerpt or "")
    assert peak_bytes < 8 * _MIB
    assert peer.received[0].header("Accept-Encoding") == "identity"


async def test_i6_thirty_silent_peers_cost_a_healthy_one_nothing() -> None:
    """All on one host, whose connections no limit of the client counts together."""
    async with listening(silent) as dead, listening(answers(OK)) as peer, sending() as sender:
        stuck = [
            asyncio.create_task(sender.send(delivery(dead.url, timeout=30.0), SECRETS))
            for _ in range(300)
        ]
        while len(dead.received) < len(stuck):
            await asyncio.wait(stuck, timeout=0.01)
        outcomes = [await sender.send(delivery(peer.url), SECRETS) for _ in range(50)]
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)

    assert {outcome.error_code for outcome in outcomes} == {"http_200"}
    assert max(outcome.duration_ms for outcome in outcomes) < 10_000


async def test_i6_hung_dns_for_one_host_stops_no_other() -> None:
    released = threading.Event()

    def lookup(host: str) -> tuple[str, ...]:
        if host == "hung.example":
            released.wait()
        return ("127.0.0.1",)

    async with listening(answers(OK)) as peer, sending(lookup=lookup, dns_lookups_max=2) as sender:
        stuck = [
            asyncio.create_task(sender.send(delivery("http://hung.example/"), SECRETS))
            for _ in range(50)
        ]
        await asyncio.sleep(0)
        url = f"http://healthy.example:{peer.port}/"
        outcome = await sender.send(delivery(url), SECRETS)
        released.set()
        await asyncio.gather(*stuck)

    assert outcome.error_code == "http_200"
    assert outcome.duration_ms < 10_000


async def test_a_connection_closed_while_idle_costs_no_attempt() -> None:
    """The peer closes in the moment the next request goes out: it is sent again, once, on a fresh
    connection."""

    async def closes_on_second(peer: Peer, reader: Any, writer: Any) -> None:
        if peer.connections > 1:
            await answers(OK)(peer, reader, writer)
            return
        await peer.receive(reader)
        writer.write(OK)
        await reader.readexactly(1)  # the next request arrives, and is not read

    async with listening(closes_on_second) as peer, sending() as sender:
        first = await sender.send(delivery(peer.url), SECRETS)
        second = await sender.send(delivery(peer.url), SECRETS)

    assert (first.error_code, second.error_code) == ("http_200", "http_200")
    assert peer.connections == 2
    assert len(peer.received) == 2  # the peer handled each delivery once


async def test_a_fresh_connection_that_is_closed_is_not_tried_again() -> None:
    async with listening(hangs_up) as peer, sending() as sender:
        outcome = await sender.send(delivery(peer.url), SECRETS)

    assert outcome.kind == "unreachable"
    assert len(peer.received) == 1


@pytest.mark.parametrize("byte", [b"H", b""], ids=["after-a-byte", "after-a-while"])
async def test_a_request_that_may_have_been_handled_is_not_sent_again(byte: bytes) -> None:
    """A reused connection that ends after a byte of an answer, or not at once, fails the
    attempt: retrying is the policy's decision."""

    async def fails_on_second(peer: Peer, reader: Any, writer: Any) -> None:
        await peer.receive(reader)
        writer.write(OK)
        await peer.receive(reader)
        writer.write(byte)
        if not byte:
            await asyncio.sleep(1.1)  # past the second in which a stale connection shows itself

    async with listening(fails_on_second) as peer, sending() as sender:
        assert (await sender.send(delivery(peer.url), SECRETS)).error_code == "http_200"
        outcome = await sender.send(delivery(peer.url), SECRETS)

    assert outcome.kind == "unreachable"
    assert (peer.connections, len(peer.received)) == (1, 2)


async def test_an_answer_that_came_unasked_acknowledges_nothing() -> None:
    """A second answer on an idle connection must not be taken for the answer to the next POST."""
    sent = asyncio.Event()

    async def pushes(peer: Peer, reader: Any, writer: Any) -> None:
        first = peer.connections == 1
        await peer.receive(reader)
        if not first:
            writer.write(answer("503 Busy"))
            await writer.drain()
            return
        writer.write(OK)
        await asyncio.sleep(0.05)
        writer.write(OK)
        await writer.drain()
        sent.set()
        await peer.receive(reader)

    async with listening(pushes) as peer, sending() as sender:
        assert (await sender.send(delivery(peer.url), SECRETS)).error_code == "http_200"
        await sent.wait()
        await asyncio.sleep(0.05)  # the pushed answer has reached the idle connection
        outcome = await sender.send(delivery(peer.url), SECRETS)

    assert outcome.error_code == "http_503"
    assert peer.connections == 2


async def test_i7_idle_connections_are_kept_for_a_bounded_number_of_hosts() -> None:
    hung_up, all_hung_up = 0, asyncio.Event()

    async def counts(peer: Peer, reader: Any, writer: Any) -> None:
        nonlocal hung_up
        await answers(OK)(peer, reader, writer)
        hung_up += 1
        if hung_up == 300 - 256:
            all_hung_up.set()

    async with listening(counts) as peer, sending(lookup=lambda _: ("127.0.0.1",)) as sender:
        for n in range(300):
            url = f"http://host-{n}.example:{peer.port}/"
            assert (await sender.send(delivery(url), SECRETS)).error_code == "http_200"
        async with asyncio.timeout(KEEPALIVE_S / 2):  # long before they would be for idling
            await all_hung_up.wait()

    assert peer.connections == 300


async def _send_https(sender: Sender, peer: Peer, host: str = "127.0.0.1") -> Outcome:
    return await sender.send(delivery(f"https://{host}:{peer.port}/hook", timeout=5.0), SECRETS)


async def test_https_delivers_to_a_certificate_that_verifies(tmp_path: Path) -> None:
    server, certificate = server_context(tmp_path)
    async with (
        listening(answers(OK), tls=server) as peer,
        sending(tls=trusting(certificate), lookup=lambda _: ("127.0.0.1",)) as sender,
    ):
        assert (await _send_https(sender, peer)).error_code == "http_200"
        assert (await _send_https(sender, peer, "localhost")).error_code == "http_200"
        wrong = await _send_https(sender, peer, "other.example")

    assert wrong.kind == "tls_error"
    assert "Hostname mismatch" in (wrong.error or "")
    assert len(peer.received) == 2


async def test_an_expired_certificate_is_refused_with_its_reason(tmp_path: Path) -> None:
    server, certificate = server_context(tmp_path, until="20200101000000Z")
    async with (
        listening(answers(OK), tls=server) as peer,
        sending(tls=trusting(certificate)) as sender,
    ):
        outcome = await _send_https(sender, peer)

    assert outcome.kind == "tls_error"
    assert outcome.error == "the certificate was not accepted: certificate has expired"
    assert not peer.received


async def test_an_unknown_certificate_is_refused(tmp_path: Path) -> None:
    server, _ = server_context(tmp_path)
    async with listening(answers(OK), tls=server) as peer, sending() as sender:
        outcome = await _send_https(sender, peer)

    assert outcome.kind == "tls_error"
    assert not peer.received


async def test_a_handshake_that_fails_is_a_tls_error() -> None:
    alert = b"\x15\x03\x03\x00\x02\x02\x28"  # fatal: handshake_failure

    async def refuses(peer: Peer, reader: Any, writer: Any) -> None:
        await reader.read(1)
        writer.write(alert)
        await reader.read()

    async with listening(refuses) as peer, sending() as sender:
        outcome = await _send_https(sender, peer)

    assert (outcome.kind, outcome.error) == ("tls_error", "the TLS connection failed")


async def test_plain_text_where_tls_is_expected_is_a_tls_error() -> None:
    async def chats(peer: Peer, reader: Any, writer: Any) -> None:
        writer.write(b"220 mail.example ESMTP\r\n" * 10)
        await reader.read()

    async with listening(chats) as peer, sending() as sender:
        assert (await _send_https(sender, peer)).kind == "tls_error"
