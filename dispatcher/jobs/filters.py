"""What jobs a listing or a sweep is about: one value, one set of names, for both."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from dispatcher.filters import TAGS_MAX, FilterError, read_text, read_time
from dispatcher.jobs.states import STATES, JobReason, JobState
from dispatcher.jobs.values import JobPriority
from receiver.base.clock import iso

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "status": STATES,
    "priority": get_args(JobPriority),
    "reason": get_args(JobReason),
}
_WORDS: Final = ("status", "endpoint", "priority", "reason")
_TIMES: Final = ("since", "until")
NAMES: Final = (*_WORDS, *_TIMES, "tag.KEY")


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
    fields: dict[str, Any] = {}
    tags: list[tuple[str, str]] = []
    for name, value in raw.items():
        text = read_text(name, value)
        if name.startswith("tag.") and len(name) > len("tag."):
            tags.append((read_text("tag", name.removeprefix("tag.")), text))
        elif name in _TIMES:
            fields[f"{name}_ms"] = read_time(name, text)
        elif name in _WORDS:
            fields[name] = _word(name, text)
        else:
            raise FilterError(name, text, f"unknown filter; there are {', '.join(NAMES)}")
    if len(tags) > TAGS_MAX:
        raise FilterError("tag", len(tags), f"at most {TAGS_MAX} tags at once")
    return JobFilter(**fields, tags=tuple(tags))


def dump(chosen: JobFilter) -> dict[str, str]:
    """Return the fields of a filter under the names that `parse` reads."""
    fields = {name: getattr(chosen, name) for name in _WORDS}
    fields |= {name: iso(getattr(chosen, f"{name}_ms")) for name in _TIMES}
    fields |= {f"tag.{key}": value for key, value in chosen.tags}
    return {name: value for name, value in fields.items() if value is not None}


def _word(name: str, text: str) -> str:
    allowed = _CHOICES.get(name)
    if allowed is not None and text not in allowed:
        raise FilterError(name, text, f"must be one of {', '.join(allowed)}")
    return text
