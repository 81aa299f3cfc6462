"""Jobs as they are looked at. Portable."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from dispatcher.jobs.looks import JobInput, LinkedOutput
from dispatcher.jobs.states import STATES, JobState
from dispatcher.jobs.values import Job, JobAttempt, Output
from dispatcher.store.errors import InputGone, NotFound, PayloadGone
from dispatcher.store.jobs import blobs, progress, rows
from dispatcher.store.sealing import INPUTS, OUTPUTS
from dispatcher.store.tx import JOB_COUNT, Row, Tx

_LOOKED_AT: Final = 2_000


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
    row = tx.one("SELECT body, kid, content_type, headers, blob FROM outputs WHERE job = ?", job)
    return None if row is None else _output(tx, tenant, job, row)


def _output(tx: Tx, tenant: str, job: str, row: Row) -> Output | None:
    body, kid, content_type, headers, id = row
    blob = None if id is None else blobs.get(tx, id, tenant)
    if blob is None and id is not None:
        return None
    return Output(
        body=rows.open_body(tx, kid, body, OUTPUTS.place(job, tenant)),
        content_type=content_type,
        headers=tuple((name, value) for name, value in json.loads(headers)),
        blob=blob,
    )


def linked(tx: Tx, job: str, run: int) -> LinkedOutput | None:
    """Return what a run of a job brought, whosever it is, and when that ended by the database's
    clock; None where it is not there. Raises CannotUnseal."""
    row = tx.one(
        "SELECT j.tenant, j.endpoint, o.ended_ms, o.body, o.kid, o.content_type, o.headers, o.blob "
        "FROM outputs o JOIN jobs j ON j.id = o.job WHERE o.job = ? AND o.run = ?",
        job,
        run,
    )
    if row is None:
        return None
    tenant, endpoint, ended_ms, *rest = row
    output = _output(tx, tenant, job, tuple(rest))
    if output is None:
        return None
    return LinkedOutput(tenant=tenant, endpoint=endpoint, ended_ms=ended_ms, output=output)


def output_sizes(tx: Tx, tenant: str, endpoint: str, limit: int) -> list[int]:
    """Return how many bytes the newest outputs of a tenant's jobs at an endpoint have, of the last
    jobs of this tenant, a bounded number of which is looked at."""
    sql = "SELECT endpoint, state, output_bytes FROM jobs WHERE tenant = ? ORDER BY id DESC LIMIT ?"
    sizes = [
        size
        for name, state, size in tx.all(sql, tenant, _LOOKED_AT)
        if name == endpoint and state == "completed" and size is not None
    ]
    return sizes[:limit]


def input(tx: Tx, tenant: str, job: str) -> JobInput:
    """Return what a job was submitted with. Raises NotFound, InputGone, CannotUnseal."""
    _exists(tx, tenant, job)
    row = tx.one("SELECT body, kid, content_type, blob FROM inputs WHERE job = ?", job)
    if row is None:
        raise InputGone(f"the input of {job} is past its retention")
    body, kid, content_type, blob = row
    return JobInput(
        body=rows.open_body(tx, kid, body, INPUTS.place(job, tenant)),
        content_type=content_type,
        blob=None if blob is None else blobs.get(tx, blob, tenant),
    )


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
