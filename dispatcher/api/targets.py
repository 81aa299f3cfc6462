"""The URLs that callbacks and destinations may name."""

from functools import lru_cache

from dispatcher.api.errors import invalid
from dispatcher.sending.egress import Egress
from receiver.base.settings import Network


def check(field: str, url: str, allow_networks: tuple[Network, ...]) -> None:
    """Raise ApiError (422) for a URL that no delivery could go to."""
    reason = _fault(url, allow_networks)
    if reason is not None:
        raise invalid(field, url, reason)


@lru_cache(maxsize=4_096)  # the URLs of busy destinations come again and again
def _fault(url: str, allow_networks: tuple[Network, ...]) -> str | None:
    return Egress(allow_networks).check_url(url)
