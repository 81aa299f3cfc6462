"""The values that go into the inbox and come out of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeVar

from receiver.base.completion import canonical
from receiver.inbox.dedupe import End, Kind, Verdict, Via, order_of
from receiver.verification.identity import Platform

T = TypeVar("T")

# What is to be done about a message.
#
#   pending ──claim──▶ running ──▶ handled
#      ▲  ▲               │
#      │  └─retry, crash──┤
#      └──replay── dead ◀─┘   (tries used up; a duplicate of a dead one re-arms it as well)
#
# ignored: nothing to do: it has no handler, or it is a conflict or late. skipped: its job's end
# was handled before it came to its turn. A replay takes both back to pending, where they may be.
State: TypeAlias = Literal["pending", "running", "handled", "dead", "ignored", "skipped"]

STATES: Final = ("pending", "running", "handled", "dead", "ignored", "skipped")
REPLAYABLE: Final = ("dead", "ignored", "skipped")


@dataclass(slots=True, kw_only=True)
class Message:
    """A verified message on its way into the inbox. Times are Unix milliseconds. Nobody changes
    one; to have Python see to that would make it take twice as long to make."""

    source: str
    message_id: str | None
    body: bytes
    content_type: str | None
    kind: Kind
    job_id: str | None
    job_status: str | None  # as sent
    sent_ms: int | None
    received_ms: int
    platform: Platform = "tensorone"
    via: Via = "webhook"
    run: int | None = None  # of the job, where it is signed
    latest: bool = False  # whether a later run's end replaces this one, where none is signed
    has_handler: bool = False

    @property
    def as_end(self) -> End:
        """The end of its job that it would be."""
        order = order_of(self.message_id) if self.via == "webhook" else None
        return End(status=canonical(self.job_status), order=order, via=self.via, run=self.run)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A message as the inbox keeps it; `body` and `error` only where they were asked for. `kid`
    names the key that its body is sealed with; then its hash is known where the body is. `unread`
    says why no key opens it."""

    id: int
    source: str
    message_id: str | None
    body_sha256: bytes | None
    body_bytes: int
    content_type: str | None
    kind: Kind
    job_id: str | None
    job_status: str | None
    verdict: Verdict
    sent_ms: int | None
    received_ms: int
    duplicates: int
    last_seen_ms: int
    platform: Platform
    via: Via
    state: State
    attempts: int
    due_ms: int | None
    handled_ms: int | None
    run: int | None
    kid: str | None
    body: bytes | None = None
    error: str | None = None  # the traceback of the last failed attempt
    unread: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Messages, newest first, and the id to go on below (None: that was all)."""

    messages: list[StoredMessage]
    next_below: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A message whose turn it is, with all that its handler needs. `attempt` counts from 1, and
    again from there after a replay; `fence` grows with every claim of the message."""

    id: int
    source: str
    message_id: str | None
    job_id: str | None
    job_status: str | None
    platform: Platform
    content_type: str | None
    attempt: int
    fence: int
    received_ms: int
    run: int | None
    body: bytes
    kid: str | None = None  # of the key that it was sealed with


def names(kind: Any) -> tuple[str, ...]:
    """Return the names of a dataclass's fields, which are those of its columns, in order."""
    return tuple(kind.__dataclass_fields__)


def from_row(kind: type[T], row: Sequence[Any]) -> T:
    """Return a row as a value; its columns are the first of `names(kind)`."""
    return kind(**dict(zip(names(kind), row, strict=False)))


def storable(text: str) -> str:
    """Return what a peer or a customer's code sent without what not every database takes as text:
    NUL, and halves of characters."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
