"""The HTTP interface: authenticates, bounds and validates, then hands values to the other rooms."""

from dispatcher.api.app import create_api
from dispatcher.api.context import Context

__all__ = ["Context", "create_api"]
