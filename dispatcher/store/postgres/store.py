"""The PostgreSQL store: one writer a process that commits for everyone in it, a few readers, and
one session that listens to the other processes (D3, D16)."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import psycopg

from dispatcher.filters import Filter
from dispatcher.settings import Settings
from dispatcher.states import State
from dispatcher.store import access, destinations, operators, replays, rows, search
from dispatcher.store.commit import GroupCommit
from dispatcher.store.common import CommonStore
from dispatcher.store.errors import CannotStart, Conflict, NotFound, StoreUnavailable
from dispatcher.store.migrate import migrate_postgres
from dispatcher.store.postgres import lanes, listener, locks, observe, writer
from dispatcher.store.postgres.errors import line, translated
from dispatcher.store.postgres.listener import Listener
from dispatcher.store.postgres.readers import Readers
from dispatcher.store.postgres.server import QUIET, Server, check_database
from dispatcher.store.postgres.session import Session
from dispatcher.store.postgres.submit import Submit
from dispatcher.store.postgres.tx import PostgresTx
from dispatcher.store.requests import ClaimRequest, Retention, Rules, Settlement, Usage
from dispatcher.store.retention import prune
from dispatcher.store.store import SharedStore
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
from receiver.base import log
from receiver.base.clock import now_ms as wall_ms

T = TypeVar("T")

_LOG: Final = log.get("dispatcher.store")
_OBSERVE_EVERY_S: Final = 1.0
# How long a process that does not feed a replay waits before it looks again whether it must.
_FEED_AGAIN_S: Final = 1.0
_IDLE_LANE_MS: Final = 86_400_000


class PostgresStore(CommonStore, SharedStore):
    """The verbs on one PostgreSQL database that any number of processes share.

    Times are arguments by this process's clock (`clock`); where they are compared with what others
    stored, they are turned into the database's, whose distance each commit measures.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], int] = wall_ms) -> None:
        super().__init__()
        self.on_access: Callable[[], None] = lambda: None
        self.on_replays: Callable[[], None] = lambda: None
        self._settings = settings
        self._clock = clock
        self._server = Server(settings.database_url)
        self._session = Session(self._server, clock=clock)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="postgres-writer")
        self._listener = Listener(self._server, self._hear)
        self._rules = Rules(
            concurrency=settings.destination_concurrency,
            lease_margin_ms=round(settings.lease_margin * 1000),
            key_ms=round(settings.keep_keys * 1000),
        )
        self._readers = Readers(
            self._server, connections=settings.readers, timeout_s=settings.read_timeout
        )
        self._commits = GroupCommit(self._apply, operations_max=settings.commit_rows_max)
        self._watching: asyncio.Task[None] | None = None
        self._revision: int | None = None
        self._schema = observe.known_schema()

    # --- the life of the store ---

    async def open(self) -> None:
        try:
            await self._in_thread(self._prepare)
            await self._observe()
            await self._measure()
        except BaseException as error:
            await self._disconnect()
            if isinstance(error, StoreUnavailable | psycopg.Error):
                raise CannotStart(str(error)) from None
            raise
        self._commits.start()
        self._listener.start()
        self._watching = asyncio.create_task(self._watch(), name="watch")

    def _prepare(self) -> None:
        """Differs: the schema is brought up to date by a session of its own, without deadlines."""
        connection = self._server.connect("postback migration", QUIET)
        try:
            check_database(connection, self._server.shown)
            migrate_postgres(connection)
            _refuse_half_moved(connection)
        except psycopg.Error as error:
            raise CannotStart(f"cannot use {self._server.shown}: {line(error)}") from None
        finally:
            connection.close()
        self._session.open()

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})
        await self._listener.stop()
        await self._commits.close()
        await self._disconnect()

    async def _disconnect(self) -> None:
        await self._readers.close()
        with suppress(RuntimeError):  # closed before
            await self._in_thread(self._session.close)
        self._thread.shutdown()

    async def check(self) -> None:
        await self._do(PostgresTx.touch)

    async def backup(self, target: Path) -> None:
        raise Conflict(
            "a PostgreSQL database is backed up by its own tools: "
            f"pg_dump --format=custom --file={target} DATABASE_URL"
        )

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
        await self._do(
            lambda tx: operators.release(tx, deliveries, now_ms=tx.at(now_ms)),
            locks.of_deliveries(deliveries),
        )

    async def take_over(self, *, now_ms: int) -> int:
        """Differs: others' leases are theirs; a predecessor's are ours when they have ended."""
        return await self.reclaim(now_ms=now_ms)

    async def reclaim(self, *, now_ms: int) -> int:
        return await self._do(
            lambda tx: operators.reclaim(tx, now_ms=tx.at(now_ms), everything=False),
            locks.of_ended_leases(now_ms),
        )

    async def expire(self, *, now_ms: int, limit: int) -> int:
        return await self._do(
            lambda tx: operators.expire(tx, now_ms=tx.at(now_ms), limit=limit),
            locks.of_expiring(now_ms, limit),
        )

    async def repair_lanes(self, *, now_ms: int, after: str, limit: int) -> tuple[int, str | None]:
        return await self._do(
            lambda tx: lanes.mend(
                tx, after, limit=limit, idle_since_ms=tx.at(now_ms) - _IDLE_LANE_MS
            ),
            locks.of_slice(after, limit),
        )

    # --- operators ---

    async def replay(self, tenant: str, callback: str, *, now_ms: int) -> Callback:
        return await self._do(
            lambda tx: operators.replay(tx, tenant, callback, now_ms=tx.at(now_ms)),
            locks.of_callbacks([callback]),
        )

    async def cancel(self, tenant: str, callback: str, *, now_ms: int) -> Callback:
        return await self._do(
            lambda tx: operators.cancel(tx, tenant, callback, now_ms=tx.at(now_ms)),
            locks.of_callbacks([callback]),
        )

    async def make_replay(
        self, tenant: str, wanted: Filter, *, rate_per_second: float | None, now_ms: int
    ) -> Replay:
        replay = await self._new_replay(tenant, wanted, rate_per_second, now_ms)
        return await self._do(lambda tx: replays.make(tx, replay), tell=listener.REPLAYS)

    async def feed_replay(self, replay: str, *, limit: int, now_ms: int) -> Replay:
        """Differs: one process feeds; the others wait a second, in case it ends."""
        cursor, found = await self._look(lambda tx: replays.upcoming(tx, replay, limit=limit))

        def feed(tx: PostgresTx) -> tuple[bool, Replay]:
            if not self._session.may_feed(tx, replay):
                return False, _replay(tx, replay)
            fed = replays.feed(tx, replay, cursor, found, now_ms=tx.at(now_ms))
            if fed.state != "running":
                self._session.let_go(tx, replay)
            return True, fed

        ours, shown = await self._do(feed, locks.of_replay(replay, found))
        if not ours and shown.state == "running":
            await asyncio.sleep(_FEED_AGAIN_S)
        return shown

    async def cancel_replay(self, tenant: str, replay: str, *, now_ms: int) -> Replay:
        return await self._do(
            lambda tx: replays.cancel(tx, tenant, replay, now_ms=now_ms),
            locks.of_replay(replay, ()),
        )

    # --- reading ---

    async def stats(self, tenant: str | None, *, now_ms: int) -> Stats:
        """Differs: the counts are everybody's and read now; the rates are this process's."""

        def see(tx: Tx) -> tuple[int | None, dict[tuple[str, State], int]]:
            return search.oldest_pending_ms(tx, tenant), observe.read_counts(tx)

        oldest_ms, counted = await self._look(see)
        return self._stats(counted, oldest_ms, tenant, now_ms=now_ms)

    # --- destinations ---

    async def register(self, new: Destination, secret: SigningSecret) -> Destination:
        return await self._do(
            lambda tx: destinations.register(tx, new, secret),
            locks.of_destination(new.tenant, new.id),
            tell=listener.ACCESS,
        )

    async def change_destination(
        self, tenant: str, destination: str, changes: Mapping[str, object], *, now_ms: int
    ) -> Destination:
        changed = await self._do(
            lambda tx: destinations.change(
                tx, tenant, destination, changes, concurrency=self._rules.concurrency
            ),
            locks.of_destination(tenant, destination),
        )
        # Counting a backlog takes a second for a million: not while the writer keeps all waiting.
        return await self._look(lambda tx: destinations.get(tx, tenant, changed, now_ms=now_ms))

    async def remove_destination(self, tenant: str, destination: str, *, now_ms: int) -> None:
        await self._do(
            lambda tx: destinations.remove(tx, tenant, destination, now_ms=tx.at(now_ms)),
            locks.of_destination(tenant, destination),
            tell=listener.ACCESS,
        )

    # --- access ---

    async def ensure_tenant(self, tenant: str, secret: SigningSecret) -> None:
        await self._do(lambda tx: access.ensure_tenant(tx, tenant, secret), tell=listener.ACCESS)

    async def add_key(self, key: Key) -> None:
        await self._do(lambda tx: access.add_key(tx, key), tell=listener.ACCESS)

    async def remove_key(self, key: str) -> Key:
        return await self._do(lambda tx: access.remove_key(tx, key), tell=listener.ACCESS)

    async def rotate_secret(
        self, new: SigningSecret, *, overlap_ms: int, force: bool, now_ms: int
    ) -> Sequence[SigningSecret]:
        return await self._do(
            lambda tx: access.rotate_secret(
                tx, new, overlap_ms=overlap_ms, force=force, now_ms=now_ms
            ),
            locks.of_tenant(new.tenant),
            tell=listener.ACCESS,
        )

    async def mark_revealed(self, tenant: str, secret: str, *, by: str, now_ms: int) -> None:
        await self._do(lambda tx: access.mark_revealed(tx, tenant, secret, by=by, now_ms=now_ms))

    # --- housekeeping ---

    async def prune(self, retention: Retention, *, now_ms: int, limit: int) -> int:
        return await self._do(lambda tx: prune(tx, retention, now_ms=tx.at(now_ms), limit=limit))

    async def shrink(self, *, pages: int) -> int:
        """Differs: autovacuum makes the room of what is gone usable again."""
        return 0

    # --- how the verbs get to the database ---

    async def _do(
        self,
        act: Callable[[PostgresTx], T],
        touched: locks.Lanes = locks.none,
        *,
        tell: str | None = None,
    ) -> T:
        """Differs: `touched` are the lanes to hold; `tell` is what the others hear of it, in the
        commit itself."""

        def act_and_tell(tx: PostgresTx) -> T:
            result = act(tx)
            tx.run("UPDATE revisions SET n = n + 1 WHERE what = ?", tell)
            tx.one("SELECT pg_notify(?, ?)", listener.CHANNEL, f"{tell} {self._session.id}")
            return result

        operation = writer.Do(act if tell is None else act_and_tell, touched)
        result: T = await self._commits.do(operation)
        return result

    async def _look(self, see: Callable[[Tx], T]) -> T:
        return await self._readers.look(see)

    async def _in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def _apply(self, operations: Sequence[object]) -> Sequence[object]:
        started = time.perf_counter()
        committed = await self._in_thread(writer.commit, self._session, operations, self._rules)
        self.on_commit(len(operations), time.perf_counter() - started)
        self._count(committed.notes)
        self.on_ready(committed.next_ready_ms)
        return committed.results

    # --- the other processes ---

    def _hear(self, topic: str, who: str) -> None:
        if who == self._session.id:
            return
        if topic == listener.READY:
            self.on_ready(self._clock())
        elif topic == listener.ACCESS:
            self.on_access()
        elif topic == listener.REPLAYS:
            self.on_replays()

    async def _watch(self) -> None:
        """Return what nobody could tell us: a process that died between its commit and its word."""
        while True:
            await asyncio.sleep(_OBSERVE_EVERY_S)
            try:
                await self._observe()
                await self._measure()
            except (StoreUnavailable, psycopg.Error) as error:
                _LOG.debug("cannot look at the database", reason=line(error))
            except Exception:
                _LOG.exception("watching the database failed")

    async def _observe(self) -> None:
        try:
            seen = await self._in_thread(observe.observe, self._session)
        except psycopg.Error as error:
            raise translated(error) from error
        self._recount(seen.counts)
        if self._revision not in (None, seen.revision):
            self.on_access()
        self._revision = seen.revision
        if seen.schema > self._schema:
            self._schema = seen.schema
            _LOG.warning(
                "a newer version brought the database to a schema that this one does not know; "
                "it goes on as it is: restart it with the newer version",
                schema=seen.schema,
            )
        self.on_ready(seen.next_ready_ms)

    async def _measure(self) -> None:
        row = await self._look(lambda tx: tx.one(observe.SIZE))
        used = 0 if row is None else int(row[0])
        self._usage = Usage(
            used_bytes=used, free_bytes=max(0, self._settings.storage_bytes_max - used)
        )


def _replay(tx: Tx, replay: str) -> Replay:
    row = tx.one(f"{rows.REPLAY} WHERE id = ?", replay)
    if row is None:
        raise NotFound(f"there is no replay {replay}")
    return rows.replay(row)


def _refuse_half_moved(connection: psycopg.Connection) -> None:
    row = connection.execute("SELECT source FROM moves WHERE done_ms IS NULL").fetchone()
    if row is not None:
        raise CannotStart(
            f"the move of {row[0]} into this database is not finished: run the same "
            "`dispatcher move` again, it goes on where it stopped"
        )
