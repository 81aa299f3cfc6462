"""sender.py with ordinary peers: what goes out, and what comes back as an outcome."""

import asyncio
import socket
import threading
from typing import Any

import aiohttp
import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import VERSION
from dispatcher.sending.faults import reason_of
from dispatcher.sending.response import excerpt, retry_after_ms
from dispatcher.sending.sender import UNREACHABLE, Sender, last_of_each
from dispatcher.settings import Settings
from receiver.base.clock import now_ms, parse_iso
from receiver.base.settings import SettingError
from tests.dispatcher.peers import (
    OK,
    SECRETS,
    answer,
    answers,
    delivery,
    listening,
    sending,
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"a" : 1.0,\r\n "a":\xc3\xa9}',
        bytes(range(256)),
        b"x" * (3 * 2**20),
    ],
    ids=["empty", "odd-json", "binary", "3-MiB"],
)
async def test_i5_the_body_arrives_byte_for_byte(body: bytes) -> None:
    async with listening(answers(OK)) as peer, sending() as sender:
        outcome = await sender.send(delivery(peer.url, body=body), SECRETS)

    assert outcome.error_code == "http_200"
    assert peer.received[0].body == body
    assert peer.received[0].header("Content-Length") == str(len(body))


async def test_a_delivery_carries_the_headers_of_the_contract_each_once() -> None:
    async with listening(answers(OK)) as peer, sending() as sender:
        await sender.send(
            delivery(
                peer.url,
                attempt=3,
                content_type="text/csv; charset=latin-1",
                headers=(("X-Team", "render"), ("Authorization", "Basic dGVzdDp0ZXN0")),
            ),
            SECRETS,
        )

    request = peer.received[0]
    names = [name.lower() for name, _ in request.headers]
    assert sorted(names) == sorted(set(names))
    assert request.line == "POST /hook HTTP/1.1"
    assert request.header("Host") == f"127.0.0.1:{peer.port}"
    assert request.header("User-Agent") == f"Postback/{VERSION}"
    assert request.header("Content-Type") == "text/csv; charset=latin-1"
    assert request.header("X-Postback-Attempt") == "3"
    assert request.header("X-Team") == "render"
    assert request.header("Authorization") == "Basic dGVzdDp0ZXN0"
    assert request.header("Accept-Encoding") == "identity"
    assert request.header("webhook-id") == "cb_0190f3a1b2c3d4e5f60718293a4b5c6d"
    assert set(names) == {
        "host", "user-agent", "accept", "accept-encoding", "content-type", "content-length",
        "x-postback-attempt", "x-postback-job-id", "x-team", "authorization",
        "x-webhook-signature", "webhook-id", "webhook-timestamp", "webhook-signature",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given_path", "sent"),
    [
        ("", "/"),
        ("?token=a%2Fb&x=%20", "/?token=a%2Fb&x=%20"),
        ("/a/../b//c;d=1?q=a+b&q=%c3%a9#part", "/a/../b//c;d=1?q=a+b&q=%c3%a9"),
    ],
)
async def test_path_and_query_are_sent_exactly_as_given(given_path: str, sent: str) -> None:
    async with listening(answers(OK)) as peer, sending() as sender:
        await sender.send(delivery(f"http://127.0.0.1:{peer.port}{given_path}"), SECRETS)

    assert peer.received[0].line == f"POST {sent} HTTP/1.1"


async def test_the_signature_header_has_the_name_that_is_set() -> None:
    async with (
        listening(answers(OK)) as peer,
        sending(signature_header="X-Acme-Signature") as sender,
    ):
        await sender.send(delivery(peer.url), SECRETS)

    assert (
        peer.received[0].header(
            "X-Acme-Signature",
        )
        is not None
    )
    assert peer.received[0].header("X-Webhook-Signature") is None


async def test_connections_are_kept_and_used_again() -> None:
    async with listening(answers(OK)) as peer, sending() as sender:
        for _ in range(5):
            assert (await sender.send(delivery(peer.url), SECRETS)).error_code == "http_200"

    assert peer.connections == 1
    assert len(peer.received) == 5


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "410 Gone", "503 Busy", "599 x"])
async def test_every_complete_answer_is_an_outcome_with_its_code(status: str) -> None:
    async with listening(answers(answer(status))) as peer, sending() as sender:
        outcome = await sender.send(delivery(peer.url), SECRETS)

    assert (outcome.kind, outcome.status_code) == ("answered", int(status[:3]))
    assert outcome.error is None
    assert 0 < outcome.duration_ms < 10_000


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
async def test_redirects_are_not_followed(status: str) -> None:
    async with listening(answers(OK)) as target, sending() as sender:
        redirect = answer(status, f"Location: {target.url}")
        async with listening(answers(redirect)) as peer:
            outcome = await sender.send(delivery(peer.url), SECRETS)

    assert outcome.error_code == f"http_{status[:3]}"
    assert outcome.error == "redirects are not followed"
    assert not target.received


async def test_cookies_are_not_kept() -> None:
    cookie = answer("200 OK", "Set-Cookie: session=1; Path=/")
    async with listening(answers(cookie)) as peer, sending() as sender:
        await sender.send(delivery(peer.url), SECRETS)
        await sender.send(delivery(peer.url), SECRETS)

    assert peer.received[1].header("Cookie") is None


async def test_the_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """`trust_env` stays off: a stray HTTP_PROXY must not carry customers' data elsewhere."""
    async with listening(answers(OK)) as peer, listening(answers(OK)) as proxy, sending() as sender:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        await sender.send(delivery(peer.url), SECRETS)

    assert (len(peer.received), len(proxy.received)) == (1, 0)


async def test_an_egress_proxy_that_is_set_carries_every_delivery() -> None:
    async with listening(answers(OK)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        async with sending(proxy_url=url, allow_networks=()) as sender:
            outcome = await sender.send(delivery("http://customer.example/hook?x=1"), SECRETS)

    assert outcome.error_code == "http_200"
    assert proxy.received[0].line == "POST http://customer.example/hook?x=1 HTTP/1.1"
    assert proxy.received[0].header("Host") == "customer.example"


async def test_an_egress_proxy_that_refuses_a_tunnel_makes_the_destination_unreachable() -> None:
    async with (
        listening(answers(answer("403 Forbidden"))) as proxy,
        sending(proxy_url=f"http://127.0.0.1:{proxy.port}") as sender,
    ):
        outcome = await sender.send(delivery("https://customer.example/hook"), SECRETS)

    assert (outcome.kind, outcome.error) == ("unreachable", UNREACHABLE)
    assert proxy.received[0].line == "CONNECT customer.example:443 HTTP/1.1"


@pytest.mark.parametrize("url", ["", "proxy:3128", "ftp://proxy", "http://", "http://["])
def test_a_proxy_url_that_cannot_be_used_is_a_clear_error(url: str) -> None:
    with pytest.raises(SettingError, match="DISPATCHER_PROXY_URL"):
        Sender(Settings(proxy_url=url))


async def test_retry_after_is_read_from_failures_only() -> None:
    busy, done = answer("503 Busy", "Retry-After: 120"), answer("200 OK", "Retry-After: 120")
    async with listening(answers(busy, done)) as peer, sending() as sender:
        assert (await sender.send(delivery(peer.url), SECRETS)).retry_after_ms == 120_000
        assert (await sender.send(delivery(peer.url), SECRETS)).retry_after_ms is None


async def test_a_destination_cannot_ask_for_a_longer_wait_than_we_allow() -> None:
    """Neither its delivery nor its lane waits longer than DISPATCHER_RETRY_AFTER_MAX."""
    busy = answer("429 Slow Down", "Retry-After: 9999999999")
    async with listening(answers(busy)) as peer, sending(retry_after_max=60) as sender:
        assert (await sender.send(delivery(peer.url), SECRETS)).retry_after_ms == 60_000


def test_a_callbacks_own_header_wins_over_its_destinations() -> None:
    """One of each name goes out, whatever its case."""
    given = (("X-Team", "destination"), ("X-Other", "1"), ("x-team", "callback"))
    assert last_of_each(given) == (("x-team", "callback"), ("X-Other", "1"))
    assert last_of_each(given[:1]) == given[:1]


async def test_the_excerpt_is_the_beginning_of_the_answer() -> None:
    long = answer("500 Oops", body=b"no such job: \x1b[31m" + b"x" * 5_000)
    async with listening(answers(long)) as peer, sending(excerpt_bytes_max=20) as sender:
        outcome = await sender.send(delivery(peer.url), SECRETS)

    assert outcome.excerpt == "no such job: \ufffd[31mxx"


async def test_blocked_refused_unresolvable_and_reset_look_the_same_to_the_tenant() -> None:
    """One error class and one text, so that errors are no port scanner; the log knows more."""

    def lookup(host: str) -> tuple[str, ...]:
        if host == "inside.example":
            return ("10.0.0.1", "169.254.169.254")
        raise OSError("no such host")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed_port = free.getsockname()[1]
    urls = {
        "127.0.0.1:": f"http://127.0.0.1:{closed_port}/",  # refused
        "private": "http://10.0.0.1/",
        "metadata": "http://inside.example/latest/meta-data",
        "no such host": "http://nowhere.example/?token=test",
        "percent": "http://127.0.0.1/\u2603",
        "user name": "http://user:test@127.0.0.1/",
    }
    async with sending(lookup=lookup) as sender:
        for reason, url in urls.items():
            outcome = await sender.send(delivery(url), SECRETS)
            assert (outcome.kind, outcome.error) == ("unreachable", UNREACHABLE), url
            assert reason.rstrip(":") in (outcome.detail or ""), outcome
            assert "token=test" not in (outcome.detail or "")


def test_i8_the_reason_for_the_log_holds_no_url_since_it_may_carry_a_token() -> None:
    url = "https://hooks.example/services/test-token?key=test-key"
    reason = reason_of(aiohttp.ClientOSError(32, f"Can not write request body for {url}"))

    assert reason == "ClientOSError: [Errno 32] Can not write request body for …"


async def test_a_name_is_judged_by_the_address_it_resolves_to_when_dialled() -> None:
    """DNS rebinding: what was global a moment ago is refused once it resolves to loopback."""
    addresses = iter([("127.0.0.2",), ("127.0.0.1",)])
    async with (
        listening(answers(OK)) as peer,
        sending(allow_networks=(), dns_cache=0, lookup=lambda _: next(addresses)) as sender,
    ):
        for _ in range(2):
            url = f"http://rebinding.example:{peer.port}/"
            outcome = await sender.send(delivery(url), SECRETS)
            assert outcome.kind == "unreachable"
            assert "loopback" in (outcome.detail or "")

    assert next(addresses, None) is None  # it was looked up each time
    assert peer.connections == 0


async def test_a_name_with_a_blocked_and_an_allowed_address_is_reached_at_the_allowed_one() -> None:
    async with (
        listening(answers(OK)) as peer,
        sending(lookup=lambda _: ("10.0.0.1", "127.0.0.1")) as sender,
    ):
        url = f"http://both.example:{peer.port}/"
        assert (await sender.send(delivery(url), SECRETS)).error_code == "http_200"


async def test_a_hanging_look_up_ends_within_its_own_deadline() -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    released = threading.Event()

    def hang(_: str) -> tuple[str, ...]:
        loop.call_soon_threadsafe(asked.set)
        released.wait()
        return ("127.0.0.1",)

    try:
        async with sending(lookup=hang, dns_timeout=0.2) as sender:
            outcome = await sender.send(delivery("http://hung.example/"), SECRETS)
    finally:
        released.set()

    assert asked.is_set()
    assert (outcome.kind, outcome.error) == ("unreachable", UNREACHABLE)
    assert "took longer than 0.2 s" in (outcome.detail or "")
    assert outcome.duration_ms < 10_000


async def test_a_cancelled_attempt_is_cancelled_and_leaves_no_connection() -> None:
    """Shutting down is the engine's decision: the sender does not turn it into an outcome."""
    async with sending() as sender:
        arrived, hung_up = asyncio.Event(), asyncio.Event()

        async def behave(peer: Any, reader: Any, writer: Any) -> None:
            await peer.receive(reader)
            arrived.set()
            await reader.read()
            hung_up.set()

        async with listening(behave) as peer:
            attempt = asyncio.create_task(sender.send(delivery(peer.url), SECRETS))
            await arrived.wait()
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
            await hung_up.wait()


async def test_a_sender_that_is_not_open_is_a_programmer_error() -> None:
    with pytest.raises(RuntimeError, match="not open"):
        await Sender(Settings()).send(delivery("http://127.0.0.1/"), SECRETS)


NOW = "2026-01-31T12:00:00Z"


@freeze_time(NOW)
@pytest.mark.parametrize(
    ("value", "wait_ms"),
    [
        (None, None),
        ("0", 0),
        ("120", 120_000),
        (" 7\t", 7_000),
        ("9999999999", 9_999_999_999_000),
        ("99999999999", None),
        ("-1", None),
        ("1.5", None),
        ("\u0661", None),
        ("soon", None),
        ("", None),
        ("Sat, 31 Jan 2026 12:00:30 GMT", 30_000),
        ("Saturday, 31-Jan-26 12:00:30 GMT", 30_000),
        ("Sat Jan 31 12:00:30 2026", 30_000),
        ("Sat, 31 Jan 2026 11:00:00 GMT", 0),
        ("Sat, 32 Jan 2026 12:00:30 GMT", None),
        ("Sat, 31 Xyz 2026 12:00:30 GMT", None),
        ("Sat, 31 Jan 2026 25:61:61 GMT", None),
        ("2026-01-31T12:00:30Z", None),
        ("120, 120", None),
        ("Sat, 31 Jan 2026 12:00:30 GMT" * 1_000, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_garbage_is_ignored(
    value: str | None, wait_ms: int | None
) -> None:
    assert now_ms() == parse_iso(NOW)
    assert retry_after_ms(value, now_ms()) == wait_ms


@given(st.text())
def test_retry_after_never_raises_and_is_never_negative(value: str) -> None:
    wait_ms = retry_after_ms(value, 0)
    assert wait_ms is None or wait_ms >= 0


@pytest.mark.parametrize(
    ("body", "bytes_max", "text"),
    [
        (b"", 10, None),
        (b"ok", 10, "ok"),
        (b"line\r\nnext\tcell\n", 20, "line\nnext\tcell\n"),
        ("é€".encode(), 4, "é"),  # a character cut by the limit is left out
        (b"\xff\xfe", 10, "\ufffd\ufffd"),
        (b"a\x00b\x1b[0m\x7f", 10, "a\ufffdb\ufffd[0m\ufffd"),
        ("\u202eevil\u2066".encode(), 20, "\ufffdevil\ufffd"),
        (b"abc", 0, None),
    ],
)
def test_an_excerpt_is_safe_to_show(body: bytes, bytes_max: int, text: str | None) -> None:
    assert excerpt(body, bytes_max) == text


@given(st.binary(max_size=200), st.integers(0, 100))
def test_an_excerpt_is_bounded_and_holds_no_control_characters(body: bytes, bytes_max: int) -> None:
    text = excerpt(body, bytes_max) or ""
    assert len(text) <= bytes_max
    assert all(char in "\t\n" or char >= " " for char in text)
    assert not any("\x7f" <= char < "\xa0" for char in text)
