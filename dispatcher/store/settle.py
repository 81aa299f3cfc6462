"""Settle, for a whole batch: the attempts, the deliveries' new states, and what the outcomes say
about their lanes, in one commit and only under the current fences (I4)."""

from collections.abc import Sequence
from dataclasses import astuple, replace

from dispatcher.health import Health, after
from dispatcher.policy import attempt_outcome
from dispatcher.states import FINAL, State
from dispatcher.store.requests import Settlement
from dispatcher.store.tx import Row, Tx


def settle(tx: Tx, settlements: Sequence[Settlement]) -> list[bool]:
    """Record attempts and their verdicts, each only under its current fence (I4).

    A commit whose reply was lost may have recorded one already; that is no stale claim.
    """
    rows = tx.all(tx.statements.HELD, tx.ids(item.delivery.id for item in settlements))
    held = {
        (callback, fence): cancelling for callback, fence, cancelling, sending in rows if sending
    }
    current: dict[str, tuple[Settlement, State]] = {}
    results = []
    for item in settlements:
        claimed = (item.delivery.id, item.delivery.fence)
        fenced = claimed in held and item.delivery.id not in current
        if fenced:
            cancelled = held[claimed] and item.verdict.state != "delivered"
            current[item.delivery.id] = (item, "cancelled" if cancelled else item.verdict.state)
        results.append(fenced)
    stale = [item for item, fenced in zip(settlements, results, strict=True) if not fenced]
    if stale:
        recorded = _recorded(tx, stale)
        results = [
            fenced or _attempt_row(item)[:6] in recorded
            for item, fenced in zip(settlements, results, strict=True)
        ]
    if current:
        _record(tx, list(current.values()))
        _apply_to_health(tx, [item for item, _ in current.values()])
    return results


def _recorded(tx: Tx, stale: Sequence[Settlement]) -> set[Row]:
    """Return the attempts of these deliveries that history holds: one that began at this time, took
    this long and met this is this very one."""
    return set(tx.all(tx.statements.RECORDED, tx.ids(item.delivery.id for item in stale)))


def _record(tx: Tx, settled: Sequence[tuple[Settlement, State]]) -> None:
    tx.statements.record(
        tx,
        [_settled_row(tx, item, state) for item, state in settled],
        [_attempt_row(item) for item, _ in settled],
    )
    for item, state in settled:
        delivery = item.delivery
        tx.changes.moved(delivery.tenant, "sending", state)
        delivered = item.verdict.state == "delivered"
        tx.changes.events[delivery.tenant, "delivered" if delivered else "failed"] += 1
        if state in FINAL:
            tx.changes.events[delivery.tenant, "finished"] += 1
        tx.changes.lanes.add(delivery.destination)


def _settled_row(tx: Tx, item: Settlement, state: State) -> Row:
    delivery, verdict = item.delivery, item.verdict
    due_ms = verdict.due_ms if state == "pending" else None
    return (
        state,
        due_ms if due_ms is None else tx.at(due_ms),
        delivery.tries + 1,
        delivery.attempt,
        tx.at(item.now_ms) if state in FINAL else None,
        None if verdict.state == "delivered" else item.outcome.error_code,
        delivery.id,
    )


def _attempt_row(item: Settlement) -> Row:
    outcome = item.outcome
    return (
        item.delivery.id,
        item.delivery.attempt,
        outcome.started_ms,
        outcome.duration_ms,
        attempt_outcome(outcome, item.delivery.policy),
        outcome.status_code,
        outcome.error,
        outcome.excerpt,
    )


def _apply_to_health(tx: Tx, settled: Sequence[Settlement]) -> None:
    """Apply what the outcomes say about their lanes: windows, circuits, holds, and 410."""
    rows = tx.all(tx.statements.HEALTH, tx.ids({item.delivery.destination for item in settled}))
    concurrency = {row[0]: row[1] for row in rows}
    before = {row[0]: _health(row) for row in rows}
    now = dict(before)
    for item in settled:
        lane = item.delivery.destination
        if lane in now:
            outcome = item.outcome
            if tx.skew_ms:
                outcome = replace(outcome, started_ms=tx.at(outcome.started_ms))
            now[lane] = after(
                now[lane],
                outcome,
                now_ms=item.now_ms + tx.skew_ms,
                random=item.random,
                concurrency=concurrency[lane],
            )
        if item.verdict.gone and item.delivery.registered:
            disable(tx, lane, "it answered 410 Gone")
    changed = [(*astuple(health), lane) for lane, health in now.items() if health != before[lane]]
    if changed:
        tx.bulk(tx.statements.SET_HEALTH, changed)


def _health(row: Row) -> Health:
    _lane, _concurrency, window, failures, failing_since_ms, openings, held_until_ms, reason = row
    return Health(
        window=window,
        failures=failures,
        failing_since_ms=failing_since_ms,
        openings=openings,
        held_until_ms=held_until_ms,
        held_reason=reason,
    )


def disable(tx: Tx, destination: str, reason: str) -> None:
    """Take no more for a destination; its backlog is made dead slice by slice."""
    tx.run("UPDATE destinations SET disabled_reason = ? WHERE id = ?", reason, destination)
    tx.run("UPDATE lanes SET doomed = ? WHERE id = ?", reason, destination)
    tx.changes.lanes.add(destination)
