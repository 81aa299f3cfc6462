"""probe.py: what cut a test call, told to operators."""

from typing import Any

import pytest

from dispatcher.jobs.values import CallOutcome
from dispatcher.sending.probe import advice_on


def outcome(kind: Any, seconds: float, **fields: Any) -> CallOutcome:
    return CallOutcome(kind=kind, sent=True, started_ms=0, duration_ms=seconds * 1000, **fields)


@pytest.mark.parametrize(
    ("met", "says"),
    [
        (outcome("unknown", 60.1, detail="ServerDisconnectedError: x"), "after 60.1 s, and not"),
        (outcome("broken_off", 100.0, status_code=200), "after 100.0 s, and not"),
        (outcome("answered", 60.0, status_code=504), "answered 504 after 60.0 s"),
        (
            outcome("unknown", 61.0, detail="ClientOSError: [Errno 110] Connection timed out"),
            "has not been heard of for 60 s",
        ),
        (outcome("answered", 60.0, status_code=200), None),
        (outcome("answered", 60.0, status_code=500), None),
        (outcome("answered", 0.1, status_code=502), None),
        (outcome("unknown", 0.1), None),
        (outcome("timeout", 60.0), None),
    ],
)
def test_a_call_that_was_cut_after_long_is_told_with_what_cut_it(
    met: CallOutcome, says: str | None
) -> None:
    advice = advice_on(met)
    assert advice is None if says is None else says in (advice or "")
