"""Ends of jobs that nobody can be told of yet: where to stands in their options, which no key of
ours opens, or what the callback is to be signed with does not open. They are kept beside the jobs,
and told once the key is there. Portable.

So a missing key keeps no job from its end, and no end from being told.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dispatcher.dialects.callbacks import callback_of
from dispatcher.ids import random_id
from dispatcher.jobs.states import FINAL, JobReason, JobState
from dispatcher.jobs.told import End
from dispatcher.store.errors import CannotUnseal
from dispatcher.store.jobs import rows
from dispatcher.store.jobs.tell import tell
from dispatcher.store.jobs.touched import Touched
from dispatcher.store.requests import Rules, SubmitRequest
from dispatcher.store.sealing import HEAD_CHARS
from dispatcher.store.tx import Row, Tx, marks
from dispatcher.values import NewCallback
from receiver.base.keyring import kid_of

_NOTE: Final = """
INSERT INTO job_untold (job, run, kid, state, reason, error, started_ms, ended_ms)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_SEALED: Final = ("options", "secret")  # in this order it is opened
_ENDS: Final = """
SELECT j.id, j.endpoint, j.lane, u.run, u.state, u.reason, u.error, u.started_ms, u.ended_ms
FROM job_untold u JOIN jobs j ON j.id = u.job
"""


@dataclass(frozen=True, slots=True)
class Untold:
    """The end of a job's run. Times are by the database's clock."""

    job: str
    run: int
    state: JobState
    reason: JobReason | None
    error: str | None
    started_ms: int | None
    ended_ms: int


def note(tx: Tx, ends: Iterable[Untold]) -> None:
    """Keep those of these ends that somebody is to be told of."""
    by_id = {one.job: one for one in ends}
    if not by_id:
        return
    sql = f"SELECT id FROM jobs WHERE id{tx.job_statements.IN} AND lane IS NOT NULL"
    values: list[Row] = []
    for (id,) in tx.all(sql, tx.ids(by_id)):
        end = by_id[id]
        told = (end.state, end.reason, end.error, end.started_ms, end.ended_ms)
        values.append((id, end.run, _missing_kid(tx, id), *told))
    if values:
        tx.many(_NOTE, values)


def _missing_kid(tx: Tx, job: str) -> str | None:
    """Return the name of a key that telling a job's end needs and that is not here. None where
    there is none: then it is damaged, and no key ever will open it."""
    sql = f"SELECT {', '.join(f'substr({name}, 1, {HEAD_CHARS})' for name in _SEALED)} FROM jobs"
    heads = tx.one(f"{sql} WHERE id = ?", job) or ()
    known = () if tx.ring is None else tx.ring.kids
    kids = (None if head is None else kid_of(head) for head in heads)
    return next((kid for kid in kids if kid is not None and kid not in known), None)


def due(tx: Tx, limit: int) -> list[tuple[str, int]]:
    """Return at most `limit` ends, by job and run, that can be told now."""
    kids = () if tx.ring is None else tuple(tx.ring.kids)
    if not kids:
        return []
    sql = f"SELECT job, run FROM job_untold WHERE kid IN ({marks(kids)}) ORDER BY kid, job LIMIT ?"
    return [(job, run) for job, run in tx.all(sql, *kids, limit)]


def of_due(ends: Sequence[tuple[str, int]]) -> Touched:
    """Return what telling these ends touches."""
    return Touched(lambda tx: [row[:3] for row in _found(tx, ends)])


def _found(tx: Tx, ends: Sequence[tuple[str, int]]) -> list[Row]:
    chosen = set(ends)
    found = tx.all(f"{_ENDS} WHERE u.job{tx.job_statements.IN}", tx.ids({job for job, _ in ends}))
    return [row for row in found if (row[0], row[3]) in chosen]


def tell_due(
    tx: Tx, ends: Sequence[tuple[str, int]], touched: Touched, rules: Rules, *, now_ms: int
) -> int:
    """Tell these ends, as if it were the moment they came in; return how many. One whose options
    turn out to be damaged stays untold."""
    told: dict[tuple[str, int], NewCallback] = {}
    done: list[Row] = []
    for id, endpoint, lane, run, *rest in _found(tx, ends):
        if not touched.may_change(tx, endpoint, lane):
            continue
        try:
            callback = _callback(tx, id, run, tuple(rest), rules, now_ms)
        except CannotUnseal:
            sql = "UPDATE job_untold SET kid = ? WHERE job = ? AND run = ?"
            tx.run(sql, _missing_kid(tx, id), id, run)
            continue
        done.append((id, run))
        if callback is not None:
            told[id, run] = callback
    if not done:
        return 0
    tell(tx, [SubmitRequest(one, handover=False) for one in told.values()], rules)
    finals = ", ".join(f"'{state}'" for state in sorted(FINAL))
    tx.many(
        f"UPDATE jobs SET callback = ? WHERE id = ? AND run = ? AND state IN ({finals})",
        [(callback.id, *of) for of, callback in told.items()],
    )
    tx.many("DELETE FROM job_untold WHERE job = ? AND run = ?", done)
    return len(done)


def _callback(tx: Tx, id: str, run: int, end: Row, rules: Rules, now_ms: int) -> NewCallback | None:
    """Return the callback that tells an end. Raises CannotUnseal."""
    state, reason, error, started_ms, ended_ms = end
    began_ms = None if started_ms is None else tx.here(started_ms)
    ((secret, *row),) = tx.all(f"SELECT secret, {rows.JOB} FROM jobs WHERE id = ?", id)
    job = rows.job(tx, tuple(row))
    if job.unopened is not None:
        raise CannotUnseal(job.unopened)
    job = replace(job, run=run, queued_ms=tx.here(job.queued_ms), started_ms=began_ms)
    callback = callback_of(
        job,
        End(state=state, reason=reason, error=error),
        id=random_id("cb", now_ms),
        now_ms=tx.here(ended_ms),
        inline_max=rules.inline_max,
        public_url=rules.public_url,
        secret=rows.callbacks_secret(tx, job, secret),
    )
    return None if callback is None else replace(callback, created_ms=now_ms)
