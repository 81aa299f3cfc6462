"""Filtered replays: a fixed set, walked by id, fed in small commits. Portable."""

import json
from collections.abc import Sequence

from dispatcher import filters
from dispatcher.filters import Filter
from dispatcher.store import operators, rows, search
from dispatcher.store.errors import Conflict, NotFound
from dispatcher.store.tx import Tx
from dispatcher.values import Callback, Replay


def matching(tenant: str, wanted: Filter, *, made_ms: int) -> tuple[str, list[object]]:
    """Return the set is what matched and was final when the replay was made: whatever ends later,
    or is replayed meanwhile and ends again, has a later end and is not in it."""
    source, values = search.where(tenant, wanted)
    return f"{source} AND c.finished_ms <= ?", [*values, made_ms]


def count(tx: Tx, tenant: str, wanted: Filter, *, made_ms: int) -> int:
    """How many callbacks a replay made now would match."""
    source, values = matching(tenant, wanted, made_ms=made_ms)
    row = tx.one(f"SELECT count(*) {source}", *values)
    return 0 if row is None else int(row[0])


def sample(tx: Tx, tenant: str, wanted: Filter, *, made_ms: int, limit: int) -> Sequence[Callback]:
    """Return some of what a replay made now would match, newest first."""
    source, values = matching(tenant, wanted, made_ms=made_ms)
    return search.newest(tx, source, values, search.order(wanted), limit=limit)


def make(tx: Tx, replay: Replay) -> Replay:
    """Record a replay; feeding it is for later commits."""
    tx.run(
        "INSERT INTO replays (id, tenant, filter, rate, state, matched, created_ms, finished_ms) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        replay.id,
        replay.tenant,
        replay.filter,
        replay.rate_per_second,
        replay.state,
        replay.matched,
        replay.created_ms,
        replay.finished_ms,
    )
    return replay


def get(tx: Tx, tenant: str, replay: str) -> Replay:
    """Raise NotFound, for another tenant's just the same."""
    row = tx.one(f"{rows.REPLAY} WHERE id = ? AND tenant = ?", replay, tenant)
    if row is None:
        raise NotFound(f"there is no replay {replay}")
    return rows.replay(row)


def running(tx: Tx) -> list[Replay]:
    """Every tenant's."""
    return [rows.replay(row) for row in tx.all(f"{rows.REPLAY} WHERE state = 'running'")]


def upcoming(tx: Tx, replay: str, *, limit: int) -> tuple[str, list[str]]:
    """Return the ids that the replay would walk next, and the cursor they come after (a look
    only)."""
    row = tx.one("SELECT tenant, filter, created_ms, cursor FROM replays WHERE id = ?", replay)
    if row is None:
        raise NotFound(f"there is no replay {replay}")
    tenant, text, made_ms, cursor = row
    wanted = filters.parse(json.loads(text))
    source, values = matching(tenant, wanted, made_ms=made_ms)
    column = search.order(wanted)
    found = tx.all(
        f"SELECT c.id {source} AND {column} > ? ORDER BY {column} LIMIT ?", *values, cursor, limit
    )
    return cursor, [row[0] for row in found]


def feed(tx: Tx, replay: str, cursor: str, found: list[str], *, now_ms: int) -> Replay:
    """Replay `found` and move the cursor behind them, in this one commit. An empty `found` ends
    the replay. Nothing happens if the cursor has moved since the look, or the replay has ended."""
    row = tx.one("SELECT tenant, state, cursor, created_ms FROM replays WHERE id = ?", replay)
    if row is None:
        raise NotFound(f"there is no replay {replay}")
    tenant, state, current, made_ms = row
    if state == "running" and current == cursor:
        fed = sum(
            _feed_one(tx, tenant, callback, made_ms=made_ms, now_ms=now_ms) for callback in found
        )
        _advance(tx, replay, found, fed, now_ms=now_ms)
    return get(tx, tenant, replay)


def _feed_one(tx: Tx, tenant: str, callback: str, *, made_ms: int, now_ms: int) -> bool:
    try:
        shown = search.get(tx, tenant, callback)
    except NotFound:  # pruned between the look and this commit
        return False
    return _still_in(shown, made_ms) and operators.replay_in_background(
        tx, shown, made_ms=made_ms, now_ms=now_ms
    )


def _still_in(shown: Callback, made_ms: int) -> bool:
    return shown.finished_ms is not None and shown.finished_ms <= made_ms


def _advance(tx: Tx, replay: str, found: list[str], fed: int, *, now_ms: int) -> None:
    if found:
        tx.run(
            "UPDATE replays SET cursor = ?, replayed = replayed + ?, skipped = skipped + ? "
            "WHERE id = ?",
            found[-1],
            fed,
            len(found) - fed,
            replay,
        )
    else:
        # What left the set on its own (replayed singly, pruned) counts as skipped.
        tx.run(
            "UPDATE replays SET state = 'done', finished_ms = ?, "
            "skipped = CASE WHEN matched > replayed THEN matched - replayed ELSE 0 END "
            "WHERE id = ?",
            now_ms,
            replay,
        )


def cancel(tx: Tx, tenant: str, replay: str, *, now_ms: int) -> Replay:
    """Stop feeding; what was fed stays. Cancelling twice is fine."""
    shown = get(tx, tenant, replay)
    if shown.state == "done":
        raise Conflict(f"{replay} is done already")
    tx.run(
        "UPDATE replays SET state = 'cancelled', finished_ms = ? "
        "WHERE id = ? AND state = 'running'",
        now_ms,
        replay,
    )
    return get(tx, tenant, replay)
