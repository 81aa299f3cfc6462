"""I9: a tenant cannot see, count or touch another tenant's anything."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dispatcher.app import Service
from tests.dispatcher.api.talk import connect, make_key, submit

ALL = ["submit", "read", "operate", "admin"]


@pytest.fixture
async def mallory(service: Service, api: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """Another tenant, with every scope there is."""
    async with connect(service, await make_key(api, scopes=ALL, tenant="mallory")) as client:
        yield client


def told(answer: httpx.Response) -> tuple[int, Any]:
    """What an answer tells: all of it, but the id that the question itself held."""
    body = answer.json()
    return answer.status_code, {name: body[name] for name in body if name != "requestId"}


async def test_i9_anothers_ids_answer_exactly_like_unknown_ones(
    api: httpx.AsyncClient, mallory: httpx.AsyncClient, parked: str
) -> None:
    """Every route with an id, with another tenant's id and with one that never was: the same
    status, code, message and details."""
    callback_id = await submit(api, "one", parked)
    destination = (await api.get("/v1/destinations/parked")).json()["id"]
    cancelled = await submit(api, "two", parked)
    await api.post(f"/v1/callbacks/{cancelled}/cancel")
    asked = {"filter": {"status": "cancelled"}, "ratePerSecond": 0.01}
    replay = (await api.post("/v1/replays", json=asked)).json()["id"]
    key = (await api.post("/v1/keys", json={"scopes": ["read"], "tenant": "default"})).json()["id"]
    secret = (await api.get("/v1/secrets")).json()["data"][0]["id"]
    unknown = {callback_id: "cb_" + "0" * 32, destination: "ds_" + "0" * 32, parked: "nobody",
               replay: "rp_" + "0" * 32, key: "key_" + "0" * 32, secret: "sec_0"}  # fmt: skip
    questions: list[tuple[str, str, str, Any]] = [
        ("GET", "/v1/callbacks/{}", callback_id, None),
        ("GET", "/v1/callbacks/{}/attempts", callback_id, None),
        ("GET", "/v1/callbacks/{}/payload", callback_id, None),
        ("POST", "/v1/callbacks/{}/replay", callback_id, None),
        ("POST", "/v1/callbacks/{}/cancel", callback_id, None),
        ("GET", "/v1/replays/{}", replay, None),
        ("POST", "/v1/replays/{}/cancel", replay, None),
        ("GET", "/v1/destinations/{}", destination, None),
        ("GET", "/v1/destinations/{}", parked, None),
        ("PATCH", "/v1/destinations/{}", destination, {"paused": False}),
        ("DELETE", "/v1/destinations/{}", destination, None),
        ("POST", "/v1/destinations/{}/test", destination, None),
        ("POST", "/v1/keys/{}/rotate", key, {"overlap": 1}),
        ("DELETE", "/v1/keys/{}", key, None),
        ("POST", "/v1/secrets/reveal", secret, {"id": "{}"}),
        ("POST", "/v1/secrets/reveal", parked, {"destination": "{}"}),
        ("POST", "/v1/secrets/rotate", parked, {"destination": "{}"}),
        ("POST", "/v1/callbacks", parked, {"jobId": "j", "destination": "{}", "payload": 1}),
        ("GET", "/v1/callbacks?destination={}", destination, None),
    ]
    for method, path, known, body in questions:
        answers = []
        for name in (known, unknown[known]):
            json = {k: name if v == "{}" else v for k, v in body.items()} if body else None
            answer = await mallory.request(method, path.format(name), json=json)
            status, said = told(answer)
            answers.append((status, str(said).replace(name, "ID")))
        assert answers[0] == answers[1], (method, path)
        assert answers[0][0] in (404, 422) or "?" in path, (method, path, answers)
    assert (await api.get(f"/v1/callbacks/{callback_id}")).json()["status"] == "pending"
    assert (await api.get("/v1/destinations/parked")).json()["paused"] is True


async def test_i9_listings_and_counts_hold_ones_own_only(
    api: httpx.AsyncClient, mallory: httpx.AsyncClient, parked: str
) -> None:
    """Nothing of another tenant in any listing, count or preview."""
    callback_id = await submit(api, "one", parked, tags={"team": "a"})
    await api.post(f"/v1/callbacks/{callback_id}/cancel")
    for path in ("/v1/callbacks", "/v1/destinations"):
        assert (await mallory.get(path)).json()["data"] == []
    assert len((await mallory.get("/v1/keys")).json()["data"]) == 1
    assert len((await mallory.get("/v1/secrets")).json()["data"]) == 1
    assert sum((await mallory.get("/v1/stats")).json()["counts"].values()) == 0
    asked = {"filter": {"status": "cancelled", "tag.team": "a"}, "dryRun": True}
    assert (await mallory.post("/v1/replays", json=asked)).json()["matched"] == 0


async def test_i9_the_same_job_and_key_of_two_tenants_are_two_callbacks(
    api: httpx.AsyncClient, mallory: httpx.AsyncClient
) -> None:
    """Idempotency keys, jobs and names of different tenants never meet."""
    body = {"jobId": "j", "callbackUrl": "http://127.0.0.1:9/", "payload": 1}
    key = {"Idempotency-Key": "same"}
    registration = {"name": "same", "url": "http://127.0.0.1:9/"}
    for client in (api, mallory):
        taken = await client.post("/v1/callbacks", json=body, headers=key)
        assert taken.status_code == 202
        assert (await client.post("/v1/destinations", json=registration)).status_code == 201


async def test_i9_a_cursor_is_worth_nothing_to_another_tenant(
    api: httpx.AsyncClient, mallory: httpx.AsyncClient, parked: str
) -> None:
    """422, as for any text that is no cursor."""
    for n in range(2):
        await submit(api, f"job_{n}", parked)
    cursor = (await api.get("/v1/callbacks?limit=1")).json()["nextCursor"]
    assert (await mallory.get(f"/v1/callbacks?cursor={cursor}")).status_code == 422


async def test_i9_metrics_name_no_tenant(
    api: httpx.AsyncClient, mallory: httpx.AsyncClient, parked: str
) -> None:
    """D14: metrics are open, so they tell nothing of anybody."""
    await submit(api, "one", parked)
    text = (await mallory.get("/metrics")).text
    assert "mallory" not in text
    assert parked not in text
