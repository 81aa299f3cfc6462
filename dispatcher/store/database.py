"""What a database is to the store: a place that commits operations, a batch for everyone who waits,
and answers queries."""

from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

from dispatcher.ids import destination_of
from dispatcher.jobs.values import JobClaimRequest
from dispatcher.store import claim, lanes, settle, submit
from dispatcher.store.access import CurrentSecrets, EndingKey
from dispatcher.store.callbacks import Totals
from dispatcher.store.jobs import claim as job_claim
from dispatcher.store.jobs import scheduling
from dispatcher.store.jobs import settle as job_settle
from dispatcher.store.jobs import submit as job_submit
from dispatcher.store.jobs.figures import JobFigures
from dispatcher.store.jobs.touched import CallbackLane, Touched
from dispatcher.store.lanes import Holding, Lanes
from dispatcher.store.requests import (
    ClaimRequest,
    JobEnd,
    JobSubmitRequest,
    Rules,
    Settlement,
    SubmitRequest,
    Usage,
)
from dispatcher.store.sealing import Counted
from dispatcher.store.tx import ChangeSet, NextJob, Sealing, Tx
from dispatcher.values import NewCallback
from receiver.base.db import migrate
from receiver.base.db.group_commit import (
    RetryBatch,
    Write,
    apply_isolated,
    apply_kinds,
    write_all,
)
from receiver.base.db.migrate import Migration
from receiver.base.db.readers import SERVICE, Reader

T = TypeVar("T")
Dialect = Literal["sqlite", "postgres"]

Erased = Literal["clean", "large", "busy", "elsewhere"]
"""Whether traces of what was deleted are gone from the file; if not: it is too large to be written
anew while all wait, somebody reads an older state of it, or it is a server's."""

OWN_READERS: Final = 2
"""Beside DISPATCHER_READERS: for what the service reads for its own work. Work for tenants, such as
feeding their replays, has one of them at most."""
PLATFORM: Final = Reader("")
"""Who lists what belongs to no tenant, or to all."""


def migrations(dialect: Dialect) -> list[Migration]:
    """Return the dialect's migrations, in order."""
    return migrate.migrations("dispatcher.store", f"migrations/{dialect}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreEvents:
    """What a store calls, on the event loop, when something happened."""

    on_ready: Callable[[int | None], None] = lambda _next_ready_ms: None
    """After a commit, with the time of the next due work, or None."""

    on_commit: Callable[[int, float], None] = lambda _operations, _seconds: None
    """After a commit, with how many operations it held and how many seconds it took."""

    on_access: Callable[[], None] = lambda: None
    """When another process has changed keys, tenants or secrets."""

    on_replays: Callable[[], None] = lambda: None
    """When another process has made a filtered replay."""

    on_jobs_ready: Callable[[int | None], None] = lambda _next_ms: None
    """After a commit that touched jobs, with the time when the next may start, or None; and when
    another process leaves jobs that may start."""

    on_jobs_ended: Callable[[Sequence[str]], None] = lambda _jobs: None
    """With jobs that came to an end or were taken from their process: after a commit, and when
    another process tells, which may be lost."""

    on_jobs_news: Callable[[Collection[str]], None] = lambda _jobs: None
    """With jobs that have something new for who follows them: after a commit, and when another
    process tells, which may be lost."""

    on_endpoints: Callable[[], None] = lambda: None
    """When endpoints were changed, here or by another process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """What the doctor wants to know of a server and its database. `name` is its URL without
    secrets; `skew_s` is how far its clock is ahead of ours; `schema` is 0 where there is none yet;
    rows are those of `callbacks`."""

    name: str
    version: str
    bytes: int
    syncs: bool
    skew_s: float
    sessions_max: int
    sessions: int
    schema: int
    live_rows: int
    dead_rows: int
    oldest_transaction_s: float
    secrets: CurrentSecrets
    ending_keys: Sequence[EndingKey] = ()
    sealed: Sequence[Counted] = ()
    jobs: JobFigures | None = None


@dataclass(frozen=True, slots=True)
class Operation(Write[T]):
    """Something to write that is neither submit, settle nor claim; `lanes` are those it touches."""

    lanes: Lanes = lanes.none


@dataclass(frozen=True, slots=True)
class Committed:
    """What is on disk now: each operation's result or the exception it alone met, what the commit
    changed, and when the next work is ready (by this process's clock)."""

    results: Sequence[object]
    changes: ChangeSet
    next_ready_ms: int | None


class Database(Protocol):
    """One of SQLite's files, or a PostgreSQL database."""

    shared: bool
    """Whether other processes may use it at the same time."""

    usage: Usage
    """As last measured, at most about a second ago."""

    sealing: Sealing
    """How values are sealed; known once it is open."""

    @property
    def skew_ms(self) -> int:
        """How far its clock was ahead of this process's at the last commit."""

    async def open(self, events: StoreEvents, recount: Callable[[Totals], None]) -> None:
        """Open, lock and migrate; `recount` is told what others changed. Raises CannotStart."""

    async def close(self) -> None:
        """Let go."""

    async def backup(self, target: Path) -> None:
        """Write a consistent copy to `target`, while work goes on. Raises Conflict if it exists."""

    async def write(self, operations: Sequence[object], rules: Rules) -> Committed:
        """Apply all operations in one durable transaction.

        A verb that refuses does so alone. Raises when nothing was committed: StoreFull and
        StoreUnavailable, or PoisonedBatch where one of the operations is to blame.
        """

    async def aside(self, act: Callable[[Tx], T], *, synced: bool = False) -> T:
        """Return what `act` did, in a transaction of its own, which is on disk once any later
        commit is, or, if `synced`, when it returns: for what is large and is not looked at before
        that. Raises StoreUnavailable and
        StoreFull."""

    async def read(self, query: Callable[[Tx], T], reader: Reader = SERVICE) -> T:
        """Return what `query` finds in one consistent view, in the turn of whom it is for. Raises
        StoreUnavailable past the deadline, and for one more than may wait."""

    async def shrink(self, *, pages: int) -> int:
        """Give up to `pages` free pages back to the file system; return how many."""

    async def overwrite_deleted(self) -> None:
        """From now on have what is deleted or changed be overwritten in the file."""

    async def erase_deleted(self, *, rewrite: bool) -> Erased:
        """End that, and have nothing of what was there before stay in the file, which is written
        anew (`rewrite`) or has been; return what came of it."""


def apply(tx: Tx, operations: Sequence[object], rules: Rules) -> list[object]:
    """Apply all operations within the running transaction, and bring the lanes that they touched up
    to date. What begins and ends the transaction is each database's own.

    Only kind `Operation`, whose verbs refuse by raising, is worth a savepoint: of whatever else
    raises, here or at the end of the transaction, the batch is applied again in parts.
    """

    def submitted(items: Sequence[SubmitRequest]) -> Sequence[object]:
        return submit.submit(tx, items, rules)

    def claimed(items: Sequence[ClaimRequest]) -> Sequence[object]:
        return [claim.claim(tx, item, rules) for item in items]

    def ended(items: Sequence[JobEnd]) -> Sequence[object]:
        return job_settle.settle(tx, items, rules)

    jobs_asked = False

    def jobs_claimed(items: Sequence[JobClaimRequest]) -> Sequence[object]:
        nonlocal jobs_asked
        jobs_asked = True
        return [job_claim.claim(tx, item) for item in items]

    def jobs_submitted(items: Sequence[JobSubmitRequest]) -> Sequence[object]:
        return job_submit.submit(tx, items, rules)

    # Settling first frees slots, which the same commit fills: with what waits, then what comes new.
    # A submit behind what is due would wait too, and the next ones behind it, each to be claimed.
    kinds = (
        (JobEnd, ended),
        (Settlement, partial(settle.settle, tx)),
        (Operation, partial(_in_order, tx)),
        (JobClaimRequest, jobs_claimed),
        (JobSubmitRequest, jobs_submitted),
        (ClaimRequest, claimed),
        (SubmitRequest, submitted),
    )
    results = apply_kinds(kinds, operations)
    changes = tx.changes
    _revive(tx, rules)
    if changes.endpoints:
        scheduling.refresh(tx)
    if changes.endpoints or jobs_asked:
        changes.next_job = NextJob(scheduling.next_ready_ms(tx))
    touched = lanes.with_blocked(tx, changes.lanes)
    lanes.refresh(tx, touched, changes.served_tenants, changes.served_ms, changes.tenants)
    if changes.idle_tenants:
        tx.run(tx.statements.FORGET_SCHEDULES, tx.ids(changes.idle_tenants), changes.idle_since_ms)
    return results


def _row(operation: Operation[Any]) -> str:
    return operation.lanes.row if isinstance(operation.lanes, Holding) else ""


def _in_order(tx: Tx, operations: Sequence[Operation[Any]]) -> Sequence[object]:
    """Apply operations in the order of the rows that they hold, which they may also make."""
    order = sorted(range(len(operations)), key=lambda place: _row(operations[place]))
    applied = apply_isolated(tx, write_all, [operations[place] for place in order])
    results = dict(zip(order, applied, strict=True))
    return [results[place] for place in range(len(operations))]


def _revive(tx: Tx, rules: Rules) -> None:
    """Bring back lanes that were idle and so forgotten, and unregistered destinations with them.
    Raises RetryBatch where another process has made some: they are to be held first."""
    revived = {lane: row for lane, row in tx.changes.revived.items() if lane not in tx.held}
    if not revived:
        return
    servers = {row[0]: row for row in revived.values() if row is not None}
    if servers:
        made = [servers[server] for server in sorted(servers)]
        tx.bulk(tx.statements.INSERT_DESTINATIONS, made)
    if lanes.make(tx, revived, rules, now_ms=0) != revived.keys() and not tx.sole_owner:
        raise RetryBatch("another process made the same lanes at this moment")


def rows_of(tx: Tx, operations: Sequence[object]) -> tuple[set[str], set[str]]:
    """Return every lane that the batch is known to touch, and every server whose failures it will
    count or forget. What cannot be looked up, since an operation is bad, is left to the operation,
    which fails alone."""
    touched: set[str] = set()
    servers: set[str] = set()
    looked_up: list[Operation[Any]] = []
    for operation in operations:
        if isinstance(operation, Settlement):
            delivery = operation.delivery
            touched.add(delivery.lane)
            if not operation.outcome.connected and delivery.lane != delivery.destination:
                servers.add(delivery.destination)
        elif isinstance(operation, SubmitRequest):
            touched.add(operation.new.lane)
        elif isinstance(operation, JobEnd):
            if operation.callback is not None:
                touched.add(operation.callback.lane)
        elif isinstance(operation, Operation) and operation.lanes is not lanes.none:
            looked_up.append(operation)
    for operation in sorted(looked_up, key=_row):
        found = _looked_up(tx, operation)
        touched |= found
        if isinstance(operation.lanes, Holding) and operation.lanes.clears:
            servers |= {destination_of(lane) for lane in found if destination_of(lane) != lane}
    return touched, servers


def _looked_up(tx: Tx, operation: Operation[Any]) -> set[str]:
    try:
        with tx.savepoint():
            return set(operation.lanes(tx))
    except Exception as error:
        if tx.is_fatal(error):
            raise
        return set()


def endpoints_of(operations: Sequence[object]) -> set[str]:
    """Return the endpoints whose jobs the batch is known to touch, once `rows_of` has looked."""
    endpoints: set[str] = set()
    for one in operations:
        if isinstance(one, JobEnd):
            endpoints.add(one.settlement.job.endpoint)
        elif isinstance(one, JobSubmitRequest):
            endpoints.add(one.new.endpoint)
        elif isinstance(one, Operation) and isinstance(one.lanes, Touched):
            endpoints |= one.lanes.endpoints
    return endpoints


def servers_of(operations: Sequence[object]) -> set[str]:
    """Return the servers with several lanes that the batch may lease for at once: who does so
    without holding one takes no more of it than `fairness.unheld_room`."""
    new = [one.new for one in operations if isinstance(one, SubmitRequest) and one.handover]
    new += [
        one.callback
        for one in operations
        if isinstance(one, JobEnd) and one.callback is not None and one.handover
    ]
    return {one.destination for one in new if one.destination != one.lane}


def unmade(
    tx: Tx, operations: Sequence[object], missing: Set[str], rules: Rules
) -> list[NewCallback | CallbackLane]:
    """Return, of what the batch submits or tells of, one for each lane that is missing and that
    can be made."""
    if not missing:
        return []
    found: list[NewCallback | CallbackLane] = []
    for one in operations:
        if isinstance(one, SubmitRequest) and one.new.lane in missing:
            found.append(one.new)
        elif isinstance(one, JobEnd) and one.callback is not None:
            if one.callback.lane in missing:
                found.append(one.callback)
        elif isinstance(one, Operation) and isinstance(one.lanes, Touched):
            found += one.lanes.made_of(tx, missing)
    return submit.unmade(tx, found, rules)
