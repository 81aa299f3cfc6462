"""Settle, for a whole batch: the attempts, the deliveries' new states, and what the outcomes say
about their lanes, in one commit and only under the current claims (I4)."""

from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Final

from dispatcher.health import Health, after
from dispatcher.policy import attempt_outcome
from dispatcher.states import FINAL, State
from dispatcher.store.postgres.tx import PostgresTx, ids, text
from dispatcher.store.requests import Settlement
from dispatcher.store.tx import Row

# Differs: the state is looked at here and not there, so that no plan can go by a partial index.
HELD: Final = """
SELECT id, claim, cancelling, state FROM callbacks WHERE id = ANY(?::text[])
"""

# Differs: arrays, one a column, and not a statement a row; both tables in one round trip.
SETTLE: Final = """
WITH settled AS (
UPDATE callbacks c SET state = u.state, due_ms = u.due_ms, lease_ms = NULL, tries = u.tries,
    attempts = u.attempts, finished_ms = u.finished_ms, last_error = u.last_error, cancelling = 0
FROM unnest(?::text[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::text[], ?::text[])
    u(state, due_ms, tries, attempts, finished_ms, last_error, id)
WHERE c.id = u.id
)
INSERT INTO attempts (callback, n, started_ms, duration_ms, outcome, status_code, error, excerpt)
SELECT * FROM unnest(?::text[], ?::bigint[], ?::bigint[], ?::float8[], ?::text[], ?::bigint[],
                     ?::text[], ?::text[])
"""

HEED: Final = """
UPDATE lanes l SET "window" = u.size, failures = u.failures,
    failing_since_ms = u.failing_since_ms, openings = u.openings, held_until_ms = u.held_until_ms,
    held_reason = u.held_reason
FROM unnest(?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[], ?::text[], ?::text[])
    u(size, failures, failing_since_ms, openings, held_until_ms, held_reason, id)
WHERE l.id = u.id
"""


def settle(tx: PostgresTx, settlements: Sequence[Settlement]) -> list[bool]:
    """Record attempts and their verdicts, each only under its current claim (I4).

    Differs: a commit whose answer was lost may have recorded one already; that is no stale claim.
    """
    wanted = ids(item.delivery.id for item in settlements)
    held = {(row[0], row[1]): bool(row[2]) for row in tx.all(HELD, wanted) if row[3] == "sending"}
    current: dict[str, tuple[Settlement, State]] = {}
    results = []
    for item in settlements:
        claim = (item.delivery.id, item.delivery.fence)
        fenced = claim in held and item.delivery.id not in current
        if fenced:
            cancelled = held[claim] and item.verdict.state != "delivered"
            current[item.delivery.id] = (item, "cancelled" if cancelled else item.verdict.state)
        results.append(fenced)
    stale = [item for item, fenced in zip(settlements, results, strict=True) if not fenced]
    if stale:
        recorded = _recorded(tx, stale)
        results = [
            fenced or _trace(item) in recorded
            for item, fenced in zip(settlements, results, strict=True)
        ]
    if current:
        _record(tx, list(current.values()))
        _heed(tx, [item for item, _ in current.values()])
    return results


def _recorded(tx: PostgresTx, stale: Sequence[Settlement]) -> set[tuple[object, ...]]:
    """Return the attempts of these deliveries that history holds: one that began at this time, took
    this long and met this is this very one."""
    rows = tx.all(
        "SELECT callback, n, started_ms, duration_ms, outcome, status_code FROM attempts "
        "WHERE callback = ANY(?::text[])",
        ids(item.delivery.id for item in stale),
    )
    return set(rows)


def _trace(item: Settlement) -> tuple[object, ...]:
    return _attempt_row(item)[:6]


def _record(tx: PostgresTx, settled: Sequence[tuple[Settlement, State]]) -> None:
    tx.run(
        SETTLE,
        *columns([_settled_row(tx, item, state) for item, state in settled]),
        *columns([_attempt_row(item) for item, _ in settled]),
    )
    for item, state in settled:
        delivery = item.delivery
        tx.notes.moved(delivery.tenant, "sending", state)
        delivered = item.verdict.state == "delivered"
        tx.notes.events[delivery.tenant, "delivered" if delivered else "failed"] += 1
        tx.notes.lanes.add(delivery.destination)


def columns(rows: Sequence[tuple[object, ...]]) -> list[list[object]]:
    """Rows as the arrays that `unnest` takes."""
    return [list(column) for column in zip(*rows, strict=True)]


def _settled_row(tx: PostgresTx, item: Settlement, state: State) -> tuple[object, ...]:
    delivery, verdict = item.delivery, item.verdict
    due_ms = verdict.due_ms if state == "pending" else None
    return (
        state,
        None if due_ms is None else tx.at(due_ms),
        delivery.tries + 1,
        delivery.attempt,
        tx.at(item.now_ms) if state in FINAL else None,
        None if verdict.state == "delivered" else text(item.outcome.error_code),
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
        text(outcome.error),
        text(outcome.excerpt),
    )


def _heed(tx: PostgresTx, settled: Sequence[Settlement]) -> None:
    """Return what the outcomes say about their lanes: windows, circuits, holds, and 410."""
    rows = tx.all(
        'SELECT id, concurrency, "window", failures, failing_since_ms, openings, held_until_ms, '
        "held_reason FROM lanes WHERE id = ANY(?::text[])",
        ids(item.delivery.destination for item in settled),
    )
    before = {row[0]: _health(row) for row in rows}
    concurrency = {row[0]: row[1] for row in rows}
    now = dict(before)
    for item in settled:
        lane = item.delivery.destination
        if lane in now:
            now[lane] = after(
                now[lane],
                replace(item.outcome, started_ms=tx.at(item.outcome.started_ms)),
                now_ms=tx.at(item.now_ms),
                random=item.random,
                concurrency=concurrency[lane],
            )
        if item.verdict.gone and item.delivery.registered:
            disable(tx, lane, "it answered 410 Gone")
    changed = [(*astuple(health), lane) for lane, health in now.items() if health != before[lane]]
    if changed:
        tx.run(HEED, *columns(changed))


def _health(row: Row) -> Health:
    return Health(
        window=row[2],
        failures=row[3],
        failing_since_ms=row[4],
        openings=row[5],
        held_until_ms=row[6],
        held_reason=row[7],
    )


def disable(tx: PostgresTx, destination: str, reason: str) -> None:
    """Take no more for a destination; its backlog is made dead slice by slice."""
    tx.run("UPDATE destinations SET disabled_reason = ? WHERE id = ?", reason, destination)
    tx.run("UPDATE lanes SET doomed = ? WHERE id = ?", reason, destination)
    tx.notes.lanes.add(destination)
