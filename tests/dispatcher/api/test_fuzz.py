"""Whatever comes in: never a 500, never an answer out of shape."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.api.dialects.runpod_shapes import RunRequest
from dispatcher.api.dialects.tensorone_shapes import Execution
from dispatcher.app import Service
from dispatcher.settings import Settings
from dispatcher.wire import (
    BatchLine,
    DestinationChange,
    NewKey,
    Register,
    ReplayRequest,
    Rotate,
    RotateKey,
)
from tests.dispatcher.api.talk import ADMIN_KEY, connect

TEXT = st.text(max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    sorted(
        {field for shape in (BatchLine, ReplayRequest, Register, DestinationChange, NewKey, Rotate,
                             RotateKey, Execution, RunRequest)
         for field in shape.__struct_encode_fields__}
    )
)  # fmt: skip
SEEDS = st.sampled_from(
    ["parked", "http://127.0.0.1:9/", "high", "runpod", "dead", {"attempts": 2, "delays": [1]},
     {"a": "b"}, {"status": "dead"}, ["read"], 1, 0.5, True, ["10.0.0.0/8"],
     ["https://a"], 1e300, "whsec_" + "A" * 44]
)  # fmt: skip
BODIES = st.dictionaries(FIELDS, SEEDS | JSON, max_size=7).map(lambda one: json.dumps(one).encode())
POSTED = st.sampled_from(
    ["/v1/callbacks", "/v1/callbacks/raw", "/v1/callbacks/batch", "/v1/replays",
     "/v1/destinations", "/v1/keys", "/v1/keys/key_1/rotate", "/v1/secrets/rotate",
     "/v1/secrets/reveal", "/v2/endpoints/parked/runasync", "/v2/endpoints/parked/runsync?wait=0",
     "/v2/parked/run", "/v4/p/parked/run?async=true"]
)  # fmt: skip
NAMES = st.sampled_from(
    ["status", "jobStatus", "jobId", "tag.a", "destination", "priority", "error", "since", "until",
     "cursor", "limit", "callbackUrl", "policy", "all", "endpointId"]
)  # fmt: skip
VALUES = TEXT | st.sampled_from(["dead", "2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "1", "en"])
HEADERS = st.sampled_from(
    ["Idempotency-Key", "Postback-Tenant", "X-Request-Id", "Content-Type", "Content-Encoding",
     "Content-Length", "Authorization"]
)  # fmt: skip
HEADER_BYTES = st.binary(max_size=20).map(lambda b: b.translate(None, b"\r\n\0")) | st.sampled_from(
    [b"application/json", b"application/json; charset=", b"identity", b"-1", b"99999999999999999"]
)


class Target:
    """A running service for one test, and the loop it runs in: hypothesis calls plain functions."""

    def __init__(self, config: Settings) -> None:
        self._runner = asyncio.Runner()
        self._service = Service(config)
        self._runner.run(self._service.start())

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with connect(self._service, ADMIN_KEY) as client:
                async with asyncio.timeout(60):
                    return await client.request(method, path, **more)

        return self._runner.run(ask())

    def close(self) -> None:
        self._runner.run(self._service.stop())
        self._runner.close()


@pytest.fixture
def target(settings: Settings, caplog: pytest.LogCaptureFixture) -> Iterator[Target]:
    caplog.set_level(logging.ERROR, "dispatcher")
    made = Target(settings)
    made.ask("POST", "/v1/destinations", json={"name": "parked", "url": "http://127.0.0.1:9/"})
    made.ask("PATCH", "/v1/destinations/parked", json={"paused": True})
    made.ask("POST", "/v1/endpoints", json={"name": "parked", "url": "http://127.0.0.1:9/"})
    made.ask("POST", "/v1/endpoints/parked/pause")
    yield made
    made.close()


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def check(answer: httpx.Response) -> None:
    """A success, or an error in the one shape that is the caller's; never a fault of ours."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        body = answer.json()
        assert set(body) == {"error", "message", "details", "requestId"}
        assert len(answer.content) < 4_000


@fuzz(250)
@given(path=POSTED, body=BODIES | st.binary(max_size=60))
def test_any_body_is_taken_or_refused(target: Target, path: str, body: bytes) -> None:
    """Every POST, with fields that are nearly right and with bytes that are not."""
    answer = target.ask("POST", path, content=body, headers={"Content-Type": "application/json"})
    check(answer)
    for line in answer.text.splitlines() if path.endswith("/batch") else ():
        assert json.loads(line).get("error") != "INTERNAL"


@fuzz(100)
@given(body=BODIES)
def test_any_change_is_taken_or_refused(target: Target, body: bytes) -> None:
    """PATCH, likewise."""
    headers = {"Content-Type": "application/json"}
    check(target.ask("PATCH", "/v1/destinations/parked", content=body, headers=headers))


@fuzz(200)
@given(
    path=st.sampled_from(
        ["/v1/callbacks", "/v1/destinations", "/v1/keys", "/v1/stats", "/v2/jobs"]
    ),
    pairs=st.lists(st.tuples(NAMES | TEXT, VALUES), max_size=4),
    raw=st.binary(max_size=20),
)
def test_any_query_is_answered_or_refused(
    target: Target, path: str, pairs: list[tuple[str, str]], raw: bytes
) -> None:
    """Filters, cursors and limits, right and wrong, and bytes that are no query."""
    query = "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs)
    check(target.ask("GET", f"{path}?{query}"))
    check(target.ask("GET", f"{path}?{query}&{quote(raw)}"))


@fuzz(150)
@given(
    pairs=st.lists(st.tuples(HEADERS, HEADER_BYTES), max_size=4),
    path=st.sampled_from(["/v1/callbacks", "/v1/callbacks/raw?jobId=j&destination=parked"]),
)
def test_any_header_is_taken_or_refused(
    target: Target, pairs: list[tuple[str, bytes]], path: str
) -> None:
    """Headers that decide something, once, twice, and with any bytes."""
    body = b'{"jobId":"j","destination":"parked","payload":1}'
    raw = [(name.encode(), value) for name, value in pairs]
    check(target.ask("POST", path, content=body, headers=raw))


@fuzz(100)
@given(
    path=st.sampled_from(["callbacks", "destinations", "replays"]),
    name=TEXT | st.binary(max_size=12).map(lambda b: b.decode("latin-1")),
)
def test_any_id_is_unknown(target: Target, path: str, name: str) -> None:
    """Ids of any characters."""
    answer = target.ask("GET", f"/v1/{path}/x{quote(name, safe='')}")
    check(answer)
    assert answer.status_code in (404, 405)
