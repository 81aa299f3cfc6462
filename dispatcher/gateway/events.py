"""Callbacks that tell what jobs do while they run, where their endpoints ask for them: at most so
often, the latest alone, one at a time, and never after the end (the commits see to that)."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher.dialects.callbacks import event_of
from dispatcher.gateway.endpoints import EndpointBook
from dispatcher.ids import new_id, spelled
from dispatcher.jobs.endpoint import Event
from dispatcher.jobs.progress import Progress
from dispatcher.jobs.values import ClaimedJob, Report
from dispatcher.store.errors import StoreError
from dispatcher.store.jobs.events import EventTold
from dispatcher.store.jobs.store import JobStore
from receiver.base import log

_LOG: Final = log.get("dispatcher.gateway")
EVERY_S: Final = 0.5
"""A job is told of at most so often."""
_DUE_MAX: Final = 10_000
_TOGETHER: Final = 50  # in one commit


@dataclass(slots=True)
class _Due:
    """What is to be told of a job next."""

    job: ClaimedJob
    event: Event
    progress: Progress | None = None
    output: bytes | None = None


class EventCallbacks:
    """Tells of jobs that run here, and of those whose reports came here. `job_of` returns one whose
    call is open here."""

    def __init__(
        self,
        store: JobStore,
        book: EndpointBook,
        job_of: Callable[[str, int], ClaimedJob | None],
        public_url: str,
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._book = book
        self._job_of = job_of
        self._public_url = public_url
        self._clock = clock
        self._due: dict[str, _Due] = {}
        self._telling: asyncio.Task[None] | None = None
        self._looking: set[asyncio.Task[None]] = set()

    def started(self, job: ClaimedJob) -> None:
        """Tell that the first call of a run begins."""
        if job.started_ms >= job.claimed_ms and self._is_asked(job, "start"):
            self._add(_Due(job, "start"))

    def output(self, job: ClaimedJob, value: bytes) -> None:
        """Tell of the newest piece of a job's output, a JSON value."""
        if self._is_asked(job, "output"):
            self._add(_Due(job, "output", output=value))

    def written(self, reports: Sequence[Report]) -> None:
        """Tell of progress that is in the database now."""
        if not any("progress" in one.rules.callback.events for one in self._book.all()):
            return
        elsewhere = []
        for one in reports:
            job = self._job_of(one.job, one.claim)
            if job is None:
                elsewhere.append(one)
            elif self._is_asked(job, "progress"):
                self._add(_Due(job, "progress", progress=one.progress))
        if elsewhere:
            task = asyncio.create_task(self._look_up(elsewhere), name="look-up-reported-jobs")
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def stop(self) -> None:
        """Tell nothing more."""
        tasks = {*self._looking, *([] if self._telling is None else [self._telling])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _is_asked(self, job: ClaimedJob, event: Event) -> bool:
        if job.options.callback is None:
            return False
        endpoint = self._book.find(job.endpoint)
        return endpoint is not None and event in endpoint.rules.callback.events

    def _add(self, due: _Due) -> None:
        if len(self._due) >= _DUE_MAX and due.job.id not in self._due:
            return
        self._due.pop(due.job.id, None)
        self._due[due.job.id] = due
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_all(), name="tell-events")

    async def _look_up(self, reports: Iterable[Report]) -> None:
        """Find what is asked of jobs whose calls are not open here."""
        for one in reports:
            try:
                found = await self._store.running(one.job, one.claim, now_ms=self._clock())
            except StoreError:
                return
            if found is not None and self._is_asked(found.job, "progress"):
                self._add(_Due(found.job, "progress", progress=one.progress))

    async def _tell_all(self) -> None:
        while self._due:
            due, self._due = self._due, {}
            every = list(due.values())
            for at in range(0, len(every), _TOGETHER):
                part = every[at : at + _TOGETHER]
                told = await asyncio.gather(*(self._tell(one) for one in part))
                for one, what in zip(part, told, strict=True):
                    if what == "later":
                        self._due.setdefault(one.job.id, one)
            await asyncio.sleep(EVERY_S)

    async def _tell(self, due: _Due) -> EventTold:
        job, at_ms = due.job, self._clock()
        try:
            new = event_of(
                job,
                due.event,
                id=new_id("cb", at_ms),
                now_ms=at_ms,
                public_url=self._public_url,
                progress=due.progress,
                output=due.output,
            )
            if new is not None:
                return await self._store.tell_event(job.id, job.claim, new, now_ms=at_ms)
        except StoreError as error:  # the next one says more
            shown = spelled(job.id, "v1")
            _LOG.debug("an event of a job is not told", id=shown, reason=str(error))
        except Exception as error:
            _LOG.exception("telling an event of a job failed", error, id=spelled(job.id, "v1"))
        return "gone"
