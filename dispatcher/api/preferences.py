"""The `Prefer` header (RFC 7240): how long somebody waits for a job's end, and what of it was
taken."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

WAIT_S_MAX: Final = 300
"""The longest that a request is held: many proxies cut earlier."""
_WORD: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_VALUE: Final = rf'(?:{_WORD}|"(?:[^"\\]|\\.)*")?'
_PREFERENCE: Final = re.compile(
    rf"[ \t]*(?P<name>{_WORD})(?:[ \t]*=[ \t]*(?P<value>{_VALUE}))?"
    rf"(?:[ \t]*;[ \t]*(?:{_WORD}(?:[ \t]*=[ \t]*{_VALUE})?)?)*[ \t]*"
)
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_CHARS_MAX: Final = 1_024


@dataclass(frozen=True, slots=True)
class Preferences:
    """What is preferred: to be answered at once (`respond_async`), or after `wait_s` at the latest,
    whichever is asked for; with both, whatever is there by then."""

    wait_s: int | None = None
    respond_async: bool = False

    @property
    def applied(self) -> str | None:
        """The value of `Preference-Applied`; None where nothing was asked for."""
        words = ["respond-async"] if self.respond_async else []
        if self.wait_s is not None:
            words.append(f"wait={self.wait_s}")
        return ", ".join(words) or None


NONE: Final = Preferences()


def read(header: str | None) -> Preferences:
    """Return what a `Prefer` header, its lines joined by commas, asks for. What it says that nobody
    knows, or that cannot be read, is as if it were not there; of two of a name the first counts."""
    if not header or len(header) > _CHARS_MAX:
        return NONE
    found: dict[str, str] = {}
    for name, value in _pairs(header):
        found.setdefault(name, value)
    wait = found.get("wait", "")
    wait_s = min(int(wait), WAIT_S_MAX) if _SECONDS.fullmatch(wait) else None
    return Preferences(wait_s, "respond-async" in found)


def _pairs(header: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(header):
        one = _PREFERENCE.match(header, at)
        if one is None or (one.end() < len(header) and header[one.end()] != ","):
            at = header.find(",", at) + 1 or len(header)
            continue
        value = one["value"] or ""
        yield one["name"].lower(), value.strip('"') if value.startswith('"') else value
        at = one.end() + 1
