"""When somebody is told that work waits."""

from typing import Any

import pytest

from dispatcher.jobs import waking
from dispatcher.jobs.endpoint import EndpointLoad, Wake

pytestmark = pytest.mark.quick

WAKE = Wake(url="http://127.0.0.1:9100/wake", every=30)


def load(**fields: Any) -> EndpointLoad:
    given: dict[str, Any] = {
        "endpoint": "ep",
        "queued": 0,
        "running": 0,
        "releasing": 0,
        "window": 4,
        "oldest_queued_ms": None,
        "held_until_ms": 0,
        "held_reason": None,
    }
    return EndpointLoad(**given | fields)


def test_somebody_is_told_when_a_queue_leaves_zero() -> None:
    """Once, whether the first job waits or was started at once."""
    assert waking.due(load(queued=1, is_wanted=True), WAKE, None, at_ms=0)
    assert waking.due(load(running=1), WAKE, None, at_ms=0)
    assert not waking.due(load(), WAKE, None, at_ms=0)
    assert not waking.due(load(queued=1, is_wanted=True), WAKE, 0, at_ms=29_999)


def test_low_priority_wakes_nobody() -> None:
    assert not waking.due(load(queued=9, is_wanted=False), WAKE, None, at_ms=0)


def test_it_is_told_again_while_what_waits_is_not_run() -> None:
    """Each `every`: nothing runs, or what runs ails."""
    waiting = load(queued=1, is_wanted=True)
    assert waking.due(waiting, WAKE, 0, at_ms=30_000)
    served = load(queued=1, running=1, is_wanted=True)
    assert not waking.due(served, WAKE, 0, at_ms=90_000)
    ailing = load(queued=1, running=1, is_wanted=True, unhealthy_ms=1)
    assert waking.due(ailing, WAKE, 0, at_ms=30_000)
