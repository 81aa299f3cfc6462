"""`/v1/destinations`: register, change, test, remove; and what is shown of them."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from dispatcher.api import destinations
from dispatcher.api.call import TENANT_PROBES_MAX
from dispatcher.app import Service
from dispatcher.values import Destination
from receiver.signature import generate_secret
from tests.dispatcher.api.talk import reject, submit, until_state
from tests.dispatcher.peers import OK, answers, listening, silent

URL = "/v1/destinations"
BILLING = {"name": "billing", "url": "http://127.0.0.1:9/hook?token=t"}


async def test_registering_shows_a_made_secret_once(api: httpx.AsyncClient) -> None:
    """I8: the secret is in the answer that made it, and nowhere after."""
    made = await api.post(URL, json=BILLING)
    assert made.status_code == 201
    body = made.json()
    assert body["secret"].startswith("whsec_")
    assert made.headers["Cache-Control"] == "no-store"
    assert made.headers["Location"] == f"{URL}/{body['id']}"
    for path in (made.headers["Location"], f"{URL}/billing", URL, "/v1/secrets"):
        assert body["secret"] not in (await api.get(path)).text
    reject(await api.post(URL, json=BILLING), 409, "CONFLICT")


async def test_a_secret_of_ones_own_is_taken_and_not_repeated(api: httpx.AsyncClient) -> None:
    """I8: who brought the secret does not get it back."""
    secret = generate_secret()
    made = await api.post(URL, json=BILLING | {"secret": secret})
    assert made.status_code == 201
    assert secret not in made.text
    shown = await api.post("/v1/secrets/reveal", json={"destination": "billing"})
    assert shown.json()["secret"] == secret


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "billing\n"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "ds_x"}, "name"),
        ({"url": "http://10.0.0.1/"}, "url"),
        ({"url": "nope"}, "url"),
        ({"secret": "short"}, "secret"),
        ({"secret": "whsec_AAAA"}, "secret"),
        ({"secret": "whsec_" + "!" * 40}, "secret"),
        ({"secret": "whsec_" + "é" * 40}, "secret"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 1.5}, "concurrency"),
        ({"ratePerSecond": 0}, "ratePerSecond"),
        ({"ratePerSecond": 0.0009}, "ratePerSecond"),
        ({"ratePerSecond": 10_001}, "ratePerSecond"),
        ({"policy": "nope"}, "policy"),
        ({"headers": {"webhook-id": "x"}}, "headers.webhook-id"),
        ({"paused": True}, "paused"),
    ],
)
async def test_a_wrong_registration_names_its_field(
    api: httpx.AsyncClient, fields: dict[str, Any], field: str
) -> None:
    """422, and nothing is registered; a secret is never repeated."""
    answer = await api.post(URL, json=BILLING | fields)
    details = reject(answer, 422, "VALIDATION_ERROR")
    assert details["field"] == field
    if field == "secret":
        assert details["value"] is None
    assert (await api.get(URL)).json()["data"] == []


async def test_a_patch_changes_what_it_names_and_null_takes_limits_away(
    api: httpx.AsyncClient,
) -> None:
    """Every field of PATCH, each way."""
    await api.post(URL, json=BILLING)
    changed = await api.patch(
        f"{URL}/billing",
        json={
            "url": "http://127.0.0.1:9/other",
            "paused": True,
            "concurrency": 3,
            "ratePerSecond": 0.5,
            "policy": "runpod",
            "headers": {"X-Team": "a"},
        },
    )
    body = changed.json()
    assert (body["url"], body["paused"], body["heldReason"]) == (
        "http://127.0.0.1:9/other",
        True,
        "paused",
    )
    assert (body["concurrency"], body["ratePerSecond"]) == (3, 0.5)
    assert (body["policy"]["attempts"], body["headerNames"]) == (3, ["X-Team"])
    nothing = {"concurrency": None, "ratePerSecond": None, "policy": None, "headers": None}
    body = (await api.patch(f"{URL}/billing", json=nothing)).json()
    assert not {"concurrency", "ratePerSecond", "policy", "headerNames"} & set(body)
    assert body["paused"] is True
    body = (await api.patch(f"{URL}/billing", json={"paused": False, "disabled": True})).json()
    assert (body["health"], body["disabled"]) == ("disabled", True)
    assert body["disabledReason"]
    body = (await api.patch(f"{URL}/billing", json={"disabled": False})).json()
    assert (body["health"], body["disabled"]) == ("healthy", False)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, "body"),
        ({"name": "other"}, "name"),
        ({"paused": None}, "paused"),
        ({"url": None}, "url"),
        ({"url": "http://192.168.0.1/"}, "url"),
        ({"concurrency": -1}, "concurrency"),
        ({"secret": "whsec_x"}, "secret"),
    ],
)
async def test_a_patch_that_cannot_be_meant_is_refused(
    api: httpx.AsyncClient, changes: dict[str, Any], field: str
) -> None:
    """422 that names the field."""
    await api.post(URL, json=BILLING)
    answer = await api.patch(f"{URL}/billing", json=changes)
    assert reject(answer, 422, "VALIDATION_ERROR")["field"] == field


async def test_an_unregistered_destination_is_listed_as_its_server(
    api: httpx.AsyncClient,
) -> None:
    """With the URL used last; one of two spellings of a server is the same."""
    for url in ("http://127.0.0.1:9/job-1", "HTTP://127.0.0.1:9/job-2?token=t0ken"):
        await api.post("/v1/callbacks", json={"jobId": url, "callbackUrl": url, "payload": 1})
    page = (await api.get(URL)).json()
    assert [(one["url"], one["lastUrl"]) for one in page["data"]] == [
        ("http://127.0.0.1:9", "HTTP://127.0.0.1:9/job-2?token=t0ken")
    ]
    assert "name" not in page["data"][0]
    for url, found in (("http://127.0.0.1:9/job-1", 1), ("http://127.0.0.1:9/none", 0)):
        listed = await api.get("/v1/callbacks", params={"callbackUrl": url})
        assert len(listed.json()["data"]) == found
    for which in (page["data"][0]["id"], "http://127.0.0.1:9"):
        listed = await api.get("/v1/callbacks", params={"destination": which})
        assert len(listed.json()["data"]) == 2


async def test_a_test_goes_to_the_url_used_last_or_to_one_of_the_server(
    api: httpx.AsyncClient,
) -> None:
    url = "http://127.0.0.1:9/hook"
    await api.post("/v1/callbacks", json={"jobId": "j", "callbackUrl": url, "payload": 1})
    ((shown,),) = ((await api.get(URL)).json()["data"],)
    test = f"{URL}/{shown['id']}/test"
    for body in (None, {}, {"url": "http://127.0.0.1:9/other"}):
        answer = await (api.post(test) if body is None else api.post(test, json=body))
        assert (answer.status_code, answer.json()["outcome"]) == (200, "unreachable")
    answer = await api.post(test, json={"url": "http://127.0.0.1:10/other"})
    assert answer.status_code == 422


async def test_an_unregistered_destination_has_limits_but_no_url_of_its_own(
    api: httpx.AsyncClient,
) -> None:
    """Its URL, policy and headers are each callback's; pausing and limits are the lane's."""
    url = "http://127.0.0.1:9/hook"
    await api.post("/v1/callbacks", json={"jobId": "j", "callbackUrl": url, "payload": 1})
    path = f"{URL}/{(await api.get(URL)).json()['data'][0]['id']}"
    refused: list[dict[str, Any]] = [{"url": url}, {"policy": "runpod"}, {"headers": {}}]
    for changes in refused:
        reject(await api.patch(path, json=changes), 422, "VALIDATION_ERROR")
    changed = await api.patch(path, json={"paused": True, "concurrency": 2})
    assert (changed.json()["paused"], changed.json()["concurrency"]) == (True, 2)


async def test_the_backlog_is_counted_and_dies_with_the_destination(
    service: Service, api: httpx.AsyncClient, parked: str
) -> None:
    """Removing answers 204; its backlog is dead, and the name is free again."""
    callback_id = await submit(api, "one", parked)
    assert (await api.get(f"{URL}/{parked}")).json()["backlog"] == 1
    removed = await api.delete(f"{URL}/{parked}")
    assert (removed.status_code, removed.content) == (204, b"")
    reject(await api.get(f"{URL}/{parked}"), 404, "NOT_FOUND")
    reject(await api.delete(f"{URL}/{parked}"), 404, "NOT_FOUND")
    await until_state(service, callback_id, "dead")
    assert (await api.post(URL, json={"name": parked, "url": BILLING["url"]})).status_code == 201


async def test_destinations_come_in_pages(api: httpx.AsyncClient) -> None:
    """Every one once, by following the cursor."""
    for n in range(5):
        await api.post(URL, json=BILLING | {"name": f"d{n}"})
    names: list[str] = []
    query: dict[str, str] = {"limit": "2"}
    while query.get("cursor") != "":
        page = (await api.get(URL, params=query)).json()
        names += [one["name"] for one in page["data"]]
        query["cursor"] = page["nextCursor"] or ""
    assert sorted(names) == [f"d{n}" for n in range(5)]
    reject(await api.get(f"{URL}?cursor=x"), 422, "VALIDATION_ERROR")
    reject(await api.get(f"{URL}?name=x"), 422, "VALIDATION_ERROR")


async def test_a_test_is_signed_sent_once_and_not_stored(api: httpx.AsyncClient) -> None:
    """The answer is the attempt; the peer saw both signatures; no callback remains."""
    async with listening(answers(OK)) as peer:
        await api.post(URL, json={"name": "billing", "url": peer.url})
        tested = await api.post(f"{URL}/billing/test")
        assert tested.status_code == 200, tested.text
        attempt = tested.json()
        assert (attempt["n"], attempt["outcome"], attempt["statusCode"]) == (1, "acknowledged", 200)
        (received,) = peer.received
        names = {name.lower() for name, _ in received.headers}
        assert {"x-webhook-signature", "webhook-signature", "webhook-id"} <= names
        assert json.loads(received.body)["status"] == "test"
    assert (await api.get("/v1/callbacks")).json()["data"] == []


async def test_i7_only_so_many_tests_run_at_once(api: httpx.AsyncClient) -> None:
    """I7: tests take no slots, so they are bounded by themselves."""
    patience = {"attempts": 1, "timeout": 0.5}
    async with listening(silent) as peer:
        await api.post(URL, json={"name": "billing", "url": peer.url, "policy": patience})
        tests = (api.post(f"{URL}/billing/test") for _ in range(TENANT_PROBES_MAX + 1))
        tested = await asyncio.gather(*tests)
    codes = sorted(one.status_code for one in tested)
    assert codes == [200] * TENANT_PROBES_MAX + [503]
    assert {one.json()["outcome"] for one in tested if one.status_code == 200} == {"timeout"}


async def test_an_unreachable_destination_is_an_attempt_too(api: httpx.AsyncClient) -> None:
    """The peer's fault is the test's result; only an unknown id is an error."""
    await api.post(URL, json=BILLING)
    assert (await api.post(f"{URL}/billing/test")).json()["outcome"] == "unreachable"
    reject(await api.post(f"{URL}/nope/test"), 404, "NOT_FOUND")


HEALTHY = Destination(
    id="ds_1",
    tenant="t",
    name="n",
    url="http://example.com/",
    policy=None,
    headers=(),
    paused=False,
    disabled_reason=None,
    concurrency=None,
    rate_per_second=None,
    created_ms=0,
)


def test_health_is_the_gravest_word_that_holds() -> None:
    """healthy, failing, circuit-open, disabled: in this order."""
    failing = replace(HEALTHY, failures=2)
    open_circuit = replace(failing, circuit_open=True, held_until_ms=1_000, held_reason="circuit")
    disabled = replace(open_circuit, disabled_reason="410")
    words = [destinations.health(one) for one in (HEALTHY, failing, open_circuit, disabled)]
    assert words == ["healthy", "failing", "circuit-open", "disabled"]
    shown = destinations.view(open_circuit)
    assert (shown.held_until, shown.held_reason) == ("1970-01-01T00:00:01.000Z", "circuit")
    assert destinations.view(replace(open_circuit, paused=True)).held_reason == "paused"
