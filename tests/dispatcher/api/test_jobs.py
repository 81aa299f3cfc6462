"""/v1/endpoints/{name}/jobs and /v1/jobs: from a request to its output, through the whole service
and a real upstream."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from os import urandom
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher import ids
from dispatcher.app import Service
from dispatcher.settings import Settings
from tests.dispatcher.api.models import (
    SAID,
    Model,
    ended,
    make_endpoint,
    model_server,
    submit_job,
)
from tests.dispatcher.api.talk import ADMIN_KEY, connect, make_key, reject
from tests.dispatcher.peers import answer, answers, listening
from tests.dispatcher.postgres import folders
from tests.receiver.waiting import until

KEY = b64encode(urandom(32)).decode()
ALL = ["submit", "read", "operate", "admin"]
PATH = "/v1/endpoints/shout/jobs"


@pytest.fixture(params=["sqlite", "postgres"])
def settings(
    settings: Settings, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Settings]:
    """The same on either store."""
    url = settings.database_url
    if request.param == "postgres":
        url = folders.url_for(tmp_path, used=True)
    yield replace(settings, database_url=url, encryption_keys=f"k1:{KEY}")
    folders.empty_under(tmp_path)


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    async with model_server() as model:
        yield model


@pytest.fixture
async def shout(api: httpx.AsyncClient, model: Model) -> Model:
    """The endpoint `shout` and the model behind it."""
    await make_endpoint(api, model)
    return model


# --- submitting ---


async def test_a_job_is_taken_run_and_shown(api: httpx.AsyncClient, shout: Model) -> None:
    """18.2: 202 with its id and where to ask; then the view with the output as it stands."""
    taken = await api.post(
        PATH,
        content=b'{"text":  "hello"}',
        headers={"Content-Type": "application/json", "Postback-Tags": "team=a,b=%C3%BC"},
    )
    assert taken.status_code == 202
    view = taken.json()
    assert set(view) == {"id", "endpoint", "status", "createdAt", "duplicate"}
    assert (view["endpoint"], view["status"], view["duplicate"]) == ("shout", "queued", False)
    assert view["id"].startswith("job_")
    assert ids.parse_job_id(view["id"])
    assert taken.headers["location"] == f"/v1/jobs/{view['id']}"
    assert int(taken.headers["retry-after"]) >= 1
    assert "preference-applied" not in taken.headers

    shown = await api.get(taken.headers["location"], params={"wait": "20"})
    job = shown.json()
    assert (job["id"], job["status"], job["run"], job["attempts"]) == (
        view["id"], "completed", 1, 1,
    )  # fmt: skip
    assert (job["priority"], job["tags"]) == ("normal", {"team": "a", "b": "ü"})
    assert job["createdAt"] <= job["startedAt"] <= job["endedAt"]
    assert SAID in shown.content
    [call] = shout.received
    assert (call.body, call.header("Content-Type")) == (b'{"text":  "hello"}', "application/json")


async def test_any_body_of_any_type_goes_to_the_upstream_as_it_came(
    api: httpx.AsyncClient, shout: Model
) -> None:
    body = bytes(range(256))
    taken = await api.post(PATH, content=body, headers={"Content-Type": "image/x-raw; a=b"})
    await ended(api, taken.json()["id"])
    [call] = shout.received
    assert (call.body, call.header("Content-Type")) == (body, "image/x-raw; a=b")
    fetched = await api.get(f"/v1/jobs/{taken.json()['id']}/input")
    assert (fetched.content, fetched.headers["content-type"]) == (body, "image/x-raw; a=b")


async def test_who_waits_gets_the_output_itself(api: httpx.AsyncClient, shout: Model) -> None:
    """RFC 7240: `wait` in time is 200 with the upstream's type and bytes, and says what it did."""
    waited = await api.post(PATH, content=b"1", headers={"Prefer": "wait=20"})
    assert waited.status_code == 200
    assert waited.content == SAID
    assert waited.headers["content-type"] == "application/json"
    assert waited.headers["preference-applied"] == "wait=20"
    assert waited.headers["x-content-type-options"] == "nosniff"
    job = (await api.get(waited.headers["location"])).json()
    assert job["status"] == "completed"


@pytest.mark.parametrize("prefer", ["respond-async", "respond-async, wait=0", "wait=0", "wait=1"])
async def test_who_does_not_wait_so_long_gets_the_id(
    api: httpx.AsyncClient, shout: Model, prefer: str
) -> None:
    shout.go.clear()
    taken = await api.post(PATH, content=b"1", headers={"Prefer": prefer})
    assert taken.status_code == 202
    assert taken.headers["preference-applied"] == prefer
    shout.go.set()
    assert (await ended(api, taken.json()["id"]))["status"] == "completed"


async def test_who_finds_no_room_to_wait_in_is_answered_at_once(
    api: httpx.AsyncClient, shout: Model, service: Service
) -> None:
    """0.13: with the present state, and without the claim that it had waited."""
    shout.go.clear()
    service.gateway.waiters.stop()
    taken = await api.post(PATH, content=b"1", headers={"Prefer": "respond-async, wait=300"})
    assert (taken.status_code, taken.headers["preference-applied"]) == (202, "respond-async")
    shown = await api.get(f"/v1/jobs/{taken.json()['id']}?wait=300")
    assert shown.json()["status"] == "running"
    shout.go.set()


async def test_who_waits_for_a_job_that_fails_is_told_so(
    api: httpx.AsyncClient, shout: Model
) -> None:
    """502 in the one shape of errors, with what the upstream said, and where the job is."""
    shout.answers.append(answer("400 Bad Request", "Content-Type: text/plain", body=b"no prompt"))
    waited = await api.post(PATH, content=b"1", headers={"Prefer": "wait=20"})
    details = reject(waited, 502, "JOB_FAILED")
    assert (details["status"], details["reason"], details["statusCode"]) == (
        "failed", "rejected", 400,
    )  # fmt: skip
    assert details["error"] == "no prompt"
    assert waited.headers["location"] == f"/v1/jobs/{details['id']}"
    job = (await api.get(waited.headers["location"])).json()
    assert (job["status"], job["error"]) == ("failed", "no prompt")


async def test_who_waits_for_one_that_takes_too_long_or_is_cancelled_is_told_so(
    api: httpx.AsyncClient, shout: Model
) -> None:
    shout.go.clear()
    headers = {"Prefer": "wait=20", "Postback-Timeout": "1"}
    reject(await api.post(PATH, content=b"1", headers=headers), 504, "JOB_TIMEOUT")
    waiting = asyncio.create_task(
        api.post(PATH, content=b"2", headers={"Prefer": "wait=20", "Postback-Tags": "n=2"})
    )
    found: list[dict[str, Any]] = []

    async def running() -> bool:
        found.extend((await api.get("/v1/jobs?tag.n=2&status=running")).json()["data"])
        return bool(found)

    await until(running)
    await api.post(f"/v1/jobs/{found[0]['id']}/cancel")
    reject(await waiting, 409, "JOB_CANCELLED")


async def test_the_same_key_again_is_the_same_job(api: httpx.AsyncClient, shout: Model) -> None:
    """D12: attached to in its present state, bare or quoted; other content is a conflict."""
    shout.go.clear()
    first = await submit_job(api, Idempotency_Key="key-1")
    again = await submit_job(api, Idempotency_Key='"key-1"')
    assert (again["id"], again["duplicate"], again["status"]) == (first["id"], True, "running")
    other = await api.post(PATH, content=b"2", headers={"Idempotency-Key": "key-1"})
    assert reject(other, 409, "IDEMPOTENCY_CONFLICT")["firstId"] == first["id"]
    shout.go.set()
    await ended(api, first["id"])
    again = await submit_job(api, Idempotency_Key="key-1")
    assert (again["duplicate"], again["status"]) == (True, "completed")
    waited = await api.post(
        PATH,
        content=b'{"text":"hello"}',
        headers={
            "Idempotency-Key": "key-1", "Prefer": "wait=5", "Content-Type": "application/json",
        },
    )  # fmt: skip
    assert (waited.status_code, waited.content) == (200, SAID)
    assert len(shout.received) == 1


async def test_its_end_is_told_to_its_callback(api: httpx.AsyncClient, shout: Model) -> None:
    """Of TensorOne's shape with run and endpoint; the view names the callback and its state."""
    async with listening(answers(answer("200 OK"))) as peer:
        job = await submit_job(
            api,
            Postback_Callback_Url=peer.url,
            Postback_Callback_Headers="X-Team=a",
            Postback_Tags="team=a",
            Postback_Priority="high",
        )
        view = await ended(api, job["id"])
        await until(lambda: bool(peer.received))
        [told] = peer.received
        body = json.loads(told.body)
        assert (body["jobId"], body["status"], body["output"]) == (
            job["id"], "completed", {"text": "HELLO"},
        )  # fmt: skip
        assert (body["run"], body["endpoint"], body["tags"]) == (1, "shout", {"team": "a"})
        assert b'{"text":  "HELLO"}' in told.body
        assert told.header("X-Team") == "a"
        assert told.header("X-Postback-Job-Id") == job["id"]

        async def delivered() -> bool:
            shown = (await api.get(f"/v1/jobs/{job['id']}")).json()
            return bool(shown["callback"]["status"] == "delivered")

        await until(delivered)
        callback = (await api.get(f"/v1/callbacks/{view['callback']['id']}")).json()
        assert (callback["jobId"], callback["run"]) == (job["id"], 1)


@pytest.mark.parametrize(
    ("headers", "field"),
    [
        ({"Postback-Callback-Url": "http://10.0.0.1/"}, "callbackUrl"),
        ({"Postback-Callback-Url": "nonsense"}, "callbackUrl"),
        ({"Postback-Destination": "nobody"}, "destination"),
        ({"Postback-Policy": "fast"}, "Postback-Policy"),
        ({"Postback-Priority": "urgent"}, "Postback-Priority"),
        ({"Postback-Tags": "team"}, "Postback-Tags"),
        ({"Postback-Timeout": "0.1"}, "timeout"),
        ({"Postback-Ttl": "1"}, "ttl"),
        ({"Postback-Not-Before": "soon"}, "notBefore"),
        ({"Postback-Function": "train"}, "function"),
        ({"Idempotency-Key": "a b"}, "Idempotency-Key"),
    ],
)
async def test_what_cannot_be_is_refused_at_the_door(
    api: httpx.AsyncClient, shout: Model, headers: dict[str, str], field: str
) -> None:
    """422 by the field, never a 202: nothing may refuse at the end."""
    refused = await api.post(PATH, content=b"1", headers=headers)
    assert reject(refused, 422, "VALIDATION_ERROR")["field"] == field
    assert (await api.get("/v1/jobs")).json()["data"] == []


async def test_limits_of_the_endpoint_are_told(api: httpx.AsyncClient, model: Model) -> None:
    """Too large 413; not of its schema 422 with the seed's path; a full queue 429 with figures."""
    schema = {
        "type": "object",
        "properties": {"pages": {"type": "integer", "minimum": 1}},
        "required": ["pages"],
    }
    await make_endpoint(api, model, inputMax=100, queueMaxTenant=1, schema=schema)
    big = await api.post(PATH, content=b'{"pages": 1, "x": "' + b"x" * 100 + b'"}')
    assert reject(big, 413, "PAYLOAD_TOO_LARGE")["bytesMax"] == 100
    details = reject(await api.post(PATH, content=b'{"pages": -5}'), 422, "VALIDATION_ERROR")
    assert (details["field"], details["value"]) == ("pages", -5)
    for body in (b"{}", b"nonsense", b"\xff", b"[" * 100_0):
        refused = await api.post(PATH, content=body[:100])
        reject(refused, 422, "VALIDATION_ERROR")
    await api.post("/v1/endpoints/shout/pause")
    await submit_job(api, body=b'{"pages": 1}')
    full = await api.post(PATH, content=b'{"pages": 2}')
    details = reject(full, 429, "QUEUE_FULL")
    assert (details["queueSize"], full.headers["retry-after"]) == (1, str(details["retryAfter"]))
    assert details["estimatedWait"]


async def test_a_queue_of_everybody_is_full_for_everybody(
    api: httpx.AsyncClient, model: Model
) -> None:
    """Nobody is told how many of them are whose (I9); a retry finds no room either."""
    await make_endpoint(api, model, queueMax=1)
    id = (await submit_job(api))["id"]
    await ended(api, id)
    await api.post("/v1/endpoints/shout/pause")
    named = {"Postback-Tenant": "other"}
    assert (await api.post(PATH, content=b"1", headers=named)).status_code == 202
    refused = await api.post(PATH, content=b"2")
    details = reject(refused, 429, "QUEUE_FULL")
    assert (details["queueSize"], set(details)) == (
        1, {"queueSize", "estimatedWait", "retryAfter"},
    )  # fmt: skip
    refused = await api.post(f"/v1/jobs/{id}/retry", json={"force": True})
    reject(refused, 429, "QUEUE_FULL")


async def test_limits_of_the_tenant_hold_for_jobs_too(api: httpx.AsyncClient, shout: Model) -> None:
    """D14: its rate, and what it may store; what is not taken is nowhere."""
    await submit_job(api)
    await api.patch("/v1/tenants/default", json={"storageBytesMax": 0})
    details = reject(await api.post(PATH, content=b"1"), 507, "STORAGE_LIMIT_EXCEEDED")
    assert details["remainingQuota"] == 0
    limits = {"storageBytesMax": None, "ratePerSecond": 0.001}
    await api.patch("/v1/tenants/default", json=limits)
    answers = [await api.post(PATH, content=b"1") for _ in range(3)]
    limited = reject(answers[-1], 429, "RATE_LIMITED")
    assert limited["ratePerSecond"] == 0.001
    taken = 1 + sum(answer.status_code == 202 for answer in answers)
    assert len((await api.get("/v1/jobs")).json()["data"]) == taken


async def test_a_tenant_that_is_erased_takes_no_jobs(
    service: Service, api: httpx.AsyncClient, shout: Model
) -> None:
    named = {"Postback-Tenant": "gone"}
    assert (await api.post(PATH, content=b"1", headers=named)).status_code == 202
    await api.delete("/v1/tenants/gone")
    refused = await api.post(PATH, content=b"1", headers=named)
    reject(refused, 409, "TENANT_ERASING")


async def test_what_is_about_to_stop_takes_no_jobs(
    service: Service, api: httpx.AsyncClient, shout: Model
) -> None:
    """503, to be tried again: at another process, or at this one once it is back."""
    service.refuse_submits()
    refused = await api.post(PATH, content=b"1")
    reject(refused, 503, "UNAVAILABLE")
    assert refused.headers["retry-after"]
    reject(await api.post("/v1/endpoints/shout/test"), 503, "UNAVAILABLE")


async def test_two_headers_that_say_two_things_are_refused(
    api: httpx.AsyncClient, shout: Model
) -> None:
    for name in ("Postback-Callback-Url", "Postback-Priority", "Idempotency-Key"):
        twice = [(name, "normal"), (name, "high")]
        reject(await api.post(PATH, content=b"1", headers=twice), 400, "BAD_REQUEST")


async def test_a_key_that_is_bound_to_destinations_submits_to_no_other(
    service: Service, api: httpx.AsyncClient, shout: Model
) -> None:
    key = await make_key(
        api, scopes=["submit"], tenant="default", destinations=["https://example.com"]
    )
    async with connect(service, key) as bound:
        other = {"Postback-Callback-Url": "http://127.0.0.1:9/"}
        reject(await bound.post(PATH, content=b"1", headers=other), 403, "FORBIDDEN")


# --- looking ---


async def test_outputs_stand_in_views_as_they_are(api: httpx.AsyncClient, shout: Model) -> None:
    """Section 9: JSON spliced, text as a string, JSON that is none as text, the rest by
    reference; the bytes and the type as they came at /output."""
    cases: list[tuple[str, bytes, Any]] = [
        ("application/json", b'{"a": 1.0,  "a": 2}', {"a": 2}),
        ("application/problem+json; charset=utf-8", b" [1e2] ", [100]),
        ("application/json", b"{nonsense", "{nonsense"),
        ("text/plain; charset=utf-8", "ü\0".encode(), "ü\0"),
        ("image/png", b"\x89PNG", None),
        ("text/plain", b"\xff\xfe", None),
    ]
    for kind, body, shown in cases:
        shout.answers.append(answer("200 OK", f"Content-Type: {kind}", body=body))
        job = await ended(api, (await submit_job(api))["id"])
        if shown is None:
            assert "output" not in job
            reference = job["outputRef"]
            assert (reference["size"], reference["contentType"]) == (len(body), kind)
            fetched = await api.get(f"/v1/jobs/{job['id']}/output")
            run = f"out_{job['id'].removeprefix('job_')}_1"
            assert f"/v1/outputs/{run}?expires=" in reference["url"]
        else:
            assert job["output"] == shown
            fetched = await api.get(f"/v1/jobs/{job['id']}/output")
        assert (fetched.content, fetched.headers["content-type"]) == (body, kind)
        assert fetched.headers["content-disposition"] == "attachment"


async def test_links_come_from_settings_and_from_no_host_header_that_is_not_known(
    settings: Settings, model: Model
) -> None:
    """0.14: the host that was asked only if it is one of DISPATCHER_HOSTS."""
    given = replace(settings, hosts=("known.test",), public_url="https://jobs.example.com/api")
    async with Service(given) as service, connect(service, ADMIN_KEY) as api:
        await make_endpoint(api, model)
        model.answers.append(answer("200 OK", "Content-Type: image/png", body=b"\x89PNG"))
        id = (await ended(api, (await submit_job(api))["id"]))["id"]
        path = f"/v1/jobs/{id}"
        for host, base in (
            ("known.test", "http://known.test"),
            ("evil.test", "https://jobs.example.com/api"),
        ):
            shown = (await api.get(path, headers={"Host": host})).json()
            output = f"{base}/v1/outputs/out_{id.removeprefix('job_')}_1?"
            assert shown["outputRef"]["url"].startswith(output)


@pytest.mark.parametrize(
    ("public_url", "base"),
    [
        (None, "http://127.0.0.1:8600"),
        ("https://jobs.example.com/api/", "https://jobs.example.com/api"),
    ],
)
async def test_what_is_sent_begins_with_no_requests_host(
    settings: Settings, model: Model, public_url: str | None, base: str
) -> None:
    """A callback's reference to an output comes from DISPATCHER_PUBLIC_URL alone, or from where we
    listen: never from a host that a request named, known or not."""
    given = replace(
        settings, hosts=("known.test",), public_url=public_url, callback_inline=1, port=8600
    )
    async with (
        Service(given) as service,
        connect(service, ADMIN_KEY) as api,
        listening(answers(answer("200 OK", body=b""))) as customer,
    ):
        await make_endpoint(api, model)
        for n, host in enumerate(("known.test", "evil.test"), 1):
            headers = {
                "Host": host,
                "X-Forwarded-Host": host,
                "Postback-Callback-Url": customer.url,
            }
            id = (await submit_job(api, "shout", b"{}", **headers))["id"]

            async def told(count: int = n) -> bool:
                return len(customer.received) >= count

            await until(told)
            said = json.loads(customer.received[-1].body)
            output = f"{base}/v1/outputs/out_{id.removeprefix('job_')}_1?"
            assert said["output"]["url"].startswith(output)
            located = (await api.get(f"/v1/jobs/{id}", headers={"Host": host})).headers
            assert host not in str(located)


@pytest.mark.parametrize(
    ("path", "query", "body"),
    [
        ("/v2/endpoints/shout/runasync", {}, {"input": {}, "callbackUrl": "HOOK"}),
        ("/v2/shout/run", {}, {"input": {}, "webhook": "HOOK"}),
        ("/v4/p/shout/run", {"async": "true", "webhookEndpoint": "HOOK"}, {}),
    ],
)
async def test_no_platforms_callback_begins_with_a_requests_host(
    settings: Settings, model: Model, path: str, query: dict[str, str], body: dict[str, Any]
) -> None:
    """Whichever way a job came, and whether the host is known or not."""
    base = "https://jobs.example.com"
    given = replace(settings, hosts=("known.test",), public_url=base, callback_inline=1)
    async with (
        Service(given) as service,
        connect(service, ADMIN_KEY) as api,
        listening(answers(answer("200 OK", body=b""))) as customer,
    ):
        await make_endpoint(api, model)
        for n, host in enumerate(("known.test", "evil.test"), 1):
            hook = {"HOOK": customer.url}
            taken = await api.post(
                path,
                params={name: hook.get(value, value) for name, value in query.items()},
                json={name: hook.get(str(value), value) for name, value in body.items()},
                headers={"Host": host, "X-Forwarded-Host": host},
            )
            assert taken.is_success, taken.text
            assert ("evil.test" in taken.text) is False

            async def told(count: int = n) -> bool:
                return len(customer.received) >= count

            await until(told)
            for hosts in ("known.test", "evil.test"):
                assert hosts not in str(customer.received[-1])


async def test_what_is_past_its_retention_is_gone(api: httpx.AsyncClient, shout: Model) -> None:
    """410 for input and output, and for a retry without its input; the job itself is still told."""
    await api.patch("/v1/endpoints/shout", json={"keep": {"input": "0s", "output": "0s"}})
    id = (await ended(api, (await submit_job(api))["id"]))["id"]
    for part in ("input", "output"):

        async def gone(part: str = part) -> bool:
            return (await api.get(f"/v1/jobs/{id}/{part}")).status_code == 410

        await until(gone)
        reject(await api.get(f"/v1/jobs/{id}/{part}"), 410, "PAYLOAD_GONE")
    refused = await api.post(f"/v1/jobs/{id}/retry", json={"force": True})
    reject(refused, 410, "PAYLOAD_GONE")
    assert id in refused.json()["message"]
    view = (await api.get(f"/v1/jobs/{id}")).json()
    assert (view["status"], "output" in view) == ("completed", False)


async def test_any_spelling_of_an_id_finds_the_job(api: httpx.AsyncClient, shout: Model) -> None:
    id = (await submit_job(api))["id"]
    plain = id.removeprefix("job_")
    dashed = "-".join((plain[:8], plain[8:12], plain[12:16], plain[16:20], plain[20:]))
    for spelling in (id, plain, dashed, f"sync-{dashed}"):
        assert (await api.get(f"/v1/jobs/{spelling}")).json()["id"] == id
    for unknown in ("job_1", "cb_" + "0" * 32, "job_" + "0" * 32, "x"):
        for path in ("", "/input", "/output", "/attempts", "/events"):
            reject(await api.get(f"/v1/jobs/{unknown}{path}"), 404, "NOT_FOUND")


async def test_a_job_that_waits_says_why_and_where(api: httpx.AsyncClient, shout: Model) -> None:
    """Section 11: its place in the tenant's queue, and what it waits for."""
    await api.patch("/v1/endpoints/shout", json={"concurrency": 1})
    shout.go.clear()
    await submit_job(api)
    waiting = [(await submit_job(api))["id"] for _ in range(3)]
    views = [(await api.get(f"/v1/jobs/{id}")).json() for id in waiting]
    assert [(one["status"], one["position"]) for one in views] == [
        ("queued", 1), ("queued", 2), ("queued", 3),
    ]  # fmt: skip
    assert {one["waitingFor"] for one in views} == {"capacity"}
    assert all(one["estimatedStart"] for one in views)
    await api.post("/v1/endpoints/shout/pause")
    paused = (await api.get(f"/v1/jobs/{waiting[0]}")).json()
    assert (paused["waitingFor"], paused.get("estimatedStart")) == ("paused", None)
    await api.post("/v1/endpoints/shout/resume")
    later = await submit_job(api, Postback_Not_Before="3600")
    view = (await api.get(f"/v1/jobs/{later['id']}")).json()
    assert view["waitingFor"] == "not_before"
    assert view["estimatedStart"] >= view["waitingUntil"]
    shout.go.set()


async def test_no_more_of_a_tenants_jobs_run_than_may(api: httpx.AsyncClient, shout: Model) -> None:
    """D14: `jobsRunningMax`, over all endpoints. Its jobs say that they wait for it; others' run,
    and so do its own once there is room, or the limit is higher."""
    await make_endpoint(api, shout, name="other")
    await make_key(api, scopes=["read"], tenant="acme")
    limited = await api.patch("/v1/tenants/default", json={"jobsRunningMax": 1})
    assert (limited.status_code, limited.json()["jobsRunningMax"]) == (200, 1)
    shout.go.clear()
    first = (await submit_job(api))["id"]
    second = (await submit_job(api, "other"))["id"]
    view = (await api.get(f"/v1/jobs/{second}")).json()
    assert (view["status"], view["waitingFor"]) == ("queued", "tenant_limit")
    beside = (await submit_job(api, "other", Postback_Tenant="acme"))["id"]

    async def runs(id: str, tenant: str) -> bool:
        shown = await api.get(f"/v1/jobs/{id}", headers={"Postback-Tenant": tenant})
        return bool(shown.json()["status"] == "running")

    await until(lambda: runs(beside, "acme"))
    assert (await api.get(f"/v1/jobs/{second}")).json()["status"] == "queued"
    await api.patch("/v1/tenants/default", json={"jobsRunningMax": 2})
    await until(lambda: runs(second, "default"))
    shout.go.set()
    assert [(await ended(api, id))["status"] for id in (first, second)] == ["completed"] * 2


async def test_the_settings_limit_holds_for_every_tenant(settings: Settings, model: Model) -> None:
    """DISPATCHER_TENANT_JOBS_RUNNING_MAX, unless a tenant has its own."""
    async with (
        Service(replace(settings, tenant_jobs_running_max=1)) as service,
        connect(service, ADMIN_KEY) as api,
    ):
        await make_endpoint(api, model)
        shown = (await api.get("/v1/tenants/default")).json()
        assert shown["jobsRunningMax"] == 1
        assert "jobsRunningMax" in shown["defaults"]
        ids = [(await submit_job(api))["id"] for _ in range(6)]
        model.go.set()
        assert [(await ended(api, id))["status"] for id in ids] == ["completed"] * 6


async def test_a_purged_queue_is_empty_at_once(api: httpx.AsyncClient, shout: Model) -> None:
    """What waited is cancelled in the background; what runs goes on; others' jobs stay, unless an
    administrator of the platform empties all."""
    await api.patch("/v1/endpoints/shout", json={"concurrency": 1})
    shout.go.clear()
    running = (await submit_job(api))["id"]
    waiting = [(await submit_job(api))["id"] for _ in range(3)]
    named = {"Postback-Tenant": "other"}
    theirs = (await api.post(PATH, content=b"1", headers=named)).json()["id"]
    purged = await api.post("/v1/endpoints/shout/purge")
    assert (purged.status_code, purged.json()) == (200, {"purged": 3})
    for id in waiting:
        job = await ended(api, id)
        assert (job["status"], job["reason"]) == ("cancelled", "purged")
    assert (await api.get(f"/v1/jobs/{theirs}", headers=named)).json()["status"] == "queued"
    everybodys = await api.post("/v1/endpoints/shout/purge", json={"allTenants": True})
    assert everybodys.json() == {"purged": 1}
    shout.go.set()
    assert (await ended(api, running))["status"] == "completed"


async def test_jobs_are_found_by_what_they_are(api: httpx.AsyncClient, shout: Model) -> None:
    """Newest first, in pages; a filter that cannot be understood is refused."""
    made = [
        (await submit_job(api, Postback_Tags=f"n={n % 2}", Postback_Priority=priority))["id"]
        for n, priority in enumerate(("high", "normal", "low", "normal"))
    ]
    for id in made:
        await ended(api, id)

    async def found(**query: str) -> list[int]:
        ids: list[int] = []
        params = {"limit": "3", **query}
        while True:
            page = (await api.get("/v1/jobs", params=params)).json()
            ids += [made.index(one["id"]) for one in page["data"]]
            if page["nextCursor"] is None:
                return ids
            params["cursor"] = page["nextCursor"]

    assert await found() == [3, 2, 1, 0]
    assert await found(**{"tag.n": "1"}) == [3, 1]
    assert await found(priority="normal", endpoint="shout") == [3, 1]
    assert await found(status="completed", since="2020-01-01T00:00:00Z") == [3, 2, 1, 0]
    assert await found(status="failed") == []
    assert await found(until="2020-01-01T00:00:00Z") == []
    for query in ("status=dead", "color=red", "since=x", "priority=urgent"):
        reject(await api.get(f"/v1/jobs?{query}"), 422, "VALIDATION_ERROR")


async def test_every_call_is_in_its_history(api: httpx.AsyncClient, shout: Model) -> None:
    await api.patch("/v1/endpoints/shout", json={"retry": {"base": 0.05, "cap": 0.05}})
    shout.answers += [answer("502 Bad Gateway")] * 2
    job = await ended(api, (await submit_job(api))["id"])
    assert (job["status"], job["attempts"]) == ("completed", 3)
    history = (await api.get(f"/v1/jobs/{job['id']}/attempts")).json()["data"]
    assert [(one["run"], one["n"], one["statusCode"]) for one in history] == [
        (1, 1, 502), (1, 2, 502), (1, 3, 200),
    ]  # fmt: skip
    page = (await api.get(f"/v1/jobs/{job['id']}/attempts?limit=2")).json()
    assert len(page["data"]) == 2
    rest = await api.get(f"/v1/jobs/{job['id']}/attempts?cursor={page['nextCursor']}")
    assert [one["n"] for one in rest.json()["data"]] == [3]


# --- cancelling and running again ---


async def test_a_cancelled_job_is_so_at_once_and_its_call_closed(
    api: httpx.AsyncClient, shout: Model
) -> None:
    """Section 8: one conditional write decides; the place is free once the call has ended."""
    shout.go.clear()
    id = (await submit_job(api))["id"]
    await until(lambda: bool(shout.received))
    cancelled = await api.post(f"/v1/jobs/{id}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert cancelled.json()["reason"] == "user"
    await until(lambda: bool(shout.closed))
    again = await api.post(f"/v1/jobs/{id}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    shout.go.set()
    done = await ended(api, (await submit_job(api))["id"])
    late = await api.post(f"/v1/jobs/{done['id']}/cancel")
    assert (late.status_code, late.json()["status"]) == (200, "completed")


async def test_a_retry_is_the_next_run_of_the_same_job(
    api: httpx.AsyncClient, shout: Model
) -> None:
    """Section 4: the same id and input, tries anew; a completed one only where that is forced."""
    shout.answers.append(answer("500 Oops"))
    id = (await submit_job(api))["id"]
    assert (await ended(api, id))["status"] == "failed"
    assert (await api.post(f"/v1/jobs/{id}/retry")).json()["run"] == 2
    job = await ended(api, id)
    assert (job["status"], job["run"], job["attempts"]) == ("completed", 2, 1)
    reject(await api.post(f"/v1/jobs/{id}/retry"), 409, "CONFLICT")
    forced = await api.post(f"/v1/jobs/{id}/retry", json={"force": True})
    assert (forced.status_code, forced.json()["run"]) == (200, 3)
    assert (await ended(api, id))["status"] == "completed"
    shout.go.clear()
    waiting = (await submit_job(api))["id"]
    reject(await api.post(f"/v1/jobs/{waiting}/retry"), 409, "CONFLICT")
    shout.go.set()


async def test_all_that_a_filter_matches_is_cancelled_and_run_again(
    api: httpx.AsyncClient, shout: Model
) -> None:
    """As replays: a preview, a fixed set, done in the background, watched by its id."""
    await api.patch("/v1/endpoints/shout", json={"concurrency": 1})
    shout.go.clear()
    made = [(await submit_job(api, Postback_Tags=f"n={n}"))["id"] for n in range(4)]
    body = {"filter": {"endpoint": "shout"}, "dryRun": True}
    preview = (await api.post("/v1/jobs/cancel", json=body)).json()
    assert (preview["matched"], len(preview["sample"])) == (4, 4)
    assert (await api.get("/v1/jobs?status=cancelled")).json()["data"] == []
    started = await api.post("/v1/jobs/cancel", json={"filter": {"endpoint": "shout"}})
    assert (started.status_code, started.json()["what"]) == (202, "cancel")
    for id in made:
        assert (await ended(api, id))["status"] == "cancelled"

    async def completed(answer: httpx.Response) -> dict[str, Any]:
        shown: dict[str, Any] = {}

        async def done() -> bool:
            shown.update((await api.get(answer.headers["location"])).json())
            return bool(shown["state"] == "completed")

        await until(done)
        return shown

    sweep = await completed(started)
    assert (sweep["matched"], sweep["done"], sweep["skipped"]) == (4, 4, 0)
    shout.go.set()
    await until(lambda: bool(shout.closed))
    again = await api.post("/v1/jobs/retry", json={"filter": {"tag.n": "2"}})
    assert (await completed(again))["done"] == 1
    job = await ended(api, made[2])
    assert (job["status"], job["run"]) == ("completed", 2)
    listed = (await api.get("/v1/sweeps")).json()["data"]
    assert [one["what"] for one in listed] == ["retry", "cancel"]


async def test_what_was_used_is_told_by_endpoint_and_day(
    api: httpx.AsyncClient, shout: Model
) -> None:
    await api.patch("/v1/endpoints/shout", json={"price": {"perSecond": 1000}})
    shout.answers.append(answer("400 Bad Request"))
    jobs = [await ended(api, (await submit_job(api))["id"]) for _ in range(3)]
    [used] = (await api.get("/v1/usage")).json()["data"]
    assert (used["endpoint"], used["runs"], used["failed"]) == ("shout", 3, 1)
    assert used["bytes"] == 2 * len(SAID)
    assert used["cost"] == pytest.approx(sum(job["cost"] for job in jobs), abs=0.001)
    assert used["cost"] > 0
    assert (await api.get("/v1/usage?endpoint=other")).json()["data"] == []
    assert (await api.get("/v1/usage?until=2020-01-01")).json()["data"] == []
    for query in ("since=yesterday", "since=2026-13-01", "days=3"):
        reject(await api.get(f"/v1/usage?{query}"), 422, "VALIDATION_ERROR")


async def test_what_was_used_is_listed_page_by_page(
    api: httpx.AsyncClient, service: Service, shout: Model
) -> None:
    """A cursor is good for its own listing alone."""
    names = ["more", "shout", "zoo.1".replace(".", "-")]
    for name in names:
        if name != "shout":
            await make_endpoint(api, shout, name=name)
        await ended(api, (await submit_job(api, name))["id"])
    found: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": "1"} | ({} if cursor is None else {"cursor": cursor})
        page = (await api.get("/v1/usage", params=query)).json()
        found += [one["endpoint"] for one in page["data"]]
        if page["nextCursor"] is None:
            break
        cursor = page["nextCursor"]
    assert found == names
    for more in ({"endpoint": "shout"}, {"since": "2026-01-01"}):
        query = {"cursor": cursor or "", **more}
        reject(await api.get("/v1/usage", params=query), 422, "VALIDATION_ERROR")


# --- between tenants ---


async def test_i9_anothers_job_answers_exactly_like_an_unknown_one(
    service: Service, api: httpx.AsyncClient, shout: Model
) -> None:
    """Every route with a job's id: the same status, code, message and details."""
    id = (await submit_job(api))["id"]
    await ended(api, id)
    unknown = "job_" + ids.new_job_id(0)
    key = await make_key(api, scopes=ALL, tenant="mallory")
    async with connect(service, key) as mallory:
        for method, path in (
            ("GET", "/v1/jobs/{}"),
            ("GET", "/v1/jobs/{}?wait=5"),
            ("GET", "/v1/jobs/{}/input"),
            ("GET", "/v1/jobs/{}/output"),
            ("GET", "/v1/jobs/{}/attempts"),
            ("POST", "/v1/jobs/{}/cancel"),
            ("POST", "/v1/jobs/{}/retry"),
        ):
            said = []
            for one in (id, unknown):
                refused = await mallory.request(method, path.format(one))
                reject(refused, 404, "NOT_FOUND")
                said.append(str({**refused.json(), "requestId": ""}).replace(one, "ID"))
            assert said[0] == said[1], path
        for path in ("jobs", "sweeps", "usage"):
            assert (await mallory.get(f"/v1/{path}")).json()["data"] == []
        reject(await mallory.get("/v1/endpoints/shout/load"), 403, "FORBIDDEN")
