"""What a store promises: verbs that are atomic and durable.

Times are integer milliseconds and always arguments; no transaction leaks out. Every verb that
writes returns only after its commit is on disk (I1).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from dispatcher.filters import Filter
from dispatcher.store.requests import ClaimRequest, Page, Retention, Settlement, Usage
from dispatcher.values import (
    Attempt,
    Callback,
    Delivery,
    Destination,
    Key,
    NewCallback,
    Payload,
    Replay,
    SigningSecret,
    Stats,
    Submitted,
    Tenant,
)


class Store(Protocol):
    """The verbs. Reads may lag a moment behind; writes are settled in the order they commit."""

    on_ready: Callable[[int | None], None]
    """Called on the event loop after a commit with the time of the next due work, or None."""

    on_commit: Callable[[int, float], None]
    """Called after a commit with how many operations it held and how many seconds it took."""

    # The life of the store
    async def open(self) -> None:
        """Open, lock and migrate. Raises CannotStart."""

    async def close(self) -> None:
        """Commit what is queued and let go."""

    async def check(self) -> None:
        """Raise StoreUnavailable unless a write would be taken now."""

    async def backup(self, target: Path) -> None:
        """Write a consistent copy to `target`, while work goes on. Raises Conflict if it exists."""

    def usage(self) -> Usage:
        """Return the last measured usage (at most about a second old)."""

    def queued(self, tenant: str | None = None) -> int:
        """Deliveries pending or sending, of one tenant or of all; exact after each commit."""

    # The path of a delivery
    async def submit(self, new: NewCallback, *, handover: bool) -> Submitted:
        """Store durably. With `handover`, leased at once if its lane is idle, within its limits
        and not held. Raises KeyReused, NotFound (destination), DestinationDisabled, StoreFull,
        StoreUnavailable."""

    async def claim(self, claim: ClaimRequest) -> list[Delivery]:
        """Lease due work, fair across lanes and tenants; at most `claim.slots`."""

    async def settle(self, settlement: Settlement) -> bool:
        """Record an attempt and its verdict; False if the claim is no longer current (nothing is
        changed then). Raises StoreUnavailable or StoreFull: try again until it is recorded."""

    async def release(self, deliveries: Sequence[Delivery], *, now_ms: int) -> None:
        """Hand leased work back unspent, due at once."""

    async def take_over(self, *, now_ms: int) -> int:
        """At start-up: what a crashed predecessor left leased, as far as it can be known before
        the leases end (a sole owner knows all of it), is due at once; returns how much."""

    async def reclaim(self, *, now_ms: int) -> int:
        """Make work whose lease has ended due at once; returns how much."""

    async def expire(self, *, now_ms: int, limit: int) -> int:
        """Make pending deliveries past their maximum age dead, held or not; returns how many."""

    async def repair_lanes(self, *, now_ms: int, after: str, limit: int) -> tuple[int, str | None]:
        """Compare `limit` lanes after id `after` with their deliveries and repair them; delete
        idle ones. Returns how many disagreed, and the id to go on after (None at the end)."""

    # Operators
    async def replay(self, tenant: str, callback: str, *, now_ms: int) -> Callback:
        """Make a final delivery due again: same id, same bytes, a fresh budget, history kept.
        Raises NotFound, Conflict (pending or sending), PayloadGone."""

    async def cancel(self, tenant: str, callback: str, *, now_ms: int) -> Callback:
        """Cancel a pending delivery; a running attempt ends and nothing follows it. Raises
        NotFound, Conflict (final)."""

    async def make_replay(
        self, tenant: str, wanted: Filter, *, rate_per_second: float | None, now_ms: int
    ) -> Replay:
        """Fix the set: what matches `wanted` and is final now. Feeds nothing yet."""

    async def preview_replay(
        self, tenant: str, wanted: Filter, *, sample: int
    ) -> tuple[int, Sequence[Callback]]:
        """How many a replay would match, and some of them."""

    async def feed_replay(self, replay: str, *, limit: int, now_ms: int) -> Replay:
        """Walk `limit` more callbacks of the set; cursor and rows move in one commit."""

    async def cancel_replay(self, tenant: str, replay: str, *, now_ms: int) -> Replay:
        """Stop feeding; what was fed stays. Raises NotFound, Conflict (done)."""

    async def get_replay(self, tenant: str, replay: str) -> Replay:
        """Raise NotFound."""

    async def running_replays(self) -> Sequence[Replay]:
        """Every tenant's, to go on with."""

    # Reading
    async def get(self, tenant: str, callback: str) -> Callback:
        """Raise NotFound."""

    async def search(self, tenant: str, wanted: Filter, *, after: str | None, limit: int) -> Page:
        """Newest first, at most `limit`, after id `after`. Raises StoreUnavailable when it takes
        longer than the read deadline."""

    async def attempts(self, tenant: str, callback: str) -> Sequence[Attempt]:
        """Oldest first. Raises NotFound."""

    async def payload(self, tenant: str, callback: str) -> Payload:
        """Raise NotFound, PayloadGone."""

    async def stats(self, tenant: str | None, *, now_ms: int) -> Stats:
        """Of one tenant or of all."""

    # Destinations
    async def destinations(
        self, tenant: str, *, after: str | None, limit: int
    ) -> tuple[Sequence[Destination], str | None]:
        """In the order of their ids, and the id to go on after."""

    async def get_destination(self, tenant: str, destination: str) -> Destination:
        """By id or by registered name. Raises NotFound."""

    async def register(self, new: Destination, secret: SigningSecret) -> Destination:
        """Raise Conflict if the name is taken."""

    async def change_destination(
        self, tenant: str, destination: str, changes: Mapping[str, object], *, now_ms: int
    ) -> Destination:
        """Change the named fields (`url policy headers paused disabled_reason concurrency
        rate_per_second`). Resuming clears the circuit; disabling makes the backlog dead.
        Raises NotFound."""

    async def remove_destination(self, tenant: str, destination: str, *, now_ms: int) -> None:
        """Forget it and its secrets; its backlog is made dead. Raises NotFound."""

    # Access
    async def tenants(self) -> Sequence[Tenant]: ...

    async def ensure_tenant(self, tenant: str, secret: SigningSecret) -> None:
        """Make the tenant with this secret, unless it exists."""

    async def keys(self) -> Sequence[Key]: ...

    async def add_key(self, key: Key) -> None: ...

    async def remove_key(self, key: str) -> Key:
        """Raise NotFound."""

    async def secrets(self, tenant: str) -> Sequence[SigningSecret]:
        """All that sign or signed and have not been forgotten, newest first."""

    async def rotate_secret(
        self, new: SigningSecret, *, overlap_ms: int, force: bool, now_ms: int
    ) -> Sequence[SigningSecret]:
        """Make `new` the signing secret of its tenant or destination; the one before signs
        beside it until the overlap ends. Raises NotFound, and Conflict while an earlier overlap
        lasts unless `force`, which ends that one at once."""

    async def mark_revealed(self, tenant: str, secret: str, *, by: str, now_ms: int) -> None:
        """Record that an admin key has seen a secret. Raises NotFound."""

    # Housekeeping
    async def prune(self, retention: Retention, *, now_ms: int, limit: int) -> int:
        """Remove up to `limit` payloads and rows past their retention; returns how many, so that
        0 means done. Pending and sending callbacks are never touched."""

    async def shrink(self, *, pages: int) -> int:
        """Give up to `pages` free pages back to the file system; returns how many."""


@runtime_checkable
class SharedStore(Protocol):
    """What a store tells beside the verbs when other processes use the same database."""

    on_access: Callable[[], None]
    """Called on the event loop when another process has changed keys, tenants or secrets."""

    on_replays: Callable[[], None]
    """Called on the event loop when another process has made a filtered replay."""
