"""Retention: what is done with goes in time; what waits or is dead never does."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from receiver import Event, Receiver, Settings
from receiver.testing import Client, Clock

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
ADMIN = {"Authorization": "Bearer test-admin-key-of-tests"}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    settings = Settings(
        secrets=(SECRET,),
        database_url=f"sqlite:///{tmp_path}/inbox.db",
        admin_key="test-admin-key-of-tests",
        handler_attempts=1,
        handler_retry_base=86_400,
    )
    clock = Clock()
    receiver = Receiver(settings, now_ms=clock)

    @receiver.on("completed", "failed")
    def handler(event: Event) -> None:
        if event.job_id.startswith("bad"):
            raise RuntimeError

    async with Client(receiver, SECRET, clock=clock) as opened:
        yield opened


def done(id: str, status: str = "completed") -> dict[str, str]:
    return {"jobId": id, "status": status}


async def test_bodies_go_first_then_messages_and_dead_ones_stay(client: Client) -> None:
    """30 days and 120; a copy is known as one until then, and new afterwards."""
    payloads = [done("good"), done("good", "failed"), done("seen", "running"), done("bad")]
    for payload in payloads:
        await client.send(payload)
    await client.advance(timedelta(days=31))
    assert await client.receiver.prune() == (3, 0)
    shown = await client.receiver.inbox.show(1)
    assert shown is not None
    assert (shown.body, shown.body_bytes > 0) == (None, True)
    assert await client.send(done("good")) == "duplicate"
    answer = await client._http.get("/inbox/1", headers=ADMIN)
    assert "body" not in answer.json()
    assert await client.receiver.replay(3) is False
    await client.advance(timedelta(days=90))
    assert await client.receiver.prune() == (0, 3)
    (kept,) = (await client.receiver.inbox.page()).messages
    assert (kept.job_id, kept.state) == ("bad", "dead")
    assert (await client.receiver.inbox.show(4)) is not None
    assert await client.send(done("good")) == "accepted"


async def test_what_waits_is_kept_whatever_its_age(client: Client, tmp_path: Path) -> None:
    """A message whose handler has failed for a hundred days."""
    settings = replace(
        client.receiver.settings,
        database_url=f"sqlite:///{tmp_path}/b.db",
        handler_attempts=9,
        handler_retry_cap=7 * 86_400,
    )
    clock = Clock()
    receiver = Receiver(settings, now_ms=clock)

    @receiver.on("*")
    def handler(event: Event) -> None:
        raise RuntimeError

    async with Client(receiver, SECRET, clock=clock) as other:
        await other.send(done("waits"))
        await other.advance(timedelta(days=100))
        assert await other.receiver.prune(0) == (0, 0)
        (kept,) = (await receiver.inbox.page()).messages
        assert (kept.state, kept.attempts) == ("pending", 2)


async def test_prune_by_command_and_in_slices(client: Client) -> None:
    """More than a slice holds; the file gives space back."""
    body = "x" * 20_000
    for n in range(450):
        await client.send({**done(f"job_{n}", "running"), "output": body})
    await client.advance(timedelta(seconds=10))
    answer = await client._http.post("/inbox/prune?olderThan=5", headers=ADMIN)
    assert answer.json() == {"bodies": 450, "messages": 450}
    assert (await client.receiver.inbox.page()).messages == []


async def test_settled_expectations_go_with_their_time(client: Client) -> None:
    """One that is still waited for stays."""
    await client.send(done("known"))
    for id in ("known", "waits"):
        await client.receiver.expect(id, "http://127.0.0.1:1/", by=timedelta(days=300))
    await client.advance(timedelta(days=121))
    await client.receiver.prune()
    left = await client.receiver.inbox.expectations(state=None, limit=10)
    assert [one.job_id for one in left] == ["waits"]


async def test_the_metrics_are_prometheus_text_and_count_what_happened(client: Client) -> None:
    """Every figure, with labels of ours alone."""
    for payload in (done("a"), done("a"), done("a", "failed"), done("a", "running"), done("bad")):
        await client.send(payload)
    await client.post(b"{}", headers={"x-webhook-signature": "sha256=no"})
    await client.post(b"{")
    await client.idle()
    answer = await client._http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = set(answer.text.splitlines())
    assert lines >= {
        'receiver_received_total{verdict="accepted"} 3',
        'receiver_received_total{verdict="duplicate"} 1',
        'receiver_received_total{verdict="conflict"} 1',
        'receiver_received_total{verdict="late"} 1',
        'receiver_refused_total{reason="malformed"} 1',
        'receiver_attempts_total{outcome="handled"} 1',
        "receiver_unknown_total 1",
        'receiver_attempts_total{outcome="dead"} 1',
        'receiver_messages{state="dead"} 1',
        "receiver_unclaimed_total 0",
        'receiver_messages{state="pending"} 0',
        "receiver_oldest_unhandled_seconds 0",
    }
    from prometheus_client.parser import text_string_to_metric_families

    families = list(text_string_to_metric_families(answer.text))
    assert len(families) == 17
