"""egress.py: which addresses and URLs are refused, and that what is checked is what is dialled."""

import ipaddress
import socket

import pytest
from aiohttp.helpers import is_canonical_ipv4_address, is_ip_address
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from dispatcher.sending.egress import Egress, UrlRefused, parse_url

CLOSED = Egress()
LOOPBACK = Egress((ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")))


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
        "192.0.1.0", "192.167.255.255", "198.17.255.255", "198.20.0.0", "223.255.255.255",
        "2606:4700::1111", "2001:200::1", "2a00::1", "3ffe::1",
        "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1",
        "2001:0:808:808:0:ffff:f7f7:f7f7",
    ],
)  # fmt: skip
def test_global_unicast_addresses_may_be_dialled(address: str) -> None:
    assert CLOSED.refuses(address) is None


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "this network"),
        ("10.0.0.1", "private"),
        ("100.64.0.1", "shared"),
        ("100.127.255.255", "shared"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.255", "loopback"),
        ("169.254.169.254", "link-local"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.8", "IETF"),
        ("192.0.2.1", "documentation"),
        ("192.88.99.1", "6to4"),
        ("192.168.1.1", "private"),
        ("198.18.0.1", "benchmarking"),
        ("198.19.255.255", "benchmarking"),
        ("198.51.100.1", "documentation"),
        ("203.0.113.1", "documentation"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "broadcast"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::127.0.0.1", "IPv4-compatible"),
        ("::ffff:0:127.0.0.1", "IPv4-translated"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:0.0.0.0", "unspecified"),
        ("::ffff:224.0.0.1", "multicast"),
        ("64:ff9b::127.0.0.1", "loopback"),
        ("64:ff9b::169.254.169.254", "link-local"),
        ("64:ff9b:1::808:808", "local-use NAT64"),
        ("100::1", "discard"),
        ("100:0:0:1::1", "dummy"),
        ("2001:2::1", "IETF"),
        ("2001:10::1", "IETF"),
        ("2001:20::1", "IETF"),
        ("2001:db8::1", "documentation"),
        ("2002:7f00:1::1", "loopback"),
        ("2002:a9fe:a9fe::1", "link-local"),
        ("2001:0:7f00:1:0:ffff:f7f7:f7f7", "loopback"),  # Teredo: the server
        ("2001:0:808:808:0:ffff:80ff:fffe", "loopback"),  # Teredo: the client
        ("3fff::1", "documentation"),
        ("4000::1", "not global unicast"),
        ("5f00::1", "segment routing"),
        ("fc00::1", "unique local"),
        ("fd12:3456::1", "unique local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "scoped"),
        ("2606:4700::1111%1", "scoped"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
        ("localhost", "not an IP address"),
        ("127.1", "not an IP address"),
        ("", "not an IP address"),
    ],
)
def test_every_other_address_is_refused_with_its_reason(address: str, reason: str) -> None:
    assert reason in (CLOSED.refuses(address) or "nothing")


@pytest.mark.parametrize(
    ("networks", "address"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.0/8", "::ffff:127.0.0.1"),
        ("10.0.0.0/8", "64:ff9b::10.0.0.1"),
        ("::1/128", "::1"),
        ("fd00::/8", "fd12::1"),
        ("0.0.0.0/0", "10.0.0.1"),
    ],
)
def test_an_allowed_network_is_open(networks: str, address: str) -> None:
    assert CLOSED.refuses(address) is not None
    assert Egress((ipaddress.ip_network(networks),)).refuses(address) is None


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1%eth0",
                "::ffff:0.0.0.0"]
)  # fmt: skip
def test_what_is_no_destination_stays_refused_whatever_is_allowed(address: str) -> None:
    everything = Egress((ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")))
    assert everything.refuses(address) is not None


def test_opening_ipv6_does_not_open_the_ipv4_addresses_it_can_carry() -> None:
    opened = Egress((ipaddress.ip_network("::/0"),))
    for address in ("::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::1"):
        assert "loopback" in (opened.refuses(address) or "")


@given(st.ip_addresses())
def test_nothing_is_allowed_that_python_calls_private(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """A second opinion, whatever this Python's version of it: where it says private, so do we."""
    if address.version == 6 and int(address) >> 32 in (0xFFFF, 0x64_FF9B << 64):
        return  # IPv4-mapped and NAT64: judged by the IPv4 address they carry
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_reserved:
        assert CLOSED.refuses(str(address)) is not None


ACCEPTED = [
    "http://example.com",
    "https://example.com/",
    "HTTPS://Example.COM:8443/Hook?token=a%2Fb#part",
    "http://localhost:9000/hook",
    "http://my_service.internal/x",
    "http://example.com./x",
    "http://xn--bcher-kva.example/",
    "http://bücher.example/hook",
    "http://1.1.1.1/",
    "http://[2606:4700::1111]:80/",
    "http://[::ffff:8.8.8.8]/",
    "http://example.com?x=1",
    "http://example.com/a'(b)[c]!$&*+,;=:@~",
    "http://1.example/",
    "http://0x7f.example/",
    "https://example.com/" + "a" * 2_000,
]


@pytest.mark.parametrize("url", ACCEPTED)
def test_ordinary_urls_are_accepted(url: str) -> None:
    assert CLOSED.check_url(url) is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "starts with http"),
        ("example.com/hook", "starts with http"),
        ("//example.com", "starts with http"),
        ("http:example.com", "starts with http"),
        ("http:/example.com", "starts with http"),
        ("ftp://example.com/", "starts with http"),
        ("file:///etc/passwd", "starts with http"),
        ("javascript://example.com/", "starts with http"),
        ("httpſ://example.com/", "starts with http"),
        ("http://", "host is missing"),
        ("http:///path", "host is missing"),
        ("http://?x=1", "host is missing"),
        ("http://:80/", "host is missing"),
        ("http://./", "host is missing"),
        ("http://a..b/", "not a valid name"),
        ("http://-a.example/", "not a valid name"),
        ("http://a.example../", "not a valid name"),
        ("http://" + "a" * 64 + ".example/", "not a valid name"),
        ("http://" + "a." * 127 + "example/", "not a valid name"),
        ("http://exa%6dple.com/", "not a valid name"),
        ("http://ex*mple.com/", "not a valid name"),
        ("http://user@example.com/", "user name"),
        ("http://user:test@example.com/", "user name"),
        ("http://example.com@127.0.0.1/", "user name"),
        ("http://127.0.0.1:80@example.com/", "user name"),
        (" http://example.com/", "spaces"),
        ("http://example.com/a b", "spaces"),
        ("http://example.com/\r\nX-Injected: 1", "control characters"),
        ("http://exam\tple.com/", "control characters"),
        ("http://example.com/\x00", "control characters"),
        ("http://example.com/\x7f", "control characters"),
        ("http://example.com\\@127.0.0.1/", "backslashes"),
        ("http://example.com/ü", "percent-encoded"),
        ("http://example.com/?q=<script>", "percent-encoded"),
        ('http://example.com/"', "percent-encoded"),
        ("http://example.com/{id}", "percent-encoded"),
        ("http://example.com:/", "port is not a number"),
        ("http://example.com:http/", "port is not a number"),
        ("http://example.com:80:90/", "port is not a number"),
        ("http://example.com:٨٠/", "port is not a number"),
        ("http://example.com:-1/", "port is not a number"),
        ("http://example.com:0/", "1 to 65535"),
        ("http://example.com:65536/", "1 to 65535"),
        ("http://example.com:999999/", "port is not a number"),
        ("http://[::1/", "malformed"),
        ("http://::1/", "host is missing"),
        ("http://[127.0.0.1]/", "not an IPv6"),
        ("http://[v1.fe80]/", "not an IPv6"),
        ("http://[]/", "not an IPv6"),
        ("http://[fe80::1%25eth0]/", "scoped"),
        ("http://[::1]x/", "malformed"),
        ("http://x[::1]/", "malformed"),
        ("http://exa\u200bmple.com/", "international"),
        ("http://\u2100.example/", "international"),  # NFKC makes it "a/c"
        ("http://\ufe6b.example/", "international"),  # NFKC makes it "@"
        ("http://example.com/" + "a" * 2_048, "2048"),
        ("http://127.0.0.1/", "loopback"),
        ("http://169.254.169.254/latest/", "link-local"),
        ("http://[::1]:8080/", "loopback"),
        ("http://[::ffff:7f00:1]/", "loopback"),
        ("http://[64:ff9b::a9fe:a9fe]/", "link-local"),
        ("http://10.1.2.3/", "private"),
        ("http://0.0.0.0/", "unspecified"),
        ("http://2130706433/", "four decimal numbers"),
        ("http://0x7f000001/", "four decimal numbers"),
        ("http://0x7f.1/", "four decimal numbers"),
        ("http://017700000001/", "four decimal numbers"),
        ("http://0177.0.0.1/", "four decimal numbers"),
        ("http://127.1/", "four decimal numbers"),
        ("http://127.0.0.1./", "four decimal numbers"),
        ("http://8.8.8.8.8/", "four decimal numbers"),
        ("http://256.1.1.1/", "four decimal numbers"),
        ("http://１２７.０.０.１/", "loopback"),  # full-width digits
        ("http://127。0。0。1/", "loopback"),  # ideographic full stops
        ("http://①27.0.0.1/", "loopback"),
    ],
)  # fmt: skip
def test_other_urls_are_refused_with_a_clear_reason(url: str, reason: str) -> None:
    assert reason in (CLOSED.check_url(url) or "nothing")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "fd12::1"]
)
def test_what_may_be_opened_is_refused_with_the_setting_that_opens_it(address: str) -> None:
    """Every newcomer meets it: at submit, and of names in the attempt."""
    host = f"[{address}]" if ":" in address else address
    for reason in (CLOSED.refuses(address), CLOSED.check_url(f"http://{host}:8700/")):
        assert (reason or "").endswith("; DISPATCHER_ALLOW_NETWORKS opens networks")


@pytest.mark.parametrize("address", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "fe80::1%1"])
def test_what_nothing_opens_names_no_setting(address: str) -> None:
    assert "DISPATCHER_" not in (CLOSED.refuses(address) or "DISPATCHER_")


def test_an_address_in_an_allowed_network_is_accepted_in_a_url() -> None:
    assert LOOPBACK.check_url("http://127.0.0.1:9000/hook") is None
    assert LOOPBACK.check_url("http://[::1]:9000/hook") is None
    assert LOOPBACK.check_url("http://10.0.0.1/hook") is not None


URL_TEXT = st.text(st.sampled_from("ab.:/?#@[]%\\ 0127xfühttps-_\u3002\uff0f\t"), max_size=30)


@given(st.one_of(URL_TEXT, URL_TEXT.map("http://".__add__), st.text()))
@example("http://127.0.0.1\\@example.com")
@example("http://example.com#@127.0.0.1")
def test_no_url_is_checked_as_one_host_and_dialled_as_another(url: str) -> None:
    """What aiohttp would dial for the URL we hand it is the host that was judged, also when it
    is read from its text again."""
    try:
        parsed = parse_url(url)
    except UrlRefused:
        return
    again = URL(str(parsed))
    assert parsed.raw_host is not None
    assert parsed.raw_host == again.raw_host
    assert parsed.port == again.port
    assert parsed.user is None
    assert parsed.scheme in ("http", "https")
    if is_ip_address(parsed.raw_host):  # aiohttp dials it without a look-up
        assert ":" in parsed.raw_host or is_canonical_ipv4_address(parsed.raw_host)
        assert (CLOSED.check_url(url) is None) == (CLOSED.refuses(parsed.raw_host) is None)
    else:  # the system's resolver must not take it for an address
        assert not _resolves_like_an_address(parsed.raw_host)


def _resolves_like_an_address(host: str) -> bool:
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return True


@given(st.text(st.sampled_from("ab/?&=%2F.;:@+~"), max_size=40))
def test_path_and_query_are_dialled_as_given(rest: str) -> None:
    """Character by character; only a question mark with nothing behind it is left out."""
    parsed = parse_url(f"http://example.com/{rest}")
    path, _, query = rest.partition("?")
    assert parsed.raw_path_qs == (f"/{path}?{query}" if query else f"/{path}")
