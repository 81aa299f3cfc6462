"""What the metrics tell of deliveries and destinations: each look goes by an index that holds what
it is about and little else, and ends after so many, so that it costs the same however much there
is. Portable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dispatcher.ids import destination_of
from dispatcher.store.claim import READY, TENANTS
from dispatcher.store.tx import Row, Tx, marks

# Lanes that wait for longest, and what is due of them, are looked at so far.
TENANTS_MAX: Final = 32
LANES_EACH: Final = 16
LANES_MAX: Final = 256
DUE_MAX: Final = 20_000
HELD_MAX: Final = 10_000
# Deliveries that are counted for one destination with series of its own.
WAITING_MAX: Final = 1_000
_REPLAYS_MAX: Final = 1_000

LANES: Final = {
    number: f"""
SELECT l.id, l.{ready}, l.rate, l.held_until_ms, coalesce(d.held_until_ms, 0)
FROM lanes l LEFT JOIN destinations d ON d.id = substr(l.id, 1, 35)
WHERE l.tenant = ? AND l.{ready} <= ? ORDER BY l.{ready} LIMIT ?
"""
    for number, ready in READY.items()
}
DUE: Final = """
SELECT l.id, (SELECT due_ms FROM callbacks WHERE destination = l.id AND class = {number}
              AND state = 'pending' ORDER BY due_ms LIMIT 1),
       (SELECT count(*) FROM (SELECT 1 FROM callbacks WHERE destination = l.id AND class = {number}
                              AND state = 'pending' AND due_ms <= ? LIMIT ?) few)
FROM lanes l WHERE l.id IN ({lanes})
"""
HELD_LANES: Final = """
SELECT id, held_reason FROM lanes WHERE held_reason IS NOT NULL AND held_until_ms > ? LIMIT ?
"""
OPEN_LANES: Final = "SELECT id FROM lanes WHERE openings > 0 LIMIT ?"
STOPPED: Final = """
SELECT id, paused, disabled_reason IS NOT NULL, openings FROM destinations
WHERE removed_ms IS NULL AND (paused = 1 OR disabled_reason IS NOT NULL OR openings > 0) LIMIT ?
"""
_FIRST: Final = """(SELECT due_ms FROM callbacks WHERE destination = d.id AND class = {}
        AND state = 'pending' ORDER BY due_ms LIMIT 1)"""
REGISTERED: Final = f"""
SELECT d.id, d.name, {_FIRST.format(0)}, {_FIRST.format(1)}, {_FIRST.format(2)},
       (SELECT count(*) FROM (SELECT 1 FROM callbacks WHERE destination = d.id
                              AND class IN (0, 1, 2) AND state = 'pending' LIMIT ?) few)
FROM destinations d WHERE d.name IS NOT NULL AND d.removed_ms IS NULL
ORDER BY d.created_ms, d.id LIMIT ?
"""
_REPLAYS: Final = """
SELECT count(*), CAST(coalesce(sum(matched - replayed - skipped), 0) AS bigint)
FROM (SELECT matched, replayed, skipped FROM replays WHERE state = 'running' LIMIT ?) running
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationFigures:
    """A registered destination: how many deliveries wait for it, at least; since when the oldest of
    these is due (None: none is); and what holds it back."""

    id: str
    name: str
    waiting: int
    due_since_ms: int | None
    reasons: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryFigures:
    """How much may go out now (at least), and since when the oldest of that might have; how many
    destinations are held back, by reason, and of how many the circuit is open; filtered replays
    that run, and what is left for them to feed. `now_ms` is the time of the look, by the database's
    clock."""

    now_ms: int
    due: int
    due_since_ms: int | None
    held: Mapping[str, int]
    replays: int
    replays_left: int
    destinations: Sequence[DestinationFigures] = field(default=())


def look(tx: Tx, *, now_ms: int, destinations_max: int) -> DeliveryFigures:
    """Return them, with the first registered destinations, so many at most. `now_ms` is by the
    database's clock."""
    due, since = 0, list[int]()
    for number in READY:
        counted, since_ms = _due(tx, number, now_ms)
        due += counted
        since += since_ms
    reasons = _reasons(tx, now_ms)
    held: dict[str, int] = {}
    for of_one in reasons.values():
        for reason in of_one:
            held[reason] = held.get(reason, 0) + 1
    replays, left = tx.one(_REPLAYS, _REPLAYS_MAX) or (0, 0)
    rows = tx.all(REGISTERED, WAITING_MAX, destinations_max) if destinations_max else []
    return DeliveryFigures(
        now_ms=now_ms,
        due=due,
        due_since_ms=min(since, default=None),
        held=held,
        replays=replays,
        replays_left=max(0, left),
        destinations=[_destination(row, reasons, now_ms) for row in rows],
    )


def _due(tx: Tx, number: int, now_ms: int) -> tuple[int, list[int]]:
    """Return how much of a class may go out now, and of each lane since when."""
    lanes: dict[str, Row] = {}
    for (tenant,) in tx.all(TENANTS[number], now_ms, TENANTS_MAX):
        rows = tx.all(LANES[number], tenant, now_ms, LANES_EACH)
        lanes |= {row[0]: row[1:] for row in rows}
        if len(lanes) >= LANES_MAX:
            break
    if not lanes:
        return 0, []
    sql = DUE.format(number=number, lanes=marks(list(lanes)))
    total, since = 0, list[int]()
    for id, first_ms, count in tx.all(sql, now_ms, DUE_MAX // len(lanes), *lanes):
        if count:
            total += count
            since.append(_since(first_ms, *lanes[id]))
    return total, since


def _since(
    first_ms: int, ready_ms: int, rate: float | None, held_ms: int, server_held_ms: int
) -> int:
    """Return since when a lane's first delivery might have gone. One whose rate is limited goes
    when that allows it: how long it has been due says nothing."""
    return ready_ms if rate is not None else max(first_ms, held_ms, server_held_ms)


def _reasons(tx: Tx, now_ms: int) -> dict[str, set[str]]:
    """Return what holds destinations back, of those that something does."""
    reasons: dict[str, set[str]] = {}
    for lane, reason in tx.all(HELD_LANES, now_ms, HELD_MAX):
        if reason != "circuit":  # which is open also while its probe is out
            reasons.setdefault(destination_of(lane), set()).add(reason)
    for (lane,) in tx.all(OPEN_LANES, HELD_MAX):
        reasons.setdefault(destination_of(lane), set()).add("circuit")
    for id, paused, disabled, openings in tx.all(STOPPED, HELD_MAX):
        names = (("paused", paused), ("disabled", disabled), ("circuit", openings))
        reasons.setdefault(id, set()).update(name for name, holds in names if holds)
    return reasons


def _destination(row: Row, reasons: Mapping[str, set[str]], now_ms: int) -> DestinationFigures:
    id, name, *firsts, waiting = row
    due = [first_ms for first_ms in firsts if first_ms is not None and first_ms <= now_ms]
    return DestinationFigures(
        id=id,
        name=name,
        waiting=waiting,
        due_since_ms=min(due, default=None),
        reasons=frozenset(reasons.get(id, ())),
    )
