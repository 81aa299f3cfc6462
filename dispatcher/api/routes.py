"""The route table: every operation there is."""

from typing import Final

from dispatcher.api import (
    batches,
    callbacks,
    destinations,
    keys,
    replays,
    secrets,
    service,
    submits,
)
from dispatcher.api.operation import Operation

# In the order of how often they are used, since they are looked for from the top.
OPERATIONS: Final[tuple[Operation, ...]] = (
    *submits.OPERATIONS,
    *batches.OPERATIONS,
    *callbacks.OPERATIONS,
    *replays.OPERATIONS,
    *destinations.OPERATIONS,
    *keys.OPERATIONS,
    *secrets.OPERATIONS,
    *service.OPERATIONS,
)
