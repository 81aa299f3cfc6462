"""Deleting what is done with, in slices of a few milliseconds. What waits to be handled is never
touched, however old it is; what is dead, after a period of its own. A process deletes of its own
sources, and of nobody's: how long another one keeps its messages is for that one to say."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from receiver.base.db import Tx

SLICE_ROWS: Final = 200
"""At most; some 2 ms of the writer on SQLite."""
STEP_MS: Final = 86_400_000  # what the clock may leap at once, and be believed
STEP_EVERY_S: Final = 3_300.0

# The first line word for word as in the index, or SQLite would not see that it is for this.
_DONE: Final = """
    SELECT id, source, received_ms FROM messages
     WHERE (state = 'handled' OR state = 'ignored' OR state = 'skipped')
       AND body_kept = ? AND received_ms >= ? AND received_ms < ?
     ORDER BY received_ms LIMIT ?{skip_locked}
"""
_DROP_BODIES: Final = "DELETE FROM bodies WHERE id"
_KEEP_NO_BODIES: Final = "UPDATE messages SET body_kept = 0 WHERE id"
_DROP_MESSAGES: Final = "DELETE FROM messages WHERE id"
_DEAD: Final = """
    SELECT id FROM messages
     WHERE state = 'dead' AND received_ms < ? AND last_seen_ms < ?{not_foreign}
     LIMIT ?{skip_locked}
"""
_SETTLED: Final = """
    SELECT source, job_id FROM expectations
     WHERE (state = 'known' OR state = 'lost') AND settled_ms < ?{not_foreign}
     LIMIT ?{skip_locked}
"""
_FORGET: Final = "DELETE FROM expectations WHERE source = ? AND job_id = ?"
_ENDLESS: Final = """
    SELECT source, job_id FROM expectations
     WHERE state = 'expected' AND taken = 1 AND created_ms < ?{not_foreign}
     LIMIT ?{skip_locked}
"""
_LOSE: Final = """
    UPDATE expectations SET state = 'lost', settled_ms = ?, ask_ms = NULL, last_error = ?
     WHERE source = ? AND job_id = ?
"""
ENDLESS: Final = "its status URL has named no end for as long as dead messages are kept"
_TRUSTED: Final = "SELECT trusted_ms FROM sweeps WHERE id = 1"
_TRUST: Final = """
    INSERT INTO sweeps (id, trusted_ms) VALUES (1, ?)
    ON CONFLICT (id) DO UPDATE SET trusted_ms = excluded.trusted_ms
"""


class Trust:
    """How far the clock is believed: a leap of more than a day, as by a clock that is wrong or a
    machine that was off, counts day by day, one an hour, whoever sweeps. So what a wrong clock
    would delete stays until somebody has had the time to set it right."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._seen: tuple[int, float] | None = None

    def follow(self, tx: Tx, now_ms: int) -> int:
        """Return the time to sweep by, which follows the clock."""
        row = tx.one(_TRUSTED)
        trusted_ms = now_ms if row is None else self._step(int(row[0]), now_ms)
        if row is None or row[0] != trusted_ms:
            tx.run(_TRUST, trusted_ms)
        return trusted_ms

    def _step(self, stored_ms: int, now_ms: int) -> int:
        if now_ms - stored_ms <= STEP_MS:
            return now_ms
        at_s = self._monotonic()
        if self._seen is None or self._seen[0] != stored_ms:
            self._seen = (stored_ms, at_s)
        return stored_ms + STEP_MS * (at_s - self._seen[1] >= STEP_EVERY_S)


def prune_bodies(
    tx: Tx, before_ms: int, foreign: Sequence[str], after_ms: int, *, limit: int
) -> tuple[int, int | None]:
    """Delete a slice of the bodies of what was done with and came before; how many, and from when
    to go on (None: that was all)."""
    ids, next_ms = _slice(tx, before_ms, foreign, after_ms, body_kept=1, limit=limit)
    _run_for(tx, _DROP_BODIES, ids)
    _run_for(tx, _KEEP_NO_BODIES, ids)
    return len(ids), next_ms


def prune_messages(
    tx: Tx, before_ms: int, foreign: Sequence[str], after_ms: int, *, limit: int
) -> tuple[int, int | None]:
    """Delete a slice of the messages whose bodies are gone already; how many, and from when to go
    on. From then on a copy of one would be new."""
    ids, next_ms = _slice(tx, before_ms, foreign, after_ms, body_kept=0, limit=limit)
    _run_for(tx, _DROP_MESSAGES, ids)
    return len(ids), next_ms


def prune_dead(tx: Tx, before_ms: int, foreign: Sequence[str], *, limit: int) -> int:
    """Delete a slice of the messages that are dead and came, the last time, before; how many."""
    sql = _DEAD.format(not_foreign=_except(foreign), skip_locked=tx.skip_locked)
    ids = [id for (id,) in tx.all(sql, before_ms, before_ms, *foreign, limit)]
    _run_for(tx, _DROP_MESSAGES, ids)
    return len(ids)


def forget_expectations(tx: Tx, before_ms: int, foreign: Sequence[str], *, limit: int) -> int:
    """Delete a slice of the jobs that are waited for no more since before; how many."""
    sql = _SETTLED.format(not_foreign=_except(foreign), skip_locked=tx.skip_locked)
    rows = tx.all(sql, before_ms, *foreign, limit)
    tx.many(_FORGET, rows)
    return len(rows)


def lose_endless(tx: Tx, before_ms: int, foreign: Sequence[str], now_ms: int, *, limit: int) -> int:
    """Give up a slice of the jobs that were asked for since before and never ended; how many."""
    sql = _ENDLESS.format(not_foreign=_except(foreign), skip_locked=tx.skip_locked)
    rows = tx.all(sql, before_ms, *foreign, limit)
    tx.many(_LOSE, [(now_ms, ENDLESS, *row) for row in rows])
    return len(rows)


def _run_for(tx: Tx, sql: str, ids: Sequence[int]) -> None:
    """Run a statement for all of these at once: one for each would be 200 round trips."""
    if ids:
        tx.run(f"{sql} IN ({', '.join('?' * len(ids))})", *ids)


def _except(sources: Sequence[str]) -> str:
    return f" AND source NOT IN ({', '.join('?' * len(sources))})" if sources else ""


def _slice(
    tx: Tx, before_ms: int, foreign: Sequence[str], after_ms: int, *, body_kept: int, limit: int
) -> tuple[list[int], int | None]:
    sql = _DONE.format(skip_locked=tx.skip_locked)
    rows = tx.all(sql, body_kept, after_ms, before_ms, limit)
    ids = [id for id, source, _ in rows if source not in foreign]
    if len(rows) < limit:
        return ids, None
    last_ms = rows[-1][2]
    return ids, last_ms + 1 if last_ms == after_ms and not ids else last_ms
