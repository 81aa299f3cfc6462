"""Feeding filtered replays: their fixed sets walked in small slices, at the rate asked for. One
schedule knows when each is next, so that many that wait cost nothing."""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from dispatcher.ids import id_floor
from dispatcher.settings import Settings
from dispatcher.store.errors import Conflict, NotFound, StoreError
from dispatcher.store.store import Store
from dispatcher.values import Replay
from receiver.base import log
from receiver.base.clock import monotonic_ms, now_ms

_LOG: Final = log.get("dispatcher.replayer")
# One slice of 200 rows holds a commit up for a few milliseconds (measured: about 20 µs a row).
SLICE: Final = 200
FEEDING_MAX: Final = 4  # at once, each of another tenant: one that reads for long holds no other up
_TICK_MS: Final = 100
_RETRY_S: Final = 1.0
_PAGE: Final = 1_000
# How far back a look for new ones goes: what other processes, with other clocks, have made; and how
# often all are looked through, in case that was not far enough.
_BACK_MS: Final = 10_000
_ALL_MS: Final = 60_000


class Pace:
    """How many rows a replay may feed by now, by a clock that nobody sets; without a rate, as many
    as requested."""

    def __init__(self, rate_per_second: float | None, started_ms: float) -> None:
        self._rate = rate_per_second
        self._started_ms = started_ms
        self._used = 0

    def allows(self, at_ms: int, *, rows_max: int) -> int:
        """Return how many rows may be fed now, at most `rows_max`; the first goes at once."""
        if self._rate is None:
            return rows_max
        earned = 1 + int((at_ms - self._started_ms) / 1000 * self._rate)
        return max(0, min(rows_max, earned - self._used))

    def due_ms(self, at_ms: int) -> float:
        """Return when the next rows may be fed: now, or in a tick or more."""
        if self._rate is None or self.allows(at_ms, rows_max=1):
            return at_ms
        return max(at_ms + _TICK_MS, self._started_ms + self._used / self._rate * 1000)

    def used(self, rows: int) -> None:
        """Count rows that were fed."""
        self._used += rows


def first_due_ms(replay: Replay, *, now_ms: int, at_ms: int) -> float:
    """Return when a replay that is taken up goes on, by the clock of `at_ms`: as its rate since it
    was made has it, so that a restart neither hastens nor holds it up."""
    rate = replay.rate_per_second
    if rate is None:
        return at_ms
    walked = replay.replayed + replay.skipped
    wait_ms = replay.created_ms + walked / rate * 1000 - now_ms
    return at_ms + max(0.0, min(wait_ms, 1000 / rate))


@dataclass(slots=True)
class Fed:
    """A replay that runs."""

    id: str
    tenant: str
    pace: Pace
    walked: int


class Schedule:
    """When each replay is next; of one tenant one at a time, and tenants in the order in which
    they are due. Times are any clock's milliseconds."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._of_tenant: dict[str, list[tuple[float, int, Fed]]] = {}
        self._tenants: list[tuple[float, int, str]] = []  # some may be out of date
        self._busy: set[str] = set()
        self._numbers = itertools.count()

    def __contains__(self, id: str) -> bool:
        return id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, one: Fed, due_ms: float) -> None:
        """Have `one` fed from then on."""
        self._ids.add(one.id)
        waiting = self._of_tenant.setdefault(one.tenant, [])
        heapq.heappush(waiting, (due_ms, next(self._numbers), one))
        if waiting[0][2] is one:
            self._offer(one.tenant)

    def take(self, at_ms: float) -> Fed | None:
        """Return the next that is due, with its tenant held until `put_back` or `drop`."""
        due_ms = self.next_ms()
        if due_ms is None or due_ms > at_ms:
            return None
        _, _, tenant = heapq.heappop(self._tenants)
        self._busy.add(tenant)
        return heapq.heappop(self._of_tenant[tenant])[2]

    def put_back(self, one: Fed, due_ms: float) -> None:
        """Have one that was taken fed again."""
        self._busy.discard(one.tenant)
        self.add(one, due_ms)
        self._offer(one.tenant)

    def drop(self, one: Fed) -> None:
        """Forget one that was taken: it has ended."""
        self._busy.discard(one.tenant)
        self._ids.discard(one.id)
        if self._of_tenant[one.tenant]:
            self._offer(one.tenant)
        else:
            del self._of_tenant[one.tenant]

    def next_ms(self) -> float | None:
        """Return when the next may be taken; None while none may."""
        while self._tenants:
            due_ms, _, tenant = self._tenants[0]
            waiting = self._of_tenant.get(tenant)
            if waiting and tenant not in self._busy and waiting[0][0] == due_ms:
                return due_ms
            heapq.heappop(self._tenants)
        return None

    def _offer(self, tenant: str) -> None:
        if tenant not in self._busy:
            due_ms = self._of_tenant[tenant][0][0]
            heapq.heappush(self._tenants, (due_ms, next(self._numbers), tenant))


class Replayer:
    """Feeds every running replay until it is done or cancelled; a fault is logged and retried. Of
    several processes on one database one feeds, until it is gone.

    Call `wake` when a replay was made. What a stop interrupts goes on at the next start.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        clock: Callable[[], int] = now_ms,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        # One that nobody told of is found after this long.
        self._interval_s = settings.sweep_interval
        self._store = store
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._schedule = Schedule()
        self._ours = False
        self._looked_ms = 0
        self._all_at_ms = 0
        self._look_at_ms = 0
        self._awake = asyncio.Event()
        self._feeding: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, with the replays that a stop interrupted."""
        self._task = asyncio.create_task(self._run(), name="replayer")

    async def stop(self) -> None:
        """Stop where it is; every slice is whole."""
        tasks = {*self._feeding, *([self._task] if self._task else [])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def wake(self) -> None:
        """Look for replays to feed."""
        self._look_at_ms = 0
        self._awake.set()

    async def _run(self) -> None:
        while True:
            self._awake.clear()
            try:
                await self._look()
            except StoreError as error:
                _LOG.warning("will try again", reason=str(error))
                self._look_at_ms = self._monotonic_ms() + round(_RETRY_S * 1000)
            except Exception:
                _LOG.exception("looking for replays failed")
                self._look_at_ms = self._monotonic_ms() + round(_RETRY_S * 1000)
            self._begin_due()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._idle_s()):
                    await self._awake.wait()

    def _idle_s(self) -> float:
        """Return how long nothing is to do."""
        until_ms: float = self._look_at_ms
        due_ms = self._schedule.next_ms() if len(self._feeding) < FEEDING_MAX else None
        if due_ms is not None:
            until_ms = min(until_ms, due_ms)
        return max(0.0, (until_ms - self._monotonic_ms()) / 1000)

    async def _look(self) -> None:
        """Take up replays that are not scheduled, where it is time to look for some."""
        at_ms = self._monotonic_ms()
        if at_ms < self._look_at_ms:
            return
        self._look_at_ms = at_ms + round(self._interval_s * 1000)
        if not await self._store.feeds_replays():
            self._let_go()
            return
        now_ms = self._clock()
        after = id_floor("rp", max(0, min(self._looked_ms, now_ms) - _BACK_MS))
        if not self._ours or at_ms >= self._all_at_ms:
            self._all_at_ms = at_ms + _ALL_MS
            after = ""
        page = None
        while page is None or len(page) == _PAGE:
            page = await self._store.running_replays(after=after, limit=_PAGE)
            for replay in page:
                self._add(replay, now_ms)
                after = replay.id
        self._ours, self._looked_ms = True, now_ms

    def _let_go(self) -> None:
        """Another process feeds; it is asked again at each look."""
        self._look_at_ms = min(self._look_at_ms, self._monotonic_ms() + round(_RETRY_S * 1000))
        if self._ours:
            _LOG.warning("another process feeds the replays from here on")
        self._ours, self._schedule = False, Schedule()

    def _add(self, replay: Replay, now_ms: int) -> None:
        if replay.id in self._schedule:
            return
        due_ms = first_due_ms(replay, now_ms=now_ms, at_ms=self._monotonic_ms())
        pace = Pace(replay.rate_per_second, due_ms)
        walked = replay.replayed + replay.skipped
        self._schedule.add(Fed(replay.id, replay.tenant, pace, walked), due_ms)

    def _begin_due(self) -> None:
        while len(self._feeding) < FEEDING_MAX:
            one = self._schedule.take(self._monotonic_ms())
            if one is None:
                return
            task = asyncio.create_task(self._feed(one, self._schedule), name=one.id)
            self._feeding.add(task)
            task.add_done_callback(self._fed)

    def _fed(self, task: asyncio.Task[None]) -> None:
        self._feeding.discard(task)
        self._awake.set()

    async def _feed(self, one: Fed, schedule: Schedule) -> None:
        """Feed one slice."""
        again_ms = _RETRY_S * 1000
        try:
            # It is due, whatever a rounding has it: none would end the replay.
            limit = max(1, one.pace.allows(self._monotonic_ms(), rows_max=SLICE))
            replay = await self._store.feed_replay(
                one.id, limit=limit, now_ms=self._clock(), tenant=one.tenant
            )
        except NotFound:  # its tenant was erased
            schedule.drop(one)
        except Conflict:
            schedule.put_back(one, self._monotonic_ms() + again_ms)
            self.wake()  # another process feeds now
        except StoreError as error:
            _LOG.warning("a replay waits", id=one.id, reason=str(error))
            schedule.put_back(one, self._monotonic_ms() + again_ms)
        except Exception:
            _LOG.exception("a replay was broken off", id=one.id)
            schedule.put_back(one, self._monotonic_ms() + again_ms)
        else:
            self._advance(one, replay, schedule)

    def _advance(self, one: Fed, replay: Replay, schedule: Schedule) -> None:
        if replay.state == "running":
            walked = replay.replayed + replay.skipped
            one.pace.used(walked - one.walked)
            one.walked = walked
            schedule.put_back(one, one.pace.due_ms(self._monotonic_ms()))
            return
        schedule.drop(one)
        _LOG.info(
            "replay ended",
            id=one.id,
            state=replay.state,
            replayed=replay.replayed,
            skipped=replay.skipped,
        )
