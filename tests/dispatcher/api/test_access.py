"""Keys, scopes, tenants and signing secrets: who may do what, and what is shown only once."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from dispatcher.access import SCOPES, Access, secret_fault
from dispatcher.app import Service
from dispatcher.settings import Settings
from receiver.base.settings import SettingError
from receiver.signature import generate_secret
from tests.dispatcher.api.talk import ADMIN_KEY, connect, make_key, reject

BILLING = {"name": "billing", "url": "http://127.0.0.1:9/"}


def stored(directory: Path) -> bytes:
    """All that is in the database's files."""
    return b"".join(file.read_bytes() for file in directory.iterdir())


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Basic dGVzdA==", "Bearer nope", f"bearer  {ADMIN_KEY}x",
     "Bearer " + "x" * 10_000, f"Token {ADMIN_KEY}", ADMIN_KEY],
)  # fmt: skip
async def test_without_a_valid_key_it_is_401(service: Service, authorization: str | None) -> None:
    """With WWW-Authenticate, and without repeating what was sent."""
    async with connect(service, ADMIN_KEY) as api:
        del api.headers["Authorization"]
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await api.get("/v1/callbacks", headers=headers)
        reject(answer, 401, "UNAUTHORIZED")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert ADMIN_KEY not in answer.text


ROUTES = [
    ("POST", "/v1/callbacks", "submit"),
    ("POST", "/v1/callbacks/raw", "submit"),
    ("POST", "/v1/callbacks/batch", "submit"),
    ("GET", "/v1/callbacks", "read"),
    ("GET", "/v1/callbacks/cb_1", "read"),
    ("GET", "/v1/callbacks/cb_1/attempts", "read"),
    ("GET", "/v1/callbacks/cb_1/payload", "read"),
    ("POST", "/v1/callbacks/cb_1/replay", "operate"),
    ("POST", "/v1/callbacks/cb_1/cancel", "operate"),
    ("POST", "/v1/replays", "operate"),
    ("GET", "/v1/replays/rp_1", "operate"),
    ("POST", "/v1/replays/rp_1/cancel", "operate"),
    ("GET", "/v1/destinations", "read"),
    ("POST", "/v1/destinations", "operate"),
    ("GET", "/v1/destinations/ds_1", "read"),
    ("PATCH", "/v1/destinations/ds_1", "operate"),
    ("DELETE", "/v1/destinations/ds_1", "operate"),
    ("POST", "/v1/destinations/ds_1/test", "operate"),
    ("GET", "/v1/endpoints", "read"),
    ("POST", "/v1/endpoints", "admin"),
    ("PUT", "/v1/endpoints", "admin"),
    ("GET", "/v1/endpoints/ep_1", "read"),
    ("PATCH", "/v1/endpoints/ep_1", "admin"),
    ("DELETE", "/v1/endpoints/ep_1", "admin"),
    ("POST", "/v1/endpoints/ep_1/pause", "admin"),
    ("POST", "/v1/endpoints/ep_1/resume", "admin"),
    ("POST", "/v1/endpoints/ep_1/purge", "operate"),
    ("POST", "/v1/endpoints/ep_1/test", "admin"),
    ("POST", "/v1/endpoints/ep_1/jobs", "submit"),
    ("GET", "/v1/endpoints/ep_1/load", "read"),
    ("GET", "/v1/endpoints/ep_1/secrets", "admin"),
    ("POST", "/v1/endpoints/ep_1/secrets/rotate", "admin"),
    ("POST", "/v1/endpoints/ep_1/secrets/reveal", "admin"),
    ("GET", "/v1/jobs", "read"),
    ("GET", "/v1/jobs/job_1", "read"),
    ("GET", "/v1/jobs/job_1/attempts", "read"),
    ("GET", "/v1/jobs/job_1/input", "read"),
    ("GET", "/v1/jobs/job_1/output", "read"),
    ("GET", "/v1/jobs/job_1/events", "read"),
    ("POST", "/v1/jobs/cancel", "operate"),
    ("POST", "/v1/jobs/retry", "operate"),
    ("GET", "/v1/sweeps", "operate"),
    ("GET", "/v1/sweeps/js_1", "operate"),
    ("POST", "/v1/sweeps/js_1/cancel", "operate"),
    ("GET", "/v1/usage", "read"),
    ("POST", "/v1/jobs/job_1/cancel", "operate"),
    ("POST", "/v1/jobs/job_1/retry", "operate"),
    ("POST", "/v2/endpoints/ep_1/runasync", "submit"),
    ("POST", "/v2/endpoints/ep_1/runsync", "submit"),
    ("GET", "/v2/jobs/job_1/status", "read"),
    ("GET", "/v2/jobs", "read"),
    ("POST", "/v2/jobs/job_1/cancel", "operate"),
    ("POST", "/v2/jobs/job_1/retry", "operate"),
    ("POST", "/v2/ep_1/run", "submit"),
    ("POST", "/v2/ep_1/runsync", "submit"),
    *(
        (method, f"/v2/ep_1/{what}/job_1", "read")
        for what in ("status", "status-sync", "stream")
        for method in ("GET", "POST")
    ),
    ("POST", "/v2/ep_1/cancel/job_1", "operate"),
    ("POST", "/v2/ep_1/retry/job_1", "operate"),
    ("POST", "/v2/ep_1/purge-queue", "operate"),
    ("GET", "/v2/ep_1/health", "read"),
    ("GET", "/v2/ep_1/requests", "read"),
    ("POST", "/v4/p_1/app_1/fn_1", "submit"),
    ("GET", "/v2/projects/p_1/apps/app_1/runs", "read"),
    ("GET", "/v2/projects/p_1/apps/app_1/runs/run_1", "read"),
    ("GET", "/v1/keys", "admin"),
    ("POST", "/v1/keys", "admin"),
    ("POST", "/v1/keys/key_1/rotate", "admin"),
    ("DELETE", "/v1/keys/key_1", "admin"),
    ("GET", "/v1/secrets", "admin"),
    ("POST", "/v1/secrets/rotate", "admin"),
    ("POST", "/v1/secrets/reveal", "admin"),
    ("GET", "/v1/secrets/reencrypt", "admin"),
    ("POST", "/v1/secrets/reencrypt", "admin"),
    ("GET", "/v1/stored-secrets", "admin"),
    ("PUT", "/v1/stored-secrets/crm_1", "admin"),
    ("DELETE", "/v1/stored-secrets/crm_1", "admin"),
    ("GET", "/v1/tenants", "admin"),
    ("GET", "/v1/tenants/t_1", "admin"),
    ("PATCH", "/v1/tenants/t_1", "admin"),
    ("DELETE", "/v1/tenants/t_1", "admin"),
    ("GET", "/v1/audit", "admin"),
    ("GET", "/v1/audit/export", "admin"),
    ("GET", "/v1/stats", "read"),
    ("GET", "/v1/failures", "read"),
    ("GET", "/v1/service", "admin"),
]


async def test_every_route_needs_its_scope_and_no_other(
    service: Service, api: httpx.AsyncClient
) -> None:
    """The contract's table of scopes: 403 with the three others, not 403 with the right one."""
    for scope in sorted(SCOPES):
        only = await make_key(api, scopes=[scope])
        others = await make_key(api, scopes=sorted(SCOPES - {scope}))
        for method, path, needed in ROUTES:
            if needed != scope:
                continue
            async with connect(service, only) as client:
                assert (await client.request(method, path)).status_code != 403, path
            async with connect(service, others) as client:
                reject(await client.request(method, path), 403, "FORBIDDEN")


async def test_a_key_is_shown_once_and_revoked_at_once(
    service: Service, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    """I8: the key is in the answer that made it; not in listings, not in the database."""
    made = await api.post("/v1/keys", json={"scopes": ["read"], "tenant": "acme", "label": "x"})
    body = made.json()
    assert made.headers["Cache-Control"] == "no-store"
    assert set(body) == {"id", "tenant", "scopes", "label", "createdAt", "key"}
    assert body["key"].startswith("pbk_")
    assert len(body["key"]) >= 36
    listed = await api.get("/v1/keys")
    assert [one["id"] for one in listed.json()["data"]] == [body["id"]]
    assert body["key"] not in listed.text
    assert body["key"].encode() not in stored(tmp_path)
    async with connect(service, body["key"]) as client:
        assert (await client.get("/v1/callbacks")).status_code == 200
        assert (await api.delete(f"/v1/keys/{body['id']}")).status_code == 204
        reject(await client.get("/v1/callbacks"), 401, "UNAUTHORIZED")
    reject(await api.delete(f"/v1/keys/{body['id']}"), 404, "NOT_FOUND")


async def test_keys_outlive_a_restart(settings: Settings) -> None:
    """Stored as digests, found again."""
    async with Service(settings) as service, connect(service, ADMIN_KEY) as api:
        key = await make_key(api, scopes=["read"], tenant="acme")
    async with Service(settings) as service, connect(service, key) as client:
        assert (await client.get("/v1/callbacks")).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes[0]"),
        ({"scopes": ["read"], "tenant": ""}, "tenant"),
        ({"scopes": ["read"], "tenant": "a b"}, "tenant"),
        ({"scopes": ["read"], "tenant": "acme\n"}, "tenant"),
        ({"scopes": ["read"], "tenant": "x" * 65}, "tenant"),
        ({"scopes": ["read"], "label": "x" * 101}, "label"),
        ({"scopes": ["read"], "key": "mine"}, "key"),
    ],
)
async def test_a_key_that_cannot_be_meant_is_refused(
    api: httpx.AsyncClient, body: dict[str, Any], field: str
) -> None:
    """422 that names the field, and no key is made."""
    assert reject(await api.post("/v1/keys", json=body), 422, "VALIDATION_ERROR")["field"] == field
    assert (await api.get("/v1/keys")).json()["data"] == []


async def test_nobody_makes_a_key_that_can_do_more_than_his_own(
    service: Service, api: httpx.AsyncClient
) -> None:
    """No privilege escalation: not to other scopes, other tenants or the platform."""
    tenant_admin = await make_key(api, scopes=["admin", "read"], tenant="acme")
    platform_admin = await make_key(api, scopes=["admin"])
    async with connect(service, tenant_admin) as client:
        for body in (
            {"scopes": ["read"], "tenant": "other"},
            {"scopes": ["read"], "tenant": None},
            {"scopes": ["submit"]},
            {"scopes": ["admin", "operate"], "tenant": "acme"},
        ):
            reject(await client.post("/v1/keys", json=body), 403, "FORBIDDEN")
        own = await client.post("/v1/keys", json={"scopes": ["read"]})
        assert (own.status_code, own.json()["tenant"]) == (201, "acme")
    async with connect(service, platform_admin) as client:
        reject(await client.post("/v1/keys", json={"scopes": ["submit"]}), 403, "FORBIDDEN")


async def test_a_tenants_admin_sees_and_revokes_its_own_keys_only(
    service: Service, api: httpx.AsyncClient
) -> None:
    """I9: another tenant's key, or the platform's, is unknown."""
    tenant_admin = await make_key(api, scopes=["admin"], tenant="acme")
    await make_key(api, scopes=["read"], tenant="other")
    await make_key(api, scopes=["read"], tenant=None)
    keys = {one["tenant"]: one["id"] for one in (await api.get("/v1/keys")).json()["data"]}
    async with connect(service, tenant_admin) as client:
        seen = (await client.get("/v1/keys")).json()["data"]
        assert [one["tenant"] for one in seen] == ["acme"]
        for tenant in ("other", None):
            answer = await client.delete(f"/v1/keys/{keys[tenant]}")
            unknown = await client.delete("/v1/keys/key_0")
            assert reject(answer, 404, "NOT_FOUND") == reject(unknown, 404, "NOT_FOUND")
            assert answer.json()["message"] == unknown.json()["message"]
        reject(await client.get("/v1/tenants"), 403, "FORBIDDEN")
        reject(await client.get("/v1/stats?all=true"), 403, "FORBIDDEN")


async def test_a_platform_key_names_its_tenant_and_a_tenants_key_cannot_name_another(
    service: Service, api: httpx.AsyncClient
) -> None:
    """D14: the header chooses for platform keys; for tenant keys it may only agree."""
    body = {"jobId": "j", "callbackUrl": "http://127.0.0.1:9/", "payload": 1}
    acme = {"Postback-Tenant": "acme"}
    assert (await api.post("/v1/callbacks", json=body, headers=acme)).status_code == 202
    assert (await api.get("/v1/callbacks")).json()["data"] == []
    assert len((await api.get("/v1/callbacks", headers=acme)).json()["data"]) == 1
    key = await make_key(api, scopes=["read"], tenant="acme")
    async with connect(service, key) as client:
        assert len((await client.get("/v1/callbacks")).json()["data"]) == 1
        assert (await client.get("/v1/callbacks", headers=acme)).status_code == 200
        other = await client.get("/v1/callbacks", headers={"Postback-Tenant": "other"})
        reject(other, 403, "FORBIDDEN")


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "x" * 65, "a/b", "é", "a\tb"])
async def test_a_tenant_name_out_of_shape_is_refused(api: httpx.AsyncClient, name: str) -> None:
    """422 for the header."""
    headers = [(b"Postback-Tenant", name.encode())]
    answer = await api.get("/v1/callbacks", headers=headers)
    assert reject(answer, 422, "VALIDATION_ERROR")["field"] == "Postback-Tenant"


async def test_a_tenant_comes_into_being_by_writing_not_by_reading_or_failing(
    api: httpx.AsyncClient,
) -> None:
    """D14: the first valid write makes it, with a signing secret of its own."""

    async def names() -> list[str]:
        return [one["name"] for one in (await api.get("/v1/tenants")).json()["data"]]

    acme = {"Postback-Tenant": "acme"}
    assert (await api.get("/v1/callbacks", headers=acme)).json()["data"] == []
    await api.post("/v1/callbacks", json={"jobId": ""}, headers=acme)
    assert await names() == ["default"]
    body = {"jobId": "j", "callbackUrl": "http://127.0.0.1:9/", "payload": 1}
    assert (await api.post("/v1/callbacks", json=body, headers=acme)).status_code == 202
    assert await names() == ["acme", "default"]
    own = (await api.post("/v1/secrets/reveal", json={}, headers=acme)).json()["secret"]
    assert own != (await api.post("/v1/secrets/reveal", json={})).json()["secret"]


async def test_the_first_start_makes_a_key_once(settings: Settings) -> None:
    """D14: where no admin key is set, one is made and told at the first start only."""
    unset = replace(settings, admin_key=None)
    async with Service(unset) as service:
        key = service.new_key
        assert key is not None
        async with connect(service, key) as api:
            assert (await api.get("/v1/tenants")).status_code == 200
    async with Service(unset) as service:
        assert service.new_key is None
        async with connect(service, key) as api:
            assert (await api.get("/v1/tenants")).status_code == 200


async def test_the_bootstrap_settings_are_used_and_never_stored_in_clear(
    settings: Settings, tmp_path: Path
) -> None:
    """The admin key works while it is set, and only then; the signing secret is the default
    tenant's."""
    secret = generate_secret()
    async with Service(replace(settings, signing_secret=secret)) as service:
        assert service.new_key is None
        async with connect(service, ADMIN_KEY) as api:
            revealed = await api.post("/v1/secrets/reveal", json={})
            assert revealed.json()["secret"] == secret
    assert ADMIN_KEY.encode() not in stored(tmp_path)
    other = replace(settings, admin_key="another-admin-key")
    async with Service(other) as service, connect(service, ADMIN_KEY) as api:
        reject(await api.get("/v1/keys"), 401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    "wrong",
    [{"admin_key": "short"}, {"admin_key": "with space"}, {"admin_key": "é" * 20},
     {"signing_secret": "whsec_short"}, {"signing_secret": "plain text that is long enough"}],
)  # fmt: skip
async def test_bootstrap_settings_that_cannot_be_used_are_told_without_repeating_them(
    service: Service, settings: Settings, wrong: dict[str, Any]
) -> None:
    """The service does not start, and the message has no secret in it."""
    with pytest.raises(SettingError) as caught:
        await Access(service.store, replace(settings, **wrong)).bootstrap()
    assert next(iter(wrong.values())) not in str(caught.value)


def test_a_secret_is_24_to_64_bytes_of_base64() -> None:
    """The form of D10."""
    assert secret_fault(generate_secret()) is None
    for wrong in ("", "whsec_", "whsec_" + "A" * 28, "whsec_" + "A" * 88, "A" * 44, "whsec_é"):
        assert secret_fault(wrong) is not None


async def test_a_rotation_keeps_the_old_secret_signing(api: httpx.AsyncClient) -> None:
    """D10: both sign until the overlap ends; a second rotation within it must be forced."""
    before = (await api.post("/v1/secrets/reveal", json={})).json()
    rotated = await api.post("/v1/secrets/rotate", json={"overlap": 3600})
    assert rotated.status_code == 201
    assert rotated.json()["secret"] != before["secret"]
    listed = {one["id"]: one for one in (await api.get("/v1/secrets")).json()["data"]}
    assert listed[before["id"]]["active"]
    assert "expiresAt" in listed[before["id"]]
    assert "expiresAt" not in listed[rotated.json()["id"]]
    reject(await api.post("/v1/secrets/rotate", json={}), 409, "CONFLICT")
    forced = await api.post("/v1/secrets/rotate", json={"force": True})
    assert forced.status_code == 201
    assert (await api.post("/v1/secrets/reveal", json={})).json()["id"] == forced.json()["id"]


async def test_a_destinations_secret_rotates_by_itself(api: httpx.AsyncClient) -> None:
    """Only the named one changes, by its name; a given secret is taken."""
    await api.post("/v1/destinations", json=BILLING)
    of_tenant = (await api.post("/v1/secrets/reveal", json={})).json()["secret"]
    given = generate_secret()
    asked = {"destination": "billing", "secret": given, "overlap": 0}
    assert (await api.post("/v1/secrets/rotate", json=asked)).json()["secret"] == given
    revealed = await api.post("/v1/secrets/reveal", json={"destination": "billing"})
    assert revealed.json()["secret"] == given
    assert (await api.post("/v1/secrets/reveal", json={})).json()["secret"] == of_tenant


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("rotate", {"destination": "nope"}, 404),
        ("rotate", {"overlap": -1}, 422),
        ("rotate", {"overlap": 2_592_001}, 422),
        ("rotate", {"secret": "guessable"}, 422),
        ("rotate", {"id": "x"}, 422),
        ("reveal", {"id": "sec_0"}, 404),
        ("reveal", {"destination": "nope"}, 404),
        ("reveal", {"destination": "a\0b"}, 404),
        ("reveal", {"id": "a", "destination": "b"}, 422),
        ("reveal", {"tenant": "b"}, 422),
    ],
)
async def test_a_secret_that_there_is_not_or_cannot_be_is_refused(
    api: httpx.AsyncClient, path: str, body: dict[str, Any], status: int
) -> None:
    """404 or 422; a refused secret is not repeated."""
    answer = await api.post(f"/v1/secrets/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert "guessable" not in answer.text


async def test_revealing_is_recorded_and_the_log_has_no_secret(
    api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """I8: who looked and when is kept; listings and log lines stay without the value."""
    with caplog.at_level(logging.DEBUG, "dispatcher"):
        answer = await api.post("/v1/secrets/reveal", json={})
    revealed = answer.json()
    assert answer.headers["Cache-Control"] == "no-store"
    (listed,) = (await api.get("/v1/secrets")).json()["data"]
    assert "revealedAt" in listed
    assert "secret" not in listed
    (record,) = [one for one in caplog.records if one.getMessage() == "secret revealed"]
    assert record.__dict__["fields"]["by"] == "key_bootstrap"
    assert revealed["secret"] not in str(record.__dict__)
