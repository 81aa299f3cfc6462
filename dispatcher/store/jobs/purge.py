"""Purges, and the end of removed endpoints: begun by one row a queue, and done slice by slice.

A purge begins a new epoch of its queue: claims see the present one alone. What waited in earlier
ones is ended later, with its callbacks or without.
"""

import json
from typing import Final

from dispatcher.ids import random_id
from dispatcher.store.jobs import endpoints, finish
from dispatcher.store.jobs.finish import Ending
from dispatcher.store.jobs.rows import queue_id
from dispatcher.store.jobs.touched import OF_JOBS, Touched
from dispatcher.store.requests import Rules
from dispatcher.store.tx import Row, Tx

# Names sort so that a slash comes right before a zero.
_QUEUES: Final = "SELECT id, tenant, epoch, queued FROM queues WHERE id >= ? AND id < ?"
_SWEEP: Final = """
INSERT INTO job_sweeps (id, tenant, what, endpoint, filter, callbacks, matched, state, created_ms)
VALUES (?, ?, 'purge', ?, ?, ?, ?, 'running', ?)
"""
_PURGES: Final = """
SELECT id, tenant, endpoint, filter, callbacks FROM job_sweeps
WHERE state = 'running' AND what = 'purge' ORDER BY id LIMIT 1
"""
_PURGED: Final = (
    f"{OF_JOBS} queue = ? AND epoch < ? AND class IN (0, 1, 2) AND state = 'queued' "
    "ORDER BY queue, epoch, class, due_ms, ticket LIMIT ?"
)
# One whose last calls go on, for hours maybe, holds no other up.
_REMOVED: Final = """
SELECT name FROM endpoints e WHERE removed_ms IS NOT NULL AND (
    NOT EXISTS (SELECT 1 FROM jobs
        WHERE endpoint = e.name AND (state = 'running' OR releasing = 1))
    OR EXISTS (SELECT 1 FROM queues q JOIN jobs j ON j.queue = q.id AND j.state = 'queued'
        WHERE q.id >= e.name || '/' AND q.id < e.name || '0')
) ORDER BY name LIMIT 1
"""
_BACKLOG: Final = """
SELECT j.id, j.endpoint, j.lane FROM queues q
JOIN jobs j ON j.queue = q.id AND j.state = 'queued' WHERE q.id >= ? AND q.id < ? LIMIT ?
"""


def _bounds(endpoint: str) -> tuple[str, str]:
    return f"{endpoint}/", f"{endpoint}0"


def purge(tx: Tx, name: str, tenant: str | None, *, callbacks: bool, now_ms: int) -> int:
    """Have nothing wait any more for an endpoint, of one tenant or of all; what runs goes on.
    Returns how many waited. Raises NotFound."""
    endpoints.get(tx, name)
    purged = 0
    for id, owner, epoch, stored in tx.all(_QUEUES, *_bounds(name)):
        queued = stored + tx.changes.more_in(id)
        if queued <= 0 or (tenant is not None and owner != tenant):
            continue
        tx.run("UPDATE queues SET epoch = ? WHERE id = ?", epoch + 1, id)
        tx.changes.queued(name, id, -queued)
        tx.run(
            _SWEEP,
            random_id("js", now_ms),
            owner,
            name,
            json.dumps({"epoch": epoch + 1}),
            int(callbacks),
            queued,
            now_ms,
        )
        purged += queued
    return purged


def of_next(limit: int) -> Touched:
    """Return what the next slice is about, and the endpoint that may go with it."""
    return Touched(
        lambda tx: _slice(tx, limit)[1],
        find_endpoints=lambda tx: [row[0] for row in tx.all(_REMOVED)],
    )


def _slice(tx: Tx, limit: int) -> tuple[Row | None, list[Row]]:
    """Return the purge that goes first, if there is one, and the next jobs that it, or the removal
    of an endpoint, is about."""
    sweep = tx.one(_PURGES)
    if sweep is not None:
        _, tenant, endpoint, filter, _ = sweep
        epoch = json.loads(filter)["epoch"]
        return sweep, tx.all(_PURGED, queue_id(endpoint, tenant), epoch, limit)
    removed = tx.one(_REMOVED)
    if removed is None:
        return None, []
    return None, tx.all(_BACKLOG, *_bounds(removed[0]), limit)


def end_slice(tx: Tx, touched: Touched, rules: Rules, *, now_ms: int, limit: int) -> int:
    """End some of what was purged, or waits for an endpoint that was removed; returns how many, 0
    where nothing is left."""
    sweep, rows = _slice(tx, limit)
    found = finish.find(tx, [row[0] for row in rows], touched)
    if sweep is None:
        ending = Ending(state="cancelled", reason="endpoint_removed")
        ended = finish.end(tx, found, ending, rules, now_ms=now_ms)
        if not rows:
            _forget(tx)
        return len(ended)
    ending = Ending(state="cancelled", reason="purged", told=bool(sweep[4]))
    ended = finish.end(tx, found, ending, rules, now_ms=now_ms)
    tx.run("UPDATE job_sweeps SET done = done + ? WHERE id = ?", len(ended), sweep[0])
    if not rows:
        sql = "UPDATE job_sweeps SET state = 'completed', ended_ms = ? WHERE id = ?"
        tx.run(sql, now_ms, sweep[0])
        return 1  # there may be another
    return len(ended)


def _forget(tx: Tx) -> None:
    """Delete a removed endpoint for which nothing waits or runs."""
    removed = tx.one(_REMOVED)
    if removed is None or not tx.holds_endpoint(removed[0]):
        return
    name = removed[0]
    busy = "SELECT 1 FROM jobs WHERE endpoint = ? AND (state = 'running' OR releasing = 1) LIMIT 1"
    if tx.one(busy, name) or tx.one(_BACKLOG, *_bounds(name), 1):
        return
    tx.run("DELETE FROM queues WHERE id >= ? AND id < ?", *_bounds(name))
    tx.run("DELETE FROM endpoint_load WHERE endpoint = ?", name)
    tx.run("DELETE FROM endpoints WHERE name = ?", name)
