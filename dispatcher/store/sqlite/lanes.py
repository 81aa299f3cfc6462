"""The lanes of the SQLite store: kept exact by recomputing, at the end of each commit, every lane
that the commit touched from its deliveries. Nothing is counted up and down."""

from collections.abc import Iterable
from typing import Final

from dispatcher.store.sqlite.tx import ids
from dispatcher.store.tx import Tx

_MAKE: Final = """
INSERT INTO lanes (id, tenant, paused, doomed, concurrency, rate, window, served_ms)
SELECT id, tenant, paused, disabled_reason, coalesce(concurrency, ?1), rate,
       min(coalesce(concurrency, ?1), ?2), ?3
FROM destinations WHERE id IN (SELECT value FROM json_each(?4))
ON CONFLICT (id) DO NOTHING
"""

# "Materialized": else SQLite flattens the look-ups into the WHERE and does each of them twice.
REFRESH: Final = """
WITH due AS MATERIALIZED (
    SELECT l.id,
           NOT l.paused AND l.doomed IS NULL AND l.window > (SELECT count(*) FROM callbacks
               WHERE destination = l.id AND state = 'sending') AS free,
           max(l.held_until_ms, l.served_ms, CASE WHEN l.rate IS NULL THEN 0
               ELSE CAST(l.paced_ms + 1000 / l.rate AS INTEGER) + 1 END) AS earliest,
           (SELECT min(due_ms) FROM callbacks
               WHERE destination = l.id AND class = 0 AND state = 'pending') AS high,
           (SELECT min(due_ms) FROM callbacks
               WHERE destination = l.id AND class = 1 AND state = 'pending') AS normal,
           (SELECT min(due_ms) FROM callbacks
               WHERE destination = l.id AND class = 2 AND state = 'pending') AS replay
    FROM lanes l WHERE l.id IN (SELECT value FROM json_each(?))
), ready AS MATERIALIZED (
    SELECT id, CASE WHEN free THEN max(high, earliest) END AS high,
               CASE WHEN free THEN max(normal, earliest) END AS normal,
               CASE WHEN free THEN max(replay, earliest) END AS replay
    FROM due
)
UPDATE lanes SET ready_high = r.high, ready_normal = r.normal, ready_replay = r.replay
FROM ready r
WHERE lanes.id = r.id AND (lanes.ready_high IS NOT r.high
    OR lanes.ready_normal IS NOT r.normal OR lanes.ready_replay IS NOT r.replay)
"""

_TURN: Final = """
max(served_ms, (SELECT min({ready}) FROM lanes
                WHERE tenant = turns.tenant AND {ready} IS NOT NULL))
"""

_TURNS: Final = f"""
UPDATE turns SET ready_high = {_TURN.format(ready="ready_high")},
                 ready_normal = {_TURN.format(ready="ready_normal")},
                 ready_replay = {_TURN.format(ready="ready_replay")}
WHERE tenant IN (SELECT tenant FROM lanes WHERE id IN (SELECT value FROM json_each(?)))
   OR tenant IN (SELECT value FROM json_each(?))
"""

_NEXT: Final = """
SELECT min(ready) FROM (
    SELECT min(ready_high) AS ready FROM turns WHERE ready_high IS NOT NULL
    UNION ALL SELECT min(ready_normal) FROM turns WHERE ready_normal IS NOT NULL
    UNION ALL SELECT min(ready_replay) FROM turns WHERE ready_replay IS NOT NULL)
"""


def make(tx: Tx, lanes: Iterable[str], *, concurrency: int, window: int, now_ms: int) -> None:
    """Make lanes for destinations that have none, with the limits their destinations set."""
    wanted = ids(lanes)
    tx.run(_MAKE, concurrency, window, now_ms, wanted)
    tx.run(
        "INSERT INTO turns (tenant) SELECT DISTINCT tenant FROM destinations "
        "WHERE id IN (SELECT value FROM json_each(?)) ON CONFLICT DO NOTHING",
        wanted,
    )


def refresh(tx: Tx, lanes: Iterable[str], served_tenants: Iterable[str] = ()) -> int:
    """Recompute when these lanes, and their tenants, are next ready; how many lanes changed."""
    touched, served = ids(lanes), ids(served_tenants)
    tx.run(REFRESH, touched)
    row = tx.one("SELECT changes()")  # sqlite3 counts no rows for a statement that starts WITH
    changed = 0 if row is None else int(row[0])
    if changed or served != "[]":
        tx.run(_TURNS, touched, served)
    return changed


def next_ready_ms(tx: Tx) -> int | None:
    """When the next work can be claimed, in the future or the past; None when nothing waits."""
    row = tx.one(_NEXT)
    return None if row is None else row[0]


def mend(tx: Tx, after: str, *, limit: int, idle_since_ms: int) -> tuple[int, str | None]:
    """Compare lanes with their deliveries and repair what disagrees; forget idle ones.

    Returns how many disagreed, and the id to go on after (None at the end).
    """
    found = [
        row[0]
        for row in tx.all("SELECT id FROM lanes WHERE id > ? ORDER BY id LIMIT ?", after, limit)
    ]
    disagreed = refresh(tx, found)
    tx.run(_FORGET_LANES, ids(found), idle_since_ms)
    tx.run(_FORGET_DESTINATIONS, ids(found))
    return disagreed, found[-1] if len(found) == limit else None


_FORGET_LANES: Final = """
DELETE FROM lanes WHERE id IN (SELECT value FROM json_each(?)) AND served_ms < ?
    AND ready_high IS NULL AND ready_normal IS NULL AND ready_replay IS NULL
    AND NOT EXISTS (SELECT 1 FROM callbacks WHERE destination = lanes.id
                    AND class IN (0, 1, 2) AND state = 'pending')
    AND NOT EXISTS (SELECT 1 FROM callbacks WHERE destination = lanes.id AND state = 'sending')
"""

# One that nobody registered or configured is known by its callbacks alone.
_FORGET_DESTINATIONS: Final = """
DELETE FROM destinations WHERE id IN (SELECT value FROM json_each(?))
    AND name IS NULL AND NOT paused AND disabled_reason IS NULL AND concurrency IS NULL
    AND rate IS NULL AND policy IS NULL AND headers = '[]'
    AND NOT EXISTS (SELECT 1 FROM lanes WHERE lanes.id = destinations.id)
"""
