"""Taking jobs in: any body, and what is said of it in headers."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from starlette.responses import Response
from starlette.types import Scope as Asgi

from dispatcher import ids
from dispatcher.api import inputs, job_headers, job_views, outputs, preferences
from dispatcher.api.call import Call, Context
from dispatcher.api.errors import ApiError
from dispatcher.api.json import respond
from dispatcher.api.preferences import Preferences
from dispatcher.api.route import Operation
from dispatcher.jobs.states import FINAL
from dispatcher.jobs.values import Job, Output, SubmittedJob
from dispatcher.wire_jobs import SubmittedJobView
from receiver.base.clock import iso

RETRY_AFTER_S: Final = 1
"""When a status may be worth a look, where nothing better is known."""
ERROR_CHARS_MAX: Final = 2_000
_CODES: Final[Mapping[str, str]] = {
    "failed": "JOB_FAILED",
    "timeout": "JOB_TIMEOUT",
    "cancelled": "JOB_CANCELLED",
}
EMPTY: Final = Output(body=b"", content_type=job_headers.OCTETS)


def refused(context: Context, asgi: Asgi, code: str) -> None:
    """Count a refusal, by endpoints that there are: what is asked for may be anything."""
    name = asgi.get("path_params", {}).get("name", "")
    if context.gateway.book.find(name) is not None:
        context.metrics.job_refused(name, code)


@Operation(
    "POST",
    "/v1/endpoints/{name}/jobs",
    tag="jobs",
    scope="submit",
    refused=refused,
    media=("*/*",),
    parameters=job_headers.PARAMETERS,
    responses={202: SubmittedJobView[str], 200: "*/*"},
    errors=(
        "NOT_FOUND",
        "IDEMPOTENCY_CONFLICT",
        "DESTINATION_DISABLED",
        "PAYLOAD_TOO_LARGE",
        "QUEUE_FULL",
        "RATE_LIMITED",
        "STORAGE_LIMIT_EXCEEDED",
        "LIMIT_REACHED",
        "TENANT_ERASING",
        "JOB_CANCELLED",
        "JOB_FAILED",
        "JOB_TIMEOUT",
        "PAYLOAD_GONE",
        "CANNOT_UNSEAL",
    ),
)
async def submit(call: Call) -> Response:
    """Submit a job.

    The body, of whatever type, is its input, and goes to the endpoint's upstream byte for byte. A
    2xx means that it is on disk. With `Prefer: wait=N` the answer is the upstream's output, with
    200, where that is there in time; 502, 504 or 409 (JOB_FAILED) where the job ended otherwise;
    and else, as without it, 202 with the job's id and a `Location` to ask at.
    """
    name = call.path["name"]
    call.request.check_single(job_headers.SINGLE)
    preferred = preferences.read(call.headers(b"prefer"))
    rules = call.context.job_intake.rules(call.tenant, name)
    async with inputs.received(call, rules) as given:
        submission = job_headers.read(call, name, given)
        call.principal.require_target(submission.destination, submission.callback_url)
        taken = await call.context.job_intake.accept(call.tenant, submission, call.entry)
    if preferred.wait_s is None:
        return _accepted(taken, preferred)
    del submission, given  # nobody's input is held while somebody waits
    call.bodies.give_back(call.request)
    return await _waited(call, taken, preferred)


async def _waited(call: Call, taken: SubmittedJob, preferred: Preferences) -> Response:
    """Return what came of the job in time, else that it is taken."""
    ended = taken.state in FINAL
    if not ended and preferred.wait_s:
        begun_s = time.monotonic()
        waiting = call.context.gateway.waiters.wait(call.tenant, taken.id, preferred.wait_s)
        ended = await call.request.while_there(waiting)
        if not ended and time.monotonic() - begun_s < preferred.wait_s / 2:  # there was no room
            preferred = replace(preferred, wait_s=None)
    if not ended:
        return _accepted(taken, preferred)
    job = await call.context.store.jobs.get(call.tenant, taken.id, output=True)
    headers = _headers(taken.id, preferred)
    if job.state == "completed":
        job_views.check_output(job, "v1")
        output = job.output or EMPTY
        media = job_views.media_headers(output.content_type)
        return await outputs.sent(call, output, headers={**media, **headers})
    if job.state in FINAL:
        raise failed(job, headers)
    return _accepted(taken, preferred)  # somebody has it run again


def _accepted(taken: SubmittedJob, preferred: Preferences) -> Response:
    # Whether a fresh one was started at once is a matter of microseconds, not of its story.
    accepted = SubmittedJobView(
        id=ids.spelled(taken.id, "v1"),
        endpoint=taken.endpoint,
        status=taken.state if taken.duplicate else "queued",
        created_at=iso(taken.created_ms),
        duplicate=taken.duplicate,
    )
    headers = {**_headers(taken.id, preferred), "Retry-After": str(RETRY_AFTER_S)}
    return respond(accepted, 202, headers)


def _headers(id: str, preferred: Preferences) -> dict[str, str]:
    headers = {"Location": f"/v1/jobs/{ids.spelled(id, 'v1')}"}
    if preferred.applied is not None:
        headers["Preference-Applied"] = preferred.applied
    return headers


def failed(job: Job, headers: Mapping[str, str]) -> ApiError:
    """Return the error of a job that was waited for and has no output."""
    error = job_views.error(job) or ""
    details = {
        "id": ids.spelled(job.id, "v1"),
        "status": job.state,
        "reason": job.reason,
        "statusCode": job.status_code,
        "error": error[:ERROR_CHARS_MAX],
    }
    given = {name: value for name, value in details.items() if value is not None}
    return ApiError(_CODES[job.state], f"the job {job.state}", details=given, headers=headers)


OPERATIONS: Final = (submit,)
