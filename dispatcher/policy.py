"""When to try again, and when to stop: pure, with the time and the randomness as arguments."""

import json
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal

from dispatcher.outcome import AttemptOutcome, Outcome
from receiver.base.value import frozen

Acknowledge = Literal["2xx"] | frozenset[int]
Retry = Literal["all"] | frozenset[int]
TurnedAway = Literal["free", "try"]
PresetName = Literal["exponential", "standard-webhooks", "runpod", "cerebrium"]
GONE: Final = 410
TIMEOUT_MS_MAX: Final = 60_000  # of one attempt
# A delivery that its peer alone keeps turning away, while it answers others, waits at no cost so
# many times.
TURNED_AWAY_MAX: Final = 5
_TURNED_AWAY_FIRST_MS: Final = 1_000  # as its lane is held where the peer asks for no time
_SPREAD_MOST_MS: Final = 60_000
# A last try goes out so long before the maximum age: time enough to be claimed in.
_LAST_TRY_MS: Final = 10_000
TOO_OLD: Final = "the next try would be past the policy's maximum age"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How one delivery is tried. Times are seconds, as in the contract's policy object.

    `delays` are the waits after each failed attempt, its last one repeated; without them the wait
    after try n is `base * factor ** (n - 1)`, at most `cap`. `jitter` 0.2 means ±20 %, and never
    takes a wait above `cap`. `turned_away` says whether being turned away (429, or 503 with
    `Retry-After`) spends a try, and `retry` which codes are tried again, beside what was no answer.
    """

    attempts: int
    delays: tuple[float, ...] = ()
    base: float = 5.0
    factor: float = 3.0
    cap: float = 21_600.0
    jitter: float = 0.2
    timeout: float = 15.0
    acknowledge: Acknowledge = "2xx"
    max_age: float = 604_800.0
    turned_away: TurnedAway = "free"
    retry: Retry = "all"

    def acknowledges(self, status_code: int) -> bool:
        """Whether this answer means that the customer has the callback."""
        if self.acknowledge == "2xx":
            return 200 <= status_code < 300
        return status_code in self.acknowledge

    def retries(self, status_code: int) -> bool:
        """Whether another try may follow this answer."""
        return self.retry == "all" or status_code in self.retry

    def schedule_ms(self) -> int:
        """Return how long all tries take that fail at once, without jitter."""
        plain = replace(self, jitter=0.0)
        return sum(plain.delay_ms(tries, 0.5) for tries in range(1, self.attempts))

    def delay_ms(self, tries: int, random: float) -> int:
        """Return the wait after failed try number `tries` (from 1); `random` in [0, 1)."""
        if self.delays:
            wait = self.delays[min(tries, len(self.delays)) - 1]
            most = wait * (1 + self.jitter)
        else:
            # The exponent is clamped: 2.0 ** 1100 raises, and the cap is long reached by then.
            wait = min(self.cap, self.base * self.factor ** min(tries - 1, 64))
            most = self.cap
        jittered = wait * (1 + self.jitter * (2 * random - 1))
        return round(min(jittered, most) * 1000)


# `exponential` retries for about a day and a half (13 waits, 34.6 hours without jitter).
# `standard-webhooks` is the schedule the Standard Webhooks specification recommends.
# `runpod` and `cerebrium` follow those platforms' own documentation.
# Stored by name, so that a stored one means what it means here, whenever it was stored.
PRESETS: Final[dict[str, Policy]] = {
    "exponential": Policy(attempts=14),
    "standard-webhooks": Policy(
        attempts=10,
        delays=(5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400),
    ),
    "runpod": Policy(
        attempts=3,
        delays=(10, 10),
        jitter=0,
        timeout=10,
        acknowledge=frozenset({200}),
        turned_away="try",
    ),
    "cerebrium": Policy(
        attempts=3, base=1, factor=2, cap=5, turned_away="try", retry=frozenset({404})
    ),
}
DEFAULT: Final = "exponential"


@lru_cache(maxsize=1024)
def load(text: str | None) -> Policy:
    """Return the policy a store column names: a preset, the JSON that `dump` wrote, or none
    (default)."""
    if text is None:
        return PRESETS[DEFAULT]
    if text in PRESETS:
        return PRESETS[text]
    fields: dict[str, Any] = json.loads(text)
    fields["delays"] = tuple(fields["delays"])
    if fields["acknowledge"] != "2xx":
        fields["acknowledge"] = frozenset(fields["acknowledge"])
    if fields.get("retry", "all") != "all":
        fields["retry"] = frozenset(fields["retry"])
    return Policy(**fields)


def dump(policy: Policy) -> str:
    """`policy` as the text that `load` reads; earlier versions do too, where it says nothing that
    they do not know."""
    fields = asdict(policy)
    if policy.acknowledge != "2xx":
        fields["acknowledge"] = sorted(policy.acknowledge)
    if policy.retry == "all":
        del fields["retry"]
    else:
        fields["retry"] = sorted(policy.retry)
    if policy.turned_away == "free":
        del fields["turned_away"]
    return json.dumps(fields, separators=(",", ":"))


@frozen
class Verdict:
    """What follows from an attempt: the delivery's next state, for a retry when it is due, and
    whether a try was spent."""

    state: Literal["delivered", "pending", "dead"]
    due_ms: int | None = None
    reason: str | None = None
    spent: bool = True
    gone: bool = False  # 410: the destination wants nothing more


def attempt_outcome(outcome: Outcome, policy: Policy) -> AttemptOutcome:
    """Return the word for what an attempt met, in the one vocabulary."""
    if outcome.kind != "answered":
        return outcome.kind
    acknowledged = outcome.status_code is not None and policy.acknowledges(outcome.status_code)
    return "acknowledged" if acknowledged else "rejected"


def judge(
    outcome: Outcome,
    policy: Policy,
    *,
    tries: int,
    turned_away: int,
    turned_away_ms: int | None,
    expires_ms: int,
    now_ms: int,
    random: float,
    pause_ms: int = 1_000,
) -> Verdict:
    """Return the verdict on an attempt that was the delivery's `tries`-th (from 1) of its budget.

    `turned_away` is how often it was turned away before while others were answered, and
    `turned_away_ms` when for the first time. `Retry-After` only ever lengthens the wait, and ends
    no delivery: where it asks for longer than the delivery may live, a last try goes out shortly
    before its end. What we could not do ourselves is due again after `pause_ms`, unspent (D21).
    """
    if outcome.kind == "interrupted":
        return _unspent(
            now_ms + pause_ms, "our own fault: no try spent", expires_ms=expires_ms, now_ms=now_ms
        )
    code = outcome.status_code
    if code is not None and outcome.kind == "answered":
        if policy.acknowledges(code):
            return Verdict(state="delivered")
        if code == GONE:
            return Verdict(state="dead", reason="the destination answered 410 Gone", gone=True)
        since_ms = now_ms if turned_away_ms is None else turned_away_ms
        if (
            outcome.turned_away
            and policy.turned_away == "free"
            and turned_away < TURNED_AWAY_MAX
            and (turned_away_ms is None or now_ms - since_ms < policy.schedule_ms())
        ):
            return _turned_away(outcome, expires_ms=expires_ms, now_ms=now_ms, random=random)
        if not policy.retries(code):
            return Verdict(state="dead", reason=f"the policy does not try again after {code}")
    if tries >= policy.attempts:
        return Verdict(state="dead", reason=f"all {policy.attempts} tries failed")
    due_ms = now_ms + policy.delay_ms(tries, random)
    if due_ms >= expires_ms:
        return Verdict(state="dead", reason=TOO_OLD)
    if outcome.retry_after_ms is not None:
        asked_ms = now_ms + outcome.retry_after_ms
        due_ms = max(due_ms, min(asked_ms, _last_try_ms(expires_ms, now_ms)))
    return Verdict(state="pending", due_ms=due_ms)


def _turned_away(outcome: Outcome, *, expires_ms: int, now_ms: int, random: float) -> Verdict:
    """Wait at no cost, for as long as the peer asks for and a little longer, so that not all who
    were turned away come back in one moment."""
    wait_ms = outcome.retry_after_ms or _TURNED_AWAY_FIRST_MS
    wait_ms += round(random * min(wait_ms, _SPREAD_MOST_MS))
    return _unspent(
        now_ms + wait_ms, "turned away: no try spent", expires_ms=expires_ms, now_ms=now_ms
    )


def _unspent(due_ms: int, reason: str, *, expires_ms: int, now_ms: int) -> Verdict:
    """Wait at no cost, but not past the last try."""
    due_ms = min(due_ms, _last_try_ms(expires_ms, now_ms))
    if due_ms <= now_ms:
        return Verdict(state="dead", reason=TOO_OLD)
    return Verdict(state="pending", due_ms=due_ms, reason=reason, spent=False)


def _last_try_ms(expires_ms: int, now_ms: int) -> int:
    """Return when the last try is due of a delivery that may live until `expires_ms`."""
    return expires_ms - max(1, min(_LAST_TRY_MS, (expires_ms - now_ms) // 10))
