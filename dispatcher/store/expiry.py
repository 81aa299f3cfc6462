"""What ends with time, or is handed back before: leases, maximum ages, retention. In slices that a
commit does not notice."""

from collections.abc import Collection, Sequence
from typing import Final

from dispatcher.states import State
from dispatcher.store import audit, rows
from dispatcher.store.callbacks import finish
from dispatcher.store.clocks import SLACK_MS
from dispatcher.store.jobs import events
from dispatcher.store.lanes import BLOCKED, DRAINING, held_of
from dispatcher.store.requests import Retention
from dispatcher.store.tx import Row, Tx, marks
from dispatcher.values import Delivery

_FOREVER_MS: Final = 2**62
_ENDS_LATE: Final = "SELECT id FROM callbacks WHERE state = 'sending' AND lease_ms > ?"
_END_EARLIER: Final = "UPDATE callbacks SET lease_ms = ? WHERE id = ? AND lease_ms > ?"
# Under the fence of the lease that was looked at. The state is hidden from planners, as in
# `callbacks`.
_END_LEASE: Final = """
UPDATE callbacks SET state = CASE WHEN cancelling = 1 THEN 'cancelled' ELSE 'pending' END,
    due_ms = CASE WHEN cancelling = 0 THEN CAST(? AS bigint) END, lease_ms = NULL,
    finished_ms = CASE WHEN cancelling = 1 THEN CAST(? AS bigint) END, cancelling = 0
WHERE id = ? AND claim = ? AND state || '' = 'sending'
RETURNING tenant, destination, state, job_id
"""
_PARTS: Final = ("payloads", "attempts", "tags")  # of a callback, in tables of their own


def release(tx: Tx, deliveries: Sequence[Delivery], *, now_ms: int) -> None:
    """Hand leased work back, unspent, where the fence is still current."""
    _end_leases(tx, [(delivery.id, delivery.fence) for delivery in deliveries], now_ms)


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
        tx.run(_END_EARLIER, latest_ms, callback, latest_ms)
    return _reclaim(tx, now_ms, ended_ms, held)


def take_over(tx: Tx, *, now_ms: int) -> int:
    """Make leased work due that a predecessor left: a sole owner knows that nobody works on it;
    else others' leases are theirs, and a predecessor's are ours when they have ended."""
    return _reclaim(tx, now_ms, _FOREVER_MS if tx.sole_owner else now_ms)


def _reclaim(
    tx: Tx, now_ms: int, until_ms: int, held: Collection[tuple[str, int]] = frozenset()
) -> int:
    leased = tx.all(
        "SELECT id, claim, destination FROM callbacks WHERE state = 'sending' AND lease_ms <= ?",
        until_ms,
    )
    ended = [row[:2] for row in held_of(tx, leased, 2) if row[:2] not in held]
    return _end_leases(tx, ended, now_ms)


def _end_leases(tx: Tx, leased: Sequence[Row], now_ms: int) -> int:
    """End the leases of these (ids and fences), as far as they have them still; return how many
    that were."""
    ended = 0
    for callback, fence in leased:
        for tenant, lane, state, job in tx.write(_END_LEASE, now_ms, now_ms, callback, fence):
            tx.changes.moved(tenant, "sending", state)
            tx.changes.lanes.add(lane)
            ended += 1
            if state == "cancelled":
                events.over(tx, [(callback, job)], at_ms=now_ms)
    return ended


def expire(tx: Tx, *, now_ms: int, limit: int) -> int:
    """Make pending deliveries dead that are past their maximum age, or whose destination is
    disabled."""
    old = tx.all(
        "SELECT id, destination FROM callbacks WHERE state = 'pending' "
        "AND expires_ms <= ? ORDER BY expires_ms LIMIT ?",
        now_ms,
        limit,
    )
    ids = [row[0] for row in held_of(tx, old, 1)]
    ended = finish(tx, ids, "dead", error="expired", now_ms=now_ms)
    return ended + _drain_disabled(tx, now_ms=now_ms, limit=limit - ended)


def _drain_disabled(tx: Tx, *, now_ms: int, limit: int) -> int:
    ended = 0
    for (lane,) in held_of(tx, tx.all(DRAINING), 0):
        backlog = tx.all(
            "SELECT id FROM callbacks WHERE destination = ? "
            "AND class IN (0, 1, 2) AND state = 'pending' LIMIT ?",
            lane,
            max(0, limit - ended),
        )
        ids = [row[0] for row in backlog]
        ended += finish(tx, ids, "dead", error="disabled", now_ms=now_ms)
    return ended


# --- retention ---


def prune(tx: Tx, periods: Retention, *, now_ms: int, limit: int) -> int:
    """Remove payloads first, then rows, each after its own period; never of what is pending or
    sending. Returns how many callbacks of this slice lost something (0: nothing is due).

    Records of ended replays go with the dead callbacks that they may have been about; entries of
    the audit trail after a time of their own.
    """
    done = 0
    for state in ("delivered", "cancelled"):
        done += _prune_payloads(tx, state, now_ms - periods.delivered_payload_ms, limit - done)
        done += _prune_rows(tx, state, now_ms - periods.delivered_ms, limit - done)
    done += _prune_rows(tx, "dead", now_ms - periods.dead_ms, limit - done)
    done += _prune_replays(tx, now_ms - periods.dead_ms, limit - done)
    return done + audit.prune(tx, now_ms - periods.audit_ms, limit - done)


def _prune_replays(tx: Tx, before_ms: int, limit: int) -> int:
    return tx.run(
        "DELETE FROM replays WHERE id IN (SELECT id FROM replays "
        "WHERE finished_ms IS NOT NULL AND finished_ms < ? ORDER BY finished_ms LIMIT ?)",
        before_ms,
        max(0, limit),
    )


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
    """Return what is due: id, tenant, bytes of its payload that is there, bytes of all else; and
    hold it, so that nobody else changes it until the transaction ends. The state stands in the text
    so that the partial index can serve."""
    return tx.all(
        f"SELECT id, tenant, (1 - pruned) * payload_size, {rows.ROW_BYTES} + extra_bytes "
        f"FROM callbacks WHERE state = '{state}' AND pruned = ? "
        "AND finished_ms IS NOT NULL AND finished_ms < ? ORDER BY finished_ms LIMIT ?"
        f"{tx.skip_locked}",
        pruned,
        before_ms,
        max(0, limit),
    )
