"""Looking: pages of messages, one message, and what waits. On the reading connection."""

from dataclasses import dataclass
from typing import Final

from receiver.inbox.tx import Tx, Value, storable
from receiver.message import Page, StoredMessage

ID_MAX: Final = 2**63 - 1

_COLUMNS: Final = """
    id, source, message_id, body_sha256, body_bytes, content_type, kind, job_id, job_status,
    verdict, sent_ms, received_ms, duplicates, last_seen_ms, platform, via, state, attempts,
    due_ms, handled_ms
"""
_PAGE: Final = f"""
    SELECT {_COLUMNS} FROM messages WHERE id < :below{{filters}} ORDER BY id DESC LIMIT :limit
"""  # noqa: S608 - constants of ours
# As the indexes have them; a rare verdict is found through a small index of the rare ones.
_FILTERS: Final = {
    "job_id": " AND coalesce(job_id, '') = :job_id",
    "verdict": " AND verdict = :verdict",
    "state": " AND state = :state",
}
_RARE: Final = " AND verdict <> 'accepted'"
_SHOW: Final = f"""
    SELECT {_COLUMNS}, body, error
      FROM messages LEFT JOIN bodies USING (id) LEFT JOIN failures USING (id) WHERE id = :id
"""  # noqa: S608 - constants of ours
_DUE: Final = """
    SELECT CASE WHEN EXISTS (SELECT 1 FROM messages WHERE state = 'running') THEN 0
           ELSE (SELECT min(due_ms) FROM messages WHERE state = 'pending') END AS due_ms
"""
_BACKLOG: Final = """
    SELECT (SELECT count(*) FROM messages WHERE state = 'pending') AS pending,
           (SELECT count(*) FROM messages WHERE state = 'running') AS running,
           (SELECT count(*) FROM messages WHERE state = 'dead') AS dead,
           (SELECT min(received_ms) FROM messages
             WHERE state IN ('pending', 'running')) AS oldest_ms,
           (SELECT count(*) FROM expectations WHERE state = 'expected') AS expected,
           (SELECT count(*) FROM expectations WHERE state = 'lost') AS lost
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
    given = {"job_id": job_id, "verdict": verdict, "state": state}
    wanted = {name: storable(value) for name, value in given.items() if value is not None}
    filters = "".join(_FILTERS[name] for name in wanted)
    if verdict not in (None, "accepted"):
        filters += _RARE
    values: dict[str, Value] = {"below": min(below or ID_MAX, ID_MAX), "limit": limit + 1}
    found = tx.all(_PAGE.format(filters=filters), {**values, **wanted})
    messages = [StoredMessage(**row) for row in found[:limit]]
    return Page(messages=messages, next_below=messages[-1].id if len(found) > limit else None)


def show(tx: Tx, id: int) -> StoredMessage | None:
    """One message with its body, and why its last attempt failed."""
    if not 0 < id <= ID_MAX:
        return None
    found = tx.all(_SHOW, {"id": id})
    return StoredMessage(**found[0]) if found else None


def due_ms(tx: Tx) -> int | None:
    """When the first that waits is due; 0 while one is being handled, None when none waits."""
    (row,) = tx.all(_DUE, {})
    due: int | None = row["due_ms"]
    return due


def backlog(tx: Tx) -> Backlog:
    """Count through indexes that hold no more than what is counted."""
    (row,) = tx.all(_BACKLOG, {})
    return Backlog(**row)
