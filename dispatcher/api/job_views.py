"""Jobs as answers show them. An output that is JSON stands there as its upstream wrote it."""

from typing import Any, Final

import msgspec
from msgspec import Raw

from dispatcher import ids
from dispatcher.api.json import encode
from dispatcher.jobs import told
from dispatcher.jobs.states import FINAL
from dispatcher.jobs.told import End
from dispatcher.jobs.values import Dialect, Job, JobAttempt, Output
from dispatcher.store.errors import PayloadGone
from dispatcher.wire_jobs import JobAttemptView, JobView, OutputRefView
from receiver.base.clock import iso

SHOWN_BYTES_MAX: Final = 1024 * 1024
"""The longest output that a view carries."""
_RAW: Final = msgspec.json.Decoder(Raw)


def shown(output: Output) -> Raw | None:
    """Return what stands in a view for an output: JSON as it is, or text as a string. None for
    anything else, and for what is too long; it is referred to."""
    if output.size > SHOWN_BYTES_MAX or not output.is_here:
        return None
    if told.is_json(output.content_type) and _is_json(output.body):
        return Raw(output.body)
    text = told.as_text(output)
    return None if text is None else Raw(encode(text))


def _is_json(body: bytes) -> bool:
    """Whether it is one JSON document in UTF-8; what only claims to be one would spoil the answer
    that it stood in."""
    try:
        body.decode()
        _RAW.decode(body)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return False
    return True


def media_headers(content_type: str) -> dict[str, str]:
    """Return the headers of an answer that is an output, or an input, as it came."""
    return {
        "Content-Type": content_type,
        # Harmless to whoever opens it in a browser.
        "Content-Disposition": "attachment",
        "X-Content-Type-Options": "nosniff",
    }


def listed(job: Job) -> dict[str, Any]:
    """Return the fields of a job as it is listed."""
    return {
        "id": ids.spelled(job.id, "v1"),
        "endpoint": job.endpoint,
        "status": job.state,
        "reason": job.reason,
        "run": job.run,
        "attempts": job.calls,
        "priority": job.priority,
        "tags": dict(job.tags),
        "created_at": iso(job.created_ms),
        "started_at": iso(job.started_ms),
        "ended_at": iso(job.ended_ms) if job.state in FINAL else None,
        "status_code": job.status_code,
    }


def view(job: Job) -> JobView[str]:
    """Return a job as it is listed."""
    return JobView(**listed(job))


def end(job: Job, url: str, expires_ms: int | None) -> dict[str, Any]:
    """Return the fields that tell what came of a job: its output, or where that is (`url`) until it
    expires, or its error."""
    if job.state not in FINAL:
        return {}
    if job.state != "completed":
        return {"error": error(job)}
    carried = None if job.output is None else shown(job.output)
    if carried is not None:
        return {"output": carried}
    return {"output_ref": reference(job, url, expires_ms)}


def progress(job: Job) -> dict[str, Any]:
    """Return the fields that say what its upstream reported last."""
    known = job.progress
    if known is None:
        return {}
    fields: dict[str, Any] = {"progress": known.percent, "current_step": known.step}
    if known.metadata is not None:
        fields["metadata"] = Raw(known.metadata.encode())
    return fields | ({} if known.log is None else {"log": known.log})


def error(job: Job) -> str | None:
    """Return what went wrong with a job that has ended."""
    ended = End(
        state=job.state,
        reason=job.reason,
        error=job.error,
        status_code=job.status_code,
        output=job.output,
    )
    return told.error_text(ended)


def reference(job: Job, url: str, expires_ms: int | None) -> OutputRefView[str] | None:
    """Return where an output is fetched; None where there is none, or none any more."""
    if job.output_bytes is None:
        return None
    return OutputRefView(
        url=url,
        size=job.output_bytes,
        content_type=job.output_type or "",
        sha256=None if job.output is None else job.output.sha256,
        expires_at=iso(expires_ms),
    )


def check_output(job: Job, dialect: Dialect) -> None:
    """Raise PayloadGone where a job that completed had an output, and that is gone by now."""
    if job.output is None and job.output_type is not None:
        spelled = ids.spelled(job.id, dialect, waited=job.options.waited)
        raise PayloadGone(f"the output of {spelled} is past its retention")


def attempt(value: JobAttempt) -> JobAttemptView[str]:
    """Return a call of the history."""
    return JobAttemptView(
        run=value.run,
        n=value.n,
        started_at=iso(value.started_ms),
        duration_ms=value.duration_ms,
        outcome=value.outcome,
        status_code=value.status_code,
        error=value.error,
    )
