"""Reads the values of a document's fields: durations, sizes, numbers, words. Pure.

Whatever is wrong is a RuleError that names the field by its dotted path, as it was written.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeVar

from receiver.base.words import nearest

T = TypeVar("T")

KIB: Final = 1024
MIB: Final = 1024**2
GIB: Final = 1024**3
_UNITS_S: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_UNITS_BYTES: Final = {"": 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
_AMOUNT: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([A-Za-z]{0,3})", re.ASCII)
_AMOUNT_MAX: Final = 1e15
_SHOWN_CHARS: Final = 100


class RuleError(ValueError):
    """A field that cannot have its value; the reason is fit to show. `value` is None where it is
    not to be shown, or long."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.value = value if _is_showable(value) else None
        self.reason = reason


def _is_showable(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _SHOWN_CHARS
    return isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < _AMOUNT_MAX)


def duration(value: object) -> float:
    """Return seconds: a number of them, or `30s`, `15m`, `2h`, `7d`. Raises ValueError, whose text
    is fit to show."""
    seconds = _amount(value, _UNITS_S)
    if seconds is None:
        raise ValueError("seconds, or a duration such as 30s, 15m, 2h or 7d")
    return seconds


def size(value: object) -> int:
    """Return bytes: a number of them, or `64KiB`, `10MiB`, `1GiB`. Raises ValueError, whose text is
    fit to show."""
    bytes_ = _amount(value, _UNITS_BYTES)
    if bytes_ is None or bytes_ != int(bytes_):
        raise ValueError("bytes, or a size such as 64KiB, 10MiB or 1GiB")
    return int(bytes_)


def _amount(value: object, units: Mapping[str, int]) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value if 0 <= value < _AMOUNT_MAX else None
    if not isinstance(value, str):
        return None
    read = _AMOUNT.fullmatch(value.strip())
    if read is None or read[2] not in units:
        return None
    return float(read[1]) * units[read[2]]


def written_duration(seconds: float) -> str | float:
    """Return seconds in the largest unit that they are a whole number of."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS_S[unit] == 0:
            return f"{int(seconds / _UNITS_S[unit])}{unit}"
    return int(seconds) if seconds == int(seconds) else seconds


def written_size(bytes_: int) -> str | int:
    """Return bytes in the largest unit that they are a whole number of."""
    for unit in ("GiB", "MiB", "KiB"):
        if bytes_ and bytes_ % _UNITS_BYTES[unit] == 0:
            return f"{bytes_ // _UNITS_BYTES[unit]}{unit}"
    return bytes_


# --- readers: each takes a value and the path of its field ---

Read = Callable[[Any, str], Any]


def seconds(s_min: float, s_max: float) -> Read:
    """Return a reader of durations within bounds."""

    def read(value: Any, path: str) -> float:
        try:
            given = duration(value)
        except ValueError as error:
            raise RuleError(path, value, f"must be {error}") from None
        if not s_min <= given <= s_max:
            bounds = f"{written_duration(s_min)} to {written_duration(s_max)}"
            raise RuleError(path, value, f"must be from {bounds}")
        return given

    return read


def bytes_of(bytes_min: int, bytes_max: int, why: str = "") -> Read:
    """Return a reader of sizes within bounds, and `why` there is no more."""

    def read(value: Any, path: str) -> int:
        try:
            given = size(value)
        except ValueError as error:
            raise RuleError(path, value, f"must be {error}") from None
        if given > bytes_max:
            raise RuleError(path, value, f"must be at most {written_size(bytes_max)}{why}")
        if given < bytes_min:
            raise RuleError(path, value, f"must be at least {written_size(bytes_min)}")
        return given

    return read


def number(n_min: float, n_max: float) -> Read:
    """Return a reader of numbers within bounds."""

    def read(value: Any, path: str) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not n_min <= value <= n_max:
            raise RuleError(path, value, f"must be a number from {n_min:g} to {n_max:g}")
        return float(value)

    return read


def integer(n_min: int, n_max: int) -> Read:
    """Return a reader of whole numbers within bounds."""

    def read(value: Any, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not n_min <= value <= n_max:
            raise RuleError(path, value, f"must be a whole number from {n_min:,} to {n_max:,}")
        return value

    return read


def word(*words: str) -> Read:
    """Return a reader of one of some words."""

    def read(value: Any, path: str) -> str:
        if value not in words or not isinstance(value, str):
            known = " or ".join(words)
            raise RuleError(path, value, f"must be {known}{nearest(value, words)}")
        return value

    return read


def matching(pattern: str, what: str) -> Read:
    """Return a reader of texts of a form, which `what` tells."""
    form = re.compile(pattern)

    def read(value: Any, path: str) -> str:
        if not isinstance(value, str) or not form.fullmatch(value):
            raise RuleError(path, value, f"must be {what}")
        return value

    return read


def boolean(value: Any, path: str) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise RuleError(path, value, "must be true or false")
    return value


def items(read: Read, n_min: int, n_max: int) -> Read:
    """Return a reader of lists of so many different items."""

    def read_all(value: Any, path: str) -> tuple[Any, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise RuleError(path, value, "must be a list")
        if not n_min <= len(value) <= n_max:
            raise RuleError(path, None, f"must have {n_min} to {n_max} items")
        given = tuple(read(one, f"{path}[{n}]") for n, one in enumerate(value))
        if len(set(given)) < len(given):
            raise RuleError(path, None, "must not name one twice")
        return given

    return read_all


def mapping(value: Any, path: str) -> Mapping[str, Any]:
    """Read an object."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise RuleError(path, value, "must be an object")
    return value


def check_known(value: Mapping[str, Any], known: Collection[str], path: str = "") -> None:
    """Raise RuleError for the first field that is not known, with the nearest that is."""
    for name in value:
        if name not in known:
            field = f"{path}.{name}" if path else name
            raise RuleError(field, None, f"is no field{nearest(name, known)}")


def camel(name: str) -> str:
    """Return a name of the file as the API spells it."""
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)
