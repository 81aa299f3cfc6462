"""filters.py and jobs/filters.py: what listings, replays and sweeps may ask for, and how it is
refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import filters
from dispatcher.filters import Filter, FilterError
from dispatcher.jobs import filters as job_filters
from dispatcher.jobs.filters import JobFilter
from dispatcher.jobs.states import STATES as JOB_STATES
from dispatcher.states import STATES
from receiver.base.clock import iso

texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=50
)
times = st.integers(0, 253_402_300_799_999)
of_both = {
    "since": times.map(iso),
    "until": times.map(iso),
    "tag.team": texts,
    "tag.ünï.code": texts,
}
of_callbacks = {
    "status": st.sampled_from(STATES),
    "jobStatus": texts,
    "jobId": texts,
    "destination": texts,
    "callbackUrl": texts,
    "priority": st.sampled_from(["high", "normal"]),
    "error": texts,
}
of_jobs = {
    "status": st.sampled_from(JOB_STATES),
    "endpoint": texts,
    "priority": st.sampled_from(["high", "normal", "low"]),
    "reason": st.sampled_from(["purged", "run_limit"]),
}
KINDS = {
    "callbacks": (filters, of_callbacks),
    "jobs": (job_filters, of_jobs),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@given(st.data())
def test_what_is_dumped_reads_back_as_it_was(kind: str, data: st.DataObject) -> None:
    """A replay and a sweep keep their filters as text, and must find the same sets after a
    restart."""
    module, fields = KINDS[kind]
    raw = data.draw(st.fixed_dictionaries({}, optional=of_both | fields))
    assert module.dump(module.parse(raw)) == raw
    assert module.parse(module.dump(module.parse(raw))) == module.parse(raw)


OF_BOTH = {
    "since": "2026-01-31T12:00:00Z",
    "until": "2026-01-31T14:00:00+01:00",
    "tag.team": "a",
}
READ: dict[str, Any] = {
    "since_ms": 1_769_860_800_000,
    "until_ms": 1_769_864_400_000,
    "tags": (("team", "a"),),
}


def test_every_field_of_callbacks_has_its_place() -> None:
    found = filters.parse(
        {
            "status": "dead",
            "jobStatus": "failed",
            "jobId": "job-1",
            "destination": "crm",
            "callbackUrl": "https://example.com/hook",
            "priority": "high",
            "error": "http_503",
            **OF_BOTH,
        }
    )
    assert found == Filter(
        status="dead",
        job_status="failed",
        job_id="job-1",
        destination="crm",
        callback_url="https://example.com/hook",
        priority="high",
        error="http_503",
        **READ,
    )


def test_every_field_of_jobs_has_its_place() -> None:
    found = job_filters.parse(
        {"status": "failed", "endpoint": "ep", "priority": "low", "reason": "attempts", **OF_BOTH}
    )
    assert found == JobFilter(
        status="failed", endpoint="ep", priority="low", reason="attempts", **READ
    )


@kinds
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
def test_what_cannot_be_understood_is_refused_by_its_name(
    kind: str, field: str, value: Any
) -> None:
    refused(kind, field, value)


@pytest.mark.parametrize(("kind", "field"), [("callbacks", "jobId"), ("jobs", "endpoint")])
@pytest.mark.parametrize("value", ["", 7, None, ["a"], "x" * 2_049, "a\0b"])
def test_a_word_is_a_text_of_bounded_length(kind: str, field: str, value: Any) -> None:
    refused(kind, field, value)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("callbacks", "reason", "purged"),
        ("callbacks", "endpoint", "ep"),
        ("callbacks", "priority", "low"),
        ("callbacks", "status", "queued"),
        ("jobs", "jobId", "job"),
        ("jobs", "reason", "because"),
        ("jobs", "status", "dead"),
    ],
)
def test_what_one_has_the_other_does_not(kind: str, field: str, value: str) -> None:
    refused(kind, field, value)


def refused(kind: str, field: str, value: Any) -> None:
    """Say which field, and why, in a text that is fit to show."""
    with pytest.raises(FilterError) as met:
        KINDS[kind][0].parse({field: value})
    assert met.value.field == field
    assert met.value.reason
    assert len(str(met.value)) < 400


@kinds
def test_at_most_eight_tags_at_once(kind: str) -> None:
    parse = KINDS[kind][0].parse
    parse({f"tag.{n}": "a" for n in range(8)})
    with pytest.raises(FilterError, match="at most 8"):
        parse({f"tag.{n}": "a" for n in range(9)})


@kinds
@given(
    raw=st.dictionaries(
        st.text(max_size=12), st.one_of(st.text(max_size=30), st.integers(), st.none())
    )
)
def test_anything_at_all_is_a_filter_or_a_filter_error(kind: str, raw: dict[str, object]) -> None:
    module = KINDS[kind][0]
    try:
        fields = module.dump(module.parse(raw))
    except FilterError:
        return
    assert module.parse(fields) == module.parse(raw)
