"""Queues and endpoints compared with their jobs, a slice at a time, and repaired. Nothing should
ever be found: what they show is recomputed in each commit. Portable."""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Final

from dispatcher.store.jobs.scheduling import (
    CLASSES,
    first_due,
    is_ahead_of_purge,
    queued_of,
)
from dispatcher.store.jobs.touched import Touched
from dispatcher.store.tx import Row, Tx

# What waits in a queue is counted up to here: beyond it only that there is as much is known.
_COUNTED_MAX: Final = 10_000
_QUEUED: Final = "SELECT 1 FROM jobs WHERE queue = q.id AND epoch = q.epoch AND state = 'queued'"
_QUEUES: Final = f"""
SELECT q.id, q.endpoint, q.queued, (SELECT count(*) FROM ({_QUEUED} LIMIT {_COUNTED_MAX + 1}) n),
    (SELECT purge_after FROM endpoint_load l WHERE l.endpoint = q.endpoint),
    {", ".join(f"q.{ready}, {first_due('q', number)}" for number, ready in CLASSES.items())}
FROM queues q WHERE q.id > ? ORDER BY q.id LIMIT ?
"""
_EXACTLY: Final = f"SELECT q.id, q.queued, (SELECT count(*) FROM ({_QUEUED}) n) FROM queues q"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """What disagrees with its jobs, and the queue to go on after (None at the end)."""

    queues: Sequence[tuple[str, str]]  # with their endpoints
    endpoints: Sequence[str]
    next_id: str | None

    @property
    def touched(self) -> Touched:
        """What repairing it touches."""
        return Touched(endpoints={*self.endpoints, *(endpoint for _, endpoint in self.queues)})


def stale(tx: Tx, after: str, *, limit: int) -> Stale:
    """Look at `limit` queues after id `after`, and at their endpoints."""
    rows = tx.all(_QUEUES, after, limit)
    queues = [(row[0], row[1]) for row in rows if _disagrees(row)]
    endpoints = sorted({row[1] for row in rows})
    found = tx.all(tx.job_statements.STALE_ENDPOINTS, tx.ids(endpoints)) if endpoints else []
    return Stale(
        queues=queues,
        endpoints=[row[0] for row in found],
        next_id=rows[-1][0] if len(rows) == limit else None,
    )


def _disagrees(row: Row) -> bool:
    id, _, queued, counted, purge_after, *ready = row
    if is_ahead_of_purge(id, purge_after):  # it counts what belongs to its next epoch, too
        return False
    if counted > _COUNTED_MAX:
        return bool(queued <= _COUNTED_MAX)
    return queued != counted or any(
        shown != first for shown, first in zip(ready[::2], ready[1::2], strict=True)
    )


def repair(tx: Tx, found: Stale) -> int:
    """Have what disagrees show what there is; return how much did."""
    queues = {id: endpoint for id, endpoint in found.queues if tx.holds_endpoint(endpoint)}
    for id, queued, counted in _exactly(tx, queues):
        tx.changes.queued(queues[id], id, counted - queued)
    endpoints = [one for one in found.endpoints if tx.holds_endpoint(one)]
    for endpoint, more in _miscounted(tx, {*endpoints, *queues.values()}):
        tx.changes.endpoints.add(endpoint)
        tx.changes.waiting_at[endpoint] += more
    return len(queues) + len(endpoints)


def _exactly(tx: Tx, queues: Iterable[str]) -> list[Row]:
    ids = list(queues)
    return tx.all(f"{_EXACTLY} WHERE q.id{tx.job_statements.IN}", tx.ids(ids)) if ids else []


def _miscounted(tx: Tx, endpoints: Set[str]) -> list[tuple[str, int]]:
    """Return how many more wait in the queues of these endpoints, as those show, than they show
    themselves."""
    if not endpoints:
        return []
    sql = f"SELECT endpoint, queued, {queued_of('l')} FROM endpoint_load l WHERE endpoint"
    found = tx.all(sql + tx.job_statements.IN, tx.ids(endpoints))
    return [(name, int(total) - queued) for name, queued, total in found]
