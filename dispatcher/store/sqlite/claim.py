"""Claim: lease due work, found through the lanes and never by scanning deliveries (D5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dispatcher import policy as policies
from dispatcher import sharing
from dispatcher.store.base import Claim
from dispatcher.store.rows import read_headers
from dispatcher.store.sqlite.rules import Rules
from dispatcher.store.sqlite.tx import ids
from dispatcher.store.tx import Row, Tx
from dispatcher.values import HIGH, NORMAL, REPLAY, Delivery

_CLASS_COLUMNS: Final = {HIGH: "ready_high", NORMAL: "ready_normal", REPLAY: "ready_replay"}
# Tenants that already hold their share stand first in turn until a slot of theirs is free: four
# of them can hold a quarter each, so this many more are looked at.
_CAPPED_MAX: Final = 4

_LANES: Final = """
SELECT l.id, l.tenant, l.window - (SELECT count(*) FROM callbacks
           WHERE destination = l.id AND state = 'sending'), l.rate, l.paced_ms
FROM json_each(?1) t
JOIN lanes l ON l.id IN (SELECT id FROM lanes WHERE tenant = t.value AND {ready} <= ?2
                         ORDER BY {ready} LIMIT ?3)
ORDER BY l.{ready}
"""

_DUE: Final = """
SELECT c.id, c.destination, c.payload_size, coalesce(c.policy, d.policy)
FROM json_each(?1) j
JOIN callbacks c ON c.id IN (
    SELECT id FROM callbacks WHERE destination = j.value AND class = ?2 AND state = 'pending'
    AND due_ms <= ?3 ORDER BY due_ms LIMIT ?4)
JOIN destinations d ON d.id = c.destination
ORDER BY c.destination, c.due_ms
"""

_LEASED: Final = """
SELECT c.id, c.tenant, c.job_id, c.destination, c.url, d.url, p.body, p.content_type, d.headers,
       p.headers, coalesce(c.policy, d.policy), c.claim, c.attempts, c.tries, c.created_ms,
       c.expires_ms, c.class
FROM json_each(?) j
JOIN callbacks c ON c.id = j.value
JOIN destinations d ON d.id = c.destination
JOIN payloads p ON p.callback = c.id
"""


def claim(tx: Tx, ask: Claim, rules: Rules) -> list[Delivery]:
    """Lease due work: high first but never all slots, then normal, then replays."""
    chosen: list[tuple[str, str | None]] = []
    busy = dict(ask.busy)
    bytes_free = ask.bytes_free if busy else max(ask.bytes_free, 1)
    for number in (HIGH, NORMAL, REPLAY):
        slots = ask.slots - len(chosen)
        if number == HIGH:
            slots = sharing.high_slots(slots, ask.slots_max, ask.busy_high)
        if slots <= 0 or bytes_free <= 0:
            continue
        for row in _pick(tx, number, slots, busy, ask):
            if bytes_free <= 0:
                break
            chosen.append((row[0], row[3]))
            bytes_free -= row[2]
    return _lease(tx, chosen, ask.now_ms, rules)


def _pick(tx: Tx, number: int, slots: int, busy: dict[str, int], ask: Claim) -> list[Row]:
    """Due deliveries of one class, as many as their tenants and lanes may have."""
    ready, now_ms = _CLASS_COLUMNS[number], ask.now_ms
    tenants = [
        row[0]
        for row in tx.all(
            f"SELECT tenant FROM turns WHERE {ready} <= ? ORDER BY {ready} LIMIT ?",
            now_ms,
            slots + _CAPPED_MAX,
        )
    ]
    if not tenants:
        return []
    most = sharing.tenant_slots(ask.slots_max, contended=len(tenants) > 1)
    room = {tenant: most - busy.get(tenant, 0) for tenant in tenants}
    free = ids(tenant for tenant in tenants if room[tenant] > 0)
    lanes = tx.all(_LANES.format(ready=ready), free, now_ms, slots)
    given = sharing.share([_ready_lane(row, now_ms) for row in lanes], slots, room)
    if not given:
        return []
    picked = _due(tx, given, number, now_ms)
    _serve(tx, lanes, given, picked, now_ms)
    tenant_of = {row[0]: row[1] for row in lanes}
    for row in picked:
        tenant = tenant_of[row[1]]
        busy[tenant] = busy.get(tenant, 0) + 1
    return picked


def _ready_lane(row: Row, now_ms: int) -> sharing.ReadyLane:
    paced = sharing.paced_room(row[3], row[4], now_ms)
    room = row[2] if paced is None else min(row[2], paced)
    return sharing.ReadyLane(id=row[0], tenant=row[1], room=room)


def _due(tx: Tx, given: Mapping[str, int], number: int, now_ms: int) -> list[Row]:
    left = dict(given)
    picked = []
    for row in tx.all(_DUE, ids(given), number, now_ms, max(given.values())):
        if left[row[1]] > 0:
            left[row[1]] -= 1
            picked.append(row)
    return picked


def _serve(
    tx: Tx, lanes: Sequence[Row], given: Mapping[str, int], picked: Sequence[Row], now_ms: int
) -> None:
    """Lanes and tenants that had their turn go behind all others that are ready."""
    taken: dict[str, int] = dict.fromkeys(given, 0)
    for row in picked:
        taken[row[1]] += 1
    served = []
    for lane, tenant, _room, rate, paced_ms in lanes:
        if lane not in given:
            continue
        paced = (
            paced_ms if rate is None else sharing.paced_after(rate, paced_ms, taken[lane], now_ms)
        )
        served.append((now_ms, paced, lane))
        tx.notes.lanes.add(lane)
        tx.notes.served_tenants.add(tenant)
    tx.many("UPDATE lanes SET served_ms = ?, paced_ms = ? WHERE id = ?", served)
    tenants = {row[1] for row in lanes if row[0] in given}
    tx.many("UPDATE turns SET served_ms = ? WHERE tenant = ?", [(now_ms, t) for t in tenants])


def _lease(
    tx: Tx, chosen: Sequence[tuple[str, str | None]], now_ms: int, rules: Rules
) -> list[Delivery]:
    if not chosen:
        return []
    leases = [
        (now_ms + round(policies.load(text).timeout * 1000) + rules.lease_margin_ms, callback)
        for callback, text in chosen
    ]
    tx.many(
        "UPDATE callbacks SET state = 'sending', due_ms = NULL, claim = claim + 1, lease_ms = ? "
        "WHERE id = ?",
        leases,
    )
    deliveries = [_leased(row) for row in tx.all(_LEASED, ids(c for c, _ in chosen))]
    for delivery in deliveries:
        tx.notes.moved(delivery.tenant, "pending", "sending")
    return deliveries


def _leased(row: Row) -> Delivery:
    return Delivery(
        id=row[0],
        tenant=row[1],
        job_id=row[2],
        destination=row[3],
        registered=row[4] is None,
        url=row[4] or row[5],
        body=row[6],
        content_type=row[7],
        headers=read_headers(row[8]) + read_headers(row[9]),
        policy=policies.load(row[10]),
        claim=row[11],
        attempt=row[12] + 1,
        tries=row[13],
        created_ms=row[14],
        expires_ms=row[15],
        high=row[16] == HIGH,
    )
