"""Finding callbacks by a filter, newest first or oldest first, so that no look costs more however
many there are: one walks an index that is in the order of the ids, and looks at `SCAN_MAX`
callbacks at most (`COVERED_MAX`, where no row is read for it). Where that was not all, it tells how
far it came. Portable.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Final

from dispatcher.filters import Filter
from dispatcher.ids import id_floor, lanes_end, resolve_destination
from dispatcher.store import rows
from dispatcher.store.requests import Page
from dispatcher.store.tx import Tx
from dispatcher.values import Callback

# Measured at 0.3 to 0.8 µs each, where their rows are read: one look takes up to 20 ms of CPU.
SCAN_MAX: Final = 25_000
# And at 0.07 µs where the index alone tells whether they match.
COVERED_MAX: Final = 250_000
_INDEXED: Final = ("dead", "pending", "cancelled")  # by tenant and id
_OF_DEAD: Final = frozenset({"job_status", "destination", "priority", "error"})
_FIELDS: Final = (
    "status", "job_status", "job_id", "destination", "callback_url", "priority", "error",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Walk:
    """`FROM … WHERE …` with its parameters, for what one look is about; `column` is what it is
    sorted by. `last_id`: how far it comes, where it is not to the end."""

    source: str
    values: Sequence[object]
    column: str
    last_id: str | None


@dataclass(frozen=True, slots=True)
class Index:
    """An index that holds what one of a filter's conditions (`serves`) selects, and itself what
    `covers` are about. Unless `sorted` is false it is in the order of `column`, and then the ids
    are read from `table` alone."""

    serves: str
    condition: str
    values: tuple[object, ...]
    column: str = "c.id"
    table: str = "callbacks c"
    join: str = ""
    covers: frozenset[str] = frozenset()
    sorted: bool = True

    def scan_max(self, rest: Set[str]) -> int:
        """How many entries one look is about, where `rest` is asked of each."""
        if rest and rest <= self.covers:
            return COVERED_MAX
        # What is joined is found one by one, and nowhere near each other.
        return max(1, SCAN_MAX * 2 // 5) if self.join else SCAN_MAX

    @property
    def source(self) -> str:
        return f"{self.table}{self.join}"


Clause = tuple[str, Sequence[object]]
"""A condition and its parameters."""


def walk(
    tx: Tx,
    tenant: str,
    filter: Filter,
    *,
    after: str | None,
    newest_first: bool = True,
    also: Sequence[Clause] = (),
) -> Walk:
    """Return what to look at for callbacks that match `filter` (and `also`), from id `after` on."""
    chosen, last_id = _chosen(tx, tenant, filter, after, newest_first, certain=not also)
    bounds = _bounds(filter, after, newest_first)
    rest = (*_rest(tx, tenant, filter, chosen.serves), *also)
    return walk_on(chosen, last_id, bounds, rest, newest_first=newest_first)


def walk_on(
    index: Index,
    last_id: str | None,
    bounds: Sequence[tuple[str, str]],
    rest: Iterable[Clause],
    *,
    newest_first: bool,
) -> Walk:
    """Return what to look at on an index, as far as `last_id`, within these bounds of the ids."""
    clauses, values = [index.condition], [*index.values]
    if last_id is not None:
        near = "<" if newest_first else ">"  # the far side ends here, before any other bound
        bounds = [bound for bound in bounds if bound[0].startswith(near)]
        bounds.append((">=" if newest_first else "<=", last_id))
    # Of the driving table alone: bounds of what is joined would have it read from that end.
    for sign, bound in bounds:
        clauses.append(f"{index.column} {sign} ?")
        values.append(bound)
    for clause, of_clause in rest:
        clauses.append(clause)
        values += of_clause
    return Walk(f"FROM {index.source} WHERE {' AND '.join(clauses)}", values, index.column, last_id)


def page(tx: Tx, tenant: str, filter: Filter, *, after: str | None, limit: int) -> Page:
    """At most `limit` callbacks, newest first, after id `after`. A page that came to the end of
    what one look may cost is shorter, and others follow it."""
    walked = walk(tx, tenant, filter, after=after)
    listed = newest(tx, walked, limit=limit + 1)
    next_id = listed[limit - 1].id if len(listed) > limit else walked.last_id
    return Page(callbacks=listed[:limit], next_id=next_id)


def newest(tx: Tx, walked: Walk, *, limit: int) -> list[Callback]:
    """Return the first `limit` callbacks of a walk, newest first. Their ids first: so the rows of
    others are read only where the index does not tell that they do not match."""
    order = f"ORDER BY {walked.column} DESC LIMIT ?"
    found = tx.all(f"SELECT c.id {walked.source} {order}", *walked.values, limit)
    return rows.callbacks_by_id(tx, [row[0] for row in found])


# --- which index ---


def _chosen(
    tx: Tx, tenant: str, filter: Filter, after: str | None, newest_first: bool, *, certain: bool
) -> tuple[Index, str | None]:
    """Return the index to walk, and the id that it is walked to (None: to the end). Without bound
    where it is `certain` that everything on it matches."""
    few = _few(tx, tenant, filter)
    if few is not None:
        return few, None
    indexes = _indexes(tenant, filter)
    if certain and len(indexes) == 1 and not _asked(filter, indexes[0].serves):
        return indexes[0], None
    bounds = _bounds(filter, after, newest_first)

    def rest(index: Index) -> set[str]:
        return _asked(filter, index.serves)

    return furthest(tx, indexes, bounds, rest, newest_first=newest_first)


def furthest(
    tx: Tx,
    indexes: Sequence[Index],
    bounds: Sequence[tuple[str, str]],
    rest: Callable[[Index], Set[str]],
    *,
    newest_first: bool,
) -> tuple[Index, str | None]:
    """Return the one of these indexes that one look comes furthest on, and the id that it is walked
    to (None: to the end). `rest` tells which fields are asked of what it holds."""
    best: tuple[Index, str] | None = None
    for index in indexes:
        last_id = reach(tx, index, bounds, newest_first, index.scan_max(rest(index)))
        if last_id is None:
            return index, None
        # The one that holds the least comes furthest with as many.
        if best is None or (last_id < best[1]) == newest_first:
            best = index, last_id
    assert best is not None  # noqa: S101 - there is always one
    return best


def _few(tx: Tx, tenant: str, filter: Filter) -> Index | None:
    """Return an index that holds so few that they can be sorted: of one job, or what is sending,
    which the slots bound. Empty texts keep the databases from walking all ids instead."""
    if filter.job_id is not None:
        of_job = "SELECT 1 FROM callbacks WHERE tenant = ? AND job_id = ? LIMIT ?"
        row = tx.one(f"SELECT count(*) FROM ({of_job}) few", tenant, filter.job_id, SCAN_MAX + 1)
        if row is not None and row[0] <= SCAN_MAX:
            values = (tenant, filter.job_id)
            condition = "c.tenant = ? AND c.job_id = ?"
            return Index("job_id", condition, values, column="c.id || ''", sorted=False)
    if filter.status == "sending":
        condition = "c.state = 'sending' AND c.tenant || '' = ?"
        return Index("status", condition, (tenant,), column="c.id || ''", sorted=False)
    return None


def _indexes(tenant: str, filter: Filter) -> list[Index]:
    found = [
        Index(
            f"tag.{key}",
            "t.tenant = ? AND t.key = ? AND t.value = ?",
            (tenant, key, value),
            column="t.callback",
            table="tags t",
            join=" JOIN callbacks c ON c.id = t.callback",
        )
        for key, value in filter.tags
    ]
    if filter.status in _INDEXED:
        # The state stands in the text, not in a parameter: only so can a partial index serve.
        condition = f"c.tenant = ? AND c.state = '{filter.status}'"
        covers = _OF_DEAD if filter.status == "dead" else frozenset()
        found.append(Index("status", condition, (tenant,), covers=covers))
    if filter.error is not None:
        values = (tenant, filter.error)
        found.append(Index("error", "c.tenant = ? AND c.last_error = ?", values))
    return found or [Index("", "c.tenant = ?", (tenant,))]


def reach(
    tx: Tx, index: Index, bounds: Sequence[tuple[str, str]], newest_first: bool, scan_max: int
) -> str | None:
    """Return the id that is as far as one look goes on this index; None if it ends before."""
    ranges = "".join(f" AND {index.column} {sign} ?" for sign, _ in bounds)
    row = tx.one(
        f"SELECT {index.column} FROM {index.table} WHERE {index.condition}{ranges} "
        f"ORDER BY {index.column} {'DESC' if newest_first else 'ASC'} LIMIT 1 OFFSET ?",
        *index.values,
        *(bound for _, bound in bounds),
        scan_max - 1,
    )
    return None if row is None else str(row[0])


# --- conditions ---


def _bounds(filter: Filter, after: str | None, newest_first: bool) -> list[tuple[str, str]]:
    """Return the bounds of the ids, at most one from below and one from above: of two from the
    same side a database would take either."""
    lower, upper = (
        None if bound_ms is None else id_floor("cb", bound_ms)
        for bound_ms in (filter.since_ms, filter.until_ms)
    )
    return id_bounds(lower, upper, after, newest_first=newest_first)


def id_bounds(
    lower: str | None, upper: str | None, after: str | None, *, newest_first: bool
) -> list[tuple[str, str]]:
    """Return these bounds of the ids, the lowest of them and the first above, where one goes on
    after `after`."""
    below, above = (">=", lower), ("<", upper)
    if after is not None and newest_first and (upper is None or after < upper):
        above = ("<", after)
    if after is not None and not newest_first and (lower is None or after >= lower):
        below = (">", after)
    return [(sign, bound) for sign, bound in (below, above) if bound is not None]


def _asked(filter: Filter, served: str) -> set[str]:
    """Return the fields whose conditions are left."""
    tags = {f"tag.{key}" for key, _ in filter.tags}
    named = {name for name in _FIELDS if getattr(filter, name) is not None}
    return (tags | named) - {served}


def _rest(tx: Tx, tenant: str, filter: Filter, served: str) -> Iterator[Clause]:
    """Yield the conditions that are left, with their values. Empty texts and zeros keep
    the databases from beginning with one of them, by an index or by what is known of its values."""
    for key, value in filter.tags:
        if served != f"tag.{key}":
            of_tag = "o.tenant = ? AND o.key = ? AND o.value = ? AND o.callback = c.id"
            yield f"EXISTS (SELECT 1 FROM tags o WHERE {of_tag})", (tenant, key, value)
    for name, column, value_of in (
        ("status", "c.state || ''", filter.status),
        ("job_id", "c.job_id || ''", filter.job_id),
        ("job_status", "c.job_status || ''", filter.job_status),
        ("error", "coalesce(c.last_error, '')", filter.error),
        ("callback_url", "c.url || ''", filter.callback_url),
    ):
        if value_of is not None and served != name:
            yield f"{column} = ?", (value_of,)
    if filter.destination is not None:
        yield _of_destination(tx, tenant, filter.destination)
    if filter.priority is not None:
        yield f"c.priority + 0 = {0 if filter.priority == 'high' else 1}", ()


def _of_destination(tx: Tx, tenant: str, destination: str) -> Clause:
    id = resolve_destination(tenant, destination)
    row = tx.one("SELECT destination FROM aliases WHERE id = ?", id)
    if row is not None:
        id = row[0]
    clause, values = "c.destination || '' >= ? AND c.destination || '' < ?", [id, lanes_end(id)]
    if tx.one("SELECT 1 FROM aliases LIMIT 1") is None:
        return clause, values
    # What ended by the earlier rule bears an id that is an alias now.
    earlier = "SELECT id FROM aliases WHERE id = c.destination AND destination = ?"
    return f"({clause} OR c.destination IN ({earlier}))", [*values, id]
