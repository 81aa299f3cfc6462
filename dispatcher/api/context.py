"""What the API needs from the rest of the service, as one value."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from dispatcher.access import Access
from dispatcher.engine.engine import Engine
from dispatcher.intake import Intake
from dispatcher.metrics import Metrics
from dispatcher.settings import Settings
from dispatcher.signing import SecretCache
from dispatcher.store.store import Store
from receiver.base.clock import now_ms

PROBES_MAX: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything the routes use. `clock` gives milliseconds; `probes` bounds the test callbacks
    that run at once, since they take no slots."""

    settings: Settings
    store: Store
    access: Access
    intake: Intake
    engine: Engine
    secrets: SecretCache
    wake_replayer: Callable[[], None]
    metrics: Metrics
    clock: Callable[[], int] = now_ms
    probes: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PROBES_MAX))
