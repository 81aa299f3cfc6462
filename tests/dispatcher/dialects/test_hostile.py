"""Whatever comes in on the routes of dialects is refused in the dialect's manner or taken for what
it is, and never met by a fault of ours; and what becomes of a job's world while it lives."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from dispatcher.jobs.endpoint import Keep
from dispatcher.store.jobs.purge import EndedSlice
from dispatcher.store.jobs.store import JobStore
from tests.dispatcher.api.talk import make_key, reject
from tests.dispatcher.dialects.stage import JSON, Platform, client, platform
from tests.dispatcher.postgres import folders
from tests.receiver.waiting import until

RUN: Final = "/v2/ep/run"
RUN_ASYNC: Final = "/v2/endpoints/ep/runasync"
RUN_SYNC: Final = "/v2/endpoints/ep/runsync"
FUNCTION: Final = "/v4/p/ep/run"
DEEP: Final = b"[" * 100_000 + b"]" * 100_000
DIGITS: Final = b"9" * 5_000


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty one, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/jobs.db"
        return
    yield folders.url_for(tmp_path, used=True)
    folders.empty_under(tmp_path)


@pytest.fixture
async def on_both(database: str) -> AsyncIterator[Platform]:
    """A platform with an endpoint, on each store."""
    async with platform(database) as made:
        await made.world.endpoint(made.model.url, "ep")
        yield made


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Platform]:
    """The same where the store makes no difference."""
    async with platform(f"sqlite:///{tmp_path}/jobs.db") as made:
        await made.world.endpoint(made.model.url, "ep")
        yield made


BODIES: Final = (
    b"", b"{", b"[]", b"null", b"\0", b"\xff\xfe", b'\xef\xbb\xbf{"input":{}}',
    b'{"input":1e400}', b'{"input":-1e400}', b'{"input":' + DIGITS + b"}", b'{"input":"\\ud800"}',
    b'{"input":{"a":1e400}}', b'{"input":{"a":' + DIGITS + b"}}", b'{"input":{"a":"\\ud800"}}',
    b'{"input":1,"input":{}}', b'{"input":{},"\\u0069nput":{}}', b'{"input":{"a":1,"a":2}}',
    b'{"input":{"a":"\\u0000"}}', b'{"input":{"a":' + DEEP + b"}}", b'{"input":' + DEEP + b"}",
    b'{"input":{},"tags":{"a":"\\u0000"}}', b'{"input":{},"tags":{"\\u0000":"a"}}',
    b'{"input":{},"tags":{"a":"\\ud800"}}', b'{"input":{},"tags":' + DEEP + b"}",
    b'{"input":{},"timeout":1e400}', b'{"input":{},"timeout":' + DIGITS + b"}",
    b'{"input":{},"timeout":"' + DIGITS + b's"}', b'{"input":{},"timeout":"1e400s"}',
    b'{"input":{},"callbackUrl":"http://a\\u0000b/"}', b'{"input":{},"callbackUrl":"http://[/"}',
    b'{"input":{},"webhook":"http://a\\u0000b/"}', b'{"input":{},"webhook":"http://a:99999999/"}',
    b'{"input":{},"webhook":"http://a\\r\\nX: y/"}', b'{"input":{},"callbackUrl":"http://a b/"}',
    b'{"input":{},"policy":{"executionTimeout":1e400}}', b'{"input":{},"policy":' + DEEP + b"}",
    b'{"input":{},"policy":{"executionTimeout":' + DIGITS + b"}}",
    b'{"input":{},"policy":{"ttl":-1}}', b'{"input":{},"policy":{"ttl":true}}',
    b'{"input":{},"s3Config":1e400}', b'{"input":{},"s3Config":{"accessId":1e400}}',
    b'{"input":{},"s3Config":{"accessId":"\\ud800"}}', b'{"input":{},"s3Config":{"x":1e400}}',
    b'{"input":{},"s3Config":' + DEEP + b"}", b'{"input":{},"s3Config":{"x":' + DIGITS + b"}}",
    b'{"input":{},"\\ud800":1}', b'{"input":{},"priority":"\\u0000"}',
    b'{"input":{},"async":1e400}',
)  # fmt: skip


def check(answer: httpx.Response) -> None:
    """A success, or an error in the one shape of all, which is no fault of ours."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        body = answer.json()
        assert set(body) == {"error", "message", "details", "requestId"}
        assert body["message"]
        assert len(answer.content) < 4_000


# --- bodies, paths, queries, headers ---


@pytest.mark.parametrize(
    ("path", "refusals"),
    [
        (RUN, {400}),
        ("/v2/ep/runsync?wait=1000", {400}),
        (RUN_ASYNC, {400, 422}),
        (f"{RUN_SYNC}?wait=1", {400, 422}),
        (f"{FUNCTION}?async=true", set()),
        (FUNCTION, set()),
    ],
)
async def test_any_body_is_taken_or_refused(
    on_both: Platform, path: str, refusals: set[int]
) -> None:
    """Numbers that nobody holds, what nests without end, keys that are there twice, NUL, halves of
    surrogate pairs, byte order marks, what is no UTF-8, nothing: 400 where it is no JSON, and the
    dialect's own status where it is another document than asked for. A function's body is its own
    matter."""
    met = set()
    for body in BODIES:
        answer = await on_both.api.post(path, content=body, headers=JSON)
        check(answer)
        met.add(answer.status_code)
    assert {code for code in met if code >= 400} == refusals


async def test_an_empty_body_and_half_a_character_are_named(here: Platform) -> None:
    """An error says what is wrong, also where another fault stands in the same body."""
    for path in (RUN, RUN_ASYNC):
        said = (await here.api.post(path, content=b"", headers=JSON)).json()
        assert said["message"] == "the body is empty"
    body = b'{"input":{},"x":{"a":"\\ud800"}}'
    said = (await here.api.post(RUN_ASYNC, content=body, headers=JSON)).json()
    assert "surrogate" in said["message"]


@pytest.mark.parametrize("body", [b'{"input":1e400}', b'{"input":-1e400}', b'{"input":1' + DIGITS])
async def test_a_number_that_nobody_holds_is_no_object(here: Platform, body: bytes) -> None:
    """422, without the number."""
    body = body.rstrip(b"}") + b"}"
    for path in (RUN_ASYNC, RUN_SYNC):
        details = reject(
            await here.api.post(path, content=body, headers=JSON), 422, "VALIDATION_ERROR"
        )
        assert details == {"field": "input", "value": None, "reason": "must be an object"}


async def test_an_input_with_a_long_number_is_an_input(here: Platform) -> None:
    """More digits than Python makes a number of: the upstream gets the very bytes, in what it gets
    of every job."""
    value = b'{"n":' + DIGITS + b',"x":1' + b"0" * 400 + b".5}"
    for path in (RUN, RUN_ASYNC):
        taken = await here.api.post(path, content=b'{"input":%b}' % value, headers=JSON)
        assert taken.status_code in (200, 202)
    await here.model.reached(2)
    alone, envelope = sorted((body for _, body in here.model.calls), key=len)
    assert alone == value
    assert envelope.startswith(b'{"id":"')
    assert envelope.endswith(b',"input":%b}' % value)


PATHS: Final = (
    "/v2/jobs?tag.a=%00", "/v2/jobs?tag.%00=a", "/v2/jobs?status=%00", "/v2/jobs?endpointId=%00",
    "/v2/jobs?since=%00", "/v2/jobs?since=99999999999999999999", "/v2/jobs?cursor=%00",
    "/v2/jobs?until=0001-01-01T00:00:00%2B14:00", "/v2/jobs?limit=99999999999999999999",
    f"/v2/jobs?tag.a={'a' * 5_000}", "/v2/jobs?tag=%ff", "/v2/jobs/%00/status",
    "/v2/jobs/%F0%9F%98%80/status", "/v2/jobs/health", "/v2/endpoints/status/x",
    "/v2/projects/p/apps/p-ep/runs?nextToken=%00", "/v2/projects/p/apps/p-ep/runs?limit=0",
    "/v2/projects/p/apps/p-ep/runs?asyncOnly=1", "/v2/projects/p/apps/ep/runs",
    "/v2/projects/p/apps/p-/runs", f"/v2/projects/p/apps/p-ep/runs/{'a' * 200}",
    "/v2/ep/requests?cursor=AAAA", "/v2/ep/requests?limit=-1", "/v2/ep/health?x=1",
    "/v2/ep/status/%00", "/v2/ep/status/..%2f..", "/v2/ep/status/%2e%2e", "/v2/ep/status/%ff",
    "/v2/ep/status/x?ttl=%00", f"/v2/ep/stream/job_{'0' * 32}", "/v2//health", "/v2/ep/nope",
    "/v4/p/ep/%2e%2e?async=true", "/v4/%2e%2e/ep/run?async=%00", "/v4/p/ep/run%0d%0aX:y",
    f"/v4/p/ep/{'a' * 65}", "/v4/p/ep/run%20", "/v4/p/ep/r%C3%A9", "/v4/p/ep/run%3Fx",
)  # fmt: skip
METHODS: Final = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")


async def test_any_path_and_query_is_refused(on_both: Platform) -> None:
    """By every method: 404 for what is no name, 405 with what there is, else what is wrong with a
    parameter, in the dialect's status."""
    for path in PATHS:
        for method in METHODS:
            answer = await on_both.api.request(method, path)
            assert answer.status_code in (400, 404, 405, 422), (method, path)
            if answer.status_code == 405:
                assert answer.headers["allow"] in ("GET", "POST", "GET, POST")
            if method == "HEAD":
                assert answer.content == b""
            else:
                check(answer)


async def test_a_filter_is_named_as_it_was_given(here: Platform) -> None:
    for query in ("endpointId=", "endpointId=%00", "endpoint=ep"):
        answer = await here.api.get(f"/v2/jobs?{query}")
        field = reject(answer, 422, "VALIDATION_ERROR")["field"]
        assert field == query.partition("=")[0]


HEADERS: Final = (
    ("X-Webhook-Secret", b"\xff"), ("X-Webhook-Secret", b"a\tb"), ("X-Webhook-Secret", b""),
    ("X-Webhook-Secret", b"a" * 5_000), ("Idempotency-Key", b"\xff"), ("Idempotency-Key", b'""'),
    ("Idempotency-Key", b"a" * 300), ("Content-Type", b"\xff/x"), ("Content-Type", b"a\tb"),
    ("Content-Type", b""), ("Content-Type", b"text/plain"), ("Content-Encoding", b"gzip"),
    ("traceparent", b"\xff"), ("Authorization", b"\xff"), ("Authorization", b"Basic x"),
    ("Authorization", b"a b c"), ("X-Request-Id", b"\xff"), ("Postback-Tenant", b"\xff"),
)  # fmt: skip


@pytest.mark.parametrize("path", [RUN, RUN_ASYNC, f"{FUNCTION}?async=true", FUNCTION])
async def test_any_header_is_taken_or_refused(here: Platform, path: str) -> None:
    """And none of them goes on to the upstream as a header of its own making."""
    for name, value in HEADERS:
        json_type = {} if name == "Content-Type" else {b"Content-Type": b"application/json"}
        headers = {**json_type, name.encode(): value}
        check(await here.api.post(path, content=b'{"input":{}}', headers=headers))
    for got, _ in here.model.calls:
        assert not {"x-webhook-secret", "authorization", "postback-tenant"} & set(got)
        assert "\xff" not in "".join(got.values())


# --- what becomes of a job's world ---


async def test_a_look_at_a_streams_head_takes_nothing_from_it(here: Platform) -> None:
    """HEAD changes nothing: the piece is in the answer to who reads it."""
    id = (await here.api.post(RUN, json={"input": {}})).json()["id"]
    await here.ended(id)
    assert (await here.api.head(f"/v2/ep/stream/{id}")).status_code == 200
    assert len((await here.api.get(f"/v2/ep/stream/{id}")).json()["stream"]) == 1
    assert (await here.api.get(f"/v2/ep/stream/{id}")).json()["stream"] == []


async def test_a_run_is_shown_at_the_address_that_it_was_given(on_both: Platform) -> None:
    """Also once its project has an endpoint of its own, and once its endpoint is gone; to its own
    customer, and at its own app."""
    at = on_both
    taken = await at.api.post(f"{FUNCTION}?async=true", content=b"{}")
    shown, id = taken.headers["location"], taken.json()["run_id"]
    await at.ended(id)
    await at.world.endpoint(at.model.url, "p-ep")
    assert (await at.api.get(shown)).json()["item"]["status"] == "success"
    for name in ("p-ep", "ep"):
        assert (await at.api.delete(f"/v1/endpoints/{name}")).status_code == 204
    assert (await at.api.get(shown)).json()["item"]["id"] == id
    reject(await at.api.get(f"/v2/projects/p/apps/p-other/runs/{id}"), 404, "NOT_FOUND")
    async with await at.tenant("acme") as other:
        reject(await other.get(shown), 404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/v2/jobs/{}/retry", "/v1/jobs/{}/retry"])
async def test_a_call_that_is_being_closed_is_worth_another_try(
    here: Platform, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that was cancelled while it ran is run again once its call has ended: until then 409,
    with when to ask. What will not pass by itself says nothing of that."""
    free, freed = asyncio.Event(), JobStore.freed

    async def later(self: JobStore, *given: Any, **named: Any) -> Any:
        await free.wait()
        return await freed(self, *given, **named)

    monkeypatch.setattr(JobStore, "freed", later)
    here.model.go.clear()
    id = (await here.api.post(RUN, json={"input": {}})).json()["id"]
    await here.model.reached(1)
    reject(running := await here.api.post(path.format(id)), 409, "CONFLICT")
    assert "retry-after" not in running.headers
    assert (await here.api.post(f"/v2/ep/cancel/{id}")).json()["status"] == "CANCELLED"
    reject(early := await here.api.post(path.format(id)), 409, "CONFLICT")
    assert early.headers["retry-after"] == "1"
    free.set()
    here.model.go.set()

    async def again() -> bool:
        return bool((await here.api.post(path.format(id))).status_code == 200)

    await until(again)
    assert (await here.ended(id))["run"] == 2


async def test_an_endpoint_that_was_just_removed_is_made_again_soon(
    here: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """409 with when to ask, while what waited for it is being ended; its jobs are told of it."""
    go, end_purged = asyncio.Event(), JobStore.end_purged

    async def later(self: JobStore, **named: Any) -> EndedSlice:
        return await end_purged(self, **named) if go.is_set() else EndedSlice(0, False)

    monkeypatch.setattr(JobStore, "end_purged", later)
    assert (await here.api.post("/v1/endpoints/ep/pause")).status_code == 200
    id = (await here.api.post(RUN, json={"input": {}, "webhook": here.hook.url})).json()["id"]
    assert (await here.api.delete("/v1/endpoints/ep")).status_code == 204
    new = {"name": "ep", "url": here.model.url}
    reject(early := await here.api.post("/v1/endpoints", json=new), 409, "CONFLICT")
    assert early.headers["retry-after"] == "1"
    go.set()

    async def made() -> bool:
        return bool((await here.api.post("/v1/endpoints", json=new)).status_code == 201)

    await until(made)
    ((_, told),) = await here.hook.received(1)
    assert json.loads(told)["status"] == "CANCELLED"
    assert (await here.api.get(f"/v2/ep/status/{id}")).json()["status"] == "CANCELLED"


async def test_who_waits_for_what_is_past_its_retention_is_told(tmp_path: Path) -> None:
    """A repeated key finds the first job, whose output may be gone by then: 410, and no empty
    success. RunPod's status has no place for that: its job has completed, without output."""
    async with platform(f"sqlite:///{tmp_path}/jobs.db", sweep_interval=0.05) as at:
        await at.world.endpoint(at.model.url, "ep", keep=Keep(input=0.0, output=0.0))
        for number, (path, waits) in enumerate(
            (
                (RUN_SYNC, {}),
                (FUNCTION, {}),
                ("/v1/endpoints/ep/jobs", {"Prefer": "wait=10"}),
                ("/v2/ep/runsync", {}),
            )
        ):
            headers = {**JSON, **waits, "Idempotency-Key": f"key-{number}"}
            first = await at.api.post(path, content=b'{"input":{}}', headers=headers)
            assert first.status_code == 200
            assert first.json() != {}
            (job,) = (await at.api.get("/v1/jobs?limit=1")).json()["data"]

            async def gone(id: str = job["id"]) -> bool:
                return bool((await at.api.get(f"/v1/jobs/{id}/output")).status_code == 410)

            await until(gone)
            again = await at.api.post(path, content=b'{"input":{}}', headers=headers)
            if path == "/v2/ep/runsync":
                assert again.json()["status"] == "COMPLETED"
                assert "output" not in again.json()
            else:
                reject(again, 410, "PAYLOAD_GONE")
        assert len(at.model.calls) == 4


async def test_who_may_only_submit_learns_nothing_else(here: Platform) -> None:
    """403 for whatever looks at a job or changes one, whatever it came by; another customer's jobs
    are unknown by every spelling, and so are its keys."""
    own = await make_key(here.api, tenant="acme", scopes=["submit"])
    everything = await make_key(here.api, tenant="other", scopes=["submit", "read", "operate"])
    async with client(here.url, own) as acme, client(here.url, everything) as other:
        headers = {"Idempotency-Key": "the-same"}
        id = (await acme.post(RUN, json={"input": {}}, headers=headers)).json()["id"]
        theirs = await other.post(RUN, json={"input": {"b": 1}}, headers=headers)
        assert theirs.status_code == 200
        assert theirs.json()["id"] != id
        plain = id.replace("-", "")
        paths = [
            (method, path.format(spelled))
            for spelled in (id, plain, f"job_{plain}", f"sync-{id}", id.upper())
            for method, path in (
                ("GET", "/v2/ep/status/{}"), ("POST", "/v2/ep/status/{}"),
                ("GET", "/v2/ep/status-sync/{}"), ("POST", "/v2/ep/stream/{}"),
                ("POST", "/v2/ep/cancel/{}"), ("POST", "/v2/ep/retry/{}"),
                ("GET", "/v2/jobs/{}/status"), ("POST", "/v2/jobs/{}/cancel"),
                ("POST", "/v2/jobs/{}/retry"), ("GET", "/v2/projects/p/apps/p-ep/runs/{}"),
            )
        ]  # fmt: skip
        for method, path in paths:
            reject(await acme.request(method, path), 403, "FORBIDDEN")
            reject(await other.request(method, path), 404, "NOT_FOUND")
        for method, path in (
            ("GET", "/v2/jobs"), ("GET", "/v2/ep/requests"), ("GET", "/v2/ep/health"),
            ("POST", "/v2/ep/purge-queue"), ("GET", "/v2/projects/p/apps/p-ep/runs"),
        ):  # fmt: skip
            reject(await acme.request(method, path), 403, "FORBIDDEN")


async def test_at_the_end_of_the_process_who_waits_gets_the_present_state(here: Platform) -> None:
    """Runsync of both dialects and status-sync are answered at once; what runs is run again by the
    next process."""
    here.model.go.clear()
    id = (await here.api.post(RUN, json={"input": {}})).json()["id"]
    waiting = [
        asyncio.create_task(here.api.post("/v2/ep/runsync", json={"input": {}})),
        asyncio.create_task(here.api.post(RUN_SYNC, json={"input": {}})),
        asyncio.create_task(here.api.get(f"/v2/ep/status-sync/{id}")),
    ]
    waiters = here.world.service.gateway.waiters
    await until(lambda: waiters.held == 3)
    here.world.service.gateway.refuse_submits()
    runsync, run_sync, shown = await asyncio.gather(*waiting)
    assert (runsync.status_code, runsync.json()["status"]) == (200, "IN_PROGRESS")
    assert (run_sync.status_code, run_sync.json()["status"]) == (202, "queued")
    assert (shown.status_code, shown.json()["status"]) == (200, "IN_PROGRESS")
    for path in (RUN, "/v2/ep/runsync", RUN_ASYNC, RUN_SYNC, FUNCTION, f"{FUNCTION}?async=true"):
        late = await here.api.post(path, json={"input": {}})
        assert late.status_code in (429, 503)
        assert late.headers["retry-after"] == "1"
