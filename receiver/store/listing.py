"""Looking: pages of messages, one message, and what waits. On the reading connection."""

import sqlite3
from dataclasses import dataclass
from typing import Final

from receiver.message import Page, StoredMessage
from receiver.store.commit import rows

ID_MAX: Final = 2**63 - 1

_COLUMNS: Final = """
    id, source, message_id, body_sha256, body_bytes, content_type, kind, job_id, job_status,
    verdict, sent_ms, received_ms, duplicates, last_seen_ms, platform, via, state, attempts,
    due_ms, handled_ms
"""
_PAGE: Final = f"""
    SELECT {_COLUMNS} FROM messages WHERE id < :below {{filters}} ORDER BY id DESC LIMIT :limit
"""  # noqa: S608 - constants of ours
_SHOW: Final = f"""
    SELECT {_COLUMNS}, body, error
      FROM messages LEFT JOIN bodies USING (id) LEFT JOIN failures USING (id) WHERE id = :id
"""  # noqa: S608 - constants of ours
_DUE: Final = """
    SELECT EXISTS (SELECT 1 FROM messages WHERE state = 'running') AS running,
           (SELECT min(due_ms) FROM messages WHERE state = 'pending') AS due_ms
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
    """What is not done with; ``oldest_ms`` is when the oldest unhandled message came."""

    pending: int
    running: int
    dead: int
    oldest_ms: int | None
    expected: int
    lost: int


def page(
    db: sqlite3.Connection,
    *,
    below: int | None,
    limit: int,
    job_id: str | None,
    verdict: str | None,
    state: str | None,
) -> Page:
    """Messages, newest first."""
    parameters = {
        "below": min(below or ID_MAX, ID_MAX),
        "limit": limit + 1,
        "job_id": job_id,
        "verdict": verdict,
        "state": state,
    }
    filters = "".join(
        f" AND {name} = :{name}"
        for name in ("job_id", "verdict", "state")
        if parameters[name] is not None
    )
    if verdict not in (None, "accepted"):
        filters += " AND verdict <> 'accepted'"  # says to SQLite that its small index will do
    sql = (
        f"SELECT {_COLUMNS} FROM messages WHERE id < :below{filters} ORDER BY id DESC LIMIT :limit"  # noqa: S608 - constants of ours
    )
    found = rows(db, sql, parameters)
    messages = [StoredMessage(**row) for row in found[:limit]]
    return Page(messages=messages, next_below=messages[-1].id if len(found) > limit else None)


def show(db: sqlite3.Connection, id: int) -> StoredMessage | None:
    """One message with its body, and why its last attempt failed."""
    if not 0 < id <= ID_MAX:
        return None
    found = rows(db, _SHOW, {"id": id})
    return StoredMessage(**found[0]) if found else None


def due_ms(db: sqlite3.Connection) -> int | None:
    """When the first that waits is due; 0 while one is being handled, None when none waits."""
    (row,) = rows(db, _DUE, {})
    return 0 if row["running"] else row["due_ms"]


def backlog(db: sqlite3.Connection) -> Backlog:
    """Counted through indexes that hold no more than what is counted."""
    (row,) = rows(db, _BACKLOG, {})
    return Backlog(**row)
