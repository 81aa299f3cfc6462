"""The audit trail: each change by its route, and looking through it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import httpx
import pytest

from dispatcher.access import BOOTSTRAP_ID
from dispatcher.api import job_reports, job_submits, submits
from dispatcher.api.app import OPERATIONS
from dispatcher.api.dialects import cerebrium, runpod, tensorone
from dispatcher.app import Service
from dispatcher.audit import ACTIONS, REASON_CHARS_MAX
from dispatcher.settings import Settings
from dispatcher.store.errors import StoreUnavailable
from tests.dispatcher.api.talk import ADMIN_KEY, connect, make_key, reject, submit

ALL: Final = ["submit", "read", "operate", "admin"]
SECRET: Final = "whsec_" + "c2VjcmV0" * 6
HEADERS: Final = {"Authorization": "Basic aGlkZGVu", "X-Plain": "hidden-value"}
SUBMITS: Final = (
    *submits.OPERATIONS, *job_submits.OPERATIONS, *cerebrium.SUBMITS, *runpod.SUBMITS,
    *tensorone.SUBMITS,
)  # fmt: skip
Act = Callable[[httpx.AsyncClient], Awaitable[str]]
CASES: Final[dict[str, Act]] = {}
# Whose routes have tests of their own.
ELSEWHERE: Final = {
    "key.bootstrap",
    "secret.reencrypt",
    "service.start",
}


def case(action: str) -> Callable[[Act], Act]:
    """What does `action` by its route, and returns its target."""

    def add(act: Act) -> Act:
        CASES[action] = act
        return act

    return add


def good(answer: httpx.Response) -> Any:
    assert answer.status_code < 300, answer.text
    return answer.json() if answer.content else None


async def registered(api: httpx.AsyncClient, **fields: Any) -> str:
    body = {"name": "billing", "url": "http://127.0.0.1:9/hook"} | fields
    id: str = good(await api.post("/v1/destinations", json=body))["id"]
    return id


async def waiting(api: httpx.AsyncClient) -> str:
    await registered(api)
    good(await api.patch("/v1/destinations/billing", json={"paused": True}))
    return await submit(api, "job", "billing")


@case("key.create")
async def _(api: httpx.AsyncClient) -> str:
    body = {"scopes": ["read"], "tenant": "default", "label": "on call"}
    return str(good(await api.post("/v1/keys", json=body))["id"])


@case("key.rotate")
async def _(api: httpx.AsyncClient) -> str:
    made = good(await api.post("/v1/keys", json={"scopes": ["read"], "tenant": "default"}))
    good(await api.post(f"/v1/keys/{made['id']}/rotate", json={"overlap": 60}))
    return str(made["id"])


@case("key.revoke")
async def _(api: httpx.AsyncClient) -> str:
    made = good(await api.post("/v1/keys", json={"scopes": ["read"], "tenant": "default"}))
    good(await api.delete(f"/v1/keys/{made['id']}"))
    return str(made["id"])


@case("signing-secret.rotate")
async def _(api: httpx.AsyncClient) -> str:
    return str(good(await api.post("/v1/secrets/rotate", json={"secret": SECRET}))["id"])


@case("signing-secret.reveal")
async def _(api: httpx.AsyncClient) -> str:
    return str(good(await api.post("/v1/secrets/reveal", json={}))["id"])


@case("secret.store")
async def _(api: httpx.AsyncClient) -> str:
    good(await api.put("/v1/stored-secrets/crm", json={"secret": SECRET}))
    return "crm"


@case("secret.remove")
async def _(api: httpx.AsyncClient) -> str:
    good(await api.put("/v1/stored-secrets/crm", json={"secret": SECRET}))
    good(await api.delete("/v1/stored-secrets/crm"))
    return "crm"


@case("destination.register")
async def _(api: httpx.AsyncClient) -> str:
    return await registered(api, headers=HEADERS, secret=SECRET)


async def changed(api: httpx.AsyncClient, *changes: dict[str, Any]) -> str:
    id = await registered(api)
    for change in changes:
        good(await api.patch("/v1/destinations/billing", json=change))
    return id


@case("destination.change")
async def _(api: httpx.AsyncClient) -> str:
    return await changed(api, {"headers": HEADERS, "ratePerSecond": 5})


@case("destination.pause")
async def _(api: httpx.AsyncClient) -> str:
    return await changed(api, {"paused": True})


@case("destination.resume")
async def _(api: httpx.AsyncClient) -> str:
    return await changed(api, {"paused": True}, {"paused": False})


@case("destination.disable")
async def _(api: httpx.AsyncClient) -> str:
    return await changed(api, {"disabled": True})


@case("destination.enable")
async def _(api: httpx.AsyncClient) -> str:
    return await changed(api, {"disabled": True}, {"disabled": False})


@case("destination.remove")
async def _(api: httpx.AsyncClient) -> str:
    id = await registered(api)
    good(await api.delete("/v1/destinations/billing"))
    return id


@case("destination.test")
async def _(api: httpx.AsyncClient) -> str:
    id = await registered(api)
    good(await api.post("/v1/destinations/billing/test"))
    return id


@case("callback.cancel")
async def _(api: httpx.AsyncClient) -> str:
    id = await waiting(api)
    good(await api.post(f"/v1/callbacks/{id}/cancel"))
    return id


@case("callback.replay")
async def _(api: httpx.AsyncClient) -> str:
    id = await waiting(api)
    good(await api.post(f"/v1/callbacks/{id}/cancel"))
    good(await api.post(f"/v1/callbacks/{id}/replay"))
    return id


async def started(api: httpx.AsyncClient) -> str:
    for n in range(3):
        if not n:
            await registered(api)
            good(await api.patch("/v1/destinations/billing", json={"paused": True}))
        id = await submit(api, f"job_{n}", "billing")
        good(await api.post(f"/v1/callbacks/{id}/cancel"))
    body = {"filter": {"status": "cancelled"}, "ratePerSecond": 0.01}
    return str(good(await api.post("/v1/replays", json=body))["id"])


@case("replay.start")
async def _(api: httpx.AsyncClient) -> str:
    return await started(api)


@case("replay.cancel")
async def _(api: httpx.AsyncClient) -> str:
    id = await started(api)
    good(await api.post(f"/v1/replays/{id}/cancel"))
    return id


async def endpoint(api: httpx.AsyncClient) -> str:
    body = {"name": "shout", "url": "http://127.0.0.1:9/run", "headers": HEADERS}
    return str(good(await api.post("/v1/endpoints", json=body))["name"])


@case("endpoint.create")
async def _(api: httpx.AsyncClient) -> str:
    return await endpoint(api)


@case("endpoint.change")
async def _(api: httpx.AsyncClient) -> str:
    name = await endpoint(api)
    good(await api.patch(f"/v1/endpoints/{name}", json={"headers": HEADERS, "rate": 5}))
    return name


@case("endpoint.remove")
async def _(api: httpx.AsyncClient) -> str:
    name = await endpoint(api)
    good(await api.delete(f"/v1/endpoints/{name}"))
    return name


@case("endpoint.pause")
async def _(api: httpx.AsyncClient) -> str:
    name = await endpoint(api)
    good(await api.post(f"/v1/endpoints/{name}/pause"))
    return name


@case("endpoint.resume")
async def _(api: httpx.AsyncClient) -> str:
    name = await endpoint(api)
    good(await api.post(f"/v1/endpoints/{name}/resume"))
    return name


@case("endpoint.purge")
async def _(api: httpx.AsyncClient) -> str:
    name = await endpoint(api)
    good(await api.post(f"/v1/endpoints/{name}/purge", json={"allTenants": True}))
    return name


@case("endpoint.test")
async def _(api: httpx.AsyncClient) -> str:
    name = await endpoint(api)
    good(await api.post(f"/v1/endpoints/{name}/test"))
    return name


@case("endpoint-secret.rotate")
async def _(api: httpx.AsyncClient) -> str:
    name = await endpoint(api)
    good(await api.post(f"/v1/endpoints/{name}/secrets/rotate", json={"overlap": 60}))
    return name


@case("endpoint-secret.reveal")
async def _(api: httpx.AsyncClient) -> str:
    name = await endpoint(api)
    good(await api.post(f"/v1/endpoints/{name}/secrets/reveal"))
    return name


async def queued(api: httpx.AsyncClient) -> str:
    name = await endpoint(api)
    good(await api.post(f"/v1/endpoints/{name}/pause"))
    return str(good(await api.post(f"/v1/endpoints/{name}/jobs", content=b"1"))["id"])


@case("job.cancel")
async def _(api: httpx.AsyncClient) -> str:
    id = await queued(api)
    good(await api.post(f"/v1/jobs/{id}/cancel"))
    return id


@case("job.retry")
async def _(api: httpx.AsyncClient) -> str:
    id = await queued(api)
    good(await api.post(f"/v1/jobs/{id}/cancel"))
    good(await api.post(f"/v1/jobs/{id}/retry"))
    return id


async def swept(api: httpx.AsyncClient, what: str) -> str:
    id = await queued(api)
    if what == "retry":
        good(await api.post(f"/v1/jobs/{id}/cancel"))
    body = {"filter": {"endpoint": "shout"}}
    return str(good(await api.post(f"/v1/jobs/{what}", json=body))["id"])


@case("jobs.cancel")
async def _(api: httpx.AsyncClient) -> str:
    return await swept(api, "cancel")


@case("jobs.retry")
async def _(api: httpx.AsyncClient) -> str:
    return await swept(api, "retry")


@case("sweep.cancel")
async def _(api: httpx.AsyncClient) -> str:
    id = await queued(api)
    good(await api.post(f"/v1/jobs/{id}/cancel"))
    good(await api.patch("/v1/endpoints/shout", json={"queueMax": 0}))
    body = {"filter": {"endpoint": "shout"}}  # which has no room, ever
    id = str(good(await api.post("/v1/jobs/retry", json=body))["id"])
    good(await api.post(f"/v1/sweeps/{id}/cancel"))
    return id


@case("tenant.create")
async def _(api: httpx.AsyncClient) -> str:
    body = {"jobId": "j", "callbackUrl": "http://127.0.0.1:9/", "payload": 1}
    good(await api.post("/v1/callbacks", json=body, headers={"Postback-Tenant": "fresh"}))
    return "fresh"


@case("tenant.change")
async def _(api: httpx.AsyncClient) -> str:
    good(await api.patch("/v1/tenants/default", json={"queueMax": 5, "ratePerSecond": None}))
    return "default"


@case("tenant.erase")
async def _(api: httpx.AsyncClient) -> str:
    await make_key(api, scopes=["read"], tenant="gone")
    good(await api.delete("/v1/tenants/gone"))
    return "gone"


async def trail(api: httpx.AsyncClient, **query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    params = {"all": "true", "limit": "7", **query}
    while True:
        page = good(await api.get("/v1/audit", params=params))
        found += page["data"]
        if page["nextCursor"] is None:
            return found
        params["cursor"] = page["nextCursor"]


# --- what is recorded ---


def test_every_action_has_its_case_and_every_change_its_action() -> None:
    """Nothing is changed by a route that the trail does not know; submits are no changes, nor is
    what upstreams tell."""
    assert set(CASES) | ELSEWHERE == set(ACTIONS)
    for one in OPERATIONS:
        assert set(one.actions) <= set(ACTIONS), one.path
        no_changes = (*SUBMITS, *runpod.LOOKS, *job_reports.OPERATIONS)
        changes = one.method != "GET" and one not in no_changes
        assert bool(one.actions) is changes, f"{one.method} {one.path}"
    named = {action for one in OPERATIONS for action in one.actions}
    assert named | ELSEWHERE | {"tenant.create"} == set(ACTIONS)


@pytest.mark.parametrize("action", CASES)
async def test_each_action_is_recorded_by_its_route(
    action: str, service: Service, api: httpx.AsyncClient
) -> None:
    """With who, from where, on what, and why."""
    key = await make_key(api, scopes=ALL, label="operator", tenant=None)
    (made,) = [one for one in await trail(api) if one["detail"].get("label") == "operator"]
    async with connect(service, key, **{"Postback-Reason": "ticket 4711"}) as operator:
        target = await CASES[action](operator)
        entry = (await trail(api, action=action))[0]
    platform = action.startswith(("endpoint.", "endpoint-secret.")) or action in (
        "tenant.change",
        "tenant.erase",
    )
    expected = {
        "action": action,
        "actor": made["target"],
        "byPlatform": True,
        "address": "127.0.0.1",
        "target": target,
        "tenant": None if platform else "fresh" if action == "tenant.create" else "default",
    }
    assert expected.items() <= entry.items()
    assert entry.get("reason") == (None if action == "tenant.create" else "ticket 4711")
    assert len(await trail(api, action=action, target=target)) == 1


async def test_what_was_changed_is_named_and_no_secret_is(
    service: Service, api: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """I8: names of fields, never values of headers, nor secrets, nor a URL's query."""
    for action in ("signing-secret.rotate", "destination.register"):
        await CASES[action](api)
    good(await api.delete("/v1/destinations/billing"))
    await CASES["destination.change"](api)
    body = {"filter": {"status": "dead", "callbackUrl": "http://127.0.0.1:9/x?token=hidden"}}
    good(await api.post("/v1/replays", json=body))
    text = (await api.get("/v1/audit/export?all=true")).text
    for hidden in ("hidden", "aGlkZGVu", SECRET, "whsec_", ADMIN_KEY):
        assert hidden not in text
    (change,) = await trail(api, action="destination.change")
    assert change["detail"] == {"name": "billing", "fields": ["headers", "ratePerSecond"]}
    (replay,) = await trail(api, action="replay.start")
    assert replay["detail"]["filter"] == {"status": "dead", "callbackUrl": "http://127.0.0.1:9/x"}


REFUSED: Final[tuple[tuple[str, str, Any, int], ...]] = (
    ("POST", "/v1/keys", {"scopes": ["nonsense"]}, 422),
    ("DELETE", "/v1/keys/key_0", None, 404),
    ("POST", "/v1/keys/key_0/rotate", {}, 404),
    ("POST", "/v1/secrets/rotate", {"secret": "short"}, 422),
    ("POST", "/v1/secrets/rotate", {"destination": "nobody"}, 404),
    ("POST", "/v1/secrets/reveal", {"id": "sec_0"}, 404),
    ("POST", "/v1/destinations", {"name": "billing", "url": "http://127.0.0.1:9/"}, 409),
    ("PATCH", "/v1/destinations/nobody", {"paused": True}, 404),
    ("PATCH", "/v1/destinations/billing", {"concurrency": -1}, 422),
    ("DELETE", "/v1/destinations/nobody", None, 404),
    ("POST", "/v1/destinations/nobody/test", {}, 404),
    ("POST", "/v1/callbacks/{}/replay", None, 409),
    ("POST", "/v1/callbacks/cb_0/replay", None, 404),
    ("POST", "/v1/callbacks/cb_0/cancel", None, 404),
    ("POST", "/v1/replays", {"filter": {}}, 422),
    ("POST", "/v1/replays", {"filter": {"status": "dead"}, "dryRun": True}, 200),
    ("POST", "/v1/replays/rp_0/cancel", None, 404),
    ("POST", "/v1/endpoints", {"name": "jobs", "url": "http://127.0.0.1:9/"}, 422),
    ("PATCH", "/v1/endpoints/nobody", {"rate": 1}, 404),
    ("DELETE", "/v1/endpoints/nobody", None, 404),
    ("POST", "/v1/endpoints/nobody/pause", None, 404),
    ("POST", "/v1/endpoints/nobody/resume", None, 404),
    ("POST", "/v1/endpoints/nobody/test", None, 404),
    ("POST", "/v1/endpoints/nobody/purge", None, 404),
    ("POST", "/v1/jobs/cancel", {"filter": {}}, 422),
    ("POST", "/v1/jobs/cancel", {"filter": {"status": "queued"}, "dryRun": True}, 200),
    ("POST", "/v1/jobs/retry", {"filter": {"status": "completed"}}, 422),
    ("POST", "/v1/sweeps/js_0/cancel", None, 404),
    ("POST", "/v1/jobs/job_0/cancel", None, 404),
    ("POST", "/v1/jobs/job_0/retry", None, 404),
    ("PATCH", "/v1/tenants/nobody", {"queueMax": 1}, 404),
    ("DELETE", "/v1/tenants/nobody", None, 204),
)


async def test_what_is_refused_or_only_read_is_not_recorded(
    service: Service, api: httpx.AsyncClient
) -> None:
    id = await waiting(api)
    reader = await make_key(api, scopes=["read"], tenant="default")
    before = await trail(api)
    for method, path, body, status in REFUSED:
        answer = await api.request(method, path.format(id), json=body)
        assert answer.status_code == status, (path, answer.text)
        async with connect(service, reader) as weak:
            assert (await weak.request(method, path.format(id), json=body)).status_code == 403
    for path in ("callbacks", "keys", "secrets", "destinations", "tenants", "stats", "audit"):
        good(await api.get(f"/v1/{path}"))
    await submit(api, "another", "billing")
    assert await trail(api) == before


async def test_a_change_that_the_store_cannot_take_is_neither_made_nor_recorded(
    service: Service, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registered(api)
    before = await trail(api)

    async def broken(*_: object) -> None:
        raise StoreUnavailable("test")

    with monkeypatch.context() as patched:
        patched.setattr(service.store._database, "write", broken)
        answer = await api.patch("/v1/destinations/billing", json={"paused": True})
        reject(answer, 503, "UNAVAILABLE")
        reject(await api.post("/v1/secrets/reveal", json={}), 503, "UNAVAILABLE")
    assert good(await api.get("/v1/destinations/billing"))["paused"] is False
    assert await trail(api) == before


async def test_one_change_of_several_kinds_is_several_entries(api: httpx.AsyncClient) -> None:
    await registered(api)
    change = {"paused": True, "disabled": True, "concurrency": 3, "url": "http://127.0.0.1:9/x"}
    good(await api.patch("/v1/destinations/billing", json=change))
    done = {one["action"]: one["detail"] for one in (await trail(api))[:3]}
    assert done == {
        "destination.pause": {"name": "billing"},
        "destination.disable": {"name": "billing"},
        "destination.change": {"name": "billing", "fields": ["concurrency", "url"]},
    }


async def test_a_process_that_starts_is_recorded_with_its_settings(
    service: Service, api: httpx.AsyncClient
) -> None:
    """Those that are not the defaults, without any that holds a secret."""
    (start,) = await trail(api, action="service.start")
    assert (start["actor"], start["tenant"], start["byPlatform"]) == ("service", None, True)
    assert start["detail"]["settings"]["DISPATCHER_BATCH_LINES_MAX"] == 1_000
    assert start["detail"]["settings"]["DISPATCHER_ALLOW_NETWORKS"] == ["127.0.0.0/8"]
    assert not {"DISPATCHER_ADMIN_KEY", "DISPATCHER_DATABASE_URL"} & set(
        start["detail"]["settings"]
    )
    assert ADMIN_KEY not in str(start)
    first = [one["action"] for one in await trail(api)]
    assert first == ["key.bootstrap", "service.start", "tenant.create"]


async def test_the_bootstrap_keys_first_use_in_a_process_is_recorded(
    service: Service, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is written then: the next use is."""

    async def broken(*_: object, **__: object) -> None:
        raise StoreUnavailable("test")

    with monkeypatch.context() as patched:
        patched.setattr(service.store, "record", broken)
        good(await api.get("/v1/keys"))
    await make_key(api, scopes=["read"], tenant=None)
    (used,) = await trail(api, action="key.bootstrap")
    assert (used["actor"], used["tenant"], used["address"]) == (BOOTSTRAP_ID, None, "127.0.0.1")


# --- reasons ---


@pytest.mark.parametrize(
    "reason", ["x" * (REASON_CHARS_MAX + 1), b"\xff\xfe", "tab\there", b"\xc2\x85next line"]
)
async def test_a_reason_is_text_of_bounded_length(
    api: httpx.AsyncClient, reason: str | bytes
) -> None:
    await registered(api)
    before = await trail(api)
    raw = reason.encode() if isinstance(reason, str) else reason
    answer = await api.patch(
        "/v1/destinations/billing", json={"paused": True}, headers={b"Postback-Reason": raw}
    )
    assert reject(answer, 422, "VALIDATION_ERROR")["field"] == "Postback-Reason"
    assert await trail(api) == before


async def test_two_reasons_are_none(api: httpx.AsyncClient) -> None:
    headers = [("Postback-Reason", "a"), ("Postback-Reason", "b")]
    answer = await api.post("/v1/secrets/reveal", json={}, headers=headers)
    reject(answer, 400, "BAD_REQUEST")


async def test_a_reason_can_be_required(settings: Settings) -> None:
    """For revealing, and for replays of more than a number; else all is as it was."""
    strict = replace(settings, reveal_reason="required", replay_reason_above=2)
    async with Service(strict) as running, connect(running, ADMIN_KEY) as api:
        why = {"Postback-Reason": "ticket 4711"}
        refused = await api.post("/v1/secrets/reveal", json={})
        assert reject(refused, 422, "VALIDATION_ERROR")["field"] == "Postback-Reason"
        blank = await api.post("/v1/secrets/reveal", json={}, headers={"Postback-Reason": "  "})
        reject(blank, 422, "VALIDATION_ERROR")
        good(await api.post("/v1/secrets/reveal", json={}, headers=why))
        await registered(api)
        good(await api.patch("/v1/destinations/billing", json={"paused": True}))
        for n in range(4):  # three, once the replay of the few has begun
            id = await submit(api, f"job_{n}", "billing")
            good(await api.post(f"/v1/callbacks/{id}/cancel"))
        few = {"filter": {"status": "cancelled", "jobId": "job_0"}, "ratePerSecond": 0.01}
        many = {"filter": {"status": "cancelled"}, "ratePerSecond": 0.01}
        good(await api.post("/v1/replays", json=few))
        refused = await api.post("/v1/replays", json=many)
        assert reject(refused, 422, "VALIDATION_ERROR")["field"] == "Postback-Reason"
        good(await api.post("/v1/replays", json=many | {"dryRun": True}))
        good(await api.post("/v1/replays", json=many, headers=why))
        assert [one.get("reason") for one in await trail(api, action="replay.start")] == [
            "ticket 4711", None,
        ]  # fmt: skip


# --- looking ---


@pytest.fixture
async def mallory(service: Service, api: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """Another tenant, with every scope there is."""
    async with connect(service, await make_key(api, scopes=ALL, tenant="mallory")) as client:
        yield client


async def test_i9_a_tenant_sees_its_own_entries_only(
    api: httpx.AsyncClient, mallory: httpx.AsyncClient, parked: str
) -> None:
    """By whatever filter, page or export, and counts nothing of others'."""
    other = await submit(api, "one", parked)
    good(await api.post(f"/v1/callbacks/{other}/cancel"))
    good(await api.patch("/v1/tenants/mallory", json={"queueMax": 5}))
    own = await registered(mallory)
    listed = good(await mallory.get("/v1/audit"))["data"]
    assert {one["tenant"] for one in listed} == {"mallory"}
    assert listed[0]["target"] == own
    assert [one["action"] for one in listed] == [
        "destination.register", "key.create", "tenant.create",
    ]  # fmt: skip
    for query in (
        f"target={other}",
        f"actor={BOOTSTRAP_ID}&action=callback.cancel",
        "actor=service",
        "action=service.start",
        "target=default",
        "target=mallory&action=tenant.change",
    ):
        assert good(await mallory.get(f"/v1/audit?{query}")) == {"data": [], "nextCursor": None}
        assert (await mallory.get(f"/v1/audit/export?{query}")).text == ""
    for path in ("/v1/audit", "/v1/audit/export"):
        reject(await mallory.get(f"{path}?all=true"), 403, "FORBIDDEN")
        named = {"Postback-Tenant": "default"}
        reject(await mallory.get(path, headers=named), 403, "FORBIDDEN")
    cursor = good(await api.get("/v1/audit?limit=1"))["nextCursor"]
    assert (await mallory.get(f"/v1/audit?cursor={cursor}")).status_code == 422
    exported = (await mallory.get("/v1/audit/export")).text.splitlines()
    assert [json.loads(line) for line in exported] == listed


async def test_a_tenant_is_not_told_where_the_platform_asked_from(
    service: Service, api: httpx.AsyncClient, mallory: httpx.AsyncClient
) -> None:
    why, named = {"Postback-Reason": "you asked"}, {"Postback-Tenant": "mallory"}
    good(await api.post("/v1/secrets/reveal", json={}, headers=why | named))
    good(await mallory.post("/v1/secrets/reveal", json={}))
    own, platforms = good(await mallory.get("/v1/audit?action=signing-secret.reveal"))["data"]
    assert (own["byPlatform"], own["address"]) == (False, "127.0.0.1")
    assert (platforms["byPlatform"], platforms["reason"]) == (True, "you asked")
    assert "address" not in platforms
    shown = good(await api.get("/v1/audit?action=signing-secret.reveal", headers=named))["data"]
    assert [one["address"] for one in shown] == ["127.0.0.1"] * 2


async def test_i9_a_tenant_of_an_erased_ones_name_sees_nothing_of_it(
    service: Service,
    api: httpx.AsyncClient,
    mallory: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its entries stay, for the platform."""
    monkeypatch.setattr("dispatcher.store.tenants.HEARD_MS", 0)
    await registered(mallory)
    good(await api.delete("/v1/tenants/mallory"))
    while (await api.get("/v1/tenants/mallory")).status_code != 404:
        service.eraser.wake()
        await service.store.check()
    key = await make_key(api, scopes=ALL, tenant="mallory")
    async with connect(service, key) as heir:
        listed = good(await heir.get("/v1/audit"))["data"]
        assert [one["action"] for one in listed] == ["key.create", "tenant.create"]
        assert len((await heir.get("/v1/audit/export")).text.splitlines()) == 2
    kept = good(await api.get("/v1/audit", headers={"Postback-Tenant": "mallory"}))["data"]
    assert [one["action"] for one in kept].count("tenant.create") == 2


async def test_filters_that_cannot_be_understood_are_refused(api: httpx.AsyncClient) -> None:
    for query in ("action=key.creation", "since=yesterday", "actor=", "all=yes", "who=me"):
        for path in ("/v1/audit", "/v1/audit/export"):
            reject(await api.get(f"{path}?{query}"), 422, "VALIDATION_ERROR")
    reject(await api.get("/v1/audit/export?limit=5"), 422, "VALIDATION_ERROR")


async def test_an_export_is_all_that_matches_in_pages(
    service: Service, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.api.audit.LIMIT_MAX", 3)
    monkeypatch.setattr("dispatcher.store.audit.SCAN_MAX", 2)
    await registered(api)
    for n in range(10):
        good(await api.patch("/v1/destinations/billing", json={"paused": not n % 2}))
    exported = await api.get("/v1/audit/export?all=true&action=destination.pause")
    assert exported.headers["content-type"] == "application/x-ndjson"
    assert "attachment" in exported.headers["content-disposition"]
    head = await api.head("/v1/audit/export?all=true")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == "application/x-ndjson"
    listed = await trail(api, action="destination.pause")
    assert [json.loads(line) for line in exported.text.splitlines()] == listed
    assert len(listed) == 5


async def test_an_export_that_cannot_go_on_ends_with_an_error(
    service: Service, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head has gone by then; no line is half."""
    await registered(api)
    monkeypatch.setattr("dispatcher.api.audit.LIMIT_MAX", 1)
    reading, reads = service.store.audit_trail, 0

    async def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads > 2:
            raise StoreUnavailable("test")
        return await reading(*args, **kwargs)

    monkeypatch.setattr(service.store, "audit_trail", failing)
    lines = [
        json.loads(line) for line in (await api.get("/v1/audit/export?all=true")).text.splitlines()
    ]
    assert [line.get("action") for line in lines[:-1]] == ["destination.register", "key.bootstrap"]
    assert lines[-1]["error"] == "UNAVAILABLE"
    assert set(lines[-1]) == {"error", "message", "details", "requestId"}
