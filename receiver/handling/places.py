"""How many handlers may be at work: a place for each, and none for those that hang."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from receiver.base import log

Task: TypeAlias = "asyncio.Task[None]"


class Places:
    """Tasks that have a place, and those that were set aside: as many of them as there are places
    keep nobody waiting; beyond that they do, since threads must be bounded too."""

    def __init__(self, count: int, on_free: Callable[[], None]) -> None:
        self._count = count
        self._on_free = on_free
        self.tasks: set[Task] = set()
        self._aside: set[Task | None] = set()

    @property
    def free(self) -> int:
        """How many more may start."""
        aside = min(len(self._aside), self._count)
        return max(0, self._count - len(self.tasks) + aside)

    @property
    def all_hang(self) -> bool:
        """Whether nothing is started until one of those that were set aside ends."""
        return len(self._aside) >= 2 * self._count

    def take(self, task: Task) -> None:
        """For a task's whole life."""
        self.tasks.add(task)
        task.add_done_callback(self._leave)

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Yield this task's place is another one's for a while."""
        task = asyncio.current_task()
        self._aside.add(task)
        if self.all_hang:
            log.event("handling waits", logging.ERROR, hanging=len(self._aside))
        self._on_free()
        try:
            yield
        finally:
            self._aside.discard(task)

    async def empty(self, timeout_s: float) -> None:
        """Until no task is left, or for that long."""
        if self.tasks:
            await asyncio.wait(tuple(self.tasks), timeout=timeout_s)

    def _leave(self, task: Task) -> None:
        self.tasks.discard(task)
        self._on_free()
        if not task.cancelled() and (error := task.exception()):
            log.LOGGER.error("bug", exc_info=error)
