"""Settle, for a whole batch: the attempts, the deliveries' new states, and what the outcomes say
about their lanes, in one commit and only under the current claims (I4)."""

from collections.abc import Sequence
from dataclasses import astuple
from typing import Final

from dispatcher.health import Health, after
from dispatcher.policy import attempt_outcome
from dispatcher.states import FINAL, State
from dispatcher.store.requests import Settlement
from dispatcher.store.sqlite.tx import ids
from dispatcher.store.tx import Row, Tx

_SETTLE: Final = """
UPDATE callbacks SET state = ?, due_ms = ?, lease_ms = NULL, tries = ?, attempts = ?,
    finished_ms = ?, last_error = ?, cancelling = 0
WHERE id = ?
"""

_ATTEMPT: Final = """
INSERT INTO attempts (callback, n, started_ms, duration_ms, outcome, status_code, error, excerpt)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""


def settle(tx: Tx, settlements: Sequence[Settlement]) -> list[bool]:
    """Record attempts and their verdicts, each only under its current claim (I4)."""
    wanted = ids(item.delivery.id for item in settlements)
    held = {
        (row[0], row[1]): bool(row[2])
        for row in tx.all(
            "SELECT c.id, c.claim, c.cancelling FROM json_each(?) j "
            "JOIN callbacks c ON c.id = j.value WHERE c.state = 'sending'",
            wanted,
        )
    }
    current: dict[str, tuple[Settlement, State]] = {}
    results = []
    for item in settlements:
        claim = (item.delivery.id, item.delivery.fence)
        fenced = claim in held and item.delivery.id not in current
        if fenced:
            cancelled = held[claim] and item.verdict.state != "delivered"
            current[item.delivery.id] = (item, "cancelled" if cancelled else item.verdict.state)
        results.append(fenced)
    if current:
        _record(tx, list(current.values()))
        _heed(tx, [item for item, _ in current.values()])
    return results


def _record(tx: Tx, settled: Sequence[tuple[Settlement, State]]) -> None:
    tx.many(_SETTLE, [_settled_row(item, state) for item, state in settled])
    tx.many(_ATTEMPT, [_attempt_row(item) for item, _ in settled])
    for item, state in settled:
        delivery = item.delivery
        tx.notes.moved(delivery.tenant, "sending", state)
        delivered = item.verdict.state == "delivered"
        tx.notes.events[delivery.tenant, "delivered" if delivered else "failed"] += 1
        tx.notes.lanes.add(delivery.destination)


def _settled_row(item: Settlement, state: State) -> tuple[object, ...]:
    delivery, verdict = item.delivery, item.verdict
    return (
        state,
        verdict.due_ms if state == "pending" else None,
        delivery.tries + 1,
        delivery.attempt,
        item.now_ms if state in FINAL else None,
        None if verdict.state == "delivered" else item.outcome.error_code,
        delivery.id,
    )


def _attempt_row(item: Settlement) -> tuple[object, ...]:
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


def _heed(tx: Tx, settled: Sequence[Settlement]) -> None:
    """Return what the outcomes say about their lanes: windows, circuits, holds, and 410."""
    rows = tx.all(
        "SELECT id, concurrency, window, failures, failing_since_ms, openings, held_until_ms, "
        "held_reason FROM lanes WHERE id IN (SELECT value FROM json_each(?))",
        ids({item.delivery.destination for item in settled}),
    )
    before = {row[0]: _health(row) for row in rows}
    concurrency = {row[0]: row[1] for row in rows}
    now = dict(before)
    for item in settled:
        lane = item.delivery.destination
        if lane in now:
            now[lane] = after(
                now[lane],
                item.outcome,
                now_ms=item.now_ms,
                random=item.random,
                concurrency=concurrency[lane],
            )
        if item.verdict.gone and item.delivery.registered:
            disable(tx, lane, "it answered 410 Gone")
    changed = [(*astuple(health), lane) for lane, health in now.items() if health != before[lane]]
    if changed:
        tx.many(
            "UPDATE lanes SET window = ?, failures = ?, failing_since_ms = ?, openings = ?, "
            "held_until_ms = ?, held_reason = ? WHERE id = ?",
            changed,
        )


def _health(row: Row) -> Health:
    return Health(
        window=row[2],
        failures=row[3],
        failing_since_ms=row[4],
        openings=row[5],
        held_until_ms=row[6],
        held_reason=row[7],
    )


def disable(tx: Tx, destination: str, reason: str) -> None:
    """Take no more for a destination; its backlog is made dead slice by slice."""
    tx.run("UPDATE destinations SET disabled_reason = ? WHERE id = ?", reason, destination)
    tx.run("UPDATE lanes SET doomed = ? WHERE id = ?", reason, destination)
    tx.notes.lanes.add(destination)
