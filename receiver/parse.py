"""Reading a verified body: strict JSON. Pure.

Strict means that every reader would understand the same: whatever two JSON parsers may read
differently is refused rather than guessed.
"""

import json
from typing import Any, Final, Literal, NoReturn, TypeAlias

Reason: TypeAlias = Literal[
    "encoding",  # not UTF-8
    "syntax",  # not JSON
    "duplicate_key",  # {"status": "failed", "status": "completed"}: readers disagree
    "number",  # NaN, Infinity, or an integer or float too large to mean the same everywhere
    "nesting",  # deeper than the limit
    "nul",  # a NUL character in a string: C programs would cut it there
    "surrogate",  # half a character: it cannot be written as UTF-8
    "identity",  # no jobId, and no signed id in its place
    "job_id",  # a jobId that cannot name a job
    "status",  # a status that cannot be one
]

DEPTH_MAX: Final = 64  # real results stay under 20; the interpreter's own limit is about 1000
INTEGER_DIGITS_MAX: Final = 100  # a 256-bit number has 78; unbounded ones take quadratic time


class ParseError(Exception):
    """The body is refused. ``reason`` is for programs; ``field`` is a dotted path where known."""

    def __init__(self, reason: Reason, message: str, field: str | None = None) -> None:
        super().__init__(reason, message, field)
        self.reason: Final[Reason] = reason
        self.message: Final = message
        self.field: Final = field

    def __str__(self) -> str:
        return self.message


def parse(body: bytes, *, depth_max: int = DEPTH_MAX) -> Any:
    """The document in ``body``, or ParseError."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise ParseError("encoding", "the body is not UTF-8") from None
    try:
        document = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except RecursionError:
        raise _too_deep(depth_max) from None
    except ValueError:
        raise ParseError("syntax", "the body is not JSON") from None
    # Only escapes make a NUL or half a pair, and only brackets make depth: most bodies have few.
    if "\\u" in text or text.count("[") + text.count("{") > depth_max:
        _check_depth_and_strings(document, depth_max)
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ParseError("duplicate_key", "the body has an object with a duplicate key")
    return found


def _constant(name: str) -> NoReturn:
    raise ParseError("number", f"the body contains {name}, which is not JSON")


def _integer(text: str) -> int:
    if len(text) > INTEGER_DIGITS_MAX:
        raise ParseError("number", f"an integer has more than {INTEGER_DIGITS_MAX} digits")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ParseError("number", "a number is too large")
    return number


def _check_depth_and_strings(document: Any, depth_max: int) -> None:
    """Walks without recursion, so that its own depth is no limit."""
    waiting: list[tuple[Any, int]] = [(document, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            _check_string(value)
        elif isinstance(value, dict | list):
            if depth > depth_max:
                raise _too_deep(depth_max)
            if isinstance(value, dict):
                waiting.extend((key, depth) for key in value)
                waiting.extend((inner, depth + 1) for inner in value.values())
            else:
                waiting.extend((inner, depth + 1) for inner in value)


def _check_string(text: str) -> None:
    if "\0" in text:
        raise ParseError("nul", "a string contains a NUL character")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ParseError("surrogate", "a string contains half a surrogate pair")


def _too_deep(depth_max: int) -> ParseError:
    return ParseError("nesting", f"the body is nested deeper than {depth_max} levels")
