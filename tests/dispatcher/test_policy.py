"""policy.py: the presets' tables, the bounds of every delay, and what follows from an outcome."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.outcome import Kind, Outcome
from dispatcher.policy import DEFAULT, PRESETS, Policy, Verdict, dump, judge, load

HOUR = 3_600
DAY = 86_400
NEVER_MS = 10**15

# The waits after each failed try, in seconds, without jitter.
TABLES: dict[str, list[float]] = {
    "exponential": [5, 15, 45, 135, 405, 1_215, 3_645, 10_935, *[21_600] * 5],
    "standard-webhooks": [
        *(5, 5 * 60, 30 * 60, 2 * HOUR, 5 * HOUR),
        *(10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR),
    ],
    "runpod": [10, 10],
    "cerebrium": [1, 2],
}

chances = st.floats(0, 1, exclude_max=True)
policies = st.builds(
    Policy,
    attempts=st.integers(1, 50),
    delays=st.lists(st.floats(0, 604_800), max_size=10).map(tuple),
    base=st.floats(0, 604_800),
    factor=st.floats(1, 100),
    cap=st.floats(0, 604_800),
    jitter=st.floats(0, 1),
    timeout=st.floats(0.1, 60),
    acknowledge=st.one_of(
        st.just("2xx"), st.frozensets(st.integers(200, 409), min_size=1, max_size=5)
    ),
    max_age=st.floats(1, 2_592_000),
    turned_away=st.sampled_from(["free", "try"]),
)


def answered(
    code: int | None, *, kind: Kind = "answered", retry_after_ms: int | None = None
) -> Outcome:
    return Outcome(
        kind=kind,
        started_ms=0,
        duration_ms=1,
        status_code=code if kind == "answered" else None,
        retry_after_ms=retry_after_ms,
    )


def verdict(
    outcome: Outcome,
    policy: Policy,
    *,
    tries: int = 1,
    turned_away: int = 0,
    turned_away_ms: int | None = None,
    expires_ms: int = NEVER_MS,
    now_ms: int = 0,
    random: float = 0.5,
) -> Verdict:
    return judge(
        outcome,
        policy,
        tries=tries,
        turned_away=turned_away,
        turned_away_ms=turned_away_ms,
        expires_ms=expires_ms,
        now_ms=now_ms,
        random=random,
    )


# --- presets ---


@pytest.mark.parametrize("name", TABLES)
def test_a_presets_waits_are_its_table(name: str) -> None:
    policy = PRESETS[name]
    waits = [policy.delay_ms(tries, 0.5) / 1000 for tries in range(1, policy.attempts)]
    assert waits == TABLES[name]


def test_the_tables_are_of_all_presets() -> None:
    assert set(TABLES) == set(PRESETS)
    assert PRESETS[DEFAULT] is PRESETS["exponential"]


def test_the_default_gives_up_after_about_a_day_and_a_half() -> None:
    assert 1.4 * DAY < sum(TABLES[DEFAULT]) < 1.6 * DAY


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_ends_by_its_tries_and_not_by_its_age(name: str) -> None:
    policy = PRESETS[name]
    longest = sum(policy.delay_ms(tries, 0.999_999) for tries in range(1, policy.attempts))
    assert longest + policy.attempts * policy.timeout * 1000 < policy.max_age * 1000


def test_runpod_acknowledges_by_200_alone_and_waits_ten_seconds() -> None:
    policy = PRESETS["runpod"]
    assert (policy.attempts, policy.timeout, policy.jitter) == (3, 10, 0)
    assert [code for code in range(100, 600) if policy.acknowledges(code)] == [200]


def test_cerebrium_tries_three_times_at_most_five_seconds_apart() -> None:
    policy = PRESETS["cerebrium"]
    assert policy.attempts == 3
    assert max(policy.delay_ms(tries, 0.999_999) for tries in (1, 2, 50)) <= 5_000


def test_others_acknowledge_by_any_2xx() -> None:
    for name in ("exponential", "standard-webhooks", "cerebrium"):
        found = [code for code in range(100, 600) if PRESETS[name].acknowledges(code)]
        assert found == list(range(200, 300))


# --- delays ---


@given(policies, st.integers(1, 10_000), chances)
def test_a_delay_stays_within_its_jitter_and_never_raises(
    policy: Policy, tries: int, random: float
) -> None:
    """Also for exponents that a float cannot hold."""
    wait_ms = policy.delay_ms(tries, random)
    plain_ms = Policy(
        attempts=1,
        delays=policy.delays,
        base=policy.base,
        factor=policy.factor,
        cap=policy.cap,
        jitter=0,
    ).delay_ms(tries, 0.5)
    assert (1 - policy.jitter) * plain_ms - 1 <= wait_ms <= (1 + policy.jitter) * plain_ms + 1
    if not policy.delays:
        assert wait_ms <= policy.cap * 1000 + 1


@given(policies)
def test_exponential_waits_never_shrink(policy: Policy) -> None:
    plain = Policy(attempts=50, base=policy.base, factor=policy.factor, cap=policy.cap, jitter=0)
    waits = [plain.delay_ms(tries, 0.5) for tries in range(1, 100)]
    assert all(earlier <= later for earlier, later in pairwise(waits))


def test_the_last_explicit_delay_repeats() -> None:
    policy = Policy(attempts=9, delays=(1, 7), jitter=0)
    assert [policy.delay_ms(tries, 0.5) for tries in (1, 2, 3, 50)] == [1_000, 7_000, 7_000, 7_000]


def test_jitter_reaches_both_ends() -> None:
    policy = Policy(attempts=2, delays=(10,), jitter=0.2)
    assert policy.delay_ms(1, 0.0) == 8_000
    assert policy.delay_ms(1, 0.999_999_999) == 12_000


# --- verdicts ---


@pytest.mark.parametrize("code", [200, 201, 204, 299])
def test_an_acknowledged_delivery_is_delivered_even_on_its_last_try(code: int) -> None:
    assert verdict(answered(code), Policy(attempts=1)) == Verdict(state="delivered")


@pytest.mark.parametrize("code", [100, 199, 300, 301, 304, 307, 400, 401, 404, 428, 500, 503, 599])
def test_any_other_code_is_tried_again(code: int) -> None:
    """A redirect is a failure like the others (D8)."""
    found = verdict(answered(code), Policy(attempts=2, delays=(5,), jitter=0), now_ms=1_000)
    assert found == Verdict(state="pending", due_ms=6_000)


@pytest.mark.parametrize("kind", ["timeout", "unreachable", "tls_error", "protocol_error"])
def test_no_answer_is_tried_again_and_never_acknowledges(kind: Kind) -> None:
    policy = Policy(attempts=2, delays=(5,), jitter=0)
    assert verdict(answered(None, kind=kind), policy).state == "pending"
    assert verdict(answered(None, kind=kind), policy, tries=2).state == "dead"


def test_gone_is_dead_at_once_and_says_so() -> None:
    found = verdict(answered(410), Policy(attempts=50))
    assert (found.state, found.gone) == ("dead", True)
    assert found.reason is not None
    assert "410" in found.reason


@given(policies, st.integers(1, 60), chances)
def test_tries_are_never_more_than_the_policys_attempts(
    policy: Policy, tries: int, random: float
) -> None:
    found = verdict(answered(500), policy, tries=tries, random=random)
    assert (found.state == "dead") == (tries >= policy.attempts)


@given(policies, chances, st.integers(0, 10**8))
def test_retry_after_only_lengthens_a_wait(
    policy: Policy, random: float, retry_after_ms: int
) -> None:
    policy = replace(policy, attempts=policy.attempts + 1)  # at least one more
    plain = verdict(answered(500), policy, random=random)
    asked = verdict(
        answered(500, retry_after_ms=retry_after_ms),
        policy,
        random=random,
    )
    assert plain.due_ms is not None
    assert asked.due_ms is not None
    assert asked.due_ms == max(plain.due_ms, retry_after_ms)


@given(policies, chances, st.integers(0, 10**9), st.integers(1, 10**9), st.booleans())
def test_retry_after_ends_no_delivery(
    policy: Policy, random: float, retry_after_ms: int, left_ms: int, free: bool
) -> None:
    """One that asks for longer than the delivery may live: a last try goes out shortly before."""
    policy = replace(policy, attempts=policy.attempts + 1, turned_away="free" if free else "try")
    plain = verdict(answered(500), policy, random=random, now_ms=7, expires_ms=7 + left_ms)
    for code in (429, 503, 500):
        asked = verdict(
            answered(code, retry_after_ms=retry_after_ms),
            policy,
            random=random,
            now_ms=7,
            expires_ms=7 + left_ms,
        )
        if plain.due_ms is None or left_ms < 2:
            continue
        assert asked.due_ms is not None, asked
        assert 7 <= asked.due_ms < 7 + left_ms
        if retry_after_ms > left_ms:
            assert asked.due_ms >= 7 + left_ms - min(10_000, left_ms // 10) - 1


# --- turned away ---

TURNED_AWAY = [answered(429), answered(429, retry_after_ms=900), answered(503, retry_after_ms=900)]


@pytest.mark.parametrize("outcome", TURNED_AWAY)
def test_being_turned_away_spends_no_try(outcome: Outcome) -> None:
    policy = Policy(attempts=1, delays=(60,), jitter=0)
    found = verdict(outcome, policy, tries=9, random=0.25)
    assert (found.state, found.spent) == ("pending", False)
    asked_ms = outcome.retry_after_ms or 1_000
    assert found.due_ms == asked_ms * 1.25


@pytest.mark.parametrize("outcome", [answered(503), answered(500, retry_after_ms=900)])
def test_only_429_and_a_503_that_says_when_turn_away(outcome: Outcome) -> None:
    assert verdict(outcome, Policy(attempts=2)).spent
    assert verdict(outcome, Policy(attempts=1)).state == "dead"


def test_those_turned_away_together_come_back_one_by_one() -> None:
    """Over as long again as the peer asked for, and at most a minute: the lane's window does the
    rest."""
    for asked_ms, spread_ms in ((1_000, 1_000), (3_600_000, 60_000)):
        outcome = answered(429, retry_after_ms=asked_ms)
        due = [verdict(outcome, Policy(attempts=3), random=n / 64).due_ms for n in range(64)]
        assert due == [asked_ms + round(spread_ms * n / 64) for n in range(64)]


def test_a_delivery_turned_away_five_times_while_others_were_answered_spends_tries() -> None:
    policy = Policy(attempts=2, delays=(5,), jitter=0)
    free = [verdict(answered(429), policy, turned_away=n).spent is False for n in range(7)]
    assert free == [True] * 5 + [False] * 2
    assert verdict(answered(429), policy, turned_away=5).due_ms == 5_000
    assert verdict(answered(429), policy, turned_away=5, tries=2).state == "dead"


def test_a_delivery_turned_away_for_as_long_as_its_schedule_spends_tries() -> None:
    policy = Policy(attempts=3, delays=(5, 10), jitter=0.2)
    assert policy.schedule_ms() == 15_000
    for now_ms, free in ((14_999, True), (15_000, False)):
        found = verdict(answered(429), policy, turned_away_ms=0, now_ms=now_ms)
        assert found.spent is not free


def test_a_policy_may_take_being_turned_away_as_a_try() -> None:
    policy = Policy(attempts=2, delays=(5,), jitter=0, turned_away="try")
    for outcome in TURNED_AWAY:
        assert verdict(outcome, policy) == Verdict(state="pending", due_ms=5_000)
        assert verdict(outcome, policy, tries=2).state == "dead"


def test_a_policy_may_name_the_codes_that_are_tried_again() -> None:
    """Beside what was no answer, and beside being turned away, which is no failure."""
    policy = Policy(attempts=2, delays=(5,), jitter=0, retry=frozenset({404}))
    assert verdict(answered(404), policy).state == "pending"
    assert verdict(answered(429), policy).state == "pending"
    for kind in ("timeout", "unreachable", "tls_error", "protocol_error"):
        assert verdict(answered(None, kind=kind), policy).state == "pending"
    for code in (400, 500, 503, 301):
        found = verdict(answered(code), policy)
        assert (found.state, found.reason) == (
            "dead",
            f"the policy does not try again after {code}",
        )


@pytest.mark.parametrize("name", PRESETS)
def test_only_the_platforms_presets_take_being_turned_away_as_a_try(name: str) -> None:
    tries = name in ("runpod", "cerebrium")
    assert verdict(answered(429), PRESETS[name]).spent is tries


def test_cerebrium_tries_again_after_404_and_lost_connections_alone() -> None:
    states = {code: verdict(answered(code), PRESETS["cerebrium"]).state for code in (404, 429, 500)}
    assert states == {404: "pending", 429: "dead", 500: "dead"}
    assert verdict(answered(None, kind="unreachable"), PRESETS["cerebrium"]).state == "pending"


@given(policies, chances, st.integers(0, 10**9), st.integers(-(10**9), 10**9))
def test_no_try_is_ever_due_at_or_after_the_maximum_age(
    policy: Policy, random: float, now_ms: int, left_ms: int
) -> None:
    expires_ms = now_ms + left_ms
    found = verdict(
        answered(500), policy, tries=1, random=random, now_ms=now_ms, expires_ms=expires_ms
    )
    if found.state == "pending":
        assert found.due_ms is not None
        assert now_ms <= found.due_ms < expires_ms
    else:
        assert found.reason


def test_a_wait_that_would_end_past_the_maximum_age_ends_the_delivery_now() -> None:
    policy = Policy(attempts=5, delays=(10,), jitter=0)
    assert verdict(answered(500), policy, expires_ms=10_001).state == "pending"
    assert verdict(answered(500), policy, expires_ms=10_000).state == "dead"


# --- what the store keeps ---


@given(policies)
def test_a_policy_reads_back_as_it_was_written(policy: Policy) -> None:
    limited = replace(policy, retry=frozenset({404, 408}))
    assert load(dump(limited)) == limited
    assert load(dump(policy)) == policy


@pytest.mark.parametrize("name", [*PRESETS, None])
def test_a_presets_name_or_none_reads_as_the_preset(name: str | None) -> None:
    assert load(name) is PRESETS[name or DEFAULT]


def test_a_policy_stored_by_an_earlier_version_means_what_it_meant() -> None:
    """And one that says nothing new can be read by it: it has the fields it had."""
    old = (
        '{"attempts":3,"delays":[5.0],"base":5.0,"factor":3.0,"cap":21600.0,"jitter":0.2,'
        '"timeout":15.0,"acknowledge":"2xx","max_age":604800.0}'
    )
    policy = load(old)
    assert policy == Policy(attempts=3, delays=(5.0,))
    assert (policy.turned_away, policy.retry) == ("free", "all")
    assert dump(policy) == old
