"""Looking: pages of messages, one message, and what waits. On the reading connection."""

from dataclasses import dataclass
from typing import Final

from receiver.base.db import Tx
from receiver.inbox.message import Page, StoredMessage, from_row, names, storable
from receiver.inbox.wanted import Wanted

ID_MAX: Final = 2**63 - 1

_COLUMNS: Final = ", ".join(names(StoredMessage)[:-2])  # its body and error lie apart
_PAGE: Final = f"""
    SELECT {_COLUMNS} FROM messages WHERE id < ?{{filters}} ORDER BY id DESC LIMIT ?
"""  # noqa: S608 - constants of ours
# As the indexes have them; a rare verdict is found through a small index of the rare ones.
_FILTERS: Final = {
    "job_id": " AND coalesce(job_id, '') = ?",
    "verdict": " AND verdict = ?",
    "state": " AND state = ?",
}
_RARE: Final = " AND verdict <> 'accepted'"
_SHOW: Final = f"""
    SELECT {_COLUMNS}, body, error
      FROM messages LEFT JOIN bodies USING (id) LEFT JOIN failures USING (id) WHERE id = ?
"""  # noqa: S608 - constants of ours
_RUNNING: Final = "SELECT 1 FROM messages WHERE state = 'running' LIMIT 1"
_DUE: Final = """
    SELECT source, canonical, min(due_ms) FROM messages WHERE state = 'pending'
     GROUP BY source, canonical
"""
_BACKLOG: Final = """
    SELECT (SELECT count(*) FROM messages WHERE state = 'pending'),
           (SELECT count(*) FROM messages WHERE state = 'running'),
           (SELECT count(*) FROM messages WHERE state = 'dead'),
           (SELECT min(received_ms) FROM messages
             WHERE state IN ('pending', 'running')),
           (SELECT count(*) FROM expectations WHERE state = 'expected'),
           (SELECT count(*) FROM expectations WHERE state = 'lost')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is not done with; `oldest_ms` is when the oldest unhandled message came."""

    pending: int
    running: int
    dead: int
    oldest_ms: int | None
    expected: int
    lost: int


def page(
    tx: Tx,
    *,
    below: int | None,
    limit: int,
    job_id: str | None,
    verdict: str | None,
    state: str | None,
) -> Page:
    """Messages, newest first."""
    fields = {"job_id": job_id, "verdict": verdict, "state": state}
    values = {name: storable(value) for name, value in fields.items() if value is not None}
    filters = "".join(_FILTERS[name] for name in values)
    if verdict not in (None, "accepted"):
        filters += _RARE
    sql = _PAGE.format(filters=filters)
    rows = tx.all(sql, min(below or ID_MAX, ID_MAX), *values.values(), limit + 1)
    messages = [from_row(StoredMessage, row) for row in rows[:limit]]
    return Page(messages=messages, next_below=messages[-1].id if len(rows) > limit else None)


def show(tx: Tx, id: int) -> StoredMessage | None:
    """One message with its body, and why its last attempt failed."""
    if not 0 < id <= ID_MAX:
        return None
    row = tx.one(_SHOW, id)
    return None if row is None else from_row(StoredMessage, row)


def due_ms(tx: Tx, wanted: Wanted | None) -> int | None:
    """When the first that waits, and is wanted here (None: any), is due; 0 while one is being
    handled, None when none waits."""
    if tx.one(_RUNNING) is not None:
        return 0
    rows = tx.all(_DUE)
    due = [ms for *what, ms in rows if wanted is None or None in what or tuple(what) in wanted]
    return min(due, default=None)


def backlog(tx: Tx) -> Backlog:
    """Count through indexes that hold no more than what is counted."""
    (row,) = tx.all(_BACKLOG)
    return from_row(Backlog, row)
