"""Jobs as they are looked at. Portable."""

import json
from collections.abc import Sequence
from dataclasses import replace

from dispatcher.jobs.looks import JobInput
from dispatcher.jobs.states import STATES, JobState
from dispatcher.jobs.values import Job, JobAttempt, Output
from dispatcher.store.errors import InputGone, NotFound, PayloadGone
from dispatcher.store.jobs import progress, rows
from dispatcher.store.sealing import INPUTS, OUTPUTS
from dispatcher.store.tx import JOB_COUNT, Tx


def get(tx: Tx, tenant: str, job: str, *, output: bool) -> Job:
    """Return a job, with its `output` where that is asked for and there, and what was reported of
    it. Raises NotFound, for another tenant's just the same, and CannotUnseal for the output."""
    row = tx.one(f"SELECT {rows.JOB} FROM jobs WHERE id = ? AND tenant = ?", job, tenant)
    if row is None:
        raise NotFound(f"there is no job {job}")
    found = rows.job(tx, row)
    if not output:
        return found
    return replace(
        found, output=stored_output(tx, found.tenant, found.id), progress=progress.of_job(tx, found)
    )


def stored_output(tx: Tx, tenant: str, job: str) -> Output | None:
    """Return what a job of this tenant brought, None where that is not there."""
    row = tx.one("SELECT body, kid, content_type, headers FROM outputs WHERE job = ?", job)
    if row is None:
        return None
    body, kid, content_type, headers = row
    return Output(
        body=rows.open_body(tx, kid, body, OUTPUTS.place(job, tenant)),
        content_type=content_type,
        headers=tuple((name, value) for name, value in json.loads(headers)),
    )


def input(tx: Tx, tenant: str, job: str) -> JobInput:
    """Return what a job was submitted with. Raises NotFound, InputGone, CannotUnseal."""
    _exists(tx, tenant, job)
    row = tx.one("SELECT body, kid, content_type FROM inputs WHERE job = ?", job)
    if row is None:
        raise InputGone(f"the input of {job} is past its retention")
    body, kid, content_type = row
    body = rows.open_body(tx, kid, body, INPUTS.place(job, tenant))
    return JobInput(body=body, content_type=content_type)


def output(tx: Tx, tenant: str, job: str) -> Output:
    """Return what the last run of a job that ended brought. Raises NotFound, PayloadGone,
    CannotUnseal."""
    found = get(tx, tenant, job, output=True)
    if found.output is not None:
        return found.output
    if found.output_type is not None:
        raise PayloadGone(f"the output of {job} is past its retention")
    raise NotFound(f"{job} has no output")


def attempts(tx: Tx, tenant: str, job: str, *, after: int, limit: int) -> list[JobAttempt]:
    """Oldest first, those after number `after`. Raises NotFound."""
    _exists(tx, tenant, job)
    sql = (
        f"SELECT {rows.JOB_ATTEMPT} FROM job_attempts WHERE job = ? AND n > ? "
        "ORDER BY run, n LIMIT ?"
    )
    return [rows.attempt(row) for row in tx.all(sql, job, after, limit)]


def _exists(tx: Tx, tenant: str, job: str) -> None:
    if tx.one("SELECT 1 FROM jobs WHERE id = ? AND tenant = ?", job, tenant) is None:
        raise NotFound(f"there is no job {job}")


def counts(tx: Tx, tenant: str | None) -> dict[JobState, int]:
    """Return how many jobs are in each state, of one tenant or of all: what has ended as it is
    counted, what waits as its queues show it, and what runs one by one."""
    of_tenant, values = ("", ()) if tenant is None else (" WHERE tenant = ?", (tenant,))
    ended = tx.all(
        f"SELECT state, CAST(sum(n) AS bigint) FROM counts{of_tenant} GROUP BY state", *values
    )
    found: dict[str, int] = dict(ended)
    shown_by = "endpoint_load" if tenant is None else "queues"
    queued = tx.one(f"SELECT CAST(sum(queued) AS bigint) FROM {shown_by}{of_tenant}", *values)
    # The empty text keeps the database from walking all of a tenant's.
    running = tx.one(
        "SELECT count(*) FROM jobs WHERE state = 'running'"
        + ("" if tenant is None else " AND tenant || '' = ?"),
        *values,
    )
    found[f"{JOB_COUNT}queued"] = queued[0] or 0 if queued else 0
    found[f"{JOB_COUNT}running"] = running[0] if running else 0
    return {state: found.get(JOB_COUNT + state, 0) for state in STATES}


def ended(tx: Tx, jobs: Sequence[str]) -> set[str]:
    """Return which of these jobs have ended, or are gone."""
    sql = f"SELECT id FROM jobs WHERE id{tx.job_statements.IN} AND state IN ('queued', 'running')"
    return set(jobs) - {row[0] for row in tx.all(sql, tx.ids(jobs))}


def current(tx: Tx, claims: Sequence[tuple[str, int]]) -> set[tuple[str, int]]:
    """Return which of these claims are the current ones of jobs that run."""
    sql = f"SELECT id, claim FROM jobs WHERE id{tx.job_statements.IN} AND state = 'running'"
    return set(tx.all(sql, tx.ids(id for id, _ in claims))).intersection(claims)
