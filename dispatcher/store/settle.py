"""Settle, for a whole batch: the attempts, the deliveries' new states, and what the outcomes say
about their lanes, in one commit and only under the current fences (I4)."""

from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Final

from dispatcher.health import Health, after, reached, shrunk
from dispatcher.outcome import Outcome
from dispatcher.policy import attempt_outcome
from dispatcher.states import FINAL, State
from dispatcher.store.destinations import begin_epoch
from dispatcher.store.jobs import events
from dispatcher.store.requests import Settlement
from dispatcher.store.rows import attempt_bytes
from dispatcher.store.tx import Row, Tx, marks

_health_columns: Final = attrgetter(*(field.name for field in fields(Health)))


def settle(tx: Tx, settlements: Sequence[Settlement]) -> list[bool]:
    """Record attempts and their verdicts, each only under its current fence (I4).

    A commit whose reply was lost may have recorded one already; that is no stale claim.
    """
    rows, healths = tx.statements.held(
        tx,
        {item.delivery.id for item in settlements},
        {item.delivery.lane for item in settlements},
    )
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
        counted = _apply_to_health(tx, [item for item, _ in current.values()], healths)
        _record(tx, list(current.values()), counted)
        settled = [item.delivery for item, _ in current.values()]
        last = [(one.id, one.job_id) for one in settled if held[one.id, one.fence]]
        if last:
            events.over(tx, last, at_ms=tx.at(settlements[0].now_ms))
    return results


def _recorded(tx: Tx, stale: Sequence[Settlement]) -> set[Row]:
    """Return the attempts of these deliveries that history holds: one that began at this time, took
    this long and met this is this very one."""
    return set(tx.all(tx.statements.RECORDED, tx.ids(item.delivery.id for item in stale)))


def _record(tx: Tx, settled: Sequence[tuple[Settlement, State]], counted: Collection[str]) -> None:
    sizes = [
        attempt_bytes(item.outcome.error, item.outcome.excerpt, item.outcome.reason)
        for item, _ in settled
    ]
    tx.statements.record(
        tx,
        [
            _settled_row(tx, item, state, size)
            for (item, state), size in zip(settled, sizes, strict=True)
        ],
        [_attempt_row(item) for item, _ in settled],
    )
    turned_away = [
        _turned_away_row(tx, item, counted)
        for item, _ in settled
        if not item.verdict.spent and item.outcome.turned_away
    ]
    if turned_away:
        tx.bulk(tx.statements.SET_TURNED_AWAY, turned_away)
    for (item, state), size in zip(settled, sizes, strict=True):
        delivery = item.delivery
        tx.changes.moved(delivery.tenant, "sending", state)
        tx.changes.bytes[delivery.tenant] += size
        delivered = item.verdict.state == "delivered"
        if item.outcome.kind != "interrupted":
            tx.changes.events[delivery.tenant, "delivered" if delivered else "failed"] += 1
        if state in FINAL:
            tx.changes.events[delivery.tenant, "finished"] += 1
        tx.changes.lanes.add(delivery.lane)


def _settled_row(tx: Tx, item: Settlement, state: State, size: int) -> Row:
    delivery, verdict = item.delivery, item.verdict
    due_ms = verdict.due_ms if state == "pending" else None
    return (
        state,
        due_ms if due_ms is None else tx.at(due_ms),
        delivery.tries + item.verdict.spent,
        delivery.attempt,
        tx.at(item.now_ms) if state in FINAL else None,
        None if verdict.state == "delivered" else item.outcome.error_code,
        size,
        delivery.id,
    )


def _turned_away_row(tx: Tx, item: Settlement, counted: Collection[str]) -> Row:
    delivery = item.delivery
    since_ms = item.now_ms if delivery.turned_away_ms is None else delivery.turned_away_ms
    return (delivery.turned_away + (delivery.id in counted), tx.at(since_ms), delivery.id)


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
        outcome.reason,
    )


def _apply_to_health(tx: Tx, settled: Sequence[Settlement], rows: Sequence[Row]) -> set[str]:
    """Apply what the outcomes say about their lanes: windows, circuits, holds, and 410; and about
    their servers, where those have several lanes. `rows` are what those lanes have now.

    An attempt that began before its destination got another URL, was resumed, disabled, enabled or
    removed says nothing of what it is now. Returns the deliveries that were turned away while
    others of their lanes were answered.
    """
    epochs = {row[0]: row[1] for row in rows}
    concurrency = {row[0]: row[2] for row in rows}
    failures = {row[0]: row[3] for row in rows}
    before = {row[0]: Health(*row[4:-1]) for row in rows}
    errors_before = {row[0]: row[-1] for row in rows}
    now, errors = dict(before), dict(errors_before)
    alone = set()
    of_servers = []
    for item in settled:
        lane = item.delivery.lane
        if epochs.get(lane) != item.delivery.epoch:
            continue
        if item.outcome.turned_away and now[lane].answering:
            alone.add(item.delivery.id)
        seen = _seen_by_lane(tx, item)
        of_server = lane != item.delivery.destination and not seen.connected
        if of_server or failures[lane]:
            of_servers.append((item, seen))
        now[lane] = (
            shrunk(now[lane], seen, failures[lane] + 1)
            if of_server
            else after(
                now[lane],
                seen,
                now_ms=item.now_ms + tx.skew_ms,
                random=item.random,
                concurrency=concurrency[lane],
            )
        )
        errors[lane] = _last_error(item, errors[lane])
        if item.verdict.gone and item.delivery.registered:
            disable(tx, lane, "it answered 410 Gone")
            del epochs[lane]
    changed = [
        (*_health_columns(health), errors[lane], lane)
        for lane, health in now.items()
        if health != before[lane] or errors[lane] != errors_before[lane]
    ]
    if changed:
        tx.bulk(tx.statements.SET_HEALTH, changed)
    if of_servers:
        _apply_to_servers(tx, of_servers)
    return alone


def _last_error(item: Settlement, before: str | None) -> str | None:
    """Return what a lane's last attempt met that was not acknowledged, once this one is known."""
    if item.outcome.kind == "interrupted":
        return before
    return None if item.verdict.state == "delivered" else item.outcome.error_code


def _seen_by_lane(tx: Tx, item: Settlement) -> Outcome:
    """Return the outcome by the database's clock. A lane is held no longer than the delivery that
    was told to wait may live: its last try goes out before that."""
    outcome, due_ms = item.outcome, item.verdict.due_ms
    if tx.skew_ms:
        outcome = replace(outcome, started_ms=tx.at(outcome.started_ms))
    if outcome.retry_after_ms and due_ms is not None:
        left_ms = max(0, due_ms - item.now_ms)
        if left_ms < outcome.retry_after_ms:
            outcome = replace(outcome, retry_after_ms=left_ms)
    return outcome


def _apply_to_servers(tx: Tx, settled: Sequence[tuple[Settlement, Outcome]]) -> None:
    """Count what failed before it reached a path; any attempt that got that far ends the count.
    The servers of what failed are held since the beginning of the transaction. One that is only
    reached is left to its holder: the next attempt reaches it too."""
    ids = sorted({item.delivery.destination for item, _ in settled})
    rows = tx.all(
        "SELECT id, failures, failing_since_ms, openings, held_until_ms FROM destinations "
        f"WHERE id IN ({marks(ids)}) ORDER BY id{tx.skip_locked}",
        *ids,
    )
    before = {row[0]: _server_health(row) for row in rows}
    now = dict(before)
    for item, outcome in settled:
        server = item.delivery.destination
        if server not in now:
            continue
        if outcome.connected:
            now[server] = reached(now[server], outcome)
        else:
            at_ms = item.now_ms + tx.skew_ms
            now[server] = after(
                now[server], outcome, now_ms=at_ms, random=item.random, concurrency=1
            )
    for server, health in now.items():
        if health != before[server]:
            tx.run(
                "UPDATE destinations SET failures = ?, failing_since_ms = ?, openings = ?, "
                "held_until_ms = ? WHERE id = ?",
                health.failures,
                health.failing_since_ms,
                health.openings,
                health.held_until_ms,
                server,
            )


def _server_health(row: Row) -> Health:
    _server, failures, failing_since_ms, openings, held_until_ms = row
    return Health(
        window=1,
        failures=failures,
        failing_since_ms=failing_since_ms,
        openings=openings,
        held_until_ms=held_until_ms,
        held_reason="circuit" if openings else None,
    )


def disable(tx: Tx, destination: str, reason: str) -> None:
    """Take no more for a destination; its backlog is made dead slice by slice."""
    tx.run("UPDATE destinations SET disabled_reason = ? WHERE id = ?", reason, destination)
    tx.run("UPDATE lanes SET doomed = ? WHERE id = ?", reason, destination)
    begin_epoch(tx, destination)
    tx.changes.lanes.add(destination)
