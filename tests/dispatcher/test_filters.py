"""filters.py: what a listing or a replay may ask for, and how it is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.filters import Filter, FilterError, dump, parse
from dispatcher.states import STATES
from receiver.base.clock import iso

texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=50
)
times = st.integers(0, 253_402_300_799_999)
wanted = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(STATES),
        "jobStatus": texts,
        "jobId": texts,
        "destination": texts,
        "priority": st.sampled_from(["high", "normal"]),
        "error": texts,
        "since": times.map(iso),
        "until": times.map(iso),
        "tag.team": texts,
        "tag.ünï.code": texts,
    },
)


@given(wanted)
def test_what_is_dumped_reads_back_as_it_was(raw: dict[str, str]) -> None:
    """A replay keeps its filter as text, and must find the same set after a restart."""
    assert dump(parse(raw)) == raw
    assert parse(dump(parse(raw))) == parse(raw)


def test_every_field_has_its_place() -> None:
    found = parse(
        {
            "status": "dead",
            "jobStatus": "failed",
            "jobId": "job-1",
            "destination": "crm",
            "priority": "high",
            "error": "http_503",
            "since": "2026-01-31T12:00:00Z",
            "until": "2026-01-31T14:00:00+01:00",
            "tag.team": "a",
        }
    )
    assert found == Filter(
        status="dead",
        job_status="failed",
        job_id="job-1",
        destination="crm",
        priority="high",
        error="http_503",
        since_ms=1_769_860_800_000,
        until_ms=1_769_864_400_000,
        tags=(("team", "a"),),
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", "dead"),
        ("Status", "dead"),
        ("tag.", "a"),
        ("tags", "a"),
        ("", "a"),
        ("cursor", "a"),
        ("status", "lost"),
        ("status", "DEAD"),
        ("status", ""),
        ("priority", "urgent"),
        ("jobId", ""),
        ("jobId", 7),
        ("jobId", None),
        ("jobId", ["a"]),
        ("jobId", "x" * 2_049),
        ("jobId", "a\0b"),
        ("tag.team", "\ud800"),
        ("since", "yesterday"),
        ("since", "2026-13-01"),
        ("until", "1969-12-31T23:59:59Z"),
        ("until", "9999-12-31T23:59:59.9999Z"),
        ("until", "9999-12-31T23:59:59-23:59"),
        ("until", "0001-01-01T00:00:00+23:59"),
        ("since", "1790000000"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(FilterError) as met:
        parse({field: value})
    assert met.value.field == field
    assert met.value.reason
    assert len(str(met.value)) < 400


def test_at_most_eight_tags_at_once() -> None:
    parse({f"tag.{n}": "a" for n in range(8)})
    with pytest.raises(FilterError, match="at most 8"):
        parse({f"tag.{n}": "a" for n in range(9)})


@given(
    st.dictionaries(st.text(max_size=12), st.one_of(st.text(max_size=30), st.integers(), st.none()))
)
def test_anything_at_all_is_a_filter_or_a_filter_error(raw: dict[str, object]) -> None:
    try:
        fields = dump(parse(raw))
    except FilterError:
        return
    assert parse(fields) == parse(raw)
