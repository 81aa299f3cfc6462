"""The states of a job, every legal way from one to the next, and the reasons that stand beside
them: the one table that the stores, the tests and the guide share."""

from typing import Final, Literal, get_args

JobState = Literal["queued", "running", "completed", "failed", "cancelled", "timeout"]

STATES: Final[tuple[JobState, ...]] = get_args(JobState)
FINAL: Final[frozenset[JobState]] = frozenset({"completed", "failed", "cancelled", "timeout"})
RETRYABLE: Final[frozenset[JobState]] = frozenset({"failed", "timeout", "cancelled"})

TRANSITIONS: Final[dict[tuple[JobState, JobState], str]] = {
    ("queued", "running"): "claimed: a place is free, its endpoint is not held, it is due",
    ("queued", "cancelled"): "cancelled by a user, purged, or its endpoint was removed",
    ("queued", "timeout"): "its queue timeout has passed (expired), or its own time to live "
    "(expired where it had never begun, else ttl)",
    ("running", "completed"): "a 2xx whose body was stored whole",
    ("running", "failed"): "another answer, an end that nobody knows, or its tries are spent",
    ("running", "timeout"): "its run limit or its own time to live has passed",
    ("running", "cancelled"): "cancelled by a user; its place is taken until the call has ended",
    ("running", "queued"): "not sent, turned away, unknown and to be repeated, handed back, or its "
    "process died",
    ("failed", "queued"): "retried: the same id, the next run",
    ("timeout", "queued"): "retried: the same id, the next run",
    ("cancelled", "queued"): "retried: the same id, the next run",
    ("completed", "queued"): "retried by an operator who insists",
}

JobReason = Literal[
    "expired",  # timeout: it never began in time; or was to be run again, and could not be in time
    "run_limit",  # timeout: the call took longer than it may
    "ttl",  # timeout: its own time to live passed after it had begun
    "purged",  # cancelled with its queue
    "endpoint_removed",  # cancelled with its endpoint
    "user",  # cancelled by somebody who asked for it
    "disconnected",  # cancelled: who waited for it hung up
    "rejected",  # failed: an answer that is neither 2xx nor tried again
    "attempts",  # failed: its tries are spent
    "unknown_outcome",  # failed: sent, its end unknown, and not to be repeated
    "output_too_large",  # failed: more than the endpoint's output_max
    "storage",  # failed: no room for its output
    "crash_loop",  # failed: more than three processes died while they ran it
    "interrupted",  # failed: at most once, and our process ended during its call
    "broken_off",  # failed: at most once, and its answer broke off
    "heartbeat",  # failed: no progress for longer than the endpoint's heartbeat_timeout
]


def legal(before: JobState, after: JobState) -> bool:
    """Whether a job may go from `before` to `after` in one step."""
    return (before, after) in TRANSITIONS
