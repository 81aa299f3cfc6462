"""What callbacks a listing or a replay is about: one value, one set of names, for both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

from dispatcher.states import STATES, State
from dispatcher.values import Priority
from receiver.base.clock import iso, parse_iso
from receiver.base.words import nearest, one_of

Words = Mapping[str, Sequence[str] | None]
"""The names of a filter's fields that are words, each with those that it may be (None: any
text)."""

_WORDS: Final[Words] = {
    "status": STATES,
    "jobStatus": None,
    "jobId": None,
    "destination": None,
    "callbackUrl": None,
    "priority": get_args(Priority),
    "error": None,
}
_TIMES: Final = ("since", "until")
_VALUE_CHARS_MAX: Final = 2_048  # the longest value any field may have: a destination's URL
_TAGS_MAX: Final = 8


class FilterError(ValueError):
    """A filter that cannot be understood: which field, and why."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.value = value
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """All set fields must match. `since_ms` is inclusive, `until_ms` exclusive, both on the
    callback's creation. `destination` is an id, a registered name or a server (`scheme://host:port`,
    or any URL of it), `callback_url` the exact URL that a callback was submitted with; `error` the
    code of the last failed attempt (`http_503`, `timeout`, …)."""

    status: State | None = None
    job_status: str | None = None
    job_id: str | None = None
    destination: str | None = None
    callback_url: str | None = None
    priority: Priority | None = None
    error: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    tags: tuple[tuple[str, str], ...] = ()


def parse(raw: Mapping[str, object]) -> Filter:
    """Return the filter that `raw` (query parameters, or a replay's filter object) describes.

    Raises FilterError for an unknown field and for a value that its field cannot have.
    """
    return Filter(**read_fields(raw, _WORDS))


def dump(chosen: Filter) -> dict[str, str]:
    """Return the fields of a filter under the names that `parse` reads."""
    return dump_fields(chosen, _WORDS)


# --- what every filter has ---


def read_fields(raw: Mapping[str, object], words: Words) -> dict[str, Any]:
    """Return the values of a filter's fields: its words, `since_ms`, `until_ms` and `tags`. Raises
    FilterError."""
    fields: dict[str, Any] = {}
    tags: list[tuple[str, str]] = []
    for name, value in raw.items():
        text = _text(name, value)
        if name.startswith("tag.") and len(name) > len("tag."):
            tags.append((_text("tag", name.removeprefix("tag.")), text))
        elif name in _TIMES:
            fields[f"{name}_ms"] = _time(name, text)
        elif name in words:
            fields[_snake(name)] = _word(name, text, words[name])
        else:
            names = ", ".join((*words, *_TIMES, "tag.KEY"))
            hint = nearest(name, (*words, *_TIMES))
            raise FilterError(name, text, f"unknown filter; there are {names}{hint}")
    if len(tags) > _TAGS_MAX:
        raise FilterError("tag", len(tags), f"at most {_TAGS_MAX} tags at once")
    return fields | {"tags": tuple(tags)}


def dump_fields(chosen: Any, words: Words) -> dict[str, str]:
    """Return the fields of a filter under the names that `read_fields` reads."""
    fields = {name: getattr(chosen, _snake(name)) for name in words}
    fields |= {name: iso(getattr(chosen, f"{name}_ms")) for name in _TIMES}
    fields |= {f"tag.{key}": value for key, value in chosen.tags}
    return {name: value for name, value in fields.items() if value is not None}


def _text(name: str, value: object) -> str:
    """Return a filter's value. Raises FilterError for what no field can have."""
    if not isinstance(value, str) or not value:
        raise FilterError(name, value, "must be a text that is not empty")
    if len(value) > _VALUE_CHARS_MAX:
        raise FilterError(name, value[:64], f"longer than {_VALUE_CHARS_MAX} characters")
    if "\0" in value or (not value.isascii() and _surrogate(value)):
        raise FilterError(name, None, "must be valid text without NUL")
    return value


def _surrogate(value: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in value)


def _word(name: str, text: str, allowed: Sequence[str] | None) -> str:
    if allowed is not None and text not in allowed:
        raise FilterError(name, text, f"{one_of(allowed)}{nearest(text, allowed)}")
    return text


def _time(name: str, text: str) -> int:
    """Return a time as milliseconds. Raises FilterError."""
    try:
        return parse_iso(text)
    except ValueError as error:
        raise FilterError(
            name, text, "must be an ISO-8601 time such as 2026-01-31T12:00:00Z"
        ) from error


def _snake(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name)
