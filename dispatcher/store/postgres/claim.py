"""Claim: lease due work, found through the lanes and never by scanning deliveries (D5)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher import fairness
from dispatcher import policy as policies
from dispatcher.store.postgres.tx import PostgresTx
from dispatcher.store.requests import ClaimRequest, Rules
from dispatcher.store.rows import read_headers
from dispatcher.store.tx import Row
from dispatcher.values import HIGH, NORMAL, REPLAY, Delivery

CLASS_COLUMNS: Final = {HIGH: "ready_high", NORMAL: "ready_normal", REPLAY: "ready_replay"}
# Tenants that already hold their share stand first in turn until a slot of theirs is free: four
# of them can hold a quarter each, so this many more are looked at.
_CAPPED_MAX: Final = 4
# Of each tenant more lanes are looked at than its part of the slots, in case others have fewer;
# where that is not enough, the next claim follows at once.
_LANES_EACH: Final = 8

# Differs: lanes that another process holds are left to it. They are locked by one statement and
# read by the next: what is in flight is counted as the last holder left it.
LOCK_LANES: Final = """
SELECT l.id
FROM unnest(?::text[]) WITH ORDINALITY t(tenant, place)
CROSS JOIN LATERAL (SELECT id, {ready} AS ready FROM lanes
                    WHERE tenant = t.tenant AND {ready} <= ? ORDER BY {ready} LIMIT ?
                    FOR UPDATE SKIP LOCKED) l
ORDER BY t.place, l.ready
"""

LANES: Final = """
SELECT l.id, l.tenant, l."window" - (SELECT count(*) FROM callbacks
           WHERE destination = l.id AND state = 'sending'), l.rate, l.paced_ms
FROM unnest(?::text[]) WITH ORDINALITY u(id, place) JOIN lanes l ON l.id = u.id
ORDER BY u.place
"""

TENANTS: Final = "SELECT tenant FROM turns WHERE {ready} <= ? ORDER BY {ready} LIMIT ?"

# Two tenants of each class are enough to know, however many there are.
WAITING_TENANTS: Final = "SELECT count(*) FROM ({}) waiting".format(
    " UNION ".join(
        f"(SELECT tenant FROM turns WHERE {ready} <= ? ORDER BY {ready} LIMIT 2)"
        for ready in CLASS_COLUMNS.values()
    )
)

DUE: Final = """
SELECT c.id, c.destination, c.payload_size, coalesce(c.policy, d.policy)
FROM unnest(?::text[]) u(destination)
CROSS JOIN LATERAL (SELECT * FROM callbacks WHERE destination = u.destination AND class = ?
                    AND state = 'pending' AND due_ms <= ? ORDER BY due_ms LIMIT ?) c
JOIN destinations d ON d.id = c.destination
ORDER BY c.destination, c.due_ms
"""

# Differs: one statement leases and reads. No lock of its own: the lane's covers its deliveries.
# Nor does it ask for their state again: made on an empty table, the plan would go by that.
LEASE: Final = """
UPDATE callbacks c SET state = 'sending', due_ms = NULL, claim = c.claim + 1, lease_ms = u.lease_ms
FROM unnest(?::text[], ?::bigint[]) u(id, lease_ms), destinations d, payloads p
WHERE c.id = u.id AND d.id = c.destination AND p.callback = u.id
RETURNING c.id, c.tenant, c.job_id, c.destination, c.url, d.url, p.body, p.content_type, d.headers,
       p.headers, coalesce(c.policy, d.policy), c.claim, c.attempts, c.tries, c.created_ms,
       c.expires_ms, c.class
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


def claim(tx: PostgresTx, ask: ClaimRequest, rules: Rules) -> list[Delivery]:
    """Lease due work: high first but never all slots, then normal, then replays."""
    now_ms = tx.at(ask.now_ms)
    room = _room(tx, ask, now_ms)
    chosen: list[tuple[str, str | None]] = []
    for number in (HIGH, NORMAL, REPLAY):
        slots = min(room.slots, room.slots_high) if number == HIGH else room.slots
        if slots > 0 and room.bytes_free > 0:
            chosen += ((row[0], row[3]) for row in _pick(tx, number, slots, room, now_ms))
    return _lease(tx, chosen, now_ms, rules)


def _room(tx: PostgresTx, ask: ClaimRequest, now_ms: int) -> _Room:
    waiting = tx.one(WAITING_TENANTS, now_ms, now_ms, now_ms)
    contended = waiting is not None and waiting[0] > 1
    return _Room(
        slots=ask.slots,
        slots_high=fairness.high_slots(ask.slots, ask.slots_max, ask.busy_high),
        bytes_free=ask.bytes_free if ask.busy else max(ask.bytes_free, 1),
        tenant_slots=fairness.tenant_slots(ask.slots_max, contended=contended),
        busy=Counter(ask.busy),
        taken=Counter(),
    )


def _pick(tx: PostgresTx, number: int, slots: int, room: _Room, now_ms: int) -> list[Row]:
    """Due deliveries of one class, as many as their tenants and lanes may have."""
    ready = CLASS_COLUMNS[number]
    tenants = [row[0] for row in tx.all(TENANTS.format(ready=ready), now_ms, slots + _CAPPED_MAX)]
    left = {tenant: room.tenant_slots - room.busy[tenant] for tenant in tenants}
    free = [tenant for tenant in tenants if left[tenant] > 0]
    if not free:
        return []
    each = min(slots, max(_LANES_EACH, 4 * slots // len(free)))
    lanes = _ready_lanes(tx, ready, free, each, now_ms)
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


def _ready_lanes(
    tx: PostgresTx, ready: str, tenants: Sequence[str], each: int, now_ms: int
) -> list[Row]:
    """Ready lanes of these tenants in the order of their turns, held by us from now on."""
    held = [row[0] for row in tx.write(LOCK_LANES.format(ready=ready), tenants, now_ms, each)]
    tx.locked |= set(held)
    return tx.all(LANES, held) if held else []


def _ready_lane(row: Row, room: _Room, now_ms: int) -> fairness.ReadyLane:
    free = row[2] - room.taken[row[0]]
    paced = fairness.paced_room(row[3], row[4], now_ms)
    return fairness.ReadyLane(
        id=row[0], tenant=row[1], room=free if paced is None else min(free, paced)
    )


def _due(
    tx: PostgresTx, given: Mapping[str, int], turns: Sequence[str], number: int, now_ms: int
) -> list[Row]:
    """Return what is due in these lanes, in the order of their turns."""
    left = dict(given)
    found = []
    for row in tx.all(DUE, list(given), number, now_ms, max(given.values())):
        if left[row[1]] > 0:
            left[row[1]] -= 1
            found.append(row)
    turn = {lane: n for n, lane in enumerate(turns)}
    return sorted(found, key=lambda row: turn[row[1]])


def _serve(tx: PostgresTx, lanes: Sequence[Row], taken: Mapping[str, int], now_ms: int) -> None:
    """Lanes and tenants that had their turn go behind all others that are ready."""
    served, paces, tenants = [], [], set()
    for lane, tenant, _free, rate, paced_ms in lanes:
        if not taken[lane]:
            continue
        paced = (
            paced_ms if rate is None else fairness.paced_after(rate, paced_ms, taken[lane], now_ms)
        )
        served.append(lane)
        paces.append(float(paced))
        tenants.add(tenant)
    tx.notes.served_tenants |= tenants
    tx.served_ms = max(tx.served_ms, now_ms)
    if served:
        tx.run(
            "UPDATE lanes l SET served_ms = ?, paced_ms = u.paced_ms "
            "FROM unnest(?::text[], ?::float8[]) u(id, paced_ms) WHERE l.id = u.id",
            now_ms,
            served,
            paces,
        )


def _lease(
    tx: PostgresTx, chosen: Sequence[tuple[str, str | None]], now_ms: int, rules: Rules
) -> list[Delivery]:
    if not chosen:
        return []
    leases = [
        now_ms + round(policies.load(text).timeout * 1000) + rules.lease_margin_ms
        for _, text in chosen
    ]
    rows = {row[0]: row for row in tx.write(LEASE, [callback for callback, _ in chosen], leases)}
    deliveries = [_leased(tx, rows[callback]) for callback, _ in chosen if callback in rows]
    for delivery in deliveries:
        tx.notes.moved(delivery.tenant, "pending", "sending")
    return deliveries


def _leased(tx: PostgresTx, row: Row) -> Delivery:
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
        expires_ms=tx.here(row[15]),
        high=row[16] == HIGH,
    )
