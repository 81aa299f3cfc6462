"""What is told of a job's end, in whatever dialect: what it came to, why, and its output. Pure.

An output is copied into a document as it stands where every reader would read it alike, else as
text; what is neither, or long, is told by where it is fetched. So whatever an upstream answered, a
receiver can read the callback.
"""

import json
import re
from functools import lru_cache
from hashlib import sha256
from typing import Final, Protocol

from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.states import JobReason, JobState
from dispatcher.jobs.values import (
    CallOutcome,
    Dialect,
    JobOptions,
    JobPriority,
    JobVerdict,
    Output,
)
from dispatcher.policy import DEFAULT, PresetName
from receiver.base.completion import BOM, DEPTH_MAX, UNFIT_TEXT, ParseError, parse
from receiver.base.value import frozen

JSON_TYPE: Final = "application/json"
OUTPUT_S_MAX: Final = 604_800.0
"""Outputs are promised for no longer than a week, whatever their endpoint keeps."""
ERROR_BYTES_MAX: Final = 64 * 1024
to_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""A value as JSON."""
_PRESETS: Final[dict[Dialect, PresetName]] = {
    "v1": "exponential",
    "tensorone": "exponential",
    "runpod": "runpod",
    "cerebrium": "cerebrium",
}
_TYPE: Final = re.compile(r'\s*([^;\s]+)\s*(?:;.*?charset\s*=\s*"?([^\s;"]+))?', re.I | re.S)
_UTF8: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_LATIN: Final = frozenset({"iso-8859-1", "latin1", "latin-1"})
_SHORT_BYTES_MAX: Final = 16 * 1024
_LONG_ONES_MAX: Final = 10_000
_long_ones: Final[dict[bytes, bool]] = {}
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
    def created_ms(self) -> int: ...
    @property
    def queued_ms(self) -> int: ...
    @property
    def started_ms(self) -> int | None: ...


@frozen
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


# --- an output, as a document may hold it ---


def is_json(content_type: str) -> bool:
    """Whether a content type claims JSON."""
    kind, _ = _kind_of(content_type)
    return kind == JSON_TYPE or kind.endswith("+json")


def spliced(output: Output, bytes_max: int) -> bytes | None:
    """Return an output as a JSON value: JSON as it stands, without what surrounds it, where a
    strict reader takes it inside another document; else text as a string. None for what is
    neither, or takes more than `bytes_max`."""
    if output.size > bytes_max or not output.is_here:
        return None
    if is_json(output.content_type):
        value = output.body.removeprefix(BOM).strip(b" \t\r\n")
        if _is_readable(value):
            return value
    text = as_text(output)
    if text is None or "\0" in text:
        return None
    written = to_json(text).encode()
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
    """Whether every parser reads it alike, one level down in another document. Of a long one that
    is remembered: to find out takes a while, and whoever asks may ask again and again."""
    if len(value) <= _SHORT_BYTES_MAX:
        return _reads(value)
    digest = sha256(value).digest()
    known = _long_ones.get(digest)
    if known is None:
        if len(_long_ones) >= _LONG_ONES_MAX:
            _long_ones.clear()
        known = _long_ones[digest] = _reads(value)
    return known


def _reads(value: bytes) -> bool:
    try:
        parse(value, depth_max=DEPTH_MAX - 1)
    except ParseError:
        return False
    return True
