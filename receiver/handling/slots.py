"""How many handlers may be at work: a slot for each, and none for those that hang."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from receiver.base import log

_LOG: Final = log.get("receiver.handling")

Task: TypeAlias = "asyncio.Task[None]"


class Slots:
    """The tasks that hold a slot. A blocked task lends its slot out: as many blocked tasks as there
    are slots keep nobody waiting; beyond that they do, since threads must be bounded too."""

    def __init__(self, count: int, on_free: Callable[[], None]) -> None:
        self._count = count
        self._on_free = on_free
        self.tasks: set[Task] = set()
        self._blocked: set[Task | None] = set()

    @property
    def free(self) -> int:
        """How many more may start."""
        lent = min(len(self._blocked), self._count)
        return max(0, self._count - len(self.tasks) + lent)

    @property
    def all_blocked(self) -> bool:
        """Whether nothing is started until a blocked task ends."""
        return len(self._blocked) >= 2 * self._count

    def take(self, task: Task) -> None:
        """Give a task a slot until it ends."""
        self.tasks.add(task)
        task.add_done_callback(self._free)

    @contextmanager
    def released_while_blocked(self) -> Iterator[None]:
        """Lend this task's slot out while it waits for a handler that hangs."""
        task = asyncio.current_task()
        self._blocked.add(task)
        if self.all_blocked:
            _LOG.error("handling waits", hanging=len(self._blocked))
        self._on_free()
        try:
            yield
        finally:
            self._blocked.discard(task)

    async def wait_empty(self, timeout_s: float) -> None:
        """Wait until no task is left, at most that long."""
        if self.tasks:
            await asyncio.wait(tuple(self.tasks), timeout=timeout_s)

    def _free(self, task: Task) -> None:
        self.tasks.discard(task)
        self._on_free()
        if not task.cancelled() and (error := task.exception()):
            _LOG.exception("bug", error)
