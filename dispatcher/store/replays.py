"""Filtered replays: a fixed set, walked by id, fed in small commits. Portable."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from dispatcher import filters
from dispatcher.audit import Entry
from dispatcher.filters import Filter
from dispatcher.ids import new_id
from dispatcher.store import audit, callbacks, rows
from dispatcher.store.errors import Conflict, LimitReached, NotFound
from dispatcher.store.search import Clause, Walk, newest, walk
from dispatcher.store.tx import Tx
from dispatcher.values import Callback, Replay, ReplayOutcomes

# A set is counted up to here, and by so many looks; beyond that it is "more" until it was walked.
COUNTED_MAX: Final = 10_000
LOOKS_MAX: Final = 2
# So many of those that it took up are looked at for what became of them; measured at 0.5 µs each.
OUTCOMES_MAX: Final = 25_000
_OUTCOMES: Final = """
SELECT c.state, c.tries > 0, count(*)
FROM (SELECT state, tries FROM callbacks WHERE replay = ? LIMIT ?) c GROUP BY 1, 2
"""
_OUTCOME_OF: Final = {"delivered": "delivered", "dead": "failed", "cancelled": "cancelled"}
_FEEDER: Final = "feed replays"  # what the one process that feeds has acquired
_KEPT: Final = 1_000  # that ended, of one tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How many callbacks a replay made now would match (not `exact`: at least), the newest of them,
    and the id to go on counting after (None: that was all)."""

    matched: int = 0
    exact: bool = True
    sample: Sequence[Callback] = ()
    next_id: str | None = None

    def is_above(self, limit: int) -> bool:
        """Whether more than `limit` match, or may: what is not counted to its end is many."""
        return self.matched > limit or not self.exact

    def plus(self, other: "Count") -> "Count":
        """Return this count and what was counted behind it."""
        matched = self.matched + other.matched
        return Count(
            matched=min(matched, COUNTED_MAX),
            exact=other.next_id is None and matched <= COUNTED_MAX,
            sample=(*self.sample, *other.sample),
            next_id=other.next_id if matched <= COUNTED_MAX else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a replay would walk next: from its `cursor` the callbacks `ids`, up to `end_id` (None:
    the set ends here)."""

    cursor: str
    ids: Sequence[str]
    end_id: str | None


def _walk(
    tx: Tx, tenant: str, filter: Filter, *, made_ms: int, after: str | None, newest_first: bool
) -> Walk:
    """Walk the set: what matched and was final when the replay was made. Whatever ends later, or
    is replayed meanwhile and ends again, is not in it. Of what waits: all that was there then."""
    moment = "c.created_ms" if filter.status == "pending" else "c.finished_ms"
    was_there: Clause = (f"{moment} + 0 <= ?", (made_ms,))
    return walk(tx, tenant, filter, after=after, newest_first=newest_first, also=[was_there])


def count(
    tx: Tx, tenant: str, filter: Filter, before: Count, *, made_ms: int, sample: int
) -> Count:
    """Count on from `before` what a replay made now would match, as far as one look goes, and
    have at most `sample` of it shown."""
    walked = _walk(tx, tenant, filter, made_ms=made_ms, after=before.next_id, newest_first=True)
    limit = COUNTED_MAX + 1 - before.matched
    missing = max(0, sample - len(before.sample))
    shown = newest(tx, walked, limit=missing) if missing else []
    if missing and len(shown) < missing:
        matched = len(shown)  # that was all: no need to look once more
    else:
        counting = f"SELECT count(*) FROM (SELECT 1 {walked.source} LIMIT ?) m"
        row = tx.one(counting, *walked.values, limit)
        matched = 0 if row is None else int(row[0])
    return before.plus(Count(matched=matched, sample=shown, next_id=walked.last_id))


def new(
    tenant: str, filter: Filter, counted: Count, rate_per_second: float | None, now_ms: int
) -> Replay:
    """Return a replay of what matches now, not yet stored."""
    some = counted.matched > 0 or not counted.exact
    return Replay(
        id=new_id("rp", now_ms),
        tenant=tenant,
        filter=json.dumps(filters.dump(filter)),
        rate_per_second=rate_per_second,
        state="running" if some else "done",
        matched=counted.matched,
        matched_exactly=counted.exact,
        replayed=0,
        skipped=0,
        created_ms=now_ms,
        finished_ms=None if some else now_ms,
    )


def check_running(tx: Tx, tenant: str, running_max: int) -> None:
    """Raise LimitReached where the tenant has as many that run as it may."""
    sql = "SELECT count(*) FROM replays WHERE tenant = ? AND state = 'running'"
    row = tx.one(sql, tenant)
    if row is not None and row[0] >= running_max:
        owner, setting = f"the tenant {tenant}", "DISPATCHER_TENANT_REPLAYS_MAX"
        raise LimitReached(owner, "filtered replays that run", setting, running_max)


def make(tx: Tx, replay: Replay, running_max: int, entry: Entry | None = None) -> Replay:
    """Record a replay; feeding it is for later commits. Of those that ended the newest are kept.
    Raises LimitReached where as many run as may."""
    if replay.state == "running":
        check_running(tx, replay.tenant, running_max)
    tx.run(
        "DELETE FROM replays WHERE tenant = ? AND state <> 'running' AND id <= "
        "(SELECT id FROM replays WHERE tenant = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
        replay.tenant,
        replay.tenant,
        _KEPT - 1,
    )
    tx.run(
        "INSERT INTO replays (id, tenant, filter, rate, state, matched, matched_exactly, "
        "created_ms, finished_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        replay.id,
        replay.tenant,
        replay.filter,
        replay.rate_per_second,
        replay.state,
        replay.matched,
        int(replay.matched_exactly),
        replay.created_ms,
        replay.finished_ms,
    )
    if entry is not None:
        counted = {"matched": replay.matched, "matchedExactly": replay.matched_exactly}
        audit.append(tx, entry.about(replay.id, **counted))
    return replay


def get(tx: Tx, tenant: str, replay: str) -> Replay:
    """Raise NotFound, for another tenant's just the same."""
    row = tx.one(f"{rows.REPLAY} WHERE id = ? AND tenant = ?", replay, tenant)
    if row is None:
        raise NotFound(f"there is no replay {replay}")
    return rows.replay(row)


def with_outcomes(tx: Tx, tenant: str, replay: str) -> Replay:
    """Return it with what became of the callbacks that it took up. Raises NotFound."""
    found = get(tx, tenant, replay)
    if not found.replayed:
        return replace(found, outcomes=ReplayOutcomes())
    counted: Counter[str] = Counter()
    for state, tries, n in tx.all(_OUTCOMES, replay, OUTCOMES_MAX):
        counted[_outcome(state, tries)] += n
    exact = sum(counted.values()) < OUTCOMES_MAX
    return replace(found, outcomes=ReplayOutcomes(**counted, exact=exact))


def _outcome(state: str, tried: object) -> str:
    if state in _OUTCOME_OF:
        return _OUTCOME_OF[state]
    return "retrying" if tried and state == "pending" else "waiting"


def running(tx: Tx, after: str, *, limit: int) -> list[Replay]:
    """`limit` of every tenant's after id `after`, in the order of their ids."""
    sql = f"{rows.REPLAY} WHERE state = 'running' AND id > ? ORDER BY id LIMIT ?"
    return [rows.replay(row) for row in tx.all(sql, after, limit)]


def upcoming(tx: Tx, replay: str, *, limit: int) -> Part:
    """Return at most `limit` callbacks that the replay would walk next, as far as one look goes."""
    row = tx.one("SELECT tenant, filter, created_ms, cursor FROM replays WHERE id = ?", replay)
    if row is None:
        raise NotFound(f"there is no replay {replay}")
    tenant, text, made_ms, cursor = row
    filter = filters.parse(json.loads(text))
    walked = _walk(tx, tenant, filter, made_ms=made_ms, after=cursor, newest_first=False)
    upcoming = tx.all(
        f"SELECT c.id {walked.source} ORDER BY {walked.column} LIMIT ?", *walked.values, limit
    )
    ids = [row[0] for row in upcoming]
    if len(ids) == limit or (ids and walked.last_id is None):
        return Part(cursor=cursor, ids=ids, end_id=ids[-1])
    return Part(cursor=cursor, ids=ids, end_id=walked.last_id)


def acquire(tx: Tx) -> bool:
    """Whether this process is the one that feeds replays: one does for all, so that each keeps its
    rate, and so that many cost the database no more locks than one."""
    return tx.acquire(_FEEDER)


def feed(tx: Tx, replay: str, part: Part, *, now_ms: int) -> Replay:
    """Replay a part of the set and move the cursor behind it, in this one commit; at the set's end
    the replay ends.

    Nothing happens if the cursor has moved since they were read, or if the replay has ended. Raises
    NotFound, and Conflict where another process feeds.
    """
    row = tx.one(
        "SELECT tenant, state, cursor, created_ms, filter FROM replays WHERE id = ?", replay
    )
    if row is None:
        raise NotFound(f"there is no replay {replay}")
    tenant, state, current, made_ms, text = row
    hurries = json.loads(text).get("status") == "pending"
    if state == "running" and not acquire(tx):
        raise Conflict("another process feeds the filtered replays")
    if state == "running" and current == part.cursor:
        fed = sum(
            _feed_one(tx, tenant, callback, hurries, by=replay, made_ms=made_ms, now_ms=now_ms)
            for callback in part.ids
        )
        _advance(tx, replay, part, fed, now_ms=now_ms)
    return get(tx, tenant, replay)


def _feed_one(
    tx: Tx, tenant: str, callback: str, hurries: bool, *, by: str, made_ms: int, now_ms: int
) -> bool:
    try:
        found = callbacks.get(tx, tenant, callback)
    except NotFound:  # pruned since it was read
        return False
    if hurries:
        return callbacks.hurry_in_background(tx, found, by=by, made_ms=made_ms, now_ms=now_ms)
    in_the_set = found.finished_ms is not None and found.finished_ms <= made_ms
    return in_the_set and callbacks.replay_in_background(
        tx, found, by=by, made_ms=made_ms, now_ms=now_ms
    )


def _advance(tx: Tx, replay: str, part: Part, fed: int, *, now_ms: int) -> None:
    """Under `of_replay`'s lock: it runs, and its cursor is where this part begins."""
    if part.end_id is not None:
        tx.run(
            "UPDATE replays SET cursor = ?, replayed = replayed + ?, skipped = skipped + ? "
            "WHERE id = ? AND cursor = ?",
            part.end_id,
            fed,
            len(part.ids) - fed,
            replay,
            part.cursor,
        )
    else:
        # What left the set on its own (replayed singly, pruned) counts as skipped, where it was
        # counted; else the set is what was walked.
        tx.run(
            "UPDATE replays SET state = 'done', finished_ms = ?, skipped = CASE "
            "WHEN matched_exactly = 1 AND matched > replayed THEN matched - replayed "
            "WHEN matched_exactly = 1 THEN 0 ELSE skipped END, "
            "matched = CASE WHEN matched_exactly = 1 THEN matched ELSE replayed + skipped END, "
            "matched_exactly = 1 WHERE id = ? AND cursor = ?",
            now_ms,
            replay,
            part.cursor,
        )


def cancel(tx: Tx, tenant: str, replay: str, *, now_ms: int, entry: Entry | None = None) -> Replay:
    """Stop feeding; what was fed stays. Cancelling twice is fine."""
    stopped = tx.run(
        "UPDATE replays SET state = 'cancelled', finished_ms = ? "
        "WHERE id = ? AND tenant = ? AND state = 'running'",
        now_ms,
        replay,
        tenant,
    )
    after = get(tx, tenant, replay)
    if after.state == "done":
        raise Conflict(f"{replay} is done already")
    if stopped and entry is not None:
        audit.append(tx, entry)
    return after
