"""What differs on SQLite: loading and writing a batch in the transaction of the only writing
connection, and claims that hold as long as this process lives.

Measured for completions of 350 bytes in batches of 64: 25 µs each, half of it the six B-trees and
their share of the commit.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Final

from receiver.base.completion import canonical
from receiver.base.db import Row
from receiver.base.db.sqlite import SqliteTx
from receiver.inbox.attempts import CLAIMED, OTHER_RUNS, SUPERSEDED
from receiver.inbox.batch import (
    COLUMNS,
    Copy,
    Facts,
    Incoming,
    Plan,
    StoredEnd,
    needs_registered,
    row,
)
from receiver.inbox.dedupe import End
from receiver.inbox.wanted import REGISTERED, Wanted

_NEXT_ID: Final = "SELECT coalesce(max(id), 0) + 1 FROM messages"
# The copies of a message within its job, and the job's end: one statement takes 2 µs less than two.
_KNOWN: Final = """
    SELECT 0 AS is_end, id, run, state, coalesce(message_id, '') AS name, NULL AS end_order,
           NULL AS via, NULL AS sha256
      FROM messages WHERE coalesce(job_id, '') = ?1 AND source = ?2 AND body_sha256 = ?3
     UNION ALL
    SELECT 1, id, run, state, job_status, end_order, via, body_sha256
      FROM messages WHERE job_id = ?1 AND source = ?2 AND is_end = 1
"""
_UNDER: Final = """
    SELECT body_sha256 FROM messages WHERE message_id = ? AND source = ? AND kind <> 'terminal'
"""
_REPLACED: Final = "UPDATE messages SET is_end = 0 WHERE id = ?"
_INSERT: Final = f"""
    INSERT INTO messages ({", ".join(COLUMNS)}, last_seen_ms)
    VALUES ({", ".join("?" * len(COLUMNS))}, ?{COLUMNS.index("received_ms") + 1})
"""  # noqa: S608 - constants of ours
_INSERT_SEALED: Final = f"""
    INSERT INTO messages ({", ".join(COLUMNS)}, kid, last_seen_ms)
    VALUES ({", ".join("?" * (len(COLUMNS) + 1))}, ?{COLUMNS.index("received_ms") + 1})
"""  # noqa: S608 - constants of ours
_INSERT_BODY: Final = "INSERT INTO bodies VALUES (?, ?)"
_SEEN_AGAIN: Final = """
    UPDATE messages SET duplicates = duplicates + ?, last_seen_ms = max(last_seen_ms, ?)
     WHERE id = ?
"""
_ORDER: Final = "UPDATE messages SET end_order = ? WHERE id = ?"
_REARM: Final = f"""
    UPDATE messages SET state = 'pending', attempts = 0, due_ms = ?, canonical = ?
     WHERE id = ? AND state = 'dead' AND NOT {SUPERSEDED}
"""  # noqa: S608 - constants of ours
_START: Final = """
    UPDATE messages SET state = 'running', attempts = attempts + 1, fence = fence + 1,
           due_ms = NULL
     WHERE id = ?
"""
_CLAIMED: Final = f"SELECT {CLAIMED} FROM messages JOIN bodies USING (id) WHERE id = ?"  # noqa: S608 - constants of ours
_DUE: Final = f"""
    SELECT id, source, job_id, canonical, due_ms FROM messages
     WHERE state = 'pending' AND due_ms <= ?{{of}} AND NOT {OTHER_RUNS}
     ORDER BY due_ms, id LIMIT ?
"""  # noqa: S608 - constants of ours
_DUE_OF_ALL: Final = _DUE.format(of="")
_DUE_OF: Final = _DUE.format(of=" AND source = ? AND canonical = ?")
_NEXT_DUE: Final = """
    SELECT (SELECT min(due_ms) FROM messages WHERE state = 'pending' AND due_ms > ?),
           (SELECT max(due_ms) FROM messages WHERE state = 'pending')
"""
_BRING_FORWARD: Final = "UPDATE messages SET due_ms = ? WHERE state = 'pending' AND due_ms > ?"
_NOW_KNOWN: Final = """
    UPDATE expectations SET state = 'known', settled_ms = ?, ask_ms = NULL
     WHERE source = ? AND job_id = ? AND state <> 'known'
"""


def load(tx: SqliteTx, batch: Sequence[Incoming]) -> tuple[Facts, Iterator[int]]:
    """Return what bears on a batch, and the ids that its new messages may take."""
    ((first,),) = tx.all(_NEXT_ID)
    facts = Facts(registered=tx.all(REGISTERED) if needs_registered(batch) else ())
    for one in batch:
        if one.content not in facts.copies:
            _load_known(tx, one, facts)
        if one.name is not None and one.name not in facts.bodies_under:
            source, message_id = one.name
            rows = tx.all(_UNDER, message_id, source)
            facts.bodies_under[one.name] = {hashed for (hashed,) in rows}
    return facts, itertools.count(first)


def _load_known(tx: SqliteTx, one: Incoming, facts: Facts) -> None:
    source, job_id, hashed = one.content
    copies: dict[str, Copy] = {}
    facts.copies[one.content] = copies
    if one.forms is None:
        rows = tx.all(_KNOWN, job_id, source, hashed)
    else:
        rows = tx.all(_known_in(len(one.forms)), job_id, source, *one.forms)
    if len(rows) > 1:
        rows.sort(key=_by_id)  # of several copies the first counts
    for is_end, id, run, state, name, order, via, end_hashed in rows:
        if state == "dead":
            facts.dead.add(id)
        if is_end:
            end = End(status=canonical(name), order=order, via=via, run=run)
            facts.ends[one.job] = StoredEnd(id=id, end=end, sha256=end_hashed)
        else:
            copies[name] = (id, run)


@cache
def _known_in(count: int) -> str:
    """Return `_KNOWN` for bytes that may be stored under so many hashes."""
    places = ", ".join(f"?{place}" for place in range(3, 3 + count))
    return _KNOWN.replace("body_sha256 = ?3", f"body_sha256 IN ({places})")


def _by_id(row: Row) -> int:
    return int(row[1])


def write(tx: SqliteTx, plan: Plan) -> bool:
    """Write a plan; whether there is something to handle now."""
    if plan.replaced:
        tx.many(_REPLACED, [(id,) for id in plan.replaced])
    if plan.new:
        if plan.kid is None:
            tx.many(_INSERT, map(row, plan.new))
            tx.many(_INSERT_BODY, [(new.id, new.message.body) for new in plan.new])
        else:
            tx.many(_INSERT_SEALED, [(*row(new), plan.kid) for new in plan.new])
            tx.many(_INSERT_BODY, [(new.id, new.sealed) for new in plan.new])
        tx.many(
            _NOW_KNOWN,
            [
                (new.message.received_ms, new.message.source, new.message.job_id)
                for new in plan.new
                if new.is_end
            ],
        )
    if plan.known:
        tx.many(_NOW_KNOWN, [(now_ms, *job) for job, now_ms in plan.known.items()])
    if plan.seen_again:
        again = [(count, last_ms, id) for id, (count, last_ms) in plan.seen_again.items()]
        tx.many(_SEEN_AGAIN, again)
    if plan.orders:
        tx.many(_ORDER, [(order, id) for id, order in plan.orders.items()])
    rearmed = [tx.run(_REARM, *now, id) for id, now in plan.rearm.items()]
    return plan.has_due or any(rearmed)


def touch(tx: SqliteTx) -> None:
    """Write something: a full disk or a lock would not show in less."""
    ((version,),) = tx.all("PRAGMA user_version")
    tx.run(f"PRAGMA user_version = {version:d}")


def due(tx: SqliteTx, wanted: Wanted | None, now_ms: int, limit: int) -> list[Row]:
    """Return (id, source, job id) of what is due and wanted here, the earliest first. Mostly that
    is all that is due; where it is not, each status is looked for by itself, however much of what
    is not wanted waits beside it."""
    rows = tx.all(_DUE_OF_ALL, now_ms, limit)
    if wanted is not None and any((row[1], row[3]) not in wanted for row in rows):
        of_each = (tx.all(_DUE_OF, now_ms, *what, limit) for what in wanted)
        rows = sorted(chain.from_iterable(of_each), key=lambda row: (row[4], row[0]))[:limit]
    return [row[:3] for row in rows]


def next_due(tx: SqliteTx, wanted: Wanted | None, now_ms: int) -> tuple[int | None, int | None]:
    """Return when the next one is due, and the last one."""
    ((next_ms, last_ms),) = tx.all(_NEXT_DUE, now_ms)
    return next_ms, last_ms


def bring_forward(tx: SqliteTx, wanted: Wanted | None, now_ms: int, far_ms: int) -> None:
    """Make due now what is due later than `far_ms`."""
    tx.run(_BRING_FORWARD, now_ms, far_ms)


def clock_ms(tx: SqliteTx) -> int | None:
    """Differs: there is no clock but this process's."""
    return None


def hold(tx: SqliteTx, job: tuple[str, str]) -> bool:
    """Differs: nobody else is there."""
    return True


def lock(tx: SqliteTx, job: tuple[str, str]) -> None:
    """Differs: nobody else is there."""


def others(tx: SqliteTx, *, plain: bool) -> int:
    """Differs: nobody else is there."""
    return 0


def has_begun(tx: SqliteTx) -> bool:
    """Whether some process has begun to seal: it does so as soon as it has a key."""
    return tx.one("SELECT 1 FROM seals LIMIT 1") is not None


def begin_sealing(tx: SqliteTx) -> None:
    """Differs: a version of before does not open this schema at all."""


def start(tx: SqliteTx, id: int, lease_ms: int) -> Row | None:
    """Mark a message as running; its CLAIMED."""
    tx.run(_START, id)
    return tx.one(_CLAIMED, id)


def renew(tx: SqliteTx, id: int, fence: int, lease_ms: int) -> bool:
    """Differs: what this process holds is its own until it ends."""
    return True


def running(tx: SqliteTx) -> Sequence[Row]:
    """Return (id, fence, attempts, mark of its lease) of all that runs."""
    return tx.all("SELECT id, fence, attempts, 0 FROM messages WHERE state = 'running'")


def take_back(tx: SqliteTx, id: int, fence: int, mark: int) -> bool:
    """Differs: what is left by this file's last process is ours."""
    return True
