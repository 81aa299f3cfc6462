"""The line that is written about each attempt."""

from dispatcher.engine.engine import attempt_fields
from dispatcher.outcome import Outcome
from dispatcher.policy import Verdict
from tests.dispatcher.peers import delivery


def test_the_line_of_an_attempt_tells_its_whole_story() -> None:
    outcome = Outcome(
        kind="answered", started_ms=1_000, duration_ms=12.345, status_code=503, detail=None
    )
    verdict = Verdict(state="pending", due_ms=6_012)

    callback = delivery("http://a.example/", attempt=2)

    assert attempt_fields(callback, "rejected", outcome, verdict) == {
        "id": "cb_0190f3a1b2c3d4e5f60718293a4b5c6d",
        "tenant": "default",
        "jobId": "job_1",
        "destination": "ds_1",
        "n": 2,
        "outcome": "rejected",
        "statusCode": 503,
        "durationMs": 12.3,
        "state": "pending",
        "dueInMs": 5_000,
        "reason": None,
        "detail": None,
    }
