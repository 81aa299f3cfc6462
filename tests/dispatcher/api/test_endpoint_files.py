"""PUT /v1/endpoints: endpoints out of a file, put in force at once."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.app import Service
from tests.dispatcher.api.talk import ADMIN_KEY, connect, make_key, reject
from tests.dispatcher.gateway.rig import settings_of

URL = "http://127.0.0.1:9/run"


async def put(api: httpx.AsyncClient, documents: Any = None, **more: Any) -> Any:
    body = {} if documents is None else {"endpoints": documents}
    answer = await api.put("/v1/endpoints", json=body | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def names(api: httpx.AsyncClient) -> dict[str, bool]:
    page = (await api.get("/v1/endpoints")).json()
    return {one["name"]: one["managed"] for one in page["data"]}


async def test_a_file_makes_changes_and_removes_what_comes_from_one(
    api: httpx.AsyncClient,
) -> None:
    """Entries from a file are marked managed and 409 to the API."""
    await api.post("/v1/endpoints", json={"name": "by-hand", "url": URL})
    two = {"a": {"url": URL}, "b": {"url": URL, "concurrency": 2}}
    assert await put(api, two, dryRun=True) == {
        "created": ["a", "b"],
        "changed": [],
        "removed": [],
        "unchanged": [],
    }
    assert await names(api) == {"by-hand": False}
    assert (await put(api, two))["created"] == ["a", "b"]
    assert (await put(api, two))["unchanged"] == ["a", "b"]
    assert await names(api) == {"a": True, "b": True, "by-hand": False}
    reject(await api.patch("/v1/endpoints/a", json={"rate": 1}), 409, "CONFLICT")
    reject(await api.delete("/v1/endpoints/a"), 409, "CONFLICT")
    assert await put(api, {"b": {"url": URL, "concurrency": 3}}) == {
        "created": [],
        "changed": ["b"],
        "removed": ["a"],
        "unchanged": [],
    }
    assert (await api.get("/v1/endpoints/b")).json()["rules"]["concurrency"] == 3
    assert await names(api) == {"b": True, "by-hand": False}


async def test_a_file_takes_over_what_it_names(api: httpx.AsyncClient) -> None:
    await api.post("/v1/endpoints", json={"name": "a", "url": URL})
    await api.post("/v1/endpoints/a/pause")
    assert (await put(api, {"a": {"url": URL}}))["changed"] == ["a"]
    found = (await api.get("/v1/endpoints/a")).json()
    assert (found["managed"], found["state"]) == (True, "paused")


@pytest.mark.parametrize(
    ("documents", "field"),
    [
        ({"a": {}}, "endpoints.a.url"),
        ({"a": {"url": URL, "timout": 1}}, "endpoints.a.timout"),
        ({"a": {"url": URL, "keep": {"input": "x"}}}, "endpoints.a.keep.input"),
        ({"jobs": {"url": URL}}, "endpoints.jobs"),
        ({"a b": {"url": URL}}, "endpoints.a b"),
        ({"a": {"url": "http://169.254.169.254/"}}, "endpoints.a.url"),
        ({"a": {"url": URL, "headers": {"x": "env:DISPATCHER_UPSTREAM_X"}}},
         "endpoints.a.headers.x"),
        ({"a": {"url": URL, "headers": {"x": "file:x"}}}, "endpoints.a.headers.x"),
        (None, "endpoints"),
    ],
)  # fmt: skip
async def test_what_cannot_be_put_in_force_changes_nothing(
    api: httpx.AsyncClient, documents: Any, field: str
) -> None:
    """`env:` and `file:` values are read only from entries of the file on the server's own disk."""
    body = {} if documents is None else {"endpoints": {"good": {"url": URL}} | documents}
    answer = await api.put("/v1/endpoints", json=body)
    reject(answer, 422, "VALIDATION_ERROR")
    assert answer.json()["details"]["field"] == field
    assert await names(api) == {}


async def test_only_the_platforms_administrators_apply(
    service: Service, api: httpx.AsyncClient
) -> None:
    """Endpoints are made, changed and tested by platform keys with `admin` only."""
    every = ["submit", "read", "operate", "admin"]
    for scopes, tenant in ((every, "acme"), (["submit", "read", "operate"], None)):
        async with connect(service, await make_key(api, scopes=scopes, tenant=tenant)) as weak:
            answer = await weak.put("/v1/endpoints", json={"endpoints": {}})
            reject(answer, 403, "FORBIDDEN")


@pytest.fixture
async def with_file(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A service with a file of its own."""
    path = tmp_path / "postback.toml"
    path.write_text(f'[endpoints.a]\nurl = "{URL}"\n')
    settings = settings_of(f"sqlite:///{tmp_path}/d.db", apply=str(path), admin_key=ADMIN_KEY)
    async with Service(settings) as service, connect(service, ADMIN_KEY) as api:
        yield api


async def test_a_servers_own_file_is_read_again(
    with_file: httpx.AsyncClient, tmp_path: Path
) -> None:
    assert await names(with_file) == {"a": True}
    (tmp_path / "postback.toml").write_text(f'[endpoints.b]\nurl = "{URL}"\n')
    done = await put(with_file)
    assert (done["created"], done["removed"]) == (["b"], ["a"])
    (tmp_path / "postback.toml").write_text("[endpoints.c]\n")
    answer = await with_file.put("/v1/endpoints")
    reject(answer, 422, "VALIDATION_ERROR")
    assert "[endpoints.c] url: is required" in answer.json()["message"]
    assert answer.json()["details"]["field"] == "endpoints.c.url"
    reject(await with_file.put("/v1/endpoints", json={"endpoints": {}}), 409, "CONFLICT")
    assert await names(with_file) == {"b": True}
