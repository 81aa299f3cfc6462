"""Bulk cancels and bulk retries: a fixed set, walked by id, a slice in one commit with its cursor.
Purges are kept beside them, as a record (`purge.py`). Portable.

The set is what matches when the sweep is made: of a cancel what waits or runs in a run that was
queued before, of a retry what had ended before. A retry that meets a full queue goes on when there
is room.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from dispatcher.audit import Entry
from dispatcher.ids import new_id
from dispatcher.jobs import filters
from dispatcher.jobs.filters import JobFilter
from dispatcher.jobs.looks import JobSweep, SweepCount
from dispatcher.jobs.states import FINAL, RETRYABLE, JobState
from dispatcher.store import audit
from dispatcher.store.errors import Conflict, JobQueueFull, NotFound
from dispatcher.store.jobs import change, finish
from dispatcher.store.jobs.finish import Ending, Found
from dispatcher.store.jobs.search import newest, walk
from dispatcher.store.jobs.touched import Touched, of_jobs
from dispatcher.store.requests import Rules
from dispatcher.store.search import Clause, Walk
from dispatcher.store.tx import Row, Tx

Bulk = Literal["cancel", "retry"]
# A set is counted up to here; beyond that it is "more" until it was walked.
COUNTED_MAX: Final = 10_000
RUNNING_MAX: Final = 20
"""Sweeps of one tenant that run at once."""
KEPT: Final = 1_000
"""Sweeps that are kept of one tenant, but for those that run."""
_TRIMMED_MAX: Final = 10
_TRIM: Final = """
DELETE FROM job_sweeps WHERE state <> 'running' AND id IN (
    SELECT id FROM job_sweeps WHERE tenant = ? ORDER BY id DESC LIMIT ? OFFSET ?)
"""
_SWEEPER: Final = "sweep jobs"  # what the one process that sweeps has acquired
_WAITING: Final[tuple[JobState, ...]] = ("queued", "running")
_ENDED: Final[tuple[JobState, ...]] = ("failed", "timeout", "cancelled")
_COLUMNS: Final = (
    "id",
    "tenant",
    "what",
    "endpoint",
    "filter",
    "callbacks",
    "matched",
    "matched_exactly",
    "done",
    "skipped",
    "state",
    "created_ms",
    "ended_ms",
)
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM job_sweeps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a sweep would walk next: from its `cursor` the jobs `ids`, up to `end_id` (None: the set
    ends here)."""

    what: Bulk
    cursor: str
    ids: Sequence[str]
    end_id: str | None

    @property
    def touched(self) -> Touched:
        """What it touches."""
        return of_jobs(self.ids)


def states_of(what: Bulk, filter: JobFilter) -> tuple[JobState, ...]:
    """Return the states that a sweep is about. Raises Conflict where its filter asks for one that
    it cannot change."""
    allowed = _WAITING if what == "cancel" else _ENDED
    if filter.status is None:
        return allowed
    if filter.status not in allowed:
        raise Conflict(f"a bulk {what} is about jobs that are {' or '.join(allowed)}")
    return (filter.status,)


def _walk(
    tx: Tx,
    tenant: str,
    what: Bulk,
    filter: JobFilter,
    *,
    made_ms: int,
    after: str | None,
    newest_first: bool,
) -> Walk:
    """Walk the set: what ends later, or is queued again meanwhile, is not in it."""
    states = ", ".join(f"'{state}'" for state in states_of(what, filter))
    since = "c.queued_ms" if what == "cancel" else "coalesce(c.ended_ms, 0)"
    also: list[Clause] = [
        (f"c.state || '' IN ({states})", ()),
        (f"{since} + 0 <= ?", (made_ms,)),
    ]
    return walk(tx, tenant, filter, after=after, newest_first=newest_first, also=also)


def count(
    tx: Tx, tenant: str, what: Bulk, filter: JobFilter, *, made_ms: int, sample: int
) -> SweepCount:
    """Count what a sweep made now would match, as far as one look goes in each of its states, and
    show at most `sample` of it, the newest. `made_ms` is by the database's clock. Raises
    Conflict."""
    total = SweepCount()
    for state in states_of(what, filter):
        walked = _walk(
            tx,
            tenant,
            what,
            replace(filter, status=state),
            made_ms=made_ms,
            after=None,
            newest_first=True,
        )
        counting = f"SELECT count(*) FROM (SELECT 1 {walked.source} LIMIT ?) m"
        row = tx.one(counting, *walked.values, COUNTED_MAX + 1)
        matched = 0 if row is None else int(row[0])
        shown = newest(tx, walked, limit=sample) if sample and matched else ()
        total = total.plus(matched, exact=walked.last_id is None, sample=shown)
    shown = sorted(total.sample, key=lambda job: job.id, reverse=True)[:sample]
    matched = min(total.matched, COUNTED_MAX)
    return SweepCount(
        matched=matched, exact=total.exact and matched == total.matched, sample=tuple(shown)
    )


def new(tenant: str, what: Bulk, filter: JobFilter, counted: SweepCount, now_ms: int) -> JobSweep:
    """Return a sweep of what matches now, not yet stored. `now_ms` is by the database's clock."""
    some = counted.matched > 0 or not counted.exact
    return JobSweep(
        id=new_id("js", now_ms),
        tenant=tenant,
        what=what,
        endpoint=filter.endpoint,
        filter=filters.dump(filter),
        callbacks=True,
        matched=counted.matched,
        matched_exactly=counted.exact,
        done=0,
        skipped=0,
        state="running" if some else "completed",
        created_ms=now_ms,
        ended_ms=None if some else now_ms,
    )


def make(tx: Tx, sweep: JobSweep, entry: Entry | None = None) -> JobSweep:
    """Record a sweep; walking it is for later commits. Of those that ended the newest are kept.
    Raises Conflict while as many run as may."""
    sql = (
        "SELECT count(*) FROM job_sweeps WHERE tenant = ? AND state = 'running' AND what <> 'purge'"
    )
    row = tx.one(sql, sweep.tenant)
    if sweep.state == "running" and row is not None and row[0] >= RUNNING_MAX:
        raise Conflict(f"{RUNNING_MAX} bulk changes of {sweep.tenant}'s jobs run already")
    trim(tx, sweep.tenant)
    values: dict[str, object] = {name: getattr(sweep, name) for name in _COLUMNS}
    values["filter"] = json.dumps(sweep.filter)
    values["callbacks"], values["matched_exactly"] = 1, int(sweep.matched_exactly)
    tx.run(
        f"INSERT INTO job_sweeps ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})",
        *values.values(),
    )
    if entry is not None:
        counted = {"matched": sweep.matched, "matchedExactly": sweep.matched_exactly}
        audit.append(tx, entry.about(sweep.id, **counted))
    return sweep


def trim(tx: Tx, tenant: str) -> None:
    """Delete some of a tenant's sweeps that ended, where there are more than are kept: more than
    one call of this makes."""
    tx.run(_TRIM, tenant, _TRIMMED_MAX, KEPT - 1)


def get(tx: Tx, tenant: str, sweep: str) -> JobSweep:
    """Raise NotFound, for another tenant's just the same."""
    row = tx.one(f"{_SELECT} WHERE id = ? AND tenant = ?", sweep, tenant)
    if row is None:
        raise NotFound(f"there is no bulk change {sweep}")
    return _sweep(row)


def sweeps(tx: Tx, tenant: str, *, after: str | None, limit: int) -> list[JobSweep]:
    """Newest first, at most `limit`, after id `after`."""
    bound, values = ("", ()) if after is None else (" AND id < ?", (after,))
    sql = f"{_SELECT} WHERE tenant = ?{bound} ORDER BY id DESC LIMIT ?"
    return [_sweep(row) for row in tx.all(sql, tenant, *values, limit)]


def running(tx: Tx, *, limit: int) -> list[JobSweep]:
    """Return bulk changes that run, of every tenant, in the order of their ids."""
    sql = f"{_SELECT} WHERE state = 'running' AND what <> 'purge' ORDER BY id LIMIT ?"
    return [_sweep(row) for row in tx.all(sql, limit)]


def _sweep(row: Row) -> JobSweep:
    named = dict(zip(_COLUMNS, row, strict=True))
    # What a purge remembers in its place is no filter.
    named["filter"] = {} if named["what"] == "purge" else json.loads(named["filter"])
    named["callbacks"] = bool(named["callbacks"])
    named["matched_exactly"] = bool(named["matched_exactly"])
    return JobSweep(**named)


# --- walking ---


def acquire(tx: Tx) -> bool:
    """Whether this process is the one that sweeps: one does for all."""
    return tx.acquire(_SWEEPER)


def upcoming(tx: Tx, sweep: str, *, limit: int) -> Part | None:
    """Return at most `limit` jobs that a sweep would walk next, as far as one look goes; None for
    one that has ended."""
    row = tx.one(
        "SELECT tenant, what, filter, created_ms, cursor FROM job_sweeps "
        "WHERE id = ? AND state = 'running'",
        sweep,
    )
    if row is None:
        return None
    tenant, what, text, made_ms, cursor = row
    filter = filters.parse(json.loads(text))
    walked = _walk(
        tx, tenant, what, filter, made_ms=made_ms, after=cursor or None, newest_first=False
    )
    found = tx.all(
        f"SELECT c.id {walked.source} ORDER BY {walked.column} LIMIT ?", *walked.values, limit
    )
    ids = [row[0] for row in found]
    full = len(ids) == limit
    end_id = ids[-1] if full or (ids and walked.last_id is None) else walked.last_id
    return Part(what=what, cursor=cursor, ids=ids, end_id=end_id)


def step(
    tx: Tx, sweep: str, part: Part, touched: Touched, rules: Rules, *, now_ms: int
) -> tuple[JobSweep, bool]:
    """Change a part of the set and move the cursor behind it, in this one commit; at the set's end
    the sweep ends. A retry comes no further than a full queue lets it. Returns what became of it,
    and whether it came anywhere.

    Nothing happens if the cursor has moved since they were read, or if the sweep has ended. Raises
    NotFound, and Conflict where another process sweeps.
    """
    row = tx.one("SELECT tenant, state, cursor, created_ms FROM job_sweeps WHERE id = ?", sweep)
    if row is None:
        raise NotFound(f"there is no bulk change {sweep}")
    tenant, state, cursor, made_ms = row
    if state == "running" and not acquire(tx):
        raise Conflict("another process makes the bulk changes of jobs")
    moved = True
    if state == "running" and cursor == part.cursor:
        found = [
            one for one in finish.find(tx, part.ids, touched) if _is_in_set(one, part.what, made_ms)
        ]
        if part.what == "cancel":
            ending = Ending(state="cancelled", reason="user", releasing=True)
            done, last_id = len(finish.end(tx, found, ending, rules, now_ms=now_ms)), part.end_id
            walked, ends = len(part.ids), part.end_id is None
        else:
            done, walked, last_id = _retry(tx, found, part, now_ms)
            ends = part.end_id is None and walked == len(part.ids)
            moved = ends or walked > 0 or last_id != cursor
        _advance(tx, sweep, cursor, last_id, done, walked - done, ends=ends, now_ms=now_ms)
    return get(tx, tenant, sweep), moved


def _is_in_set(one: Found, what: Bulk, made_ms: int) -> bool:
    if what == "cancel":
        return one.job.state not in FINAL and one.job.queued_ms <= made_ms
    return one.job.state in RETRYABLE and (one.job.ended_ms or 0) <= made_ms


def _retry(tx: Tx, found: Sequence[Found], part: Part, now_ms: int) -> tuple[int, int, str | None]:
    """Queue jobs again; return how many that were, how many are done with, and the last of these
    (None where that is none). What met a full queue, and all behind it, is for the next step."""
    refused = change.retry_all(tx, found, force=False, now_ms=now_ms)
    full = next(
        (n for n, id in enumerate(part.ids) if isinstance(refused.get(id), JobQueueFull)), None
    )
    done = len(found) - len(refused)
    if full is None:
        return done, len(part.ids), part.end_id
    behind = {one.job.id for one in found} - refused.keys()
    later = len(behind.intersection(part.ids[full:]))
    # What is behind it and was queued leaves the set: it is counted now.
    return done, full + later, part.ids[full - 1] if full else part.cursor


def _advance(
    tx: Tx,
    sweep: str,
    cursor: str,
    last_id: str | None,
    done: int,
    skipped: int,
    *,
    ends: bool,
    now_ms: int,
) -> None:
    if not ends:
        tx.run(
            "UPDATE job_sweeps SET cursor = ?, done = done + ?, skipped = skipped + ? "
            "WHERE id = ? AND cursor = ?",
            last_id or cursor,
            done,
            skipped,
            sweep,
            cursor,
        )
        return
    # What left the set on its own counts as skipped, where it was counted; else the set is what was
    # walked.
    tx.run(
        "UPDATE job_sweeps SET state = 'completed', ended_ms = ?, done = done + ?, skipped = CASE "
        "WHEN matched_exactly = 1 AND matched > done + ? THEN matched - done - ? "
        "WHEN matched_exactly = 1 THEN 0 ELSE skipped + ? END, "
        "matched = CASE WHEN matched_exactly = 1 THEN matched ELSE done + skipped + ? END, "
        "matched_exactly = 1 WHERE id = ? AND cursor = ?",
        tx.at(now_ms),
        done,
        done,
        done,
        skipped,
        done + skipped,
        sweep,
        cursor,
    )


def cancel(tx: Tx, tenant: str, sweep: str, *, now_ms: int, entry: Entry | None = None) -> JobSweep:
    """Change no more jobs; what was changed stays. Cancelling twice is fine. Raises NotFound, and
    Conflict for one that is done, and for a purge, which was done at once."""
    before = get(tx, tenant, sweep)
    if before.state == "completed" or before.what == "purge":
        raise Conflict(f"{sweep} is done already")
    stopped = tx.run(
        "UPDATE job_sweeps SET state = 'cancelled', ended_ms = ? "
        "WHERE id = ? AND state = 'running'",
        tx.at(now_ms),
        sweep,
    )
    if stopped and entry is not None:
        audit.append(tx, entry)
    return get(tx, tenant, sweep)
