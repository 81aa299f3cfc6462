"""Submit jobs, for a whole batch: stored in one commit, and what may start at once claimed in it.

The ticket by which a job waits is taken while its endpoint is held; so are the limits of queues
exact, and what is idle is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from dispatcher.jobs.values import CLASS_OF, ClaimedJob, NewJob, RunningLimits, SubmittedJob
from dispatcher.store.errors import (
    JobQueueFull,
    KeyReused,
    NoKeyring,
    NotFound,
    StoreError,
    StoreUnavailable,
)
from dispatcher.store.jobs import blobs, rows, scheduling
from dispatcher.store.jobs.limited import Limited
from dispatcher.store.jobs.rows import queue_id
from dispatcher.store.jobs.scheduling import is_ahead_of_purge
from dispatcher.store.requests import JobSubmitRequest, Rules
from dispatcher.store.sealing import INPUTS
from dispatcher.store.tx import Row, Tx, marks

Result = SubmittedJob | StoreError

# The endpoints, each with those of the queues that there are. What waits is exact but for what this
# commit has changed itself.
_LOADS: Final = f"""
WITH l AS MATERIALIZED (
    SELECT l.endpoint, l.removed, l.epoch, l.queued, l.queue_max, l.queue_max_tenant,
           l.purge_after,
           CASE WHEN {scheduling.may_start("l")} AND l.held_until_ms <= ? AND l.rate IS NULL
               THEN l."window" - (SELECT count(*) FROM jobs
                   WHERE endpoint = l.endpoint AND (state = 'running' OR releasing = 1))
               ELSE 0 END AS room,
           CASE WHEN l.queued > 0 THEN {scheduling.first_ready("l")} END AS first_ms
    FROM endpoint_load l WHERE l.endpoint{{IN}}
)
SELECT l.*, q.id, q.epoch, q.ticket, q.begun, q.queued
FROM l LEFT JOIN queues q ON q.endpoint = l.endpoint AND q.id{{IN}}
"""
_FIRST: Final = "SELECT id, content, created_ms, state, run, key FROM jobs WHERE"


@dataclass(slots=True)
class _Load:
    """An endpoint as a batch of submits sees it; `room` shrinks as jobs are handed over."""

    epoch: int
    queued: int
    queue_max: int
    queue_max_tenant: int
    purge_after: str | None
    room: int
    idle: bool


@dataclass(slots=True)
class _Queue:
    """A queue as a batch of submits sees it, with the tickets that it gave."""

    endpoint: str
    tenant: str
    epoch: int = 0
    ticket: int = 0
    begun: int = 0
    queued: int = 0


def submit(tx: Tx, requests: Sequence[JobSubmitRequest], rules: Rules) -> list[Result]:
    """Store new jobs; those that may start at once are stored running."""
    now_ms = tx.at(requests[0].new.created_ms)
    loads, queues = _look_up(tx, requests, now_ms)
    first = _first_with_keys(tx, [request.new for request in requests], rules)
    process = _living(tx, requests)
    limited = _limited(tx, requests, process)
    results: dict[str, Result] = {}
    values: dict[str, Row] = {}
    spooled = [one.new.blob.id for one in requests if one.new.blob is not None]
    there = blobs.written(tx, spooled) if spooled else set()
    for request in requests:
        new, load = request.new, loads.get(request.new.endpoint)
        queue = queues[queue_id(new.endpoint, new.tenant)]
        refusal = _refusal(tx, new, load, queue)
        if new.key is not None and new.key in first:
            results[new.id] = _attached(new, first[new.key])
        elif new.blob is not None and new.blob.id not in there:
            results[new.id] = StoreUnavailable("its input was let go of meanwhile; try again")
        elif load is None or refusal is not None:
            results[new.id] = refusal or NotFound(f"there is no endpoint {new.endpoint}")
        else:
            direct = request.process is not None and request.process == process
            direct = direct and load.idle and load.room > 0
            if direct and limited is not None and request.running_max is not None:
                direct = limited.admits(new.tenant)
                if direct:
                    limited.take(new.tenant)
            values[new.id] = _store(tx, request, load, queue, now_ms, direct=direct)
            submitted = _submitted(tx, new, load, direct=direct)
            results[new.id] = submitted
            if new.key is not None:
                first[new.key] = (new.id, new.content, new.created_ms, submitted.state, 1)
    stored = [request.new for request in requests if request.new.id in values]
    if stored:
        present = tx.job_statements.insert_jobs(tx, list(values.values()))
        if len(present) != len(stored):
            stored = _drop_duplicates(tx, stored, present, results)
        _insert_parts(tx, stored, queues, results)
    return [results[request.new.id] for request in requests]


def _living(tx: Tx, requests: Sequence[JobSubmitRequest]) -> str | None:
    """Return the process that has places for these jobs, unless it was called dead."""
    process = next((one.process for one in requests if one.process is not None), None)
    return process if process is not None and tx.job_statements.lives(tx, process) else None


def _limited(tx: Tx, requests: Sequence[JobSubmitRequest], process: str | None) -> Limited | None:
    """Return how many jobs run of those tenants of the batch that have a limit of that, where any
    job may be handed over; None where there is no limit."""
    own: dict[str, int] = {}
    for one in requests:
        if one.running_max is not None and one.process is not None:
            own[one.new.tenant] = one.running_max
    if not own or process is None:
        return None
    limited = Limited(tx, RunningLimits(own=own))
    limited.hold(own)
    return limited


def _look_up(
    tx: Tx, requests: Sequence[JobSubmitRequest], now_ms: int
) -> tuple[dict[str, _Load], dict[str, _Queue]]:
    """Return the endpoints that take these jobs, and the queues that they come to, by id; those
    that are not there yet are as new ones."""
    loads: dict[str, _Load] = {}
    queues = {
        queue_id(one.new.endpoint, one.new.tenant): _Queue(one.new.endpoint, one.new.tenant)
        for one in requests
    }
    endpoints = {queue.endpoint for queue in queues.values()}
    sql = _loads_sql(tx.job_statements.IN)
    for row in tx.all(sql, now_ms, tx.ids(endpoints), tx.ids(queues)):
        endpoint, id = row[0], row[9]
        if endpoint not in loads and not row[1] and tx.holds_endpoint(endpoint):
            loads[endpoint] = _load(tx, row, now_ms)
        if id is not None:
            queue = queues[id]
            queue.epoch, queue.ticket, queue.begun = row[10:13]
            queue.queued = row[13] + tx.changes.more_in(id)
    return loads, queues


@cache  # each database has one
def _loads_sql(is_in: str) -> str:
    return _LOADS.format(IN=is_in)


def _load(tx: Tx, row: Row, now_ms: int) -> _Load:
    endpoint, _, epoch, queued, queue_max, queue_max_tenant, purge_after, room, first_ms = row[:9]
    more = tx.changes.more_waiting(endpoint)
    return _Load(
        epoch=epoch,
        queued=queued + more,
        queue_max=queue_max,
        queue_max_tenant=queue_max_tenant,
        purge_after=purge_after,
        room=room,
        # What a claim of this commit took waits no more, whatever its queues say still.
        idle=queued + more <= 0 or (more <= 0 and first_ms is not None and first_ms > now_ms),
    )


def _refusal(tx: Tx, new: NewJob, load: _Load | None, queue: _Queue) -> StoreError | None:
    """Return why this job cannot be taken."""
    if load is None:
        return NotFound(f"there is no endpoint {new.endpoint}")
    if queue.queued >= load.queue_max_tenant:
        max = load.queue_max_tenant
        return JobQueueFull(new.endpoint, queue.queued, max, of_tenant=True)
    if load.queued >= load.queue_max:
        return JobQueueFull(new.endpoint, load.queued, load.queue_max, of_tenant=False)
    if new.secret is not None and tx.ring is None:
        return NoKeyring("what a job comes with for its upstream, or its callback, alone")
    return None


def _store(
    tx: Tx, request: JobSubmitRequest, load: _Load, queue: _Queue, now_ms: int, *, direct: bool
) -> Row:
    """Return the values of NEW_JOB, and count the job where it will be."""
    new = request.new
    id = queue_id(new.endpoint, new.tenant)
    epoch = queue.epoch + is_ahead_of_purge(id, load.purge_after)
    queue.ticket += 1
    if direct:
        load.room -= 1
        queue.begun = queue.ticket
        if load.queued > 0:  # else nothing is ready there, before or after
            tx.changes.endpoints.add(new.endpoint)
    else:
        load.queued += 1
        load.idle = False
        queue.queued += 1
        tx.changes.queued(new.endpoint, id, 1)
    target, ttl_s = new.options.callback, new.options.ttl_s
    ends_ms = None if ttl_s is None else now_ms + round(ttl_s * 1000)
    expires_ms = tx.at(new.expires_ms)
    return (
        new.id,
        new.tenant,
        new.endpoint,
        id,
        new.dialect,
        CLASS_OF[new.priority],
        epoch,
        queue.ticket,
        "running" if direct else "queued",
        int(direct),
        request.process if direct else None,
        0 if new.not_before_ms is None else tx.at(new.not_before_ms),
        new.created_ms,
        now_ms,
        now_ms if direct else None,
        expires_ms if ends_ms is None else min(expires_ms, ends_ms),
        ends_ms,
        rows.options_text(tx, new),
        rows.seal_secret(tx, new),
        None if target is None else target.lane,
        new.key,
        new.content,
        new.size,
    )


def _submitted(tx: Tx, new: NewJob, load: _Load, *, direct: bool) -> SubmittedJob:
    return SubmittedJob(
        id=new.id,
        tenant=new.tenant,
        endpoint=new.endpoint,
        state="running" if direct else "queued",
        run=1,
        created_ms=new.created_ms,
        duplicate=False,
        claimed=_claimed(new, load) if direct else None,
    )


def _claimed(new: NewJob, load: _Load) -> ClaimedJob:
    ttl_s = new.options.ttl_s
    ends_ms = None if ttl_s is None else new.created_ms + round(ttl_s * 1000)
    return ClaimedJob(
        id=new.id,
        tenant=new.tenant,
        endpoint=new.endpoint,
        dialect=new.dialect,
        priority=new.priority,
        run=1,
        claim=1,
        calls=0,
        tries=0,
        turned_away=0,
        interruptions=0,
        body=new.body,
        blob=new.blob,
        content_type=new.content_type,
        options=new.options,
        secret=new.secret,
        tags=new.tags,
        created_ms=new.created_ms,
        queued_ms=new.created_ms,
        started_ms=new.created_ms,
        claimed_ms=new.created_ms,
        expires_ms=new.expires_ms if ends_ms is None else min(new.expires_ms, ends_ms),
        ends_ms=ends_ms,
        epoch=load.epoch,
    )


def _insert_parts(
    tx: Tx,
    stored: Sequence[NewJob],
    queues: Mapping[str, _Queue],
    results: Mapping[str, Result],
) -> None:
    """Store what is beside the jobs. Their queues come last: tickets that were taken for nothing
    are never given again."""
    used = {queue_id(new.endpoint, new.tenant) for new in stored}
    tx.bulk(
        tx.job_statements.PUT_QUEUES,
        [
            (id, queue.endpoint, queue.tenant, queue.ticket, queue.begun)
            for id, queue in sorted(queues.items())
            if id in used
        ],
    )
    inputs = []
    for new in stored:
        tx.changes.bytes[new.tenant] += rows.ROW_BYTES + new.size
        body, kid = rows.seal_body(tx, new.body, INPUTS.place(new.id, new.tenant))
        blob = None if new.blob is None else new.blob.id
        inputs.append((new.id, new.content_type, body, kid, blob))
    kept = [new.blob for new in stored if new.blob is not None]
    if kept:
        blobs.keep(tx, kept)
    if inputs:
        tx.bulk(tx.job_statements.INSERT_INPUTS, inputs)
    tags = [(new.tenant, key, value, new.id) for new in stored for key, value in new.tags]
    if tags:
        tx.bulk(tx.job_statements.INSERT_JOB_TAGS, tags)


# --- the same key again ---


def _first_with_keys(tx: Tx, new: Sequence[NewJob], rules: Rules) -> dict[bytes, Row]:
    """Return the jobs that came first with these keys, while those hold: one whose time is over
    lets go of it."""
    keys = sorted({one.key: one.created_ms for one in new if one.key is not None}.items())
    if not keys:
        return {}
    found = tx.all(f"{_FIRST} key IN ({marks(keys)})", *(key for key, _ in keys))
    now_ms = max(created_ms for _, created_ms in keys)
    over = [row[0] for row in found if now_ms - row[2] > rules.key_ms]
    if over:
        tx.run(f"UPDATE jobs SET key = NULL WHERE id{tx.job_statements.IN}", tx.ids(over))
    return {row[5]: row[:5] for row in found if row[0] not in over}


def _attached(new: NewJob, first: Row | None) -> Result:
    """Return what a submit gets whose key `first` has: it may be this very one, stored by a commit
    whose reply was lost."""
    if first is None:
        return StoreUnavailable("another process holds the idempotency key; try again")
    id, content, created_ms, state, run = first
    if content != new.content:
        return KeyReused(id)
    return SubmittedJob(
        id=id,
        tenant=new.tenant,
        endpoint=new.endpoint,
        state=state,
        run=run,
        created_ms=created_ms,
        duplicate=id != new.id,
    )


def _drop_duplicates(
    tx: Tx, stored: Sequence[NewJob], present: set[str], results: dict[str, Result]
) -> list[NewJob]:
    """Tell the submits whose key or id another process, or an earlier try of theirs, has stored at
    this moment; return those that were stored."""
    for new in stored:
        if new.id in present:
            continue
        first = tx.one(f"{_FIRST} id = ? OR key = ?", new.id, new.key)
        before = results[new.id]
        results[new.id] = _attached(new, None if first is None else first[:5])
        if isinstance(before, SubmittedJob) and before.state == "queued":
            tx.changes.queued(new.endpoint, queue_id(new.endpoint, new.tenant), -1)
    return [new for new in stored if new.id in present]
