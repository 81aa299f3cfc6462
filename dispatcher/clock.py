"""Wall-clock time as the integers we store and the ISO-8601 text we show."""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

_MOST_MS: Final = 253_402_300_799_999  # the last of the year 9999, which is all that can be shown


def now_ms() -> int:
    """Milliseconds since the Unix epoch."""
    return int(time.time() * 1000)


def iso(ms: int) -> str:
    """`ms` as ISO-8601 in UTC with milliseconds and `Z`."""
    second, rest = divmod(ms, 1000)
    return f"{_second(second)}.{rest:03d}Z"


@lru_cache(maxsize=256)  # what is logged and answered lies in few seconds; formatting costs 7 µs
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse_iso(text: str) -> int:
    """Milliseconds for an ISO-8601 time; one without an offset is taken as UTC.

    Raises ValueError for anything else, and for years outside 1970 to 9999.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        ms = round(moment.timestamp() * 1000)
    except OverflowError as error:
        raise ValueError("time out of range") from error
    if not 0 <= ms <= _MOST_MS:
        raise ValueError("time outside 1970 to 9999")
    return ms
