"""Whose turn it is, on SQLite, where one process has all the turns."""

from typing import Final

from receiver.inbox.handling import NEXT_DUE, Turn, abandoned, settle
from receiver.inbox.tx import Tx
from receiver.message import Claimed

_DUE: Final = """
    SELECT id, source, job_id FROM messages
     WHERE state = 'pending' AND due_ms <= :now_ms
       AND NOT EXISTS (SELECT 1 FROM messages AS others
         WHERE others.state = 'running' AND others.source = messages.source
           AND others.job_id = messages.job_id)
     ORDER BY due_ms, id LIMIT :limit
"""
_START: Final = """
    UPDATE messages SET state = 'running', attempts = attempts + 1, fence = fence + 1,
           due_ms = NULL
     WHERE id = :id
"""
_CLAIMED: Final = """
    SELECT id, source, message_id, job_id, job_status, platform, content_type,
           attempts AS attempt, fence, received_ms, body
      FROM messages JOIN bodies USING (id) WHERE id = :id
"""


def claim(tx: Tx, *, now_ms: int, limit: int) -> Turn:
    """Take up to `limit` due messages, in order of time, never two of one job at once."""
    jobs: set[tuple[str, str]] = set()
    claimed = []
    for row in tx.all(_DUE, {"now_ms": now_ms, "limit": limit}):
        if row["job_id"] is not None:
            job = (row["source"], row["job_id"])
            if job in jobs:
                continue
            jobs.add(job)
        tx.run(_START, {"id": row["id"]})
        (found,) = tx.all(_CLAIMED, {"id": row["id"]})
        claimed.append(Claimed(**found))
    (following,) = tx.all(NEXT_DUE, {"now_ms": now_ms})
    return Turn(claimed=claimed, next_due_ms=following["due_ms"])


def recover(tx: Tx, *, now_ms: int, attempts_max: int) -> int:
    """Return what this file's last process left running is due again, or dead; how many that
    were."""
    left = tx.all("SELECT id, fence, attempts FROM messages WHERE state = 'running'", {})
    for row in left:
        settle(tx, abandoned(row, now_ms=now_ms, attempts_max=attempts_max))
    return len(left)
