"""Clocks that were wrong (D20). The wall clock is for due times and for showing; what was stored by
one that ran ahead is brought back here, so that a corrected clock stops nothing. And leases are
judged by a time that does not leap: what is being sent is not taken back because a clock was set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher import policy as policies
from dispatcher.health import CIRCUIT_MOST_MS
from dispatcher.store.lanes import of_server
from dispatcher.store.tx import Tx, marks

# Clocks of hosts and of a database differ by milliseconds, and are corrected by as much.
SLACK_MS: Final = 1_000
# The longest hold that we make ourselves, with its jitter; a peer's own may be longer.
HOLD_MS: Final = CIRCUIT_MOST_MS * 6 // 5

_AHEAD: Final = """
SELECT id FROM lanes WHERE served_ms > ? OR paced_ms > ? OR failing_since_ms > ?
    OR held_until_ms > CASE WHEN held_reason = 'retry-after' THEN ? ELSE ? END
LIMIT ?
"""
_BRING_BACK: Final = """
UPDATE lanes SET served_ms = CASE WHEN served_ms > ? THEN ? ELSE served_ms END,
    paced_ms = CASE WHEN paced_ms > ? THEN ? ELSE paced_ms END,
    failing_since_ms = CASE WHEN failing_since_ms > ? THEN ? ELSE failing_since_ms END,
    held_until_ms = CASE
        WHEN held_reason = 'retry-after'
        THEN CASE WHEN held_until_ms > ? THEN ? ELSE held_until_ms END
        WHEN held_until_ms > ? THEN ? ELSE held_until_ms END
WHERE id IN ({ids})
"""
# What holds for a whole server stands with its destination.
_SERVERS_AHEAD: Final = """
SELECT id FROM destinations
WHERE paced_ms > ? OR failing_since_ms > ? OR last_url_ms > ? OR held_until_ms > ?
ORDER BY id LIMIT ?
"""
_BRING_SERVER_BACK: Final = """
UPDATE destinations SET paced_ms = CASE WHEN paced_ms > ? THEN ? ELSE paced_ms END,
    failing_since_ms = CASE WHEN failing_since_ms > ? THEN ? ELSE failing_since_ms END,
    last_url_ms = CASE WHEN last_url_ms > ? THEN ? ELSE last_url_ms END,
    held_until_ms = CASE WHEN held_until_ms > ? THEN ? ELSE held_until_ms END
WHERE id = ?
"""
_SERVED: Final = "SELECT tenant FROM turns WHERE served_ms > ? LIMIT ?"
# What ended later than now would be in no replay until that moment came.
_ENDED: Final = tuple(
    f"SELECT id FROM callbacks WHERE state = '{state}' AND pruned = ? "
    "AND finished_ms IS NOT NULL AND finished_ms > ? LIMIT ?"
    for state in ("delivered", "dead", "cancelled")
)
_WAITING: Final = """
SELECT c.expires_ms, c.id, c.destination, c.due_ms, c.tries, c.not_before_ms, c.turned_away_ms,
       coalesce(c.policy, d.policy)
FROM callbacks c LEFT JOIN destinations d ON d.id = substr(c.destination, 1, 35)
WHERE c.state = 'pending' AND (c.expires_ms, c.id) > (?, ?)
ORDER BY c.expires_ms, c.id LIMIT ?
"""

# Only what still waits as it did: the state is hidden from planners, as in `callbacks`.
_HASTEN: Final = """
UPDATE callbacks SET due_ms = ? WHERE id = ? AND state || '' = 'pending' AND due_ms = ?
"""

Place = tuple[int, str]
"""How far a walk over what waits has come: a maximum age, and an id."""
START: Final[Place] = (-1, "")


class LeaseClock:
    """The time by which leases are judged. It does not leap ahead with a clock that is set: for as
    long as a lease may last, those given before end by the clock that gave them."""

    def __init__(self, monotonic_ms: Callable[[], int], *, lease_ms_max: int) -> None:
        self._monotonic_ms = monotonic_ms
        self._lease_ms_max = lease_ms_max
        self._seen: tuple[int, int] | None = None
        self._ahead_ms = 0
        self._until_ms = 0

    def judge(self, now_ms: int) -> int:
        """Return the time that it is for leases, at `now_ms` of the clock that gives them."""
        at_ms = self._monotonic_ms()
        if self._seen is not None:
            leap_ms = (now_ms - self._seen[0]) - (at_ms - self._seen[1])
            if leap_ms > SLACK_MS:
                self._ahead_ms += leap_ms
                self._until_ms = at_ms + self._lease_ms_max
            elif leap_ms < -SLACK_MS:
                self._ahead_ms = max(0, self._ahead_ms + leap_ms)
        self._seen = now_ms, at_ms
        if at_ms >= self._until_ms:
            self._ahead_ms = 0
        return now_ms - self._ahead_ms


@dataclass(frozen=True, slots=True)
class Late:
    """A delivery that waits for longer than it should, and until when it should at most."""

    id: str
    lane: str
    due_ms: int
    until_ms: int


def ahead(tx: Tx, *, now_ms: int, retry_after_ms: int, limit: int) -> list[str]:
    """Return lanes that were served, paced or held by a clock that ran ahead."""
    soon_ms = now_ms + SLACK_MS
    asked_ms, held_ms = soon_ms + retry_after_ms, soon_ms + HOLD_MS
    rows = tx.all(_AHEAD, soon_ms, soon_ms, soon_ms, asked_ms, held_ms, limit)
    return [row[0] for row in rows]


def _servers_ahead(tx: Tx, now_ms: int, limit: int) -> list[str]:
    soon_ms = now_ms + SLACK_MS
    rows = tx.all(_SERVERS_AHEAD, soon_ms, soon_ms, soon_ms, soon_ms + HOLD_MS, limit)
    return [row[0] for row in rows]


def touched(tx: Tx, *, now_ms: int, retry_after_ms: int, limit: int) -> list[str]:
    """Return the lanes that bringing back will touch: they and their servers' were ahead."""
    lanes = ahead(tx, now_ms=now_ms, retry_after_ms=retry_after_ms, limit=limit)
    servers = _servers_ahead(tx, now_ms, limit)
    return lanes + [lane for server in servers for lane in of_server(tx, server)]


def is_ahead(tx: Tx, *, now_ms: int, retry_after_ms: int) -> bool:
    """Whether there is anything to bring back."""
    soon_ms = now_ms + SLACK_MS
    return bool(
        ahead(tx, now_ms=now_ms, retry_after_ms=retry_after_ms, limit=1)
        or _servers_ahead(tx, now_ms, 1)
        or tx.all(_SERVED, soon_ms, 1)
        or any(tx.all(sql, pruned, soon_ms, 1) for sql in _ENDED for pruned in (0, 1))
    )


def bring_back(tx: Tx, *, now_ms: int, retry_after_ms: int, limit: int) -> int:
    """Have lanes and tenants served by now at the latest, holds last at most as long as one of
    their kind may from now on, and what ended have ended. Returns how much was ahead; less than
    `limit` when that was all."""
    soon = (now_ms + SLACK_MS, now_ms)
    servers = _servers_ahead(tx, now_ms, limit)
    for server in servers:
        held_ms = now_ms + HOLD_MS
        tx.run(_BRING_SERVER_BACK, *soon, *soon, *soon, held_ms, held_ms, server)
        of_it = of_server(tx, server)
        tx.changes.lanes.update(of_it if tx.sole_owner else tx.held.intersection(of_it))
    found = ahead(tx, now_ms=now_ms, retry_after_ms=retry_after_ms, limit=limit)
    lanes = found if tx.sole_owner else [lane for lane in found if lane in tx.held]
    if lanes:
        asked_ms, held_ms = now_ms + retry_after_ms, now_ms + HOLD_MS
        holds = (asked_ms, asked_ms, held_ms, held_ms)
        tx.run(_BRING_BACK.format(ids=marks(lanes)), *soon, *soon, *soon, *holds, *lanes)
        tx.changes.lanes.update(lanes)
    tenants = [row[0] for row in tx.all(_SERVED, now_ms + SLACK_MS, limit)]
    if tenants:
        tx.changes.served_tenants.update(tenants)
        tx.changes.served_ms = max(tx.changes.served_ms, now_ms)
    return max(len(servers), len(lanes), len(tenants), _end_by_now(tx, now_ms, limit))


def _end_by_now(tx: Tx, now_ms: int, limit: int) -> int:
    most = 0
    for sql in _ENDED:
        for pruned in (0, 1):
            rows = tx.all(sql + tx.skip_locked, pruned, now_ms + SLACK_MS, limit)
            if rows:
                ended = [row[0] for row in rows]
                by_now = f"UPDATE callbacks SET finished_ms = ? WHERE id IN ({marks(ended)})"
                tx.run(by_now, now_ms, *ended)
            most = max(most, len(rows))
    return most


def late(
    tx: Tx, after: Place, *, now_ms: int, retry_after_ms: int, trusted: bool, limit: int
) -> tuple[list[Late], Place | None]:
    """Walk what waits, `limit` from `after` on: return those that wait longer than the wait after
    their last try, and the place to go on from (None at the end).

    Where the clock is `trusted`, a peer may have asked for a wait as long as one may be.
    """
    rows = tx.all(_WAITING, *after, limit)
    found = []
    for _, callback, lane, due_ms, tries, not_before_ms, turned_away_ms, policy in rows:
        wait_ms = 0
        if tries:
            wait_ms = policies.load(policy).delay_ms(tries, 1.0)
        if turned_away_ms is not None:
            wait_ms = max(wait_ms, HOLD_MS)
        if trusted and wait_ms:
            wait_ms = max(
                wait_ms, retry_after_ms * 6 // 5
            )  # what was turned away comes back spread
        until_ms = max(now_ms + wait_ms, not_before_ms or 0)
        if due_ms > until_ms + SLACK_MS:
            found.append(Late(callback, lane, due_ms, until_ms))
    return found, (rows[-1][0], rows[-1][1]) if len(rows) == limit else None


def hasten(tx: Tx, late: Sequence[Late]) -> int:
    """Have them wait no longer than they should; return how many did so still."""
    hastened = 0
    for one in late:
        changed = tx.run(_HASTEN, one.until_ms, one.id, one.due_ms)
        if changed:
            tx.changes.lanes.add(one.lane)
            hastened += changed
    return hastened
