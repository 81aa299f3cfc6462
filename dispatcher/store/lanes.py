"""Lanes: kept exact by recomputing, at the end of each commit, every lane that the commit touched
from its deliveries. Nothing is counted up and down.

A registered destination has one lane, under its own id. An unregistered one, a server, has a few,
whose ids begin with its own (`ids.lane_id`); together they have at most its concurrency, counted
from live leases too. A lane whose work waits for its server is `blocked`, and is recomputed with
each other lane of that server: what one leaves free the next may have.

Where several processes write, a lane's row is also the lock of its deliveries: whoever changes the
state of a delivery holds its lane. All lanes of a batch are locked at once, in the order of their
ids, and tenants' schedules last: what one commit computes no other can make wrong before it is
visible, and the fixed order of locks leaves no room for a deadlock. So each verb tells beforehand
which lanes it will touch (`of_…`), and touches no other (`held_of`); lanes that there are not yet
are made before, by a transaction that holds none. Rows that operations hold by name come before the
lanes (`Holding`), and servers of which failures are counted or forgotten right after them. A
database with one writer never asks.
"""

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Final

from dispatcher.health import WINDOW_START
from dispatcher.ids import (
    destination_of,
    earlier_destination_id,
    lane_id,
    lanes_end,
    resolve_destination,
)
from dispatcher.store.requests import Rules
from dispatcher.store.tx import Row, Tx, marks
from dispatcher.values import Delivery

Lanes = Callable[[Tx], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Holding:
    """Lanes that an operation touches, told while it holds a row of its own, until the transaction
    ends. `row` names that one: all processes take these in the order of the names. Where it may
    close circuits (`clears`), it needs the rows of the lanes' servers as well."""

    row: str
    find: Lanes
    clears: bool = False

    def __call__(self, tx: Tx) -> Iterable[str]:
        return self.find(tx)


_IDLE_MS: Final = 86_400_000

# --- parts of statements on either database ---

# Of a server that has several lanes: counted once for all of them. While its circuit is open one
# probe at a time goes out.
SERVERS: Final = """
SELECT d.id, d.held_until_ms, d.openings, d.paced_ms,
       (SELECT count(*) FROM callbacks WHERE destination > d.id AND destination < d.id || '/'
        AND state = 'sending') AS sending
FROM destinations d
"""
SERVER_CAP: Final = "CASE WHEN s.openings > 0 THEN 1 ELSE l.concurrency END"
SERVER_ROOM: Final = f"{SERVER_CAP} - s.sending"
# Later than any time there is, and still an integer.
NEVER_MS: Final = "9e15"

SLICE: Final = "SELECT id FROM lanes WHERE id > ? ORDER BY id LIMIT ?"
LEASE_ENDED: Final = (
    "SELECT DISTINCT destination FROM callbacks "
    "WHERE state = 'sending' AND (lease_ms <= ? OR lease_ms > ?)"
)
EXPIRED: Final = """
SELECT destination FROM callbacks WHERE state = 'pending' AND expires_ms <= ?
ORDER BY expires_ms LIMIT ?
"""
BLOCKED: Final = "SELECT id FROM lanes WHERE blocked = 1 ORDER BY id LIMIT 1000"
_UNSCHEDULED: Final = (
    "SELECT DISTINCT tenant FROM lanes WHERE coalesce(ready_high, ready_normal, ready_replay) "
    "IS NOT NULL AND NOT EXISTS (SELECT 1 FROM turns WHERE tenant = lanes.tenant)"
)
_SCHEDULES: Final = """
SELECT tenant, served_ms < ? AND coalesce(ready_high, ready_normal, ready_replay) IS NULL
       AND coalesce((SELECT sum(n) FROM counts
                     WHERE tenant = turns.tenant AND state IN ('pending', 'sending')), 0) = 0
FROM turns WHERE tenant > ? ORDER BY tenant LIMIT ?
"""
DRAINING: Final = """
SELECT id FROM lanes WHERE doomed IS NOT NULL AND EXISTS (SELECT 1 FROM callbacks
    WHERE destination = lanes.id AND class IN (0, 1, 2) AND state = 'pending') LIMIT 100
"""


def make(tx: Tx, lanes: Iterable[str], rules: Rules, *, now_ms: int) -> set[str]:
    """Make those of these lanes that there are not, with the limits their destinations set; return
    them: they are held."""
    ids = tx.ids(lanes)
    rows = tx.write(tx.statements.MAKE_LANES, rules.concurrency, WINDOW_START, now_ms, ids)
    tx.run(tx.statements.MAKE_SCHEDULES, now_ms, ids)
    made = {row[0] for row in rows}
    tx.held |= made
    return made


def held_of(tx: Tx, rows: list[Row], lane: int) -> list[Row]:
    """Return those rows whose lane, their column `lane`, this transaction may change: what came up
    since it told its lanes is left to the next."""
    return rows if tx.sole_owner else [row for row in rows if row[lane] in tx.held]


def refresh(
    tx: Tx,
    lanes: Set[str],
    served: Set[str] = frozenset(),
    served_ms: int = 0,
    others: Set[str] = frozenset(),
) -> int:
    """Recompute when these lanes, and the tenants of those that changed, are next ready; tenants
    that were served at `served_ms`, and `others`, too. Returns how many lanes changed."""
    changed = tx.statements.refresh_lanes(tx, lanes) if lanes else []
    tenants = {row[0] for row in changed} | served | others
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
    lanes = set(ids) if tx.sole_owner else tx.held.intersection(ids)
    # What this commit has changed itself is no disagreement: its lanes are refreshed at its end.
    refresh(tx, lanes & with_blocked(tx, tx.changes.all_lanes))
    several = {lane for lane in lanes if destination_of(lane) != lane}
    disagreed = refresh(tx, lanes - several) + _refresh_several(tx, several)
    disagreed += _reschedule(tx, lanes)
    idle_since_ms = now_ms - _IDLE_MS
    forgotten = tx.write(tx.statements.FORGET_LANES, tx.ids(lanes), idle_since_ms)
    if forgotten:
        ids_forgotten = tx.ids({destination_of(row[0]) for row in forgotten})
        tx.run(tx.statements.FORGET_DESTINATIONS, ids_forgotten, idle_since_ms)
    return disagreed, ids[-1] if len(ids) == limit else None


def _reschedule(tx: Tx, lanes: Set[str]) -> int:
    """Have tenants that have ready lanes and no schedule get one; return how many those are. A
    process of an earlier version beside us makes none again that was forgotten."""
    if not lanes:
        return 0
    ids = sorted(lanes)
    found = {row[0] for row in tx.all(f"{_UNSCHEDULED} AND id IN ({marks(ids)})", *ids)}
    tx.changes.tenants |= found
    return len(found)


def idle_schedules(tx: Tx, after: str, *, limit: int, now_ms: int) -> tuple[list[str], str | None]:
    """Look at `limit` schedules; return the tenants of those that may be forgotten, since they were
    not served for a day and nothing of theirs waits, and the tenant to go on after (None at the
    end)."""
    rows = tx.all(_SCHEDULES, now_ms - _IDLE_MS, after, limit)
    return [row[0] for row in rows if row[1]], rows[-1][0] if len(rows) == limit else None


def forget_schedules(tx: Tx, tenants: Sequence[str], *, now_ms: int) -> None:
    """Forget the schedules of these tenants at the end of the commit, as far as they are idle
    then. What becomes ready of theirs later makes them again."""
    tx.changes.idle_tenants.update(tenants)
    tx.changes.idle_since_ms = now_ms - _IDLE_MS


def _refresh_several(tx: Tx, lanes: set[str]) -> int:
    """Recompute lanes of servers that have several; returns in how many work was ready that they
    did not show. What other lanes take of their server is known when a claim looks at them."""
    before = _ready(tx, lanes)
    refresh(tx, lanes)
    after = _ready(tx, lanes)
    return sum(any(map(_hidden, before[lane], ready)) for lane, ready in after.items())


def _hidden(was_ms: int | None, is_ms: int | None) -> bool:
    return is_ms is not None and (was_ms is None or is_ms < was_ms)


def _ready(tx: Tx, lanes: Set[str]) -> dict[str, Row]:
    if not lanes:
        return {}
    ids = sorted(lanes)
    sql = "SELECT id, ready_high, ready_normal, ready_replay FROM lanes WHERE id IN"
    return {row[0]: row[1:] for row in tx.all(f"{sql} ({marks(ids)})", *ids)}


def with_blocked(tx: Tx, lanes: Set[str]) -> set[str]:
    """Return these lanes, and those whose work waits for the same servers."""
    several = [lane for lane in lanes if destination_of(lane) != lane]
    return set(lanes) | tx.statements.blocked(tx, several) if several else set(lanes)


def of_server(tx: Tx, destination: str) -> list[str]:
    """Return the lanes that a destination has now."""
    return _first(
        tx,
        "SELECT id FROM lanes WHERE id >= ? AND id < ? ORDER BY id",
        destination,
        lanes_end(destination),
    )


def clear_circuit(tx: Tx, lane: str, *, opened_before_ms: int | None = None) -> None:
    """Close a lane's circuit and its server's and end their holds, but not one that the peer asked
    for; with `opened_before_ms` only those that began to fail before."""
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
    tx.run(
        "UPDATE destinations SET failures = 0, failing_since_ms = NULL, openings = 0, "
        f"held_until_ms = 0 WHERE id = ? AND failures > 0{bound}",
        destination_of(lane),
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
    return Holding("", lambda tx: _of_callbacks(tx, ids), clears=True)


def of_deliveries(deliveries: Sequence[Delivery]) -> Lanes:
    """Return the lanes of these deliveries."""
    return lambda _tx: [delivery.lane for delivery in deliveries]


def of_ended_leases(now_ms: int, lease_ms_max: int) -> Lanes:
    """Return the lanes of what is sending with a lease that has ended, or that ends later than one
    given now may; and those that wait for their server."""
    return lambda tx: [
        *_first(tx, LEASE_ENDED, tx.at(now_ms), tx.at(now_ms) + lease_ms_max),
        *_first(tx, BLOCKED),
    ]


def of_expiring(now_ms: int, limit: int) -> Lanes:
    """Return the lanes of what waits past its maximum age, and those whose backlog is to end."""
    return lambda tx: [*_first(tx, EXPIRED, tx.at(now_ms), limit), *_first(tx, DRAINING)]


def of_slice(after: str, limit: int) -> Lanes:
    """Return a slice of all lanes."""
    return lambda tx: _first(tx, SLICE, after, limit)


def of_destination(tenant: str, destination: str) -> Lanes:
    """Return a destination's lanes, and hold its tenant: operators change one thing of a tenant at
    a time."""

    def find(tx: Tx) -> Iterable[str]:
        _hold_tenant(tx, tenant)
        return of_server(tx, resolve(tx, tenant, destination))

    return Holding(f"tenants {tenant}", find)


def of_tenant(tenant: str) -> Lanes:
    """Return no lane, but hold the tenant: nobody else rotates or registers for it."""
    return Holding(f"tenants {tenant}", lambda tx: _hold_tenant(tx, tenant))


def of_new_tenant(tenant: str) -> Lanes:
    """Return no lane; the tenant's row is made in the order in which such rows are held."""
    return Holding(f"tenants {tenant}", none)


def of_key(key: str) -> Lanes:
    """Return no lane, but hold the key: two processes change several in the same order."""

    def find(tx: Tx) -> Iterable[str]:
        tx.all(f"SELECT 1 FROM keys WHERE id = ?{tx.for_update}", key)
        return ()

    return Holding(f"keys {key}", find)


def of_replay(replay: str, ids: Sequence[str]) -> Lanes:
    """Hold the replay's row, so that its cursor moves once, and return the lanes of what it
    feeds."""

    def find(tx: Tx) -> Iterable[str]:
        tx.all(f"SELECT 1 FROM replays WHERE id = ?{tx.for_update}", replay)
        return _of_callbacks(tx, ids)

    return Holding(f"replays {replay}", find, clears=True)


def _of_callbacks(tx: Tx, ids: Sequence[str]) -> set[str]:
    """Return the lanes that they have, and those that a replay will give them."""
    if not ids:
        return set()
    found = tx.all(
        f"SELECT DISTINCT destination, tenant, url FROM callbacks WHERE id IN ({marks(ids)})", *ids
    )
    lanes = {row[0] for row in found}
    return lanes | {lane_now(tx, tenant, lane, url) for lane, tenant, url in found}


def resolve(tx: Tx, tenant: str, destination: str) -> str:
    """Return the destination's id, given its id (that of an earlier rule too), its registered name
    or a URL of its server."""
    id = resolve_destination(tenant, destination)
    row = tx.one("SELECT destination FROM aliases WHERE id = ? AND tenant = ?", id, tenant)
    return id if row is None else str(row[0])


def lane_now(tx: Tx, tenant: str, lane: str, url: str | None) -> str:
    """Return the lane that a callback of `url` (None: its registered destination's) has now, which
    ended on `lane`: by the earlier rule each URL was a lane."""
    if url is None or destination_of(lane) != lane or lane != earlier_destination_id(tenant, url):
        return lane
    owner = resolve(tx, tenant, lane)
    registered = "SELECT 1 FROM destinations WHERE id = ? AND name IS NOT NULL"
    if owner != lane and tx.one(registered, owner):
        return owner
    return lane_id(tenant, url)


def _hold_tenant(tx: Tx, tenant: str) -> Iterable[str]:
    tx.all(f"SELECT 1 FROM tenants WHERE name = ?{tx.for_update}", tenant)
    return ()


def _first(tx: Tx, sql: str, *params: object) -> list[str]:
    return [row[0] for row in tx.all(sql, *params)]
