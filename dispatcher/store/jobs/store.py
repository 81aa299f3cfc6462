"""The verbs of jobs and endpoints, beside those of callbacks: on the same database, in the same
commits (`Store.jobs`).

Times are integer milliseconds by this process's clock, and always arguments. `process` is who runs
jobs. What a verb raises beside what is named are StoreUnavailable and StoreFull, as everywhere.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from dispatcher.audit import Entry
from dispatcher.jobs.endpoint import Endpoint
from dispatcher.jobs.values import ClaimedJob, Job, JobClaimRequest, NewJob, SubmittedJob
from dispatcher.store.jobs import endpoints, processes, views
from dispatcher.store.jobs.touched import of_endpoint
from dispatcher.store.lanes import Lanes, none
from dispatcher.store.requests import JobSubmitRequest
from dispatcher.store.tx import Tx
from receiver.base.db.readers import SERVICE, Reader

T = TypeVar("T")
Read = Callable[[Callable[[Tx], Any], Reader], Awaitable[Any]]


class Write(Protocol):
    """How a verb gets to the database: as `Store.write`."""

    async def __call__(
        self,
        act: Callable[[Tx], T],
        *,
        lanes: Lanes = none,
        tenant: str | None = None,
        entries: Sequence[Entry] = (),
    ) -> T:
        """Return what `act` did, once it is durable."""


class JobStore:
    """The verbs. Of those that write, `touched` is what the operation is about."""

    def __init__(
        self,
        commit: Callable[[object, str | None], Awaitable[Any]],
        write: Write,
        read: Read,
    ) -> None:
        self._commit = commit
        self._write = write
        self._read = read

    # --- endpoints ---

    async def put_endpoint(
        self, new: Endpoint, *, create: bool, now_ms: int, entries: Sequence[Entry] = ()
    ) -> Endpoint:
        """Make an endpoint (`create`), or change the one that there is: its rules act on the
        backlog at once, and one with another URL or method forgets what was learned of the last.
        Of `new`, `created_ms` and `epoch` do not matter, nor does `paused` for a change. Raises
        Conflict (the name is taken, or what waited for a removed one has not ended), NotFound."""
        return await self._write(
            lambda tx: endpoints.put(tx, new, create=create, now_ms=now_ms),
            lanes=of_endpoint(new.name),
            entries=entries,
        )

    async def endpoint(self, name: str) -> Endpoint:
        """Raise NotFound."""
        found: Endpoint = await self._read(lambda tx: endpoints.get(tx, name), SERVICE)
        return found

    async def endpoints(self) -> Sequence[Endpoint]:
        """In the order of their names, without those that were removed."""
        found: Sequence[Endpoint] = await self._read(endpoints.endpoints, SERVICE)
        return found

    async def set_paused(
        self, name: str, *, paused: bool, now_ms: int, entries: Sequence[Entry] = ()
    ) -> Endpoint:
        """Start no more of its jobs, or go on, which ends holds and the circuit. Raises
        NotFound."""
        return await self._write(
            lambda tx: endpoints.set_paused(tx, name, paused=paused, now_ms=now_ms),
            lanes=of_endpoint(name),
            entries=entries,
        )

    async def remove_endpoint(
        self, name: str, *, now_ms: int, entries: Sequence[Entry] = ()
    ) -> None:
        """Take no more for it and start nothing; what runs goes on, and what waits is cancelled
        slice by slice. Raises NotFound."""
        await self._write(
            lambda tx: endpoints.remove(tx, name, now_ms=now_ms),
            lanes=of_endpoint(name),
            entries=entries,
        )

    # --- the path of a job ---

    async def submit(self, new: NewJob, *, process: str | None = None) -> SubmittedJob:
        """Store durably. With `process`, which has a place reserved for it, it is started in the
        commit if its endpoint is idle, has a place and no rate (`claimed`). The same key and
        content again is the same job, in its present state (`duplicate`). Raises NotFound (no such
        endpoint), KeyReused, JobQueueFull."""
        submitted: SubmittedJob = await self._commit(JobSubmitRequest(new, process), new.tenant)
        return submitted

    async def claim(self, request: JobClaimRequest) -> list[ClaimedJob]:
        """Start due jobs, at most `request.places`: endpoints in turn, none beyond its window and
        rate; at each its queues in turn, and of each its jobs by class and ticket."""
        claimed: list[ClaimedJob] = await self._commit(request, None)
        return claimed

    # --- looking ---

    async def get(self, tenant: str, job: str, *, output: bool = False) -> Job:
        """Return a job, with its `output` where that is asked for and there. Raises NotFound."""
        found: Job = await self._read(
            lambda tx: views.get(tx, tenant, job, output=output), Reader(tenant)
        )
        return found

    # --- processes ---

    async def beat(self, process: str, *, begins: bool, now_ms: int) -> Mapping[str, int] | None:
        """Count this process's beat up, or have it begin; return the beats of all others. None
        where its own is gone, since somebody has called it dead."""
        return await self._write(
            lambda tx: processes.beat(tx, process, begins=begins, now_ms=now_ms)
        )

    async def leave(self, process: str) -> None:
        """Have nobody watch this process any more: it runs nothing."""
        await self._write(lambda tx: processes.leave(tx, process))
