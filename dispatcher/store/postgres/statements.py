"""What is PostgreSQL's own of the verbs: `Statements` of `store/tx.py` tells what each is for.
Lists come as arrays, and rows that are written as one array a column, in one statement."""

from collections.abc import Iterable, Sequence, Set
from typing import Any, Final

from dispatcher.fairness import RATE_MIN
from dispatcher.ids import destination_of
from dispatcher.store.claim import READY
from dispatcher.store.lanes import NEVER_MS, SERVER_CAP, SERVER_ROOM, SERVERS
from dispatcher.store.rows import LEASED, NEW_CALLBACK
from dispatcher.store.tx import Row, Tx
from receiver.base.db.group_commit import RetryBatch

# --- lanes ---

# Locks, and says whether work of any lane waits for its server: mostly none does.
_LOCK_LANES: Final = """
SELECT id, EXISTS (SELECT 1 FROM lanes WHERE blocked = 1) FROM lanes
WHERE id = ANY(?::text[]) ORDER BY id FOR UPDATE
"""
# Lanes with those beside them whose work waits for the same server (what these leave free is
# theirs), then servers that are waited for, then those that nobody else holds, in one round trip.
# Nobody waits for a server who has one of the last kind already.
_LOCK: Final = """
WITH locked AS (
    SELECT id, blocked = 1 AS blocked FROM lanes
    WHERE id = ANY(ARRAY(
        SELECT unnest(?::text[])
        UNION SELECT l.id FROM (SELECT DISTINCT left(id, 35) AS server FROM unnest(?::text[]) u(id)
                                WHERE length(id) > 35) s
        JOIN lanes l ON l.id > s.server AND l.id < s.server || '/' AND l.blocked = 1
        WHERE EXISTS (SELECT 1 FROM lanes WHERE blocked = 1)))
    ORDER BY id FOR UPDATE
), servers AS (
    SELECT id FROM destinations WHERE id = ANY(?::text[]) ORDER BY id FOR UPDATE
), leased AS (
    SELECT id FROM destinations WHERE id = ANY(?::text[]) ORDER BY id FOR UPDATE SKIP LOCKED
)
SELECT id, blocked FROM locked UNION ALL SELECT id, false FROM servers
UNION ALL SELECT id, false FROM leased
UNION ALL SELECT '', EXISTS (SELECT 1 FROM lanes WHERE blocked = 1)
"""
_LOCK_SERVERS: Final = """
SELECT id FROM destinations WHERE id = ANY(?::text[]) ORDER BY id FOR UPDATE SKIP LOCKED
"""


def hold(tx: Tx, lanes: Set[str]) -> bool:
    """Lock those of these lanes that there are until the end of the transaction, in the order of
    their ids, as the first thing that a commit does. Returns whether work of any lane waits for its
    server: then what is to be held is more, and the transaction to begin again."""
    rows = tx.all(_LOCK_LANES, tx.ids(lanes)) if lanes else []
    tx.held |= {row[0] for row in rows}
    return bool(rows) and rows[0][1]


def hold_all(tx: Tx, lanes: Set[str], servers: Set[str], leased: Set[str]) -> bool:
    """As `hold`, with the lanes beside these whose work waits for the same servers. Then these
    servers, and those that much may be `leased` for, of which what no other process holds: nobody
    waits for one, and what is in flight to it is read by a later statement."""
    if not lanes:
        return False
    ids = tx.ids(lanes)
    *rows, (_, waits) = tx.all(_LOCK, ids, ids, tx.ids(servers), tx.ids(leased - servers))
    tx.held |= {row[0] for row in rows}
    tx.blocked |= {row[0] for row in rows if row[1]}
    return bool(waits)


def hold_servers(tx: Tx, servers: Set[str]) -> None:
    """Lock those of these servers that no other process holds: nobody waits."""
    left = servers - tx.held
    if left:
        tx.held |= {row[0] for row in tx.all(_LOCK_SERVERS, tx.ids(left))}


def blocked(tx: Tx, lanes: Iterable[str]) -> set[str]:
    """Return the lanes beside these whose work waits for their common server. Differs: those that
    were locked with them, in the order of all locks; one that another process blocked meanwhile is
    looked after by the sweeper."""
    servers = {destination_of(lane) for lane in lanes}
    return {lane for lane in tx.blocked if destination_of(lane) in servers}


MAKE_LANES: Final = """
INSERT INTO lanes (id, tenant, paused, doomed, concurrency, rate, "window", served_ms)
SELECT u.id, d.tenant, d.paused, d.disabled_reason, coalesce(d.concurrency, v.preset), d.rate,
       least(coalesce(d.concurrency, v.preset), v.first), v.now_ms
FROM (SELECT ?::integer, ?::integer, ?::bigint) v(preset, first, now_ms), unnest(?::text[]) u(id)
JOIN destinations d ON d.id = left(u.id, 35)
ORDER BY u.id
ON CONFLICT (id) DO NOTHING
RETURNING id
"""

MAKE_SCHEDULES: Final = """
INSERT INTO turns (tenant, served_ms) SELECT DISTINCT tenant, ?::bigint FROM destinations
WHERE id = ANY(ARRAY(SELECT left(id, 35) FROM unnest(?::text[]) u(id)))
ORDER BY tenant ON CONFLICT DO NOTHING
"""
_MAKE_AGAIN: Final = """
INSERT INTO turns (tenant) SELECT tenant FROM unnest(?::text[]) u(tenant) ORDER BY tenant
ON CONFLICT DO NOTHING RETURNING tenant
"""

# Differs: a minimum is a plan of more nodes, each of which costs each commit.
_FIRST_DUE: Final = """(SELECT due_ms FROM callbacks WHERE destination = u.id AND class = {}
            AND state = 'pending' ORDER BY due_ms LIMIT 1)"""

# All but lanes in which nothing waits and that show nothing: those are as they are to be.
_STALE: Final = """
SELECT id FROM lanes WHERE id = ANY(?::text[]) AND (blocked <> 0
    OR ready_high IS NOT NULL OR ready_normal IS NOT NULL OR ready_replay IS NOT NULL
    OR (SELECT class FROM callbacks WHERE destination = lanes.id AND state = 'pending'
        ORDER BY class, due_ms LIMIT 1) IS NOT NULL)
"""
# Differs: `greatest` passes over NULLs, where SQLite's `max` gives NULL.
_REFRESH_LANES: Final = f"""
WITH due AS MATERIALIZED (
    SELECT u.id, {_FIRST_DUE.format(0)} AS high, {_FIRST_DUE.format(1)} AS normal,
           {_FIRST_DUE.format(2)} AS replay
    FROM unnest(?::text[]) u(id)
), server AS MATERIALIZED (
    {SERVERS} WHERE d.id = ANY(ARRAY(SELECT left(id, 35) FROM due
        WHERE coalesce(high, normal, replay) IS NOT NULL AND length(id) > 35))
), waiting AS MATERIALIZED (
    SELECT due.id, due.high, due.normal, due.replay,
           l.paused = 0 AND l.doomed IS NULL AND l."window" > (SELECT count(*) FROM callbacks
               WHERE destination = l.id AND state = 'sending') AS free,
           coalesce({SERVER_ROOM} <= 0, false) AS server_full,
           coalesce(s.held_until_ms, 0) AS server_held_ms,
           greatest(l.held_until_ms, l.served_ms, CASE WHEN l.rate IS NULL THEN 0
               ELSE floor(least({NEVER_MS}, coalesce(s.paced_ms, l.paced_ms)
                                + 1000 / greatest(l.rate, {RATE_MIN})))::bigint + 1
               END) AS earliest
    FROM due JOIN lanes l ON l.id = due.id LEFT JOIN server s ON s.id = left(l.id, 35)
    WHERE coalesce(due.high, due.normal, due.replay) IS NOT NULL
), ready AS (
    SELECT id,
           CASE WHEN free AND NOT server_full AND high IS NOT NULL
               THEN greatest(high, earliest, server_held_ms) END AS high,
           CASE WHEN free AND NOT server_full AND normal IS NOT NULL
               THEN greatest(normal, earliest, server_held_ms) END AS normal,
           CASE WHEN free AND NOT server_full AND replay IS NOT NULL
               THEN greatest(replay, earliest, server_held_ms) END AS replay,
           (free AND (server_full OR server_held_ms > earliest))::integer AS blocked
    FROM waiting
    UNION ALL
    SELECT id, NULL, NULL, NULL, 0 FROM due WHERE coalesce(high, normal, replay) IS NULL
)
UPDATE lanes SET ready_high = r.high, ready_normal = r.normal, ready_replay = r.replay,
                 blocked = r.blocked
FROM ready r
WHERE lanes.id = r.id AND (lanes.ready_high IS DISTINCT FROM r.high OR lanes.blocked <> r.blocked
    OR lanes.ready_normal IS DISTINCT FROM r.normal OR lanes.ready_replay IS DISTINCT FROM r.replay)
RETURNING lanes.tenant
"""


def refresh_lanes(tx: Tx, lanes: Set[str]) -> list[Row]:
    """Differs: where the commit itself left nothing waiting, it first looks whether anything else
    waits in these lanes, or was to: mostly that is all."""
    ids = tx.ids(lanes)
    if all(state != "pending" for _, state in tx.changes.counts):
        ids = [row[0] for row in tx.all(_STALE, ids)]
    return tx.write(_REFRESH_LANES, ids) if ids else []


_LOCK_SCHEDULES: Final = """
SELECT tenant FROM turns WHERE tenant = ANY(?::text[]) ORDER BY tenant FOR UPDATE
"""

_NEXT_OF_TENANT: Final = """
(SELECT greatest(n.served_ms, min({ready})) FROM lanes
 WHERE tenant = n.tenant AND {ready} IS NOT NULL HAVING min({ready}) IS NOT NULL)
"""

_REFRESH_SCHEDULES: Final = f"""
WITH now AS MATERIALIZED (
    SELECT tenant, CASE WHEN tenant = ANY(?::text[]) THEN ?::bigint ELSE served_ms END AS served_ms
    FROM turns WHERE tenant = ANY(?::text[])
), next AS MATERIALIZED (
    SELECT n.tenant, n.served_ms, {_NEXT_OF_TENANT.format(ready="ready_high")} AS high,
           {_NEXT_OF_TENANT.format(ready="ready_normal")} AS normal,
           {_NEXT_OF_TENANT.format(ready="ready_replay")} AS replay
    FROM now n
)
UPDATE turns t SET served_ms = n.served_ms, ready_high = n.high, ready_normal = n.normal,
                   ready_replay = n.replay
FROM next n
WHERE t.tenant = n.tenant AND (t.served_ms <> n.served_ms OR t.ready_high IS DISTINCT FROM n.high
    OR t.ready_normal IS DISTINCT FROM n.normal OR t.ready_replay IS DISTINCT FROM n.replay)
"""


def refresh_schedules(tx: Tx, tenants: Set[str], served: Set[str], served_ms: int) -> None:
    """Differs: first the locks, then a statement that sees what their last holders left. Raises
    RetryBatch where another process has made some again: they are to be locked in order."""
    ids = tx.ids(tenants)
    locked = {row[0] for row in tx.all(_LOCK_SCHEDULES, ids)}
    forgotten = tenants - locked
    if forgotten and len(tx.write(_MAKE_AGAIN, tx.ids(forgotten))) < len(forgotten):
        raise RetryBatch("another process made the same schedules at this moment")
    tx.run(_REFRESH_SCHEDULES, tx.ids(served), served_ms, ids)


# Differs: what somebody else changes now is not idle. Whoever waits for one that goes finds that
# it is gone, and makes it again; this transaction itself waits for no schedule any more.
FORGET_SCHEDULES: Final = """
DELETE FROM turns WHERE tenant = ANY(ARRAY(
    SELECT tenant FROM turns WHERE tenant = ANY(?::text[]) AND served_ms < ?
    AND ready_high IS NULL AND ready_normal IS NULL AND ready_replay IS NULL
    FOR UPDATE SKIP LOCKED))
"""

NEXT_READY: Final = """
SELECT least(
    (SELECT min(ready_high) FROM turns WHERE ready_high IS NOT NULL),
    (SELECT min(ready_normal) FROM turns WHERE ready_normal IS NOT NULL),
    (SELECT min(ready_replay) FROM turns WHERE ready_replay IS NOT NULL))
"""

FORGET_LANES: Final = """
DELETE FROM lanes WHERE id = ANY(?::text[]) AND served_ms < ?
    AND ready_high IS NULL AND ready_normal IS NULL AND ready_replay IS NULL
    AND NOT EXISTS (SELECT 1 FROM callbacks WHERE destination = lanes.id
                    AND class IN (0, 1, 2) AND state = 'pending')
    AND NOT EXISTS (SELECT 1 FROM callbacks WHERE destination = lanes.id AND state = 'sending')
RETURNING id
"""

# One that nobody registered or configured is known by its callbacks alone. A submit that makes a
# lane for it writes its `last_url_ms`, by which this one sees that it came in between.
FORGET_DESTINATIONS: Final = """
DELETE FROM destinations WHERE id = ANY(?::text[])
    AND coalesce(last_url_ms, 0) < ?
    AND name IS NULL AND paused = 0 AND disabled_reason IS NULL AND concurrency IS NULL
    AND rate IS NULL AND policy IS NULL AND headers = '[]'
    AND NOT EXISTS (SELECT 1 FROM lanes WHERE id > destinations.id AND id < destinations.id || '/')
"""

# --- submit ---

_NOT_DUE: Final = """coalesce((SELECT due_ms FROM callbacks WHERE destination = j.id AND class = {}
                     AND state = 'pending' ORDER BY due_ms LIMIT 1), n.ms + 1) > n.ms"""
# Differs: a lane's leases and its server's are counted by one walk over both.
TARGETS: Final = f"""
SELECT j.id, d.id IS NOT NULL, d.removed_ms, d.disabled_reason, d.url, d.policy, d.headers,
       l.id IS NOT NULL,
       coalesce(l.paused, d.paused, 0) = 0 AND coalesce(l.held_until_ms, 0) <= n.ms
       AND coalesce(d.held_until_ms, 0) <= n.ms
       AND coalesce(l.rate, d.rate) IS NULL
       AND {_NOT_DUE.format(0)}
       AND {_NOT_DUE.format(1)},
       coalesce(l."window", least(coalesce(d.concurrency, n.concurrency), n.first)) - s.of_lane,
       coalesce(d.epoch, 0),
       CASE WHEN length(j.id) > 35
           THEN CASE WHEN d.openings > 0 THEN 1 ELSE coalesce(d.concurrency, n.concurrency) END
               - s.of_all END,
       CASE WHEN d.openings > 0 THEN 1 ELSE coalesce(d.concurrency, n.concurrency) END,
       d.last_url, coalesce(d.last_url_ms, 0)
FROM (SELECT ?::bigint, ?::integer, ?::integer) n(ms, concurrency, first), unnest(?::text[]) j(id)
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE destination = j.id) AS of_lane, count(*) AS of_all
    FROM callbacks WHERE destination >= left(j.id, 35) AND destination < left(j.id, 35) || '/'
        AND state = 'sending') s
LEFT JOIN destinations d ON d.id = left(j.id, 35)
LEFT JOIN lanes l ON l.id = j.id
"""

INSERT_DESTINATIONS: Final = """
INSERT INTO destinations (id, tenant, url, created_ms, last_url, last_url_ms)
SELECT * FROM unnest(?::text[], ?::text[], ?::text[], ?::bigint[], ?::text[], ?::bigint[])
ON CONFLICT (id) DO UPDATE SET last_url = excluded.last_url, last_url_ms = excluded.last_url_ms
"""

# Differs: both tables in one round trip. Most batches are stored whole, and look nothing up.
_INSERT_CALLBACKS: Final = f"""
WITH stored AS (
    INSERT INTO callbacks ({", ".join(NEW_CALLBACK)}, state, class, claim)
    SELECT {", ".join(NEW_CALLBACK)}, CASE WHEN lease_ms IS NULL THEN 'pending' ELSE 'sending' END,
        priority, CASE WHEN lease_ms IS NULL THEN 0 ELSE 1 END
    FROM unnest({", ".join(f"?::{kind}[]" for kind in NEW_CALLBACK.values())})
        u({", ".join(NEW_CALLBACK)})
    ON CONFLICT DO NOTHING
    RETURNING id
), parts AS (
    INSERT INTO payloads (callback, content_type, headers, body, kid)
    SELECT * FROM unnest(?::text[], ?::text[], ?::text[], ?::bytea[], ?::text[]) u(callback)
    WHERE (SELECT count(*) FROM stored) = ?::bigint OR callback = ANY(ARRAY(SELECT id FROM stored))
)
SELECT id FROM stored
"""
_KEY: Final = list(NEW_CALLBACK).index("key")


def insert_callbacks(tx: Tx, rows: Sequence[Row], payloads: Sequence[Row]) -> set[str]:
    """Differs: in the order of their keys, so that processes with the same keys wait for each
    other in one direction."""
    ordered = sorted(rows, key=lambda row: row[_KEY])
    stored = tx.write(_INSERT_CALLBACKS, *columns(ordered), *columns(payloads), len(rows))
    return {row[0] for row in stored}


INSERT_TAGS: Final = """
INSERT INTO tags (tenant, key, value, callback)
SELECT * FROM unnest(?::text[], ?::text[], ?::text[], ?::text[])
"""

# --- claim ---

# Two tenants of each class are enough to know, however many there are.
WAITING_TENANTS: Final = "SELECT count(*) FROM ({}) waiting".format(
    " UNION ".join(
        f"(SELECT tenant FROM turns WHERE {ready} <= ? ORDER BY {ready} LIMIT 2)"
        for ready in READY.values()
    )
)

# Differs: lanes that another process holds are left to it. They are locked by one statement and
# read by the next: what is in flight is counted as the last holder left it.
_LOCK_READY: Final = """
SELECT l.id
FROM unnest(?::text[]) WITH ORDINALITY t(tenant, place)
CROSS JOIN LATERAL (SELECT id, {ready} AS ready FROM lanes
                    WHERE tenant = t.tenant AND {ready} <= ? ORDER BY {ready} LIMIT ?
                    FOR UPDATE SKIP LOCKED) l
ORDER BY t.place, l.ready
"""

_LANES: Final = f"""
WITH server AS MATERIALIZED (
    {SERVERS} WHERE d.id = ANY(ARRAY(SELECT left(id, 35) FROM unnest(?::text[]) u(id)
                                      WHERE length(id) > 35)))
SELECT l.id, l.tenant, l."window" - (SELECT count(*) FROM callbacks
           WHERE destination = l.id AND state = 'sending'), l.rate, l.paced_ms,
       CASE WHEN s.held_until_ms > ? THEN 0 ELSE {SERVER_ROOM} END, {SERVER_CAP}
FROM unnest(?::text[]) WITH ORDINALITY u(id, place) JOIN lanes l ON l.id = u.id
LEFT JOIN server s ON s.id = left(l.id, 35)
ORDER BY u.place
"""


def ready_lanes(tx: Tx, ready: str, tenants: Sequence[str], now_ms: int, limit: int) -> list[Row]:
    """Return at most `limit` ready lanes of each tenant, in the order in which they are served,
    and hold them from now on."""
    rows = tx.write(_LOCK_READY.format(ready=ready), list(tenants), now_ms, limit)
    locked = [row[0] for row in rows]
    tx.held |= set(locked)
    hold_servers(tx, {destination_of(lane) for lane in locked if destination_of(lane) != lane})
    return tx.all(_LANES, locked, now_ms, locked) if locked else []


DUE: Final = """
SELECT c.id, c.destination, c.payload_size, coalesce(c.policy, d.policy)
FROM unnest(?::text[]) u(destination)
CROSS JOIN LATERAL (SELECT * FROM callbacks WHERE destination = u.destination AND class = ?
                    AND state = 'pending' AND due_ms <= ? ORDER BY due_ms LIMIT ?) c
JOIN destinations d ON d.id = left(c.destination, 35)
ORDER BY c.destination, c.due_ms
"""

SERVE_LANES: Final = """
UPDATE lanes l SET served_ms = u.served_ms, paced_ms = u.paced_ms
FROM unnest(?::bigint[], ?::float8[], ?::text[]) u(served_ms, paced_ms, id) WHERE l.id = u.id
"""

# Differs: one statement leases and reads. No lock of its own: the lane's covers its deliveries.
# Nor does it ask for their state again: made on an empty table, the plan would go by that.
_LEASE: Final = f"""
UPDATE callbacks c SET state = 'sending', due_ms = NULL, claim = c.claim + 1, lease_ms = u.lease_ms
FROM unnest(?::bigint[], ?::text[]) u(lease_ms, id), destinations d, payloads p
WHERE c.id = u.id AND d.id = left(c.destination, 35) AND p.callback = u.id
RETURNING {LEASED}
"""


def lease(tx: Tx, leases: Sequence[tuple[int, str]]) -> list[Row]:
    """Lease deliveries (lease's end, id); return rows of `rows.LEASED` in their order."""
    leased = {row[0]: row for row in tx.write(_LEASE, *columns(leases))}
    return [leased[callback] for _, callback in leases if callback in leased]


# --- keys ---

# Differs: a row that somebody else changes now is left out, and so is waited for by nobody.
SET_KEYS_USED: Final = """
UPDATE keys k SET used_ms = greatest(k.used_ms, free.at_ms),
    previous_used_ms = coalesce(free.previous_ms, k.previous_used_ms)
FROM (
    SELECT k.id, u.at_ms, u.previous_ms
    FROM unnest(?::bigint[], ?::bigint[], ?::text[]) u(at_ms, previous_ms, id)
    JOIN keys k ON k.id = u.id
    WHERE coalesce(k.used_ms, 0) <= u.at_ms - 60000
       OR coalesce(k.previous_used_ms, 0) <= u.previous_ms - 60000
    FOR UPDATE OF k SKIP LOCKED
) free
WHERE k.id = free.id
"""

# --- settle ---

# Differs: one round trip; the columns of the first rows end early. No look goes by a partial index,
# since none asks for a state.
_HELD: Final = """
SELECT id, claim::bigint, cancelling::integer, (state = 'sending')::integer, NULL::integer,
       NULL::integer, NULL::bigint, NULL::integer, NULL::bigint, NULL::text, NULL::integer,
       NULL::integer, NULL::text
FROM callbacks WHERE id = ANY(?::text[])
UNION ALL
SELECT l.id, d.epoch, l.concurrency, d.failures, l."window", l.failures, l.failing_since_ms,
       l.openings, l.held_until_ms, l.held_reason, l.turned_away, l.threshold, l.last_error
FROM lanes l JOIN destinations d ON d.id = left(l.id, 35)
WHERE l.id = ANY(?::text[])
"""
_WINDOW: Final = 4


def held(tx: Tx, callbacks: Set[str], lanes: Set[str]) -> tuple[list[Row], list[Row]]:
    """Return the claims of these callbacks, and the health of these lanes."""
    rows = tx.all(_HELD, tx.ids(callbacks), tx.ids(lanes))
    of_lanes = [row for row in rows if row[_WINDOW] is not None]
    return [row[:_WINDOW] for row in rows if row[_WINDOW] is None], of_lanes


RECORDED: Final = """
SELECT callback, n, started_ms, duration_ms, outcome, status_code FROM attempts
WHERE callback = ANY(?::text[])
"""

# Differs: both tables in one round trip.
_SETTLE: Final = """
WITH settled AS (
UPDATE callbacks c SET state = u.state, due_ms = u.due_ms, lease_ms = NULL, tries = u.tries,
    attempts = u.attempts, finished_ms = u.finished_ms, last_error = u.last_error, cancelling = 0,
    extra_bytes = c.extra_bytes + u.bytes
FROM unnest(?::text[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::text[], ?::bigint[],
            ?::text[])
    u(state, due_ms, tries, attempts, finished_ms, last_error, bytes, id)
WHERE c.id = u.id
)
INSERT INTO attempts (callback, n, started_ms, duration_ms, outcome, status_code, error, excerpt,
    detail)
SELECT * FROM unnest(?::text[], ?::bigint[], ?::bigint[], ?::float8[], ?::text[], ?::bigint[],
                     ?::text[], ?::text[], ?::text[])
"""


def record(tx: Tx, settled: Sequence[Row], attempts: Sequence[Row]) -> None:
    """Store the deliveries' new states, and their attempts."""
    *met, errors, excerpts, details = columns(attempts)
    texts = ([*map(text, values)] for values in (errors, excerpts, details))
    tx.run(_SETTLE, *columns(settled), *met, *texts)


SET_TURNED_AWAY: Final = """
UPDATE callbacks c SET turned_away = u.turned_away, turned_away_ms = u.turned_away_ms
FROM unnest(?::bigint[], ?::bigint[], ?::text[]) u(turned_away, turned_away_ms, id)
WHERE c.id = u.id
"""

SET_HEALTH: Final = """
UPDATE lanes l SET "window" = u.size, failures = u.failures,
    failing_since_ms = u.failing_since_ms, openings = u.openings, held_until_ms = u.held_until_ms,
    held_reason = u.held_reason, turned_away = u.turned_away, threshold = u.threshold,
    last_error = u.last_error
FROM unnest(?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::text[],
            ?::bigint[], ?::bigint[], ?::text[], ?::text[])
    u(size, failures, failing_since_ms, openings, held_until_ms, held_reason, turned_away,
      threshold, last_error, id)
WHERE l.id = u.id
"""


def columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return rows as the arrays that `unnest` takes."""
    return [list(column) for column in zip(*rows, strict=True)]


def text(value: str | None) -> str | None:
    """Return what a peer said, without the one character that PostgreSQL's text cannot hold."""
    return value if value is None or "\0" not in value else value.replace("\0", "\ufffd")
