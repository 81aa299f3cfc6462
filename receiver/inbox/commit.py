"""Group commit: all that queues while the last commit runs goes into the next one."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from receiver.inbox.tx import Tx
from receiver.message import Message

Op: TypeAlias = Message | Callable[[Any], Any]
"""A message to receive, or a function of the running transaction."""


class GroupCommit:
    """One writer, one transaction, many waiting callers; each is answered once it is on disk.

    `commit` takes a batch and returns an outcome for each of it: a result, or the exception
    that it alone met. Where `commit` itself raises, everyone in the batch is told so, and the
    next one is tried afresh.
    """

    def __init__(
        self, commit: Callable[[Sequence[Op]], Awaitable[Sequence[Any]]], *, rows_max: int
    ) -> None:
        self._commit = commit
        self._rows_max = rows_max
        self._waiting: deque[tuple[Op, asyncio.Future[Any]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="group commit")

    @property
    def is_closing(self) -> bool:
        return self._closing

    def submit(self, op: Op) -> asyncio.Future[Any]:
        """Return the outcome of `op`, once it is on disk. A cancelled caller's op may still be
        done."""
        future = self._loop.create_future()
        self._waiting.append((op, future))
        self._wake.set()
        return future

    async def close(self) -> None:
        """Commit what waits, then stops."""
        self._closing = True
        self._wake.set()
        await self._task

    async def _run(self) -> None:
        while not (self._closing and not self._waiting):
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                rows = min(len(self._waiting), self._rows_max)
                await self._serve([self._waiting.popleft() for _ in range(rows)])

    async def _serve(self, batch: list[tuple[Op, asyncio.Future[Any]]]) -> None:
        try:
            outcomes = await self._commit([op for op, _ in batch])
        except Exception as error:  # whatever it is, the callers are owed it and the writer goes on
            outcomes = [error] * len(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue  # its caller has gone away
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


def apply(tx: Tx, ops: Sequence[Op]) -> list[Any]:
    """All of a batch: the messages together, then the rest one after another."""
    messages = [op for op in ops if isinstance(op, Message)]
    verdicts = iter(tx.receive(messages) if messages else ())
    return [next(verdicts) if isinstance(op, Message) else op(tx) for op in ops]


def apply_alone(tx: Tx, ops: Sequence[Op], is_fatal: Callable[[Exception], bool]) -> list[Any]:
    """Each in a savepoint of its own: what one raises is its own outcome, and undoes its own
    writes only. What is fatal is the database's trouble, and everyone's."""
    return [_alone(tx, op, is_fatal) for op in ops]


def _alone(tx: Tx, op: Op, is_fatal: Callable[[Exception], bool]) -> Any:
    try:
        with tx.savepoint():
            return tx.receive([op])[0] if isinstance(op, Message) else op(tx)
    except Exception as error:
        if is_fatal(error):
            raise
        return error
