"""What ends with time, with its process or with its endpoint, and what is handed back: in slices
that a commit does not notice. Portable."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from dispatcher.jobs.judge import died
from dispatcher.jobs.states import JobReason
from dispatcher.jobs.values import ClaimedJob, HeldJob, JobVerdict
from dispatcher.store.jobs import finish, stops
from dispatcher.store.jobs.finish import Ending, Found
from dispatcher.store.jobs.touched import OF_JOBS, Touched
from dispatcher.store.requests import Rules
from dispatcher.store.tx import Row, Tx

_EXPIRING: Final = f"{OF_JOBS} state = 'queued' AND expires_ms <= ? ORDER BY expires_ms LIMIT ?"
_BUSY: Final = f"{OF_JOBS} (state = 'running' OR releasing = 1)"
_OF_PROCESS: Final = f"{_BUSY} AND process = ? LIMIT ?"
_ORPHANS: Final = f"{_BUSY} AND process <> ? AND process NOT IN (SELECT id FROM processes) LIMIT ?"
_HANDED_BACK: Final = "the gateway ended during its call; it is not repeated because "


# --- by time ---


def of_expiring(now_ms: int, limit: int) -> Touched:
    """Return what waits past its time."""
    return Touched(lambda tx: tx.all(_EXPIRING, tx.at(now_ms), limit))


def expire(tx: Tx, touched: Touched, rules: Rules, *, now_ms: int, limit: int) -> int:
    """End what waits past its queue timeout or time to live; return how many that were."""
    at_ms = tx.at(now_ms)
    ids = [row[0] for row in tx.all(_EXPIRING, at_ms, limit)]
    by_reason: dict[JobReason, list[Found]] = {"expired": [], "ttl": []}
    for one in finish.find(tx, ids, touched):
        if one.job.state == "queued":
            has_begun = one.job.started_ms is not None
            is_over = one.ends_ms is not None and one.ends_ms <= at_ms
            by_reason["ttl" if has_begun and is_over else "expired"].append(one)
    return sum(
        len(finish.end(tx, found, Ending(state="timeout", reason=reason), rules, now_ms=now_ms))
        for reason, found in by_reason.items()
    )


# --- by the end of who runs it ---


def of_orphans(beside: str, limit: int) -> Touched:
    """Return what nobody runs, or gives the place of back, who is known and is not `beside`."""
    return Touched(lambda tx: tx.all(_ORPHANS, beside, limit))


def of_process(process: str, limit: int) -> Touched:
    """Return what a process runs."""
    return Touched(lambda tx: tx.all(_OF_PROCESS, process, limit))


def reclaim(
    tx: Tx, process: str, beat: int, touched: Touched, rules: Rules, *, now_ms: int, limit: int
) -> int:
    """Forget a process that is dead at this beat, and take a slice of what it ran; the rest has
    nobody now. Nothing happens if it has beaten since. Returns how many were taken."""
    if not tx.run("DELETE FROM processes WHERE id = ? AND beat = ?", process, beat):
        return 0
    return _take(tx, tx.all(_OF_PROCESS, process, limit), touched, rules, now_ms=now_ms)


def reclaim_orphans(
    tx: Tx, beside: str, touched: Touched, rules: Rules, *, now_ms: int, limit: int
) -> int:
    """Take a slice of what nobody runs who is known; returns how many were taken."""
    return _take(tx, tx.all(_ORPHANS, beside, limit), touched, rules, now_ms=now_ms)


def _take(tx: Tx, rows: Sequence[Row], touched: Touched, rules: Rules, *, now_ms: int) -> int:
    found = finish.find(tx, [row[0] for row in rows], touched)
    released = [one for one in found if one.job.state != "running"]
    _free(tx, found, [one.job.id for one in released if not one.stops])
    stops.leave(tx, [one.job.id for one in released if one.stops])
    running = [one for one in found if one.job.state == "running"]
    loads = _loads(tx, running)
    verdicts = [
        (one, died(one.interruptions, once=loads[one.job.endpoint][0], sync=one.job.options.sync))
        for one in running
    ]
    _apply(tx, verdicts, rules, interrupted=1, now_ms=now_ms)
    return len(found)


def release(
    tx: Tx, jobs: Sequence[ClaimedJob | HeldJob], touched: Touched, rules: Rules, *, now_ms: int
) -> int:
    """Hand running jobs back, unspent, where their claims are current; what is called at most once
    has failed. Returns how many were handed back or ended."""
    claims = {job.id: job.claim for job in jobs}
    found = [
        one
        for one in finish.find(tx, list(claims), touched)
        if one.job.state == "running" and one.claim == claims[one.job.id]
    ]
    loads = _loads(tx, found)
    verdicts = [(one, _handed_back(one, once=loads[one.job.endpoint][0])) for one in found]
    _apply(tx, verdicts, rules, interrupted=0, now_ms=now_ms)
    return len(found)


def _handed_back(one: Found, *, once: bool) -> JobVerdict:
    if not once and not one.job.options.sync:
        return JobVerdict(state="queued", due_ms=0)
    why = "its endpoint's `delivery` is at-most-once" if once else "its caller waited for it"
    return JobVerdict(state="failed", reason="interrupted", error=_HANDED_BACK + why)


def _apply(
    tx: Tx,
    verdicts: Sequence[tuple[Found, JobVerdict]],
    rules: Rules,
    *,
    interrupted: int,
    now_ms: int,
) -> None:
    """Queue running jobs again or end them. Their queue timeout counts anew, as they had begun. The
    upstream of one whose process was `interrupted` is told to stop, where that can be done: by who
    calls it again, else by whoever finds it."""
    loads = _loads(tx, [one for one, _ in verdicts])
    again: list[Row] = []
    ended: dict[Ending, list[Found]] = defaultdict(list)
    for one, verdict in verdicts:
        if verdict.state != "queued":
            reason = verdict.reason or "interrupted"
            ending = Ending(
                state=verdict.state,
                reason=reason,
                error=verdict.error,
                stopping=bool(interrupted),
            )
            ended[ending].append(one)
            continue
        expires_ms = tx.at(now_ms) + loads[one.job.endpoint][1]
        if one.ends_ms is not None:
            expires_ms = min(expires_ms, one.ends_ms)
        again.append((one.interruptions + interrupted, expires_ms, one.job.id))
        tx.changes.queued(one.job.endpoint, one.queue, 1)
    if again:
        tx.bulk(tx.job_statements.REQUEUE_JOBS, again)
    for ending, found in ended.items():
        finish.end(tx, found, ending, rules, now_ms=now_ms)


def _loads(tx: Tx, found: Sequence[Found]) -> dict[str, tuple[bool, int]]:
    """Return of each of their endpoints whether its calls are made at most once, and its queue
    timeout."""
    sql = "SELECT endpoint, once, queue_timeout_ms FROM endpoint_load WHERE endpoint"
    endpoints = tx.ids({one.job.endpoint for one in found})
    return {row[0]: (bool(row[1]), row[2]) for row in tx.all(sql + tx.job_statements.IN, endpoints)}


# --- places ---


def freed(tx: Tx, jobs: Sequence[ClaimedJob | HeldJob], touched: Touched) -> None:
    """Free the places of jobs that were ended while they ran, now that their calls have ended."""
    claims = {job.id: _ended_from(job) for job in jobs}
    found = finish.find(tx, list(claims), touched)
    done = [one.job.id for one in found if one.job.releasing and one.claim == claims[one.job.id]]
    _free(tx, found, done)


def _ended_from(job: ClaimedJob | HeldJob) -> int:
    """Return the claim that a job has since it was ended: one more than it ran under, and what is
    held of an ended one is told with it. One that was run again since, by another process perhaps,
    has a later one: that place is not ours to free."""
    return job.claim if isinstance(job, HeldJob) and job.releasing else job.claim + 1


def _free(tx: Tx, found: Sequence[Found], ids: Sequence[str]) -> None:
    if ids:
        sql = "UPDATE jobs SET releasing = 0, process = NULL WHERE releasing = 1 AND id"
        tx.run(sql + tx.job_statements.IN, tx.ids(ids))
        tx.changes.endpoints |= {one.job.endpoint for one in found if one.job.id in set(ids)}
