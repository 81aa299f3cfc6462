"""A policy as the API takes it and as the store keeps it."""

from msgspec import UNSET, structs

from dispatcher.api.errors import invalid
from dispatcher.policy import GONE, PRESETS, Policy, dump
from dispatcher.wire import PolicyChoice, PolicyShape


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
    schedule = {} if choice.exponential is UNSET else structs.asdict(choice.exponential)
    return Policy(
        attempts=choice.attempts,
        delays=() if choice.delays is UNSET else tuple(choice.delays),
        jitter=choice.jitter,
        timeout=choice.timeout,
        acknowledge="2xx" if isinstance(codes, str) else frozenset(codes),
        max_age=choice.max_age,
        **schedule,
    )
