"""upstream.py with ordinary upstreams: what goes out, what comes back, and what is never sent
twice."""

import asyncio
import json
import socket
import time
from dataclasses import replace
from typing import Any

import pytest

from dispatcher import VERSION
from dispatcher.jobs.endpoint import LocalRef
from dispatcher.jobs.values import JobOptions
from dispatcher.sending.request import body_of
from dispatcher.sending.upstream import CLOSED, INTERRUPTED, UNREACHABLE
from dispatcher.values import SecretRef
from receiver.base.clock import iso
from receiver.base.lack import OwnLack
from receiver.signature import Job, verify
from tests.dispatcher.certificates import server_context, trusting
from tests.dispatcher.peers import (
    OK,
    SECRETS,
    Peer,
    answer,
    answers,
    answers_and_closes,
    deaf,
    hangs_up,
    listening,
    silent,
)
from tests.dispatcher.upstreams import JOB_ID, call, calling, until

V1_ID = f"job_{JOB_ID}"
UUID = f"{JOB_ID[:8]}-{JOB_ID[8:12]}-{JOB_ID[12:16]}-{JOB_ID[16:20]}-{JOB_ID[20:]}"


# --- the request ---


@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
@pytest.mark.parametrize(
    "body", [b"", b'{"a" : 1.0,\r\n "a":\xc3\xa9}', bytes(range(256)), b"x" * (3 * 2**20)]
)
async def test_the_body_arrives_byte_for_byte(body: bytes, method: str) -> None:
    async with listening(answers(OK)) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url, body=body, method=method))

    assert (outcome.kind, outcome.status_code, outcome.sent) == ("answered", 200, True)
    assert peer.received[0].line == f"{method} /hook HTTP/1.1"
    assert peer.received[0].body == body


async def test_a_call_carries_the_headers_of_the_contract_each_once() -> None:
    options = JobOptions(
        headers=(
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("X-Team", "callers"),
            ("Authorization", "Bearer of-the-caller"),
            ("Cookie", "a=b"),
            ("X-Job-Id", "forged"),
            ("Webhook-Id", "forged"),
            ("Expect", "100-continue"),
        )
    )
    asked = call("http://127.0.0.1:0/", run=1, calls=2, tries=1, options=options,
                 content_type="text/csv", secrets=SECRETS,
                 headers=(("x-team", "endpoints"), ("Transfer-Encoding", "chunked")))  # fmt: skip
    async with listening(answers(OK)) as peer, calling() as upstreams:
        asked = call(peer.url, calls=2, tries=1, options=options, content_type="text/csv",
                     secrets=SECRETS, headers=asked.rules.headers)  # fmt: skip
        outcome = await upstreams.call(asked)

    assert outcome.kind == "answered", outcome
    request = peer.received[0]
    names = [name.lower() for name, _ in request.headers]
    assert sorted(names) == sorted(set(names))
    assert request.as_dict == {
        "host": f"127.0.0.1:{peer.port}",
        "user-agent": f"Postback/{VERSION}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "text/csv",
        "content-length": str(len(request.body)),
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-team": "endpoints",
        "x-job-id": V1_ID,
        "x-job-run": "1",
        "x-job-attempt": "3",
        "x-job-last-attempt": "false",
        "x-job-deadline": iso(asked.deadline_ms),
        "idempotency-key": V1_ID,
        "x-postback-job-id": V1_ID,
        "x-postback-job-run": "1",
        **{name: request.as_dict[name] for name in names if "webhook-" in name},
    }


async def test_an_upstream_verifies_a_call_with_the_receivers_verifier_and_can_dedupe_it() -> None:
    """`webhook-id` is the `Idempotency-Key`: the same over the attempts of a run."""
    async with listening(answers(OK)) as peer, calling() as upstreams:
        each: list[dict[str, Any]] = [{}, {"calls": 1}, {"run": 2}, {"run": 2, "calls": 1}]
        for changes in each:
            await upstreams.call(call(peer.url, secrets=SECRETS, **changes))

    keys = [request.header("Idempotency-Key") for request in peer.received]
    assert keys == [V1_ID, V1_ID, f"{V1_ID}-2", f"{V1_ID}-2"]
    for request, run in zip(peer.received, (1, 1, 2, 2), strict=True):
        verified = verify(request.body, request.headers, SECRETS.current, now_s=time.time())
        assert verified.message_id == request.header("Idempotency-Key")
        assert verified.job == Job(id=V1_ID, run=run)
        assert request.header("X-Job-Run") == str(run)


async def test_a_call_without_secrets_goes_unsigned() -> None:
    async with listening(answers(OK)) as peer, calling() as upstreams:
        await upstreams.call(call(peer.url))

    assert not [name for name, _ in peer.received[0].headers if "webhook" in name.lower()]


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({}, "false"),
        ({"tries": 2}, "true"),
        ({"once": True}, "true"),
        ({"options": JobOptions(sync=True)}, "true"),
        ({"attempts": 1}, "true"),
    ],
)
async def test_the_last_attempt_is_the_one_that_is_not_repeated(changes: Any, last: str) -> None:
    async with listening(answers(OK)) as peer, calling() as upstreams:
        await upstreams.call(call(peer.url, **changes))

    assert peer.received[0].header("X-Job-Last-Attempt") == last


@pytest.mark.parametrize(
    ("path", "function", "line", "header"),
    [
        ("/run/{function}", "a/b c", "POST /run/a%2Fb%20c HTTP/1.1", None),
        ("/?f={function}&g={function}", "x", "POST /?f=x&g=x HTTP/1.1", None),
        ("/", "x", "POST / HTTP/1.1", "x"),
        ("/", None, "POST / HTTP/1.1", None),
    ],
)
async def test_the_function_replaces_its_place_in_the_url_else_it_is_a_header(
    path: str, function: str | None, line: str, header: str | None
) -> None:
    async with listening(answers(OK)) as peer, calling() as upstreams:
        url = f"http://127.0.0.1:{peer.port}{path}"
        await upstreams.call(call(url, options=JobOptions(function=function)))

    assert peer.received[0].line == line
    assert peer.received[0].header("X-Job-Function") == header


@pytest.mark.parametrize(
    ("url", "function"),
    [
        ("http://{function}/", "127.0.0.1"),
        ("http://127.0.0.1:9/{function}", None),
        ("http://127.0.0.1:9/{function}/", ".."),
        ("ftp://127.0.0.1/", None),
    ],
)
async def test_a_url_that_cannot_be_made_is_not_sent(url: str, function: str | None) -> None:
    async with calling() as upstreams:
        outcome = await upstreams.call(call(url, options=JobOptions(function=function)))

    assert (outcome.kind, outcome.sent, outcome.error) == ("not_sent", False, UNREACHABLE)


DIGITS = b"9" * 5_000
TINY = b"[" + b",".join([b"[]"] * 3_400_000) + b"]"
INPUT = b'{"input": {"a" : 1.10, "b":[1e400]} , "webhook":"x"}'


@pytest.mark.parametrize(
    ("dialect", "mode", "body", "sent"),
    [
        ("v1", "auto", INPUT, INPUT),
        ("cerebrium", "auto", INPUT, INPUT),
        ("tensorone", "auto", INPUT, b'{"a" : 1.10, "b":[1e400]}'),
        ("runpod", "auto", INPUT, b'{"id":"%b","input":{"a" : 1.10, "b":[1e400]}}' % UUID.encode()),
        ("v1", "input", INPUT, b'{"a" : 1.10, "b":[1e400]}'),
        ("v1", "envelope", b" [1] ", b'{"id":"%b","input":[1]}' % V1_ID.encode()),
        ("v1", "input", b'{"a":1,"input":1,"b":{"input":3},"input":2}', b"2"),
        ("v1", "input", b'{"a":1}', b'{"a":1}'),
        ("v1", "input", b"{}", b"{}"),
        ("v1", "input", b"no json", b"no json"),
        ("v1", "input", rb'{"\u0069nput": [1] }', b"[1]"),
        ("v1", "input", b'{"input":%b}' % DIGITS, DIGITS),
        ("v1", "input", b'{"input":"\xff"}', b'{"input":"\xff"}'),
        ("v1", "envelope", b"\xff", b"\xff"),
        ("v1", "envelope", b"[" * 100_000, b"[" * 100_000),
        ("v1", "input", b'{"input":1} x', b'{"input":1} x'),
        ("v1", "raw", INPUT, INPUT),
    ],
)
async def test_the_body_is_what_its_mode_says_and_values_are_never_written_anew(
    dialect: str, mode: str, body: bytes, sent: bytes
) -> None:
    async with listening(answers(OK)) as peer, calling() as upstreams:
        await upstreams.call(call(peer.url, dialect=dialect, mode=mode, body=body))

    assert peer.received[0].body == sent


def test_no_long_input_holds_up_everybody_else() -> None:
    """Nothing but tiny values: it is cut out without making any of them, which would take many
    seconds."""
    job, begun_s = (
        call("http://127.0.0.1", body=b'{"a":1,"input":%b}' % TINY).job,
        time.process_time(),
    )
    assert body_of(job, "input") == (TINY, "application/json")
    assert time.process_time() - begun_s < 3.0


async def test_values_of_headers_are_read_when_the_call_is_made() -> None:
    async def resolve(ref: SecretRef | LocalRef) -> str:
        return f"{type(ref).__name__}-{ref.name}"

    headers = (
        ("Authorization", SecretRef("token", "Bearer ")),
        ("X-Env", LocalRef("env", "DISPATCHER_UPSTREAM_A")),
        ("X-Plain", "plain"),
    )
    async with listening(answers(OK)) as peer, calling(resolve) as upstreams:
        await upstreams.call(call(peer.url, headers=headers))

    request = peer.received[0]
    assert request.header("Authorization") == "Bearer SecretRef-token"
    assert request.header("X-Env") == "LocalRef-DISPATCHER_UPSTREAM_A"
    assert request.header("X-Plain") == "plain"


@pytest.mark.parametrize(
    "value", [OwnLack("stored_secrets", "it has no value"), RuntimeError("database"), "a\r\nX: b"]
)
async def test_without_a_value_nothing_goes_out(value: Any) -> None:
    """It is our own lack; the tenant does not see which header it was."""

    async def resolve(ref: SecretRef | LocalRef) -> str:
        if isinstance(value, str):
            return value
        raise value

    async with listening(answers(OK)) as peer, calling(resolve) as upstreams:
        outcome = await upstreams.call(call(peer.url, headers=(("X-Token", SecretRef("t")),)))

    assert (outcome.kind, outcome.sent, outcome.lack) == ("interrupted", False, "stored_secrets")
    assert outcome.error == INTERRUPTED
    assert outcome.detail
    assert peer.connections == 0


# --- the answer ---


async def test_an_answer_is_its_bytes_its_type_and_an_allow_list_of_its_headers() -> None:
    raw = answer(
        "200 OK",
        'Content-Type: application/json; charset="utf-8"',
        "X-Request-Id: r1",
        "Set-Cookie: a=b",
        "Server: secret/1.0",
        "Content-Disposition: attachment; filename=a.json",
        body=b'{"a" : 1}\n',
    )
    async with listening(answers(raw)) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url))

    assert outcome.output is not None
    assert outcome.output.body == b'{"a" : 1}\n'
    assert outcome.output.content_type == 'application/json; charset="utf-8"'
    assert outcome.output.headers == (
        ("content-disposition", "attachment; filename=a.json"),
        ("x-request-id", "r1"),
    )
    assert not outcome.no_retry
    assert outcome.retry_after_ms is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Content-Type: \xff\xfe\r\n",
        b"Content-Type: " + b"a" * 300 + b"/b\r\n",
        b"Content-Type: json\r\n",
        b"Content-Type: a/b<script>\r\n",
    ],
)
async def test_a_type_that_is_none_is_that_of_any_bytes(value: bytes) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + value + b"Content-Length: 1\r\n\r\nx"
    async with listening(answers(raw)) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url))

    assert outcome.output is not None
    assert outcome.output.content_type == "application/octet-stream"


@pytest.mark.parametrize(
    ("headers", "wait_ms", "no_retry"),
    [
        (("Retry-After: 120",), 120_000, False),
        (("Retry-After: 999999999",), 3_600_000, False),
        (("Retry-After: soon",), None, False),
        (("Postback-Retry: no",), None, True),
        (("postback-retry:  NO ",), None, True),
        (("Postback-Retry: yes",), None, False),
    ],
)
async def test_what_an_upstream_says_about_trying_again(
    headers: tuple[str, ...], wait_ms: int | None, no_retry: bool
) -> None:
    """`Retry-After` is capped, and `Postback-Retry: no` is the upstream's word."""
    raw = answer("503 Busy", *headers, body=b"busy")
    async with listening(answers(raw)) as peer, calling(retry_after_max=3_600) as upstreams:
        outcome = await upstreams.call(call(peer.url))

    assert (outcome.kind, outcome.status_code) == ("answered", 503)
    assert (outcome.retry_after_ms, outcome.no_retry) == (wait_ms, no_retry)
    assert outcome.output is not None
    assert outcome.output.body == b"busy"


@pytest.mark.parametrize("size", [0, 1, 100_000, 2**20])
async def test_an_answer_of_up_to_the_limit_is_read_whole(size: int) -> None:
    body = bytes(index % 251 for index in range(size))
    async with listening(answers(answer("200 OK", body=body))) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url))

    assert outcome.output is not None
    assert outcome.output.body == body


async def test_redirects_are_answers_and_are_not_followed() -> None:
    async with listening(answers(OK)) as aim, calling() as upstreams:
        raw = answer("307 There", f"Location: {aim.url}")
        async with listening(answers(raw)) as peer:
            outcome = await upstreams.call(call(peer.url))

    assert (outcome.kind, outcome.status_code) == ("answered", 307)
    assert aim.connections == 0


# --- connections ---


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("size", [0, 20_000, 2**20, 3 * 2**20])
async def test_whoever_asks_is_told_once_an_input_is_needed_no_more(size: int, once: bool) -> None:
    """Long before its call ends; also where little of a large input goes out."""
    told: list[None] = []
    body = json.dumps({"not": "x" * 2**20, "input": "x" * size}).encode()
    async with listening(silent) as peer, calling() as upstreams:
        one = replace(
            call(peer.url, mode="input", body=body, once=once), on_sent=lambda: told.append(None)
        )
        task = asyncio.create_task(upstreams.call(one))
        await until(lambda: bool(told) and bool(peer.received))
        task.cancel()
        assert (await task).kind == "cancelled"

    assert len(told) == 1
    assert peer.received[0].body == json.dumps("x" * size).encode()


async def test_at_least_once_reuses_a_connection_and_at_most_once_never_does() -> None:
    async with listening(answers(OK)) as peer, calling() as upstreams:
        for _ in range(3):
            await upstreams.call(call(peer.url))
        assert peer.connections == 1
        for _ in range(3):
            await upstreams.call(call(peer.url, once=True))

    assert peer.connections == 4
    assert [request.header("Connection") for request in peer.received[3:]] == ["close"] * 3


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET"])
@pytest.mark.parametrize("wait_s", [0.0, 0.05])
async def test_a_pooled_connection_that_was_closed_is_unknown_and_nothing_is_sent_again(
    method: str, wait_s: float
) -> None:
    """The peer closes in the moment the next request is there: it may have handled it."""

    async def closes_on_second(peer: Peer, reader: Any, writer: Any) -> None:
        if peer.connections > 1:
            await answers(OK)(peer, reader, writer)
            return
        await peer.receive(reader)
        writer.write(OK)
        await reader.readexactly(1)
        await asyncio.sleep(wait_s)

    async with listening(closes_on_second) as peer, calling() as upstreams:
        first = await upstreams.call(call(peer.url, method=method))
        second = await upstreams.call(call(peer.url, method=method))

    assert (first.kind, second.kind) == ("answered", "unknown")
    assert second.sent
    assert peer.connections == 1


async def test_a_pooled_connection_that_ended_before_anything_was_written_costs_nothing() -> None:
    """Its peer has sent what nobody asked for: not a byte goes out on it, so that the same call may
    go out on a fresh one."""

    async def speaks_unasked(peer: Peer, reader: Any, writer: Any) -> None:
        if peer.connections > 1:
            await answers(OK)(peer, reader, writer)
            return
        await peer.receive(reader)
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(answer("408 Bye"))
        assert await peer.receive(reader) is None

    async with listening(speaks_unasked) as peer, calling() as upstreams:
        first = await upstreams.call(call(peer.url))
        await asyncio.sleep(0.2)
        second = await upstreams.call(call(peer.url))

    assert (first.status_code, second.status_code) == (200, 200)
    assert (peer.connections, len(peer.received)) == (2, 2)


@pytest.mark.parametrize("once", [False, True])
async def test_a_fresh_connection_that_is_closed_is_not_tried_again(once: bool) -> None:
    async with listening(hangs_up) as peer, calling() as upstreams:
        outcome = await upstreams.call(call(peer.url, once=once))

    assert outcome.kind == "unknown"
    assert len(peer.received) == peer.connections == 1


async def test_calls_are_not_limited_by_host() -> None:
    """A hundred that say nothing keep none other waiting."""
    async with listening(silent) as dead, calling() as upstreams:
        stuck = [
            asyncio.create_task(upstreams.call(call(dead.url, limit_s=60))) for _ in range(100)
        ]
        await until(lambda: len(dead.received) == len(stuck))
        async with listening(answers(OK)) as peer:
            outcome = await upstreams.call(call(peer.url))
        for task in stuck:
            task.cancel()
        outcomes = await asyncio.gather(*stuck)

    assert outcome.kind == "answered"
    assert {one.kind for one in outcomes} == {"cancelled"}


# --- cancelling ---


@pytest.mark.parametrize("raw", [None, b"", b"HTTP/1.1 200 OK\r\n\r\nabc"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_cancelled_call_returns_when_its_connection_is_closed(
    raw: bytes | None, scheme: str, tmp_path: Any
) -> None:
    """Whether it waits for a connection, for an answer or for its end; the task goes on."""
    server, certificate = server_context(tmp_path)
    begun, gone = asyncio.Event(), asyncio.Event()

    async def behave(peer: Peer, reader: Any, writer: Any) -> None:
        if raw is None:
            begun.set()
            await asyncio.Event().wait()
        await peer.receive(reader)
        writer.write(raw)
        await writer.drain()
        begun.set()
        await reader.read()
        gone.set()

    upstreams: Any
    tls = server if scheme == "https" and raw is not None else None
    async with (
        listening(behave, tls=tls) as peer,
        calling(tls=trusting(certificate)) as upstreams,
    ):
        url = f"{scheme}://127.0.0.1:{peer.port}/"

        async def work() -> tuple[Any, int]:
            outcome = await upstreams.call(call(url, limit_s=60))
            await asyncio.sleep(0)  # it may wait again: it is not being cancelled any more
            task = asyncio.current_task()
            assert task is not None
            return outcome, task.cancelling()

        task = asyncio.create_task(work())
        await begun.wait()
        await asyncio.sleep(0.05)
        task.cancel()
        outcome, cancelling = await asyncio.wait_for(task, 5)
        if raw is not None:
            await asyncio.wait_for(gone.wait(), 5)

    assert (outcome.kind, outcome.error) == ("cancelled", CLOSED)
    assert outcome.sent == (raw is not None or scheme == "http")
    assert cancelling == 0


async def test_a_call_that_is_cancelled_twice_ends_once() -> None:
    async with listening(silent) as peer, calling() as upstreams:
        task = asyncio.create_task(upstreams.call(call(peer.url, limit_s=60)))
        await until(lambda: bool(peer.received))
        task.cancel()
        asyncio.get_running_loop().call_soon(task.cancel)
        outcome = await asyncio.wait_for(task, 5)

    assert outcome.kind == "cancelled"


async def test_a_request_that_is_not_read_does_not_keep_a_cancelled_call() -> None:
    async with listening(deaf) as peer, calling() as upstreams:
        task = asyncio.create_task(upstreams.call(call(peer.url, body=b"x" * 2**24, limit_s=60)))
        await asyncio.sleep(0.2)
        task.cancel()
        outcome = await asyncio.wait_for(task, 2)

    assert (outcome.kind, outcome.sent) == ("cancelled", True)


async def test_calls_that_run_at_the_end_have_an_outcome() -> None:
    async with listening(silent) as peer, calling() as upstreams:
        task = asyncio.create_task(upstreams.call(call(peer.url, limit_s=60)))
        await until(lambda: bool(peer.received))
        await upstreams.close()
        outcome = await asyncio.wait_for(task, 5)

    assert outcome.kind == "unknown"


# --- names ---


async def test_a_name_is_looked_up_and_one_that_there_is_not_was_not_sent() -> None:
    def lookup(host: str) -> tuple[str, ...]:
        if host == "model.internal":
            return ("127.0.0.1",)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    async with listening(answers(OK)) as peer, calling(lookup=lookup) as upstreams:
        known = await upstreams.call(call(f"http://model.internal:{peer.port}/"))
        unknown = await upstreams.call(call(f"http://other.internal:{peer.port}/"))

    assert known.kind == "answered"
    assert (unknown.kind, unknown.sent, unknown.error) == ("not_sent", False, UNREACHABLE)


async def test_tls_that_is_not_trusted_was_not_sent(tmp_path: Any) -> None:
    server, certificate = server_context(tmp_path)
    async with listening(answers(OK), tls=server) as peer:
        async with calling() as upstreams:
            strange = await upstreams.call(call(peer.url))
        async with calling(tls=trusting(certificate)) as upstreams:
            trusted = await upstreams.call(call(peer.url))

    assert (strange.kind, strange.sent, strange.error) == ("not_sent", False, UNREACHABLE)
    assert "certificate" in (strange.detail or "").lower()
    assert trusted.kind == "answered"


# --- test calls ---


async def test_a_test_call_tells_an_operator_where_it_went_and_how_long_it_took() -> None:
    async with listening(answers(answer("200 OK", body=b"fine"))) as peer, calling() as upstreams:
        told = await upstreams.test(call(peer.url).rules, secrets=SECRETS, body=b'{"a":1}')
        asleep = await upstreams.test(call(peer.url).rules, path="/sleep?s=1")

    assert told.outcome.kind == asleep.outcome.kind == "answered"
    assert told.address == "127.0.0.1"
    assert told.connected_ms is not None
    assert told.head_ms is not None
    assert 0 < told.connected_ms < told.head_ms <= told.outcome.duration_ms + 1
    assert told.advice is None
    assert peer.received[0].body == b'{"a":1}'
    assert peer.received[0].header("webhook-signature")
    assert peer.received[1].line == "POST /sleep?s=1 HTTP/1.1"


async def test_a_test_call_tells_an_operator_why_it_was_not_sent() -> None:
    async with calling() as upstreams:
        told = await upstreams.test(call("http://127.0.0.1:1/").rules)

    assert told.outcome.kind == "not_sent"
    assert "Connect call failed" in (told.outcome.detail or "")
    assert (told.address, told.connected_ms, told.head_ms) == (None, None, None)


async def test_broken_answers_of_a_kept_connection_end_it() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
    async with listening(answers_and_closes(raw)) as peer, calling() as upstreams:
        for _ in range(2):
            assert (await upstreams.call(call(peer.url))).kind == "broken_off"

    assert peer.connections == 2
