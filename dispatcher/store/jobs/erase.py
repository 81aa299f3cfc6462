"""The end of a tenant's jobs, slice by slice: what runs is cancelled and waited for, all else is
deleted with its parts. Nobody is told. Portable."""

from typing import Final, Literal

from dispatcher.store.jobs.touched import OF_JOBS, Touched
from dispatcher.store.tx import Row, Tx

Erased = Literal["going on", "waiting", "done"]

PARTS: Final = ("inputs", "outputs", "job_attempts", "job_tags")
"""What is stored of a job in tables of its own."""

_OLDEST: Final = "tenant = ? ORDER BY id LIMIT ?"
_STATES: Final = f"""
SELECT id, endpoint, queue, lane, state, releasing,
       epoch = (SELECT epoch FROM queues WHERE id = jobs.queue)
FROM jobs WHERE {_OLDEST}
"""
_CANCEL: Final = """
UPDATE jobs SET state = 'cancelled', reason = 'user', ended_ms = ?, claim = claim + 1,
    releasing = 1
WHERE state = 'running' AND id"""


def of_tenant(tenant: str, limit: int) -> Touched:
    """Return what the next slice is about."""
    return Touched(lambda tx: tx.all(f"{OF_JOBS} {_OLDEST}", tenant, limit))


def erase(tx: Tx, tenant: str, touched: Touched, *, now_ms: int, limit: int) -> Erased:
    """Delete some more of a tenant that is being erased."""
    row = tx.one("SELECT erasing_ms FROM tenants WHERE name = ?", tenant)
    if row is None or row[0] is None:
        return "done"
    found = tx.all(_STATES, tenant, limit)
    if not found:
        return "done"
    held = [row for row in found if touched.may_change(tx, row[1], row[3])]
    running = [row for row in held if row[4] == "running"]
    if running:
        tx.run(_CANCEL + tx.job_statements.IN, tx.at(now_ms), tx.ids(row[0] for row in running))
        tx.changes.ended_jobs += [row[0] for row in running]
    gone = [row for row in held if row[4] != "running" and not row[5]]
    if gone:
        delete(tx, gone)
    return "going on" if gone else "waiting"


def delete(tx: Tx, found: list[Row]) -> None:
    """Delete jobs that do not run: rows that begin with id, endpoint, queue, lane, state,
    releasing, and whether their queue's epoch is theirs."""
    ids = tx.ids(row[0] for row in found)
    for part in PARTS:
        tx.run(f"DELETE FROM {part} WHERE job{tx.job_statements.IN}", ids)
    tx.run(f"DELETE FROM jobs WHERE id{tx.job_statements.IN}", ids)
    for _, endpoint, queue, _, state, _, present in found:
        if state == "queued" and present:
            tx.changes.queued(endpoint, queue, -1)
