"""What differs on PostgreSQL, where several replicas share one inbox: whoever receives or claims a
message holds its job until the end of the transaction; a claim holds for a lease, measured by the
database's clock; and all of a batch goes in arrays: two round trips between the transaction's
beginning and its end."""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Final

from receiver.base.completion import canonical
from receiver.base.db import Row
from receiver.base.db.group_commit import RetryBatch
from receiver.base.db.postgres import PostgresTx
from receiver.inbox.attempts import CLAIMED, OTHER_RUNS, SUPERSEDED
from receiver.inbox.batch import (
    COLUMNS,
    Content,
    Facts,
    Incoming,
    New,
    Plan,
    StoredEnd,
    lookups,
    needs_registered,
    row,
)
from receiver.inbox.dedupe import End
from receiver.inbox.wanted import REGISTERED, Wanted

# Whoever receives or claims a message of a job holds it until the end of the transaction. In the
# order of the array, which all replicas sort alike: so they cannot wait for each other in a ring.
_HOLD: Final = "SELECT pg_advisory_xact_lock(key) FROM unnest(?::bigint[]) AS key"
_COPIES: Final = """
    SELECT it.source, it.job_id, it.sha256, m.id, coalesce(m.message_id, ''), m.state, m.run
      FROM unnest(?::text[], ?::text[], ?::bytea[]) AS it (source, job_id, sha256)
      JOIN messages AS m ON coalesce(m.job_id, '') = it.job_id AND m.source = it.source
       AND m.body_sha256 = it.sha256
     ORDER BY m.id
"""
# Look-ups, each by its own key: OFFSET 0 keeps the planner from turning the join round. Where the
# statistics know of no end yet, as in a new inbox, it would read the whole index of ends instead.
_ENDS: Final = """
    SELECT m.* FROM unnest(?::text[], ?::text[]) AS it (source, job_id) CROSS JOIN LATERAL (
        SELECT source, job_id, id, job_status, end_order, via, body_sha256, state, run
          FROM messages
         WHERE job_id = it.job_id AND source = it.source AND is_end = 1 OFFSET 0) AS m
"""
_UNDER: Final = """
    SELECT m.* FROM unnest(?::text[], ?::text[]) AS it (source, message_id) CROSS JOIN LATERAL (
        SELECT source, message_id, body_sha256 FROM messages
         WHERE message_id = it.message_id AND source = it.source AND kind <> 'terminal'
        OFFSET 0) AS m
"""
_IDS: Final = "SELECT nextval('messages_id_seq') FROM generate_series(1, ?)"

_REPLACED: Final = "UPDATE messages SET is_end = 0 WHERE id = ANY(?::bigint[])"
_INSERT: Final = f"""
    INSERT INTO messages ({", ".join(COLUMNS)}, last_seen_ms)
    SELECT it.*, it.received_ms
      FROM unnest(?::bigint[], ?::text[], ?::text[], ?::bytea[], ?::bigint[], ?::text[],
                  ?::text[], ?::text[], ?::text[], ?::text[], ?::bigint[], ?::bigint[],
                  ?::text[], ?::text[], ?::text[], ?::bigint[], ?::bigint[], ?::text[],
                  ?::bigint[], ?::text[])
        AS it ({", ".join(COLUMNS)})
"""  # noqa: S608 - constants of ours
_INSERT_SEALED: Final = f"""
    INSERT INTO messages ({", ".join(COLUMNS)}, kid, last_seen_ms)
    SELECT it.*, CAST(? AS text), it.received_ms
      FROM unnest(?::bigint[], ?::text[], ?::text[], ?::bytea[], ?::bigint[], ?::text[],
                  ?::text[], ?::text[], ?::text[], ?::text[], ?::bigint[], ?::bigint[],
                  ?::text[], ?::text[], ?::text[], ?::bigint[], ?::bigint[], ?::text[],
                  ?::bigint[], ?::text[])
        AS it ({", ".join(COLUMNS)})
"""  # noqa: S608 - constants of ours
_INSERT_BODIES: Final = "INSERT INTO bodies SELECT * FROM unnest(?::bigint[], ?::bytea[])"
_NOW_KNOWN: Final = """
    UPDATE expectations SET state = 'known', settled_ms = it.now_ms, ask_ms = NULL
      FROM unnest(?::text[], ?::text[], ?::bigint[]) AS it (source, job_id, now_ms)
     WHERE expectations.source = it.source AND expectations.job_id = it.job_id
       AND state <> 'known'
"""
_SEEN_AGAIN: Final = """
    UPDATE messages SET duplicates = duplicates + it.times,
           last_seen_ms = greatest(last_seen_ms, it.now_ms)
      FROM unnest(?::bigint[], ?::bigint[], ?::bigint[]) AS it (id, times, now_ms)
     WHERE messages.id = it.id
"""
_ORDERS: Final = """
    UPDATE messages SET end_order = it.end_order
      FROM unnest(?::bigint[], ?::text[]) AS it (id, end_order) WHERE messages.id = it.id
"""
_REARM: Final = f"""
    UPDATE messages SET state = 'pending', attempts = 0, due_ms = it.now_ms,
           canonical = it.canonical
      FROM unnest(?::bigint[], ?::bigint[], ?::text[]) AS it (id, now_ms, canonical)
     WHERE messages.id = it.id AND state || '' = 'dead' AND NOT {SUPERSEDED}
"""  # noqa: S608 - constants of ours

# Each status that is wanted here by itself, however much of what is not waits beside it.
_WANTED: Final = "unnest(?::text[], ?::text[]) AS w (source, status)"
_OF: Final = "state = 'pending' AND messages.source = w.source AND canonical = w.status"
_DUE: Final = f"""
    SELECT due.id, due.source, due.job_id FROM {_WANTED} CROSS JOIN LATERAL (
        SELECT id, source, job_id, due_ms FROM messages
         WHERE {_OF} AND due_ms <= ? AND NOT {OTHER_RUNS}
         ORDER BY due_ms, id LIMIT ? FOR UPDATE SKIP LOCKED) AS due
     ORDER BY due.due_ms, due.id LIMIT ?
"""  # noqa: S608 - constants of ours
_NEXT_DUE: Final = f"""
    SELECT min(next.due_ms), max(last.due_ms) FROM {_WANTED}
     CROSS JOIN LATERAL (SELECT max(due_ms) AS due_ms FROM messages WHERE {_OF}) AS last
     CROSS JOIN LATERAL (
        SELECT min(due_ms) AS due_ms FROM messages WHERE {_OF} AND due_ms > ?) AS next
"""  # noqa: S608 - constants of ours
_BRING_FORWARD: Final = f"""
    UPDATE messages SET due_ms = ? FROM {_WANTED} WHERE {_OF} AND due_ms > ?
"""  # noqa: S608 - constants of ours
_DUE_OF_ALL: Final = f"""
    SELECT id, source, job_id FROM messages
     WHERE state = 'pending' AND due_ms <= ? AND NOT {OTHER_RUNS}
     ORDER BY due_ms, id LIMIT ? FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - constants of ours
_NEXT_DUE_OF_ALL: Final = """
    SELECT min(due_ms), max(due_ms) FROM messages WHERE state = 'pending' AND due_ms > ?
"""

# What the sessions that write are called: those that have no ring, and those that have.
WRITER_NAME: Final = "postback receiver"
SEALING_NAME: Final = f"{WRITER_NAME}, sealing"
_OTHERS: Final = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = ? AND pid <> pg_backend_pid()
"""
# The first schema whose programs know what is sealed.
HAS_BEGUN: Final = "SELECT 1 FROM schema_version WHERE version = 4 AND reads_from = 4"
_BEGIN_SEALING: Final = "UPDATE schema_version SET reads_from = version WHERE version = 4"
_TOUCH: Final = "UPDATE schema_version SET version = version"

_CLOCK_MS: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
# A mark that changes with each renewal, by whatever clock: who watches it times it by its own. It
# reads as the lease's end by the database's clock, by which earlier versions go.
_MARK: Final = f"greatest(coalesce(lease_ms, 0) + 1, {_CLOCK_MS} + ?)"
_TRY_HOLD: Final = "SELECT pg_try_advisory_xact_lock(?)"
# By a statement of its own after the jobs are held: only this one sees what others have done.
_START: Final = f"""
    WITH started AS (
        UPDATE messages SET due_ms = NULL, lease_ms = {_MARK},
               attempts = attempts + 1, fence = fence + 1,
               state = CASE WHEN {SUPERSEDED} THEN 'skipped' ELSE 'running' END
         WHERE id = ? AND state || '' = 'pending' AND NOT {OTHER_RUNS}
        RETURNING *)
    SELECT {CLAIMED} FROM started JOIN bodies USING (id) WHERE state = 'running'
"""  # noqa: S608 - constants of ours
_RENEW: Final = f"""
    UPDATE messages SET lease_ms = {_MARK}
     WHERE id = ? AND fence = ? AND state = 'running'
"""  # noqa: S608 - constants of ours
_RUNNING: Final = "SELECT id, fence, attempts, lease_ms FROM messages WHERE state = 'running'"
_TAKE_BACK: Final = """
    SELECT id FROM messages WHERE id = ? AND fence = ? AND lease_ms = ? AND state = 'running'
       FOR UPDATE SKIP LOCKED
"""


def load(tx: PostgresTx, batch: Sequence[Incoming]) -> tuple[Facts, Iterator[int]]:
    """Hold a batch's jobs, and return what bears on it, and the ids that its new messages may take.

    In one round trip: each statement sees what was committed before it, so what those had done
    who held these jobs before.
    """
    contents, jobs, names = lookups(batch)
    stored = _stored_as(batch)
    forms = stored or contents  # all of them: replicas without a ring hold the plain one
    nameless = ((source, hashed.hex()) for source, job_id, hashed in forms if not job_id)
    keys = sorted({lock_key(*key) for key in (*jobs, *names, *nameless)})
    with tx.pipeline():
        tx.send(_HOLD, keys)
        copies = tx.send(_COPIES, *_columns(sorted(forms), 3))
        ends = tx.send(_ENDS, *_columns(sorted(jobs), 2))
        under = tx.send(_UNDER, *_columns(sorted(names), 2)) if names else None
        registered = tx.send(REGISTERED) if needs_registered(batch) else None
        ids = tx.send(_IDS, len(batch))
    facts = Facts(registered=list(registered or ()))
    for source, job_id, hashed, id, message_id, state, run in copies:
        content = (source, job_id, hashed) if stored is None else stored[source, job_id, hashed]
        facts.copies.setdefault(content, {}).setdefault(message_id, (id, run))
        if state == "dead":
            facts.dead.add(id)
    for source, job_id, id, job_status, order, via, hashed, state, run in ends:
        end = End(status=canonical(job_status), order=order, via=via, run=run)
        facts.ends[source, job_id] = StoredEnd(id=id, end=end, sha256=hashed)
        if state == "dead":
            facts.dead.add(id)
    for source, message_id, hashed in under or ():
        facts.bodies_under.setdefault((source, message_id), set()).add(hashed)
    return facts, iter([id for (id,) in ids])


def write(tx: PostgresTx, plan: Plan) -> bool:
    """Write a plan; whether there is something to handle now. Raises RetryBatch where another
    process has deleted what the plan builds on: retention holds no jobs."""
    rearmed = seen = None
    with tx.pipeline():
        if plan.replaced:
            tx.send(_REPLACED, plan.replaced)
        if plan.new:
            _insert(tx, plan.new, plan.kid)
        if plan.known:
            known = sorted((*job, now_ms) for job, now_ms in plan.known.items())
            tx.send(_NOW_KNOWN, *_columns(known, 3))
        if plan.seen_again:
            again = sorted((id, *seen) for id, seen in plan.seen_again.items())
            seen = tx.send(_SEEN_AGAIN, *_columns(again, 3))
        if plan.orders:
            tx.send(_ORDERS, *_columns(sorted(plan.orders.items()), 2))
        if plan.rearm:
            dead = sorted((id, *now) for id, now in plan.rearm.items())
            rearmed = tx.send(_REARM, *_columns(dead, 3))
    if seen is not None and seen.rowcount < len(plan.seen_again.keys() - {0}):
        raise RetryBatch("what came again was deleted by another process at this moment: it is new")
    return plan.has_due or (rearmed is not None and rearmed.rowcount > 0)


def touch(tx: PostgresTx) -> None:
    """Write something: a full disk or a standby would not show in less."""
    tx.run(_TOUCH)


def due(tx: PostgresTx, wanted: Wanted | None, now_ms: int, limit: int) -> list[Row]:
    """Return (id, source, job id) of what is due and wanted here, the earliest first."""
    if wanted is None:
        return tx.all(_DUE_OF_ALL, now_ms, limit)
    return tx.all(_DUE, *_columns(sorted(wanted), 2), now_ms, limit, limit)


def next_due(tx: PostgresTx, wanted: Wanted | None, now_ms: int) -> tuple[int | None, int | None]:
    """Return when the next one is due, and the last one."""
    if wanted is None:
        ((next_ms, last_ms),) = tx.all(_NEXT_DUE_OF_ALL, now_ms)
    else:
        ((next_ms, last_ms),) = tx.all(_NEXT_DUE, *_columns(sorted(wanted), 2), now_ms)
    return next_ms, last_ms


def bring_forward(tx: PostgresTx, wanted: Wanted | None, now_ms: int, far_ms: int) -> None:
    """Make due now what is due later than `far_ms`, of what is wanted here."""
    tx.run(_BRING_FORWARD, now_ms, *_columns(sorted(wanted or ()), 2), far_ms)


def clock_ms(tx: PostgresTx) -> int | None:
    """Return the time by the database's clock, which all replicas share."""
    ((ms,),) = tx.all(f"SELECT {_CLOCK_MS}")
    return int(ms)


def hold(tx: PostgresTx, job: tuple[str, str]) -> bool:
    """Whether nobody else is receiving or claiming a message of this job just now."""
    ((held,),) = tx.all(_TRY_HOLD, lock_key(*job))
    return bool(held)


def lock(tx: PostgresTx, job: tuple[str, str]) -> None:
    """Wait for whoever is receiving or claiming a message of this job, and hold it."""
    tx.run(_HOLD, [lock_key(*job)])


def others(tx: PostgresTx, *, plain: bool) -> int:
    """Return how many other processes use the inbox: those without a ring, or those with."""
    ((count,),) = tx.all(_OTHERS, WRITER_NAME if plain else SEALING_NAME)
    return int(count)


def has_begun(tx: PostgresTx) -> bool:
    """Whether some process has begun to seal."""
    return tx.one(HAS_BEGUN) is not None


def begin_sealing(tx: PostgresTx) -> None:
    """Note that, and keep out versions of before: they would take what is sealed for a message."""
    tx.run(_BEGIN_SEALING)


def start(tx: PostgresTx, id: int, lease_ms: int) -> Row | None:
    """Mark a message as running; its CLAIMED, or None where it could not be started."""
    return tx.one(_START, lease_ms, id)


def renew(tx: PostgresTx, id: int, fence: int, lease_ms: int) -> bool:
    """Hold a message for another lease, if it is still held under this fence."""
    return tx.run(_RENEW, lease_ms, id, fence) > 0


def running(tx: PostgresTx) -> Sequence[Row]:
    """Return (id, fence, attempts, mark of its lease) of all that runs."""
    return tx.all(_RUNNING)


def take_back(tx: PostgresTx, id: int, fence: int, mark: int) -> bool:
    """Whether a message still runs under this fence and mark, and is ours to settle."""
    return tx.one(_TAKE_BACK, id, fence, mark) is not None


def lock_key(source: str, name: str) -> int:
    """Return the number under which everybody holds a job, or a signed id: two that share one by
    chance wait for each other, and no harm is done."""
    hashed = blake2b(f"{source}\0{name}".encode(), digest_size=8, person=b"receiver")
    return int.from_bytes(hashed.digest(), "big", signed=True)


def _stored_as(batch: Sequence[Incoming]) -> dict[Content, Content] | None:
    """Return what each content may be stored as, and which one that is; None where that is itself
    alone."""
    if batch[0].forms is None:
        return None
    return {(*one.content[:2], form): one.content for one in batch for form in one.forms or ()}


def _insert(tx: PostgresTx, new: Sequence[New], kid: str | None) -> None:
    columns = _columns(map(row, new), len(COLUMNS))
    if kid is None:
        tx.send(_INSERT, *columns)
        tx.send(_INSERT_BODIES, *_columns(((one.id, one.message.body) for one in new), 2))
    else:
        tx.send(_INSERT_SEALED, kid, *columns)
        tx.send(_INSERT_BODIES, *_columns(((one.id, one.sealed) for one in new), 2))
    ended = [
        (one.message.source, one.message.job_id, one.message.received_ms)
        for one in new
        if one.is_end
    ]
    if ended:
        tx.send(_NOW_KNOWN, *_columns(ended, 3))


def _columns(rows: Iterable[Sequence[object]], count: int) -> list[list[object]]:
    """Return rows as the arrays that `unnest` takes."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in range(count)]
