"""Sealing everything again with the key that seals now: what is plain, and what older keys sealed.
Slice by slice, table by table in the order of their keys, between everyone else's commits; cursor
and rows move in one commit, so that a stop loses nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, Literal

from dispatcher.store import rows
from dispatcher.store.errors import CannotUnseal
from dispatcher.store.sealing import (
    ALL_BODIES,
    COLUMNS,
    HEAD_CHARS,
    LARGE,
    Bodies,
    Column,
    forget_kids,
    ring_of,
)
from dispatcher.store.tx import Row, Tx, marks
from receiver.base.keyring import PREFIX, Keyring, kid_of

_COLUMNS_OF: Final[dict[str, list[Column]]] = {}
for _column in (*COLUMNS, *LARGE):
    _COLUMNS_OF.setdefault(_column.table, []).append(_column)
_BODIES_OF: Final = {bodies.table: bodies for bodies in ALL_BODIES}
_ORDER: Final = sorted({**_COLUMNS_OF, **_BODIES_OF}, key=lambda table: table in _BODIES_OF)
_LOOKED: Final = 200  # rows that a reader looks at for one slice
_SLICE_BYTES: Final = 1 << 20  # of payloads in one commit
_RUNNER: Final = "reencrypt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reencryption:
    """How far everything has been sealed again with the key `kid`: rows that were looked at, values
    that were sealed, and those that no key of ours opens. `clean`: nothing of what was there before
    is left in the file."""

    kid: str
    state: Literal["running", "done"]
    place: str
    reached: str
    looked: int
    sealed: int
    unopened: int
    clean: bool
    started_ms: int
    finished_ms: int | None


_COLUMNS: Final = [field.name for field in fields(Reencryption)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What the next slice is about: rows to seal again, how many were looked at for it, and the
    last of them; `at_end` where none follow."""

    ids: Sequence[str]
    looked: int
    last: str
    at_end: bool


def get(tx: Tx) -> Reencryption | None:
    """Return how far it is, None where it has never been asked for."""
    row = tx.one(f"SELECT {', '.join(_COLUMNS)} FROM reencryption WHERE id = 1")
    if row is None:
        return None
    named = dict(zip(_COLUMNS, row, strict=True))
    return Reencryption(**named | {"clean": bool(named["clean"])})


def begin(tx: Tx, *, now_ms: int) -> Reencryption:
    """Begin from the start, unless it runs with this key already. Raises NoKeyring."""
    ring = ring_of(tx, "what is sealed again")
    found = get(tx)
    if found is not None and found.state == "running" and found.kid == ring.kid:
        return found
    begun = Reencryption(
        kid=ring.kid,
        state="running",
        place=_ORDER[0],
        reached="",
        looked=0,
        sealed=0,
        unopened=0,
        clean=False,
        started_ms=now_ms,
        finished_ms=None,
    )
    _put(tx, begun)
    return begun


def is_runner(tx: Tx) -> bool:
    """Whether this process is the one that seals again: of several the first that asked."""
    return tx.acquire(_RUNNER)


def upcoming(tx: Tx, at: Reencryption) -> Part:
    """Return what comes next, by a reader."""
    bodies = _BODIES_OF.get(at.place)
    id = _id_of(at.place)
    # The first characters of each sealed text, NULL where there is nothing to seal.
    heads = "".join(
        f", CASE WHEN {column.filled} THEN substr(t.{column.name}, 1, {HEAD_CHARS}) END"
        for column in _COLUMNS_OF.get(at.place, ())
    )
    more, join = "NULL, 0", ""
    if bodies is not None:
        more = f"t.kid, {bodies.bytes}"
        join = f"JOIN {bodies.owner} c ON c.id = t.{bodies.owned_by} "
    found = tx.all(
        f"SELECT t.{id}, {more}{heads} "
        f"FROM {at.place} t {join}WHERE t.{id} > ? ORDER BY t.{id} LIMIT ?",
        at.reached,
        _LOOKED,
    )
    ids: list[str] = []
    looked, size = 0, 0
    for row, kid, body_bytes, *firsts in found:
        is_due = bodies is not None and _is_body_due(tx, kid)
        if is_due or any(first is not None and not _is_newest(tx, first) for first in firsts):
            if ids and size + body_bytes > _SLICE_BYTES:
                break
            ids.append(row)
            size += body_bytes
        looked += 1
    last = found[looked - 1][0] if found else at.reached
    return Part(ids=ids, looked=looked, last=last, at_end=looked == len(found) < _LOOKED)


def _id_of(table: str) -> str:
    """Return the column that names a table's rows."""
    columns = _COLUMNS_OF.get(table)
    return columns[0].id if columns else _BODIES_OF[table].id


def seal_part(tx: Tx, at: Reencryption, part: Part, *, now_ms: int) -> Reencryption:
    """Seal one slice again, and move on. What was changed or deleted since it was looked at is left
    as it is."""
    ring = ring_of(tx, "what is sealed again")
    now = get(tx)
    if now != at or at.kid != ring.kid:  # begun again, or another process was quicker
        return begin(tx, now_ms=now_ms)
    counted = [_seal_texts(tx, ring, one, part.ids) for one in _COLUMNS_OF.get(at.place, ())]
    if at.place in _BODIES_OF:
        counted.append(_seal_bodies(tx, ring, _BODIES_OF[at.place], part.ids))
    sealed, unopened = (sum(counts) for counts in zip(*counted, strict=True))
    moved = replace(
        at,
        reached=part.last,
        looked=at.looked + part.looked,
        sealed=at.sealed + sealed,
        unopened=at.unopened + unopened,
    )
    if part.at_end:
        following = _ORDER[_ORDER.index(at.place) + 1 :]
        moved = replace(moved, place=following[0] if following else "", reached="")
    _put(tx, moved)
    return moved


def finish(tx: Tx, at: Reencryption, *, clean: bool, now_ms: int) -> Reencryption:
    """Note that all is done."""
    ring = ring_of(tx, "what is sealed again")
    done = replace(at, state="done", clean=clean, finished_ms=now_ms)
    _put(tx, done)
    if not at.unopened:
        forget_kids(tx, ring)
    return done


def _put(tx: Tx, value: Reencryption) -> None:
    tx.run("DELETE FROM reencryption")
    values = [getattr(value, name) for name in _COLUMNS]
    tx.run(
        f"INSERT INTO reencryption (id, {', '.join(_COLUMNS)}) VALUES (1, {marks(values)})",
        *(int(one) if isinstance(one, bool) else one for one in values),
    )


def _is_newest(tx: Tx, head: str) -> bool:
    return tx.ring is not None and head.startswith(f"{PREFIX}{tx.ring.kid}:")


def _is_body_due(tx: Tx, kid: str | None) -> bool:
    """Whether a body is to be sealed again; a plain one only where new ones are sealed,
    a sealed one stays so."""
    if kid is None:
        return tx.seals_payloads
    return tx.ring is not None and kid != tx.ring.kid


def _seal_texts(tx: Tx, ring: Keyring, column: Column, ids: Sequence[str]) -> tuple[int, int]:
    """Return how many values were sealed again, and how many could not be opened."""
    if not ids:
        return 0, 0
    found: list[Row] = tx.all(
        f"SELECT t.{column.id}, {column.tenant}, t.{column.name} FROM {column.table} t "
        f"WHERE t.{column.id} IN ({marks(ids)}) AND {column.filled} ORDER BY t.{column.id}",
        *ids,
    )
    changed, unopened = [], 0
    for id, tenant, stored in found:
        if kid_of(stored) == ring.kid or tenant is None:
            continue
        try:
            plain = rows.open_text(tx, stored, column, id, tenant)
        except CannotUnseal:
            unopened += 1
            continue
        changed.append((rows.seal_text(tx, plain, column, id, tenant), id, stored))
    update = f"UPDATE {column.table} SET {column.name} = ? WHERE {column.id} = ? "
    return tx.many(f"{update}AND {column.name} = ?", changed) if changed else 0, unopened


def _seal_bodies(tx: Tx, ring: Keyring, bodies: Bodies, ids: Sequence[str]) -> tuple[int, int]:
    if not ids:
        return 0, 0
    table, id = bodies.table, bodies.id
    found = tx.all(
        f"SELECT t.{id}, c.tenant, t.body, t.kid FROM {table} t JOIN {bodies.owner} c "
        f"ON c.id = t.{bodies.owned_by} WHERE t.{id} IN ({marks(ids)}) ORDER BY t.{id}",
        *ids,
    )
    changed, unopened = [], 0
    for row, tenant, stored, kid in found:
        if not _is_body_due(tx, kid):
            continue
        place = bodies.place(row, tenant)
        try:
            plain = rows.open_sealed(tx, kid, stored, place)
        except CannotUnseal:
            unopened += 1
            continue
        changed.append((ring.seal(plain, *place), ring.kid, row, kid or ""))
    update = f"UPDATE {table} SET body = ?, kid = ? WHERE {id} = ? AND coalesce(kid, '') = ?"
    return tx.many(update, changed) if changed else 0, unopened
