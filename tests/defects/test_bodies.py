"""Bodies that do not arrive, and responses to batches that nobody reads: bounded in memory, with a
share for each tenant, or for each address where no key is known yet (I6, I7)."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import httpx
import pytest

from receiver.base.budget import Budget, may_take, site_of
from receiver.testing import signed_request
from tests.base.wire import request
from tests.defects.halves import KEY, SECRET, WITHIN_S, Half, running

MIB: Final = 1024 * 1024
NDJSON: Final = "Content-Type: application/x-ndjson\r\n"
# Some 800 bytes of response a line: an unknown field is shown in its error.
LINE: Final = ('{"' + "\N{GRINNING FACE}" * 398 + '":1}\n').encode()


def batch_head(tenant: str, length: int) -> bytes:
    headers = f"Authorization: Bearer {KEY}\r\nPostback-Tenant: {tenant}\r\n{NDJSON}"
    return request(
        "/v1/callbacks/batch", headers=f"{headers}Content-Length: {length}\r\n", method="POST"
    )


def submitted(half: Half, tenant: str, size: int) -> int:
    """The status of a submit of so many bytes."""
    return httpx.post(
        f"{half.url}/v1/callbacks/raw",
        params={"jobId": f"job-{size}", "callbackUrl": "http://127.0.0.1:9/x"},
        headers={"Authorization": f"Bearer {KEY}", "Postback-Tenant": tenant},
        content=b"x" * size,
        trust_env=False,
        timeout=WITHIN_S,
    ).status_code


@pytest.fixture
def half(tmp_path: Path) -> Iterator[Half]:
    with running("dispatcher", tmp_path, write_timeout=600, request_timeout=600) as half:
        yield half


def test_batches_that_do_not_arrive_leave_room_for_other_tenants(half: Half) -> None:
    """As many as fit for one tenant; its next one is told so, and another's largest submit goes."""
    with ExitStack() as stack:
        for _ in range(12):
            peer = stack.enter_context(half.connect())
            length = 16 * MIB
            try:
                peer.sendall(batch_head("evil", length) + b"\n" * (length - 1))
            except ConnectionError:  # it was refused while we were still sending
                continue
        assert submitted(half, "evil", MIB) == 503
        assert submitted(half, "good", MIB) == 202


def test_batches_whose_results_nobody_reads_are_bounded(half: Half) -> None:
    """Their bodies count until their results are sent."""
    body = LINE * 9_999
    before = half.rss_bytes()
    with ExitStack() as stack:
        answers = []
        for _ in range(12):
            peer = stack.enter_context(half.connect(receive_bytes=2_048))
            peer.sendall(batch_head("evil", len(body)) + body)
            answers.append(peer.recv(12))
        assert answers.count(b"HTTP/1.1 200") in (4, 5)
        assert answers.count(b"HTTP/1.1 503") == 12 - answers.count(b"HTTP/1.1 200")
        assert half.rss_bytes() - before < 200 * MIB
        assert submitted(half, "good", MIB) == 202


def test_a_refused_batch_is_forgotten(half: Half) -> None:
    """Its body is not kept by the error that it caused."""
    before = half.rss_bytes()
    for _ in range(12):
        refused = httpx.post(
            f"{half.url}/v1/callbacks/batch",
            content=b"\n" * 16 * MIB,
            headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/x-ndjson"},
            trust_env=False,
            timeout=WITHIN_S,
        )
        assert refused.status_code == 413
    assert half.rss_bytes() - before < 100 * MIB


def test_unsigned_bodies_of_one_address_leave_room_for_others(tmp_path: Path) -> None:
    """At the receiver nobody has vouched for a body before it is whole."""
    size = MIB
    with ExitStack() as stack:
        half = stack.enter_context(
            running("receiver", tmp_path, in_flight_bytes_max=8 * MIB, request_timeout=600)
        )
        for _ in range(16):
            peer = stack.enter_context(half.connect(source="127.0.0.2"))
            sent = request("/webhooks", b"x" * size)[:-1]
            peer.sendall(sent)
        body = b'{"jobId":"j","status":"completed","text":"%b"}' % (b"x" * (size - 100))
        answer = httpx.post(
            f"{half.url}/webhooks",
            content=body,
            headers=signed_request(body, SECRET),
            trust_env=False,
            timeout=WITHIN_S,
        )
        assert answer.json() == {"status": "accepted"}


def taken_alone(total: int, share: float) -> int:
    budget, taken = Budget(total, share), 0
    while budget.take(1, "one"):
        taken += 1
    return taken


@pytest.mark.parametrize(
    ("total", "share", "alone"),
    [(1, 0.75, 1), (2, 0.75, 2), (4, 0.75, 3), (40, 0.75, 30), (40, 0.5, 20), (40, 1.0, 40)],
)
def test_one_alone_gets_its_share(total: int, share: float, alone: int) -> None:
    """Of few, at least one more than a part of them would be."""
    assert taken_alone(total, share) == alone


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_each_gets_its_share_of_what_the_others_leave(share: float) -> None:
    """One after another; what is free is there for the next."""
    budget = Budget(10_000, share)
    for holder in range(4):
        left = 10_000 - budget.held
        count = 0
        while budget.take(1, holder):
            count += 1
        assert count == pytest.approx(left * share, abs=2)


def test_what_is_given_back_is_free_again() -> None:
    """And whoever holds nothing takes up nothing."""
    budget = Budget(10)
    assert budget.take(7, "a")
    assert not budget.take(4, "b")
    budget.give_back(7, "a")
    assert budget.take(10, "b")
    assert budget.held == 10
    budget.give_back(10, "b")
    assert budget._held == {}


def test_a_decision_about_a_share_is_plain() -> None:
    """It depends on what is held and what is free alone."""
    assert may_take(5, held=0, free=5, share=0.5)
    assert not may_take(6, held=0, free=5, share=1)
    assert not may_take(5, held=5, free=5, share=0.5)


@pytest.mark.parametrize(
    ("host", "site"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_who_has_one_address_of_a_network_has_them_all(host: str, site: str) -> None:
    """IPv6 networks of 64 bits are one peer."""
    assert site_of(host) == site
