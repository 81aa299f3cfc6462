"""guard.py: where upstreams may be, by their URL and by each address that is dialled."""

import socket
from ipaddress import ip_network
from typing import Any

import pytest

from dispatcher.sending.guard import UpstreamGuard
from dispatcher.sending.upstream import UNREACHABLE
from dispatcher.settings import Settings
from receiver.base.db.url import addresses
from tests.dispatcher.peers import OK, answers, listening
from tests.dispatcher.upstreams import call, calling

POSTGRES = "postgresql://user:p%40ss@db.internal:6432,10.9.8.7/postback"


def guard(**settings: Any) -> UpstreamGuard:
    return UpstreamGuard(Settings(**settings))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "8.8.8.8",
        "::1", "fd12:3456::1", "2606:4700::1111", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1",
    ],
)  # fmt: skip
def test_upstreams_may_be_private_or_loopback(address: str) -> None:
    assert guard().refuses(address, 9_000) is None


METADATA = [
    "169.254.169.254", "169.254.170.2", "169.254.0.1", "fe80::1", "fd00:ec2::254", "fd00:ec2::23",
    "100.100.100.200", "168.63.129.16", "fd20:ce::254", "192.0.0.192", "fd00:42::42",
    "::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1",
    "::ffff:100.100.100.200", "64:ff9b::a83f:8110", "2001:0:a9fe:a9fe:0:ffff:f7f7:f7f7",
]  # fmt: skip


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("networks", [(), ("0.0.0.0/0", "::/0")])
def test_a_clouds_metadata_service_is_never_reached_whatever_is_opened(
    address: str, networks: tuple[str, ...]
) -> None:
    """Also not as an IPv4-mapped, NAT64, 6to4 or Teredo address."""
    judge = guard(upstream_networks=tuple(map(ip_network, networks)))
    assert "metadata" in (judge.refuses(address, 80) or "")
    host = f"[{address}]" if ":" in address else address
    assert "metadata" in (judge.check_url(f"http://{host}/latest") or "")


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "240.0.0.1",
                "198.18.0.1", "::127.0.0.1", "fec0::1", "4000::1", "fe80::1%eth0", "x"]
)  # fmt: skip
def test_what_is_no_ones_address_stays_closed(address: str) -> None:
    assert guard().refuses(address, 80) is not None


def test_a_setting_narrows_and_opens() -> None:
    judge = guard(upstream_networks=(ip_network("10.1.0.0/16"), ip_network("198.18.0.0/15")))
    assert judge.refuses("10.1.2.3", 80) is None
    assert judge.refuses("198.18.0.1", 80) is None
    assert judge.refuses("::ffff:10.1.2.3", 80) is None
    for other in ("10.2.0.1", "127.0.0.1", "8.8.8.8", "::1"):
        reason = judge.refuses(other, 80) or ""
        assert reason.startswith("not in a network that is allowed; DISPATCHER_UPSTREAM_NETWORKS")


def test_our_own_listener_is_no_upstream_by_whatever_address() -> None:
    judge = guard(port=8_600, public_url="https://jobs.example.com")
    for address in ("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"):
        assert judge.refuses(address, 8_600) == "our own listener"
        assert judge.refuses(address, 8_601) is None
    assert judge.refuses("10.255.1.2", 8_600) is None  # not of this machine
    assert "our own listener" in (judge.check_url("http://127.0.0.1:8600/v1/jobs") or "")
    assert "our own listener" in (judge.check_url("https://JOBS.example.com./x") or "")
    assert judge.check_url("https://other.example.com/x") is None


def test_a_port_that_was_free_when_we_began_is_ours_too() -> None:
    judge = guard(port=0)
    assert judge.refuses("127.0.0.1", 40_000) is None
    judge.listens_at(40_000)
    assert judge.refuses("127.0.0.1", 40_000) == "our own listener"


def test_our_databases_address_is_no_upstream() -> None:
    judge = guard(database_url=POSTGRES)
    assert "our database" in (judge.check_url("http://db.internal:6432/") or "")
    assert "our database" in (judge.check_url("http://10.9.8.7:5432/") or "")
    assert judge.check_url("http://db.internal:8000/") is None
    assert judge.refuses("10.9.8.7", 5_432) == "our database"
    assert judge.refuses("::ffff:10.9.8.7", 5_432) == "our database"
    assert judge.refuses("10.9.8.7", 8_000) is None


def test_a_database_on_this_machine_is_at_each_of_its_addresses() -> None:
    judge = guard(database_url="postgresql://127.0.0.1/postback")
    assert judge.refuses("127.0.0.2", 5_432) == "our database"
    assert judge.refuses("::1", 5_432) == "our database"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("sqlite:///a.db", ()),
        ("postgresql://h/db", (("h", 5_432),)),
        (POSTGRES, (("db.internal", 6_432), ("10.9.8.7", 5_432))),
        ("postgresql://[::1]:7000/db", (("::1", 7_000),)),
        ("postgresql://[::1]/db", (("::1", 5_432),)),
        ("postgresql:///db", (("localhost", 5_432),)),
        ("postgresql:///db?host=/run/postgresql", (("localhost", 5_432),)),
        ("postgresql:///db?host=a,b&port=1,2", (("localhost", 1), ("a", 1), ("b", 2))),
        ("postgresql://h/db?hostaddr=10.0.0.1&port=9", (("h", 9), ("10.0.0.1", 9))),
    ],
)
def test_the_addresses_of_a_database_are_read_from_its_url(
    url: str, found: tuple[tuple[str, int], ...]
) -> None:
    assert addresses(url) == found


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://model/", "http://"),
        ("http://user@model/", "user name"),
        ("http://{function}.model/", "never in the host"),
        ("http://model/{functions}", "percent-encoded"),
        ("http://169.254.169.254/{function}", "metadata"),
        ("http://0x7f.1/", "numeric host"),
    ],
)
def test_a_url_that_no_endpoint_may_have_is_refused_with_its_reason(url: str, reason: str) -> None:
    assert reason in (guard().check_url(url) or "")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000/generate", "http://model:9000/{function}?f={function}",
            "https://[fd12::1]/x"]
)  # fmt: skip
def test_a_url_that_an_endpoint_may_have_is_accepted(url: str) -> None:
    assert guard().check_url(url) is None


async def test_a_name_is_judged_by_each_address_when_it_is_dialled() -> None:
    """A name that leads to a metadata service is not sent, with one error for all reasons."""

    def lookup(host: str) -> tuple[str, ...]:
        return ("::ffff:169.254.169.254", "169.254.169.254")

    async with calling(lookup=lookup) as upstreams:
        outcome = await upstreams.call(call("http://metadata.internal/"))

    assert (outcome.kind, outcome.sent, outcome.error) == ("not_sent", False, UNREACHABLE)
    assert "metadata" in (outcome.detail or "")


async def test_a_name_that_leads_to_our_listener_is_not_dialled() -> None:
    async with listening(answers(OK)) as ours:
        async with calling(lookup=lambda _: ("127.0.0.1",), port=ours.port) as upstreams:
            outcome = await upstreams.call(call(f"http://model.internal:{ours.port}/"))
        assert ours.connections == 0

    assert outcome.kind == "not_sent"
    assert "our own listener" in (outcome.detail or "")


async def test_another_name_of_our_database_is_not_dialled() -> None:
    """The database's own name is looked up before something at its port is dialled."""
    asked = []

    def lookup(host: str) -> tuple[str, ...]:
        asked.append(host)
        return ("10.1.1.1",) if host != "model" else ("127.0.0.1",)

    async with (
        listening(answers(OK)) as peer,
        calling(lookup=lookup, database_url=POSTGRES) as upstreams,
    ):
        outcome = await upstreams.call(call("http://alias.internal:6432/"))
        assert asked == ["db.internal", "alias.internal"]
        other = await upstreams.call(call(f"http://model:{peer.port}/"))

    assert (outcome.kind, other.kind) == ("not_sent", "answered")
    assert "our database" in (outcome.detail or "")
    assert asked == ["db.internal", "alias.internal", "model"]


async def test_where_nobody_can_say_where_our_database_is_its_port_is_not_dialled() -> None:
    def lookup(host: str) -> tuple[str, ...]:
        if host == "db.internal":
            raise socket.gaierror(socket.EAI_AGAIN, "nobody answers")
        return ("10.1.1.1",)

    async with calling(lookup=lookup, database_url=POSTGRES) as upstreams:
        outcome = await upstreams.call(call("http://alias.internal:6432/"))

    assert outcome.kind == "not_sent"


def test_upstreams_outside_the_networks_are_refused_with_the_setting_that_opens_them() -> None:
    """It is another one than that of callbacks."""
    judge = guard(upstream_networks=(ip_network("10.0.0.0/8"),))
    reason = judge.check_url("http://192.168.1.1/") or ""
    assert reason.endswith("; DISPATCHER_UPSTREAM_NETWORKS opens networks")
    assert "ALLOW_NETWORKS" not in reason
