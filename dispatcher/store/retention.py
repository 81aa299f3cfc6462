"""Retention: payloads first, then rows, each after its own period, in slices that a commit does
not notice. Pending and sending callbacks are never touched. Portable."""

from typing import Final

from dispatcher.states import State
from dispatcher.store.requests import Retention
from dispatcher.store.tx import Row, Tx, marks

_PARTS: Final = ("payloads", "attempts", "tags")


def prune(tx: Tx, periods: Retention, *, now_ms: int, limit: int) -> int:
    """One slice of whatever is due; how many callbacks lost something (0: nothing is due).
    Records of ended replays go with the dead callbacks that they may have been about."""
    done = 0
    for state in ("delivered", "cancelled"):
        done += _prune_payloads(tx, state, now_ms - periods.delivered_payload_ms, limit - done)
        done += _prune_rows(tx, state, now_ms - periods.delivered_ms, limit - done)
    tx.run(
        "DELETE FROM replays WHERE state <> 'running' AND finished_ms < ?",
        now_ms - periods.dead_ms,
    )
    return done + _prune_rows(tx, "dead", now_ms - periods.dead_ms, limit - done)


def _prune_payloads(tx: Tx, state: State, before_ms: int, limit: int) -> int:
    gone = [row[0] for row in _due(tx, state, 0, before_ms, limit)]
    if gone:
        tx.run(f"DELETE FROM payloads WHERE callback IN ({marks(gone)})", *gone)
        tx.run(f"UPDATE callbacks SET pruned = 1 WHERE id IN ({marks(gone)})", *gone)
    return len(gone)


def _prune_rows(tx: Tx, state: State, before_ms: int, limit: int) -> int:
    due = [row for pruned in (1, 0) for row in _due(tx, state, pruned, before_ms, limit)][:limit]
    gone = [row[0] for row in due]
    if gone:
        for part in _PARTS:
            tx.run(f"DELETE FROM {part} WHERE callback IN ({marks(gone)})", *gone)
        tx.run(f"DELETE FROM callbacks WHERE id IN ({marks(gone)})", *gone)
        for _, tenant in due:
            tx.changes.moved(tenant, state, None)
    return len(gone)


def _due(tx: Tx, state: State, pruned: int, before_ms: int, limit: int) -> list[Row]:
    """Return what is due; the state stands in the text so that the partial index can serve."""
    return tx.all(
        f"SELECT id, tenant FROM callbacks WHERE state = '{state}' AND pruned = ? "
        "AND finished_ms IS NOT NULL AND finished_ms < ? ORDER BY finished_ms LIMIT ?"
        f"{tx.skip_locked}",
        pruned,
        before_ms,
        max(0, limit),
    )
