"""jobs/health.py: the window, the circuit and the holds of an endpoint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.health import CIRCUIT_FAILURES, CIRCUIT_FIRST_MS, CIRCUIT_SPAN_MS, Health
from dispatcher.jobs.health import after, fresh, resized
from dispatcher.jobs.judge import is_turned_away
from dispatcher.jobs.values import CallOutcome
from tests.dispatcher.jobs.made import NOW_MS, outcome, rules
from tests.dispatcher.jobs.test_judge import outcomes

RULES = rules()


def heed(
    health: Health,
    met: CallOutcome,
    now_ms: int = NOW_MS,
    *,
    random: float = 0.5,
    concurrency: int = 4,
    adaptive: bool = True,
) -> Health:
    return after(
        health,
        met,
        turned_away=is_turned_away(met, RULES),
        now_ms=now_ms,
        random=random,
        concurrency=concurrency,
        adaptive=adaptive,
    )


def down(times: int = CIRCUIT_FAILURES, health: Health | None = None) -> Health:
    """An endpoint that was not reached so often in a row, over the circuit's span."""
    health = health or fresh(4)
    for n in range(times):
        at_ms = NOW_MS - CIRCUIT_SPAN_MS + CIRCUIT_SPAN_MS * n // max(1, times - 1)
        health = heed(health, outcome("not_sent"), at_ms)
    return health


# --- the window ---


def test_it_begins_with_all_that_it_may_have() -> None:
    assert fresh(7) == Health(window=7)


@pytest.mark.parametrize("met", [outcome(code=429), outcome(code=503)])
def test_being_turned_away_takes_one_place_and_holds_for_a_second_doubling(
    met: CallOutcome,
) -> None:
    """429/503 shrink by one and hold."""
    health = heed(fresh(4), met)
    assert (health.window, health.held_reason, health.held_until_ms) == (
        3,
        "turned-away",
        NOW_MS + 1_000,
    )
    later = heed(health, outcome(code=429, lasted_s=0), NOW_MS)
    assert later.window == 3, "it was out when the endpoint was held"
    at_ms = health.held_until_ms
    again = heed(health, _at(outcome(code=429), at_ms), at_ms)
    assert (again.window, again.held_until_ms - at_ms) == (2, 2_000)


def _at(met: CallOutcome, started_ms: int) -> CallOutcome:
    return outcome(met.kind, met.status_code, lasted_s=(NOW_MS - started_ms) / 1000)


def test_retry_after_holds_for_as_long_as_it_says() -> None:
    """Endpoint held for Retry-After, window − 1."""
    health = heed(fresh(4), outcome(code=503, retry_after_ms=7_000))
    assert (health.window, health.held_reason) == (3, "retry-after")
    assert health.held_until_ms == NOW_MS + 7_000


def test_a_window_keeps_one_place() -> None:
    health = fresh(2)
    for _ in range(5):
        at_ms = health.held_until_ms or NOW_MS
        health = heed(health, _at(outcome(code=429), at_ms), at_ms)
    assert health.window == 1


def test_answers_raise_it_again() -> None:
    """Answers raise it again, one place a round trip."""
    health = Health(window=2)
    assert heed(health, outcome(), random=0.49).window == 3
    assert heed(health, outcome(), random=0.51).window == 2
    assert heed(health, outcome(code=404), random=0).window == 3
    assert heed(health, outcome(code=500), random=0).window == 2
    assert heed(health, outcome("broken_off"), random=0).window == 2
    assert heed(Health(window=4), outcome(), random=0).window == 4


def test_a_window_that_is_not_adaptive_stays() -> None:
    """`adaptive`: 429/503 lower the window, answers raise it again; without it they only hold."""
    health = heed(fresh(4), outcome(code=429), adaptive=False)
    assert (health.window, health.held_reason) == (4, "turned-away")
    assert heed(Health(window=1), outcome(), adaptive=False).window == 4


def test_what_is_written_anew_is_forgotten() -> None:
    assert resized(Health(window=2, turned_away=1), 9) == Health(window=9, turned_away=1)
    opened = down()
    assert resized(opened, 9).window == 1
    assert heed(resized(opened, 9), outcome(), concurrency=9).window == 9


# --- the circuit ---


def test_what_is_not_sent_opens_the_circuit() -> None:
    """Not sent counts for the circuit."""
    opened = down()
    assert (opened.openings, opened.window, opened.held_reason) == (1, 1, "circuit")
    assert opened.held_until_ms == NOW_MS + CIRCUIT_FIRST_MS
    assert not down(CIRCUIT_FAILURES - 1).openings


@pytest.mark.parametrize(
    "met",
    [outcome(), outcome(code=500), outcome(code=429), outcome("timeout"), outcome("unknown"),
     outcome("broken_off"), outcome("too_large")],
    ids=lambda met: f"{met.kind} {met.status_code}",
)  # fmt: skip
def test_whatever_was_sent_closes_it_and_gives_the_window_back(met: CallOutcome) -> None:
    """A run time-out is no sign of a dead peer."""
    before = Health(window=3)
    opened = down(health=before)
    probed = heed(opened, _at(met, opened.held_until_ms), opened.held_until_ms, random=0.9)
    assert (probed.openings, probed.failures) == (0, 0)
    assert probed.window == (2 if met.status_code == 429 else 3)
    assert probed.threshold is None


def test_a_run_time_out_changes_nothing() -> None:
    """Do **not** shrink to 1: it is the job that is slow."""
    for health in (fresh(4), Health(window=2)):
        assert heed(health, outcome("timeout", lasted_s=900)) == health


@pytest.mark.parametrize(
    "met",
    [outcome("interrupted", sent=False), outcome("interrupted", sent=True), outcome("cancelled")],
)
def test_our_own_faults_and_cancels_say_nothing(met: CallOutcome) -> None:
    for health in (fresh(4), Health(window=2, turned_away=1), down()):
        assert heed(health, met) == health


@given(st.lists(st.tuples(outcomes(), st.integers(0, 100_000), st.floats(0, 0.99)), max_size=60),
       st.integers(1, 20), st.booleans())  # fmt: skip
def test_a_window_stays_in_its_bounds(
    met: list[tuple[CallOutcome, int, float]], concurrency: int, adaptive: bool
) -> None:
    health, now_ms = fresh(concurrency), NOW_MS
    for one, later_ms, random in met:
        now_ms += later_ms
        health = heed(
            health, one, now_ms, random=random, concurrency=concurrency, adaptive=adaptive
        )
        assert 1 <= health.window <= concurrency
        if health.openings:
            assert health.window == 1
        elif not adaptive:
            assert health.window == concurrency
