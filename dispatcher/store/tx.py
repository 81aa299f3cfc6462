"""What the verbs see of the running transaction, and of the statements that differ by database."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

from dispatcher.audit import Entry
from dispatcher.states import State
from receiver.base import db
from receiver.base.keyring import Keyring

Row = db.Row
Event = Literal["accepted", "delivered", "failed", "finished"]
Topic = Literal["ready", "access", "replays"]
"""What processes on one database tell each other: work is ready; keys, tenants or secrets changed;
a filtered replay was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """How a process seals what it stores: with its `ring` (None: not at all), `payloads` too or
    not. `key_file` is the file that a key of the ring was read from, if any."""

    ring: Keyring | None = None
    payloads: bool = False
    key_file: Path | None = None


PLAIN: Final = Sealing()


@dataclass(slots=True)
class ChangeSet:
    """What a commit changed: lanes to refresh, those among them that may have been forgotten (each
    with the row of its destination, where nobody registered that), what to tell other processes,
    tenants that a claim served (and when), how far the counts, the stored bytes of tenants and the
    rates moved, and what was appended to the audit trail. `before` is what was changed outside of a
    savepoint, before it."""

    before: "ChangeSet | None" = None
    lanes: set[str] = field(default_factory=set)
    revived: dict[str, Row | None] = field(default_factory=dict)
    topics: set[Topic] = field(default_factory=set)
    served_tenants: set[str] = field(default_factory=set)
    served_ms: int = 0
    counts: Counter[tuple[str, State]] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    events: Counter[tuple[str, Event]] = field(default_factory=Counter)
    entries: list[Entry] = field(default_factory=list)

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
        self.counts.update(other.counts)
        self.bytes.update(other.bytes)
        self.events.update(other.events)
        self.entries += other.entries

    def moved(self, tenant: str, before: State | None, after: State | None) -> None:
        """Count that a callback of `tenant` came (from None), went (to None) or changed state."""
        if before is not None:
            self.counts[tenant, before] -= 1
        if after is not None:
            self.counts[tenant, after] += 1

    def moves(self) -> list[tuple[str, State, int, int]]:
        """Return what changed, as (tenant, state, by how many, by how many bytes). The bytes of a
        tenant stand in the first of its rows, since only their sum means something."""
        left = {tenant: size for tenant, size in self.bytes.items() if size}
        moves = [
            (tenant, state, n, left.pop(tenant, 0))
            for (tenant, state), n in self.counts.items()
            if n
        ]
        moves += [(tenant, "dead", 0, size) for tenant, size in left.items()]
        return moves


class Tx(db.Tx, Protocol):
    """Plain SQL in, tuples out. Parameters are `?`."""

    changes: ChangeSet
    statements: "Statements"
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
    blocked: frozenset[str]
    """Those of `held` whose work waited for their server when they were locked."""

    def at(self, process_ms: int) -> int:
        """Return a time of this process's clock by the database's clock."""
        return process_ms + self.skew_ms

    def here(self, database_ms: int) -> int:
        """Return a time of the database's clock by this process's clock."""
        return database_ms - self.skew_ms

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo everything inside, changes too, if it raises."""
        outer, held, self.changes = self.changes, self.held, ChangeSet(self.changes)
        try:
            with super().savepoint():  # type: ignore[safe-super]  # the dialect's own
                yield
        except BaseException:
            self.changes, self.held = outer, held
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
    MAKE_SCHEDULES: str  # ids
    REFRESH_LANES: str  # ids; returns the tenant of each that changed

    def refresh_schedules(
        self, tx: Tx, tenants: Set[str], served: Set[str], served_ms: int
    ) -> None:
        """Recompute when these tenants are next ready; those that were served go behind others."""

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
    SET_HEALTH: str  # bulk: the fields of Health, id


def marks(values: Sequence[object]) -> str:
    """Placeholders for `IN (…)`."""
    return ", ".join("?" * len(values))
