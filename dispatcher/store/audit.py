"""The audit trail in the database: appended in the commit that makes the change, never updated, and
looked through in the order of the ids, newest first, so that no look costs more however many there
are (D18). Portable."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher.audit import Entry, EntryFilter
from dispatcher.ids import id_floor, made_ms
from dispatcher.store.tx import Row, Tx, marks
from receiver.base import log

# Written whatever DISPATCHER_LOG_LEVEL is: who can write to the database can rewrite the table, but
# not what has gone to another place.
_LOG: Final = log.get("dispatcher.audit", level="info")
_COLUMNS: Final = (
    "id", "at_ms", "actor", "session", "address", "by_platform", "tenant", "action", "target",
    "detail", "reason",
)  # fmt: skip
_NAMES: Final = ", ".join(_COLUMNS)
_NEXT_TENANT: Final = "SELECT tenant FROM audit WHERE tenant > ? ORDER BY tenant LIMIT 1"
_SURPLUS: Final = (
    "SELECT id FROM audit WHERE tenant = ? ORDER BY tenant DESC, id DESC LIMIT 1 OFFSET ?"
)
_OLDEST: Final = "SELECT id FROM audit WHERE tenant = ? AND id <= ? ORDER BY tenant, id LIMIT ?"
_OLD: Final = "SELECT id FROM audit WHERE id < ? ORDER BY id LIMIT ?"
# One look is about so many entries, where it does not take all that it comes by.
SCAN_MAX: Final = 25_000


def append(tx: Tx, entry: Entry) -> None:
    """Have the commit record an entry, and the log once that is on disk."""
    tx.run(
        f"INSERT INTO audit ({_NAMES}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        entry.id,
        entry.at_ms,
        entry.actor,
        entry.session,
        entry.address,
        int(entry.by_platform),
        entry.tenant,
        entry.action,
        entry.target,
        entry.detail_text(),
        entry.reason,
    )
    tx.changes.entries.append(entry)


def write_to_log(entries: Iterable[Entry]) -> None:
    """Write a line for each entry that was committed."""
    for entry in entries:
        _LOG.info(
            entry.action,
            id=entry.id,
            actor=entry.actor,
            session=entry.session,
            address=entry.address,
            tenant=entry.tenant,
            target=entry.target,
            detail=dict(entry.detail) or None,
            reason=entry.reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPage:
    """Entries, newest first, and the id to go on after (None at the end)."""

    entries: Sequence[Entry]
    next_id: str | None


@dataclass(frozen=True, slots=True)
class _Range:
    """What one index holds in the order of the ids: `condition` with its `values`, sorted by
    `order`, within the ids' bounds; and the conditions that are left for each row."""

    condition: str
    values: tuple[object, ...]
    order: str
    rest: str
    rest_values: tuple[object, ...]


def page(tx: Tx, filter: EntryFilter, *, after: str | None, limit: int) -> EntryPage:
    """Return at most `limit` entries, newest first, after id `after`. A page that came to the end
    of what one look may cost is shorter, and others follow it."""
    since = None if filter.since_ms is None else id_floor("au", filter.since_ms)
    looked = _range(filter, after, since)
    last_id = _reach(tx, looked) if looked.rest else None
    if last_id is not None:  # one bound from below: of two a database would take either
        looked = _range(filter, after, last_id)
    rows = tx.all(
        f"SELECT {_NAMES} FROM audit WHERE {looked.condition}{looked.rest} "
        f"ORDER BY {looked.order} LIMIT ?",
        *looked.values,
        *looked.rest_values,
        limit + 1,
    )
    entries = [_entry(row) for row in rows]
    next_id = entries[limit - 1].id if len(entries) > limit else last_id
    return EntryPage(entries=entries[:limit], next_id=next_id)


def last_ms(tx: Tx, tenant: str) -> int:
    """Return when the tenant's newest entry was made; -1 where it has none."""
    row = tx.one(
        "SELECT id FROM audit WHERE tenant = ? ORDER BY tenant DESC, id DESC LIMIT 1", tenant
    )
    return -1 if row is None else made_ms(row[0])


def prune(tx: Tx, before_ms: int, limit: int) -> int:
    """Delete entries from before then; return how many."""
    old = tx.all(f"{_OLD}{tx.skip_locked}", id_floor("au", before_ms), max(0, limit))
    return _delete(tx, old)


def surplus(tx: Tx, after: str, entries_max: int) -> tuple[str | None, str | None]:
    """Return the next tenant after `after` that has entries, and the newest of its entries that is
    one too many; None where there is none."""
    row = tx.one(_NEXT_TENANT, after)
    if row is None:
        return None, None
    over = tx.one(_SURPLUS, row[0], entries_max)
    return row[0], None if over is None else over[0]


def trim(tx: Tx, tenant: str, up_to: str, limit: int) -> int:
    """Delete a tenant's oldest entries, up to this one; return how many."""
    return _delete(tx, tx.all(f"{_OLDEST}{tx.skip_locked}", tenant, up_to, limit))


def _delete(tx: Tx, rows: Sequence[Row]) -> int:
    gone = [row[0] for row in rows]
    if gone:
        tx.run(f"DELETE FROM audit WHERE id IN ({marks(gone)})", *gone)
    return len(gone)


def _range(filter: EntryFilter, after: str | None, down_to: str | None) -> _Range:
    """Return the index to walk, from `after` down to an id: that of the target, which holds the
    least; else the tenant's. What is sorted by its first column too can be read from no other."""
    bounds: list[tuple[str, object]] = []
    until = None if filter.until_ms is None else id_floor("au", filter.until_ms)
    upper = min((bound for bound in (until, after) if bound is not None), default=None)
    if upper is not None:
        bounds.append(("id < ?", upper))
    if down_to is not None:
        bounds.append(("id >= ?", down_to))
    led = "target" if filter.target is not None else "tenant"
    lead = filter.target or filter.tenant
    if lead is not None:
        bounds.insert(0, (f"{led} = ?", lead))
    names = ("action", "actor", *(("tenant",) if led == "target" else ()))
    # The empty text keeps the databases from beginning with one of these.
    rest = [
        (f" AND {name} || '' = ?", value)
        for name in names
        if (value := getattr(filter, name)) is not None
    ]
    return _Range(
        condition=" AND ".join(clause for clause, _ in bounds) or "id > ''",
        values=tuple(value for _, value in bounds),
        order="id DESC" if lead is None else f"{led} DESC, id DESC",
        rest="".join(clause for clause, _ in rest),
        rest_values=tuple(value for _, value in rest),
    )


def _reach(tx: Tx, looked: _Range) -> str | None:
    """Return the id that is as far as one look goes; None if the range ends before."""
    row = tx.one(
        f"SELECT id FROM audit WHERE {looked.condition} ORDER BY {looked.order} LIMIT 1 OFFSET ?",
        *looked.values,
        SCAN_MAX - 1,
    )
    return None if row is None else str(row[0])


def _entry(row: Row) -> Entry:
    named = dict(zip(_COLUMNS, row, strict=True))
    named["detail"] = json.loads(named["detail"])
    named["by_platform"] = bool(named["by_platform"])
    return Entry(**named)
