"""What an endpoint has to do, and what a job waits for: figures that cost no more however many
wait. Times are by the database's clock. Portable."""

from typing import Final

from dispatcher.fairness import RATE_MIN
from dispatcher.jobs.endpoint import EndpointLoad
from dispatcher.jobs.looks import JobWait, TenantLoad, WaitReason
from dispatcher.jobs.values import CLASS_OF, Job
from dispatcher.store.errors import NotFound
from dispatcher.store.jobs import measures, views
from dispatcher.store.jobs.limited import running_of
from dispatcher.store.jobs.rows import queue_id
from dispatcher.store.jobs.scheduling import CLASSES
from dispatcher.store.tx import Row, Tx

COUNTED_MAX: Final = 1_000
"""So far ahead a position is counted."""
# Of an endpoint so many queues are looked at, those first that were not served for longest.
_QUEUES_MAX: Final = 200
_LOAD: Final = """
SELECT queued, "window", paused, held_until_ms, held_reason, rate, paced_ms,
       (SELECT count(*) FROM jobs WHERE endpoint = l.endpoint AND releasing = 0
        AND (state = 'running' OR releasing = 1)),
       (SELECT count(*) FROM jobs WHERE endpoint = l.endpoint AND releasing = 1
        AND (state = 'running' OR releasing = 1)), unhealthy_ms
FROM endpoint_load l WHERE endpoint = ? AND removed = 0
"""
# So many endpoints are told of at once; nobody has more.
ENDPOINTS_MAX: Final = 1_000
_SOON_MS: Final = 60_000  # what was not sent waits for as long at most before it is tried again
_LOADS: Final = """
SELECT endpoint, queued, "window", held_until_ms, held_reason, unhealthy_ms,
       CASE WHEN queued > 0 AND (
            EXISTS (SELECT 1 FROM queues q WHERE q.endpoint = l.endpoint AND ready_high <= ?)
            OR EXISTS (SELECT 1 FROM queues q WHERE q.endpoint = l.endpoint AND ready_normal <= ?))
       THEN 1 ELSE 0 END
FROM endpoint_load l WHERE removed = 0 ORDER BY endpoint LIMIT ?
"""
# Few at most: no more than the endpoint may have open.
_RUNNING: Final = (
    "SELECT count(*) FROM jobs WHERE endpoint = ? AND (state = 'running' OR releasing = 1) "
    "AND state || '' = 'running' AND tenant || '' = ?"
)
_QUEUE: Final = "SELECT id, epoch, begun, queued FROM queues WHERE id = ?"
# The queues that show work of a class, and of each the first job.
_FIRST: Final = """
SELECT (SELECT queued_ms FROM jobs WHERE queue = q.id AND epoch = q.epoch AND class = {number}
        AND state = 'queued' ORDER BY due_ms, ticket LIMIT 1)
FROM (SELECT id, epoch FROM queues WHERE endpoint = ? AND {ready} IS NOT NULL
      ORDER BY {ready}, turn LIMIT ?) q
"""
_READY_QUEUES: Final = " UNION ".join(
    f"SELECT * FROM (SELECT id, queued FROM queues WHERE endpoint = ? AND {ready} IS NOT NULL "
    f"ORDER BY {ready}, turn LIMIT ?) {ready}"
    for ready in CLASSES.values()
)
# Ahead in its own queue: what is due, has a class that goes first, or an earlier ticket.
_AHEAD: Final = """
SELECT count(*) FROM (SELECT 1 FROM jobs WHERE queue = ? AND epoch = ? AND class = {number}
    AND state = 'queued' AND due_ms = 0{earlier} LIMIT ?) at_once
UNION ALL
SELECT count(*) FROM (SELECT 1 FROM jobs WHERE queue = ? AND epoch = ? AND class = {number}
    AND state = 'queued' AND due_ms > 0 AND due_ms <= ?{earlier} LIMIT ?) again
"""


def load(tx: Tx, endpoint: str) -> EndpointLoad:
    """Return what an endpoint has to do and may do. Raises NotFound."""
    row = _load(tx, endpoint)
    if row is None:
        raise NotFound(f"there is no endpoint {endpoint}")
    queued, window, _, held_until_ms, held_reason, _, _, running, releasing, unhealthy_ms = row
    return EndpointLoad(
        endpoint=endpoint,
        queued=queued,
        running=running,
        releasing=releasing,
        window=window,
        oldest_queued_ms=_oldest_queued_ms(tx, endpoint) if queued > 0 else None,
        held_until_ms=held_until_ms,
        held_reason=held_reason,
        unhealthy_ms=unhealthy_ms,
    )


def loads(tx: Tx, *, now_ms: int) -> list[EndpointLoad]:
    """Return what all endpoints have to do and may do, in the order of their names: what runs with
    what is being released. `now_ms` is by the database's clock."""
    busy: dict[str, int] = dict(tx.all(tx.job_statements.BUSY_JOBS))
    found = []
    for row in tx.all(_LOADS, *[now_ms + _SOON_MS] * 2, ENDPOINTS_MAX):
        name, queued, window, held_until_ms, held_reason, unhealthy_ms, is_wanted = row
        found.append(
            EndpointLoad(
                endpoint=name,
                queued=queued,
                running=busy.get(name, 0),
                releasing=0,
                window=window,
                oldest_queued_ms=_oldest_queued_ms(tx, name) if queued > 0 else None,
                held_until_ms=held_until_ms,
                held_reason=held_reason,
                unhealthy_ms=unhealthy_ms,
                is_wanted=bool(is_wanted),
            )
        )
    return found


def of_tenant(tx: Tx, tenant: str, endpoint: str) -> TenantLoad:
    """Return what a tenant has at an endpoint."""
    queue = tx.one("SELECT queued FROM queues WHERE id = ?", queue_id(endpoint, tenant))
    running = tx.one(_RUNNING, endpoint, tenant)
    runs, failed, retried = measures.totals(tx, tenant, endpoint)
    return TenantLoad(
        queued=0 if queue is None else max(0, queue[0]),
        running=0 if running is None else running[0],
        completed=runs - failed,
        failed=failed,
        retried=retried,
    )


def _load(tx: Tx, endpoint: str) -> Row | None:
    return tx.one(_LOAD, endpoint)


def _oldest_queued_ms(tx: Tx, endpoint: str) -> int | None:
    """Return since when the first job waits of the queues that come next; all of them, where they
    are not very many."""
    firsts = [
        row[0]
        for number, ready in CLASSES.items()
        for row in tx.all(_FIRST.format(number=number, ready=ready), endpoint, _QUEUES_MAX)
        if row[0] is not None
    ]
    return min(firsts, default=None)


def waiting(
    tx: Tx, tenant: str, id: str, *, running_max: int | None = None, now_ms: int
) -> JobWait | None:
    """Return what a job waits for, where `running_max` jobs of its tenant may run at once; None
    where it does not wait, or was purged. Raises NotFound."""
    job = views.get(tx, tenant, id, output=False)
    return waiting_of(tx, job, running_max=running_max, now_ms=now_ms)


def look(
    tx: Tx, tenant: str, id: str, *, running_max: int | None = None, now_ms: int
) -> tuple[Job, JobWait | None]:
    """Return a job with its output where that is there, and what it waits for. Raises NotFound,
    CannotUnseal."""
    job = views.get(tx, tenant, id, output=True)
    return job, waiting_of(tx, job, running_max=running_max, now_ms=now_ms)


def waiting_of(tx: Tx, job: Job, *, running_max: int | None = None, now_ms: int) -> JobWait | None:
    """Return what a job that was just read waits for; None where it does not, or was purged."""
    if job.state != "queued":
        return None
    queue = tx.one(_QUEUE, queue_id(job.endpoint, job.tenant))
    load = _load(tx, job.endpoint)
    if queue is None or load is None or queue[1] != job.epoch:
        return None
    position, exact = _position(tx, job, queue, now_ms)
    is_full = running_max is not None and running_of(tx, job.tenant) >= running_max
    reason, until_ms = _reason(job, load, now_ms, is_full=is_full)
    return JobWait(
        position=position,
        exact=exact,
        ahead=_ahead(tx, job.endpoint, queue[0], position) + load[7] + load[8],
        reason=reason,
        until_ms=until_ms,
        held_reason=load[4] if reason == "held" else None,
    )


def _position(tx: Tx, job: Job, queue: Row, now_ms: int) -> tuple[int, bool]:
    """Return its place in its queue, and whether that was counted to the end."""
    id, epoch, begun, queued = queue
    far = max(COUNTED_MAX + 1, min(job.ticket - int(begun), int(queued)))
    ahead, left = 0, COUNTED_MAX
    for number in range(CLASS_OF[job.priority] + 1):
        own = number == CLASS_OF[job.priority]
        sql = _AHEAD.format(number=number, earlier=" AND ticket < ?" if own else "")
        ticket = (job.ticket,) if own else ()
        values = (id, epoch, *ticket, left, id, epoch, now_ms, *ticket, left)
        counted = sum(row[0] for row in tx.all(sql, *values))
        ahead, left = ahead + counted, left - counted
        if left <= 0:
            # It may wait behind all of its queue, and what began before it is not ahead any more.
            return far, False
    return ahead + 1, True


def _ahead(tx: Tx, endpoint: str, own: str, position: int) -> int:
    """Return how many begin before it, its queue and the others taking turns: of each as many as
    it has, but no more than are ahead in its own."""
    values = (endpoint, _QUEUES_MAX) * len(CLASSES)
    others: int = sum(
        min(position, queued) for id, queued in tx.all(_READY_QUEUES, *values) if id != own
    )
    return position - 1 + others


def _reason(job: Job, load: Row, now_ms: int, *, is_full: bool) -> tuple[WaitReason, int | None]:
    _, window, paused, held_until_ms, _, rate, paced_ms, running, releasing, unhealthy_ms = load
    if paused:
        return "paused", None
    if unhealthy_ms is not None:
        return "unhealthy", None
    if held_until_ms > now_ms:
        return "held", held_until_ms
    if job.due_ms > now_ms:
        return "not_before", job.due_ms
    if is_full:  # as many of the tenant's jobs run as may
        return "tenant_limit", None
    if rate is not None and running + releasing < window:
        next_ms = round(paced_ms + 1000 / max(rate, RATE_MIN))
        return "rate", next_ms if next_ms > now_ms else None
    return "capacity", None
