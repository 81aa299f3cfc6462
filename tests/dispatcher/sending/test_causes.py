"""Why no peer answered, for operators: one word and the reason; for tenants it is one class."""

import asyncio
import socket

import pytest

from dispatcher.outcome import Cause, Outcome
from dispatcher.sending.sender import UNREACHABLE
from tests.dispatcher.peers import SECRETS, delivery, sending


async def attempt(url: str, **changes: object) -> Outcome:
    async with sending(**changes) as sender:  # type: ignore[arg-type]
        return await sender.send(delivery(url), SECRETS)


def check(outcome: Outcome, cause: Cause, words: str) -> None:
    assert (outcome.kind, outcome.error, outcome.cause) == ("unreachable", UNREACHABLE, cause)
    assert words in (outcome.reason or "")
    assert (outcome.reason or "").startswith(f"{cause}: ")


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("10.0.0.1", "10.0.0.2", "fe80::1")])
async def test_our_own_rules_are_blocked(addresses: tuple[str, ...]) -> None:
    """However many addresses its name has."""
    outcome = await attempt("http://inside.test/", lookup=lambda _: addresses)
    check(outcome, "blocked", " is not allowed: ")


async def test_a_url_that_may_not_be_is_blocked() -> None:
    """The reason names the setting that opens it."""
    outcome = await attempt("http://10.0.0.1/")
    check(outcome, "blocked", "10.0.0.1 is not allowed: ")
    assert "DISPATCHER_ALLOW_NETWORKS" in (outcome.reason or "")


async def test_a_name_that_nobody_knows_is_dns() -> None:
    def lookup(_: str) -> tuple[str, ...]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    check(await attempt("http://nowhere.test/", lookup=lookup), "dns", "nowhere.test")


async def test_a_port_where_nobody_listens_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    check(await attempt(f"http://127.0.0.1:{port}/"), "refused", "")


async def test_a_peer_that_hangs_up_is_closed() -> None:
    """While it might have handled what came: not at once, which is a stale connection's way."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        check(await attempt(f"http://127.0.0.1:{port}/"), "closed", "")


async def test_a_peer_that_speaks_no_tls_is_tls() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        outcome = await attempt(f"https://127.0.0.1:{port}/")
    assert (outcome.kind, outcome.cause) == ("tls_error", "tls")
    assert outcome.reason
