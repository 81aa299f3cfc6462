"""What is SQLite's own of the verbs: `Statements` of `store/tx.py` tells what each is for. Lists
come as JSON; rows that are written go one by one (`executemany`: measured at a third of the CPU of
`json_each` or many-row VALUES)."""

from collections.abc import Iterable, Sequence, Set
from typing import Final

from dispatcher.fairness import RATE_MIN
from dispatcher.store.claim import READY
from dispatcher.store.lanes import NEVER_MS, SERVER_CAP, SERVER_ROOM, SERVERS
from dispatcher.store.rows import LEASED, NEW_CALLBACK
from dispatcher.store.tx import Row, Tx

# --- lanes ---


_ANY_BLOCKED: Final = "SELECT 1 FROM lanes WHERE blocked = 1 LIMIT 1"
_BLOCKED: Final = """
SELECT l.id FROM (SELECT DISTINCT substr(value, 1, 35) AS server FROM json_each(?)) s
JOIN lanes l ON l.id > s.server AND l.id < s.server || '/' AND l.blocked = 1
"""


def hold_servers(tx: Tx, servers: Set[str]) -> None:
    """Differs: nobody else is there to hold one."""


def blocked(tx: Tx, lanes: Iterable[str]) -> set[str]:
    """Return the lanes beside these whose work waits for their common server: mostly none does."""
    if tx.one(_ANY_BLOCKED) is None:
        return set()
    return {row[0] for row in tx.all(_BLOCKED, tx.ids(lanes))}


MAKE_LANES: Final = """
INSERT INTO lanes (id, tenant, paused, doomed, concurrency, rate, window, served_ms)
SELECT j.value, d.tenant, d.paused, d.disabled_reason, coalesce(d.concurrency, ?1), d.rate,
       min(coalesce(d.concurrency, ?1), ?2), ?3
FROM json_each(?4) j JOIN destinations d ON d.id = substr(j.value, 1, 35)
WHERE true ON CONFLICT (id) DO NOTHING
RETURNING id
"""

MAKE_SCHEDULES: Final = """
INSERT INTO turns (tenant, served_ms) SELECT DISTINCT tenant, ?1 FROM destinations
WHERE id IN (SELECT substr(value, 1, 35) FROM json_each(?2)) ON CONFLICT DO NOTHING
"""
_MAKE_AGAIN: Final = """
INSERT INTO turns (tenant) SELECT value FROM json_each(?) WHERE true ON CONFLICT DO NOTHING
"""

_FIRST_DUE: Final = """(SELECT min(due_ms) FROM callbacks
               WHERE destination = j.value AND class = {} AND state = 'pending')"""

# Most lanes of most commits have nothing waiting: of those nothing more is looked up.
# "Materialized": else SQLite flattens the look-ups into the WHERE and does each of them twice.
_REFRESH_LANES: Final = f"""
WITH due AS MATERIALIZED (
    SELECT j.value AS id, {_FIRST_DUE.format(0)} AS high, {_FIRST_DUE.format(1)} AS normal,
           {_FIRST_DUE.format(2)} AS replay
    FROM json_each(?) j
), server AS MATERIALIZED (
    {SERVERS} WHERE d.id IN (SELECT substr(id, 1, 35) FROM due
        WHERE coalesce(high, normal, replay) IS NOT NULL AND length(id) > 35)
), waiting AS MATERIALIZED (
    SELECT due.id, due.high, due.normal, due.replay,
           NOT l.paused AND l.doomed IS NULL AND l.window > (SELECT count(*) FROM callbacks
               WHERE destination = l.id AND state = 'sending') AS free,
           coalesce({SERVER_ROOM} <= 0, 0) AS server_full,
           coalesce(s.held_until_ms, 0) AS server_held_ms,
           max(l.held_until_ms, l.served_ms, CASE WHEN l.rate IS NULL THEN 0
               ELSE CAST(min({NEVER_MS}, coalesce(s.paced_ms, l.paced_ms)
                             + 1000 / max(l.rate, {RATE_MIN})) AS INTEGER) + 1
               END) AS earliest
    FROM due JOIN lanes l ON l.id = due.id LEFT JOIN server s ON s.id = substr(l.id, 1, 35)
    WHERE coalesce(due.high, due.normal, due.replay) IS NOT NULL
), ready AS (
    SELECT id,
           CASE WHEN free AND NOT server_full
               THEN max(high, earliest, server_held_ms) END AS high,
           CASE WHEN free AND NOT server_full
               THEN max(normal, earliest, server_held_ms) END AS normal,
           CASE WHEN free AND NOT server_full
               THEN max(replay, earliest, server_held_ms) END AS replay,
           free AND (server_full OR server_held_ms > earliest) AS blocked
    FROM waiting
    UNION ALL
    SELECT id, NULL, NULL, NULL, 0 FROM due WHERE coalesce(high, normal, replay) IS NULL
)
UPDATE lanes SET ready_high = r.high, ready_normal = r.normal, ready_replay = r.replay,
                 blocked = r.blocked
FROM ready r
WHERE lanes.id = r.id AND (lanes.ready_high IS NOT r.high OR lanes.blocked <> r.blocked
    OR lanes.ready_normal IS NOT r.normal OR lanes.ready_replay IS NOT r.replay)
RETURNING tenant
"""


def refresh_lanes(tx: Tx, lanes: Set[str]) -> list[Row]:
    """Recompute when these lanes are next ready; return the tenant of each that changed."""
    return tx.write(_REFRESH_LANES, tx.ids(lanes))


_NEXT_OF_TENANT: Final = """
max(served_ms, (SELECT min({ready}) FROM lanes
                WHERE tenant = turns.tenant AND {ready} IS NOT NULL))
"""

_REFRESH_SCHEDULES: Final = f"""
UPDATE turns SET ready_high = {_NEXT_OF_TENANT.format(ready="ready_high")},
                 ready_normal = {_NEXT_OF_TENANT.format(ready="ready_normal")},
                 ready_replay = {_NEXT_OF_TENANT.format(ready="ready_replay")}
WHERE tenant IN (SELECT value FROM json_each(?))
"""


def refresh_schedules(tx: Tx, tenants: Set[str], served: Set[str], served_ms: int) -> None:
    """Recompute when these tenants are next ready; those that were served go behind others."""
    tx.many("UPDATE turns SET served_ms = ? WHERE tenant = ?", [(served_ms, t) for t in served])
    if tx.run(_REFRESH_SCHEDULES, tx.ids(tenants)) < len(tenants):
        tx.run(_MAKE_AGAIN, tx.ids(tenants))
        refresh_schedules(tx, tenants, served, served_ms)


FORGET_SCHEDULES: Final = """
DELETE FROM turns WHERE tenant IN (SELECT value FROM json_each(?)) AND served_ms < ?
    AND ready_high IS NULL AND ready_normal IS NULL AND ready_replay IS NULL
"""

NEXT_READY: Final = """
SELECT min(ready) FROM (
    SELECT min(ready_high) AS ready FROM turns WHERE ready_high IS NOT NULL
    UNION ALL SELECT min(ready_normal) FROM turns WHERE ready_normal IS NOT NULL
    UNION ALL SELECT min(ready_replay) FROM turns WHERE ready_replay IS NOT NULL)
"""

FORGET_LANES: Final = """
DELETE FROM lanes WHERE id IN (SELECT value FROM json_each(?)) AND served_ms < ?
    AND ready_high IS NULL AND ready_normal IS NULL AND ready_replay IS NULL
    AND NOT EXISTS (SELECT 1 FROM callbacks WHERE destination = lanes.id
                    AND class IN (0, 1, 2) AND state = 'pending')
    AND NOT EXISTS (SELECT 1 FROM callbacks WHERE destination = lanes.id AND state = 'sending')
RETURNING id
"""

# One that nobody registered or configured is known by its callbacks alone.
FORGET_DESTINATIONS: Final = """
DELETE FROM destinations WHERE id IN (SELECT value FROM json_each(?))
    AND coalesce(last_url_ms, 0) < ?
    AND name IS NULL AND paused = 0 AND disabled_reason IS NULL AND concurrency IS NULL
    AND rate IS NULL AND policy IS NULL AND headers = '[]'
    AND NOT EXISTS (SELECT 1 FROM lanes WHERE id > destinations.id AND id < destinations.id || '/')
"""

# --- submit ---

TARGETS: Final = """
SELECT j.value, d.id IS NOT NULL, d.removed_ms, d.disabled_reason, d.url, d.policy, d.headers,
       l.id IS NOT NULL,
       NOT coalesce(l.paused, d.paused, 0) AND coalesce(l.held_until_ms, 0) <= ?1
       AND coalesce(d.held_until_ms, 0) <= ?1
       AND coalesce(l.rate, d.rate) IS NULL
       AND coalesce((SELECT min(due_ms) FROM callbacks WHERE destination = j.value
                     AND class = 0 AND state = 'pending'), ?1 + 1) > ?1
       AND coalesce((SELECT min(due_ms) FROM callbacks WHERE destination = j.value
                     AND class = 1 AND state = 'pending'), ?1 + 1) > ?1,
       coalesce(l.window, min(coalesce(d.concurrency, ?2), ?3))
       - (SELECT count(*) FROM callbacks WHERE destination = j.value AND state = 'sending'),
       coalesce(d.epoch, 0),
       CASE WHEN length(j.value) > 35
           THEN CASE WHEN d.openings > 0 THEN 1 ELSE coalesce(d.concurrency, ?2) END
               - (SELECT count(*) FROM callbacks WHERE destination > substr(j.value, 1, 35)
                  AND destination < substr(j.value, 1, 35) || '/' AND state = 'sending') END,
       CASE WHEN d.openings > 0 THEN 1 ELSE coalesce(d.concurrency, ?2) END,
       d.last_url, coalesce(d.last_url_ms, 0)
FROM json_each(?4) j
LEFT JOIN destinations d ON d.id = substr(j.value, 1, 35)
LEFT JOIN lanes l ON l.id = j.value
"""

INSERT_DESTINATIONS: Final = """
INSERT INTO destinations (id, tenant, url, created_ms, last_url, last_url_ms)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET last_url = excluded.last_url, last_url_ms = excluded.last_url_ms
"""

_PLACE: Final = {name: f"?{n}" for n, name in enumerate(NEW_CALLBACK, 1)}
_INSERT_CALLBACK: Final = f"""
INSERT INTO callbacks ({", ".join(NEW_CALLBACK)}, state, class, claim)
VALUES ({", ".join(_PLACE.values())},
        CASE WHEN {_PLACE["lease_ms"]} IS NULL THEN 'pending' ELSE 'sending' END,
        {_PLACE["priority"]}, {_PLACE["lease_ms"]} IS NOT NULL)
ON CONFLICT DO NOTHING
"""


_INSERT_PAYLOAD: Final = """
INSERT INTO payloads (callback, content_type, headers, body, kid) VALUES (?, ?, ?, ?, ?)
"""


def insert_callbacks(tx: Tx, rows: Sequence[Row], payloads: Sequence[Row]) -> set[str]:
    """Store rows of `rows.NEW_CALLBACK` whose key is free, with their payloads."""
    ids = {row[0] for row in rows}
    if tx.many(_INSERT_CALLBACK, rows) != len(rows):
        found = "SELECT id FROM callbacks WHERE id IN (SELECT value FROM json_each(?))"
        ids = {row[0] for row in tx.all(found, tx.ids(ids))}
    tx.many(_INSERT_PAYLOAD, [row for row in payloads if row[0] in ids])
    return ids


INSERT_TAGS: Final = "INSERT INTO tags (tenant, key, value, callback) VALUES (?, ?, ?, ?)"

# --- claim ---

# Two tenants of each class are enough to know, however many there are.
WAITING_TENANTS: Final = "SELECT count(*) FROM ({})".format(
    " UNION ".join(
        f"SELECT * FROM (SELECT tenant FROM turns WHERE {ready} <= ? LIMIT 2)"
        for ready in READY.values()
    )
)

_LANES: Final = """
WITH ready AS MATERIALIZED (
    SELECT l.*, t.key AS place, l.{ready} AS ready_ms
    FROM json_each(?1) t
    JOIN lanes l ON l.id IN (SELECT id FROM lanes WHERE tenant = t.value AND {ready} <= ?2
                             ORDER BY {ready} LIMIT ?3)
), server AS MATERIALIZED (
    {servers} WHERE d.id IN (SELECT substr(id, 1, 35) FROM ready WHERE length(id) > 35)
)
SELECT l.id, l.tenant, l.window - (SELECT count(*) FROM callbacks
           WHERE destination = l.id AND state = 'sending'), l.rate, l.paced_ms,
       CASE WHEN s.held_until_ms > ?2 THEN 0 ELSE {room} END, {cap}
FROM ready l LEFT JOIN server s ON s.id = substr(l.id, 1, 35)
ORDER BY l.place, l.ready_ms
"""


def ready_lanes(tx: Tx, ready: str, tenants: Sequence[str], now_ms: int, limit: int) -> list[Row]:
    """Return at most `limit` ready lanes of each tenant, in the order in which they are served."""
    sql = _LANES.format(ready=ready, servers=SERVERS, room=SERVER_ROOM, cap=SERVER_CAP)
    return tx.all(sql, tx.ids(tenants), now_ms, limit)


DUE: Final = """
SELECT c.id, c.destination, c.payload_size, coalesce(c.policy, d.policy)
FROM json_each(?1) j
JOIN callbacks c ON c.id IN (
    SELECT id FROM callbacks WHERE destination = j.value AND class = ?2 AND state = 'pending'
    AND due_ms <= ?3 ORDER BY due_ms LIMIT ?4)
JOIN destinations d ON d.id = substr(c.destination, 1, 35)
ORDER BY c.destination, c.due_ms
"""

SERVE_LANES: Final = "UPDATE lanes SET served_ms = ?, paced_ms = ? WHERE id = ?"

_LEASE: Final = """
UPDATE callbacks SET state = 'sending', due_ms = NULL, claim = claim + 1, lease_ms = ?
WHERE id = ?
"""

# Differs: found only afterwards to have nothing to send.
_UNLEASE: Final = """
UPDATE callbacks SET state = 'pending', lease_ms = NULL, claim = claim - 1 WHERE id = ?
"""

_LEASED: Final = f"""
SELECT {LEASED}
FROM json_each(?) j
JOIN callbacks c ON c.id = j.value
JOIN destinations d ON d.id = substr(c.destination, 1, 35)
JOIN payloads p ON p.callback = c.id
"""


def lease(tx: Tx, leases: Sequence[tuple[int, str]]) -> list[Row]:
    """Lease deliveries (lease's end, id); return rows of `rows.LEASED` in their order."""
    tx.many(_LEASE, leases)
    leased = tx.all(_LEASED, tx.ids(callback for _, callback in leases))
    if len(leased) < len(leases):
        there = {row[0] for row in leased}
        tx.many(_UNLEASE, [(callback,) for _, callback in leases if callback not in there])
    return leased


# --- keys ---

SET_KEYS_USED: Final = """
UPDATE keys SET used_ms = max(coalesce(used_ms, 0), ?1),
    previous_used_ms = coalesce(?2, previous_used_ms)
WHERE id = ?3
  AND (coalesce(used_ms, 0) <= ?1 - 60000 OR coalesce(previous_used_ms, 0) <= ?2 - 60000)
"""

# --- settle ---

_HELD: Final = """
SELECT c.id, c.claim, c.cancelling, c.state = 'sending'
FROM json_each(?) j JOIN callbacks c ON c.id = j.value
"""
_HEALTH: Final = """
SELECT l.id, d.epoch, l.concurrency, d.failures, l.window, l.failures, l.failing_since_ms,
       l.openings, l.held_until_ms, l.held_reason, l.turned_away, l.threshold, l.last_error
FROM lanes l JOIN destinations d ON d.id = substr(l.id, 1, 35)
WHERE l.id IN (SELECT value FROM json_each(?))
"""


def held(tx: Tx, callbacks: Set[str], lanes: Set[str]) -> tuple[list[Row], list[Row]]:
    """Return the claims of these callbacks, and the health of these lanes."""
    return tx.all(_HELD, tx.ids(callbacks)), tx.all(_HEALTH, tx.ids(lanes))


RECORDED: Final = """
SELECT callback, n, started_ms, duration_ms, outcome, status_code FROM attempts
WHERE callback IN (SELECT value FROM json_each(?))
"""

_SETTLE: Final = """
UPDATE callbacks SET state = ?, due_ms = ?, lease_ms = NULL, tries = ?, attempts = ?,
    finished_ms = ?, last_error = ?, cancelling = 0, extra_bytes = extra_bytes + ?
WHERE id = ?
"""

_ATTEMPT: Final = """
INSERT INTO attempts (callback, n, started_ms, duration_ms, outcome, status_code, error, excerpt,
    detail)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def record(tx: Tx, settled: Sequence[Row], attempts: Sequence[Row]) -> None:
    """Store the deliveries' new states, and their attempts."""
    tx.many(_SETTLE, settled)
    tx.many(_ATTEMPT, attempts)


SET_TURNED_AWAY: Final = "UPDATE callbacks SET turned_away = ?, turned_away_ms = ? WHERE id = ?"

SET_HEALTH: Final = """
UPDATE lanes SET window = ?, failures = ?, failing_since_ms = ?, openings = ?, held_until_ms = ?,
    held_reason = ?, turned_away = ?, threshold = ?, last_error = ?
WHERE id = ?
"""
