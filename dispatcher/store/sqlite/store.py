"""The SQLite store: one writer that commits for everyone, a few readers, one file (D3, D4)."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import aiosqlite

from dispatcher.filters import Filter
from dispatcher.settings import Settings
from dispatcher.states import State
from dispatcher.store import access, destinations, operators, replays, search
from dispatcher.store.commit import GroupCommit
from dispatcher.store.common import CommonStore
from dispatcher.store.errors import CannotStart, StoreError, StoreFull, StoreUnavailable
from dispatcher.store.migrate import migrate_sqlite
from dispatcher.store.requests import ClaimRequest, Retention, Rules, Settlement, Usage
from dispatcher.store.retention import prune
from dispatcher.store.sqlite import file, lanes, writer
from dispatcher.store.sqlite.readers import Readers, run
from dispatcher.store.sqlite.submit import Submit
from dispatcher.store.tx import Tx
from dispatcher.values import (
    Callback,
    Delivery,
    Destination,
    Key,
    NewCallback,
    Replay,
    SigningSecret,
    Stats,
    Submitted,
)

T = TypeVar("T")

_MEASURE_EVERY_S: Final = 1.0
_IDLE_LANE_MS: Final = 86_400_000


class SqliteStore(CommonStore):
    """The verbs on one SQLite file that this process owns."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings
        self._path = file.path_of(settings.database_url)
        self._owner = file.Ownership(self._path)
        self._rules = Rules(
            concurrency=settings.destination_concurrency,
            lease_margin_ms=round(settings.lease_margin * 1000),
            key_ms=round(settings.keep_keys * 1000),
        )
        self._readers = Readers(
            self._path, connections=settings.readers, timeout_s=settings.read_timeout
        )
        self._commits = GroupCommit(self._apply, operations_max=settings.commit_rows_max)
        self._connection: aiosqlite.Connection | None = None
        self._measured_s = 0.0

    # --- the life of the store ---

    async def open(self) -> None:
        self._owner.take()
        try:
            self._connection = await aiosqlite.Connection(
                lambda: file.connect_writer(self._path), 64
            )
            await self._migrate(self._connection)
            self._recount(await run(self._connection, _read_counts))
            self._usage = await run(self._connection, self._measure)
            await self._readers.open()
        except BaseException:
            await self._disconnect()
            raise
        self._commits.start()

    async def _migrate(self, connection: aiosqlite.Connection) -> None:
        try:
            await run(connection, migrate_sqlite)
        except sqlite3.Error as error:
            raise CannotStart(
                f"{self._path} cannot be used: {error}; it may not be a database of this program"
            ) from error

    async def close(self) -> None:
        await self._commits.close()
        await self._disconnect()

    async def _disconnect(self) -> None:
        await self._readers.close()
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
        self._owner.release()

    async def check(self) -> None:
        await self._do(lambda tx: tx.one("SELECT 1"))
        if self._usage.free_bytes <= 0:
            raise StoreFull("there is no room left for callbacks")

    async def backup(self, target: Path) -> None:
        await asyncio.to_thread(file.backup, self._path, target)

    # --- the path of a delivery ---

    async def submit(self, new: NewCallback, *, handover: bool) -> Submitted:
        submitted: Submitted = await self._commits.do(Submit(new, handover))
        return submitted

    async def claim(self, claim: ClaimRequest) -> list[Delivery]:
        deliveries: list[Delivery] = await self._commits.do(claim)
        return deliveries

    async def settle(self, settlement: Settlement) -> bool:
        recorded: bool = await self._commits.do(settlement)
        return recorded

    async def release(self, deliveries: Sequence[Delivery], *, now_ms: int) -> None:
        await self._do(lambda tx: operators.release(tx, deliveries, now_ms=now_ms))

    async def take_over(self, *, now_ms: int) -> int:
        return await self._do(lambda tx: operators.reclaim(tx, now_ms=now_ms, everything=True))

    async def reclaim(self, *, now_ms: int) -> int:
        return await self._do(lambda tx: operators.reclaim(tx, now_ms=now_ms, everything=False))

    async def expire(self, *, now_ms: int, limit: int) -> int:
        return await self._do(lambda tx: operators.expire(tx, now_ms=now_ms, limit=limit))

    async def repair_lanes(self, *, now_ms: int, after: str, limit: int) -> tuple[int, str | None]:
        return await self._do(
            lambda tx: lanes.mend(tx, after, limit=limit, idle_since_ms=now_ms - _IDLE_LANE_MS)
        )

    # --- operators ---

    async def replay(self, tenant: str, callback: str, *, now_ms: int) -> Callback:
        return await self._do(lambda tx: operators.replay(tx, tenant, callback, now_ms=now_ms))

    async def cancel(self, tenant: str, callback: str, *, now_ms: int) -> Callback:
        return await self._do(lambda tx: operators.cancel(tx, tenant, callback, now_ms=now_ms))

    async def make_replay(
        self, tenant: str, wanted: Filter, *, rate_per_second: float | None, now_ms: int
    ) -> Replay:
        replay = await self._new_replay(tenant, wanted, rate_per_second, now_ms)
        return await self._do(lambda tx: replays.make(tx, replay))

    async def feed_replay(self, replay: str, *, limit: int, now_ms: int) -> Replay:
        cursor, found = await self._look(lambda tx: replays.upcoming(tx, replay, limit=limit))
        return await self._do(lambda tx: replays.feed(tx, replay, cursor, found, now_ms=now_ms))

    async def cancel_replay(self, tenant: str, replay: str, *, now_ms: int) -> Replay:
        return await self._do(lambda tx: replays.cancel(tx, tenant, replay, now_ms=now_ms))

    # --- reading ---

    async def stats(self, tenant: str | None, *, now_ms: int) -> Stats:
        oldest_ms = await self._look(lambda tx: search.oldest_pending_ms(tx, tenant))
        return self._stats(self._counts, oldest_ms, tenant, now_ms=now_ms)

    # --- destinations ---

    async def register(self, new: Destination, secret: SigningSecret) -> Destination:
        return await self._do(lambda tx: destinations.register(tx, new, secret))

    async def change_destination(
        self, tenant: str, destination: str, changes: Mapping[str, object], *, now_ms: int
    ) -> Destination:
        changed = await self._do(
            lambda tx: destinations.change(
                tx, tenant, destination, changes, concurrency=self._rules.concurrency
            )
        )
        # Counting a backlog takes a second for a million: not while the writer keeps all waiting.
        return await self._look(lambda tx: destinations.get(tx, tenant, changed, now_ms=now_ms))

    async def remove_destination(self, tenant: str, destination: str, *, now_ms: int) -> None:
        await self._do(lambda tx: destinations.remove(tx, tenant, destination, now_ms=now_ms))

    # --- access ---

    async def ensure_tenant(self, tenant: str, secret: SigningSecret) -> None:
        await self._do(lambda tx: access.ensure_tenant(tx, tenant, secret))

    async def add_key(self, key: Key) -> None:
        await self._do(lambda tx: access.add_key(tx, key))

    async def remove_key(self, key: str) -> Key:
        return await self._do(lambda tx: access.remove_key(tx, key))

    async def rotate_secret(
        self, new: SigningSecret, *, overlap_ms: int, force: bool, now_ms: int
    ) -> Sequence[SigningSecret]:
        return await self._do(
            lambda tx: access.rotate_secret(
                tx, new, overlap_ms=overlap_ms, force=force, now_ms=now_ms
            )
        )

    async def mark_revealed(self, tenant: str, secret: str, *, by: str, now_ms: int) -> None:
        await self._do(lambda tx: access.mark_revealed(tx, tenant, secret, by=by, now_ms=now_ms))

    # --- housekeeping ---

    async def prune(self, retention: Retention, *, now_ms: int, limit: int) -> int:
        return await self._do(lambda tx: prune(tx, retention, now_ms=now_ms, limit=limit))

    async def shrink(self, *, pages: int) -> int:
        return await self._on_writer(file.shrink, pages)

    # --- how the verbs get to the file ---

    async def _do(self, act: Callable[[Tx], T]) -> T:
        result: T = await self._commits.do(writer.Do(act))
        return result

    async def _look(self, see: Callable[[Tx], T]) -> T:
        return await self._readers.look(see)

    async def _on_writer(self, function: Callable[..., T], *arguments: object) -> T:
        if self._connection is None:
            raise StoreUnavailable("the store is closed")
        try:
            return await run(self._connection, function, *arguments)
        except sqlite3.Error as error:
            raise writer.translated(error) from error

    async def _apply(self, operations: Sequence[object]) -> Sequence[object]:
        started = time.perf_counter()
        committed = await self._on_writer(writer.commit, operations, self._rules)
        self.on_commit(len(operations), time.perf_counter() - started)
        self._count(committed.notes)
        if time.monotonic() - self._measured_s > _MEASURE_EVERY_S:
            self._measured_s = time.monotonic()
            # What is on disk must be answered as such: without a new figure the last one stays.
            with suppress(StoreError, sqlite3.Error, OSError):
                self._usage = await self._on_writer(self._measure)
        self.on_ready(committed.next_ready_ms)
        return committed.results

    def _measure(self, connection: sqlite3.Connection) -> Usage:
        return file.measure(
            connection,
            self._path,
            bytes_max=self._settings.storage_bytes_max,
            reserve_bytes=self._settings.storage_reserve_bytes,
        )


def _read_counts(connection: sqlite3.Connection) -> dict[tuple[str, State], int]:
    found = connection.execute("SELECT tenant, state, n FROM counts").fetchall()
    return {(tenant, state): n for tenant, state, n in found}
