"""What was written for TensorOne works with nothing changed but the base URL: its requests, its
words, its errors and its callbacks, through the whole service, a real upstream and real sockets."""

import asyncio
import json
import shlex
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import httpx
import msgspec
import pytest

from dispatcher import ids
from dispatcher.api.dialects import tensorone as routes
from dispatcher.api.dialects.tensorone_shapes import (
    ExecutionView,
    JobStatusView,
    JobsView,
    ResultView,
)
from dispatcher.app import Service
from dispatcher.settings import Settings
from dispatcher.store.errors import StoreUnavailable
from receiver.base import server
from tests.dispatcher.api.models import Model, ended, make_endpoint, submit_job
from tests.dispatcher.api.talk import ADMIN_KEY, connect, make_key, reject
from tests.dispatcher.dialects import tensorone_seed as seed
from tests.dispatcher.dialects.conftest import SECRET
from tests.dispatcher.peers import Peer, answer, answers, listening
from tests.receiver.serving import served
from tests.receiver.waiting import until

JSON = "Content-Type: application/json"
RUN = "/v2/endpoints/shout/runasync"
SYNC = "/v2/endpoints/shout/runsync"
BODY: dict[str, Any] = {"input": {"text": "hello"}, "async": True}
TAGS = {"userId": "user_12345", "project_id": "proj_report_gen"}


@pytest.fixture
async def shout(api: httpx.AsyncClient, model: Model) -> Model:
    """The endpoint `shout` and the model behind it."""
    await make_endpoint(api, model)
    return model


@pytest.fixture
async def customer() -> AsyncIterator[Peer]:
    """Where callbacks go."""
    async with listening(answers(answer("200 OK"))) as peer:
        yield peer


async def run(api: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """A job that is taken."""
    taken = await api.post(RUN, json=BODY | fields)
    assert taken.status_code == 202, taken.text
    view: dict[str, Any] = taken.json()
    msgspec.json.decode(taken.content, type=ExecutionView[datetime])
    return view


async def status(api: httpx.AsyncClient, id: str) -> dict[str, Any]:
    shown = await api.get(f"/v2/jobs/{id}/status")
    assert shown.status_code == 200, shown.text
    msgspec.json.decode(shown.content, type=JobStatusView[datetime])
    view: dict[str, Any] = shown.json()
    return view


async def ending(api: httpx.AsyncClient, id: str) -> dict[str, Any]:
    """The status of a job once it has ended."""
    await ended(api, id)
    return await status(api, id)


async def until_status(api: httpx.AsyncClient, id: str, word: str) -> dict[str, Any]:
    async def there() -> bool:
        return bool((await status(api, id))["status"] == word)

    await until(there)
    return await status(api, id)


async def told(customer: Peer, count: int = 1) -> list[dict[str, Any]]:
    """What the callbacks said, once so many have come."""
    await until(lambda: len(customer.received) >= count)
    return [json.loads(one.body) for one in customer.received]


def is_time(text: str) -> bool:
    """Whether it is ISO-8601 in UTC, with a Z."""
    return text.endswith("Z") and datetime.fromisoformat(text).tzinfo is not None


# --- the document's own samples ---


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any


async def by_curl(command: str) -> Answer:
    """What a shell's curl is answered."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        command.replace("curl ", "curl --silent --show-error --include --max-time 60 ", 1),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said
    return _answer(said)


async def by_socket(command: str) -> Answer:
    """What the same request is answered, its bytes written by hand."""
    words = shlex.split(command.replace("\\\n", " "))
    options = dict(zip(words[1::2], words[2::2], strict=False))
    method = options["-X"]
    target = next(word for word in words if "://" in word and not word.startswith("{"))
    headers = [words[at + 1] for at, word in enumerate(words) if word == "-H"]
    body = words[words.index("-d") + 1].encode() if "-d" in words else b""
    url = httpx.URL(target)
    head = [f"{method} {url.path} HTTP/1.1", f"Host: {url.host}:{url.port}", *headers]
    head += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write("\r\n".join(head).encode() + body)
    async with asyncio.timeout(60):
        said = await reader.read()
    writer.close()
    return _answer(said)


def _answer(said: bytes) -> Answer:
    head, _, body = said.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    pairs = (one.partition(": ") for one in lines)
    headers = {name.lower(): value for name, _, value in pairs}
    return Answer(int(line.split()[1]), headers, json.loads(body))


def pointed(command: str, url: str, customer: Peer) -> str:
    """A sample with our base URL, our key and our customer in it, and nothing else changed."""
    return (
        command.replace("https://api.tensorone.ai", url)
        .replace("YOUR_API_KEY", ADMIN_KEY)
        .replace("https://myapp.com", f"http://127.0.0.1:{customer.port}")
    )


@pytest.mark.parametrize("name", seed.SUBMITS)
@pytest.mark.parametrize("by", [by_curl, by_socket])
async def test_the_samples_of_the_document_run(
    name: str, by: Any, url: str, api: httpx.AsyncClient, model: Model, customer: Peer
) -> None:
    """Its three submits and its look at a status, as they stand there: the input reaches the
    upstream whole, nested objects, lists, numbers and flags included, and the callback comes where
    one was asked for."""
    if by is by_curl and shutil.which("curl") is None:
        pytest.skip("there is no curl: the same bytes go over a socket")
    await make_endpoint(api, model, name=name)
    command = pointed(seed.SUBMITS[name], url, customer)
    taken = await by(command)
    assert (taken.status, taken.body["status"]) == (202, "queued")
    assert taken.body["endpointId"] == name
    await ended(api, taken.body["jobId"])

    sent = json.loads(shlex.split(command.replace("\\\n", " "))[-1])
    [call] = model.received
    assert json.loads(call.body) == sent["input"]
    assert call.header("Content-Type") == "application/json"
    assert (taken.body["priority"], taken.body["tags"]) == (
        sent.get("priority", "normal"), sent.get("tags", {}),
    )  # fmt: skip

    asked = pointed(seed.STATUS, url, customer).replace("job_1234567890abcdef", taken.body["jobId"])
    shown = await by(asked)
    assert (shown.status, shown.body["status"]) == (200, "completed")
    assert shown.body["output"] == {"text": "HELLO"}
    if "callbackUrl" in sent:
        [document] = await told(customer)
        assert document["jobId"] == taken.body["jobId"]
        assert customer.received[0].line.split()[1] == httpx.URL(sent["callbackUrl"]).path
    else:
        assert not customer.received
        assert not (await api.get("/v1/callbacks")).json()["data"]


# --- submitting ---


async def test_a_submit_is_answered_with_the_documents_object(
    api: httpx.AsyncClient, model: Model
) -> None:
    """202: `jobId`, `status` queued, `endpointId`, `priority`, `estimatedDuration` in seconds,
    `createdAt`, `statusUrl`, `tags`, and no other; `Location` and `Retry-After` say where and when
    to ask."""
    await make_endpoint(api, model, expectedDuration=299.2)
    taken = await api.post(RUN, json=BODY | {"priority": "high", "tags": TAGS})
    view = taken.json()
    assert set(view) == {
        "jobId", "status", "endpointId", "priority", "estimatedDuration", "createdAt", "statusUrl",
        "tags",
    }  # fmt: skip
    assert taken.status_code == 202
    assert view["jobId"].startswith("job_")
    assert ids.parse_job_id(view["jobId"])
    assert (view["status"], view["endpointId"], view["priority"], view["tags"]) == (
        "queued", "shout", "high", TAGS,
    )  # fmt: skip
    assert view["estimatedDuration"] == 300
    assert is_time(view["createdAt"])
    assert taken.headers["location"] == f"/v2/jobs/{view['jobId']}/status"
    assert int(taken.headers["retry-after"]) >= 1


async def test_the_status_url_is_absolute_and_works(settings: Settings, model: Model) -> None:
    """As it is answered, over a real connection."""
    with server.listen("127.0.0.1", 0) as listener:
        where = server.url_of(listener)
        async with (
            Service(replace(settings, public_url=where)) as service,
            connect(service, ADMIN_KEY) as api,
            served(service.api, given=listener),
            httpx.AsyncClient(headers={"Authorization": f"Bearer {ADMIN_KEY}"}) as client,
        ):
            await make_endpoint(api, model)
            taken = await run(api)
            assert taken["statusUrl"] == f"{where}/v2/jobs/{taken['jobId']}/status"
            shown = await client.get(taken["statusUrl"])
            assert (shown.status_code, shown.json()["jobId"]) == (200, taken["jobId"])


async def test_links_name_no_host_that_is_not_ours(settings: Settings, model: Model) -> None:
    given = replace(settings, hosts=("known.test",), public_url="https://jobs.example.com/api")
    async with Service(given) as service, connect(service, ADMIN_KEY) as api:
        await make_endpoint(api, model)
        for host, base in (
            ("known.test", "http://known.test"),
            ("evil.test", "https://jobs.example.com/api"),
        ):
            taken = await api.post(RUN, json=BODY, headers={"Host": host})
            assert taken.json()["statusUrl"].startswith(f"{base}/v2/jobs/job_")


async def test_the_input_goes_out_as_it_was_written(api: httpx.AsyncClient, shout: Model) -> None:
    """`input` alone, byte for byte, also where it has an `input` of its own; and an upstream that
    wants more of it gets that."""
    given = b'{"input":  {"input": {"a":1.50, "b":[{"c":null},true,-1e3]}, "\\u00fc":"\xc3\xbc"} }'
    headers = {"Content-Type": "application/json"}
    taken = await api.post(RUN, content=given, headers=headers)
    await ended(api, taken.json()["jobId"])
    exact = b'{"input": {"a":1.50, "b":[{"c":null},true,-1e3]}, "\\u00fc":"\xc3\xbc"}'
    assert shout.received[0].body == exact

    await api.patch("/v1/endpoints/shout", json={"body": "envelope"})
    taken = await api.post(RUN, content=given, headers=headers)
    id = taken.json()["jobId"]
    await ended(api, id)
    assert shout.received[1].body == b'{"id":"%b","input":%b}' % (id.encode(), exact)


@pytest.mark.parametrize("fields", [{"async": True}, {"async": None}, {}])
async def test_async_may_say_what_the_path_says(
    fields: dict[str, Any], api: httpx.AsyncClient, shout: Model
) -> None:
    taken = await api.post(RUN, json={"input": {}} | fields)
    assert taken.status_code == 202


@pytest.mark.parametrize(
    ("fields", "field", "value", "reason"),
    [
        ({"input": None}, "input", None, "must be an object"),
        ({"input": "text"}, "input", "text", "must be an object"),
        ({"input": -5}, "input", -5, "must be an object"),
        ({"input": [1]}, "input", None, "must be an object"),
        ({"priority": "urgent"}, "priority", "urgent", ""),
        ({"priority": "low"}, "priority", "low", ""),
        ({"priority": 5}, "priority", 5, ""),
        ({"async": False}, "async", False, "must be true here; there is /runsync too"),
        ({"async": "yes"}, "async", "yes", ""),
        ({"callbackUrl": "nonsense"}, "callbackUrl", "nonsense", ""),
        ({"callbackUrl": "http://10.0.0.1/hook"}, "callbackUrl", "http://10.0.0.1/hook", ""),
        ({"callbackUrl": ""}, "callbackUrl", "", ""),
        ({"timeout": 0.5}, "timeout", 0.5, "must be from 1 to 604800 seconds"),
        ({"timeout": "soon"}, "timeout", "soon", ""),
        ({"tags": {"a": 1}}, "tags", None, ""),
        ({"tags": {str(n): "" for n in range(17)}}, "tags", None, ""),
        ({"tags": {"a": "\n"}}, "tags.a", None, "must not hold control characters"),
        ({"callbackURL": "https://example.com/"}, "callbackURL", None, "unknown field"),
        ({"input": {"pages": -5}}, "input.pages", -5, ""),
        ({"input": {"pages": [1, {"n": "x"}]}}, "input.pages[1].n", "x", ""),
    ],
)
async def test_what_cannot_be_is_refused_with_field_value_and_reason(
    fields: dict[str, Any],
    field: str,
    value: object,
    reason: str,
    api: httpx.AsyncClient,
    model: Model,
) -> None:
    """422 VALIDATION_ERROR: a dotted path into the request, the value that stands there, and why
    it cannot. Nothing is stored."""
    pages = {
        "anyOf": [{"type": "integer", "minimum": 1}, {"type": "array"}],
    }
    schema: dict[str, Any] = {"type": "object", "properties": {"pages": pages}}
    if field == "input.pages":
        schema["properties"]["pages"] = {"type": "integer", "minimum": 1}
    if field.startswith("input.pages["):
        item = {"type": ["integer", "object"], "properties": {"n": {"type": "integer"}}}
        schema["properties"]["pages"] = {"type": "array", "items": item}
    await make_endpoint(api, model, schema=schema)
    details = reject(await api.post(RUN, json=BODY | fields), 422, "VALIDATION_ERROR")
    assert (details["field"], details["value"]) == (field, value)
    assert reason in str(details["reason"])
    assert details["reason"]
    assert (await api.get("/v2/jobs")).json()["jobs"] == []


async def test_a_missing_input_is_refused(api: httpx.AsyncClient, shout: Model) -> None:
    details = reject(await api.post(RUN, json={"async": True}), 422, "VALIDATION_ERROR")
    assert details == {"field": "input", "value": None, "reason": "required"}
    reject(await api.post(RUN, content=b"{", headers={"Content-Type": "application/json"}),
           400, "MALFORMED_JSON")  # fmt: skip


async def test_an_endpoint_that_there_is_not_is_404_at_the_submit(
    api: httpx.AsyncClient, model: Model, service: Service
) -> None:
    """Never a 202; and one that is for others does not exist for this tenant."""
    reject(await api.post("/v2/endpoints/nobody/runasync", json=BODY), 404, "NOT_FOUND")
    reject(await api.post("/v2/endpoints/nobody/runsync", json=BODY | {"async": False}),
           404, "NOT_FOUND")  # fmt: skip
    await make_endpoint(api, model, tenants=["acme"])
    reject(await api.post(RUN, json=BODY), 404, "NOT_FOUND")


async def test_a_key_is_sent_as_bearer(
    api: httpx.AsyncClient, service: Service, shout: Model
) -> None:
    """And submits with the scope `submit` alone; a bare key is another dialect's manner."""
    key = await make_key(api, scopes=["submit"], tenant="default")
    async with connect(service, key) as client:
        assert (await client.post(RUN, json=BODY)).status_code == 202
        reject(await client.get("/v2/jobs"), 403, "FORBIDDEN")
        client.headers["Authorization"] = key
        reject(await client.post(RUN, json=BODY), 401, "UNAUTHORIZED")


async def test_a_full_queue_says_how_full_it_is_and_for_how_long(
    api: httpx.AsyncClient, model: Model
) -> None:
    """429 QUEUE_FULL with `queueSize`, `estimatedWait` and `retryAfter`, all of them numbers, and
    the header `Retry-After`; a queue's capacity is its endpoint's to set."""
    await make_endpoint(api, model, queueMaxTenant=2, concurrency=1, expectedDuration=30)
    await api.post("/v1/endpoints/shout/pause")
    for _ in range(2):
        await run(api)
    full = await api.post(RUN, json=BODY)
    details = reject(full, 429, "QUEUE_FULL")
    assert details == {"queueSize": 2, "estimatedWait": 60, "retryAfter": 30}
    assert full.headers["retry-after"] == "30"


async def test_a_full_storage_says_what_is_left(api: httpx.AsyncClient, shout: Model) -> None:
    """507 STORAGE_LIMIT_EXCEEDED with sizes as people read them, and in bytes beside these."""
    await api.patch("/v1/tenants/default", json={"storageBytesMax": 100})
    fields = {"input": {"text": "x" * 12_345}}
    details = reject(await api.post(RUN, json=BODY | fields), 507, "STORAGE_LIMIT_EXCEEDED")
    assert (details["remainingQuota"], details["remainingBytes"]) == ("100B", 100)
    assert str(details["estimatedSize"]).endswith("KB")
    assert int(str(details["estimatedBytes"])) > 12_345


async def test_the_same_key_again_is_the_same_job(api: httpx.AsyncClient, shout: Model) -> None:
    """D12: answered with the first one's id, state and words; with other content 409."""
    shout.go.clear()
    key = {"Idempotency-Key": "key-1"}
    fields = {"priority": "high", "tags": TAGS}
    first = (await api.post(RUN, json=BODY | fields, headers=key)).json()
    await until_status(api, first["jobId"], "running")
    again = (await api.post(RUN, json=BODY, headers={"Idempotency-Key": '"key-1"'})).json()
    assert (again["jobId"], again["status"]) == (first["jobId"], "running")
    assert (again["priority"], again["tags"]) == ("high", TAGS)
    other = await api.post(RUN, json=BODY | {"input": {}}, headers=key)
    assert reject(other, 409, "IDEMPOTENCY_CONFLICT")["firstId"] == first["jobId"]
    shout.go.set()
    await ended(api, first["jobId"])
    assert len(shout.received) == 1


async def test_an_estimate_that_cannot_be_had_keeps_no_job_from_being_taken(
    api: httpx.AsyncClient, model: Model, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute, while nothing is known at all."""
    await make_endpoint(api, model)

    async def away(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(0)
        raise StoreUnavailable("the database does not answer")

    monkeypatch.setattr(service.store.jobs, "measured", away)
    assert (await run(api))["estimatedDuration"] == 60
    await api.patch("/v1/endpoints/shout", json={"expectedDuration": 7})
    assert (await run(api))["estimatedDuration"] == 7


async def test_high_goes_before_normal_and_each_in_the_order_of_submission(
    api: httpx.AsyncClient, model: Model
) -> None:
    await make_endpoint(api, model, concurrency=1)
    await api.post("/v1/endpoints/shout/pause")
    for name, priority in (("n1", "normal"), ("h1", "high"), ("n2", None), ("h2", "high")):
        fields = {} if priority is None else {"priority": priority}
        await run(api, input={"name": name}, **fields)
    await api.post("/v1/endpoints/shout/resume")
    await until(lambda: len(model.received) == 4)
    names = [json.loads(one.body)["name"] for one in model.received]
    assert names == ["h1", "h2", "n1", "n2"]


async def test_a_timeout_may_be_set_for_each_job(
    api: httpx.AsyncClient, shout: Model, customer: Peer
) -> None:
    """`timeout`, in seconds or as `15m`: what runs longer ends as `timeout`, and is told so."""
    await run(api, timeout="15m")
    shout.go.clear()
    taken = await run(api, timeout=1, callbackUrl=customer.url)
    view = await ending(api, taken["jobId"])
    assert (view["status"], view["output"]) == ("timeout", None)
    assert view["error"] == "it ran for longer than its run limit of 1 s"
    assert view["executionTime"] >= 1
    [document] = await told(customer)
    assert (document["status"], document["error"]) == ("timeout", view["error"])


# --- looking ---


async def test_a_status_follows_the_job(api: httpx.AsyncClient, model: Model) -> None:
    """`queued` while it waits, `running` with `startedAt` and `estimatedCompletion` while its call
    is open, `completed` with its output at the end. What is not known is not there."""
    await make_endpoint(api, model, expectedDuration=60)
    await api.post("/v1/endpoints/shout/pause")
    id = (await run(api, tags=TAGS))["jobId"]
    view = await status(api, id)
    assert set(view) == {"jobId", "status", "endpointId", "priority", "tags", "createdAt"}
    assert (view["jobId"], view["status"], view["tags"]) == (id, "queued", TAGS)

    model.go.clear()
    await api.post("/v1/endpoints/shout/resume")
    view = await until_status(api, id, "running")
    assert set(view) == {
        "jobId", "status", "endpointId", "priority", "tags", "createdAt", "startedAt",
        "estimatedCompletion",
    }  # fmt: skip
    assert is_time(view["startedAt"])
    started, expected = (
        datetime.fromisoformat(view[name]) for name in ("startedAt", "estimatedCompletion")
    )
    assert (expected - started).total_seconds() == 60

    model.go.set()
    view = await ending(api, id)
    assert set(view) == {
        "jobId", "status", "endpointId", "priority", "tags", "createdAt", "startedAt",
        "output", "executionTime", "completedAt", "cost",
    }  # fmt: skip
    assert (view["status"], view["output"]) == ("completed", {"text": "HELLO"})
    assert isinstance(view["executionTime"], float)


async def test_a_failed_one_says_why(api: httpx.AsyncClient, shout: Model, customer: Peer) -> None:
    """`failed` with the upstream's own words as `error`; the callback says the same."""
    refused = answer("400 Bad Request", "Content-Type: text/plain", body=b"no prompt")
    shout.answers.append(refused)
    taken = await run(api, callbackUrl=customer.url)
    view = await ending(api, taken["jobId"])
    assert (view["status"], view["output"], view["error"]) == ("failed", None, "no prompt")
    [document] = await told(customer)
    assert document == {name: view[name] for name in document}
    assert (document["status"], document["error"]) == ("failed", "no prompt")


async def test_any_spelling_finds_a_job_and_other_dialects_jobs_are_shown_in_this_one(
    api: httpx.AsyncClient, shout: Model
) -> None:
    id = (await ended(api, (await submit_job(api))["id"]))["id"]
    plain = id.removeprefix("job_")
    for spelling in (id, plain, f"sync-{plain}"):
        assert (await status(api, spelling))["jobId"] == id
    assert [one["jobId"] for one in (await api.get("/v2/jobs")).json()["jobs"]] == [id]
    reject(await api.get(f"/v2/jobs/job_{'0' * 32}/status"), 404, "NOT_FOUND")
    reject(await api.get("/v2/jobs/nonsense/status"), 404, "NOT_FOUND")


async def test_nobody_sees_or_changes_anothers_jobs(
    api: httpx.AsyncClient, service: Service, shout: Model
) -> None:
    """I9: as if there were none."""
    id = (await run(api))["jobId"]
    await ended(api, id)
    key = await make_key(api, scopes=["read", "operate"], tenant="mallory")
    async with connect(service, key) as mallory:
        reject(await mallory.get(f"/v2/jobs/{id}/status"), 404, "NOT_FOUND")
        reject(await mallory.post(f"/v2/jobs/{id}/cancel"), 404, "NOT_FOUND")
        reject(await mallory.post(f"/v2/jobs/{id}/retry"), 404, "NOT_FOUND")
        assert (await mallory.get("/v2/jobs")).json() == {"jobs": [], "nextCursor": None}


async def test_jobs_are_found_by_tag_and_status(api: httpx.AsyncClient, shout: Model) -> None:
    """`GET /v2/jobs?status=&tag.K=` answers `{"jobs", "nextCursor"}`, newest first; every filter
    must match, and a cursor is good for its own filter alone."""
    for number in range(5):
        tags = {"team": "a" if number % 2 else "b", "n": str(number)}
        await ended(api, (await run(api, tags=tags))["jobId"])
    await api.post("/v1/endpoints/shout/pause")
    await run(api, tags={"team": "a", "n": "5"})

    async def found(**query: str) -> list[str]:
        page = await api.get("/v2/jobs", params=query)
        assert page.status_code == 200, page.text
        msgspec.json.decode(page.content, type=JobsView[datetime])
        assert set(page.json()) == {"jobs", "nextCursor"}
        return [one["tags"]["n"] for one in page.json()["jobs"]]

    assert await found() == ["5", "4", "3", "2", "1", "0"]
    assert await found(**{"tag.team": "a"}) == ["5", "3", "1"]
    assert await found(**{"tag.team": "a", "status": "completed"}) == ["3", "1"]
    assert await found(**{"status": "queued"}) == ["5"]
    assert await found(**{"tag.team": "a", "tag.n": "4"}) == []
    assert await found(endpointId="shout", priority="normal", limit="2") == ["5", "4"]
    assert await found(endpointId="other") == []

    page = (await api.get("/v2/jobs?tag.team=b&limit=2")).json()
    more = {"tag.team": "b", "limit": "2", "cursor": page["nextCursor"]}
    assert await found(**more) == ["0"]
    assert (await api.get("/v2/jobs", params=more)).json()["nextCursor"] is None
    wrong = await api.get("/v2/jobs", params={"cursor": page["nextCursor"]})
    assert reject(wrong, 422, "VALIDATION_ERROR")["field"] == "cursor"
    for query, field in (
        ({"status": "done"}, "status"),
        ({"team": "a"}, "team"),
        ({"endpoint": "shout"}, "endpoint"),
    ):
        refused = await api.get("/v2/jobs", params=query)
        assert reject(refused, 422, "VALIDATION_ERROR")["field"] == field


# --- watching ---


async def watched(client: httpx.AsyncClient, id: str) -> AsyncGenerator[dict[str, Any], None]:
    """The updates of a job, as they come."""
    path, headers = f"/v2/jobs/{id}/status", {"Accept": "text/event-stream"}
    async with client.stream("GET", path, headers=headers, timeout=60) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        data: list[str] = []
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                data.append(line.removeprefix("data: "))
            elif not line and data:
                yield json.loads("\n".join(data))
                data = []


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client over a real connection."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(base_url=url, headers=headers) as client:
        yield client


async def test_a_watched_job_is_told_as_it_goes_on(
    client: httpx.AsyncClient, api: httpx.AsyncClient, shout: Model, service: Service
) -> None:
    """An event with the present status, one with each change, the last with its end and its
    output; then the answer ends, and its place is free."""
    shout.answers.append(answer("200 OK", JSON, body=b'{"lines":\r\n [1,\n2]}'))
    shout.go.clear()
    await api.post("/v1/endpoints/shout/pause")
    id = (await run(api))["jobId"]
    words = []
    async for update in watched(client, id):
        words.append(update["status"])
        if words == ["queued"]:
            assert service.gateway.waiters.held == 1
            await api.post("/v1/endpoints/shout/resume")
        elif words == ["queued", "running"]:
            assert update["startedAt"]
            shout.go.set()
        else:
            assert update["output"] == {"lines": [1, 2]}
            assert update == await status(api, id)
    assert words == ["queued", "running", "completed"]
    assert service.gateway.waiters.held == 0
    assert [one["status"] async for one in watched(client, id)] == ["completed"]


async def test_who_watches_and_leaves_frees_the_place(
    client: httpx.AsyncClient, api: httpx.AsyncClient, shout: Model, service: Service
) -> None:
    shout.go.clear()
    id = (await run(api))["jobId"]
    updates = watched(client, id)
    assert (await anext(updates))["status"] in ("queued", "running")
    assert service.gateway.waiters.held == 1
    await updates.aclose()
    await until(lambda: service.gateway.waiters.held == 0)
    shout.go.set()
    await ended(api, id)


async def test_who_finds_no_room_to_watch_gets_the_present_status(
    client: httpx.AsyncClient, api: httpx.AsyncClient, shout: Model, service: Service
) -> None:
    """Held requests have a budget; a process that is about to stop holds nobody."""
    shout.go.clear()
    id = (await run(api))["jobId"]
    await until_status(api, id, "running")
    updates = watched(client, id)
    await anext(updates)
    service.gateway.waiters.stop()
    assert [one async for one in updates] == []
    assert [one["status"] async for one in watched(client, id)] == ["running"]
    shout.go.set()
    await until_status(api, id, "completed")


async def test_a_job_that_is_gone_cannot_be_watched(
    client: httpx.AsyncClient, api: httpx.AsyncClient, shout: Model
) -> None:
    """404 before the first event, and an event `error` where it goes later."""
    headers = {"Accept": "text/event-stream"}
    answered = await client.get(f"/v2/jobs/job_{'0' * 32}/status", headers=headers)
    reject(answered, 404, "NOT_FOUND")
    refused = {"Accept": "text/event-stream;q=0, application/json"}
    id = (await run(api))["jobId"]
    plain = await client.get(f"/v2/jobs/{id}/status", headers=refused)
    assert plain.headers["content-type"] == "application/json"


async def test_who_watches_for_long_is_kept_and_comes_again(
    client: httpx.AsyncClient,
    api: httpx.AsyncClient,
    shout: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A comment now and then says that the connection lives; after five minutes it ends."""
    monkeypatch.setattr(routes, "_KEEP_ALIVE_S", 0.0)
    monkeypatch.setattr(routes, "WAIT_S_MAX", 1.0)
    shout.go.clear()
    id = (await run(api))["jobId"]
    await until_status(api, id, "running")
    headers = {"Accept": "text/event-stream"}
    answered = await client.get(f"/v2/jobs/{id}/status", headers=headers, timeout=60)
    start, first, *rest, end = answered.text.split("\n\n")
    assert (start, end) == ("retry: 1000", "")
    assert json.loads(first.removeprefix("data: "))["status"] == "running"
    assert rest
    assert set(rest) == {": "}
    shout.go.set()
    await ended(api, id)


async def test_what_goes_wrong_while_one_watches_is_told(
    client: httpx.AsyncClient,
    api: httpx.AsyncClient,
    service: Service,
    shout: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As an event `error`, in the one shape of all errors."""
    shout.go.clear()
    id = (await run(api))["jobId"]
    await until_status(api, id, "running")

    async def away(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(0)
        raise StoreUnavailable("the database does not answer")

    headers = {"Accept": "text/event-stream"}
    async with client.stream("GET", f"/v2/jobs/{id}/status", headers=headers) as response:
        lines = response.aiter_lines()
        async for line in lines:
            if line.startswith("data: "):
                break
        monkeypatch.setattr(service.store.jobs, "get", away)
        shout.go.set()
        rest = [line async for line in lines]
    assert rest[1] == "event: error"
    assert json.loads(rest[2].removeprefix("data: "))["error"] == "UNAVAILABLE"
    monkeypatch.undo()
    await ended(api, id)


# --- waiting ---


async def test_who_waits_gets_the_output(api: httpx.AsyncClient, model: Model) -> None:
    """200 `{"output", "executionTime", "status", "metadata"}`, seconds as a float; and where the
    job is shown."""
    await make_endpoint(api, model, price={"perSecond": 1})
    done = await api.post(SYNC, json={"input": {"text": "hello"}, "async": False})
    assert done.status_code == 200
    msgspec.json.decode(done.content, type=ResultView)
    view = done.json()
    assert set(view) == {"output", "executionTime", "status", "metadata"}
    assert (view["output"], view["status"]) == ({"text": "HELLO"}, "completed")
    assert isinstance(view["executionTime"], float)
    shown = await api.get(done.headers["location"])
    assert view["metadata"] == {"jobId": shown.json()["jobId"], "cost": shown.json()["cost"]}
    details = reject(await api.post(SYNC, json=BODY), 422, "VALIDATION_ERROR")
    assert (details["field"], details["value"]) == ("async", True)


async def test_who_waits_for_one_that_fails_is_told_so(
    api: httpx.AsyncClient, shout: Model
) -> None:
    """Never a 2xx: 502, 504 for what took too long, 409 for what was cancelled."""
    shout.answers.append(answer("500 Oops", "Content-Type: text/plain", body=b"no memory"))
    failed = await api.post(SYNC, json={"input": {}})
    details = reject(failed, 502, "JOB_FAILED")
    assert (details["status"], details["error"]) == ("failed", "no memory")
    assert failed.headers["location"] == f"/v2/jobs/{details['id']}/status"
    shout.go.clear()
    reject(await api.post(SYNC, json={"input": {}, "timeout": 1}), 504, "JOB_TIMEOUT")
    waiting = asyncio.create_task(api.post(SYNC, json={"input": {}, "tags": {"n": "3"}}))
    found: list[dict[str, Any]] = []

    async def running() -> bool:
        found.extend((await api.get("/v2/jobs?tag.n=3&status=running")).json()["jobs"])
        return bool(found)

    await until(running)
    await api.post(f"/v2/jobs/{found[0]['jobId']}/cancel")
    reject(await waiting, 409, "JOB_CANCELLED")


async def test_who_cannot_wait_so_long_gets_the_job(
    api: httpx.AsyncClient, shout: Model, service: Service
) -> None:
    """202 with the same object as `runasync`: when the time is over, and at once where there is no
    room to wait in. The job goes on."""
    shout.go.clear()
    late = await api.post(f"{SYNC}?wait=1", json={"input": {}})
    assert (late.status_code, late.json()["status"]) == (202, "queued")
    assert (await api.post(f"{SYNC}?wait=0", json={"input": {}})).status_code == 202
    service.gateway.waiters.stop()
    full = await api.post(SYNC, json={"input": {}})
    assert full.status_code == 202
    shout.go.set()
    for one in (late, full):
        await until_status(api, one.json()["jobId"], "completed")
    refused = await api.post(f"{SYNC}?wait=301", json={"input": {}})
    assert reject(refused, 422, "VALIDATION_ERROR")["field"] == "wait"


# --- changing ---


async def test_a_job_can_be_cancelled(api: httpx.AsyncClient, shout: Model, customer: Peer) -> None:
    """`cancelled` at once, whether it waits or runs, and told so; what has ended stays as it is."""
    shout.go.clear()
    id = (await run(api, callbackUrl=customer.url))["jobId"]
    await until_status(api, id, "running")
    view = (await api.post(f"/v2/jobs/{id}/cancel")).json()
    assert (view["jobId"], view["status"], view["output"]) == (id, "cancelled", None)
    assert view["error"] == "it was cancelled"
    [document] = await told(customer)
    assert (document["status"], document["jobId"]) == ("cancelled", id)
    await until(lambda: shout.closed == 1)
    again = await api.post(f"/v2/jobs/{id}/cancel")
    assert (again.status_code, again.json()["completedAt"]) == (200, view["completedAt"])


async def test_the_system_cancels_too(api: httpx.AsyncClient, shout: Model, customer: Peer) -> None:
    """A queue that is purged, an endpoint that is removed."""
    await api.post("/v1/endpoints/shout/pause")
    id = (await run(api, callbackUrl=customer.url))["jobId"]
    await api.post("/v1/endpoints/shout/purge")
    [document] = await told(customer)
    assert (document["jobId"], document["status"]) == (id, "cancelled")
    assert (await until_status(api, id, "cancelled"))["error"] == "its queue was purged"


async def test_a_job_can_be_run_again(api: httpx.AsyncClient, shout: Model, customer: Peer) -> None:
    """The same id, and a callback of its own; 409 where it has completed, or goes on."""
    shout.answers.append(answer("400 No", body=b""))
    id = (await run(api, callbackUrl=customer.url))["jobId"]
    assert (await ending(api, id))["status"] == "failed"
    shout.go.clear()
    view = (await api.post(f"/v2/jobs/{id}/retry")).json()
    assert (view["jobId"], view["status"]) in ((id, "queued"), (id, "running"))
    assert "output" not in view
    reject(await api.post(f"/v2/jobs/{id}/retry"), 409, "CONFLICT")
    shout.go.set()
    assert (await ending(api, id))["status"] == "completed"
    refused = await api.post(f"/v2/jobs/{id}/retry")
    reject(refused, 409, "CONFLICT")
    assert id in refused.json()["message"]
    documents = await told(customer, 2)
    assert [(one["jobId"], one["status"]) for one in documents] == [
        (id, "failed"), (id, "completed"),
    ]  # fmt: skip
    assert [one.header("X-Postback-Job-Run") for one in customer.received] == ["1", "2"]


# --- callbacks ---


async def test_a_callback_has_the_documents_keys(
    api: httpx.AsyncClient, model: Model, customer: Peer
) -> None:
    """`jobId`, `status`, `output`, `executionTime` in seconds, `completedAt`, `cost`, `tags`, and
    no other; the output as the upstream wrote it, a link in it included. The status says the
    same."""
    exact = b'{"document_url":  "https://storage.example.com/report.pdf", "pages": 5.0}'
    model.answers.append(answer("200 OK", JSON, body=exact))
    model.go.clear()
    await make_endpoint(api, model, price={"perSecond": 0.5})
    id = (await run(api, callbackUrl=customer.url, tags=TAGS))["jobId"]
    await until_status(api, id, "running")
    await asyncio.sleep(0.05)
    model.go.set()
    [document] = await told(customer)
    assert set(document) == {
        "jobId", "status", "output", "executionTime", "completedAt", "cost", "tags",
    }  # fmt: skip
    assert (document["jobId"], document["status"], document["tags"]) == (id, "completed", TAGS)
    assert exact in customer.received[0].body
    assert isinstance(document["executionTime"], float)
    assert 0.05 <= document["executionTime"] < 60
    assert isinstance(document["cost"], float)
    assert 0 < document["cost"] < document["executionTime"]
    assert is_time(document["completedAt"])
    view = await status(api, id)
    assert document == {name: view[name] for name in document}
    assert customer.received[0].header("X-Postback-Job-Id") == id
    assert customer.received[0].header("X-Postback-Job-Status") == "completed"


async def test_a_callbacks_signature_is_what_the_documents_function_verifies(
    api: httpx.AsyncClient, shout: Model, customer: Peer
) -> None:
    """`X-Webhook-Signature: sha256=<hex>`; of another body or by another secret it is none."""
    await run(api, callbackUrl=customer.url)
    await until(lambda: bool(customer.received))
    [one] = customer.received
    body, signature = one.body.decode(), one.header("X-Webhook-Signature")
    assert signature is not None
    assert seed.verify_webhook(body, signature, SECRET)
    assert not seed.verify_webhook(body + " ", signature, SECRET)
    assert not seed.verify_webhook(body, signature, SECRET + "x")


async def test_a_callback_that_is_not_taken_comes_again_with_growing_waits(
    api: httpx.AsyncClient, shout: Model
) -> None:
    """The preset `exponential`, unless the endpoint says otherwise."""
    async with listening(answers(answer("503 No"))) as peer:
        id = (await run(api, callbackUrl=peer.url))["jobId"]
        view = await ended(api, id)
        callback = (await api.get(f"/v1/callbacks/{view['callback']['id']}")).json()
        standard = (
            await api.post(
                "/v1/callbacks", json={"jobId": "x", "callbackUrl": peer.url, "payload": {}}
            )
        ).json()
        other = (await api.get(f"/v1/callbacks/{standard['id']}")).json()
    assert callback["policy"] == other["policy"]
    assert callback["policy"]["exponential"]["factor"] > 1


async def test_a_long_output_is_referred_to(
    settings: Settings, model: Model, customer: Peer
) -> None:
    """Where it is fetched, for seven days at most, and what will come; the bytes are there."""
    given = replace(settings, callback_inline=100)
    body = json.dumps({"text": "x" * 200}).encode()
    async with Service(given) as service, connect(service, ADMIN_KEY) as api:
        await make_endpoint(api, model)
        model.answers.append(answer("200 OK", JSON, body=body))
        await run(api, callbackUrl=customer.url)
        [document] = await told(customer)
        reference = document["output"]
        path = reference["url"].removeprefix(str(service.settings.public_url))
        assert (await api.get(path)).content == body
        assert reference["size"] == len(body)
        kept = datetime.fromisoformat(reference["expiresAt"]) - datetime.fromisoformat(
            document["completedAt"]
        )
        assert kept.total_seconds() == 604_800


def test_the_samples_are_those_of_the_document() -> None:
    """Each is one command of a shell, with a body that is JSON."""
    for command in seed.SUBMITS.values():
        words = shlex.split(command.replace("\\\n", " "))
        assert json.loads(words[-1])["async"] is True
