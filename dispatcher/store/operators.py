"""What operators do to single deliveries, and what time does to them: replay, cancel, hand back,
reclaim, expire. Portable."""

from collections.abc import Sequence
from typing import Final

from dispatcher import policy as policies
from dispatcher.ids import lane_url
from dispatcher.states import FINAL, State
from dispatcher.store import search
from dispatcher.store.errors import Conflict, DestinationDisabled, PayloadGone
from dispatcher.store.tx import Row, Tx
from dispatcher.values import REPLAY, Callback, Delivery

CLEAR_CIRCUIT: Final = """
UPDATE lanes SET failures = 0, failing_since_ms = NULL, openings = 0, held_until_ms = 0,
    held_reason = NULL
WHERE id = ?
"""


def replay(tx: Tx, tenant: str, callback: str, *, now_ms: int) -> Callback:
    """Make one final delivery due now, in its own class, and clear its lane's circuit."""
    shown = search.get(tx, tenant, callback)
    if shown.state not in FINAL:
        raise Conflict(f"{callback} is {shown.state}: only a final delivery can be replayed")
    refuse_disabled(tx, shown.destination)
    again(tx, shown, class_number=None, now_ms=now_ms)
    tx.run(CLEAR_CIRCUIT, shown.destination)
    return search.get(tx, tenant, callback)


def refuse_disabled(tx: Tx, destination: str) -> None:
    """Raise DestinationDisabled."""
    row = tx.one("SELECT disabled_reason FROM destinations WHERE id = ?", destination)
    if row is not None and row[0] is not None:
        raise DestinationDisabled(f"the destination is disabled: {row[0]}")


def again(tx: Tx, shown: Callback, *, class_number: int | None, now_ms: int) -> None:
    """Return a final delivery becomes pending with a fresh budget; same id, same bytes, history
    kept.

    Raises PayloadGone.
    """
    if shown.payload_pruned:
        raise PayloadGone(f"the payload of {shown.id} is past its retention")
    max_age_ms = round(policies.load(shown.policy).max_age * 1000)
    tx.run(
        "UPDATE callbacks SET state = 'pending', class = coalesce(?, priority), due_ms = ?, "
        "expires_ms = ?, tries = 0, cancelling = 0, finished_ms = NULL WHERE id = ?",
        class_number,
        now_ms,
        now_ms + max_age_ms,
        shown.id,
    )
    tx.notes.moved(shown.tenant, shown.state, "pending")
    _revive(tx, shown)


def _revive(tx: Tx, shown: Callback) -> None:
    """Idle lanes are forgotten, and with them destinations that nobody registered."""
    tx.run(
        "INSERT INTO destinations (id, tenant, url, created_ms) VALUES (?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        shown.destination,
        shown.tenant,
        lane_url(shown.url),
        shown.created_ms,
    )
    tx.notes.lanes.add(shown.destination)
    tx.notes.revived_lanes.add(shown.destination)


def replay_in_background(tx: Tx, shown: Callback, *, made_ms: int, now_ms: int) -> bool:
    """One delivery of a filtered replay, in the lowest class; False if it cannot be replayed.

    A circuit that opened before the replay was made is cleared, once: the operator believes the
    destination to be mended, and if it is not, the circuit opens anew.
    """
    try:
        refuse_disabled(tx, shown.destination)
        again(tx, shown, class_number=REPLAY, now_ms=now_ms)
    except (DestinationDisabled, PayloadGone):
        return False
    tx.run(f"{CLEAR_CIRCUIT} AND openings > 0 AND failing_since_ms < ?", shown.destination, made_ms)
    return True


def cancel(tx: Tx, tenant: str, callback: str, *, now_ms: int) -> Callback:
    """Cancel a pending delivery; let the running attempt of a sending one be its last."""
    shown = search.get(tx, tenant, callback)
    if shown.state in FINAL:
        raise Conflict(f"{callback} is {shown.state} already")
    if shown.state == "pending":
        finish(tx, [_finishing(shown)], "cancelled", error=None, now_ms=now_ms)
    else:
        tx.run("UPDATE callbacks SET cancelling = 1 WHERE id = ?", callback)
    return search.get(tx, tenant, callback)


def _finishing(shown: Callback) -> Row:
    return (shown.id, shown.tenant, shown.destination)


def finish(tx: Tx, found: Sequence[Row], state: State, *, error: str | None, now_ms: int) -> None:
    """Pending deliveries (`id, tenant, destination`) end here; `error` None keeps the last one."""
    tx.many(
        "UPDATE callbacks SET state = ?, due_ms = NULL, finished_ms = ?, "
        "last_error = coalesce(?, last_error) WHERE id = ?",
        [(state, now_ms, error, row[0]) for row in found],
    )
    for _, tenant, destination in found:
        tx.notes.moved(tenant, "pending", state)
        tx.notes.lanes.add(destination)


def release(tx: Tx, deliveries: Sequence[Delivery], *, now_ms: int) -> None:
    """Hand leased work back, unspent, where the claim is still ours."""
    for delivery in deliveries:
        found = tx.all(
            "SELECT id, tenant, destination, cancelling FROM callbacks "
            "WHERE id = ? AND claim = ? AND state = 'sending'",
            delivery.id,
            delivery.fence,
        )
        _unlease(tx, found, now_ms)


def reclaim(tx: Tx, *, now_ms: int, everything: bool) -> int:
    """Make leased work due whose lease has ended, or all of it."""
    found = tx.all(
        "SELECT id, tenant, destination, cancelling FROM callbacks WHERE state = 'sending' "
        "AND lease_ms <= ?",
        2**62 if everything else now_ms,
    )
    _unlease(tx, found, now_ms)
    return len(found)


def _unlease(tx: Tx, found: Sequence[Row], now_ms: int) -> None:
    for callback, tenant, destination, cancelling in found:
        state: State = "cancelled" if cancelling else "pending"
        tx.run(
            "UPDATE callbacks SET state = ?, due_ms = ?, lease_ms = NULL, finished_ms = ?, "
            "cancelling = 0 WHERE id = ?",
            state,
            None if cancelling else now_ms,
            now_ms if cancelling else None,
            callback,
        )
        tx.notes.moved(tenant, "sending", state)
        tx.notes.lanes.add(destination)


def expire(tx: Tx, *, now_ms: int, limit: int) -> int:
    """Pending deliveries past their maximum age, or of disabled destinations, become dead."""
    old = tx.all(
        "SELECT id, tenant, destination FROM callbacks WHERE state = 'pending' "
        "AND expires_ms <= ? ORDER BY expires_ms LIMIT ?",
        now_ms,
        limit,
    )
    finish(tx, old, "dead", error="expired", now_ms=now_ms)
    return len(old) + _empty_doomed(tx, now_ms=now_ms, limit=limit - len(old))


def _empty_doomed(tx: Tx, *, now_ms: int, limit: int) -> int:
    emptied = 0
    for (lane,) in tx.all(
        "SELECT id FROM lanes WHERE doomed IS NOT NULL AND EXISTS (SELECT 1 FROM callbacks "
        "WHERE destination = lanes.id AND class IN (0, 1, 2) AND state = 'pending') LIMIT 100"
    ):
        found = tx.all(
            "SELECT id, tenant, destination FROM callbacks WHERE destination = ? "
            "AND class IN (0, 1, 2) AND state = 'pending' LIMIT ?",
            lane,
            max(0, limit - emptied),
        )
        finish(tx, found, "dead", error="disabled", now_ms=now_ms)
        emptied += len(found)
    return emptied
