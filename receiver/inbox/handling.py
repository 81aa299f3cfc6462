"""What came of a message's handling, and handling it again: steps that are each atomic."""

from dataclasses import dataclass
from typing import Final

from receiver.inbox.tx import Row, Tx, storable
from receiver.message import REPLAYABLE, Claimed, State

CRASHED: Final = "the process ended while the handler ran"

# The end of its job was handled already, in another message: this one would undo it.
SUPERSEDED: Final = """
    EXISTS (SELECT 1 FROM messages AS ends
      WHERE ends.job_id = messages.job_id AND ends.source = messages.source AND ends.is_end = 1
        AND ends.id <> messages.id AND ends.state = 'handled')
"""
NEXT_DUE: Final = """
    SELECT min(due_ms) AS due_ms FROM messages WHERE state = 'pending' AND due_ms > :now_ms
"""
_SETTLE: Final = """
    UPDATE messages SET state = :state, due_ms = :due_ms, handled_ms = :handled_ms
     WHERE id = :id AND state = 'running' AND fence = :fence
"""
_FAILED: Final = """
    INSERT INTO failures VALUES (:id, :error)
    ON CONFLICT (id) DO UPDATE SET error = excluded.error
"""
_SKIP_OTHERS: Final = f"""
    UPDATE messages SET state = 'skipped', due_ms = NULL
     WHERE (coalesce(job_id, ''), source)
         = (SELECT coalesce(job_id, ''), source FROM messages AS it WHERE it.id = :id)
       AND state = 'pending' AND {SUPERSEDED}
"""  # noqa: S608 - constants of ours
_HAND_BACK: Final = """
    UPDATE messages SET state = 'pending', attempts = attempts - 1, due_ms = :now_ms
     WHERE id = :id AND state = 'running' AND fence = :fence
"""
_REPLAY: Final = f"""
    UPDATE messages SET state = 'pending', attempts = 0, due_ms = :now_ms
     WHERE id = :id AND state IN ('dead', 'ignored', 'skipped') AND verdict = 'accepted'
       AND body_kept = 1 AND NOT {SUPERSEDED}
"""  # noqa: S608 - constants of ours
_REPLAYABLE: Final = """
    SELECT id FROM messages WHERE state = :state AND id > :above AND verdict = 'accepted'
     ORDER BY id LIMIT :limit
"""
REARM: Final = f"""
    UPDATE messages SET state = 'pending', attempts = 0, due_ms = :received_ms
     WHERE id = :id AND state = 'dead' AND NOT {SUPERSEDED}
"""  # noqa: S608 - constants of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The messages whose turn it is, and when the next one's may come (None: nothing waits)."""

    claimed: list[Claimed]
    next_due_ms: int | None


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


def settle(tx: Tx, settlement: Settlement) -> bool:
    """Write what came of an attempt; False where it was taken away meanwhile. The job's other
    messages that wait are skipped once its end is handled: progress, and an older run's end."""
    handled = settlement.state == "handled"
    changed = tx.run(
        _SETTLE,
        {
            "id": settlement.id,
            "fence": settlement.fence,
            "state": settlement.state,
            "due_ms": settlement.due_ms,
            "handled_ms": settlement.now_ms if handled else None,
        },
    )
    if not changed:
        return False
    if settlement.error is not None:
        tx.run(_FAILED, {"id": settlement.id, "error": storable(settlement.error)})
    if handled:
        tx.run("DELETE FROM failures WHERE id = :id", {"id": settlement.id})
        tx.run(_SKIP_OTHERS, {"id": settlement.id})
    return True


def hand_back(tx: Tx, id: int, fence: int, now_ms: int) -> None:
    """Return an attempt that was cut short by a stop is not spent."""
    tx.run(_HAND_BACK, {"id": id, "fence": fence, "now_ms": now_ms})


def abandoned(row: Row, *, now_ms: int, attempts_max: int) -> Settlement:
    """Return what becomes of a message (its id, fence and attempts) whose process ended: due again,
    or dead where its attempts are used up."""
    dead = row["attempts"] >= attempts_max
    return Settlement(
        id=row["id"],
        fence=row["fence"],
        state="dead" if dead else "pending",
        now_ms=now_ms,
        due_ms=None if dead else now_ms,
        error=CRASHED,
    )


def replay(tx: Tx, id: int, now_ms: int) -> bool:
    """Whether a message could be made due again: dead, ignored or skipped, let in, its body still
    there, and nothing later of its job handled."""
    return tx.run(_REPLAY, {"id": id, "now_ms": now_ms}) > 0


def replay_all(
    tx: Tx, state: State, now_ms: int, *, limit: int, above: int
) -> tuple[int, int | None]:
    """Replays up to `limit` messages of a state with larger ids: (replayed, last id or None)."""
    if state not in REPLAYABLE:
        raise ValueError(f"nothing that is {state} can be replayed")
    found = tx.all(_REPLAYABLE, {"state": state, "above": above, "limit": limit})
    replayed = sum(replay(tx, row["id"], now_ms) for row in found)
    return replayed, found[-1]["id"] if found else None
