"""One request and its answer as values, apart from whatever carries them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Final, Generic, TypeVar
from urllib.parse import quote

T_co = TypeVar("T_co", covariant=True)

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back; header names are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    elapsed_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return 200 <= self.status < 300

    @property
    def retry_after_s(self) -> float | None:
        """The wait that `Retry-After` asks for (seconds, or a date beside the answer's own)."""
        text = self.headers.get("retry-after", "").strip()
        if not text:
            return None
        if text.isdecimal():
            return float(text[:9])
        try:
            until = parsedate_to_datetime(text)
            return max(0.0, (until - parsedate_to_datetime(self.headers["date"])).total_seconds())
        except (KeyError, ValueError, TypeError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """No answer. `sent` is False where the request certainly never left."""

    sent: bool
    reason: str
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T_co]):
    """One request under `/v1`, and how to read its answer.

    `repeatable`: doing it twice leaves what doing it once would, so it may be sent again when its
    answer was lost. Submits are: the service knows them by their idempotency key.
    """

    method: str
    path: str
    read: Callable[[Answer], T_co]
    repeatable: bool
    params: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    content_type: str | None = None


def path(*parts: str) -> str:
    """Return a path of these parts, each one escaped."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def paging(cursor: str | None, limit: int | None) -> tuple[tuple[str, str], ...]:
    """Return the parameters that ask for one page of a list."""
    found = {"cursor": cursor, "limit": None if limit is None else str(limit)}
    return tuple((name, value) for name, value in found.items() if value is not None)
