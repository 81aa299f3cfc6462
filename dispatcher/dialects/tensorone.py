"""TensorOne's words for a job: its states are ours, times are ISO-8601, durations seconds. Pure."""

import math

from dispatcher import ids
from dispatcher.dialects.snapshot import Payload, Snapshot, output_value, written
from dispatcher.jobs import progress
from dispatcher.jobs.told import error_text, to_json
from receiver.base.clock import iso


def payload(shown: Snapshot) -> Payload:
    """Return what a callback says of an end."""
    return Payload(document(shown))


def document(shown: Snapshot, more: str = "") -> bytes:
    """Return what is said of a job that has ended. `more` are members that come last: each with a
    comma before it."""
    job, end = shown.job, shown.end
    # What is put together here holds nothing that JSON would escape: ids, words, names, numbers.
    head = f'{{"jobId":"{shown.id}","status":"{shown.state}","output":'
    tail = (
        f',"executionTime":{shown.ran_ms / 1000},"completedAt":"{iso(shown.at_ms)}",'
        f'"cost":{0.0 if end is None else end.cost},'
        f'"tags":{to_json(dict(job.tags)) if job.tags else "{}"}{more}'
    )
    error = None if end is None else error_text(end)
    if error is not None:
        tail += f',"error":{to_json(error)}'
    return head.encode() + output_value(shown) + tail.encode(errors="replace") + b"}"


def status(shown: Snapshot, estimated_completion: str | None = None) -> bytes:
    """Return what is said of a job to who asks: of one that has ended all that its callback says,
    and more."""
    job = shown.job
    more = (
        f',"endpointId":"{job.endpoint}","priority":"{job.priority}",'
        f'"createdAt":"{iso(job.created_ms)}"'
    )
    if job.started_ms is not None:
        more += f',"startedAt":"{iso(job.started_ms)}"'
    if shown.end is not None:
        return document(shown, more)
    known = shown.progress
    if known is not None:
        more += "".join(f',"{name}":{value}' for name, value in progress.document(known).items())
    if estimated_completion is not None:
        more += f',"estimatedCompletion":"{estimated_completion}"'
    head = f'{{"jobId":"{shown.id}","status":"{shown.state}","tags":'
    return head.encode() + written(dict(job.tags)) + more.encode(errors="replace") + b"}"


def going(shown: Snapshot, output: bytes | None = None, more: str = "") -> bytes:
    """Return what a callback says of a job that runs: as its status, with a piece of its `output`
    as JSON, and `more` members, each with a comma before it."""
    said = status(shown)[:-1] + more.encode()
    return (said if output is None else said + b',"output":' + output) + b"}"


def chunk(job: str, index: int, value: bytes) -> bytes:
    """Return what is said of one chunk of an answer that comes in chunks."""
    head = f'{{"jobId":"{ids.spelled(job, "tensorone")}","index":{index},"output":'
    return head.encode() + value + b"}"


def result(shown: Snapshot) -> bytes:
    """Return the answer of who waited for a job that completed."""
    cost = 0.0 if shown.end is None else shown.end.cost
    tail = (
        f',"executionTime":{shown.ran_ms / 1000},"status":"{shown.state}",'
        f'"metadata":{{"jobId":"{shown.id}","cost":{cost}}}}}'
    )
    return b'{"output":' + output_value(shown) + tail.encode()


def size(bytes_count: int) -> str:
    """Return a size as its errors name it: decimal, with one digit behind the point at most."""
    for unit, of in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if bytes_count >= of:
            return f"{math.floor(bytes_count / of * 10) / 10:g}{unit}"
    return f"{bytes_count}B"
