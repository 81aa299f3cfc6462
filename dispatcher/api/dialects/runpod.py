"""RunPod's routes."""

from typing import Final

from dispatcher.api.manner import Manner
from dispatcher.api.route import Operation

MANNER: Final = Manner(statuses={"VALIDATION_ERROR": 400}, bare_key=True)

OPERATIONS: Final[tuple[Operation, ...]] = ()
