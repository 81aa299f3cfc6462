"""Deleting what is done with, in slices of a few milliseconds. What waits to be handled, or
is dead, is never touched, however old it is."""

from typing import Final

from receiver.base.db import Tx

SLICE_ROWS: Final = 200  # some 2 ms of the writer: nobody waits noticeably behind it

# The first line word for word as in the index, or SQLite would not see that it is for this.
_DONE: Final = """
    SELECT id FROM messages
     WHERE (state = 'handled' OR state = 'ignored' OR state = 'skipped')
       AND body_kept = ? AND received_ms < ?
     LIMIT ?{skip_locked}
"""
_SETTLED: Final = """
    SELECT source, job_id FROM expectations
     WHERE (state = 'known' OR state = 'lost') AND settled_ms < ? LIMIT ?{skip_locked}
"""
_FORGET: Final = "DELETE FROM expectations WHERE source = ? AND job_id = ?"


def prune_bodies(tx: Tx, before_ms: int) -> int:
    """Delete a slice of the bodies of what was done with and came before; how many."""
    ids = _slice(tx, before_ms, body_kept=1)
    for id in ids:
        tx.run("DELETE FROM bodies WHERE id = ?", id)
        tx.run("UPDATE messages SET body_kept = 0 WHERE id = ?", id)
    return len(ids)


def prune_messages(tx: Tx, before_ms: int) -> int:
    """Delete a slice of the messages whose bodies are gone already; how many. From then on a
    copy of one would be new."""
    ids = _slice(tx, before_ms, body_kept=0)
    for id in ids:
        tx.run("DELETE FROM messages WHERE id = ?", id)
    return len(ids)


def forget_expectations(tx: Tx, before_ms: int) -> int:
    """Delete a slice of the jobs that are waited for no more since before; how many."""
    rows = tx.all(_SETTLED.format(skip_locked=tx.skip_locked), before_ms, SLICE_ROWS)
    for row in rows:
        tx.run(_FORGET, *row)
    return len(rows)


def _slice(tx: Tx, before_ms: int, *, body_kept: int) -> list[int]:
    sql = _DONE.format(skip_locked=tx.skip_locked)
    return [id for (id,) in tx.all(sql, body_kept, before_ms, SLICE_ROWS)]
