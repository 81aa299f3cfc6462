"""What users do to jobs: cancel, and retry under the same id as a new run."""

from collections.abc import Sequence
from typing import Any

from dispatcher.jobs.states import FINAL, RETRYABLE, JobReason
from dispatcher.jobs.values import ChangedJob
from dispatcher.store.errors import (
    CannotUnseal,
    Conflict,
    InputGone,
    JobQueueFull,
    NotFound,
    NotYet,
    StoreError,
    StoreUnavailable,
)
from dispatcher.store.jobs import chunks, finish, measures, views
from dispatcher.store.jobs.finish import Ending, Found
from dispatcher.store.jobs.scheduling import is_ahead_of_purge
from dispatcher.store.jobs.touched import Touched
from dispatcher.store.requests import Rules
from dispatcher.store.tx import Row, Tx

_LOADS = """
SELECT endpoint, queued, queue_max, queue_max_tenant, queue_timeout_ms, purge_after
FROM endpoint_load WHERE removed = 0 AND endpoint
"""
_QUEUES = "SELECT id, epoch, ticket, begun, queued FROM queues WHERE id"
_RETRY = """
UPDATE jobs SET state = 'queued', reason = NULL, run = run + 1, claim = claim + 1, calls = 0,
    tries = 0, turned_away = 0, interruptions = 0, due_ms = 0, queued_ms = ?, started_ms = NULL,
    ended_ms = NULL, expires_ms = ?, ends_ms = ?, epoch = ?, ticket = ?, status_code = NULL,
    error = NULL, process = NULL, pruned = 0, chunks = NULL
WHERE id = ?
"""


def cancel(
    tx: Tx,
    tenant: str,
    job: str,
    reason: JobReason,
    touched: Touched,
    rules: Rules,
    *,
    now_ms: int,
) -> ChangedJob:
    """End a job at once, whatever it does; one that runs takes its place until its call has ended
    (`freed`). Nothing happens to one that has ended. Raises NotFound."""
    found = _find(tx, tenant, job, touched)
    ending = Ending(state="cancelled", reason=reason, releasing=True)
    ended = finish.end(tx, [found], ending, rules, now_ms=now_ms)
    return _changed(tx, tenant, job, changed=bool(ended))


def retry(
    tx: Tx, tenant: str, job: str, touched: Touched, *, force: bool, now_ms: int
) -> ChangedJob:
    """Queue a job that has ended again, behind all others: the same id, the next run, all its tries
    before it. Raises NotFound, Conflict, InputGone, JobQueueFull, CannotUnseal."""
    found = _find(tx, tenant, job, touched)
    refused = retry_all(tx, [found], force=force, now_ms=now_ms)
    if job in refused:
        raise refused[job]
    return _changed(tx, tenant, job, changed=True)


def _find(tx: Tx, tenant: str, job: str, touched: Touched) -> Found:
    views.get(tx, tenant, job, output=False)
    found = finish.find(tx, [job], touched)
    if not found:
        raise StoreUnavailable(f"{job} changes at this moment; try again")
    return found[0]


def _changed(tx: Tx, tenant: str, job: str, *, changed: bool) -> ChangedJob:
    now = views.get(tx, tenant, job, output=False)
    process = tx.one("SELECT process FROM jobs WHERE id = ?", job)
    return ChangedJob(
        id=job,
        tenant=tenant,
        endpoint=now.endpoint,
        state=now.state,
        reason=now.reason,
        run=now.run,
        changed=changed,
        process=None if process is None else process[0],
    )


def retry_all(tx: Tx, found: Sequence[Found], *, force: bool, now_ms: int) -> dict[str, StoreError]:
    """Queue these jobs again, as many as may be; return why the others were not, by their ids."""
    refused: dict[str, StoreError] = {}
    values: list[Row] = []
    in_, at_ms = tx.job_statements.IN, tx.at(now_ms)
    endpoints = tx.ids({one.job.endpoint for one in found})
    loads = {row[0]: list(row[1:]) for row in tx.all(_LOADS + in_, endpoints)}
    queues = {
        row[0]: list(row[1:]) for row in tx.all(_QUEUES + in_, tx.ids({one.queue for one in found}))
    }
    sql = f"SELECT job FROM inputs WHERE job{in_}"
    with_input = {row[0] for row in tx.all(sql, tx.ids(one.job.id for one in found))}
    given: dict[str, Row] = {}
    for one in found:
        job, load = one.job, loads.get(one.job.endpoint)
        queue = queues.setdefault(one.queue, [0, 0, 0, 0])
        refusal = _refusal(tx, one, load, queue, has_input=job.id in with_input, force=force)
        if refusal is not None or load is None:
            refused[job.id] = refusal or NotFound(f"there is no endpoint {job.endpoint}")
            continue
        queue[1] += 1
        given[one.queue] = (one.queue, job.endpoint, job.tenant, queue[1], queue[2])
        ttl_s = job.options.ttl_s
        ends_ms = None if ttl_s is None else at_ms + round(ttl_s * 1000)
        expires_ms = at_ms + load[3]
        expires_ms = expires_ms if ends_ms is None else min(expires_ms, ends_ms)
        epoch = queue[0] + is_ahead_of_purge(one.queue, load[4])
        values.append((at_ms, expires_ms, ends_ms, epoch, queue[1], job.id))
        tx.changes.queued(job.endpoint, one.queue, 1)
        tx.changes.job_moved(job.tenant, job.state, "queued")
    if values:
        chunks.drop(tx, [row[-1] for row in values])
        tx.bulk(tx.job_statements.PUT_QUEUES, list(given.values()))
        tx.many(_RETRY, values)
        again = [one.job for one in found if one.job.id not in refused]
        measures.retried(tx, again, now_ms=now_ms)
    return refused


def _refusal(
    tx: Tx, one: Found, load: list[Any] | None, queue: list[int], *, has_input: bool, force: bool
) -> StoreError | None:
    job = one.job
    if job.state not in FINAL:
        return Conflict(f"{job.id} is {job.state}: only a job that has ended can be retried")
    if job.state not in RETRYABLE and not force:
        return Conflict(f"{job.id} is {job.state}: it is retried only where that is forced")
    if job.releasing:
        return NotYet(f"the call of {job.id} has not ended yet; try again in a moment")
    if job.unopened is not None:
        return CannotUnseal(job.unopened)
    if not has_input:
        return InputGone(f"the input of {job.id} is past its retention")
    if one.is_bare:
        return InputGone(f"what {job.id} came with for its upstream alone went when it completed")
    if load is None:
        return None
    queued_here = queue[3] + tx.changes.more_in(one.queue)
    if queued_here >= load[2]:
        return JobQueueFull(job.endpoint, queued_here, load[2], of_tenant=True)
    queued = load[0] + tx.changes.more_waiting(job.endpoint)
    if queued >= load[1]:
        return JobQueueFull(job.endpoint, queued, load[1], of_tenant=False)
    return None
