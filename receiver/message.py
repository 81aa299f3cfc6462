"""The values that go into the inbox and come out of it."""

from dataclasses import dataclass

from receiver.guard import Kind, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A verified message on its way into the inbox. Times are Unix milliseconds."""

    source: str
    message_id: str | None
    body: bytes
    content_type: str | None
    kind: Kind
    job_id: str | None
    job_status: str | None
    sent_ms: int | None
    received_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A message as the inbox keeps it; ``body`` only where it was asked for."""

    id: int
    source: str
    message_id: str | None
    body_sha256: bytes
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
    body: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Messages, newest first, and the id to go on below (None: that was all)."""

    messages: list[StoredMessage]
    next_below: int | None
