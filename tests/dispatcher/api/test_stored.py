"""`/v1/stored-secrets`: write-only secrets, and the headers that carry them (I8, I9, D14, D21)."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest

from dispatcher.app import Service
from tests.dispatcher.api.talk import connect, make_key, reject, submit, until_state
from tests.dispatcher.peers import OK, Peer, answers, listening

URL: Final = "/v1/stored-secrets"
HOOK: Final = "http://127.0.0.1:9/hook"
VALUE: Final = "test-value-that-nobody-reads"
OTHER: Final = "test-value-that-came-after-it"
BEARER: Final = {"Authorization": "Bearer secret:crm"}


async def put(api: httpx.AsyncClient, name: str = "crm", value: str = VALUE) -> httpx.Response:
    return await api.put(f"{URL}/{name}", json={"secret": value})


async def register(api: httpx.AsyncClient, url: str = HOOK, **headers: str) -> httpx.Response:
    registration = {"name": "crm", "url": url, "headers": headers or BEARER}
    return await api.post("/v1/destinations", json=registration)


@pytest.fixture
async def mallory(service: Service, api: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """Another tenant's, with every scope there is."""
    scopes = ["submit", "read", "operate", "admin"]
    async with connect(service, await make_key(api, scopes=scopes, tenant="mallory")) as client:
        yield client


@pytest.fixture
async def operator(service: Service, api: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """Who looks after the tenant's deliveries."""
    scopes = ["submit", "read", "operate"]
    async with connect(service, await make_key(api, scopes=scopes, tenant="default")) as client:
        yield client


async def test_i8_what_is_stored_is_never_shown(api: httpx.AsyncClient) -> None:
    """In no answer, not even in the one that stored it, nor in a listing of anything."""
    made = await put(api)
    assert made.status_code == 201, made.text
    assert (made.json()["name"], made.json()["uses"], made.json()["usedBy"]) == ("crm", 0, [])
    assert (await register(api)).status_code == 201
    replaced = await put(api, value=OTHER)
    assert replaced.status_code == 200
    assert replaced.json()["usedBy"] == ["crm"]
    assert replaced.json()["createdAt"] == made.json()["createdAt"]
    paths = (URL, "/v1/destinations", "/v1/destinations/crm", "/v1/secrets", "/metrics")
    texts = [made.text, replaced.text, *[(await api.get(path)).text for path in paths]]
    assert not any(value in text for text in texts for value in (VALUE, OTHER))
    (listed,) = (await api.get(URL)).json()["data"]
    assert set(listed) == {"name", "createdAt", "updatedAt", "uses", "usedBy"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "secret"),
        ({"secret": ""}, "secret"),
        ({"secret": 7}, "secret"),
        ({"secret": VALUE + "\r\nX-Evil: 1"}, "secret"),
        ({"secret": VALUE + "\n"}, "secret"),
        ({"secret": " " + VALUE}, "secret"),
        ({"secret": VALUE + "\x00"}, "secret"),
        ({"secret": VALUE + "é"}, "secret"),
        ({"secret": VALUE * 200}, "secret"),
        ({"secret": VALUE, "more": VALUE}, "more"),
        (VALUE, "body"),
        ([VALUE], "body"),
    ],
)
async def test_i8_what_cannot_be_stored_is_refused_and_not_repeated(
    api: httpx.AsyncClient, body: Any, field: str
) -> None:
    """It is validated as the header's value that it is to be."""
    answer = await api.put(f"{URL}/crm", json=body)
    details = reject(answer, 422, "VALIDATION_ERROR")
    assert details["field"] == field
    assert VALUE not in answer.text
    assert (await api.get(URL)).json()["data"] == []


@pytest.mark.parametrize("name", ["x" * 65, ".x", "-x", "a~b"])
async def test_a_name_is_one_that_a_header_can_say(api: httpx.AsyncClient, name: str) -> None:
    reject(await put(api, name), 422, "VALIDATION_ERROR")


async def test_only_admin_keys_store_list_and_delete(
    api: httpx.AsyncClient, operator: httpx.AsyncClient
) -> None:
    await put(api)
    reject(await put(operator), 403, "FORBIDDEN")
    reject(await operator.get(URL), 403, "FORBIDDEN")
    reject(await operator.delete(f"{URL}/crm"), 403, "FORBIDDEN")


async def test_only_admin_keys_say_where_one_is_sent(
    api: httpx.AsyncClient, operator: httpx.AsyncClient
) -> None:
    """By a header that names it, or by another URL of a destination whose headers do; all else
    about that destination is an operator's."""
    await put(api)
    reject(await register(operator), 403, "FORBIDDEN")
    assert (await register(api)).status_code == 201
    path = "/v1/destinations/crm"
    reject(await operator.patch(path, json={"headers": BEARER}), 403, "FORBIDDEN")
    elsewhere = {"url": "http://127.0.0.1:9/elsewhere"}
    reject(await operator.patch(path, json=elsewhere), 403, "FORBIDDEN")
    assert (await operator.patch(path, json={"paused": True, "url": HOOK})).status_code == 200
    assert (await api.patch(path, json=elsewhere)).status_code == 200
    assert (await operator.patch(path, json={"headers": {"X-Team": "a"}})).status_code == 200
    assert (await operator.patch(path, json={"url": HOOK})).status_code == 200


async def test_a_header_names_what_is_stored(api: httpx.AsyncClient) -> None:
    """422 that names the header; nothing is registered or changed."""
    details = reject(await register(api), 422, "VALIDATION_ERROR")
    assert (details["field"], details["value"]) == ("headers.Authorization", None)
    assert "crm" in str(details["reason"])
    assert (await api.get("/v1/destinations")).json()["data"] == []
    await register(api, Plain="1")
    answer = await api.patch("/v1/destinations/crm", json={"headers": BEARER})
    assert reject(answer, 422, "VALIDATION_ERROR")["field"] == "headers.Authorization"
    assert (await api.get("/v1/destinations/crm")).json()["headerNames"] == ["Plain"]


async def test_i9_anothers_name_is_as_good_as_none(
    api: httpx.AsyncClient, mallory: httpx.AsyncClient
) -> None:
    """Neither seen, nor deleted, nor sent: the same answers, word for word."""
    await put(api)
    await put(mallory, "mine")
    for path in (f"{URL}/crm", f"{URL}/crm?force=true"):
        asked = [await mallory.delete(one) for one in (path, path.replace("crm", "nil"))]
        told = [(one.status_code, one.json()["message"].replace("nil", "crm")) for one in asked]
        assert told[0] == told[1]
        assert told[0][0] == 404
    reject(await register(mallory), 422, "VALIDATION_ERROR")
    assert [one["name"] for one in (await mallory.get(URL)).json()["data"]] == ["mine"]
    assert [one["name"] for one in (await api.get(URL)).json()["data"]] == ["crm"]


async def test_the_platforms_own_are_for_platform_keys_and_no_tenants_headers(
    api: httpx.AsyncClient, mallory: httpx.AsyncClient
) -> None:
    platform = {"platform": "true"}
    made = await api.put(f"{URL}/upstream", params=platform, json={"secret": VALUE})
    assert made.status_code == 201
    assert [one["name"] for one in (await api.get(URL, params=platform)).json()["data"]] == [
        "upstream"
    ]
    assert (await api.get(URL)).json()["data"] == []
    reject(await mallory.get(URL, params=platform), 403, "FORBIDDEN")
    reject(await mallory.delete(f"{URL}/upstream", params=platform), 403, "FORBIDDEN")
    theirs = {"Authorization": "secret:upstream"}
    for client in (api, mallory):
        reject(await register(client, **theirs), 422, "VALIDATION_ERROR")
    reject(await api.get(URL, params={"platform": "yes"}), 422, "VALIDATION_ERROR")
    assert (await api.delete(f"{URL}/upstream", params=platform)).status_code == 204


async def test_one_that_a_header_names_is_deleted_by_force_alone(api: httpx.AsyncClient) -> None:
    await put(api)
    await register(api)
    answer = await api.delete(f"{URL}/crm")
    reject(answer, 409, "CONFLICT")
    assert "crm" in answer.json()["message"]
    assert (await api.delete(f"{URL}/crm?force=true")).status_code == 204
    reject(await api.delete(f"{URL}/crm?force=true"), 404, "NOT_FOUND")


async def test_a_submit_names_none(api: httpx.AsyncClient, parked: str) -> None:
    """Who may submit chooses the URL, too: it would be there to be read. A literal passes."""
    await put(api)
    body = {"jobId": "j", "destination": parked, "payload": 1, "headers": BEARER}
    details = reject(await api.post("/v1/callbacks", json=body), 422, "VALIDATION_ERROR")
    assert details["field"] == "headers.Authorization"
    literal = body | {"headers": {"X-Note": "Bearer secret::crm"}}
    assert (await api.post("/v1/callbacks", json=literal)).status_code == 202


# --- what is sent ---


async def test_deliveries_carry_the_secret_and_nobody_else_says_it(
    service: Service, api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Alone, behind a word, and a literal; tests too. Neither log nor history has it."""
    headers = {**BEARER, "X-Key": "secret:crm", "X-Literal": "secret::crm", "X-Plain": "a"}
    with caplog.at_level(logging.DEBUG, "dispatcher"):
        async with listening(answers(OK)) as peer:
            await put(api)
            assert (await register(api, peer.url, **headers)).status_code == 201
            callback_id = await submit(api, "job", "crm")
            await until_state(service, callback_id, "delivered")
            tested = await api.post("/v1/destinations/crm/test")
            assert tested.json()["outcome"] == "acknowledged"
        history = await api.get(f"/v1/callbacks/{callback_id}/attempts")
    assert len(peer.received) == 2
    for request in peer.received:
        sent = request.as_dict
        assert sent["authorization"] == f"Bearer {VALUE}"
        assert (sent["x-key"], sent["x-literal"], sent["x-plain"]) == (VALUE, "secret:crm", "a")
    assert VALUE not in history.text
    assert any("secret stored" in line for line in said(caplog))
    assert VALUE not in "".join(said(caplog))


async def test_d21_nothing_goes_out_without_its_header(
    service: Service, api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A secret that is gone is our own lack: no try is spent, nothing is sent, and all goes out
    once it is stored again."""
    async with listening(answers(OK)) as peer:
        await put(api)
        await register(api, peer.url)
        assert (await api.delete(f"{URL}/crm?force=true")).status_code == 204
        callback_id = await submit(api, "job", "crm")
        (first, *_) = await until_attempts(api, callback_id, 1)
        tested = (await api.post("/v1/destinations/crm/test")).json()
        for one in (first, tested):
            assert one["outcome"] == "interrupted"
            assert one["error"] == (
                "not sent: a header names the stored secret crm, which is not there"
            )
        told = [line for line in said(caplog) if "the fault is ours" in line]
        assert "stored_secrets" in told[0]
        shown = (await api.get(f"/v1/callbacks/{callback_id}")).json()
        assert (shown["status"], shown["lastError"]) == ("pending", "interrupted")
        assert peer.received == []
        metrics = (await api.get("/metrics")).text
        assert 'dispatcher_own_faults_total{lack="stored_secrets"}' in metrics
        await put(api, value=OTHER)
        await until_state(service, callback_id, "delivered")
        assert [one.header("authorization") for one in peer.received] == [f"Bearer {OTHER}"]
        row = await service.store.get("default", callback_id)
        assert row.tries == 1


async def test_a_rotation_under_load_leaves_no_delivery_without(
    service: Service, api: httpx.AsyncClient
) -> None:
    """Each carries the old or the new one; what is submitted after a change carries what was stored
    last."""
    async with listening(answers(OK)) as peer:
        await put(api, value="test-secret-number-00")
        await register(api, peer.url)
        flowing = asyncio.create_task(flow(api, 400))
        for n in range(1, 20):
            assert (await put(api, value=f"test-secret-number-{n:02}")).status_code == 200
            await until_received(peer, n * 15)
        ids = await flowing
        last = await submit(api, "last", "crm")
        for one in (*ids, last):
            await until_state(service, one, "delivered")
    sent = [one.header("authorization") for one in peer.received]
    assert len(sent) == len(ids) + 1
    assert {one for one in sent if one} <= {f"Bearer test-secret-number-{n:02}" for n in range(20)}
    assert None not in sent
    assert sent[-1] == "Bearer test-secret-number-19"
    assert len(set(sent)) > 3, "it was not under load"
    attempts = [(await api.get(f"/v1/callbacks/{one}")).json()["attempts"] for one in ids]
    assert set(attempts) == {1}, "none was handed back"


async def flow(api: httpx.AsyncClient, count: int) -> list[str]:
    """Submit so many, a few at once."""
    ids: list[str] = []
    for n in range(0, count, 4):
        ids += await asyncio.gather(*(submit(api, f"job-{n}-{m}", "crm") for m in range(4)))
    return ids


async def until_received(peer: Peer, count: int) -> None:
    async with asyncio.timeout(60):
        while len(peer.received) < count:  # noqa: ASYNC110  # a peer has no event for a number
            await asyncio.sleep(0.001)


async def until_attempts(api: httpx.AsyncClient, callback_id: str, count: int) -> list[Any]:
    async with asyncio.timeout(60):
        while True:
            page = await api.get(f"/v1/callbacks/{callback_id}/attempts")
            found: list[Any] = page.json()["data"]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.01)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Every line that was logged, with all that stands in it."""
    return [str(vars(record)) for record in caplog.records]
