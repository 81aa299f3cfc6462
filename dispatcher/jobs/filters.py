"""What jobs a listing or a sweep is about: one value, one set of names, for both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, get_args

from dispatcher.filters import Words, dump_fields, read_fields
from dispatcher.jobs.states import STATES, JobReason, JobState
from dispatcher.jobs.values import JobPriority

_WORDS: Final[Words] = {
    "status": STATES,
    "endpoint": None,
    "priority": get_args(JobPriority),
    "reason": get_args(JobReason),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """All set fields must match. `since_ms` is inclusive, `until_ms` exclusive, both on the job's
    creation; `reason` is the one that stands beside its state."""

    status: JobState | None = None
    endpoint: str | None = None
    priority: JobPriority | None = None
    reason: JobReason | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    tags: tuple[tuple[str, str], ...] = ()


def parse(raw: Mapping[str, object]) -> JobFilter:
    """Return the filter that `raw` (query parameters, or a sweep's filter object) describes.

    Raises FilterError for an unknown field and for a value that its field cannot have.
    """
    return JobFilter(**read_fields(raw, _WORDS))


def dump(chosen: JobFilter) -> dict[str, str]:
    """Return the fields of a filter under the names that `parse` reads."""
    return dump_fields(chosen, _WORDS)
