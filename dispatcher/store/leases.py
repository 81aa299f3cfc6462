"""What time does to deliveries: leases that are handed back or end, and maximum ages."""

from collections.abc import Sequence
from typing import Final

from dispatcher.states import State
from dispatcher.store.callbacks import finish
from dispatcher.store.lanes import DRAINING
from dispatcher.store.tx import Row, Tx
from dispatcher.values import Delivery

_FOREVER_MS: Final = 2**62


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


def reclaim(tx: Tx, *, now_ms: int) -> int:
    """Make leased work due whose lease has ended."""
    return _reclaim(tx, now_ms, now_ms)


def take_over(tx: Tx, *, now_ms: int) -> int:
    """Make leased work due that a predecessor left: a sole owner knows that nobody works on it;
    else others' leases are theirs, and a predecessor's are ours when they have ended."""
    return _reclaim(tx, now_ms, _FOREVER_MS if tx.sole_owner else now_ms)


def _reclaim(tx: Tx, now_ms: int, until_ms: int) -> int:
    leased = tx.all(
        "SELECT id, tenant, destination, cancelling FROM callbacks WHERE state = 'sending' "
        "AND lease_ms <= ?",
        until_ms,
    )
    _end_leases(tx, leased, now_ms)
    return len(leased)


def _end_leases(tx: Tx, leased: Sequence[Row], now_ms: int) -> None:
    for callback, tenant, destination, cancelling in leased:
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
        tx.changes.lanes.add(destination)


def expire(tx: Tx, *, now_ms: int, limit: int) -> int:
    """Make pending deliveries dead that are past their maximum age, or whose destination is
    disabled."""
    old = tx.all(
        "SELECT id, tenant, destination FROM callbacks WHERE state = 'pending' "
        "AND expires_ms <= ? ORDER BY expires_ms LIMIT ?",
        now_ms,
        limit,
    )
    finish(tx, old, "dead", error="expired", now_ms=now_ms)
    return len(old) + _drain_disabled(tx, now_ms=now_ms, limit=limit - len(old))


def _drain_disabled(tx: Tx, *, now_ms: int, limit: int) -> int:
    ended = 0
    for (lane,) in tx.all(DRAINING):
        backlog = tx.all(
            "SELECT id, tenant, destination FROM callbacks WHERE destination = ? "
            "AND class IN (0, 1, 2) AND state = 'pending' LIMIT ?",
            lane,
            max(0, limit - ended),
        )
        finish(tx, backlog, "dead", error="disabled", now_ms=now_ms)
        ended += len(backlog)
    return ended
