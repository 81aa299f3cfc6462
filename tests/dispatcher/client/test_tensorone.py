"""TensorOne's samples, in Python and in JavaScript, with one line changed each; and what else its
clients do: against a real gateway that calls a real upstream."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dispatcher.client import (
    Client,
    Conflict,
    JobFailed,
    NotFound,
    QueueFull,
    ValidationFailed,
    tensorone,
)
from dispatcher.client.events import Event, EventReader
from dispatcher.client.tensorone import AsyncTensorOneClient, TensorOneClient
from tests.dispatcher.client.answering import Answer, answering
from tests.dispatcher.client.model import Model
from tests.dispatcher.client.node import CLIENT, run_module, values
from tests.dispatcher.client.running import Running

Make = Callable[..., str]

# The platform's pages, word for word; that of Python has its indentation back.
PYTHON = """
from tensorone import TensorOneClient
import time
client = TensorOneClient(api_key="your_api_key")
# Submit async job
job = client.endpoints.execute_async(
    endpoint_id="ep_document_gen",
    input={
        "prompt": "Generate a technical whitepaper on quantum computing",
        "length": "long",
        "include_diagrams": True
    },
    callback_url="https://myapp.com/webhooks/job-complete",
    tags={"user_id": "user_123", "type": "whitepaper"}
)
print(f"Job submitted: {job.job_id}")
# Poll for completion
while True:
    status = client.jobs.get_status(job.job_id)
    print(f"Status: {status.status}, Progress: {status.progress}%")
    if status.status in ['completed', 'failed', 'cancelled']:
        break
    time.sleep(10)
if status.status == 'completed':
    print(f"Job completed! Output: {status.output}")
else:
    print(f"Job failed: {status.error}")
"""
JAVASCRIPT = """
import { TensorOneClient } from "@tensorone/sdk";
const client = new TensorOneClient({ apiKey: "your_api_key" });
// Submit async job with promise-based tracking
async function processLargeDataset() {
const job = await client.endpoints.executeAsync("ep_data_processor", {
input: {
dataset_url: "https://example.com/large-dataset.csv",
operations: ["clean", "analyze", "visualize"],
output_format: "dashboard",
},
callbackUrl: "https://myapp.com/webhooks/analysis-complete",
priority: "high",
});
console.log(`Job submitted: ${job.jobId}`);
// Use async iterator for real-time updates
for await (const update of client.jobs.watchStatus(job.jobId)) {
console.log(`Progress: ${update.progress}% - ${update.currentStep}`);
if (update.status === "completed") {
console.log("Analysis complete!", update.output);
break;
}
}
}
"""


def changed(sample: str, *lines: tuple[str, str]) -> str:
    """The sample with these lines of it changed, each of which is there once."""
    for before, after in lines:
        assert sample.count(before) == 1
        sample = sample.replace(before, after)
    return sample


@pytest.fixture
def named(client: Client, upstream: Model) -> Callable[..., None]:
    """Makes the samples' endpoints, or changes them."""

    def make(name: str, path: str = "/echo") -> None:
        client.set_endpoint(name, {"url": upstream.url + path, "body": "input"})

    return make


@pytest.fixture
def key(client: Client, tenant: str) -> str:
    """A key of the tenant, as customers have one."""
    return client.create_key(["submit", "read", "operate"], tenant=tenant).key


@pytest.fixture
def sample(
    service: Running, key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], list[str]]:
    """Runs the sample in Python against a base URL; returns what it prints."""
    wait = time.sleep

    def run(base_url: str) -> list[str]:
        monkeypatch.setattr(time, "sleep", lambda seconds: wait(min(seconds, 0.05)))
        text = changed(
            PYTHON,
            ("from tensorone import", "from dispatcher.client.tensorone import"),
            ('api_key="your_api_key"', f'api_key="{key}", base_url="{base_url}"'),
        )
        names = dict[str, Any]()
        exec(text, names)
        names["client"].close()
        return capsys.readouterr().out.splitlines()

    return run


def test_the_sample_in_python_runs(
    service: Running, named: Callable[..., None], sample: Callable[[str], list[str]]
) -> None:
    """With another import, and the gateway's URL: it polls until the end and prints the output."""
    named("ep_document_gen")
    first, *polls, last = sample(service.url)
    assert first.startswith("Job submitted: job_")
    assert polls[-1] == "Status: completed, Progress: None%"
    assert last.startswith("Job completed! Output: {'prompt': 'Generate a technical whitepaper")


def test_the_sample_in_python_tells_of_a_failure(
    service: Running, named: Callable[..., None], sample: Callable[[str], list[str]]
) -> None:
    """`status.error` has the upstream's words. A base URL may end in the platform's version."""
    named("ep_document_gen", "/400/no-such-font")
    assert sample(f"{service.url}/v2")[-1] == "Job failed: no-such-font"


def test_the_sample_in_javascript_runs(
    service: Running, key: str, named: Callable[..., None]
) -> None:
    """With another import, and the gateway's URL: it watches until the end and prints the
    output."""
    named("ep_data_processor")
    text = changed(
        JAVASCRIPT,
        ('"@tensorone/sdk"', json.dumps(CLIENT.as_uri())),
        ('apiKey: "your_api_key"', f'apiKey: "{key}", baseUrl: "{service.url}"'),
    )
    first, update, rest = run_module(f"{text}\nawait processLargeDataset();").split("\n", 2)
    assert first.startswith("Job submitted: job_")
    assert update == "Progress: undefined% - undefined"
    assert "Analysis complete!" in rest
    assert "dataset_url: 'https://example.com/large-dataset.csv'" in rest


@pytest.fixture
def client_of(service: Running, key: str) -> Iterator[TensorOneClient]:
    with TensorOneClient(key, base_url=service.url) as found:
        yield found


def test_a_job_is_executed_and_asked_for(
    client_of: TensorOneClient, endpoint: Make, service: Running
) -> None:
    """Arguments in snake_case, camelCase on the wire; what is answered is typed."""
    name = endpoint(body="input")
    job = client_of.endpoints.execute_async(
        name, {"a": [1, 2.5]}, service.hook(200), {"userId": "u1"}, priority="high", timeout="1m"
    )
    assert (job.status, job.endpoint_id, job.priority) == ("queued", name, "high")
    assert job.tags == {"userId": "u1"}
    assert job.job_id in (job.status_url or "")
    assert job.estimated_duration is not None
    last = list(client_of.jobs.watch_status(job.job_id))[-1]
    assert (last.status, last.output, last.final) == ("completed", {"a": [1, 2.5]}, True)
    assert last.error is None
    assert (last.tags, last.endpoint_id) == ({"userId": "u1"}, name)
    assert last.execution_time is not None
    assert last.completed_at is not None
    assert last.created_at == job.created_at
    assert client_of.jobs.get_status(job.job_id) == last
    (found,) = client_of.jobs.list(tags={"userId": "u1"}, endpoint_id=name)
    assert (found.job_id, found.status) == (job.job_id, "completed")
    assert list(client_of.jobs.list(status="failed")) == []


def test_an_execution_is_waited_for(client_of: TensorOneClient, endpoint: Make) -> None:
    """Its output is the answer; one that fails is an error with its id."""
    done = client_of.endpoints.execute(endpoint(body="input"), {"a": 1})
    assert (done.status, done.output) == ("completed", {"a": 1})
    assert done.execution_time is not None
    with pytest.raises(JobFailed) as raised:
        client_of.endpoints.execute(endpoint("/400/no-such-font"), {})
    assert client_of.jobs.get_status(raised.value.job_id).error == "no-such-font"


def test_updates_come_as_they_happen(
    client_of: TensorOneClient, endpoint: Make, upstream: Model
) -> None:
    """An iterator of updates until the end, which may be a time-out as well."""
    job = client_of.endpoints.execute_async(endpoint("/hold", body="input"), {"a": 1})
    seen = list[str]()
    for update in client_of.jobs.watch_status(job.job_id):
        seen.append(update.status)
        if update.status == "running":
            upstream.go.set()
    assert seen[-2:] == ["running", "completed"]
    upstream.go.clear()
    late = client_of.endpoints.execute_async(endpoint("/hold"), {}, timeout=1)
    assert [one.status for one in client_of.jobs.watch_status(late.job_id)][-1] == "timeout"


async def test_the_asyncio_twin_does_the_same(
    service: Running, key: str, endpoint: Make, upstream: Model
) -> None:
    """Awaited, and `async for` of updates and listings."""
    async with AsyncTensorOneClient(key, base_url=service.url) as client:
        done = await client.endpoints.execute(endpoint(body="input"), {"a": 1})
        assert done.output == {"a": 1}
        job = await client.endpoints.execute_async(
            endpoint_id=endpoint("/hold", body="input"), input={"b": 2}, tags={"k": "v"}
        )
        seen = list[str]()
        async for update in client.jobs.watch_status(job.job_id):
            seen.append(update.status)
            if update.status == "running":
                upstream.go.set()
        assert seen[-2:] == ["running", "completed"]
        assert [one.job_id async for one in client.jobs.list(tags={"k": "v"})] == [job.job_id]
        with pytest.raises(Conflict):
            await client.jobs.retry(job.job_id)
        assert (await client.jobs.cancel(job.job_id)).status == "completed"


def test_a_job_is_cancelled_and_run_again(
    client_of: TensorOneClient, client: Client, endpoint: Make
) -> None:
    """Under its id."""
    name = endpoint(paused=True, body="input")
    job = client_of.endpoints.execute_async(name, {"a": 1})
    assert client_of.jobs.cancel(job.job_id).status == "cancelled"
    client.resume_endpoint(name)
    assert client_of.jobs.retry(job.job_id).job_id == job.job_id
    assert list(client_of.jobs.watch_status(job.job_id))[-1].output == {"a": 1}


def test_refusals_are_typed(service: Running, key: str, client: Client, endpoint: Make) -> None:
    """As of the other client: with field, value and reason, or figures."""
    client_of = TensorOneClient(key, base_url=service.url, retries=0)
    with pytest.raises(NotFound):
        client_of.endpoints.execute_async("none", {})
    with pytest.raises(NotFound):
        list(client_of.jobs.watch_status("job_" + "0" * 32))
    with pytest.raises(ValidationFailed) as wrong:
        client_of.endpoints.execute_async(endpoint(), {}, priority="urgent")
    assert wrong.value.details["field"] == "priority"
    name = endpoint(queueMax=1, paused=True)
    client_of.endpoints.execute_async(name, {})
    with client_of, pytest.raises(QueueFull) as full:
        client_of.endpoints.execute_async(name, {})
    assert full.value.queue_size == 1


def test_the_names_of_both_kinds_of_samples() -> None:
    """`Client` and `AsyncClient` are the same ones."""
    assert tensorone.Client is TensorOneClient
    assert tensorone.AsyncClient is AsyncTensorOneClient
    with TensorOneClient(api_key="very-secret-key", base_url="http://127.0.0.1:1/v2/") as client:
        assert repr(client) == "TensorOneClient(Client('http://127.0.0.1:1', tenant=None))"
    with pytest.raises(ValueError, match="must look like"):
        TensorOneClient("k", base_url="127.0.0.1")


def test_the_client_in_javascript_does_the_same(service: Running, key: str, endpoint: Make) -> None:
    """executeAsync, execute, getStatus, watchStatus, cancel, retry and list."""
    job, seen, status, listed, done, cancelled, again, error = values(
        """
        const client = new TensorOneClient({ apiKey, baseUrl: url });
        const job = await client.endpoints.executeAsync(echo, {
          input: { a: 1 }, tags: { userId: "u1" }, priority: "high",
        });
        const seen = [];
        for await (const update of client.jobs.watchStatus(job.jobId)) seen.push(update.status);
        tell(job, seen, await client.jobs.getStatus(job.jobId));
        const listed = [];
        for await (const one of client.jobs.list({ tags: { userId: "u1" } })) listed.push(one);
        tell(listed.map((one) => one.jobId));
        tell(await client.endpoints.execute(echo, { input: { b: 2 } }));
        const slow = await client.endpoints.executeAsync(paused, { input: {} });
        tell((await client.jobs.cancel(slow.jobId)).status);
        tell((await client.jobs.retry(slow.jobId)).jobId === slow.jobId);
        await client.endpoints.executeAsync(echo, { input: [] }).catch((error) => {
          tell({ ...error });
        });
        """,
        url=service.url,
        apiKey=key,
        echo=endpoint(body="input"),
        paused=endpoint(paused=True),
    )
    assert (job["status"], job["priority"], job["tags"]) == ("queued", "high", {"userId": "u1"})
    assert seen[-1] == "completed"
    assert (status["output"], status["jobId"], listed) == ({"a": 1}, job["jobId"], [job["jobId"]])
    assert (done["status"], done["output"]) == ("completed", {"b": 2})
    assert (cancelled, again) == ("cancelled", True)
    assert (error["code"], error["status"]) == ("VALIDATION_ERROR", 422)
    assert error["details"]["field"] == "input"


# --- streams that break, without a gateway ---

EVENTS = {"Content-Type": "text/event-stream"}


def update(status: str, **more: Any) -> bytes:
    return json.dumps({"jobId": "job_1", "status": status, **more}).encode()


def event(status: str, **more: Any) -> bytes:
    return b"data: " + update(status, **more) + b"\n\n"


STORY: tuple[Answer, ...] = (
    (200, {}, update("queued")),
    (200, EVENTS, event("queued") + b": still there\n\n" + event("running", progress=10)),
    (200, {}, update("running", progress=10)),
    (200, EVENTS | {"Content-Length": "9999"}, event("running", progress=20) + b"data: {"),
    (503, {"Retry-After": "0"}, b"restarting"),
    (200, {}, update("running", progress=20)),
    (200, {}, update("running", progress=30)),  # no stream at all
    (200, {}, update("running", progress=40, currentStep="writing")),
    (200, EVENTS, b'event: error\ndata: {"error": "INTERNAL"}\n\n'),
    (200, {}, update("running", progress=40, currentStep="writing")),
    (200, EVENTS, event("completed", output={"pages": 50})),
)
TOLD = [
    ["queued", None, None],
    ["running", 10, None],
    ["running", 20, None],
    ["running", 40, "writing"],
    ["completed", None, None],
]


def test_a_watch_goes_on_where_a_stream_breaks() -> None:
    """Each update once, with its progress and step, whatever the connection does."""
    with answering(*STORY) as (url, seen), TensorOneClient(base_url=url) as client:
        told = list(client.jobs.watch_status("job_1"))
    assert [[one.status, one.progress, one.current_step] for one in told] == TOLD
    assert told[-1].output == {"pages": 50}
    assert len(seen) == len(STORY)


async def test_a_watch_of_the_asyncio_twin_goes_on_too() -> None:
    with answering(*STORY) as (url, seen):
        async with AsyncTensorOneClient(base_url=url) as client:
            told = [one async for one in client.jobs.watch_status("job_1")]
    assert [[one.status, one.progress, one.current_step] for one in told] == TOLD
    assert len(seen) == len(STORY)


def test_a_watch_in_javascript_goes_on_too() -> None:
    with answering(*STORY) as (url, seen):
        (told,) = values(
            """
            const client = new TensorOneClient({ baseUrl: url });
            const told = [];
            for await (const one of client.jobs.watchStatus("job_1")) {
              told.push([one.status, one.progress ?? null, one.currentStep ?? null]);
            }
            tell(told);
            """.replace("told", "watched"),
            url=url,
        )
    assert told == TOLD
    assert len(seen) == len(STORY)


def test_a_watch_that_is_left_closes_its_stream() -> None:
    """`break` is enough; nothing is asked after it."""
    story = STORY[0], (200, EVENTS, event("running", progress=1) + event("running", progress=2))
    with answering(*story) as (url, seen), TensorOneClient(base_url=url) as client:
        for one in client.jobs.watch_status("job_1"):
            if one.progress == 1:
                break
    assert len(seen) == 2


def test_events_are_the_same_in_whatever_pieces_they_come() -> None:
    """Lines of either kind, comments, several lines of data, other fields."""
    stream = (
        b": hello\n\nid: 1\nevent: status\ndata: one\n\ndata:two\r\ndata: lines\r\n\r\n"
        b"retry: 5\n\ndata: \xc3\xa9\n\ndata: cut off"
    )
    for size in range(1, len(stream) + 1):
        reader = EventReader()
        found = [
            event
            for at in range(0, len(stream), size)
            for event in reader.feed(stream[at : at + size])
        ]
        assert found == [
            Event(b"one", "status", "1"),
            Event(b"two\nlines"),
            Event("é".encode()),
        ], size


def test_a_line_without_end_and_an_error_end_a_stream() -> None:
    with pytest.raises(ValueError, match="too long"):
        EventReader().feed(b"data: " + b"x" * (17 * 2**20))
    with pytest.raises(ValueError, match="error"):
        EventReader().feed(b"event: error\ndata: {}\n\n")
