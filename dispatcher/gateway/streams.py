"""What running calls bring in chunks, on its way to the store: of all of them together in one
operation, now and then, which joins whatever is committed at that moment.

A chunk is stored once. What a claim that is no longer current brings is not stored; its call is
closed by who finds that out first (`OpenCalls`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from dispatcher.jobs.chunks import CHUNK_BYTES_MAX, Joined
from dispatcher.jobs.values import ClaimedJob, NewChunks
from dispatcher.store.errors import StoreError
from receiver.base import log

_LOG: Final = log.get("dispatcher.gateway")
EVERY_S: Final = 0.15
"""At most so often chunks are stored."""
_AGAIN_S: Final = 1.0  # where the database is away
_TOGETHER_MAX: Final = 100  # calls whose chunks go into one operation
_TOGETHER_BYTES_MAX: Final = 4 * CHUNK_BYTES_MAX
Tell = Callable[[ClaimedJob, bytes], None]
Put = Callable[[Sequence[NewChunks]], Awaitable[Collection[tuple[str, int]]]]


class Stream:
    """What one call brings (`jobs.chunks.Sink`)."""

    __slots__ = ("_streams", "is_gone", "job", "joined", "stored", "storing")

    def __init__(self, streams: "Streams", job: ClaimedJob) -> None:
        self._streams = streams
        self.job = job
        self.joined = Joined()
        self.stored = 0
        self.storing: asyncio.Future[None] | None = None
        self.is_gone = False  # its claim is no longer the current one, or the call has ended

    @property
    def is_due(self) -> bool:
        """Whether there is something to store."""
        return not self.is_gone and self.joined.count > self.stored

    def added(self) -> None:
        """Note that there are more chunks."""
        self._streams.added(self)

    def progress(self, data: bytes) -> None:
        """Take what an event said of how far the job is."""
        self._streams.on_progress(self.job, data)

    def due(self) -> NewChunks:
        """Return what is to be stored next."""
        job = self.job
        body, size = self.joined.since(self.stored)
        return NewChunks(
            job=job.id,
            tenant=job.tenant,
            endpoint=job.endpoint,
            run=job.run,
            claim=job.claim,
            n=self.stored,
            size=size,
            body=body,
        )

    async def end(self, *, is_kept: bool, is_all: bool = False) -> None:
        """Store no more of it: what has not been stored comes with its job's end, as the output,
        or (`is_kept`) is stored now: all of it (`is_all`), however long that takes, or what can
        be."""
        while is_kept and self.is_due:
            if self.storing is not None:
                await asyncio.wait((self.storing,))
            elif not await self._streams.store([self]):
                if not is_all:
                    break
                await asyncio.sleep(_AGAIN_S)
        self.is_gone = True
        self._streams.forget(self)


class Streams:
    """Those of all calls of this process. `on_progress` is told of each event's data that says how
    far a job is, and `on_output` of a call's newest chunk once that is stored."""

    def __init__(
        self,
        put: Put,
        *,
        on_progress: Tell = lambda _job, _data: None,
        on_output: Tell = lambda _job, _value: None,
        every_s: float = EVERY_S,
    ) -> None:
        self.on_progress = on_progress
        self._on_output = on_output
        self._put = put
        self._every_s = every_s
        self._due: dict[Stream, None] = {}  # in the order in which they came
        self._storing: asyncio.Task[None] | None = None

    def open(self, job: ClaimedJob) -> Stream:
        """Return what takes the chunks of a call."""
        return Stream(self, job)

    def added(self, stream: Stream) -> None:
        """Note that there is something to store."""
        if not stream.is_gone:
            self._due[stream] = None
            if self._storing is None:
                self._storing = asyncio.create_task(self._store_all(), name="store-chunks")

    def forget(self, stream: Stream) -> None:
        """Note that nothing more comes."""
        self._due.pop(stream, None)

    async def stop(self) -> None:
        """Store no more."""
        if self._storing is not None:
            self._storing.cancel()
            await asyncio.wait((self._storing,))

    async def store(self, streams: Sequence[Stream]) -> bool:
        """Store what has come of these, as far as it goes into one operation; False where it could
        not be. What is being stored is left alone."""
        given: list[NewChunks] = []
        taken: list[Stream] = []
        done = asyncio.get_running_loop().create_future()
        size = 0
        for stream in streams:
            if stream.is_due and stream.storing is None and size < _TOGETHER_BYTES_MAX:
                given.append(stream.due())
                taken.append(stream)
                stream.storing = done
                size += len(given[-1].body)
        try:
            return not given or await self._store(taken, given)
        finally:
            for stream in taken:
                stream.storing = None
            done.set_result(None)

    async def _store(self, taken: Sequence[Stream], given: Sequence[NewChunks]) -> bool:
        try:
            current = await self._put(given)
        except StoreError as error:
            _LOG.debug("cannot store chunks yet", reason=str(error))
            return False
        except Exception as error:
            _LOG.exception("storing chunks failed", error)
            return False
        for stream, one in zip(taken, given, strict=True):
            if (one.job, one.claim) not in current:
                stream.is_gone = True
            else:
                stream.stored += one.size
                self._tell(stream)
                stream.joined.let_go(stream.stored)
        return True

    def _tell(self, stream: Stream) -> None:
        self._on_output(stream.job, stream.joined.value(stream.stored - 1))

    async def _store_all(self) -> None:
        try:
            while self._due:
                part = list(self._due)[:_TOGETHER_MAX]
                is_done = await self.store(part)
                for stream in part:
                    if stream in self._due and not stream.is_due:
                        del self._due[stream]
                    elif stream in self._due:  # behind the others
                        del self._due[stream]
                        self._due[stream] = None
                is_more = is_done and len(self._due) > len(part)
                await asyncio.sleep(0 if is_more else self._every_s if is_done else _AGAIN_S)
        finally:
            self._storing = None
