"""What fails, by destination and error: grouped where the index lies, so that it costs the same
however much has failed. Portable."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from dispatcher.filters import Filter
from dispatcher.states import State
from dispatcher.store.search import Clause, walk
from dispatcher.store.tx import Tx, marks
from dispatcher.values import FailureGroup

STATES: Final[tuple[State, ...]] = ("dead", "pending")
"""In which a callback has failed: for good, or so far."""
GROUPS_MAX: Final = 200
# What is asked of each, so that a look at them is bounded: all that is dead has failed.
_FAILED: Final[dict[State, Clause]] = {
    "dead": ("c.destination IS NOT NULL", ()),
    "pending": ("c.last_error IS NOT NULL", ()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """The groups, the largest first. Not `complete`: there are more callbacks, or more groups, than
    one look is about."""

    groups: Sequence[FailureGroup]
    complete: bool


def failures(tx: Tx, tenant: str, filter: Filter) -> Failures:
    """Group what matches: dead callbacks, and those that wait for another try, unless the filter
    names one of these states."""
    groups: list[FailureGroup] = []
    complete = True
    for state in STATES:
        if filter.status in (None, state):
            part = _groups(tx, tenant, replace(filter, status=state), state)
            groups += part.groups
            complete &= part.complete
    groups.sort(key=lambda group: (-group.count, group.sample))
    complete &= len(groups) <= GROUPS_MAX
    return Failures(groups=_with_attempts(tx, groups[:GROUPS_MAX]), complete=complete)


def _groups(tx: Tx, tenant: str, filter: Filter, state: State) -> Failures:
    walked = walk(tx, tenant, filter, after=None, also=[_FAILED[state]])
    rows = tx.all(
        "SELECT g.destination, d.name, d.url, g.last_error, g.n, g.oldest, g.newest FROM ("
        "SELECT substr(c.destination, 1, 35) AS destination, c.last_error, count(*) AS n, "
        f"min(c.id) AS oldest, max(c.id) AS newest {walked.source} GROUP BY 1, 2 "
        "ORDER BY 3 DESC, 5 DESC LIMIT ?) g LEFT JOIN destinations d ON d.id = g.destination",
        *walked.values,
        GROUPS_MAX + 1,
    )
    found = [
        FailureGroup(
            destination=destination,
            destination_name=name,
            url=url or "",
            state=state,
            error=error,
            count=count,
            oldest=oldest,
            sample=newest,
        )
        for destination, name, url, error, count, oldest, newest in rows
    ]
    return Failures(groups=found, complete=walked.last_id is None)


def _with_attempts(tx: Tx, groups: Sequence[FailureGroup]) -> list[FailureGroup]:
    """Return the groups with what the last attempt of each sample met."""
    if not groups:
        return []
    ids = [group.sample for group in groups]
    met = {
        row[0]: row[1:]
        for row in tx.all(
            "SELECT a.callback, a.error, a.excerpt, a.detail FROM attempts a "
            "JOIN callbacks c ON c.id = a.callback AND c.attempts = a.n "
            f"WHERE c.id IN ({marks(ids)})",
            *ids,
        )
    }
    nothing = (None, None, None)
    return [
        replace(group, message=message, excerpt=excerpt, detail=detail)
        for group in groups
        for message, excerpt, detail in (met.get(group.sample, nothing),)
    ]
