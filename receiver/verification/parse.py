"""Strict JSON, for a verified body. Pure.

Strict means that every reader would understand the same: whatever two JSON parsers may read
differently is refused.
"""

import json
import re
from itertools import accumulate
from math import isinf
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

_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # one up, one down
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[{]}")

_UNFIT: Final = re.compile(rb"\\u(?:(0000)|[dD][89a-fA-F])")  # a NUL, or one half of a pair
# Whole pairs, and escapes of one character: above all the backslash, whose second half starts none.
_FIT: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\[^u]")


class ParseError(Exception):
    """The body is refused. `reason` is for programs; `field` is a dotted path where known."""

    def __init__(self, reason: Reason, message: str, field: str | None = None) -> None:
        super().__init__(reason, message, field)
        self.reason: Reason = reason
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return self.message


def parse(body: bytes, *, depth_max: int = DEPTH_MAX) -> Any:
    """Return the document in `body`, or ParseError.

    1 MiB takes some 10 ms, and at worst (nothing but tiny objects) some 100: time in which a
    service answers nobody else. So what the bytes can tell is never looked for in the document,
    where each value would cost a step of Python's.
    """
    try:
        text = body.decode("utf-8").strip(" \t\n\r")
        document, end = _DECODER.raw_decode(text)
    except UnicodeDecodeError:
        raise ParseError("encoding", "the body is not UTF-8") from None
    except RecursionError:
        raise _too_deep(depth_max) from None
    except ValueError:
        raise _not_json() from None
    if end < len(text):
        raise _not_json()
    # Only brackets make depth, and only escapes a NUL or half a pair: most bodies have few.
    if body.count(b"[") + body.count(b"{") > depth_max and _depth(body) > depth_max:
        raise _too_deep(depth_max)
    if b"\\u" in body:
        _check_escapes(body)
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ParseError("duplicate_key", "the body has an object with a duplicate key")
    return document


def _constant(name: str) -> NoReturn:
    raise ParseError("number", f"the body contains {name}, which is not JSON")


def _integer(text: str) -> int:
    if len(text) > INTEGER_DIGITS_MAX:
        raise ParseError("number", f"an integer has more than {INTEGER_DIGITS_MAX} digits")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ParseError("number", "a number is too large")
    return number


def _depth(body: bytes) -> int:
    """Return how deep valid JSON is nested."""
    brackets = _STRING.sub(b"", body).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(brackets).cast("b")), default=0)


def _check_escapes(body: bytes) -> None:
    """Refuse what an escape in valid JSON must not stand for."""
    unfit = _UNFIT.search(body)
    if unfit is not None:  # or it is one of a pair, or the text behind an escaped backslash
        unfit = _UNFIT.search(_FIT.sub(b"", body))
    if unfit is None:
        return
    if unfit[1]:
        raise ParseError("nul", "a string contains a NUL character")
    raise ParseError("surrogate", "a string contains half a surrogate pair")


def _not_json() -> ParseError:
    return ParseError("syntax", "the body is not JSON")


def _too_deep(depth_max: int) -> ParseError:
    return ParseError("nesting", f"the body is nested deeper than {depth_max} levels")


# Made once: json.loads() makes one for each document.
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_constant=_constant,
    parse_int=_integer,
    parse_float=_float,
)
