"""Tenants: their limits, and their end. Portable.

A tenant is erased in slices, each one commit that others hardly notice: its lanes stop, what is
being sent may come to its end, all else is deleted; its own row goes last, so that an erasure that
was interrupted goes on.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from dispatcher.audit import Entry
from dispatcher.ids import lanes_end
from dispatcher.states import State
from dispatcher.store import audit, rows
from dispatcher.store.errors import NotFound, TenantErasing
from dispatcher.store.lanes import Holding, Lanes, held_of
from dispatcher.store.tx import Row, Tx, marks
from dispatcher.values import Tenant

Erasure = Literal["going on", "waiting", "done", "another's"]
"""What one slice came to: there is more to delete at once; attempts are to end first; nothing is
left; another process erases."""

# A submit that a process took before it heard of the erasure has long come by then.
HEARD_MS: Final = 3_000
ERASER: Final = "erase tenants"
"""What the one process that erases has acquired."""
_COLUMNS: Final = {
    "label": "label",
    "storage_bytes_max": "storage_bytes_max",
    "queue_max": "queue_max",
    "jobs_running_max": "jobs_running_max",
    "outputs_bytes_max": "outputs_bytes_max",
    "rate_per_second": "rate",
}
_LAST: Final = (
    "keys",
    "secrets",
    "stored_secrets",
    "aliases",
    "turns",
    "counts",
    "queues",
    "job_usage",
    "job_sweeps",
)
_ENDED: Final[tuple[State, ...]] = ("delivered", "dead", "cancelled")
_OLDEST: Final = (
    "SELECT id, state, destination FROM callbacks WHERE tenant = ? AND state <> 'sending' "
    "ORDER BY id LIMIT ?"
)
_SENDING: Final = (
    # Few are being sent, of all tenants; the empty text keeps the database from walking one's all.
    "SELECT id, destination FROM callbacks WHERE state = 'sending' AND tenant || '' = ? "
    "AND cancelling = 0 LIMIT ?"
)
_READY: Final = " UNION ".join(
    f"SELECT * FROM (SELECT id FROM lanes WHERE tenant = ? AND {ready} IS NOT NULL LIMIT ?) {ready}"
    for ready in ("ready_high", "ready_normal", "ready_replay")
)


def tenants(tx: Tx) -> list[Tenant]:
    """In the order of their names."""
    return [rows.tenant(row) for row in tx.all(f"{rows.TENANT} ORDER BY name")]


def change(tx: Tx, tenant: str, changes: Mapping[str, object]) -> Tenant:
    """Change the named fields (`label storage_bytes_max queue_max rate_per_second
    jobs_running_max outputs_bytes_max`; None: the default). Raises NotFound, TenantErasing."""
    if _get(tx, tenant).erasing_ms is not None:
        raise TenantErasing(tenant)
    for name, value in changes.items():
        tx.run(f"UPDATE tenants SET {_COLUMNS[name]} = ? WHERE name = ?", value, tenant)
    return _get(tx, tenant)


def begin_erasing(tx: Tx, tenant: str, *, now_ms: int, entry: Entry | None = None) -> Tenant:
    """Have the tenant end: its keys, its filtered replays and its bulk changes of jobs do at once.
    Raises NotFound; nothing happens to one that is being erased already."""
    if _get(tx, tenant).erasing_ms is None:
        tx.run("UPDATE tenants SET erasing_ms = ? WHERE name = ?", now_ms, tenant)
        tx.run("DELETE FROM keys WHERE tenant = ?", tenant)
        tx.run(
            "UPDATE replays SET state = 'cancelled', finished_ms = ? "
            "WHERE tenant = ? AND state = 'running'",
            now_ms,
            tenant,
        )
        tx.run(
            "UPDATE job_sweeps SET state = 'cancelled', ended_ms = ? "
            "WHERE tenant = ? AND state = 'running' AND what <> 'purge'",
            now_ms,
            tenant,
        )
        if entry is not None:
            audit.append(tx, entry)
    return _get(tx, tenant)


def erasing(tx: Tx) -> list[str]:
    """Return the tenants that are being erased."""
    sql = "SELECT name FROM tenants WHERE erasing_ms IS NOT NULL ORDER BY name"
    return [row[0] for row in tx.all(sql)]


def _get(tx: Tx, tenant: str) -> Tenant:
    row = tx.one(f"{rows.TENANT} WHERE name = ?", tenant)
    if row is None:
        raise NotFound(f"there is no tenant {tenant}")
    return rows.tenant(row)


# --- one slice of an erasure ---


def of_erasing(tenant: str, limit: int) -> Lanes:
    """Return the lanes that the next slice will touch."""

    def find(tx: Tx) -> Iterable[str]:
        tx.all(f"SELECT 1 FROM tenants WHERE name = ?{tx.for_update}", tenant)
        return [
            *(row[0] for row in tx.all(_READY, *(tenant, limit) * 3)),
            *(row[1] for row in tx.all(_SENDING, tenant, limit)),
            *(row[2] for row in tx.all(_OLDEST, tenant, limit)),
        ]

    return Holding(f"tenants {tenant}", find)


def erase(tx: Tx, tenant: str, *, now_ms: int, limit: int) -> Erasure:
    """Delete some more of a tenant that is being erased."""
    row = tx.one("SELECT erasing_ms FROM tenants WHERE name = ?", tenant)
    if row is None or row[0] is None:
        return "done"
    if not tx.acquire(ERASER):
        return "another's"
    stopped = _stop(tx, tenant, limit)
    if _erase_callbacks(tx, tenant, limit) or stopped:
        return "going on"
    if tx.one("SELECT 1 FROM callbacks WHERE tenant = ? LIMIT 1", tenant):
        return "waiting"
    if _erase_rest(tx, tenant, limit):
        return "going on"
    if now_ms - row[0] < HEARD_MS:
        return "waiting"
    if tx.one("SELECT 1 FROM jobs WHERE tenant = ? LIMIT 1", tenant):  # their calls are to end
        return "waiting"
    for table in _LAST:
        tx.run(f"DELETE FROM {table} WHERE tenant = ?", tenant)
    tx.run("DELETE FROM tenants WHERE name = ?", tenant)
    tx.notify("access")
    return "done"


def _stop(tx: Tx, tenant: str, limit: int) -> int:
    """Claim no more of what is ready, and have what is being sent be tried no more; returns how
    many lanes and deliveries."""
    ready = held_of(tx, tx.all(_READY, *(tenant, limit) * 3), 0)
    lanes = [row[0] for row in ready]
    if lanes:
        tx.run(f"UPDATE lanes SET paused = 1 WHERE id IN ({marks(lanes)})", *lanes)
        tx.changes.lanes.update(lanes)
    sending = held_of(tx, tx.all(_SENDING, tenant, limit), 1)
    tx.many(
        "UPDATE callbacks SET cancelling = 1 WHERE id = ? AND state = 'sending'",
        [(row[0],) for row in sending],
    )
    return len(lanes) + len(sending)


def _erase_callbacks(tx: Tx, tenant: str, limit: int) -> int:
    oldest = tx.all(_OLDEST, tenant, limit)
    waiting = held_of(tx, [row for row in oldest if row[1] == "pending"], 2)
    gone = _delete(tx, tenant, "pending", waiting)
    for state in _ENDED:
        gone += _delete(tx, tenant, state, [row for row in oldest if row[1] == state])
    for part in ("payloads", "attempts", "tags") if gone else ():
        tx.run(f"DELETE FROM {part} WHERE callback IN ({marks(gone)})", *gone)
    return len(gone)


def _delete(tx: Tx, tenant: str, state: State, found: Sequence[Row]) -> list[str]:
    """Delete those of these callbacks that are still in this state; return their ids."""
    if not found:
        return []
    gone = tx.write(
        f"DELETE FROM callbacks WHERE id IN ({marks(found)}) AND state = '{state}' "
        f"RETURNING id, destination, (1 - pruned) * payload_size + {rows.ROW_BYTES} + extra_bytes",
        *(row[0] for row in found),
    )
    for _, lane, size in gone:
        tx.changes.moved(tenant, state, None)
        tx.changes.bytes[tenant] -= size
        if state == "pending":
            tx.changes.lanes.add(lane)
    return [row[0] for row in gone]


def _erase_rest(tx: Tx, tenant: str, limit: int) -> int:
    """Delete some of the tenant's destinations with their lanes and secrets, and of its replays;
    returns how many."""
    # Two looks, since only the first has an index; one that was removed is rare.
    for of_tenant in ("tenant = ? AND removed_ms IS NULL", "tenant = ?"):
        sql = f"SELECT id FROM destinations WHERE {of_tenant} LIMIT ?"
        gone = [row[0] for row in tx.all(sql, tenant, limit)]
        if gone:
            bounds = [(one, lanes_end(one)) for one in gone]
            tx.many("DELETE FROM lanes WHERE id >= ? AND id < ?", bounds)
            tx.run(f"DELETE FROM secrets WHERE destination IN ({marks(gone)})", *gone)
            tx.run(f"DELETE FROM destinations WHERE id IN ({marks(gone)})", *gone)
            return len(gone)
    replays = [
        row[0] for row in tx.all("SELECT id FROM replays WHERE tenant = ? LIMIT ?", tenant, limit)
    ]
    if replays:
        tx.run(f"DELETE FROM replays WHERE id IN ({marks(replays)})", *replays)
    return len(replays)
