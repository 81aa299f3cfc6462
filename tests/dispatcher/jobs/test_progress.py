"""What upstreams report: how reports add up, what is kept of an event, and what follows for the
estimate."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.gateway.reports import heard
from dispatcher.jobs.progress import (
    LOG_CHARS_MAX,
    METADATA_BYTES_MAX,
    Progress,
    body_of,
    completion_ms,
    document,
    logged,
    read_body,
)

texts = st.one_of(st.none(), st.text(max_size=20))
reports = st.builds(
    Progress,
    percent=st.one_of(st.none(), st.floats(0, 100)),
    step=texts,
    metadata=st.one_of(st.none(), st.just('{"a": 1}')),
    since_ms=st.integers(0, 10**6),
    at_ms=st.integers(0, 10**6),
)


@given(st.lists(reports, min_size=1, max_size=8))
def test_the_last_word_on_each_thing_counts(said: list[Progress]) -> None:
    """In whatever parts they are joined: so it does not matter which were written together."""
    joined = said[0]
    for one in said[1:]:
        joined = joined.then(one)
    for name in ("percent", "step", "metadata"):
        values = [value for one in said if (value := getattr(one, name)) is not None]
        assert getattr(joined, name) == (values[-1] if values else None)
    assert joined.n == len(said)
    assert joined.since_ms == said[0].since_ms
    if len(said) > 2:
        late = said[1]
        for one in said[2:]:
            late = late.then(one)
        assert said[0].then(late) == joined


@given(st.one_of(st.none(), st.text(alphabet=st.characters(exclude_categories=["Cs"]))))
def test_texts_are_stored_as_they_are(step: str | None) -> None:
    kept = Progress(step=step, metadata='{"a":  1}', log=step, since_ms=1, at_ms=2)
    assert read_body(body_of(kept)) == (step, '{"a":  1}', step)


def test_of_a_log_the_last_whole_lines_are_kept() -> None:
    """However it is cut into reports; a line that is longer than all of it is cut."""
    lines = [f"line {n} " + "x" * 80 for n in range(400)]
    whole: str | None = None
    for line in lines:
        whole = logged(whole, line)
    assert whole is not None
    assert LOG_CHARS_MAX - 100 < len(whole) <= LOG_CHARS_MAX
    kept = whole.split("\n")
    assert kept == lines[-len(kept) :]
    assert logged(None, "\n".join(lines)) == whole
    assert logged("a\n", "b") == "a\nb"
    assert logged("a", None) == "a"
    assert logged(None, None) is None
    assert logged("a", "x" * (2 * LOG_CHARS_MAX)) == "x" * LOG_CHARS_MAX


def test_what_is_not_known_is_not_shown() -> None:
    """A number without a fraction has no point."""
    assert document(Progress(since_ms=0, at_ms=0)) == {}
    shown = document(Progress(percent=25.0, step='a"b', since_ms=0, at_ms=0))
    assert shown == {"progress": "25", "currentStep": r'"a\"b"'}
    assert document(Progress(percent=2.5, since_ms=0, at_ms=0)) == {"progress": "2.5"}


@pytest.mark.parametrize(
    ("percent", "at_ms", "now_ms", "expected"),
    [
        (None, 1_000, 1_000, None),
        (4.9, 1_000, 1_000, None),
        (5.0, 1_000, 1_000, 20_000),
        (50.0, 1_000, 1_500, 2_000),
        (50.0, 1_000, 9_000, 9_000),  # never in the past
        (100.0, 1_000, 1_000, 1_000),
    ],
)
def test_the_rest_takes_as_long_as_this_did(
    percent: float | None, at_ms: int, now_ms: int, expected: int | None
) -> None:
    """From 5 % on."""
    known = Progress(percent=percent, since_ms=0, at_ms=at_ms)
    assert completion_ms(known, 0, now_ms=now_ms) == expected


@pytest.mark.parametrize(
    ("data", "percent", "step", "metadata"),
    [
        (b"40", 40, None, None),
        (
            b'{"progress": 40.5, "currentStep": "a", "metadata": {"b": 1}}',
            40.5,
            "a",
            '{"b":1}',
        ),
        (b'{"progress": 400, "currentStep": "a"}', None, "a", None),
        (b'{"progress": true, "metadata": [1], "x": 2, "currentStep": "z"}', None, "z", None),
    ],
)
def test_of_an_event_is_kept_what_can_be(
    data: bytes, percent: float | None, step: str | None, metadata: str | None
) -> None:
    known = heard(data, 5)
    assert known is not None
    assert (known.percent, known.step, known.metadata) == (percent, step, metadata)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"true",
        b"[]",
        b"NaN",
        b"1e999",
        b"-1",
        b'"40"',
        b"{}",
        b"[" * 100_000,
        b"\xff",
        b"9" * 5_000,
        b'{"metadata": {"a": NaN}}',
        b'{"metadata": {"a": 1e999}}',
        json.dumps({"metadata": {"a": "x" * METADATA_BYTES_MAX}}).encode(),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_says_nothing_of_it_is_not_heard(data: bytes) -> None:
    assert heard(data, 5) is None
