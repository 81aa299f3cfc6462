"""Cerebrium's routes."""

from typing import Final

from dispatcher.api.manner import Manner
from dispatcher.api.route import Operation

MANNER: Final = Manner(request_id="job")

OPERATIONS: Final[tuple[Operation, ...]] = ()
