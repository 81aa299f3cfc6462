"""RunPod's routes: what was written for it works with another base URL."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from dispatcher import ids
from dispatcher.app import Service
from dispatcher.jobs.judge import run_limit_s
from dispatcher.policy import PRESETS
from dispatcher.settings import Settings
from receiver import Event, Receiver
from receiver import Settings as ReceiverSettings
from receiver.signature import verify
from receiver.source import Source
from tests.dispatcher.api.models import Model, make_endpoint
from tests.dispatcher.api.talk import ADMIN_KEY, connect, make_key, reject
from tests.dispatcher.peers import Peer, Received, answer, answers, listening
from tests.dispatcher.postgres import folders
from tests.receiver.serving import served
from tests.receiver.waiting import until
from tests.theft import KEY

SECRET: Final = "whsec_dGVzdC1zZWNyZXQtb2YtdGhpcnR5LXR3by1ieXRlcyE="
JSON: Final = "Content-Type: application/json"
S3: Final = {
    "accessId": "fake-access-id-of-a-bucket",
    "accessSecret": "fake-access-secret-of-a-bucket",
    "bucketName": "fake-name-of-a-bucket",
    "endpointUrl": "https://storage.example.com/fake-path-of-a-bucket",
}
ALL: Final = ["submit", "read", "operate", "admin"]


@pytest.fixture
def store(request: pytest.FixtureRequest) -> str:
    """SQLite, unless a test is for both."""
    return str(getattr(request, "param", "sqlite"))


both = pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def settings(settings: Settings, store: str, tmp_path: Path) -> Iterator[Settings]:
    url = settings.database_url
    if store == "postgres":
        url = folders.url_for(tmp_path, used=True)
    yield replace(
        settings,
        database_url=url,
        encryption_keys=KEY,
        signing_secret=SECRET,
        public_url="http://gateway.example",
    )
    folders.empty_under(tmp_path)


@pytest.fixture
async def ep(api: httpx.AsyncClient, model: Model) -> Model:
    """The endpoint `ep`, one call at a time, and the model behind it."""
    await make_endpoint(api, model, name="ep", concurrency=1)
    return model


@dataclass(slots=True)
class Hook:
    """A customer's server: what it got."""

    peer: Peer = field(default_factory=Peer)

    @property
    def url(self) -> str:
        return self.peer.url

    async def got(self, count: int) -> list[Received]:
        """What came, once that is so many; all of it signed by us."""
        await until(lambda: len(self.peer.received) >= count)
        for one in self.peer.received:
            verify(one.body, one.as_dict, SECRET, now_s=time.time())
        return self.peer.received


@asynccontextmanager
async def hook_server(*said: bytes) -> AsyncIterator[Hook]:
    async with listening(answers(*(said or (answer("200 OK"),)))) as peer:
        yield Hook(peer)


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    async with hook_server() as made:
        yield made


async def run(api: httpx.AsyncClient, path: str = "/v2/ep/run", **body: Any) -> str:
    """The id of a job that is taken."""
    taken = await api.post(path, json={"input": {"prompt": "hello"}, **body})
    assert taken.status_code == 200, taken.text
    id: str = taken.json()["id"]
    return id


async def status(api: httpx.AsyncClient, id: str) -> dict[str, Any]:
    shown = await api.get(f"/v2/ep/status/{id}")
    assert shown.status_code == 200, shown.text
    found: dict[str, Any] = shown.json()
    return found


async def ended(api: httpx.AsyncClient, id: str) -> dict[str, Any]:
    """The job, once it has ended."""
    shown = await api.get(f"/v2/ep/status-sync/{id}", params={"wait": "30000"})
    assert shown.status_code == 200, shown.text
    found: dict[str, Any] = shown.json()
    assert found["status"] not in ("IN_QUEUE", "IN_PROGRESS"), found
    return found


async def running(api: httpx.AsyncClient, model: Model, **body: Any) -> str:
    """A job whose call is open until the model may go on."""
    model.go.clear()
    count = len(model.received)
    id = await run(api, **body)
    await until(lambda: len(model.received) > count)
    return id


# --- submitting ---


@both
async def test_a_job_is_taken_run_and_shown(api: httpx.AsyncClient, ep: Model) -> None:
    """/run answers 200 with exactly `id` and `status`; /status shows the output as it stands, with
    times in whole milliseconds."""
    taken = await api.post("/v2/ep/run", json={"input": {"prompt": "The lazy brown fox"}})
    assert taken.status_code == 200
    assert set(taken.json()) == {"id", "status"}
    assert taken.json()["status"] == "IN_QUEUE"
    id = taken.json()["id"]
    assert (len(id), ids.parse_job_id(id)) == (36, id.replace("-", ""))
    shown = await ended(api, id)
    assert set(shown) == {"id", "status", "delayTime", "executionTime", "output"}
    assert (shown["id"], shown["status"], shown["output"]) == (id, "COMPLETED", {"text": "HELLO"})
    assert all(type(shown[name]) is int and shown[name] >= 0 for name in (
        "delayTime", "executionTime",
    ))  # fmt: skip
    assert b'"output":{"text":  "HELLO"}' in (await api.get(f"/v2/ep/status/{id}")).content


async def test_the_upstream_gets_the_envelope(api: httpx.AsyncClient, ep: Model) -> None:
    """What a handler gets: the id and the input, byte for byte, and nothing that it does not know:
    other keys of the request are thrown away before anything is stored."""
    body = b'{"more":{"a":"dropped"}, "input" : {"n":1.10, "u":"\\u00fc"} ,"webhookX":"dropped"}'
    taken = await api.post("/v2/ep/run", content=body, headers={"Content-Type": "application/json"})
    id = taken.json()["id"]
    await ended(api, id)
    [call] = ep.received
    assert call.body == b'{"id":"%b","input":{"n":1.10, "u":"\\u00fc"}}' % id.encode()
    assert call.header("X-Job-Id") == id
    kept = (await api.get(f"/v1/jobs/{id}/input")).content
    assert kept == b'{"input":{"n":1.10, "u":"\\u00fc"}}'


async def test_an_empty_input_is_an_input(api: httpx.AsyncClient, ep: Model) -> None:
    """`{"input": {}}` is what the platform's own samples send."""
    assert (await ended(api, await run(api, input={})))["status"] == "COMPLETED"
    assert json.loads(ep.received[0].body)["input"] == {}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "input"),
        ({"input": "text"}, "input"),
        ({"input": ["a"]}, "input"),
        ({"input": None}, "input"),
        ({"input": {}, "webhook": "no-url"}, "webhook"),
        ({"input": {}, "webhook": ""}, "webhook"),
        ({"input": {}, "webhook": "http://169.254.169.254/latest"}, "webhook"),
        ({"input": {}, "webhook": 7}, "webhook"),
        ({"input": {}, "policy": 7}, "policy"),
        ({"input": {}, "policy": {"executionTimeout": 4_999}}, "policy.executionTimeout"),
        ({"input": {}, "policy": {"executionTimeout": "5000"}}, "policy.executionTimeout"),
        ({"input": {}, "policy": {"executionTimeout": 5000.5}}, "policy.executionTimeout"),
        ({"input": {}, "policy": {"executionTimeout": 604_800_001}}, "policy.executionTimeout"),
        ({"input": {}, "policy": {"ttl": 9_999}}, "policy.ttl"),
        ({"input": {}, "policy": {"lowPriority": "yes"}}, "policy.lowPriority"),
        ({"input": {}, "s3Config": "text"}, "s3Config"),
        ({"input": {}, "s3Config": {"accessId": 7}}, "s3Config"),
    ],
)
async def test_what_cannot_be_is_400(
    api: httpx.AsyncClient, ep: Model, body: dict[str, Any], field: str
) -> None:
    """In the one shape of errors, with the platform's status; nothing is stored."""
    for path in ("/v2/ep/run", "/v2/ep/runsync"):
        details = reject(await api.post(path, json=body), 400, "VALIDATION_ERROR")
        assert details["field"] == field
    assert (await api.get("/v2/ep/requests")).json()["requests"] == []


@pytest.mark.parametrize("body", [b"", b"{", b'{"input":{}', b"[]", b'{"input":{},"input":{}}'])
async def test_what_is_no_json_is_400(api: httpx.AsyncClient, ep: Model, body: bytes) -> None:
    taken = await api.post("/v2/ep/run", content=body, headers={"Content-Type": "application/json"})
    assert taken.status_code == 400, taken.text


async def test_optional_keys_may_be_null(api: httpx.AsyncClient, ep: Model) -> None:
    policy = {"executionTimeout": None, "ttl": None, "lowPriority": None, "other": 1}
    id = await run(api, webhook=None, webhookV2=None, policy=policy, s3Config=None)
    assert (await ended(api, id))["status"] == "COMPLETED"
    assert b"s3Config" not in ep.received[0].body


async def test_an_unknown_endpoint_is_404_at_once(api: httpx.AsyncClient) -> None:
    for path in ("run", "runsync"):
        reject(await api.post(f"/v2/none/{path}", json={"input": {}}), 404, "NOT_FOUND")
    for path in ("health", "requests"):
        reject(await api.get(f"/v2/none/{path}"), 404, "NOT_FOUND")
    reject(await api.post("/v2/none/purge-queue"), 404, "NOT_FOUND")


@pytest.mark.parametrize("spelled", ["Bearer {}", "bearer {}", "{}"])
async def test_the_key_may_stand_alone(
    service: Service, api: httpx.AsyncClient, ep: Model, spelled: str
) -> None:
    """Its own samples write `Authorization: KEY`. Elsewhere that is still no key."""
    key = await make_key(api, scopes=["submit", "read"], tenant="default")
    headers = {"Authorization": spelled.format(key)}
    async with connect(service, "none") as client:
        client.headers.update(headers)
        id = await run(client)
        assert (await ended(client, id))["status"] == "COMPLETED"
        if spelled == "{}":
            reject(await client.get(f"/v1/jobs/{id}"), 401, "UNAUTHORIZED")
        client.headers["Authorization"] = "nonsense"
        reject(await client.get(f"/v2/ep/status/{id}"), 401, "UNAUTHORIZED")


async def test_each_route_needs_its_scope(
    service: Service, api: httpx.AsyncClient, ep: Model
) -> None:
    """`submit` to run, `read` to look, `operate` to change."""
    id = await run(api)
    await ended(api, id)
    routes = {
        "submit": [("POST", "run"), ("POST", "runsync")],
        "read": [
            ("GET", f"status/{id}"), ("POST", f"status/{id}"), ("POST", f"status-sync/{id}"),
            ("POST", f"stream/{id}"), ("GET", "health"), ("GET", "requests"),
        ],
        "operate": [
            ("POST", f"cancel/{id}"), ("POST", f"retry/{id}"), ("POST", "purge-queue"),
        ],
    }  # fmt: skip
    for scope in routes:
        key = await make_key(api, scopes=[scope], tenant="default")
        async with connect(service, key) as client:
            for other, paths in routes.items():
                for method, path in paths:
                    asked = await client.request(method, f"/v2/ep/{path}", json={"input": {}})
                    assert (asked.status_code == 403) is (other != scope), (scope, path)


async def test_the_same_key_attaches_to_the_first_job(api: httpx.AsyncClient, ep: Model) -> None:
    """`Idempotency-Key`: the first job in its present state; other content is 409."""
    headers = {"Idempotency-Key": "once"}
    first = await api.post("/v2/ep/run", json={"input": {"a": 1}}, headers=headers)
    id = first.json()["id"]
    await ended(api, id)
    again = await api.post("/v2/ep/run", json={"input": {"a": 1}, "x": 2}, headers=headers)
    assert again.json() == {"id": id, "status": "COMPLETED"}
    other = await api.post("/v2/ep/run", json={"input": {"a": 2}}, headers=headers)
    reject(other, 409, "IDEMPOTENCY_CONFLICT")


async def test_a_full_queue_is_429(api: httpx.AsyncClient, model: Model) -> None:
    """With the figures of all other ways in, and `Retry-After`."""
    await make_endpoint(api, model, name="ep", concurrency=1, queueMaxTenant=1)
    await running(api, model)
    await run(api)
    full = await api.post("/v2/ep/run", json={"input": {}})
    details = reject(full, 429, "QUEUE_FULL")
    assert set(details) == {"queueSize", "estimatedWait", "retryAfter"}
    assert int(full.headers["retry-after"]) >= 1


# --- limits ---


async def test_the_run_limit_is_a_day_unless_it_is_said(
    service: Service, api: httpx.AsyncClient, ep: Model
) -> None:
    """86,400,000 ms by default; `policy.executionTimeout` in its place, from 5,000 ms on, and never
    more than the endpoint's `timeout_max`."""

    async def limit_s(**body: Any) -> float:
        id = await run(api, **body)
        parsed = ids.parse_job_id(id)
        assert parsed is not None
        job = await service.store.jobs.get("default", parsed)
        endpoint = service.gateway.book.get("ep")
        assert endpoint is not None
        return run_limit_s(job.options.limit_s, endpoint.rules, job.dialect)

    assert await limit_s() == 86_400
    assert await limit_s(policy={"executionTimeout": 5_000}) == 5
    assert await limit_s(policy={"executionTimeout": 604_800_000}) == 604_800
    changed = await api.patch("/v1/endpoints/ep", json={"timeout": 60, "timeoutMax": 600})
    assert changed.status_code == 200
    assert await limit_s() == 60
    assert await limit_s(policy={"executionTimeout": 700_000}) == 600


@pytest.mark.timeout(60)
async def test_what_runs_too_long_is_timed_out_and_told(
    api: httpx.AsyncClient, ep: Model, hook: Hook
) -> None:
    """The limit counts only what runs: a job that waited behind another for longer than its limit
    has all of it still. At the limit the call is closed, the job TIMED_OUT, and its callback
    sent."""
    first = await running(api, ep)
    policy = {"executionTimeout": 5_000}
    id = await run(api, policy=policy, webhook=hook.url)
    await asyncio.sleep(1.5)
    assert (await status(api, id))["status"] == "IN_QUEUE"
    await api.post(f"/v2/ep/cancel/{first}")
    shown = await ended(api, id)
    assert shown["status"] == "TIMED_OUT"
    assert shown["delayTime"] >= 1_400
    assert 4_900 <= shown["executionTime"] <= 30_000
    assert "5 s" in shown["error"]
    await until(lambda: ep.closed == 2)
    [told] = await hook.got(1)
    assert json.loads(told.body) == shown


async def test_a_life_that_is_over_while_it_waits_is_told_and_found(
    api: httpx.AsyncClient, ep: Model, hook: Hook, service: Service
) -> None:
    """`policy.ttl`: TIMED_OUT, with its callback; never deleted and 404."""
    await running(api, ep)
    id = await run(api, policy={"ttl": 10_000}, webhook=hook.url)
    parsed = ids.parse_job_id(id)
    assert parsed is not None
    job = await service.store.jobs.get("default", parsed)
    assert job.expires_ms - job.created_ms == 10_000
    await service.store.jobs.expire(now_ms=job.expires_ms + 1, limit=10)
    shown = await status(api, id)
    assert shown["status"] == "TIMED_OUT"
    [told] = await hook.got(1)
    assert json.loads(told.body) == shown


async def test_low_priority_runs_when_nothing_else_waits(api: httpx.AsyncClient, ep: Model) -> None:
    held = await running(api, ep)
    low = await run(api, input={"n": "low"}, policy={"lowPriority": True})
    normal = await run(api, input={"n": "normal"})
    ep.go.set()
    for id in (held, low, normal):
        await ended(api, id)
    order = [json.loads(one.body)["input"].get("n") for one in ep.received]
    assert order == [None, "normal", "low"]


# --- waiting ---


async def test_runsync_waits_for_the_end(api: httpx.AsyncClient, ep: Model) -> None:
    """The body of a status; the id is spelled `sync-…`, everywhere, and any spelling finds it."""
    waited = await api.post("/v2/ep/runsync", json={"input": {"prompt": "hello"}})
    shown = waited.json()
    assert (waited.status_code, shown["status"]) == (200, "COMPLETED")
    assert shown["output"] == {"text": "HELLO"}
    assert shown["id"].startswith("sync-")
    assert await status(api, shown["id"]) == shown
    assert await status(api, shown["id"].removeprefix("sync-")) == shown
    assert json.loads(ep.received[0].body)["id"] == shown["id"]


async def test_runsync_shows_what_has_not_ended(api: httpx.AsyncClient, ep: Model) -> None:
    """After `wait` ms, as it is then; it goes on, and status-sync waits for it."""
    ep.go.clear()
    first = await api.post("/v2/ep/runsync", params={"wait": "1000"}, json={"input": {}})
    assert (first.status_code, first.json()["status"]) == (200, "IN_PROGRESS")
    assert set(first.json()) == {"id", "status", "delayTime", "executionTime"}
    second = await api.post("/v2/ep/runsync?wait=1000", json={"input": {}})
    assert second.json() == {"id": second.json()["id"], "status": "IN_QUEUE"}
    waiting = asyncio.create_task(ended(api, second.json()["id"]))
    ep.go.set()
    assert (await waiting)["status"] == "COMPLETED"


@pytest.mark.parametrize("wait", ["999", "300001", "-1", "x", "1.5"])
async def test_a_wait_out_of_bounds_is_400(api: httpx.AsyncClient, ep: Model, wait: str) -> None:
    """1,000 to 300,000 ms."""
    id = await run(api)
    for method, path in (
        ("POST", "runsync"), ("GET", f"status-sync/{id}"), ("POST", f"status-sync/{id}"),
    ):  # fmt: skip
        asked = await api.request(
            method, f"/v2/ep/{path}", params={"wait": wait}, json={"input": {}}
        )
        assert reject(asked, 400, "VALIDATION_ERROR")["field"] == "wait"


async def test_who_finds_no_room_to_wait_is_answered_at_once(
    service: Service, api: httpx.AsyncClient, ep: Model
) -> None:
    """With the present state: runsync, status-sync and stream; as when the process stops."""
    ep.go.clear()
    service.gateway.waiters.stop()
    async with asyncio.timeout(20):
        waited = await api.post("/v2/ep/runsync", json={"input": {}})
        assert waited.json()["status"] in ("IN_QUEUE", "IN_PROGRESS")
        id = waited.json()["id"]
        for path in ("status-sync", "stream"):
            asked = await api.get(f"/v2/ep/{path}/{id}")
            assert asked.json()["status"] in ("IN_QUEUE", "IN_PROGRESS")


# --- looking ---


@pytest.mark.parametrize("body", [b"", b"{}", b'{"anything":[1]}'])
async def test_get_and_post_show_the_same(api: httpx.AsyncClient, ep: Model, body: bytes) -> None:
    """A body says nothing, whether it is empty or `{}`."""
    id = await run(api)
    shown = await ended(api, id)
    headers = {"Content-Type": "application/json"}
    for path in ("status", "status-sync"):
        posted = await api.post(f"/v2/ep/{path}/{id}", content=body, headers=headers)
        assert posted.json() == shown
    streamed = await api.post(f"/v2/ep/stream/{id}", content=body, headers=headers)
    assert streamed.json()["stream"] == [{"output": shown["output"]}]


async def test_an_unknown_id_is_404(
    service: Service, api: httpx.AsyncClient, ep: Model, model: Model
) -> None:
    """What is no id, nobody's, another endpoint's, and another tenant's: just the same."""
    await make_endpoint(api, model, name="other")
    id = await run(api)
    await ended(api, id)
    key = await make_key(api, scopes=ALL, tenant="acme")
    async with connect(service, key) as acme:
        for client, path in (
            (api, "/v2/ep/{}/nonsense"),
            (api, f"/v2/ep/{{}}/{'0' * 32}"),
            (api, f"/v2/other/{{}}/{id}"),
            (acme, f"/v2/ep/{{}}/{id}"),
        ):
            for what in ("status", "status-sync", "stream", "cancel", "retry"):
                reject(await client.post(path.format(what)), 404, "NOT_FOUND")
        assert (await acme.get("/v2/ep/requests")).json() == {"requests": [], "nextCursor": None}


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (answer("500 Nope", JSON, body=b'{"error_type": "X"}'), '{"error_type": "X"}'),
        (answer("400 Nope", "Content-Type: text/plain", body=b"bad prompt"), "bad prompt"),
        (answer("422 Nope", JSON, body=b""), "the upstream answered 422"),
        (answer("500 Nope", "Content-Type: text/plain", body=b"x" * 70_000), "x" * 65_536),
    ],
)
async def test_an_error_is_the_upstreams_own_text(
    api: httpx.AsyncClient, ep: Model, hook: Hook, said: bytes, error: str
) -> None:
    """FAILED, with the body as text, 64 KiB of it at most."""
    ep.answers.append(said)
    shown = await ended(api, await run(api, webhook=hook.url))
    assert set(shown) == {"id", "status", "delayTime", "executionTime", "error"}
    assert (shown["status"], shown["error"]) == ("FAILED", error)
    [told] = await hook.got(1)
    assert json.loads(told.body) == shown


async def test_what_no_json_can_hold_is_told_by_its_link(
    api: httpx.AsyncClient, ep: Model, hook: Hook
) -> None:
    """The same link in a status and in the callback, below the gateway's own address."""
    picture = b"\x89PNG\r\n\x1a\n\x00"
    ep.answers.append(answer("200 OK", "Content-Type: image/png", body=picture))
    id = await run(api, webhook=hook.url)
    shown = await ended(api, id)
    assert set(shown["output"]) == {"url", "size", "contentType", "sha256", "expiresAt"}
    assert shown["output"]["url"].startswith("http://gateway.example/v1/outputs/out_")
    [told] = await hook.got(1)
    assert json.loads(told.body) == shown
    path = shown["output"]["url"].removeprefix("http://gateway.example")
    assert (await api.get(path)).content == picture


@both
async def test_requests_are_listed_page_by_page(api: httpx.AsyncClient, ep: Model) -> None:
    """The caller's own at this endpoint, newest first, without what came of them."""
    made = [await run(api) for _ in range(3)]
    await ended(api, made[-1])
    first = (await api.get("/v2/ep/requests", params={"limit": "2"})).json()
    assert set(first) == {"requests", "nextCursor"}
    rest = (await api.get("/v2/ep/requests", params={"cursor": first["nextCursor"]})).json()
    assert [one["id"] for one in first["requests"] + rest["requests"]] == made[::-1]
    assert rest["nextCursor"] is None
    newest = first["requests"][0]
    assert set(newest) == {"id", "status", "delayTime", "executionTime"}
    other = await api.get("/v2/ep/requests", params={"cursor": "nonsense"})
    reject(other, 400, "VALIDATION_ERROR")


# --- streams ---


@both
async def test_a_stream_hands_its_piece_out_once(api: httpx.AsyncClient, ep: Model) -> None:
    """The output as one piece, in the answer that first shows the last state; later ones have
    none, which is how clients know that it is over. `stream` is always there."""
    id = await run(api)
    shown = await ended(api, id)
    first, second, third = [(await api.get(f"/v2/ep/stream/{id}")).json() for _ in range(3)]
    assert first == {"status": "COMPLETED", "stream": [{"output": shown["output"]}]}
    assert second == third == {"status": "COMPLETED", "stream": []}
    assert await status(api, id) == shown


async def test_a_stream_is_held_while_nothing_is_new(api: httpx.AsyncClient, ep: Model) -> None:
    """Up to five seconds, and until the end: clients that ask without a pause stay calm."""
    id = await running(api, ep)
    begun_s = time.monotonic()
    reading = asyncio.create_task(api.get(f"/v2/ep/stream/{id}"))
    done, _ = await asyncio.wait([reading], timeout=1)
    assert not done
    ep.go.set()
    shown = (await reading).json()
    assert shown == {"status": "COMPLETED", "stream": [{"output": {"text": "HELLO"}}]}
    assert time.monotonic() - begun_s < 5
    ep.go.clear()
    held = await running(api, ep)
    begun_s = time.monotonic()
    assert (await api.get(f"/v2/ep/stream/{held}")).json() == {
        "status": "IN_PROGRESS", "stream": [],
    }  # fmt: skip
    assert 4.5 <= time.monotonic() - begun_s < 9


async def test_a_stream_of_what_failed_is_over_at_once(api: httpx.AsyncClient, ep: Model) -> None:
    ep.answers.append(answer("500 Nope", JSON, body=b"{}"))
    id = await run(api)
    await ended(api, id)
    assert (await api.get(f"/v2/ep/stream/{id}")).json() == {"status": "FAILED", "stream": []}


# --- changing ---


@pytest.mark.parametrize("body", [b"", b"{}"])
@both
async def test_a_cancel_is_shown_and_told_at_once(
    api: httpx.AsyncClient, ep: Model, hook: Hook, body: bytes
) -> None:
    """Of what waits and of what runs, whose call is closed; each has its callback."""
    held = await running(api, ep, webhook=hook.url)
    waits = await run(api, webhook=hook.url)
    for id in (waits, held):
        answered = await api.post(
            f"/v2/ep/cancel/{id}", content=body, headers={"Content-Type": "application/json"}
        )
        assert answered.status_code == 200, answered.text
        assert (answered.json()["id"], answered.json()["status"]) == (id, "CANCELLED")
        assert (await status(api, id))["status"] == "CANCELLED"
    await until(lambda: ep.closed == 1)
    told = {json.loads(one.body)["id"]: json.loads(one.body) for one in await hook.got(2)}
    for id in (waits, held):
        assert told[id] == await status(api, id)


async def test_a_cancel_of_what_has_ended_tells_how(api: httpx.AsyncClient, ep: Model) -> None:
    id = await run(api)
    shown = await ended(api, id)
    answered = (await api.post(f"/v2/ep/cancel/{id}")).json()
    assert answered == {name: value for name, value in shown.items() if name != "output"}


@both
async def test_a_retry_is_the_same_job_again(api: httpx.AsyncClient, ep: Model, hook: Hook) -> None:
    """The same id, its next run, with a callback of its own that says `retries`; the old output is
    gone."""
    ep.answers.append(answer("500 Nope", JSON, body=b'{"no":1}'))
    id = await run(api, webhook=hook.url)
    failed = await ended(api, id)
    assert "retries" not in failed
    again = await api.post(f"/v2/ep/retry/{id}", json={})
    assert (again.status_code, again.json()) == (200, {"id": id, "status": "IN_QUEUE"})
    shown = await ended(api, id)
    assert (shown["status"], shown["retries"]) == ("COMPLETED", 1)
    assert "error" not in shown
    first, second = await hook.got(2)
    assert (json.loads(first.body), json.loads(second.body)) == (failed, shown)
    runs = [one.header("X-Postback-Job-Run") for one in (first, second)]
    assert runs == ["1", "2"]
    assert first.header("webhook-id") != second.header("webhook-id")
    assert (await api.get("/v2/ep/health")).json()["jobs"]["retried"] == 1


async def test_only_what_failed_or_timed_out_is_run_again(
    api: httpx.AsyncClient, ep: Model, service: Service
) -> None:
    """Else 409, whatever it is; once its input is gone 410."""
    done = await run(api)
    await ended(api, done)
    held = await running(api, ep)
    waits = await run(api)
    for id in (done, held, waits):
        reject(await api.post(f"/v2/ep/retry/{id}"), 409, "CONFLICT")
    await api.post(f"/v2/ep/cancel/{waits}")
    reject(await api.post(f"/v2/ep/retry/{waits}"), 409, "CONFLICT")
    await api.post(f"/v2/ep/cancel/{held}")
    await until(lambda: ep.closed == 1)
    ep.go.set()
    ep.answers.append(answer("500 Nope", JSON, body=b"{}"))
    failed = await run(api)
    await ended(api, failed)
    changed = await api.patch("/v1/endpoints/ep", json={"keep": {"input": 0}})
    assert changed.status_code == 200, changed.text
    await until(lambda: _input_is_gone(api, failed))
    reject(await api.post(f"/v2/ep/retry/{failed}"), 410, "PAYLOAD_GONE")


async def _input_is_gone(api: httpx.AsyncClient, id: str) -> bool:
    return (await api.get(f"/v1/jobs/{id}/input")).status_code == 410


@pytest.mark.parametrize("body", [b"", b"{}"])
@both
async def test_a_purge_empties_the_callers_own_queue(
    service: Service, api: httpx.AsyncClient, ep: Model, hook: Hook, body: bytes
) -> None:
    """What waits is cancelled, with its callbacks; what runs goes on, and what is others' stays."""
    held = await running(api, ep)
    mine = [await run(api, webhook=hook.url) for _ in range(2)]
    key = await make_key(api, scopes=ALL, tenant="acme")
    async with connect(service, key) as acme:
        others = await run(acme)
        purged = await api.post(
            "/v2/ep/purge-queue", content=body, headers={"Content-Type": "application/json"}
        )
        assert (purged.status_code, purged.json()) == (200, {"removed": 2, "status": "completed"})
        told = [json.loads(one.body) for one in await hook.got(2)]
        assert sorted(one["id"] for one in told) == sorted(mine)
        assert {one["status"] for one in told} == {"CANCELLED"}
        assert (await status(api, held))["status"] == "IN_PROGRESS"
        assert (await api.post("/v2/ep/purge-queue")).json()["removed"] == 0
        ep.go.set()
        assert (await ended(acme, others))["status"] == "COMPLETED"


@both
async def test_health_has_all_ten_counters(
    service: Service, api: httpx.AsyncClient, model: Model
) -> None:
    """Always; of the caller's own jobs, and of the calls that the endpoint may have open."""
    await make_endpoint(api, model, name="ep", concurrency=2)

    async def health(client: httpx.AsyncClient) -> Any:
        return (await client.get("/v2/ep/health")).json()

    none = {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0}
    idle = {"idle": 2, "initializing": 0, "ready": 2, "running": 0, "throttled": 0}
    assert await health(api) == {"jobs": none, "workers": idle}
    model.answers.append(answer("500 Nope", JSON, body=b"{}"))
    failed = await run(api)
    await ended(api, failed)
    await ended(api, await run(api))
    await running(api, model)
    busy = idle | {"idle": 1, "ready": 1, "running": 1}
    found = await health(api)
    assert found == {
        "jobs": none | {"completed": 1, "failed": 1, "inProgress": 1},
        "workers": busy,
    }
    key = await make_key(api, scopes=ALL, tenant="acme")
    async with connect(service, key) as acme:
        assert await health(acme) == {"jobs": none, "workers": busy}
    await api.post("/v1/endpoints/ep/pause")
    await run(api)
    found = await health(api)
    assert found["jobs"]["inQueue"] == 1
    assert found["workers"] == {
        "idle": 0, "initializing": 0, "ready": 0, "running": 1, "throttled": 1,
    }  # fmt: skip


# --- the callback ---


@both
async def test_a_callback_says_what_a_status_says(
    api: httpx.AsyncClient, ep: Model, hook: Hook
) -> None:
    """The same members with the same values: what one would have fetched."""
    id = await run(api, webhook=hook.url)
    shown = await ended(api, id)
    [told] = await hook.got(1)
    assert json.loads(told.body) == shown
    assert told.body == (await api.get(f"/v2/ep/status/{id}")).content
    assert told.header("Content-Type") == "application/json"
    assert told.header("X-Postback-Job-Id") == id
    waited = await api.post("/v2/ep/runsync", json={"input": {}, "webhookV2": hook.url})
    [_, told] = await hook.got(2)
    assert json.loads(told.body) == waited.json()
    assert told.header("X-Postback-Job-Id") == waited.json()["id"]


async def test_a_long_output_is_told_by_its_link(
    api: httpx.AsyncClient, ep: Model, hook: Hook
) -> None:
    """Above DISPATCHER_CALLBACK_INLINE; a status carries it all the same, up to 1 MiB."""
    long = json.dumps("x" * 300_000).encode()
    ep.answers.append(answer("200 OK", JSON, body=long))
    id = await run(api, webhook=hook.url)
    shown = await ended(api, id)
    assert shown["output"] == "x" * 300_000
    [told] = await hook.got(1)
    said = json.loads(told.body)
    assert said["output"]["size"] == len(long)
    assert {**said, "output": ""} == {**shown, "output": ""}
    path = said["output"]["url"].removeprefix("http://gateway.example")
    assert (await api.get(path)).content == long


async def test_what_goes_to_the_bucket_the_worker_sends(
    api: httpx.AsyncClient, ep: Model, hook: Hook
) -> None:
    """However long an output is, the caller's bucket hears nothing from us; what the worker says of
    its upload is the output."""
    async with listening(answers(answer("403 Forbidden"))) as bucket:
        config = S3 | {"endpointUrl": bucket.url}
        ep.answers.append(answer("200 OK", JSON, body=json.dumps("x" * 300_000).encode()))
        ep.answers.append(answer("200 OK", JSON, body=b'{"image": "where the worker put it"}'))
        for expected in ("x" * 300_000, {"image": "where the worker put it"}):
            given = {"input": {}, "s3Config": config, "webhook": hook.url}
            taken = (await api.post("/v2/ep/run", json=given)).json()
            assert (await ended(api, taken["id"]))["output"] == expected
        await hook.got(2)
        assert [json.loads(call.body)["s3Config"] for call in ep.received] == [config, config]
        assert bucket.connections == 0


def test_the_callback_is_tried_as_the_platform_says() -> None:
    """One try and two more, ten seconds between them, ten seconds for each; exactly 200
    acknowledges."""
    policy = PRESETS["runpod"]
    assert policy.attempts == 3
    assert [policy.delay_ms(n, 0.9) for n in (1, 2)] == [10_000, 10_000]
    assert policy.timeout == 10
    assert [code for code in range(100, 600) if policy.acknowledges(code)] == [200]


async def test_a_webhook_has_the_platforms_policy_unless_another_is_chosen(
    service: Service, api: httpx.AsyncClient, model: Model
) -> None:
    """201 is no acknowledgement: it goes again. An endpoint's own policy takes its place."""
    async with hook_server(answer("201 Created"), answer("200 OK")) as hook:
        await make_endpoint(api, model, name="ep")
        await ended(api, await run(api, webhook=hook.url))
        await hook.got(1)
        found = (await api.get("/v1/callbacks")).json()["data"][0]
        one = (await api.get(f"/v1/callbacks/{found['id']}")).json()
        assert one["policy"]["attempts"] == 3
        assert one["policy"]["acknowledge"] == [200]
        assert one["status"] in ("pending", "sending")
        own = {"callback": {"policy": {"attempts": 7, "delays": [1]}}}
        assert (await api.patch("/v1/endpoints/ep", json=own)).status_code == 200
        await ended(api, await run(api, webhook=hook.url))
        found = (await api.get("/v1/callbacks")).json()["data"][0]
        one = (await api.get(f"/v1/callbacks/{found['id']}")).json()
        assert one["policy"]["attempts"] == 7


async def test_an_endpoint_has_a_callback_for_clients_that_send_none(
    api: httpx.AsyncClient, model: Model, hook: Hook
) -> None:
    """The platform's clients lose the webhook: a registered destination of the endpoint's hears of
    the end in its place, in the platform's words."""
    made = await api.post("/v1/destinations", json={"name": "all", "url": hook.url})
    assert made.status_code == 201
    await make_endpoint(api, model, name="ep", callback={"destination": "all"})
    shown = await ended(api, await run(api))
    await until(lambda: len(hook.peer.received) == 1)
    assert json.loads(hook.peer.received[0].body) == shown
    async with hook_server() as own:
        shown = await ended(api, await run(api, webhook=own.url))
        [told] = await own.got(1)
        assert json.loads(told.body) == shown
    assert len(hook.peer.received) == 1


async def test_a_key_bound_to_destinations_names_no_other(
    service: Service, api: httpx.AsyncClient, ep: Model, hook: Hook
) -> None:
    key = await make_key(api, scopes=["submit"], tenant="default", destinations=["crm"])
    async with connect(service, key) as client:
        asked = await client.post("/v2/ep/run", json={"input": {}, "webhook": hook.url})
        reject(asked, 403, "FORBIDDEN")


async def test_our_receiver_tells_its_runs_apart(
    api: httpx.AsyncClient, ep: Model, tmp_path: Path
) -> None:
    """A handler hears of each run's end once, whatever comes again, in seconds and lower case."""
    events: list[Event] = []
    receiver = Receiver(
        ReceiverSettings(database_url=f"sqlite:///{tmp_path}/inbox.db"),
        sources=[Source(secrets=(SECRET,), reruns="latest")],
    )

    @receiver.on("*")
    def take(event: Event) -> None:
        events.append(event)

    ep.answers.append(answer("500 Nope", JSON, body=b'{"why":"memory"}'))
    async with receiver, served(receiver) as url:
        id = await run(api, webhook=f"{url}/webhooks")
        first = await ended(api, id)
        await until(lambda: len(events) == 1)
        await api.post(f"/v2/ep/retry/{id}")
        second = await ended(api, id)
        await until(lambda: len(events) == 2)
        callbacks = (await api.get("/v1/callbacks")).json()["data"]
        for one in callbacks:
            await until(lambda id=one["id"]: _is_delivered(api, id))  # type: ignore[misc]
            again = await api.post(f"/v1/callbacks/{one['id']}/replay")
            assert again.status_code < 300, again.text
            await until(lambda id=one["id"]: _is_delivered(api, id))  # type: ignore[misc]
    assert [(one.job_id, one.run, one.status, one.platform) for one in events] == [
        (id, 1, "failed", "runpod"),
        (id, 2, "completed", "runpod"),
    ]
    assert (events[0].error, events[1].output) == ({"why": "memory"}, {"text": "HELLO"})
    assert [one.execution_time for one in events] == [
        timedelta(milliseconds=one["executionTime"]) for one in (first, second)
    ]


async def _is_delivered(api: httpx.AsyncClient, callback: str) -> bool:
    shown = (await api.get(f"/v1/callbacks/{callback}")).json()
    return bool(shown["status"] == "delivered")


@pytest.mark.parametrize(
    "body",
    [
        '{"input": {"prompt": "The lazy brown fox jumps over the"}}',
        '{"input": {}, "webhook": "HOOK"}',
        '{"input": {}, "policy": {"executionTimeout": 5000}}',
        '{"input": {}, "s3Config": {"accessId": "key_id_or_username", "accessSecret": '
        '"key_secret_or_password", "bucketName": "storage_location_name", "endpointUrl": '
        '"storage_location_address"}}',
    ],
)
async def test_the_samples_of_its_document_run(url: str, ep: Model, hook: Hook, body: str) -> None:
    """Each as it stands there, but for a placeholder and a comma that are no JSON; over the wire,
    with a bare key."""
    headers = {"Authorization": ADMIN_KEY, "Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=f"{url}/v2/ep", headers=headers) as client:
        taken = await client.post("/run", content=body.replace("HOOK", hook.url))
        assert (taken.status_code, taken.json()["status"]) == (200, "IN_QUEUE")
        shown = await client.get(f"/status-sync/{taken.json()['id']}", params={"wait": "20000"})
        assert (shown.json()["status"], shown.json()["output"]) == ("COMPLETED", {"text": "HELLO"})
        if "HOOK" in body:
            [told] = await hook.got(1)
            assert told.body == shown.content
        for method, path in (("POST", "/purge-queue"), ("POST", f"/cancel/{shown.json()['id']}")):
            assert (await client.request(method, path)).status_code == 200


async def test_who_hangs_up_leaves_the_job_alone(
    url: str, api: httpx.AsyncClient, ep: Model
) -> None:
    """A job of /runsync is a job like any other: it goes on, and can be asked for."""
    ep.go.clear()
    async with httpx.AsyncClient(
        base_url=f"{url}/v2/ep", headers={"Authorization": ADMIN_KEY}
    ) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/runsync", json={"input": {}}, timeout=0.5)
    await until(lambda: len(ep.received) == 1)
    ep.go.set()
    id = json.loads(ep.received[0].body)["id"]
    assert (await ended(api, id))["status"] == "COMPLETED"
    assert ep.closed == 0


# --- s3Config ---


@both
async def test_the_bucket_is_the_workers_alone(
    service: Service, api: httpx.AsyncClient, ep: Model, hook: Hook
) -> None:
    """It goes to the upstream as it came, and is in no view, no callback, no error and no
    listing."""
    raw = json.dumps(S3, indent=1)
    body = f'{{"s3Config": {raw}, "input": {{"a": 1}}, "webhook": "{hook.url}"}}'
    headers = {"Content-Type": "application/json"}
    taken = await api.post("/v2/ep/run", content=body, headers=headers)
    id = taken.json()["id"]
    shown = await ended(api, id)
    [call] = ep.received
    assert call.body == f'{{"id":"{id}","input":{{"a": 1}},"s3Config":{raw}}}'.encode()
    [told] = await hook.got(1)
    assert json.loads(told.body) == shown
    seen = [taken, *[await api.get(path) for path in (
        f"/v2/ep/status/{id}", f"/v2/ep/stream/{id}", "/v2/ep/requests", "/v2/ep/health",
        f"/v1/jobs/{id}", f"/v1/jobs/{id}/input", f"/v1/jobs/{id}/output",
        f"/v1/jobs/{id}/attempts", "/v1/jobs", "/v1/callbacks", "/v1/audit", "/v1/usage",
        "/v1/endpoints/ep", "/metrics", "/v1/secrets", "/openapi.json",
    )]]  # fmt: skip
    callback = (await api.get("/v1/callbacks")).json()["data"][0]["id"]
    seen += [await api.get(f"/v1/callbacks/{callback}{part}") for part in (
        "", "/payload", "/attempts",
    )]  # fmt: skip
    bad = {"input": {}, "s3Config": S3 | {"accessId": 7}, "policy": {"ttl": 1}}
    seen += [await api.post("/v2/ep/run", json=one) for one in (
        bad, bad | {"policy": None}, {"input": 7, "s3Config": S3}, {"s3Config": S3},
        {"input": {}, "s3Config": list(S3.values())}, {"input": {}, "s3Config": S3, "webhook": "x"},
    )]  # fmt: skip
    for one in seen:
        assert one.status_code in (200, 400), one.text
        for value in S3.values():
            assert value not in one.text + str(one.headers), one.request.url
    for value in S3.values():
        assert value.encode() not in told.body


async def test_the_bucket_comes_back_with_a_retry(api: httpx.AsyncClient, ep: Model) -> None:
    """It lives as long as its input does, for what has not completed."""
    ep.answers.append(answer("500 Nope", JSON, body=b"{}"))
    id = await run(api, s3Config=S3)
    await ended(api, id)
    await api.post(f"/v2/ep/retry/{id}")
    assert (await ended(api, id))["status"] == "COMPLETED"
    assert [json.loads(one.body)["s3Config"] for one in ep.received] == [S3, S3]
    forced = await api.post(f"/v1/jobs/{id}/retry", json={"force": True})
    reject(forced, 410, "PAYLOAD_GONE")


async def test_without_keys_a_bucket_is_refused(tmp_path: Path, model: Model) -> None:
    """Where there is nothing to seal it with, as on PostgreSQL without keys: 409, and no job."""
    bare = Settings(
        database_url=folders.url_for(tmp_path, used=True),
        admin_key=ADMIN_KEY,
        drain_grace=0.2,
        job_drain=0.2,
    )
    async with Service(bare) as service, connect(service, ADMIN_KEY) as api:
        await make_endpoint(api, model, name="ep")
        taken = await api.post("/v2/ep/run", json={"input": {}, "s3Config": S3})
        reject(taken, 409, "KEYS_REQUIRED")
        assert (await ended(api, await run(api)))["status"] == "COMPLETED"
    folders.empty_under(tmp_path)


@pytest.mark.parametrize("mode", ["raw", "input"])
async def test_the_bucket_stands_in_an_envelope_only(
    api: httpx.AsyncClient, model: Model, mode: str
) -> None:
    """An endpoint that takes another body gets none."""
    await make_endpoint(api, model, name="ep", body=mode)
    await ended(api, await run(api, s3Config=S3))
    assert b"bucket" not in model.received[0].body
