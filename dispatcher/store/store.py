"""The store: verbs that are atomic and durable, on whichever database.

Times are integer milliseconds by this process's clock, and always arguments; no transaction leaks
out. Every verb that writes returns only after its commit is on disk (I1). Reads may lag a moment
behind; writes are settled in the order they commit.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from dispatcher.audit import Entry, EntryFilter
from dispatcher.filters import Filter
from dispatcher.policy import TIMEOUT_MS_MAX
from dispatcher.settings import Settings
from dispatcher.states import QUEUED, STATES, State
from dispatcher.store import (
    access,
    audit,
    callbacks,
    clocks,
    destinations,
    expiry,
    failures,
    figures,
    lanes,
    reencrypt,
    replays,
    sealing,
    search,
    stored,
    tenants,
    upgrade,
)
from dispatcher.store.access import Rotation
from dispatcher.store.callbacks import Totals
from dispatcher.store.database import PLATFORM, Database, Erased, Operation, StoreEvents
from dispatcher.store.errors import StoreFull, TooManyMatch
from dispatcher.store.jobs.store import JobStore
from dispatcher.store.lanes import Lanes
from dispatcher.store.limits import Destinations
from dispatcher.store.rates import Rates
from dispatcher.store.reencrypt import Reencryption
from dispatcher.store.requests import (
    ClaimRequest,
    Page,
    Retention,
    Rules,
    Settlement,
    SubmitRequest,
    Usage,
)
from dispatcher.store.tenants import Erasure
from dispatcher.store.tx import Topic, Tx
from dispatcher.values import (
    Attempt,
    Callback,
    Delivery,
    Destination,
    Key,
    KeyUse,
    NewCallback,
    Payload,
    Replay,
    SigningSecret,
    Stats,
    StoredSecret,
    StoredSecretEntry,
    Submitted,
    Tenant,
)
from receiver.base import log
from receiver.base.clock import monotonic_ms
from receiver.base.clock import now_ms as wall_ms
from receiver.base.db.group_commit import GroupCommit
from receiver.base.db.readers import SERVICE, Reader

T = TypeVar("T")
_LOG: Final = log.get("dispatcher.store")
_PROBE_EVERY_S: Final = 1.0
_LOOK_FOR_KEYS_MS: Final = 30_000


class Store:
    """The verbs. Of those that write, `lanes` are what the operation touches, and `notify` what
    the processes on a shared database are told of it."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._commits = GroupCommit(
            self._commit,
            operations_max=settings.commit_rows_max,
            waiting_max=settings.commit_waiting_max,
        )
        self._rules = Rules(
            destinations=Destinations(settings.tenant_destinations_max),
            concurrency=settings.destination_concurrency,
            lease_margin_ms=round(settings.lease_margin * 1000),
            key_ms=round(settings.keep_keys * 1000),
            inline_max=settings.inline_max,
            public_url=settings.public_url or "",
        )
        self._events = StoreEvents()
        self._counts: Counter[tuple[str, State]] = Counter()
        self._bytes: Counter[str] = Counter()
        self._states: Counter[State] = Counter()
        self._outputs: Counter[str] = Counter()
        self._queued = 0
        self._committed = 0
        self._replayed = 0
        self._probed_s = 0.0
        self._missing_keys: str | None = None
        self._looked_for_keys_ms = 0
        self._replays_max = settings.tenant_replays_max
        self._secrets_max = settings.tenant_secrets_max
        self._rates = Rates()
        self._retry_after_ms = round(settings.retry_after_max * 1000)
        self._lease_ms_max = TIMEOUT_MS_MAX + self._rules.lease_margin_ms
        self.jobs = JobStore(
            self._commits.do,
            self._write,
            self._read,
            self._rules,
            lambda: self._database.skew_ms,
            self._database.aside,
            lambda: self._committed,
        )
        self._leases = clocks.LeaseClock(monotonic_ms, lease_ms_max=self._lease_ms_max)

    # --- the life of the store ---

    async def open(self, events: StoreEvents | None = None) -> None:
        """Open, lock and migrate; from now on `events` are called. Raises CannotStart."""
        self._events = events or StoreEvents()
        await self._database.open(self._events, self._recount)
        try:
            self._recount(await self._read(callbacks.totals))
            upgraded_ms = await self._read(upgrade.began_ms)
        except BaseException:
            await self._database.close()
            raise
        if upgraded_ms is not None:
            until_ms = upgraded_ms + self._rules.key_ms
            self._rules = replace(self._rules, earlier_keys_until_ms=until_ms)
        self._commits.start()
        try:
            if await self._read(sealing.kids) - self._kids():
                await self._look_for_keys()
        except BaseException:
            await self.close()
            raise

    def _kids(self) -> set[str]:
        ring = self._database.sealing.ring
        return set() if ring is None else set(ring.kids)

    async def _look_for_keys(self) -> None:
        self._looked_for_keys_ms = monotonic_ms()
        at_ms = wall_ms()
        counted = await self._read(lambda tx: sealing.count_small(tx, now_ms=at_ms))
        missing = [one for one in counted if one.missing]
        if missing and self._missing_keys is None:
            _LOG.error(
                "what is stored cannot be opened: put the keys into DISPATCHER_ENCRYPTION_KEYS",
                **{one.what: f"{one.missing} (key {one.missing_kid})" for one in missing},
            )
        told = [f"{one.missing:,} {one.what} (key {one.missing_kid})" for one in missing]
        self._missing_keys = f"cannot open {', '.join(told)}" if told else None

    async def missing_keys(self) -> str | None:
        """Return which signing secrets and destinations' headers no key of ours opens; None where
        all are well, which costs nothing to say."""
        since_ms = monotonic_ms() - self._looked_for_keys_ms
        if self._missing_keys is not None and since_ms > _LOOK_FOR_KEYS_MS:
            await self._look_for_keys()
        return self._missing_keys

    async def close(self) -> None:
        """Commit what is queued and let go."""
        await self._commits.close()
        await self._database.close()

    async def check(self) -> None:
        """Raise StoreUnavailable or StoreFull unless a write of some size is taken now. It is made
        at most once a second, however often this is asked."""
        probe = time.monotonic() - self._probed_s > _PROBE_EVERY_S
        await self._write(lambda tx: tx.touch(probe=probe))
        if probe:
            self._probed_s = time.monotonic()
        if self._database.usage.free_bytes <= 0:
            raise StoreFull("there is no room left for callbacks")

    async def backup(self, target: Path) -> None:
        """Write a consistent copy to `target`, while work goes on. Raises Conflict if it exists."""
        await self._database.backup(target)

    @property
    def shared(self) -> bool:
        """Whether other processes may use the database at the same time."""
        return self._database.shared

    def usage(self) -> Usage:
        """Return the last measured usage (at most about a second old)."""
        return self._database.usage

    def queued(self, tenant: str | None = None) -> int:
        """Return the deliveries pending or sending, of one tenant or of all; exact after each
        commit of this process."""
        if tenant is None:
            return self._queued
        return sum(self._counts[tenant, state] for state in QUEUED)

    def states(self) -> Mapping[State, int]:
        """Return how many callbacks are in each state, of all tenants; as exact as `queued`."""
        return {state: self._states[state] for state in STATES}

    def replayed(self) -> int:
        """Return how many callbacks this process has made pending again."""
        return self._replayed

    async def figures(self, *, destinations_max: int) -> figures.DeliveryFigures:
        """Return what the metrics tell of deliveries, and of so many registered destinations."""
        at_ms = wall_ms() + self._database.skew_ms
        return await self._read(
            lambda tx: figures.look(tx, now_ms=at_ms, destinations_max=destinations_max)
        )

    def stored_bytes(self, tenant: str) -> int:
        """Return what a tenant's callbacks and jobs take up, whatever state they are in; exact
        after each commit of this process."""
        return self._bytes[tenant]

    def output_bytes(self, tenant: str) -> int:
        """Return what a tenant's live outputs have of that; exact after each commit of this
        process."""
        return self._outputs[tenant]

    def outputs_bytes(self) -> int:
        """Return what all tenants' live outputs have; as exact as one tenant's."""
        return self._outputs.total()

    def finished_per_second(self) -> float:
        """Return how many attempts a second ended a delivery, over the last minute, here."""
        return self._rates.per_second("finished", None, now_ms=monotonic_ms())

    @property
    def committed(self) -> int:
        """How many operations this process has committed until now."""
        return self._committed

    # --- the path of a delivery ---

    def submit(self, new: NewCallback, *, handover: bool) -> "asyncio.Future[Submitted]":
        """Store durably. With `handover`, leased at once if its lane is idle, within its limits
        and not held. Raises KeyReused, NotFound (destination), DestinationDisabled, StoreFull,
        StoreUnavailable."""
        return self._commits.do(SubmitRequest(new, handover), new.tenant)

    async def claim(self, request: ClaimRequest) -> list[Delivery]:
        """Lease due work, fair across lanes and tenants; at most `request.slots`."""
        deliveries: list[Delivery] = await self._commits.do(request)
        return deliveries

    async def settle(self, settlement: Settlement) -> bool:
        """Record an attempt and its verdict; False if the fence is no longer current (nothing is
        changed then). Raises StoreUnavailable or StoreFull: try again until it is recorded."""
        recorded: bool = await self._commits.do(settlement)
        return recorded

    async def release(self, deliveries: Sequence[Delivery], *, now_ms: int) -> None:
        """Hand leased work back unspent, due at once."""
        await self._write(
            lambda tx: expiry.release(tx, deliveries, now_ms=tx.at(now_ms)),
            lanes=lanes.of_deliveries(deliveries),
        )

    async def take_over(self, *, now_ms: int) -> int:
        """At start-up: what a crashed predecessor left leased, as far as it can be known before
        the leases end (a sole owner knows all of it), is due at once; returns how much."""

        def act(tx: Tx) -> int:
            at_ms = tx.at(now_ms)
            self._leases.judge(at_ms)  # so that the first sweep sees it where a clock leaps before
            return expiry.take_over(tx, now_ms=at_ms)

        return await self._write(act, lanes=lanes.of_ended_leases(now_ms, self._lease_ms_max))

    async def reclaim(self, *, now_ms: int, held: Collection[tuple[str, int]] = frozenset()) -> int:
        """Make work whose lease has ended due at once; returns how much. Never what this process
        has `held` (ids and fences), nor because a clock was set ahead."""

        def act(tx: Tx) -> int:
            at_ms = tx.at(now_ms)
            return expiry.reclaim(
                tx,
                now_ms=at_ms,
                ended_ms=self._leases.judge(at_ms),
                lease_ms_max=self._lease_ms_max,
                held=held,
            )

        return await self._write(act, lanes=lanes.of_ended_leases(now_ms, self._lease_ms_max))

    async def bring_back(self, *, now_ms: int, limit: int) -> int:
        """Correct what a clock that ran ahead left in lanes, schedules and ends, as far as it
        would stop something; returns how much, less than `limit` when that was all."""
        retry_after_ms = self._retry_after_ms
        # A reader does not know how far the database's clock is from ours; the writer does.
        at_ms = now_ms + self._database.skew_ms
        if not await self._read(
            lambda tx: clocks.is_ahead(tx, now_ms=at_ms, retry_after_ms=retry_after_ms)
        ):
            return 0

        def find(tx: Tx) -> list[str]:
            return clocks.touched(
                tx, now_ms=tx.at(now_ms), retry_after_ms=retry_after_ms, limit=limit
            )

        return await self._write(
            lambda tx: clocks.bring_back(
                tx, now_ms=tx.at(now_ms), retry_after_ms=retry_after_ms, limit=limit
            ),
            lanes=find,
        )

    async def hasten(
        self, after: clocks.Place, *, now_ms: int, trusted: bool, limit: int
    ) -> tuple[int, clocks.Place | None]:
        """Walk `limit` of what waits from `after` on, and have nothing wait longer than from its
        last try on; where the clock is `trusted`, as long as a peer may have asked for. Returns
        how many waited longer, and the place to go on from (None at the end)."""

        def walk(tx: Tx, at_ms: int) -> tuple[list[clocks.Late], clocks.Place | None]:
            return clocks.late(
                tx,
                after,
                now_ms=at_ms,
                retry_after_ms=self._retry_after_ms,
                trusted=trusted,
                limit=limit,
            )

        at_ms = now_ms + self._database.skew_ms
        found, place = await self._read(lambda tx: walk(tx, at_ms))
        if not found:
            return 0, place
        hastened = await self._write(
            lambda tx: clocks.hasten(tx, found), lanes=lambda _tx: [one.lane for one in found]
        )
        return hastened, place

    async def expire(self, *, now_ms: int, limit: int) -> int:
        """Make pending deliveries past their maximum age dead, held or not; returns how many."""
        return await self._write(
            lambda tx: expiry.expire(tx, now_ms=tx.at(now_ms), limit=limit),
            lanes=lanes.of_expiring(now_ms, limit),
        )

    async def repair_lanes(self, *, now_ms: int, after: str, limit: int) -> tuple[int, str | None]:
        """Compare `limit` lanes after id `after` with their deliveries and repair them; delete
        idle ones. Returns how many disagreed, and the id to go on after (None at the end)."""
        return await self._write(
            lambda tx: lanes.repair(tx, after, limit=limit, now_ms=tx.at(now_ms)),
            lanes=lanes.of_slice(after, limit),
        )

    async def forget_schedules(self, *, now_ms: int, after: str, limit: int) -> str | None:
        """Look at the schedules of `limit` tenants after `after`, and forget those of tenants that
        were not served for a day and have nothing that waits. Returns the tenant to go on after
        (None at the end)."""
        at_ms = now_ms + self._database.skew_ms
        idle, place = await self._read(
            lambda tx: lanes.idle_schedules(tx, after, limit=limit, now_ms=at_ms)
        )
        if idle:
            await self._write(lambda tx: lanes.forget_schedules(tx, idle, now_ms=tx.at(now_ms)))
        return place

    # --- callbacks ---

    async def get(self, tenant: str, callback: str) -> Callback:
        """Raise NotFound."""
        return await self._read(lambda tx: callbacks.get(tx, tenant, callback), Reader(tenant))

    async def search(self, tenant: str, filter: Filter, *, after: str | None, limit: int) -> Page:
        """Newest first, at most `limit`, after id `after`; less, with an id to go on after, where
        one look came no further. Raises StoreUnavailable when it takes longer than the read
        deadline."""
        return await self._read(
            lambda tx: search.page(tx, tenant, filter, after=after, limit=limit), Reader(tenant)
        )

    async def failures(self, tenant: str, filter: Filter) -> failures.Failures:
        """Return what fails, by destination and error."""
        return await self._read(lambda tx: failures.failures(tx, tenant, filter), Reader(tenant))

    async def attempts(
        self, tenant: str, callback: str, *, after: int = 0, limit: int = 500
    ) -> Sequence[Attempt]:
        """Oldest first, at most `limit`, those after number `after`. Raises NotFound."""
        return await self._read(
            lambda tx: callbacks.attempts(tx, tenant, callback, after=after, limit=limit),
            Reader(tenant),
        )

    async def payload(self, tenant: str, callback: str) -> Payload:
        """Raise NotFound, PayloadGone."""
        return await self._read(lambda tx: callbacks.payload(tx, tenant, callback), Reader(tenant))

    async def replay(
        self, tenant: str, callback: str, *, now_ms: int, entries: Sequence[Entry] = ()
    ) -> Callback:
        """Make a final delivery due again: same id, same bytes, a fresh budget, history kept.
        Raises NotFound, Conflict (pending or sending), PayloadGone."""
        return await self._write(
            lambda tx: callbacks.replay(tx, tenant, callback, now_ms=tx.at(now_ms)),
            lanes=lanes.of_callbacks([callback]),
            tenant=tenant,
            entries=entries,
        )

    async def cancel(
        self, tenant: str, callback: str, *, now_ms: int, entries: Sequence[Entry] = ()
    ) -> Callback:
        """Cancel a pending delivery; a running attempt ends and nothing follows it. Raises
        NotFound, Conflict (final)."""
        return await self._write(
            lambda tx: callbacks.cancel(tx, tenant, callback, now_ms=tx.at(now_ms)),
            lanes=lanes.of_callbacks([callback]),
            tenant=tenant,
            entries=entries,
        )

    async def stats(self, tenant: str | None) -> Stats:
        """Of one tenant or of all. On a shared database the counts are everybody's, the rates this
        process's."""
        totals, oldest_ms = await self._read(
            lambda tx: (callbacks.counts_of(tx, tenant), callbacks.oldest_pending_ms(tx, tenant)),
            PLATFORM if tenant is None else Reader(tenant),
        )
        at_ms = monotonic_ms()
        return Stats(
            counts={state: totals.get(state, 0) for state in STATES},
            oldest_pending_ms=oldest_ms,
            accepted_per_second=self._rates.per_second("accepted", tenant, now_ms=at_ms),
            delivered_per_second=self._rates.per_second("delivered", tenant, now_ms=at_ms),
            failed_attempts_per_second=self._rates.per_second("failed", tenant, now_ms=at_ms),
        )

    # --- replays ---

    async def make_replay(
        self,
        tenant: str,
        filter: Filter,
        *,
        rate_per_second: float | None,
        now_ms: int,
        matched_max: int | None = None,
        entry: Entry | None = None,
    ) -> Replay:
        """Fix the set: what matches `filter` and is final now. Feeds nothing yet. Raises
        LimitReached while as many run as may, and TooManyMatch for more than `matched_max`."""
        running_max = self._replays_max
        # Counting may take long.
        await self._read(lambda tx: replays.check_running(tx, tenant, running_max), Reader(tenant))
        counted = await self._count(tenant, filter, made_ms=now_ms, sample=0)
        if matched_max is not None and counted.is_above(matched_max):
            raise TooManyMatch(f"more than {matched_max} match")
        replay = replays.new(tenant, filter, counted, rate_per_second, now_ms)
        return await self._write(
            lambda tx: replays.make(tx, replay, running_max, entry),
            lanes=lanes.of_tenant(tenant),
            notify="replays",
            tenant=tenant,
        )

    async def preview_replay(self, tenant: str, filter: Filter, *, sample: int) -> replays.Count:
        """Return how many a replay would match, as far as that is counted, and some of them."""
        return await self._count(tenant, filter, made_ms=wall_ms(), sample=sample)

    async def _count(
        self, tenant: str, filter: Filter, *, made_ms: int, sample: int
    ) -> replays.Count:
        """Count by a few looks, between which others have their turn."""
        counted = replays.Count()
        for _ in range(replays.LOOKS_MAX):
            look = partial(
                replays.count,
                tenant=tenant,
                filter=filter,
                before=counted,
                made_ms=made_ms,
                sample=sample,
            )
            counted = await self._read(look, Reader(tenant))
            if counted.next_id is None:
                break
        return counted

    async def feeds_replays(self) -> bool:
        """Whether this process is the one that feeds: of several the first that asked, while it
        lives."""
        return await self._write(replays.acquire)

    async def feed_replay(
        self, replay: str, *, limit: int, now_ms: int, tenant: str = ""
    ) -> Replay:
        """Walk on in the set, to `limit` more callbacks of it at most, which are looked up in
        `tenant`'s turn; cursor and rows move in one commit. Raises NotFound, and Conflict in a
        process that is not the one that feeds."""
        part = await self._read(
            lambda tx: replays.upcoming(tx, replay, limit=limit), Reader(tenant, upkeep=True)
        )
        return await self._write(
            lambda tx: replays.feed(tx, replay, part, now_ms=tx.at(now_ms)),
            lanes=lanes.of_replay(replay, part.ids),
        )

    async def cancel_replay(
        self, tenant: str, replay: str, *, now_ms: int, entry: Entry | None = None
    ) -> Replay:
        """Stop feeding; what was fed stays. Raises NotFound, Conflict (done)."""
        return await self._write(
            lambda tx: replays.cancel(tx, tenant, replay, now_ms=now_ms, entry=entry),
            lanes=lanes.of_replay(replay, ()),
            tenant=tenant,
        )

    async def get_replay(self, tenant: str, replay: str) -> Replay:
        """Return it with what became of the callbacks that it took up. Raises NotFound."""
        return await self._read(
            lambda tx: replays.with_outcomes(tx, tenant, replay), Reader(tenant)
        )

    async def running_replays(self, *, after: str = "", limit: int = 1_000) -> Sequence[Replay]:
        """`limit` of every tenant's after id `after`, in the order of their ids."""
        return await self._read(lambda tx: replays.running(tx, after, limit=limit))

    # --- destinations ---

    async def destinations(
        self, tenant: str, *, after: str | None, limit: int
    ) -> tuple[Sequence[Destination], str | None]:
        """In the order of their ids, and the id to go on after."""
        return await self._read(
            lambda tx: destinations.page(tx, tenant, after=after, limit=limit, now_ms=wall_ms()),
            Reader(tenant),
        )

    async def get_destination(self, tenant: str, destination: str) -> Destination:
        """By id or by registered name. Raises NotFound."""
        return await self._read(
            lambda tx: destinations.get(tx, tenant, destination, now_ms=wall_ms()), Reader(tenant)
        )

    async def register(
        self, new: Destination, secret: SigningSecret, *, entries: Sequence[Entry] = ()
    ) -> Destination:
        """Raise Conflict if the name is taken, LimitReached if the tenant has as many as it may,
        UnknownSecret for a header that names a secret that is not stored."""
        return await self._write(
            lambda tx: destinations.register(tx, new, secret, self._rules.destinations),
            lanes=lanes.of_destination(new.tenant, new.id),
            notify="access",
            tenant=new.tenant,
            entries=entries,
        )

    async def change_destination(
        self,
        tenant: str,
        destination: str,
        changes: Mapping[str, object],
        *,
        redirects: bool = False,
        now_ms: int,
        entries: Sequence[Entry] = (),
    ) -> Destination:
        """Change the named fields (`url policy headers paused disabled_reason concurrency
        rate_per_second`). Resuming clears the circuit; disabling makes the backlog dead.
        Raises NotFound; UnknownSecret for a header that names a secret that is not stored; and,
        unless it `redirects` those that headers name, RedirectsSecret for another URL."""
        changed = await self._write(
            lambda tx: destinations.change(
                tx, tenant, destination, changes, self._rules, redirects=redirects
            ),
            lanes=lanes.of_destination(tenant, destination),
            tenant=tenant,
            entries=entries,
        )
        # Counting a backlog takes up to 100 ms: not while the writer keeps all waiting.
        return await self._read(
            lambda tx: destinations.get(tx, tenant, changed, now_ms=now_ms),
            Reader(tenant, upkeep=True),
        )

    async def remove_destination(
        self, tenant: str, destination: str, *, now_ms: int, entries: Sequence[Entry] = ()
    ) -> None:
        """Forget it and its secrets; its backlog is made dead. Raises NotFound."""
        await self._write(
            lambda tx: destinations.remove(tx, tenant, destination, now_ms=tx.at(now_ms)),
            lanes=lanes.of_destination(tenant, destination),
            notify="access",
            tenant=tenant,
            entries=entries,
        )

    # --- access ---

    async def tenants(self, *, listed: bool = False) -> Sequence[Tenant]:
        """In the order of their names; `listed`, in the turns of listings."""
        return await self._read(tenants.tenants, PLATFORM if listed else SERVICE)

    async def change_tenant(
        self, tenant: str, changes: Mapping[str, object], *, entries: Sequence[Entry] = ()
    ) -> Tenant:
        """Change the named fields (`label storage_bytes_max queue_max rate_per_second
        jobs_running_max outputs_bytes_max`; None: the default). Raises NotFound, TenantErasing."""
        return await self._write(
            lambda tx: tenants.change(tx, tenant, changes),
            lanes=lanes.of_tenant(tenant),
            notify="access",
            entries=entries,
        )

    async def begin_erasing(
        self, tenant: str, *, now_ms: int, entry: Entry | None = None
    ) -> Tenant:
        """Have a tenant end, its keys at once; `erase` does the rest. Raises NotFound."""
        return await self._write(
            lambda tx: tenants.begin_erasing(tx, tenant, now_ms=tx.at(now_ms), entry=entry),
            lanes=lanes.of_tenant(tenant),
            notify="access",
        )

    async def erasing(self) -> Sequence[str]:
        """Return the tenants that are being erased."""
        return await self._read(tenants.erasing, SERVICE)

    async def erase(self, tenant: str, *, now_ms: int, limit: int) -> Erasure:
        """Delete about `limit` more rows of a tenant that is being erased; other processes are told
        when nothing is left."""
        erased = await self.jobs.erase(tenant, now_ms=now_ms, limit=limit)
        if erased in ("going on", "another's"):
            return erased
        return await self._write(
            lambda tx: tenants.erase(tx, tenant, now_ms=tx.at(now_ms), limit=limit),
            lanes=tenants.of_erasing(tenant, limit),
        )

    async def ensure_tenant(
        self, tenant: str, secret: SigningSecret, *, entry: Entry | None = None
    ) -> int:
        """Make the tenant with this secret, unless it exists; return when it was made."""
        return await self._write(
            lambda tx: access.ensure_tenant(tx, tenant, secret, entry),
            lanes=lanes.of_new_tenant(tenant),
            notify="access",
        )

    async def keys(self) -> Sequence[Key]:
        """Oldest first."""
        return await self._read(access.keys)

    async def add_key(self, key: Key, *, entries: Sequence[Entry] = ()) -> None:
        """Store a key's digest; nothing happens if it is there."""
        await self._write(lambda tx: access.add_key(tx, key), notify="access", entries=entries)

    async def remove_key(self, key: str, *, entries: Sequence[Entry] = ()) -> Key:
        """Raise NotFound."""
        return await self._write(
            lambda tx: access.remove_key(tx, key),
            lanes=lanes.of_key(key),
            notify="access",
            entries=entries,
        )

    async def key_of(self, digest: bytes) -> Key | None:
        """Return the key whose text has this digest, if another process has made it."""
        return await self._read(lambda tx: access.key_of(tx, digest), PLATFORM)

    async def rotate_key(
        self, key: str, rotation: Rotation, *, entries: Sequence[Entry] = ()
    ) -> Key:
        """Give a key another text; the one before is good until the overlap ends. Raises NotFound,
        and Conflict while an earlier overlap lasts, unless it is forced to end."""
        return await self._write(
            lambda tx: access.rotate_key(tx, key, rotation),
            lanes=lanes.of_key(key),
            notify="access",
            entries=entries,
        )

    async def mark_used(self, uses: Sequence[KeyUse]) -> None:
        """Record when keys were used, each once a minute at most, whoever asks for it."""
        await self._write(lambda tx: access.mark_used(tx, uses))

    async def uses(self, keys: Sequence[str], *, reader: Reader = PLATFORM) -> Sequence[KeyUse]:
        """Return when these keys were used last; `reader` is who wants to know."""
        return await self._read(lambda tx: access.uses(tx, keys), reader)

    async def secrets(self, tenant: str, *, listed: bool = False) -> Sequence[SigningSecret]:
        """All that sign or signed and have not been forgotten, newest first; `listed`, in the
        turns of listings."""
        reader = Reader(tenant) if listed else SERVICE
        return await self._read(lambda tx: access.secrets(tx, tenant), reader)

    async def rotate_secret(
        self,
        new: SigningSecret,
        *,
        overlap_ms: int,
        force: bool,
        now_ms: int,
        entries: Sequence[Entry] = (),
    ) -> Sequence[SigningSecret]:
        """Make `new` the signing secret of its tenant or destination; the one before signs
        beside it until the overlap ends. Raises NotFound, and Conflict while an earlier overlap
        lasts unless `force`, which ends that one at once."""
        return await self._write(
            lambda tx: access.rotate_secret(
                tx, new, overlap_ms=overlap_ms, force=force, now_ms=now_ms
            ),
            lanes=lanes.of_tenant(new.tenant),
            notify="access",
            tenant=new.tenant,
            entries=entries,
        )

    async def mark_revealed(
        self, tenant: str, secret: str, *, by: str, now_ms: int, entries: Sequence[Entry] = ()
    ) -> None:
        """Record that an admin key has seen a secret. Raises NotFound."""
        await self._write(
            lambda tx: access.mark_revealed(tx, tenant, secret, by=by, now_ms=now_ms),
            tenant=tenant,
            entries=entries,
        )

    # --- the audit trail ---

    async def record(self, *entries: Entry, tenant: str | None = None) -> None:
        """Record what changes nothing else in the database."""
        await self._write(lambda _tx: None, tenant=tenant, entries=entries)

    async def trim_audit(
        self, after: str, *, entries_max: int, limit: int
    ) -> tuple[int, str | None]:
        """Delete up to `limit` of the oldest entries that the next tenant after `after` has beyond
        `entries_max`; returns how many, and which tenant that is (None: there is no further one).
        """
        tenant, up_to = await self._read(lambda tx: audit.surplus(tx, after, entries_max))
        if tenant is None or up_to is None:
            return 0, tenant
        return await self._write(lambda tx: audit.trim(tx, tenant, up_to, limit)), tenant

    async def audit_trail(
        self, filter: EntryFilter, *, after: str | None, limit: int
    ) -> audit.EntryPage:
        """Newest first, at most `limit`, after id `after`; less, with an id to go on after, where
        one look came no further."""
        reader = PLATFORM if filter.tenant is None else Reader(filter.tenant)
        return await self._read(lambda tx: audit.page(tx, filter, after=after, limit=limit), reader)

    # --- what is sealed ---

    @property
    def is_sealing(self) -> bool:
        """Whether this process has keys to seal with."""
        return self._database.sealing.ring is not None

    async def begin_reencryption(
        self, *, now_ms: int, entries: Sequence[Entry] = ()
    ) -> Reencryption:
        """Have everything be sealed with the key that seals now; `reencrypt` does it. Raises
        NoKeyring."""
        return await self._write(lambda tx: reencrypt.begin(tx, now_ms=now_ms), entries=entries)

    async def reencryption(self) -> Reencryption | None:
        """Return how far that is, None where it was never asked for."""
        return await self._read(reencrypt.get)

    async def runs_reencryption(self) -> bool:
        """Whether this process is the one that does it, of several the first that asked."""
        return await self._write(reencrypt.is_runner)

    async def reencrypt(self, at: Reencryption, *, now_ms: int) -> Reencryption:
        """Seal a slice of what comes next after `at`; return where that leads."""
        part = await self._read(lambda tx: reencrypt.upcoming(tx, at))
        return await self._write(lambda tx: reencrypt.seal_part(tx, at, part, now_ms=now_ms))

    async def finish_reencryption(
        self, at: Reencryption, *, clean: bool, now_ms: int
    ) -> Reencryption:
        """Note that all is done."""
        return await self._write(lambda tx: reencrypt.finish(tx, at, clean=clean, now_ms=now_ms))

    async def overwrite_deleted(self) -> None:
        """From now on have what is deleted or changed be overwritten in the file."""
        await self._database.overwrite_deleted()

    async def erase_deleted(self, *, rewrite: bool) -> Erased:
        """End that, and have nothing of what was there before stay in the file, which is written
        anew (`rewrite`) or has been; return what came of it."""
        return await self._database.erase_deleted(rewrite=rewrite)

    # --- stored secrets: `owner` is a tenant, or `stored.PLATFORM` ---

    async def store_secret(
        self, owner: str, name: str, value: str, *, now_ms: int, entries: Sequence[Entry] = ()
    ) -> bool:
        """Store a secret, in place of one of this name; returns whether it is new. Raises
        NoKeyring, LimitReached, and NotFound for a tenant that there is not."""
        return await self._write(
            lambda tx: stored.put(
                tx, owner, name, value, count_max=self._secrets_max, now_ms=now_ms
            ),
            lanes=_holding(owner),
            notify="access",
            tenant=owner or None,
            entries=entries,
        )

    async def stored_secret(self, owner: str, name: str) -> StoredSecretEntry:
        """Return what is told of a secret. Raises UnknownSecret."""
        return await self._read(lambda tx: stored.get(tx, owner, name), Reader(owner))

    async def stored_secrets(self, owner: str) -> Sequence[StoredSecretEntry]:
        """Return them without their values, in the order of their names."""
        return await self._read(lambda tx: stored.entries(tx, owner), Reader(owner))

    async def stored_values(self, owner: str) -> Mapping[str, StoredSecret]:
        """Return them with their values, by name, for what is sent."""
        return await self._read(lambda tx: stored.values(tx, owner))

    async def forget_secret(
        self, owner: str, name: str, *, force: bool, entries: Sequence[Entry] = ()
    ) -> StoredSecretEntry:
        """Delete a secret; returns what it was. Raises UnknownSecret, and Conflict while a
        destination's header names it, unless `force`."""
        return await self._write(
            lambda tx: stored.forget(tx, owner, name, force=force),
            lanes=_holding(owner),
            notify="access",
            tenant=owner or None,
            entries=entries,
        )

    # --- retention ---

    async def prune(self, periods: Retention, *, now_ms: int, limit: int) -> int:
        """Remove up to `limit` payloads and rows past their retention; returns how many, so that
        0 means done. Pending and sending callbacks are never touched."""
        return await self._write(
            lambda tx: expiry.prune(tx, periods, now_ms=tx.at(now_ms), limit=limit)
        )

    async def shrink(self, *, pages: int) -> int:
        """Give up to `pages` free pages back to the file system; returns how many."""
        return await self._database.shrink(pages=pages)

    # --- how the verbs get to the database ---

    async def _read(self, query: Callable[[Tx], T], reader: Reader = SERVICE) -> T:
        return await self._database.read(query, reader)

    async def _write(
        self,
        act: Callable[[Tx], T],
        *,
        lanes: Lanes = lanes.none,
        notify: Topic | None = None,
        tenant: str | None = None,
        entries: Sequence[Entry] = (),
    ) -> T:
        """Do what a tenant asked for in its turn, and what nobody did (None) before; `entries` are
        recorded with it."""

        def act_and_notify(tx: Tx) -> T:
            result = act(tx)
            if notify is not None:
                tx.notify(notify)
            for entry in entries:
                audit.append(tx, entry)
            return result

        result: T = await self._commits.do(Operation(act_and_notify, lanes), tenant)
        return result

    async def _commit(self, operations: Sequence[object]) -> Sequence[object]:
        started = time.perf_counter()
        committed = await self._database.write(operations, self._rules)
        self._events.on_commit(len(operations), time.perf_counter() - started)
        changes = committed.changes
        self._committed += len(operations)
        self._counts.update(changes.counts)
        self._bytes.update(changes.bytes)
        self._outputs.update(changes.outputs)
        for (_, state), n in changes.counts.items():
            self._states[state] += n
            if state in QUEUED:
                self._queued += n
        if changes.entries:
            audit.write_to_log(changes.entries)
        if changes.events:
            self._rates.add(changes.events, now_ms=monotonic_ms())
            self._replayed += sum(
                n for (_, what), n in changes.events.items() if what == "replayed"
            )
        self._events.on_ready(committed.next_ready_ms)
        if changes.next_job is not None:
            self._events.on_jobs_ready(changes.next_job.at_ms)
        if changes.ended_jobs:
            self._events.on_jobs_ended(changes.ended_jobs)
        if changes.news:
            self._events.on_jobs_news(changes.news)
        if "endpoints" in changes.topics:
            self._events.on_endpoints()
        return committed.results

    def _recount(self, totals: Totals) -> None:
        """Begin again with what the database says."""
        self._counts, self._bytes = Counter(totals.counts), Counter(totals.bytes)
        self._outputs = Counter(totals.outputs)
        self._states = Counter()
        for (_, state), n in self._counts.items():
            self._states[state] += n
        self._queued = sum(self._states[state] for state in QUEUED)


def _holding(owner: str) -> Lanes:
    return lanes.of_tenant(owner) if owner else lanes.none
