"""Answers that come in chunks, over the API: handed out as they come, each once, in order, and
joined at the end; with real upstreams, on each kind of database."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from aiohttp import web

from dispatcher.api.dialects import runpod
from dispatcher.jobs.endpoint import CallbackDefaults
from tests.dispatcher.dialects.stage import Platform, client, platform
from tests.dispatcher.gateway.rig import ADMIN_KEY, PATIENCE_S, TENANT, running, served
from tests.receiver.serving import served as serving

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"


@dataclass(slots=True)
class Model:
    """A model server that answers bit by bit, as it is told to: bytes, then None for the end, or
    an exception to break off."""

    url: str = ""
    content_type: str = EVENTS
    status: int = 200
    says: asyncio.Queue[bytes | Exception | None] = field(default_factory=asyncio.Queue)
    calls: int = 0
    urls: list[str] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.calls += 1
        self.urls.append(urlsplit(request.headers["X-Job-Progress-Url"]).path)
        response = web.StreamResponse(
            status=self.status, headers={"Content-Type": self.content_type}
        )
        await response.prepare(request)
        try:
            while (part := await self.says.get()) is not None:
                if isinstance(part, Exception):
                    transport = request.transport
                    assert transport is not None
                    transport.abort()
                    raise part
                await response.write(part)
        except (asyncio.CancelledError, ConnectionError):  # whichever is noticed first
            self.closed.set()
            raise
        await response.write_eof()
        return response

    def say(self, *values: Any) -> None:
        """Send each as an event, or as a line."""
        for one in values:
            text = one if isinstance(one, str) else json.dumps(one)
            end = "data: {}\n\n" if self.content_type == EVENTS else "{}\n"
            self.says.put_nowait(end.format(text).encode())

    async def said(self) -> None:
        """Until all of it is on its way."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.says.empty():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def end(self) -> None:
        """End the answer."""
        self.says.put_nowait(None)


@dataclass(slots=True)
class Stage:
    """A gateway before such a model, at endpoint `ep`."""

    platform: Platform
    model: Model

    @property
    def api(self) -> httpx.AsyncClient:
        return self.platform.api

    async def run(self, **more: Any) -> str:
        taken = await self.api.post("/v2/ep/run", json={"input": {}, **more})
        assert taken.status_code == 200, taken.text
        return str(taken.json()["id"])

    async def stream(self, id: str) -> tuple[str, list[Any]]:
        shown = (await self.api.get(f"/v2/ep/stream/{id}")).json()
        return shown["status"], [one["output"] for one in shown["stream"]]

    async def all(self, id: str) -> tuple[str, list[Any]]:
        """The state that a stream ends in, and all that it handed out."""
        found: list[Any] = []
        while True:
            state, values = await self.stream(id)
            found += values
            if state not in ("IN_QUEUE", "IN_PROGRESS"):
                return state, found

    async def events(
        self, id: str, last: str | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        headers = {} if last is None else {"Last-Event-ID": last}
        async for event in self.told(f"/v1/jobs/{id}/events", headers):
            yield event

    async def told(
        self, path: str, headers: dict[str, str]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a stream of ours."""
        async with self.api.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            event: dict[str, Any] = {}
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if not line and "data" in event:
                    yield event
                    event = {}
                elif name == "data":
                    event["data"] = json.loads(value)
                elif name in ("event", "id"):
                    event[name] = value

    async def followed(self, id: str, last: str | None = None) -> list[dict[str, Any]]:
        return [one async for one in self.events(id, last)]


@asynccontextmanager
async def stage(
    database: str, content_type: str = EVENTS, *, waiters_max: int | None = None, **rules: Any
) -> AsyncIterator[Stage]:
    model = Model(content_type=content_type)
    settings = {} if waiters_max is None else {"waiters_max": waiters_max}
    async with served(model.take) as url, platform(database, **settings) as made:
        model.url = f"{url}/run"
        await made.world.endpoint(model.url, "ep", **rules)
        yield Stage(made, model)
        for _ in range(10):
            model.end()


@pytest.fixture(autouse=True)
def _held_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream is held until what the test has said comes, however long that takes."""
    monkeypatch.setattr(runpod, "STREAM_S", 20.0)


def outputs(events: list[dict[str, Any]]) -> list[Any]:
    return [one["data"]["output"] for one in events if one["event"] == "output"]


@pytest.mark.parametrize("kind", [EVENTS, LINES])
async def test_chunks_are_handed_out_as_they_come(database: str, kind: str) -> None:
    """Each once; what comes last comes with the final state, and the whole is their array."""
    async with stage(database, kind) as on:
        id = await on.run()
        on.model.say({"token": "a"})
        assert await on.stream(id) == ("IN_PROGRESS", [{"token": "a"}])
        on.model.say("plain text", 3)
        found: list[Any] = []
        while len(found) < 2:
            state, values = await on.stream(id)
            assert state == "IN_PROGRESS"
            found += values
        assert found == ["plain text", 3]
        on.model.say([4])
        on.model.end()
        assert await on.all(id) == ("COMPLETED", [[4]])
        assert await on.stream(id) == ("COMPLETED", [])
        shown = (await on.api.get(f"/v2/ep/status/{id}")).json()
        assert shown["output"] == [{"token": "a"}, "plain text", 3, [4]]
        output = await on.api.get(f"/v1/jobs/{id}/output")
        assert output.headers["content-type"] == "application/json"


async def test_who_follows_is_told_all_in_order_and_resumes(database: str) -> None:
    """States, chunks and the end; from any event on, no chunk twice and none left out."""
    async with stage(database) as on:
        id = await on.run()
        seen: list[dict[str, Any]] = []
        async for event in on.events(id):
            seen.append(event)
            if event["event"] == "status" and event["data"]["status"] == "running":
                on.model.say(1, 2)
            elif event["event"] == "output" and event["data"]["output"] == 2:
                on.model.say(3)
                on.model.end()
        assert [one["event"] for one in seen if one["event"] != "status"] == ["output"] * 3 + [
            "end"
        ]
        assert outputs(seen) == [1, 2, 3]
        assert [one["data"]["index"] for one in seen if one["event"] == "output"] == [0, 1, 2]
        assert seen[-1]["data"]["output"] == [1, 2, 3]
        for at, event in enumerate(seen[:-1]):
            rest = await on.followed(id, event["id"])
            assert outputs(rest) == outputs(seen[at + 1 :])
            assert rest[-1] == seen[-1]
        headers = {"Last-Event-ID": seen[-1]["id"]}
        again = await on.api.get(f"/v1/jobs/{id}/events", headers=headers)
        assert (again.status_code, again.content) == (204, b"")
        refused = await on.api.get(f"/v1/jobs/{id}/events", headers={"Last-Event-ID": "nonsense"})
        assert refused.status_code == 422


async def test_a_repeat_of_the_call_begins_anew(database: str) -> None:
    """Index 0 says so; nothing of the call before is in the output."""
    async with stage(database, attempts=2, retry={"base": 0.1}) as on:
        id = await on.run()
        on.model.say("a", "b")
        seen: list[Any] = []
        async for event in on.events(id):
            if event["event"] != "output":
                continue
            seen.append((event["data"]["index"], event["data"]["output"]))
            if event["data"]["output"] == "b":
                on.model.says.put_nowait(ConnectionResetError())
                on.model.say("c")
                on.model.end()
        assert seen == [(0, "a"), (1, "b"), (0, "c")]
        assert await on.all(id) == ("COMPLETED", ["c"])
        assert on.model.calls == 2


async def test_what_is_cancelled_keeps_what_came(database: str) -> None:
    """No chunk comes after the end; those before it are handed out with it."""
    async with stage(database) as on:
        id = await on.run()
        on.model.say("a")
        async for event in on.events(id):
            if event["event"] == "output":
                await on.api.post(f"/v2/ep/cancel/{id}")
                on.model.say("late")
        assert event["event"] == "end"
        assert event["data"]["status"] == "cancelled"
        await on.model.closed.wait()
        assert await on.all(id) == ("CANCELLED", ["a"])


async def test_what_runs_out_of_time_keeps_what_came(database: str) -> None:
    """To the last chunk before it."""
    async with stage(database, timeout=3.0) as on:
        id = await on.run()
        on.model.say("a", "b")
        assert await on.all(id) == ("TIMED_OUT", ["a", "b"])


@pytest.mark.parametrize(
    ("count", "reason"), [(10_001, "there are more than 10000 chunks"), (0, "output_max")]
)
async def test_what_is_too_much_fails(database: str, count: int, reason: str) -> None:
    """More chunks, or more bytes, than there may be."""
    async with stage(database, output_max=200_000) as on:
        id = await on.run()
        if count:
            on.model.says.put_nowait(b"data: 1\n\n" * count)
        else:
            on.model.says.put_nowait(b"data: %b\n\n" % (b"x" * 100_000) * 2)
        shown = await on.platform.ended(id)
        assert (shown["status"], shown["reason"]) == ("failed", "output_too_large")
        assert reason in shown["error"]


async def test_comments_take_no_room(database: str) -> None:
    """However many say that a connection lives."""
    async with stage(database, output_max=1_000) as on:
        id = await on.run()
        for _ in range(100):
            on.model.says.put_nowait(b": keep-alive\n\n" * 10)
        on.model.say("a")
        on.model.end()
        assert await on.all(id) == ("COMPLETED", ["a"])


async def test_an_error_is_no_stream(database: str) -> None:
    """A code that is no 2xx: its body is the error, as it is."""
    async with stage(database) as on:
        on.model.status = 422
        id = await on.run()
        on.model.say("no")
        on.model.end()
        shown = await on.platform.ended(id)
        assert (shown["status"], shown["error"]) == ("failed", "data: no\n\n")


async def test_progress_is_no_chunk(database: str) -> None:
    """An event `progress` says how far the job is: to who asks, and to who follows it."""
    async with stage(database) as on:
        id = await on.run()
        on.model.says.put_nowait(
            b'event: progress\ndata: {"progress": 50, "currentStep": "step"}\n\n'
        )
        on.model.say("a", "b")
        seen: list[dict[str, Any]] = []
        async for event in on.events(id):
            if event["event"] == "progress":
                seen.append(event["data"])
                assert (await on.api.get(f"/v1/jobs/{id}")).json()["progress"] == 50
                on.model.end()
        assert seen == [{"progress": 50, "currentStep": "step"}]
        assert (await on.platform.ended(id))["output"] == ["a", "b"]


async def test_pieces_that_are_reported_are_chunks_too(database: str) -> None:
    """By the call's own URL: each in the order in which they come, handed out once; and the answer
    is the output."""
    async with stage(database) as on:
        on.model.content_type = "application/json"
        id = await on.run()
        await on.platform.world.until(lambda: _true_later(on.model.urls))
        for one in ("a", {"b": 2}):
            told = await on.api.post(on.model.urls[0], json={"output": one, "progress": 10})
            assert told.status_code == 204, told.text
        assert await on.stream(id) == ("IN_PROGRESS", ["a", {"b": 2}])
        assert (await on.api.post(on.model.urls[0], json={"output": 3})).status_code == 204
        on.model.says.put_nowait(b'{"all": 3}')
        on.model.end()
        assert await on.all(id) == ("COMPLETED", [3])
        shown = await on.platform.ended(id)
        assert shown["output"] == {"all": 3}
        assert outputs(await on.followed(id)) == ["a", {"b": 2}, 3]
        late = await on.api.post(on.model.urls[0], json={"output": 4})
        assert late.status_code == 409
        assert outputs(await on.followed(id)) == ["a", {"b": 2}, 3]


async def test_chunks_are_told_where_that_is_asked_for(database: str) -> None:
    """The newest at most twice a second, and nothing after the end."""
    events = CallbackDefaults(events=("output", "end"))
    async with stage(database, callback=events) as on:
        hook = on.platform.hook
        taken = await on.api.post(
            "/v1/endpoints/ep/jobs", json={}, headers={"Postback-Callback-Url": hook.url}
        )
        assert taken.status_code == 202, taken.text
        on.model.say("a")
        ((_, first),) = await hook.received(1)
        on.model.say("b")
        await on.model.said()
        on.model.end()
        assert (await on.platform.ended(taken.json()["id"]))["output"] == ["a", "b"]
        await on.platform.callback(taken.json()["id"])
        got = [json.loads(body) for _, body in await hook.received(2)]
        assert json.loads(first)["output"] == "a"
        while "completed" not in (one["status"] for one in got):
            got = [json.loads(body) for _, body in await hook.received(len(got) + 1)]
        assert [one["output"] for one in got if one["status"] == "completed"] == [["a", "b"]]
        assert {str(one["output"]) for one in got} <= {"a", "b", "['a', 'b']"}


async def test_a_stream_is_held_while_nothing_is_new(database: str) -> None:
    """And nobody takes a place who need not wait."""
    async with stage(database) as on:
        waiters = on.platform.world.service.gateway.waiters
        id = await on.run()
        reading = asyncio.create_task(on.stream(id))
        await on.platform.world.until(lambda: _true_later(waiters.held == 1))
        on.model.say("a")
        assert await reading == ("IN_PROGRESS", ["a"])
        assert waiters.held == 0
        on.model.end()


async def _true_later(value: Any) -> bool:
    await asyncio.sleep(0)
    return bool(value)


async def test_who_finds_no_room_is_told_how_it_stands(database: str) -> None:
    """With what has come until now; the id of its last event leads on."""
    async with stage(database) as on:
        id = await on.run()
        on.model.say("a")
        assert (await on.stream(id))[1] == ["a"]
        on.platform.world.service.gateway.waiters.stop()
        seen = await on.followed(id)
        assert [one["event"] for one in seen] == ["status", "output"]
        on.model.say("b")
        on.model.end()
        await on.platform.world.until_state(seen[0]["data"]["id"][4:], "completed", tenant=TENANT)
        assert outputs(await on.followed(id, seen[-1]["id"])) == ["b"]


async def test_who_follows_in_another_process_is_told_too(postgres: str) -> None:
    """By a word of who stores the chunks: nobody has to look for them."""
    async with stage(postgres, concurrency=2) as on, running(postgres) as other:
        gateways = [on.platform.world.service.gateway, other.service.gateway]
        for gateway in gateways:
            gateway.feeds._poll_s = 60.0
        async with (
            serving(other.service.api) as url,
            client(url, ADMIN_KEY) as api,
        ):
            far = Stage(Platform(other, api, url, on.platform.model, on.platform.hook), on.model)
            await gateways[1].book.reload()
            id = await on.run()
            seen: list[list[Any]] = [[], []]
            said = asyncio.Event()

            async def follow(one: Stage, into: list[Any]) -> None:
                async for event in one.events(id):
                    if event["event"] == "output":
                        into.append(event["data"]["output"])
                        if seen[0] == seen[1]:
                            said.set()

            following = [
                asyncio.create_task(follow(one, seen[n])) for n, one in enumerate((on, far))
            ]
            for n in range(4):
                said.clear()
                on.model.say(n)
                async with asyncio.timeout(PATIENCE_S):
                    await said.wait()
            on.model.end()
            await asyncio.gather(*following)
            assert seen == [[0, 1, 2, 3]] * 2
            assert await far.all(id) == ("COMPLETED", [0, 1, 2, 3])


async def test_tensorones_status_as_a_stream_has_them_too(database: str) -> None:
    """As events `output`, between those that have the status and the progress; the last one is the
    end with all of them."""
    async with stage(database) as on:
        id = (await on.run()).replace("-", "")
        on.model.says.put_nowait(b"event: progress\ndata: 40\n\n")
        on.model.say("a")
        seen: list[dict[str, Any]] = []
        headers = {"Accept": "text/event-stream"}
        waits_for: set[Any] = {"a", 40}
        async for event in on.told(f"/v2/jobs/{id}/status", headers):
            seen.append(event)
            if event.get("event") == "output":
                waits_for.discard(event["data"]["output"])
            else:
                waits_for.discard(event["data"].get("progress"))
            if not waits_for:
                waits_for = {"the end"}
                on.model.say("b")
                on.model.end()
        chunks = [one["data"] for one in seen if one.get("event") == "output"]
        assert chunks == [
            {"jobId": f"job_{id}", "index": n, "output": value} for n, value in enumerate("ab")
        ]
        statuses = [one["data"] for one in seen if "event" not in one]
        assert statuses[-1]["output"] == ["a", "b"]
        assert {one["status"] for one in statuses[:-1]} <= {"queued", "running"}
        assert statuses[-1]["status"] == "completed"


async def test_one_customer_does_not_take_all_places(database: str) -> None:
    """However many of its requests follow its jobs, a quarter of the places is all that it gets;
    the rest of them is told how its job stands, and another customer's are held."""
    async with stage(database, waiters_max=16, body="raw", concurrency=2) as on:
        waiters = on.platform.world.service.gateway.waiters
        quarter = 4
        greedy, modest = await on.platform.tenant("greedy"), await on.platform.tenant("modest")
        async with greedy, modest, AsyncExitStack() as stack:
            ids = [
                (await one.post("/v1/endpoints/ep/jobs", json={})).json()["id"]
                for one in (greedy, modest)
            ]

            async def follow(api: httpx.AsyncClient, id: str) -> AsyncIterator[str]:
                request = api.stream("GET", f"/v1/jobs/{id}/events")
                lines = (await stack.enter_async_context(request)).aiter_lines()
                async for line in lines:
                    if line.startswith("event: "):
                        return lines
                raise AssertionError("there is no event")

            held = [await follow(greedy, ids[0]) for _ in range(quarter)]
            assert waiters.held == quarter
            for _ in range(3):
                more = await greedy.get(f"/v1/jobs/{ids[0]}/events")
                assert "event: status" in more.text
                at_once = await greedy.get(f"/v1/jobs/{ids[0]}", params={"wait": "30"})
                assert at_once.json()["status"] in ("queued", "running")
            assert waiters.held == quarter
            held.append(await follow(modest, ids[1]))
            assert waiters.held == quarter + 1
            for _ in ids:
                on.model.end()
            ends = [[line async for line in lines if line == "event: end"] for lines in held]
            assert ends == [["event: end"]] * len(held)
        assert waiters.held == 0
        assert on.platform.world.service.gateway.feeds.followed == 0
