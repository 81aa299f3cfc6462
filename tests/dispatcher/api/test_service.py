"""Figures, signs of life, and what holds for every route."""

import httpx
import pytest

from dispatcher.app import Service
from dispatcher.store.errors import StoreUnavailable
from tests.dispatcher.api.talk import reject, submit


async def test_stats_count_by_state(api: httpx.AsyncClient, parked: str) -> None:
    """Every state is there, with the oldest pending one's time and the rates."""
    await submit(api, "one", parked)
    stats = (await api.get("/v1/stats")).json()
    assert stats["counts"] == {
        "pending": 1,
        "sending": 0,
        "delivered": 0,
        "dead": 0,
        "cancelled": 0,
    }
    assert stats["oldestPendingAt"].endswith("Z")
    assert {"acceptedPerSecond", "deliveredPerSecond", "failedAttemptsPerSecond"} <= set(stats)


async def test_stats_of_all_tenants_are_for_the_platform(
    api: httpx.AsyncClient, parked: str
) -> None:
    """`all=true` sums up; another value is refused."""
    await submit(api, "one", parked)
    acme = {"Postback-Tenant": "acme"}
    assert (await api.get("/v1/stats", headers=acme)).json()["counts"]["pending"] == 0
    assert (await api.get("/v1/stats?all=true", headers=acme)).json()["counts"]["pending"] == 1
    reject(await api.get("/v1/stats?all=1"), 422, "VALIDATION_ERROR")
    reject(await api.get("/v1/stats?since=x"), 422, "VALIDATION_ERROR")


async def test_signs_of_life_need_no_key(
    service: Service, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Healthz lives with the process; readyz follows the store."""
    del api.headers["Authorization"]
    assert (await api.get("/healthz")).json() == {"status": "ok"}
    assert (await api.get("/readyz")).json() == {"status": "ready"}

    async def down() -> None:
        raise StoreUnavailable("the database is locked")

    monkeypatch.setattr(service.store, "check", down)
    unready = await api.get("/readyz")
    assert unready.status_code == 503
    assert unready.json() == {"status": "unready", "reason": "the database is locked"}
    assert (await api.get("/healthz")).status_code == 200


async def test_metrics_count_requests_by_route_and_refusals_by_code(
    api: httpx.AsyncClient, parked: str
) -> None:
    """Labels are the route's template and the class of the status, never a path."""
    callback_id = await submit(api, "one", parked)
    await api.get(f"/v1/callbacks/{callback_id}")
    await api.post("/v1/callbacks", json={})
    await api.request("BREW", "/v1/callbacks")
    text = (await api.get("/metrics")).text
    assert 'route="/v1/callbacks/{id}",status="2xx"} 1.0' in text
    assert 'dispatcher_refused_total{code="VALIDATION_ERROR"} 1.0' in text
    assert 'dispatcher_submits_total{result="accepted"} 1.0' in text
    assert callback_id not in text
    assert "BREW" not in text


async def test_a_request_keeps_its_id_if_it_is_sane(api: httpx.AsyncClient) -> None:
    """Inbound `X-Request-Id` comes back; what could harm a log does not."""
    kept = await api.get("/healthz", headers={"X-Request-Id": "trace-1"})
    assert kept.headers["X-Request-Id"] == "trace-1"
    for wrong in (b"", b"a b", b"x" * 65, b"\xff", b"\x1b[31m"):
        answer = await api.get("/nope", headers=[(b"X-Request-Id", wrong)])
        assert answer.headers["X-Request-Id"].startswith("req_")
        assert answer.json()["requestId"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/callbacks", "GET, POST"),
        ("PUT", "/v1/destinations/x", "DELETE, GET, PATCH"),
        ("GET", "/v1/callbacks/x/replay", "POST"),
        ("POST", "/healthz", "GET"),
        ("BREW", "/v1/stats", "GET"),
        ("OPTIONS", "/v1/callbacks", "GET, POST"),
    ],
)
async def test_another_method_is_405_with_what_there_is(
    api: httpx.AsyncClient, method: str, path: str, allow: str
) -> None:
    """With the Allow header."""
    answer = await api.request(method, path)
    reject(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == allow


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/callbacks/", "/V1/callbacks", "/v2/callbacks", "//"]
)
async def test_another_path_is_404(api: httpx.AsyncClient, path: str) -> None:
    """In the one shape; no redirects to where something would be."""
    reject(await api.get(path), 404, "NOT_FOUND")
