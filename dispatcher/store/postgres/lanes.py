"""The lanes of the PostgreSQL store: kept exact by recomputing, at the end of each commit, every
lane that the commit touched from its deliveries. Nothing is counted up and down.

Differs: a lane's row is also the lock of its deliveries. Whoever changes the state of a delivery
holds its lane, all lanes are locked in the order of their ids, tenants' turns last: so what one
commit computes no other can make wrong before it is visible, and nobody waits in a circle.
"""

from collections.abc import Iterable
from typing import Final

from dispatcher.store.postgres.tx import PostgresTx, ids

LOCK: Final = """
SELECT id FROM lanes WHERE id = ANY(?::text[]) ORDER BY id FOR UPDATE
"""

_MAKE: Final = """
INSERT INTO lanes (id, tenant, paused, doomed, concurrency, rate, "window", served_ms)
SELECT id, tenant, paused, disabled_reason, coalesce(concurrency, v.most), rate,
       least(coalesce(concurrency, v.most), v.first), v.now_ms
FROM (SELECT ?::integer, ?::integer, ?::bigint) v(most, first, now_ms), destinations
WHERE id = ANY(?::text[])
ORDER BY id
ON CONFLICT (id) DO NOTHING
"""

# Differs: `greatest` passes over NULLs, where SQLite's `max` gives NULL.
REFRESH: Final = """
WITH due AS MATERIALIZED (
    SELECT l.id,
           l.paused = 0 AND l.doomed IS NULL AND l."window" > (SELECT count(*) FROM callbacks
               WHERE destination = l.id AND state = 'sending') AS free,
           greatest(l.held_until_ms, l.served_ms, CASE WHEN l.rate IS NULL THEN 0
               ELSE floor(l.paced_ms + 1000 / l.rate)::bigint + 1 END) AS earliest,
           (SELECT min(due_ms) FROM callbacks
               WHERE destination = l.id AND class = 0 AND state = 'pending') AS high,
           (SELECT min(due_ms) FROM callbacks
               WHERE destination = l.id AND class = 1 AND state = 'pending') AS normal,
           (SELECT min(due_ms) FROM callbacks
               WHERE destination = l.id AND class = 2 AND state = 'pending') AS replay
    FROM lanes l WHERE l.id = ANY(?::text[])
), ready AS MATERIALIZED (
    SELECT id, CASE WHEN free AND high IS NOT NULL THEN greatest(high, earliest) END AS high,
               CASE WHEN free AND normal IS NOT NULL THEN greatest(normal, earliest) END AS normal,
               CASE WHEN free AND replay IS NOT NULL THEN greatest(replay, earliest) END AS replay
    FROM due
)
UPDATE lanes SET ready_high = r.high, ready_normal = r.normal, ready_replay = r.replay
FROM ready r
WHERE lanes.id = r.id AND (lanes.ready_high IS DISTINCT FROM r.high
    OR lanes.ready_normal IS DISTINCT FROM r.normal OR lanes.ready_replay IS DISTINCT FROM r.replay)
RETURNING lanes.tenant
"""

_LOCK_TURNS: Final = """
SELECT tenant FROM turns WHERE tenant = ANY(?::text[]) ORDER BY tenant FOR UPDATE
"""

_TURN: Final = """
(SELECT greatest(n.served_ms, min({ready})) FROM lanes
 WHERE tenant = n.tenant AND {ready} IS NOT NULL HAVING min({ready}) IS NOT NULL)
"""

# Differs: one statement, since the turn's own `served_ms` is moved here and not by the claim: the
# claim would hold the tenant's row for the rest of its commit.
TURNS: Final = f"""
WITH now AS MATERIALIZED (
    SELECT tenant, CASE WHEN tenant = ANY(?::text[]) THEN ?::bigint ELSE served_ms END AS served_ms
    FROM turns WHERE tenant = ANY(?::text[])
), next AS MATERIALIZED (
    SELECT n.tenant, n.served_ms, {_TURN.format(ready="ready_high")} AS high,
           {_TURN.format(ready="ready_normal")} AS normal,
           {_TURN.format(ready="ready_replay")} AS replay
    FROM now n
)
UPDATE turns t SET served_ms = n.served_ms, ready_high = n.high, ready_normal = n.normal,
                   ready_replay = n.replay
FROM next n
WHERE t.tenant = n.tenant AND (t.served_ms <> n.served_ms OR t.ready_high IS DISTINCT FROM n.high
    OR t.ready_normal IS DISTINCT FROM n.normal OR t.ready_replay IS DISTINCT FROM n.replay)
"""

NEXT: Final = """
SELECT least(
    (SELECT min(ready_high) FROM turns WHERE ready_high IS NOT NULL),
    (SELECT min(ready_normal) FROM turns WHERE ready_normal IS NOT NULL),
    (SELECT min(ready_replay) FROM turns WHERE ready_replay IS NOT NULL))
"""


def lock(tx: PostgresTx, lanes: Iterable[str]) -> None:
    """Hold those of these lanes that there are until the end of the transaction."""
    wanted = ids(lanes)
    if wanted:
        tx.locked |= {row[0] for row in tx.all(LOCK, wanted)}


def make(
    tx: PostgresTx, lanes: Iterable[str], *, concurrency: int, window: int, now_ms: int
) -> None:
    """Make lanes for destinations that have none, with the limits their destinations set.

    Differs: and hold them, ours or one that another process made meanwhile.
    """
    wanted = ids(lanes)
    tx.run(_MAKE, concurrency, window, now_ms, wanted)
    lock(tx, wanted)
    tx.run(
        "INSERT INTO turns (tenant) SELECT DISTINCT tenant FROM destinations "
        "WHERE id = ANY(?::text[]) ORDER BY tenant ON CONFLICT DO NOTHING",
        wanted,
    )


def refresh(tx: PostgresTx, lanes: Iterable[str], served_tenants: Iterable[str] = ()) -> int:
    """Recompute when these lanes, and their tenants, are next ready; how many lanes changed."""
    touched = ids(lanes)
    lock(tx, set(touched) - tx.locked)
    changed = tx.write(REFRESH, touched) if touched else []
    served = ids(served_tenants)
    refresh_turns(tx, {*(row[0] for row in changed), *served}, served)
    return len(changed)


def refresh_turns(tx: PostgresTx, tenants: Iterable[str], served: Iterable[str] = ()) -> None:
    """Recompute when these tenants are next ready.

    Differs: first the locks, then a statement that sees what their last holders left.
    """
    wanted = ids(tenants)
    if wanted:
        tx.all(_LOCK_TURNS, wanted)
        tx.run(TURNS, ids(served), tx.served_ms, wanted)


def mend(tx: PostgresTx, after: str, *, limit: int, idle_since_ms: int) -> tuple[int, str | None]:
    """Compare lanes with their deliveries and repair what disagrees; forget idle ones.

    Returns how many disagreed, and the id to go on after (None at the end).
    """
    found = [row[0] for row in tx.all(SLICE, after, limit)]
    held = [lane for lane in found if lane in tx.locked]
    disagreed = refresh(tx, held)
    forgotten = [row[0] for row in tx.write(_FORGET_LANES, held, idle_since_ms)]
    if forgotten:
        tx.run(_FORGET_DESTINATIONS, forgotten)
    return disagreed, found[-1] if len(found) == limit else None


SLICE: Final = "SELECT id FROM lanes WHERE id > ? ORDER BY id LIMIT ?"

_FORGET_LANES: Final = """
DELETE FROM lanes WHERE id = ANY(?::text[]) AND served_ms < ?
    AND ready_high IS NULL AND ready_normal IS NULL AND ready_replay IS NULL
    AND NOT EXISTS (SELECT 1 FROM callbacks WHERE destination = lanes.id
                    AND class IN (0, 1, 2) AND state = 'pending')
    AND NOT EXISTS (SELECT 1 FROM callbacks WHERE destination = lanes.id AND state = 'sending')
RETURNING id
"""

# One that nobody registered or configured is known by its callbacks alone. Differs: only together
# with its lane, whose lock keeps every submit to it waiting until both are gone.
_FORGET_DESTINATIONS: Final = """
DELETE FROM destinations WHERE id = ANY(?::text[])
    AND name IS NULL AND paused = 0 AND disabled_reason IS NULL AND concurrency IS NULL
    AND rate IS NULL AND policy IS NULL AND headers = '[]'
"""
