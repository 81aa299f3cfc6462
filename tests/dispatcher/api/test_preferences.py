"""`Prefer` (RFC 7240): waiting for a job's end, or not."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.api.preferences import NONE, WAIT_S_MAX, Preferences, read


@pytest.mark.parametrize(
    ("header", "meant"),
    [
        (None, NONE),
        ("", NONE),
        ("respond-async", Preferences(respond_async=True)),
        ("Respond-Async", Preferences(respond_async=True)),
        ("wait=10", Preferences(10)),
        ('wait="10"', Preferences(10)),
        ("wait = 10", Preferences(10)),
        ("respond-async, wait=10", Preferences(10, respond_async=True)),
        ("wait=10,respond-async;x=y", Preferences(10, respond_async=True)),
        ("wait=10, wait=20", Preferences(10)),
        ('return=minimal; foo="some, wait=3", wait=10', Preferences(10)),
        ("handling=lenient,,wait=0", Preferences(0)),
        (f"wait={WAIT_S_MAX + 1}", Preferences(WAIT_S_MAX)),
        ("wait=-1", NONE),
        ("wait=1.5", NONE),
        ("wait=soon, respond-async", Preferences(respond_async=True)),
        ("wait", NONE),
        ('wait="10', NONE),
        ("=3, (, respond-async", Preferences(respond_async=True)),
    ],
)
def test_what_is_preferred(header: str | None, meant: Preferences) -> None:
    """RFC 7240: case counts in no name, of two the first counts, what is unknown is ignored."""
    assert read(header) == meant


@pytest.mark.parametrize(
    ("header", "applied"),
    [
        ("respond-async", "respond-async"),
        ("wait=10", "wait=10"),
        ("wait=10, respond-async", "respond-async, wait=10"),
        ("return=minimal", None),
    ],
)
def test_what_was_applied_is_told(header: str, applied: str | None) -> None:
    assert read(header).applied == applied


@given(st.text(max_size=200))
def test_nothing_makes_it_fail(text: str) -> None:
    assert read(text).wait_s is None or read(text).wait_s in range(WAIT_S_MAX + 1)


def test_a_hostile_one_costs_little() -> None:
    begun_s = time.perf_counter()
    for text in ('a="' + "\\" * 900, ";" * 1000, "a;" * 500, "a ;" * 300 + "(", " " * 1000):
        read(text)
    assert time.perf_counter() - begun_s < 0.5
