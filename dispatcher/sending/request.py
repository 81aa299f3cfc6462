"""What goes out in one call of an upstream: its URL, its headers, its body."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cache
from typing import Final, TypeAlias

import msgspec
from yarl import URL

from dispatcher import signing
from dispatcher.ids import spelled
from dispatcher.jobs import kinds
from dispatcher.jobs.blobs import Spool
from dispatcher.jobs.chunks import Sink
from dispatcher.jobs.endpoint import Body, EndpointRules, HeaderValue, LocalRef, StopCall
from dispatcher.jobs.judge import is_last_attempt
from dispatcher.jobs.rules import FUNCTION
from dispatcher.jobs.values import ClaimedJob, Dialect
from dispatcher.sending.egress import parse_url
from dispatcher.sending.guard import url_of
from dispatcher.signing import STORED_SECRETS, LongSignature, Secrets
from dispatcher.values import SecretRef
from receiver.base.clock import iso
from receiver.base.lack import OwnLack
from receiver.base.value import frozen
from receiver.signature import (
    ID_HEADER,
    JOB_HEADERS,
    PREVIOUS_SUFFIX,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    Job,
)

Resolve: TypeAlias = Callable[[SecretRef | LocalRef], Awaitable[str]]
"""Gives the value that a header's reference names, without its prefix. Raises OwnLack."""

# What only the connection is about, or would change how a request or an answer is framed or coded;
# `Expect` among them, since who waits for a 100 that does not come waits for nothing.
_FRAMING: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# What the caller said to us, and not to the upstream.
_CALLERS_OWN: Final = frozenset({"authorization", "cookie", "host"})
_OURS: Final = (
    "x-job-id",
    "x-job-run",
    "x-job-attempt",
    "x-job-last-attempt",
    "x-job-deadline",
    "x-job-function",
    "x-job-progress-url",
    "x-job-complete-url",
    "idempotency-key",
    ID_HEADER,
    TIMESTAMP_HEADER,
    SIGNATURE_HEADER,
    *JOB_HEADERS,
)
_AUTO: Final[dict[Dialect, Body]] = {
    "v1": "raw",
    "cerebrium": "raw",
    "tensorone": "input",
    "runpod": "envelope",
}
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_SPACE: Final = b" \t\r\n"
_JSON: Final = kinds.JSON
_AT_ONCE: Final = ("Prefer", "respond-async")  # before it ends
_WHOLE: Final = msgspec.json.Decoder(msgspec.Raw)
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Long:
    """A body that is read where it is kept, part by part, each time that it is asked for."""

    size: int
    parts: Callable[[], AsyncGenerator[bytes, None]] = field(repr=False)


@frozen
class UpstreamCall:
    """One call: of which job, by which rules, and until when at most (`judge.deadline_ms`).
    `secrets` sign it; without any it goes out unsigned. `progress_url` and `complete_url` are where
    its upstream tells of it, if it may. `on_sent` is called, if given, once the request is out
    whole, or is made and is short: this call needs its job's body no more. An answer
    that comes in chunks goes to `sink` as it comes; without one it is read whole. A long one goes
    to `spool` as it comes; without one it is held in memory."""

    job: ClaimedJob
    rules: EndpointRules
    deadline_ms: int
    secrets: Secrets | None = None
    on_sent: Callable[[], None] | None = None
    progress_url: str | None = field(default=None, repr=False)
    complete_url: str | None = field(default=None, repr=False)
    sink: Sink | None = None
    spool: Spool | None = None
    long: Long | None = None


@dataclass(slots=True, kw_only=True)
class Request:
    """One request as it goes out; its body is there until it is out. One with a `long` body has
    that instead."""

    method: str
    url: URL
    headers: list[tuple[str, str]]
    body: bytes | None
    long: Long | None = None


async def request_of(
    call: UpstreamCall, resolve: Resolve, *, now_ms: int, sha256_header: str
) -> Request:
    """Return the request of a call. Raises UrlRefused, and OwnLack for a header whose value cannot
    be had, or cannot be sent.

    `Idempotency-Key` and `webhook-id` are one text: the job's id as its dialect spells it, from run
    2 on with `-run` behind it. It is the same over all attempts of a run, so that whoever dedupes
    by either attaches a repeated call to the first.
    """
    job, rules, long = call.job, call.rules, call.long
    body, content_type = body_of(job, rules.body) if rules.kind == "http" else _wrapped(call)
    headers = await _given(call, resolve, content_type, sha256_header.lower())
    function = job.options.function
    if function is not None and FUNCTION not in call.rules.url:
        headers.append(("X-Job-Function", function))
    _check(headers)  # what others have set; the rest is plain text
    id, key = names_of(job)
    headers += [
        *_numbers(job, id),
        ("X-Job-Attempt", str(job.calls + 1)),
        ("X-Job-Last-Attempt", "true" if is_last_attempt(job, call.rules) else "false"),
        ("X-Job-Deadline", iso(call.deadline_ms)),
        ("Idempotency-Key", key),
    ]
    if call.progress_url is not None and call.complete_url is not None:
        headers += [
            ("X-Job-Progress-Url", call.progress_url),
            ("X-Job-Complete-Url", call.complete_url),
        ]
        if rules.kind == "cog":
            headers.append(_AT_ONCE)
    if call.secrets is not None and long is not None:
        about = Job(id=id, run=job.run)
        headers += await _long_signature(call.secrets, key, about, long, now_ms, sha256_header)
    elif call.secrets is not None:
        headers += signing.headers(
            message_id=key,
            body=body,
            secrets=call.secrets,
            job=Job(id=id, run=job.run),
            now_s=now_ms // 1000,
            sha256_header=sha256_header,
        )
    return Request(
        method=kinds.method_of(rules),
        url=url_of(kinds.url_of(rules, key), function),
        headers=headers,
        body=body or None,
        long=long,
    )


def names_of(job: ClaimedJob) -> tuple[str, str]:
    """Return how a job is known to its upstream, and how its run is: another one for each."""
    id = spelled(job.id, job.dialect, waited=job.options.waited)
    return id, id if job.run == 1 else f"{id}-{job.run}"


def _numbers(job: ClaimedJob, id: str) -> list[tuple[str, str]]:
    return [("X-Job-Id", id), ("X-Job-Run", str(job.run))]


async def stop_of(
    call: UpstreamCall, stop: StopCall, resolve: Resolve, *, now_ms: int, sha256_header: str
) -> Request:
    """Return the request that has an upstream stop working for a call: signed as the call was, with
    its headers where it goes to the same server. Raises what `request_of` does."""
    id, key = names_of(call.job)
    headers = [] if stop.url is not None else await headers_of(call.rules, resolve)
    headers += _numbers(call.job, id)
    if call.secrets is not None:
        headers += signing.headers(
            message_id=key,
            body=b"",
            secrets=call.secrets,
            job=Job(id=id, run=call.job.run),
            now_s=now_ms // 1000,
            sha256_header=sha256_header,
        )
    url = kinds.stop_url(call.rules, stop, job=id, key=key)
    return Request(method=stop.method, url=parse_url(url), headers=headers, body=None)


async def headers_of(rules: EndpointRules, resolve: Resolve) -> list[tuple[str, str]]:
    """Return the headers that an endpoint adds to what it asks of its upstream. Raises OwnLack."""
    headers = [(name, await _value(value, resolve)) for name, value in rules.headers]
    _check(headers)
    return headers


def is_as_stored(job: ClaimedJob, mode: Body) -> bool:
    """Whether a job's body goes to its upstream as it is stored, and need not be there whole."""
    return (_AUTO[job.dialect] if mode == "auto" else mode) == "raw"


async def _long_signature(
    secrets: Secrets, key: str, job: Job, long: Long, now_ms: int, sha256_header: str
) -> list[tuple[str, str]]:
    """Return what signs a long body, which is read once for this and once to be sent."""
    signature = LongSignature(message_id=key, secrets=secrets, job=job, now_s=now_ms // 1000)
    async with aclosing(long.parts()) as parts:
        async for part in parts:
            await asyncio.to_thread(signature.update, part)
    return signature.headers(sha256_header)


async def _given(
    call: UpstreamCall, resolve: Resolve, content_type: str, sha256_header: str
) -> list[tuple[str, str]]:
    """Return the headers that others have set: the endpoint's own win over the caller's, and what
    is ours to say is left out."""
    headers = {"content-type": ("Content-Type", content_type)}
    ours = _reserved(sha256_header)
    for name, value in call.job.options.headers:
        if name.lower() not in ours and name.lower() not in _CALLERS_OWN:
            headers[name.lower()] = (name, value)
    for name, given in call.rules.headers:
        if name.lower() not in ours:
            headers[name.lower()] = (name, await _value(given, resolve))
    return list(headers.values())


@cache  # there is one
def _reserved(sha256_header: str) -> frozenset[str]:
    """Return the names of headers that nobody else may set."""
    return frozenset({*_FRAMING, *_OURS, sha256_header, sha256_header + PREVIOUS_SUFFIX.lower()})


async def _value(given: HeaderValue, resolve: Resolve) -> str:
    return given if isinstance(given, str) else given.prefix + await resolve(given)


def _check(headers: Iterable[tuple[str, str]]) -> None:
    for name, value in headers:
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            raise OwnLack(STORED_SECRETS, f"the header {name!r} has characters that none may have")


def _wrapped(call: UpstreamCall) -> tuple[bytes, str]:
    """Return a job's body as an upstream of a certain kind gets it: its input, and for cog where
    its end is told. What is no JSON goes as it is."""
    value = _input(call.job.body)
    if value is None:
        return call.job.body, call.job.content_type
    if call.rules.kind != "cog" or call.complete_url is None:
        return b'{"input":%b}' % value, _JSON
    told = json.dumps(call.complete_url).encode(), json.dumps(kinds.EVENTS).encode()
    return b'{"input":%b,"webhook":%b,"webhook_events_filter":%b}' % (value, *told), _JSON


def body_of(job: ClaimedJob, mode: Body) -> tuple[bytes, str]:
    """Return a job's body as its upstream gets it, and its type: as it is stored, `input` alone or
    within `{"id", "input"}`, with RunPod's `s3Config` beside it. Values are cut out, never written
    anew. A body that has no `input` is itself the input, and one that is no JSON goes as it is."""
    wanted = _AUTO[job.dialect] if mode == "auto" else mode
    if wanted == "raw":
        return job.body, job.content_type
    value = _input(job.body)
    if value is None:
        return job.body, job.content_type
    if wanted == "input":
        return value, _JSON
    id = json.dumps(spelled(job.id, job.dialect, waited=job.options.waited)).encode()
    if job.secret is None or job.dialect != "runpod":
        return b'{"id":%b,"input":%b}' % (id, value), _JSON
    return b'{"id":%b,"input":%b,"s3Config":%b}' % (id, value, job.secret.encode()), _JSON


def _input(body: bytes) -> bytes | None:
    """Return the text of a JSON object's member `input`, the last one where there are several; the
    whole of other JSON, None of what is none. No value is made of any of it: a long input made of
    tiny ones would keep everybody else waiting for seconds."""
    whole = body.strip(_SPACE)
    try:
        if not whole.isascii():
            whole.decode()
        if not whole.startswith(b"{"):
            _WHOLE.decode(whole)
            return whole
        found = _MEMBERS.decode(whole).get("input")
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    return whole if found is None else bytes(found)
