"""Cerebrium's routes, over sockets: an unmodified request has its run, and its webhook the
function's very answer."""

import asyncio
import hashlib
import hmac
import json
import re
import shlex
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx
import pytest
from aiohttp import web

from dispatcher import ids, signing
from dispatcher.dialects import cerebrium as words
from dispatcher.dialects.snapshot import Snapshot
from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.judge import run_limit_s
from dispatcher.jobs.states import FINAL
from dispatcher.jobs.told import End
from dispatcher.jobs.values import Output
from dispatcher.policy import PRESETS
from receiver.signature import Fields, Keys
from receiver.verification import cerebrium as verification
from tests import theft
from tests.dispatcher.api.talk import reject
from tests.dispatcher.dialects.stage import JSON, Platform, between, client, platform
from tests.dispatcher.gateway.rig import ADMIN_KEY, Sink, served, sink, upstream
from tests.dispatcher.jobs.made import job
from tests.dispatcher.postgres import folders

PROJECT: Final = "p-1a2b3c4d"
APP: Final = "my-app"
ENDPOINT: Final = f"{PROJECT}-{APP}"
PATH: Final = f"/v4/{PROJECT}/{APP}/run"
RUNS: Final = f"/v2/projects/{PROJECT}/apps/{ENDPOINT}/runs"
BODY: Final = b'{"param": "hello world"}'
BODIES: Final = (
    BODY, b"{}", b'[1,  {"a": 1, "a": 2}]', b'"text"', b"7.50", b"null", b"no JSON", b"", b"\0\xff",
)  # fmt: skip
HOOK_SECRET: Final = "s\u00e9cret of the caller, 32 characters"


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
    """A platform with the app's endpoint, on each store."""
    async with platform(database) as made:
        await made.world.endpoint(made.model.url, ENDPOINT)
        yield made


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Platform]:
    """The same where the store makes no difference."""
    async with platform(f"sqlite:///{tmp_path}/jobs.db") as made:
        await made.world.endpoint(made.model.url, ENDPOINT)
        yield made


async def call(at: Platform, body: bytes = BODY, path: str = PATH, **more: Any) -> httpx.Response:
    """Call the function; query parameters by name, `headers` apart."""
    headers = {**JSON, **more.pop("headers", {})}
    params = {"async" if name == "is_async" else name: value for name, value in more.items()}
    return await at.api.post(path, content=body, headers=headers, params=params)


async def begun(at: Platform, body: bytes = BODY, **more: Any) -> str:
    """The id of a run that nobody waits for."""
    taken = await call(at, body, is_async="true", **more)
    assert taken.status_code == 202, taken.text
    run_id: str = taken.json()["run_id"]
    return run_id


async def told(at: Platform, count: int = 1) -> tuple[dict[str, str], bytes]:
    """The last of so many callbacks: its headers and its body."""
    return (await at.hook.received(count))[count - 1]


async def shown(at: Platform, run_id: str) -> dict[str, Any]:
    """A run as the platform's own tools read it."""
    answer = await at.api.get(f"{RUNS}/{run_id}")
    assert answer.status_code == 200, answer.text
    item: dict[str, Any] = answer.json()["item"]
    return item


# --- taking a call ---


async def test_an_async_call_is_answered_at_once_with_fifty_bytes(on_both: Platform) -> None:
    """202 while the function runs, with nothing but the run's id and a newline; `X-Request-Id` is
    that id, whatever the caller's own was, and `Location` is where the run is shown."""
    at = on_both
    at.model.go.clear()
    taken = await call(at, is_async="true", headers={"X-Request-Id": "the-callers-own"})
    run_id = taken.json()["run_id"]
    assert taken.status_code == 202
    assert taken.content == b'{"run_id":"%b"}\n' % run_id.encode()
    assert (len(taken.content), taken.headers["content-length"]) == (50, "50")
    assert str(uuid.UUID(run_id)) == run_id
    assert taken.headers.get_list("x-request-id") == [run_id]
    assert taken.headers["content-type"] == "application/json"
    assert taken.headers["location"] == f"{RUNS}/{run_id}"
    assert int(taken.headers["retry-after"]) >= 1
    await at.model.reached(1)
    assert (await at.api.get(taken.headers["location"])).json()["item"]["status"] == "running"
    at.model.go.set()
    assert (await at.ended(run_id))["status"] == "completed"


async def test_the_body_goes_to_the_function_byte_for_byte(here: Platform) -> None:
    """No `input` around it, nothing of it read; with its content type, and never with whose key it
    was or what signs the callback."""
    headers = {b"Content-Type": b"application/json; a=b", b"X-Webhook-Secret": HOOK_SECRET.encode()}
    params = {"async": "true", "webhookEndpoint": here.hook.url}
    for number, body in enumerate(BODIES, start=1):
        taken = await here.api.post(PATH, content=body, headers=headers, params=params)
        assert taken.status_code == 202
        await told(here, number)
        got, sent = here.model.calls[-1]
        assert sent == body
        assert got["content-type"] == "application/json; a=b"
        assert (got["x-job-id"], got["x-job-function"]) == (taken.json()["run_id"], "run")
        assert not {"authorization", "x-webhook-secret"} & set(got)


async def test_a_body_without_a_type_is_json(here: Platform) -> None:
    """As on that platform, where bodies are JSON."""
    await here.api.post(PATH, content=BODY, params={"async": "true"})
    await here.model.reached(1)
    assert here.model.calls[0][0]["content-type"] == "application/json"


async def test_async_is_true_in_any_case(here: Platform) -> None:
    """As clients write it, some of them in their language's own way."""
    for text in ("true", "True", "TRUE"):
        assert (await call(here, is_async=text)).status_code == 202
    for text in ("false", "False"):
        assert (await call(here, is_async=text)).status_code == 200


async def test_what_cannot_be_meant_is_422_and_runs_nothing(here: Platform) -> None:
    for params, field in (
        ({"async": "yes"}, "async"),
        ({"async": ""}, "async"),
        ({"async": "true", "webhookendpoint": "http://127.0.0.1/"}, "webhookendpoint"),
        ({"async": "true", "webhookEndpoint": ""}, "webhookEndpoint"),
        ({"async": "true", "webhookEndpoint": "ftp://127.0.0.1/"}, "webhookEndpoint"),
        ({"async": "true", "webhookEndpoint": "http://169.254.169.254/"}, "webhookEndpoint"),
    ):
        answer = await here.api.post(PATH, content=BODY, params=params)
        assert reject(answer, 422, "VALIDATION_ERROR")["field"] == field
    assert here.model.calls == []
    assert (await here.api.get("/v1/jobs")).json()["data"] == []


async def test_an_apps_endpoint_is_its_own_or_that_of_all_projects(here: Platform) -> None:
    """`{project}-{app}` where there is one, else `{app}`; a project is no customer. What there is
    not, or not for this customer, is 404 at the call."""
    await here.world.endpoint(here.model.url, "shared-app")
    await here.world.endpoint(here.model.url, f"{PROJECT}-private", tenants=("acme",))
    run_ids = {}
    for project, app in ((PROJECT, APP), (PROJECT, "shared-app"), ("p-other", "shared-app")):
        taken = await call(here, path=f"/v4/{project}/{app}/run", is_async="true")
        run_ids[project, app] = taken.json()["run_id"]
        shown = await here.api.get(taken.headers["location"])
        assert shown.json()["item"]["projectId"] == project
    endpoints = [(await here.ended(one))["endpoint"] for one in run_ids.values()]
    assert endpoints == [ENDPOINT, "shared-app", "shared-app"]
    for path in ("/v4/p-other/my-app/run", "/v4/p-1/no-app/run", f"/v4/{PROJECT}/private/run"):
        reject(await call(here, path=path, is_async="true"), 404, "NOT_FOUND")
        reject(await call(here, path=path), 404, "NOT_FOUND")
    async with await here.tenant("acme") as acme:
        own = await acme.post(f"/v4/{PROJECT}/private/run", content=BODY, params={"async": "true"})
        assert own.status_code == 202


async def test_only_the_functions_that_an_app_has_are_there(here: Platform) -> None:
    """Without `{function}` in its URL those that it names, others are 404; the function is sent as
    `X-Job-Function`."""
    await here.world.endpoint(here.model.url, "two", functions=("run", "predict"))
    for function in ("run", "predict"):
        assert (await call(here, path=f"/v4/p/two/{function}")).status_code == 200
    assert [got["x-job-function"] for got, _ in here.model.calls] == ["run", "predict"]
    for function in ("train", "Run", "run.", "_", "~"):
        for is_async in ("true", "false"):
            answer = await call(here, path=f"/v4/p/two/{function}", is_async=is_async)
            reject(answer, 404, "NOT_FOUND")
    reject(await call(here, path="/v4/p/two/run/more"), 404, "NOT_FOUND")


async def test_a_function_takes_its_place_in_the_url(here: Platform) -> None:
    """`{function}` in the endpoint's URL: then any name will do."""
    paths = []

    async def take(request: web.Request) -> web.Response:
        paths.append((request.path, request.headers.get("X-Job-Function")))
        return web.Response()

    async with served(take) as url:
        await here.world.endpoint(f"{url}/fn/{{function}}/call", "any")
        for function in ("run", "predict_2", "v1.x-y"):
            assert (await call(here, path=f"/v4/p/any/{function}")).status_code == 200
        reject(await call(here, path="/v4/p/any/-no"), 404, "NOT_FOUND")
    assert paths == [(f"/fn/{one}/call", None) for one in ("run", "predict_2", "v1.x-y")]


async def test_a_key_stands_where_the_jwt_stood(here: Platform) -> None:
    """`Authorization: Bearer KEY`, with the scope to submit; without one 401."""
    headers = {"Authorization": "Bearer eyJhbGciOiJSUzI1NiJ9.e30.x"}
    answer = await here.api.post(PATH, content=BODY, headers=headers)
    reject(answer, 401, "UNAUTHORIZED")
    answer = await here.api.post(PATH, content=BODY, headers={"Authorization": ADMIN_KEY})
    reject(answer, 401, "UNAUTHORIZED")


async def test_the_same_key_is_answered_with_the_same_run(on_both: Platform) -> None:
    """`Idempotency-Key`: one run however often it is asked for; another body is a conflict."""
    key = {"Idempotency-Key": "k-1"}
    first = await call(on_both, is_async="true", headers=key)
    again = await call(on_both, is_async="true", headers=key)
    assert first.content == again.content
    await on_both.ended(first.json()["run_id"])
    waited = await call(on_both, headers=key)  # an end that is there is answered at once
    assert (waited.status_code, waited.content) == (200, on_both.model.body)
    assert waited.headers["x-request-id"] == first.json()["run_id"]
    other = await call(on_both, b"{}", is_async="true", headers=key)
    details = reject(other, 409, "IDEMPOTENCY_CONFLICT")
    assert details["firstId"] == first.json()["run_id"]
    assert len(on_both.model.calls) == 1


# --- its webhook ---

ANSWERS: Final = [
    (b'{"smile": "wave"}', "application/json"),
    (b'{"a":1, "a":2}\r\n', "application/json; charset=utf-8"),
    (b'{"run_id": "x", "result": [1.50], "run_time_ms": 12.25}', "application/json"),
    (b"not what it claims", "application/json"),
    ("gr\u00fc\u00df".encode("latin-1"), "text/plain; charset=iso-8859-1"),
    (b"\x89PNG\r\n\x1a\n\0\xff", "image/png"),
    (b"", "text/plain"),
]


async def test_the_functions_answer_is_sent_on_as_it_is(here: Platform) -> None:
    """Body and type byte for byte, with nothing around it; whose it is stands in headers."""
    for number, (body, content_type) in enumerate(ANSWERS, start=1):
        here.model.body, here.model.headers = body, {"Content-Type": content_type}
        run_id = await begun(here, webhookEndpoint=here.hook.url)
        headers, got = await told(here, number)
        assert (got, headers["content-type"]) == (body, content_type)
        assert headers["x-request-id"] == headers["x-postback-job-id"] == run_id
        assert headers["x-postback-job-status"] == "completed"
        assert headers["x-postback-job-run"] == "1"
        assert headers["x-postback-upstream-status"] == "200"
        assert "x-postback-output" not in headers
        assert not [name for name in headers if name.startswith("x-cerebrium")]


async def test_the_webhook_is_decoded_once(on_both: Platform) -> None:
    """`webhookEndpoint` is URL-encoded; its own query arrives as it was."""
    paths = []

    async def take(request: web.Request) -> web.Response:
        paths.append(request.raw_path)
        return web.Response()

    async with served(take) as url:
        hook = f"{url}/a%20b/?token=x%26y&n=1&async=false"
        query = f"async=true&webhookEndpoint={quote(hook, safe='')}"
        taken = await on_both.api.post(f"{PATH}?{query}", content=BODY, headers=JSON)
        assert taken.status_code == 202

        async def came() -> bool:
            return bool(paths)

        await on_both.world.until(came)
        shown = (await on_both.api.get(taken.headers["location"])).json()["item"]
    assert paths == [hook.removeprefix(url)]
    assert shown["webhookEndpoint"] == hook


async def test_a_failed_function_is_told_in_its_own_words(here: Platform) -> None:
    """The answer of a call that failed is sent on too; `X-Postback-Upstream-Status` is its code."""
    for number, status in enumerate((201, 299, 300, 404, 422, 500, 599), start=1):
        here.model.status, here.model.body = status, b'{"detail":  "as it is"}'
        await begun(here, webhookEndpoint=here.hook.url)
        headers, got = await told(here, number)
        assert got == b'{"detail":  "as it is"}'
        assert headers["x-postback-upstream-status"] == str(status)
        ended = "completed" if status < 300 else "failed"
        assert headers["x-postback-job-status"] == ended


async def test_an_end_without_an_answer_is_told_as_an_error(on_both: Platform) -> None:
    """Where there is no body (timeout, cancel, an empty refusal) it is the one shape of all
    errors; the job's status says which it was, and a code is there only where one came."""
    at = on_both
    at.model.go.clear()
    await at.world.endpoint(at.model.url, f"{PROJECT}-short", timeout=0.3)
    late = await begun(at, path=f"/v4/{PROJECT}/short/run", webhookEndpoint=at.hook.url)
    headers, got = await told(at, 1)
    assert (headers["x-postback-job-status"], headers["content-type"]) == (
        "timeout", "application/json",
    )  # fmt: skip
    assert "x-postback-upstream-status" not in headers
    document = json.loads(got)
    assert set(document) == {"error", "message", "details", "requestId"}
    assert (document["error"], document["requestId"]) == ("JOB_TIMEOUT", late)
    assert document["details"] == {"id": late, "status": "timeout", "reason": "run_limit"}
    stopped = await begun(at, webhookEndpoint=at.hook.url)
    assert (await at.api.post(f"/v1/jobs/{stopped}/cancel")).status_code == 200
    headers, got = await told(at, 2)
    assert (headers["x-postback-job-status"], headers["x-request-id"]) == ("cancelled", stopped)
    document = json.loads(got)
    assert (document["error"], document["details"]["reason"]) == ("JOB_CANCELLED", "user")
    at.model.go.set()
    at.model.status, at.model.body = 500, b""
    await begun(at, webhookEndpoint=at.hook.url)
    headers, got = await told(at, 3)
    document = json.loads(got)
    assert (document["error"], headers["x-postback-upstream-status"]) == ("JOB_FAILED", "500")
    assert document["message"] == "the upstream answered 500"


async def test_what_no_callback_may_carry_is_told_by_its_link(tmp_path: Path) -> None:
    """Up to DISPATCHER_PAYLOAD_BYTES_MAX the answer is copied, however small
    DISPATCHER_CALLBACK_INLINE is; above that the callback says where it is, and that it does."""
    settings = {"payload_bytes_max": 1_000, "callback_inline": 10}
    async with platform(f"sqlite:///{tmp_path}/jobs.db", **settings) as at:
        await at.world.endpoint(at.model.url, ENDPOINT)
        at.model.body, at.model.headers = b"x" * 1_000, {"Content-Type": "text/plain"}
        await begun(at, webhookEndpoint=at.hook.url)
        headers, got = await told(at, 1)
        assert (got, "x-postback-output" in headers) == (b"x" * 1_000, False)
        at.model.body = b"y" * 1_001
        run_id = await begun(at, webhookEndpoint=at.hook.url)
        headers, got = await told(at, 2)
        assert (headers["x-postback-output"], headers["content-type"]) == (
            "reference", "application/json",
        )  # fmt: skip
        assert headers["x-postback-upstream-status"] == "200"
        document = json.loads(got)
        assert (document["size"], document["contentType"]) == (1_001, "text/plain")
        assert run_id.replace("-", "") in document["url"]
        link = urlsplit(document["url"])
        fetched = await at.api.get(f"{link.path}?{link.query}")
        assert fetched.content == b"y" * 1_001


async def test_a_webhook_is_tried_as_that_platform_does(here: Platform) -> None:
    """The preset `cerebrium`: three attempts in all, at most 5 s apart; 2xx acknowledges, 404 and
    a lost connection are tried again, other refusals are not. The endpoint's own policy wins."""
    preset = PRESETS["cerebrium"]
    assert preset.attempts == 3
    assert max(preset.delay_ms(n, 0.999) for n in (1, 2)) <= 5_000
    assert all(preset.acknowledges(code) for code in (200, 201, 204, 299))
    assert preset.retries(404)
    assert not any(preset.retries(code) for code in (400, 401, 409, 410, 429, 500, 502, 503))
    codes = {"gone-wrong": [500], "not-there": [404, 200]}
    came: list[tuple[str, str]] = []

    async def take(request: web.Request) -> web.Response:
        name = request.path.strip("/")
        came.append((name, request.headers["X-Postback-Attempt"]))
        return web.Response(status=codes[name].pop(0))

    async with served(take) as url:
        refused = await begun(here, webhookEndpoint=f"{url}/gone-wrong")
        found = await begun(here, webhookEndpoint=f"{url}/not-there")

        async def over() -> bool:
            states = [(await here.callback(one))["status"] for one in (refused, found)]
            return states == ["dead", "delivered"]

        await here.ended(refused)
        await here.ended(found)
        await here.world.until(over)
    assert sorted(came) == [("gone-wrong", "1"), ("not-there", "1"), ("not-there", "2")]
    policy = (await here.callback(found))["policy"]
    assert (policy["attempts"], policy["retry"]) == (3, [404])


async def test_without_a_webhook_an_app_may_have_one_for_all(here: Platform) -> None:
    """The endpoint's `callback.destination`; a call's own `webhookEndpoint` comes first."""
    made = await here.api.post("/v1/destinations", json={"name": "all", "url": here.hook.url})
    assert made.status_code == 201
    await here.api.post(
        "/v1/endpoints",
        json={"name": "app-2", "url": here.model.url, "callback": {"destination": "all"}},
    )
    taken = await call(here, path="/v4/p/app-2/run", is_async="true")
    callback = await here.callback(taken.json()["run_id"])
    assert callback["destinationName"] == "all"
    own = await call(here, path="/v4/p/app-2/run", is_async="true", webhookEndpoint=here.hook.url)
    assert "destinationName" not in await here.callback(own.json()["run_id"])


# --- its own signature ---


def check_signature(headers: dict[str, str], body: bytes, secret: str = HOOK_SECRET) -> int:
    """Hold a callback against the platform's scheme as its documentation has it; its time."""
    at_s = int(headers["x-cerebrium-webhook-timestamp"])
    signed = f"{headers['x-request-id']}.{at_s}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["x-cerebrium-webhook-signature"] == f"v1,{digest}"
    verified = verification.verify(
        body, Fields(headers), Keys((secret,)), now_s=time.time(), tolerance_s=60
    )
    assert (verified.message_id, verified.timestamp) == (headers["x-request-id"], at_s)
    return at_s


async def test_a_callers_secret_signs_its_callback_beside_ours(on_both: Platform) -> None:
    """`X-Webhook-Secret: S`: `v1,` and the lower-case hexadecimal HMAC-SHA256 over
    `{X-Request-Id}.{timestamp}.{body}`, keyed by the raw secret; our own signature holds too."""
    at = on_both  # its customer verifies our own signature
    secret = {"X-Webhook-Secret": HOOK_SECRET.encode()}
    run_id = await begun(at, webhookEndpoint=at.hook.url, headers=secret)
    headers, body = await told(at, 1)
    assert headers["x-request-id"] == run_id
    assert abs(check_signature(headers, body) - time.time()) < 60
    at.model.status, at.model.body = 500, b"\xff\0"
    await begun(at, webhookEndpoint=at.hook.url, headers=secret)
    check_signature(*await told(at, 2))
    at.model.go.clear()
    stopped = await begun(at, webhookEndpoint=at.hook.url, headers=secret)
    await at.model.reached(3)
    await at.api.post(f"/v1/jobs/{stopped}/cancel")  # told by another verb than a call's end
    check_signature(*await told(at, 3))


def test_each_attempt_has_its_own_time() -> None:
    """What is signed is when it is sent, not when the job ended."""
    first, second = (
        dict(signing.cerebrium_headers("s", request_id="id", body=b"b", now_s=at_s))
        for at_s in (1_000, 1_007)
    )
    assert first["X-Cerebrium-Webhook-Timestamp"] == "1000"
    assert second["X-Cerebrium-Webhook-Timestamp"] == "1007"
    assert first["X-Cerebrium-Webhook-Signature"] != second["X-Cerebrium-Webhook-Signature"]
    assert first["X-Cerebrium-Webhook-Signature"] == verification.sign("s", "id", 1_000, b"b")


async def test_a_secret_outlives_a_restart_and_a_replay(database: str) -> None:
    """It lives with the callback's payload: a replay by another process signs as the first did."""
    async with upstream() as model, sink() as hook:
        async with between(database, model, hook) as at:
            await at.world.endpoint(model.url, ENDPOINT)
            secret = {"X-Webhook-Secret": HOOK_SECRET.encode()}
            run_id = await begun(at, webhookEndpoint=hook.url, headers=secret)
            before = await told(at, 1)
            callback = f"/v1/callbacks/{(await at.callback(run_id))['id']}"
        async with between(database, model, hook) as again:

            async def delivered() -> bool:
                return bool((await again.api.get(callback)).json()["status"] == "delivered")

            await again.world.until(delivered)
            replayed = await again.api.post(f"{callback}/replay")
            assert replayed.status_code == 200, replayed.text
            after = await told(again, 2)
    assert before[1] == after[1]
    check_signature(*after)


async def test_a_run_that_is_retried_is_signed_too(on_both: Platform) -> None:
    """A failed one, with its input: the next run's callback by the same secret."""
    at = on_both
    at.model.status = 500
    secret = {"X-Webhook-Secret": HOOK_SECRET.encode()}
    run_id = await begun(at, webhookEndpoint=at.hook.url, headers=secret)
    await told(at, 1)
    at.model.status = 200
    assert (await at.api.post(f"/v1/jobs/{run_id}/retry")).status_code == 200
    headers, body = await told(at, 2)
    check_signature(headers, body)
    assert (headers["x-request-id"], headers["x-postback-job-run"]) == (run_id, "2")


async def test_a_secret_that_cannot_be_one_is_refused_and_not_repeated(here: Platform) -> None:
    """Rather than sign nothing, or something else. What was given is never in the answer."""
    for value in (b"", b"\xff\xfe", b"x" * 2_049, b"a\xc2\x85b", b"whsec_"):
        headers = [(b"X-Webhook-Secret", value), (b"Content-Type", b"application/json")]
        params = {"async": "true", "webhookEndpoint": here.hook.url}
        answer = await here.api.post(PATH, content=BODY, headers=headers, params=params)
        details = reject(answer, 422, "VALIDATION_ERROR")
        assert (details["field"], details["value"]) == ("X-Webhook-Secret", None)
    assert here.model.calls == []


async def test_two_secrets_say_two_things(here: Platform) -> None:
    headers = [("X-Webhook-Secret", "a" * 20), ("X-Webhook-Secret", "b" * 20)]
    answer = await here.api.post(PATH, content=BODY, headers=headers, params={"async": "true"})
    reject(answer, 400, "BAD_REQUEST")


async def test_a_secret_is_kept_sealed_or_not_at_all(tmp_path: Path) -> None:
    """Where there are no keys to seal it with the call is refused; without a webhook the secret is
    not kept, and refuses nothing."""
    url = folders.url_for(tmp_path, used=True)
    async with platform(url, encryption_keys=None) as at:
        await at.world.endpoint(at.model.url, ENDPOINT)
        secret = {"X-Webhook-Secret": HOOK_SECRET.encode()}
        answer = await call(at, is_async="true", webhookEndpoint=at.hook.url, headers=secret)
        reject(answer, 409, "KEYS_REQUIRED")
        assert (await call(at, is_async="true", headers=secret)).status_code == 202
        await begun(at, webhookEndpoint=at.hook.url)
        await told(at, 1)
    folders.empty_under(tmp_path)


# --- whoever waits ---


async def test_who_waits_gets_the_functions_own_answer(here: Platform) -> None:
    """Status, type and body as they are, of whatever answer; and no call is made twice."""
    here.model.body = b'{"said":  "this"}'
    here.model.headers = {
        "Content-Type": "application/vnd.x+json; v=1", "Content-Language": "de",
        "X-Request-Id": "the upstream's", "X-Other": "not passed",
    }  # fmt: skip
    codes = (200, 201, 299, 302, 401, 404, 409, 422, 429, 500, 502, 503, 504)
    for number, status in enumerate(codes, start=1):
        here.model.status = status
        await here.world.endpoint(here.model.url, f"app-{status}")  # some of these hold one
        answer = await call(here, path=f"/v4/p/app-{status}/run")
        assert (answer.status_code, answer.content) == (status, b'{"said":  "this"}')
        assert answer.headers["content-type"] == "application/vnd.x+json; v=1"
        assert answer.headers["content-language"] == "de"
        assert "x-other" not in answer.headers
        [run_id] = answer.headers.get_list("x-request-id")
        assert ids.parse_job_id(run_id)
        assert ((await here.ended(run_id))["attempts"], len(here.model.calls)) == (1, number)


async def test_who_waits_gets_any_body(here: Platform) -> None:
    """JSON or not, empty or not."""
    for body, content_type in ANSWERS:
        here.model.body, here.model.headers = body, {"Content-Type": content_type}
        answer = await call(here)
        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["content-type"] == content_type


async def test_an_answer_without_a_body_has_none(here: Platform) -> None:
    """204: a status that carries none, on a connection that goes on."""
    here.model.status, here.model.body = 204, b""
    for _ in range(2):
        answer = await call(here)
        assert (answer.status_code, answer.content) == (204, b"")


async def test_who_waits_may_have_the_answer_sent_on_too(on_both: Platform) -> None:
    """`webhookEndpoint` works on any call."""
    secret = {"X-Webhook-Secret": HOOK_SECRET.encode()}
    answer = await call(on_both, webhookEndpoint=on_both.hook.url, headers=secret)
    headers, body = await told(on_both)
    assert (answer.status_code, answer.content) == (200, body)
    assert headers["x-request-id"] == answer.headers["x-request-id"]
    check_signature(headers, body)


async def test_a_call_that_was_lost_is_not_made_again(here: Platform) -> None:
    """Once sent it is never tried again while somebody waits: 502 says what is known."""
    calls = []

    async def take(request: web.Request) -> web.Response:
        calls.append(request)
        assert request.transport is not None
        request.transport.abort()
        await asyncio.sleep(60)
        return web.Response()

    async with served(take) as url:
        await here.world.endpoint(url, "lossy", retry={"base": 0.01, "factor": 1, "cap": 0.01})
        answer = await call(here, path="/v4/p/lossy/run")
    details = reject(answer, 502, "JOB_FAILED")
    assert details["reason"] == "unknown_outcome"
    assert answer.headers["x-request-id"] == details["id"]
    assert len(calls) == 1


async def test_what_never_went_out_is_tried_until_its_time_is_over(here: Platform) -> None:
    """A refused connection spends nothing; past the queue timeout it is 504."""
    retry = {"base": 0.02, "factor": 1, "cap": 0.02}
    await here.world.endpoint("http://127.0.0.1:9/", "away", queue_timeout=0.3, retry=retry)
    details = reject(await call(here, path="/v4/p/away/run"), 504, "JOB_TIMEOUT")
    assert details["reason"] == "expired"


async def test_who_waits_is_told_of_its_run_limit(here: Platform) -> None:
    """The endpoint's `timeout` is the app's response_grace_period."""
    here.model.go.clear()
    await here.world.endpoint(here.model.url, "short", timeout=0.2)
    details = reject(await call(here, path="/v4/p/short/run"), 504, "JOB_TIMEOUT")
    assert details["reason"] == "run_limit"


async def test_who_waits_is_told_of_a_cancel(here: Platform) -> None:
    here.model.go.clear()
    waiting = asyncio.create_task(call(here))
    await here.model.reached(1)
    [job] = (await here.api.get("/v1/jobs")).json()["data"]
    await here.api.post(f"/v1/jobs/{job['id']}/cancel")
    details = reject(await waiting, 409, "JOB_CANCELLED")
    assert details["reason"] == "user"


async def hang_up(at: Platform, path: str = PATH, query: str = "") -> None:
    """Call the function, and hang up once the model has the call."""
    parts = urlsplit(at.url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    before = len(at.model.calls)
    writer.write(
        f"POST {path}{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
        + BODY
    )
    await at.model.reached(before + 1)
    writer.close()
    await writer.wait_closed()


async def test_who_hangs_up_cancels_the_run(on_both: Platform) -> None:
    """The call is closed, the job says why, and its webhook is told."""
    at = on_both
    at.model.go.clear()
    await hang_up(at, query=f"?webhookEndpoint={quote(at.hook.url, safe='')}")
    await at.model.until(lambda one: one.closed == 1)
    headers, body = await told(at)
    assert headers["x-postback-job-status"] == "cancelled"
    document = json.loads(body)
    assert (document["error"], document["details"]["reason"]) == ("JOB_CANCELLED", "disconnected")
    job = await at.ended(headers["x-request-id"])
    assert (job["status"], job["reason"]) == ("cancelled", "disconnected")
    assert (await shown(at, headers["x-request-id"]))["status"] == "cancelled"


async def test_who_hangs_up_keeps_the_run_where_the_endpoint_says_so(here: Platform) -> None:
    """`on_disconnect = "keep"`."""
    here.model.go.clear()
    await here.world.endpoint(here.model.url, "kept", on_disconnect="keep")
    await hang_up(here, "/v4/p/kept/run")

    async def nobody_waits() -> bool:
        return here.world.service.gateway.waiters.held == 0

    await here.world.until(nobody_waits)
    here.model.go.set()
    [job] = (await here.api.get("/v1/jobs")).json()["data"]
    assert (await here.ended(job["id"]))["status"] == "completed"
    assert here.model.closed == 0


async def test_who_hangs_up_cancels_no_run_of_another(here: Platform) -> None:
    """A run that a request only attached to, by its key, goes on for the one that made it."""
    here.model.go.clear()
    key = {"Idempotency-Key": "k"}
    first = asyncio.create_task(call(here, headers=key))
    await here.model.reached(1)
    second = asyncio.create_task(call(here, headers=key))

    async def both_wait() -> bool:
        return here.world.service.gateway.waiters.held == 2

    await here.world.until(both_wait)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)

    async def one_waits() -> bool:
        return here.world.service.gateway.waiters.held == 1

    await here.world.until(one_waits)
    here.model.go.set()
    assert (await first).status_code == 200


async def test_beyond_the_budget_a_waiter_is_429_and_nothing_runs(tmp_path: Path) -> None:
    """A tenant has a quarter of DISPATCHER_WAITERS_MAX: who finds no place is told so before
    anything is stored. Who does not wait needs none."""
    async with platform(f"sqlite:///{tmp_path}/jobs.db", waiters_max=4) as at:
        await at.world.endpoint(at.model.url, ENDPOINT)
        at.model.go.clear()
        held = asyncio.create_task(call(at))
        await at.model.reached(1)
        answer = await call(at)
        reject(answer, 429, "TOO_MANY_WAITING")
        assert int(answer.headers["retry-after"]) >= 1
        assert len((await at.api.get("/v1/jobs")).json()["data"]) == 1
        taken = await call(at, is_async="true")
        assert taken.status_code == 202
        at.model.go.set()
        assert (await held).status_code == 200
        await at.ended(taken.json()["run_id"])
        assert (await call(at)).status_code == 200


async def test_at_the_end_of_the_process_waiters_are_429(on_both: Platform) -> None:
    """At once, and what they waited for is cancelled: whoever asks again is not run twice."""
    at = on_both
    at.model.go.clear()
    held = asyncio.create_task(call(at))
    await at.model.reached(1)
    at.world.service.gateway.waiters.stop()
    answer = await held
    reject(answer, 429, "TOO_MANY_WAITING")
    assert int(answer.headers["retry-after"]) >= 1
    reject(await call(at), 429, "TOO_MANY_WAITING")
    await at.model.until(lambda one: one.closed == 1)
    [job] = (await at.api.get("/v1/jobs")).json()["data"]
    assert (job["status"], job["reason"]) == ("cancelled", "disconnected")


async def test_a_process_that_is_told_to_stop_lets_nobody_wait(tmp_path: Path) -> None:
    """SIGTERM: 429 at once, however long jobs may go on; and the process ends without the call."""
    database = f"sqlite:///{tmp_path}/jobs.db"
    async with upstream() as model:
        model.go.clear()
        with theft.served(database, tmp_path / "log", JOB_DRAIN="60") as process:
            async with client(str(process.client.base_url), theft.ADMIN_KEY) as api:
                made = await api.post("/v1/endpoints", json={"name": APP, "url": model.url})
                assert made.status_code == 201
                waiting = asyncio.create_task(api.post(PATH, content=BODY, headers=JSON))
                await model.reached(1)
                process.process.terminate()
                reject(await waiting, 429, "TOO_MANY_WAITING")
                await model.until(lambda one: one.closed == 1)
            assert await asyncio.to_thread(process.process.wait, 60) == 0
        async with between(database, model, Sink()) as again:
            [job] = (await again.api.get("/v1/jobs")).json()["data"]
            assert (job["status"], job["reason"]) == ("cancelled", "disconnected")


def test_a_run_lasts_for_its_grace_period_and_twelve_hours_at_most() -> None:
    """15 minutes unless the endpoint's `timeout` says otherwise; never more than 12 hours."""
    for rules, seconds in (
        ({}, 900.0),
        ({"timeout": 60.0}, 60.0),
        ({"timeout": 36_000.0}, 36_000.0),
        ({"timeout": 86_400.0}, 43_200.0),
        ({"timeout": 86_400.0, "timeout_max": 100.0}, 100.0),
    ):
        of_app = EndpointRules(url="http://h/", **rules)  # type: ignore[arg-type]
        assert run_limit_s(None, of_app, "cerebrium") == seconds


# --- runs ---


async def test_a_run_is_shown_as_its_tools_read_it(on_both: Platform) -> None:
    """Every field in the type in which the platform's command line reads it; `async` is whether
    nobody waited."""
    at = on_both
    answer = await call(at)
    run_id = await begun(at, webhookEndpoint=f"{at.hook.url}?token=t")
    await at.ended(run_id)
    listed = (await at.api.get(RUNS)).json()
    assert set(listed) == {"items", "nextToken"}
    assert listed["nextToken"] == ""
    newest, oldest = listed["items"]
    assert (newest["id"], oldest["id"]) == (run_id, answer.headers["x-request-id"])
    assert (newest["async"], oldest["async"]) == (True, False)
    for run in listed["items"]:
        assert (run["projectId"], run["modelId"]) == (PROJECT, ENDPOINT)
        assert (run["functionName"], run["method"], run["websocket"]) == ("run", "POST", False)
        assert (run["status"], run["statusCode"]) == ("success", 200)
        for name in ("createdAt", "updatedAt", "completedAt"):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", run[name])
        assert run["createdAt"] <= run["updatedAt"] == run["completedAt"]
        for name in ("queueTimeMs", "runtimeMs", "responseTimeMs"):
            assert isinstance(run[name], float)
        for name in ("totalQueueTimeMs", "executionTimeMs", "totalResponseTimeMs"):
            assert isinstance(run[name], int)
        assert run["queueTimeMs"] + run["runtimeMs"] == run["responseTimeMs"]
    assert (newest["webhookEndpoint"], oldest["webhookEndpoint"]) == (
        f"{at.hook.url}?token=t", "",
    )  # fmt: skip
    assert await shown(at, run_id) == newest
    only = (await at.api.get(RUNS, params={"asyncOnly": "true"})).json()["items"]
    assert [one["id"] for one in only] == [run_id]
    assert len((await at.api.get(RUNS, params={"asyncOnly": "false"})).json()["items"]) == 2


async def test_an_async_run_shows_the_state_of_the_call_inside(on_both: Platform) -> None:
    """2xx is `success`, 5xx `failure`, another code that code, a cancelled one `cancelled`; until
    its end `queued` or `running`, without a code."""
    at = on_both
    for status, word in ((204, "success"), (500, "failure"), (503, "failure"), (422, "422")):
        rules = {"attempts": 1, "delivery": "at-most-once"}
        name = f"app-{status}"
        await at.world.endpoint(at.model.url, f"{PROJECT}-{name}", **rules)
        at.model.status = status
        taken = await call(at, path=f"/v4/{PROJECT}/{name}/run", is_async="true")
        await at.ended(taken.json()["run_id"])
        item = (await at.api.get(taken.headers["location"])).json()["item"]
        assert (item["status"], item["async"]) == (word, True), status
        if status != 503:  # which at most once is an unknown outcome: no answer of the function's
            assert item["statusCode"] == status
    at.model.status = 200
    at.model.go.clear()
    await at.world.endpoint(at.model.url, f"{PROJECT}-one", concurrency=1)
    path, runs = f"/v4/{PROJECT}/one/run", f"/v2/projects/{PROJECT}/apps/{PROJECT}-one/runs"
    before = len(at.model.calls)
    first, second = [await begun(at, path=path) for _ in range(2)]
    await at.model.reached(before + 1)
    items = {one["id"]: one for one in (await at.api.get(runs)).json()["items"]}
    assert (items[first]["status"], items[second]["status"]) == ("running", "queued")
    for one in items.values():
        assert not {"statusCode", "completedAt"} & set(one)
    await at.api.post(f"/v1/jobs/{second}/cancel")
    item = (await at.api.get(f"{runs}/{second}")).json()["item"]
    assert (item["status"], item["statusCode"]) == ("cancelled", 0)


async def test_runs_come_in_pages(on_both: Platform) -> None:
    """Newest first; `nextToken` leads on, also where all of a page are left out."""
    at = on_both
    expected = []
    for number in range(7):
        if number % 3:
            expected.append(await begun(at))
        else:
            await call(at)
    found: list[str] = []
    token = ""
    for _ in range(20):
        params = {"limit": "2", "asyncOnly": "true"} | ({"nextToken": token} if token else {})
        page = (await at.api.get(RUNS, params=params)).json()
        assert len(page["items"]) <= 2
        found += [one["id"] for one in page["items"]]
        token = page["nextToken"]
        if not token:
            break
    assert found == expected[::-1]
    answer = await at.api.get(RUNS, params={"nextToken": "abc"})
    assert reject(answer, 422, "VALIDATION_ERROR")["field"] == "nextToken"


async def test_runs_are_those_of_one_app_and_one_customer(here: Platform) -> None:
    """Others are 404, whatever spells them; an app is named as `{project}-{app}`."""
    await here.world.endpoint(here.model.url, f"{PROJECT}-other")
    run_id = await begun(here)
    apps = f"/v2/projects/{PROJECT}/apps"
    for path in (
        f"{apps}/{PROJECT}-other/runs/{run_id}", f"{apps}/{PROJECT}-none/runs",
        f"{apps}/my-app/runs", f"{RUNS}/{uuid.uuid4()}", f"{RUNS}/no-id",
        f"/v2/projects/p-other/apps/{ENDPOINT}/runs",
    ):  # fmt: skip
        reject(await here.api.get(path), 404, "NOT_FOUND")
    assert (await here.api.get(f"{apps}/{PROJECT}-other/runs")).json()["items"] == []
    async with await here.tenant("acme") as acme:
        reject(await acme.get(f"{RUNS}/{run_id}"), 404, "NOT_FOUND")
        assert (await acme.get(RUNS)).json() == {"items": [], "nextToken": ""}
    assert (await shown(here, f"job_{run_id.replace('-', '')}"))["id"] == run_id
    await here.ended(run_id)


CODES: Final = [
    (End(state="completed", status_code=201), 201, "success"),
    (End(state="failed", reason="rejected", status_code=418), 418, "418"),
    (End(state="failed", reason="attempts", status_code=504), 504, "failure"),
    (End(state="failed", reason="broken_off", status_code=200), 502, "failure"),
    (End(state="failed", reason="crash_loop", status_code=429), 502, "failure"),
    (End(state="failed", reason="output_too_large", status_code=200), 502, "failure"),
    (End(state="failed", reason="interrupted"), 502, "failure"),
    (End(state="timeout", reason="run_limit"), 504, "failure"),
    (End(state="timeout", reason="expired", status_code=429), 504, "failure"),
    (End(state="cancelled", reason="user", status_code=503), 0, "cancelled"),
]


@pytest.mark.parametrize(("end", "code", "word"), CODES)
def test_an_end_has_a_code_and_a_word(end: End, code: int, word: str) -> None:
    """By the rule of the platform's own tools; an end that no answer made is a failure, whatever
    an earlier call was answered with."""
    assert words.status_code(end) == code
    snapshot = Snapshot(job(dialect="cerebrium"), "id", end.state, end, 0, 10, "http://h")
    assert words.status(snapshot) == word
    made = words.payload(snapshot)
    assert dict(made.headers)["X-Request-Id"] == "id"
    if end.state != "completed":
        assert json.loads(made.body)["error"] == words.ERROR_CODES[end.state]


def test_only_words_of_the_upstreams_own_are_sent_on() -> None:
    """What broke off, or is our own word for it, is told as an error."""
    half = Output(body=b"half an ans", content_type="text/plain")
    end = End(state="failed", reason="broken_off", error="the answer broke off", output=half)
    assert words.answer(end) is None
    whole = replace(end, reason="rejected", error=None, status_code=500)
    assert words.answer(whole) == half
    for state in FINAL - {"completed", "failed"}:
        assert words.answer(End(state=state)) is None


# --- the founding documents' own requests ---

CURLS: Final = [
    # As printed there, but for the quotes, which do not balance, and the angle brackets around a
    # part of the URL, which no shell takes for one.
    """curl -X POST 'BASE/v4/<YOUR-PROJECT-ID>/<YOUR-APP>/run?async=true'\\
       -H 'Content-Type: application/json'\\
       -H 'Authorization: Bearer <YOUR-JWT-TOKEN>'\\
       --data '{"param": "hello world"}'""",
    """curl -X POST 'BASE/v4/<YOUR-PROJECT-ID>/<YOUR-APP>/run?async=true&webhookEndpoint=HOOK'\\
 -H 'Content-Type: application/json'\\
 -H 'Authorization: Bearer <YOUR-JWT-TOKEN>'\\
 --data '{"param": "hello world"}'""",
]
HOSTS: Final = ["api.cortex.cerebrium.ai", "api.aws.us-east-1.cerebrium.ai", "api.cerebrium.ai"]
HEAD: Final = re.compile(rb"HTTP/1\.1 202 Accepted\r\n(.*?)\r\n\r\n(.*)", re.S)


async def by_curl(command: str, *options: str) -> bytes:
    """What `curl` prints of an answer, head and all; where there is no `curl`, the same bytes over
    a socket."""
    if shutil.which("curl"):
        line = " ".join(
            ["curl", "-sS", "-i", "--noproxy", "'*'", *options, command[len("curl ") :]]
        )
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out
    return await by_socket(command, *options)


async def by_socket(command: str, *options: str) -> bytes:
    """The bytes that `curl` sends for a command of ours, and what they are answered with."""
    given = shlex.split(command.replace("\\\n", " "))
    url = next(one for one in given if one.startswith("http"))
    parts = urlsplit(url)
    headers = [given[n + 1] for n, one in enumerate(given) if one == "-H"]
    data = given[given.index("--data") + 1].encode()
    host, port = parts.hostname, parts.port or 80
    if "--connect-to" in options:
        host, port = "127.0.0.1", int(options[options.index("--connect-to") + 1].split(":")[-1])
    reader, writer = await asyncio.open_connection(host, port)
    head = [
        f"POST {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}",
        "User-Agent: curl/8.5.0", "Accept: */*", *headers, f"Content-Length: {len(data)}",
        "Connection: close",
    ]  # fmt: skip
    writer.write("\r\n".join([*head, "", ""]).encode() + data)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def filled_in(command: str, base: str, hook: str = "") -> str:
    return (
        command.replace("BASE", base)
        .replace("<YOUR-PROJECT-ID>", PROJECT)
        .replace("<YOUR-APP>", APP)
        .replace("<YOUR-JWT-TOKEN>", ADMIN_KEY)
        .replace("HOOK", quote(hook, safe=""))
    )


def check_accepted(answer: bytes) -> str:
    """Hold an answer against the documents' own; the run's id."""
    found = HEAD.fullmatch(answer)
    assert found is not None, answer
    lines = [line.partition(b": ") for line in found[1].split(b"\r\n")]
    headers = {name.lower().decode(): value.decode() for name, _, value in lines}
    assert (headers["content-length"], headers["content-type"]) == ("50", "application/json")
    run_id = headers["x-request-id"]
    assert found[2] == b'{"run_id":"%b"}\n' % run_id.encode()
    assert headers["date"]
    return run_id


async def test_the_documents_curls_run(here: Platform) -> None:
    """Both of them, word for word but for what no shell can read: the first is answered as printed,
    the second is too, and its webhook gets the function's answer."""
    here.model.body = b'{"smile": "wave"}'
    first = check_accepted(await by_curl(filled_in(CURLS[0], here.url)))
    assert (await here.ended(first))["status"] == "completed"
    second = check_accepted(await by_curl(filled_in(CURLS[1], here.url, here.hook.url)))
    headers, body = await told(here)
    assert (headers["x-request-id"], body) == (second, b'{"smile": "wave"}')
    assert [sent for _, sent in here.model.calls] == [BODY, BODY]
    assert all(got["content-type"] == "application/json" for got, _ in here.model.calls)


async def test_the_same_bytes_over_a_socket_do_the_same(here: Platform) -> None:
    """So that a machine without `curl` proves as much."""
    check_accepted(await by_socket(filled_in(CURLS[0], here.url)))
    run_id = check_accepted(await by_socket(filled_in(CURLS[1], here.url, here.hook.url)))
    headers, body = await told(here)
    assert (headers["x-request-id"], body) == (run_id, here.model.body)


async def test_it_answers_by_whatever_host_it_is_called(here: Platform) -> None:
    """The documents' hosts are a base URL and nothing else: DNS, or a flag, is all that changes."""
    port = urlsplit(here.url).port
    for host in HOSTS:
        to = ["--connect-to", f"{host}:80:127.0.0.1:{port}"]
        run_id = check_accepted(await by_curl(filled_in(CURLS[0], f"http://{host}"), *to))
        assert (await shown(here, run_id))["id"] == run_id
        await here.ended(run_id)
