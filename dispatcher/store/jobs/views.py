"""Jobs as they are looked at. Portable."""

import json
from collections.abc import Sequence
from dataclasses import replace

from dispatcher.jobs.values import Job, Output
from dispatcher.store.errors import NotFound
from dispatcher.store.jobs import rows
from dispatcher.store.sealing import OUTPUTS
from dispatcher.store.tx import Tx


def get(tx: Tx, tenant: str, job: str, *, output: bool) -> Job:
    """Return a job, with its `output` where that is asked for and there. Raises NotFound, for
    another tenant's just the same, and CannotUnseal."""
    row = tx.one(f"SELECT {rows.JOB} FROM jobs WHERE id = ? AND tenant = ?", job, tenant)
    if row is None:
        raise NotFound(f"there is no job {job}")
    found = rows.job(tx, row)
    return replace(found, output=_output(tx, found)) if output else found


def _output(tx: Tx, job: Job) -> Output | None:
    row = tx.one("SELECT body, kid, content_type, headers FROM outputs WHERE job = ?", job.id)
    if row is None:
        return None
    body, kid, content_type, headers = row
    return Output(
        body=rows.open_body(tx, kid, body, OUTPUTS.place(job.id, job.tenant)),
        content_type=content_type,
        headers=tuple((name, value) for name, value in json.loads(headers)),
    )


def ended(tx: Tx, jobs: Sequence[str]) -> set[str]:
    """Return which of these jobs have ended, or are gone."""
    sql = f"SELECT id FROM jobs WHERE id{tx.job_statements.IN} AND state IN ('queued', 'running')"
    return set(jobs) - {row[0] for row in tx.all(sql, tx.ids(jobs))}


def current(tx: Tx, claims: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
    """Return which of these claims are the current ones of jobs that run."""
    sql = f"SELECT id, claim FROM jobs WHERE id{tx.job_statements.IN} AND state = 'running'"
    return set(tx.all(sql, tx.ids(id for id, _ in claims))).intersection(claims)
