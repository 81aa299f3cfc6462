"""What may be a header that somebody adds to our requests, and how its value names a secret: the
one rule for callbacks, destinations and endpoints. Pure."""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Final, NamedTuple

from receiver.base.completion import HEADER_NAME_CHARS_MAX

STORED_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
NAME_REASON: Final = "a header's name is 1 to 64 letters, digits or any of -_.~…"
SET_REASON: Final = "this header is set by the dispatcher or the connection"
_NAME: Final = re.compile(rf"[A-Za-z0-9!#$%&'*+.^_`|~-]{{1,{HEADER_NAME_CHARS_MAX}}}")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")


class HeaderError(ValueError):
    """What cannot be a header, or a part of one; the reason is fit to show."""


class Reference(NamedTuple):
    """What a value names instead of saying it: of which kind, and what stands before it."""

    kind: str
    name: str
    prefix: str = ""


def check_name(name: str, refused: Collection[str], prefixes: tuple[str, ...]) -> None:
    """Raise HeaderError for what is no name, or one of those, in lower case, that are not for
    others to set."""
    if not _NAME.fullmatch(name):
        raise HeaderError(NAME_REASON)
    low = name.lower()
    if low in refused or low.startswith(prefixes):
        raise HeaderError(SET_REASON)


def check_value(value: str, chars_max: int) -> None:
    """Raise HeaderError for what cannot be a header's value, or a part of one."""
    if len(value) > chars_max or not _VALUE.fullmatch(value) or value != value.strip():
        reason = f"at most {chars_max} ASCII characters without "
        raise HeaderError(f"{reason}control characters or outer spaces")


def read_value(value: str, *kinds: str) -> str | Reference:
    """Return what a header's value says: `KIND:NAME`, alone or behind one word (`Bearer
    secret:NAME`), names something; `KIND::` stands for `KIND:` itself. Raises HeaderError for any
    other use of these words, which would be sent as they are."""
    marks, reference = _patterns(kinds)
    found = marks.findall(value)
    if not found:
        return value
    if all(doubled for _, doubled in found):
        return marks.sub(r"\1:", value)
    named = reference.fullmatch(value)
    if named is None or len(found) > 1:
        kind = next(kind for kind, doubled in found if not doubled)
        reason = f"`{kind}:NAME` stands alone or behind one word, and ends it"
        raise HeaderError(f"{reason}; {literal_hint(kind)}")
    return Reference(named["kind"], named["name"], named["prefix"] or "")


def written_value(value: str, *kinds: str) -> str:
    """Return what `read_value` reads as this very value."""
    marks, _ = _patterns(kinds)
    return marks.sub(r"\1::\2", value)


def literal_hint(kind: str) -> str:
    """Return how a value says the word itself."""
    return f"a literal one is written `{kind}::`"


@lru_cache
def _patterns(kinds: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    words = "|".join(kinds)
    names = rf"{STORED_NAME}" if kinds == ("secret",) else r"[^\s:]\S{0,254}"
    return (
        re.compile(rf"(?<![A-Za-z0-9._-])({words}):(:?)"),
        re.compile(rf"(?P<prefix>\S+[ \t]+)?(?P<kind>{words}):(?P<name>{names})"),
    )
