"""TensorOne's words for a job: its states are ours, times are ISO-8601, durations seconds. Pure."""

from dispatcher.dialects.snapshot import Payload, Snapshot, output_value
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
