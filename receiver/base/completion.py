"""What a completion is: the one rule book of both halves, and of whoever speaks for them. Pure.

What a job may be called, how platforms spell a status and which of those end a job, what a body
must be to be read, and how large all of it may be. The dispatcher asks here when a callback is
submitted, the receiver when it arrives: what the one takes, the other takes.

A **status** is `completed`, `failed`, `cancelled` or `timeout`, which end a job; `queued` or
`running`, which do not; or `unknown`: a word that nobody knows, something that is no text, or
whatever stands in a body that cannot be read. Unknown is neither an end nor progress. No status
at all is `completed`: platforms that call back once say nothing more.

A body is **read** strictly: every reader would understand the same, and whatever two JSON parsers
may read differently is not read at all. That takes nothing away from a message that is named by
its signed headers.
"""

import json
import re
from itertools import accumulate
from math import isinf
from typing import Any, Final, Literal, NoReturn, TypeAlias

JOB_ID_CHARS_MAX: Final = 200  # a UUID has 36, an ARN or a URL-like name some 150
STATUS_CHARS_MAX: Final = 200
HEADERS_MAX: Final = 16  # that a callback, or a destination, adds to its deliveries
HEADER_NAME_CHARS_MAX: Final = 64
HEADER_CHARS_MAX: Final = 2_048
DEPTH_MAX: Final = 64  # real results stay under 20; the interpreter's own limit is about 1000
INTEGER_DIGITS_MAX: Final = 100  # a 256-bit number has 78; unbounded ones take quadratic time

UNKNOWN: Final = "unknown"
STATUSES: Final = ("queued", "running", "completed", "failed", "cancelled", "timeout", UNKNOWN)
TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "timeout"})

# As platforms write them; without case, spaces, `-` and `_`.
_SPELLINGS: Final = {
    spelling: status
    for status, spellings in {
        "queued": "queued inqueue pending submitted created scheduled waiting accepted runnable",
        "running": "running inprogress processing started starting executing active working "
        "cancelling canceling retrying",
        "completed": "completed complete succeeded success successful done finished ok",
        "failed": "failed failure fail error errored crashed",
        "cancelled": "cancelled canceled aborted",
        "timeout": "timeout timedout expired deadlineexceeded",
    }.items()
    for spelling in spellings.split()
}
_SEPARATORS: Final = str.maketrans("", "", " -_")
# What no database takes as text, and no line of a log: controls, and halves of characters.
UNFIT_TEXT: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

BOM: Final = b"\xef\xbb\xbf"
"""What some programs, on Windows above all, write before the text of a file."""
# What may stand before an object in UTF-8 or UTF-16: byte order marks, halves of units, blanks.
_BEFORE_OBJECT: Final = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n"


def without_bom(text: bytes) -> bytes:
    """Return UTF-8 without the byte order mark that may stand at its very beginning."""
    return text.removeprefix(BOM)


def canonical(status: str | None) -> str:
    """Return the one spelling of a status as sent; None, or an empty one, is `completed`."""
    if not status:
        return "completed"
    known = _SPELLINGS.get(status)
    return known or _SPELLINGS.get(status.lower().translate(_SEPARATORS), UNKNOWN)


def ends(status: str | None) -> bool:
    """Whether a status as sent ends its job."""
    return canonical(status) in TERMINAL


def is_job_id(value: Any) -> bool:
    """Whether a value can name a job: text of 1 to 200 characters without controls."""
    if not isinstance(value, str) or not 1 <= len(value) <= JOB_ID_CHARS_MAX:
        return False
    return value.isprintable() or UNFIT_TEXT.search(value) is None


def as_sent(status: Any) -> str | None:
    """Return what is kept and shown of a status of any type: None for none at all. What is no
    status stays `unknown` however it is shortened."""
    if status is None or status == "":
        return None
    text = status if isinstance(status, str) else _written(status)
    fit = UNFIT_TEXT.sub("\ufffd", text)
    return fit if len(fit) <= STATUS_CHARS_MAX else fit[: STATUS_CHARS_MAX - 1] + "…"


def _written(value: Any) -> str:
    try:
        return json.dumps(value)
    except RecursionError:  # where a receiver is set to read very deep documents
        return "…"


def status_in(body: bytes) -> str | None:
    """Return the status that a body states, as sent; None where it states none, `unknown` where it
    cannot be read and may state one."""
    if not _may_be_object(body):
        return None
    try:
        document = parse(body)
    except ParseError:
        return unread_status(body)
    return as_sent(document.get("status")) if isinstance(document, dict) else None


def unread_status(body: bytes) -> str | None:
    """Return the status of a body that cannot be read, of a job that is named beside it: None where
    nothing in it could be one."""
    if not _may_be_object(body):
        return None
    pairs = _pairs(body)
    if pairs is None:
        return UNKNOWN
    stated = [value for key, value in pairs if key == "status" and value not in (None, "")]
    return UNKNOWN if stated else None


def names_two(body: bytes, *names: str) -> bool:
    """Whether an object, however else it reads, has one of these keys twice."""
    keys = [key for key, _ in _pairs(body) or ()]
    return any(keys.count(name) > 1 for name in names)


def _may_be_object(body: bytes) -> bool:
    return body.lstrip(_BEFORE_OBJECT).startswith(b"{")


def _pairs(body: bytes) -> list[Any] | None:
    """Return the keys and values of an object that not every parser reads alike; None for what none
    reads."""
    try:
        value = json.loads(body, object_pairs_hook=_Pairs, parse_int=len, parse_float=len)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, _Pairs) else []


class _Pairs(list[Any]):
    """An object, as the pairs that it was written as."""


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
]

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
    """Return the document in `body`, or ParseError. A byte order mark before it is skipped.

    1 MiB takes some 10 ms, and at worst (nothing but tiny objects) some 100: time in which a
    service answers nobody else. So what the bytes can tell is never looked for in the document,
    where each value would cost a step of Python's.
    """
    try:
        text = body.removeprefix(BOM).decode("utf-8").strip(" \t\n\r")
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
