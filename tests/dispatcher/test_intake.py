"""Accepting a callback without HTTP: one call, typed errors, and the fields' own rules."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from hashlib import sha256
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import ids
from dispatcher.access import Access
from dispatcher.intake import (
    Intake,
    Invalid,
    NotReady,
    PayloadTooLarge,
    Submission,
    custom_headers,
    destination_headers,
    from_wire,
    payload_status,
    read_policy,
)
from dispatcher.policy import PRESETS, load
from dispatcher.quotas import QueueFull, Quotas, StorageFull, queue_full
from dispatcher.settings import Settings
from dispatcher.store.errors import DestinationDisabled, KeyReused, StoreFull, StoreUnavailable
from dispatcher.store.requests import Usage
from dispatcher.values import SecretRef, Submitted
from dispatcher.wire import PolicyShape, Submit, policy_shape
from receiver.base.clock import now_ms
from receiver.base.completion import ends
from tests.dispatcher.engine.rig import Rig, rigged

URL = "http://127.0.0.1:9/hook"
SIGNATURE = "X-Webhook-Signature"
GIVEN = Submission(job_id="job-1", body=b'{"status":"completed"}', callback_url=URL)


@dataclass(slots=True)
class Door:
    """An intake on an engine and a store of its own."""

    rig: Rig
    access: Access
    intake: Intake

    async def accept(self, tenant: str = "acme", **changes: Any) -> Submitted:
        return await self.intake.accept(tenant, replace(GIVEN, **changes))

    def limited(self, **settings: Any) -> "Door":
        """The same with other settings."""
        return Door(self.rig, self.access, _intake(self.rig, self.access, **settings))


def _intake(rig: Rig, access: Access, **settings: Any) -> Intake:
    limits: Settings = replace(rig.settings, **settings)
    quotas = Quotas(limits, rig.store, access, rig.engine.drain_rate)
    return Intake(limits, access, quotas, rig.engine, rig.metrics)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with rigged(tmp_path, allow_networks=(ip_network("127.0.0.0/8"),)) as rig:
        access = Access(rig.store, rig.settings)
        await access.bootstrap()
        yield Door(rig, access, _intake(rig, access))


async def test_what_is_accepted_is_stored_and_delivered(door: Door) -> None:
    """One call: its bytes, its fields and its policy are kept, and it goes out."""
    policy = PolicyShape(attempts=2, delays=[1.5], acknowledge=[200])
    taken = await door.accept(
        job_status="completed",
        priority="high",
        tags={"team": "a"},
        policy=policy,
        headers={"X-Team": "a"},
    )
    assert (taken.job_id, taken.duplicate) == ("job-1", False)
    await door.rig.idle()
    [sent] = door.rig.script.sent
    assert (sent.id, sent.tenant, sent.body, sent.url) == (taken.id, "acme", GIVEN.body, URL)
    assert (sent.headers, sent.high) == ((("X-Team", "a"),), True)
    stored = await door.rig.get(taken.id)
    assert (stored.job_status, stored.tags) == ("completed", {"team": "a"})
    assert sent.policy == load(stored.policy)
    assert (sent.policy.attempts, sent.policy.delays) == (2, (1.5,))
    assert stored.payload_sha256 == sha256(GIVEN.body).digest()
    assert door.rig.figure("dispatcher_submits_total") == 1


async def test_a_tenant_comes_into_being_with_its_first_callback(door: Door) -> None:
    """With a signing secret of its own."""
    taken = await door.accept("newcomer")
    assert await door.rig.store.secrets("newcomer")
    assert (await door.rig.get(taken.id, "newcomer")).tenant == "newcomer"


@pytest.mark.parametrize("key", [None, "key-1"])
async def test_a_repeated_callback_is_answered_with_the_first(door: Door, key: str | None) -> None:
    """D12: by its idempotency key, or by job, status and destination."""
    first = await door.accept(idempotency_key=key)
    again = await door.accept(idempotency_key=key)
    assert (again.id, again.duplicate) == (first.id, True)


async def test_a_key_with_other_content_is_a_conflict(door: Door) -> None:
    """The error names the callback that came first."""
    first = await door.accept(idempotency_key="key-1")
    with pytest.raises(KeyReused) as caught:
        await door.accept(idempotency_key="key-1", body=b"2")
    assert caught.value.first_id == first.id


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"callback_url": None}, "callbackUrl"),
        ({"destination": "billing"}, "callbackUrl"),
        ({"callback_url": "ftp://example.com/"}, "callbackUrl"),
        ({"callback_url": "http://10.0.0.1/"}, "callbackUrl"),
        ({"callback_url": URL + "x" * 2_048}, "callbackUrl"),
        ({"callback_url": None, "destination": "par ked"}, "destination"),
        ({"callback_url": None, "destination": "unknown"}, "destination"),
        ({"job_id": ""}, "jobId"),
        ({"job_id": "j" * 201}, "jobId"),
        ({"job_id": "j\0"}, "jobId"),
        ({"job_id": "\ud800"}, "jobId"),
        ({"callback_url": URL + "\ud800"}, "callbackUrl"),
        ({"job_status": ""}, "jobStatus"),
        ({"job_status": "a\nb"}, "jobStatus"),
        ({"tags": {f"k{n}": "" for n in range(17)}}, "tags"),
        ({"tags": {"": "v"}}, "tags"),
        ({"tags": {"k": "v" * 257}}, "tags.k"),
        ({"content_type": "text/plain\r\nX: y"}, "Content-Type"),
        ({"idempotency_key": "a b"}, "Idempotency-Key"),
        ({"headers": {"Host": "x"}}, "headers.Host"),
        ({"policy": PolicyShape(attempts=1, acknowledge=[410])}, "policy.acknowledge"),
    ],
)
async def test_a_field_that_does_not_fit_is_named(
    door: Door, changes: dict[str, Any], field: str
) -> None:
    """Whoever hands it in: the limits are checked here, and nothing is stored."""
    with pytest.raises(Invalid) as caught:
        await door.accept(**changes)
    assert caught.value.field == field
    assert caught.value.reason
    assert not door.rig.store.queued()


async def test_a_payload_over_the_limit_is_not_taken(door: Door) -> None:
    """The limit is exact."""
    small = door.limited(payload_bytes_max=10)
    assert not (await small.accept(body=b"x" * 10)).duplicate
    with pytest.raises(PayloadTooLarge) as caught:
        await small.accept(body=b"x" * 11)
    assert caught.value.bytes_max == 10


async def test_nothing_is_taken_while_it_starts_or_stops(door: Door) -> None:
    """D7: and no tenant is made for it."""
    door.rig.engine.ready = False
    with pytest.raises(NotReady):
        door.intake.check_ready()
    with pytest.raises(NotReady):
        await door.accept("newcomer")
    assert "newcomer" not in [tenant.name for tenant in await door.rig.store.tenants()]


async def test_a_full_queue_says_when_to_come_back(door: Door) -> None:
    """The tenant's own queue with its size, the whole one with its limit alone (I9)."""
    door.rig.script.hold()
    for n in range(2):
        await door.accept(job_id=f"job-{n}")
    with pytest.raises(QueueFull) as caught:
        await door.limited(tenant_queue_max=2).accept(job_id="more")
    error = caught.value
    assert (error.queue_size, error.estimated_wait_s, error.retry_after_s) == (2, 86_400, 60)
    with pytest.raises(QueueFull) as caught:
        await door.limited(queue_max=1).accept("newcomer", job_id="more")
    assert caught.value.queue_size == 1


def test_the_estimated_wait_follows_the_measured_rate() -> None:
    """Ten a second drain a hundred in ten seconds; a queue that stands still has no better answer
    than the most we say."""
    moving = queue_full(100, over=1, drain_rate=10)
    assert (moving.queue_size, moving.estimated_wait_s, moving.retry_after_s) == (100, 10, 1)
    still = queue_full(100, over=1, drain_rate=0)
    assert (still.estimated_wait_s, still.retry_after_s) == (86_400, 60)


async def test_without_room_to_store_it_says_how_much_is_left(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the measured usage, or from the store itself."""

    async def full(*_: object, **__: object) -> None:
        raise StoreFull("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(door.rig.store, "submit", full)
        with pytest.raises(StorageFull):
            await door.accept()
    monkeypatch.setattr(door.rig.store, "usage", lambda: Usage(used_bytes=10, free_bytes=3))
    with pytest.raises(StorageFull) as caught:
        await door.accept()
    assert caught.value.remaining_bytes == 3
    assert caught.value.estimated_bytes > len(GIVEN.body)


async def test_the_stores_other_errors_are_the_callers_to_tell(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disabled destination, and a database that does not answer."""
    new = await door.accept()
    where = (await door.rig.get(new.id)).destination
    await door.rig.store.change_destination(
        "acme", where, {"disabled_reason": "by hand"}, now_ms=now_ms()
    )
    with pytest.raises(DestinationDisabled):
        await door.accept(job_id="job-2")

    async def down(*_: object, **__: object) -> None:
        raise StoreUnavailable("the database is locked")

    monkeypatch.setattr(door.rig.store, "submit", down)
    with pytest.raises(StoreUnavailable):
        await door.accept(job_id="job-3", callback_url=URL + "/other")


def test_a_json_documents_payload_keeps_its_bytes() -> None:
    """I5; and the job's status is the payload's unless it is named."""
    text = b'{"jobId":"j","callbackUrl":"u","payload":{ "status" : "failed", "n": 1.0 }}'
    given_ = from_wire(msgspec.json.decode(text, type=Submit), "key")
    assert given_.body == b'{ "status" : "failed", "n": 1.0 }'
    assert (given_.job_status, given_.idempotency_key) == ("failed", "key")
    for body in (b'["status"]', b'{"status":""}', b'{"status":null}', b"7", b"{}"):
        assert payload_status(body) == (None, True)


def test_a_status_that_is_no_text_ends_no_job() -> None:
    """D15: unknown; so it may be submitted again with another payload."""
    for body in (b'{"status":7}', b'{"status":true}', b'{"status":{"a":1}}', b'{"status":["x"]}'):
        assert payload_status(body) == (None, False)


@pytest.mark.parametrize(
    "body",
    [
        b'{"status":"%s"}' % (b"s" * 201),
        b'{"status":"completed","status":"failed"}',
        b'{"status":"completed","\\u0073tatus":"failed"}',
    ],
)
def test_a_status_that_says_nothing_or_two_things_is_refused_at_submit(body: bytes) -> None:
    """With the way out: a jobStatus beside the payload."""
    with pytest.raises(Invalid, match="jobStatus beside") as caught:
        payload_status(body)
    assert caught.value.field == "payload.status"
    shape = Submit(job_id="j", payload=msgspec.Raw(body), callback_url="u", job_status="failed")
    assert from_wire(shape, None).job_status == "failed"


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-length",
        "Content-Type",
        "Transfer-Encoding",
        "Connection",
        "Keep-Alive",
        "TE",
        "Upgrade",
        "User-Agent",
        "webhook-id",
        "Svix-Id",
        "Webhook-Anything",
        "X-Postback-Attempt",
        "X-Webhook-Signature",
        "x-webhook-signature-previous",
        "Proxy-Authorization",
        "",
        "a b",
        "a\r\nb",
        "a:b",
        "é",
        "x" * 65,
    ],
)
def test_a_header_that_is_not_the_callers_to_set_is_refused(name: str) -> None:
    """Framing, connection and signature headers stay ours; names are tokens."""
    with pytest.raises(Invalid):
        custom_headers({name: "v"}, SIGNATURE)


@pytest.mark.parametrize(
    "value", ["a\r\nb", "a\nb", "a\0b", "€", "blüe", " a", "a ", "x" * 2_049, "\x7f"]
)
def test_a_header_value_that_could_break_the_message_is_refused(value: str) -> None:
    """No control characters, nothing beyond ASCII; and the error does not repeat it."""
    with pytest.raises(Invalid) as caught:
        custom_headers({"X-Team": value}, SIGNATURE)
    assert (caught.value.field, caught.value.value) == ("headers.X-Team", None)


def test_ordinary_headers_pass_as_they_are() -> None:
    """Order and case are kept; sixteen fit."""
    given_headers = {f"X-Team-{n}": "blue; q=1" for n in range(16)}
    assert custom_headers(given_headers, SIGNATURE) == tuple(given_headers.items())
    assert custom_headers({"Authorization": ""}, SIGNATURE) == (("Authorization", ""),)
    for many in ({**given_headers, "X-More": "1"}, {"X-A": "1", "x-a": "2"}):
        with pytest.raises(Invalid):
            custom_headers(many, SIGNATURE)


def test_a_policy_says_what_being_turned_away_costs_and_which_codes_are_tried_again() -> None:
    text = b'{"attempts":2,"turnedAway":"try","retry":[500,404]}'
    stored, policy = read_policy(msgspec.json.decode(text, type=PolicyShape))
    assert policy is not None
    assert policy == load(stored)
    assert (policy.turned_away, policy.retry) == ("try", frozenset({404, 500}))
    shown = msgspec.json.decode(msgspec.json.encode(policy_shape(policy)))
    assert (shown["turnedAway"], shown["retry"]) == ("try", [404, 500])
    _, default = read_policy(PolicyShape(attempts=1))
    assert default is not None
    assert (default.turned_away, default.retry) == ("free", "all")
    _, lost_alone = read_policy(PolicyShape(attempts=1, retry=[]))
    assert lost_alone is not None
    assert not lost_alone.retries(503)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_shown_in_the_contracts_shape_and_reads_back_the_same(name: str) -> None:
    """What the API shows for a policy can be given to it again, and means the same."""
    shown = msgspec.json.encode(policy_shape(PRESETS[name]))
    stored, again = read_policy(msgspec.json.decode(shown, type=PolicyShape))
    assert again == load(stored) == PRESETS[name]
    assert b"null" not in shown


@pytest.mark.parametrize(
    "text",
    [
        '{"attempts":0}',
        '{"attempts":51}',
        '{"attempts":1.5}',
        '{"attempts":1,"delays":[]}',
        '{"attempts":1,"delays":[604801]}',
        '{"attempts":1,"exponential":{"base":0,"factor":2,"cap":1}}',
        '{"attempts":1,"exponential":{"base":1,"factor":2}}',
        '{"attempts":1,"delays":[1],"exponential":{"base":1,"factor":2,"cap":1}}',
        '{"attempts":1,"jitter":1.1}',
        '{"attempts":1,"timeout":0.05}',
        '{"attempts":1,"timeout":61}',
        '{"attempts":1,"acknowledge":[]}',
        '{"attempts":1,"acknowledge":[199]}',
        '{"attempts":1,"acknowledge":[200,410]}',
        '{"attempts":1,"acknowledge":"3xx"}',
        '{"attempts":1,"turnedAway":"maybe"}',
        '{"attempts":1,"retry":"none"}',
        '{"attempts":1,"retry":[199]}',
        '{"attempts":1,"retry":[404,410]}',
        '{"attempts":1,"retry":null}',
        '{"attempts":1,"maxAge":0}',
        '{"attempts":1,"maxAge":2592001}',
        '{"attempts":1,"delays":null}',
        '{"attempts":1,"unknown":1}',
    ],
)
def test_a_policy_outside_its_limits_is_refused(text: str) -> None:
    """Every bound of the policy object holds."""
    with pytest.raises((Invalid, msgspec.ValidationError)):
        read_policy(msgspec.json.decode(text, type=PolicyShape))


@pytest.mark.parametrize(
    "status",
    [
        "completed",
        "COMPLETED",
        "Failed",
        "cancelled",
        "CANCELED",
        "timeout",
        "TIMED_OUT",
        "timed-out",
        "succeeded",
        "error",
        "OK",
    ],
)
def test_an_end_is_known_however_the_platform_writes_it(status: str) -> None:
    """D12: terminal statuses, in the founding platforms' spellings."""
    assert ends(status)
    assert not ends("IN_PROGRESS")
    assert not ends("who knows")
    assert ends(None)


def test_progress_may_repeat_and_an_end_may_not() -> None:
    """D12: only a non-terminal status adds the payload to the key."""

    def key(status: str | None, payload: bytes) -> bytes:
        return ids.natural_key("t", "j", status, "ds", payload, is_end=ends(status))

    assert key("completed", b"1") == key("completed", b"2")
    assert key(None, b"1") == key(None, b"2")
    assert key("running", b"1") != key("running", b"2")
    assert key("completed", b"1") != key("failed", b"1")


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=4),
        min_size=2,
        max_size=2,
    )
)
def test_keys_of_different_tenants_never_meet(parts: list[str]) -> None:
    """I9: the tenant is part of the digest, and no two lists of parts read the same."""
    tenant, key = parts
    assert ids.explicit_key(tenant, key) != ids.explicit_key(tenant + "x", key)
    if key:
        assert ids.explicit_key(tenant, key) != ids.explicit_key(tenant + key, "")


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("secret:crm", SecretRef("crm")),
        ("Bearer secret:crm", SecretRef("crm", "Bearer ")),
        ("Token \t secret:a.b_c-9", SecretRef("a.b_c-9", "Token \t ")),
        ("secret::crm", "secret:crm"),
        ("Bearer secret::crm", "Bearer secret:crm"),
        ("a, b=secret::x; secret:::", "a, b=secret:x; secret::"),
        ("client_secret:crm", "client_secret:crm"),
        ("my-secret:crm", "my-secret:crm"),
        ("secretly: no", "secretly: no"),
        ("top secret", "top secret"),
        ("", ""),
    ],
)
def test_a_header_says_whether_it_names_a_stored_secret(value: str, read: object) -> None:
    """One rule, and a way to write each text there is."""
    assert destination_headers({"X-Key": value}, SIGNATURE) == (("X-Key", read),)


@pytest.mark.parametrize(
    "value",
    [
        "secret:",
        "secret: crm",
        "secret:crm and more",
        "secret:crm,",
        "secret:-crm",
        "secret:" + "x" * 65,
        "two words secret:crm",
        "token=secret:crm",
        "Basic user:secret:crm",
        "secret:crm secret:crm",
        "secret::crm secret:crm",
        "SHA secret:crm;secret::x",
    ],
)
def test_what_may_be_meant_to_name_one_is_not_sent_as_it_is(value: str) -> None:
    with pytest.raises(Invalid) as caught:
        destination_headers({"X-Key": value}, SIGNATURE)
    assert (caught.value.field, caught.value.value) == ("headers.X-Key", None)
    assert "secret::" in caught.value.reason


def test_who_submits_names_no_stored_secret() -> None:
    """Nor can it come through unread; a literal is what it says."""
    assert custom_headers({"X-Key": "secret::crm"}, SIGNATURE) == (("X-Key", "secret:crm"),)
    with pytest.raises(Invalid) as caught:
        custom_headers({"X-Key": "secret:crm"}, SIGNATURE)
    assert caught.value.field == "headers.X-Key"
