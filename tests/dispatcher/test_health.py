"""health.py: the window, the circuit and the holds of a lane, as tables and as properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.health import (
    CIRCUIT_FAILURES,
    CIRCUIT_FIRST_MS,
    CIRCUIT_MOST_MS,
    CIRCUIT_SPAN_MS,
    WINDOW_START,
    Health,
    after,
)
from dispatcher.outcome import Kind, Outcome

T0 = 1_000_000
DOWN: list[tuple[Kind, int | None]] = [
    ("timeout", None),
    ("unreachable", None),
    ("tls_error", None),
    ("protocol_error", None),
    ("answered", 500),
    ("answered", 503),
]
UP: list[tuple[Kind, int | None]] = [("answered", code) for code in (200, 204, 301, 404, 410, 429)]


def met(
    kind: Kind = "answered",
    code: int | None = 200,
    *,
    started_ms: int = T0,
    retry_after_ms: int | None = None,
) -> Outcome:
    return Outcome(
        kind=kind,
        started_ms=started_ms,
        duration_ms=1,
        status_code=code if kind == "answered" else None,
        retry_after_ms=retry_after_ms,
    )


def heed(
    health: Health,
    outcome: Outcome,
    now_ms: int = T0,
    *,
    random: float = 0.5,
    concurrency: int = 64,
) -> Health:
    return after(health, outcome, now_ms=now_ms, random=random, concurrency=concurrency)


def failing(
    times: int, span_ms: int, kind: Kind = "unreachable", code: int | None = None
) -> Health:
    """A lane after `times` failures in a row, spread over `span_ms`."""
    health = Health()
    for n in range(times):
        at_ms = T0 + span_ms * n // max(1, times - 1)
        health = heed(health, met(kind, code, started_ms=at_ms), at_ms)
    return health


# --- the circuit ---


@pytest.mark.parametrize(
    ("times", "span_ms", "opens"),
    [
        (CIRCUIT_FAILURES, CIRCUIT_SPAN_MS, True),
        (CIRCUIT_FAILURES - 1, CIRCUIT_SPAN_MS, False),
        (CIRCUIT_FAILURES, CIRCUIT_SPAN_MS - 1, False),
        (1_000, CIRCUIT_SPAN_MS - 1, False),
        (2, 10 * CIRCUIT_SPAN_MS, False),
    ],
)
def test_it_opens_after_twenty_failures_that_span_a_minute(
    times: int, span_ms: int, opens: bool
) -> None:
    health = failing(times, span_ms)
    assert (health.openings == 1) is opens
    assert (health.held_reason == "circuit") is opens


@pytest.mark.parametrize(("kind", "code"), DOWN)
def test_whatever_says_down_opens_it(kind: Kind, code: int | None) -> None:
    assert failing(20, 60_000, kind, code).openings == 1


@pytest.mark.parametrize(("kind", "code"), UP)
def test_any_other_answer_starts_the_count_anew(kind: Kind, code: int | None) -> None:
    health = heed(failing(19, 60_000), met(kind, code), T0 + 60_000)
    assert (health.failures, health.failing_since_ms, health.openings) == (0, None, 0)
    assert failing(100, 600_000, kind, code).openings == 0


def test_an_interrupted_attempt_says_nothing() -> None:
    before = failing(19, 60_000)
    assert heed(before, met("interrupted", None), T0 + 70_000) == before


def test_holds_double_from_five_seconds_to_five_minutes() -> None:
    health, at_ms, holds = failing(20, 60_000), T0 + 60_000, []
    for _ in range(9):
        holds.append(health.held_until_ms - at_ms)
        at_ms = health.held_until_ms
        health = heed(health, met("timeout", None, started_ms=at_ms), at_ms)
    assert holds == [5_000, 10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000, 300_000]


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_hold_is_spread_by_a_fifth_and_never_beyond_its_bounds(
    openings: int, random: float
) -> None:
    open_ = Health(failures=50, failing_since_ms=0, openings=openings)
    held = heed(open_, met("timeout", None, started_ms=T0), T0, random=random)
    assert 0.8 * CIRCUIT_FIRST_MS - 1 <= held.held_until_ms - T0 <= 1.2 * CIRCUIT_MOST_MS + 1


def test_attempts_that_were_out_when_it_opened_do_not_lengthen_the_hold() -> None:
    opened = failing(20, 60_000)
    late = heed(opened, met("timeout", None, started_ms=T0), T0 + 61_000)
    assert (late.openings, late.held_until_ms) == (1, opened.held_until_ms)


def test_while_it_is_open_one_probe_at_a_time_goes_out() -> None:
    assert failing(20, 60_000).window == 1


@pytest.mark.parametrize("code", [200, 404])
def test_a_probe_that_is_answered_closes_it_and_ends_its_hold(code: int) -> None:
    health = heed(failing(20, 60_000), met(code=code, started_ms=T0 + 65_000), T0 + 65_000)
    assert (health.openings, health.failures, health.failing_since_ms) == (0, 0, None)
    assert (health.held_until_ms, health.held_reason) == (0, None)


# --- Retry-After ---


@pytest.mark.parametrize(("code", "holds"), [(429, True), (503, True), (500, False), (404, False)])
def test_retry_after_holds_for_429_and_503_alone(code: int, holds: bool) -> None:
    health = heed(Health(), met(code=code, retry_after_ms=9_000))
    assert (health.held_until_ms == T0 + 9_000) is holds
    assert (health.held_reason == "retry-after") is holds


def test_a_shorter_retry_after_does_not_shorten_a_hold() -> None:
    first = heed(Health(), met(code=429, retry_after_ms=9_000))
    second = heed(first, met(code=429, retry_after_ms=1_000))
    assert second.held_until_ms == first.held_until_ms


def test_a_steady_lane_still_heeds_retry_after() -> None:
    steady = Health(window=64)
    assert heed(steady, met(code=429, retry_after_ms=5_000)).held_until_ms == T0 + 5_000


# --- turned away ---


def test_a_peer_that_names_no_time_is_left_alone_from_a_second_to_five_minutes() -> None:
    health, at_ms, holds = Health(), T0, []
    for _ in range(11):
        health = heed(health, met(code=429, started_ms=at_ms), at_ms)
        holds.append(health.held_until_ms - at_ms)
        at_ms = health.held_until_ms
    assert holds == [1_000 * 2**n for n in range(9)] + [300_000, 300_000]
    assert health.held_reason == "turned-away"


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_that_hold_is_spread_by_a_fifth(turned_away: int, random: float) -> None:
    held = heed(Health(turned_away=turned_away), met(code=429), T0, random=random)
    assert 0.8 * 1_000 - 1 <= held.held_until_ms - T0 <= 1.2 * 300_000 + 1


def test_all_that_one_round_turned_away_counts_once() -> None:
    """It halves the window and doubles the hold once, however many were out."""
    health = Health(window=64)
    for _ in range(64):
        health = heed(health, met(code=429, started_ms=T0 - 1), T0)
    assert (health.window, health.turned_away) == (32, 1)
    assert health.held_until_ms == T0 + 1_000
    longer = heed(health, met(code=429, started_ms=T0 - 1, retry_after_ms=9_000), T0)
    assert (longer.held_until_ms, longer.held_reason) == (T0 + 9_000, "retry-after")


def test_an_answer_to_what_went_out_after_the_hold_starts_the_count_anew() -> None:
    held = heed(Health(), met(code=429))
    old = heed(held, met(started_ms=T0 - 5), T0 + 5)
    assert (old.turned_away, old.window) == (1, held.window)
    new = heed(held, met(started_ms=held.held_until_ms), T0 + 2_000, random=0.1)
    assert (new.turned_away, new.window) == (0, held.window + 1)


def test_above_half_of_what_was_too_much_the_window_grows_slowly() -> None:
    """By one a round trip, not by one an answer."""
    health = heed(Health(window=16), met(code=429))
    at_ms = health.held_until_ms
    for n in range(80):
        health = heed(health, met(started_ms=at_ms), at_ms, random=(n % 10) / 10 + 0.05)
    assert 12 <= health.window <= 18


def test_no_window_grows_by_answers_that_ask_for_less() -> None:
    for code, retry_after_ms in ((429, None), (429, 5), (503, 5), (503, None), (500, None)):
        health = heed(Health(window=8), met(code=code, retry_after_ms=retry_after_ms))
        assert health.window <= 8


def test_being_turned_away_shows_a_living_peer() -> None:
    health = heed(failing(19, 60_000), met(code=503, retry_after_ms=5), T0 + 60_000)
    assert (health.failures, health.openings) == (0, 0)


def test_a_circuit_that_opens_does_not_shorten_what_the_peer_asked_for() -> None:
    failing_ = failing(19, 60_000)
    asked = heed(failing_, met(code=404), T0 + 60_000)  # starts anew
    held = Health(
        failures=19, failing_since_ms=T0, held_until_ms=T0 + 99_000, held_reason="retry-after"
    )
    opened = heed(held, met("timeout", None, started_ms=T0), T0 + 60_000)
    assert asked.held_reason is None
    assert (opened.openings, opened.held_until_ms) == (1, T0 + 99_000)
    assert opened.held_reason == "retry-after"


# --- the window ---


def test_the_window_grows_by_one_for_each_answer_up_to_the_concurrency() -> None:
    health = Health(window=1)
    sizes = []
    for _ in range(6):
        health = heed(health, met(), concurrency=4)
        sizes.append(health.window)
    assert sizes == [2, 3, 4, 4, 4, 4]


def test_a_timeout_leaves_one_slot() -> None:
    assert heed(Health(window=64), met("timeout", None)).window == 1


@pytest.mark.parametrize("kind", ["unreachable", "tls_error", "protocol_error"])
def test_a_quick_failure_leaves_the_window(kind: Kind) -> None:
    """It holds no slot for long."""
    assert heed(Health(), met(kind, None)).window == WINDOW_START


@given(
    st.integers(1, 128),
    st.lists(st.tuples(st.sampled_from(DOWN + UP), st.integers(0, 120_000)), max_size=80),
)
def test_whatever_happens_the_window_is_from_one_to_the_concurrency(
    concurrency: int, story: list[tuple[tuple[Kind, int | None], int]]
) -> None:
    health, at_ms = Health(window=min(WINDOW_START, concurrency)), T0
    for (kind, code), wait_ms in story:
        at_ms += wait_ms
        before = health
        health = heed(health, met(kind, code, started_ms=at_ms), at_ms, concurrency=concurrency)
        assert 1 <= health.window <= concurrency
        assert health.window <= before.window + 1
        assert (health.failures == 0) == (health.failing_since_ms is None)
        assert health.openings == 0 or health.failures >= CIRCUIT_FAILURES
        assert (health.held_reason is None) == (health.held_until_ms == 0)


def test_a_well_lane_stays_the_very_same() -> None:
    """The common case writes nothing."""
    steady = Health(window=64)
    assert heed(steady, met()) is steady
