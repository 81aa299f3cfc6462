"""Who gets the free slots: tenants in turn, and within a tenant its lanes in turn; and what stays
free for whoever comes next. Pure (D5)."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final

# A rate-limited lane may catch up on a tenth of a second at once: smooth at the destination, yet
# one claim can serve more than one delivery of a fast lane.
PACE_BURST_S: Final = 0.1
# The lowest rate of a destination or a replay, in deliveries a second: one in a quarter of an hour.
# A destination's that was stored lower counts as this: when the next may go must be a time.
RATE_MIN: Final = 0.001
# A server that takes no more than this at once is for one process at a time.
_FEW: Final = 16
_NONE: Final[Mapping[str, int]] = MappingProxyType({})
# Bytes are shared in as many parts as slots are by default. The last sixteenth is for bodies of one
# such part at most; and a body larger than a sixteenth needs no more, or it could wait for ever.
_BYTE_PARTS: Final = 1_024
_SIXTEENTH: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyLane:
    """A lane with due work, in the order in which it is to be served; `room` is how many more
    attempts it may have in flight, `server` what it shares another bound with (None: nothing)."""

    id: str
    tenant: str
    room: int
    server: str | None = None


def high_slots(free: int, slots_max: int, busy_high: int) -> int:
    """How many free slots high-priority work may take: at least one slot in five stays for the
    rest, whatever the flood of high."""
    return max(0, min(free, slots_max * 4 // 5 - busy_high))


def tenant_slots(slots_max: int, *, contended: bool) -> int:
    """How many slots one tenant may hold in a process by claims: a quarter while others wait;
    alone, all but a quarter, so that whoever comes next finds free slots at once."""
    quarter = max(1, slots_max // 4)
    return quarter if contended else max(quarter, slots_max - quarter)


def direct_slots(slots_max: int, tenants: int) -> int:
    """How many slots one tenant may hold in a process by hand-over while so many, itself included,
    have work in flight: its part of all but a quarter, and at least a quarter."""
    return max(tenant_slots(slots_max, contended=True), (slots_max - slots_max // 4) // tenants)


# --- what stays free ---


@lru_cache(maxsize=64)
def _reserves(most: int) -> tuple[int, ...]:
    quarter = max(1, most // 4)
    steps = quarter.bit_length()
    return tuple(quarter * bits // steps for bits in range(steps + 1))


def reserve(held: int, most: int) -> int:
    """How many of `most` places stay free when a tenant that holds `held` takes one more: none for
    a newcomer, one step more with each doubling, a quarter for whoever holds a quarter.

    So a tenant alone has three quarters, the next a part of what is left, and each newcomer finds
    a place, until a crowd of tenants has taken the rest.
    """
    steps = _reserves(most)
    return steps[min(held.bit_length(), len(steps) - 1)]


def reserve_high(held: int, slots_max: int) -> int:
    """Return how many of those that high priority may have stay free: as `reserve`, but of what is
    left beside a tenant alone, a fifth as much."""
    return reserve(held, slots_max) // 5


def reserve_endpoint(held: int, places_max: int) -> int:
    """Return how many of a process's places for jobs stay free when an endpoint that holds `held`
    takes one more: as `reserve`, but a quarter as much, since an endpoint's own bound is chosen by
    operators. Calls last for hours: without it two endpoints could have all places for as long."""
    return -(-reserve(held, places_max) // 4)


def claim_reserves(slots_max: int, slots: int, free: int) -> tuple[int, ...]:
    """Return what a claim for `slots` of the `free` ones leaves of them, by the bit length of how
    many a tenant holds: its part of the reserve, at least one where there is any. Hand-over leaves
    the rest."""
    return tuple(max(min(kept, 1), kept * slots // free) for kept in _reserves(slots_max))


def bytes_reserve(held: int, bytes_max: int) -> int:
    """How many of `bytes_max` stay free when a tenant with `held` bytes in memory takes more."""
    return reserve(held * _BYTE_PARTS // bytes_max, _BYTE_PARTS) * bytes_max // _BYTE_PARTS


def bytes_fit(size: int, free: int, held: int, bytes_max: int, *, part: float = 1.0) -> bool:
    """Whether a tenant with `held` bytes in memory may take `size` more of `free`, which is a
    `part` of what is free and leaves as much of the reserve.

    Nothing is overdrawn, but by one body that is larger than a sixteenth of all.
    """
    if held and free <= bytes_reserve(held, bytes_max) * part:
        return False
    if size * _BYTE_PARTS <= bytes_max:
        return size <= free
    sixteenth = bytes_max // _SIXTEENTH
    return min(size, sixteenth) + sixteenth * part <= free


# --- turns ---


def share(
    lanes: Sequence[ReadyLane],
    slots: int,
    tenant_room: Mapping[str, int],
    server_room: Mapping[str, int] = _NONE,
    *,
    held: Mapping[str, int] = _NONE,
    grants_max: Sequence[int] = (),
) -> dict[str, int]:
    """Slots per lane id: one each in turn, round and round, until slots or rooms are used up.
    `grants_max` says, by the bit length of how many a tenant holds (`held`), how many may be given
    in all before it gets no more."""
    servers = dict(server_room)
    queues: dict[str, deque[tuple[str, int, str | None]]] = defaultdict(deque)
    for lane in lanes:
        if lane.room > 0:
            queues[lane.tenant].append((lane.id, lane.room, lane.server))
    turn = deque((one, tenant_room.get(one, 0), held.get(one, 0)) for one in queues)
    given: dict[str, int] = defaultdict(int)
    top, total = len(grants_max) - 1, 0
    while turn and total < slots:
        tenant, room, has = turn.popleft()
        if room <= 0 or (grants_max and total >= grants_max[min(has.bit_length(), top)]):
            continue
        lane_id, lane_room, server = queues[tenant].popleft()
        if server is None or servers[server] > 0:
            if server is not None:
                servers[server] -= 1
            given[lane_id] += 1
            total += 1
            room, has = room - 1, has + 1
            if lane_room > 1:
                queues[tenant].append((lane_id, lane_room - 1, server))
            if queues[tenant]:
                turn.append((tenant, room, has))
        elif queues[tenant]:
            turn.appendleft((tenant, room, has))
    return dict(given)


def unheld_room(room: int, at_most: int) -> int:
    """How many of `room` free attempts of a server a commit may take while another process, which
    may take all of them, holds that server: few where it has many, none where it is half full."""
    return 0 if at_most <= _FEW or room * 2 <= at_most else room // 4


def paced_room(rate: float | None, paced_ms: float, now_ms: int) -> int | None:
    """How many deliveries a lane's rate allows now; None where it has no rate. `paced_ms` is the
    time up to which the rate is already used."""
    if rate is None:
        return None
    # Never by way of `now_ms - burst`: rounded at today's magnitude it can fall short of one
    # interval, for ever.
    credit_ms = min(now_ms - paced_ms, _burst_ms(rate))
    return max(0, int(credit_ms / _interval_ms(rate)))


def paced_after(rate: float, paced_ms: float, taken: int, now_ms: int) -> float:
    """Return the lane's `paced_ms` once `taken` more have been let through."""
    return max(paced_ms, now_ms - _burst_ms(rate)) + taken * _interval_ms(rate)


def _burst_ms(rate: float) -> float:
    return max(_interval_ms(rate), PACE_BURST_S * 1000)


def _interval_ms(rate: float) -> float:
    return 1000 / max(rate, RATE_MIN)
