"""A job as a dialect shows it, in a callback or in a view: what all of them are made from. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from dispatcher import ids
from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.progress import Progress
from dispatcher.jobs.states import FINAL, JobState
from dispatcher.jobs.told import JSON_TYPE, End, Told, output_expires_ms, spliced, to_json
from dispatcher.jobs.values import Dialect, Job, Output
from dispatcher.values import Headers
from receiver.base.clock import iso
from receiver.base.completion import UNFIT_TEXT

LinkTo = Callable[[str, int, int], str | None]
"""Returns the signed path of what a run of a job brought, good until a time in milliseconds; None
where there is no key to sign it."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What a callback carries: its body, the type of that, and headers beside those that every
    callback has."""

    body: bytes
    content_type: str = JSON_TYPE
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job at one moment: when it ended, or now while it goes on (`end` is None then). `id` is
    spelled as the dialect does in which it is shown. Outputs of more than `inline_max` bytes are
    told by a link below `public_url`; where an output is the whole body, `payload_max` counts.
    `progress` is what was reported of it, where that is known; `link` signs links to outputs."""

    job: Told
    id: str
    state: JobState
    end: End | None
    at_ms: int
    inline_max: int
    public_url: str
    payload_max: int = 64 * 1024 * 1024
    progress: Progress | None = None
    link: LinkTo | None = None

    @property
    def ran_ms(self) -> int:
        """For how long this run has been going, or went, from its first start on."""
        began_ms = self.at_ms if self.job.started_ms is None else self.job.started_ms
        return max(0, self.at_ms - began_ms)


def of_job(
    job: Job,
    dialect: Dialect,
    rules: EndpointRules | None,
    *,
    cost: float,
    now_ms: int,
    inline_max: int,
    public_url: str,
    link: LinkTo | None = None,
) -> Snapshot:
    """Return a stored job's snapshot, in whatever dialect it came: read with its output, and with
    its endpoint's rules, if that is there still."""
    end, at_ms = None, now_ms
    if job.state in FINAL:
        at_ms = now_ms if job.ended_ms is None else job.ended_ms
        end = End(
            state=job.state,
            reason=job.reason,
            error=job.error,
            status_code=job.status_code,
            output=job.output,
            expires_ms=None if rules is None else output_expires_ms(rules, at_ms),
            cost=cost,
        )
    id = ids.spelled(job.id, dialect, waited=job.options.waited)
    return Snapshot(
        job, id, job.state, end, at_ms, inline_max, public_url, progress=job.progress, link=link
    )


def output_value(shown: Snapshot) -> bytes:
    """Return the output of a job as a JSON value: what its upstream answered, where it may stand
    in a document and is short, else where it is fetched; null where there is none."""
    output = None if shown.end is None else shown.end.output
    if shown.state != "completed" or output is None or not output.size:
        return b"null"
    inline = spliced(output, shown.inline_max)
    return written(reference(shown, output)) if inline is None else inline


def reference(shown: Snapshot, output: Output) -> dict[str, object]:
    """Return where an output is fetched, and what will come."""
    expires_ms = None if shown.end is None else shown.end.expires_ms
    path = None
    if shown.link is not None and expires_ms is not None:
        path = shown.link(shown.job.id, shown.job.run, expires_ms)
    return {
        "url": f"{shown.public_url.rstrip('/')}{path or f'/v1/jobs/{shown.id}/output'}",
        "size": output.size,
        "contentType": UNFIT_TEXT.sub("", output.content_type),
        "sha256": output.sha256,
        "expiresAt": iso(expires_ms),
    }


def written(value: object) -> bytes:
    """Return a value as JSON. Whatever stands in a job, its end is told: no text makes this
    fail."""
    return to_json(value).encode(errors="replace")
