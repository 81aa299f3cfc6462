"""What an upgrade has to do that SQL alone cannot, in slices, before the store opens: each slice is
one commit, and after an interruption the next start goes on.

By an earlier rule each URL was a destination with one lane. Those become servers with few lanes;
what an operator had set on a URL stays with that URL, as a registered destination `migrated-…`.
Only what is pending or sending moves; what is finished keeps its id, which is an alias now.
"""

from typing import Final

from dispatcher.ids import destination_id, destination_of, lane_id, server_of
from dispatcher.store import lanes
from dispatcher.store.tx import Row, Tx

SLICE: Final = 1_000
_NAME_CHARS: Final = 8

_EARLIER: Final = """
SELECT id, tenant, url, removed_ms,
       paused <> 0 OR disabled_reason IS NOT NULL OR concurrency IS NOT NULL OR rate IS NOT NULL
       OR policy IS NOT NULL OR headers <> '[]'
FROM destinations WHERE name IS NULL AND last_url IS NULL ORDER BY id LIMIT ?
"""
# Headers go to another row as they are: what is sealed is bound to its row, and came later.
_REGISTER: Final = """
INSERT INTO destinations (id, tenant, name, url, policy, headers, paused, disabled_reason,
                          concurrency, rate, created_ms, removed_ms)
SELECT ?, tenant, ?, url, policy, headers, paused, disabled_reason, concurrency, rate, created_ms,
       removed_ms
FROM destinations WHERE id = ?
"""
_SERVER: Final = """
INSERT INTO destinations (id, tenant, url, created_ms, last_url, last_url_ms)
SELECT ?, tenant, ?, created_ms, url, created_ms FROM destinations WHERE id = ?
ON CONFLICT DO NOTHING
"""
# The first of several URLs brings its lane's window and health.
_LANE: Final = """
INSERT INTO lanes (id, tenant, paused, doomed, concurrency, rate, paced_ms, served_ms, "window",
                   failures, failing_since_ms, openings, held_until_ms, held_reason)
SELECT ?, tenant, paused, doomed, concurrency, rate, paced_ms, served_ms, "window", failures,
       failing_since_ms, openings, held_until_ms, held_reason
FROM lanes WHERE id = ?
ON CONFLICT DO NOTHING
"""
_MOVE: Final = (
    "UPDATE callbacks SET destination = ? WHERE destination = ? AND class IN (0, 1, 2) "
    "AND state = 'pending'",
    "UPDATE callbacks SET destination = ? WHERE destination = ? AND state = 'sending'",
)


def began_ms(tx: Tx) -> int | None:
    """Return when this database was upgraded to destinations that are servers; None for one that
    never knew others."""
    row = tx.one("SELECT began_ms FROM upgrades WHERE what = 'lanes'")
    return None if row is None else int(row[0])


def is_due(tx: Tx) -> bool:
    """Whether there is something left to do."""
    sql = "SELECT 1 FROM upgrades WHERE what = 'lanes' AND done_ms IS NULL"
    return tx.one(sql) is not None


def move_slice(tx: Tx, *, now_ms: int, limit: int = SLICE) -> int:
    """Turn some more destinations of the earlier rule into what they are now; returns how many, 0
    once all are done."""
    earlier = tx.all(_EARLIER, limit)
    if not earlier:
        tx.run("UPDATE upgrades SET done_ms = ? WHERE what = 'lanes'", now_ms)
        return 0
    touched = {_move(tx, row) for row in earlier} - {None}
    lanes.refresh(tx, {lane for lane in touched if lane is not None})
    return len(earlier)


def _move(tx: Tx, row: Row) -> str | None:
    """Return the lane that a destination's work is on from now on; None where it has none."""
    earlier, tenant, url, removed_ms, settings = row
    if settings:
        name = _free_name(tx, tenant, earlier)
        lane = destination = destination_id(tenant, name=name)
        tx.run(_REGISTER, destination, name, earlier)
    else:
        lane = lane_id(tenant, url)
        destination = destination_of(lane)
        tx.run(_SERVER, destination, server_of(url), earlier)
    if removed_ms is None:
        tx.run(
            "INSERT INTO aliases (id, tenant, destination) VALUES (?, ?, ?)",
            earlier,
            tenant,
            destination,
        )
    made = tx.run(_LANE, lane, earlier)
    for sql in _MOVE:
        tx.run(sql, lane, earlier)
    tx.run("DELETE FROM lanes WHERE id = ?", earlier)
    tx.run("DELETE FROM destinations WHERE id = ?", earlier)
    known = made or tx.one("SELECT 1 FROM lanes WHERE id = ?", lane)
    return lane if known else None


def _free_name(tx: Tx, tenant: str, earlier: str) -> str:
    """Return `migrated-` and the first digits of the id that it had, more of them where that name
    is taken."""
    digits = earlier.removeprefix("ds_")
    for count in range(_NAME_CHARS, len(digits)):
        name = f"migrated-{digits[:count]}"
        id = destination_id(tenant, name=name)
        if not tx.one("SELECT 1 FROM destinations WHERE id = ?", id):
            return name
    return f"migrated-{digits}"
