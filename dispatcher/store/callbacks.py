"""Callbacks one by one, their figures, and what operators do to single ones: replay, cancel."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher import policy as policies
from dispatcher.ids import destination_of, made_ms, server_of
from dispatcher.states import FINAL, State
from dispatcher.store import rows
from dispatcher.store.errors import Conflict, DestinationDisabled, NotFound, PayloadGone
from dispatcher.store.lanes import clear_circuit, lane_now
from dispatcher.store.tx import JOB_COUNT, OUTPUTS_COUNT, Tx, marks
from dispatcher.values import REPLAY, Attempt, Callback, Payload

_OLDEST: Final = """
SELECT created_ms FROM callbacks WHERE tenant = ? AND state = 'pending' ORDER BY id LIMIT 1
"""
# One step from tenant to tenant, and one look for each: both at the beginning of an index's range.
_OLDEST_OF_ALL: Final = """
WITH RECURSIVE waiting(tenant) AS (
    SELECT (SELECT c.tenant FROM callbacks c WHERE c.state = 'pending' AND c.tenant > ''
            ORDER BY c.tenant LIMIT 1)
    UNION ALL
    SELECT (SELECT c.tenant FROM callbacks c WHERE c.state = 'pending' AND c.tenant > w.tenant
            ORDER BY c.tenant LIMIT 1)
    FROM waiting w WHERE w.tenant IS NOT NULL
)
SELECT min((SELECT c.id FROM callbacks c WHERE c.state = 'pending' AND c.tenant = w.tenant
            ORDER BY c.id LIMIT 1))
FROM waiting w WHERE w.tenant IS NOT NULL
"""
# Ends what waits still when it is written, whatever an earlier look said. The state is hidden from
# planners: on PostgreSQL a plan that was made on an empty table would find a row by walking the
# index of all that wait.
_FINISH: Final = """
UPDATE callbacks SET state = ?, due_ms = NULL, finished_ms = ?, last_error = coalesce(?, last_error)
WHERE id IN ({ids}) AND state || '' = 'pending' RETURNING tenant, destination
"""
_MAKE_PENDING: Final = """
UPDATE callbacks SET state = 'pending', class = coalesce(?, priority), due_ms = ?, expires_ms = ?,
    tries = 0, turned_away = 0, turned_away_ms = NULL, cancelling = 0, finished_ms = NULL,
    destination = ?, replay = ?
WHERE id = ? AND state || '' = ? AND pruned = 0
"""
# Never before the time that was asked for.
_HURRY: Final = """
UPDATE callbacks SET due_ms = CASE WHEN due_ms < ? THEN due_ms ELSE ? END, replay = ?
WHERE id = ? AND state || '' = 'pending' AND coalesce(not_before_ms, 0) <= ?
"""
_CANCEL_SENDING: Final = """
UPDATE callbacks SET cancelling = 1 WHERE id = ? AND state || '' = 'sending' RETURNING lease_ms
"""
# How often an operator's change is decided anew where another process was quicker.
_DECIDED_MAX: Final = 3


def get(tx: Tx, tenant: str, callback: str) -> Callback:
    """Raise NotFound, for another tenant's just the same."""
    row = tx.one(
        f"{rows.CALLBACK} FROM callbacks c {rows.JOIN_DESTINATION} WHERE c.id = ? AND c.tenant = ?",
        callback,
        tenant,
    )
    if row is None:
        raise NotFound(f"there is no callback {callback}")
    return rows.callbacks(tx, [row])[0]


def attempts(tx: Tx, tenant: str, callback: str, *, after: int, limit: int) -> list[Attempt]:
    """Oldest first, those after number `after`. Raises NotFound."""
    get(tx, tenant, callback)
    sql = f"{rows.ATTEMPT} WHERE callback = ? AND n > ? ORDER BY n LIMIT ?"
    return [rows.attempt(row) for row in tx.all(sql, callback, after, limit)]


def payload(tx: Tx, tenant: str, callback: str) -> Payload:
    """Raise NotFound, PayloadGone, CannotUnseal."""
    sha256 = get(tx, tenant, callback).payload_sha256
    row = tx.one("SELECT body, content_type, kid FROM payloads WHERE callback = ?", callback)
    if row is None:
        raise PayloadGone(f"the payload of {callback} is past its retention")
    body = rows.open_body(tx, row[2], row[0], callback, tenant)
    return Payload(body=body, content_type=row[1], sha256=sha256)


def oldest_pending_ms(tx: Tx, tenant: str | None) -> int | None:
    """Return when the oldest delivery that waits was accepted, of one tenant or of all: then one
    look per tenant for whom something waits now, in one statement."""
    if tenant is not None:
        row = tx.one(_OLDEST, tenant)
        return None if row is None else int(row[0])
    row = tx.one(_OLDEST_OF_ALL)
    return None if row is None or row[0] is None else made_ms(row[0])


def counts_of(tx: Tx, tenant: str | None) -> dict[State, int]:
    """Return how many callbacks are in each state, of one tenant or of all."""
    total = "SELECT state, CAST(sum(n) AS bigint) FROM counts"
    if tenant is None:
        return dict(tx.all(f"{total} GROUP BY state"))
    return dict(tx.all(f"{total} WHERE tenant = ? GROUP BY state", tenant))


@dataclass(frozen=True, slots=True)
class Totals:
    """How many callbacks of each tenant are in each state, what those and its jobs take up, and
    what outputs do of that."""

    counts: Mapping[tuple[str, State], int]
    bytes: Mapping[str, int]
    outputs: Mapping[str, int]


def totals(tx: Tx) -> Totals:
    """Return what there is of all tenants."""
    counts: dict[tuple[str, State], int] = {}
    sizes: Counter[str] = Counter()
    outputs: Counter[str] = Counter()
    for tenant, state, n, size in tx.all(
        "SELECT tenant, state, CAST(sum(n) AS bigint), CAST(sum(bytes) AS bigint) "
        "FROM counts GROUP BY tenant, state"
    ):
        if state == OUTPUTS_COUNT:
            outputs[tenant] = n
        elif not state.startswith(JOB_COUNT):
            counts[tenant, state] = n
        sizes[tenant] += size
    return Totals(counts, sizes, outputs)


def counts(tx: Tx) -> dict[tuple[str, State], int]:
    """Return how many callbacks of each tenant are in each state."""
    counted = tx.all(
        "SELECT tenant, state, CAST(sum(n) AS bigint) FROM counts GROUP BY tenant, state"
    )
    return {(tenant, state): n for tenant, state, n in counted if _is_state(state)}


def _is_state(state: str) -> bool:
    return state != OUTPUTS_COUNT and not state.startswith(JOB_COUNT)


# --- what operators do ---


def replay(tx: Tx, tenant: str, callback: str, *, now_ms: int) -> Callback:
    """Make one final delivery due now, in its own class, and clear its lane's circuit."""
    before = get(tx, tenant, callback)
    if before.state not in FINAL:
        raise Conflict(f"{callback} is {before.state}: only a final delivery can be replayed")
    lane = _lane_now(tx, before)
    refuse_disabled(tx, destination_of(lane))
    make_pending(tx, before, lane, class_number=None, now_ms=now_ms)
    clear_circuit(tx, lane)
    return get(tx, tenant, callback)


def _lane_now(tx: Tx, callback: Callback) -> str:
    """Return the lane that a final callback goes back to."""
    row = tx.one("SELECT url FROM callbacks WHERE id = ?", callback.id)
    return lane_now(tx, callback.tenant, callback.lane, None if row is None else row[0])


def refuse_disabled(tx: Tx, destination: str) -> None:
    """Raise DestinationDisabled."""
    row = tx.one("SELECT disabled_reason FROM destinations WHERE id = ?", destination)
    if row is not None and row[0] is not None:
        raise DestinationDisabled(f"the destination is disabled: {row[0]}")


def make_pending(
    tx: Tx,
    callback: Callback,
    lane: str,
    *,
    class_number: int | None,
    now_ms: int,
    by: str | None = None,
) -> None:
    """Make a final delivery pending with a fresh budget; same id, same bytes, history kept. `by` is
    the filtered replay that does it.

    Raises PayloadGone; and NotFound and Conflict where another process was quicker.
    """
    if callback.payload_pruned:
        raise PayloadGone(f"the payload of {callback.id} is past its retention")
    max_age_ms = round(policies.load(callback.policy).max_age * 1000)
    made = tx.run(
        _MAKE_PENDING,
        class_number,
        now_ms,
        now_ms + max_age_ms,
        lane,
        by,
        callback.id,
        callback.state,
    )
    if not made:  # retention had it, or another replay, since it was looked at
        now = get(tx, callback.tenant, callback.id)
        if now.payload_pruned:
            raise PayloadGone(f"the payload of {callback.id} is past its retention")
        raise Conflict(f"{callback.id} is {now.state} now")
    tx.changes.moved(callback.tenant, callback.state, "pending")
    tx.changes.events[callback.tenant, "replayed"] += 1
    _revive(tx, callback, lane, now_ms)


def _revive(tx: Tx, callback: Callback, lane: str, now_ms: int) -> None:
    """Have the commit bring back a lane that was idle and so forgotten, and an unregistered
    destination with it."""
    made = None
    if destination_of(lane) != lane:
        server, url = server_of(callback.url), callback.url
        made = (destination_of(lane), callback.tenant, server, now_ms, url, now_ms)
    tx.changes.lanes.add(lane)
    tx.changes.revived[lane] = made


def replay_in_background(tx: Tx, callback: Callback, *, by: str, made_ms: int, now_ms: int) -> bool:
    """Replay one delivery of the filtered replay `by`, in the lowest class; False if it cannot be.

    A circuit that opened before the replay was made is cleared, once: the operator believes the
    destination to be repaired, and if it is not, the circuit opens again.
    """
    lane = _lane_now(tx, callback)
    try:
        refuse_disabled(tx, destination_of(lane))
        make_pending(tx, callback, lane, class_number=REPLAY, now_ms=now_ms, by=by)
    except (NotFound, Conflict, PayloadGone):  # a disabled destination is a conflict too
        return False
    clear_circuit(tx, lane, opened_before_ms=made_ms)
    return True


def hurry_in_background(tx: Tx, callback: Callback, *, by: str, made_ms: int, now_ms: int) -> bool:
    """Have one delivery that waits tried now, as the filtered replay `by` wants it, with what is
    left of its budget; False if it cannot be. Clears a circuit as a replay does."""
    lane = callback.lane
    try:
        refuse_disabled(tx, destination_of(lane))
    except DestinationDisabled:
        return False
    if not tx.run(_HURRY, now_ms, now_ms, by, callback.id, now_ms):
        return False
    tx.changes.lanes.add(lane)
    clear_circuit(tx, lane, opened_before_ms=made_ms)
    return True


def cancel(tx: Tx, tenant: str, callback: str, *, now_ms: int) -> Callback:
    """Cancel a pending delivery; let the running attempt of a sending one be its last."""
    for _ in range(_DECIDED_MAX):
        before = get(tx, tenant, callback)
        if before.state in FINAL:
            raise Conflict(f"{callback} is {before.state} already")
        if before.state == "pending":
            done = bool(finish(tx, [callback], "cancelled", error=None, now_ms=now_ms))
        else:
            done = let_be_last(tx, callback) is not None
        if done:
            return get(tx, tenant, callback)
    raise Conflict(f"{callback} changes at this moment; try again")


def let_be_last(tx: Tx, callback: str) -> int | None:
    """Let the running attempt of a delivery be its last; return when its lease ends, by the
    database's clock, None where none runs."""
    found = tx.write(_CANCEL_SENDING, callback)
    return found[0][0] if found else None


def finish(tx: Tx, ids: Sequence[str], state: State, *, error: str | None, now_ms: int) -> int:
    """End those of these deliveries that are pending; `error` None keeps the last one. Returns how
    many that were."""
    if not ids:
        return 0
    ended = tx.write(_FINISH.format(ids=marks(ids)), state, now_ms, error, *ids)
    for tenant, lane in ended:
        tx.changes.moved(tenant, "pending", state)
        tx.changes.lanes.add(lane)
    return len(ended)
