"""What a pending callback waits for: one reason, the one that ends last. Pure."""

from dataclasses import dataclass
from typing import Literal

from dispatcher.values import Schedule

WaitReason = Literal[
    "paused",  # its destination, by an operator
    "disabled",  # its destination; it is about to be made dead
    "circuit",  # its destination was down: one probe at a time goes out
    "retry-after",  # its destination asked for a pause
    "turned-away",  # its destination asked for less
    "not-before",  # the time that was asked for
    "retry",  # its next try
    "rate",  # deliveries a second of its destination
    "slot",  # a place among those that are sent at once
]


@dataclass(frozen=True, slots=True)
class Wait:
    """Why it waits, and until when where that is known."""

    reason: WaitReason
    until_ms: int | None = None


def wait_of(
    schedule: Schedule | None, due_ms: int | None, *, attempts: int, now_ms: int
) -> Wait | None:
    """Return what a pending callback waits for; None for what may go at this moment."""
    due_ms = due_ms or now_ms
    own = Wait("retry" if attempts else "not-before", due_ms)
    if schedule is None:
        return own if due_ms > now_ms else None
    if schedule.disabled_reason is not None:
        return Wait("disabled")
    if schedule.is_paused:
        return Wait("paused")
    held_ms = schedule.held_until_ms
    if held_ms > max(now_ms, due_ms):
        return Wait(_hold(schedule.held_reason), held_ms)
    if due_ms > now_ms:
        later = schedule.not_before_ms is not None and schedule.not_before_ms >= due_ms
        return Wait("not-before" if later else own.reason, due_ms)
    if schedule.circuit_open:
        return Wait("circuit")  # the probe is out
    if schedule.ready_ms is not None and schedule.ready_ms > now_ms:
        return Wait("rate", schedule.ready_ms)
    return Wait("slot")


def _hold(reason: str | None) -> WaitReason:
    if reason == "retry-after":
        return "retry-after"
    return "turned-away" if reason == "turned-away" else "circuit"
