"""What ends with time, or is handed back before: leases, maximum ages, retention. In slices that a
commit does not notice."""

from collections.abc import Collection, Sequence
from typing import Final

from dispatcher.states import State
from dispatcher.store import rows
from dispatcher.store.callbacks import finish
from dispatcher.store.clocks import SLACK_MS
from dispatcher.store.lanes import BLOCKED, DRAINING, held_of
from dispatcher.store.requests import Retention
from dispatcher.store.tx import Row, Tx, marks
from dispatcher.values import Delivery

_FOREVER_MS: Final = 2**62
_ENDS_LATE: Final = "SELECT id FROM callbacks WHERE state = 'sending' AND lease_ms > ?"
_PARTS: Final = ("payloads", "attempts", "tags")  # of a callback, in tables of their own


def release(tx: Tx, deliveries: Sequence[Delivery], *, now_ms: int) -> None:
    """Hand leased work back, unspent, where the fence is still current."""
    for delivery in deliveries:
        leased = tx.all(
            "SELECT id, tenant, destination, cancelling FROM callbacks "
            "WHERE id = ? AND claim = ? AND state = 'sending'",
            delivery.id,
            delivery.fence,
        )
        _end_leases(tx, leased, now_ms)


def reclaim(
    tx: Tx, *, now_ms: int, ended_ms: int, lease_ms_max: int, held: Collection[tuple[str, int]]
) -> int:
    """Make leased work due whose lease ended by `ended_ms`, but what this process holds, as ids and
    fences. One given by a clock that ran ahead ends as late as one given now may. Lanes that wait
    for their server are looked at, in case another process freed a slot of it meanwhile."""
    if not tx.sole_owner:
        tx.changes.lanes.update(row[0] for row in held_of(tx, tx.all(BLOCKED), 0))
    latest_ms = now_ms + lease_ms_max
    for (callback,) in tx.all(_ENDS_LATE, latest_ms + SLACK_MS):
        tx.run("UPDATE callbacks SET lease_ms = ? WHERE id = ?", latest_ms, callback)
    return _reclaim(tx, now_ms, ended_ms, held)


def take_over(tx: Tx, *, now_ms: int) -> int:
    """Make leased work due that a predecessor left: a sole owner knows that nobody works on it;
    else others' leases are theirs, and a predecessor's are ours when they have ended."""
    return _reclaim(tx, now_ms, _FOREVER_MS if tx.sole_owner else now_ms)


def _reclaim(
    tx: Tx, now_ms: int, until_ms: int, held: Collection[tuple[str, int]] = frozenset()
) -> int:
    leased = tx.all(
        "SELECT id, tenant, destination, cancelling, claim FROM callbacks "
        "WHERE state = 'sending' AND lease_ms <= ?",
        until_ms,
    )
    leased = [row[:4] for row in held_of(tx, leased, 2) if (row[0], row[4]) not in held]
    _end_leases(tx, leased, now_ms)
    return len(leased)


def _end_leases(tx: Tx, leased: Sequence[Row], now_ms: int) -> None:
    for callback, tenant, lane, cancelling in leased:
        state: State = "cancelled" if cancelling else "pending"
        tx.run(
            "UPDATE callbacks SET state = ?, due_ms = ?, lease_ms = NULL, finished_ms = ?, "
            "cancelling = 0 WHERE id = ?",
            state,
            None if cancelling else now_ms,
            now_ms if cancelling else None,
            callback,
        )
        tx.changes.moved(tenant, "sending", state)
        tx.changes.lanes.add(lane)


def expire(tx: Tx, *, now_ms: int, limit: int) -> int:
    """Make pending deliveries dead that are past their maximum age, or whose destination is
    disabled."""
    old = tx.all(
        "SELECT id, tenant, destination FROM callbacks WHERE state = 'pending' "
        "AND expires_ms <= ? ORDER BY expires_ms LIMIT ?",
        now_ms,
        limit,
    )
    old = held_of(tx, old, 2)
    finish(tx, old, "dead", error="expired", now_ms=now_ms)
    return len(old) + _drain_disabled(tx, now_ms=now_ms, limit=limit - len(old))


def _drain_disabled(tx: Tx, *, now_ms: int, limit: int) -> int:
    ended = 0
    for (lane,) in held_of(tx, tx.all(DRAINING), 0):
        backlog = tx.all(
            "SELECT id, tenant, destination FROM callbacks WHERE destination = ? "
            "AND class IN (0, 1, 2) AND state = 'pending' LIMIT ?",
            lane,
            max(0, limit - ended),
        )
        finish(tx, backlog, "dead", error="disabled", now_ms=now_ms)
        ended += len(backlog)
    return ended


# --- retention ---


def prune(tx: Tx, periods: Retention, *, now_ms: int, limit: int) -> int:
    """Remove payloads first, then rows, each after its own period; never of what is pending or
    sending. Returns how many callbacks of this slice lost something (0: nothing is due).

    Records of ended replays go with the dead callbacks that they may have been about.
    """
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
    due = _due(tx, state, 0, before_ms, limit)
    gone = [row[0] for row in due]
    if gone:
        tx.run(f"DELETE FROM payloads WHERE callback IN ({marks(gone)})", *gone)
        tx.run(f"UPDATE callbacks SET pruned = 1 WHERE id IN ({marks(gone)})", *gone)
        for _, tenant, size, _ in due:
            tx.changes.bytes[tenant] -= size
    return len(gone)


def _prune_rows(tx: Tx, state: State, before_ms: int, limit: int) -> int:
    due = [row for pruned in (1, 0) for row in _due(tx, state, pruned, before_ms, limit)][:limit]
    gone = [row[0] for row in due]
    if gone:
        for part in _PARTS:
            tx.run(f"DELETE FROM {part} WHERE callback IN ({marks(gone)})", *gone)
        tx.run(f"DELETE FROM callbacks WHERE id IN ({marks(gone)})", *gone)
        for _, tenant, payload_bytes, other_bytes in due:
            tx.changes.moved(tenant, state, None)
            tx.changes.bytes[tenant] -= payload_bytes + other_bytes
    return len(gone)


def _due(tx: Tx, state: State, pruned: int, before_ms: int, limit: int) -> list[Row]:
    """Return what is due: id, tenant, bytes of its payload that is there, bytes of all else. The
    state stands in the text so that the partial index can serve."""
    return tx.all(
        f"SELECT id, tenant, (1 - pruned) * payload_size, {rows.ROW_BYTES} + extra_bytes "
        f"FROM callbacks WHERE state = '{state}' AND pruned = ? "
        "AND finished_ms IS NOT NULL AND finished_ms < ? ORDER BY finished_ms LIMIT ?"
        f"{tx.skip_locked}",
        pruned,
        before_ms,
        max(0, limit),
    )
