"""The callback that tells a job's end, one a run, in the words of the dialect by which the job
came: made once and never again. Pure."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final

from dispatcher import ids
from dispatcher import policy as policies
from dispatcher.dialects import cerebrium, runpod, tensorone, v1
from dispatcher.dialects.snapshot import LinkTo, Payload, Snapshot
from dispatcher.jobs.endpoint import Event
from dispatcher.jobs.progress import Progress
from dispatcher.jobs.told import JSON_TYPE, End, Told
from dispatcher.jobs.values import CLASS_OF, HIGH, Dialect
from dispatcher.policy import Policy
from dispatcher.values import NewCallback

_PAYLOADS: Final[Mapping[Dialect, Callable[[Snapshot], Payload]]] = {
    "v1": v1.payload,
    "tensorone": tensorone.payload,
    "runpod": runpod.payload,
    "cerebrium": cerebrium.payload,
}
_GOING: Final[Mapping[Dialect, Callable[[Snapshot, bytes | None], bytes]]] = {
    "v1": v1.going,
    "tensorone": tensorone.going,
    "runpod": runpod.going,
}
EVENT: Final = "X-Postback-Event"
_ONCE: Final = Policy(attempts=1, timeout=10.0, max_age=15.0)
_ONCE_TEXT: Final = policies.dump(_ONCE)
SIGNS_CALLBACK: Final[frozenset[Dialect]] = frozenset({"cerebrium"})
"""Dialects whose jobs' secrets sign their callbacks; the others' are for their upstreams."""


def callback_of(
    job: Told,
    end: End,
    *,
    id: str,
    now_ms: int,
    inline_max: int,
    public_url: str,
    payload_max: int | None = None,
    secret: str | None = None,
    link: LinkTo | None = None,
) -> NewCallback | None:
    """Return the callback that tells the end of the job's run, with `id`; None where nobody is to
    be told. Outputs of more than `inline_max` bytes are told by a link below `public_url`; where an
    output is the whole body, those of more than `payload_max`. `secret` is the job's, if it has
    one, and `link` signs links to outputs."""
    target = job.options.callback
    if target is None:
        return None
    spelled = ids.spelled(job.id, job.dialect, waited=job.options.waited)
    whole_max = inline_max if payload_max is None else payload_max
    payload = _PAYLOADS[job.dialect](
        Snapshot(job, spelled, end.state, end, now_ms, inline_max, public_url, whole_max, link=link)
    )
    digest = sha256(payload.body).digest()
    return NewCallback(
        id=id,
        tenant=job.tenant,
        job_id=spelled,
        job_status=end.state,
        priority="high" if CLASS_OF[job.priority] == HIGH else "normal",
        destination=target.destination,
        lane=target.lane,
        destination_name=target.destination_name,
        url=target.url,
        body=payload.body,
        body_sha256=digest,
        content_type=payload.content_type,
        headers=(*target.headers, *payload.headers),
        tags=job.tags,
        policy_text=target.policy_text,
        policy=target.policy,
        key=ids.end_key(job.id, job.run),
        explicit_key=True,  # no key of an earlier rule is looked for
        content=ids.content_digest(
            spelled,
            end.state,
            target.destination,
            target.url,
            digest,
            payload.content_type,
            job.run,
        ),
        created_ms=now_ms,
        run=job.run,
        secret=secret if job.dialect in SIGNS_CALLBACK else None,
    )


def event_of(
    job: Told,
    event: Event,
    *,
    id: str,
    now_ms: int,
    public_url: str,
    progress: Progress | None = None,
    output: bytes | None = None,
) -> NewCallback | None:
    """Return the callback, with `id`, that tells what a job does that runs: the piece of its output
    that came last, or its progress as it was reported last. It is tried once. None where nobody is
    to be told, or the dialect has no words for it: Cerebrium's are an answer, and nothing else."""
    target, going = job.options.callback, _GOING.get(job.dialect)
    if target is None or going is None:
        return None
    spelled = ids.spelled(job.id, job.dialect, waited=job.options.waited)
    shown = Snapshot(job, spelled, "running", None, now_ms, 0, public_url, progress=progress)
    body = going(shown, output)
    digest = sha256(body).digest()
    return NewCallback(
        id=id,
        tenant=job.tenant,
        job_id=spelled,
        job_status="running",
        priority="high" if CLASS_OF[job.priority] == HIGH else "normal",
        destination=target.destination,
        lane=target.lane,
        destination_name=target.destination_name,
        url=target.url,
        body=body,
        body_sha256=digest,
        content_type=JSON_TYPE,
        headers=(*target.headers, (EVENT, event)),
        tags=job.tags,
        policy_text=_ONCE_TEXT,
        policy=_ONCE,
        key=ids.event_key(id),
        explicit_key=True,
        content=digest,
        created_ms=now_ms,
        run=job.run,
    )
