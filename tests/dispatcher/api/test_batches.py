"""`POST /v1/callbacks/batch`: a result for each line, in order."""

import json
from typing import Any

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.settings import Settings
from tests.dispatcher.api.talk import reject

NDJSON = {"Content-Type": "application/x-ndjson"}


def line(job_id: str, **fields: Any) -> bytes:
    return json.dumps({"jobId": job_id, "destination": "parked", "payload": 1} | fields).encode()


async def send(api: httpx.AsyncClient, *lines: bytes) -> list[dict[str, Any]]:
    answer = await api.post("/v1/callbacks/batch", content=b"\n".join(lines), headers=NDJSON)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    return [json.loads(result) for result in answer.text.splitlines()]


async def test_one_byte_order_mark_may_stand_before_the_first_line(
    api: httpx.AsyncClient, parked: str
) -> None:
    """Programs on Windows write it; a second one, or one before another line, is no JSON."""
    mark = b"\xef\xbb\xbf"
    results = await send(api, mark + line("a"), line("b"), mark + line("c"))
    assert [one.get("error") for one in results] == [None, None, "MALFORMED_JSON"]
    assert [one["line"] for one in await send(api, mark, line("d"))] == [2]
    assert [one.get("error") for one in await send(api, 2 * mark + line("e"))] == ["MALFORMED_JSON"]


async def test_a_bad_line_fails_alone(api: httpx.AsyncClient, parked: str) -> None:
    """Each line has its own result, with its number; the others are taken."""
    results = await send(
        api,
        line("a"),
        b"nope",
        b"",
        line("b", priority="low"),
        line("c", destination="unregistered"),
        b"\xff",
        line("a", payload=2),
        line("d"),
    )
    assert [result["line"] for result in results] == [1, 2, 4, 5, 6, 7, 8]
    assert [result.get("error") for result in results] == [
        None,
        "MALFORMED_JSON",
        "VALIDATION_ERROR",
        "VALIDATION_ERROR",
        "MALFORMED_JSON",
        "IDEMPOTENCY_CONFLICT",
        None,
    ]
    assert [result["status"] for result in results] == [
        "pending",
        400,
        422,
        422,
        400,
        409,
        "pending",
    ]
    assert results[2]["details"]["field"] == "priority"
    listed = (await api.get("/v1/callbacks")).json()["data"]
    assert {one["jobId"] for one in listed} == {"a", "d"}


async def test_the_results_keep_the_order_of_many_lines(
    api: httpx.AsyncClient, parked: str
) -> None:
    """More lines than go at once come back in order, and a repeated batch is all duplicates."""
    lines = [line(f"job_{n}") for n in range(300)]
    first, again = await send(api, *lines), await send(api, *lines)
    assert [result["jobId"] for result in first] == [f"job_{n}" for n in range(300)]
    assert not any(result["duplicate"] for result in first)
    assert all(result["duplicate"] for result in again)
    assert [result["id"] for result in again] == [result["id"] for result in first]


async def test_a_line_may_hold_its_own_idempotency_key(api: httpx.AsyncClient, parked: str) -> None:
    """As the header does for one submit."""
    results = await send(
        api,
        line("a", idempotencyKey="one"),
        line("a", idempotencyKey="two"),
        line("a", idempotencyKey="not visible"),
    )
    assert [result["status"] for result in results] == ["pending", "pending", 422]
    assert results[0]["id"] != results[1]["id"]


async def test_a_batch_over_its_limits_is_refused_whole(
    api: httpx.AsyncClient, settings: Settings, parked: str
) -> None:
    """413 for too many lines or bytes, and nothing is taken."""
    url = "/v1/callbacks/batch"
    lines = b"\n".join([line("a")] + [b""] * (settings.batch_lines_max + 1))
    reject(await api.post(url, content=lines, headers=NDJSON), 413, "PAYLOAD_TOO_LARGE")
    large = line("a") + b" " * settings.batch_bytes_max
    reject(await api.post(url, content=large, headers=NDJSON), 413, "PAYLOAD_TOO_LARGE")
    assert (await api.get("/v1/callbacks")).json()["data"] == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-ndjson", "Content-Encoding": "zstd"}, 415),
        ({"Content-Type": "application/x-ndjson", "Idempotency-Key": "k"}, 422),
    ],
)
async def test_a_batch_that_cannot_be_meant_is_refused_whole(
    api: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    """A wrong type, a compressed body, or one key for many callbacks."""
    answer = await api.post("/v1/callbacks/batch", content=line("a"), headers=headers)
    assert answer.status_code == status


async def test_an_empty_batch_has_no_results(api: httpx.AsyncClient) -> None:
    """Nothing in, nothing out."""
    assert await send(api, b"\n\n") == []


async def test_a_stopping_service_takes_no_batch(service: Service, api: httpx.AsyncClient) -> None:
    """503 for the whole of it, before any line."""
    service.engine.ready = False
    answer = await api.post("/v1/callbacks/batch", content=line("a"), headers=NDJSON)
    reject(answer, 503, "UNAVAILABLE")
