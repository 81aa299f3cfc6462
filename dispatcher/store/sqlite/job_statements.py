"""What is SQLite's own of the verbs of jobs: `JobStatements` of `store/tx.py` tells what each is
for."""

from collections.abc import Iterable, Sequence
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
from dispatcher.store.tx import Row, Tx

IN: Final = " IN (SELECT value FROM json_each(?))"


def _insert(table: str, columns: Iterable[str]) -> str:
    names = list(columns)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"


def _replace(table: str, columns: Iterable[str], key: str) -> str:
    names = list(columns)
    changed = ", ".join(f"{one} = excluded.{one}" for one in names if one != key)
    return f"{_insert(table, names)} ON CONFLICT ({key}) DO UPDATE SET {changed}"


# --- what a commit leaves ---

_PACED: Final = paced_until("endpoint_load", least="min", most="max", integer="CAST({} AS INTEGER)")

REFRESH_QUEUES: Final = f"""
UPDATE queues SET queued = queued + ?, ready_high = {first_due("queues", 0)},
    ready_normal = {first_due("queues", 1)}, ready_low = {first_due("queues", 2)}
WHERE id = ?
"""

_READY_MS: Final = f"""
CASE WHEN {may_start("endpoint_load")}
        AND "window" > (SELECT count(*) FROM jobs
        WHERE endpoint = endpoint_load.endpoint AND (state = 'running' OR releasing = 1))
    THEN max({first_ready("endpoint_load")}, held_until_ms, {_PACED}) END
"""

REFRESH_ENDPOINTS: Final = (
    f"UPDATE endpoint_load SET queued = queued + ?, ready_ms = {_READY_MS} WHERE endpoint = ?"
)

STALE_ENDPOINTS: Final = f"""
SELECT endpoint FROM endpoint_load
WHERE endpoint{IN} AND (ready_ms IS NOT ({_READY_MS}) OR queued <> {queued_of("endpoint_load")})
"""


def lives(tx: Tx, process: str) -> bool:
    """Differs: there is no other process."""
    return True


# --- submit ---

_INSERT_JOB: Final = _insert("jobs", NEW_JOB) + " ON CONFLICT DO NOTHING"


def insert_jobs(tx: Tx, rows: Sequence[Row]) -> set[str]:
    """Store rows of `jobs.rows.NEW_JOB`; return the ids of those whose key was free."""
    ids = {row[0] for row in rows}
    if tx.many(_INSERT_JOB, rows) == len(rows):
        return ids
    return {row[0] for row in tx.all(f"SELECT id FROM jobs WHERE id{IN}", tx.ids(ids))}


PUT_QUEUES: Final = """
INSERT INTO queues (id, endpoint, tenant, ticket, begun) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET ticket = excluded.ticket, begun = excluded.begun
"""

INSERT_INPUTS: Final = _insert("inputs", ("job", "content_type", "body", "kid", "blob"))

INSERT_JOB_TAGS: Final = _insert("job_tags", ("tenant", "key", "value", "job"))

# --- claim ---

_READY: Final = f"""
SELECT {READY} FROM endpoint_load l
WHERE l.endpoint IN (
    SELECT value FROM json_each(?1)
    UNION SELECT * FROM (SELECT endpoint FROM endpoint_load WHERE ready_ms <= ?2
                         ORDER BY served_ms LIMIT ?3))
AND {may_start("l")} AND l.held_until_ms <= ?2
ORDER BY l.served_ms, l.endpoint
"""


def ready_endpoints(tx: Tx, touched: Sequence[str], now_ms: int, limit: int) -> list[Row]:
    """Return at most `limit` ready endpoints and those that were `touched`."""
    return tx.all(_READY, tx.ids(touched), now_ms, limit)


def _ready_queues(but: str = "") -> str:
    ids = " UNION ".join(
        f"SELECT * FROM (SELECT id FROM queues WHERE endpoint = e.value AND {ready} = 0{but} "
        "ORDER BY turn LIMIT ?2) UNION SELECT * FROM (SELECT id FROM queues "
        f"WHERE endpoint = e.value AND {ready} > 0 AND {ready} <= ?3{but} "
        f"ORDER BY {ready} LIMIT ?2)"
        for ready in CLASSES.values()
    )
    return (
        f"SELECT {QUEUE} FROM json_each(?1) e JOIN queues q ON q.id IN ({ids}) "
        "ORDER BY q.endpoint, q.turn, q.id"
    )


READY_QUEUES: Final = _ready_queues()
READY_QUEUES_BUT: Final = _ready_queues(" AND tenant NOT IN (SELECT value FROM json_each(?4))")

DUE_JOBS: Final = """
SELECT j.queue, j.class, j.ticket, j.id, j.input_bytes
FROM json_each(?1) k JOIN queues q ON q.id = k.value JOIN jobs j ON j.id IN ({})
ORDER BY j.queue, j.class, j.ticket
""".format(
    " UNION ALL ".join(
        f"SELECT * FROM (SELECT id FROM jobs WHERE queue = q.id AND epoch = q.epoch "
        f"AND class = {number} AND state = 'queued' AND due_ms = 0 ORDER BY ticket LIMIT ?2) "
        f"UNION ALL SELECT * FROM (SELECT id FROM jobs WHERE queue = q.id AND epoch = q.epoch "
        f"AND class = {number} AND state = 'queued' AND due_ms > 0 AND due_ms <= ?3 "
        f"ORDER BY due_ms LIMIT ?2 + {DUE_EXTRA})"
        for number in CLASSES
    )
)

# The index keeps the database from walking all jobs in the order of their tenants.
RUNNING_JOBS: Final = """
SELECT tenant, count(*) FROM jobs INDEXED BY jobs_busy WHERE state = 'running' OR releasing = 1
GROUP BY tenant
"""

BUSY_JOBS: Final = """
SELECT endpoint, count(*) FROM jobs INDEXED BY jobs_busy WHERE state = 'running' OR releasing = 1
GROUP BY endpoint
"""


def hold_tenants(tx: Tx, tenants: Sequence[str]) -> set[str]:
    """Differs: there is no other process."""
    return set(tenants)


_START: Final = f"UPDATE jobs SET {START_JOB.format(process='?1', now='?2')} WHERE id = ?3"
_STARTED: Final = f"""
SELECT {CLAIMED} FROM json_each(?) k JOIN jobs j ON j.id = k.value JOIN inputs p ON p.job = j.id
"""


def start_jobs(tx: Tx, process: str, now_ms: int, ids: Sequence[str]) -> list[Row]:
    """Have a process run these jobs; return those that have an input, in their order."""
    tx.many(_START, [(process, now_ms, id) for id in ids])
    return tx.all(_STARTED, tx.ids(ids))


SERVE_QUEUES: Final = "UPDATE queues SET turn = ?, begun = max(begun, ?) WHERE id = ?"

SERVE_ENDPOINTS: Final = """
UPDATE endpoint_load SET turn = ?, starts = ?, paced_ms = ?, served_ms = ? WHERE endpoint = ?
"""

# --- settle ---

SETTLE_JOBS: Final = (
    "UPDATE jobs SET process = CASE WHEN ?{} = 1 THEN process END, epoch = {}, secret = {}, {} "
    "WHERE id = ?{}"
).format(
    list(SETTLED).index("releasing") + 1,
    epoch_if_queued("?1"),
    secret_after("?1"),
    ", ".join(
        f"{name} = {settled_value(name, f'?{n}', '?1')}" for n, name in enumerate(SETTLED, 1)
    ),
    len(SETTLED) + 1,
)

PUT_OUTPUTS: Final = _replace("outputs", OUTPUT, "job")

INSERT_JOB_ATTEMPTS: Final = _insert("job_attempts", ATTEMPT)

SET_ENDPOINT_HEALTH: Final = """
UPDATE endpoint_load SET "window" = ?1, failures = ?2, failing_since_ms = ?3, openings = ?4,
    held_until_ms = ?5, held_reason = ?6, turned_away = ?7, threshold = ?8,
    held_from_ms = CASE WHEN held_until_ms = ?5 THEN held_from_ms WHEN ?5 > 0 THEN ?9 END
WHERE endpoint = ?10
"""

_ADD_DURATIONS: Final = (
    _insert("durations", ("endpoint", "day", "what", "bucket", "n"))
    + " ON CONFLICT DO UPDATE SET n = n + excluded.n"
)

ADD_USAGE: Final = f"""
{_insert("job_usage", USAGE)} ON CONFLICT DO UPDATE SET {ADDED.format(table="job_usage")}
"""


def add_measures(tx: Tx, durations: Sequence[Row], usage: Sequence[Row]) -> None:
    """Add rows of durations and of usage to what there is."""
    tx.many(_ADD_DURATIONS, durations)
    tx.many(ADD_USAGE, usage)


# --- ends, and what leads back to the queue ---

END_JOBS: Final = (
    f"UPDATE jobs SET {', '.join(f'{name} = ?{n}' for n, name in enumerate(ENDED, 1))}, "
    f"claim = claim + 1, process = CASE WHEN ?{list(ENDED).index('releasing') + 1} = 1 "
    f"THEN process END, output_bytes = NULL, output_type = NULL WHERE id = ?{len(ENDED) + 1}"
)

REQUEUE_JOBS: Final = (
    f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in REQUEUED)}, state = 'queued', "
    f"claim = claim + 1, process = NULL, due_ms = 0, epoch = {PRESENT_EPOCH} WHERE id = ?"
)
