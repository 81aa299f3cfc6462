"""What we lack ourselves to send is told from what the peer does (D21), as a value."""

import errno
import socket
from typing import Any

import pytest

from dispatcher.sending import connections
from dispatcher.sending.connections import at_once
from dispatcher.sending.egress import Egress
from receiver.base import lack
from receiver.base.lack import Uplink, lack_of
from tests.dispatcher.peers import OK, SECRETS, answers, delivery, listening, sending

NO_PORT = OSError(errno.EADDRNOTAVAIL, "test")
NO_ROUTE = OSError(errno.ENETUNREACH, "test")


def failing(error: OSError, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Every socket fails with `error`, until the list that is returned is emptied."""
    fails = [True]

    def guarded(egress: Egress, info: Any) -> socket.socket:
        if fails:
            raise error
        return socket.socket(info[0], info[1], info[2])

    monkeypatch.setattr(connections, "_guarded", guarded)
    return fails


@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.EMFILE, "descriptors"),
        (errno.ENFILE, "descriptors"),
        (errno.ENOBUFS, "memory"),
        (errno.ENOMEM, "memory"),
        (errno.EADDRNOTAVAIL, "ports"),
    ],
)
async def test_what_we_lack_to_dial_is_no_fault_of_the_destination(
    monkeypatch: pytest.MonkeyPatch, number: int, word: str
) -> None:
    """D21: `interrupted`, and to be told from a server that cannot be reached."""
    fails = failing(OSError(number, "test"), monkeypatch)
    async with listening(answers(OK)) as peer, sending() as sender:
        outcome = await sender.send(delivery(peer.url), SECRETS)
        assert (outcome.kind, outcome.lack) == ("interrupted", word)
        assert outcome.connected  # or it would count for its server
        assert not outcome.down
        assert "Errno" not in (outcome.error or "")
        fails.clear()
        assert (await sender.send(delivery(peer.url), SECRETS)).status_code == 200


@pytest.mark.parametrize(
    "number", [errno.ECONNREFUSED, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH]
)
async def test_what_may_be_the_peers_is_the_peers(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """While this machine has a way out, or never had one, an unreachable address is the caller's
    affair: it spends tries, or a wrong one would be tried without an end."""
    monkeypatch.setattr(Uplink, "is_down", lambda _self: False)
    failing(OSError(number, "test"), monkeypatch)
    async with sending() as sender:
        outcome = await sender.send(delivery("http://127.0.0.1:9/"), SECRETS)
        assert (outcome.kind, outcome.lack) == ("unreachable", None)


async def test_an_address_that_we_cannot_send_from_is_no_lack_of_ports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as an IPv6 address where there is none of ours: it stays unreachable."""
    monkeypatch.setattr(connections, "is_routed", lambda _family, _address: False)
    failing(NO_PORT, monkeypatch)
    async with sending() as sender:
        assert (await sender.send(delivery("http://127.0.0.1:9/"), SECRETS)).kind == "unreachable"


@pytest.mark.parametrize("named", [False, True])
async def test_without_a_way_out_nothing_is_the_peers_fault(
    monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """Neither what cannot be dialled nor what cannot be looked up."""
    monkeypatch.setattr(Uplink, "is_down", lambda _self: True)
    failing(NO_ROUTE, monkeypatch)

    def lookup(_host: str) -> tuple[str, ...]:
        raise socket.gaierror(socket.EAI_AGAIN, "test")

    url = "http://hook.example/" if named else "http://127.0.0.1:9/"
    async with sending(lookup=lookup) as sender:
        outcome = await sender.send(delivery(url), SECRETS)
        assert (outcome.kind, outcome.lack) == ("interrupted", "network")


async def test_our_proxy_is_ours() -> None:
    """A proxy that is down fails everybody's deliveries, and is no customer's fault."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        async with sending(proxy_url=f"http://127.0.0.1:{port}") as sender:
            for scheme in ("http", "https"):
                outcome = await sender.send(delivery(f"{scheme}://hook.example/"), SECRETS)
                assert (outcome.kind, outcome.lack) == ("interrupted", "proxy")


async def test_idle_connections_give_way_where_descriptors_are_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What we keep for later is let go of before deliveries fail for it."""
    fails = failing(OSError(errno.EMFILE, "test"), monkeypatch)
    async with (
        listening(answers(OK)) as one,
        listening(answers(OK)) as other,
        sending() as sender,
    ):
        fails.clear()
        await sender.send(delivery(one.url), SECRETS)
        fails.append(True)
        assert (await sender.send(delivery(other.url), SECRETS)).kind == "interrupted"
        fails.clear()
        await sender.send(delivery(one.url), SECRETS)
        assert one.connections == 2  # the idle one was closed


def test_a_machine_without_a_way_out_from_the_start_waits_for_none() -> None:
    """Only what was there can be down."""
    routes = iter([False, False, True, False, True])
    uplink = Uplink(lambda: next(routes))
    assert [uplink.is_down() for _ in range(4)] == [False, False, True, False]


def test_errors_are_told_by_what_caused_them() -> None:
    """Whatever a client wraps them in; of several, all must be ours."""
    ours, theirs = OSError(errno.EMFILE, "ours"), OSError(errno.ECONNREFUSED, "theirs")
    wrapped = OSError("All connection attempts failed")
    wrapped.__cause__ = ExceptionGroup("several", [ours, ours])
    assert lack_of(wrapped) == "descriptors"
    wrapped.__cause__ = ExceptionGroup("several", [ours, theirs])
    assert lack_of(wrapped) is None
    assert lack_of(theirs) is None
    assert lack_of(RuntimeError("can't start new thread")) == "threads"


def test_few_descriptors_dial_few_addresses_at_once() -> None:
    """One of each family first; the rest in their turn."""
    infos: list[Any] = [(socket.AF_INET6, 0, 0, "", (f"::{n}", 1)) for n in range(1, 5)]
    infos += [(socket.AF_INET, 0, 0, "", (f"127.0.0.{n}", 1)) for n in range(1, 3)]
    assert [info[4][0] for info in at_once(infos, 3)] == ["::1", "127.0.0.1", "::2"]
    assert at_once(infos, 6) == infos


@pytest.mark.parametrize(
    ("files", "fitting"),
    [
        (10_000, (1_024, 4_096)),
        (6_144, (1_024, 4_096)),
        (6_143, (1_024, 4_095)),
        (4_096, (1_024, 2_048)),
        (1_000, (250, 500)),
        (0, (4, 4)),
    ],
)
def test_descriptors_are_shared_by_slots_and_connections(
    files: int, fitting: tuple[int, int]
) -> None:
    """Half for each; what one does not need is the other's."""
    slots = lack.Need(setting="SLOTS", count=1_024, each=2)
    connections_ = lack.Need(setting="CONNECTIONS", count=4_096)
    assert lack.fit(slots, connections_, files=files) == fitting


@pytest.mark.parametrize(
    ("files", "fitting"),
    [
        (10_000, (1_024, 4_096, 2_000)),
        (8_000, (1_024, 3_952, 2_000)),
        (3_000, (500, 1_000, 1_000)),
        (0, (4, 4, 4)),
    ],
)
def test_places_of_jobs_share_descriptors_with_them(
    files: int, fitting: tuple[int, int, int]
) -> None:
    """An equal part for each; what one does not need is the others'."""
    slots = lack.Need(setting="SLOTS", count=1_024, each=2)
    connections_ = lack.Need(setting="CONNECTIONS", count=4_096)
    places = lack.Need(setting="PLACES", count=2_000)
    assert lack.fit(slots, connections_, places, files=files) == fitting
