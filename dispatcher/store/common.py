"""What every store does alike: it looks things up, and keeps count of what it has committed."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from dispatcher import filters
from dispatcher.filters import Filter
from dispatcher.ids import new_id
from dispatcher.states import QUEUED, STATES, State
from dispatcher.store import access, destinations, replays, search
from dispatcher.store.rates import Rates
from dispatcher.store.requests import Page, Usage
from dispatcher.store.store import Store
from dispatcher.store.tx import Notes, Tx
from dispatcher.values import (
    Attempt,
    Callback,
    Destination,
    Key,
    Payload,
    Replay,
    SigningSecret,
    Stats,
    Tenant,
)
from receiver.base.clock import now_ms as wall_ms

T = TypeVar("T")
Counts = Mapping[tuple[str, State], int]


def _no_one_listens(_next_ready_ms: int | None) -> None: ...


class CommonStore(Store):
    """The verbs that only read. A store adds `_look`, its life, and the verbs that write."""

    def __init__(self) -> None:
        self.on_ready: Callable[[int | None], None] = _no_one_listens
        self.on_commit: Callable[[int, float], None] = lambda _operations, _seconds: None
        self._counts: Counter[tuple[str, State]] = Counter()
        self._queued = 0
        self._rates = Rates()
        self._usage = Usage(used_bytes=0, free_bytes=0)

    async def _look(self, see: Callable[[Tx], T]) -> T:
        """Return what `see` finds in one consistent view. Raises StoreUnavailable past the
        deadline."""
        raise NotImplementedError

    # --- what was committed ---

    def usage(self) -> Usage:
        return self._usage

    def queued(self, tenant: str | None = None) -> int:
        if tenant is None:
            return self._queued
        return sum(self._counts[tenant, state] for state in QUEUED)

    def _recount(self, counts: Counts) -> None:
        """Begin anew with what the database says."""
        self._counts = Counter(counts)
        self._queued = sum(n for (_, state), n in self._counts.items() if state in QUEUED)

    def _count(self, notes: Notes) -> None:
        """Take over what a commit moved."""
        self._counts.update(notes.counts)
        self._queued += sum(n for (_, state), n in notes.counts.items() if state in QUEUED)
        if notes.events:
            self._rates.add(notes.events, now_ms=wall_ms())

    def _stats(
        self, counts: Counts, oldest_ms: int | None, tenant: str | None, *, now_ms: int
    ) -> Stats:
        totals: dict[State, int] = dict.fromkeys(STATES, 0)
        for (whose, state), n in counts.items():
            if tenant in (None, whose):
                totals[state] += n
        return Stats(
            counts=totals,
            oldest_pending_ms=oldest_ms,
            accepted_per_second=self._rates.per_second("accepted", tenant, now_ms=now_ms),
            delivered_per_second=self._rates.per_second("delivered", tenant, now_ms=now_ms),
            failed_attempts_per_second=self._rates.per_second("failed", tenant, now_ms=now_ms),
        )

    # --- callbacks ---

    async def get(self, tenant: str, callback: str) -> Callback:
        return await self._look(lambda tx: search.get(tx, tenant, callback))

    async def search(self, tenant: str, wanted: Filter, *, after: str | None, limit: int) -> Page:
        return await self._look(
            lambda tx: search.page(tx, tenant, wanted, after=after, limit=limit)
        )

    async def attempts(self, tenant: str, callback: str) -> Sequence[Attempt]:
        return await self._look(lambda tx: search.attempts(tx, tenant, callback))

    async def payload(self, tenant: str, callback: str) -> Payload:
        return await self._look(lambda tx: search.payload(tx, tenant, callback))

    # --- replays ---

    async def preview_replay(
        self, tenant: str, wanted: Filter, *, sample: int
    ) -> tuple[int, Sequence[Callback]]:
        def see(tx: Tx) -> tuple[int, Sequence[Callback]]:
            made_ms = wall_ms()
            matched = replays.count(tx, tenant, wanted, made_ms=made_ms)
            return matched, replays.sample(tx, tenant, wanted, made_ms=made_ms, limit=sample)

        return await self._look(see)

    async def _new_replay(
        self, tenant: str, wanted: Filter, rate_per_second: float | None, now_ms: int
    ) -> Replay:
        """Return a replay of what matches now, not yet stored."""
        matched = await self._look(lambda tx: replays.count(tx, tenant, wanted, made_ms=now_ms))
        return Replay(
            id=new_id("rp", now_ms),
            tenant=tenant,
            filter=json.dumps(filters.show(wanted)),
            rate_per_second=rate_per_second,
            state="running" if matched else "done",
            matched=matched,
            replayed=0,
            skipped=0,
            created_ms=now_ms,
            finished_ms=None if matched else now_ms,
        )

    async def get_replay(self, tenant: str, replay: str) -> Replay:
        return await self._look(lambda tx: replays.get(tx, tenant, replay))

    async def running_replays(self) -> Sequence[Replay]:
        return await self._look(replays.running)

    # --- destinations ---

    async def destinations(
        self, tenant: str, *, after: str | None, limit: int
    ) -> tuple[Sequence[Destination], str | None]:
        return await self._look(
            lambda tx: destinations.page(tx, tenant, after=after, limit=limit, now_ms=wall_ms())
        )

    async def get_destination(self, tenant: str, destination: str) -> Destination:
        return await self._look(
            lambda tx: destinations.get(tx, tenant, destination, now_ms=wall_ms())
        )

    # --- access ---

    async def tenants(self) -> Sequence[Tenant]:
        return await self._look(access.tenants)

    async def keys(self) -> Sequence[Key]:
        return await self._look(access.keys)

    async def secrets(self, tenant: str) -> Sequence[SigningSecret]:
        return await self._look(lambda tx: access.secrets(tx, tenant))
