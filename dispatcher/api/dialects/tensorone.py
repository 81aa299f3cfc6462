"""TensorOne's routes."""

from typing import Final

from dispatcher.api.route import Operation

OPERATIONS: Final[tuple[Operation, ...]] = ()
