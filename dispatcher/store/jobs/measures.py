"""What jobs took, and what customers used: counted by endpoint and day, in the commits that end
jobs. Portable."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from dispatcher.jobs.estimates import DAYS, Histogram, What, bucket_of
from dispatcher.jobs.looks import JobUsage
from dispatcher.jobs.states import FINAL
from dispatcher.jobs.values import Job, JobSettlement
from dispatcher.store.tx import Row, Tx

DAY_MS: Final = 86_400_000
_WHATS: Final[tuple[What, ...]] = ("wait", "run", "bytes")
_MEASURED: Final = """
SELECT what, bucket, CAST(sum(n) AS bigint) FROM durations WHERE endpoint = ? AND day > ?
GROUP BY what, bucket
"""
_USAGE: Final = """
SELECT tenant, endpoint, day, runs, failed, run_ms, cost, bytes FROM job_usage
WHERE tenant = ? AND endpoint >= ? AND endpoint <= ? AND day >= ? AND day <= ?
    AND (endpoint, day) > (?, ?)
ORDER BY endpoint, day LIMIT ?
"""
_ADD_RETRIED: Final = """
INSERT INTO job_usage (tenant, endpoint, day, retried) VALUES (?, ?, ?, ?)
ON CONFLICT (tenant, endpoint, day) DO UPDATE SET retried = job_usage.retried + excluded.retried
"""
_TOTALS: Final = """
SELECT CAST(coalesce(sum(runs), 0) AS bigint), CAST(coalesce(sum(failed), 0) AS bigint),
       CAST(coalesce(sum(retried), 0) AS bigint)
FROM job_usage WHERE tenant = ? AND endpoint = ?
"""
_LAST: Final = "\uffff"  # behind every name
_OLD_DURATIONS: Final = """
SELECT endpoint, day, what, bucket FROM durations WHERE day < ? ORDER BY day LIMIT ?
"""
_DELETE_DURATION: Final = """
DELETE FROM durations WHERE endpoint = ? AND day = ? AND what = ? AND bucket = ?
"""
_OLD_USAGE: Final = "SELECT tenant, endpoint, day FROM job_usage WHERE day < ? ORDER BY day LIMIT ?"
_DELETE_USAGE: Final = "DELETE FROM job_usage WHERE tenant = ? AND endpoint = ? AND day = ?"


@dataclass(slots=True)
class _Used:
    """What a customer used of an endpoint on a day."""

    runs: int = 0
    failed: int = 0
    run_ms: int = 0
    cost: float = 0.0
    bytes: int = 0


def settled(tx: Tx, settlements: Iterable[JobSettlement]) -> None:
    """Count the runs that these calls ended: how long they waited for their first start, how long
    the last call took, and how much it brought."""
    durations: Counter[tuple[str, int, What, int]] = Counter()
    used: dict[tuple[str, str, int], _Used] = {}
    for item in settlements:
        job, outcome, verdict = item.job, item.outcome, item.verdict
        if verdict.state not in FINAL:
            continue
        day = tx.at(item.now_ms) // DAY_MS
        size = 0 if outcome.output is None else outcome.output.size
        measured: list[tuple[What, float]] = [("wait", job.started_ms - job.queued_ms)]
        if outcome.sent:
            measured.append(("run", outcome.duration_ms))
        if verdict.state == "completed":
            measured.append(("bytes", size))
        for what, value in measured:
            durations[job.endpoint, day, what, bucket_of(value)] += 1
        of_day = used.setdefault((job.tenant, job.endpoint, day), _Used())
        of_day.runs += 1
        of_day.failed += verdict.state != "completed"
        of_day.run_ms += round(outcome.duration_ms) if outcome.sent else 0
        of_day.cost += item.cost
        of_day.bytes += size
    if durations:
        rows = [(*key, n) for key, n in sorted(durations.items())]
        tx.job_statements.add_measures(tx, rows, _usage_rows(used))


def stopped(tx: Tx, jobs: Iterable[Job], *, failed: bool, now_ms: int) -> None:
    """Count the runs that these jobs had begun when something else than a call ended them."""
    used: dict[tuple[str, str, int], _Used] = {}
    day = tx.at(now_ms) // DAY_MS
    for job in jobs:
        if job.started_ms is not None:
            of_day = used.setdefault((job.tenant, job.endpoint, day), _Used())
            of_day.runs += 1
            of_day.failed += failed
    if used:
        tx.bulk(tx.job_statements.ADD_USAGE, _usage_rows(used))


def retried(tx: Tx, jobs: Iterable[Job], *, now_ms: int) -> None:
    """Count the runs that somebody asked for again."""
    day = tx.at(now_ms) // DAY_MS
    counted = Counter((job.tenant, job.endpoint, day) for job in jobs)
    tx.many(_ADD_RETRIED, [(*key, n) for key, n in sorted(counted.items())])


def totals(tx: Tx, tenant: str, endpoint: str) -> tuple[int, int, int]:
    """Return how many runs of a tenant ended at an endpoint, how many of them without success, and
    how many jobs were run again."""
    row = tx.one(_TOTALS, tenant, endpoint)
    return (row[0], row[1], row[2]) if row is not None else (0, 0, 0)


def _usage_rows(used: Mapping[tuple[str, str, int], _Used]) -> list[Row]:
    return [
        (*key, one.runs, one.failed, one.run_ms, one.cost, one.bytes)
        for key, one in sorted(used.items(), key=itemgetter(0))
    ]


def measured(tx: Tx, endpoint: str, *, now_ms: int) -> dict[What, Histogram]:
    """Return what was measured of an endpoint's jobs in the last days. `now_ms` is by the
    database's clock."""
    day = now_ms // DAY_MS
    counts: dict[What, dict[int, int]] = {what: {} for what in _WHATS}
    for what, bucket, n in tx.all(_MEASURED, endpoint, day - DAYS):
        counts[what][bucket] = n
    return {what: Histogram(of) for what, of in counts.items()}


def usage(
    tx: Tx,
    tenant: str,
    endpoint: str | None,
    *,
    since_day: int,
    until_day: int,
    after: tuple[str, int] | None,
    limit: int,
) -> Sequence[JobUsage]:
    """Return what a tenant used from one day to another, both included, by endpoint and day, of
    those `after` this one."""
    first, last = (endpoint, endpoint) if endpoint is not None else ("", _LAST)
    if after is not None:
        first = max(first, after[0])
    after = after or ("", 0)
    found = tx.all(_USAGE, tenant, first, last, since_day, until_day, *after, limit)
    return [
        JobUsage(
            tenant=tenant,
            endpoint=name,
            day=day,
            runs=runs,
            failed=failed,
            run_ms=run_ms,
            cost=cost,
            bytes=size,
        )
        for tenant, name, day, runs, failed, run_ms, cost, size in found
    ]


def prune(tx: Tx, *, durations_before: int, usage_before: int, limit: int) -> int:
    """Delete durations and usage of days before these, the oldest first; return how many rows."""
    pruned = 0
    for sql, delete, before_day in (
        (_OLD_DURATIONS, _DELETE_DURATION, durations_before),
        (_OLD_USAGE, _DELETE_USAGE, usage_before),
    ):
        found = tx.all(sql, before_day, limit - pruned)
        if found:
            tx.many(delete, found)
        pruned += len(found)
    return pruned
