"""The once-guard: what a message is to what is already known. Pure; the one place that decides.

A **terminal** message ends its job: its status is one of TERMINAL, or it has none at all (a
completion without a status is still the job's completion). Any other status is **progress**. A
body without a jobId is **opaque**: a message of its own, ended by nothing.

    message     already known                                  verdict
    terminal    the same bytes                                 duplicate
    terminal    another end of this job                        conflict   (kept beside it)
    terminal    nothing of these                               accepted   (once per job, ever)
    the others  the same message                               duplicate
    the others  another message under the same signed id       conflict   (kept beside it)
    progress    the job's end                                  late       (kept, not applied)
    the others  nothing of these                               accepted

A message is its signed ``webhook-id``, else its bytes; so two messages are the same when their
bytes are, and their ids are equal or one of them carries none.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Verdict: TypeAlias = Literal["accepted", "duplicate", "conflict", "late"]
Kind: TypeAlias = Literal["terminal", "progress", "opaque"]

# The founding documents' final states, in their spellings, compared without regard to case.
TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "timeout", "timed_out"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is stored from the same source that bears on a message."""

    same_bytes: bool = False  # some message has these bytes
    same_message: bool = False  # one with these bytes is the same message by its id
    id_taken: bool = False  # its signed id is that of a message with other bytes
    job_ended: bool = False  # an accepted terminal message of its job


def kind_of(job_id: str | None, status: str | None) -> Kind:
    """How a message bears on its job."""
    if job_id is None:
        return "opaque"
    if status is None or status.lower() in TERMINAL:
        return "terminal"
    return "progress"


def judge(kind: Kind, known: Known) -> Verdict:
    """The verdict on one message; the table above, line by line."""
    if kind == "terminal":
        if known.same_bytes:
            return "duplicate"
        return "conflict" if known.job_ended else "accepted"
    if known.same_message:
        return "duplicate"
    if known.id_taken:
        return "conflict"
    return "late" if kind == "progress" and known.job_ended else "accepted"
