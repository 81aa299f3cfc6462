"""jobs/judge.py: what an outcome means, cell by cell, and what holds whatever is met."""

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.jobs.endpoint import EndpointRules, RetryWaits
from dispatcher.jobs.judge import (
    INTERRUPTIONS_MAX,
    TURNED_AWAY_MAX,
    deadline_ms,
    died,
    is_last_attempt,
    is_turned_away,
    judge,
    retry_ms,
    run_limit_s,
)
from dispatcher.jobs.states import legal
from dispatcher.jobs.values import CallKind, CallOutcome, ClaimedJob, Dialect, JobVerdict
from tests.dispatcher.jobs.made import NOW_MS, job, outcome, rules

LEAST = rules()
ONCE = rules(delivery="at-most-once")
CODES = (200, 201, 202, 204, 301, 302, 307, 308, 400, 401, 404, 408, 409, 422, 429, 500, 501, 502,
         503, 504, 507, 599)  # fmt: skip


def verdict(
    met: CallOutcome,
    of: ClaimedJob | None = None,
    by: EndpointRules = LEAST,
    *,
    random: float = 0.5,
) -> JobVerdict:
    return judge(met, of or job(), by, now_ms=NOW_MS, random=random)


def brief(one: JobVerdict) -> str:
    """A verdict in a word or three: `again` spends a try, `back` does not."""
    if one.state != "queued":
        return one.state if one.reason is None else f"{one.state} {one.reason}"
    return ("again" if one.spent else "back") + (" turned away" if one.turned_away else "")


# --- the table: one row an outcome, with its two columns ---

RETRY_AFTER: dict[str, Any] = {"retry_after_ms": 7_000}
NO: dict[str, Any] = {"no_retry": True}
TABLE: list[tuple[str, CallOutcome, str, str]] = [
    ("name, route, TLS, connect failed", outcome("not_sent"), "back", "back"),
    ("429", outcome(code=429), "back turned away", "back turned away"),
    ("429 for longer than repeat_within", outcome(code=429, lasted_s=300), "back turned away",
     "back turned away"),
    ("503 with Retry-After", outcome(code=503, **RETRY_AFTER), "back turned away",
     "back turned away"),
    ("plain 503", outcome(code=503), "back turned away", "failed unknown_outcome"),
    ("lost after the request went out", outcome("unknown"), "again", "failed unknown_outcome"),
    ("502", outcome(code=502), "again", "failed unknown_outcome"),
    ("504", outcome(code=504), "again", "failed unknown_outcome"),
    ("lost late", outcome("unknown", lasted_s=30), "failed unknown_outcome",
     "failed unknown_outcome"),
    ("502 late", outcome(code=502, lasted_s=30), "failed unknown_outcome",
     "failed unknown_outcome"),
    ("504 late", outcome(code=504, lasted_s=61), "failed unknown_outcome",
     "failed unknown_outcome"),
    ("body broken off", outcome("broken_off", 200), "again", "failed broken_off"),
    ("body broken off late", outcome("broken_off", 200, lasted_s=30), "failed unknown_outcome",
     "failed broken_off"),
    ("2xx", outcome(code=200), "completed", "completed"),
    ("2xx after hours", outcome(code=200, lasted_s=36_000), "completed", "completed"),
    ("201", outcome(code=201), "completed", "completed"),
    ("plain 202", outcome(code=202), "completed", "completed"),
    ("204", outcome(code=204), "completed", "completed"),
    ("2xx too large", outcome("too_large", 200), "failed output_too_large",
     "failed output_too_large"),
    ("400", outcome(code=400), "failed rejected", "failed rejected"),
    ("404", outcome(code=404), "failed rejected", "failed rejected"),
    ("409", outcome(code=409), "failed rejected", "failed rejected"),
    ("422", outcome(code=422), "failed rejected", "failed rejected"),
    ("500", outcome(code=500), "failed rejected", "failed rejected"),
    ("500 too large", outcome("too_large", 500), "failed rejected", "failed rejected"),
    ("501", outcome(code=501), "failed rejected", "failed rejected"),
    ("a redirect", outcome(code=302), "failed rejected", "failed rejected"),
    ("another redirect", outcome(code=308), "failed rejected", "failed rejected"),
    ("429, upstream's word", outcome(code=429, **NO), "failed rejected", "failed rejected"),
    ("503, upstream's word", outcome(code=503, **NO, **RETRY_AFTER), "failed rejected",
     "failed rejected"),
    ("502, upstream's word", outcome(code=502, **NO), "failed rejected", "failed rejected"),
    ("broken off, upstream's word", outcome("broken_off", 200, **NO), "failed broken_off",
     "failed broken_off"),
    ("2xx, upstream's word", outcome(code=200, **NO), "completed", "completed"),
    ("run limit", outcome("timeout"), "timeout run_limit", "timeout run_limit"),
    ("our own lack", outcome("interrupted", sent=False, lack="sockets"), "back", "back"),
    ("we stop, nothing sent", outcome("interrupted", sent=False), "back", "back"),
    ("we stop, sent", outcome("interrupted", sent=True), "back", "failed interrupted"),
    ("cancelled", outcome("cancelled"), "cancelled user", "cancelled user"),
]  # fmt: skip
IDS = [row[0] for row in TABLE]


@pytest.mark.parametrize(("met", "expected"), [row[1:3] for row in TABLE], ids=IDS)
def test_at_least_once_is_the_first_column(met: CallOutcome, expected: str) -> None:
    assert brief(verdict(met)) == expected


@pytest.mark.parametrize(("met", "expected"), [(row[1], row[3]) for row in TABLE], ids=IDS)
def test_at_most_once_is_the_second_column(met: CallOutcome, expected: str) -> None:
    assert brief(verdict(met, by=ONCE)) == expected


@pytest.mark.parametrize("row", TABLE, ids=IDS)
def test_synchronous_calls_are_never_tried_again_once_sent(
    row: tuple[str, CallOutcome, str, str],
) -> None:
    """Cerebrium without `async`: the caller gets the answer, whatever it is."""
    met = row[1]
    for by in (LEAST, ONCE):
        one = verdict(met, job(sync=True), by)
        assert (one.state == "queued") == (not met.sent)
        if met.status_code is not None and met.kind == "answered" and met.status_code >= 300:
            assert brief(one) == "failed rejected"


@pytest.mark.parametrize("by", [LEAST, ONCE], ids=["least", "once"])
def test_a_code_that_is_listed_as_busy_is_turned_away_in_both_modes(by: EndpointRules) -> None:
    """A plain 503 is turned away at-most-once only if it is in `busy`."""
    busy = replace(by, busy=frozenset({429, 503, 409}))
    for code in (503, 409, 429):
        assert brief(verdict(outcome(code=code), by=busy)) == "back turned away"


def test_only_listed_codes_are_tried_again() -> None:
    listed = rules(retry_codes=frozenset({500, 502}))
    assert brief(verdict(outcome(code=500), by=listed)) == "again"
    assert brief(verdict(outcome(code=501), by=listed)) == "failed rejected"
    assert brief(verdict(outcome(code=504), by=listed)) == "failed unknown_outcome"
    assert brief(verdict(outcome(code=500, lasted_s=30), by=listed)) == "failed rejected"
    assert brief(verdict(outcome(code=500), job(tries=2), listed)) == "failed attempts"
    once = replace(listed, delivery="at-most-once")
    assert brief(verdict(outcome(code=500), by=once)) == "failed rejected"


def test_unknown_is_not_tried_again_where_that_is_not_listed() -> None:
    never = rules(retry_unknown=False)
    assert brief(verdict(outcome("unknown"), by=never)) == "failed unknown_outcome"
    assert brief(verdict(outcome("broken_off"), by=never)) == "failed unknown_outcome"
    assert brief(verdict(outcome(code=502), by=never)) == "again"


@pytest.mark.parametrize("met", [outcome("unknown"), outcome(code=502), outcome("broken_off")])
def test_what_is_unknown_is_tried_so_often(met: CallOutcome) -> None:
    """Again, ≤ `attempts`."""
    assert [brief(verdict(met, job(tries=n))) for n in range(4)] == [
        "again",
        "again",
        "failed attempts",
        "failed attempts",
    ]
    assert brief(verdict(met, by=rules(attempts=1))) == "failed attempts"


# --- what is shown ---


@pytest.mark.parametrize(
    ("met", "by", "setting"),
    [
        (outcome("unknown", lasted_s=61), LEAST, "`repeat_within` (30 s)"),
        (outcome(code=504, lasted_s=61), rules(repeat_within=12.5), "`repeat_within` (12.5 s)"),
        (outcome("unknown"), ONCE, "`delivery`"),
        (outcome(code=503), ONCE, "`delivery`"),
        (outcome("unknown"), rules(retry_unknown=False), "`retry_on`"),
        (outcome(code=502), rules(retry_codes=frozenset()), "`retry_on`"),
    ],
)
def test_an_unknown_outcome_names_the_setting(
    met: CallOutcome, by: EndpointRules, setting: str
) -> None:
    """Else failed unknown_outcome, whose text names this setting."""
    one = verdict(met, by=by)
    assert one.reason == "unknown_outcome"
    assert setting in (one.error or "")


def test_the_body_of_an_answer_is_the_error() -> None:
    """Other 4xx; 500 and the rest: the body is the error."""
    assert verdict(outcome(code=500, body=b'{"detail": "no"}')).error is None
    assert verdict(outcome(code=500, body=b"")).error == "the upstream answered 500"
    assert verdict(outcome(code=500)).error == "the upstream answered 500"


def test_an_output_that_is_too_large_says_what_may_be() -> None:
    text = verdict(outcome("too_large"), by=rules(output_max=1000)).error or ""
    assert "`output_max`" in text
    assert "1000 bytes" in text


# --- no poison at the head ---


@pytest.mark.parametrize("by", [LEAST, ONCE], ids=["least", "once"])
def test_a_job_that_alone_is_turned_away_spends_tries_from_the_sixth_on(by: EndpointRules) -> None:
    """A job turned away five times while others of its endpoint got an answer is no victim of
    load; from then on each refusal spends a try."""
    met = outcome(code=429)
    for times in range(TURNED_AWAY_MAX):
        assert brief(verdict(met, job(turned_away=times, tries=2), by)) == "back turned away"
    for times in (5, 6, 100):
        spent = [brief(verdict(met, job(turned_away=times, tries=n), by)) for n in range(3)]
        assert spent == ["again turned away", "again turned away", "failed attempts"]


def test_turned_away_waits_one_second_doubling_to_five_minutes() -> None:
    """Turned away as D11 (1 s doubling to 5 min, or `Retry-After`)."""
    met, many = outcome(code=429), rules(attempts=50)
    waits = [
        (verdict(met, job(turned_away=n), many, random=0).due_ms or 0) - NOW_MS for n in range(12)
    ]
    assert waits == [1000 * min(300, 2**n) for n in range(12)]
    assert (verdict(outcome(code=429, **RETRY_AFTER), random=0).due_ms or 0) - NOW_MS == 7_000


# --- waits ---


def test_what_spends_tries_waits_by_the_endpoints_retry() -> None:
    """Endpoint field `retry = { base = 1, factor = 2, cap = 60 }`."""
    many = rules(attempts=50)
    waits = [(verdict(outcome("unknown"), job(tries=n), many).due_ms or 0) for n in range(9)]
    assert [due - NOW_MS for due in waits] == [1000 * min(60, 2**n) for n in range(9)]
    assert retry_ms(RetryWaits(), 1, 0) == 800
    assert retry_ms(RetryWaits(), 1, 1) == 1200
    assert retry_ms(RetryWaits(), 2_000, 1) == 60_000


def test_what_asks_for_longer_waits_longer() -> None:
    assert verdict(outcome(code=504, **RETRY_AFTER)).due_ms == NOW_MS + 7_000


def test_what_was_not_sent_waits_longer_each_time_up_to_the_cap() -> None:
    """`retry` is for what was not sent too: 1, 2, 4 … 60 s, whatever is counted."""
    waits, began_ms = [], NOW_MS
    now_ms = began_ms
    for _ in range(8):
        one = judge(outcome("not_sent"), job(started_ms=began_ms), LEAST, now_ms=now_ms, random=0.5)
        assert one.due_ms is not None
        waits.append(one.due_ms - now_ms)
        now_ms = one.due_ms
    assert waits == [1000 * min(60, 2**n) for n in range(8)]


def test_our_own_lack_waits_a_second_and_a_stop_does_not() -> None:
    assert verdict(outcome("interrupted", sent=False, lack="sockets")).due_ms == NOW_MS + 1_000
    assert verdict(outcome("interrupted", sent=True)).due_ms == NOW_MS


# --- ends of patience ---


@pytest.mark.parametrize("met", [outcome("not_sent"), outcome(code=429), outcome(code=503)])
def test_what_spends_no_try_ends_with_the_queue_timeout(met: CallOutcome) -> None:
    """Not sent: wait and again until `queue_timeout`."""
    one = verdict(met, job(expires_ms=NOW_MS + 1))
    assert one.state == "queued"
    assert one.expires_ms is None
    assert brief(verdict(met, job(expires_ms=NOW_MS))) == "timeout expired"


@pytest.mark.parametrize(
    "met", [outcome("unknown"), outcome(code=504), outcome("interrupted", sent=True)]
)
def test_a_job_that_has_begun_has_its_queue_timeout_anew(met: CallOutcome) -> None:
    """`queue_timeout` is the longest wait before the first start: a repeat is none."""
    one = verdict(met, job(expires_ms=NOW_MS - 5), rules(queue_timeout=60))
    assert one.state == "queued"
    assert one.expires_ms == (one.due_ms or 0) + 60_000
    bound = verdict(met, job(ends_ms=NOW_MS + 3), rules(queue_timeout=60))
    assert bound.expires_ms == NOW_MS + 3


@pytest.mark.parametrize(
    "met",
    [outcome("not_sent"), outcome(code=429), outcome("unknown"), outcome("timeout"),
     outcome("interrupted", sent=True)],
)  # fmt: skip
def test_nothing_goes_on_past_its_time_to_live(met: CallOutcome) -> None:
    """Running → timeout: run limit or ttl; never tried again."""
    assert brief(verdict(met, job(ends_ms=NOW_MS))) == "timeout ttl"


# --- a process's death ---


def test_a_process_that_died_costs_three_interruptions_and_then_it_is_a_crash_loop() -> None:
    """Our process died: queued again, ≤ 3 such interruptions, then `crash_loop`."""
    assert [brief(died(n, once=False)) for n in range(5)] == [
        *["back"] * INTERRUPTIONS_MAX,
        "failed crash_loop",
        "failed crash_loop",
    ]
    assert INTERRUPTIONS_MAX == 3


def test_at_most_once_a_death_is_the_end() -> None:
    """Our process died, at-most-once: failed `interrupted`."""
    assert brief(died(0, once=True)) == "failed interrupted"
    assert brief(died(0, once=False, sync=True)) == "failed interrupted"


# --- the run limit ---


@pytest.mark.parametrize(
    ("dialect", "asked", "by", "limit"),
    [
        ("v1", None, LEAST, 900),
        ("tensorone", None, LEAST, 900),
        ("cerebrium", None, LEAST, 900),
        ("runpod", None, LEAST, 86_400),
        ("runpod", None, rules(timeout=60), 60),
        ("runpod", 5, rules(timeout=60), 5),
        ("v1", 7_200, rules(timeout=60), 7_200),
        ("v1", 7_200, rules(timeout_max=3_600), 3_600),
        ("runpod", None, rules(timeout_max=3_600), 3_600),
        ("v1", 100_000, LEAST, 100_000),
        ("cerebrium", 100_000, LEAST, 43_200),
        ("cerebrium", None, rules(timeout=100_000), 43_200),
        ("runpod", None, rules(timeout=100_000), 100_000),
    ],
)
def test_the_run_limit(
    dialect: Dialect, asked: float | None, by: EndpointRules, limit: float
) -> None:
    """Run limit = the request's, else the endpoint's `timeout` if written, else the dialect's;
    then at most `timeout_max` if written, and on Cerebrium's routes at most 43,200 s."""
    assert run_limit_s(asked, by, dialect) == limit
    one = job(limit_s=asked, dialect=dialect)
    assert deadline_ms(one, by, NOW_MS) == NOW_MS + limit * 1000
    assert deadline_ms(replace(one, ends_ms=NOW_MS + 9), by, NOW_MS) == NOW_MS + 9


def test_the_last_attempt_is_told() -> None:
    assert not is_last_attempt(job(tries=1), LEAST)
    assert is_last_attempt(job(tries=2), LEAST)
    assert is_last_attempt(job(), ONCE)
    assert is_last_attempt(job(sync=True), LEAST)


# --- whatever is met ---

KINDS: tuple[CallKind, ...] = get_args(CallKind)


@st.composite
def outcomes(draw: st.DrawFn) -> CallOutcome:
    kind = draw(st.sampled_from(KINDS))
    fields: dict[str, Any] = {"no_retry": draw(st.booleans())}
    if draw(st.booleans()):
        fields["retry_after_ms"] = draw(st.integers(1, 3_600_000))
    code = None
    if kind in ("answered", "too_large", "broken_off"):
        code = draw(st.sampled_from(CODES) | st.integers(200, 599))
    sent = {"not_sent": False, "interrupted": draw(st.booleans())}.get(kind, True)
    lack = draw(st.none() | st.just("sockets")) if kind == "interrupted" else None
    body = draw(st.none() | st.binary(max_size=4)) if code else None
    lasted = draw(st.floats(0, 100_000))
    return outcome(kind, code, lasted_s=lasted, sent=sent, body=body, lack=lack, **fields)


codes = st.frozensets(st.integers(400, 599), max_size=5)
any_rules = st.builds(
    rules,
    delivery=st.sampled_from(["at-least-once", "at-most-once"]),
    attempts=st.integers(1, 20),
    retry_unknown=st.booleans(),
    retry_codes=codes,
    repeat_within=st.floats(0, 100_000),
    busy=codes,
    queue_timeout=st.floats(1, 1e6),
    retry=st.builds(
        RetryWaits, base=st.floats(0.1, 600), factor=st.floats(1, 10), cap=st.floats(0.1, 3_600)
    ),
)
any_job = st.builds(
    job,
    sync=st.booleans(),
    tries=st.integers(0, 20),
    turned_away=st.integers(0, 40),
    expires_ms=st.integers(NOW_MS - 10, NOW_MS + 10**7),
    ends_ms=st.none() | st.integers(NOW_MS - 10, NOW_MS + 10**7),
)
chances = st.floats(0, 1, exclude_max=True)


@given(outcomes(), any_job, any_rules, chances)
def test_a_verdicts_transition_is_legal_and_whole(
    met: CallOutcome, of: ClaimedJob, by: EndpointRules, random: float
) -> None:
    """States as a table shared by code, tests and documents."""
    one = verdict(met, of, by, random=random)
    assert legal("running", one.state)
    assert (one.due_ms is not None) == (one.state == "queued")
    assert (one.reason is None) == (one.state in ("queued", "completed"))
    if one.due_ms is not None:
        assert one.due_ms >= NOW_MS
    has_body = met.output is not None and met.output.body
    if one.state in ("failed", "timeout"):
        assert one.error or has_body
    if one.expires_ms is not None:
        assert one.expires_ms > NOW_MS


@given(outcomes(), any_job, any_rules, chances)
def test_at_most_once_nothing_that_was_sent_goes_out_again(
    met: CallOutcome, of: ClaimedJob, by: EndpointRules, random: float
) -> None:
    """At-most-once run twice: 0. What was turned away did not run."""
    once = replace(by, delivery="at-most-once")
    one = verdict(met, of, once, random=random)
    if met.sent and one.state == "queued":
        assert is_turned_away(met, once)
        assert met.status_code in {429, 503} | by.busy
        assert not of.options.sync


@given(outcomes(), any_job, any_rules, chances)
def test_tries_are_bounded_and_only_sent_calls_spend_them(
    met: CallOutcome, of: ClaimedJob, by: EndpointRules, random: float
) -> None:
    """*Not sent* and *turned away* always try again and spend nothing."""
    one = verdict(met, of, by, random=random)
    if one.spent:
        assert met.sent
        assert of.tries + 1 < by.attempts
    if one.state == "queued" and not one.spent:
        free = met.kind in ("not_sent", "interrupted")
        assert free or (one.turned_away and of.turned_away < TURNED_AWAY_MAX)
    if one.turned_away:
        assert is_turned_away(met, by)


@given(st.integers(1, 400), any_rules, st.floats(0, 1))
def test_a_wait_is_never_above_its_cap(tries: int, by: EndpointRules, random: float) -> None:
    assert 0 <= retry_ms(by.retry, tries, random) <= round(by.retry.cap * 1000)
