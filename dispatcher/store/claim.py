"""Claim: lease due work, found through the lanes and never by scanning deliveries (D5)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher import fairness
from dispatcher import policy as policies
from dispatcher.ids import destination_of
from dispatcher.store import rows
from dispatcher.store.requests import ClaimRequest, Rules
from dispatcher.store.tx import Row, Tx, marks
from dispatcher.values import HIGH, NORMAL, REPLAY, Delivery

READY: Final = {HIGH: "ready_high", NORMAL: "ready_normal", REPLAY: "ready_replay"}
# Tenants that already hold their share stand first in turn until a slot of theirs is free: four
# of them can hold a quarter each, so this many more are looked at.
_CAPPED_MAX: Final = 4
# Of each tenant more lanes are looked at than its part of the slots, in case others have fewer;
# where that is not enough, the next claim follows at once.
_LANES_EACH: Final = 8

TENANTS: Final = {
    number: f"SELECT tenant FROM turns WHERE {ready} <= ? ORDER BY {ready} LIMIT ?"
    for number, ready in READY.items()
}


@dataclass(slots=True)
class _Room:
    """What is left to give away while one claim goes through the classes."""

    slots: int
    slots_high: int
    bytes_free: int
    tenant_slots: int
    busy: Counter[str]  # per tenant
    taken: Counter[str]  # per lane, and per destination

    def take(self, tenant: str, lane: str, size: int) -> None:
        self.slots -= 1
        self.bytes_free -= size
        self.busy[tenant] += 1
        self.taken[lane] += 1
        destination = destination_of(lane)
        if destination != lane:
            self.taken[destination] += 1


def claim(tx: Tx, request: ClaimRequest, rules: Rules) -> list[Delivery]:
    """Lease due work: high first but never all slots, then normal, then replays."""
    now_ms = tx.at(request.now_ms)
    room = _room(tx, request, now_ms)
    chosen: list[Row] = []
    for number in READY:
        slots = min(room.slots, room.slots_high) if number == HIGH else room.slots
        if slots > 0 and room.bytes_free > 0:
            chosen += _pick(tx, number, slots, room, now_ms)
    return _lease(tx, chosen, now_ms, rules)


def _room(tx: Tx, request: ClaimRequest, now_ms: int) -> _Room:
    waiting = tx.one(tx.statements.WAITING_TENANTS, now_ms, now_ms, now_ms)
    contended = waiting is not None and waiting[0] > 1
    return _Room(
        slots=request.slots,
        slots_high=fairness.high_slots(request.slots, request.slots_max, request.busy_high),
        bytes_free=request.bytes_free if request.busy else max(request.bytes_free, 1),
        tenant_slots=fairness.tenant_slots(request.slots_max, contended=contended),
        busy=Counter(request.busy),
        taken=Counter(),
    )


def _pick(tx: Tx, number: int, slots: int, room: _Room, now_ms: int) -> list[Row]:
    """Return due deliveries of one class, as many as their tenants and lanes may have."""
    tenants = [row[0] for row in tx.all(TENANTS[number], now_ms, slots + _CAPPED_MAX)]
    left = {tenant: room.tenant_slots - room.busy[tenant] for tenant in tenants}
    free = [tenant for tenant in tenants if left[tenant] > 0]
    if not free:
        return []
    each = min(slots, max(_LANES_EACH, 4 * slots // len(free)))
    lanes = tx.statements.ready_lanes(tx, READY[number], free, now_ms, each)
    servers, pace = _servers(tx, lanes, room, now_ms)
    ready = [_ready_lane(row, room, now_ms) for row in lanes]
    granted = fairness.share(ready, slots, left, servers)
    for lane, slots_granted in granted.items():
        if destination_of(lane) in servers:
            servers[destination_of(lane)] -= slots_granted
    # Lanes whose server is full leave the ready index, or they would be looked at for ever.
    tx.changes.lanes |= {one.id for one in ready if one.server and servers[one.server] <= 0}
    if not granted:
        return []
    tenant_of = {row[0]: row[1] for row in lanes}
    picked = []
    for row in _due(tx, granted, list(tenant_of), number, now_ms):
        if room.bytes_free <= 0:
            break
        _callback, lane, size, _policy = row
        room.take(tenant_of[lane], lane, size)
        picked.append(row)
    tx.changes.lanes |= granted.keys()
    taken = Counter(row[1] for row in picked)
    _serve(tx, lanes, taken, now_ms)
    _pace(tx, pace, taken, now_ms)
    return picked


def _servers(
    tx: Tx, lanes: Sequence[Row], room: _Room, now_ms: int
) -> tuple[dict[str, int], dict[str, tuple[float, float]]]:
    """Return how many more each server with several lanes may have in flight, all lanes together;
    and rate and `paced_ms` of those with a rate, which are held from now on. One that another
    process holds is left to it."""
    room_of, rated = {}, set()
    for lane, _tenant, _free, rate, _paced_ms, server_room, server_max in lanes:
        if server_room is not None:
            server = destination_of(lane)
            held = tx.sole_owner or server in tx.held
            free = server_room if held else fairness.unheld_room(server_room, server_max)
            room_of[server] = free - room.taken[server]
            if rate is not None:
                rated.add(server)
    if not rated:
        return room_of, {}
    pace = {
        server: (rate, paced_ms)
        for server, rate, paced_ms in tx.all(
            f"SELECT id, rate, paced_ms FROM destinations WHERE id IN ({marks(list(rated))}) "
            f"AND rate IS NOT NULL ORDER BY id{tx.skip_locked}",
            *sorted(rated),
        )
    }
    for server in rated:
        rate, paced_ms = pace.get(server, (None, 0.0))
        paced = 0 if rate is None else fairness.paced_room(rate, paced_ms, now_ms)
        room_of[server] = min(room_of[server], paced or 0)
    return room_of, pace


def _pace(
    tx: Tx, pace: Mapping[str, tuple[float, float]], taken: Mapping[str, int], now_ms: int
) -> None:
    """Write down how much of their rates these servers have used."""
    used = Counter[str]()
    for lane, count in taken.items():
        used[destination_of(lane)] += count
    for server, (rate, paced_ms) in pace.items():
        if used[server]:
            after_ms = fairness.paced_after(rate, paced_ms, used[server], now_ms)
            tx.run("UPDATE destinations SET paced_ms = ? WHERE id = ?", after_ms, server)


def _ready_lane(row: Row, room: _Room, now_ms: int) -> fairness.ReadyLane:
    lane, tenant, window_free, rate, paced_ms, server_room, _server_max = row
    free = window_free - room.taken[lane]
    paced = fairness.paced_room(rate, paced_ms, now_ms) if server_room is None else None
    return fairness.ReadyLane(
        id=lane,
        tenant=tenant,
        room=free if paced is None else min(free, paced),
        server=None if server_room is None else destination_of(lane),
    )


def _due(
    tx: Tx, granted: Mapping[str, int], order: Sequence[str], number: int, now_ms: int
) -> list[Row]:
    """Return what is due in these lanes, in the order in which they are served."""
    left = dict(granted)
    due = []
    for row in tx.all(tx.statements.DUE, tx.ids(granted), number, now_ms, max(granted.values())):
        if left[row[1]] > 0:
            left[row[1]] -= 1
            due.append(row)
    place = {lane: n for n, lane in enumerate(order)}
    return sorted(due, key=lambda row: place[row[1]])


def _serve(tx: Tx, lanes: Sequence[Row], taken: Mapping[str, int], now_ms: int) -> None:
    """Lanes and tenants that were served go behind all others that are ready."""
    served = []
    for lane, tenant, _free, rate, paced_ms, _server_room, _server_max in lanes:
        if not taken[lane]:
            continue
        paced = (
            paced_ms if rate is None else fairness.paced_after(rate, paced_ms, taken[lane], now_ms)
        )
        served.append((now_ms, float(paced), lane))
        tx.changes.served_tenants.add(tenant)
    if served:
        tx.changes.served_ms = max(tx.changes.served_ms, now_ms)
        tx.bulk(tx.statements.SERVE_LANES, served)


def _lease(tx: Tx, chosen: Sequence[Row], now_ms: int, rules: Rules) -> list[Delivery]:
    if not chosen:
        return []
    leases = [
        (now_ms + round(policies.load(policy).timeout * 1000) + rules.lease_margin_ms, callback)
        for callback, _lane, _size, policy in chosen
    ]
    deliveries = [rows.leased(tx, row) for row in tx.statements.lease(tx, leases)]
    for delivery in deliveries:
        tx.changes.moved(delivery.tenant, "pending", "sending")
    return deliveries
