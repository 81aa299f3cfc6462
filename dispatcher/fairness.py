"""Who gets the free slots: tenants in turn, and within a tenant its lanes in turn. Pure (D5)."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

# A rate-limited lane may catch up on a tenth of a second at once: smooth at the destination, yet
# one claim can serve more than one delivery of a fast lane.
PACE_BURST_S: Final = 0.1
# A server that takes no more than this at once is for one process at a time.
_FEW: Final = 16
_NO_SERVERS: Final[Mapping[str, int]] = MappingProxyType({})


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
    """How many slots one tenant may hold in a process: a quarter while others wait; alone, all
    but a quarter, so that whoever comes next finds free slots at once."""
    quarter = max(1, slots_max // 4)
    return quarter if contended else max(quarter, slots_max - quarter)


def share(
    lanes: Sequence[ReadyLane],
    slots: int,
    tenant_room: Mapping[str, int],
    server_room: Mapping[str, int] = _NO_SERVERS,
) -> dict[str, int]:
    """Slots per lane id: one each in turn, round and round, until slots or rooms are used up."""
    servers = dict(server_room)
    queues: dict[str, deque[tuple[str, int, str | None]]] = defaultdict(deque)
    for lane in lanes:
        if lane.room > 0:
            queues[lane.tenant].append((lane.id, lane.room, lane.server))
    turn = deque((tenant, tenant_room.get(tenant, 0)) for tenant in queues)
    given: dict[str, int] = defaultdict(int)
    while turn and slots > 0:
        tenant, room = turn.popleft()
        if room <= 0:
            continue
        lane_id, lane_room, server = queues[tenant].popleft()
        if server is None or servers[server] > 0:
            if server is not None:
                servers[server] -= 1
            given[lane_id] += 1
            slots -= 1
            room -= 1
            if lane_room > 1:
                queues[tenant].append((lane_id, lane_room - 1, server))
            if queues[tenant]:
                turn.append((tenant, room))
        elif queues[tenant]:
            turn.appendleft((tenant, room))
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
    return max(0, int(credit_ms / (1000 / rate)))


def paced_after(rate: float, paced_ms: float, taken: int, now_ms: int) -> float:
    """Return the lane's `paced_ms` once `taken` more have been let through."""
    return max(paced_ms, now_ms - _burst_ms(rate)) + taken * 1000 / rate


def _burst_ms(rate: float) -> float:
    return max(1000 / rate, PACE_BURST_S * 1000)
