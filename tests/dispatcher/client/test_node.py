"""The client in JavaScript, in one file, against a real service."""

from collections.abc import Callable
from typing import Any

import pytest

from dispatcher.client import Client
from tests.dispatcher.client.answering import Answer, answering
from tests.dispatcher.client.node import values
from tests.dispatcher.client.running import ADMIN_KEY, Running

Make = Callable[..., str]
CONNECT = "const client = new PostbackClient({ baseUrl: url, apiKey, tenant });\n"


@pytest.fixture
def given(service: Running, tenant: str) -> dict[str, Any]:
    """Where the service is, and who asks."""
    return {"url": service.url, "apiKey": ADMIN_KEY, "tenant": tenant}


def test_a_job_is_submitted_waited_for_and_read(
    given: dict[str, Any], client: Client, service: Running, endpoint: Make
) -> None:
    """submit, wait, get, output, input and list tell one story."""
    job, done, shown, output, went, listed = values(
        CONNECT
        + """
        const job = await client.jobs.submit(endpoint, { pages: 3, title: "é" }, {
          callbackUrl: hook, tags: { team: "a, b=c", größe: "ü" }, priority: "high",
        });
        const done = await client.jobs.wait(job.id);
        const listed = [];
        for await (const one of client.jobs.list({ endpoint, tags: { team: "a, b=c" } })) {
          listed.push(one.id);
        }
        tell(job, done, await client.jobs.get(job.id), (await client.jobs.output(job.id)).json(),
             (await client.jobs.input(job.id)).text(), listed);
        """,
        endpoint=endpoint(),
        hook=service.hook(200),
        **given,
    )
    assert (job["status"], job["duplicate"]) == ("queued", False)
    assert (done["status"], done["output"]) == ("completed", {"pages": 3, "title": "é"})
    assert shown["tags"] == {"team": "a, b=c", "größe": "ü"}
    assert (shown["priority"], output) == ("high", {"pages": 3, "title": "é"})
    assert (went, listed) == ('{"pages":3,"title":"é"}', [job["id"]])
    told = client.get_job(job["id"]).callback
    assert told is not None
    assert client.wait(told.id).status == "delivered"


def test_an_output_is_the_answer_to_a_submit_that_waits(
    given: dict[str, Any], endpoint: Make
) -> None:
    """JSON as its value, bytes as bytes; how it failed is an error with code and details."""
    done, size, error = values(
        CONNECT
        + """
        tell(await client.jobs.submit(echo, [1, "é"], { wait: 30 }));
        const bytes = new Uint8Array([137, 0, 255]);
        const image = await client.jobs.submit(echo, bytes, { wait: 30, contentType: "image/png" });
        tell([...image.output]);
        try {
          await client.jobs.submit(failing, {}, { wait: 30 });
        } catch (error) {
          tell({ ...error, isOurs: error instanceof PostbackError });
        }
        """,
        echo=endpoint(),
        failing=endpoint("/400/no-such-font"),
        **given,
    )
    assert (done["status"], done["output"], done["id"][:4]) == ("completed", [1, "é"], "job_")
    assert size == [137, 0, 255]
    assert (error["code"], error["status"], error["isOurs"]) == ("JOB_FAILED", 502, True)
    assert error["details"]["error"] == "no-such-font"


def test_a_job_is_cancelled_and_run_again(
    given: dict[str, Any], client: Client, endpoint: Make
) -> None:
    """A wait that is too short keeps the id."""
    timeout, cancelled, again, refused = values(
        CONNECT
        + """
        const { id } = await client.jobs.submit(endpoint, {});
        const thrown = async (promise) => promise.then(() => null, (error) => error);
        const late = await thrown(client.jobs.wait(id, { timeoutMs: 300 }));
        tell([late instanceof WaitTimeout, late.code, late.id === id]);
        tell((await client.jobs.cancel(id, { reason: "größer" })).status);
        tell((await client.jobs.retry(id)).run);
        tell({ ...(await thrown(client.jobs.retry(id))) });
        """,
        endpoint=endpoint(paused=True),
        **given,
    )
    assert timeout == [True, "WAIT_TIMEOUT", True]
    assert (cancelled, again) == ("cancelled", 2)
    assert (refused["code"], refused["status"]) == ("CONFLICT", 409)
    (entry,) = client.audit(action="job.cancel")
    assert entry.reason == "größer"


def test_callbacks_are_handed_over(given: dict[str, Any], client: Client, service: Running) -> None:
    """Sent again it is the same one; what a field cannot be is told with its name."""
    first, again, shown, error = values(
        CONNECT
        + """
        const payload = { status: "completed", output: [1] };
        const first = await client.callbacks.submit("job_1", payload, { callbackUrl: hook });
        tell(first, await client.callbacks.submit("job_1", payload, { callbackUrl: hook }));
        tell(await client.callbacks.get(first.id));
        await client.callbacks.submit("job_2", 1, { destination: "unknown" }).catch((error) => {
          tell({ ...error });
        });
        """,
        hook=service.hook(200),
        **given,
    )
    assert (first["duplicate"], again["duplicate"], again["id"]) == (False, True, first["id"])
    assert shown["jobId"] == "job_1"
    assert client.wait(first["id"]).status == "delivered"
    assert (error["code"], error["status"]) == ("VALIDATION_ERROR", 422)
    assert error["details"]["field"] == "destination"
    assert error["requestId"]


TAKEN = b'{"id":"job_1","endpoint":"ep","status":"queued","duplicate":false}'
FULL = b'{"error":"QUEUE_FULL","message":"full","details":{"queueSize":3},"requestId":"req_1"}'


def test_what_passes_is_tried_again_with_the_same_key() -> None:
    """429 and 503 after Retry-After, a connection that broke, a proxy's 502."""
    answers: tuple[Answer, ...] = (
        (429, {"Retry-After": "0"}, FULL),
        (0, {}, b""),
        (503, {"Retry-After": "0"}, b"<html>"),
        (502, {}, b"<html>"),
        (202, {}, TAKEN),
    )
    with answering(*answers) as (url, seen):
        (made,) = values(
            "const client = new PostbackClient({ baseUrl: url });\n"
            'tell(await client.jobs.submit("ep", {}));',
            url=url,
        )
    assert made["id"] == "job_1"
    assert len(seen) == len(answers)
    assert len({headers["Idempotency-Key"] for _, _, headers, _ in seen}) == 1


def test_what_stays_is_told_at_once() -> None:
    """With code, status, details and the request's id; and after the last try."""
    with answering((422, {}, FULL), *[(429, {"Retry-After": "0"}, FULL)] * 3) as (url, seen):
        first, last = values(
            """
            const client = new PostbackClient({ baseUrl: `${url}/v1/`, retries: 2, apiKey: "k" });
            for (const go of [1, 2]) {
              await client.jobs.submit("a/b", {}).catch((error) => tell({ ...error }));
            }
            """,
            url=url,
        )
    assert (first["code"], first["status"], first["details"]) == (
        "QUEUE_FULL", 422, {"queueSize": 3},
    )  # fmt: skip
    assert (last["status"], last["retryAfterS"], last["requestId"]) == (429, 0, "req_1")
    assert len(seen) == 4
    assert {(path, headers["Authorization"]) for _, path, headers, _ in seen} == {
        ("/v1/endpoints/a%2Fb/jobs", "Bearer k")
    }


def test_what_cannot_be_sent_is_refused() -> None:
    """Before anything is: a key of two lines, an id of another route, a filter that there is not,
    an input that is no JSON, a header of two lines."""
    errors = values(
        """
        const client = new PostbackClient({ apiKey: "k", retries: 0 });
        const thrown = async (act) => {
          try {
            await act();
            return null;
          } catch (error) {
            return error.code ?? error.name;
          }
        };
        tell(await thrown(() => new PostbackClient({ apiKey: "a\\nb" })));
        tell(await thrown(() => new PostbackClient({ baseUrl: "127.0.0.1" })));
        tell(await thrown(() => client.jobs.get("..")));
        tell(await thrown(() => client.jobs.list({ stauts: "failed" })));
        tell(await thrown(() => client.jobs.submit("ep", undefined)));
        const callbackUrl = "http://a\\r\\nX: 1";
        tell(await thrown(() => client.jobs.submit("ep", {}, { callbackUrl })));
        tell(await thrown(() => client.jobs.get("job_1", { signal: AbortSignal.abort() })));
        """
    )
    assert errors == [
        "TypeError", "TypeError", "NOT_FOUND", "TypeError", "TypeError", "TypeError", 20,
    ]  # fmt: skip


def test_the_key_is_in_no_view_of_the_client() -> None:
    """Nor in an error."""
    shown = values(
        """
        import { inspect } from "node:util";
        const client = new PostbackClient({ baseUrl: "http://127.0.0.1:9", apiKey, retries: 0 });
        tell(inspect(client, { depth: 9, showHidden: true }));
        await client.jobs.get("job_1").catch((error) => tell(inspect(error, { depth: 9 })));
        """,
        apiKey="very-secret-key",
    )
    assert len(shown) == 2
    assert "UNREACHABLE" in shown[1]
    assert not any("very-secret-key" in text for text in shown)
