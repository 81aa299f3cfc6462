"""Why deliveries wait and fail, as the API tells it: to operators the reason, to tenants one
class."""

import asyncio
from typing import Any

import httpx
import pytest

from dispatcher.app import Service
from tests.dispatcher.api.talk import connect, make_key, reject, submit, until_state

ONCE = {"attempts": 1}


async def blocked(api: httpx.AsyncClient, service: Service) -> str:
    """A callback that our own rules of egress do not let out."""
    made = await api.post("/v1/destinations", json={"name": "inside", "url": "http://inside.test/"})
    assert made.status_code == 201, made.text
    id = await submit(api, "job_1", "inside", policy=ONCE)
    await until_state(service, id, "dead")
    return id


@pytest.fixture
async def tenants_own(api: httpx.AsyncClient, service: Service) -> Any:
    key = await make_key(api, tenant="default", scopes=["read", "operate"])
    async with connect(service, key) as client:
        yield client


async def test_operators_see_why_it_was_not_reached(
    api: httpx.AsyncClient, tenants_own: httpx.AsyncClient, service: Service
) -> None:
    """A platform key sees the class and the reason, a tenant's key one class for all (D9)."""
    id = await blocked(api, service)
    path = f"/v1/callbacks/{id}/attempts"
    (attempt,) = (await api.get(path)).json()["data"]
    assert (attempt["outcome"], attempt["cause"]) == ("unreachable", "dns")
    assert attempt["detail"]
    (own,) = (await tenants_own.get(path)).json()["data"]
    assert own["outcome"] == "unreachable"
    assert own.keys() & {"cause", "detail"} == set()


async def test_a_connection_that_is_refused_is_told_so(
    api: httpx.AsyncClient, service: Service
) -> None:
    id = (
        await api.post(
            "/v1/callbacks",
            json={
                "jobId": "job_1",
                "callbackUrl": "http://127.0.0.1:9/",
                "payload": {},
                "policy": ONCE,
            },
        )
    ).json()["id"]
    await until_state(service, id, "dead")
    (attempt,) = (await api.get(f"/v1/callbacks/{id}/attempts")).json()["data"]
    assert attempt["cause"] == "refused"


async def test_failures_are_grouped(
    api: httpx.AsyncClient, tenants_own: httpx.AsyncClient, service: Service
) -> None:
    """By destination and error, with a sample; the reason is for operators."""
    id = await blocked(api, service)
    found = (await api.get("/v1/failures")).json()
    assert found["complete"] is True
    (group,) = found["data"]
    assert (group["destinationName"], group["status"], group["error"], group["count"]) == (
        "inside", "dead", "unreachable", 1,
    )  # fmt: skip
    assert (group["sample"], group["cause"]) == (id, "dns")
    (own,) = (await tenants_own.get("/v1/failures")).json()["data"]
    assert own.keys() & {"cause", "detail"} == set()
    assert (await api.get("/v1/failures?destination=inside&status=pending")).json()["data"] == []


async def test_only_what_fails_has_failures(api: httpx.AsyncClient) -> None:
    refused = await api.get("/v1/failures?status=delivered")
    assert "status" in str(reject(refused, 422, "VALIDATION_ERROR"))
    reject(await api.get("/v1/failures?nonsense=1"), 422, "VALIDATION_ERROR")


async def test_a_pending_callback_says_what_it_waits_for(
    api: httpx.AsyncClient, parked: str
) -> None:
    """Alone and in the listing; `notBefore` with its end."""
    id = await submit(api, "job_1", parked)
    assert (await api.get(f"/v1/callbacks/{id}")).json()["waitsFor"] == {"reason": "paused"}
    (listed,) = (await api.get("/v1/callbacks")).json()["data"]
    assert listed["waitsFor"] == {"reason": "paused"}
    await api.post(f"/v1/callbacks/{id}/cancel")
    assert "waitsFor" not in (await api.get(f"/v1/callbacks/{id}")).json()


async def test_a_destination_that_refuses_all_is_rejecting(
    api: httpx.AsyncClient, service: Service
) -> None:
    """With what it answers."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        await api.post(
            "/v1/destinations", json={"name": "strict", "url": f"http://127.0.0.1:{port}/"}
        )
        await until_state(service, await submit(api, "job_1", "strict", policy=ONCE), "dead")
    found = (await api.get("/v1/destinations/strict")).json()
    assert (found["health"], found["lastError"]) == ("rejecting", "http_401")


async def test_a_replay_of_what_waits_tries_it_now(api: httpx.AsyncClient, parked: str) -> None:
    """`pending` is one of the filter's states; `sending` is not."""
    await submit(api, "job_1", parked)
    started = await api.post("/v1/replays", json={"filter": {"status": "pending"}})
    assert started.status_code == 202
    assert started.json()["matched"] == 1
    reject(
        await api.post("/v1/replays", json={"filter": {"status": "sending"}}),
        422,
        "VALIDATION_ERROR",
    )


async def test_a_tenant_that_comes_into_being_is_named(
    api: httpx.AsyncClient, service: Service
) -> None:
    """In the answer that made it, and in no other: a misspelt one is seen."""
    body = {"jobId": "job_1", "callbackUrl": "http://127.0.0.1:9/", "payload": {}}
    named = {"Postback-Tenant": "typo"}
    looked = await api.get("/v1/callbacks", headers=named)
    assert "Postback-Tenant-Created" not in looked.headers
    made = await api.post("/v1/callbacks", json=body, headers=named)
    assert made.headers["Postback-Tenant-Created"] == "typo"
    again = await api.post("/v1/callbacks", json=body, headers=named)
    assert "Postback-Tenant-Created" not in again.headers


async def test_the_service_says_how_it_was_started(
    api: httpx.AsyncClient, tenants_own: httpx.AsyncClient
) -> None:
    """To platform keys: settings that are set, secrets by name alone."""
    found = await api.get("/v1/service")
    body = found.json()
    assert body["settings"]["DISPATCHER_ALLOW_NETWORKS"] == ["127.0.0.0/8"]
    assert "DISPATCHER_ADMIN_KEY" in body["secrets"]
    assert "test-admin-key" not in found.text
    assert body["database"].startswith("sqlite:////")
    reject(await tenants_own.get("/v1/service"), 403, "FORBIDDEN")


async def test_a_url_finds_the_destination_of_its_server(
    api: httpx.AsyncClient, service: Service
) -> None:
    """In the listing, since no path of ours has an encoded slash; of nobody's server none."""
    url = "http://127.0.0.1:9/a/path?token=t"
    made = await api.post(
        "/v1/callbacks", json={"jobId": "job_1", "callbackUrl": url, "payload": {}}
    )
    assert made.status_code == 202
    (found,) = (await api.get("/v1/destinations", params={"url": url})).json()["data"]
    assert found["url"] == "http://127.0.0.1:9"
    other = await api.get("/v1/destinations", params={"url": "http://127.0.0.1:10/"})
    assert other.json() == {"data": [], "nextCursor": None}
    reject(await api.get("/v1/destinations?url=billing"), 422, "VALIDATION_ERROR")
