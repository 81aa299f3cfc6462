"""A policy as the API takes it and shows it, and as the store keeps it."""

from msgspec import UNSET

from dispatcher.api.errors import invalid
from dispatcher.api.shapes import Exponential, PolicyChoice, PolicyShape
from dispatcher.policy import GONE, PRESETS, Policy, dump, load


def chosen(choice: PolicyChoice | None) -> tuple[str | None, Policy | None]:
    """Return what the store keeps (a preset's name or the policy's JSON) and the policy itself;
    nothing for the default.

    Raises ApiError (422) where the fields contradict each other.
    """
    if choice is None:
        return None, None
    if isinstance(choice, str):
        return choice, PRESETS[choice]
    policy = _policy(choice)
    return dump(policy), policy


def text(choice: PolicyChoice | None) -> str | None:
    """Return what the store keeps of a choice. Raises ApiError (422) as `chosen` does."""
    return chosen(choice)[0]


def _policy(choice: PolicyShape) -> Policy:
    if choice.delays is not UNSET and choice.exponential is not UNSET:
        raise invalid("policy", None, "give delays or exponential, not both")
    codes = choice.acknowledge
    if codes != "2xx" and GONE in codes:
        raise invalid("policy.acknowledge", GONE, "410 always means gone")
    schedule = choice.exponential
    if schedule is UNSET:
        schedule = Exponential(base=5.0, factor=3.0, cap=21_600.0)
    return Policy(
        attempts=choice.attempts,
        delays=() if choice.delays is UNSET else tuple(choice.delays),
        base=schedule.base,
        factor=schedule.factor,
        cap=schedule.cap,
        jitter=choice.jitter,
        timeout=choice.timeout,
        acknowledge="2xx" if isinstance(codes, str) else frozenset(codes),
        max_age=choice.max_age,
    )


def shown(stored: str | None) -> PolicyShape:
    """Return the policy that a stored text names, in full."""
    policy = load(stored)
    codes = policy.acknowledge
    return PolicyShape(
        attempts=policy.attempts,
        delays=list(policy.delays) or UNSET,
        exponential=UNSET
        if policy.delays
        else Exponential(base=policy.base, factor=policy.factor, cap=policy.cap),
        jitter=policy.jitter,
        timeout=policy.timeout,
        acknowledge="2xx" if isinstance(codes, str) else sorted(codes),
        max_age=policy.max_age,
    )
