"""When to try again, and when to stop: pure, with the time and the randomness as arguments."""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final, Literal

from dispatcher.outcome import AttemptOutcome, Outcome

Acknowledge = Literal["2xx"] | frozenset[int]
PresetName = Literal["exponential", "standard-webhooks", "runpod", "cerebrium"]
GONE: Final = 410


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How one delivery is tried. Times are seconds, as in the contract's policy object.

    `delays` are the waits after each failed attempt, its last one repeated; without them the wait
    after try n is `base * factor ** (n - 1)`, at most `cap`. `jitter` 0.2 means ±20 %, and never
    takes a wait above `cap`.
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

    def acknowledges(self, status_code: int) -> bool:
        """Whether this answer means that the customer has the callback."""
        if self.acknowledge == "2xx":
            return 200 <= status_code < 300
        return status_code in self.acknowledge

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
PRESETS: Final[dict[str, Policy]] = {
    "exponential": Policy(attempts=14),
    "standard-webhooks": Policy(
        attempts=10,
        delays=(5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400),
    ),
    "runpod": Policy(
        attempts=3, delays=(10, 10), jitter=0, timeout=10, acknowledge=frozenset({200})
    ),
    "cerebrium": Policy(attempts=3, base=1, factor=2, cap=5),
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
    return Policy(**fields)


def dump(policy: Policy) -> str:
    """`policy` as the text that `load` reads."""
    fields = asdict(policy)
    if policy.acknowledge != "2xx":
        fields["acknowledge"] = sorted(policy.acknowledge)
    return json.dumps(fields, separators=(",", ":"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows from an attempt: the delivery's next state and, for a retry, when it is due."""

    state: Literal["delivered", "pending", "dead"]
    due_ms: int | None = None
    reason: str | None = None
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
    expires_ms: int,
    now_ms: int,
    random: float,
) -> Verdict:
    """Return the verdict on an attempt that was the delivery's `tries`-th (from 1) of its budget.

    `Retry-After` only ever lengthens the wait.
    """
    code = outcome.status_code
    if code is not None and outcome.kind == "answered":
        if policy.acknowledges(code):
            return Verdict(state="delivered")
        if code == GONE:
            return Verdict(state="dead", reason="the destination answered 410 Gone", gone=True)
    if tries >= policy.attempts:
        return Verdict(state="dead", reason=f"all {policy.attempts} tries failed")
    wait_ms = policy.delay_ms(tries, random)
    if outcome.retry_after_ms is not None:
        wait_ms = max(wait_ms, outcome.retry_after_ms)
    due_ms = now_ms + wait_ms
    if due_ms >= expires_ms:
        return Verdict(state="dead", reason="the next try would be past the policy's maximum age")
    return Verdict(state="pending", due_ms=due_ms)
