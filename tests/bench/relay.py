"""The bare relay: the same service with a queue in memory where the store is. It shows what
durability costs, and promises nothing: no idempotency, no history, nothing after a restart."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, cast

from dispatcher import policy as policies
from dispatcher.store.database import StoreEvents
from dispatcher.store.jobs.purge import EndedSlice
from dispatcher.store.requests import ClaimRequest, Settlement, Usage
from dispatcher.store.store import Store
from dispatcher.values import (
    Delivery,
    Key,
    NewCallback,
    SigningSecret,
    StoredSecret,
    Submitted,
    Tenant,
)

_FREE_BYTES: Final = 2**40


class _NoJobs:
    """What the gateway asks at the start and by its sweeps: there is none of it."""

    async def _none(self, *_args: object, **_kwargs: object) -> tuple[()]:
        return ()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[tuple[()]]]:
        return self._none

    async def _nothing_due(self, *_args: object, **_kwargs: object) -> int:
        return 0

    reclaim_orphans = expire = tell_untold = prune = _nothing_due
    bring_back = bring_calls_back = hasten = _nothing_due

    async def end_purged(self, **_: object) -> EndedSlice:
        return EndedSlice(0, more=False)

    async def sweeps_jobs(self) -> bool:
        return False

    async def repair(self, **_: object) -> tuple[int, None]:
        return 0, None


class Relay:
    """The verbs that a submit, a delivery and the sweeps use; there are no others."""

    shared = False
    committed = 0  # nothing is

    def __init__(self) -> None:
        self.jobs = _NoJobs()
        self._events = StoreEvents()
        self._queue: deque[Delivery] = deque()
        self._queued = 0
        self._tenants: dict[str, SigningSecret] = {}

    async def open(self, events: StoreEvents | None = None) -> None:
        """Nothing to open."""
        self._events = events or StoreEvents()

    async def close(self) -> None:
        """What is queued is lost."""

    def usage(self) -> Usage:
        """No limit but memory."""
        return Usage(used_bytes=0, free_bytes=_FREE_BYTES)

    def outputs_bytes(self) -> int:
        """None are kept."""
        return 0

    def queued(self, tenant: str | None = None) -> int:
        """Of all tenants: there is one."""
        return self._queued

    async def submit(self, new: NewCallback, *, handover: bool) -> Submitted:
        """Hand over, or queue and ring for the claimer."""
        delivery = _delivery(new)
        self._queued += 1
        if not handover:
            self._queue.append(delivery)
            self._events.on_ready(new.created_ms)
        return Submitted(
            id=new.id,
            job_id=new.job_id,
            state="sending" if handover else "pending",
            created_ms=new.created_ms,
            duplicate=False,
            delivery=delivery if handover else None,
        )

    async def claim(self, claim: ClaimRequest) -> list[Delivery]:
        """The oldest ones."""
        claimed = [self._queue.popleft() for _ in range(min(claim.slots, len(self._queue)))]
        self._events.on_ready(claim.now_ms if self._queue else None)
        return claimed

    async def settle(self, settlement: Settlement) -> bool:
        """Forgotten, whatever came of it."""
        self._queued -= 1
        return True

    async def release(self, deliveries: Sequence[Delivery], *, now_ms: int) -> None:
        """Lost."""

    async def take_over(self, *, now_ms: int) -> int:
        """No predecessor left anything."""
        return 0

    # What is left is asked at the start and by the sweeps: nobody is there, and nothing is due.

    async def keys(self) -> Sequence[Key]:
        return ()

    async def tenants(self) -> Sequence[Tenant]:
        return [Tenant(name=name, created_ms=0) for name in self._tenants]

    async def ensure_tenant(self, tenant: str, secret: SigningSecret, **_: object) -> int:
        self._tenants.setdefault(tenant, secret)
        return 0

    async def record(self, *_: object, **__: object) -> None:
        """Not even that."""

    async def secrets(self, tenant: str) -> Sequence[SigningSecret]:
        return [self._tenants[tenant]]

    async def feeds_replays(self) -> bool:
        return False

    async def erasing(self) -> Sequence[str]:
        return ()

    def stored_bytes(self, tenant: str) -> int:
        return 0

    def replayed(self) -> int:
        return 0

    async def repair_lanes(self, **_: object) -> tuple[int, str | None]:
        return 0, None

    async def forget_schedules(self, **_: object) -> None:
        return None

    async def _nothing_due(self, *_args: object, **_kwargs: object) -> int:
        return 0

    reclaim = expire = prune = shrink = bring_back = _nothing_due

    async def stored_values(self, _owner: str) -> Mapping[str, StoredSecret]:
        return {}

    async def reencryption(self) -> None:
        """Nothing is stored, and nothing sealed."""

    async def mark_used(self, *_: object) -> None:
        """Nor is that."""

    async def trim_audit(self, *_: object, **__: object) -> tuple[int, None]:
        return 0, None

    async def hasten(self, *_: object, **__: object) -> tuple[int, None]:
        return 0, None


def open_relay() -> Store:
    """A relay in the store's place. Not a whole store: the verbs that it lacks fail loudly."""
    return cast(Store, Relay())


def _delivery(new: NewCallback) -> Delivery:
    policy = new.policy or policies.load(None)
    return Delivery(
        id=new.id,
        tenant=new.tenant,
        job_id=new.job_id,
        destination=new.destination,
        lane=new.lane,
        registered=False,
        url=new.url or "",
        body=new.body,
        content_type=new.content_type,
        headers=new.headers,
        policy=policy,
        fence=1,
        attempt=1,
        tries=0,
        created_ms=new.created_ms,
        expires_ms=new.created_ms + round(policy.max_age * 1000),
        high=new.priority == "high",
    )
