"""What a tenant may use of what all share, where that is set, and the end of a tenant."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.pace import paced
from dispatcher.settings import Settings
from dispatcher.store.rows import ROW_BYTES
from tests.dispatcher.api.talk import ADMIN_KEY, connect, make_key, reject

URL = "http://127.0.0.1:9/hook"


async def send(api: httpx.AsyncClient, job: str, tenant: str = "acme", size: int = 100) -> Any:
    body = {"jobId": job, "callbackUrl": URL, "payload": "x" * size, "notBefore": 3600}
    return await api.post("/v1/callbacks", json=body, headers={"Postback-Tenant": tenant})


async def limit(api: httpx.AsyncClient, tenant: str = "acme", **limits: object) -> dict[str, Any]:
    changed = await api.patch(f"/v1/tenants/{tenant}", json=limits)
    assert changed.status_code == 200, changed.text
    view: dict[str, Any] = changed.json()
    return view


async def erased(api: httpx.AsyncClient, tenant: str) -> None:
    async with asyncio.timeout(30):
        while (await api.get(f"/v1/tenants/{tenant}")).status_code != 404:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_tenants_limits_are_shown_set_and_put_back(
    service: Service, api: httpx.AsyncClient
) -> None:
    """The defaults are the settings', a quarter of the storage; null returns to them."""
    reject(await api.get("/v1/tenants/acme"), 404, "NOT_FOUND")
    reject(await api.patch("/v1/tenants/acme", json={"queueMax": 1}), 404, "NOT_FOUND")
    assert (await send(api, "1")).status_code == 202
    shown = (await api.get("/v1/tenants/acme")).json()
    settings = service.settings
    assert shown["storageBytesMax"] == settings.storage_bytes_max // 4
    assert shown["queueMax"] == settings.tenant_queue_max
    assert "ratePerSecond" not in shown
    assert "jobsRunningMax" not in shown
    assert shown["outputsBytesMax"] == shown["storageBytesMax"]
    limits = ["storageBytesMax", "queueMax", "ratePerSecond", "jobsRunningMax", "outputsBytesMax"]
    assert shown["defaults"] == limits
    assert shown["queued"] == 1
    assert shown["storageBytes"] == 102 + ROW_BYTES
    own: dict[str, Any] = {
        "storageBytesMax": 1 << 20,
        "queueMax": 7,
        "ratePerSecond": 2.5,
        "jobsRunningMax": 3,
        "outputsBytesMax": 1 << 19,
        "label": "Acme é",
    }
    changed = await limit(api, **own)
    assert {name: changed[name] for name in own} == own
    assert changed["defaults"] == []
    assert (await api.get("/v1/tenants")).json()["data"][0]["label"] == "Acme é"
    back = await limit(api, storageBytesMax=None, ratePerSecond=None, label=None)
    assert back["defaults"] == ["storageBytesMax", "ratePerSecond"]
    assert (back["queueMax"], "label" in back) == (7, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"queueMax": -1},
        {"queueMax": 1.5},
        {"jobsRunningMax": -1},
        {"jobsRunningMax": 1.5},
        {"storageBytesMax": "1"},
        {"ratePerSecond": 0},
        {"ratePerSecond": 1e-9},
        {"label": "a\u0000b"},
        {"label": "x" * 101},
        {"outputsBytesMax": -1},
        {"inputsBytesMax": 1},
    ],
)
async def test_a_limit_that_is_none_is_422(
    api: httpx.AsyncClient, wrong: dict[str, object]
) -> None:
    await send(api, "1")
    reject(await api.patch("/v1/tenants/acme", json=wrong), 422, "VALIDATION_ERROR")


async def test_limits_are_for_the_platform(service: Service, api: httpx.AsyncClient) -> None:
    """A tenant's key with all scopes neither sees nor sets them, nor erases."""
    key = await make_key(api, tenant="acme", scopes=["submit", "read", "operate", "admin"])
    async with connect(service, key) as acme:
        for path in ("/v1/tenants/acme", "/v1/tenants/default"):
            reject(await acme.get(path), 403, "FORBIDDEN")
            reject(await acme.patch(path, json={"queueMax": 1}), 403, "FORBIDDEN")
            reject(await acme.delete(path), 403, "FORBIDDEN")


async def test_a_full_tenant_is_507_with_its_quota_and_no_other_is(
    service: Service, api: httpx.AsyncClient
) -> None:
    """To the byte; what is dead or delivered counts as what waits does, and retention frees it."""
    assert (await send(api, "1")).status_code == 202
    each = ROW_BYTES + 102
    await limit(api, storageBytesMax=3 * each + 50)
    taken = [(await send(api, str(n))).status_code for n in (2, 3, 4)]
    assert taken == [202, 202, 507]
    details = reject(await send(api, "5"), 507, "STORAGE_LIMIT_EXCEEDED")
    assert details == {"estimatedSize": each, "remainingQuota": 50}
    assert (await send(api, "1", "other")).status_code == 202
    for page in (await api.get("/v1/callbacks", headers={"Postback-Tenant": "acme"})).json()[
        "data"
    ]:
        ended = await api.post(
            f"/v1/callbacks/{page['id']}/cancel", headers={"Postback-Tenant": "acme"}
        )
        assert ended.status_code == 200
    reject(await send(api, "6"), 507, "STORAGE_LIMIT_EXCEEDED")
    batch = b'{"jobId":"7","payload":1,"callbackUrl":"%s"}\n' % URL.encode()
    lines = await api.post(
        "/v1/callbacks/batch",
        content=batch,
        headers={"Postback-Tenant": "acme", "Content-Type": "application/x-ndjson"},
    )
    assert lines.json()["status"] == 507
    await limit(api, storageBytesMax=None)
    assert (await send(api, "6")).status_code == 202


async def test_submits_at_once_do_not_overrun_a_tenants_storage(
    service: Service, api: httpx.AsyncClient
) -> None:
    """What is being stored is counted before it is there."""
    await send(api, "first")
    await limit(api, storageBytesMax=6 * (ROW_BYTES + 102))
    answers = await asyncio.gather(*(send(api, f"job-{n}") for n in range(40)))
    assert sorted(one.status_code for one in answers) == [202] * 5 + [507] * 35
    assert service.store.stored_bytes("acme") == 6 * (ROW_BYTES + 102)


async def test_a_tenants_queue_and_rate_are_429_and_no_others(
    service: Service, api: httpx.AsyncClient
) -> None:
    for n in range(3):
        await send(api, f"first-{n}")
    await limit(api, queueMax=3)
    details = reject(await send(api, "4"), 429, "QUEUE_FULL")
    assert details["queueSize"] == 3
    await limit(api, queueMax=None, ratePerSecond=0.01)
    assert (await send(api, "5")).status_code == 202
    full = await send(api, "6")
    assert reject(full, 429, "RATE_LIMITED") == {"ratePerSecond": 0.01, "retryAfter": 60}
    assert full.headers["Retry-After"] == "60"
    assert (await send(api, "1", "other")).status_code == 202
    await limit(api, ratePerSecond=1_000)
    async with asyncio.timeout(5):  # what a lower rate had used is forgotten
        while (await send(api, "6")).status_code != 202:  # noqa: ASYNC110 - it waits for time
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("rate", [0.001, 0.5, 1.0, 3.0, 1_000.0])
def test_a_rate_is_kept_over_any_time_after_a_seconds_worth(rate: float) -> None:
    used_ms, now_ms = 0.0, 5_000.0
    for taken in range(1, 51):
        used_ms, wait_ms = paced(used_ms, rate, now_ms)
        if wait_ms:
            now_ms += wait_ms
            used_ms, wait_ms = paced(used_ms, rate, now_ms)
            assert wait_ms < 1e-6, "whoever waits as told is taken"
        assert taken <= (now_ms - 5_000) / 1000 * rate + max(1, rate) + 1e-6


@pytest.fixture
async def small(settings: Settings) -> Any:
    async with Service(
        replace(settings, tenants_max=3, tenant_keys_max=2, tenant_destinations_max=2,
                tenant_replays_max=1, tenant_rate_per_second=1_000.0)
    ) as running:  # fmt: skip
        yield running


async def test_what_a_tenant_may_have_is_bounded_and_says_by_what(small: Service) -> None:
    """409, with the setting's name; what is there goes on."""
    async with connect(small, ADMIN_KEY) as api:
        for n in range(2):
            await make_key(api, tenant="acme", scopes=["read"])
            made = await api.post(
                "/v1/destinations",
                json={"name": f"d{n}", "url": URL},
                headers={"Postback-Tenant": "acme"},
            )
            assert made.status_code == 201, made.text
        over = await api.post("/v1/keys", json={"tenant": "acme", "scopes": ["read"]})
        details = reject(over, 409, "LIMIT_REACHED")
        assert details == {"limit": "DISPATCHER_TENANT_KEYS_MAX", "max": 2}
        details = reject(await send(api, "1"), 409, "LIMIT_REACHED")
        assert details == {"limit": "DISPATCHER_TENANT_DESTINATIONS_MAX", "max": 2}
        assert (await send(api, "1", "other")).status_code == 202
        details = reject(await send(api, "1", "fourth"), 409, "LIMIT_REACHED")
        assert details == {"limit": "DISPATCHER_TENANTS_MAX", "max": 3}
        assert (await api.get("/v1/tenants/acme")).json()["ratePerSecond"] == 1_000


async def test_a_tenant_is_erased_and_may_come_again(
    service: Service, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys end at once; until it is gone it takes nothing; asking again changes nothing."""
    monkeypatch.setattr("dispatcher.store.tenants.HEARD_MS", 500)
    key = await make_key(api, tenant="acme", scopes=["submit", "read"])
    for n in range(5):
        await send(api, f"job-{n}")
        await send(api, f"job-{n}", "other")
    assert (await api.delete("/v1/tenants/nobody")).status_code == 204
    ending = await api.delete("/v1/tenants/acme")
    assert ending.status_code == 202
    assert ending.json()["erasingAt"]
    async with connect(service, key) as acme:
        reject(await acme.get("/v1/callbacks"), 401, "UNAUTHORIZED")
    reject(await send(api, "more"), 409, "TENANT_ERASING")
    made = await api.post("/v1/keys", json={"tenant": "acme", "scopes": ["read"]})
    reject(made, 409, "TENANT_ERASING")
    reject(await api.patch("/v1/tenants/acme", json={"queueMax": 1}), 409, "TENANT_ERASING")
    assert (await api.delete("/v1/tenants/acme")).status_code == 202
    await erased(api, "acme")
    assert (await api.delete("/v1/tenants/acme")).status_code == 204
    stats = (await api.get("/v1/stats", headers={"Postback-Tenant": "other"})).json()
    assert stats["counts"]["pending"] == 5
    assert (await send(api, "again")).status_code == 202
    shown = (await api.get("/v1/tenants/acme")).json()
    assert (shown["queued"], shown["storageBytes"]) == (1, 102 + ROW_BYTES)


async def test_an_erasure_goes_on_after_a_restart(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.store.tenants.HEARD_MS", 0)
    async with Service(settings) as first, connect(first, ADMIN_KEY) as api:
        await first.eraser.stop()
        await send(api, "1")
        await send(api, "1", "other")
        assert (await api.delete("/v1/tenants/acme")).status_code == 202
    async with Service(settings) as second, connect(second, ADMIN_KEY) as api:
        await erased(api, "acme")
        assert (await api.get("/v1/tenants/other")).json()["queued"] == 1


# --- readiness ---


async def test_readyz_says_why_every_submit_is_refused(
    service: Service, api: httpx.AsyncClient
) -> None:
    """The storage or the queue of all is full; one tenant's is nobody else's business."""
    assert (await send(api, "1")).status_code == 202
    await limit(api, storageBytesMax=0, queueMax=0)
    reject(await send(api, "2"), 429, "QUEUE_FULL")
    assert (await api.get("/readyz")).status_code == 200
    settings = service.settings
    service.quotas._settings = replace(settings, queue_max=1)
    full = await api.get("/readyz")
    assert (full.status_code, full.json()["status"]) == (503, "unready")
    assert full.json()["reason"].startswith("the queue is full")
    assert full.headers["Retry-After"]
    reject(await send(api, "2", "other"), 429, "QUEUE_FULL")
    service.quotas._settings = settings
    usage = service.store._database.usage
    service.store._database.usage = replace(usage, free_bytes=ROW_BYTES - 1)
    reject(await send(api, "2", "other"), 507, "STORAGE_LIMIT_EXCEEDED")
    full = await api.get("/readyz")
    assert full.status_code == 503
    assert full.json()["reason"].startswith("the storage is full")
    service.store._database.usage = usage
    assert (await api.get("/readyz")).status_code == 200


async def test_readyz_says_that_the_disk_takes_no_more(
    service: Service, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write as large as a submit's is tried, whatever the figures say."""
    monkeypatch.setattr("dispatcher.store.store._PROBE_EVERY_S", 0.0)
    assert (await api.get("/readyz")).status_code == 200
    write = service.store._database._file.write  # type: ignore[attr-defined]  # SQLite's

    def pages(connection: Any, more: int) -> None:
        connection.execute("DELETE FROM probe")
        (count,) = connection.execute("PRAGMA page_count").fetchone()
        (unused,) = connection.execute("PRAGMA freelist_count").fetchone()
        connection.execute("PRAGMA incremental_vacuum").fetchall()
        connection.execute(f"PRAGMA max_page_count = {count - unused + more}").fetchall()

    await write(pages, 0)
    full = await api.get("/readyz")
    assert (full.status_code, full.json()["status"]) == (503, "unready"), full.text
    assert full.json()["reason"].startswith("the disk is full")
    await write(pages, 1_000)
    assert (await api.get("/readyz")).json() == {"status": "ready"}
