"""What the API needs from the rest of the service, as one value."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from dispatcher.access import Access
from dispatcher.outcome import Outcome
from dispatcher.settings import Settings
from dispatcher.store.store import Store
from dispatcher.values import Delivery, NewCallback, Submitted
from receiver.base.clock import now_ms

PROBES_MAX: Final = 16


class Engine(Protocol):
    """What accepts work for delivery and tells how it goes."""

    @property
    def ready(self) -> bool:
        """Whether it takes submits: started, and not stopping."""

    @property
    def in_flight(self) -> int:
        """Attempts that run now in this process."""

    async def submit(self, new: NewCallback) -> Submitted:
        """Store durably and start to deliver. Raises what `Store.submit` raises."""

    async def probe(self, delivery: Delivery) -> Outcome:
        """Send once, outside the store."""

    def wake(self) -> None:
        """Look for due work: some was made due."""

    def drain_rate(self) -> float:
        """Deliveries settled a second, as measured lately."""


class SecretBook(Protocol):
    """The signing secrets in memory."""

    def forget(self, tenant: str) -> None:
        """Read this tenant's secrets anew: they have changed."""


class Metrics(Protocol):
    """The process's figures, for Prometheus."""

    def submitted(self, result: str) -> None:
        """Return a submit was answered: `accepted` or `duplicate`."""

    def refused(self, code: str) -> None:
        """Return a submit was refused with this error code."""

    def requested(self, method: str, route: str, status_code: int, seconds: float) -> None:
        """Return a request to this route was answered."""

    def render(self) -> bytes:
        """Return the text that `/metrics` answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything the routes use. `clock` gives milliseconds; `probes` bounds the test callbacks
    that run at once, since they take no slots."""

    settings: Settings
    store: Store
    access: Access
    engine: Engine
    secrets: SecretBook
    wake_replayer: Callable[[], None]
    metrics: Metrics
    clock: Callable[[], int] = now_ms
    probes: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PROBES_MAX))
