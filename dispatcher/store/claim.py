"""Claim: lease due work, found through the lanes and never by scanning deliveries (D5)."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from dispatcher import fairness
from dispatcher import policy as policies
from dispatcher.ids import destination_of
from dispatcher.store import rows
from dispatcher.store.callbacks import finish
from dispatcher.store.requests import ClaimRequest, Rules
from dispatcher.store.tx import Row, Tx, marks
from dispatcher.values import HIGH, NORMAL, REPLAY, Delivery

READY: Final = {HIGH: "ready_high", NORMAL: "ready_normal", REPLAY: "ready_replay"}
# Tenants that already hold their share stand first in turn until a slot of theirs is free: this
# many more are looked at, and where that is not enough, all that may.
_CAPPED_MAX: Final = 4
# How often others are looked for in place of tenants whose next bodies do not fit.
_ROUNDS_MAX: Final = 16
# Of each tenant more lanes are looked at than its part of the slots, in case others have fewer;
# where that is not enough, the next claim follows at once.
_LANES_EACH: Final = 8

TENANTS: Final = {
    number: f"SELECT tenant FROM turns WHERE {ready} <= ? ORDER BY {ready} LIMIT ?"
    for number, ready in READY.items()
}


@dataclass(slots=True, kw_only=True)
class _Room:
    """What is left to give away while one claim goes through the classes."""

    slots: int
    slots_free: int
    slots_high: int
    kept: Sequence[int]  # of the free ones, by the bit length of how many a tenant holds
    bytes_free: int
    request: ClaimRequest
    tenant_slots: int
    busy: Counter[str]  # per tenant
    busy_bytes: Counter[str]  # per tenant
    taken: Counter[str]  # per lane, and per destination

    def of_class(self, number: int) -> int:
        """Return how many slots a class may have."""
        return min(self.slots, self.slots_high) if number == HIGH else self.slots

    def grants_max(self, number: int) -> tuple[int, ...]:
        """Return how many slots of a class may be given before a tenant gets no more, by the bit
        length of how many it holds."""
        limits = tuple(self.slots_free - kept for kept in self.kept)
        if number != HIGH:
            return limits
        return tuple(
            min(one, self.slots_high - kept // 5)
            for one, kept in zip(limits, self.kept, strict=True)
        )

    def of_tenant(self, tenant: str, grants_max: Sequence[int]) -> int:
        """Return how many slots a tenant may have: none where those, or its bytes, are to stay
        for newcomers."""
        busy = self.busy[tenant]
        if grants_max[min(busy.bit_length(), len(grants_max) - 1)] <= 0:
            return 0
        return self.tenant_slots - busy if self.fits(tenant, 1) else 0

    def fits(self, tenant: str, size: int) -> bool:
        """Whether a tenant may take so many bytes more."""
        request = self.request
        held = self.busy_bytes[tenant]
        return fairness.bytes_fit(size, self.bytes_free, held, request.bytes_max, part=request.part)

    def take(self, tenant: str, lane: str, size: int, *, high: bool) -> None:
        self.slots -= 1
        self.slots_free -= 1
        self.slots_high -= high
        self.bytes_free -= size
        self.busy[tenant] += 1
        self.busy_bytes[tenant] += size
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
        passed: set[str] = set()
        for _ in range(_ROUNDS_MAX):
            picked, unfit = _pick(tx, number, room, passed, now_ms)
            chosen += picked
            if not unfit:
                break
            passed |= unfit
    return _lease(tx, chosen, now_ms, rules)


def _room(tx: Tx, request: ClaimRequest, now_ms: int) -> _Room:
    waiting = tx.one(tx.statements.WAITING_TENANTS, now_ms, now_ms, now_ms)
    contended = waiting is not None and waiting[0] > 1
    slots, slots_max, part = request.slots, request.slots_max, request.part
    free = max(slots, slots_max - sum(request.busy.values()))
    usable = max(slots, math.ceil(free * part))
    high = fairness.high_slots(slots_max, slots_max, request.busy_high)
    return _Room(
        slots=slots,
        slots_free=usable,
        slots_high=math.ceil(high * part),
        kept=fairness.claim_reserves(slots_max, usable, free) if free else (0,),
        bytes_free=request.bytes_free,
        request=request,
        tenant_slots=fairness.tenant_slots(slots_max, contended=contended),
        busy=Counter(request.busy),
        busy_bytes=Counter(request.busy_bytes),
        taken=Counter(),
    )


def _pick(
    tx: Tx, number: int, room: _Room, passed: Set[str], now_ms: int
) -> tuple[list[Row], set[str]]:
    """Return due deliveries of one class, as many as their tenants and lanes may have. If bodies
    did not fit, the slots meant for them are free still, and others than the tenants that are
    returned too may have them; `passed` are those of earlier rounds."""
    slots, grants_max = room.of_class(number), room.grants_max(number)
    left = _tenants(tx, number, slots, room, grants_max, passed, now_ms)
    if not left:
        return [], set()
    each = min(slots, max(_LANES_EACH, 4 * slots // len(left)))
    lanes = tx.statements.ready_lanes(tx, READY[number], list(left), now_ms, each)
    servers, pace = _servers(tx, lanes, room, now_ms)
    ready = [_ready_lane(row, room, now_ms) for row in lanes]
    granted = fairness.share(ready, slots, left, servers, held=room.busy, grants_max=grants_max)
    for lane, slots_granted in granted.items():
        if destination_of(lane) in servers:
            servers[destination_of(lane)] -= slots_granted
    # Lanes that may have nothing now, or whose server is full, leave the ready index, or they would
    # be looked at for ever.
    tx.changes.lanes |= {
        one.id for one in ready if one.room <= 0 or (one.server and servers[one.server] <= 0)
    }
    if not granted:
        return [], set()
    tenant_of = {row[0]: row[1] for row in lanes}
    due = _due(tx, granted, list(tenant_of), number, now_ms)
    picked, all_fit = _fitting(due, tenant_of, room, high=number == HIGH)
    tx.changes.lanes |= granted.keys()
    taken = Counter(row[1] for row in picked)
    _serve(tx, lanes, taken, now_ms)
    _pace(tx, pace, taken, now_ms)
    return picked, set() if all_fit else {tenant_of[lane] for lane in granted}


def _tenants(
    tx: Tx,
    number: int,
    slots: int,
    room: _Room,
    grants_max: Sequence[int],
    passed: Set[str],
    now_ms: int,
) -> dict[str, int]:
    """Return the first tenants in turn that may have more slots, enough for `slots`, and how many
    each may have."""
    if slots <= 0:
        return {}
    limit = slots + _CAPPED_MAX
    left: dict[str, int] = {}
    for more in (len(passed), len(passed) + len(room.busy)):
        tenants = [row[0] for row in tx.all(TENANTS[number], now_ms, limit + more)]
        left = {
            tenant: most
            for tenant in tenants
            if tenant not in passed and (most := room.of_tenant(tenant, grants_max)) > 0
        }
        if len(left) >= slots or len(tenants) < limit + more:
            break
    return left


def _fitting(
    due: Sequence[Row], tenant_of: Mapping[str, str], room: _Room, *, high: bool
) -> tuple[list[Row], bool]:
    """Take those whose bodies fit into memory, of each lane up to the first that does not; and say
    whether all did."""
    picked: list[Row] = []
    full: set[str] = set()
    for row in due:
        _callback, lane, size, _policy = row
        if lane in full:
            continue
        if room.fits(tenant_of[lane], size):
            room.take(tenant_of[lane], lane, size, high=high)
            picked.append(row)
        else:
            full.add(lane)
    return picked, not full


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
    if len(deliveries) < len(leases):
        _end_without_payload(tx, [callback for _, callback in leases], now_ms)
    return deliveries


def _end_without_payload(tx: Tx, ids: Sequence[str], now_ms: int) -> None:
    """Make dead what has nothing left to send, so that it is not found due again and again. No verb
    leaves such a delivery behind; a database that was repaired by hand, or by an earlier version,
    may hold one."""
    gone = tx.all(
        f"SELECT c.id FROM callbacks c WHERE c.id IN ({marks(ids)}) "
        "AND NOT EXISTS (SELECT 1 FROM payloads WHERE callback = c.id)",
        *ids,
    )
    finish(tx, [row[0] for row in gone], "dead", error="payload_gone", now_ms=now_ms)
