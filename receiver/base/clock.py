"""The time of day: integers of milliseconds inside, ISO-8601 text outside."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, TypeAlias, overload

NowMs: TypeAlias = Callable[[], int]

# Nothing sleeps longer: a clock that was set, or a laptop that slept, is noticed by then.
_NAP_S_MAX: Final = 30.0
_MS_MIN: Final = -62_135_596_800_000  # the first of the year 1
_MS_MAX: Final = 253_402_300_799_999  # the last of the year 9999, which is all that can be shown


def now_ms() -> int:
    """Return the milliseconds since the Unix epoch."""
    return int(time.time() * 1000)


def monotonic_ms() -> int:
    """Return the milliseconds of a clock that nobody sets: for how long something lasts, or when
    it was last done."""
    return int(time.monotonic() * 1000)


@overload
def iso(ms: int) -> str: ...
@overload
def iso(ms: None) -> None: ...
@overload
def iso(ms: int | None) -> str | None: ...
def iso(ms: int | None) -> str | None:
    """Return `ms` as ISO-8601 in UTC with milliseconds and `Z`; None stays None. What lies outside
    the years that can be shown is shown as their first or last moment."""
    if ms is None:
        return None
    if not _MS_MIN <= ms <= _MS_MAX:
        ms = min(max(ms, _MS_MIN), _MS_MAX)
    second, rest = divmod(ms, 1000)
    return f"{_second(second)}.{rest:03d}Z"


@lru_cache(maxsize=256)  # what is logged and shown lies in few seconds; formatting costs 7 µs
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse_iso(text: str) -> int:
    """Return the milliseconds of an ISO-8601 time; one without an offset is taken as UTC.

    Raises ValueError for anything else, and for years outside 1970 to 9999.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        ms = round(moment.timestamp() * 1000)
    except OverflowError as error:
        raise ValueError("time out of range") from error
    if not 0 <= ms <= _MS_MAX:
        raise ValueError("time outside 1970 to 9999")
    return ms


async def wait_until(wake: asyncio.Event, due_ms: int | None, now_ms: int) -> None:
    """Wait until `wake` is set (it is cleared), or the time has come, or for a short while."""
    nap_s = _NAP_S_MAX if due_ms is None else min(_NAP_S_MAX, max(0, due_ms - now_ms) / 1000)
    with suppress(TimeoutError):
        async with asyncio.timeout(nap_s):
            await wake.wait()
    wake.clear()
