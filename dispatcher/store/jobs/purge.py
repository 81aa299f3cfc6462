"""Purges, and the end of removed endpoints: begun at once, and done slice by slice. Portable.

A purge begins a new epoch of its queue: claims see the present one alone. What waited in earlier
ones is ended later, with its callbacks or without. A purge of all queues goes from one to the next
where they are many, in the order of their ids: until it has come to the last, the endpoint starts
nothing, and what is queued where it has not been belongs to the epoch that is to come.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from dispatcher.ids import random_id
from dispatcher.store.errors import NotYet
from dispatcher.store.jobs import endpoints, finish, sweeps
from dispatcher.store.jobs.finish import Ending, Found
from dispatcher.store.jobs.rows import queue_id
from dispatcher.store.jobs.scheduling import is_ahead_of_purge
from dispatcher.store.jobs.touched import OF_JOBS, Touched
from dispatcher.store.requests import Rules
from dispatcher.store.tx import Row, Tx

# Queues that a commit purges or deletes.
QUEUES_MAX: Final = 200
# Purges whose jobs one slice ends.
_PURGES_MAX: Final = 50
_LOAD: Final = "SELECT queued, purge_after, purge_told FROM endpoint_load WHERE endpoint = ?"
_QUEUE: Final = "SELECT id, tenant, epoch, queued FROM queues WHERE id = ?"
# Names sort so that a slash comes right before a zero.
_QUEUES: Final = """
SELECT id, tenant, epoch, queued FROM queues WHERE id > ? AND id < ? ORDER BY id LIMIT ?
"""
_NEWER: Final = (
    "SELECT count(*) FROM jobs WHERE queue = ? AND epoch = ? AND class IN (0, 1, 2) "
    "AND state = 'queued'"
)
_GOING_ON: Final = (
    "SELECT endpoint FROM endpoint_load WHERE purge_after IS NOT NULL ORDER BY endpoint"
)
_SWEEP: Final = """
INSERT INTO job_sweeps (id, tenant, what, endpoint, filter, callbacks, matched, state, created_ms)
VALUES (?, ?, 'purge', ?, ?, ?, ?, 'running', ?)
"""
_PURGES: Final = """
SELECT id, tenant, endpoint, filter, callbacks FROM job_sweeps
WHERE state = 'running' AND what = 'purge' ORDER BY id LIMIT ?
"""
_PURGED: Final = (
    f"{OF_JOBS} queue = ? AND epoch < ? AND class IN (0, 1, 2) AND state = 'queued' "
    "ORDER BY queue, epoch, class, due_ms, ticket LIMIT ?"
)
# What had come to its end by itself counts as skipped.
_COMPLETE: Final = """
UPDATE job_sweeps SET state = 'completed', ended_ms = ?,
    skipped = CASE WHEN matched > done THEN matched - done ELSE 0 END
WHERE id = ?
"""
# One whose last calls go on, for hours maybe, holds no other up.
_REMOVED: Final = """
SELECT name FROM endpoints e WHERE removed_ms IS NOT NULL AND (
    NOT EXISTS (SELECT 1 FROM jobs
        WHERE endpoint = e.name AND (state = 'running' OR releasing = 1))
    OR EXISTS (SELECT 1 FROM jobs
        WHERE queue >= e.name || '/' AND queue < e.name || '0' AND state = 'queued')
) ORDER BY name LIMIT 1
"""
_BACKLOG: Final = (
    f"{OF_JOBS} queue >= ? AND queue < ? AND state = 'queued' "
    "ORDER BY queue, epoch, class, due_ms, ticket LIMIT ?"
)
_DELETE_QUEUES: Final = """
DELETE FROM queues WHERE id IN (SELECT id FROM queues WHERE id >= ? AND id < ? ORDER BY id LIMIT ?)
"""


class EndedSlice(NamedTuple):
    """How many jobs a slice ended, and whether there is `more` to do at once."""

    ended: int
    more: bool


def _bounds(endpoint: str) -> tuple[str, str]:
    return f"{endpoint}/", f"{endpoint}0"


# --- purging ---


def purge(tx: Tx, name: str, tenant: str | None, *, callbacks: bool, now_ms: int) -> int:
    """Have nothing wait any more for an endpoint, of one tenant or of all; what runs goes on.
    Returns how many waited. Raises NotFound, and NotYet while a purge of all goes on."""
    endpoints.check_there(tx, name)
    queued, after, _ = tx.one(_LOAD, name) or (0, None, 0)
    if tenant is not None:
        row = tx.one(_QUEUE, queue_id(name, tenant))
        return 0 if row is None else _purge(tx, name, row, after, callbacks, now_ms)
    if after is not None:
        raise NotYet(f"a purge of all that waits for {name} goes on; try again in a moment")
    purged = int(queued) + tx.changes.more_waiting(name)
    if purged > 0:
        tx.run(
            "UPDATE endpoint_load SET purge_after = '', purge_told = ? WHERE endpoint = ?",
            int(callbacks),
            name,
        )
        tx.changes.endpoints.add(name)
        go_on(tx, name, now_ms=now_ms)
    return purged


def going_on(tx: Tx) -> list[str]:
    """Return the endpoints of which all is being purged."""
    return [row[0] for row in tx.all(_GOING_ON)]


def go_on(tx: Tx, name: str, *, now_ms: int) -> bool:
    """Purge some more queues of an endpoint of which all is being purged; return whether more
    follow."""
    _, after, told = tx.one(_LOAD, name) or (0, None, 0)
    if after is None or not tx.holds_endpoint(name):
        return after is not None
    first, last = _bounds(name)
    found = tx.all(_QUEUES, max(after, first), last, QUEUES_MAX)
    for row in found:
        _purge(tx, name, row, None, bool(told), now_ms, has_newer=True)
    reached = found[-1][0] if len(found) == QUEUES_MAX else None
    tx.run("UPDATE endpoint_load SET purge_after = ? WHERE endpoint = ?", reached, name)
    tx.changes.endpoints.add(name)
    return reached is not None


def _purge(
    tx: Tx,
    name: str,
    queue: Row,
    after: str | None,
    callbacks: bool,
    now_ms: int,
    *,
    has_newer: bool = False,
) -> int:
    """Begin a new epoch of a queue; return how many waited in it. Where a purge of all is `after`
    another queue, and comes to this one yet, the next epoch is over too. It `has_newer` jobs,
    maybe, that were queued in this one since a purge of all had begun."""
    id, owner, epoch, stored = queue
    queued = stored + tx.changes.more_in(id)
    if queued <= 0:
        return 0
    newer = 0
    if has_newer:
        row = tx.one(_NEWER, id, epoch + 1)
        newer = row[0] if row else 0
    now = epoch + (2 if is_ahead_of_purge(id, after) else 1)
    tx.run("UPDATE queues SET epoch = ? WHERE id = ?", now, id)
    tx.changes.queued(name, id, newer - queued)
    purged: int = queued - newer
    if purged > 0:
        sweeps.trim(tx, owner)
        tx.run(
            _SWEEP,
            random_id("js", now_ms),
            owner,
            name,
            json.dumps({"epoch": now}),
            int(callbacks),
            purged,
            now_ms,
        )
    return purged


# --- ending what was purged ---


@dataclass(frozen=True, slots=True)
class _Purge:
    """A purge under way with the next of its jobs; `last` where these are all."""

    id: str
    told: bool
    rows: Sequence[Row]
    last: bool


def of_next(limit: int) -> Touched:
    """Return what the next slice is about, and the endpoint that may go with it."""
    return Touched(
        lambda tx: _rows(purges := _purges(tx, limit)) + _backlog(tx, limit, purges),
        find_endpoints=lambda tx: [row[0] for row in tx.all(_REMOVED)],
    )


def _rows(purges: Sequence[_Purge]) -> list[Row]:
    return [row for one in purges for row in one.rows]


def _purges(tx: Tx, limit: int) -> list[_Purge]:
    """Return the purges that go first, with the next jobs that they are about, so many in all."""
    found = []
    taken: Counter[str] = Counter()  # of a queue's first ones, by purges of it that go before
    for id, tenant, endpoint, filter, told in tx.all(_PURGES, _PURGES_MAX):
        epoch, queue = json.loads(filter)["epoch"], queue_id(endpoint, tenant)
        rows = tx.all(_PURGED, queue, epoch, taken[queue] + limit)[taken[queue] :]
        taken[queue] += len(rows)
        found.append(_Purge(id, bool(told), rows, last=len(rows) < limit))
        limit -= len(rows)
        if limit <= 0:
            break
    return found


def _backlog(tx: Tx, limit: int, purges: Sequence[_Purge]) -> list[Row]:
    """Return the next jobs that wait for an endpoint that was removed, as many as these purges
    leave room for."""
    left = limit - len(_rows(purges))
    removed = tx.one(_REMOVED) if left > 0 else None
    return [] if removed is None else tx.all(_BACKLOG, *_bounds(removed[0]), left)


def end_slice(tx: Tx, touched: Touched, rules: Rules, *, now_ms: int, limit: int) -> EndedSlice:
    """End some of what was purged, and of what waits for an endpoint that was removed."""
    purges = _purges(tx, limit)
    found: set[str] = set()
    for told in (True, False):
        ending = Ending(state="cancelled", reason="purged", told=told)
        of_kind = _ids(_rows([one for one in purges if one.told == told]))
        of_these = finish.find(tx, of_kind, touched, told=told)
        _end(tx, of_these, ending, rules, now_ms)
        found.update(one.job.id for one in of_these)
    completed = 0
    for one in purges:
        ended = sum(row[0] in found for row in one.rows)
        if ended:
            tx.run("UPDATE job_sweeps SET done = done + ? WHERE id = ?", ended, one.id)
        if one.last and ended == len(one.rows):
            completed += tx.run(_COMPLETE, tx.at(now_ms), one.id)
    rows = _backlog(tx, limit, purges)
    removed = finish.find(tx, _ids(rows), touched)
    ending = Ending(state="cancelled", reason="endpoint_removed")
    _end(tx, removed, ending, rules, now_ms)
    forgotten = not rows and _forget(tx)
    all_ended = len(found) + len(removed)
    return EndedSlice(all_ended, more=all_ended + completed > 0 or forgotten)


def _ids(rows: Sequence[Row]) -> list[str]:
    return [row[0] for row in rows]


def _end(tx: Tx, found: Sequence[Found], ending: Ending, rules: Rules, now_ms: int) -> None:
    if found:
        finish.end(tx, found, ending, rules, now_ms=now_ms)


def _forget(tx: Tx) -> bool:
    """Delete some more of a removed endpoint for which nothing waits or runs: its queues, and then
    itself. Returns whether there was one."""
    removed = tx.one(_REMOVED)
    if removed is None or not tx.holds_endpoint(removed[0]):
        return False
    name = removed[0]
    busy = "SELECT 1 FROM jobs WHERE endpoint = ? AND (state = 'running' OR releasing = 1) LIMIT 1"
    if tx.one(busy, name) or tx.one(_BACKLOG, *_bounds(name), 1):
        return False
    if tx.run(_DELETE_QUEUES, *_bounds(name), QUEUES_MAX) == QUEUES_MAX:
        return True
    tx.run("DELETE FROM endpoint_load WHERE endpoint = ?", name)
    tx.run("DELETE FROM endpoints WHERE name = ?", name)
    return True
