"""Claim: lease due work, found through the lanes and never by scanning deliveries (D5)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher import fairness
from dispatcher import policy as policies
from dispatcher.store.requests import ClaimRequest, Rules
from dispatcher.store.rows import read_headers
from dispatcher.store.sqlite.tx import ids
from dispatcher.store.tx import Row, Tx
from dispatcher.values import HIGH, NORMAL, REPLAY, Delivery

_CLASS_COLUMNS: Final = {HIGH: "ready_high", NORMAL: "ready_normal", REPLAY: "ready_replay"}
# Tenants that already hold their share stand first in turn until a slot of theirs is free: four
# of them can hold a quarter each, so this many more are looked at.
_CAPPED_MAX: Final = 4
# Of each tenant more lanes are looked at than its part of the slots, in case others have fewer;
# where that is not enough, the next claim follows at once.
_LANES_EACH: Final = 8

_LANES: Final = """
SELECT l.id, l.tenant, l.window - (SELECT count(*) FROM callbacks
           WHERE destination = l.id AND state = 'sending'), l.rate, l.paced_ms
FROM json_each(?1) t
JOIN lanes l ON l.id IN (SELECT id FROM lanes WHERE tenant = t.value AND {ready} <= ?2
                         ORDER BY {ready} LIMIT ?3)
ORDER BY t.key, l.{ready}
"""

# Two tenants of each class are enough to know, however many there are.
_WAITING_TENANTS: Final = "SELECT count(*) FROM ({})".format(
    " UNION ".join(
        f"SELECT * FROM (SELECT tenant FROM turns WHERE {ready} <= ?1 LIMIT 2)"
        for ready in _CLASS_COLUMNS.values()
    )
)

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


@dataclass(slots=True)
class _Room:
    """What is left to give away while one claim goes through the classes."""

    slots: int
    slots_high: int
    bytes_free: int
    tenant_slots: int
    busy: Counter[str]  # per tenant
    taken: Counter[str]  # per lane

    def take(self, row: Row, tenant: str) -> None:
        self.slots -= 1
        self.bytes_free -= row[2]
        self.busy[tenant] += 1
        self.taken[row[1]] += 1


def claim(tx: Tx, ask: ClaimRequest, rules: Rules) -> list[Delivery]:
    """Lease due work: high first but never all slots, then normal, then replays."""
    room = _room(tx, ask)
    chosen: list[tuple[str, str | None]] = []
    for number in (HIGH, NORMAL, REPLAY):
        slots = min(room.slots, room.slots_high) if number == HIGH else room.slots
        if slots > 0 and room.bytes_free > 0:
            chosen += ((row[0], row[3]) for row in _pick(tx, number, slots, room, ask.now_ms))
    return _lease(tx, chosen, ask.now_ms, rules)


def _room(tx: Tx, ask: ClaimRequest) -> _Room:
    waiting = tx.one(_WAITING_TENANTS, ask.now_ms)
    contended = waiting is not None and waiting[0] > 1
    return _Room(
        slots=ask.slots,
        slots_high=fairness.high_slots(ask.slots, ask.slots_max, ask.busy_high),
        bytes_free=ask.bytes_free if ask.busy else max(ask.bytes_free, 1),
        tenant_slots=fairness.tenant_slots(ask.slots_max, contended=contended),
        busy=Counter(ask.busy),
        taken=Counter(),
    )


def _pick(tx: Tx, number: int, slots: int, room: _Room, now_ms: int) -> list[Row]:
    """Due deliveries of one class, as many as their tenants and lanes may have."""
    ready = _CLASS_COLUMNS[number]
    tenants = [
        row[0]
        for row in tx.all(
            f"SELECT tenant FROM turns WHERE {ready} <= ? ORDER BY {ready} LIMIT ?",
            now_ms,
            slots + _CAPPED_MAX,
        )
    ]
    left = {tenant: room.tenant_slots - room.busy[tenant] for tenant in tenants}
    free = [tenant for tenant in tenants if left[tenant] > 0]
    if not free:
        return []
    each = min(slots, max(_LANES_EACH, 4 * slots // len(free)))
    lanes = tx.all(_LANES.format(ready=ready), ids(free), now_ms, each)
    given = fairness.share([_ready_lane(row, room, now_ms) for row in lanes], slots, left)
    if not given:
        return []
    tenant_of = {row[0]: row[1] for row in lanes}
    picked = []
    for row in _due(tx, given, [row[0] for row in lanes], number, now_ms):
        if room.bytes_free <= 0:
            break
        room.take(row, tenant_of[row[1]])
        picked.append(row)
    tx.notes.lanes |= given.keys()
    _serve(tx, lanes, Counter(row[1] for row in picked), now_ms)
    return picked


def _ready_lane(row: Row, room: _Room, now_ms: int) -> fairness.ReadyLane:
    free = row[2] - room.taken[row[0]]
    paced = fairness.paced_room(row[3], row[4], now_ms)
    return fairness.ReadyLane(
        id=row[0], tenant=row[1], room=free if paced is None else min(free, paced)
    )


def _due(
    tx: Tx, given: Mapping[str, int], turns: Sequence[str], number: int, now_ms: int
) -> list[Row]:
    """Return what is due in these lanes, in the order of their turns."""
    left = dict(given)
    found = []
    for row in tx.all(_DUE, ids(given), number, now_ms, max(given.values())):
        if left[row[1]] > 0:
            left[row[1]] -= 1
            found.append(row)
    turn = {lane: n for n, lane in enumerate(turns)}
    return sorted(found, key=lambda row: turn[row[1]])


def _serve(tx: Tx, lanes: Sequence[Row], taken: Mapping[str, int], now_ms: int) -> None:
    """Lanes and tenants that had their turn go behind all others that are ready."""
    served, tenants = [], set()
    for lane, tenant, _free, rate, paced_ms in lanes:
        if not taken[lane]:
            continue
        paced = (
            paced_ms if rate is None else fairness.paced_after(rate, paced_ms, taken[lane], now_ms)
        )
        served.append((now_ms, paced, lane))
        tenants.add(tenant)
    tx.notes.served_tenants |= tenants
    tx.many("UPDATE lanes SET served_ms = ?, paced_ms = ? WHERE id = ?", served)
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
        fence=row[11],
        attempt=row[12] + 1,
        tries=row[13],
        created_ms=row[14],
        expires_ms=row[15],
        high=row[16] == HIGH,
    )
