"""Which lanes an operation will touch, looked up before the batch begins to write: all of a batch's
lanes are locked at once and in one order. And the other rows that must be held first."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from dispatcher.store import search
from dispatcher.store.postgres import lanes
from dispatcher.store.postgres.tx import PostgresTx
from dispatcher.values import Delivery

Lanes = Callable[[PostgresTx], Iterable[str]]

_OF_CALLBACKS: Final = "SELECT DISTINCT destination FROM callbacks WHERE id = ANY(?::text[])"
ENDED: Final = (
    "SELECT DISTINCT destination FROM callbacks WHERE state = 'sending' AND lease_ms <= ?"
)
EXPIRED: Final = """
SELECT destination FROM callbacks WHERE state = 'pending' AND expires_ms <= ?
ORDER BY expires_ms LIMIT ?
"""
DOOMED: Final = """
SELECT id FROM lanes WHERE doomed IS NOT NULL AND EXISTS (SELECT 1 FROM callbacks
    WHERE destination = lanes.id AND class IN (0, 1, 2) AND state = 'pending') LIMIT 100
"""


def none(_tx: PostgresTx) -> Iterable[str]:
    """Touches no lane."""
    return ()


def of_callbacks(callbacks: Sequence[str]) -> Lanes:
    """Return the lanes of these callbacks."""
    return lambda tx: _first(tx, _OF_CALLBACKS, list(callbacks))


def of_deliveries(deliveries: Sequence[Delivery]) -> Lanes:
    """Return the lanes of these deliveries."""
    return lambda _tx: [delivery.destination for delivery in deliveries]


def of_ended_leases(now_ms: int) -> Lanes:
    """Return the lanes of what is sending with a lease that has ended."""
    return lambda tx: _first(tx, ENDED, tx.at(now_ms))


def of_expiring(now_ms: int, limit: int) -> Lanes:
    """Return the lanes of what waits past its maximum age, and those whose backlog is to end."""
    return lambda tx: [*_first(tx, EXPIRED, tx.at(now_ms), limit), *_first(tx, DOOMED)]


def of_slice(after: str, limit: int) -> Lanes:
    """Return a slice of all lanes."""
    return lambda tx: _first(tx, lanes.SLICE, after, limit)


def of_destination(tenant: str, destination: str) -> Lanes:
    """Return a destination's lane, and its tenant: operators change one thing of a tenant at a
    time."""

    def find(tx: PostgresTx) -> Iterable[str]:
        hold_tenant(tx, tenant)
        return [search.resolve(tenant, destination)]

    return find


def of_tenant(tenant: str) -> Lanes:
    """No lane, but the tenant."""

    def find(tx: PostgresTx) -> Iterable[str]:
        hold_tenant(tx, tenant)
        return ()

    return find


def of_replay(replay: str, callbacks: Sequence[str]) -> Lanes:
    """Return the replay's row, so that its cursor moves once, and the lanes of what it feeds."""

    def find(tx: PostgresTx) -> Iterable[str]:
        tx.all("SELECT 1 FROM replays WHERE id = ? FOR UPDATE", replay)
        return _first(tx, _OF_CALLBACKS, list(callbacks))

    return find


def hold_tenant(tx: PostgresTx, tenant: str) -> None:
    """Until the end of the transaction nobody else rotates or registers for this tenant."""
    tx.all("SELECT 1 FROM tenants WHERE name = ? FOR UPDATE", tenant)


def _first(tx: PostgresTx, sql: str, *params: object) -> list[str]:
    return [row[0] for row in tx.all(sql, *params)]
