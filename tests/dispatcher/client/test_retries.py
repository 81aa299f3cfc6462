"""When the client tries again, and when it gives up."""

import socket
from collections.abc import Callable, Sequence

import httpx
import pytest

from dispatcher.client import (
    AsyncClient,
    BadAnswer,
    Client,
    LineResult,
    PostbackError,
    QueueFull,
    Submission,
    Unavailable,
    Unreachable,
    ValidationFailed,
)
from dispatcher.client.batches import batch
from dispatcher.client.calls.callback import get, replay
from dispatcher.client.calls.submission import submit
from dispatcher.client.retry import RetryPolicy, exchange
from dispatcher.client.transport import Call, Response, TransportError

FULL = b'{"error":"QUEUE_FULL","message":"full","details":{"queueSize":3},"requestId":"req_1"}'
MADE = {
    "id": "cb_1",
    "jobId": "job_1",
    "status": "pending",
    "createdAt": "2026-01-31T12:00:00.000Z",
    "duplicate": False,
}
SUBMIT = submit("job_1", 1, callback_url="https://example.com/")


def outcome(
    call: Call[object],
    replies: Sequence[Response | TransportError],
    policy: RetryPolicy | None = None,
) -> tuple[list[float], Response | PostbackError]:
    """The waits before each try, and how it ended."""
    steps = exchange(call, policy or RetryPolicy())
    waits = [next(steps)]
    for reply in replies:
        try:
            waits.append(steps.send(reply))
        except StopIteration as end:
            response: Response = end.value
            return waits, response
        except PostbackError as error:
            return waits, error
    raise AssertionError("it wants to go on")


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status: int) -> None:
    """The wait is what the service asks for, in seconds or as a date beside its own clock."""
    busy = Response(status=status, headers={"retry-after": "7"}, body=FULL)
    dated = Response(
        status=status,
        headers={
            "retry-after": "Sat, 31 Jan 2026 12:00:09 GMT",
            "date": "Sat, 31 Jan 2026 12:00:00 GMT",
        },
    )
    waits, end = outcome(SUBMIT, [busy, dated, Response(status=202)])
    assert waits == [0.0, 7.0, 9.0]
    assert isinstance(end, Response)


@pytest.mark.parametrize("text", ["soon", "-1", "1e9", "Sat, 99 Jan", "", "٣٣"])
def test_a_nonsense_retry_after_is_no_wait_without_end(text: str) -> None:
    """What cannot be read counts as not being there."""
    waits, _ = outcome(
        SUBMIT, [Response(status=503, headers={"retry-after": text}), Response(status=202)]
    )
    assert waits[1] <= 60


def test_the_number_of_tries_is_bounded() -> None:
    """After `retries` more tries the last error is raised, typed and complete."""
    busy = Response(status=429, headers={"retry-after": "0"}, body=FULL)
    waits, end = outcome(SUBMIT, [busy] * 3, RetryPolicy(retries=2))
    assert len(waits) == 3
    assert isinstance(end, QueueFull)
    assert (end.code, end.status, end.request_id) == ("QUEUE_FULL", 429, "req_1")
    assert end.details["queueSize"] == 3
    assert end.retry_after_s == 0


def test_the_time_of_all_tries_is_bounded() -> None:
    """A wait that would end after `total_s` is not begun: the error comes at once."""
    busy = Response(status=503, headers={"retry-after": "61"}, body=b"{}")
    waits, end = outcome(SUBMIT, [busy], RetryPolicy(total_s=60))
    assert waits == [0.0]
    assert isinstance(end, Unavailable)


def test_waits_grow_and_are_spread() -> None:
    """Without Retry-After the waits double, within half and one and a half of 0.1 s, 0.2 s, …"""
    lost = TransportError(sent=False, reason="refused")
    waits, end = outcome(SUBMIT, [lost] * 6)
    assert isinstance(end, Unreachable)
    for n, wait in enumerate(waits[1:]):
        assert 0.05 * 2**n <= wait <= 0.15 * 2**n


@pytest.mark.parametrize(("call", "tries"), [(SUBMIT, 2), (get("cb_1"), 2), (replay("cb_1"), 1)])
def test_only_repeatable_calls_are_repeated_after_a_lost_answer(
    call: Call[object], tries: int
) -> None:
    """A submit is known by its key and may go twice; a replay may have been done."""
    replies: list[Response | TransportError] = [
        TransportError(sent=True, reason="reset"),
        Response(status=200),
    ]
    waits, _ = outcome(call, replies[:tries])
    assert len(waits) == tries


def test_what_never_left_is_sent_again_whatever_it_is() -> None:
    """A refused connection has done nothing yet."""
    waits, end = outcome(
        replay("cb_1"), [TransportError(sent=False, reason="no"), Response(status=200)]
    )
    assert len(waits) == 2
    assert isinstance(end, Response)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 500, 507, 302])
def test_other_answers_are_final(status: int) -> None:
    """Trying again would meet the same."""
    waits, end = outcome(SUBMIT, [Response(status=status, body=FULL)])
    assert waits == [0.0]
    assert isinstance(end, PostbackError)
    assert end.status == status


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b'{"error": 1}', b'"\xff"', b"{" * 5_000, b"null"]
)
def test_a_foreign_error_page_is_told_apart(body: bytes) -> None:
    """Whatever a proxy answers becomes BadAnswer with the beginning of its text, also by itself."""
    _, end = outcome(SUBMIT, [Response(status=404, body=body)])
    assert isinstance(end, BadAnswer)
    text = end.details["text"]
    assert body.decode(errors="replace").startswith(text)
    assert str(end).endswith(text or "empty")
    assert len(str(end)) < 400


def answering(*statuses: int, body: object = MADE) -> tuple[httpx.MockTransport, list[bytes]]:
    """A transport with these answers in turn, and the bodies that it was sent."""
    left, seen = list(statuses), list[bytes]()

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.content)
        status = left.pop(0)
        if status == 0:
            raise httpx.ReadError("the connection broke", request=request)
        return httpx.Response(status, json=body, headers={"retry-after": "0"})

    return httpx.MockTransport(answer), seen


def test_a_submit_whose_answer_was_lost_is_sent_again_with_the_same_bytes() -> None:
    """The same bytes make the same default key: the service knows the second one."""
    transport, seen = answering(0, 503, 202)
    with Client("http://postback.test", "k", transport=transport) as client:
        assert client.submit("job_1", 1, callback_url="https://example.com/").id == "cb_1"
    assert len(seen) == 3
    assert len(set(seen)) == 1


async def test_the_asyncio_client_tries_again_too() -> None:
    """Both clients share the rules."""
    transport, seen = answering(429, 0, 202)
    async with AsyncClient("http://postback.test", "k", transport=transport) as client:
        await client.submit("job_1", 1, callback_url="https://example.com/")
    assert len(seen) == 3


def test_an_answer_of_another_shape_is_an_error() -> None:
    """A success that is not Postback's is no success; `details` has why, for programs."""
    transport, _ = answering(200, body={"hello": "world"})
    client = Client("http://postback.test", "k", transport=transport)
    with client, pytest.raises(BadAnswer, match="not this version of Postback's") as caught:
        client.submit("job_1", 1, callback_url="https://example.com/")
    assert str(caught.value).endswith(f": {caught.value.details['reason']}")


def test_a_batch_that_is_not_answered_line_by_line_is_an_error() -> None:
    """No line's result is guessed."""
    transport, _ = answering(200, body=MADE | {"line": 2})
    line = Submission(job_id="job_1", payload=1, callback_url="https://example.com/")
    client = Client("http://postback.test", "k", transport=transport)
    with client, pytest.raises(BadAnswer, match="1 callbacks were sent") as caught:
        list(client.submit_many([line]))
    assert caught.value.details == {"sent": 1, "answered": 1}


def test_nothing_listening_is_unreachable() -> None:
    """The error names the URL and is raised within the client's policy."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        client = Client(url, "secret-key", retries=0)
        with client, pytest.raises(Unreachable, match="cannot connect") as raised:
            client.stats()
    assert url in str(raised.value)
    assert "secret-key" not in repr(raised.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_key_is_in_no_repr(kind: Callable[..., object]) -> None:
    """Nor in what the objects of the client show of themselves."""
    client = kind("http://127.0.0.1:1", "very-secret-key", tenant="acme")
    assert "very-secret-key" not in f"{client!r} {vars(client)!r}"
    assert "acme" in repr(client)


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "é", "x" * 600])
def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it(key: str) -> None:
    """It would otherwise end up in an error of the HTTP library."""
    with pytest.raises(ValueError, match="the API key must be") as raised:
        Client("http://127.0.0.1:1", key)
    assert len(str(raised.value)) < 80


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8600", "ftp://x", "http://", "http://u:p@h", "http://h?x=1", "http://h:99999"],
)
def test_a_url_that_cannot_be_the_services_is_refused(url: str) -> None:
    """At once, and not at the first call."""
    with pytest.raises(ValueError, match="must look like"):
        Client(url, "k")


@pytest.mark.parametrize("payload", [float("nan"), float("inf"), {1, 2}, object(), "\ud800"])
def test_a_payload_that_is_not_json_is_refused_before_it_is_sent(payload: object) -> None:
    """NaN would otherwise become null without a word."""
    with pytest.raises((ValueError, TypeError)):
        submit("job_1", payload, callback_url="https://example.com/")


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256, "a\r\nX: y"])
def test_an_idempotency_key_that_no_header_can_carry_is_refused(key: str) -> None:
    """A ValueError that says what one looks like."""
    with pytest.raises(ValueError, match="visible ASCII"):
        submit("job_1", 1, callback_url="https://example.com/", idempotency_key=key)


@pytest.mark.parametrize("line", [b"", b"  ", b'{"a":\n1}'])
def test_a_batch_line_that_is_none_is_refused(line: bytes) -> None:
    """An empty line would be skipped by the service, a line break would make two."""
    with Client("http://127.0.0.1:1", "k") as client, pytest.raises(ValueError, match="batch"):
        list(client.submit_many([line]))


def test_lines_without_room_go_again_and_the_others_do_not() -> None:
    """A batch's 429 and 503 lines are sent again after the wait they ask for; their neighbours
    keep their results, and the order stays."""
    steps = batch([b"a", b"b", b"c"], RetryPolicy())
    wait_s, call = next(steps)
    assert (wait_s, call.body) == (0.0, b"a\nb\nc\n")
    full = QueueFull("QUEUE_FULL", "full", status=429, details={"retryAfter": 7})
    bad = ValidationFailed("VALIDATION_ERROR", "bad", status=422)
    wait_s, call = steps.send(
        [LineResult(n=1, error=full), LineResult(n=2, error=bad), LineResult(n=3, error=full)]
    )
    assert (wait_s, call.body) == (7.0, b"a\nc\n")
    with pytest.raises(StopIteration) as end:
        steps.send([LineResult(n=1), LineResult(n=2)])
    assert end.value.value == [LineResult(n=1), LineResult(n=2, error=bad), LineResult(n=3)]


@pytest.mark.parametrize(("asked", "retries"), [(61, 0), (None, 3)])
def test_lines_that_never_find_room_are_given_back(asked: int | None, retries: int) -> None:
    """Within the same bounds as any call: then their error is their result."""
    full = QueueFull("QUEUE_FULL", "full", status=429, details={"retryAfter": asked})
    steps = batch([b"a"], RetryPolicy(retries=3, total_s=60))
    next(steps)
    for _ in range(retries):
        steps.send([LineResult(n=1, error=full)])
    with pytest.raises(StopIteration) as end:
        steps.send([LineResult(n=1, error=full)])
    assert end.value.value == [LineResult(n=1, error=full)]
