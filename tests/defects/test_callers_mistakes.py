"""Nothing answers 500 for a caller's mistake, and no name ends with a line (D13): on both
stores."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.settings import Settings
from tests.dispatcher.api.talk import ADMIN_KEY, connect
from tests.dispatcher.postgres import folders

NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}
URL = "http://203.0.114.1/hook"


@pytest.fixture(params=["sqlite", "postgres"])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    lite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/postback.db" if lite else folders.url_for(tmp_path)
    settings = Settings(database_url=url, admin_key=ADMIN_KEY, drain_grace=0.2)
    async with Service(settings) as service, connect(service, ADMIN_KEY) as talking:
        yield talking
    if not lite:
        folders.drop_under(tmp_path)


@pytest.mark.parametrize(
    ("method", "path", "document"),
    [
        ("GET", "/v1/callbacks?destination=http://%5B", None),
        ("GET", "/v1/callbacks?tag.a%00b=1", None),
        ("GET", "/v1/callbacks?tag.%ED%A0%80=1", None),
        ("GET", "/v1/callbacks?tag." + "a" * 3_000 + "=1", None),
        ("POST", "/v1/replays", {"filter": {"destination": "http://["}}),
        ("POST", "/v1/replays", {"filter": {"tag.a\0b": "x"}}),
        ("POST", "/v1/replays", {"filter": {"tag.a\0b": "x"}, "dryRun": True}),
        ("POST", "/v1/secrets/reveal", {"destination": "http://["}),
        ("POST", "/v1/secrets/reveal", {"destination": "a\0"}),
        ("POST", "/v1/secrets/reveal", {"id": "a\0"}),
        ("POST", "/v1/secrets/rotate", {"destination": "http://["}),
        ("POST", "/v1/keys", {"scopes": ["read"], "tenant": "t", "label": "a\0b"}),
        ("POST", "/v1/keys", {"scopes": ["read"], "tenant": "t", "label": "a\u0085b"}),
        ("GET", "/v1/callbacks?cursor=%00", None),
        ("GET", "/v1/callbacks/a%00b", None),
        ("GET", "/v1/destinations/a%00b", None),
        ("GET", "/v1/replays/a%00b", None),
        ("DELETE", "/v1/keys/a%00b", None),
    ],
)
async def test_a_mistake_is_told_as_such(
    api: httpx.AsyncClient, method: str, path: str, document: Any
) -> None:
    body = None if document is None else json.dumps(document)
    answer = await api.request(method, path, content=body, headers=JSON)
    assert answer.status_code < 500, answer.text


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("/v1/keys", {"scopes": ["read"], "tenant": "acme\n"}),
        ("/v1/destinations", {"name": "mine\n", "url": URL}),
        ("/v1/callbacks", {"jobId": "a", "destination": "mine\n", "payload": 1}),
    ],
)
async def test_no_name_ends_with_a_line(api: httpx.AsyncClient, path: str, document: Any) -> None:
    """What could not be addressed by it afterwards."""
    answer = await api.post(path, json=document)
    assert answer.status_code == 422, answer.text


async def test_no_key_of_a_batch_ends_with_a_line(api: httpx.AsyncClient) -> None:
    line = json.dumps({"jobId": "a", "callbackUrl": URL, "payload": 1, "idempotencyKey": "k\n"})
    answer = await api.post("/v1/callbacks/batch", content=line, headers=NDJSON)
    assert json.loads(answer.text)["status"] == 422
