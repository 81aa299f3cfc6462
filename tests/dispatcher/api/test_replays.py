"""`/v1/replays`: preview, start, watch and stop."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.dispatcher.api.talk import reject, submit

URL = "/v1/replays"


async def cancelled(api: httpx.AsyncClient, destination: str, *job_ids: str) -> None:
    """Callbacks in a final state, without any delivery."""
    for job_id in job_ids:
        callback_id = await submit(api, job_id, destination, tags={"team": "a"})
        assert (await api.post(f"/v1/callbacks/{callback_id}/cancel")).status_code == 200


async def finished(api: httpx.AsyncClient, path: str) -> dict[str, Any]:
    """The replay, once it is no longer running."""
    async with asyncio.timeout(60):
        while True:
            replay: dict[str, Any] = (await api.get(path)).json()
            if replay["state"] != "running":
                return replay
            await asyncio.sleep(0.01)  # the API has no other way to watch


async def test_a_dry_run_counts_and_samples_and_changes_nothing(
    api: httpx.AsyncClient, parked: str
) -> None:
    """200 with `matched`, a sample and the filter that was understood."""
    await cancelled(api, parked, "one", "two")
    asked = {"filter": {"status": "cancelled", "tag.team": "a"}, "dryRun": True}
    preview = await api.post(URL, json=asked)
    assert preview.status_code == 200
    body = preview.json()
    assert body["matched"] == 2
    assert {one["jobId"] for one in body["sample"]} == {"one", "two"}
    assert body["filter"] == asked["filter"]
    assert (await api.get("/v1/stats")).json()["counts"]["cancelled"] == 2


async def test_what_is_not_counted_to_its_end_says_so(
    api: httpx.AsyncClient, parked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`matchedExactly` false: at least so many. A replay takes all of them, and knows how many."""
    await cancelled(api, parked, "one", "two", "three")
    asked: dict[str, Any] = {"filter": {"status": "cancelled"}}
    assert "matchedExactly" not in (await api.post(URL, json=asked | {"dryRun": True})).json()
    monkeypatch.setattr("dispatcher.store.replays.COUNTED_MAX", 2)
    preview = (await api.post(URL, json=asked | {"dryRun": True})).json()
    assert (preview["matched"], preview["matchedExactly"], len(preview["sample"])) == (2, False, 3)
    started = await api.post(URL, json=asked)
    assert (started.json()["matched"], started.json()["matchedExactly"]) == (2, False)
    done = await finished(api, started.headers["Location"])
    assert (done["matched"], done["replayed"]) == (3, 3)
    assert "matchedExactly" not in done


async def test_an_empty_page_may_lead_on(
    api: httpx.AsyncClient, parked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request looks through a bounded part; its cursor goes on from there."""
    for job_id in ("wanted", "b", "c", "d"):
        await submit(api, job_id, parked, jobStatus="x" if job_id == "wanted" else "y")
    monkeypatch.setattr("dispatcher.store.search.SCAN_MAX", 1)
    seen: list[str] = []
    pages, cursor = 0, dict[str, str]()
    while True:
        page = (await api.get("/v1/callbacks", params={"jobStatus": "x", **cursor})).json()
        seen += [one["jobId"] for one in page["data"]]
        pages += 1
        if page["nextCursor"] is None:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert (seen, pages >= 4) == (["wanted"], True)


async def test_a_replay_is_accepted_watched_and_done(api: httpx.AsyncClient, parked: str) -> None:
    """202 with Location; it ends with everything that matched replayed."""
    await cancelled(api, parked, "one", "two", "three")
    started = await api.post(URL, json={"filter": {"status": "cancelled"}, "ratePerSecond": 1_000})
    assert started.status_code == 202
    body = started.json()
    assert (body["matched"], body["ratePerSecond"]) == (3, 1_000)
    assert started.headers["Location"] == f"{URL}/{body['id']}"
    done = await finished(api, started.headers["Location"])
    assert (done["state"], done["replayed"], done["skipped"]) == ("done", 3, 0)
    assert done["finishedAt"].endswith("Z")
    assert (await api.get("/v1/stats")).json()["counts"]["pending"] == 3
    reject(await api.post(f"{started.headers['Location']}/cancel"), 409, "CONFLICT")


async def test_a_running_replay_can_be_stopped(api: httpx.AsyncClient, parked: str) -> None:
    """What was fed stays, the rest is left alone."""
    await cancelled(api, parked, *(f"job_{n}" for n in range(5)))
    started = await api.post(URL, json={"filter": {"status": "cancelled"}, "ratePerSecond": 0.01})
    stopped = await api.post(f"{started.headers['Location']}/cancel")
    assert (stopped.status_code, stopped.json()["state"]) == (200, "cancelled")


async def test_without_a_status_only_dead_ones_match_and_the_answer_says_so(
    api: httpx.AsyncClient, parked: str
) -> None:
    """A careless filter replays nothing that was delivered or cancelled."""
    await cancelled(api, parked, "one")
    preview = await api.post(URL, json={"filter": {"tag.team": "a"}, "dryRun": True})
    assert preview.json() == {
        "matched": 0,
        "sample": [],
        "filter": {"status": "dead", "tag.team": "a"},
    }


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "filter"),
        ({"filter": {}}, "filter"),
        ({"filter": None}, "filter"),
        ({"filter": {"status": "sending"}}, "filter.status"),
        ({"filter": {"status": "x"}}, "filter.status"),
        ({"filter": {"limit": "1"}}, "filter.limit"),
        ({"filter": {"since": "x"}}, "filter.since"),
        ({"filter": {"jobId": 7}}, "filter"),
        ({"filter": {"jobId": "a\0"}}, "filter.jobId"),
        ({"filter": {"jobId": "a"}, "ratePerSecond": 0}, "ratePerSecond"),
        ({"filter": {"jobId": "a"}, "ratePerSecond": 1e-17}, "ratePerSecond"),
        ({"filter": {"jobId": "a"}, "ratePerSecond": 10_001}, "ratePerSecond"),
        ({"filter": {"jobId": "a"}, "dryRun": "yes"}, "dryRun"),
        ({"filter": {"jobId": "a"}, "dry": True}, "dry"),
    ],
)
async def test_a_replay_that_cannot_be_meant_is_refused(
    api: httpx.AsyncClient, body: dict[str, Any], field: str
) -> None:
    """422 that names the field; a filter is required, and not an empty one."""
    details = reject(await api.post(URL, json=body), 422, "VALIDATION_ERROR")
    assert details["field"] == field


async def test_an_unknown_replay_is_404(api: httpx.AsyncClient) -> None:
    """For watching and for stopping."""
    reject(await api.get(f"{URL}/rp_0"), 404, "NOT_FOUND")
    reject(await api.post(f"{URL}/rp_0/cancel"), 404, "NOT_FOUND")
