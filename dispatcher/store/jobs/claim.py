"""Claim: start due jobs, found through endpoints and queues and never by scanning jobs.

Endpoints take turns for the places of a process, and at an endpoint its queues: one job a turn, the
least recently served queue first, and of a queue its high jobs before normal and low ones, each
class in the order of its tickets. Where priority goes across customers (`by_class`), the class goes
first over all queues, and one start in five is kept for the rest. Queues of customers of whom as
many jobs run as may are passed over.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from dispatcher import fairness
from dispatcher.jobs.blobs import held_bytes
from dispatcher.jobs.values import HIGH, ClaimedJob, JobClaimRequest
from dispatcher.store.jobs import rows
from dispatcher.store.jobs.limited import Limited
from dispatcher.store.jobs.rows import queue_id, tenant_of
from dispatcher.store.jobs.scheduling import CLASSES
from dispatcher.store.tx import Row, Tx

# So many ready endpoints are looked at in one claim; where there are more, the next one follows at
# once.
_ENDPOINTS_MAX: Final = 64
# Jobs that one claim starts at most, and of these of one queue, while there are others.
_STARTS_MAX: Final = 256
_HIGH_IN_A_ROW: Final = 4


@dataclass(frozen=True, slots=True)
class _Due:
    """A job that may start."""

    id: str
    queue: str
    ticket: int
    size: int


@dataclass(slots=True)
class _Queue:
    """A queue with what is due in it, by class, in order; `turn` is set once it is served."""

    id: str
    due: dict[int, deque[_Due]] = field(default_factory=lambda: {n: deque() for n in CLASSES})
    turn: int = 0
    begun: int = 0

    def first(self, classes: Sequence[int] = tuple(CLASSES)) -> deque[_Due] | None:
        """Return the jobs of its first class that has any."""
        return next((self.due[number] for number in classes if self.due[number]), None)


@dataclass(slots=True)
class _Endpoint:
    """An endpoint that may start `room` more calls, with its queues in turn."""

    name: str
    room: int
    rate: float | None
    paced_ms: float
    by_class: bool
    turn: int
    starts: int
    epoch: int
    queues: deque[_Queue] = field(default_factory=deque)
    served: dict[str, _Queue] = field(default_factory=dict)
    taken: int = 0

    def next(self, fits: Callable[[int], bool]) -> _Due | None:
        """Take the job that is to start next, if its body fits: else its queue is left for now."""
        while self.queues:
            queue, due = self._turn()
            if not fits(due[0].size):
                self.queues.remove(queue)
                continue
            job = due.popleft()
            self.taken += 1
            self.turn += 1
            queue.turn, queue.begun = self.turn, max(queue.begun, job.ticket)
            self.served[queue.id] = queue
            self.queues.remove(queue)
            if queue.first() is not None:
                self.queues.append(queue)
            return job
        return None

    def leave(self, queue: str) -> None:
        """Start no more of a queue."""
        self.queues = deque(one for one in self.queues if one.id != queue)

    def _turn(self) -> tuple[_Queue, deque[_Due]]:
        """Return the queue whose turn it is, and its jobs of the class that is to be served."""
        if self.by_class:
            classes = list(CLASSES)
            if self.starts >= _HIGH_IN_A_ROW:
                classes = [*classes[1:], HIGH]
            for number in classes:
                for queue in self.queues:
                    if queue.due[number]:
                        self.starts = self.starts + 1 if number == HIGH else 0
                        return queue, queue.due[number]
        due = self.queues[0].first()
        assert due is not None  # noqa: S101 - a queue with nothing due is not in turn
        return self.queues[0], due


def claim(tx: Tx, request: JobClaimRequest) -> list[ClaimedJob]:
    """Start due jobs, as many as the process has places for, each endpoint no more than it may;
    none for a process that was called dead."""
    if request.places <= 0:
        return []
    now_ms = tx.at(request.now_ms)
    endpoints = _endpoints(tx, request, now_ms)
    if not endpoints:
        return []
    limited = None if request.limits is None else Limited(tx, request.limits)
    _fill(tx, endpoints, request, now_ms, limited)
    if not tx.job_statements.lives(tx, request.process):
        return []
    chosen = _choose(tx, endpoints, request, limited)
    if limited is not None and len(endpoints) > _ENDPOINTS_MAX // 2:
        _pass(tx, endpoints, now_ms)
    if not chosen:
        return []
    started = tx.job_statements.start_jobs(tx, request.process, now_ms, chosen)
    if len(started) < len(chosen):
        _put_aside(tx, set(chosen) - {row[0] for row in started})
    _serve(tx, endpoints, now_ms)
    epochs = {one.name: one.epoch for one in endpoints}
    return [rows.claimed(tx, row, epochs[row[2]], request.now_ms) for row in started]


def _put_aside(tx: Tx, ids: set[str]) -> None:
    """Have the sweeper end what has no input, so that it is not found due again and again. No verb
    leaves such a job behind; a database that was repaired by hand may hold one."""
    tx.run(
        "UPDATE jobs SET state = 'queued', process = NULL, due_ms = ?, expires_ms = 0 "
        f"WHERE id{tx.job_statements.IN}",
        rows.NEVER_MS,
        tx.ids(ids),
    )
    sql = f"SELECT endpoint, queue FROM jobs WHERE id{tx.job_statements.IN}"
    for endpoint, queue in tx.all(sql, tx.ids(ids)):
        tx.changes.queued(endpoint, queue, 1)


def _endpoints(tx: Tx, request: JobClaimRequest, now_ms: int) -> list[_Endpoint]:
    """Return the endpoints in whose turn it is: those that show ready work, and those that this
    commit has touched, of which nothing is shown yet."""
    touched = sorted(tx.changes.all_endpoints)
    found = tx.job_statements.ready_endpoints(tx, touched, now_ms, _ENDPOINTS_MAX)
    endpoints = []
    for row in found:
        name, room, rate, paced_ms, by_class, turn, starts, epoch, queued = row
        # Its ready time is looked at again: it may have nothing free now, or wait for its rate.
        tx.changes.endpoints.add(name)
        paced = fairness.paced_room(rate, paced_ms, now_ms)
        room = min(room, request.places, _STARTS_MAX)
        room = room if paced is None else min(room, paced)
        if room > 0 and queued + tx.changes.more_waiting(name) > 0:
            endpoints.append(
                _Endpoint(name, room, rate, paced_ms, bool(by_class), turn, starts, epoch)
            )
    return endpoints


def _fill(
    tx: Tx,
    endpoints: Sequence[_Endpoint],
    request: JobClaimRequest,
    now_ms: int,
    limited: Limited | None,
) -> None:
    """Look up the queues in turn, and what is due in them; not those of tenants of which as many
    jobs run as may."""
    by_name = {one.name: one for one in endpoints}
    most = max(one.room for one in endpoints)
    found = _ready_queues(tx, sorted(by_name), most, now_ms, limited)
    of_endpoint: dict[str, list[Row]] = defaultdict(list)
    for row in found:
        of_endpoint[row[1]].append(row)
    queues: dict[str, _Queue] = {}
    each = 1
    for name, ready in of_endpoint.items():
        endpoint = by_name[name]
        each = max(each, -(-endpoint.room // len(ready)))
        for row in ready:
            queues[row[0]] = _Queue(row[0])
            endpoint.queues.append(queues[row[0]])
    if not queues:
        return
    for queue, number, ticket, id, size in tx.all(
        tx.job_statements.DUE_JOBS, tx.ids(queues), min(most, each + 1), now_ms
    ):
        queues[queue].due[number].append(_Due(id, queue, ticket, size))
    for one in endpoints:
        one.queues = deque(queue for queue in one.queues if queue.first() is not None)


def _ready_queues(
    tx: Tx, endpoints: Sequence[str], most: int, now_ms: int, limited: Limited | None
) -> list[Row]:
    full = [] if limited is None else limited.full()
    if full:
        sql = tx.job_statements.READY_QUEUES_BUT
        found = tx.all(sql, tx.ids(endpoints), most, now_ms, tx.ids(full))
    else:
        found = tx.all(tx.job_statements.READY_QUEUES, tx.ids(endpoints), most, now_ms)
    if limited is None:
        return found
    limited.hold(tenant_of(row[0]) for row in found)
    return [row for row in found if limited.admits(tenant_of(row[0]))]


@dataclass(slots=True)
class _Room:
    """What is left of a process's places and bytes while a claim chooses, and what each endpoint
    has of them."""

    request: JobClaimRequest
    places: int
    bytes_free: int
    busy: Counter[str]
    busy_bytes: Counter[str]

    def admits(self, endpoint: str) -> bool:
        """Whether an endpoint may have one more, and leaves what is to stay for others."""
        kept = fairness.reserve_endpoint(self.busy[endpoint], self.request.places_max)
        return self.places > kept * self.request.part

    def fits(self, endpoint: str, size: int) -> bool:
        """Whether it may take an input of so many bytes more."""
        size = held_bytes(size)
        request, held = self.request, self.busy_bytes[endpoint]
        return fairness.bytes_fit(size, self.bytes_free, held, request.bytes_max, part=request.part)

    def take(self, endpoint: str, size: int) -> None:
        self.places -= 1
        self.bytes_free -= size
        self.busy[endpoint] += 1
        self.busy_bytes[endpoint] += size


def _choose(
    tx: Tx, endpoints: Sequence[_Endpoint], request: JobClaimRequest, limited: Limited | None
) -> list[str]:
    """Return the jobs to start: of each endpoint in turn one, until places or bytes are used up,
    but for what is to stay."""
    room = _Room(
        request,
        request.places,
        request.bytes_free,
        Counter(request.busy),
        Counter(request.busy_bytes),
    )
    ids: list[str] = []
    in_turn = deque(endpoints)
    while in_turn and len(ids) < _STARTS_MAX:
        endpoint = in_turn.popleft()
        if not room.admits(endpoint.name):
            continue
        job = endpoint.next(partial(room.fits, endpoint.name))
        if job is None:
            continue
        ids.append(job.id)
        tx.changes.queued(endpoint.name, job.queue, -1)
        room.take(endpoint.name, held_bytes(job.size))
        if limited is not None:
            tenant = tenant_of(job.queue)
            limited.take(tenant)
            if not limited.admits(tenant):
                for one in endpoints:
                    one.leave(queue_id(one.name, tenant))
        if endpoint.taken < endpoint.room:
            in_turn.append(endpoint)
    return ids


def _serve(tx: Tx, endpoints: Sequence[_Endpoint], now_ms: int) -> None:
    """Queues and endpoints that were served go behind all others that are ready."""
    queues, loads = [], []
    for one in endpoints:
        if not one.taken:
            continue
        paced_ms = one.paced_ms
        if one.rate is not None:
            paced_ms = fairness.paced_after(one.rate, paced_ms, one.taken, now_ms)
        loads.append((one.turn, one.starts, float(paced_ms), now_ms, one.name))
        queues += [(queue.turn, queue.begun, queue.id) for queue in one.served.values()]
    tx.bulk(tx.job_statements.SERVE_QUEUES, queues)
    tx.bulk(tx.job_statements.SERVE_ENDPOINTS, loads)


def _pass(tx: Tx, endpoints: Sequence[_Endpoint], now_ms: int) -> None:
    """Endpoints of which nothing was started go behind those that were not looked at: all that
    waits for them may be tenants' of which as many jobs run as may."""
    loads = [
        (one.turn, one.starts, float(one.paced_ms), now_ms, one.name)
        for one in endpoints
        if not one.taken
    ]
    if loads:
        tx.bulk(tx.job_statements.SERVE_ENDPOINTS, loads)
