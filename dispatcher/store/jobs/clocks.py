"""What a clock that ran ahead left in endpoints and in the due times of their jobs (D20): brought
back, so that a corrected clock stops nothing. Portable."""

from collections.abc import Sequence
from typing import Final

from dispatcher.store.clocks import HOLD_MS, SLACK_MS
from dispatcher.store.jobs.touched import Touched
from dispatcher.store.tx import Tx

_AHEAD: Final = """
SELECT endpoint FROM endpoint_load
WHERE paced_ms > ? OR served_ms > ? OR failing_since_ms > ? OR held_from_ms > ?
    OR held_until_ms > CASE WHEN held_reason = 'retry-after' THEN ? ELSE ? END
ORDER BY endpoint LIMIT ?
"""
# A hold that was made in the future lasts for as long as was asked for; of any other no more is
# known than how long one of its kind may last.
_BRING_BACK: Final = """
UPDATE endpoint_load SET paced_ms = CASE WHEN paced_ms > ? THEN ? ELSE paced_ms END,
    served_ms = CASE WHEN served_ms > ? THEN ? ELSE served_ms END,
    failing_since_ms = CASE WHEN failing_since_ms > ? THEN ? ELSE failing_since_ms END,
    held_from_ms = CASE WHEN held_from_ms > ? THEN ? ELSE held_from_ms END,
    held_until_ms = CASE
        WHEN held_from_ms > ? THEN ? + held_until_ms - held_from_ms
        WHEN held_reason = 'retry-after'
        THEN CASE WHEN held_until_ms > ? THEN ? ELSE held_until_ms END
        WHEN held_until_ms > ? THEN ? ELSE held_until_ms END
WHERE endpoint = ?
"""
# Of each queue a range of its index: what is due by a time of its own. What never ran waits for as
# long as it was asked to. "Cross": else SQLite begins with the jobs, however many wait.
_LATE: Final = """
SELECT j.id FROM queues q CROSS JOIN jobs j
WHERE j.queue = q.id AND j.epoch = q.epoch AND j.class IN (0, 1, 2) AND j.state = 'queued'
    AND j.due_ms > ? AND j.started_ms IS NOT NULL LIMIT ?
"""


def ahead(tx: Tx, *, now_ms: int, retry_after_ms: int, limit: int) -> list[str]:
    """Return endpoints that are ahead of this time, further than their holds may last."""
    soon_ms = now_ms + SLACK_MS
    holds = soon_ms + retry_after_ms, soon_ms + HOLD_MS
    return [row[0] for row in tx.all(_AHEAD, *[soon_ms] * 4, *holds, limit)]


def late(tx: Tx, *, until_ms: int, limit: int) -> list[str]:
    """Return jobs that wait to be run again for longer than until then."""
    return [row[0] for row in tx.all(_LATE, until_ms + SLACK_MS, limit)]


def of_ahead(*, now_ms: int, retry_after_ms: int, limit: int) -> Touched:
    """Return the endpoints that are ahead."""

    def find(tx: Tx) -> list[str]:
        return ahead(tx, now_ms=tx.at(now_ms), retry_after_ms=retry_after_ms, limit=limit)

    return Touched(find_endpoints=find)


def bring_back(tx: Tx, *, now_ms: int, retry_after_ms: int, limit: int) -> int:
    """Have endpoints have been served by now at the latest, and be held from now on for as long as
    was asked for, or as they may be; return how many were ahead."""
    found = ahead(tx, now_ms=now_ms, retry_after_ms=retry_after_ms, limit=limit)
    soon = now_ms + SLACK_MS, now_ms
    asked_ms, held_ms = now_ms + retry_after_ms, now_ms + HOLD_MS
    for endpoint in found:
        if tx.holds_endpoint(endpoint):
            holds = asked_ms, asked_ms, held_ms, held_ms
            tx.run(_BRING_BACK, *soon * 5, *holds, endpoint)
            tx.changes.endpoints.add(endpoint)
    return len(found)


def hasten(tx: Tx, ids: Sequence[str], *, until_ms: int) -> int:
    """Have these jobs be due then at the latest, where they still wait; return how many did."""
    sql = "SELECT id, endpoint, queue, due_ms FROM jobs WHERE state = 'queued' AND id"
    rows = tx.all(sql + tx.job_statements.IN, tx.ids(ids))
    late = [row for row in rows if row[3] > until_ms and tx.holds_endpoint(row[1])]
    for id, endpoint, queue, _ in late:
        tx.run("UPDATE jobs SET due_ms = ? WHERE id = ?", until_ms, id)
        tx.changes.queued(endpoint, queue, 0)
    return len(late)
