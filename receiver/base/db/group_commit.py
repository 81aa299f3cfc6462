"""Group commit: whatever queues up while the last commit ran shares the next one, and an operation
that fails does so alone."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Apply: TypeAlias = Callable[[Sequence[Any]], Awaitable[Sequence[object]]]
"""Commits operations in one transaction and returns, in their order, each one's result or the
exception that it alone met. Raises when nothing was committed: then each caller gets that."""

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


class GroupCommit:
    """One writer, one transaction, many waiting callers, each answered after the commit."""

    def __init__(self, apply: Apply, *, operations_max: int) -> None:
        self._apply = apply
        self._operations_max = operations_max
        self._queue: deque[tuple[object, asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.is_closing = False

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.create_task(self._run(), name="group-commit")

    async def close(self) -> None:
        """Commit what is queued, then stop."""
        self.is_closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    def do(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Return the future of `operation`'s result, or of what it raised: known once it is
        durable. One that is cancelled does not take its operation back, which may be on disk
        already. Raises RuntimeError once closed."""
        if self.is_closing:
            raise RuntimeError("the database is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append((operation, future))
        self._wake.set()
        return future

    async def _run(self) -> None:
        queue = self._queue
        while not (self.is_closing and not queue):
            await self._wake.wait()
            self._wake.clear()
            while queue:
                count = min(len(queue), self._operations_max)
                await self._commit([queue.popleft() for _ in range(count)])

    async def _commit(self, batch: list[tuple[object, asyncio.Future[Any]]]) -> None:
        try:
            results = await self._apply([operation for operation, _ in batch])
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
    """An operation failed, and with it the batch: apply it again, each in a savepoint."""


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
    for kind, apply in kinds:
        places = [n for n, operation in enumerate(operations) if isinstance(operation, kind)]
        if places:
            applied = apply([operations[place] for place in places])
            for place, result in zip(places, applied, strict=True):
                results[place] = result
    return results


def apply_together(tx: Any, bulk: Bulk, items: Sequence[object]) -> Sequence[object]:
    """Apply all items in one go, without a savepoint. Raises PoisonedBatch where one fails: the
    transaction is to be rolled back then."""
    try:
        return bulk(tx, items)
    except Exception as error:
        if tx.is_fatal(error):
            raise
        raise PoisonedBatch from error


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
