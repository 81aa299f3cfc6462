"""What is PostgreSQL's own of the verbs of jobs: `JobStatements` of `store/tx.py` tells what each
is for."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from dispatcher.store.jobs.rows import (
    ADDED,
    ATTEMPT,
    CLAIMED,
    ENDED,
    NEW_JOB,
    OUTPUT,
    REQUEUED,
    SETTLED,
    USAGE,
)
from dispatcher.store.jobs.scheduling import (
    CLASSES,
    DUE_EXTRA,
    PRESENT_EPOCH,
    QUEUE,
    READY,
    START_JOB,
    epoch_if_queued,
    first_due,
    first_ready,
    may_start,
    paced_until,
    queued_of,
    secret_after,
    settled_value,
)
from dispatcher.store.postgres.statements import columns
from dispatcher.store.tx import Row, Tx

IN: Final = " = ANY(?::text[])"
_ID: Final = {"id": "text"}


def _rows(kinds: Mapping[str, str]) -> str:
    """Rows of these columns, given as one array a column."""
    arrays = ", ".join(f"?::{kind}[]" for kind in kinds.values())
    return f"unnest({arrays}) u({', '.join(kinds)})"


def _insert(table: str, kinds: Mapping[str, str]) -> str:
    names = ", ".join(kinds)
    return f"INSERT INTO {table} ({names}) SELECT {names} FROM {_rows(kinds)}"


def _replace(table: str, kinds: Mapping[str, str], key: str) -> str:
    changed = ", ".join(f"{one} = excluded.{one}" for one in kinds if one != key)
    return f"{_insert(table, kinds)} ON CONFLICT ({key}) DO UPDATE SET {changed}"


def hold_endpoints(tx: Tx, endpoints: Iterable[str]) -> None:
    """Lock those of these endpoints that there are, in the order of their names, until the end of
    the transaction: after the lanes, before all else."""
    sql = f"SELECT endpoint FROM endpoint_load WHERE endpoint{IN} ORDER BY endpoint FOR UPDATE"
    tx.held_endpoints |= {row[0] for row in tx.all(sql, tx.ids(endpoints))}


# --- what a commit leaves ---

_PACED: Final = paced_until("l", least="least", most="greatest", integer="floor({})::bigint")

REFRESH_QUEUES: Final = f"""
UPDATE queues q SET queued = q.queued + u.more, ready_high = {first_due("q", 0)},
    ready_normal = {first_due("q", 1)}, ready_low = {first_due("q", 2)}
FROM {_rows({"more": "bigint"} | _ID)} WHERE q.id = u.id
"""

# Differs: `greatest` passes over NULLs, where SQLite's `max` gives NULL.
_READY_MS: Final = f"""
CASE WHEN {may_start("l")}
        AND l."window" > (SELECT count(*) FROM jobs
        WHERE endpoint = l.endpoint AND (state = 'running' OR releasing = 1))
    THEN (SELECT greatest(n.first, l.held_until_ms, {_PACED})
          FROM (SELECT {first_ready("l")} AS first) n WHERE n.first IS NOT NULL) END
"""

REFRESH_ENDPOINTS: Final = f"""
UPDATE endpoint_load l SET queued = l.queued + u.more, ready_ms = {_READY_MS}
FROM {_rows({"more": "bigint"} | _ID)} WHERE l.endpoint = u.id
"""

STALE_ENDPOINTS: Final = f"""
SELECT l.endpoint FROM endpoint_load l
WHERE l.endpoint{IN} AND (l.ready_ms IS DISTINCT FROM ({_READY_MS}) OR l.queued <> {queued_of("l")})
"""

_LIVES: Final = "SELECT 1 FROM processes WHERE id = ? FOR KEY SHARE"


def lives(tx: Tx, process: str) -> bool:
    """Whether a process may run jobs: who calls it dead deletes its row, and waits for us or is
    waited for. So a commit that was begun before a long stop starts nothing after it."""
    return tx.one(_LIVES, process) is not None


# --- submit ---

_INSERT_JOBS: Final = _insert("jobs", NEW_JOB) + " ON CONFLICT DO NOTHING RETURNING id"
_KEY: Final = list(NEW_JOB).index("key")


def insert_jobs(tx: Tx, rows: Sequence[Row]) -> set[str]:
    """Differs: in the order of their keys, so that processes with the same keys wait for each
    other in one direction."""
    ordered = sorted(rows, key=lambda row: row[_KEY] or b"")
    return {row[0] for row in tx.write(_INSERT_JOBS, *columns(ordered))}


PUT_QUEUES: Final = _replace(
    "queues",
    {"id": "text", "endpoint": "text", "tenant": "text", "ticket": "bigint", "begun": "bigint"},
    "id",
)

INSERT_INPUTS: Final = _insert(
    "inputs",
    {"job": "text", "content_type": "text", "body": "bytea", "kid": "text", "blob": "text"},
)

INSERT_JOB_TAGS: Final = _insert(
    "job_tags", {"tenant": "text", "key": "text", "value": "text", "job": "text"}
)

# --- claim ---

_LOCK_READY: Final = """
SELECT endpoint FROM endpoint_load WHERE ready_ms <= ? ORDER BY served_ms LIMIT ?
FOR UPDATE SKIP LOCKED
"""

_READY: Final = f"""
SELECT {READY} FROM endpoint_load l WHERE l.endpoint{IN}
AND {may_start("l")} AND l.held_until_ms <= ?
ORDER BY l.served_ms, l.endpoint
"""


def ready_endpoints(tx: Tx, touched: Sequence[str], now_ms: int, limit: int) -> list[Row]:
    """Differs: endpoints that another process holds are left to it. They are locked by one
    statement and read by the next: what runs is counted as the last holder left it."""
    locked = {row[0] for row in tx.all(_LOCK_READY, now_ms, limit)}
    tx.held_endpoints |= locked
    found = locked | tx.held_endpoints.intersection(touched)
    return tx.all(_READY, tx.ids(found), now_ms) if found else []


def _ready_queues(given: str = "", name: str = "", but: str = "") -> str:
    ids = " UNION ".join(
        f"(SELECT id FROM queues WHERE endpoint = e.value AND {ready} = 0{but} "
        "ORDER BY turn LIMIT n.most) UNION (SELECT id FROM queues "
        f"WHERE endpoint = e.value AND {ready} > 0 AND {ready} <= n.ms{but} "
        f"ORDER BY {ready} LIMIT n.most)"
        for ready in CLASSES.values()
    )
    return (
        f"SELECT {QUEUE} FROM (SELECT ?::text[], ?::bigint, ?::bigint{given}) "
        f"n(endpoints, most, ms{name}), unnest(n.endpoints) e(value) "
        f"CROSS JOIN LATERAL (SELECT * FROM queues WHERE id IN ({ids})) q "
        "ORDER BY q.endpoint, q.turn, q.id"
    )


READY_QUEUES: Final = _ready_queues()
READY_QUEUES_BUT: Final = _ready_queues(", ?::text[]", ", passed", " AND tenant <> ALL(n.passed)")

DUE_JOBS: Final = """
SELECT j.queue, j.class, j.ticket, j.id, j.input_bytes
FROM (SELECT ?::text[], ?::bigint, ?::bigint) n(queues, most, ms), unnest(n.queues) k(value)
JOIN queues q ON q.id = k.value
CROSS JOIN LATERAL ({}) j
ORDER BY j.queue, j.class, j.ticket
""".format(
    " UNION ALL ".join(
        f"(SELECT * FROM jobs WHERE queue = q.id AND epoch = q.epoch AND class = {number} "
        "AND state = 'queued' AND due_ms = 0 ORDER BY ticket LIMIT n.most) "
        f"UNION ALL (SELECT * FROM jobs WHERE queue = q.id AND epoch = q.epoch "
        f"AND class = {number} AND state = 'queued' AND due_ms > 0 AND due_ms <= n.ms "
        f"ORDER BY due_ms LIMIT n.most + {DUE_EXTRA})"
        for number in CLASSES
    )
)

# The empty text keeps the database from walking all jobs in the order of their tenants.
RUNNING_JOBS: Final = """
SELECT tenant || '', count(*) FROM jobs WHERE state = 'running' OR releasing = 1
GROUP BY tenant || ''
"""

BUSY_JOBS: Final = """
SELECT endpoint || '', count(*) FROM jobs WHERE state = 'running' OR releasing = 1
GROUP BY endpoint || ''
"""

_HOLD_TENANTS: Final = """
SELECT tenant FROM unnest(?::text[]) u(tenant)
WHERE pg_try_advisory_xact_lock(hashtextextended('jobs of ' || tenant, 0))
"""


def hold_tenants(tx: Tx, tenants: Sequence[str]) -> set[str]:
    """Differs: by a lock that is no row's, so that whoever holds a tenant for something else keeps
    none of its jobs from starting, and is kept by none."""
    return {row[0] for row in tx.all(_HOLD_TENANTS, tx.ids(tenants))}


# Differs: one statement starts and reads.
_START: Final = f"""
UPDATE jobs j SET {START_JOB.format(process="n.process", now="n.ms")}
FROM (SELECT ?::text, ?::bigint) n(process, ms), unnest(?::text[]) u(id), inputs p
WHERE j.id = u.id AND p.job = u.id
RETURNING {CLAIMED}
"""


def start_jobs(tx: Tx, process: str, now_ms: int, ids: Sequence[str]) -> list[Row]:
    """Have a process run these jobs; return those that have an input, in their order."""
    started = {row[0]: row for row in tx.write(_START, process, now_ms, list(ids))}
    return [started[id] for id in ids if id in started]


SERVE_QUEUES: Final = f"""
UPDATE queues q SET turn = u.turn, begun = greatest(q.begun, u.begun)
FROM {_rows({"turn": "bigint", "begun": "bigint"} | _ID)} WHERE q.id = u.id
"""

SERVE_ENDPOINTS: Final = """
UPDATE endpoint_load l SET turn = u.turn, starts = u.starts, paced_ms = u.paced_ms,
    served_ms = u.served_ms
FROM unnest(?::bigint[], ?::bigint[], ?::float8[], ?::bigint[], ?::text[])
    u(turn, starts, paced_ms, served_ms, endpoint)
WHERE l.endpoint = u.endpoint
"""

# --- settle ---

SETTLE_JOBS: Final = (
    "UPDATE jobs SET process = CASE WHEN u.releasing = 1 THEN jobs.process END, epoch = {}, "
    "secret = {}, {} FROM {} WHERE jobs.id = u.id"
).format(
    epoch_if_queued("u.state"),
    secret_after("u.state"),
    ", ".join(f"{name} = {settled_value(name, f'u.{name}', 'u.state')}" for name in SETTLED),
    _rows(SETTLED | _ID),
)

PUT_OUTPUTS: Final = _replace("outputs", OUTPUT, "job")

INSERT_JOB_ATTEMPTS: Final = _insert("job_attempts", ATTEMPT)

SET_ENDPOINT_HEALTH: Final = """
UPDATE endpoint_load l SET "window" = u.size, failures = u.failures,
    failing_since_ms = u.failing_since_ms, openings = u.openings, held_until_ms = u.held_until_ms,
    held_reason = u.held_reason, turned_away = u.turned_away, threshold = u.threshold,
    held_from_ms = CASE WHEN l.held_until_ms = u.held_until_ms THEN l.held_from_ms
        WHEN u.held_until_ms > 0 THEN u.now_ms END
FROM unnest(?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::text[],
            ?::bigint[], ?::bigint[], ?::bigint[], ?::text[])
    u(size, failures, failing_since_ms, openings, held_until_ms, held_reason, turned_away,
      threshold, now_ms, endpoint)
WHERE l.endpoint = u.endpoint
"""

_DURATION: Final = {"endpoint": "text", "day": "bigint", "what": "text", "bucket": "bigint"}
_ADD_DURATIONS: Final = (
    _insert("durations", _DURATION | {"n": "bigint"})
    + f" ON CONFLICT ({', '.join(_DURATION)}) DO UPDATE SET n = durations.n + excluded.n"
)

ADD_USAGE: Final = f"""
{_insert("job_usage", USAGE)} ON CONFLICT (tenant, endpoint, day)
DO UPDATE SET {ADDED.format(table="job_usage")}
"""

_ADD_MEASURES: Final = f"WITH added AS ({_ADD_DURATIONS}) {ADD_USAGE}"


def add_measures(tx: Tx, durations: Sequence[Row], usage: Sequence[Row]) -> None:
    """Differs: one statement."""
    tx.run(_ADD_MEASURES, *columns(durations), *columns(usage))


# --- ends, and what leads back to the queue ---

END_JOBS: Final = (
    f"UPDATE jobs SET {', '.join(f'{name} = u.{name}' for name in ENDED)}, "
    "claim = jobs.claim + 1, process = CASE WHEN u.releasing = 1 THEN jobs.process END, "
    f"output_bytes = NULL, output_type = NULL FROM {_rows(ENDED | _ID)} WHERE jobs.id = u.id"
)

REQUEUE_JOBS: Final = (
    f"UPDATE jobs SET {', '.join(f'{name} = u.{name}' for name in REQUEUED)}, state = 'queued', "
    f"claim = jobs.claim + 1, process = NULL, due_ms = 0, epoch = {PRESENT_EPOCH} "
    f"FROM {_rows(REQUEUED | _ID)} WHERE jobs.id = u.id"
)
