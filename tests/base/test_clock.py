"""clock.py: integers inside, ISO-8601 outside."""

import asyncio
import threading
from datetime import UTC, datetime

import pytest
from freezegun import freeze_time
from hypothesis import given
from hypothesis import strategies as st

from receiver.base.clock import iso, now_ms, parse_iso

LAST_MS = 253_402_300_799_999  # the end of the year 9999


def test_now_is_the_wall_clock_in_milliseconds() -> None:
    with freeze_time("2026-01-31T12:00:00.123Z"):
        assert now_ms() == 1_769_860_800_123
        assert iso(now_ms()) == "2026-01-31T12:00:00.123Z"


def test_time_is_utc_wherever_the_machine_stands() -> None:
    with freeze_time("2026-01-31T12:00:00Z", tz_offset=-8):
        assert iso(now_ms()) == "2026-01-31T12:00:00.000Z"


@given(st.integers(0, LAST_MS))
def test_what_is_shown_reads_back_exactly(ms: int) -> None:
    assert parse_iso(iso(ms)) == ms


@given(st.integers(0, LAST_MS))
def test_the_text_sorts_like_the_time_and_ends_in_z(ms: int) -> None:
    text = iso(ms)
    assert text.endswith("Z")
    assert len(text) == len("2026-01-31T12:00:00.123Z")
    assert text <= iso(LAST_MS)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-31", 1_769_817_600_000),
        ("2026-01-31T12:00:00", 1_769_860_800_000),
        ("2026-01-31T12:00:00Z", 1_769_860_800_000),
        ("2026-01-31T12:00:00.5+01:00", 1_769_857_200_500),
    ],
)
def test_iso_8601_is_understood_and_taken_as_utc_without_an_offset(text: str, ms: int) -> None:
    assert parse_iso(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1790000000",
        "2026-02-30T00:00:00Z",
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00+00:01",
        "10000-01-01T00:00:00Z",
        "9999-12-31T23:59:59.9999Z",
        "9999-12-31T23:59:59-00:01",
    ],
)
def test_anything_else_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_iso(text)


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_time_is_read_or_refused_and_what_is_read_can_be_shown(moment: datetime) -> None:
    try:
        ms = parse_iso(moment.isoformat())
    except ValueError:
        assert moment.year < 1970 or moment.year == 9999
        return
    assert parse_iso(iso(ms)) == ms


def test_none_stays_none() -> None:
    assert iso(None) is None


def test_a_frozen_wall_clock_stops_no_event_loop() -> None:
    """A loop that serves in another thread goes on while a test freezes the time."""
    rung = threading.Event()

    async def ring_soon() -> None:
        await asyncio.sleep(0.001)
        rung.set()

    with freeze_time("2026-01-31T12:00:00Z"):
        thread = threading.Thread(target=asyncio.run, args=(ring_soon(),))
        thread.start()
        assert rung.wait(10)
        assert now_ms() == parse_iso("2026-01-31T12:00:00Z")
    thread.join()
