"""A deadline for what a task awaits."""

import asyncio
from types import TracebackType
from typing import Self


class Deadline:
    """As `asyncio.timeout`, of which nothing is awaited: a `with` block that raises TimeoutError
    where it lasts for longer than `seconds`. In a third of the calls: each attempt has one."""

    __slots__ = ("_cancelling", "_seconds", "_task", "_timer", "expired")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.expired = False

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a deadline is for what a task awaits")
        self._task, self._cancelling = task, task.cancelling()
        self._timer = loop.call_later(self._seconds, self._expire)
        return self

    def _expire(self) -> None:
        self.expired = True
        self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if not self.expired:
            return
        ours_alone = self._task.uncancel() <= self._cancelling  # else somebody's goes on
        if ours_alone and kind is asyncio.CancelledError:
            raise TimeoutError from error
