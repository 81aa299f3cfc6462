"""Lanes: kept exact by recomputing, at the end of each commit, every lane that the commit touched
from its deliveries. Nothing is counted up and down.

Where several processes write, a lane's row is also the lock of its deliveries: whoever changes the
state of a delivery holds its lane. All lanes of a batch are locked at once, in the order of their
ids, and tenants' schedules last: what one commit computes no other can make wrong before it is
visible, and the fixed order of locks leaves no room for a deadlock. So each verb tells beforehand
which lanes it will touch (`of_…`); a database with one writer never asks.
"""

from collections.abc import Callable, Iterable, Sequence, Set
from typing import Final

from dispatcher.health import WINDOW_START
from dispatcher.ids import resolve_destination
from dispatcher.store.requests import Rules
from dispatcher.store.tx import Tx, marks
from dispatcher.values import Delivery

Lanes = Callable[[Tx], Iterable[str]]
_IDLE_MS: Final = 86_400_000

SLICE: Final = "SELECT id FROM lanes WHERE id > ? ORDER BY id LIMIT ?"
LEASE_ENDED: Final = (
    "SELECT DISTINCT destination FROM callbacks "
    "WHERE state = 'sending' AND (lease_ms <= ? OR lease_ms > ?)"
)
EXPIRED: Final = """
SELECT destination FROM callbacks WHERE state = 'pending' AND expires_ms <= ?
ORDER BY expires_ms LIMIT ?
"""
DRAINING: Final = """
SELECT id FROM lanes WHERE doomed IS NOT NULL AND EXISTS (SELECT 1 FROM callbacks
    WHERE destination = lanes.id AND class IN (0, 1, 2) AND state = 'pending') LIMIT 100
"""


def make(tx: Tx, lanes: Iterable[str], rules: Rules, *, now_ms: int) -> None:
    """Make lanes for destinations that have none, with the limits their destinations set."""
    lanes = set(lanes)
    ids = tx.ids(lanes)
    tx.run(tx.statements.MAKE_LANES, rules.concurrency, WINDOW_START, now_ms, ids)
    tx.statements.hold(tx, lanes)
    tx.run(tx.statements.MAKE_SCHEDULES, ids)


def refresh(tx: Tx, lanes: Set[str], served: Set[str] = frozenset(), served_ms: int = 0) -> int:
    """Recompute when these lanes, and the tenants of those that changed, are next ready; tenants
    that were served at `served_ms` too. Returns how many lanes changed."""
    tx.statements.hold(tx, lanes - tx.held)
    changed = tx.write(tx.statements.REFRESH_LANES, tx.ids(lanes)) if lanes else []
    tenants = {row[0] for row in changed}
    tenants |= served
    if tenants:
        tx.statements.refresh_schedules(tx, tenants, served, served_ms)
    return len(changed)


def next_ready_ms(tx: Tx) -> int | None:
    """Return when the next work can be claimed, by this process's clock, in the future or the
    past; None when nothing waits."""
    row = tx.one(tx.statements.NEXT_READY)
    return None if row is None or row[0] is None else tx.here(row[0])


def repair(tx: Tx, after: str, *, limit: int, now_ms: int) -> tuple[int, str | None]:
    """Compare lanes with their deliveries and repair what disagrees; forget idle ones.

    Returns how many disagreed, and the id to go on after (None at the end).
    """
    ids = _first(tx, SLICE, after, limit)
    lanes = set(ids) - tx.statements.unheld(tx, set(ids))
    disagreed = refresh(tx, lanes)
    idle_since_ms = now_ms - _IDLE_MS
    forgotten = tx.write(tx.statements.FORGET_LANES, tx.ids(lanes), idle_since_ms)
    if forgotten:
        tx.run(tx.statements.FORGET_DESTINATIONS, tx.ids(row[0] for row in forgotten))
    return disagreed, ids[-1] if len(ids) == limit else None


def clear_circuit(tx: Tx, lane: str, *, opened_before_ms: int | None = None) -> None:
    """Close a lane's circuit and end its hold, but not one that the peer asked for; with
    `opened_before_ms` only one that began to fail before."""
    bound, values = "", []
    if opened_before_ms is not None:
        bound, values = " AND openings > 0 AND failing_since_ms < ?", [opened_before_ms]
    tx.run(
        "UPDATE lanes SET failures = 0, failing_since_ms = NULL, openings = 0, "
        "held_until_ms = CASE WHEN held_reason = 'circuit' THEN 0 ELSE held_until_ms END, "
        "held_reason = CASE WHEN held_reason = 'circuit' THEN NULL ELSE held_reason END "
        f"WHERE id = ?{bound}",
        lane,
        *values,
    )


def begin_again(tx: Tx, lane: str) -> None:
    """Forget all that a lane has learnt of its peer: it has another one now."""
    tx.run(
        "UPDATE lanes SET failures = 0, failing_since_ms = NULL, openings = 0, held_until_ms = 0, "
        "held_reason = NULL, turned_away = 0, threshold = NULL, "
        '"window" = CASE WHEN concurrency < ? THEN concurrency ELSE ? END WHERE id = ?',
        WINDOW_START,
        WINDOW_START,
        lane,
    )


# --- which lanes an operation will touch, and what else it must hold first ---


def none(_tx: Tx) -> Iterable[str]:
    """Touches no lane."""
    return ()


def of_callbacks(ids: Sequence[str]) -> Lanes:
    """Return the lanes of these callbacks."""
    return lambda tx: _of_callbacks(tx, ids)


def of_deliveries(deliveries: Sequence[Delivery]) -> Lanes:
    """Return the lanes of these deliveries."""
    return lambda _tx: [delivery.destination for delivery in deliveries]


def of_ended_leases(now_ms: int, lease_ms_max: int) -> Lanes:
    """Return the lanes of what is sending with a lease that has ended, or that ends later than one
    given now may."""
    return lambda tx: _first(tx, LEASE_ENDED, tx.at(now_ms), tx.at(now_ms) + lease_ms_max)


def of_expiring(now_ms: int, limit: int) -> Lanes:
    """Return the lanes of what waits past its maximum age, and those whose backlog is to end."""
    return lambda tx: [*_first(tx, EXPIRED, tx.at(now_ms), limit), *_first(tx, DRAINING)]


def of_slice(after: str, limit: int) -> Lanes:
    """Return a slice of all lanes."""
    return lambda tx: _first(tx, SLICE, after, limit)


def of_destination(tenant: str, destination: str) -> Lanes:
    """Return a destination's lane, and hold its tenant: operators change one thing of a tenant at
    a time."""
    return lambda tx: [*_hold_tenant(tx, tenant), resolve_destination(tenant, destination)]


def of_tenant(tenant: str) -> Lanes:
    """Return no lane, but hold the tenant: nobody else rotates or registers for it."""
    return lambda tx: _hold_tenant(tx, tenant)


def of_replay(replay: str, ids: Sequence[str]) -> Lanes:
    """Hold the replay's row, so that its cursor moves once, and return the lanes of what it
    feeds."""

    def find(tx: Tx) -> Iterable[str]:
        tx.all(f"SELECT 1 FROM replays WHERE id = ?{tx.for_update}", replay)
        return _of_callbacks(tx, ids)

    return find


def _of_callbacks(tx: Tx, ids: Sequence[str]) -> list[str]:
    if not ids:
        return []
    return _first(
        tx, f"SELECT DISTINCT destination FROM callbacks WHERE id IN ({marks(ids)})", *ids
    )


def _hold_tenant(tx: Tx, tenant: str) -> Iterable[str]:
    tx.all(f"SELECT 1 FROM tenants WHERE name = ?{tx.for_update}", tenant)
    return ()


def _first(tx: Tx, sql: str, *params: object) -> list[str]:
    return [row[0] for row in tx.all(sql, *params)]
