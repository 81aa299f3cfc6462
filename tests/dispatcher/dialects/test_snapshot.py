"""dialects/: what a job looks like in any of them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from dispatcher.dialects import tensorone
from dispatcher.dialects.snapshot import Snapshot, of_job, output_value
from dispatcher.jobs.endpoint import Keep
from dispatcher.jobs.states import STATES
from dispatcher.jobs.told import End
from dispatcher.jobs.values import Job, JobOptions, Output
from receiver.base.clock import iso
from tests.dispatcher.jobs.made import ID, NOW_MS, rules


def stored(**fields: Any) -> Job:
    """A job that completed a second ago, and took two."""
    made = Job(
        id=ID,
        tenant="acme",
        endpoint="ep_document_gen",
        dialect="v1",
        state="completed",
        reason=None,
        priority="normal",
        run=1,
        calls=1,
        tags=(("team", "ä"),),
        options=JobOptions(),
        created_ms=NOW_MS - 10_000,
        queued_ms=NOW_MS - 10_000,
        due_ms=0,
        started_ms=NOW_MS - 3_000,
        ended_ms=NOW_MS - 1_000,
        expires_ms=NOW_MS,
        status_code=200,
        error=None,
        callback=None,
        output_bytes=8,
        output_type="application/json",
        releasing=False,
        epoch=0,
        ticket=1,
        output=Output(body=b'{"a": 1}', content_type="application/json"),
    )
    return replace(made, **fields)


def shown(job: Job, **fields: Any) -> Snapshot:
    given: dict[str, Any] = {
        "cost": 0.5, "now_ms": NOW_MS, "inline_max": 100, "public_url": "https://host/",
    }  # fmt: skip
    by = rules(keep=Keep(output=60))
    return of_job(job, fields.pop("dialect", "tensorone"), by, **(given | fields))


def test_one_that_ended_is_as_it_was_then() -> None:
    one = shown(stored())
    assert (one.id, one.state, one.at_ms, one.ran_ms) == (
        f"job_{ID}", "completed", NOW_MS - 1_000, 2_000,
    )  # fmt: skip
    assert one.end is not None
    assert (one.end.cost, one.end.expires_ms) == (0.5, NOW_MS + 59_000)
    assert output_value(one) == b'{"a": 1}'


@pytest.mark.parametrize("state", ["queued", "running"])
def test_one_that_goes_on_is_as_it_is_now(state: Any) -> None:
    one = shown(stored(state=state, ended_ms=None, output=None, output_bytes=None))
    assert (one.end, one.at_ms, one.ran_ms) == (None, NOW_MS, 3_000)
    assert output_value(one) == b"null"
    waiting = shown(stored(state=state, ended_ms=None, started_ms=None))
    assert waiting.ran_ms == 0


def test_its_id_is_spelled_as_the_dialect_does_that_shows_it() -> None:
    waited = stored(options=JobOptions(waited=True))
    assert shown(stored(), dialect="v1").id == f"job_{ID}"
    assert shown(waited, dialect="runpod").id.startswith("sync-")
    assert "-" in shown(stored(), dialect="cerebrium").id


def test_what_is_long_is_told_by_where_it_is_fetched() -> None:
    one = shown(stored(), inline_max=3)
    assert json.loads(output_value(one))["url"] == f"https://host/v1/jobs/job_{ID}/output"
    gone = shown(stored(output=None))
    assert output_value(gone) == b"null"


@pytest.mark.parametrize("state", STATES)
def test_tensorones_status_holds_its_callback(state: Any) -> None:
    """One function makes what both say of an end."""
    one = shown(stored(state=state))
    said = json.loads(tensorone.status(one, iso(NOW_MS)))
    assert (said["status"], said["tags"]) == (state, {"team": "ä"})
    assert ("estimatedCompletion" in said) is (one.end is None)
    if one.end is not None:
        document = json.loads(tensorone.payload(one).body)
        assert document == {name: said[name] for name in document}


@pytest.mark.parametrize("dialect", ["v1", "tensorone"])
def test_no_text_keeps_an_end_from_being_told(dialect: Any) -> None:
    one = stored(tags=(("a", "\ud800"),), state="failed")
    end = End(state="failed", error="\ud800\0\n", output=one.output)
    snapshot = replace(shown(one), end=end)
    assert json.loads(tensorone.payload(snapshot).body)["status"] == "failed"
    assert json.loads(tensorone.status(replace(snapshot, end=None)))["jobId"] == f"job_{ID}"


@pytest.mark.parametrize(
    ("bytes_count", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1_000, "1KB"),
        (1_299, "1.2KB"),
        (2_500_000_000, "2.5GB"),
        (1_200_000_000, "1.2GB"),
        (999_999_999, "999.9MB"),
        (3 * 10**15, "3000TB"),
    ],
)
def test_sizes_are_decimal(bytes_count: int, text: str) -> None:
    """As `2.5GB` and `1.2GB`, and never more than there is."""
    assert tensorone.size(bytes_count) == text
