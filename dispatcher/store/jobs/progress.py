"""What upstreams report of jobs that run: one row a job, of its last call, that its views show. It
goes with the job. Portable."""

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
_FOUND: Final = f"SELECT job, claim, {_COLUMNS} FROM job_progress WHERE job"
_PUT: Final = f"""
INSERT INTO job_progress (job, run, claim, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (job) DO UPDATE SET run = excluded.run, claim = excluded.claim, n = excluded.n,
    since_ms = excluded.since_ms, at_ms = excluded.at_ms, percent = excluded.percent,
    body = excluded.body, kid = excluded.kid
WHERE job_progress.claim <= excluded.claim
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
    before = {
        row[0]: row[1:]
        for row in tx.all(f"{_FOUND}{in_} ORDER BY job{tx.for_update}", tx.ids(sorted(running)))
    }
    values = []
    for id, (tenant, run, claim) in sorted(running.items()):
        at = replace(
            given[id].progress,
            since_ms=tx.at(given[id].progress.since_ms),
            at_ms=tx.at(given[id].progress.at_ms),
        )
        if id in before and before[id][0] == claim:
            at = _read(tx, before[id][1:], id, tenant).then(at)
        body, kid = rows.seal_body(tx, body_of(at), PROGRESS.place(id, tenant))
        values.append((id, run, claim, at.n, at.since_ms, at.at_ms, at.percent, body, kid))
    tx.many(_PUT, values)
    tx.changes.news |= running.keys()
    return {(id, claim) for id, (_, _, claim) in running.items()}


def _read(tx: Tx, row: Row, job: str, tenant: str) -> Progress:
    """Return a row of `_COLUMNS`; without its texts where no key of ours opens them."""
    n, since_ms, at_ms, percent, stored, kid = row
    try:
        body = rows.open_body(tx, kid, stored, PROGRESS.place(job, tenant))
        step, metadata = read_body(body)
    except CannotUnseal:
        step = metadata = None
    return Progress(
        percent=percent, step=step, metadata=metadata, n=n, since_ms=since_ms, at_ms=at_ms
    )


def of_job(tx: Tx, job: Job) -> Progress | None:
    """Return what was reported last of a job's present run; None where nothing was."""
    if job.state == "queued":
        return None
    sql = f"SELECT {_COLUMNS} FROM job_progress WHERE job = ? AND run = ?"
    row = tx.one(sql, job.id, job.run)
    return None if row is None else _read(tx, row, job.id, job.tenant)


def signs(tx: Tx, claims: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
    """Return how many reports came under each of these claims, where any did."""
    sql = f"SELECT job, claim, n FROM job_progress WHERE job{tx.job_statements.IN}"
    found = {(job, claim): n for job, claim, n in tx.all(sql, tx.ids(id for id, _ in claims))}
    return {one: found[one] for one in claims if one in found}
