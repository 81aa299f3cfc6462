"""Jobs whose upstreams end them by URL: they run with no process holding them, take their places
until then, and are looked at when their time is over. Portable."""

from collections.abc import Sequence
from typing import Final

from dispatcher.jobs.states import FINAL, JobState
from dispatcher.jobs.values import JobByUrl, JobSettlement
from dispatcher.store.clocks import SLACK_MS
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
# The empty text keeps the database from walking all that runs so.
_OUT: Final = "state || '' = 'running' AND process IS NULL"
_LOOK_LATER: Final = f"UPDATE jobs SET deadline_ms = ? WHERE id = ? AND claim = ? AND {_OUT}"
_CALLED_AHEAD: Final = """
SELECT id FROM jobs WHERE state = 'running' AND process IS NULL AND called_ms > ? LIMIT ?
"""
# "Cross": else SQLite begins with what was reported, also of all that has ended.
_SIGNED_AHEAD: Final = """
SELECT j.id FROM jobs j CROSS JOIN job_progress r
WHERE j.state = 'running' AND j.process IS NULL AND j.deadline_ms > ?
    AND r.job = j.id AND r.claim = j.claim AND r.at_ms > ? LIMIT ?
"""
_CALLED: Final = f"SELECT id, endpoint FROM jobs WHERE {_OUT} AND id"
# Of a call that was made by a clock that ran ahead it is known for how long it may last.
_BRING_BACK: Final = f"""
UPDATE jobs SET
    limit_ms = CASE WHEN called_ms > ? THEN limit_ms - called_ms + ? ELSE limit_ms END,
    called_ms = CASE WHEN called_ms > ? THEN ? ELSE called_ms END,
    started_ms = CASE WHEN started_ms > ? THEN ? ELSE started_ms END,
    queued_ms = CASE WHEN queued_ms > ? THEN ? ELSE queued_ms END,
    deadline_ms = ?
WHERE id = ? AND {_OUT}
"""
_SIGN_BY_NOW: Final = """
UPDATE job_progress SET at_ms = ?, since_ms = CASE WHEN since_ms > ? THEN ? ELSE since_ms END
WHERE job = ? AND at_ms > ?
"""
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
        called_ms = tx.at(one.outcome.began_ms(one.now_ms))
        values.append((called_ms, limit_ms, look_ms, job.id, job.claim))
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


def look_later(tx: Tx, job: str, claim: int, look_ms: int, *, now_ms: int) -> None:
    """Look at one later: it lives, and has given a sign of it by now at the latest."""
    if tx.run(_LOOK_LATER, tx.at(look_ms), job, claim):
        _sign_by_now(tx, job, tx.at(now_ms))


# --- by a clock that ran ahead ---


def ahead(tx: Tx, *, now_ms: int, signs: bool, limit: int) -> list[str]:
    """Return jobs whose calls are out since a time that has not come yet, or, if `signs`, that gave
    a sign of life then and are not looked at before. `now_ms` is by the database's clock."""
    soon_ms = now_ms + SLACK_MS
    found = [row[0] for row in tx.all(_CALLED_AHEAD, soon_ms, limit)]
    if signs and len(found) < limit:
        signed = tx.all(_SIGNED_AHEAD, soon_ms, soon_ms, limit - len(found))
        found += [row[0] for row in signed if row[0] not in found]
    return found


def bring_back(tx: Tx, ids: Sequence[str], *, now_ms: int) -> int:
    """Have the calls of these jobs be out since now, for as long as they may be, and look at them:
    what has given a sign of life has done so by now. Returns how many there were still."""
    called = tx.all(f"{_CALLED}{tx.job_statements.IN} ORDER BY id", tx.ids(ids))
    found = [id for id, endpoint in called if tx.holds_endpoint(endpoint)]
    soon = now_ms + SLACK_MS, now_ms
    for id in found:
        tx.run(_BRING_BACK, *soon * 4, now_ms, id)
        _sign_by_now(tx, id, now_ms)
    return len(found)


def _sign_by_now(tx: Tx, job: str, now_ms: int) -> None:
    tx.run(_SIGN_BY_NOW, now_ms, now_ms, now_ms, job, now_ms + SLACK_MS)


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
