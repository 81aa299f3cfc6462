"""forwarded.py: whose word on who asks counts, and that nobody else's does."""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.base.forwarded import HOPS_MAX, Proxies, address_of, plain_network
from receiver.base.http import Receive, Request, Response, Scope, Send, send_response
from tests.receiver.serving import served

TRUSTED = tuple(ip_network(text) for text in ("10.0.0.0/8", "2001:db8::/48", "127.0.0.2"))
PROXIES = Proxies(TRUSTED)
PEER = "10.0.0.1"

ours = st.one_of(st.ip_addresses(network="10.0.0.0/8"), st.ip_addresses(network="2001:db8::/48"))
theirs = st.ip_addresses().map(lambda one: address_of(str(one))).filter(
    lambda one: not any(one in network for network in TRUSTED)
)  # fmt: skip
ports = st.integers(0, 65_535)


def ways(address: object) -> list[str]:
    """How proxies write an address."""
    if ":" in str(address):
        return [f"{address}", f"[{address}]", f"[{address}]:443", f"{address}%eth0"]
    return [f"{address}", f"{address}:8080", f"::ffff:{address}", f"[::ffff:{address}]:1"]


entries = st.one_of(ours, theirs).flatmap(lambda one: st.sampled_from(ways(one)))
anything = st.one_of(st.text(max_size=200), st.lists(st.one_of(entries, st.text())).map(",".join))


@given(theirs.flatmap(lambda one: st.tuples(st.just(one), st.sampled_from(ways(one)))),
       st.lists(ours.flatmap(lambda one: st.sampled_from(ways(one))), max_size=HOPS_MAX - 1),
       anything, st.sampled_from([",", ", ", " ,\t"]))  # fmt: skip
def test_the_right_most_that_is_not_trusted_asks(
    asking: tuple[object, str], proxies: list[str], spoofed: str, comma: str
) -> None:
    """However it is written, and whatever stands left of it."""
    address, written = asking
    walked = PROXIES.walk(PEER, comma.join([written, *proxies]))
    assert walked == str(address)
    assert PROXIES.walk(PEER, comma.join([spoofed, written, *proxies])) == walked


@given(st.lists(ours, min_size=1, max_size=HOPS_MAX))
def test_where_all_are_trusted_the_left_most_asks(proxies: list[object]) -> None:
    assert PROXIES.walk(PEER, ", ".join(map(str, proxies))) == str(proxies[0])


@given(anything)
def test_the_walk_ends_in_an_address_whatever_it_meets(forwarded: str) -> None:
    """Never in an error, and never in text that somebody sent."""
    walked = PROXIES.walk(PEER, forwarded)
    assert str(ip_address(walked)) == walked
    assert "%" not in walked


@pytest.mark.parametrize(
    "garbage",
    ["", " ", "unknown", "_hidden", "198.51.100.256", "0x7f.1", "[::1", "::1]", "[198.51.100.1]",
     "198.51.100.1:", "198.51.100.1:http", "198.51.100.1:123456", "[::1]8", "1", "9" * 10_000,
     "for=198.51.100.1", "198.51.100.1 198.51.100.2", "198.51.100.\u00b2"],
)  # fmt: skip
def test_what_is_no_address_ends_the_walk(garbage: str) -> None:
    """At the hop before it, which the proxy behind it has seen."""
    assert PROXIES.walk(PEER, f"203.0.113.9, {garbage}") == PEER
    assert PROXIES.walk(PEER, f"203.0.113.9, {garbage}, 10.9.9.9") == "10.9.9.9"


def test_the_walk_is_bounded() -> None:
    """More proxies in a row than there can be are not looked through."""
    hops = [f"10.1.{n // 250}.{n % 250}" for n in range(10_000)]
    assert PROXIES.walk(PEER, ",".join(["203.0.113.9", *hops])) == hops[-HOPS_MAX]


def test_addresses_of_the_old_kind_are_written_as_the_new_kind_too() -> None:
    """A socket that listens on both kinds names its IPv4 peers so, and so may a setting."""
    forwarded = [(b"x-forwarded-for", b"203.0.113.9")]
    assert PROXIES.address("::ffff:10.0.0.1", forwarded) == "203.0.113.9"
    assert PROXIES.address("::ffff:11.0.0.1", forwarded) == "11.0.0.1"
    mapped = plain_network(ip_network("::ffff:10.0.0.0/104"))
    assert mapped == ip_network("10.0.0.0/8")
    assert Proxies([mapped]).address(PEER, forwarded) == "203.0.113.9"
    assert plain_network(ip_network("::/0")) == ip_network("::/0")


def test_lines_are_joined_in_their_order() -> None:
    """A proxy may add a line of its own, below those that came."""
    lines = [(b"x-forwarded-for", b"192.0.2.1"), (b"host", b"x"),
             (b"x-forwarded-for", b"192.0.2.2"), (b"x-forwarded-for", b"10.0.0.7")]  # fmt: skip
    assert PROXIES.address(PEER, lines) == "192.0.2.2"


@pytest.mark.parametrize(
    ("said", "scheme"),
    [([b"https"], "https"), ([b"HTTPS "], "https"), ([b"http", b"https"], "https"),
     ([b"https, http"], "http"), ([b"ftp"], "http"), ([b""], "http"), ([], "http")],
)  # fmt: skip
def test_the_scheme_is_what_the_nearest_proxy_says(said: list[bytes], scheme: str) -> None:
    headers = [(b"x-forwarded-proto", value) for value in said]
    assert PROXIES.scheme(PEER, "http", headers) == scheme
    assert PROXIES.scheme("203.0.113.9", "http", headers) == "http"
    assert Proxies().scheme(PEER, "http", headers) == "http"


# --- over real connections ---


def app(proxies: Proxies) -> Callable[[Scope, Receive, Send], object]:
    """Answers with who asked, and how."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, "req_1", proxies)
        asked = {"address": request.address, "peer": request.peer, "scheme": request.scheme}
        await send_response(scope, send, Response(document=asked), "req_1", close=False)

    return respond


@asynccontextmanager
async def asked_from(source: str, url: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(local_address=source)
    async with httpx.AsyncClient(transport=transport, base_url=url) as client:
        yield client


SPOOFED = [("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-For", "203.0.113.9, 10.0.0.5"),
           ("X-Forwarded-Proto", "https")]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "address", "scheme"),
    [("127.0.0.1", "127.0.0.1", "http"), ("127.0.0.2", "203.0.113.9", "https")],
)
async def test_only_a_trusted_peer_is_believed(source: str, address: str, scheme: str) -> None:
    async with served(app(PROXIES)) as url, asked_from(source, url) as client:
        asked = (await client.get("/", headers=SPOOFED)).json()
        assert asked == {"address": address, "peer": address, "scheme": scheme}
        bare = (await client.get("/")).json()
        assert bare == {"address": source, "peer": source, "scheme": "http"}


async def test_by_default_nobody_is_believed() -> None:
    async with served(app(Proxies())) as url, asked_from("127.0.0.2", url) as client:
        asked = (await client.get("/", headers=SPOOFED)).json()
        assert asked == {"address": "127.0.0.2", "peer": "127.0.0.2", "scheme": "http"}


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
async def test_a_socket_for_both_kinds_of_addresses_knows_its_proxies() -> None:
    """It names its IPv4 peers `::ffff:127.0.0.2`."""
    both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    async with served(app(PROXIES), given=both) as url:
        for source, address in (("127.0.0.2", "203.0.113.9"), ("127.0.0.1", "127.0.0.1")):
            async with asked_from(source, url.replace("[::]", "127.0.0.1")) as client:
                assert (await client.get("/", headers=SPOOFED)).json()["address"] == address
