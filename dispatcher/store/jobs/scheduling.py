"""What endpoints and queues show of their jobs: recomputed, at the end of each commit, of every
queue and endpoint that it touched.

An endpoint's row is the lock of all its queues and jobs. A batch locks those that it is known to
touch, in the order of their names, right after the lanes of the callbacks that it makes; a claim
takes those that nobody else holds. A database with one writer never asks.
"""

from typing import Final

from dispatcher.fairness import RATE_MIN
from dispatcher.jobs.values import HIGH, LOW, NORMAL
from dispatcher.store.jobs.rows import NEVER_MS
from dispatcher.store.tx import Tx

CLASSES: Final = {HIGH: "ready_high", NORMAL: "ready_normal", LOW: "ready_low"}
# Of what is due by a time of its own so many more are looked at: it goes by its ticket.
DUE_EXTRA: Final = 64

# --- parts of statements on either database ---

# Of an endpoint `l` that is claimed from: its place in turn, and what it has free.
READY: Final = """
l.endpoint, l."window" - (SELECT count(*) FROM jobs
    WHERE endpoint = l.endpoint AND (state = 'running' OR releasing = 1)),
l.rate, l.paced_ms, l.by_class, l.turn, l.starts, l.epoch, l.queued
"""
QUEUE: Final = "q.id, q.endpoint, q.ready_high, q.ready_normal, q.ready_low"
# Of what is queued now; a purge of all queues that comes to this one yet is about those before.
PRESENT_EPOCH: Final = """
(SELECT q.epoch + CASE WHEN l.purge_after < q.id THEN 1 ELSE 0 END
 FROM queues q LEFT JOIN endpoint_load l ON l.endpoint = q.endpoint WHERE q.id = jobs.queue)
"""
START_JOB: Final = (
    "state = 'running', claim = claim + 1, process = {process}, "
    "started_ms = coalesce(started_ms, {now})"
)


def may_start(load: str) -> str:
    """Whether an endpoint may start anything, as far as nothing but a wait keeps it from that."""
    return (
        f"{load}.paused = 0 AND {load}.removed = 0 AND {load}.purge_after IS NULL "
        f"AND {load}.unhealthy_ms IS NULL"
    )


def first_due(queue: str, number: int) -> str:
    """Return when the first job of a class is due in a queue."""
    return (
        f"(SELECT min(due_ms) FROM jobs WHERE queue = {queue}.id AND epoch = {queue}.epoch "
        f"AND class = {number} AND state = 'queued')"
    )


def first_ready(load: str) -> str:
    """Return when the first of an endpoint's queues is ready."""
    looks = " UNION ALL ".join(
        f"SELECT min({ready}) AS ms FROM queues "
        f"WHERE endpoint = {load}.endpoint AND {ready} IS NOT NULL"
        for ready in CLASSES.values()
    )
    return f"(SELECT min(ms) FROM ({looks}) looks)"


def queued_of(load: str) -> str:
    """Return how many jobs wait in an endpoint's queues, as those show."""
    return (
        f"(SELECT coalesce(sum(queued), 0) FROM queues WHERE id >= {load}.endpoint || '/' "
        f"AND id < {load}.endpoint || '0')"
    )


def paced_until(load: str, *, least: str, most: str, integer: str) -> str:
    """Return when an endpoint's rate allows the next start."""
    next_ms = f"{load}.paced_ms + 1000 / {most}({load}.rate, {RATE_MIN})"
    whole = integer.format(f"{least}({NEVER_MS}, {next_ms})")
    return f"CASE WHEN {load}.rate IS NULL THEN 0 ELSE {whole} + 1 END"


def settled_value(name: str, value: str, state: str) -> str:
    """Return what a column of `rows.SETTLED` becomes: a callback and an end are kept unless there
    is another one, and an earlier run's output until this one's end."""
    if name in ("output_bytes", "output_type"):
        return f"CASE WHEN {state} = 'queued' THEN jobs.{name} ELSE {value} END"
    return f"coalesce({value}, jobs.{name})" if name in ("expires_ms", "callback") else value


def secret_after(state: str) -> str:
    """Return what is left of the secret of a job that is in this state from now on: of one that
    completed, that there was one."""
    return f"CASE WHEN {state} = 'completed' AND jobs.secret <> '' THEN '' ELSE jobs.secret END"


def epoch_if_queued(state: str) -> str:
    """Return the epoch of a job that is in this state from now on: what goes back to its queue was
    not there when that was purged."""
    return f"CASE WHEN {state} = 'queued' THEN {PRESENT_EPOCH} ELSE jobs.epoch END"


def is_ahead_of_purge(queue: str, after: str | None) -> bool:
    """Whether a purge of all queues of an endpoint, which has come up to queue `after` (None: there
    is none), comes to this one yet."""
    return after is not None and after < queue


# --- at the end of a commit ---


def refresh(tx: Tx) -> None:
    """Recompute when the queues and endpoints that this commit touched are next ready."""
    changes = tx.changes
    if changes.queues:
        queues = [(changes.waiting[one], one) for one in sorted(changes.queues)]
        tx.bulk(tx.job_statements.REFRESH_QUEUES, queues)
    if changes.endpoints:
        endpoints = [(changes.waiting_at[one], one) for one in sorted(changes.endpoints)]
        tx.bulk(tx.job_statements.REFRESH_ENDPOINTS, endpoints)


def next_ready_ms(tx: Tx) -> int | None:
    """Return when the next job may start, by this process's clock, in the future or the past; None
    when none waits that could."""
    row = tx.one("SELECT min(ready_ms) FROM endpoint_load WHERE ready_ms IS NOT NULL")
    return None if row is None or row[0] is None else tx.here(row[0])
