"""Outputs of any size, over the API: kept as they come, told by links that need no key, fetched in
parts, gone after their time; on each kind of database, in each place."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from aiohttp import web

from dispatcher.dialects import tensorone
from dispatcher.jobs.output_links import OutputLink
from receiver.base.clock import now_ms
from receiver.signature import verify
from tests.dispatcher.dialects.stage import Platform, platform
from tests.dispatcher.gateway.rig import PATIENCE_S, TENANT, served

MIB = 1024 * 1024
DAY_MS = 86_400_000
PNG = {"Content-Type": "image/png"}


@pytest.fixture(params=["file", "database"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where they are kept."""
    return "database" if request.param == "database" else f"file:{tmp_path}/outputs"


@asynccontextmanager
async def stage(database: str, place: str, **settings: Any) -> AsyncIterator[Platform]:
    async with platform(database, outputs=place, **settings) as made:
        await made.world.endpoint(made.model.url)
        yield made


async def run(made: Platform, *, hook: bool = False, **headers: str) -> str:
    if hook:
        headers["Postback-Callback-Url"] = made.hook.url
    taken = await made.api.post("/v1/endpoints/ep/jobs", content=b"{}", headers=headers)
    assert taken.status_code == 202, taken.text
    return str(taken.json()["id"])


def path_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


async def kept(made: Platform) -> int:
    """How many things are kept, or about to be, or to be deleted."""
    store = made.world.service.store
    found: int = await store._read(lambda tx: (tx.one("SELECT count(*) FROM blobs") or (0,))[0])
    return found


async def swept(made: Platform) -> None:
    while await made.world.service.gateway.blobs.sweep():
        pass


def files(place: str) -> list[Path]:
    """All that are kept there."""
    folder = Path(place.removeprefix("file:"))
    return [one for one in folder.rglob("*") if one.is_file()]


async def test_a_long_output_is_told_by_a_link_that_anybody_may_follow(
    database: str, place: str
) -> None:
    """T34, T55: in the callback and in the view, with size, type, digest and when it ends; the
    whole, ranges of it, and whether it is still the same."""
    body = os.urandom(3 * MIB + 17)
    async with stage(database, place) as made, httpx.AsyncClient(base_url=made.url) as anybody:
        made.model.body, made.model.headers = body, PNG
        id = await run(made, hook=True)
        ((_, told),) = await made.hook.received(1)
        reference = json.loads(told)["output"]
        digest = sha256(body).hexdigest()
        assert (reference["size"], reference["contentType"]) == (len(body), "image/png")
        assert reference["sha256"] == digest
        view = await made.ended(id)
        assert view["outputRef"]["sha256"] == digest
        assert view["outputRef"]["expiresAt"] == reference["expiresAt"]
        link = path_of(reference["url"])
        assert link == path_of(view["outputRef"]["url"])
        whole = await anybody.get(link)
        assert (whole.status_code, whole.content) == (200, body)
        assert whole.headers["content-type"] == "image/png"
        assert whole.headers["content-disposition"] == "attachment"
        assert whole.headers["etag"] == f'"{digest}"'
        by_key = await made.api.get(f"/v1/jobs/{id}/output")
        assert by_key.content == body
        await _parts(anybody, link, body)
        await _refused(anybody, link)


async def _parts(anybody: httpx.AsyncClient, link: str, body: bytes) -> None:
    etag = f'"{sha256(body).hexdigest()}"'
    for header, start, end in (
        ("bytes=0-0", 0, 1),
        (f"bytes={MIB - 5}-{MIB + 4}", MIB - 5, MIB + 5),
        ("bytes=-10", len(body) - 10, len(body)),
        (f"bytes={2 * MIB}-", 2 * MIB, len(body)),
    ):
        part = await anybody.get(link, headers={"Range": header, "If-Range": etag})
        assert (part.status_code, part.content) == (206, body[start:end])
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(body)}"
    other = await anybody.get(link, headers={"Range": "bytes=0-0", "If-Range": '"other"'})
    assert (other.status_code, len(other.content)) == (200, len(body))
    beyond = await anybody.get(link, headers={"Range": f"bytes={len(body)}-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{len(body)}"
    same = await anybody.get(link, headers={"If-None-Match": etag})
    assert (same.status_code, same.content) == (304, b"")
    head = await anybody.head(link)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(body))


async def _refused(anybody: httpx.AsyncClient, link: str) -> None:
    changed = link[:-1] + ("A" if link[-1] != "A" else "B")
    assert (await anybody.get(changed)).status_code == 404
    assert (await anybody.get(link.partition("?")[0])).status_code == 404


async def test_what_is_not_so_long_stands_where_it_is_told(database: str, place: str) -> None:
    """Up to DISPATCHER_CALLBACK_INLINE in the callback, up to 1 MiB in a view, as its upstream
    wrote it, though it is kept outside of its row."""
    async with stage(database, place) as made:
        made.model.body = b'{"a": 1.10, "pad": "%b"}' % (b"x" * 200_000)
        id = await run(made, hook=True)
        ((_, told),) = await made.hook.received(1)
        assert made.model.body in told
        shown = await made.api.get(f"/v1/jobs/{id}", params={"wait": "30"})
        assert made.model.body in shown.content
        made.model.body = b'{"a": 1.10, "pad": "%b"}' % (b"x" * 600_000)
        id = await run(made, hook=True)
        _, (_, told) = await made.hook.received(2)
        assert json.loads(told)["output"]["size"] == len(made.model.body)
        shown = await made.api.get(f"/v1/jobs/{id}", params={"wait": "30"})
        assert made.model.body in shown.content
        assert await kept(made) == 2
        made.model.body = b"[%b]" % b",".join([b"1"] * 30_000)
        await made.ended(await run(made))
        assert await kept(made) == 2  # up to 64 KiB it is in its row


async def test_a_long_error_is_told_by_its_beginning(database: str, place: str) -> None:
    """And can be fetched whole."""
    async with stage(database, place) as made:
        made.model.status, made.model.headers = 500, {"Content-Type": "text/plain"}
        made.model.body = b"boom " * 100_000
        id = await run(made, hook=True)
        ((_, told),) = await made.hook.received(1)
        assert json.loads(told)["error"].startswith("boom boom")
        view = await made.ended(id)
        assert view["error"].startswith("boom boom")
        assert len(view["error"]) <= 64 * 1024
        assert (await made.api.get(f"/v1/jobs/{id}/output")).content == made.model.body


async def test_who_waits_gets_the_whole(database: str, place: str) -> None:
    """With `Prefer: wait`, and by Cerebrium's call without `async`: however long."""
    body = os.urandom(2 * MIB + 3)
    async with stage(database, place) as made:
        made.model.body, made.model.headers = body, PNG
        answer = await made.api.post(
            "/v1/endpoints/ep/jobs", content=b"{}", headers={"Prefer": "wait=30"}
        )
        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["content-type"] == "image/png"
        answer = await made.api.post("/v4/p-1/ep/run", content=b"{}")
        assert (answer.status_code, answer.content) == (200, body)


async def test_other_words_for_the_same(database: str, place: str) -> None:
    """RunPod's and TensorOne's callbacks and statuses refer to it alike; Cerebrium's callback is
    it, or says where it is."""
    body = os.urandom(1_500_000)
    async with stage(database, place) as made:
        made.model.body, made.model.headers = body, PNG
        ran = await made.api.post(
            "/v2/ep/run", json={"input": {}, "webhook": made.hook.url}, headers={}
        )
        ((_, told),) = await made.hook.received(1)
        status = await made.api.get(f"/v2/ep/status/{ran.json()['id']}")
        assert json.loads(told)["output"] == status.json()["output"]
        assert status.json()["output"]["size"] == len(body)
        taken = await made.api.post(
            f"/v4/p-1/ep/run?async=true&webhookEndpoint={made.hook.url}", content=b"{}"
        )
        assert taken.status_code == 202
        _, (headers, told) = await made.hook.received(2)
        assert headers["x-postback-output"] == "reference"
        assert json.loads(told)["sha256"] == sha256(body).hexdigest()


async def test_what_comes_in_chunks_is_kept_as_it_comes(database: str, place: str) -> None:
    """Joined, its bytes are those of the array; each chunk is handed out once, and may be looked at
    again, though nobody holds them all."""
    values = [{"n": n, "pad": "y" * 10_000} for n in range(400)]

    async def take(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        for value in values:
            await response.write(json.dumps(value).encode() + b"\n")
        await response.write_eof()
        return response

    async with platform(database, outputs=place) as made, served(take) as url:
        await made.world.endpoint(url)
        ran = await made.api.post("/v2/ep/run", json={"input": {}})
        id = ran.json()["id"]
        found: list[Any] = []
        state = ""
        while state != "COMPLETED":
            shown = (await made.api.get(f"/v2/ep/stream/{id}")).json()
            state, found = shown["status"], found + [one["output"] for one in shown["stream"]]
        assert found == values
        output = await made.api.get(f"/v1/jobs/{id}/output")
        assert output.json() == values
        view = await made.ended(id)
        assert view["outputRef"]["size"] == len(output.content)
        assert view["outputRef"]["contentType"] == "application/json"
        await made.world.until_idle()
        assert await kept(made) == 1


# --- when it ends ---


async def test_after_seven_days_it_is_gone(database: str, place: str) -> None:
    """T56: the output, its bytes and what it counted; links are 410, by their time and without
    it."""
    async with stage(database, place) as made, httpx.AsyncClient(base_url=made.url) as anybody:
        made.model.body, made.model.headers = os.urandom(MIB), PNG
        id = await run(made)
        view = await made.ended(id)
        service = made.world.service
        assert service.store.output_bytes(TENANT) == MIB
        link = path_of(view["outputRef"]["url"])
        assert (await anybody.get(link)).status_code == 200
        ended_ms = (await made.world.get(id.removeprefix("job_"))).ended_ms
        assert ended_ms is not None
        assert int(link.partition("expires=")[2].partition("&")[0]) == (
            (ended_ms + 7 * DAY_MS) // 1000
        )
        while await service.store.jobs.prune(now_ms=now_ms() + 7 * DAY_MS + 1, limit=10):
            pass
        assert service.store.output_bytes(TENANT) == 0
        await swept(made)
        assert await kept(made) == 0
        assert (await anybody.get(link)).status_code == 410
        assert (await made.api.get(f"/v1/jobs/{id}/output")).status_code == 410
        parts: int = await service.store._read(
            lambda tx: (tx.one("SELECT count(*) FROM blob_parts") or (1,))[0]
        )
        assert parts == 0
        if place.startswith("file:"):
            assert files(place) == []
        late = service.gateway.links.of_output(id.removeprefix("job_"), 1, now_ms() - 1_000)
        assert late is not None
        expired = await anybody.get(late)
        assert expired.status_code == 410
        assert "expired" in expired.json()["message"]


async def test_a_link_shows_what_its_run_brought(database: str, place: str) -> None:
    """And nothing that another one did."""
    async with stage(database, place) as made, httpx.AsyncClient(base_url=made.url) as anybody:
        made.model.body, made.model.headers = b"1" * 100_000, PNG
        id = await run(made)
        first = path_of((await made.ended(id))["outputRef"]["url"])
        made.model.body = b"2" * 100_000
        await made.api.post(f"/v1/jobs/{id}/retry", json={"force": True})
        second = path_of((await made.ended(id))["outputRef"]["url"])
        assert (await anybody.get(first)).status_code == 410
        assert (await anybody.get(second)).content == made.model.body
        await made.world.until_idle()
        await swept(made)
        assert await kept(made) == 1


async def test_keep_is_the_endpoints(database: str, place: str) -> None:
    """What it keeps for less than a week is promised for no longer."""
    from dispatcher.jobs.endpoint import Keep

    async with platform(database, outputs=place) as made:
        await made.world.endpoint(made.model.url, keep=Keep(output=3600.0))
        made.model.body, made.model.headers = os.urandom(100_000), PNG
        id = await run(made)
        link = path_of((await made.ended(id))["outputRef"]["url"])
        ended_ms = (await made.world.get(id.removeprefix("job_"))).ended_ms
        assert ended_ms is not None
        expires = int(link.partition("expires=")[2].partition("&")[0])
        assert expires == (ended_ms + 3_600_000) // 1000
        assert OutputLink(id.removeprefix("job_"), 1, expires).id in link


# --- what there is no room for ---


async def test_more_than_its_endpoint_takes_is_told(database: str, place: str) -> None:
    """`output_too_large`; nothing of it stays."""
    async with platform(database, outputs=place) as made:
        await made.world.endpoint(made.model.url, output_max=200_000)
        made.model.body = b"x" * 200_001
        id = await run(made, hook=True)
        ((_, told),) = await made.hook.received(1)
        assert json.loads(told)["status"] == "failed"
        assert (await made.ended(id))["reason"] == "output_too_large"
        await made.world.until_idle()
        await swept(made)
        assert await kept(made) == 0


async def test_more_than_the_database_takes_is_told(database: str, tmp_path: Path) -> None:
    """Whatever its endpoint allows, where that is where outputs are kept."""
    async with stage(database, "database", outputs_database_max=2 * MIB) as made:
        made.model.body, made.model.headers = bytes(2 * MIB + 1), PNG
        view = await made.ended(await run(made))
        assert (view["status"], view["reason"]) == ("failed", "output_too_large")
        assert str(2 * MIB) in view["error"]
        made.model.body = bytes(2 * MIB)
        assert (await made.ended(await run(made)))["status"] == "completed"


async def test_what_the_tenant_has_no_room_for_is_told(database: str, place: str) -> None:
    """`storage`: reading stops, the callback says so, and what had come goes."""
    async with stage(database, place, tenant_outputs_bytes_max=3 * MIB) as made:
        made.model.body, made.model.headers = bytes(2 * MIB), PNG
        assert (await made.ended(await run(made)))["status"] == "completed"
        id = await run(made, hook=True)
        ((_, told),) = await made.hook.received(1)
        assert "no room" in json.loads(told)["error"]
        view = await made.ended(id)
        assert (view["status"], view["reason"]) == ("failed", "storage")
        (call,) = (await made.api.get(f"/v1/jobs/{id}/attempts")).json()["data"]
        assert call["outcome"] == "no_room"
        await made.world.until_idle()
        await swept(made)
        assert await kept(made) == 1
        made.model.body = bytes(MIB)
        assert (await made.ended(await run(made)))["status"] == "completed"


async def test_a_submit_whose_output_will_not_fit_is_refused(database: str) -> None:
    """T42: 507 with what is likely to come, by what came, and what is left, as people read it and
    in bytes, and where there is more to be had."""
    upgrade = "https://example.com/more"
    async with platform(database, tenant_outputs_bytes_max=2_500_000, upgrade_url=upgrade) as made:
        await made.world.endpoint(made.model.url, output_max=1_000_000)
        made.model.body, made.model.headers = bytes(90_000), PNG
        for _ in range(20):
            await made.ended(await run(made))
        made.world.service.job_intake._output_sizes.clear()
        service = made.world.service
        while service.quotas.output_bytes_left(TENANT) >= 90_000:
            await made.ended(await run(made))
        left = service.quotas.output_bytes_left(TENANT)
        refused = await made.api.post("/v2/endpoints/ep/runasync", json={"input": {}})
        assert refused.status_code == 507, refused.text
        assert refused.json()["error"] == "STORAGE_LIMIT_EXCEEDED"
        details = refused.json()["details"]
        assert details["estimatedSize"] == "90KB"
        assert details["remainingQuota"] == tensorone.size(left)
        assert (details["estimatedBytes"], details["remainingBytes"]) == (90_000, left)
        assert details["upgradeUrl"] == upgrade
        plain = await made.api.post("/v1/endpoints/ep/jobs", content=b"{}")
        assert plain.status_code == 507
        assert plain.json()["details"]["estimatedSize"] == 90_000
        # Other tenants' room is their own.
        await made.api.patch(f"/v1/tenants/{TENANT}", json={"outputsBytesMax": 10_000_000})
        again = await made.api.post("/v1/endpoints/ep/jobs", content=b"{}")
        assert again.status_code == 202
        shown = (await made.api.get(f"/v1/tenants/{TENANT}")).json()
        assert shown["outputsBytesMax"] == 10_000_000
        assert shown["outputBytes"] == service.store.output_bytes(TENANT)


async def test_what_is_written_counts_before_anything_was_measured(database: str) -> None:
    """`expectedOutput`; without it nothing is refused in advance."""
    async with platform(database, tenant_outputs_bytes_max=1_000_000) as made:
        await made.world.endpoint(made.model.url, "plain", output_max=2_000_000)
        await made.world.endpoint(
            made.model.url, "told", output_max=2_000_000, expected_output=1_500_000
        )
        assert (await made.api.post("/v1/endpoints/plain/jobs", content=b"{}")).status_code == 202
        refused = await made.api.post("/v1/endpoints/told/jobs", content=b"{}")
        assert refused.status_code == 507
        assert refused.json()["details"]["estimatedSize"] == 1_500_000


async def test_what_is_cancelled_leaves_nothing(database: str, place: str) -> None:
    """The call is closed while its answer comes; what had come of it is deleted."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def take(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers=PNG)
        await response.prepare(request)
        await response.write(bytes(2 * MIB))
        begun.set()
        await go.wait()
        return response

    async with platform(database, outputs=place) as made, served(take) as url:
        await made.world.endpoint(url)
        id = await run(made)
        async with asyncio.timeout(PATIENCE_S):
            await begun.wait()

            async def is_there() -> bool:
                return await kept(made) == 1

            await made.world.until(is_there)
        cancelled = await made.api.post(f"/v1/jobs/{id}/cancel")
        assert cancelled.json()["status"] == "cancelled"
        await made.world.until_idle()
        await swept(made)
        assert await kept(made) == 0
        go.set()


async def test_an_answer_that_breaks_off_leaves_nothing(database: str, place: str) -> None:
    """Where it is repeated; the next one counts."""
    calls = 0

    async def take(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        await request.read()
        calls += 1
        response = web.StreamResponse(headers={**PNG, "Content-Length": str(2 * MIB)})
        await response.prepare(request)
        await response.write(bytes(2 * MIB if calls > 1 else MIB + 5))
        if calls == 1:
            assert request.transport is not None
            request.transport.abort()
        return response

    async with platform(database, outputs=place) as made, served(take) as url:
        await made.world.endpoint(url, retry={"base": 0.05, "factor": 1.0, "cap": 0.05})
        id = await run(made)
        view = await made.ended(id)
        assert (view["status"], view["attempts"]) == ("completed", 2)
        assert (await made.api.get(f"/v1/jobs/{id}/output")).content == bytes(2 * MIB)
        await made.world.until_idle()
        await swept(made)
        assert await kept(made) == 1


async def test_a_long_completion_by_url_is_kept_alike(database: str, place: str) -> None:
    """And said again it is the same."""
    urls: list[str] = []

    async def take(request: web.Request) -> web.StreamResponse:
        await request.read()
        urls.append(urlsplit(request.headers["X-Job-Complete-Url"]).path)
        return web.Response(status=202, headers={"Postback-Complete": "url"})

    async with platform(database, outputs=place) as made, served(take) as url:
        await made.world.endpoint(url)
        id = await run(made)

        async def is_let_go() -> bool:
            return bool(urls) and not made.world.service.gateway.engine.running

        await made.world.until(is_let_go)
        body = os.urandom(300_000)
        for _ in range(2):
            said = await made.api.post(urls[0], content=body, headers=PNG)
            assert said.status_code == 200, said.text
        assert (await made.api.get(f"/v1/jobs/{id}/output")).content == body
        await swept(made)
        assert await kept(made) == 1


async def test_a_tenant_is_erased_with_its_outputs(database: str, place: str) -> None:
    """No byte of it stays."""
    async with stage(database, place) as made:
        made.model.body, made.model.headers = os.urandom(MIB), PNG
        async with await made.tenant("acme") as api:
            taken = await api.post("/v1/endpoints/ep/jobs", content=b"{}")
            id = taken.json()["id"]
            shown = await api.get(f"/v1/jobs/{id}", params={"wait": "30"})
            assert shown.json()["status"] == "completed"
        assert await kept(made) == 1
        erased = await made.api.delete("/v1/tenants/acme")
        assert erased.status_code == 202

        async def is_gone() -> bool:
            await swept(made)
            return await kept(made) == 0

        await made.world.until(is_gone)


# --- inputs ---


async def test_a_long_input_goes_from_its_sender_to_its_upstream(database: str, place: str) -> None:
    """Byte for byte and signed as any other, with its length or without; fetched in parts, run
    again, and attached to by its key."""
    body = os.urandom(5 * MIB + 3)

    async def slowly() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 300_000):
            yield body[at : at + 300_000]
            await asyncio.sleep(0)

    async with platform(database, outputs=place) as made:
        await made.world.endpoint(made.model.url, input_max=8 * MIB)
        jobs = made.world.service.store.jobs
        secret = (await jobs.endpoint_secrets("ep")) or []
        headers = {"Idempotency-Key": "one", "Content-Type": "video/mp4"}
        taken = await made.api.post("/v1/endpoints/ep/jobs", content=slowly(), headers=headers)
        assert taken.status_code == 202, taken.text
        id = taken.json()["id"]
        assert (await made.ended(id))["status"] == "completed"
        ((seen, got),) = made.model.calls
        assert got == body
        assert (seen["content-type"], seen["content-length"]) == ("video/mp4", str(len(body)))
        if not secret:
            secret = await jobs.endpoint_secrets("ep")
        verify(body, seen, secret[0].value, now_s=now_ms() / 1000)
        again = await made.api.post("/v1/endpoints/ep/jobs", content=body, headers=headers)
        assert (again.status_code, again.json()["id"]) == (202, id)
        assert again.json()["duplicate"]
        part = await made.api.get(f"/v1/jobs/{id}/input", headers={"Range": f"bytes={MIB}-"})
        assert (part.status_code, part.content) == (206, body[MIB:])
        await made.api.post(f"/v1/jobs/{id}/retry", json={"force": True})
        assert (await made.ended(id))["run"] == 2
        assert made.model.calls[1][1] == body
        await swept(made)
        assert await kept(made) == 1
        large = await made.api.post("/v1/endpoints/ep/jobs", content=bytes(8 * MIB + 1))
        assert large.status_code == 413
        await swept(made)
        assert await kept(made) == 1


async def test_a_long_input_of_a_platform_is_cut_out_as_any(database: str, place: str) -> None:
    """RunPod's `input` alone goes where an endpoint wants that, up to its 10 MiB; a schema is
    looked at."""
    text = "z" * (2 * MIB)
    async with platform(database, outputs=place) as made:
        await made.world.endpoint(made.model.url, body="input")
        ran = await made.api.post("/v2/ep/run", json={"input": {"text": text}})
        assert ran.status_code == 200, ran.text
        await made.ended(ran.json()["id"])
        assert json.loads(made.model.calls[0][1]) == {"text": text}
        assert await kept(made) == 1


async def test_a_body_that_stops_is_given_up(database: str, place: str) -> None:
    """408, and what had come of it goes; who sends slowly and goes on is heard out."""
    async with platform(database, outputs=place, request_timeout=1.0) as made:
        await made.world.endpoint(made.model.url)
        # By hand: a client that is to send more hears of no answer before it has.
        where = urlsplit(made.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        head = (
            f"POST /v1/endpoints/ep/jobs HTTP/1.1\r\nHost: {where.netloc}\r\n"
            f"Authorization: {made.api.headers['Authorization']}\r\n"
            f"Transfer-Encoding: chunked\r\n\r\n{2 * MIB:x}\r\n"
        )
        writer.write(head.encode() + bytes(2 * MIB) + b"\r\n")
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.readline()
        writer.close()
        assert answer.split()[1] == b"408"

        async def is_gone() -> bool:
            await swept(made)
            return await kept(made) == 0

        await made.world.until(is_gone)
