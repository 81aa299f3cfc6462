"""The API where stored values cannot be opened, and where all is sealed again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from dispatcher.access import BOOTSTRAP_ID
from dispatcher.app import Service
from dispatcher.settings import Settings
from tests.dispatcher.api.talk import ADMIN_KEY, connect, make_key, reject, submit
from tests.theft import KEY, NEXT_KEY

REENCRYPT = "/v1/secrets/reencrypt"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, encryption_keys=KEY, encrypt_payloads="on")


@asynccontextmanager
async def serving(settings: Settings, keys: str) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        Service(replace(settings, encryption_keys=keys)) as service,
        connect(service, ADMIN_KEY) as client,
    ):
        yield client


async def filled(settings: Settings) -> str:
    """A paused destination with headers and a callback that waits for it; the callback's id."""
    async with serving(settings, KEY) as api:
        made = await api.post(
            "/v1/destinations",
            json={
                "name": "parked",
                "url": "http://127.0.0.1:9/hook",
                "headers": {"Authorization": "Bearer of-the-customer"},
            },
        )
        assert made.status_code == 201, made.text
        assert (await api.patch("/v1/destinations/parked", json={"paused": True})).is_success
        return await submit(api, "job-1", "parked", headers={"X-Own": "of-the-customer"})


async def test_what_does_not_open_is_503_and_names_the_setting(settings: Settings) -> None:
    """Never a 500, and what needs no key goes on."""
    one = await filled(settings)
    async with serving(settings, NEXT_KEY) as api:
        for method, path in (
            ("GET", f"/v1/callbacks/{one}/payload"),
            ("POST", "/v1/destinations/parked/test"),
            ("POST", "/v1/secrets/reveal"),
        ):
            answer = await api.request(method, path, json={} if method == "POST" else None)
            reject(answer, 503, "CANNOT_UNSEAL")
            assert "DISPATCHER_ENCRYPTION_KEYS" in answer.json()["message"], path
            assert "customer" not in answer.text
        ready = await api.get("/readyz")
        assert ready.status_code == 503
        assert "DISPATCHER_ENCRYPTION_KEYS" in ready.json()["reason"]
        assert "(key k1)" in ready.json()["reason"]
        assert (await api.get("/v1/secrets")).is_success
        (listed,) = (await api.get("/v1/destinations")).json()["data"]
        assert "DISPATCHER_ENCRYPTION_KEYS" in listed["headersUnopened"]
        assert (await api.get("/v1/destinations/parked")).json() == listed
        assert (await api.get(f"/v1/callbacks/{one}")).json()["payloadSize"] == 22
        await submit(api, "job-2", "parked")


async def test_an_endpoint_that_does_not_open_stops_no_other(settings: Settings) -> None:
    """The service starts; it says what is wrong with it, and takes nothing for it (503, never 404);
    it can be removed, and made again."""
    url = "http://127.0.0.1:9/run"
    async with serving(settings, KEY) as api:
        for name, headers in (("lost", {"X-Token": "of-the-platform"}), ("there", {})):
            made = await api.post(
                "/v1/endpoints", json={"name": name, "url": url, "headers": headers}
            )
            assert made.status_code == 201, made.text
            assert (await api.post(f"/v1/endpoints/{name}/pause")).is_success
        taken = await api.post("/v1/endpoints/lost/jobs", content=b"{}")
        assert taken.status_code == 202, taken.text
        id = taken.json()["id"]
    async with serving(settings, NEXT_KEY) as api:
        lost, there = (await api.get("/v1/endpoints")).json()["data"]
        assert "DISPATCHER_ENCRYPTION_KEYS" in lost["rulesUnopened"]
        assert "rulesUnopened" not in there
        assert (await api.post("/v1/endpoints/there/jobs", content=b"{}")).status_code == 202
        for method, path in (("POST", "/jobs"), ("PATCH", ""), ("POST", "/test")):
            answer = await api.request(
                method, f"/v1/endpoints/lost{path}", json={"concurrency": 2} if not path else {}
            )
            reject(answer, 503, "CANNOT_UNSEAL")
            assert "platform" not in answer.text
        shown = (await api.get(f"/v1/jobs/{id}")).json()
        assert (shown["status"], shown["waitingFor"]) == ("queued", "paused")
        assert (await api.post("/v1/endpoints/lost/resume")).is_success
        async with asyncio.timeout(30):
            while not (await api.get(f"/v1/jobs/{id}/attempts")).json()["data"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        [attempt] = (await api.get(f"/v1/jobs/{id}/attempts")).json()["data"]
        assert (attempt["outcome"], "platform" in str(attempt)) == ("interrupted", False)
        assert (await api.get(f"/v1/jobs/{id}")).json()["status"] == "queued"
        ready = await api.get("/readyz")
        assert ready.status_code == 503
        assert "(key k1)" in ready.json()["reason"]
        key = await make_key(api, scopes=["read", "submit"], tenant="acme")
        of_acme = {"Authorization": f"Bearer {key}"}
        listed = (await api.get("/v1/endpoints", headers=of_acme)).json()["data"]
        assert [one["name"] for one in listed] == ["there"]
        assert (await api.delete("/v1/endpoints/lost")).status_code == 204
        async with asyncio.timeout(30):
            while True:
                made = await api.post("/v1/endpoints", json={"name": "lost", "url": url})
                if made.status_code == 201:
                    break
                reject(made, 409, "CONFLICT")
                await asyncio.sleep(0.02)
        assert (await api.get(f"/v1/jobs/{id}")).json()["reason"] == "endpoint_removed"


async def test_what_is_lost_is_replaced(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way out where a key is gone for good: new headers, new secrets."""
    monkeypatch.setattr("dispatcher.store.store._LOOK_FOR_KEYS_MS", -1)
    await filled(settings)
    async with serving(settings, NEXT_KEY) as api:
        changed = await api.patch(
            "/v1/destinations/parked", json={"headers": {"Authorization": "Bearer new"}}
        )
        assert changed.is_success, changed.text
        for body in ({"destination": "parked"}, {}):
            for _ in range(2):  # the second one ends the overlap of what cannot be opened
                made = await api.post("/v1/secrets/rotate", json={**body, "force": True})
                assert made.status_code == 201, made.text
        ready = await api.get("/readyz")
        assert ready.status_code == 200, ready.text


async def test_everything_is_sealed_again_when_a_platforms_admin_asks(settings: Settings) -> None:
    one = await filled(settings)
    async with serving(settings, f"{NEXT_KEY},{KEY}") as api:
        assert (await api.get("/v1/secrets/reencrypt")).json()["state"] == "none"
        begun = await api.post("/v1/secrets/reencrypt")
        assert begun.status_code == 202, begun.text
        assert begun.json()["key"] == "k2"
        found = await api.get("/v1/secrets/reencrypt")
        while found.json()["state"] == "running":
            found = await api.get("/v1/secrets/reencrypt")
        done = found.json()
        assert (done["state"], done["unopened"], done["clean"]) == ("done", 0, True)
        # Two secrets, the key of links, the destination's headers, the callback's and its body.
        assert done["sealed"] == 6
        assert done["finishedAt"] >= done["startedAt"]
        trail = (
            await api.get("/v1/audit", params={"action": "secret.reencrypt", "all": "true"})
        ).json()["data"]
        assert [(entry["actor"], entry["tenant"]) for entry in trail] == [(BOOTSTRAP_ID, None)]
    async with serving(settings, NEXT_KEY) as api:
        assert (await api.get("/readyz")).is_success
        assert (await api.get(f"/v1/callbacks/{one}/payload")).is_success
        assert (await api.post("/v1/secrets/reveal", json={})).is_success


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_tenants_admin_seals_nothing_again(api: httpx.AsyncClient, method: str) -> None:
    key = await make_key(api, tenant="acme", scopes=["admin"])
    headers = {"Authorization": f"Bearer {key}"}
    answer = await api.request(method, "/v1/secrets/reencrypt", headers=headers)
    reject(answer, 403, "FORBIDDEN")


async def test_what_a_stop_interrupted_goes_on_by_itself(settings: Settings) -> None:
    await filled(settings)
    keys = f"{NEXT_KEY},{KEY}"
    async with Service(replace(settings, encryption_keys=keys)) as service:
        await service.resealer.stop()
        at = await service.store.begin_reencryption(now_ms=1)
        at = await service.store.reencrypt(at, now_ms=1)
        assert at.state == "running"
    async with serving(settings, keys) as api:
        async with asyncio.timeout(30):
            while (done := (await api.get(REENCRYPT)).json())["state"] == "running":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (done["state"], done["sealed"], done["clean"]) == ("done", 6, True)
