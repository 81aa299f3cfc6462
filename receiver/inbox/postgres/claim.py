"""Whose turn it is, on PostgreSQL, where several replicas take turns. A claim holds for a lease,
measured by the database's clock, which all replicas share."""

from collections.abc import Sequence
from typing import Final

from receiver.inbox.handling import NEXT_DUE, SUPERSEDED, Turn, abandoned, settle
from receiver.inbox.postgres.receive import lock_key
from receiver.inbox.postgres.tx import PostgresTx
from receiver.message import Claimed

_CLOCK_MS: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_OTHER_RUNS: Final = """
    EXISTS (SELECT 1 FROM messages AS others
      WHERE others.state = 'running' AND others.job_id = messages.job_id
        AND others.source = messages.source)
"""
_DUE: Final = f"""
    SELECT id, source, job_id FROM messages
     WHERE state = 'pending' AND due_ms <= :now_ms AND NOT {_OTHER_RUNS}
     ORDER BY due_ms, id LIMIT :limit FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - constants of ours
_HOLD: Final = "SELECT pg_try_advisory_xact_lock(:key) AS held"
# By a statement of its own after the jobs are held: only this one sees what others have done.
_START: Final = f"""
    WITH started AS (
        UPDATE messages SET due_ms = NULL, lease_ms = {_CLOCK_MS} + :lease_ms,
               attempts = attempts + 1, fence = fence + 1,
               state = CASE WHEN {SUPERSEDED} THEN 'skipped' ELSE 'running' END
         WHERE id = :id AND state = 'pending' AND NOT {_OTHER_RUNS}
        RETURNING *)
    SELECT id, source, message_id, job_id, job_status, platform, content_type,
           attempts AS attempt, fence, received_ms, body
      FROM started JOIN bodies USING (id) WHERE state = 'running'
"""  # noqa: S608 - constants of ours
_RENEW: Final = f"""
    UPDATE messages SET lease_ms = {_CLOCK_MS} + :lease_ms
     WHERE id = :id AND fence = :fence AND state = 'running'
"""  # noqa: S608 - constants of ours
_ENDED: Final = f"""
    SELECT id, fence, attempts FROM messages
     WHERE state = 'running' AND lease_ms <= {_CLOCK_MS} FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - constants of ours


def claim(tx: PostgresTx, *, now_ms: int, limit: int, lease_ms: int) -> Turn:
    """Take up to `limit` due messages, in order of time, never two of one job at once."""
    jobs: set[tuple[str, str]] = set()
    claimed = []
    for row in tx.all(_DUE, {"now_ms": now_ms, "limit": limit}):
        if row["job_id"] is not None:
            job = (row["source"], row["job_id"])
            if job in jobs or not _hold(tx, job):
                continue
            jobs.add(job)
        started = tx.all(_START, {"id": row["id"], "lease_ms": lease_ms})
        claimed += [Claimed(**found) for found in started]
    (following,) = tx.all(NEXT_DUE, {"now_ms": now_ms})
    return Turn(claimed=claimed, next_due_ms=following["due_ms"])


def renew(tx: PostgresTx, running: Sequence[tuple[int, int]], *, lease_ms: int) -> set[int]:
    """Another lease for these (id, fence); the ids whose fence that still is."""
    return {
        id
        for id, fence in running
        if tx.run(_RENEW, {"id": id, "fence": fence, "lease_ms": lease_ms})
    }


def recover(tx: PostgresTx, *, now_ms: int, attempts_max: int) -> int:
    """Return what runs under a lease that has ended is due again, or dead; how many that were."""
    ended = tx.all(_ENDED, {})
    for row in ended:
        settle(tx, abandoned(row, now_ms=now_ms, attempts_max=attempts_max))
    return len(ended)


def _hold(tx: PostgresTx, job: tuple[str, str]) -> bool:
    """Whether nobody else is receiving or claiming a message of this job just now."""
    (row,) = tx.all(_HOLD, {"key": lock_key(*job)})
    return bool(row["held"])
