"""What we lack ourselves to call an upstream is told from what the upstream does (D21), and is
never said of a call that may have arrived."""

import errno
import socket
import threading
from typing import Any

import pytest

from dispatcher.sending import connections
from dispatcher.sending.guard import UpstreamGuard
from dispatcher.sending.upstream import INTERRUPTED, UNREACHABLE, Upstreams
from dispatcher.settings import Settings
from receiver.base.lack import Uplink
from tests.dispatcher.peers import OK, answers, listening
from tests.dispatcher.upstreams import call, calling, no_values


def failing(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every socket fails with this error."""

    def guarded(_guard: Any, _info: Any) -> socket.socket:
        raise OSError(number, "test")

    monkeypatch.setattr(connections, "_guarded", guarded)


@pytest.mark.parametrize(
    ("number", "word"),
    [(errno.EMFILE, "descriptors"), (errno.ENOBUFS, "memory"), (errno.EADDRNOTAVAIL, "ports")],
)
async def test_what_we_lack_to_dial_is_no_fault_of_the_upstream(
    monkeypatch: pytest.MonkeyPatch, number: int, word: str
) -> None:
    failing(number, monkeypatch)
    async with calling() as upstreams:
        outcome = await upstreams.call(call("http://127.0.0.1:9/"))

    assert (outcome.kind, outcome.lack, outcome.sent) == ("interrupted", word, False)
    assert outcome.error == INTERRUPTED


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EHOSTUNREACH])
async def test_what_may_be_the_upstreams_is_the_upstreams(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(Uplink, "is_down", lambda _self: False)
    failing(number, monkeypatch)
    async with calling() as upstreams:
        outcome = await upstreams.call(call("http://127.0.0.1:9/"))

    assert (outcome.kind, outcome.lack, outcome.error) == ("not_sent", None, UNREACHABLE)


@pytest.mark.parametrize(("limit_s", "connect_s"), [(0.3, 30.0), (30.0, 0.3)])
async def test_a_call_without_a_place_to_look_its_name_up_is_our_lack(
    limit_s: float, connect_s: float
) -> None:
    """Whichever time is over first."""
    released = threading.Event()

    def lookup(_host: str) -> tuple[str, ...]:
        released.wait()
        return ("127.0.0.1",)

    async with calling(lookup=lookup, dns_lookups_max=1, connect_s=connect_s) as upstreams:
        await upstreams.call(call("http://hung.internal/", limit_s=0.1))
        outcome = await upstreams.call(call("http://model.internal/", limit_s=limit_s))
        released.set()

    assert (outcome.kind, outcome.lack, outcome.sent) == ("interrupted", "lookups", False)
    assert outcome.duration_ms < 10_000


async def test_a_fault_of_our_own_program_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_guard: UpstreamGuard, _url: object) -> None:
        raise ZeroDivisionError("test")

    monkeypatch.setattr(UpstreamGuard, "refuses_name", fails)
    async with listening(answers(OK)) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url))

    assert (outcome.kind, outcome.lack, outcome.sent) == ("interrupted", "fault", False)
    assert "ZeroDivisionError" in (outcome.detail or "")
    assert peer.connections == 0


async def test_a_database_by_its_name_is_not_called() -> None:
    async with calling(database_url="postgresql://db.internal:6432/x") as upstreams:
        outcome = await upstreams.call(call("http://db.internal:6432/"))

    assert (outcome.kind, outcome.sent) == ("not_sent", False)
    assert "our database" in (outcome.detail or "")


async def test_upstreams_that_are_not_open_call_nobody() -> None:
    with pytest.raises(RuntimeError, match="not open"):
        await Upstreams(Settings(), no_values).call(call("http://127.0.0.1:9/"))
