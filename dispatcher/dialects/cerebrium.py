"""Cerebrium's words for a job: what its upstream answered, and nothing around it. Pure.

A callback is that answer itself, byte for byte; what its job is called and what it came to stands
in headers beside it. Only an end without an answer is told in words of our own, in the one shape of
all errors (D13). A run is shown by the status code of its call, as the platform's own tools do.
"""

from collections.abc import Mapping
from typing import Final

from dispatcher.dialects.snapshot import Payload, Snapshot, reference, written
from dispatcher.jobs.states import JobReason, JobState
from dispatcher.jobs.told import End, error_text
from dispatcher.jobs.values import Output
from dispatcher.values import Headers

REQUEST_ID: Final = "X-Request-Id"
UPSTREAM_STATUS: Final = "X-Postback-Upstream-Status"
OUTPUT: Final = "X-Postback-Output"
REFERENCE: Final = "reference"
"""What `X-Postback-Output` says where a body is not the answer, but tells where that is fetched."""
ERROR_CODES: Final[Mapping[JobState, str]] = {
    "failed": "JOB_FAILED",
    "timeout": "JOB_TIMEOUT",
    "cancelled": "JOB_CANCELLED",
}
CANCELLED: Final = 0
"""The code of a run that was cancelled."""
_LOST: Final = 502
_TOO_LATE: Final = 504
# Whose job failed by its upstream's answer; of others a code may be that of an earlier call.
_BY_ANSWER: Final[frozenset[JobReason]] = frozenset({"rejected", "attempts"})
_EMPTY: Final = Output(body=b"", content_type="application/octet-stream")


def payload(shown: Snapshot) -> Payload:
    """Return what a callback says of an end."""
    end = shown.end or End(state=shown.state)
    headers: Headers = ((REQUEST_ID, shown.id),)
    if end.status_code is not None:
        headers += ((UPSTREAM_STATUS, str(end.status_code)),)
    output = answer(end)
    if output is None:
        return Payload(written(error(shown)), headers=headers)
    if output.is_here and output.size <= shown.payload_max:
        return Payload(output.body, output.content_type, headers)
    return Payload(written(reference(shown, output)), headers=(*headers, (OUTPUT, REFERENCE)))


def answer(end: End) -> Output | None:
    """Return what the upstream said at the end: of a success whatever that is, of a failure what
    its error is. None where there are no words of its own, or the end is none of its making."""
    if end.state == "completed":
        return end.output or _EMPTY
    if end.error is None and end.output is not None and end.output.size:
        return end.output
    return None


def error(shown: Snapshot) -> dict[str, object]:
    """Return what is said of an end without an answer."""
    end = shown.end or End(state=shown.state)
    details: dict[str, object] = {"id": shown.id, "status": end.state}
    if end.reason is not None:
        details["reason"] = end.reason
    if end.status_code is not None:
        details["statusCode"] = end.status_code
    return {
        "error": ERROR_CODES[end.state],
        "message": error_text(end),
        "details": details,
        "requestId": shown.id,
    }


def status_code(end: End) -> int:
    """Return the code of the call that was made for a run, as its caller saw it or would have seen
    it; `CANCELLED` for one that was."""
    if end.state == "cancelled":
        return CANCELLED
    if end.state == "timeout":
        return _TOO_LATE
    code = end.status_code
    if end.state == "completed":
        return 200 if code is None else code
    is_answer = code is not None and not 200 <= code < 300 and end.reason in _BY_ANSWER
    return code if is_answer and code is not None else _LOST


def status(shown: Snapshot) -> str:
    """Return the word for a run: of one that ended what its code says, which is that code itself
    where there is no word for it."""
    if shown.end is None:
        return shown.state
    code = status_code(shown.end)
    if code == CANCELLED:
        return "cancelled"
    if 200 <= code < 300:
        return "success"
    return "failure" if code >= 500 else str(code)
