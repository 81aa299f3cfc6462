"""Watching a job, by each client: what it does comes once and in order, whatever the connection
does."""

import json
from typing import Any, Final

import pytest

from dispatcher.client import AsyncClient, Client, JobEvent, NotFound
from dispatcher.client.tensorone import AsyncTensorOneClient, TensorOneClient
from tests.dispatcher.client.answering import Answer, answering
from tests.dispatcher.client.node import values

EVENTS: Final = {"Content-Type": "text/event-stream"}
ID: Final = "job_0190f3a1b2c37d4e85f60718293a4b5c"
JOB: Final = {
    "id": ID, "endpoint": "ep", "status": "running", "run": 1, "attempts": 0, "priority": "normal",
    "tags": {}, "createdAt": "2026-01-01T00:00:00Z",
}  # fmt: skip
ENDED: Final = JOB | {"status": "completed", "output": ["a", {"b": 2}, "c"]}


def told(name: str, at: str, **data: Any) -> bytes:
    return f"event: {name}\nid: {at}\ndata: {json.dumps(data)}\n\n".encode()


SHOWN: Final[Answer] = (200, {}, json.dumps(JOB).encode())
STORY: Final[tuple[Answer, ...]] = (
    (
        200,
        EVENTS,
        b"retry: 1000\n\n"
        + told("status", "1", status="queued", run=1, position=3, waitingFor="capacity")
        + b": \n\n"
        + told("status", "2", status="running", run=1)
        + told("progress", "3", progress=12.5, currentStep="one", metadata={"a": 1}),
    ),
    SHOWN,
    (
        200,
        EVENTS | {"Content-Length": "9999"},  # it breaks
        told("output", "4", index=0, output="a") + told("output", "5", index=1, output={"b": 2})
        + b"event: output\nid: 6\ndata: {",
    ),
    (503, {"Retry-After": "0"}, b"restarting"),
    SHOWN,
    (200, EVENTS, b'event: error\ndata: {"error": "UNAVAILABLE"}\n\n'),
    SHOWN,
    (200, EVENTS, told("something new", "7") + told("output", "8", index=2, output="c")
     + told("end", "9", **ENDED)),
)  # fmt: skip
WHAT: Final = ["status", "status", "progress", "output", "output", "output", "end"]
LAST: Final = [None, "3", "5", "5"]


def check(found: list[JobEvent], seen: list[Any]) -> None:
    assert [one.what for one in found] == WHAT
    assert (found[0].status, found[0].position, found[0].waiting_for) == ("queued", 3, "capacity")
    progress = found[2]
    assert (progress.progress, progress.current_step) == (12.5, "one")
    assert progress.metadata == {"a": 1}
    assert [(one.index, one.output) for one in found[3:6]] == [(0, "a"), (1, {"b": 2}), (2, "c")]
    ended = found[-1].job
    assert ended is not None
    assert (found[-1].status, ended.output) == ("completed", ["a", {"b": 2}, "c"])
    check_seen(seen)


def check_seen(seen: list[Any]) -> None:
    watching = [one for one in seen if one[1].endswith("/events")]
    last = [{k.lower(): v for k, v in one[2].items()}.get("last-event-id") for one in watching]
    assert last == LAST
    assert len(seen) == len(STORY)


def test_a_watch_goes_on_where_a_stream_breaks() -> None:
    """Behind the last event that came; each once."""
    with answering(*STORY) as (url, seen), Client(url) as client:
        check(list(client.watch(ID)), seen)


async def test_a_watch_of_the_asyncio_twin_goes_on_too() -> None:
    with answering(*STORY) as (url, seen):
        async with AsyncClient(url) as client:
            check([one async for one in client.watch(ID)], seen)


def test_a_watch_in_javascript_goes_on_too() -> None:
    with answering(*STORY) as (url, seen):
        (found,) = values(
            """
            const client = new PostbackClient({ baseUrl: url });
            const found = [];
            for await (const one of client.jobs.watch(id)) found.push(one);
            tell(found);
            """,
            url=url,
            id=ID,
        )
    assert [one["what"] for one in found] == WHAT
    assert (found[0]["position"], found[2]["progress"]) == (3, 12.5)
    assert [one["output"] for one in found[3:6]] == ["a", {"b": 2}, "c"]
    assert found[-1]["job"] == ENDED
    check_seen(seen)


def test_a_job_that_there_is_not_cannot_be_watched() -> None:
    refused = {"error": "NOT_FOUND", "message": "there is no job", "details": {}, "requestId": "r"}
    missing: Answer = (404, {"Content-Type": "application/json"}, json.dumps(refused).encode())
    with (
        answering(missing, missing) as (url, _),
        Client(url) as client,
        pytest.raises(NotFound),
    ):
        list(client.watch(ID))


def update(status: str, **more: Any) -> bytes:
    return json.dumps({"jobId": ID, "status": status, **more}).encode()


def event(status: str, **more: Any) -> bytes:
    return b"data: " + update(status, **more) + b"\n\n"


CHUNKED: Final[tuple[Answer, ...]] = (
    (200, {}, update("running")),
    (200, EVENTS, event("running") + told("output", "1", jobId=ID, index=0, output="a")
     + told("output", "2", jobId=ID, index=1, output="b")),
    (200, {}, update("running")),
    (200, EVENTS, event("running") + told("output", "1", jobId=ID, index=0, output="a")
     + told("output", "2", jobId=ID, index=1, output="b")
     + told("output", "3", jobId=ID, index=2, output=None)
     + event("completed", output=["a", "b", None])),
)  # fmt: skip
GROWN: Final = [None, ["a"], ["a", "b"], ["a", "b", None], ["a", "b", None]]


def test_the_output_of_what_is_watched_grows() -> None:
    """By TensorOne's names too: no chunk twice, though a stream that is begun again tells all."""
    with answering(*CHUNKED) as (url, seen), TensorOneClient(base_url=url) as client:
        assert [one.output for one in client.jobs.watch_status(ID)] == GROWN
    assert len(seen) == len(CHUNKED)


async def test_it_grows_for_the_asyncio_twin_too() -> None:
    with answering(*CHUNKED) as (url, _):
        async with AsyncTensorOneClient(base_url=url) as client:
            assert [one.output async for one in client.jobs.watch_status(ID)] == GROWN


def test_it_grows_in_javascript_too() -> None:
    with answering(*CHUNKED) as (url, _):
        (found,) = values(
            """
            const client = new TensorOneClient({ baseUrl: url });
            const found = [];
            for await (const one of client.jobs.watchStatus(id)) found.push(one.output ?? null);
            tell(found);
            """,
            url=url,
            id=ID,
        )
    assert found == GROWN


def test_a_real_job_is_watched_to_its_end(client: Client, endpoint: Any) -> None:
    """Of an answer that comes whole there are no chunks."""
    job = client.submit_job(endpoint(paused=True), {"a": 1})
    found = []
    for one in client.watch(job.id):
        found.append(one)
        if one.status == "queued" and one.position == 1:
            client.resume_endpoint(job.endpoint)
    assert [one.what for one in found if one.status != "queued"][-1] == "end"
    assert found[0].waiting_for == "paused"
    assert found[-1].job is not None
    assert found[-1].job.output == {"a": 1}
