"""RunPod's words for a job: states in capitals, durations in whole milliseconds. Pure.

A callback says what a status says: one function makes both.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

from dispatcher.dialects.snapshot import Payload, Snapshot, output_value
from dispatcher.jobs import progress
from dispatcher.jobs.states import JobState
from dispatcher.jobs.told import error_text, to_json

Status = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
STATUS: Final[Mapping[JobState, Status]] = {
    "queued": "IN_QUEUE",
    "running": "IN_PROGRESS",
    "completed": "COMPLETED",
    "failed": "FAILED",
    "cancelled": "CANCELLED",
    "timeout": "TIMED_OUT",
}
RETRYABLE: Final[frozenset[JobState]] = frozenset({"failed", "timeout"})
"""What there may be run again; with us more may."""


def payload(shown: Snapshot) -> Payload:
    """Return what a callback says of an end."""
    return Payload(document(shown))


def going(shown: Snapshot, output: bytes | None = None) -> bytes:
    """Return what a callback says of a job that runs: as its status, whose output is a piece of its
    `output`, where there is one, as JSON."""
    return document(shown) if output is None else _head(shown) + b',"output":' + output + b"}"


def document(shown: Snapshot) -> bytes:
    """Return what is said of a job. `output` stands there once there is one, and while it runs what
    was reported of its progress; `error` where it ended otherwise, and `retries` from its second
    run on."""
    said = _head(shown)
    if shown.end is None and shown.state == "running" and shown.progress is not None:
        known = progress.document(shown.progress).items()
        if known:
            members = ",".join(f'"{name}":{value}' for name, value in known)
            said += f',"output":{{{members}}}'.encode(errors="replace")
    if shown.end is not None:
        if shown.state == "completed" and shown.end.output is not None:
            said += b',"output":' + output_value(shown)
        error = error_text(shown.end)
        if error is not None:
            said += f',"error":{to_json(error)}'.encode(errors="replace")
    return said + b"}"


def summary(shown: Snapshot) -> bytes:
    """Return what is said of a job without what came of it."""
    return _head(shown) + b"}"


def _head(shown: Snapshot) -> bytes:
    """Return the members that come first. `delayTime` is how long its run waited for its start, or
    for an end without one; `executionTime` how long it has been going since."""
    job = shown.job
    # Ids, words and numbers: nothing that JSON would escape.
    head = f'{{"id":"{shown.id}","status":"{STATUS[shown.state]}"'
    if shown.state != "queued":
        began_ms = shown.at_ms if job.started_ms is None else job.started_ms
        head += f',"delayTime":{max(0, began_ms - job.queued_ms)}'
        head += f',"executionTime":{shown.ran_ms}'
    if job.run > 1:
        head += f',"retries":{job.run - 1}'
    return head.encode()


def streamed(state: JobState, values: Iterable[bytes]) -> bytes:
    """Return one answer of a stream: the state, and what is new, each a JSON value."""
    new = b",".join(b'{"output":%b}' % value for value in values)
    return f'{{"status":"{STATUS[state]}","stream":['.encode() + new + b"]}"
