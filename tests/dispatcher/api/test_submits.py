"""`POST /v1/callbacks` and its raw form: what is taken, refused, or the same again."""

import asyncio
import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.settings import Settings
from dispatcher.store.errors import StoreFull, StoreUnavailable
from dispatcher.store.requests import Usage
from receiver.base.clock import parse_iso
from tests.dispatcher.api.talk import ADMIN_KEY, connect, reject

BOTH_SCHEDULES = {
    "attempts": 1,
    "delays": [1],
    "exponential": {"base": 1, "factor": 1, "cap": 1},
}
MEDIA, LARGE = "UNSUPPORTED_MEDIA_TYPE", "PAYLOAD_TOO_LARGE"
AS_JSON = {"Content-Type": "application/json"}
SUBMIT: dict[str, Any] = {"jobId": "job_1", "destination": "parked", "payload": {"n": 1}}


async def test_a_submit_answers_202_with_a_location_that_shows_it(
    api: httpx.AsyncClient, parked: str
) -> None:
    """The contract's answer: id, jobId, status, createdAt, duplicate, and Location."""
    taken = await api.post("/v1/callbacks", json=SUBMIT)
    assert taken.status_code == 202
    body = taken.json()
    assert set(body) == {"id", "jobId", "status", "createdAt", "duplicate"}
    assert (body["jobId"], body["status"], body["duplicate"]) == ("job_1", "pending", False)
    assert body["id"].startswith("cb_")
    assert body["createdAt"].endswith("Z")
    assert taken.headers["Location"] == f"/v1/callbacks/{body['id']}"
    assert (await api.get(taken.headers["Location"])).json()["jobId"] == "job_1"


async def test_a_fresh_submit_is_pending_even_when_it_was_handed_straight_over(
    api: httpx.AsyncClient,
) -> None:
    """The contract says `pending`, whether or not its first attempt has begun (D6)."""
    taken = await api.post(
        "/v1/callbacks",
        json={"jobId": "j", "callbackUrl": "http://127.0.0.1:9/hook", "payload": 1},
    )
    assert (taken.status_code, taken.json()["status"]) == (202, "pending")


async def test_i5_the_payload_is_kept_byte_for_byte(api: httpx.AsyncClient, parked: str) -> None:
    """I5: what is stored are the payload's bytes as they stood in the request."""
    payload = rb'{ "a":1.0,   "b" : "\u00e9", "status":"completed" }'
    body = b'{"jobId":"j","destination":"parked", "payload":  ' + payload + b"  }"
    taken = await api.post(
        "/v1/callbacks", content=body, headers={"Content-Type": "application/json; charset=UTF-8"}
    )
    shown = await api.get(taken.headers["Location"])
    stored = await api.get(f"{taken.headers['Location']}/payload")
    assert stored.content == payload
    assert stored.headers["Content-Type"] == "application/json"
    assert stored.headers["X-Payload-Sha256"] == sha256(payload).hexdigest()
    assert shown.json()["payloadSize"] == len(payload)
    assert shown.json()["payloadSha256"] == sha256(payload).hexdigest()


async def test_the_jobs_status_is_the_payloads_unless_it_is_named(
    api: httpx.AsyncClient, parked: str
) -> None:
    """`jobStatus` defaults to `payload.status` where that is a string."""
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({"payload": {"status": "failed"}}, "failed"),
        ({"payload": {"status": "failed"}, "jobStatus": "completed"}, "completed"),
        ({"payload": {"status": 7}}, None),
        ({"payload": {"status": ""}}, None),
        ({"payload": ["status"]}, None),
        ({"payload": {}}, None),
    ]
    for n, (fields, expected) in enumerate(cases):
        taken = await api.post("/v1/callbacks", json={**SUBMIT, "jobId": f"job_{n}", **fields})
        shown = await api.get(taken.headers["Location"])
        assert shown.json()["jobStatus"] == expected


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"jobId": ""}, "jobId"),
        ({"jobId": "x" * 201}, "jobId"),
        ({"jobId": "a\0b"}, "jobId"),
        ({"jobId": "a\nb"}, "jobId"),
        ({"jobStatus": "a\0b"}, "jobStatus"),
        ({"payload": {"status": "a\0b"}}, "jobStatus"),
        ({"payload": {"status": "x" * 201}}, "payload.status"),
        ({"tags": {"a\0": "b"}}, "tags"),
        ({"tags": {"a": "b\0"}}, "tags.a"),
        ({"tags": {"k" * 65: "v"}}, "tags"),
        ({"tags": {"k": "v" * 257}}, "tags"),
        ({"tags": {f"k{n}": "v" for n in range(17)}}, "tags"),
        ({"priority": "low"}, "priority"),
        ({"policy": "nope"}, "policy"),
        ({"policy": BOTH_SCHEDULES}, "policy"),
        ({"headers": {"Host": "x"}}, "headers.Host"),
        ({"callbackUrl": "http://127.0.0.1/x"}, "callbackUrl"),
        ({"destination": None}, "callbackUrl"),
        ({"destination": "no such name!"}, "destination"),
        ({"destination": "unregistered"}, "destination"),
        ({"destination": None, "callbackUrl": "ftp://example.com/"}, "callbackUrl"),
        ({"destination": None, "callbackUrl": "http://10.0.0.1/"}, "callbackUrl"),
        ({"destination": None, "callbackUrl": "http://[::1]/"}, "callbackUrl"),
        ({"destination": None, "callbackUrl": "http://u:pa55@example.com/"}, "callbackUrl"),
        ({"destination": None, "callbackUrl": "http://a\0b/"}, "callbackUrl"),
        ({"destination": None, "callbackUrl": "http://" + "a" * 3_000}, "callbackUrl"),
        ({"status": "x"}, "status"),
    ],
)  # fmt: skip
async def test_a_wrong_field_is_named_and_nothing_is_changed(
    api: httpx.AsyncClient, parked: str, fields: dict[str, Any], field: str
) -> None:
    """422 with the field's path; afterwards there is no callback."""
    details = reject(await api.post("/v1/callbacks", json=SUBMIT | fields), 422, "VALIDATION_ERROR")
    assert details["field"] == field
    assert "pa55" not in json.dumps(details)
    assert (await api.get("/v1/callbacks")).json()["data"] == []


async def test_the_same_submit_again_is_a_duplicate(api: httpx.AsyncClient, parked: str) -> None:
    """D12: 200, the first one's id, `duplicate`."""
    first = await api.post("/v1/callbacks", json=SUBMIT)
    again = await api.post("/v1/callbacks", json=SUBMIT)
    assert again.status_code == 200
    assert again.json() == first.json() | {"duplicate": True}
    assert again.headers["Location"] == first.headers["Location"]


async def test_the_same_job_with_other_bytes_is_a_conflict(
    api: httpx.AsyncClient, parked: str
) -> None:
    """D12: 409 that names the first one."""
    first = await api.post("/v1/callbacks", json=SUBMIT)
    other = await api.post("/v1/callbacks", json=SUBMIT | {"payload": {"n": 2}})
    assert reject(other, 409, "IDEMPOTENCY_CONFLICT") == {"firstId": first.json()["id"]}


async def test_progress_of_a_job_may_come_again_and_again(
    api: httpx.AsyncClient, parked: str
) -> None:
    """D12: a non-terminal status adds the payload to the key."""
    ids = set()
    for percent in (10, 20, 30):
        payload = {"status": "running", "progress": percent}
        ids.add((await api.post("/v1/callbacks", json=SUBMIT | {"payload": payload})).json()["id"])
    assert len(ids) == 3


async def test_an_idempotency_key_decides_by_itself(api: httpx.AsyncClient, parked: str) -> None:
    """D12: the header replaces the natural key, in both directions."""
    one = {"Idempotency-Key": "one"}
    first = await api.post("/v1/callbacks", json=SUBMIT, headers=one)
    other_key = await api.post("/v1/callbacks", json=SUBMIT, headers={"Idempotency-Key": "two"})
    assert (first.status_code, other_key.status_code) == (202, 202)
    assert (await api.post("/v1/callbacks", json=SUBMIT, headers=one)).status_code == 200
    changed = await api.post("/v1/callbacks", json=SUBMIT | {"jobId": "job_2"}, headers=one)
    reject(changed, 409, "IDEMPOTENCY_CONFLICT")


@pytest.mark.parametrize("key", [b"", b"a b", b"x" * 256, b"\xe9", b"\x7f"])
async def test_an_idempotency_key_out_of_shape_is_refused(
    api: httpx.AsyncClient, parked: str, key: bytes
) -> None:
    """1 to 255 visible ASCII characters."""
    answer = await api.post("/v1/callbacks", json=SUBMIT, headers=[(b"Idempotency-Key", key)])
    assert reject(answer, 422, "VALIDATION_ERROR")["field"] == "Idempotency-Key"


async def test_a_header_that_decides_something_cannot_come_twice(
    api: httpx.AsyncClient, parked: str
) -> None:
    """400 instead of a guess."""
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    reject(await api.post("/v1/callbacks", json=SUBMIT, headers=twice), 400, "BAD_REQUEST")


async def test_a_raw_body_is_taken_as_it_is(api: httpx.AsyncClient, parked: str) -> None:
    """Any bytes and any content type; everything else stands in the query."""
    body = bytes(range(256))
    taken = await api.post(
        "/v1/callbacks/raw",
        params={"jobId": "j", "destination": "parked", "jobStatus": "completed",
                "priority": "high", "policy": "runpod", "tag.team": "a", "tag.": "x"} | {},
        content=body,
        headers={"Content-Type": "image/png"},
    )  # fmt: skip
    assert reject(taken, 422, "VALIDATION_ERROR")["field"] == "tag"
    taken = await api.post(
        "/v1/callbacks/raw",
        params={"jobId": "j", "destination": "parked", "jobStatus": "completed",
                "priority": "high", "policy": "runpod", "tag.team": "a"},
        content=body,
        headers={"Content-Type": "image/png"},
    )  # fmt: skip
    assert taken.status_code == 202, taken.text
    shown = (await api.get(taken.headers["Location"])).json()
    assert (shown["jobStatus"], shown["priority"], shown["tags"]) == (
        "completed",
        "high",
        {"team": "a"},
    )
    assert shown["policy"]["acknowledge"] == [200]
    stored = await api.get(f"{taken.headers['Location']}/payload")
    assert (stored.content, stored.headers["Content-Type"]) == (body, "image/png")
    assert stored.headers["Content-Disposition"] == "attachment"
    assert stored.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("destination=parked", "jobId"),
        ("jobId=j", "callbackUrl"),
        ("jobId=j&destination=parked&callbackUrl=http://127.0.0.1/", "callbackUrl"),
        ("jobId=j&destination=parked&payload=1", "payload"),
        ("jobId=j&jobId=k&destination=parked", "jobId"),
        ("jobId=%00&destination=parked", "jobId"),
        ("jobId=%ff&destination=parked", "query"),
        ("jobId=j&destination=par%20ked", "destination"),
        ("jobId=j&destination=parked&priority=low", "priority"),
        ("jobId=j&destination=parked&policy=%7B%7D", "policy"),
        ("jobId=j&destination=parked&jobStatus=", "jobStatus"),
        ("jobId=j&destination=parked&" + "&".join(f"tag.{n}=1" for n in range(17)), "tags"),
    ],
)
async def test_a_raw_query_is_validated_as_strictly_as_json(
    api: httpx.AsyncClient, parked: str, query: str, field: str
) -> None:
    """422, with the parameter's name."""
    answer = await api.post(f"/v1/callbacks/raw?{query}", content=b"x")
    assert reject(answer, 422, "VALIDATION_ERROR")["field"] == field


@pytest.mark.parametrize(
    ("headers", "code", "status"),
    [
        ({"Content-Type": "text/plain"}, MEDIA, 415),
        ({"Content-Type": ""}, MEDIA, 415),
        ({"Content-Type": "application/json; charset=utf-16"}, MEDIA, 415),
        (AS_JSON | {"Content-Encoding": "gzip"}, MEDIA, 415),
        (AS_JSON | {"Content-Length": "99999999"}, LARGE, 413),
        (AS_JSON | {"Content-Length": "9" * 40}, LARGE, 413),
        (AS_JSON | {"Content-Length": "x"}, "BAD_REQUEST", 400),
    ],
)  # fmt: skip
async def test_a_body_of_the_wrong_kind_is_refused_before_it_is_read(
    api: httpx.AsyncClient, headers: dict[str, str], code: str, status: int
) -> None:
    """415 and 413 come from the headers alone."""
    answer = await api.post("/v1/callbacks", content=b"{}", headers=headers)
    reject(answer, status, code)


async def test_a_payload_over_the_limit_is_413(
    api: httpx.AsyncClient, settings: Settings, parked: str
) -> None:
    """The limit is on the payload, exactly; the rest of the request has room of its own."""
    fits = "x" * (settings.payload_bytes_max - 2)
    taken = await api.post("/v1/callbacks", json=SUBMIT | {"payload": fits})
    assert taken.status_code == 202
    too_much = await api.post("/v1/callbacks", json=SUBMIT | {"payload": fits + "x"})
    assert reject(too_much, 413, "PAYLOAD_TOO_LARGE") == {"bytesMax": settings.payload_bytes_max}
    raw = "/v1/callbacks/raw?jobId=r&destination=parked"
    assert (await api.post(raw, content=b"x" * settings.payload_bytes_max)).status_code == 202
    over = await api.post(raw, content=b"x" * (settings.payload_bytes_max + 1))
    reject(over, 413, "PAYLOAD_TOO_LARGE")


async def test_a_full_queue_is_429_with_real_numbers(settings: Settings) -> None:
    """QUEUE_FULL says how long the queue is, and when to come back."""
    full = replace(settings, tenant_queue_max=2)
    async with Service(full) as service, connect(service, ADMIN_KEY) as api:
        await api.post("/v1/destinations", json={"name": "p", "url": "http://127.0.0.1:9/"})
        await api.patch("/v1/destinations/p", json={"paused": True})
        body = {"jobId": "j", "destination": "p", "payload": 1}
        for n in range(2):
            taken = await api.post("/v1/callbacks", json=body | {"jobId": f"j{n}"})
            assert taken.status_code == 202
        answer = await api.post("/v1/callbacks", json=body)
        details = reject(answer, 429, "QUEUE_FULL")
        assert details["queueSize"] == 2
        assert answer.headers["Retry-After"] == str(details["retryAfter"])
        other = connect(service, ADMIN_KEY, **{"Postback-Tenant": "other"})
        url = {"jobId": "j", "callbackUrl": "http://127.0.0.1:9/", "payload": 1}
        assert (await other.post("/v1/callbacks", json=url)).status_code == 202
        await other.aclose()


async def test_i9_a_full_service_does_not_tell_what_the_others_have_queued(
    settings: Settings,
) -> None:
    """I9: beyond the global limit a tenant is told the limit."""
    full = replace(settings, queue_max=1)
    async with Service(full) as service, connect(service, ADMIN_KEY) as api:
        await api.post("/v1/destinations", json={"name": "p", "url": "http://127.0.0.1:9/"})
        await api.patch("/v1/destinations/p", json={"paused": True})
        first = {"jobId": "j", "destination": "p", "payload": 1}
        assert (await api.post("/v1/callbacks", json=first)).status_code == 202
        url = {"jobId": "j", "callbackUrl": "http://127.0.0.1:9/", "payload": 1}
        answer = await api.post("/v1/callbacks", json=url, headers={"Postback-Tenant": "b"})
        assert reject(answer, 429, "QUEUE_FULL")["queueSize"] == 1


async def test_without_room_to_store_it_is_507_with_real_numbers(
    service: Service, api: httpx.AsyncClient, parked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STORAGE_LIMIT_EXCEEDED, from the measured usage or from the store itself."""

    async def full(*_: object, **__: object) -> None:
        raise StoreFull("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(service.store, "submit", full)
        details = reject(
            await api.post("/v1/callbacks", json=SUBMIT), 507, "STORAGE_LIMIT_EXCEEDED"
        )
        assert isinstance(details["estimatedSize"], int)
    with monkeypatch.context() as patch:
        patch.setattr(service.store, "usage", lambda: Usage(used_bytes=10, free_bytes=3))
        answer = await api.post("/v1/callbacks", json=SUBMIT)
        details = reject(answer, 507, "STORAGE_LIMIT_EXCEEDED")
        assert details["remainingQuota"] == 3
    assert (await api.post("/v1/callbacks", json=SUBMIT)).status_code == 202


async def test_a_store_that_does_not_answer_is_503_and_comes_back(
    service: Service, api: httpx.AsyncClient, parked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 with Retry-After, never a 2xx; the next submit is taken."""

    async def down(*_: object, **__: object) -> None:
        raise StoreUnavailable("the database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(service.store, "submit", down)
        answer = await api.post("/v1/callbacks", json=SUBMIT)
        reject(answer, 503, "UNAVAILABLE")
        assert int(answer.headers["Retry-After"]) >= 1
    assert (await api.post("/v1/callbacks", json=SUBMIT)).status_code == 202


async def test_a_stopping_service_takes_no_submits(
    service: Service, api: httpx.AsyncClient, parked: str
) -> None:
    """D7: not ready means 503, for readyz and for submits."""
    service.engine.ready = False
    reject(await api.post("/v1/callbacks", json=SUBMIT), 503, "UNAVAILABLE")
    assert (await api.get("/readyz")).status_code == 503
    assert (await api.get("/healthz")).status_code == 200


async def test_submits_that_come_together_are_each_answered_for_themselves(
    api: httpx.AsyncClient, parked: str
) -> None:
    """D3: sharing a commit mixes up nothing."""
    bodies = [SUBMIT | {"jobId": f"job_{n}"} for n in range(50)]
    answers = await asyncio.gather(*(api.post("/v1/callbacks", json=body) for body in bodies))
    assert [answer.json()["jobId"] for answer in answers] == [body["jobId"] for body in bodies]
    assert len({answer.json()["id"] for answer in answers}) == 50


async def test_a_disabled_destination_takes_none(api: httpx.AsyncClient, parked: str) -> None:
    """409 DESTINATION_DISABLED."""
    await api.patch("/v1/destinations/parked", json={"disabled": True})
    reject(await api.post("/v1/callbacks", json=SUBMIT), 409, "DESTINATION_DISABLED")


async def test_a_fault_of_ours_is_told_without_its_inside(
    service: Service, api: httpx.AsyncClient, parked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 shows a requestId and nothing of the exception."""

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("inner details")

    monkeypatch.setattr(service.store, "submit", broken)
    answer = await api.post("/v1/callbacks", json=SUBMIT)
    reject(answer, 500, "INTERNAL")
    assert "inner" not in answer.text


@pytest.mark.parametrize(
    ("way", "given"),
    [("json", 60), ("json", "2031-01-01T00:00:00Z"), ("json", 604_801), ("json", -1),
     ("json", "soon"), ("raw", 60), ("raw", 604_801), ("raw", "-1"), ("raw", "soon"),
     ("batch", 60), ("batch", "soon")],
)  # fmt: skip
async def test_not_before_is_a_time_or_seconds_and_at_most_a_week(
    api: httpx.AsyncClient, parked: str, way: str, given: object
) -> None:
    """In each form of a submit; beyond it 422 names the field. It waits as pending until then."""
    status, body = await submitted(api, parked, way, notBefore=given)
    if given == 60:
        assert status == 202
        shown = (await api.get(f"/v1/callbacks/{body['id']}")).json()
        waits = parse_iso(shown["nextAttemptAt"]) - parse_iso(shown["createdAt"])
        assert (shown["status"], waits) == ("pending", 60_000)
    else:
        assert (status, body["details"]["field"]) == (422, "notBefore")


@pytest.mark.parametrize("way", ["json", "raw", "batch"])
async def test_each_run_of_a_job_is_a_callback_of_its_own(
    api: httpx.AsyncClient, parked: str, way: str
) -> None:
    """D12: the run is part of the key where one is given, and is shown."""
    taken = [await submitted(api, parked, way, run=run) for run in (None, 1, 2, 2, 1)]
    assert [body["duplicate"] for _, body in taken] == [False, False, False, True, True]
    assert len({body["id"] for _, body in taken}) == 3
    shown = [(await api.get(f"/v1/callbacks/{body['id']}")).json() for _, body in taken]
    assert [one.get("run") for one in shown] == [None, 1, 2, 2, 1]
    for wrong in (0, -1, 1_000_000_000):
        status, refused = await submitted(api, parked, way, run=wrong)
        assert (status, refused["details"]["field"]) == (422, "run")


async def test_a_repeated_key_must_come_with_the_same_run(
    api: httpx.AsyncClient, parked: str
) -> None:
    headers = {"Idempotency-Key": "k"}
    first = await api.post("/v1/callbacks", json={**SUBMIT, "run": 1}, headers=headers)
    again = await api.post("/v1/callbacks", json={**SUBMIT, "run": 2}, headers=headers)
    assert (first.status_code, again.status_code) == (202, 409)


async def submitted(
    api: httpx.AsyncClient, parked: str, way: str, **more: Any
) -> tuple[int, dict[str, Any]]:
    """What a submit comes to, made in one of the three ways."""
    fields = {"jobId": "j", "destination": parked}
    fields |= {name: value for name, value in more.items() if value is not None}
    if way == "json":
        response = await api.post("/v1/callbacks", json={**fields, "payload": 1})
    elif way == "raw":
        response = await api.post("/v1/callbacks/raw", params=fields, content=b"1")
    else:
        line = json.dumps({**fields, "payload": 1}).encode()
        media = {"Content-Type": "application/x-ndjson"}
        response = await api.post("/v1/callbacks/batch", content=line, headers=media)
        body = response.json()
        refused = "error" in body
        return (body["status"], body) if refused else (202, body)
    return response.status_code, response.json()
