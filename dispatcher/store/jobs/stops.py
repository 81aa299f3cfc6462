"""Jobs that have ended while their upstreams may still work for them: until those are told to stop,
by the process that had the call or by whichever takes it on, they take their places. Portable."""

from collections.abc import Sequence
from typing import Final

from dispatcher.jobs.values import ClaimedJob
from dispatcher.store.jobs import rows
from dispatcher.store.jobs.by_url import WITHOUT_INPUT
from dispatcher.store.jobs.touched import OF_JOBS, Touched
from dispatcher.store.tx import Tx

_LEFT: Final = f"{OF_JOBS} releasing = 1 AND process IS NULL ORDER BY id LIMIT ?"
_LEAVE: Final = "UPDATE jobs SET process = NULL WHERE releasing = 1 AND id"
_TAKE: Final = "UPDATE jobs SET process = ? WHERE releasing = 1 AND process IS NULL AND id"
_TAKEN: Final = f"""
SELECT {WITHOUT_INPUT} FROM jobs j WHERE j.releasing = 1 AND j.process = ? AND j.id
"""


def any_left(tx: Tx) -> bool:
    """Whether there are any that nobody has taken on."""
    return bool(tx.all(_LEFT, 1))


def of_left(limit: int) -> Touched:
    """Return those that nobody has taken on."""
    return Touched(lambda tx: tx.all(_LEFT, limit), tells=False)


def leave(tx: Tx, jobs: Sequence[str]) -> None:
    """Leave these to whichever process takes them on."""
    if jobs:
        tx.run(_LEAVE + tx.job_statements.IN, tx.ids(jobs))


def take(tx: Tx, process: str, touched: Touched, *, now_ms: int, limit: int) -> list[ClaimedJob]:
    """Have a process take on some that nobody has: without their inputs, each under the claim that
    it has since its end."""
    found = tx.all(_LEFT, limit)
    ids = [row[0] for row in found if touched.may_change(tx, row[1], None)]
    if not ids:
        return []
    tx.run(_TAKE + tx.job_statements.IN, process, tx.ids(ids))
    taken = tx.all(_TAKEN + tx.job_statements.IN, process, tx.ids(ids))
    jobs = [rows.claimed(tx, row, 0, now_ms) for row in taken]
    for job in jobs:
        job.let_go()
    return jobs
