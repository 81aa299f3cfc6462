"""Letting a message in: look, judge, write, in one savepoint on the only writing connection."""

import sqlite3
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from receiver.guard import End, Known, Verdict, judge
from receiver.message import Message, State
from receiver.store.commit import rows
from receiver.store.handling import REARM

_KNOWN: Final = """
    SELECT
        (SELECT id FROM messages
          WHERE source = :source AND body_sha256 = :sha256 LIMIT 1) AS same_bytes,
        (SELECT id FROM messages
          WHERE source = :source AND body_sha256 = :sha256
            AND ifnull(message_id, '') IN ('', :message_id) LIMIT 1) AS same_message,
        EXISTS (SELECT 1 FROM messages
          WHERE source = :source AND message_id = :message_id
            AND body_sha256 <> :sha256) AS id_taken
"""
_END: Final = """
    SELECT end_id, end_status, end_order, end_via, body_sha256 = :sha256 AS has_bytes
      FROM jobs LEFT JOIN messages ON messages.id = end_id
     WHERE jobs.source = :source AND jobs.job_id = :job_id
"""
_INSERT: Final = """
    INSERT INTO messages (source, message_id, body_sha256, body_bytes, content_type, kind, job_id,
        job_status, verdict, sent_ms, received_ms, last_seen_ms, platform, via, state, due_ms)
    VALUES (:source, :message_id, :sha256, :body_bytes, :content_type, :kind, :job_id,
        :job_status, :verdict, :sent_ms, :received_ms, :received_ms, :platform, :via, :state,
        :due_ms)
"""
_SEEN_AGAIN: Final = """
    UPDATE messages SET duplicates = duplicates + 1, last_seen_ms = :received_ms WHERE id = :id
"""
_ENDED: Final = """
    INSERT INTO jobs VALUES (:source, :job_id, :id, :status, :order, :via)
    ON CONFLICT DO UPDATE SET end_id = excluded.end_id, end_status = excluded.end_status,
        end_order = excluded.end_order, end_via = excluded.end_via
"""
# The same end under a later id: an older run that arrives afterwards must not replace it.
_SAME_END: Final = """
    UPDATE jobs SET end_order = max(ifnull(end_order, ''), :order)
     WHERE source = :source AND job_id = :job_id
"""
_NOW_KNOWN: Final = """
    UPDATE expectations SET state = 'known', settled_ms = :received_ms, ask_ms = NULL
     WHERE source = :source AND job_id = :job_id AND state <> 'known'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was decided, and whether it leaves something to handle."""

    verdict: Verdict
    due: bool


def receive(db: sqlite3.Connection, message: Message) -> Receipt:
    """Stores a message that is new, and says what it is."""
    parameters = _parameters(message)
    (known,) = rows(db, _KNOWN, parameters)
    end = _end(db, parameters) if message.kind != "opaque" else None
    same_message = known["same_message"] if message.message_id else known["same_bytes"]
    candidate = message.as_end
    verdict = judge(
        message.kind,
        Known(
            same_bytes=known["same_bytes"] is not None,
            same_message=same_message is not None,
            id_taken=bool(known["id_taken"]),
            end=end[0] if end else None,
            end_has_bytes=bool(end and end[1]),
        ),
        candidate,
        latest=message.latest,
    )
    if verdict == "duplicate":
        original: int = same_message or known["same_bytes"] or (end[2] if end else 0)
        if end and end[1] and candidate.order:
            db.execute(_SAME_END, {**parameters, "order": candidate.order})
        return _seen_again(db, original, message.received_ms)
    return _keep(db, message, parameters, verdict, candidate)


def _parameters(message: Message) -> dict[str, Any]:
    return {
        "source": message.source,
        "message_id": message.message_id,
        "sha256": sha256(message.body).digest(),
        "body_bytes": len(message.body),
        "content_type": message.content_type,
        "kind": message.kind,
        "job_id": message.job_id,
        "job_status": message.job_status,
        "sent_ms": message.sent_ms,
        "received_ms": message.received_ms,
        "platform": message.platform,
        "via": message.via,
    }


def _end(db: sqlite3.Connection, parameters: dict[str, Any]) -> tuple[End, bool, int] | None:
    """How the job ended, whether with these bytes, and in which message."""
    found = rows(db, _END, parameters)
    if not found:
        return None
    (row,) = found
    end = End(status=row["end_status"], order=row["end_order"], via=row["end_via"])
    return end, bool(row["has_bytes"]), row["end_id"]


def _seen_again(db: sqlite3.Connection, id: int, received_ms: int) -> Receipt:
    again = {"id": id, "received_ms": received_ms}
    db.execute(_SEEN_AGAIN, again)
    rearmed = db.execute(REARM, again).rowcount
    return Receipt(verdict="duplicate", due=rearmed > 0)


def _keep(
    db: sqlite3.Connection,
    message: Message,
    parameters: dict[str, Any],
    verdict: Verdict,
    end: End,
) -> Receipt:
    due = verdict == "accepted" and message.wanted
    state: State = "pending" if due else "ignored"
    stored = {
        **parameters,
        "verdict": verdict,
        "state": state,
        "due_ms": message.received_ms if due else None,
    }
    id = db.execute(_INSERT, stored).lastrowid
    db.execute("INSERT INTO bodies VALUES (?, ?)", (id, message.body))
    if verdict == "accepted" and message.kind == "terminal":
        db.execute(_ENDED, {**stored, "id": id, "status": end.status, "order": end.order})
        db.execute(_NOW_KNOWN, stored)
    return Receipt(verdict=verdict, due=due)
