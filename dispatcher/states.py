"""The states of a delivery and every legal way from one to the next: the one table that the
stores, the tests and the guide's diagram share."""

from typing import Final, Literal, get_args

State = Literal["pending", "sending", "delivered", "dead", "cancelled"]

STATES: Final[tuple[State, ...]] = get_args(State)
FINAL: Final[frozenset[State]] = frozenset({"delivered", "dead", "cancelled"})
QUEUED: Final[frozenset[State]] = frozenset({"pending", "sending"})

TRANSITIONS: Final[dict[tuple[State, State], str]] = {
    ("pending", "sending"): "claimed: a slot is free and the lane is ready",
    ("pending", "dead"): "older than its policy's maximum age, or its destination was disabled",
    ("pending", "cancelled"): "cancelled by an operator",
    ("sending", "delivered"): "acknowledged",
    ("sending", "pending"): "to be retried, handed back at shutdown, or its lease ended",
    ("sending", "dead"): "its tries are spent, or the destination is gone (410)",
    ("sending", "cancelled"): "cancelled while its attempt was running",
    ("dead", "pending"): "replayed",
    ("delivered", "pending"): "replayed",
    ("cancelled", "pending"): "replayed",
}


def legal(before: State, after: State) -> bool:
    """Whether a delivery may go from `before` to `after` in one step."""
    return (before, after) in TRANSITIONS
