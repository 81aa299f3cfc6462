"""What this process runs, and what ends a call before its upstream does: its claim is no longer the
current one, since somebody cancelled the job or another process has taken it over; or this process
stops."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from dispatcher.blobs.spool import Spool
from dispatcher.gateway.streams import Stream
from dispatcher.jobs.endpoint import EndpointRules
from dispatcher.jobs.values import ClaimedJob, HeldJob
from dispatcher.store.errors import StoreError
from dispatcher.store.jobs.store import JobStore
from receiver.base import log

_LOG: Final = log.get("dispatcher.gateway")
_ASKED_MAX: Final = 500  # claims in one question

Closing = Literal["cancelled", "interrupted", "silent"]
"""Why a call is closed before its upstream ends it: its claim has gone, we stop, or it gave no sign
of life."""


@dataclass(slots=True, eq=False)
class Running:
    """A job that this process runs, with so many bytes of its input in memory. `calling`: its call
    has not ended; `gone`: its endpoint was removed before it began. `sign_ms` is when it last gave
    a sign of life, from when its call was made on, and `signs` how many were in the database;
    `chunks` of its answer had come when that was looked at last.
    `doubted`: it is being asked whether its claim is current still."""

    job: ClaimedJob
    input_bytes: int
    task: asyncio.Task[None] | None = None
    begun: bool = False
    calling: bool = True
    closing: Closing | None = None
    gone: bool = False
    rules: EndpointRules | None = field(default=None, repr=False)
    spool: Spool | None = field(default=None, repr=False)
    sign_ms: int | None = None
    signs: int = 0
    chunks: int = 0
    doubted: bool = False
    stream: Stream | None = field(default=None, repr=False)

    @property
    def is_calling(self) -> bool:
        """Whether its call is open, and nobody has closed it yet."""
        return self.calling and self.closing is None

    def close(self, why: Closing) -> None:
        """Close its call, if that is open."""
        if self.is_calling:
            self.closing = why
            if self.begun and self.task is not None:
                self.task.cancel()


class OpenCalls:
    """The jobs that run here, in `process`. What is said to run here and does not is handed back
    once that was so for `lease_ms`."""

    def __init__(
        self,
        store: JobStore,
        process: str,
        clock: Callable[[], int],
        monotonic_ms: Callable[[], int],
        *,
        lease_ms: int,
    ) -> None:
        self._store = store
        self._process = process
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._running: dict[str, list[Running]] = {}  # by id; rarely with several claims of it
        self._astray: dict[HeldJob, int] = {}  # since when
        self._astray_ms = lease_ms
        self._looking: set[asyncio.Task[None]] = set()

    def add(self, one: Running) -> None:
        """Note a job that begins to run."""
        self._running.setdefault(one.job.id, []).append(one)

    def remove(self, one: Running) -> None:
        """Forget a job that has ended here."""
        running = self._running[one.job.id]
        running.remove(one)
        if not running:
            del self._running[one.job.id]

    def all(self) -> list[Running]:
        """Return all that runs here."""
        return [one for running in self._running.values() for one in running]

    def sign(self, job: str, claim: int) -> bool:
        """Note a sign of life of a call under this claim; return whether one is open here, and its
        claim is current as far as is known."""
        for one in self._running.get(job, ()):
            if one.job.claim == claim and one.is_calling:
                one.sign_ms = self._monotonic_ms()
                return not one.doubted
        return False

    def job(self, job: str, claim: int) -> ClaimedJob | None:
        """Return a job whose call is open here under this claim, None where none is."""
        found = (one for one in self._running.get(job, ()) if one.job.claim == claim)
        return next((one.job for one in found if one.is_calling), None)

    def tasks(self) -> set[asyncio.Task[None]]:
        """Return the tasks that see these through."""
        return {one.task for one in self.all() if one.task is not None}

    @property
    def looking(self) -> Collection[asyncio.Task[None]]:
        """The tasks that look at claims, which nobody waits for before a shutdown."""
        return self._looking

    def on_ended(self, jobs: Collection[str]) -> None:
        """Look whether jobs that ended, or were taken from their process, are some whose calls are
        open here. What is told may be old news: only the database says which claims are current."""
        asked = [one for job in jobs for one in self._running.get(job, ()) if one.is_calling]
        for one in asked:
            one.doubted = True
        if asked:
            task = asyncio.create_task(self._look_at(asked), name="look-at-claims")
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def look(self) -> None:
        """Compare what runs here with what the database says of it, in case that nobody could tell:
        close the calls of claims that are no longer ours, and hand back what we were given in a
        commit whose reply was lost."""
        known = [one for one in self.all() if one.is_calling]
        ours = await self._store.held(self._process)
        running = {(one.id, one.claim) for one in ours if not one.releasing}
        for one in known:
            if (one.job.id, one.job.claim) not in running:
                one.close("cancelled")
        await self._disown([one for one in ours if one.id not in self._running])

    async def _disown(self, astray: Sequence[HeldJob]) -> None:
        """Hand back what is said to run here and does not, once that was so for a lease: the reply
        to a commit may be on its way for long."""
        at_ms = self._monotonic_ms()
        self._astray = {one: self._astray.get(one, at_ms) for one in astray}
        left = [one for one, since_ms in self._astray.items() if at_ms - since_ms > self._astray_ms]
        if left:
            _LOG.warning("jobs were given to us that we do not know: handed back", jobs=len(left))
            await self._store.disown(left, now_ms=self._clock())

    async def _look_at(self, asked: Sequence[Running]) -> None:
        for at in range(0, len(asked), _ASKED_MAX):
            part = asked[at : at + _ASKED_MAX]
            try:
                current = await self._store.current([(one.job.id, one.job.claim) for one in part])
            except StoreError as error:
                _LOG.warning("cannot look at claims: will try again", reason=str(error))
                return
            except Exception as error:
                _LOG.exception("looking at claims failed: will try again", error)
                return
            for one in part:
                one.doubted = False
                if (one.job.id, one.job.claim) not in current:
                    one.close("cancelled")
