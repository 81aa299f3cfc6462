"""Jobs whose upstreams end them by URL: they run with no process holding them, take their places
until then, and are looked at when their time is over. Portable."""

from collections.abc import Sequence
from typing import Final

from dispatcher.jobs.states import FINAL, JobState
from dispatcher.jobs.values import JobByUrl, JobSettlement
from dispatcher.store.jobs import rows
from dispatcher.store.jobs.rows import CLAIMED
from dispatcher.store.tx import Row, Tx

WITHOUT_INPUT: Final = CLAIMED.replace("p.body, p.content_type, p.kid", "NULL, '', NULL").replace(
    "p.blob", "NULL"
)
"""With a body of no bytes: the call is out, and nothing of its request is needed any more."""
_RUNNING: Final = f"""
SELECT {WITHOUT_INPUT}, coalesce(l.epoch, 0),
       CASE WHEN j.process IS NULL THEN j.called_ms ELSE j.started_ms END,
       CASE WHEN j.process IS NULL THEN j.limit_ms END,
       coalesce((SELECT at_ms FROM job_progress r WHERE r.job = j.id AND r.claim = j.claim), 0)
FROM jobs j LEFT JOIN endpoint_load l ON l.endpoint = j.endpoint
WHERE j.state = 'running'
"""
_LATE: Final = "j.process IS NULL AND j.deadline_ms <= ? ORDER BY j.deadline_ms LIMIT ?"
_LET_GO: Final = """
UPDATE jobs SET process = NULL, called_ms = ?, limit_ms = ?, deadline_ms = ?
WHERE id = ? AND claim = ? AND state = 'running'
"""


def let_go(tx: Tx, settlements: Sequence[JobSettlement]) -> None:
    """Have no process hold these jobs any more, which run on."""
    values = []
    for one in settlements:
        job, verdict = one.job, one.verdict
        limit_ms = tx.at(verdict.limit_ms or one.now_ms)
        look_ms = limit_ms if verdict.look_ms is None else tx.at(verdict.look_ms)
        values.append((tx.at(one.outcome.started_ms), limit_ms, look_ms, job.id, job.claim))
    tx.many(_LET_GO, values)


def running(tx: Tx, job: str, claim: int, *, now_ms: int) -> JobByUrl | None:
    """Return a job that runs under this claim, whoever holds it, None where none does."""
    row = tx.one(f"{_RUNNING} AND j.id = ? AND j.claim = ?", job, claim)
    return None if row is None else _by_url(tx, row, now_ms)


def claim_of(tx: Tx, job: str, run: int) -> int | None:
    """Return the claim that a job runs under, in this run of it; None where it does not."""
    sql = "SELECT claim FROM jobs WHERE id = ? AND run = ? AND state = 'running'"
    row = tx.one(sql, job, run)
    return None if row is None else row[0]


def ended_under(tx: Tx, job: str, claim: int) -> tuple[str, JobState] | None:
    """Return whose job it is that ended under this claim, and how; None where it did not."""
    sql = "SELECT tenant, state FROM jobs WHERE id = ? AND claim = ?"
    row = tx.one(sql, job, claim)
    return None if row is None or row[1] not in FINAL else (row[0], row[1])


def any_late(tx: Tx, *, now_ms: int) -> bool:
    """Whether any is to be looked at. `now_ms` is by the database's clock."""
    sql = "SELECT 1 FROM jobs j WHERE j.state = 'running' AND " + _LATE
    return tx.one(sql, now_ms, 1) is not None


def late(tx: Tx, *, now_ms: int, limit: int) -> list[JobByUrl]:
    """Return those that are to be looked at now."""
    found = tx.all(f"{_RUNNING} AND {_LATE}", tx.at(now_ms), limit)
    return [_by_url(tx, row, now_ms) for row in found]


def look_later(tx: Tx, job: str, claim: int, look_ms: int) -> None:
    """Look at one later: it lives."""
    tx.run(
        "UPDATE jobs SET deadline_ms = ? WHERE id = ? AND claim = ? "
        "AND state = 'running' AND process IS NULL",
        tx.at(look_ms),
        job,
        claim,
    )


def _by_url(tx: Tx, row: Row, now_ms: int) -> JobByUrl:
    *claimed, epoch, called_ms, limit_ms, sign_ms = row
    job = rows.claimed(tx, tuple(claimed), epoch, now_ms)
    job.let_go()
    return JobByUrl(
        job=job,
        called_ms=tx.here(called_ms),
        limit_ms=None if limit_ms is None else tx.here(limit_ms),
        sign_ms=tx.here(max(called_ms, sign_ms)),
    )
