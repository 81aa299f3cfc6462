"""Deduplication: what a message is to what is already known. Pure; the one place that decides.

A **terminal** message ends its job: its status is one of TERMINAL, or it has none at all (a
completion without a status is still the job's completion). `queued` and `running` are
**progress**. A message without a job, or of an unknown status, is **opaque**: one of its own, that
ends nothing and is ended by nothing.

    message     already known                                  verdict
    terminal    the same message                               duplicate
    terminal    the end of a lower run of this job             accepted   (becomes the end)
    terminal    the same bytes for this run                    duplicate
    terminal    the end of a higher run                        late       (kept, not applied)
    terminal    an end that it replaces (below)                accepted   (becomes the end)
    terminal    the same bytes for this job                    duplicate
    terminal    the same end, learned by asking for it         duplicate
    terminal    another end of this job                        conflict   (kept beside it)
    terminal    nothing of these                               accepted   (becomes the end)
    the others  the same message                               duplicate
    the others  another one of them under its signed id        conflict   (kept beside it)
    progress    the job's end, of its run or a higher one      late       (kept, not applied)
    the others  nothing of these                               accepted

A message is its signed `webhook-id`, else its bytes; so two messages are the same when their
bytes are, and their ids are equal or one of them carries none.

A job may be **run again** under its id. Signed headers say which run it was; without them it is
run 1. What a status URL says is of no run in particular: it contradicts or repeats what is known.

Among ends of run 1 without a signed run, the `first` counts, and a second one is a conflict. Where
the `latest` counts instead, an end replaces another one when both carry the dispatcher's signed,
time-ordered ids and its own is the greater: so the order of arrival does not matter. Without such
ids only an end that follows a failed one does: a success is never taken back by what cannot be
told from an old message.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from receiver.base.completion import TERMINAL, UNKNOWN, canonical

Verdict: TypeAlias = Literal["accepted", "duplicate", "conflict", "late"]
Kind: TypeAlias = Literal["terminal", "progress", "opaque"]
Via: TypeAlias = Literal["webhook", "status"]

# The dispatcher's callback ids begin with the millisecond they were made in.
_ORDERED_ID: Final = re.compile(r"cb_[0-9a-f]{32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The message that ended a job. `run` is there where it is signed; without it `order` sorts
    the runs, None where nothing signed does."""

    status: str
    order: str | None = None
    via: Via = "webhook"
    run: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is stored from the same source that bears on a message."""

    same_bytes: bool = False  # some message of this run of the job has these bytes
    same_message: bool = False  # one with these bytes is the same message by its id
    id_taken: bool = False  # its signed id is that of another, which ends no job either
    end: End | None = None  # of its job
    end_has_bytes: bool = False  # and the job's end is one with these bytes


def kind_of(job_id: str | None, status: str | None) -> Kind:
    """How a message with this status, as sent, bears on its job."""
    known = canonical(status)
    if job_id is None or known == UNKNOWN:
        return "opaque"
    return "terminal" if known in TERMINAL else "progress"


def order_of(message_id: str | None) -> str | None:
    """Return what sorts a job's runs: an id of the dispatcher's, which the signature vouches
    for."""
    return message_id if message_id and _ORDERED_ID.fullmatch(message_id) else None


def judge(
    kind: Kind,
    known: Known,
    candidate: End | None,
    *,
    run: int | None = None,
    latest: bool = False,
) -> Verdict:
    """Return the verdict on one message; the table above, line by line. `candidate` is the end that
    a terminal one would be; `run` which run it is signed as; `latest` whether a later end counts
    where no run is signed."""
    if known.same_message:
        return "duplicate"
    if kind == "terminal" and candidate is not None:
        return _judge_end(known, candidate, latest)
    if known.id_taken:
        return "conflict"
    is_late = kind == "progress" and known.end is not None and (run or 1) <= (known.end.run or 1)
    return "late" if is_late else "accepted"


def _judge_end(known: Known, candidate: End, latest: bool) -> Verdict:
    end = known.end
    higher = 0 if end is None else _higher_by(candidate, end)
    if higher > 0:
        return "accepted"
    unsigned = end is not None and candidate.run is None and end.run is None
    if end and latest and unsigned and not known.end_has_bytes and replaces(candidate, end):
        return "accepted"
    if known.same_bytes:
        return "duplicate"
    if end is None:
        return "accepted"
    if higher < 0:
        return "late"
    asked_for = "status" in (end.via, candidate.via)
    return "duplicate" if asked_for and candidate.status == end.status else "conflict"


def _higher_by(candidate: End, end: End) -> int:
    """Return how many runs an end is above another one; a status URL's is of any run."""
    if candidate.via == "status":
        return 0
    return (candidate.run or 1) - (end.run or 1)


def replaces(candidate: End, end: End) -> bool:
    """Whether an end is that of a later run."""
    if candidate.order is not None and end.order is not None:
        return candidate.order > end.order
    return end.status == "failed"
