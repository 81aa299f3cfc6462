"""Jobs: submits, and what comes of them."""

import json
import math
import re
import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, Final, Literal, TypedDict
from urllib.parse import quote

from msgspec import structs

from dispatcher.client.calls import build, read
from dispatcher.client.calls.build import Moment, Policy
from dispatcher.client.errors import BadAnswer, InputGone, OutputGone
from dispatcher.client.events import Event
from dispatcher.client.results import (
    Job,
    JobAttempt,
    JobEvent,
    Payload,
    SubmittedJob,
    Sweep,
    SweepPreview,
    Usage,
)
from dispatcher.client.transport import Call, Response
from dispatcher.ids import parse_job_id
from dispatcher.jobs.states import JobReason, JobState
from dispatcher.jobs.values import JobPriority
from dispatcher.wire import Page

Duration = float | str
"""Seconds, or as `30s`, `15m`, `2h`."""

Change = Literal["cancel", "retry"]

OCTETS: Final = "application/octet-stream"
HOLD_S_MAX: Final = 300
"""The longest that the service holds an answer."""
_OK: Final = 200
_ACCEPTED: Final = 202
_TOLD: Final[tuple[Literal["status", "progress", "output"], ...]] = ("status", "progress", "output")
_HEADER: Final = re.compile(r"[ -~]*")
_LOCATION: Final = re.compile(r"(?:.*/)?v1/jobs/([\w-]{1,64})")
_FILTERS: Final = {
    name: name for name in ("status", "endpoint", "priority", "reason", "since", "until")
} | {"tags": "tag.KEY"}


class JobFilters(TypedDict, total=False):
    """Which jobs; everything given must match. `reason` is what stands beside the state. Otherwise
    as `Filters`."""

    status: JobState
    endpoint: str
    priority: JobPriority
    reason: JobReason
    since: datetime | str
    until: datetime | str
    tags: Mapping[str, str]


# --- submits ---


def submit_job(
    endpoint: str,
    input: Any,
    *,
    content_type: str | None = None,
    callback_url: str | None = None,
    destination: str | None = None,
    policy: Policy | None = None,
    callback_headers: Mapping[str, str] | None = None,
    priority: JobPriority | None = None,
    tags: Mapping[str, str] | None = None,
    function: str | None = None,
    not_before: Moment | None = None,
    timeout: Duration | None = None,
    ttl: Duration | None = None,
    idempotency_key: str | None = None,
    wait: float | None = None,
) -> Call[SubmittedJob]:
    """Hand over a job; when this returns it is safe on the service's disk.

    `input` is any JSON value, or `bytes` of any `content_type` (`application/octet-stream`), which
    go to the endpoint's upstream byte for byte. Its end is told to `callback_url`, or to
    `destination`: a registered name; or it is asked for. `policy` and `callback_headers` are of
    that callback. `not_before` is when it may first run, `timeout` how long a call of it may take,
    `ttl` how long all of it, waiting included: seconds, or as `15m`.

    Each submit has an idempotency key, its own unless one is given: one whose answer was lost is
    sent again, and answered with the first one's id. A key that came before answers so too, with
    `duplicate`. With `wait` the service holds its answer for so many seconds, at most 300: where
    the job ends in time, its `output` is there, or JobFailed, JobTimeout or JobCancelled is raised;
    else it goes on. Raises QueueFull with figures, NotFound, ValidationFailed and others.
    """
    is_raw = isinstance(input, bytes | bytearray | memoryview)
    kind = content_type or (OCTETS if is_raw else build.JSON)
    hold_s = 0 if wait is None else min(max(math.ceil(wait), 0), HOLD_S_MAX)
    options = {
        "Postback-Callback-Url": callback_url,
        "Postback-Destination": destination,
        "Postback-Policy": policy if isinstance(policy, str | None) else _ascii_json(policy),
        "Postback-Callback-Headers": _pairs(callback_headers),
        "Postback-Priority": priority,
        "Postback-Tags": _pairs(tags),
        "Postback-Function": function,
        "Postback-Not-Before": _time(build.moment(not_before)),
        "Postback-Timeout": _time(timeout),
        "Postback-Ttl": _time(ttl),
        "Prefer": None if wait is None else f"wait={hold_s}",
    }
    return Call(
        method="POST",
        path=build.path("endpoints", endpoint, "jobs"),
        read=partial(_read_submitted, endpoint),
        repeatable=True,
        headers=(*_headers(options), *build.key(idempotency_key or uuid.uuid4().hex)),
        body=bytes(input) if is_raw else build.dumps(input),
        content_type=build.content_type(kind),
        hold_s=hold_s,
    )


def _headers(options: Mapping[str, str | None]) -> build.Pairs:
    """Return the headers that are given. Raises ValueError for what none can carry."""
    for name, value in options.items():
        if value is not None and not _HEADER.fullmatch(value):
            raise ValueError(f"{name} must be printable ASCII, and cannot be {value!r}")
    return tuple(build.given(options).items())


def _pairs(given: Mapping[str, str] | None) -> str | None:
    if not given:
        return None
    pairs = (f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in given.items())
    return ", ".join(pairs)


def _ascii_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=dict)


def _time(given: str | float | None) -> str | None:
    """Return a length of time without an exponent, which is no number there."""
    if given is None or isinstance(given, str):
        return given
    return f"{given:.3f}".rstrip("0").rstrip(".")


def _read_submitted(endpoint: str, response: Response) -> SubmittedJob:
    """Return what was taken: with its output, where that is the answer."""
    if response.status == _ACCEPTED:
        return read.decode(response.body, SubmittedJob, response.status)
    found = _LOCATION.fullmatch(response.headers.get("location", ""))
    id = None if found is None else parse_job_id(found[1])
    if found is None or id is None:
        raise BadAnswer.of(response.status, "there is no Location of a job")
    return SubmittedJob(
        id=found[1],
        endpoint=endpoint,
        status="completed",
        created_at=None,
        duplicate=False,
        output=_read_bytes(response),
    )


# --- one job ---


def get_job(id: str, *, hold_s: int = 0) -> Call[Job]:
    """One job with its state, by any spelling of its id; once it has ended, or after `hold_s` (300
    at most). Raises NotFound."""
    params = (("wait", str(hold_s)),) if hold_s else ()
    return Call(
        method="GET",
        path=build.path("jobs", id),
        read=read.json(Job),
        repeatable=True,
        params=params,
        hold_s=hold_s,
    )


def follow_job(id: str, last: str | None = None) -> Call[JobEvent]:
    """Return what a job does as it comes, behind the `last` event that was read, until its end: a
    stream of events."""
    headers = [("Accept", "text/event-stream")]
    if last is not None:
        headers.append(("Last-Event-ID", last))
    return Call(
        method="GET",
        path=build.path("jobs", id, "events"),
        read=read.json(JobEvent),
        repeatable=True,
        headers=tuple(headers),
    )


def read_event(event: Event) -> JobEvent | None:
    """Return an event of such a stream; None for one that is not known here."""
    if event.name == "end":
        ended = read.decode(event.data, Job, _OK)
        return JobEvent(what="end", status=ended.status, run=ended.run, job=ended)
    what = next((one for one in _TOLD if one == event.name), None)
    if what is None:
        return None
    return structs.replace(read.decode(event.data, JobEvent, _OK), what=what)


def job_attempts(
    id: str, *, cursor: str | None = None, limit: int | None = None
) -> Call[Page[JobAttempt]]:
    """Up to `limit` (1 to 500) calls that were made for a job, of all its runs, oldest first, from
    `cursor` on. Raises NotFound."""
    params = build.paging(cursor, limit)
    return build.get(read.page(JobAttempt), "jobs", id, "attempts", params=params)


def job_input(id: str) -> Call[Payload]:
    """Return the bytes that it was submitted with. Raises NotFound, and InputGone once they are
    kept no longer."""
    return _bytes(id, "input", {"PAYLOAD_GONE": InputGone})


def job_output(id: str) -> Call[Payload]:
    """Return what the upstream answered, byte for byte; of a job that failed, its error. Raises
    NotFound, also while there is none, and OutputGone once it is kept no longer."""
    return _bytes(id, "output", {"PAYLOAD_GONE": OutputGone})


def cancel_job(id: str, *, reason: str | None = None) -> Call[Job]:
    """Cancel it at once; its callback says so, and its call is closed. One that has ended stays as
    it is, and is returned. `reason`, here and below, is why: for the audit trail. Raises
    NotFound."""
    return build.post(read.json(Job), "jobs", id, "cancel", repeatable=True, reason=reason)


def retry_job(id: str, *, force: bool = False, reason: str | None = None) -> Call[Job]:
    """Run it again: the same id and input, its next run, with a callback of its own. `force`: also
    where it is completed. Raises NotFound, Conflict (it waits, runs or is completed), InputGone
    and QueueFull."""
    fields = {"force": True} if force else {}
    return Call(
        method="POST",
        path=build.path("jobs", id, "retry"),
        read=read.json(Job),
        repeatable=False,
        headers=build.reasoned(reason),
        body=json.dumps(fields).encode(),
        content_type=build.JSON,
        errors={"PAYLOAD_GONE": InputGone},
    )


def _bytes(id: str, which: str, errors: Mapping[str, Any]) -> Call[Payload]:
    path = build.path("jobs", id, which)
    return Call(method="GET", path=path, read=_read_bytes, repeatable=True, errors=errors)


def _read_bytes(response: Response) -> Payload:
    return Payload(body=response.body, content_type=response.headers.get("content-type", OCTETS))


# --- many ---


def jobs_page(
    filters: JobFilters | None = None, *, cursor: str | None = None, limit: int | None = None
) -> Call[Page[Job]]:
    """Up to `limit` (1 to 500) jobs that match, newest first, from `cursor` on."""
    params = (*_params(filters or {}).items(), *build.paging(cursor, limit))
    return build.get(read.page(Job), "jobs", params=params)


def preview_jobs(change: Change, filters: JobFilters) -> Call[SweepPreview]:
    """Return what would be matched by a `cancel` or a `retry` of everything that matches. Changes
    nothing. Raises ValidationFailed without a filter."""
    fields = {"filter": _params(filters), "dryRun": True}
    return build.post(read.json(SweepPreview), "jobs", change, fields=fields, repeatable=True)


def cancel_jobs(filters: JobFilters, *, reason: str | None = None) -> Call[Sweep]:
    """Cancel everything that matches and waits or runs now, in the background. Raises
    ValidationFailed without a filter, and Conflict where too much of it is under way."""
    return _sweep("cancel", filters, reason)


def retry_jobs(filters: JobFilters, *, reason: str | None = None) -> Call[Sweep]:
    """Run everything again that matches and has failed, timed out or been cancelled, in the
    background; what meets a full queue waits for room. Raises as `cancel_jobs`."""
    return _sweep("retry", filters, reason)


def sweeps(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Sweep]]:
    """Every bulk change of jobs, newest first: cancels, retries and purges."""
    return build.get(read.page(Sweep), "sweeps", params=build.paging(cursor, limit))


def get_sweep(id: str) -> Call[Sweep]:
    """How far a bulk change of jobs is. Raises NotFound."""
    return build.get(read.json(Sweep), "sweeps", id)


def cancel_sweep(id: str, *, reason: str | None = None) -> Call[Sweep]:
    """Change no more of them; what was changed stays. Raises NotFound, and Conflict once it is
    done."""
    return build.post(read.json(Sweep), "sweeps", id, "cancel", reason=reason)


def usage(
    *,
    endpoint: str | None = None,
    since: date | str | None = None,
    until: date | str | None = None,
    cursor: str | None = None,
    limit: int | None = None,
) -> Call[Page[Usage]]:
    """Up to `limit` (1 to 500) of what was used of each endpoint on each day (UTC) from `since` (30
    days ago) to `until` (today), both included, from `cursor` on."""
    given = build.given({"endpoint": endpoint, "since": _day(since), "until": _day(until)})
    params = (*given.items(), *build.paging(cursor, limit))
    return build.get(read.page(Usage), "usage", params=params)


def _day(given: date | str | None) -> str | None:
    if isinstance(given, datetime):
        given = (given.astimezone(UTC) if given.tzinfo else given).date()
    return given.isoformat() if isinstance(given, date) else given


def _sweep(change: Change, filters: JobFilters, reason: str | None) -> Call[Sweep]:
    fields = {"filter": _params(filters)}
    return build.post(read.json(Sweep), "jobs", change, fields=fields, reason=reason)


def _params(filters: JobFilters) -> dict[str, str]:
    return build.filters(filters, _FILTERS, "jobs")
