"""/v1/endpoints: made, changed and tested by the platform's administrators; seen by who may use
them."""

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from os import urandom
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from dispatcher.app import Service
from dispatcher.jobs.fields import camel
from dispatcher.jobs.rules import FIELDS
from dispatcher.settings import Settings
from dispatcher.wire_jobs import EndpointChange
from tests.dispatcher.api.models import Model, ended, make_endpoint, model_server, submit_job
from tests.dispatcher.api.talk import connect, make_key, reject
from tests.dispatcher.postgres import folders

KEY = b64encode(urandom(32)).decode()
ALL = ["submit", "read", "operate", "admin"]


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
async def acme(service: Service, api: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A tenant with every scope there is."""
    async with connect(service, await make_key(api, scopes=ALL, tenant="acme")) as client:
        yield client


async def test_an_endpoint_is_made_shown_changed_and_removed(
    api: httpx.AsyncClient, model: Model
) -> None:
    """18.1: 201 with the object; camelCase; durations and sizes with units or without."""
    made = await api.post(
        "/v1/endpoints",
        json={
            "name": "shout",
            "url": model.url,
            "concurrency": 2,
            "timeout": "15m",
            "queueTimeout": 3600,
            "inputMax": "64KiB",
            "headers": {"X-Plain": "hidden-value"},
            "tenants": ["acme", "default"],
            "keep": {"output": "1d"},
            "callback": {"policy": "runpod"},
            "price": {"perSecond": 0.0026},
        },
    )
    assert made.status_code == 201, made.text
    view = made.json()
    assert made.headers["location"] == "/v1/endpoints/shout"
    assert (view["name"], view["url"], view["state"], view["managed"]) == (
        "shout", model.url, "active", False,
    )  # fmt: skip
    said = view["rules"]
    assert (said["concurrency"], said["timeout"], said["queueTimeout"]) == (2, "15m", "1h")
    assert (said["inputMax"], said["outputMax"]) == ("64KiB", "100MiB")
    assert said["keep"] == {"input": "7d", "output": "1d", "job": "30d"}
    assert (said["callback"], said["price"]) == ({"policy": "runpod"}, {"perSecond": 0.0026})
    assert (said["delivery"], said["retryOn"]) == ("at-least-once", ["unknown", 502, 504])
    assert view["headerNames"] == ["X-Plain"]
    assert "hidden" not in made.text
    assert view.pop("secret").startswith("whsec_")
    assert (await api.get("/v1/endpoints/shout")).json() == view

    changed = await api.patch(
        "/v1/endpoints/shout", json={"concurrency": 3, "timeout": None, "keep": {"job": "60d"}}
    )
    assert changed.status_code == 200, changed.text
    said = changed.json()["rules"]
    assert (said["concurrency"], said.get("timeout")) == (3, None)
    assert said["keep"] == {"input": "7d", "output": "1d", "job": "60d"}
    assert said["tenants"] == ["acme", "default"]
    assert changed.json()["headerNames"] == ["X-Plain"]

    assert (await api.delete("/v1/endpoints/shout")).status_code == 204
    reject(await api.get("/v1/endpoints/shout"), 404, "NOT_FOUND")
    assert (await api.get("/v1/endpoints")).json()["data"] == []


async def test_its_view_given_back_means_the_same(api: httpx.AsyncClient, model: Model) -> None:
    """What the view says is a request's spelling."""
    view = await make_endpoint(
        api, model, rate=5, schema={"type": "object"}, timeoutMax=60, expectedDuration="1m"
    )
    again = await api.post("/v1/endpoints", json={"name": "again", **view["rules"]})
    assert again.status_code == 201, again.text
    assert again.json()["rules"] == view["rules"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": "jobs"}, "name"),
        ({"name": "a.b"}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"name": None}, "name"),
        ({"name": 5}, "name"),
        ({"url": "ftp://127.0.0.1/"}, "url"),
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"url": None}, "url"),
        ({"concurrency": 0}, "concurrency"),
        ({"rate": -1}, "rate"),
        ({"timeout": "soon"}, "timeout"),
        ({"outputMax": "300GiB"}, "outputMax"),
        ({"completion": "never"}, "completion"),
        ({"kind": "grpc"}, "kind"),
        ({"cancel": {"url": "http://169.254.169.254/stop"}}, "cancel.url"),
        ({"wake": {"url": "http://169.254.169.254/wake"}}, "wake.url"),
        ({"health": {"path": "up"}}, "health.path"),
        ({"headers": {"Content-Length": "1"}}, "headers.Content-Length"),
        ({"headers": {"X-Token": "env:DISPATCHER_UPSTREAM_TOKEN"}}, "headers.X-Token"),
        ({"headers": {"X-Token": "secret:unknown"}}, "headers.X-Token"),
        ({"callback": {"policy": "fast"}}, "callback.policy"),
        ({"schema": {"type": "nonsense"}}, "schema"),
        ({"query_timeout": 5}, "query_timeout"),
    ],
)
async def test_what_cannot_be_is_refused_by_its_field(
    api: httpx.AsyncClient, model: Model, fields: dict[str, Any], field: str
) -> None:
    """422 in the one shape; nothing is made of it."""
    answer = await api.post("/v1/endpoints", json={"name": "shout", "url": model.url, **fields})
    named = str(reject(answer, 422, "VALIDATION_ERROR")["field"])
    assert named.split(".")[: field.count(".") + 1] == field.split(".")
    assert (await api.get("/v1/endpoints")).json()["data"] == []
    if set(fields) == {"name"}:
        return
    await make_endpoint(api, model)
    answer = await api.patch("/v1/endpoints/shout", json=fields)
    reject(answer, 422, "VALIDATION_ERROR")


async def test_a_name_is_given_once(api: httpx.AsyncClient, model: Model) -> None:
    await make_endpoint(api, model)
    again = await api.post("/v1/endpoints", json={"name": "shout", "url": model.url})
    reject(again, 409, "CONFLICT")
    reject(await api.patch("/v1/endpoints/none", json={"rate": 1}), 404, "NOT_FOUND")
    reject(await api.patch("/v1/endpoints/shout", json={}), 422, "VALIDATION_ERROR")


async def test_only_administrators_of_the_platform_change_one(
    service: Service, api: httpx.AsyncClient, acme: httpx.AsyncClient, model: Model
) -> None:
    """403 for a tenant's key with every scope, and for the platform's without `admin`."""
    await make_endpoint(api, model)
    operator = await make_key(api, scopes=["submit", "read", "operate"], tenant=None)
    async with connect(service, operator) as platform:
        for client in (acme, platform):
            for method, path, body in (
                ("POST", "/v1/endpoints", {"name": "own", "url": model.url}),
                ("PATCH", "/v1/endpoints/shout", {"rate": 1}),
                ("DELETE", "/v1/endpoints/shout", None),
                ("POST", "/v1/endpoints/shout/pause", None),
                ("POST", "/v1/endpoints/shout/resume", None),
                ("POST", "/v1/endpoints/shout/test", None),
            ):
                reject(await client.request(method, path, json=body), 403, "FORBIDDEN")
        shown = (await platform.get("/v1/endpoints/shout")).json()
    assert "url" not in shown
    assert "rules" not in shown


async def test_a_tenant_sees_name_state_and_figures(
    api: httpx.AsyncClient, acme: httpx.AsyncClient, model: Model
) -> None:
    """Never url, headers or rules; and of one that is not for it nothing at all."""
    await make_endpoint(api, model, headers={"Authorization": "Basic aGlkZGVu"})
    await make_endpoint(api, model, name="hidden", tenants=["other"])
    listed = (await acme.get("/v1/endpoints")).json()["data"]
    assert [one["name"] for one in listed] == ["shout"]
    assert set(listed[0]) == {"name", "state", "capacity"}
    assert (await acme.get("/v1/endpoints/shout")).json() == listed[0]
    for path in ("hidden", "never"):
        reject(await acme.get(f"/v1/endpoints/{path}"), 404, "NOT_FOUND")
        reject(await acme.post(f"/v1/endpoints/{path}/purge"), 404, "NOT_FOUND")
    reject(await acme.get("/v1/endpoints/shout/load"), 403, "FORBIDDEN")
    everybody = {"allTenants": True}
    reject(await acme.post("/v1/endpoints/shout/purge", json=everybody), 403, "FORBIDDEN")
    assert (await acme.post("/v1/endpoints/shout/purge")).json() == {"purged": 0}
    for name in ("hidden", "never"):
        answer = await acme.post(f"/v1/endpoints/{name}/jobs", content=b"1")
        reject(answer, 404, "NOT_FOUND")
        assert answer.json()["message"] == f"there is no endpoint {name}"
    every = (await api.get("/v1/endpoints")).json()["data"]
    assert [one["name"] for one in every] == ["hidden", "shout"]


async def test_a_stored_secret_of_the_platform_stands_in_a_header(
    api: httpx.AsyncClient, model: Model
) -> None:
    """Named through the API, put in when the call is made, and kept while it is named."""
    secret = {"secret": "a-token-for-the-model-server"}
    assert (await api.put("/v1/stored-secrets/tok?platform=true", json=secret)).is_success
    await make_endpoint(api, model, headers={"Authorization": "Bearer secret:tok"})
    await ended(api, (await submit_job(api))["id"])
    [call] = model.received
    assert call.header("Authorization") == "Bearer a-token-for-the-model-server"
    reject(await api.delete("/v1/stored-secrets/tok?platform=true"), 409, "CONFLICT")
    assert (await api.delete("/v1/stored-secrets/tok?platform=true&force=true")).is_success


async def test_a_paused_one_takes_jobs_and_starts_none(
    api: httpx.AsyncClient, model: Model
) -> None:
    await make_endpoint(api, model)
    paused = await api.post("/v1/endpoints/shout/pause")
    assert paused.json()["state"] == "paused"
    id = (await submit_job(api))["id"]
    load = (await api.get("/v1/endpoints/shout/load")).json()
    assert (load["queued"], load["running"], load["wanted"]) == (1, 0, 1)
    assert (await api.get(f"/v1/jobs/{id}")).json()["status"] == "queued"
    assert model.received == []
    resumed = await api.post("/v1/endpoints/shout/resume")
    assert resumed.json()["state"] == "active"
    assert (await ended(api, id))["status"] == "completed"


async def test_a_test_calls_the_upstream_once_and_tells_all(
    api: httpx.AsyncClient, model: Model
) -> None:
    await make_endpoint(api, model)
    answer = await api.post("/v1/endpoints/shout/test", json={"input": {"text": "x"}})
    assert answer.status_code == 200, answer.text
    view = answer.json()
    assert (view["outcome"], view["statusCode"]) == ("answered", 200)
    assert view["outputExcerpt"] == '{"text":  "HELLO"}'
    [call] = model.received
    assert call.body == b'{"text":"x"}'
    await api.patch("/v1/endpoints/shout", json={"url": "http://127.0.0.1:9/"})
    view = (await api.post("/v1/endpoints/shout/test")).json()
    assert view["outcome"] == "not_sent"
    assert "errno 111" in view["detail"].lower()


async def test_a_change_acts_on_what_waits(api: httpx.AsyncClient, model: Model) -> None:
    """Rules are read when a job is started, not when it is submitted."""
    await make_endpoint(api, model, url="http://127.0.0.1:9/")
    await api.post("/v1/endpoints/shout/pause")
    id = (await submit_job(api))["id"]
    await api.patch("/v1/endpoints/shout", json={"url": model.url})
    await api.post("/v1/endpoints/shout/resume")
    assert (await ended(api, id))["output"] == {"text": "HELLO"}


def test_the_documented_fields_are_those_that_are_read() -> None:
    """But for what cannot be chosen yet, which is refused with its reason, and what is for the
    server's own file alone."""
    documented = {one.encode_name for one in msgspec.structs.fields(EndpointChange)}
    known = {camel(name) for name in FIELDS}
    assert known - documented == {"signingSecret"}
    assert documented <= known


# --- changes at the same time ---


def between(
    service: Service, monkeypatch: pytest.MonkeyPatch, change: Callable[[], Awaitable[object]]
) -> None:
    """Have `change` happen between the look at an endpoint and the write that follows from it."""
    jobs = service.store.jobs
    put, within = jobs.put_endpoint, False

    async def later(*args: Any, **more: Any) -> Any:
        nonlocal within
        if not within:
            within = True
            await change()
            within = False
        return await put(*args, **more)

    monkeypatch.setattr(jobs, "put_endpoint", later)


async def test_of_two_changes_at_once_neither_is_lost(
    api: httpx.AsyncClient, service: Service, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later one is made of what the earlier one has left."""
    await make_endpoint(api, model, concurrency=1)
    changed: list[httpx.Response] = []

    async def change() -> None:
        if not changed:
            changed.append(await api.patch("/v1/endpoints/shout", json={"concurrency": 7}))

    between(service, monkeypatch, change)
    answer = await api.patch("/v1/endpoints/shout", json={"rate": 2.5})
    assert answer.status_code == 200, answer.text
    assert [one.status_code for one in changed] == [200]
    rules = (await api.get("/v1/endpoints/shout")).json()["rules"]
    assert (rules["concurrency"], rules["rate"]) == (7, 2.5)


async def test_a_change_that_others_are_always_quicker_than_is_refused(
    api: httpx.AsyncClient, service: Service, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """409, and it says to try again; nothing of theirs is undone."""
    await make_endpoint(api, model)
    numbers = iter(range(2, 99))

    async def change() -> None:
        theirs = {"concurrency": next(numbers)}
        assert (await api.patch("/v1/endpoints/shout", json=theirs)).is_success

    between(service, monkeypatch, change)
    answer = await api.patch("/v1/endpoints/shout", json={"rate": 2.5})
    reject(answer, 409, "CONFLICT")
    assert "try again" in answer.json()["message"]
    monkeypatch.undo()
    rules = (await api.get("/v1/endpoints/shout")).json()["rules"]
    assert rules["concurrency"] == next(numbers) - 1
    assert "rate" not in rules


async def test_one_that_comes_from_a_file_meanwhile_is_not_changed(
    api: httpx.AsyncClient, service: Service, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file alone changes it from then on."""
    await make_endpoint(api, model)

    async def change() -> None:
        seen = await service.store.jobs.endpoint("shout")
        await service.store.jobs.put_endpoint(replace(seen, managed=True), create=False, now_ms=1)

    between(service, monkeypatch, change)
    answer = await api.patch("/v1/endpoints/shout", json={"rate": 2.5})
    reject(answer, 409, "CONFLICT")
    assert "file" in answer.json()["message"]
    assert (await service.store.jobs.endpoint("shout")).rules.rate is None
