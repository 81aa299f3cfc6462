"""The HTTP interface: authenticates, bounds and validates, then hands values on."""

from dispatcher.api.app import create_api
from dispatcher.api.call import Context

__all__ = ["Context", "create_api"]
