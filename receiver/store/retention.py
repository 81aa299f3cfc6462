"""Letting go of what is done with, in slices of a few milliseconds. What waits to be handled, or
is dead, is never touched, however old it is."""

import sqlite3
from typing import Final

from receiver.store.commit import rows

SLICE_ROWS: Final = 200  # some 2 ms of the writer: nobody waits noticeably behind it
SLICE_PAGES: Final = 256  # 1 MiB given back to the file system at a time

_DONE: Final = """
    SELECT id FROM messages
     WHERE state IN ('handled', 'ignored', 'skipped') AND body_kept = :body_kept
       AND received_ms < :before_ms
     LIMIT :limit
"""
_FORGET_JOB: Final = """
    DELETE FROM jobs WHERE end_id = :id
       AND (source, job_id) = (SELECT source, job_id FROM messages WHERE id = :id)
"""
_FORGET_EXPECTATIONS: Final = """
    DELETE FROM expectations WHERE (source, job_id) IN (
        SELECT source, job_id FROM expectations
         WHERE state IN ('known', 'lost') AND settled_ms < :before_ms LIMIT :limit)
"""


def prune_bodies(db: sqlite3.Connection, before_ms: int) -> int:
    """Deletes a slice of the bodies of what was done with and came before; how many."""
    found = _slice(db, before_ms, body_kept=1)
    for id in found:
        db.execute("DELETE FROM bodies WHERE id = ?", (id,))
        db.execute("UPDATE messages SET body_kept = 0 WHERE id = ?", (id,))
    return len(found)


def prune_messages(db: sqlite3.Connection, before_ms: int) -> int:
    """Deletes a slice of the messages whose bodies are gone already; how many. From then on a
    copy of one would be new."""
    found = _slice(db, before_ms, body_kept=0)
    for id in found:
        db.execute(_FORGET_JOB, {"id": id})
        db.execute("DELETE FROM messages WHERE id = ?", (id,))
    db.execute(_FORGET_EXPECTATIONS, {"before_ms": before_ms, "limit": SLICE_ROWS})
    return len(found)


def give_back(db: sqlite3.Connection) -> None:
    """Returns some free pages of the file to the file system."""
    db.execute(f"PRAGMA incremental_vacuum({SLICE_PAGES})").fetchall()


def _slice(db: sqlite3.Connection, before_ms: int, *, body_kept: int) -> list[int]:
    wanted = {"before_ms": before_ms, "body_kept": body_kept, "limit": SLICE_ROWS}
    return [row["id"] for row in rows(db, _DONE, wanted)]
