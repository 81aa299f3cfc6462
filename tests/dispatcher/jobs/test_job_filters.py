"""jobs/filters.py: which jobs a listing or a sweep may ask for, and how it is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.filters import FilterError
from dispatcher.jobs.filters import JobFilter, dump, parse
from dispatcher.jobs.states import STATES
from receiver.base.clock import iso

texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=50
)
times = st.integers(0, 253_402_300_799_999)
filters = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(STATES),
        "endpoint": texts,
        "priority": st.sampled_from(["high", "normal", "low"]),
        "reason": st.sampled_from(["purged", "run_limit"]),
        "since": times.map(iso),
        "until": times.map(iso),
        "tag.team": texts,
        "tag.ünï.code": texts,
    },
)


@given(filters)
def test_what_is_dumped_reads_back_as_it_was(raw: dict[str, str]) -> None:
    """A sweep keeps its filter as text, and must find the same set after a restart."""
    assert dump(parse(raw)) == raw
    assert parse(dump(parse(raw))) == parse(raw)


def test_every_field_has_its_place() -> None:
    found = parse(
        {
            "status": "failed",
            "endpoint": "ep",
            "priority": "low",
            "reason": "attempts",
            "since": "2026-01-31T12:00:00Z",
            "until": "2026-01-31T14:00:00+01:00",
            "tag.team": "a",
        }
    )
    assert found == JobFilter(
        status="failed",
        endpoint="ep",
        priority="low",
        reason="attempts",
        since_ms=1_769_860_800_000,
        until_ms=1_769_864_400_000,
        tags=(("team", "a"),),
    )


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"status": "dead"}, "status"),
        ({"priority": "urgent"}, "priority"),
        ({"reason": "because"}, "reason"),
        ({"jobId": "job"}, "jobId"),
        ({"endpoint": ""}, "endpoint"),
        ({"endpoint": "a\0"}, "endpoint"),
        ({"since": "yesterday"}, "since"),
        ({"tag.": "x"}, "tag."),
        ({f"tag.{n}": "x" for n in range(9)}, "tag"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_its_field(raw: dict[str, str], field: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(raw)
    assert caught.value.field == field
