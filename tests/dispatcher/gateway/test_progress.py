"""What upstreams report while they run: over real sockets, in the database, in every view."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from dispatcher.jobs.values import Job, SubmittedJob
from dispatcher.store.errors import StoreUnavailable
from dispatcher.store.jobs.store import JobStore
from receiver.base.clock import now_ms
from tests.dispatcher.api.talk import connect
from tests.dispatcher.gateway.rig import (
    ADMIN_KEY,
    TENANT,
    Upstream,
    World,
    running,
    sink,
    told_at,
    upstream,
)

HEADERS = {"Content-Type": "application/json"}


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with running(database, public_url="http://testserver") as made:
        yield made


@pytest.fixture
async def api(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with connect(world.service, ADMIN_KEY) as client:
        yield client


@pytest.fixture
async def peer() -> AsyncIterator[Upstream]:
    async with upstream() as made:
        made.go.clear()
        yield made


async def begun(world: World, peer: Upstream, **rules: Any) -> tuple[SubmittedJob, str, str]:
    """A job whose call is open, and the URLs that the call came with."""
    await world.endpoint(peer.url, **rules)
    job = await world.submit()
    await peer.reached(1)
    headers, _ = peer.calls[-1]
    return job, headers["x-job-progress-url"], headers["x-job-complete-url"]


async def post(api: httpx.AsyncClient, url: str, body: Any = None, **more: Any) -> httpx.Response:
    """As an upstream does: with no key."""
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    request = api.build_request("POST", url, content=content, headers=HEADERS, **more)
    request.headers.pop("authorization", None)
    return await api.send(request)


async def shown(world: World, id: str) -> Job:
    """A job with what was reported of it, once that is written."""

    async def is_written() -> bool:
        return (await world.get(id, output=True)).progress is not None

    await world.until(is_written)
    return await world.get(id, output=True)


# --- progress ---


async def test_reports_add_up_and_are_shown_by_every_dialect(
    world: World, peer: Upstream, api: httpx.AsyncClient
) -> None:
    """What is left out of a report stays as it was; /v1, TensorOne's status and RunPod's show the
    last that is known, and none of it before there is any."""
    job, url, _ = await begun(world, peer)
    assert url.startswith(f"http://testserver/v1/jobs/job_{job.id}/progress/")
    plain = (await api.get(f"/v2/jobs/job_{job.id}/status")).json()
    assert not {"progress", "currentStep", "metadata"} & set(plain)
    assert "output" not in (await api.get(f"/v2/ep/status/{job.id}")).json()
    first = await post(api, url, {"progress": 25, "metadata": {"pages": 4, "ä": None}})
    assert (first.status_code, first.content) == (204, b"")
    assert (await post(api, url, {"currentStep": "rendering"})).status_code == 204

    async def is_there() -> bool:
        view = (await api.get(f"/v1/jobs/job_{job.id}")).json()
        return "currentStep" in view and "metadata" in view

    await world.until(is_there)
    told = {"progress": 25, "currentStep": "rendering", "metadata": {"pages": 4, "ä": None}}
    view = (await api.get(f"/v1/jobs/job_{job.id}")).json()
    assert {name: view[name] for name in told} == told
    status = (await api.get(f"/v2/jobs/job_{job.id}/status")).json()
    assert {name: status[name] for name in told} == told
    assert status["estimatedCompletion"] > status["startedAt"]
    assert (await api.get(f"/v2/ep/status/{job.id}")).json()["output"] == told
    peer.go.set()
    await world.until_state(job.id, "completed")
    assert (await api.get(f"/v2/ep/status/{job.id}")).json()["output"] == {"answer": 42}


async def test_a_report_that_comes_late_is_refused_and_changes_nothing(
    world: World, peer: Upstream, api: httpx.AsyncClient
) -> None:
    """A token dies with the call that it was made for: cancelled, ended or run again."""
    job, url, complete = await begun(world, peer)
    assert (await post(api, url, {"progress": 10})).status_code == 204
    await shown(world, job.id)
    await world.service.gateway.engine.cancel(TENANT, job.id)
    refused = await post(api, url, {"progress": 90})
    assert refused.status_code == 409
    assert refused.json()["error"] == "CONFLICT"
    assert (await post(api, complete, b"1")).status_code == 409
    await world.until_idle()
    assert (await world.get(job.id, output=True)).progress.percent == 10  # type: ignore[union-attr]

    async def is_free() -> bool:
        return not (await world.get(job.id)).releasing

    await world.until(is_free)
    await world.service.gateway.engine.retry(TENANT, job.id)
    await peer.reached(2)
    assert (await post(api, url, {"progress": 90})).status_code == 409
    assert (await world.get(job.id, output=True)).progress is None
    new = peer.calls[-1][0]["x-job-progress-url"]
    assert (await post(api, new, {"progress": 1})).status_code == 204
    peer.go.set()
    await world.until_state(job.id, "completed")
    assert (await post(api, new, {"progress": 2})).status_code == 409


async def test_a_report_after_a_cancel_in_another_process_is_refused(
    postgres: str, peer: Upstream
) -> None:
    """From the moment on at which that is stored, whoever holds the call, and before he knows."""
    async with (
        running(postgres, public_url="http://testserver") as world,
        running(postgres, public_url="http://testserver") as other,
        connect(world.service, ADMIN_KEY) as api,
    ):
        await world.endpoint(peer.url, concurrency=10)
        for n in range(1, 6):
            job = await world.submit()
            await peer.reached(n)
            url = peer.calls[-1][0]["x-job-progress-url"]
            assert (await post(api, url, {"progress": 1})).status_code == 204
            await other.service.gateway.engine.cancel(TENANT, job.id)
            assert (await post(api, url, {"progress": 2})).status_code == 409


async def test_while_the_database_is_away_reports_of_open_calls_are_taken(
    world: World, peer: Upstream, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of others nobody can tell."""

    async def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    job, url, _ = await begun(world, peer)
    monkeypatch.setattr(JobStore, "current", away)
    assert (await post(api, url, {"progress": 30})).status_code == 204
    assert (await shown(world, job.id)).progress.percent == 30  # type: ignore[union-attr]
    peer.go.set()
    await world.until_state(job.id, "completed")
    await world.until_idle()
    assert (await post(api, url, {"progress": 40})).status_code == 503


async def test_the_last_lines_of_a_log_are_shown(
    world: World, peer: Upstream, api: httpx.AsyncClient
) -> None:
    """Beside progress, in what shows a job alone; the dialects have no word for it."""
    job, url, _ = await begun(world, peer)
    for line in ("loading", "page 1\npage 2"):
        assert (await post(api, url, {"log": line})).status_code == 204
    view: dict[str, Any] = {}

    async def is_there() -> bool:
        view.update((await api.get(f"/v1/jobs/job_{job.id}")).json())
        return str(view.get("log", "")).endswith("page 2")

    await world.until(is_there)
    assert view["log"] == "loading\npage 1\npage 2"
    assert "progress" not in view
    assert "log" not in (await api.get(f"/v2/jobs/job_{job.id}/status")).json()
    assert "output" not in (await api.get(f"/v2/ep/status/{job.id}")).json()


@pytest.mark.parametrize("how", ["answer", "url"])
async def test_what_is_reported_last_is_not_lost(
    world: World, peer: Upstream, api: httpx.AsyncClient, how: str
) -> None:
    """However shortly before the end: of what fails it is what one looks for."""
    job, url, complete = await begun(world, peer)
    for percent in (10, 99):  # the second one would be written half a second later
        assert (await post(api, url, {"progress": percent, "log": f"{percent}"})).status_code == 204
    if how == "url":
        assert (await post(api, f"{complete}?status=failed", b"no")).status_code == 200
    peer.go.set()
    await world.until_state(job.id, "completed", "failed")
    known = (await world.get(job.id, output=True)).progress
    assert known is not None
    assert (known.percent, known.log) == (99, "10\n99")


async def test_a_token_is_good_for_its_own_purpose_and_job_alone(
    world: World, peer: Upstream, api: httpx.AsyncClient
) -> None:
    """Nothing is looked up to see that: what is not ours is unknown."""
    _, url, complete = await begun(world, peer)
    token = url.rpartition("/")[2]
    for other in (
        url[:-1] + ("A" if url[-1] != "A" else "B"),
        complete.replace("/complete/", "/progress/"),
        url.replace("/progress/", "/complete/"),
        f"/v1/jobs/job_{'0' * 32}/progress/{token}",
        f"/v1/jobs/nothing/progress/{token}",
        url.replace(token, token.replace(".1.", ".2.", 1)),
    ):
        assert (await post(api, other, {})).status_code == 404, other
    assert (await post(api, url)).status_code == 204  # a mere sign of life


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"progress": 101}, 422),
        ({"progress": -1}, 422),
        ({"metadata": []}, 422),
        ({"metadata": {"a": "x" * 17_000}}, 422),
        (b'{"metadata": {"a": 1, "a": 2}}', 422),
        (b'{"metadata": {"a": "\\ud800"}}', 400),
        ({"step": "a"}, 422),
        ({"currentStep": "x" * 1_001}, 422),
        (b"{", 400),
    ],
)
async def test_what_a_report_cannot_say(
    world: World, peer: Upstream, api: httpx.AsyncClient, body: Any, code: int
) -> None:
    _, url, _ = await begun(world, peer)
    assert (await post(api, url, body)).status_code == code


async def test_reports_are_written_together(
    world: World, peer: Upstream, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, twice a second at most; more than a job may send are refused."""
    job, url, _ = await begun(world, peer)
    writes: list[int] = []
    store = world.service.store.jobs
    report = store.report

    async def counted(reports: Any) -> Any:
        writes.append(len(reports))
        return await report(reports)

    monkeypatch.setattr(store, "report", counted)
    codes = [(await post(api, url, {"progress": n % 100})).status_code for n in range(120)]
    assert set(codes) <= {204, 429}
    await shown(world, job.id)
    await world.service.gateway.reports.flush()
    assert len(writes) <= 2 + codes.count(204) // 10
    assert (await world.get(job.id, output=True)).progress.n == codes.count(204)  # type: ignore[union-attr]


async def test_an_endpoint_may_have_no_links(world: World, peer: Upstream) -> None:
    """`progress = false`: its calls carry none."""
    await world.endpoint(peer.url, progress=False)
    await world.submit()
    await peer.reached(1)
    assert not {"x-job-progress-url", "x-job-complete-url"} & set(peer.calls[0][0])


async def test_the_estimate_goes_by_progress_once_that_tells(
    world: World, peer: Upstream, api: httpx.AsyncClient
) -> None:
    """From 5 % on; before that by what is expected of its endpoint. Never in the past."""
    job, url, _ = await begun(world, peer, expected_duration=5_000.0)
    path = f"/v1/jobs/job_{job.id}"
    before = (await api.get(path)).json()["estimatedCompletion"]
    assert (await post(api, url, {"progress": 99})).status_code == 204

    async def is_soon() -> bool:
        return bool((await api.get(path)).json()["estimatedCompletion"] < before)

    await world.until(is_soon)


# --- signs of life ---


async def test_a_call_without_a_sign_of_life_is_given_up(
    world: World, peer: Upstream, api: httpx.AsyncClient
) -> None:
    """By the rules of what is unknown: not repeated where that is not allowed. One that reports, if
    nothing at all, goes on."""
    job, url, _ = await begun(world, peer, heartbeat_timeout=1.0, retry_unknown=False)
    for _ in range(8):
        await asyncio.sleep(0.2)
        assert (await post(api, url)).status_code == 204
    assert (await world.get(job.id)).state == "running"
    ended = await world.until_state(job.id, "failed")
    assert ended.reason == "heartbeat"
    (attempt,) = await world.service.store.jobs.attempts(TENANT, job.id)
    assert attempt.outcome == "silent"
    await peer.until(lambda one: one.closed == 1)


async def test_a_sign_of_life_that_another_process_took_counts(
    postgres: str, peer: Upstream
) -> None:
    """Reports may come to any of them: who holds the call sees them in the database."""
    async with running(postgres, public_url="http://testserver") as world:
        job, url, _ = await begun(world, peer, heartbeat_timeout=4.0, retry_unknown=False)
        async with (
            running(postgres, public_url="http://testserver") as other,
            connect(other.service, ADMIN_KEY) as api,
        ):
            ends_s = time.monotonic() + 5.0
            while time.monotonic() < ends_s:
                assert (await post(api, url, {"progress": 5})).status_code == 204
                await asyncio.sleep(0.2)
            assert (await world.get(job.id)).state == "running"
            await shown(world, job.id)


# --- completion by URL ---


@pytest.fixture
async def by_url(peer: Upstream) -> Upstream:
    """An upstream that answers 202 at once."""
    peer.status, peer.body = 202, b""
    peer.go.set()
    return peer


async def let_go(world: World, id: str) -> None:
    """Until no process holds a job, which runs on."""
    await world.until_idle()
    assert (await world.get(id)).state == "running"


async def test_an_upstream_ends_its_job_by_url(
    world: World, by_url: Upstream, api: httpx.AsyncClient
) -> None:
    """After a 202 it runs on with no process holding it, and takes its place until it is ended;
    its output, callback and call are as of any other. To say it again is fine; to say something
    else is not."""
    async with sink() as customer:
        await world.endpoint(by_url.url, completion="url", concurrency=1)
        job = await world.submit(callback=told_at(customer))
        await by_url.reached(1)
        await let_go(world, job.id)
        waiting = await world.submit()
        assert (await world.get(waiting.id)).state == "queued"
        headers = by_url.calls[0][0]
        assert (await post(api, headers["x-job-progress-url"], {"progress": 5})).status_code == 204
        complete = headers["x-job-complete-url"]
        done = await post(api, complete, {"image": "a"})
        assert (done.status_code, done.json()) == (
            200, {"id": f"job_{job.id}", "status": "completed"},
        )  # fmt: skip
        view = await world.get(job.id, output=True)
        assert (view.state, view.calls, view.status_code) == ("completed", 1, 200)
        assert view.output is not None
        assert view.output.body == b'{"image": "a"}'
        ((_, body),) = await customer.received(1)
        assert json.loads(body)["output"] == {"image": "a"}
        (attempt,) = await world.service.store.jobs.attempts(TENANT, job.id)
        assert (attempt.outcome, attempt.status_code) == ("answered", 200)
        assert (await post(api, complete, {"image": "a"})).status_code == 200
        assert (await post(api, complete, {"image": "b"})).status_code == 409
        assert (await post(api, f"{complete}?status=failed", {"image": "a"})).status_code == 409
        await by_url.reached(2)  # the next one has the place now


async def test_an_answer_alone_may_say_so(
    world: World, by_url: Upstream, api: httpx.AsyncClient
) -> None:
    """`Postback-Complete: url` on a 202 does; a plain 202 ends a job, as every other 2xx."""
    await world.endpoint(by_url.url)
    plain = await world.submit()
    assert (await world.until_state(plain.id, "completed")).status_code == 202
    by_url.headers["Postback-Complete"] = "url"
    job = await world.submit()
    await by_url.reached(2)
    await let_go(world, job.id)
    url = by_url.calls[1][0]["x-job-complete-url"]
    failed = await post(api, f"{url}?status=failed", b'{"error":"no GPU"}')
    assert failed.json()["status"] == "failed"
    view = (await api.get(f"/v1/jobs/job_{job.id}")).json()
    assert (view["status"], view["reason"], view["error"]) == (
        "failed", "rejected", '{"error":"no GPU"}',
    )  # fmt: skip


async def test_a_job_may_be_ended_before_its_call_is_answered(
    world: World, peer: Upstream, api: httpx.AsyncClient
) -> None:
    """The first word counts: the call is closed, and its answer is late."""
    job, _, complete = await begun(world, peer)
    assert (await post(api, complete, b"[1]")).status_code == 200
    await peer.until(lambda one: one.open == 0)
    await world.until_idle()
    view = await world.get(job.id, output=True)
    assert view.state == "completed"
    assert view.output is not None
    assert view.output.body == b"[1]"
    assert not view.releasing


async def test_a_job_that_ends_by_url_goes_on_over_a_restart(
    database: str, by_url: Upstream
) -> None:
    """Nobody holds it, so nobody takes it over: its token is its lease."""
    async with running(database, public_url="http://testserver") as world:
        await world.endpoint(by_url.url, completion="url")
        job = await world.submit()
        await by_url.reached(1)
        await let_go(world, job.id)
    url = by_url.calls[0][0]["x-job-complete-url"]
    async with running(database, public_url="http://testserver") as world:
        await asyncio.sleep(0.3)  # some sweeps
        assert (await world.get(job.id)).state == "running"
        async with connect(world.service, ADMIN_KEY) as api:
            assert (await post(api, url, b"7")).status_code == 200
        assert (await world.get(job.id)).state == "completed"
    assert len(by_url.calls) == 1


async def test_its_links_are_good_for_as_long_as_it_runs(
    world: World, by_url: Upstream, api: httpx.AsyncClient
) -> None:
    """Whatever the clock says that made them, or that they are read by: its limit is its job's.
    Once that has ended otherwise, or to say anything new, they are refused."""
    await world.endpoint(by_url.url, completion="url", concurrency=2)
    ids = [(await world.submit()).id for _ in range(2)]
    await by_url.reached(2)
    links = world.service.gateway.links
    for id in ids:
        await world.until_idle()
        by_url.calls.sort(key=lambda call: call[0]["x-job-id"] != f"job_{id}")
        path = urlsplit(by_url.calls[0][0]["x-job-complete-url"]).path
        grant = links.read("complete", id, path.rpartition("/")[2])
        assert grant is not None
        one = await world.service.store.jobs.running(id, grant.claim, now_ms=now_ms())
        assert one is not None
        urls = links.of_call(one.job, now_ms() - 3_600_000)
        assert urls is not None
        progress, complete = urls
        if id == ids[0]:
            assert (await post(api, progress, {"progress": 5})).status_code == 204
            assert (await post(api, complete, b"1")).status_code == 200
            assert (await post(api, complete, b"1")).status_code == 200
        else:
            await world.service.gateway.engine.cancel(TENANT, id)
        assert (await post(api, progress, {"progress": 6})).status_code == 409
        assert (await post(api, complete, b"2")).status_code == 409
    assert (await world.get(ids[0])).state == "completed"


async def test_its_run_limit_ends_it(world: World, by_url: Upstream) -> None:
    """Bounded as any other call is, though no process holds it."""
    await world.endpoint(by_url.url, completion="url", timeout=0.5)
    job = await world.submit()
    ended = await world.until_state(job.id, "timeout")
    assert ended.reason == "run_limit"


async def test_without_a_sign_of_life_it_is_given_up_too(
    world: World, by_url: Upstream, api: httpx.AsyncClient
) -> None:
    await world.endpoint(by_url.url, completion="url", heartbeat_timeout=1.0, retry_unknown=False)
    job = await world.submit()
    await by_url.reached(1)
    url = by_url.calls[0][0]["x-job-progress-url"]
    for _ in range(8):
        await asyncio.sleep(0.2)
        assert (await post(api, url)).status_code == 204
    assert (await world.get(job.id)).state == "running"
    assert (await world.until_state(job.id, "failed")).reason == "heartbeat"


async def test_it_can_be_cancelled_and_run_again(
    world: World, by_url: Upstream, api: httpx.AsyncClient
) -> None:
    """Its place is free at once: there is no call to be closed. What its first call's URL says then
    is refused, also while it runs anew."""
    await world.endpoint(by_url.url, completion="url", concurrency=1)
    job = await world.submit()
    await by_url.reached(1)
    await let_go(world, job.id)
    changed = await world.service.gateway.engine.cancel(TENANT, job.id)
    assert changed.changed
    assert not (await world.get(job.id)).releasing
    old = by_url.calls[0][0]["x-job-complete-url"]
    assert (await post(api, old, b"1")).status_code == 409
    await world.service.gateway.engine.retry(TENANT, job.id)
    await by_url.reached(2)
    await world.until_idle()
    assert (await post(api, old, b"1")).status_code == 409
    new = by_url.calls[1][0]["x-job-complete-url"]
    assert (await post(api, new, b"2")).status_code == 200
    assert (await world.get(job.id)).run == 2


async def test_of_two_words_at_once_one_counts(
    world: World, by_url: Upstream, api: httpx.AsyncClient
) -> None:
    """However close they come: one is taken, and every other is told that it was not."""
    await world.endpoint(by_url.url, completion="url")
    job = await world.submit()
    await by_url.reached(1)
    await let_go(world, job.id)
    url = by_url.calls[0][0]["x-job-complete-url"]
    answers = await asyncio.gather(*(post(api, url, {"n": n}) for n in range(10)))
    codes = [one.status_code for one in answers]
    assert sorted(codes) == [200] + [409] * 9
    view = await world.get(job.id, output=True)
    assert view.output is not None
    assert json.loads(view.output.body) == {"n": codes.index(200)}


async def test_no_token_is_in_the_log(
    world: World, peer: Upstream, api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor in what is counted."""
    with caplog.at_level("DEBUG"):
        job, url, complete = await begun(world, peer)
        await post(api, url, {"progress": 1})
        await post(api, complete, b"1")
        await world.until_state(job.id, "completed")
        await world.until_idle()
    ours = [repr(vars(one)) for one in caplog.records if not one.name.startswith("http")]
    assert ours
    for token in (url.rpartition("/")[2], complete.rpartition("/")[2]):
        assert not [line for line in ours if token in line]
        assert token not in world.service.metrics.render().decode()


async def test_the_key_of_links_is_rotated_and_the_one_before_it_is_good(
    world: World, peer: Upstream, api: httpx.AsyncClient
) -> None:
    """By itself, once it is old: a call that is open then goes on to report by its URL."""
    job, url, _ = await begun(world, peer)
    links = world.service.gateway.links
    before = links._keys
    assert links._newest is not None
    links._newest = replace(links._newest, created_ms=0)
    await links.step()
    assert links._keys[0] != before[0]
    assert links._keys[1] == before[0]
    assert (await post(api, url, {"progress": 5})).status_code == 204
    await shown(world, job.id)
