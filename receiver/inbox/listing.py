"""Looking: pages of messages, one message, and what waits. On the reading connection."""

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from receiver.base.db import Tx
from receiver.base.keyring import SealedError
from receiver.inbox.message import Page, StoredMessage, from_row, names, storable
from receiver.inbox.seals import Seals, body_stored, text_stored
from receiver.inbox.wanted import Wanted

ID_MAX: Final = 2**63 - 1

_COLUMNS: Final = ", ".join(names(StoredMessage)[:-3])  # its body and error lie apart
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
       AND due_ms IS NOT NULL
     GROUP BY source, canonical
"""
_UNREADABLE: Final = "SELECT count(*) FROM messages WHERE state = 'pending' AND due_ms IS NULL"
_BACKLOG: Final = """
    SELECT (SELECT count(*) FROM messages WHERE state = 'pending'),
           (SELECT count(*) FROM messages WHERE state = 'running'),
           (SELECT count(*) FROM messages WHERE state = 'dead'),
           (SELECT min(received_ms) FROM messages
             WHERE state IN ('pending', 'running')),
           (SELECT count(*) FROM expectations WHERE state = 'expected'),
           (SELECT count(*) FROM expectations WHERE state = 'lost'),
           (SELECT count(*) FROM messages WHERE state = 'pending' AND due_ms IS NULL)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What is not done with; `oldest_ms` is when the oldest unhandled message came, `unreadable`
    how many of the pending ones wait for a key that opens them."""

    pending: int
    running: int
    dead: int
    oldest_ms: int | None
    expected: int
    lost: int
    unreadable: int = 0


def page(
    tx: Tx,
    *,
    below: int | None,
    limit: int,
    job_id: str | None,
    verdict: str | None,
    state: str | None,
    seals: Seals | None = None,
) -> Page:
    """Messages, newest first."""
    fields = {"job_id": job_id, "verdict": verdict, "state": state}
    values = {name: storable(value) for name, value in fields.items() if value is not None}
    filters = "".join(_FILTERS[name] for name in values)
    if verdict not in (None, "accepted"):
        filters += _RARE
    sql = _PAGE.format(filters=filters)
    rows = tx.all(sql, min(below or ID_MAX, ID_MAX), *values.values(), limit + 1)
    messages = [_listed(from_row(StoredMessage, row), seals) for row in rows[:limit]]
    return Page(messages=messages, next_below=messages[-1].id if len(rows) > limit else None)


def _listed(message: StoredMessage, seals: Seals | None) -> StoredMessage:
    """Return it without the hash of what is sealed, which is a keyed one."""
    if message.kid is None:
        return message
    unread = None
    if seals is None or message.kid not in seals.kids:
        unread = f"it is sealed with the key {message.kid}, which is not in the ring"
    return replace(message, body_sha256=None, unread=unread)


def show(tx: Tx, id: int, seals: Seals | None = None) -> StoredMessage | None:
    """One message with its body, and why its last attempt failed."""
    if not 0 < id <= ID_MAX:
        return None
    row = tx.one(_SHOW, id)
    return None if row is None else _opened(from_row(StoredMessage, row), seals)


def _opened(message: StoredMessage, seals: Seals | None) -> StoredMessage:
    changes: dict[str, Any] = {}
    if message.error is not None:
        where = ("failures", "error", str(message.id), message.source)
        error, why = text_stored(seals, message.error, *where)
        changes["error"] = why if error is None else error
    if message.kid is None:
        return replace(message, **changes) if changes else message
    kid, message = message.kid, _listed(message, seals)
    if message.body is not None:
        try:
            body = body_stored(seals, kid, message.body, message.id, message.source)
        except SealedError as error:
            changes |= {"body": None, "unread": str(error)}
        else:
            changes |= {"body": body, "body_sha256": sha256(body).digest(), "unread": None}
    return replace(message, **changes)


def due_ms(tx: Tx, wanted: Wanted | None) -> int | None:
    """When the first that waits, and is wanted here (None: any), is due; 0 while one is being
    handled, None when none waits."""
    if tx.one(_RUNNING) is not None:
        return 0
    rows = tx.all(_DUE)
    due = [ms for *what, ms in rows if wanted is None or None in what or tuple(what) in wanted]
    return min(due, default=None)


def unreadable(tx: Tx) -> int:
    """Count what waits for a key that opens it."""
    ((count,),) = tx.all(_UNREADABLE)
    return int(count)


def backlog(tx: Tx) -> Backlog:
    """Count through indexes that hold no more than what is counted."""
    (row,) = tx.all(_BACKLOG)
    return from_row(Backlog, row)
