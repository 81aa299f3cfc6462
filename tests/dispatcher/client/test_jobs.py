"""The client's jobs against a real service, which calls a real upstream."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from dispatcher.client import (
    AsyncClient,
    Client,
    Conflict,
    Gone,
    InputGone,
    JobCancelled,
    JobFailed,
    JobTimeout,
    NotFound,
    OutputGone,
    PostbackError,
    QueueFull,
    Unreachable,
    ValidationFailed,
    WaitTimeout,
)
from dispatcher.client.calls.job import get_job, job_input, job_output, retry_job, submit_job
from dispatcher.client.retry import RetryPolicy, exchange
from dispatcher.client.transport import Call, Response
from tests.dispatcher.client.model import Model
from tests.dispatcher.client.running import ADMIN_KEY, Running

Make = Callable[..., str]


def test_a_job_is_submitted_waited_for_and_read(
    client: Client, service: Running, endpoint: Make
) -> None:
    """submit_job, wait_job, job_output, job_input, job_attempts and its callback tell one story, in
    typed values."""
    made = client.submit_job(
        endpoint(),
        {"pages": 3, "title": "é"},
        callback_url=service.hook(200),
        tags={"team": "a, b=c", "größe": "ü"},
        priority="high",
    )
    assert (made.status, made.duplicate) == ("queued", False)
    done = client.wait_job(made.id, timeout=30)
    assert (done.status, done.id, done.run, done.attempts) == ("completed", made.id, 1, 1)
    assert (done.final, done.completed, done.priority) == (True, True, "high")
    assert done.output == {"pages": 3, "title": "é"}
    assert done.tags == {"team": "a, b=c", "größe": "ü"}
    assert made.created_at is not None
    assert done.created_at == made.created_at > datetime.now(UTC) - timedelta(minutes=1)
    assert done.callback is not None
    assert client.wait(done.callback.id).status == "delivered"
    assert client.job_output(made.id).json() == {"pages": 3, "title": "é"}
    assert client.job_input(made.id).body == '{"pages":3,"title":"é"}'.encode()
    (call,) = client.job_attempts(made.id)
    assert (call.run, call.n, call.outcome, call.status_code) == (1, 1, "answered", 200)


def test_bytes_go_and_come_as_they_are(client: Client, endpoint: Make) -> None:
    """With their type; what is neither JSON nor text is referred to in the job."""
    name = endpoint()
    made = client.submit_job(name, b"\x89PNG\xff", content_type="image/png")
    done = client.wait_job(made.id)
    assert (done.output, done.output_ref is not None) == (None, True)
    output = client.job_output(made.id)
    assert (output.body, output.content_type) == (b"\x89PNG\xff", "image/png")
    with pytest.raises(ValueError, match=r"decode|codec"):
        output.json()
    plain = client.submit_job(name, b"\x00")
    assert client.job_input(plain.id).content_type == "application/octet-stream"


def test_an_output_is_the_answer_to_a_submit_that_waits(
    client: Client, endpoint: Make, upstream: Model
) -> None:
    """Where it comes in time; else the job goes on, and one that fails is an error with its id."""
    done = client.submit_job(endpoint(), [1], wait=30)
    assert done.status == "completed"
    assert done.output is not None
    assert done.output.json() == [1]
    assert done.created_at is None
    assert client.get_job(done.id).status == "completed"
    with pytest.raises(JobFailed) as raised:
        client.submit_job(endpoint("/400/no-such-font"), {}, wait=30)
    error = raised.value
    assert (error.status, error.code) == (502, "JOB_FAILED")
    assert (error.details["statusCode"], error.details["error"]) == (400, "no-such-font")
    assert client.get_job(error.job_id).status == "failed"
    with pytest.raises(JobTimeout):
        client.submit_job(endpoint("/hold"), {}, timeout=1, wait=30)
    slow = client.submit_job(endpoint("/hold"), {}, wait=1)
    assert (slow.status, slow.output) == ("queued", None)
    upstream.go.set()
    assert client.wait_job(slow.id).completed


class Lossy(httpx.BaseTransport):
    """Hands requests on, and loses the answers to the first few of them."""

    def __init__(self, lost: int, method: str) -> None:
        self._inner = httpx.HTTPTransport()
        self.lost, self._method = lost, method

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._inner.handle_request(request)
        if request.method == self._method and self.lost > 0:
            self.lost -= 1
            response.read()
            response.close()
            raise httpx.ReadError("the connection broke", request=request)
        return response

    def close(self) -> None:
        self._inner.close()


def test_a_submit_whose_answer_was_lost_is_the_same_job(
    service: Running, client: Client, tenant: str, endpoint: Make
) -> None:
    """Its idempotency key is made once: the second one attaches. Two submits are two jobs."""
    name = endpoint()
    with Client(service.url, ADMIN_KEY, tenant=tenant, transport=Lossy(2, "POST")) as lossy:
        made = lossy.submit_job(name, {"n": 1})
        assert made.duplicate
        assert [one.id for one in client.jobs(endpoint=name)] == [made.id]
        other = lossy.submit_job(name, {"n": 1})
    assert {one.id for one in client.jobs(endpoint=name)} == {made.id, other.id}
    first = client.submit_job(name, 1, idempotency_key="k1")
    assert client.submit_job(name, 1, idempotency_key="k1").id == first.id
    with pytest.raises(Conflict) as raised:
        client.submit_job(name, 2, idempotency_key="k1")
    assert raised.value.code == "IDEMPOTENCY_CONFLICT"


def test_a_wait_survives_lost_connections(
    service: Running,
    tenant: str,
    endpoint: Make,
    upstream: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More of them than one call is tried again, once the job was seen."""
    lossy = Lossy(0, "GET")
    with Client(service.url, ADMIN_KEY, tenant=tenant, transport=lossy, retries=0) as client:
        made = client.submit_job(endpoint("/hold"), {"a": 1})
        with pytest.raises(WaitTimeout) as raised:
            client.wait_job(made.id, timeout=0.2)
        assert raised.value.id == made.id
        assert raised.value.details["status"] in ("queued", "running")
        monkeypatch.setattr("dispatcher.client.sync.HOLD_S", 1)
        lossy.lost = 1
        with pytest.raises(Unreachable):
            client.wait_job(made.id)  # it was never seen
        seen = list[int]()

        def look(response: httpx.Response) -> None:
            seen.append(response.status_code)
            if len(seen) == 1:  # from now on answers are lost, before the upstream's one comes
                lossy.lost = 3
                upstream.go.set()

        client._http.event_hooks = {"response": [look]}
        assert client.wait_job(made.id, timeout=60).output == {"a": 1}
        assert (len(seen), lossy.lost) == (2, 0)


def test_a_wait_has_an_end_whatever_the_service_does() -> None:
    """Also where it says nothing at all: WaitTimeout in time, with the id."""

    def silent(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("nothing came", request=request)

    begun_s = time.monotonic()
    transport = httpx.MockTransport(silent)
    client = Client("http://postback.test", "k", transport=transport)
    with client, pytest.raises(WaitTimeout) as raised:
        client.wait_job("job_1", timeout=0.6)
    assert raised.value.id == "job_1"
    assert 0.5 < time.monotonic() - begun_s < 10


def test_a_job_is_cancelled_and_run_again(client: Client, endpoint: Make) -> None:
    """Cancelling what has ended changes nothing; a completed one is run again by force alone."""
    made = client.submit_job(endpoint(paused=True), {"a": 1})
    assert client.cancel_job(made.id, reason="not needed").status == "cancelled"
    assert client.cancel_job(made.id).status == "cancelled"
    client.resume_endpoint(made.endpoint)
    again = client.retry_job(made.id)
    assert (again.run, again.id) == (2, made.id)
    assert client.wait_job(made.id).completed
    with pytest.raises(Conflict):
        client.retry_job(made.id)
    assert client.retry_job(made.id, force=True).run == 3
    assert client.wait_job(made.id).completed
    assert [one.run for one in client.job_attempts(made.id)] == [2, 3]
    (entry,) = client.audit(action="job.cancel")
    assert entry.reason == "not needed"
    with pytest.raises(NotFound):
        client.get_job("job_" + "0" * 32)
    late = client.submit_job(made.endpoint, {}, idempotency_key="k", not_before=60)
    client.cancel_job(late.id)
    with pytest.raises(JobCancelled):
        client.submit_job(made.endpoint, {}, idempotency_key="k", wait=5)


def test_a_full_queue_says_how_full_it_is(
    client: Client, service: Running, tenant: str, endpoint: Make
) -> None:
    """QueueFull has the figures that were measured."""
    name = endpoint(queueMax=1, paused=True)
    client.submit_job(name, 1)
    hasty = Client(service.url, ADMIN_KEY, tenant=tenant, retries=0)
    with hasty, pytest.raises(QueueFull) as raised:
        hasty.submit_job(name, 2)
    error = raised.value
    assert (error.queue_size, error.status) == (1, 429)
    assert error.estimated_wait_s is not None
    assert error.retry_after_s is not None


def test_jobs_are_found_by_filters_over_pages(client: Client, endpoint: Make) -> None:
    """jobs() goes through all pages, newest first; a filter that there is not is refused."""
    name = endpoint()
    made = [
        client.submit_job(name, n, tags={"half": str(n % 2)}, priority="low" if n < 3 else None).id
        for n in range(7)
    ]
    for id in made:
        client.wait_job(id)
    assert [one.id for one in client.jobs()] == made[::-1]
    page = client.jobs_page({"endpoint": name}, limit=5)
    assert len(page.data) == 5
    assert page.next_cursor is not None
    assert len(list(client.jobs(tags={"half": "1"}, status="completed"))) == 3
    assert len(list(client.jobs(priority="low"))) == 3
    assert list(client.jobs(since=datetime.now(UTC) + timedelta(hours=1))) == []
    assert list(client.jobs(reason="attempts")) == []
    for wrong in ({"stauts": "failed"}, {"endpoint": None}, {"tag.team": "a"}):
        with pytest.raises(ValueError, match="filter"):
            client.jobs(**wrong)
        with pytest.raises(ValueError, match="filter"):
            client.cancel_jobs(wrong)  # type: ignore[arg-type]  # that is the point


def test_many_jobs_are_cancelled_and_run_again_at_once(client: Client, endpoint: Make) -> None:
    """A preview changes nothing; a bulk change is watched until it is done."""
    name = endpoint(paused=True)
    made = [client.submit_job(name, n).id for n in range(5)]
    preview = client.preview_jobs("cancel", {"endpoint": name})
    assert (preview.matched, {one.id for one in preview.sample}) == (5, {*made})
    assert {one.status for one in client.jobs(endpoint=name)} == {"queued"}
    sweep = client.cancel_jobs({"endpoint": name}, reason="wrong input")
    last = list(client.watch_sweep(sweep.id))[-1]
    assert (last.what, last.state, last.done, last.skipped) == ("cancel", "completed", 5, 0)
    assert {one.status for one in client.jobs(endpoint=name)} == {"cancelled"}
    client.resume_endpoint(name)
    sweep = client.retry_jobs({"status": "cancelled", "endpoint": name})
    list(client.watch_sweep(sweep.id))
    assert all(client.wait_job(id).completed for id in made)
    assert [one.what for one in client.sweeps()] == ["retry", "cancel"]
    assert client.get_sweep(sweep.id).done == 5
    with pytest.raises(Conflict):
        client.cancel_sweep(sweep.id)
    with pytest.raises(ValidationFailed):
        client.cancel_jobs({})


def test_an_endpoint_is_set_and_tells_its_load(
    client: Client, endpoint: Make, upstream: Model
) -> None:
    """set_endpoint makes one where there is none, and changes it where there is."""
    name = f"{endpoint()}-2"
    with pytest.raises(NotFound):
        client.set_endpoint(name, {"concurrency": 2})
    url = f"{upstream.url}/echo"
    assert client.set_endpoint(name, {"url": url, "concurrency": 2}).rules["concurrency"] == 2
    assert client.set_endpoint(name, {"concurrency": 3}).rules["concurrency"] == 3
    load = client.endpoint_load(name)
    assert (load.queued, load.running, load.wanted) == (0, 0, 0)
    client.wait_job(client.submit_job(name, 1).id)
    (used,) = client.usage(endpoint=name, since=datetime.now(UTC) - timedelta(days=1))
    assert (used.endpoint, used.runs, used.failed) == (name, 1, 0)
    assert client.usage(endpoint=name, until="2026-01-01", since="2026-01-01") == []


async def test_the_asyncio_client_runs_jobs_too(
    service: Running, tenant: str, endpoint: Make
) -> None:
    """The same names, awaited; lists with `async for`."""
    name = endpoint()
    async with AsyncClient(service.url, ADMIN_KEY, tenant=tenant) as other:
        made = await other.submit_job(name, {"a": 1}, wait=30)
        assert made.output is not None
        assert (await other.wait_job(made.id)).output == {"a": 1}
        assert [one.id async for one in other.jobs(endpoint=name)] == [made.id]
        assert len(await other.job_attempts(made.id)) == 1
        assert (await other.job_output(made.id)).json() == {"a": 1}
        slow = await other.submit_job(endpoint(paused=True), {})
        with pytest.raises(WaitTimeout) as raised:
            await other.wait_job(slow.id, timeout=1.5)
        assert raised.value.id == slow.id
        assert (await other.cancel_job(slow.id)).status == "cancelled"
        await other.resume_endpoint(slow.endpoint)
        sweep = await other.retry_jobs({"status": "cancelled"})
        states = [one.state async for one in other.watch_sweep(sweep.id)]
        assert states[-1] == "completed"
        assert (await other.wait_job(slow.id)).completed
        (used,) = await other.usage(endpoint=name)
        assert used.runs == 1


# --- what goes out, and what an answer means, without a service ---


def outcome(call: Call[object], replies: Sequence[Response]) -> PostbackError | Response:
    """What these answers come to."""
    steps = exchange(call, RetryPolicy())
    next(steps)
    for reply in replies:
        try:
            steps.send(reply)
        except StopIteration as end:
            good: Response = end.value
            return good
        except PostbackError as error:
            return error
    raise AssertionError("it wants to go on")


def test_the_end_of_a_job_is_no_lost_answer() -> None:
    """502 and 504 of ours are final; of a proxy they are tried again."""
    ours = b'{"error":"JOB_FAILED","message":"failed","details":{"id":"job_1"},"requestId":"r"}'
    call = submit_job("ep", {}, wait=5)
    error = outcome(call, [Response(status=502, body=b"<html>"), Response(status=502, body=ours)])
    assert isinstance(error, JobFailed)
    assert error.job_id == "job_1"
    late = ours.replace(b"FAILED", b"TIMEOUT")
    assert isinstance(outcome(call, [Response(status=504, body=late)]), JobTimeout)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (job_input("job_1"), InputGone),
        (job_output("job_1"), OutputGone),
        (retry_job("job_1"), InputGone),
    ],
)
def test_what_is_gone_is_named(call: Call[object], kind: type[Gone]) -> None:
    """PAYLOAD_GONE of a job is its input's or its output's."""
    body = b'{"error":"PAYLOAD_GONE","message":"gone","details":{},"requestId":"r"}'
    error = outcome(call, [Response(status=410, body=body)])
    assert type(error) is kind


def test_options_of_a_submit_go_out_in_headers() -> None:
    """Times without exponents, pairs percent-encoded, a policy as JSON in ASCII."""
    call = submit_job(
        "document-gen",
        {"a": 1},
        destination="billing",
        policy={"attempts": 3, "note": "é"},
        callback_headers={"X-A": "b c"},
        priority="low",
        tags={"a,b": "c=d", "é": ""},
        function="run",
        not_before=datetime(2026, 1, 31, 12, tzinfo=UTC),
        timeout=0.00001,
        ttl="2h",
        idempotency_key="k",
        wait=2.5,
    )
    assert (call.path, call.body, call.content_type) == (
        "/endpoints/document-gen/jobs", b'{"a":1}', "application/json",
    )  # fmt: skip
    assert dict(call.headers) == {
        "Postback-Destination": "billing",
        "Postback-Policy": '{"attempts":3,"note":"\\u00e9"}',
        "Postback-Callback-Headers": "X-A=b%20c",
        "Postback-Priority": "low",
        "Postback-Tags": "a%2Cb=c%3Dd, %C3%A9=",
        "Postback-Function": "run",
        "Postback-Not-Before": "2026-01-31T12:00:00+00:00",
        "Postback-Timeout": "0",
        "Postback-Ttl": "2h",
        "Idempotency-Key": "k",
        "Prefer": "wait=3",
    }
    assert dict(submit_job("ep", 1, not_before=3600.5).headers)["Postback-Not-Before"] == "3600.5"
    assert dict(submit_job("ep", 1, ttl=100).headers)["Postback-Ttl"] == "100"
    assert (get_job("job_1", hold_s=5).params, get_job("job_1").params) == ((("wait", "5"),), ())


@pytest.mark.parametrize(
    "wrong",
    [
        {"callback_url": "https://example.com/\r\nX-Evil: 1"},
        {"callback_url": "https://exämple.com/"},
        {"function": "a\nb"},
        {"timeout": "15m\r\n"},
        {"idempotency_key": "a b"},
        {"content_type": "text/plain\r\nX: y"},
    ],
)
def test_what_no_header_can_carry_is_refused(wrong: dict[str, str]) -> None:
    """A ValueError before anything is sent."""
    with pytest.raises(ValueError, match="ASCII"):
        submit_job("ep", {}, **wrong)  # type: ignore[arg-type]  # texts, all of them


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object(), "\ud800"])
def test_an_input_that_is_not_json_is_refused(value: object) -> None:
    """NaN would otherwise become null without a word."""
    with pytest.raises((ValueError, TypeError)):
        submit_job("ep", value)
