"""A job's status in one spelling, whichever platform said it. Pure."""

from typing import Final

# The founding documents' states in their spellings, by lower case.
_CANONICAL: Final = {
    "queued": "queued",
    "in_queue": "queued",
    "running": "running",
    "in_progress": "running",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
    "timeout": "timeout",
    "timed_out": "timeout",
}
TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "timeout"})
STATUSES: Final = ("queued", "running", "completed", "failed", "cancelled", "timeout")


def canonical(sent: str | None) -> str:
    """Return the one spelling of a status. None is `completed`: a completion may come without a
    status. One that no founding platform has stays as it is, in lower case, and is progress."""
    if sent is None:
        return "completed"
    return _CANONICAL.get(sent.lower(), sent.lower())
