"""What follows from a call of an upstream: the one table of what an outcome means, by what is
known of it. Pure.

What was not sent, or was turned away, waits and goes again at no cost. What was sent and lost is
repeated only where that is allowed: at-least-once, after a short attempt, a bounded number of
times. An answer is an answer.
"""

from dataclasses import replace
from typing import Final

from dispatcher.jobs import kinds
from dispatcher.jobs.endpoint import EndpointRules, RetryWaits
from dispatcher.jobs.states import JobReason
from dispatcher.jobs.values import CallOutcome, ClaimedJob, Dialect, JobVerdict
from dispatcher.outcome import SERVICE_UNAVAILABLE, TOO_MANY_REQUESTS

TURNED_AWAY_MAX: Final = 5
"""So often a job is turned away at no cost while others of its endpoint are answered."""
INTERRUPTIONS_MAX: Final = 3
"""After so many processes that died while they ran it a job is still queued again."""
ACCEPTED: Final = 202
_CEREBRIUM_S_MAX: Final = 43_200.0
_LIMITS_S: Final[dict[Dialect, float]] = {
    "v1": 900.0,
    "tensorone": 900.0,
    "cerebrium": 900.0,
    "runpod": 86_400.0,
}
# Behind a gateway, these say as little as a lost connection.
_UNKNOWN_CODES: Final = frozenset({502, SERVICE_UNAVAILABLE, 504})
_TURNED_AWAY_FIRST_MS: Final = 1_000
_TURNED_AWAY_MS_MAX: Final = 300_000
_SPREAD_MS_MAX: Final = 60_000
_PAUSE_MS: Final = 1_000  # before we try again what we could not do ourselves
_JITTER: Final = 0.2
_AT_MOST_ONCE: Final = "its endpoint's `delivery` is at-most-once"


def run_limit_s(limit_s: float | None, rules: EndpointRules, dialect: Dialect) -> float:
    """Return how many seconds a call may take: the request's own, else the endpoint's `timeout`,
    else the dialect's; at most `timeout_max`, and twelve hours for Cerebrium's."""
    limit = limit_s or rules.timeout or _LIMITS_S[dialect]
    if rules.timeout_max is not None:
        limit = min(limit, rules.timeout_max)
    return min(limit, _CEREBRIUM_S_MAX) if dialect == "cerebrium" else limit


def deadline_ms(job: ClaimedJob, rules: EndpointRules, now_ms: int) -> int:
    """Return when a call that starts now must have ended: by its run limit, and by the job's own
    time to live."""
    limit_ms = round(run_limit_s(job.options.limit_s, rules, job.dialect) * 1000)
    ends_ms = now_ms + limit_ms
    return ends_ms if job.ends_ms is None else min(ends_ms, job.ends_ms)


def is_last_attempt(job: ClaimedJob, rules: EndpointRules) -> bool:
    """Whether nothing follows a call of which nobody learns how it ended."""
    return rules.once or job.options.sync or job.tries + 1 >= rules.attempts


def is_turned_away(outcome: CallOutcome, rules: EndpointRules) -> bool:
    """Whether the upstream lives, took nothing and wants less at a time: 429, the codes that its
    endpoint lists as `busy`, and 503 with `Retry-After`; a plain 503 too, but at most once."""
    code = outcome.status_code
    if code is None or outcome.kind not in ("answered", "too_large"):
        return False
    if code == TOO_MANY_REQUESTS or kinds.is_busy(rules, code):
        return True
    return code == SERVICE_UNAVAILABLE and (outcome.retry_after_ms is not None or not rules.once)


def judge(
    outcome: CallOutcome, job: ClaimedJob, rules: EndpointRules, *, now_ms: int, random: float
) -> JobVerdict:
    """Return what follows for a running job from what its call met; `random` in [0, 1) spreads
    waits. Whether others of its endpoint were answered, when it was turned away, is known where
    `job.turned_away` is counted: in the commit."""
    match outcome.kind:
        case "not_sent":
            wait_ms = _not_sent_ms(job, rules.retry, now_ms, random)
            return _unspent(job, now_ms + wait_ms, now_ms, error=outcome.error)
        case "interrupted":
            return _interrupted(outcome, job, rules, now_ms)
        case "timeout":
            return _timeout(job, rules, now_ms)
        case "silent":
            return _silent(outcome, job, rules, now_ms, random)
        case "cancelled":
            return JobVerdict(state="cancelled", reason="user", error=outcome.error)
        case "unknown" | "broken_off":
            return _unknown(outcome, job, rules, now_ms, random)
        case "no_room":
            error = outcome.error or "there was no room for its output"
            return JobVerdict(state="failed", reason="storage", error=error)
        case "answered" | "too_large":
            return _answered(outcome, job, rules, now_ms, random)


def died(job_interruptions: int, *, once: bool, sync: bool = False) -> JobVerdict:
    """Return what follows for a job whose process died while it ran it; `job_interruptions` are
    those before. It is due at once, and spends no try; the count of interruptions grows by one."""
    if once or sync:
        why = _AT_MOST_ONCE if once else "its caller waited for it on the same connection"
        error = f"the process that ran it died; it is not repeated because {why}"
        return JobVerdict(state="failed", reason="interrupted", error=error)
    if job_interruptions >= INTERRUPTIONS_MAX:
        error = f"{job_interruptions + 1} processes died while they ran it"
        return JobVerdict(state="failed", reason="crash_loop", error=error)
    return JobVerdict(state="queued", due_ms=0)


def retry_ms(waits: RetryWaits, tries: int, random: float) -> int:
    """Return the wait after try number `tries` (from 1) was spent: ±20 %, never above the cap."""
    # The exponent is clamped: 2.0 ** 1100 raises, and the cap is long reached by then.
    return _spread_ms(waits.base * waits.factor ** min(tries - 1, 64), waits, random)


def _spread_ms(wait_s: float, waits: RetryWaits, random: float) -> int:
    spread = min(wait_s, waits.cap) * (1 + _JITTER * (2 * random - 1))
    return round(min(spread, waits.cap) * 1000)


def _not_sent_ms(job: ClaimedJob, waits: RetryWaits, now_ms: int, random: float) -> int:
    """Return the wait after a call that was not sent. Nobody counts those: the waits grow by their
    factor if each is so much longer than all before it."""
    since_s = max(0, now_ms - job.started_ms) / 1000
    return _spread_ms(waits.base + max(0.0, waits.factor - 1) * since_s, waits, random)


def _answered(
    outcome: CallOutcome, job: ClaimedJob, rules: EndpointRules, now_ms: int, random: float
) -> JobVerdict:
    code = outcome.status_code or 0
    if 200 <= code < 300:
        if outcome.kind == "too_large":
            error = (
                f"the output has more than the endpoint's `output_max`, {rules.output_max} bytes"
                if outcome.detail is None
                else outcome.error
            )
            return JobVerdict(state="failed", reason="output_too_large", error=error)
        if ends_by_url(outcome, rules):
            return _by_url(outcome, job, rules, now_ms)
        return _rejected(outcome) if outcome.failed else JobVerdict(state="completed")
    if is_turned_away(outcome, rules):
        return _turned_away(outcome, job, rules, now_ms, random)
    if outcome.no_retry or job.options.sync:
        return _rejected(outcome)
    unclear = code in _UNKNOWN_CODES
    if code in rules.retry_codes or unclear:
        return _maybe_again(outcome, job, rules, now_ms, random, unclear=unclear)
    return _rejected(outcome)


def ends_by_url(outcome: CallOutcome, rules: EndpointRules) -> bool:
    """Whether an answer says that its job will be ended by URL: a 202, where the endpoint, its kind
    or the answer itself has it so. Every other 2xx is the end of a job, a plain 202 too."""
    is_meant = rules.completion == "url" or rules.kind == "cog" or outcome.by_url
    return is_meant and outcome.status_code == ACCEPTED and rules.progress


def _by_url(outcome: CallOutcome, job: ClaimedJob, rules: EndpointRules, now_ms: int) -> JobVerdict:
    limit_ms = deadline_ms(job, rules, outcome.began_ms(now_ms))
    look_ms = limit_ms
    if rules.heartbeat_timeout is not None:
        look_ms = min(limit_ms, now_ms + round(rules.heartbeat_timeout * 1000))
    return JobVerdict(state="running", limit_ms=limit_ms, look_ms=look_ms)


def _rejected(
    outcome: CallOutcome, reason: JobReason = "rejected", *, turned_away: bool = False
) -> JobVerdict:
    """Fail by an answer, whose body is the error; without one its code is."""
    has_body = outcome.output is not None and outcome.output.size > 0
    error = None if has_body else f"the upstream answered {outcome.status_code}"
    return JobVerdict(state="failed", reason=reason, error=error, turned_away=turned_away)


def _turned_away(
    outcome: CallOutcome, job: ClaimedJob, rules: EndpointRules, now_ms: int, random: float
) -> JobVerdict:
    """Wait for as long as the upstream asks for, else for longer each time, and a little more, so
    that not all who were turned away come back in one moment. A job that it alone turns away is
    no victim of load: that costs tries."""
    if outcome.no_retry or job.options.sync:
        return _rejected(outcome, turned_away=True)
    doubled_ms = _TURNED_AWAY_FIRST_MS << min(job.turned_away, 16)
    wait_ms = outcome.retry_after_ms or min(doubled_ms, _TURNED_AWAY_MS_MAX)
    due_ms = now_ms + wait_ms + round(random * min(wait_ms, _SPREAD_MS_MAX))
    if job.turned_away < TURNED_AWAY_MAX:
        error = f"turned away: the upstream answered {outcome.status_code}"
        return _unspent(job, due_ms, now_ms, error=error, turned_away=True)
    if job.tries + 1 >= rules.attempts:
        return _rejected(outcome, "attempts", turned_away=True)
    return _again(job, rules, due_ms, now_ms, turned_away=True)


def _unknown(
    outcome: CallOutcome, job: ClaimedJob, rules: EndpointRules, now_ms: int, random: float
) -> JobVerdict:
    if outcome.kind == "broken_off" and (rules.once or outcome.no_retry):
        why = _AT_MOST_ONCE if rules.once else "the upstream forbade it"
        error = f"the answer broke off; it is not repeated because {why}"
        return JobVerdict(state="failed", reason="broken_off", error=error)
    return _maybe_again(outcome, job, rules, now_ms, random, unclear=True)


def _maybe_again(
    outcome: CallOutcome,
    job: ClaimedJob,
    rules: EndpointRules,
    now_ms: int,
    random: float,
    *,
    unclear: bool,
) -> JobVerdict:
    """Repeat what may be repeated: at-least-once, listed, after a short attempt, while tries are
    left. Else it fails: as unknown where it is `unclear` whether it ran, else by its answer."""
    why = _not_repeatable(outcome, job, rules)
    if why is not None:
        if not unclear:
            return _rejected(outcome)
        error = f"{_met(outcome)}: whether it ran is unknown, and it is not repeated because {why}"
        return JobVerdict(state="failed", reason="unknown_outcome", error=error)
    tries = job.tries + 1
    if tries >= rules.attempts:
        if not unclear:
            return _rejected(outcome, "attempts")
        error = f"{_met(outcome)}; all {rules.attempts} `attempts` are spent"
        return JobVerdict(state="failed", reason="attempts", error=error)
    wait_ms = max(retry_ms(rules.retry, tries, random), outcome.retry_after_ms or 0)
    return _again(job, rules, now_ms + wait_ms, now_ms, error=_met(outcome))


def _not_repeatable(outcome: CallOutcome, job: ClaimedJob, rules: EndpointRules) -> str | None:
    """Return why a sent call is not repeated, naming the setting; None where it may be."""
    if rules.once:
        return _AT_MOST_ONCE
    if job.options.sync:
        return "its caller waited for it on the same connection"
    is_code = outcome.kind in ("answered", "too_large")
    if is_code and outcome.status_code not in rules.retry_codes:
        return f"its endpoint's `retry_on` does not list {outcome.status_code}"
    if not is_code and not rules.retry_unknown:
        return 'its endpoint\'s `retry_on` does not list "unknown"'
    if outcome.duration_ms >= rules.repeat_within * 1000:
        return (
            f"it lasted {outcome.duration_ms / 1000:.1f} s, longer than its endpoint's "
            f"`repeat_within` ({rules.repeat_within:g} s) allows"
        )
    return None


def _met(outcome: CallOutcome) -> str:
    if outcome.kind in ("answered", "too_large"):
        return f"the upstream answered {outcome.status_code}"
    if outcome.kind == "broken_off":
        return "the answer broke off"
    return outcome.error or "the connection was lost after the request went out"


def _interrupted(
    outcome: CallOutcome, job: ClaimedJob, rules: EndpointRules, now_ms: int
) -> JobVerdict:
    """Hand back what we could not do, or not end, ourselves: at no cost."""
    if outcome.sent and (rules.once or job.options.sync):
        why = _AT_MOST_ONCE if rules.once else "its caller waited for it on the same connection"
        error = f"the gateway ended during its call; it is not repeated because {why}"
        return JobVerdict(state="failed", reason="interrupted", error=error)
    due_ms = now_ms + _PAUSE_MS if outcome.lack else now_ms
    if not outcome.sent:
        return _unspent(job, due_ms, now_ms, error=outcome.error)
    return _again(job, rules, due_ms, now_ms, spent=False, error=outcome.error)


def _timeout(job: ClaimedJob, rules: EndpointRules, now_ms: int) -> JobVerdict:
    limit_s = run_limit_s(job.options.limit_s, rules, job.dialect)
    if job.ends_ms is not None and now_ms >= job.ends_ms:
        return _past_life()
    error = f"it ran for longer than its run limit of {limit_s:g} s"
    return JobVerdict(state="timeout", reason="run_limit", error=error)


def _silent(
    outcome: CallOutcome, job: ClaimedJob, rules: EndpointRules, now_ms: int, random: float
) -> JobVerdict:
    """Give up a call that gave no sign of life: whether it runs on is unknown, and it is repeated
    where what is unknown is."""
    verdict = _maybe_again(outcome, job, rules, now_ms, random, unclear=True)
    return verdict if verdict.state != "failed" else replace(verdict, reason="heartbeat")


def _past_life() -> JobVerdict:
    error = "its time to live passed before it ended"
    return JobVerdict(state="timeout", reason="ttl", error=error)


def _unspent(
    job: ClaimedJob,
    due_ms: int,
    now_ms: int,
    *,
    error: str | None,
    turned_away: bool = False,
) -> JobVerdict:
    """Wait at no cost until the queue's timeout; whoever waits past it is ended by the sweeper."""
    if job.ends_ms is not None and now_ms >= job.ends_ms:
        return _past_life()
    if now_ms >= job.expires_ms:
        late = "its queue timeout passed before it could be run"
        return JobVerdict(state="timeout", reason="expired", error=late, turned_away=turned_away)
    return JobVerdict(state="queued", due_ms=due_ms, error=error, turned_away=turned_away)


def _again(
    job: ClaimedJob,
    rules: EndpointRules,
    due_ms: int,
    now_ms: int,
    *,
    spent: bool = True,
    error: str | None = None,
    turned_away: bool = False,
) -> JobVerdict:
    """Wait for another call of a job that has begun: its queue timeout counts anew from then."""
    if job.ends_ms is not None and now_ms >= job.ends_ms:
        return _past_life()
    expires_ms = due_ms + round(rules.queue_timeout * 1000)
    if job.ends_ms is not None:
        expires_ms = min(expires_ms, job.ends_ms)
    return JobVerdict(
        state="queued",
        due_ms=due_ms,
        expires_ms=expires_ms,
        spent=spent,
        error=error,
        turned_away=turned_away,
    )
