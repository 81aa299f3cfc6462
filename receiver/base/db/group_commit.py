"""Group commit: whatever queues up while the last commit ran shares the next one, tenants in turn,
and an operation that fails does so alone."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from receiver.base.db import DatabaseUnavailable

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Apply: TypeAlias = Callable[[Sequence[Any]], Awaitable[Sequence[object]]]
"""Commits operations in one transaction and returns, in their order, each one's result or the
exception that it alone met. Raises when nothing was committed: PoisonedBatch where one of them is
to blame, and what each caller gets where none is."""

Bulk: TypeAlias = Callable[[Any, Sequence[Any]], Sequence[object]]
"""Applies operations of one kind within a transaction; returns a result for each."""


class Operation(Protocol[T_co]):
    """Something to commit; the type says what its caller gets."""


@dataclass(frozen=True, slots=True)
class Write(Generic[T]):
    """An operation that is one function of the running transaction."""

    act: Callable[[Any], T]


def write_all(tx: Any, writes: Sequence[Write[Any]]) -> Sequence[object]:
    """Apply each write, one after another."""
    return [write.act(tx) for write in writes]


# Most operations of one tenant in a commit that others wait in, and how long it counts as one of
# several after another one's last operation. A commit takes a few milliseconds then.
SHARE: Final = 32
_TOGETHER_S: Final = 5.0
# Where the last commit held several operations, one begins once so many turns of the loop in a row
# have brought nothing that could join it, and waits no longer than that where each brings more.
_SEVERAL: Final = 4
_STILL_TURNS: Final = 2
_GATHER_S: Final = 0.002
# So much of each commit is for tenants, whatever goes before them.
_TENANTS_PART: Final = 4

_Waiting: TypeAlias = tuple[object, asyncio.Future[Any]]


class QueueFull(DatabaseUnavailable):
    """Too much of one tenant waits to be committed: it is to slow down."""


class GroupCommit:
    """One writer, one transaction, many waiting callers, each answered after the commit.

    What belongs to no tenant goes first. Tenants are served in turn: one that has thousands waiting
    makes nobody else's wait longer. While there are several, each has a share of a commit, and a
    commit is short; one that is alone fills it.
    """

    def __init__(self, apply: Apply, *, operations_max: int, waiting_max: int = 1 << 30) -> None:
        """`waiting_max` is how many operations of one tenant may wait."""
        self._apply = apply
        self._operations_max = operations_max
        self._waiting_max = waiting_max
        self._first: deque[_Waiting] = deque()
        self._tenants: OrderedDict[str, deque[_Waiting]] = OrderedDict()  # in turn
        self._alone: str | None = None  # whose operations alone waited last; "" where several did
        self._together_until_s = 0.0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.is_closing = False
        self._came = 0  # operations, since it began

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.create_task(self._run(), name="group-commit")

    async def close(self) -> None:
        """Commit what is queued, then stop."""
        self.is_closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    def do(self, operation: Operation[T], tenant: str | None = None) -> asyncio.Future[T]:
        """Return the future of `operation`'s result, or of what it raised: known once it is
        durable. One that is cancelled does not take its operation back, which may be on disk
        already. Raises RuntimeError once closed, and QueueFull where too much of the tenant's
        waits."""
        if self.is_closing:
            raise RuntimeError("the database is closed")
        if tenant is None:
            queue = self._first
        else:
            queue = self._tenants.get(tenant) or self._tenants.setdefault(tenant, deque())
            if len(queue) >= self._waiting_max:
                raise QueueFull(f"{len(queue)} others of this tenant wait to be stored; slow down")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        queue.append((operation, future))
        self._came += 1
        self._wake.set()
        return future

    async def _run(self) -> None:
        size = 0  # of the last commit
        while not (self.is_closing and not self._first and not self._tenants):
            await self._wake.wait()
            self._wake.clear()
            while self._first or self._tenants:
                if size >= _SEVERAL:
                    await self._gather()
                batch = self._next()
                size = len(batch)
                await self._commit(batch)

    async def _gather(self) -> None:
        """Wait for those who can be heard by now, since what they ask for costs least in the same
        commit: a request that has arrived, or somebody who goes on after the last commit, comes
        here within two turns of the loop."""
        by_s, still, came = time.monotonic() + _GATHER_S, 0, self._came
        while still < _STILL_TURNS and time.monotonic() < by_s:
            await asyncio.sleep(0)
            still = still + 1 if came == self._came else 0
            came = self._came

    def _next(self) -> list[_Waiting]:
        """Return what the next commit holds."""
        first, room = self._first, self._operations_max
        reserved = room // _TENANTS_PART if self._tenants else 0
        batch = [first.popleft() for _ in range(min(len(first), room - reserved))]
        if self._tenants and len(batch) < room:
            self._take_in_turn(batch, room - len(batch))
        return batch

    def _take_in_turn(self, batch: list[_Waiting], room: int) -> None:
        share = self._share(room)
        for _ in range(len(self._tenants)):
            tenant, queue = self._tenants.popitem(last=False)
            count = min(len(queue), share, room)
            batch += [queue.popleft() for _ in range(count)]
            room -= count
            if queue:
                self._tenants[tenant] = queue  # behind the others
            if not room:
                return

    def _share(self, room: int) -> int:
        """Return how much of the next commit each tenant may have."""
        tenant, count = next(iter(self._tenants)), len(self._tenants)
        now_s = time.monotonic()
        if count > 1 or self._alone not in (None, tenant):
            self._together_until_s = now_s + _TOGETHER_S
        self._alone = tenant if count == 1 else ""
        return room if now_s >= self._together_until_s else max(1, min(SHARE, room // count))

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        """Commit a batch. Where an operation fails it as a whole, in whatever part of it, nothing
        is committed, and the two halves are tried apart: so the one to blame is found, and fails
        alone."""
        try:
            results = await self._apply([operation for operation, _ in batch])
        except PoisonedBatch as error:
            if len(batch) > 1:
                half = len(batch) // 2
                await self._commit(batch[:half])
                await self._commit(batch[half:])
                return
            results = [error.__cause__ or error]
        except Exception as error:  # each caller decides what its failure means
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue  # its caller has gone away
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


class RetryBatch(Exception):
    """Nothing was committed, and the same batch once more may well be."""


class PoisonedBatch(Exception):
    """An operation failed (its cause says how), and with it the batch, of which nothing was
    committed."""


def apply_kinds(
    kinds: Sequence[tuple[type, Callable[[Sequence[Any]], Sequence[object]]]],
    operations: Sequence[object],
) -> list[object]:
    """Return the operations' results in their order, applied kind by kind in the order of
    `kinds`: each a type and what applies all operations of it."""
    if len(operations) == 1:  # the rule where little is going on
        for kind, apply in kinds:
            if isinstance(operations[0], kind):
                return list(apply(operations))
    results: list[object] = [None] * len(operations)
    found: dict[type, list[int]] = {}
    for place, operation in enumerate(operations):
        found.setdefault(type(operation), []).append(place)
    for kind, apply in kinds:
        places = sorted(
            place for of, of_type in found.items() if issubclass(of, kind) for place in of_type
        )
        if places:
            applied = apply([operations[place] for place in places])
            for place, result in zip(places, applied, strict=True):
                results[place] = result
    return results


def apply_isolated(tx: Any, bulk: Bulk, items: Sequence[object]) -> Sequence[object]:
    """Apply all items in one savepoint; if that fails, one by one, so that only the bad one
    does: what it raised is its result."""
    if len(items) > 1:
        try:
            with tx.savepoint():
                return bulk(tx, items)
        except Exception as error:
            if tx.is_fatal(error):
                raise
    return [_alone(tx, bulk, item) for item in items]


def _alone(tx: Any, bulk: Bulk, item: object) -> object:
    try:
        with tx.savepoint():
            return bulk(tx, [item])[0]
    except Exception as error:  # whatever it is, only its own caller gets it
        if tx.is_fatal(error):
            raise
        return tx.translated(error)
