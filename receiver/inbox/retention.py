"""Letting go of what is done with, in slices of a few milliseconds. What waits to be handled, or
is dead, is never touched, however old it is."""

from typing import Final

from receiver.inbox.tx import Tx, Value

SLICE_ROWS: Final = 200  # some 2 ms of the writer: nobody waits noticeably behind it

# The first line word for word as in the index, or SQLite would not see that it is for this.
_DONE: Final = """
    SELECT id FROM messages
     WHERE (state = 'handled' OR state = 'ignored' OR state = 'skipped')
       AND body_kept = :body_kept AND received_ms < :before_ms
     LIMIT :limit{skip_locked}
"""
_FORGET_EXPECTATIONS: Final = """
    WITH old AS MATERIALIZED (
        SELECT source, job_id FROM expectations
         WHERE state IN ('known', 'lost') AND settled_ms < :before_ms
         LIMIT :limit{skip_locked})
    DELETE FROM expectations WHERE (source, job_id) IN (SELECT source, job_id FROM old)
"""


def prune_bodies(tx: Tx, before_ms: int) -> int:
    """Delete a slice of the bodies of what was done with and came before; how many."""
    found = _slice(tx, before_ms, body_kept=1)
    for id in found:
        tx.run("DELETE FROM bodies WHERE id = :id", {"id": id})
        tx.run("UPDATE messages SET body_kept = 0 WHERE id = :id", {"id": id})
    return len(found)


def prune_messages(tx: Tx, before_ms: int) -> int:
    """Delete a slice of the messages whose bodies are gone already; how many. From then on a
    copy of one would be new."""
    found = _slice(tx, before_ms, body_kept=0)
    for id in found:
        tx.run("DELETE FROM messages WHERE id = :id", {"id": id})
    forget = _FORGET_EXPECTATIONS.format(skip_locked=tx.skip_locked)
    tx.run(forget, {"before_ms": before_ms, "limit": SLICE_ROWS})
    return len(found)


def _slice(tx: Tx, before_ms: int, *, body_kept: int) -> list[int]:
    wanted: dict[str, Value] = {
        "before_ms": before_ms,
        "body_kept": body_kept,
        "limit": SLICE_ROWS,
    }
    return [row["id"] for row in tx.all(_DONE.format(skip_locked=tx.skip_locked), wanted)]
