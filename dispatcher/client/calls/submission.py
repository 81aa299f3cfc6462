"""Submits of callbacks, one by one and in batches."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final

import msgspec

from dispatcher.client.calls import build, read
from dispatcher.client.calls.build import Moment, Policy
from dispatcher.client.errors import BadAnswer, PostbackError, error_from
from dispatcher.client.results import Submitted
from dispatcher.client.transport import Call, Response
from dispatcher.values import Priority

NDJSON: Final = "application/x-ndjson"


class LineResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one callback of a batch came to: `n` is its place from 1; `submitted` or `error` is
    set. `raw` is the service's own line about it, numbered as the service saw it."""

    n: int
    submitted: Submitted | None = None
    error: PostbackError | None = None
    raw: bytes = b""

    def after(self, lines: int) -> "LineResult":
        """Return the same result, `lines` further down."""
        return msgspec.structs.replace(self, n=self.n + lines)


@dataclass(frozen=True, slots=True)
class Submission:
    """One callback for `submit_many`. `payload` is any JSON value, or `bytes`: JSON text that is
    to be delivered byte for byte. Give `callback_url`, or `destination`: a registered name. `run`
    is which run of the job it was; `not_before` is when it may first be sent."""

    job_id: str
    payload: Any = field(repr=False)
    _: KW_ONLY
    callback_url: str | None = None
    destination: str | None = None
    job_status: str | None = None
    priority: Priority | None = None
    tags: Mapping[str, str] | None = None
    policy: Policy | None = None
    headers: Mapping[str, str] | None = None
    idempotency_key: str | None = None
    run: int | None = None
    not_before: Moment | None = None

    def encode(self) -> bytes:
        """Return a batch line's JSON, in one line unless the payload's own bytes hold line breaks.

        Raises TypeError or ValueError for a payload that is not JSON (NaN, an object, …), also for
        bytes that are not exactly one JSON value: fields of the callback could hide in them.
        """
        fields = {
            "jobId": self.job_id,
            "callbackUrl": self.callback_url,
            "destination": self.destination,
            "jobStatus": self.job_status,
            "priority": self.priority,
            "tags": self.tags,
            "policy": self.policy,
            "headers": self.headers,
            "idempotencyKey": self.idempotency_key,
            "run": self.run,
            "notBefore": build.moment(self.not_before),
        }
        head = build.dumps(build.given(fields), default=dict)
        is_text = isinstance(self.payload, bytes)
        body = build.one_value(self.payload) if is_text else build.dumps(self.payload)
        return head[:-1] + b',"payload":' + body + b"}"


def submit(
    job_id: str,
    payload: Any,
    *,
    callback_url: str | None = None,
    destination: str | None = None,
    job_status: str | None = None,
    priority: Priority | None = None,
    tags: Mapping[str, str] | None = None,
    policy: Policy | None = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    run: int | None = None,
    not_before: Moment | None = None,
) -> Call[Submitted]:
    """Hand over one callback; when this returns it is safe on the service's disk.

    `payload` is any JSON value, or `bytes`: the text of exactly one, delivered byte for byte; what
    is not that raises ValueError. `run` is which run of the job it was, from 1; `not_before` is
    when it may first be sent. Sending it again is safe: the same idempotency key (by default:
    jobId, jobStatus, destination and run) with the same content answers with the first one's id
    and `duplicate`.
    """
    submission = Submission(
        job_id=job_id,
        payload=payload,
        callback_url=callback_url,
        destination=destination,
        job_status=job_status,
        priority=priority,
        tags=tags,
        policy=policy,
        headers=headers,
        run=run,
        not_before=not_before,
    )
    return submit_encoded(submission.encode(), idempotency_key=idempotency_key)


def submit_encoded(body: bytes, *, idempotency_key: str | None = None) -> Call[Submitted]:
    """Hand over one callback whose JSON, as `POST /callbacks` takes it, you have already."""
    return Call(
        method="POST",
        path=build.path("callbacks"),
        read=read.json(Submitted),
        repeatable=True,
        headers=build.key(idempotency_key),
        body=body,
        content_type=build.JSON,
    )


def submit_raw(
    job_id: str,
    body: bytes,
    *,
    content_type: str,
    callback_url: str | None = None,
    destination: str | None = None,
    job_status: str | None = None,
    priority: Priority | None = None,
    idempotency_key: str | None = None,
    run: int | None = None,
    not_before: Moment | None = None,
) -> Call[Submitted]:
    """Hand over any bytes of any content type, delivered byte for byte."""
    params = {
        "jobId": job_id,
        "callbackUrl": callback_url,
        "destination": destination,
        "jobStatus": job_status,
        "priority": priority,
        "run": None if run is None else str(run),
        "notBefore": None if not_before is None else str(build.moment(not_before)),
    }
    return Call(
        method="POST",
        path=build.path("callbacks", "raw"),
        read=read.json(Submitted),
        repeatable=True,
        params=tuple(build.given(params).items()),
        headers=build.key(idempotency_key),
        body=body,
        content_type=build.content_type(content_type),
    )


def submit_batch(lines: Sequence[bytes]) -> Call[list[LineResult]]:
    """Hand over some callbacks in one request, each one line of JSON. A bad line fails alone.
    Raises ValueError for what is no line, or more than one."""
    if not all(line.strip() and b"\n" not in line for line in lines):
        raise ValueError("each callback of a batch is JSON in one line, and none is empty")

    def reads(response: Response) -> list[LineResult]:
        return _read_lines(response, len(lines))

    return Call(
        method="POST",
        path=build.path("callbacks", "batch"),
        read=reads,
        repeatable=True,
        body=b"\n".join(lines) + b"\n",
        content_type=NDJSON,
    )


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a batch's response: a submit's response, or an error with its HTTP status."""

    line: int
    status: int | str
    error: str | None = None


def _read_lines(response: Response, count: int) -> list[LineResult]:
    """Read a batch's response: a line for each of the `count` that were sent, in their order."""
    lines = [line for line in response.body.split(b"\n") if line.strip()]
    results = [_read_line(line, response.status) for line in lines]
    if [result.n for result in results] != list(range(1, count + 1)):
        raise BadAnswer(
            "BAD_ANSWER",
            f"{count} callbacks were sent and {len(results)} answered: send them again",
            details={"sent": count, "answered": len(results)},
            status=response.status,
        )
    return results


def _read_line(line: bytes, status: int) -> LineResult:
    shape = read.decode(line, _Line, status)
    if shape.error is None:
        return LineResult(n=shape.line, submitted=read.decode(line, Submitted, status), raw=line)
    code = shape.status if isinstance(shape.status, int) else status
    error = error_from(code, read.decode(line, dict[str, Any], status))
    return LineResult(n=shape.line, error=error, raw=line)
