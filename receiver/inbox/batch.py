"""Deciding a batch of messages: what the inbox holds that bears on them, and what is to be
written. Pure: a store loads the facts, asks for the plan, and writes it in the same transaction.

Messages are decided one after another, each as if those before it were stored already, so that
fifty copies in one batch are one message and forty-nine duplicates.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final, Protocol, TypeAlias

from receiver.base.completion import canonical
from receiver.base.db import Row
from receiver.inbox.dedupe import End, Known, Verdict, judge
from receiver.inbox.message import Message, State, storable
from receiver.inbox.seals import Seals
from receiver.inbox.wanted import Beats, Wanted, wanted_of

Job: TypeAlias = tuple[str, str]  # source, job id; "" for a message that names no job
Copy: TypeAlias = tuple[int, int | None]  # its id, and its signed run
Content: TypeAlias = tuple[str, str, bytes]  # source, job id or "", hash of the bytes
Name: TypeAlias = tuple[str, str]  # source, signed message id

_NOTHING: Final = Known()
_NOBODY: Final[Wanted] = frozenset()


@dataclass(slots=True)
class Incoming:
    """A message to decide, with what it is looked up by."""

    message: Message
    sha256: bytes
    job: Job
    content: Content
    name: Name | None  # only where a message under the same id may contradict it
    forms: tuple[bytes, ...] | None = None  # all that its hash may be stored as, if not one alone

    def is_of(self, stored: bytes) -> bool:
        """Whether a stored hash is that of its bytes."""
        return stored == self.sha256 if self.forms is None else stored in self.forms


@dataclass(slots=True)
class StoredEnd:
    """The message that ended a job."""

    id: int
    end: End
    sha256: bytes


@dataclass(slots=True)
class Facts:
    """All that is stored of the batch's contents, jobs and names."""

    copies: dict[Content, dict[str, Copy]] = field(default_factory=dict)  # by message id or ""
    ends: dict[Job, StoredEnd] = field(default_factory=dict)
    bodies_under: dict[Name, set[bytes]] = field(default_factory=dict)  # hashes
    dead: set[int] = field(default_factory=set)  # of the copies and ends
    registered: Sequence[Row] = ()  # handlers of all processes, where ours do not do


@dataclass(slots=True)
class New:
    """A message to store."""

    id: int
    message: Message
    sha256: bytes
    verdict: Verdict
    state: State
    is_end: bool
    order: str | None  # of an end, where it is signed
    canonical: str  # its status
    sealed: bytes | None = None  # its body, where that is stored sealed

    @property
    def due_ms(self) -> int | None:
        return self.message.received_ms if self.state == "pending" else None


COLUMNS: Final = (
    "id",
    "source",
    "message_id",
    "body_sha256",
    "body_bytes",
    "content_type",
    "kind",
    "job_id",
    "job_status",
    "verdict",
    "sent_ms",
    "received_ms",
    "platform",
    "via",
    "state",
    "due_ms",
    "is_end",
    "end_order",
    "run",
    "canonical",
)


def row(new: New) -> tuple[object, ...]:
    """Return what a store writes of a new message: the values of `COLUMNS`."""
    message = new.message
    return (
        new.id,
        message.source,
        message.message_id,
        new.sha256,
        len(message.body),
        storable(message.content_type) if message.content_type else None,
        message.kind,
        message.job_id,
        message.job_status,
        new.verdict,
        message.sent_ms,
        message.received_ms,
        message.platform,
        message.via,
        new.state,
        new.due_ms,
        int(new.is_end),
        new.order,
        message.run,
        new.canonical,
    )


@dataclass(slots=True)
class Plan:
    """What to write, in this order, and the verdicts on the batch."""

    verdicts: list[Verdict] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)  # no longer the end of their job
    new: list[New] = field(default_factory=list)
    seen_again: dict[int, tuple[int, int]] = field(default_factory=dict)  # how often, last when
    orders: dict[int, str] = field(default_factory=dict)  # a later id that brought the same end
    rearm: dict[int, tuple[int, str]] = field(default_factory=dict)  # dead ones that came again
    known: dict[Job, int] = field(default_factory=dict)  # jobs whose end came again, and when
    kid: str | None = None  # of the key that the new ones are sealed with

    @property
    def has_due(self) -> bool:
        """Whether a new message is to be handled."""
        return any(new.state == "pending" for new in self.new)


class Stored(Protocol):
    """What a batch needs of the database, in its dialect."""

    def load(self, tx: Any, batch: Sequence[Incoming]) -> tuple[Facts, Iterator[int]]:
        """Return what bears on a batch, and the ids that its new messages may take. Nobody else
        stores a message of these jobs until the transaction ends."""

    def write(self, tx: Any, plan: Plan) -> bool:
        """Write a plan; whether there is something to handle now."""


def receive(
    stored: Stored, tx: Any, messages: Sequence[Message], beats: Beats, seals: Seals | None = None
) -> tuple[list[Verdict], bool]:
    """Store what is new, sealed where there are `seals`; the verdicts, and whether there is
    something to handle now. What this process has no handler for may be wanted by another one."""
    batch = [incoming(message, seals) for message in messages]
    facts, ids = stored.load(tx, batch)
    plan = decide(batch, facts, ids, wanted_of(facts.registered, beats))
    if seals is not None and seals.begun:
        plan.kid = seals.kid
        for new in plan.new:
            new.sealed = seals.seal_body(new.message.body, new.id, new.message.source)
    return plan.verdicts, stored.write(tx, plan)


def needs_registered(batch: Iterable[Incoming]) -> bool:
    """Whether a batch holds what this process has no handler for."""
    return any(not one.message.has_handler for one in batch)


def incoming(message: Message, seals: Seals | None = None) -> Incoming:
    """Two jobs may have the same bytes as their result, so a copy is one within its job."""
    hashed = sha256(message.body).digest()
    forms = None
    if seals is not None:
        forms = seals.forms(hashed)
        hashed = forms[0]
    job_id = message.job_id or ""
    named = message.kind != "terminal" and message.message_id is not None
    return Incoming(
        message=message,
        sha256=hashed,
        job=(message.source, job_id),
        content=(message.source, job_id, hashed),
        name=(message.source, message.message_id or "") if named else None,
        forms=forms,
    )


def decide(
    batch: Sequence[Incoming], facts: Facts, ids: Iterator[int], wanted: Wanted = _NOBODY
) -> Plan:
    """Return the plan for a batch; `ids` are those that new messages may take, `wanted` is what
    other processes handle. `facts` are kept up with what is decided, and are of no use
    afterwards."""
    plan = Plan()
    for one in batch:
        message, copies = one.message, facts.copies.setdefault(one.content, {})
        end = facts.ends.get(one.job) if message.kind != "opaque" else None
        copy = _copy(copies, message.run) if copies else None
        same = _same_message(copies, message.message_id, copy) if copies else None
        candidate = message.as_end if message.kind == "terminal" else None
        known = _known(facts, one, copy is not None, same is not None, end)
        verdict = judge(message.kind, known, candidate, run=message.run, latest=message.latest)
        plan.verdicts.append(verdict)
        if end is not None and candidate is not None:  # nobody needs to wait for it any more
            plan.known[one.job] = message.received_ms
        if verdict == "duplicate":
            original = same or copy or (end.id if end else 0)
            _again(plan, facts, original, message)
            _same_end(plan, end, one, candidate)
        else:
            new = _new(next(ids), one, verdict, candidate, wanted)
            plan.new.append(new)
            copies[message.message_id or ""] = (new.id, message.run)
            _keep_up(plan, facts, one, new, candidate)
    return plan


def _known(
    facts: Facts, one: Incoming, has_copies: bool, has_same: bool, end: StoredEnd | None
) -> Known:
    if not has_copies and not has_same and end is None and one.name is None:
        return _NOTHING
    return Known(
        same_bytes=has_copies,
        same_message=has_same,
        id_taken=_is_taken(facts, one),
        end=end.end if end else None,
        end_has_bytes=end is not None and one.is_of(end.sha256),
    )


def _copy(copies: dict[str, Copy], run: int | None) -> int | None:
    """Return the first copy of the same run."""
    return next((id for id, its_run in copies.values() if (its_run or 1) == (run or 1)), None)


def _same_message(
    copies: dict[str, Copy], message_id: str | None, same_run: int | None
) -> int | None:
    """Ids that are equal, or one of the two carries none and they are of one run."""
    if message_id is None:
        return same_run
    if message_id in copies:
        return copies[message_id][0]
    unnamed = copies.get("")
    return unnamed[0] if unnamed is not None and same_run is not None else None


def _is_taken(facts: Facts, one: Incoming) -> bool:
    if one.name is None:
        return False
    return bool(facts.bodies_under.get(one.name, set()).difference(one.forms or (one.sha256,)))


def _new(id: int, one: Incoming, verdict: Verdict, candidate: End | None, wanted: Wanted) -> New:
    is_end = verdict == "accepted" and candidate is not None
    message = one.message
    status = canonical(message.job_status) if candidate is None else candidate.status
    is_wanted = message.has_handler or (message.source, status) in wanted
    return New(
        id=id,
        message=message,
        sha256=one.sha256,
        verdict=verdict,
        state="pending" if verdict == "accepted" and is_wanted else "ignored",
        canonical=status,
        is_end=is_end,
        order=candidate.order if candidate is not None and is_end else None,
    )


def _keep_up(plan: Plan, facts: Facts, one: Incoming, new: New, candidate: End | None) -> None:
    if one.name is not None:
        facts.bodies_under.setdefault(one.name, set()).add(one.sha256)
    if candidate is None or not new.is_end:
        return
    before = facts.ends.get(one.job)
    if before is not None:
        _replace(plan, before)
    facts.ends[one.job] = StoredEnd(id=new.id, end=candidate, sha256=one.sha256)


def _replace(plan: Plan, before: StoredEnd) -> None:
    for new in plan.new:
        if new.id == before.id:
            new.is_end = False
            return
    plan.replaced.append(before.id)


def _again(plan: Plan, facts: Facts, id: int, message: Message) -> None:
    count, last_ms = plan.seen_again.get(id, (0, 0))
    plan.seen_again[id] = (count + 1, max(last_ms, message.received_ms))
    if id in facts.dead:
        plan.rearm[id] = (message.received_ms, canonical(message.job_status))


def _same_end(plan: Plan, end: StoredEnd | None, one: Incoming, candidate: End | None) -> None:
    """Note the later id of the same end: an older run that arrives afterwards must not replace
    it."""
    if end is None or candidate is None or candidate.order is None or not one.is_of(end.sha256):
        return
    if (candidate.run or 1) == (end.end.run or 1) and candidate.order > (end.end.order or ""):
        end.end = replace(end.end, order=candidate.order)
        plan.orders[end.id] = candidate.order


def lookups(batch: Iterable[Incoming]) -> tuple[set[Content], set[Job], set[Name]]:
    """Return what a store must load for a batch."""
    contents: Final[set[Content]] = set()
    jobs: Final[set[Job]] = set()
    names: Final[set[Name]] = set()
    for one in batch:
        contents.add(one.content)
        if one.message.job_id is not None:
            jobs.add(one.job)
        if one.name is not None:
            names.add(one.name)
    return contents, jobs, names
