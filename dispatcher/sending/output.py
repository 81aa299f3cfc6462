"""Bodies of answers, read whole in bounded memory: an endpoint's limit for each, and a budget for
all together.

What a call has read counts until its outcome is stored (`OutputRoom`), so that a database that is
away stops the reading, not only the storing. An answer that says how long it is counts whole from
its beginning, or parts that wait for their rests would be in each other's way; what is streamed
counts as it comes. An endpoint has at most half of what the others leave. A call that finds no room
waits, and with it its upstream, whose bytes stay where they are; it never fails for that while its
run limit lasts. So that calls which all hold a part get on, one of an endpoint at a time, of a few
in all, may go beyond the budget.
"""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, TypeAlias

import aiohttp

from dispatcher.jobs.blobs import HEAD_BYTES_MAX, INLINE_BYTES_MAX, Spool
from dispatcher.jobs.chunks import Joined, Reader, Sink, value_of
from receiver.base.budget import Budget

BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of answers in memory, of all calls of a process; some more for those that get on."""
LACK: Final = "memory"
"""What we lacked where a call's time ended while it waited for room."""
_STEP_BYTES: Final = 16 * 1024  # what is held while there is no room for it
_SHARE: Final = 0.5
_BEYOND_MAX: Final = 8


class TooLarge(Exception):
    """An answer has more bytes than its endpoint takes."""


@dataclass(slots=True, eq=False)
class OutputRoom:
    """What one call holds of the budget, until the end of its `with` block."""

    budget: "OutputBudget" = field(repr=False)
    endpoint: str
    held: int = 0
    is_beyond: bool = False
    is_waiting: bool = False

    async def take(self, size: int) -> None:
        """Take room for so many bytes more, waiting for it where there is none."""
        if self.budget.take(self, size):
            return
        self.is_waiting = True  # and it stays so where its time ends meanwhile
        await self.budget.wait(self, size)
        self.is_waiting = False

    def __enter__(self) -> "OutputRoom":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.budget.give_back(self)


class OutputBudget:
    """Bytes that all calls share."""

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._budget = Budget(bytes_max, _SHARE)
        self._waiting: dict[str, deque[_Waiting]] = {}  # by endpoint, the longest first
        self._beyond: dict[str, OutputRoom] = {}  # by endpoint

    @property
    def held(self) -> int:
        """How many bytes are held, without those beyond the budget."""
        return self._budget.held

    @property
    def waiting(self) -> int:
        """How many calls wait for room."""
        return sum(map(len, self._waiting.values()))

    def take(self, room: OutputRoom, size: int) -> bool:
        """Take room at once; return False where there is none for this call."""
        if room.is_beyond:
            return True
        if not self._budget.take(size, room.endpoint):
            return False
        room.held += size
        return True

    async def wait(self, room: OutputRoom, size: int) -> None:
        """Wait until there is room for this call, of which there is none now, and take it."""
        if self._goes_beyond(room):
            return
        one = room, size, asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(room.endpoint, deque())
        queue.append(one)
        try:
            await one[2]
        except asyncio.CancelledError:
            with suppress(ValueError):  # it has room by now, or was passed over
                queue.remove(one)
            self._let_on(room.endpoint)
            raise

    def give_back(self, room: OutputRoom) -> None:
        """Give back all that a call holds, and let those on that have waited for it."""
        if room.held:
            self._budget.give_back(room.held, room.endpoint)
            room.held = 0
        if room.is_beyond:
            room.is_beyond = False
            del self._beyond[room.endpoint]
        for endpoint in tuple(self._waiting):
            self._let_on(endpoint)

    def _let_on(self, endpoint: str) -> None:
        queue = self._waiting.get(endpoint, deque())
        while queue:
            room, size, future = queue[0]
            if not future.done():  # else it is being cancelled
                if not (self.take(room, size) or self._goes_beyond(room)):
                    return
                future.set_result(None)
            queue.popleft()
        self._waiting.pop(endpoint, None)

    def _goes_beyond(self, room: OutputRoom) -> bool:
        if room.endpoint in self._beyond or len(self._beyond) >= _BEYOND_MAX:
            return False
        room.is_beyond = True
        self._beyond[room.endpoint] = room
        return True


_Waiting: TypeAlias = tuple[OutputRoom, int, "asyncio.Future[None]"]


async def read_whole(
    content: aiohttp.StreamReader,
    length: int | None,
    bytes_max: int,
    room: OutputRoom,
    into: bytearray,
    spool: Spool | None = None,
    head_max: int = HEAD_BYTES_MAX,
) -> None:
    """Read a body to its end. What has arrived is in `into`, also where this raises: TooLarge, or
    what the connection met. One whose declared `length` is too large is not read at all. With a
    `spool` a long one goes there as it comes, and `into` has its beginning alone, of `head_max`
    bytes: what comes faster than that writes waits where it is, and with it the upstream. Raises
    CannotKeep, too."""
    is_there = content.is_eof()
    kept_max = bytes_max if spool is None else min(bytes_max, head_max)
    if length is not None and not content.at_eof():
        if length > bytes_max:
            raise TooLarge
        if not is_there:
            # At once: parts that wait for the rest would be in each other's way.
            await room.take(min(length, kept_max))
    if is_there:
        await _take_whole(content, bytes_max, room, into)
        if spool is not None and len(into) > INLINE_BYTES_MAX:
            await spool.write(bytes(into))
        return
    size = 0
    while True:
        if size <= INLINE_BYTES_MAX:
            chunk = await content.read(_STEP_BYTES)
        else:  # as it came: nothing is copied
            chunk = await content.readany()
        if not chunk:
            return
        size += len(chunk)
        if size > bytes_max:
            into += chunk[: max(0, kept_max - len(into))]
            raise TooLarge
        if len(into) < kept_max:
            part = chunk[: kept_max - len(into)]
            if length is None:
                await room.take(len(part))
            into += part
        if spool is not None and size > INLINE_BYTES_MAX:
            await spool.write(chunk if size - len(chunk) > INLINE_BYTES_MAX else bytes(into))


async def _take_whole(
    content: aiohttp.StreamReader, bytes_max: int, room: OutputRoom, into: bytearray
) -> None:
    """Read what has come with its end: most short answers."""
    chunk = content.read_nowait()
    if len(chunk) > bytes_max:
        into += chunk[:bytes_max]
        raise TooLarge
    if chunk:
        await room.take(len(chunk))
        into += chunk


async def read_chunks(
    content: aiohttp.StreamReader,
    reader: Reader,
    bytes_max: int,
    room: OutputRoom,
    sink: Sink,
    spool: Spool | None = None,
) -> None:
    """Read a body to its end in chunks. They go to `sink` as they come, also where this raises:
    TooLarge for what is more than `bytes_max` joined, TooManyChunks, or what the connection met.
    What is no chunk, as comments that keep a connection alive, takes no room. With a `spool` what
    is joined goes there once it is long, and what is stored of it need not be held any more. Raises
    CannotKeep, too."""
    joined, taken = sink.joined, 0
    spooled = Spooled(joined, spool)
    while True:
        data = await content.read(_STEP_BYTES)
        count = joined.count
        try:
            for piece in reader.feed(data) if data else reader.end():
                if piece.is_progress:
                    sink.progress(piece.data)
                    continue
                value = value_of(piece.data)
                if joined.size + len(value) + bool(joined.count) > bytes_max:
                    raise TooLarge
                joined.add(value)
        finally:
            if joined.count > count:
                sink.added()
        await spooled.take(is_end=not data)
        if not data:
            return
        more = joined.held + reader.held - taken
        if more > 0:
            await room.take(more)
            taken += more
        await asyncio.sleep(0)  # one that never stops keeps nobody waiting


class Discarding:
    """Takes what nobody will ask for: of an answer its beginning is enough."""

    content_type = ""

    async def write(self, data: bytes) -> None:
        """Take it."""


class Spooled:
    """What is joined of an answer in chunks, on its way to a spool once it is long: the very bytes
    that would be its output."""

    def __init__(self, joined: Joined, spool: Spool | None) -> None:
        self._joined = joined
        self._spool = spool
        self._count = 0  # of chunks that went there

    async def take(self, *, is_end: bool) -> None:
        """Write what has come; at the end the rest of the array, if any went there. Raises
        CannotKeep."""
        spool, joined = self._spool, self._joined
        if spool is None or (not self._count and joined.size <= INLINE_BYTES_MAX):
            return
        while self._count < joined.count:
            array, count = joined.since(self._count)
            await spool.write((b"," if self._count else b"[") + array[1:-1])
            self._count += count
        joined.spooled = self._count
        if is_end:
            await spool.write(b"]")
