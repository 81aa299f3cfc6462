"""How a job's end is told: one callback a run, whose payload is made once and never again. Pure.

The payload is what the dialect by which the job came calls back with. An output is copied into it
as it stands where every reader would read it alike, else as text; what is neither, or long, is told
by where it is fetched. So whatever an upstream answered, a receiver can read the callback.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final, Protocol

from dispatcher import ids
from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.states import JobReason, JobState
from dispatcher.jobs.values import (
    CLASS_OF,
    HIGH,
    CallOutcome,
    Dialect,
    JobOptions,
    JobPriority,
    JobVerdict,
    Output,
)
from dispatcher.policy import DEFAULT, PresetName
from dispatcher.values import NewCallback
from receiver.base.clock import iso
from receiver.base.completion import BOM, DEPTH_MAX, UNFIT_TEXT, ParseError, parse

JSON_TYPE: Final = "application/json"
OUTPUT_S_MAX: Final = 604_800.0
"""Outputs are promised for no longer than a week, whatever their endpoint keeps."""
ERROR_BYTES_MAX: Final = 64 * 1024
_PRESETS: Final[dict[Dialect, PresetName]] = {
    "v1": "exponential",
    "tensorone": "exponential",
    "runpod": "runpod",
    "cerebrium": "cerebrium",
}
_TYPE: Final = re.compile(r'\s*([^;\s]+)\s*(?:;.*?charset\s*=\s*"?([^\s;"]+))?', re.I | re.S)
_UTF8: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_LATIN: Final = frozenset({"iso-8859-1", "latin1", "latin-1"})
# What to say of an end that came without an answer.
_BECAUSE: Final[dict[JobReason, str]] = {
    "expired": "it waited for longer than it may",
    "run_limit": "it ran for longer than it may",
    "ttl": "its time to live passed",
    "purged": "its queue was purged",
    "endpoint_removed": "its endpoint was removed",
    "user": "it was cancelled",
    "disconnected": "who waited for it hung up",
}


class Told(Protocol):
    """What is asked of a job whose end is told: a claimed one has it, and one that is read."""

    @property
    def id(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def dialect(self) -> Dialect: ...
    @property
    def priority(self) -> JobPriority: ...
    @property
    def run(self) -> int: ...
    @property
    def tags(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def options(self) -> JobOptions: ...
    @property
    def started_ms(self) -> int | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The end of a run. `output` is what its upstream answered last, of a failed one its error;
    `expires_ms` is when that is deleted, and `cost` what the run costs."""

    state: JobState
    reason: JobReason | None = None
    error: str | None = None
    status_code: int | None = None
    output: Output | None = None
    expires_ms: int | None = None
    cost: float = 0.0


def end_of(
    verdict: JobVerdict, outcome: CallOutcome, rules: EndpointRules, *, now_ms: int
) -> End | None:
    """Return the end that a call's verdict is; None where the job goes on."""
    if verdict.state in ("queued", "running"):
        return None
    return End(
        state=verdict.state,
        reason=verdict.reason,
        error=verdict.error,
        status_code=outcome.status_code,
        output=outcome.output,
        expires_ms=output_expires_ms(rules, now_ms),
        cost=cost_of(rules, outcome.duration_ms),
    )


def output_expires_ms(rules: EndpointRules, ended_ms: int) -> int:
    """Return when the output of a job that ended then is no longer to be had."""
    return ended_ms + round(min(rules.keep.output, OUTPUT_S_MAX) * 1000)


def cost_of(rules: EndpointRules, ran_ms: float) -> float:
    """Return what a call that took so long costs; nothing where its endpoint has no price."""
    return round(ran_ms / 1000 * (rules.price_per_second or 0.0), 6)


def callback_policy(asked: str | None, rules: EndpointRules, dialect: Dialect) -> str | None:
    """Return the policy of a job's callback as the store keeps it: the request's, else the
    endpoint's, else the dialect's preset; None for what is the default anyway, so that a
    registered destination's own applies."""
    preset = _PRESETS[dialect]
    return asked or rules.callback.policy or (None if preset == DEFAULT else preset)


def callback_of(
    job: Told, end: End, *, id: str, now_ms: int, inline_max: int, public_url: str
) -> NewCallback | None:
    """Return the callback that tells the end of the job's run, with `id`; None where nobody is to
    be told. Outputs of more than `inline_max` bytes are told by a link below `public_url`."""
    target = job.options.callback
    if target is None:
        return None
    spelled = ids.spelled(job.id, job.dialect, waited=job.options.sync)
    body, content_type = _PAYLOADS[job.dialect](
        _Telling(job, end, spelled, now_ms, inline_max, public_url)
    )
    digest = sha256(body).digest()
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
        body=body,
        body_sha256=digest,
        content_type=content_type,
        headers=target.headers,
        tags=job.tags,
        policy_text=target.policy_text,
        policy=target.policy,
        key=ids.end_key(job.id, job.run),
        explicit_key=True,  # no key of an earlier rule is looked for
        content=ids.content_digest(
            spelled, end.state, target.destination, target.url, digest, content_type, job.run
        ),
        created_ms=now_ms,
        run=job.run,
    )


# --- an output, as a document may hold it ---


def is_json(content_type: str) -> bool:
    """Whether a content type claims JSON."""
    kind, _ = _kind_of(content_type)
    return kind == JSON_TYPE or kind.endswith("+json")


def spliced(output: Output, bytes_max: int) -> bytes | None:
    """Return an output as a JSON value: JSON as it stands, without what surrounds it, where a
    strict reader takes it inside another document; else text as a string. None for what is
    neither, or takes more than `bytes_max`."""
    if len(output.body) > bytes_max:
        return None
    if is_json(output.content_type):
        value = output.body.removeprefix(BOM).strip(b" \t\r\n")
        if _is_readable(value):
            return value
    text = as_text(output)
    if text is None or "\0" in text:
        return None
    written = _text(text).encode()
    return written if len(written) <= bytes_max else None


def as_text(output: Output, bytes_max: int | None = None) -> str | None:
    """Return an output as text, where its type says that it is some and it is; what claims to be
    JSON is text at least. None for anything else. Of a longer one than `bytes_max` its beginning
    is returned."""
    kind, charset = _kind_of(output.content_type)
    if not (kind.startswith("text/") or kind == JSON_TYPE or kind.endswith(("+json", "+xml"))):
        return None
    body = output.body[:bytes_max].removeprefix(BOM)
    if charset in _LATIN:
        return body.decode("latin-1")
    if charset not in _UTF8:
        return None
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        is_cut = len(output.body) > len(body) and error.start > len(body) - 4
        return body[: error.start].decode() if is_cut else None


def error_text(end: End) -> str | None:
    """Return what went wrong, for an end that is no success: what the verdict says, else the
    upstream's own words, else its status code."""
    if end.state == "completed":
        return None
    if end.error is not None:
        return UNFIT_TEXT.sub(" ", end.error)
    if end.output is not None and end.output.body:
        text = as_text(end.output, ERROR_BYTES_MAX)
        if text is not None:
            return text.replace("\0", "\ufffd")
    if end.reason in _BECAUSE:
        return _BECAUSE[end.reason]
    if end.status_code is not None:
        return f"the upstream answered {end.status_code}"
    return (end.reason or end.state).replace("_", " ")


@lru_cache(maxsize=256)  # an endpoint answers in one or two
def _kind_of(content_type: str) -> tuple[str, str]:
    found = _TYPE.match(content_type)
    if found is None:
        return "", "utf-8"
    return found[1].lower(), (found[2] or "utf-8").lower()


def _is_readable(value: bytes) -> bool:
    """Whether every parser reads it alike, one level down in another document."""
    try:
        parse(value, depth_max=DEPTH_MAX - 1)
    except ParseError:
        return False
    return True


# --- the payloads, by dialect ---


@dataclass(frozen=True, slots=True)
class _Telling:
    job: Told
    end: End
    spelled: str
    now_ms: int
    inline_max: int
    public_url: str


def _tensorone(telling: _Telling) -> tuple[bytes, str]:
    """Return TensorOne's shape, with the run and the endpoint."""
    job, end = telling.job, telling.end
    began_ms = telling.now_ms if job.started_ms is None else job.started_ms
    took_s = max(0, telling.now_ms - began_ms) / 1000
    error = error_text(end)
    # What is put together here holds nothing that JSON would escape: ids, words, names, numbers.
    head = f'{{"jobId":"{telling.spelled}","status":"{end.state}","output":'
    tail = (
        f',"executionTime":{took_s},"completedAt":"{iso(telling.now_ms)}","cost":{end.cost},'
        f'"tags":{_text(dict(job.tags)) if job.tags else "{}"},"run":{job.run},'
        f'"endpoint":"{job.endpoint}"'
    )
    if error is not None:
        tail += f',"error":{_text(error)}'
    return head.encode() + _output(telling) + tail.encode(errors="replace") + b"}", JSON_TYPE


def _output(telling: _Telling) -> bytes:
    output = telling.end.output
    if telling.end.state != "completed" or output is None or not output.body:
        return b"null"
    inline = spliced(output, telling.inline_max)
    return _written(_reference(telling, output)) if inline is None else inline


def _reference(telling: _Telling, output: Output) -> dict[str, object]:
    """Return where an output is fetched, and what will come."""
    return {
        "url": f"{telling.public_url.rstrip('/')}/v1/jobs/{telling.spelled}/output",
        "size": len(output.body),
        "contentType": UNFIT_TEXT.sub("", output.content_type),
        "sha256": sha256(output.body).hexdigest(),
        "expiresAt": iso(telling.end.expires_ms),
    }


_text: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


# Whatever stands in a job, its end is told: no value makes this fail.
def _written(value: object) -> bytes:
    return _text(value).encode(errors="replace")


# Each dialect's own shape takes its place here; until then they speak as `/v1` does.
_PAYLOADS: Final[Mapping[Dialect, Callable[[_Telling], tuple[bytes, str]]]] = {
    "v1": _tensorone,
    "tensorone": _tensorone,
    "runpod": _tensorone,
    "cerebrium": _tensorone,
}
