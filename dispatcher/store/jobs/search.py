"""Finding jobs by a filter, as callbacks are found (`store/search.py`): one look walks one index in
the order of the ids, for a bounded number of its entries, and tells how far it came. Portable.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from dispatcher.ids import job_id_floor
from dispatcher.jobs.filters import JobFilter
from dispatcher.jobs.looks import JobPage
from dispatcher.jobs.states import JobState
from dispatcher.jobs.values import CLASS_OF, Job
from dispatcher.store.jobs import rows
from dispatcher.store.search import (
    Clause,
    Index,
    Walk,
    furthest,
    id_bounds,
    walk_on,
)
from dispatcher.store.tx import Tx

_FIELDS: Final = ("status", "endpoint", "priority", "reason")
# Each of these states has an index of its own.
_INDEXED: Final[tuple[JobState, ...]] = ("failed", "timeout", "cancelled")
# So many that wait are sorted; where there are more, they are close by on any index.
_FEW_MAX: Final = 5_000
_WAITING: Final = "SELECT id, epoch FROM queues WHERE tenant = ? AND queued > 0 LIMIT ?"
_OF_QUEUE: Final = "SELECT id FROM jobs WHERE queue = ? AND epoch = ? AND state = 'queued' LIMIT ?"


def walk(
    tx: Tx,
    tenant: str,
    filter: JobFilter,
    *,
    after: str | None,
    newest_first: bool = True,
    also: Sequence[Clause] = (),
) -> Walk:
    """Return what to look at for jobs that match `filter` (and `also`), from id `after` on."""
    bounds = _bounds(filter, after, newest_first)
    rest_of = _rest(tenant, filter)
    few = _few(tx, tenant, filter)
    if few is not None:
        index, last_id = few, None
    else:
        indexes = _indexes(tenant, filter)
        certain = len(indexes) == 1 and not also and not _asked(filter, indexes[0].serves)
        if certain:  # everything on it matches: as many as are wanted are read, and no more
            index, last_id = indexes[0], None
        else:
            index, last_id = furthest(
                tx,
                indexes,
                bounds,
                lambda one: _asked(filter, one.serves),
                newest_first=newest_first,
            )
    rest = (*(clause for served, clause in rest_of if served != index.serves), *also)
    return walk_on(index, last_id, bounds, rest, newest_first=newest_first)


def page(tx: Tx, tenant: str, filter: JobFilter, *, after: str | None, limit: int) -> JobPage:
    """At most `limit` jobs, newest first, after id `after`. A page that came to the end of what one
    look may cost is shorter, and others follow it."""
    walked = walk(tx, tenant, filter, after=after)
    listed = newest(tx, walked, limit=limit + 1)
    next_id = listed[limit - 1].id if len(listed) > limit else walked.last_id
    return JobPage(jobs=listed[:limit], next_id=next_id)


def newest(tx: Tx, walked: Walk, *, limit: int) -> list[Job]:
    """Return the first `limit` jobs of a walk, newest first."""
    order = f"ORDER BY {walked.column} DESC LIMIT ?"
    found = [
        row[0] for row in tx.all(f"SELECT c.id {walked.source} {order}", *walked.values, limit)
    ]
    return by_id(tx, found)


def by_id(tx: Tx, ids: Sequence[str]) -> list[Job]:
    """Return these jobs, in this order, without those that are gone."""
    if not ids:
        return []
    sql = f"SELECT {rows.JOB} FROM jobs WHERE id{tx.job_statements.IN}"
    jobs = {row[0]: rows.job(tx, row) for row in tx.all(sql, tx.ids(ids))}
    return [jobs[id] for id in ids if id in jobs]


# --- which index ---


def _few(tx: Tx, tenant: str, filter: JobFilter) -> Index | None:
    """Return an index that holds so few that they can be sorted: what runs, which the capacities of
    endpoints bound, or what waits, where that is not much. Empty texts keep the databases from
    walking all ids instead."""
    if filter.status == "running":
        condition = "c.state = 'running' AND c.tenant || '' = ?"
        return _unsorted(condition, (tenant,))
    if filter.status != "queued":
        return None
    ids: list[str] = []
    queues = tx.all(_WAITING, tenant, _FEW_MAX + 1)
    if len(queues) > _FEW_MAX:
        return None
    for queue, epoch in queues:
        if filter.endpoint is None or queue == rows.queue_id(filter.endpoint, tenant):
            ids += [row[0] for row in tx.all(_OF_QUEUE, queue, epoch, _FEW_MAX + 1 - len(ids))]
        if len(ids) > _FEW_MAX:
            return None
    return _unsorted(f"c.id{tx.job_statements.IN} AND c.state || '' = 'queued'", (tx.ids(ids),))


def _unsorted(condition: str, values: tuple[object, ...]) -> Index:
    return Index("status", condition, values, column="c.id || ''", table="jobs c", sorted=False)


def _indexes(tenant: str, filter: JobFilter) -> list[Index]:
    found = [
        Index(
            f"tag.{key}",
            "t.tenant = ? AND t.key = ? AND t.value = ?",
            (tenant, key, value),
            column="t.job",
            table="job_tags t",
            join=" JOIN jobs c ON c.id = t.job",
        )
        for key, value in filter.tags
    ]
    if filter.status in _INDEXED:
        # The state stands in the text, not in a parameter: only so can a partial index serve.
        condition = f"c.tenant = ? AND c.state = '{filter.status}'"
        found.append(Index("status", condition, (tenant,), table="jobs c"))
    return found or [Index("", "c.tenant = ?", (tenant,), table="jobs c")]


# --- conditions ---


def _bounds(filter: JobFilter, after: str | None, newest_first: bool) -> list[tuple[str, str]]:
    lower, upper = (
        None if bound_ms is None else job_id_floor(bound_ms)
        for bound_ms in (filter.since_ms, filter.until_ms)
    )
    return id_bounds(lower, upper, after, newest_first=newest_first)


def _asked(filter: JobFilter, served: str) -> set[str]:
    """Return the fields whose conditions are left."""
    tags = {f"tag.{key}" for key, _ in filter.tags}
    named = {name for name in _FIELDS if getattr(filter, name) is not None}
    return (tags | named) - {served}


def _rest(tenant: str, filter: JobFilter) -> Iterator[tuple[str, Clause]]:
    """Yield all conditions, each with the field that it is about. Empty texts and zeros keep the
    databases from beginning with one of them."""
    for key, value in filter.tags:
        of_tag = "o.tenant = ? AND o.key = ? AND o.value = ? AND o.job = c.id"
        exists = f"EXISTS (SELECT 1 FROM job_tags o WHERE {of_tag})"
        yield f"tag.{key}", (exists, (tenant, key, value))
    for name, column, value_of in (
        ("status", "c.state || ''", filter.status),
        ("endpoint", "c.endpoint || ''", filter.endpoint),
        ("reason", "coalesce(c.reason, '')", filter.reason),
    ):
        if value_of is not None:
            yield name, (f"{column} = ?", (value_of,))
    if filter.priority is not None:
        yield "priority", (f"c.class + 0 = {CLASS_OF[filter.priority]}", ())
