"""Letting messages in, on PostgreSQL: hold their jobs, load the facts, decide, write. All of a
batch goes in arrays: two round trips between the transaction's beginning and its end."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final

import psycopg

from receiver.guard import End, Verdict
from receiver.inbox.handling import SUPERSEDED
from receiver.inbox.ledger import (
    COLUMNS,
    Content,
    Facts,
    Job,
    Name,
    New,
    Plan,
    StoredEnd,
    decide,
    incoming,
    lookups,
    row,
)
from receiver.message import Message
from receiver.verification.status import canonical

# Whoever receives or claims a message of a job holds it until the end of the transaction. In the
# order of the array, which all replicas sort alike: so they cannot wait for each other in a ring.
_HOLD: Final = "SELECT pg_advisory_xact_lock(key) FROM unnest(%b::bigint[]) AS key"
_COPIES: Final = """
    SELECT it.source, it.job_id, it.sha256, m.id, coalesce(m.message_id, ''), m.state
      FROM unnest(%b::text[], %b::text[], %b::bytea[]) AS it (source, job_id, sha256)
      JOIN messages AS m ON coalesce(m.job_id, '') = it.job_id AND m.source = it.source
       AND m.body_sha256 = it.sha256
     ORDER BY m.id
"""
_ENDS: Final = """
    SELECT m.source, m.job_id, m.id, m.job_status, m.end_order, m.via, m.body_sha256
      FROM unnest(%b::text[], %b::text[]) AS it (source, job_id)
      JOIN messages AS m ON m.job_id = it.job_id AND m.source = it.source AND m.is_end = 1
"""
_UNDER: Final = """
    SELECT m.source, m.message_id, m.body_sha256
      FROM unnest(%b::text[], %b::text[]) AS it (source, message_id)
      JOIN messages AS m ON m.message_id = it.message_id AND m.source = it.source
       AND m.kind <> 'terminal'
"""
_IDS: Final = "SELECT nextval('messages_id_seq') FROM generate_series(1, %b)"

_REPLACED: Final = "UPDATE messages SET is_end = 0 WHERE id = ANY(%b::bigint[])"
_INSERT: Final = f"""
    INSERT INTO messages ({", ".join(COLUMNS)}, last_seen_ms)
    SELECT it.*, it.received_ms
      FROM unnest(%b::bigint[], %b::text[], %b::text[], %b::bytea[], %b::bigint[], %b::text[],
                  %b::text[], %b::text[], %b::text[], %b::text[], %b::bigint[], %b::bigint[],
                  %b::text[], %b::text[], %b::text[], %b::bigint[], %b::bigint[], %b::text[])
        AS it ({", ".join(COLUMNS)})
"""  # noqa: S608 - constants of ours
_INSERT_BODIES: Final = "INSERT INTO bodies SELECT * FROM unnest(%b::bigint[], %b::bytea[])"
_NOW_KNOWN: Final = """
    UPDATE expectations SET state = 'known', settled_ms = it.now_ms, ask_ms = NULL
      FROM unnest(%b::text[], %b::text[], %b::bigint[]) AS it (source, job_id, now_ms)
     WHERE expectations.source = it.source AND expectations.job_id = it.job_id
       AND state <> 'known'
"""
_SEEN_AGAIN: Final = """
    UPDATE messages SET duplicates = duplicates + it.times,
           last_seen_ms = greatest(last_seen_ms, it.now_ms)
      FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[]) AS it (id, times, now_ms)
     WHERE messages.id = it.id
"""
_ORDERS: Final = """
    UPDATE messages SET end_order = it.end_order
      FROM unnest(%b::bigint[], %b::text[]) AS it (id, end_order) WHERE messages.id = it.id
"""
_REARM: Final = f"""
    UPDATE messages SET state = 'pending', attempts = 0, due_ms = it.now_ms
      FROM unnest(%b::bigint[], %b::bigint[]) AS it (id, now_ms)
     WHERE messages.id = it.id AND state = 'dead' AND NOT {SUPERSEDED}
"""  # noqa: S608 - constants of ours

Connection = psycopg.Connection[Any]


def receive(connection: Connection, messages: Sequence[Message]) -> tuple[list[Verdict], bool]:
    """Store what is new; the verdicts, and whether there is something to handle now."""
    batch = [incoming(message) for message in messages]
    contents, jobs, names = lookups(batch)
    keys = sorted({lock_key(*key) for key in (*jobs, *names)})
    facts, ids = _load(connection, keys, sorted(contents), sorted(jobs), sorted(names), len(batch))
    plan = decide(batch, facts, iter(ids))
    has_due = _write(connection, plan)
    return plan.verdicts, has_due


def lock_key(source: str, name: str) -> int:
    """Return the number under which everybody holds a job, or a signed id: two that share one by
    chance wait for each other, and no harm is done."""
    hashed = blake2b(f"{source}\0{name}".encode(), digest_size=8, person=b"receiver")
    return int.from_bytes(hashed.digest(), "big", signed=True)


def _load(
    connection: Connection,
    keys: list[int],
    contents: list[Content],
    jobs: list[Job],
    names: list[Name],
    count: int,
) -> tuple[Facts, list[int]]:
    """In one round trip: each statement sees what was committed before it, so what those had done
    who held these jobs before."""
    with connection.pipeline():
        _execute(connection, _HOLD, [keys])
        copies = _execute(connection, _COPIES, _columns(contents, 3))
        ends = _execute(connection, _ENDS, _columns(jobs, 2))
        under = _execute(connection, _UNDER, _columns(names, 2)) if names else None
        ids = _execute(connection, _IDS, [count])
    facts = Facts()
    for source, job_id, hashed, id, message_id, state in copies:
        facts.copies.setdefault((source, job_id, hashed), {}).setdefault(message_id, id)
        if state == "dead":
            facts.dead.add(id)
    for source, job_id, id, job_status, order, via, hashed in ends:
        end = End(status=canonical(job_status), order=order, via=via)
        facts.ends[source, job_id] = StoredEnd(id=id, end=end, sha256=hashed)
    for source, message_id, hashed in under or ():
        facts.bodies_under.setdefault((source, message_id), set()).add(hashed)
    return facts, [id for (id,) in ids]


def _write(connection: Connection, plan: Plan) -> bool:
    rearmed = None
    with connection.pipeline():
        if plan.replaced:
            _execute(connection, _REPLACED, [plan.replaced])
        if plan.new:
            _insert(connection, plan.new)
        if plan.seen_again:
            again = sorted((id, *seen) for id, seen in plan.seen_again.items())
            _execute(connection, _SEEN_AGAIN, _columns(again, 3))
        if plan.orders:
            _execute(connection, _ORDERS, _columns(sorted(plan.orders.items()), 2))
        if plan.rearm:
            rearmed = _execute(connection, _REARM, _columns(sorted(plan.rearm.items()), 2))
    return plan.has_due or (rearmed is not None and rearmed.rowcount > 0)


def _insert(connection: Connection, new: Sequence[New]) -> None:
    _execute(connection, _INSERT, _columns(map(row, new), len(COLUMNS)))
    _execute(connection, _INSERT_BODIES, _columns(((one.id, one.message.body) for one in new), 2))
    ended = [
        (one.message.source, one.message.job_id, one.message.received_ms)
        for one in new
        if one.is_end
    ]
    if ended:
        _execute(connection, _NOW_KNOWN, _columns(ended, 3))


def _columns(rows: Iterable[Sequence[object]], count: int) -> list[list[object]]:
    """Rows as the arrays that `unnest` takes."""
    found = [list(column) for column in zip(*rows, strict=True)]
    return found or [[] for _ in range(count)]


def _execute(
    connection: Connection, sql: str, values: Sequence[object]
) -> psycopg.Cursor[tuple[Any, ...]]:
    return connection.cursor(binary=True).execute(sql.encode(), values)
