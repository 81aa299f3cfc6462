"""Group commit (D3): whatever queues up while the last commit ran shares the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

T_co = TypeVar("T_co", covariant=True)

Apply = Callable[[Sequence[Any]], Awaitable[Sequence[object]]]
"""Commits operations in one transaction and returns, in their order, each one's result or the
exception that it alone met. Raises when nothing was committed: then each caller gets that."""


class Operation(Protocol[T_co]):
    """Something to commit; the type says what its caller gets."""


class GroupCommit:
    """One writer, one transaction, many waiting callers, each answered after the commit.

    A caller that is cancelled does not take its operation back: it may be on disk already.
    """

    def __init__(self, apply: Apply, *, operations_max: int) -> None:
        self._apply = apply
        self._operations_max = operations_max
        self._queue: list[tuple[object, asyncio.Future[object]]] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.create_task(self._run(), name="group-commit")

    async def close(self) -> None:
        """Commit what is queued, then stop."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def do(self, operation: Operation[T_co]) -> T_co:
        """`operation`'s result, once it is durable. Raises what it met."""
        if self._closing:
            raise RuntimeError("the store is closed")
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._queue.append((operation, future))
        self._wake.set()
        return cast(T_co, await future)

    async def _run(self) -> None:
        while not (self._closing and not self._queue):
            await self._wake.wait()
            batch = self._queue[: self._operations_max]
            del self._queue[: self._operations_max]
            if not self._queue and not self._closing:
                self._wake.clear()
            if batch:
                await self._commit(batch)

    async def _commit(self, batch: list[tuple[object, asyncio.Future[object]]]) -> None:
        try:
            results = await self._apply([operation for operation, _ in batch])
        except Exception as error:  # each caller decides what its failure means
            results = [error] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
