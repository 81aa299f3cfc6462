"""What an endpoint is made of is the platform's: of its URL, its headers and their names, the
secrets that they name and why it cannot be reached no tenant is told anything, wherever it looks
(I9, D9)."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dispatcher.app import Service
from tests.dispatcher.api.models import Model, ended, model_server, submit_job
from tests.dispatcher.api.talk import connect, make_key
from tests.dispatcher.peers import Peer, answer, listening
from tests.receiver.waiting import until

ALL = ["submit", "read", "operate", "admin"]
PATH = "path-of-the-model"
HEADERS = {
    "X-Hidden-Name": "hidden-value-1",
    "Authorization": "Bearer secret:hidden-stored-name",
}
HIDDEN = (PATH, "X-Hidden-Name", "hidden-value", "hidden-stored", "hidden-token")
LOOKS = (
    "/v1/endpoints",
    "/v1/jobs",
    "/v1/callbacks",
    "/v1/audit",
    "/v1/usage",
    "/v1/stats",
    "/v1/destinations",
    "/v1/secrets",
    "/v1/stored-secrets",
    "/v1/keys",
)


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    async with model_server() as model:
        yield model


@pytest.fixture
async def acme(service: Service, api: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A tenant with every scope there is."""
    async with connect(service, await make_key(api, scopes=ALL, tenant="acme")) as client:
        yield client


def good(response: httpx.Response) -> Any:
    assert response.is_success, response.text
    return response.json() if response.content else None


def check(response: httpx.Response, *also: str) -> None:
    """Nothing of an endpoint stands in a response."""
    text = response.text + json.dumps(list(response.headers.multi_items()))
    for hidden in (*HIDDEN, *also):
        assert hidden.lower() not in text.lower(), f"{response.request.url}: {hidden}: {text}"


async def test_no_tenant_sees_what_an_endpoint_is_made_of(
    service: Service, api: httpx.AsyncClient, acme: httpx.AsyncClient, model: Model
) -> None:
    """Through every end that a call has, and every view, error, listing, figure and entry of the
    audit trail there is for a tenant's key."""
    secret = {"secret": "hidden-token-of-the-model"}
    good(await api.put("/v1/stored-secrets/hidden-stored-name?platform=true", json=secret))
    port = f":{model.peer.port}"
    fields = {"url": model.url.replace("generate", PATH), "headers": HEADERS, "attempts": 1}
    made = good(await api.post("/v1/endpoints", json={"name": "shout", **fields}))
    signs = made["secret"]
    redirect = answer("302 Found", f"Location: {fields['url']}", body=b"")
    model.answers += [
        answer("200 OK", "Content-Type: image/png", "Server: hidden-value", body=b"\x89PNG"),
        answer("500 Oops", "X-Hidden-Name: hidden-value", "Via: hidden-value", body=b"no"),
        redirect,
        b"garbage of no protocol\r\n\r\n",
        answer("200 OK", "Content-Type: application/json", body=b"x" * 2_000_000),
    ]
    ids = []
    for _ in range(5):
        ids.append((await submit_job(acme))["id"])
        await ended(acme, ids[-1])
    # What could not be reached, and what could not be sent, waits.
    good(await api.patch("/v1/endpoints/shout", json={"url": f"http://127.0.0.1:9/{PATH}"}))
    ids.append((await submit_job(acme))["id"])
    await until_called(acme, ids[-1])
    good(await api.delete("/v1/stored-secrets/hidden-stored-name?platform=true&force=true"))
    good(await api.post("/v1/endpoints/shout/resume"))
    ids.append((await submit_job(acme))["id"])
    await until_called(acme, ids[-1])
    for id in ids:
        for part in ("", "/attempts", "/input", "/output"):
            check(await acme.get(f"/v1/jobs/{id}{part}"), port, signs)
    for path in LOOKS:
        check(await acme.get(path), port, signs)
    refused = [
        await acme.post("/v1/endpoints/shout/test"),
        await acme.patch("/v1/endpoints/shout", json={"rate": 1}),
        await acme.get("/v1/endpoints/shout/load"),
        await acme.get("/v1/endpoints/shout/secrets"),
        await acme.post("/v1/endpoints/shout/secrets/reveal"),
        await acme.put("/v1/endpoints", json={"endpoints": {}}),
    ]
    assert {one.status_code for one in refused} == {403}
    for one in refused:
        check(one, port, signs)
    for path in ("/metrics", "/readyz", "/healthz"):
        check(await acme.get(path), port, signs)


async def until_called(client: httpx.AsyncClient, id: str) -> None:
    """Until a call of it has been tried."""

    async def tried() -> bool:
        return bool(good(await client.get(f"/v1/jobs/{id}/attempts"))["data"])

    await until(tried)


async def test_a_callback_says_nothing_of_it_either(
    service: Service, api: httpx.AsyncClient, acme: httpx.AsyncClient
) -> None:
    """Whatever became of the job: its body and its headers name the endpoint alone."""
    got: list[str] = []

    async def take(peer: Peer, reader: Any, writer: Any) -> None:
        request = await peer.receive(reader)
        if request is not None:
            got.append(f"{request.headers} {request.body!r}")
        writer.write(answer("200 OK", body=b""))

    async with listening(take) as customer:
        fields = {"url": f"http://127.0.0.1:9/{PATH}", "headers": {"X-Hidden-Name": "hidden-value"}}
        good(await api.post("/v1/endpoints", json={"name": "shout", **fields}))
        hook = f"http://localhost:{customer.port}/hook"
        good(await api.post("/v1/endpoints/shout/pause"))
        id = (await submit_job(acme, Postback_Callback_Url=hook))["id"]
        good(await acme.post(f"/v1/jobs/{id}/cancel"))
        callback = good(await acme.get(f"/v1/jobs/{id}"))["callback"]["id"]
        await until_delivered(acme, callback)
    (told,) = got
    for hidden in (PATH, "hidden", ":9/"):
        assert hidden not in told.lower()


async def until_delivered(client: httpx.AsyncClient, id: str) -> None:
    async def delivered() -> bool:
        return bool(good(await client.get(f"/v1/callbacks/{id}"))["status"] == "delivered")

    await until(delivered)
