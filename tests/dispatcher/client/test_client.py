"""The client against a real service on a real socket."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from dispatcher.client import (
    AsyncClient,
    Client,
    Conflict,
    NotFound,
    Submission,
    Unauthorized,
    ValidationFailed,
    WaitTimeout,
)
from tests.dispatcher.client.running import ADMIN_KEY, Running

ONCE = {"attempts": 1}


def test_a_submitted_callback_is_waited_for_until_it_is_delivered(
    client: Client, service: Running
) -> None:
    """submit, wait, get, attempts and payload tell one story, in typed values."""
    made = client.submit(
        "job_1",
        {"status": "completed", "text": "é"},
        callback_url=service.hook(200),
        tags={"team": "a"},
        priority="high",
    )
    assert not made.duplicate
    done = client.wait(made.id, timeout=10)
    assert (done.status, done.job_id, done.job_status) == ("delivered", "job_1", "completed")
    assert done.final
    assert done.tags == {"team": "a"}
    assert done.delivered_at is not None
    assert done.delivered_at >= done.created_at > datetime.now(UTC) - timedelta(minutes=1)
    (attempt,) = client.attempts(made.id)
    assert attempt.status_code == 200
    payload = client.payload(made.id)
    assert payload.body == '{"status":"completed","text":"é"}'.encode()
    assert payload.content_type == "application/json"


def test_bytes_of_a_payload_travel_as_they_are(client: Client, service: Running) -> None:
    """A payload given as bytes keeps its spaces, key order and number forms (I5)."""
    body = b'{"b": 1.50,  "a": [1e3]}'
    made = client.submit("job_1", body, callback_url=service.hook(200))
    assert client.payload(made.id).body == body
    raw = client.submit_raw(
        "job_2", b"\x00\xff", content_type="image/png", callback_url=service.hook(200)
    )
    assert client.payload(raw.id).body == b"\x00\xff"
    assert client.payload(raw.id).content_type == "image/png"


def test_a_run_and_the_time_not_to_be_sent_before_go_with_each_way_to_submit(
    client: Client, service: Running
) -> None:
    """As seconds, as a time with a zone, or in UTC without."""
    to: Any = {"callback_url": service.hook(200)}
    later = datetime.now(UTC) + timedelta(hours=1)
    made = [
        client.submit("j", 1, **to, run=1, not_before=3_600),
        client.submit("j", 1, **to, run=2, not_before=later),
        client.submit("j", 1, **to, run=3, not_before=later.replace(tzinfo=None)),
        client.submit("j", 1, **to, run=4, not_before=later.isoformat()),
        client.submit_raw("j", b"1", content_type="text/plain", **to, run=5, not_before=later),
        client.submit_raw("j", b"1", content_type="text/plain", **to, run=6, not_before=0.5e4),
    ]
    many = [Submission(job_id="j", payload=1, **to, run=7, not_before=later)]
    made += [line.submitted for line in client.submit_many(many) if line.submitted is not None]
    shown = [client.get(one.id) for one in made]
    assert [one.run for one in shown] == [1, 2, 3, 4, 5, 6, 7]
    for one in shown:
        assert one.next_attempt_at is not None
        assert one.next_attempt_at > datetime.now(UTC) + timedelta(minutes=50)


def test_a_repeated_submit_answers_with_the_first(client: Client, service: Running) -> None:
    """The default key makes a second submit a duplicate; an explicit key with other content is a
    conflict."""
    first = client.submit("job_1", [1], callback_url=service.hook(200))
    again = client.submit("job_1", [1], callback_url=service.hook(200))
    assert again.duplicate
    assert again.id == first.id
    client.submit("job_2", [1], callback_url=service.hook(200), idempotency_key="k")
    with pytest.raises(Conflict) as raised:
        client.submit("job_2", [2], callback_url=service.hook(200), idempotency_key="k")
    assert raised.value.code == "IDEMPOTENCY_CONFLICT"
    assert raised.value.request_id


def test_many_are_submitted_in_order_and_a_bad_one_is_a_value(
    client: Client, service: Running
) -> None:
    """submit_many yields a result per item, in order, over several batches, and goes on after a
    bad one."""
    items: list[Submission | bytes] = [
        Submission(job_id=f"job_{n}", payload={"n": n}, callback_url=service.hook(200))
        for n in range(1_200)
    ]
    items[700] = b'{"jobId": "x"}'
    items[701] = b"nonsense"
    results = list(client.submit_many(items))
    assert [result.n for result in results] == list(range(1, 1_201))
    assert isinstance(results[700].error, ValidationFailed)
    assert results[700].submitted is None
    error = results[701].error
    assert error is not None
    assert error.code == "MALFORMED_JSON"
    taken = [result.submitted for result in results if result.submitted is not None]
    assert [made.job_id for made in taken] == [
        f"job_{n}" for n in range(1_200) if n not in (700, 701)
    ]


def test_a_history_is_whole_however_many_pages_it_takes() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        n = int(request.url.params.get("cursor", "1"))
        one = {
            "n": n,
            "startedAt": "2026-01-01T00:00:00Z",
            "durationMs": 1.5,
            "outcome": "timeout",
            "statusCode": None,
            "error": None,
            "excerpt": None,
        }
        return httpx.Response(
            200, json={"data": [one], "nextCursor": f"{n + 1}" if n < 3 else None}
        )

    with Client("http://postback.test", "k", transport=httpx.MockTransport(answer)) as client:
        assert [one.n for one in client.attempts("cb_1")] == [1, 2, 3]


def test_a_listing_goes_through_its_pages(client: Client, service: Running) -> None:
    """list() yields every match over pages, newest first, and filters at the service."""
    lines: list[Submission | bytes] = [
        Submission(
            job_id=f"job_{n}",
            payload=n,
            callback_url=service.hook(200),
            tags={"half": str(n % 2)},
        )
        for n in range(120)
    ]
    assert all(result.error is None for result in client.submit_many(lines))
    found = list(client.list())
    assert len(found) == 120
    assert [one.id for one in found] == sorted((one.id for one in found), reverse=True)
    assert len(list(client.list(tags={"half": "1"}))) == 60
    assert [one.job_id for one in client.list(job_id="job_7")] == ["job_7"]
    future = datetime.now(UTC) + timedelta(hours=1)
    assert list(client.list(since=future)) == []
    assert len(list(client.list(until=future, priority="normal"))) == 120


def test_a_dead_callback_is_previewed_replayed_and_watched(
    client: Client, service: Running
) -> None:
    """preview_replay changes nothing; start_replay and watch_replay bring it to its end."""
    made = client.submit("job_1", 1, callback_url=service.hook(503), policy=ONCE)
    assert client.wait(made.id).status == "dead"
    preview = client.preview_replay({"status": "dead"})
    assert (preview.matched, [one.id for one in preview.sample]) == (1, [made.id])
    assert client.get(made.id).status == "dead"
    replay = client.start_replay({"status": "dead", "error": "http_503"}, rate_per_second=50)
    last = list(client.watch_replay(replay.id))[-1]
    assert (last.state, last.matched, last.replayed, last.skipped) == ("done", 1, 1, 0)
    assert client.wait(made.id).attempts == 2
    assert client.replay(made.id).status == "pending"
    assert client.wait(made.id).attempts == 3
    with pytest.raises(Conflict):
        client.cancel_replay(replay.id)


def test_a_wait_that_is_too_short_says_so(client: Client, service: Running) -> None:
    """WaitTimeout names the state; the callback stays on its way and can be cancelled."""
    made = client.submit("job_1", 1, callback_url=service.hook(503), policy={"attempts": 2})
    with pytest.raises(WaitTimeout, match=f"{made.id} is still (pending|sending)"):
        client.wait(made.id, timeout=0.2)
    client.cancel(made.id)
    assert client.wait(made.id, timeout=5).status == "cancelled"
    with pytest.raises(Conflict):
        client.cancel(made.id)


def test_destinations_are_registered_changed_tested_and_removed(
    client: Client, service: Running
) -> None:
    """The life of a destination; its secret is in the first answer only, and in no repr."""
    made = client.register_destination("billing", service.hook(200), concurrency=3)
    assert made.secret is not None
    assert made.secret not in repr(made)
    changed = client.change_destination("billing", {"paused": True, "ratePerSecond": 5})
    assert (changed.paused, changed.rate_per_second, changed.concurrency) == (True, 5, 3)
    assert client.change_destination("billing", {"concurrency": None}).concurrency is None
    assert client.test_destination("billing").status_code == 200
    assert [one.name for one in client.destinations()] == ["billing"]
    with pytest.raises(Conflict):
        client.register_destination("billing", service.hook(200))
    client.remove_destination("billing")
    with pytest.raises(NotFound):
        client.get_destination("billing")


def test_keys_secrets_tenants_and_figures(client: Client, service: Running, tenant: str) -> None:
    """What an admin needs; a made key works at once and a revoked one no longer."""
    client.submit("job_1", 1, callback_url=service.hook(200))
    assert tenant in [one.name for one in client.tenants()]
    key = client.create_key(["read"], tenant=tenant, label="test")
    assert key.key not in repr(key)
    listed = list(client.keys())
    assert key.id in [one.id for one in listed]
    with Client(service.url, key.key) as reader:
        assert sum(reader.stats().counts.values()) == 1
        client.revoke_key(key.id)
        with pytest.raises(Unauthorized):
            reader.stats()
    (before,) = client.secrets()
    shown = client.reveal_secret()
    assert shown.id == before.id
    assert shown.secret not in repr(shown)
    rotated = client.rotate_secret(overlap_s=60)
    assert rotated.secret != shown.secret
    with pytest.raises(Conflict):
        client.rotate_secret()
    client.rotate_secret(force=True)
    stored = client.store_secret("crm", "test-secret-of-a-header")
    assert (stored.name, stored.uses) == ("crm", 0)
    assert list(client.stored_secrets()) == [stored]
    client.register_destination("crm", service.hook(200), headers={"X-Key": "secret:crm"})
    with pytest.raises(Conflict):
        client.forget_secret("crm")
    client.forget_secret("crm", force=True)
    assert list(client.stored_secrets()) == []
    assert client.stats(all_tenants=True).counts["delivered"] >= 0


async def test_the_asyncio_client_does_the_same(service: Running, tenant: str) -> None:
    """AsyncClient shares every call; its lists are iterated with `async for`."""

    async def items() -> AsyncIterator[Submission | bytes]:
        for n in range(60):
            yield Submission(job_id=f"job_{n}", payload=n, callback_url=service.hook(200))

    async with AsyncClient(service.url, ADMIN_KEY, tenant=tenant) as client:
        made = await client.submit("job_x", {"a": 1}, callback_url=service.hook(200))
        assert (await client.wait(made.id, timeout=10)).status == "delivered"
        results = [result async for result in client.submit_many(items())]
        assert [result.n for result in results] == list(range(1, 61))
        assert len([one async for one in client.list()]) == 61
        assert [one.name async for one in client.destinations()] == [None]
        replay = await client.start_replay({"status": "delivered", "job_id": "job_x"})
        states = [one.state async for one in client.watch_replay(replay.id)]
        assert states[-1] == "done"
        with pytest.raises(NotFound):
            await client.get("cb_unknown")
        slow = await client.submit("s", 1, callback_url=service.hook(503), policy={"attempts": 2})
        with pytest.raises(WaitTimeout):
            await client.wait(slow.id, timeout=0.1)


def test_the_audit_trail_is_listed_with_the_reasons_that_were_given(client: Client) -> None:
    """A reason may be any text of bounded length; what is none is refused before it is sent."""
    client.register_destination("billing", "http://127.0.0.1:9/", reason="new: Zoë")
    client.change_destination("billing", {"paused": True}, reason="ticket 4711")
    client.remove_destination("billing")
    found = list(client.audit(since=datetime.now(UTC) - timedelta(minutes=1)))
    assert [(one.action, one.reason) for one in found] == [
        ("destination.remove", None),
        ("destination.pause", "ticket 4711"),
        ("destination.register", "new: Zoë"),
        ("tenant.create", "new: Zoë"),
    ]
    assert found[0].at >= found[1].at > datetime.now(UTC) - timedelta(minutes=1)
    (paused,) = client.audit(action="destination.pause", target=found[0].target or "")
    assert paused == found[1]
    page = client.audit_page({"actor": found[0].actor}, limit=2)
    assert page.data == found[:2]
    assert page.next_cursor is not None
    assert any(one.tenant is None for one in client.audit(all_tenants=True))
    for reason in ("x" * 501, "two\nlines"):
        with pytest.raises(ValueError, match="reason"):
            client.revoke_key("key_1", reason=reason)
    for wrong in ({"who": "me"}, {"since": 5}, {"action": None}, {"all_tenants": "yes"}):
        with pytest.raises(ValueError, match="filter"):
            client.audit(**wrong)
