"""What upstreams report of jobs that run: one row a job, of its last call, that its views show. It
goes with the job, and its tenant's bytes count it. Portable."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from dispatcher.jobs.progress import Progress, body_of, read_body
from dispatcher.jobs.values import Job, Report
from dispatcher.store.errors import CannotUnseal
from dispatcher.store.jobs import rows
from dispatcher.store.sealing import PROGRESS
from dispatcher.store.tx import Row, Tx

# The empty text keeps the database from walking all that runs.
_RUNNING: Final = "SELECT id, tenant, run, claim FROM jobs WHERE state || '' = 'running' AND id"
_COLUMNS: Final = "n, since_ms, at_ms, percent, body, kid"
_FOUND: Final = f"SELECT job, claim, {_COLUMNS}, bytes FROM job_progress WHERE job"
_EMPTY: Final = b"[null,null,null]"
_PUT: Final = """
UPDATE job_progress SET run = ?, claim = ?, n = ?, since_ms = ?, at_ms = ?, percent = ?, body = ?,
    kid = ?, bytes = ?
WHERE job = ?
"""
_MAKE: Final = f"""
INSERT INTO job_progress (job, run, claim, {_COLUMNS}) VALUES (?, 0, 0, 0, 0, 0, NULL, ?, NULL)
ON CONFLICT DO NOTHING
"""


def report(tx: Tx, reports: Iterable[Report]) -> set[tuple[str, int]]:
    """Note what was reported of jobs, each only under its current claim; return the jobs, with
    their claims, of which it was. What was reported before under the same claim adds to it."""
    given = {one.job: one for one in reports}
    in_, ids = tx.job_statements.IN, tx.ids(sorted(given))
    running = {
        id: (tenant, run, claim)
        for id, tenant, run, claim in tx.all(_RUNNING + in_, ids)
        if given[id].claim == claim
    }
    if not running:
        return set()
    before = _held(tx, running)
    new = sorted(running.keys() - before.keys())
    if new:  # what nobody has yet is nobody's to count: of two processes one makes it
        tx.many(_MAKE, [(id, _EMPTY) for id in new])
        before |= _held(tx, new)
    values = []
    for id, (tenant, run, claim) in sorted(running.items()):
        at = replace(
            given[id].progress,
            since_ms=tx.at(given[id].progress.since_ms),
            at_ms=tx.at(given[id].progress.at_ms),
        )
        claim_before, *row, size_before = before[id]
        if claim_before == claim:
            at = _read(tx, tuple(row), id, tenant).then(at)
        texts = body_of(at)
        body, kid = rows.seal_body(tx, texts, PROGRESS.place(id, tenant))
        known = (run, claim, at.n, at.since_ms, at.at_ms, at.percent)
        values.append((*known, body, kid, len(texts), id))
        tx.changes.bytes[tenant] += len(texts) - size_before
    tx.many(_PUT, values)
    tx.changes.news |= running.keys()
    return {(id, claim) for id, (_, _, claim) in running.items()}


def _held(tx: Tx, jobs: Iterable[str]) -> dict[str, Row]:
    """Return what there is of these jobs: nobody else changes it meanwhile."""
    sql = f"{_FOUND}{tx.job_statements.IN} ORDER BY job{tx.for_update}"
    return {row[0]: row[1:] for row in tx.all(sql, tx.ids(sorted(jobs)))}


def drop(tx: Tx, jobs: Iterable[str]) -> None:
    """Delete what was reported of these jobs, which are there."""
    ids = tx.ids(jobs)
    taken = tx.all(
        "SELECT j.tenant, CAST(sum(p.bytes) AS bigint) FROM job_progress p "
        f"JOIN jobs j ON j.id = p.job WHERE p.job{tx.job_statements.IN} GROUP BY j.tenant",
        ids,
    )
    for tenant, size in taken:
        tx.changes.bytes[tenant] -= size
    if taken:
        tx.run(f"DELETE FROM job_progress WHERE job{tx.job_statements.IN}", ids)


def _read(tx: Tx, row: Row, job: str, tenant: str) -> Progress:
    """Return a row of `_COLUMNS`; without its texts where no key of ours opens them."""
    n, since_ms, at_ms, percent, stored, kid = row
    try:
        body = rows.open_body(tx, kid, stored, PROGRESS.place(job, tenant))
        step, metadata, logged = read_body(body)
    except CannotUnseal:
        step = metadata = logged = None
    return Progress(
        percent=percent,
        step=step,
        metadata=metadata,
        log=logged,
        n=n,
        since_ms=since_ms,
        at_ms=at_ms,
    )


def of_job(tx: Tx, job: Job) -> Progress | None:
    """Return what was reported last of a job's present run; None where nothing was."""
    if job.state == "queued":
        return None
    sql = f"SELECT {_COLUMNS} FROM job_progress WHERE job = ? AND run = ?"
    row = tx.one(sql, job.id, job.run)
    return None if row is None else _read(tx, row, job.id, job.tenant)


def of_calls(tx: Tx, calls: Mapping[str, tuple[str, int]]) -> dict[str, Progress]:
    """Return what was reported of these jobs, given with their tenants and present claims, by the
    calls of these claims."""
    if not calls:
        return {}
    sql = f"SELECT job, claim, {_COLUMNS} FROM job_progress WHERE job{tx.job_statements.IN}"
    return {
        job: _read(tx, tuple(row), job, calls[job][0])
        for job, claim, *row in tx.all(sql, tx.ids(sorted(calls)))
        if claim == calls[job][1]
    }


def signs(tx: Tx, claims: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
    """Return how many reports came under each of these claims, where any did."""
    sql = f"SELECT job, claim, n FROM job_progress WHERE job{tx.job_statements.IN}"
    found = {(job, claim): n for job, claim, n in tx.all(sql, tx.ids(id for id, _ in claims))}
    return {one: found[one] for one in claims if one in found}
