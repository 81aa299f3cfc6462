"""What the verbs see of the running transaction, and of the statements that differ by database."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

from dispatcher.audit import Entry
from dispatcher.jobs.states import FINAL, JobState
from dispatcher.states import State
from receiver.base import db
from receiver.base.keyring import Keyring

Row = db.Row
Event = Literal["accepted", "delivered", "failed", "finished", "replayed"]
Topic = Literal["ready", "access", "replays", "endpoints"]
"""What processes on one database tell each other: work is ready; keys, tenants or secrets changed;
a filtered replay was made; endpoints changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """How a process seals what it stores: with its `ring` (None: not at all), `payloads` too or
    not. `key_file` is the file that a key of the ring was read from, if any."""

    ring: Keyring | None = None
    payloads: bool = False
    key_file: Path | None = None


PLAIN: Final = Sealing()
JOB_COUNT: Final = "job:"
"""Before the states of jobs, where they are counted beside those of callbacks."""
OUTPUTS_COUNT: Final = "outputs"
"""Among those states: how many bytes the live outputs of a tenant have."""


@dataclass(frozen=True, slots=True)
class NextJob:
    """When the next job may start, by this process's clock; None when none waits that could."""

    at_ms: int | None


@dataclass(slots=True)
class ChangeSet:
    """What a commit changed: lanes to refresh, those among them that may have been forgotten (each
    with the row of its destination, where nobody registered that), what to tell other processes,
    tenants that a claim served (and when), others to schedule though none of their lanes changed,
    and those whose schedules are to go if they are idle (since when), how far the counts, the
    stored bytes of tenants, those of their outputs and the rates moved, and what was appended to
    the audit trail. Of jobs: endpoints and queues to refresh, how many more wait in a queue and at
    an endpoint (negative: less), how many more have ended in a state, which came to an end or were
    taken from their process, which have something else that is news to who follows them, and when
    the next may start (None: nothing touched jobs). `before` is what was changed outside of a
    savepoint, before it."""

    before: "ChangeSet | None" = None
    lanes: set[str] = field(default_factory=set)
    revived: dict[str, Row | None] = field(default_factory=dict)
    topics: set[Topic] = field(default_factory=set)
    served_tenants: set[str] = field(default_factory=set)
    served_ms: int = 0
    tenants: set[str] = field(default_factory=set)
    idle_tenants: set[str] = field(default_factory=set)
    idle_since_ms: int = 0
    counts: Counter[tuple[str, State]] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    outputs: Counter[str] = field(default_factory=Counter)
    events: Counter[tuple[str, Event]] = field(default_factory=Counter)
    entries: list[Entry] = field(default_factory=list)
    endpoints: set[str] = field(default_factory=set)
    queues: set[str] = field(default_factory=set)
    waiting: Counter[str] = field(default_factory=Counter)
    waiting_at: Counter[str] = field(default_factory=Counter)
    job_counts: Counter[tuple[str, JobState]] = field(default_factory=Counter)
    ended_jobs: list[str] = field(default_factory=list)
    news: set[str] = field(default_factory=set)
    next_job: "NextJob | None" = None

    @property
    def all_lanes(self) -> set[str]:
        """Every lane that this commit has changed until now."""
        return self.lanes if self.before is None else self.lanes | self.before.all_lanes

    def absorb(self, other: "ChangeSet") -> None:
        """Take over what a savepoint changed. (`Counter.update` adds, negative numbers too.)"""
        self.lanes |= other.lanes
        self.revived |= other.revived
        self.topics |= other.topics
        self.served_tenants |= other.served_tenants
        self.served_ms = max(self.served_ms, other.served_ms)
        self.tenants |= other.tenants
        self.idle_tenants |= other.idle_tenants
        self.idle_since_ms = max(self.idle_since_ms, other.idle_since_ms)
        self.counts.update(other.counts)
        self.bytes.update(other.bytes)
        self.outputs.update(other.outputs)
        self.events.update(other.events)
        self.entries += other.entries
        self.endpoints |= other.endpoints
        self.queues |= other.queues
        self.waiting.update(other.waiting)
        self.waiting_at.update(other.waiting_at)
        self.job_counts.update(other.job_counts)
        self.ended_jobs += other.ended_jobs
        self.news |= other.news

    def queued(self, endpoint: str, queue: str, count: int) -> None:
        """Count that so many more jobs wait in this queue; negative: less."""
        self.endpoints.add(endpoint)
        self.queues.add(queue)
        self.waiting[queue] += count
        self.waiting_at[endpoint] += count

    def more_waiting(self, endpoint: str) -> int:
        """Return how many more jobs wait for an endpoint than when the commit began."""
        before = 0 if self.before is None else self.before.more_waiting(endpoint)
        return before + self.waiting_at[endpoint]

    def more_in(self, queue: str) -> int:
        """Return how many more jobs wait in a queue than when the commit began."""
        before = 0 if self.before is None else self.before.more_in(queue)
        return before + self.waiting[queue]

    @property
    def all_endpoints(self) -> set[str]:
        """Every endpoint that this commit has changed until now."""
        return self.endpoints if self.before is None else self.endpoints | self.before.all_endpoints

    def moved(self, tenant: str, before: State | None, after: State | None) -> None:
        """Count that a callback of `tenant` came (from None), went (to None) or changed state."""
        if before is not None:
            self.counts[tenant, before] -= 1
        if after is not None:
            self.counts[tenant, after] += 1

    def job_moved(self, tenant: str, before: JobState | None, after: JobState | None) -> None:
        """Count the same of a job, where it ends or has ended: what waits and runs is counted by
        its queues and endpoints."""
        if before is not None and before in FINAL:
            self.job_counts[tenant, before] -= 1
        if after is not None and after in FINAL:
            self.job_counts[tenant, after] += 1

    def output(self, tenant: str, size: int) -> None:
        """Count so many more bytes of outputs; negative: less."""
        if size:
            self.bytes[tenant] += size
            self.outputs[tenant] += size

    def moves(self) -> list[tuple[str, str, int, int]]:
        """Return what changed, as (tenant, state, by how many, by how many bytes); states of jobs
        after JOB_COUNT. The bytes of a tenant stand in the first of its rows, since only their sum
        means something."""
        left = {tenant: size for tenant, size in self.bytes.items() if size}
        moves: list[tuple[str, str, int, int]] = [
            (tenant, state, n, left.pop(tenant, 0))
            for (tenant, state), n in self.counts.items()
            if n
        ]
        moves += [
            (tenant, JOB_COUNT + state, n, left.pop(tenant, 0))
            for (tenant, state), n in self.job_counts.items()
            if n
        ]
        moves += [
            (tenant, OUTPUTS_COUNT, size, left.pop(tenant, 0))
            for tenant, size in self.outputs.items()
            if size
        ]
        moves += [(tenant, "dead", 0, size) for tenant, size in left.items()]
        return moves


class Tx(db.Tx, Protocol):
    """Plain SQL in, tuples out. Parameters are `?`."""

    changes: ChangeSet
    statements: "Statements"
    job_statements: "JobStatements"
    ring: Keyring | None = None
    """The keys of this process: `rows` seals and opens with them."""
    seals_payloads: bool = False
    """Whether new payloads are sealed too."""
    sole_owner: bool
    """Whether no other process uses the database."""
    skew_ms: int
    """How far the database's clock, which all its users share, is ahead of this process's."""
    for_update: str
    """What ends a SELECT of rows that nobody else may change until the transaction ends."""
    held: frozenset[str]
    """The lanes, and servers of lanes, that are locked until the end of the transaction."""
    tight: frozenset[str]
    """Servers that this transaction would lease more for than it may without holding them."""
    held_endpoints: frozenset[str]
    """The endpoints that are locked until then."""
    blocked: frozenset[str]
    """Those of `held` whose work waited for their server when they were locked."""

    def at(self, process_ms: int) -> int:
        """Return a time of this process's clock by the database's clock."""
        return process_ms + self.skew_ms

    def here(self, database_ms: int) -> int:
        """Return a time of the database's clock by this process's clock."""
        return database_ms - self.skew_ms

    def holds_endpoint(self, endpoint: str) -> bool:
        """Whether this transaction may change an endpoint's jobs."""
        return self.sole_owner or endpoint in self.held_endpoints

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo everything inside, changes too, if it raises."""
        outer, held, self.changes = self.changes, self.held, ChangeSet(self.changes)
        held_endpoints = self.held_endpoints
        try:
            with super().savepoint():  # type: ignore[safe-super]  # the dialect's own
                yield
        except BaseException:
            self.changes, self.held, self.held_endpoints = outer, held, held_endpoints
            raise
        outer.absorb(self.changes)
        self.changes = outer

    def write(self, sql: str, *params: object) -> list[Row]:
        """Return what a statement that writes returns."""

    def bulk(self, sql: str, rows: Sequence[Sequence[object]]) -> int:
        """Run a bulk statement of `statements` for all rows; return how many were changed."""

    def ids(self, values: Iterable[str]) -> object:
        """Return a list of ids as the one parameter that `statements` take it by."""

    def touch(self, *, probe: bool) -> None:
        """Have the commit write something, whatever else it does: with `probe` as much as a submit
        does, as proof that the disk takes it."""

    def notify(self, topic: Topic) -> None:
        """Have the commit tell the other processes."""
        self.changes.topics.add(topic)

    def acquire(self, name: str) -> bool:
        """Whether this process is the one that has `name`: the first that asks, while it lives."""


class Statements(Protocol):
    """What differs by database, under the same names in `sqlite/statements.py` and
    `postgres/statements.py`: SQL, and functions where not only the SQL does.

    `ids` is a parameter that `Tx.ids` made; `bulk` is run by `Tx.bulk`, with rows of these values.
    """

    # Lanes
    def hold_servers(self, tx: Tx, servers: Set[str]) -> None:
        """Hold those of these servers that no other process holds."""

    def blocked(self, tx: Tx, lanes: Iterable[str]) -> set[str]:
        """Return the lanes beside these whose work waits for their common server."""

    MAKE_LANES: str  # concurrency, window, now_ms, ids; returns the ids that it made
    MAKE_SCHEDULES: str  # served_ms, ids

    def refresh_lanes(self, tx: Tx, lanes: Set[str]) -> list[Row]:
        """Recompute when these lanes are next ready; return the tenant of each that changed."""

    def refresh_schedules(
        self, tx: Tx, tenants: Set[str], served: Set[str], served_ms: int
    ) -> None:
        """Recompute when these tenants are next ready; those that were served go behind others.
        What was forgotten of them is made again."""

    FORGET_SCHEDULES: str  # ids, idle since; the last that a transaction asks for
    NEXT_READY: str
    FORGET_LANES: str  # ids, idle since; returns their ids
    FORGET_DESTINATIONS: str  # ids, idle since

    # Submit
    TARGETS: str  # now_ms, concurrency, window, ids
    INSERT_DESTINATIONS: str  # bulk: id, tenant, url, created_ms, last_url, last_url_ms

    def insert_callbacks(self, tx: Tx, rows: Sequence[Row], payloads: Sequence[Row]) -> set[str]:
        """Store rows of `rows.NEW_CALLBACK`, with their payloads (rows of `rows.payload`), where
        their key is free; return the ids of those."""

    INSERT_TAGS: str  # bulk: tenant, key, value, callback

    # Claim
    WAITING_TENANTS: str  # now_ms, three times

    def ready_lanes(
        self, tx: Tx, ready: str, tenants: Sequence[str], now_ms: int, limit: int
    ) -> list[Row]:
        """Return at most `limit` ready lanes of each tenant, in the order in which they are to be
        served and held from now on: id, tenant, free slots, rate, paced_ms, and how many more its
        server may have in flight (None where that has one lane), and how many at most."""

    DUE: str  # ids, class, now_ms, limit
    SERVE_LANES: str  # bulk: served_ms, paced_ms, id

    def lease(self, tx: Tx, leases: Sequence[tuple[int, str]]) -> list[Row]:
        """Lease deliveries (lease's end, id); return rows of `rows.LEASED` in their order."""

    # Keys
    SET_KEYS_USED: str  # bulk: used_ms, previous_used_ms, id

    # Settle
    def held(self, tx: Tx, callbacks: Set[str], lanes: Set[str]) -> tuple[list[Row], list[Row]]:
        """Return of these callbacks: id, fence, whether they are cancelled, and whether sending; of
        these lanes: id, the destination's epoch, concurrency, the failures of their server, and the
        fields of Health."""

    RECORDED: str  # ids

    def record(self, tx: Tx, settled: Sequence[Row], attempts: Sequence[Row]) -> None:
        """Store the deliveries' new states, and their attempts."""

    SET_TURNED_AWAY: str  # bulk: turned_away, turned_away_ms, id
    SET_HEALTH: str  # bulk: the fields of Health, last_error, id


class JobStatements(Protocol):
    """The same for the verbs of jobs: `sqlite/job_statements.py`, `postgres/job_statements.py`."""

    IN: str  # what follows a column that is to be one of `ids`

    # What a commit leaves
    REFRESH_QUEUES: str  # bulk: how many more wait, id
    REFRESH_ENDPOINTS: str  # bulk: how many more wait, endpoint
    STALE_ENDPOINTS: str  # ids; returns those of which something else is shown than there is

    def lives(self, tx: Tx, process: str) -> bool:
        """Whether a process may run jobs: nobody has called it dead, nor can before this
        transaction ends."""

    # Submit
    def insert_jobs(self, tx: Tx, rows: Sequence[Row]) -> set[str]:
        """Store rows of `jobs.rows.NEW_JOB`; return the ids of those whose key was free."""

    PUT_QUEUES: str  # bulk: id, endpoint, tenant, ticket, begun
    INSERT_INPUTS: str  # bulk: job, content_type, body, kid
    INSERT_JOB_TAGS: str  # bulk: tenant, key, value, job

    # Claim
    def ready_endpoints(self, tx: Tx, touched: Sequence[str], now_ms: int, limit: int) -> list[Row]:
        """Return at most `limit` ready endpoints, those that were `touched` among them, in the
        order in which they are to be served and held from now on: `jobs.claim.READY`."""

    READY_QUEUES: str  # endpoints (ids), limit, now_ms; returns `jobs.claim.QUEUE`
    READY_QUEUES_BUT: str  # the same, and tenants (ids) that are passed over
    RUNNING_JOBS: str  # returns tenants, and how many of their jobs run
    BUSY_JOBS: str  # returns endpoints, and how many of their places are taken

    def hold_tenants(self, tx: Tx, tenants: Sequence[str]) -> set[str]:
        """Hold those of these tenants, for starting their jobs, that no other process holds, until
        the end of the transaction; return them."""

    DUE_JOBS: str  # queues (ids), limit, now_ms; returns `jobs.claim.DUE`

    def start_jobs(self, tx: Tx, process: str, now_ms: int, ids: Sequence[str]) -> list[Row]:
        """Have a process run these jobs; return rows of `jobs.rows.CLAIMED` of those that have an
        input."""

    SERVE_QUEUES: str  # bulk: turn, begun, id
    SERVE_ENDPOINTS: str  # bulk: turn, starts, paced_ms, served_ms, endpoint

    # Settle
    SETTLE_JOBS: str  # bulk: `jobs.rows.SETTLED`, id
    PUT_OUTPUTS: str  # bulk: job, run, content_type, headers, body, kid, ended_ms
    INSERT_JOB_ATTEMPTS: str  # bulk: `jobs.rows.ATTEMPT`
    SET_ENDPOINT_HEALTH: str  # bulk: the fields of Health, now_ms, endpoint

    def add_measures(self, tx: Tx, durations: Sequence[Row], usage: Sequence[Row]) -> None:
        """Add rows of `durations`, at least one, and of `jobs.rows.USAGE` to what there is."""

    ADD_USAGE: str  # bulk: `jobs.rows.USAGE`

    # Ends, and what leads back to the queue
    END_JOBS: str  # bulk: `jobs.rows.ENDED`, id
    REQUEUE_JOBS: str  # bulk: `jobs.rows.REQUEUED`, id


def marks(values: Sequence[object]) -> str:
    """Placeholders for `IN (…)`."""
    return ", ".join("?" * len(values))
