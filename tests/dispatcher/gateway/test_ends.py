"""ends.py: the line that is written about each call, and what is given up where a result cannot be
stored."""

from dataclasses import replace

from dispatcher.gateway.ends import _barer, call_fields
from dispatcher.jobs.values import CallOutcome, JobSettlement, JobVerdict, Output
from tests.dispatcher.store.jobs.builders import target
from tests.dispatcher.upstreams import JOB_ID, claimed

OUTCOME = CallOutcome(
    kind="answered",
    sent=True,
    started_ms=1_000,
    duration_ms=12.345,
    status_code=502,
    output=Output(body=b"x", content_type="text/plain", headers=(("A", "b"),)),
    error="shown",
    detail="to us alone",
)


def test_the_line_of_a_call_tells_its_whole_story() -> None:
    verdict = JobVerdict(state="queued", due_ms=6_012, spent=True, error="shown")
    assert call_fields(claimed(calls=1), OUTCOME, verdict) == {
        "id": f"job_{JOB_ID}",
        "tenant": "default",
        "endpoint": "ep",
        "run": 1,
        "n": 2,
        "outcome": "answered",
        "statusCode": 502,
        "durationMs": 12.3,
        "state": "queued",
        "dueInMs": 5_000,
        "reason": None,
        "detail": "to us alone",
    }


def test_a_call_whose_claim_had_gone_says_so() -> None:
    closed = CallOutcome(kind="cancelled", sent=True, started_ms=0, duration_ms=1.0)
    line = call_fields(claimed(), closed, None)
    assert (line["outcome"], line["state"], line["reason"]) == ("cancelled", None, "claim_gone")


def test_what_cannot_be_stored_is_given_up_part_by_part() -> None:
    """Texts first, then the output, at last the callback; the job ends in any case."""
    job = claimed()
    job = replace(job, options=replace(job.options, callback=target()))
    verdict = JobVerdict(state="completed", error="a text")
    first = JobSettlement(job=job, outcome=OUTCOME, verdict=verdict, random=0.5, now_ms=0)
    assert [_barer(first, errors) for errors in (1, 2, 4, 5, 7, 8)] == [first] * 6

    bare = _barer(first, 3)
    assert bare.outcome.output == Output(body=b"x", content_type="text/plain")
    assert (bare.outcome.error, bare.outcome.detail, bare.verdict.error) == (None, None, None)
    assert bare.verdict.state == "completed"

    barer = _barer(bare, 6)
    assert barer.outcome.output is None
    assert (barer.verdict.state, barer.verdict.reason) == ("failed", "storage")
    assert barer.job.options.callback is not None
    assert _barer(barer, 9).job.options.callback is None
