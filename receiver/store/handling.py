"""Whose turn it is, and what came of it: the steps of a message's handling, each one atomic."""

import sqlite3
from dataclasses import dataclass
from typing import Any, Final

from receiver.message import REPLAYABLE, Claimed, State
from receiver.store.commit import rows

CRASHED: Final = "the process ended while the handler ran"

# The end of its job was handled already, in another message: this one would undo it.
_SUPERSEDED: Final = """
    EXISTS (SELECT 1 FROM jobs JOIN messages AS ends ON ends.id = jobs.end_id
      WHERE jobs.source = messages.source AND jobs.job_id = messages.job_id
        AND ends.id <> messages.id AND ends.state = 'handled')
"""
_DUE: Final = """
    SELECT id, source, job_id FROM messages
     WHERE state = 'pending' AND due_ms <= :now_ms
       AND NOT EXISTS (SELECT 1 FROM messages AS others
         WHERE others.state = 'running' AND others.source = messages.source
           AND others.job_id = messages.job_id)
     ORDER BY due_ms, id LIMIT :limit
"""
_NEXT_DUE: Final = """
    SELECT min(due_ms) AS due_ms FROM messages WHERE state = 'pending' AND due_ms > :now_ms
"""
_START: Final = """
    UPDATE messages SET state = 'running', attempts = attempts + 1, due_ms = NULL WHERE id = ?
"""
_CLAIMED: Final = """
    SELECT id, source, message_id, job_id, job_status, platform, content_type,
           attempts AS attempt, received_ms, body
      FROM messages JOIN bodies USING (id) WHERE id = :id
"""
_SETTLE: Final = """
    UPDATE messages SET state = :state, due_ms = :due_ms, handled_ms = :handled_ms
     WHERE id = :id AND state = 'running'
"""
_FAILED: Final = "INSERT OR REPLACE INTO failures VALUES (:id, :error)"
_SKIP_OTHERS: Final = f"""
    UPDATE messages SET state = 'skipped', due_ms = NULL
     WHERE (source, job_id) = (SELECT source, job_id FROM messages WHERE id = :id)
       AND state = 'pending' AND {_SUPERSEDED}
"""  # noqa: S608 - constants of ours
_HAND_BACK: Final = """
    UPDATE messages SET state = 'pending', attempts = attempts - 1, due_ms = :now_ms
     WHERE id = :id AND state = 'running'
"""
_REPLAY: Final = f"""
    UPDATE messages SET state = 'pending', attempts = 0, due_ms = :now_ms
     WHERE id = :id AND state IN ('dead', 'ignored', 'skipped') AND verdict = 'accepted'
       AND body_kept AND NOT {_SUPERSEDED}
"""  # noqa: S608 - constants of ours
REARM: Final = f"""
    UPDATE messages SET state = 'pending', attempts = 0, due_ms = :received_ms
     WHERE id = :id AND state = 'dead' AND NOT {_SUPERSEDED}
"""  # noqa: S608 - constants of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The messages whose turn it is, and when the next one's may come (None: nothing waits)."""

    claimed: list[Claimed]
    next_due_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What one attempt ended as: handled, dead, or pending again from ``due_ms`` on."""

    id: int
    state: State
    now_ms: int
    due_ms: int | None = None
    error: str | None = None


def claim(db: sqlite3.Connection, *, now_ms: int, limit: int) -> Turn:
    """Takes up to ``limit`` due messages, in order of time, never two of one job at once."""
    due = rows(db, _DUE, {"now_ms": now_ms, "limit": limit})
    jobs: set[tuple[str, str]] = set()
    claimed = []
    for row in due:
        if row["job_id"] is not None:
            job = (row["source"], row["job_id"])
            if job in jobs:
                continue
            jobs.add(job)
        db.execute(_START, (row["id"],))
        (found,) = rows(db, _CLAIMED, {"id": row["id"]})
        claimed.append(Claimed(**found))
    (following,) = rows(db, _NEXT_DUE, {"now_ms": now_ms})
    return Turn(claimed=claimed, next_due_ms=following["due_ms"])


def settle(db: sqlite3.Connection, settlement: Settlement) -> None:
    """Writes what came of an attempt. The job's other messages that wait are skipped once its
    end is handled: progress, and an older run's end."""
    handled = settlement.state == "handled"
    db.execute(
        _SETTLE,
        {
            "id": settlement.id,
            "state": settlement.state,
            "due_ms": settlement.due_ms,
            "handled_ms": settlement.now_ms if handled else None,
        },
    )
    if settlement.error is not None:
        db.execute(_FAILED, {"id": settlement.id, "error": settlement.error})
    if handled:
        db.execute("DELETE FROM failures WHERE id = ?", (settlement.id,))
        db.execute(_SKIP_OTHERS, {"id": settlement.id})


def hand_back(db: sqlite3.Connection, id: int, now_ms: int) -> None:
    """An attempt that was cut short by a stop is not spent."""
    db.execute(_HAND_BACK, {"id": id, "now_ms": now_ms})


def recover(db: sqlite3.Connection, *, now_ms: int, attempts_max: int) -> int:
    """What a dead process left running is due again, or dead where its attempts are used up.
    How many that were."""
    left = rows(db, "SELECT id, attempts FROM messages WHERE state = 'running'", {})
    for row in left:
        state: State = "dead" if row["attempts"] >= attempts_max else "pending"
        due_ms = now_ms if state == "pending" else None
        settle(
            db, Settlement(id=row["id"], state=state, now_ms=now_ms, due_ms=due_ms, error=CRASHED)
        )
    return len(left)


def replay(db: sqlite3.Connection, id: int, now_ms: int) -> bool:
    """Whether a message could be made due again: dead, ignored or skipped, let in, its body still
    there, and nothing later of its job handled."""
    return db.execute(_REPLAY, {"id": id, "now_ms": now_ms}).rowcount > 0


def replay_all(db: sqlite3.Connection, state: State, now_ms: int, *, limit: int, above: int) -> Any:
    """Replays up to ``limit`` messages of a state with larger ids: (replayed, last id or None)."""
    if state not in REPLAYABLE:
        raise ValueError(f"nothing that is {state} can be replayed")
    found = rows(
        db,
        "SELECT id FROM messages WHERE state = :state AND id > :above AND verdict = 'accepted'"
        " ORDER BY id LIMIT :limit",
        {"state": state, "above": above, "limit": limit},
    )
    replayed = sum(replay(db, row["id"], now_ms) for row in found)
    return replayed, found[-1]["id"] if found else None
