"""Finding callbacks, their attempts and payloads; replaying and cancelling one."""

from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from dispatcher.api.call import cursor_after
from dispatcher.app import Service
from tests.dispatcher.api.talk import reject, submit, until_state

ONCE = {"attempts": 1, "timeout": 5}
CLOSED = "http://127.0.0.1:9/hook"  # the discard port: nothing listens there


async def ids(api: httpx.AsyncClient, **query: str) -> list[str]:
    answer = await api.get(f"/v1/callbacks?{urlencode(query)}")
    assert answer.status_code == 200, answer.text
    return [one["jobId"] for one in answer.json()["data"]]


async def test_every_filter_finds_what_it_names(api: httpx.AsyncClient, parked: str) -> None:
    """All filters of the contract, alone and together, newest first."""
    first = await submit(api, "one", parked, tags={"team": "a"}, priority="high")
    await submit(api, "two", parked, tags={"team": "b", "env": "x"}, jobStatus="failed")
    shown = (await api.get(f"/v1/callbacks/{first}")).json()
    assert await ids(api) == ["two", "one"]
    assert await ids(api, **{"tag.team": "a"}) == ["one"]
    assert await ids(api, **{"tag.team": "b", "tag.env": "x"}) == ["two"]
    assert await ids(api, **{"tag.team": "a", "tag.env": "x"}) == []
    assert await ids(api, jobId="two") == ["two"]
    assert await ids(api, jobStatus="failed") == ["two"]
    assert await ids(api, priority="high") == ["one"]
    assert await ids(api, status="pending") == ["two", "one"]
    assert await ids(api, status="dead") == []
    assert await ids(api, destination="parked") == ["two", "one"]
    assert await ids(api, destination=shown["destination"], limit="1") == ["two"]
    assert await ids(api, error="timeout") == []
    assert await ids(api, until=shown["createdAt"]) == []
    assert "one" in await ids(api, since=shown["createdAt"])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=dead", "state"),
        ("status=lost", "status"),
        ("status=", "status"),
        ("priority=low", "priority"),
        ("since=yesterday", "since"),
        ("tag.=x", "tag."),
        ("jobId=%00", "jobId"),
        ("jobId=a&jobId=b", "jobId"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("cursor=abc", "cursor"),
        ("cursor=", "cursor"),
        ("jobId=" + "x" * 3_000, "jobId"),
    ],
)
async def test_an_unknown_or_wrong_filter_is_refused(
    api: httpx.AsyncClient, query: str, field: str
) -> None:
    """422 that names the parameter."""
    answer = await api.get(f"/v1/callbacks?{query}")
    assert reject(answer, 422, "VALIDATION_ERROR")["field"] == field


async def test_pages_lead_through_everything_once(api: httpx.AsyncClient, parked: str) -> None:
    """Following the cursors shows every callback once; a cursor belongs to its filter."""
    for n in range(7):
        await submit(api, f"job_{n}", parked)
    seen: list[str] = []
    query = {"limit": "3", "status": "pending"}
    while True:
        page = (await api.get("/v1/callbacks", params=query)).json()
        seen += [one["jobId"] for one in page["data"]]
        if page["nextCursor"] is None:
            break
        query["cursor"] = page["nextCursor"]
    assert seen == [f"job_{n}" for n in range(6, -1, -1)]
    strange = await api.get("/v1/callbacks", params=query | {"status": "dead"})
    assert reject(strange, 422, "VALIDATION_ERROR")["field"] == "cursor"


async def test_a_listed_callback_has_the_contracts_fields(
    api: httpx.AsyncClient, parked: str
) -> None:
    """Listed: the contract's fields, absent optionals left out; alone: policy and payload too."""
    callback_id = await submit(api, "one", parked, tags={"team": "a"})
    listed = (await api.get("/v1/callbacks")).json()["data"][0]
    assert set(listed) == {
        *("id", "jobId", "jobStatus", "status", "priority", "tags", "destination", "createdAt"),
        *("attempts", "nextAttemptAt", "destinationName", "callbackUrl", "waitsFor"),
    }
    shown = (await api.get(f"/v1/callbacks/{callback_id}")).json()
    assert set(shown) - set(listed) == {"policy", "payloadSize", "payloadSha256", "payloadPruned"}
    assert shown["policy"] == {
        "attempts": 14,
        "exponential": {"base": 5.0, "factor": 3.0, "cap": 21600.0},
        "jitter": 0.2,
        "timeout": 15.0,
        "acknowledge": "2xx",
        "maxAge": 604800.0,
        "turnedAway": "free",
        "retry": "all",
    }


async def test_a_failed_attempt_is_told_and_can_be_replayed(
    service: Service, api: httpx.AsyncClient
) -> None:
    """The story of a dead letter: its attempt, its error, found by it, replayed with history."""
    body: dict[str, Any] = {"jobId": "j", "callbackUrl": CLOSED, "payload": 1, "policy": ONCE}
    path = (await api.post("/v1/callbacks", json=body)).headers["Location"]
    callback_id = path.rpartition("/")[2]
    await until_state(service, callback_id, "dead")
    attempts = (await api.get(f"{path}/attempts")).json()
    assert attempts["nextCursor"] is None
    assert [(one["n"], one["outcome"]) for one in attempts["data"]] == [(1, "unreachable")]
    assert attempts["data"][0]["error"]
    assert await ids(api, status="dead", error="unreachable") == ["j"]
    replayed = await api.post(f"{path}/replay")
    assert (replayed.status_code, replayed.json()["id"]) == (200, callback_id)
    await until_state(service, callback_id, "dead")
    assert len((await api.get(f"{path}/attempts")).json()["data"]) == 2


async def test_replay_and_cancel_follow_the_table_of_states(
    api: httpx.AsyncClient, parked: str
) -> None:
    """Cancel from pending; replay from cancelled; 409 for both the other way round."""
    path = f"/v1/callbacks/{await submit(api, 'one', parked)}"
    reject(await api.post(f"{path}/replay"), 409, "CONFLICT")
    cancelled = await api.post(f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert "finishedAt" in cancelled.json()
    reject(await api.post(f"{path}/cancel"), 409, "CONFLICT")
    replayed = await api.post(f"{path}/replay")
    assert (replayed.status_code, replayed.json()["status"]) == (200, "pending")


async def test_i7_a_long_history_comes_in_pages(
    service: Service, api: httpx.AsyncClient, parked: str
) -> None:
    """500 attempts at most at once; each page goes on where the last one ended."""
    made = await submit(api, "j", parked)
    path = f"/v1/callbacks/{made}/attempts"
    rows = [(made, n, n, 1.5, "timeout") for n in range(1, 1_202)]
    await service.store._write(
        lambda tx: tx.many(
            "INSERT INTO attempts (callback, n, started_ms, duration_ms, outcome) "
            "VALUES (?, ?, ?, ?, ?)",
            rows,
        )
    )
    found: list[int] = []
    pages: list[int] = []
    cursor: dict[str, str] = {}
    while not pages or cursor:
        page = (await api.get(path, params=cursor)).json()
        found += [one["n"] for one in page["data"]]
        pages.append(len(page["data"]))
        cursor = {"cursor": page["nextCursor"]} if page["nextCursor"] else {}
    assert (pages, found) == ([500, 500, 201], list(range(1, 1_202)))
    first = (await api.get(path, params={"limit": 2})).json()
    assert [one["n"] for one in first["data"]] == [1, 2]


@pytest.mark.parametrize("id", ["x", "9" * 40, "-1"])
async def test_a_cursor_of_a_history_that_is_no_number_is_refused(
    api: httpx.AsyncClient, parked: str, id: str
) -> None:
    """D13: whoever makes cursors of their own is told so."""
    callback = await submit(api, "j", parked)
    cursor = cursor_after(id, f"attempts\0default\0{callback}")
    refused = await api.get(f"/v1/callbacks/{callback}/attempts", params={"cursor": cursor})
    assert refused.status_code == 422
    assert refused.json()["details"]["field"] == "cursor"


@pytest.mark.parametrize("suffix", ["", "/attempts", "/payload"])
@pytest.mark.parametrize("name", ["cb_" + "0" * 32, "nope", "%00", "%ff", "a%2Fb", "x" * 200])
async def test_an_unknown_id_is_404(api: httpx.AsyncClient, name: str, suffix: str) -> None:
    """Whatever the id looks like."""
    reject(await api.get(f"/v1/callbacks/{name}{suffix}"), 404, "NOT_FOUND")


async def test_routes_without_parameters_refuse_them(api: httpx.AsyncClient, parked: str) -> None:
    """A parameter that would be ignored is refused instead."""
    path = f"/v1/callbacks/{await submit(api, 'one', parked)}"
    reject(await api.get(f"{path}?verbose=1"), 422, "VALIDATION_ERROR")
    reject(await api.post(f"{path}/replay?force=1"), 422, "VALIDATION_ERROR")
