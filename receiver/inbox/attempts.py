"""The attempts to handle a message: claimed, held, settled, taken back, replayed. Each step is
atomic; what differs between the dialects is in their `statements`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Protocol

from receiver.base.completion import canonical
from receiver.base.db import Row, Tx
from receiver.base.keyring import SealedError
from receiver.inbox.message import REPLAYABLE, Claimed, State, from_row, names, storable
from receiver.inbox.seals import Seals, body_stored, text_to_store
from receiver.inbox.wanted import Wanted

CRASHED: Final = "the process ended while the handler ran"

# While its statistics know of no rows yet, PostgreSQL takes any index for as good as a key.
# `LIMIT 1 OFFSET 0` keeps it from making a join of what is a look-up, `state || ''` from reading
# all that wait to find one job's.

# The end of its job, of its run or a higher one, was handled already, in another message: this
# one would undo it. What is opaque undoes nothing.
SUPERSEDED: Final = """
    EXISTS (SELECT 1 FROM messages AS ends
      WHERE ends.job_id = messages.job_id AND ends.source = messages.source AND ends.is_end = 1
        AND ends.id <> messages.id AND ends.state = 'handled' AND messages.kind <> 'opaque'
        AND coalesce(ends.run, 1) >= coalesce(messages.run, 1) LIMIT 1 OFFSET 0)
"""
OTHER_RUNS: Final = """
    EXISTS (SELECT 1 FROM messages AS others
      WHERE others.state = 'running' AND others.job_id = messages.job_id
        AND others.source = messages.source LIMIT 1 OFFSET 0)
"""
# What a handler needs of a message, as a claim selects it.
CLAIMED: Final = ", ".join({"attempt": "attempts"}.get(name, name) for name in names(Claimed))
_SETTLE: Final = """
    UPDATE messages SET state = ?, due_ms = ?, handled_ms = ?
     WHERE id = ? AND state = 'running' AND fence = ?
"""
_FAILED: Final = """
    INSERT INTO failures VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET error = excluded.error
"""
_SKIP_OTHERS: Final = f"""
    UPDATE messages SET state = 'skipped', due_ms = NULL
     WHERE (coalesce(job_id, ''), source)
         = (SELECT coalesce(job_id, ''), source FROM messages AS it WHERE it.id = ?)
       AND state || '' = 'pending' AND {SUPERSEDED}
"""  # noqa: S608 - constants of ours
_HAND_BACK: Final = """
    UPDATE messages SET state = 'pending', attempts = attempts - 1, due_ms = ?, canonical = ?
     WHERE id = ? AND state = 'running' AND fence = ?
"""
_REPLAY: Final = f"""
    UPDATE messages SET state = 'pending', attempts = 0, due_ms = ?, canonical = ?
     WHERE id = ? AND state IN ('dead', 'ignored', 'skipped') AND verdict = 'accepted'
       AND body_kept = 1 AND NOT {SUPERSEDED}
"""  # noqa: S608 - constants of ours
# What no key opens waits without a time: it is due once somebody comes who has its key.
_WAKE: Final = """
    UPDATE messages SET due_ms = ? WHERE state = 'pending' AND due_ms IS NULL AND kid IN ({kids})
"""
_SOURCE: Final = "SELECT source FROM messages WHERE id = ?"
_SORT: Final = "UPDATE messages SET canonical = ? WHERE id = ?"
_STATUS: Final = "SELECT job_status FROM messages WHERE id = ?"
_REPLAYABLE: Final = """
    SELECT id, source, job_status, job_id, received_ms, body_kept FROM messages
     WHERE state = ? AND id > ? AND verdict = 'accepted'
     ORDER BY id LIMIT ?
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Which messages of a state to replay: of a source, of a canonical status, of a job, received
    from `since_ms` on and before `until_ms`; each only where it is given."""

    source: str | None = None
    status: str | None = None
    job_id: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def takes(
        self, source: str, job_status: str | None, job_id: str | None, received_ms: int
    ) -> bool:
        """Whether it is about a message with these."""
        return (
            self.source in (None, source)
            and self.status in (None, canonical(job_status))
            and self.job_id in (None, job_id)
            and (self.since_ms is None or received_ms >= self.since_ms)
            and (self.until_ms is None or received_ms < self.until_ms)
        )


EVERY: Final = Which()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedBatch:
    """The messages whose turn it is, and when the next one's may come (None: nothing waits).
    `unread` says of those that no key opens why: they wait until one does."""

    claimed: list[Claimed]
    next_due_ms: int | None
    unread: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What one attempt ended as: handled, dead, or pending again from `due_ms` on. Where its
    `fence` is no longer the message's, the attempt was taken away, and it changes nothing."""

    id: int
    fence: int
    state: State
    now_ms: int
    due_ms: int | None = None
    error: str | None = None


class Running(NamedTuple):
    """A message that runs, and the mark that each renewal of its lease changes."""

    id: int
    fence: int
    attempts: int
    mark: int


class Claims(Protocol):
    """What the attempts need of the database, in its dialect."""

    def hold(self, tx: Any, job: tuple[str, str]) -> bool:
        """Whether nobody else receives or claims a message of this (source, job id) just now."""

    def start(self, tx: Any, id: int, lease_ms: int) -> Row | None:
        """Mark a message as running; its CLAIMED, or None where it could not be started."""

    def renew(self, tx: Any, id: int, fence: int, lease_ms: int) -> bool:
        """Hold a message for another lease, if it is still held under this fence."""

    def due(self, tx: Any, wanted: Wanted | None, now_ms: int, limit: int) -> Sequence[Row]:
        """Return (id, source, job id) of what is due and wanted here (None: all of it)."""

    def next_due(
        self, tx: Any, wanted: Wanted | None, now_ms: int
    ) -> tuple[int | None, int | None]:
        """Return when the next one is due, and the last one."""

    def bring_forward(self, tx: Any, wanted: Wanted | None, now_ms: int, far_ms: int) -> None:
        """Make due now what is due later than `far_ms`, of what is wanted here."""

    def running(self, tx: Any) -> Sequence[Row]:
        """Return (id, fence, attempts, mark of its lease) of all that runs."""

    def take_back(self, tx: Any, id: int, fence: int, mark: int) -> bool:
        """Whether a message still runs under this fence and mark, and is ours to settle."""


def claim(
    claims: Claims,
    tx: Tx,
    *,
    wanted: Wanted | None,
    now_ms: int,
    limit: int,
    lease_ms: int,
    wait_max_ms: int | None,
    seals: Seals | None = None,
) -> ClaimedBatch:
    """Take up to `limit` due messages that are wanted here, in order of time, never two of one job
    at once. None waits longer than `wait_max_ms` from now: it was put off by a clock that ran
    ahead, and is due."""
    jobs: set[tuple[str, str]] = set()
    claimed = []
    unread: list[str] = []
    for id, source, job_id in claims.due(tx, wanted, now_ms, limit):
        if job_id is not None:
            job = (source, job_id)
            if job in jobs or not claims.hold(tx, job):
                continue
            jobs.add(job)
        row = claims.start(tx, id, lease_ms)
        if row is not None:
            one = from_row(Claimed, row)
            if one.kid is None:
                claimed.append(one)
            else:
                claimed += _opened(tx, one, one.kid, seals, unread)
    next_ms, last_ms = claims.next_due(tx, wanted, now_ms)
    if wait_max_ms is not None and last_ms is not None and last_ms > now_ms + wait_max_ms:
        claims.bring_forward(tx, wanted, now_ms, now_ms + wait_max_ms)
        next_ms = now_ms
    return ClaimedBatch(claimed=claimed, next_due_ms=next_ms, unread=unread)


def _opened(
    tx: Tx, claimed: Claimed, kid: str, seals: Seals | None, unread: list[str]
) -> tuple[Claimed, ...]:
    """Return it with its body opened. Where no key opens it, nothing was attempted: it is handed
    back without a time, and nobody meets it again until somebody comes who has the key."""
    try:
        body = body_stored(seals, kid, claimed.body, claimed.id, claimed.source)
    except SealedError as error:
        unread.append(str(error))
        hand_back(tx, claimed.id, claimed.fence, None, canonical(claimed.job_status))
        return ()
    return (replace(claimed, body=body),)


def wake(tx: Tx, seals: Seals, now_ms: int) -> int:
    """Make due what waits for a key that we have; how many."""
    kids = sorted(seals.kids)
    return tx.run(_WAKE.format(kids=", ".join("?" * len(kids))), now_ms, *kids)


def renew(claims: Claims, tx: Tx, running: Sequence[tuple[int, int]], *, lease_ms: int) -> set[int]:
    """Hold these (id, fence) for another lease; the ids whose fence that still is."""
    return {id for id, fence in running if claims.renew(tx, id, fence, lease_ms)}


def running(claims: Claims, tx: Tx) -> list[Running]:
    """Return all that runs, wherever."""
    return [Running(*row) for row in claims.running(tx)]


def recover(
    claims: Claims,
    tx: Tx,
    left: Sequence[Running],
    *,
    now_ms: int,
    attempts_max: int,
    seals: Seals | None = None,
) -> int:
    """Make due again, or dead where its attempts are used up, what ended processes left running;
    how many that were."""
    count = 0
    for one in left:
        if not claims.take_back(tx, one.id, one.fence, one.mark):
            continue
        dead = one.attempts >= attempts_max
        settlement = Settlement(
            id=one.id,
            fence=one.fence,
            state="dead" if dead else "pending",
            now_ms=now_ms,
            due_ms=None if dead else now_ms,
            error=CRASHED,
        )
        count += settle(tx, settlement, seals)
        for (job_status,) in tx.all(_STATUS, one.id):  # an earlier version may have stored it
            tx.run(_SORT, canonical(job_status), one.id)
    return count


def settle(tx: Tx, settlement: Settlement, seals: Seals | None = None) -> bool:
    """Write what came of an attempt; False where it was taken away meanwhile. The job's other
    messages that wait are skipped once its end is handled: progress, and an older run's end."""
    id, handled = settlement.id, settlement.state == "handled"
    handled_ms = settlement.now_ms if handled else None
    if not tx.run(_SETTLE, settlement.state, settlement.due_ms, handled_ms, id, settlement.fence):
        return False
    if settlement.error is not None:
        tx.run(_FAILED, id, _error_to_store(tx, id, storable(settlement.error), seals))
    if handled:
        tx.run("DELETE FROM failures WHERE id = ?", id)
        tx.run(_SKIP_OTHERS, id)
    return True


def _error_to_store(tx: Tx, id: int, error: str, seals: Seals | None) -> str:
    """Return what an attempt met, which may quote the body, as it is stored."""
    source = ""
    if seals is not None:
        ((source,),) = tx.all(_SOURCE, id)
    return text_to_store(seals, error, "failures", "error", str(id), source)


def hand_back(tx: Tx, id: int, fence: int, now_ms: int | None, status: str) -> None:
    """Make a message due again (None: once somebody has its key) whose attempt was cut short by a
    stop: it is not spent. `status` is its canonical one."""
    tx.run(_HAND_BACK, now_ms, status, id, fence)


def replay(tx: Tx, id: int, now_ms: int) -> bool:
    """Whether a message could be made due again: dead, ignored or skipped, let in, its body still
    there, and nothing later of its job handled."""
    row = tx.one(_STATUS, id)
    return row is not None and tx.run(_REPLAY, now_ms, canonical(row[0]), id) > 0


def replay_all(
    tx: Tx,
    state: State,
    now_ms: int,
    *,
    limit: int,
    above: int,
    which: Which = EVERY,
) -> tuple[int, int | None]:
    """Replay up to `limit` messages of a state with larger ids, `which` of them: (replayed, last id
    or None)."""
    chosen, last = _chosen(tx, state, limit, above, which)
    due = [(now_ms, canonical(job_status), id) for id, job_status in chosen]
    return tx.many(_REPLAY, due) if due else 0, last


def replayable(
    tx: Tx, state: State, *, limit: int, above: int, which: Which = EVERY
) -> tuple[list[int], int | None]:
    """Look at up to `limit` messages of a state with larger ids: (those that would be replayed,
    last id or None)."""
    chosen, last = _chosen(tx, state, limit, above, which)
    return [id for id, _ in chosen], last


def _chosen(
    tx: Tx, state: State, limit: int, above: int, which: Which
) -> tuple[list[tuple[int, str]], int | None]:
    if state not in REPLAYABLE:
        raise ValueError(f"nothing that is {state} can be replayed")
    rows = tx.all(_REPLAYABLE, state, above, limit)
    chosen = [(row[0], row[2]) for row in rows if row[5] and which.takes(*row[1:5])]
    return chosen, rows[-1][0] if rows else None
