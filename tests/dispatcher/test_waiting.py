"""What a pending callback is said to wait for."""

import pytest

from dispatcher.values import Schedule
from dispatcher.waiting import Wait, wait_of

NOW = 1_790_000_000_000


@pytest.mark.parametrize(
    ("schedule", "due_in_ms", "attempts", "expected"),
    [
        (Schedule(is_paused=True), -5_000, 0, Wait("paused")),
        (Schedule(is_paused=True, disabled_reason="by hand"), -5_000, 0, Wait("disabled")),
        (
            Schedule(held_until_ms=NOW + 16_000, held_reason="circuit"),
            -5_000,
            3,
            Wait("circuit", NOW + 16_000),
        ),
        (
            Schedule(held_until_ms=NOW + 900, held_reason="retry-after"),
            0,
            1,
            Wait("retry-after", NOW + 900),
        ),
        (
            Schedule(held_until_ms=NOW + 900, held_reason="turned-away"),
            0,
            1,
            Wait("turned-away", NOW + 900),
        ),
        (Schedule(circuit_open=True), -1, 2, Wait("circuit")),
        (Schedule(), 60_000, 2, Wait("retry", NOW + 60_000)),
        (
            Schedule(held_until_ms=NOW + 900, held_reason="circuit", circuit_open=True),
            60_000,
            2,
            Wait("retry", NOW + 60_000),
        ),
        (
            Schedule(not_before_ms=NOW + 60_000),
            60_000,
            0,
            Wait("not-before", NOW + 60_000),
        ),
        (Schedule(ready_ms=NOW + 250), -1, 0, Wait("rate", NOW + 250)),
        (Schedule(ready_ms=None), -1, 0, Wait("slot")),
        (Schedule(ready_ms=NOW - 1), -1, 0, Wait("slot")),
        (None, -1, 0, None),
        (None, 5_000, 1, Wait("retry", NOW + 5_000)),
    ],
)
def test_the_reason_is_the_one_that_ends_last(
    schedule: Schedule | None, due_in_ms: int, attempts: int, expected: Wait | None
) -> None:
    """A pause before all, then what holds its destination or its own next try, whichever is
    later, then a rate, then a slot."""
    found = wait_of(schedule, NOW + due_in_ms, attempts=attempts, now_ms=NOW)
    assert found == expected
