"""Filtered replays: a fixed set, walked by id, fed in small commits. Portable."""

import json
from collections.abc import Sequence

from dispatcher import filters
from dispatcher.filters import Filter
from dispatcher.ids import new_id
from dispatcher.store import callbacks, rows
from dispatcher.store.errors import Conflict, NotFound
from dispatcher.store.tx import Tx
from dispatcher.values import Callback, Replay


def matching(tenant: str, filter: Filter, *, made_ms: int) -> tuple[str, list[object]]:
    """Return the set, as `callbacks.where` does: what matched and was final when the replay was
    made. Whatever ends later, or is replayed meanwhile and ends again, is not in it."""
    source, values = callbacks.where(tenant, filter)
    return f"{source} AND c.finished_ms <= ?", [*values, made_ms]


def count(tx: Tx, tenant: str, filter: Filter, *, made_ms: int) -> int:
    """How many callbacks a replay made now would match."""
    source, values = matching(tenant, filter, made_ms=made_ms)
    row = tx.one(f"SELECT count(*) {source}", *values)
    return 0 if row is None else int(row[0])


def sample(tx: Tx, tenant: str, filter: Filter, *, made_ms: int, limit: int) -> Sequence[Callback]:
    """Return some of what a replay made now would match, newest first."""
    source, values = matching(tenant, filter, made_ms=made_ms)
    return callbacks.newest(tx, source, values, callbacks.order(filter), limit=limit)


def new(
    tenant: str, filter: Filter, matched: int, rate_per_second: float | None, now_ms: int
) -> Replay:
    """Return a replay of what matches now, not yet stored."""
    return Replay(
        id=new_id("rp", now_ms),
        tenant=tenant,
        filter=json.dumps(filters.dump(filter)),
        rate_per_second=rate_per_second,
        state="running" if matched else "done",
        matched=matched,
        replayed=0,
        skipped=0,
        created_ms=now_ms,
        finished_ms=None if matched else now_ms,
    )


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
    """Return the ids that the replay would walk next, and the cursor they come after."""
    row = tx.one("SELECT tenant, filter, created_ms, cursor FROM replays WHERE id = ?", replay)
    if row is None:
        raise NotFound(f"there is no replay {replay}")
    tenant, text, made_ms, cursor = row
    filter = filters.parse(json.loads(text))
    source, values = matching(tenant, filter, made_ms=made_ms)
    column = callbacks.order(filter)
    upcoming = tx.all(
        f"SELECT c.id {source} AND {column} > ? ORDER BY {column} LIMIT ?", *values, cursor, limit
    )
    return cursor, [row[0] for row in upcoming]


def feed(
    tx: Tx, replay: str, cursor: str, ids: Sequence[str], *, now_ms: int
) -> tuple[bool, Replay]:
    """Replay `ids` and move the cursor behind them, in this one commit. No `ids` end the replay.

    Nothing happens if the cursor has moved since they were read, if the replay has ended, or if
    another process feeds it, the first that asked: so it keeps its rate over all processes. Returns
    whether this is the one that feeds.
    """
    row = tx.one("SELECT tenant, state, cursor, created_ms FROM replays WHERE id = ?", replay)
    if row is None:
        raise NotFound(f"there is no replay {replay}")
    tenant, state, current, made_ms = row
    ours = tx.acquire(replay)
    if ours and state == "running" and current == cursor:
        fed = sum(
            _feed_one(tx, tenant, callback, made_ms=made_ms, now_ms=now_ms) for callback in ids
        )
        _advance(tx, replay, ids, fed, now_ms=now_ms)
    after = get(tx, tenant, replay)
    if after.state != "running":
        tx.let_go(replay)
    return ours, after


def _feed_one(tx: Tx, tenant: str, callback: str, *, made_ms: int, now_ms: int) -> bool:
    try:
        found = callbacks.get(tx, tenant, callback)
    except NotFound:  # pruned since it was read
        return False
    in_the_set = found.finished_ms is not None and found.finished_ms <= made_ms
    return in_the_set and callbacks.replay_in_background(tx, found, made_ms=made_ms, now_ms=now_ms)


def _advance(tx: Tx, replay: str, ids: Sequence[str], fed: int, *, now_ms: int) -> None:
    if ids:
        tx.run(
            "UPDATE replays SET cursor = ?, replayed = replayed + ?, skipped = skipped + ? "
            "WHERE id = ?",
            ids[-1],
            fed,
            len(ids) - fed,
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
    if get(tx, tenant, replay).state == "done":
        raise Conflict(f"{replay} is done already")
    tx.run(
        "UPDATE replays SET state = 'cancelled', finished_ms = ? "
        "WHERE id = ? AND state = 'running'",
        now_ms,
        replay,
    )
    return get(tx, tenant, replay)
