"""Who reads next: a few connections for everyone's queries, with a share for each.

Queries of one owner (a tenant) wait in turn with those of the others, and one owner has no more
than its share of the connections, so that one is left for whoever comes next. What the service
reads for its own work has connections of its own. A query whose caller has gone is not run, and is
ended where it already runs.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from receiver.base.db import DatabaseUnavailable

T = TypeVar("T")
C = TypeVar("C")  # a connection
Item = TypeVar("Item")

# What waits is a caller and a closure, a few KiB; more than this would not be read in time.
_WAITING_MAX: Final = 1_024
_WAITING_EACH_MAX: Final = 256
# An interruption may fall between two statements of a query: then once more.
_INTERRUPT_AGAIN_S: Final = 0.05
_CLOSED: Final = "the database is closed"


@dataclass(frozen=True, slots=True)
class Reader:
    """For whom something is read. `upkeep` is the service's own work on behalf of an owner; without
    an owner it is the service itself."""

    owner: str | None = None
    upkeep: bool = False

    @property
    def is_service(self) -> bool:
        """Whether it reads through the service's own connections."""
        return self.upkeep or self.owner is None


SERVICE: Final = Reader()


class Turns(Generic[Item]):
    """Owners in turn, for so many places: at most `each` of them for one owner, and `reserved` for
    None, which is the service itself and always goes first. Decides only: nothing waits here."""

    def __init__(
        self,
        places: int,
        *,
        each: int,
        reserved: int = 0,
        waiting_max: int = _WAITING_MAX,
        waiting_each_max: int = _WAITING_EACH_MAX,
    ) -> None:
        self._places = places
        self._each = each
        self._unreserved = places - reserved
        self._waiting_max = waiting_max
        self._waiting_each_max = waiting_each_max
        self._queues: OrderedDict[str | None, deque[Item]] = OrderedDict()  # who is next is first
        self._waiting = 0
        self._running: Counter[str | None] = Counter()
        self._taken = 0

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return self._waiting

    def add(self, owner: str | None, item: Item) -> Item | None:
        """Have an item wait for its turn; return the one that is refused for it, if any: this one
        where its owner has as many as it may; where all have, the last of who has most."""
        if len(self._queues.get(owner, ())) >= self._waiting_each_max:
            return item
        self._queues.setdefault(owner, deque()).append(item)
        self._waiting += 1
        if self._waiting <= self._waiting_max:
            return None
        longest = max(self._queues, key=lambda one: len(self._queues[one]))
        return self._take(longest, self._queues[longest][-1])

    def remove(self, owner: str | None, item: Item) -> bool:
        """Let go of an item that waits; False if it does not."""
        if item not in self._queues.get(owner, ()):
            return False
        self._take(owner, item)
        return True

    def next(self) -> tuple[str | None, Item] | None:
        """Give a free place to whose turn it is: its owner, and the first of its items. None where
        there is none for anyone who waits."""
        if self._taken >= self._places:
            return None
        owner = self._whose_turn()
        if owner is None and None not in self._queues:
            return None
        item = self._take(owner, self._queues[owner][0])
        if owner in self._queues:
            self._queues.move_to_end(owner)
        self._running[owner] += 1
        self._taken += 1
        return owner, item

    def give_back(self, owner: str | None) -> None:
        """Free a place."""
        self._running[owner] -= 1
        if not self._running[owner]:
            del self._running[owner]
        self._taken -= 1

    def _whose_turn(self) -> str | None:
        if None in self._queues or self._taken - self._running[None] >= self._unreserved:
            return None
        served = [one for one in self._queues if self._running[one] < self._each]
        return min(served, key=self._running.__getitem__, default=None)

    def _take(self, owner: str | None, item: Item) -> Item:
        queue = self._queues[owner]
        queue.remove(item)
        if not queue:
            del self._queues[owner]
        self._waiting -= 1
        return item


class Reading(Generic[C, T]):
    """A query on its way through a connection."""

    def __init__(self, query: Callable[[C], T]) -> None:
        self.query = query
        self.stopped = False  # nobody waits for it any more
        self.work: asyncio.Future[T]

    def check(self) -> None:
        """Raise DatabaseUnavailable where nobody waits for it any more."""
        if self.stopped:
            raise DatabaseUnavailable("nobody waits for it any more")


class Readers(ABC, Generic[C]):
    """What both databases have in common: `listings` connections of which one owner has at most
    half, and `own` ones for the service; how long a query waits for one, and how long it runs."""

    def __init__(
        self, *, listings: int, own: int, timeout_s: float, deadline_s: float | None = None
    ) -> None:
        self._connections = listings + own
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s or timeout_s
        self._listings: Turns[asyncio.Future[None]] = Turns(listings, each=max(1, listings // 2))
        # Work for owners leaves one to the service itself, where there are two.
        self._own: Turns[asyncio.Future[None]] = Turns(own, each=own, reserved=min(1, own - 1))
        self._reading: set[Reading[C, Any]] = set()
        self._stopping: set[asyncio.Task[None]] = set()
        self._closed = False

    async def read(self, query: Callable[[C], T], reader: Reader = SERVICE) -> T:
        """Return what `query` finds in one consistent view. Raises DatabaseUnavailable past the
        deadline, and for one more than an owner may have waiting."""
        await self._wait_for_turn(reader)
        reading: Reading[C, T] = Reading(query)
        reading.work = asyncio.ensure_future(self._begin(reading))
        self._reading.add(reading)
        try:
            async with asyncio.timeout(self._deadline_s):
                return await asyncio.shield(reading.work)
        except TimeoutError as error:
            raise self.too_slow() from error
        finally:
            if reading.work.done():
                self._end(reading, reader)
            else:
                reading.stopped = True
                stopping = asyncio.create_task(self._stop(reading, reader), name="stop-reading")
                self._stopping.add(stopping)
                stopping.add_done_callback(self._stopping.discard)

    async def close(self) -> None:
        """End what is being read and disconnect."""
        self._closed = True
        for reading in self._reading:
            reading.stopped = True
        while running := [one for one in self._reading if not one.work.done()]:
            for reading in running:
                await self._interrupt(reading)
            await asyncio.wait({one.work for one in running}, timeout=_INTERRUPT_AGAIN_S)
        if self._stopping:
            await asyncio.wait(self._stopping)
        await self._disconnect()

    def too_slow(self) -> DatabaseUnavailable:
        """Return the error of a query past its deadline."""
        return DatabaseUnavailable(
            f"reading took longer than {self._timeout_s:g} s; narrow the filter"
        )

    @abstractmethod
    async def _begin(self, reading: Reading[C, T]) -> T:
        """Read, in a thread, on a connection that is free: there is one."""

    @abstractmethod
    async def _interrupt(self, reading: Reading[C, Any]) -> None:
        """End what its connection does now; it may have ended already."""

    @abstractmethod
    def _release(self, reading: Reading[C, Any]) -> None:
        """Take back the connection of one that has ended."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """Close all connections."""

    async def _wait_for_turn(self, reader: Reader) -> None:
        if self._closed:
            raise DatabaseUnavailable(_CLOSED)
        turns = self._turns(reader)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        refused = turns.add(reader.owner, turn)
        if refused is not None:
            refused.set_exception(
                DatabaseUnavailable("too many reads wait already; try again in a moment")
            )
        self._go_on(turns)
        try:
            async with asyncio.timeout(self._timeout_s):
                await turn
        except BaseException as error:
            if not turns.remove(reader.owner, turn) and turn is not refused and _granted(turn):
                self._give_back(reader)  # its turn came in the moment in which it gave up
            if isinstance(error, TimeoutError):
                message = "all readers are busy; try again in a moment"
                raise DatabaseUnavailable(message) from error
            raise

    def _turns(self, reader: Reader) -> Turns[asyncio.Future[None]]:
        return self._own if reader.is_service else self._listings

    def _go_on(self, turns: Turns[asyncio.Future[None]]) -> None:
        while (given := turns.next()) is not None:
            owner, turn = given
            if not turn.done() and not self._closed:
                turn.set_result(None)
                continue
            turns.give_back(owner)
            if not turn.done():  # else its caller has gone in this moment
                turn.set_exception(DatabaseUnavailable(_CLOSED))

    def _give_back(self, reader: Reader) -> None:
        turns = self._turns(reader)
        turns.give_back(reader.owner)
        self._go_on(turns)

    async def _stop(self, reading: Reading[C, Any], reader: Reader) -> None:
        """End a query that nobody waits for. Until it has ended, nobody else has its connection."""
        while not reading.work.done():
            await self._interrupt(reading)
            await asyncio.wait((reading.work,), timeout=_INTERRUPT_AGAIN_S)
        self._end(reading, reader)

    def _end(self, reading: Reading[C, Any], reader: Reader) -> None:
        if not reading.work.cancelled():
            reading.work.exception()  # seen: nobody else looks when the caller has gone
        self._reading.discard(reading)
        self._release(reading)
        self._give_back(reader)


def _granted(turn: "asyncio.Future[None]") -> bool:
    return turn.done() and not turn.cancelled() and turn.exception() is None
