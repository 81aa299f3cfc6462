"""What is known of names: addresses while they are fresh, then while they are better than none."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from receiver.base.lookups import Addresses

_HOSTS_MAX: Final = 4_096


@dataclass(slots=True)
class Known:
    """What a look-up brought: addresses, or the error that it met. Times are the loop's. Between
    `fresh_until` and `until` addresses are stale; nobody need ask before `ask_again_at`."""

    fresh_until: float
    until: float
    addresses: Addresses = ()
    error: OSError | None = None
    ask_again_at: float = 0.0

    def usable(self) -> Addresses:
        """Return the addresses. Raises OSError where there are none."""
        if self.error is not None:
            raise OSError(*self.error.args) from self.error
        return self.addresses


class Remembered:
    """By host; where there are too many, the oldest of the tenant that has the most goes."""

    def __init__(self, hosts_max: int = _HOSTS_MAX) -> None:
        self._hosts_max = hosts_max
        self._known: dict[str, tuple[Known, str]] = {}
        self._hosts: dict[str, OrderedDict[str, None]] = {}  # by tenant, the oldest first

    def get(self, host: str, now: float) -> Known | None:
        """Return what is known of a host, fresh or stale."""
        known, _ = self._known.get(host, (None, ""))
        if known is not None and known.until <= now:
            self._forget(host)
            return None
        return known

    def put(self, host: str, known: Known, tenant: str) -> None:
        """Remember what a look-up brought that was made for a tenant."""
        self._forget(host)
        self._known[host] = known, tenant
        self._hosts.setdefault(tenant, OrderedDict())[host] = None
        if len(self._known) > self._hosts_max:
            most = max(self._hosts.values(), key=len)
            self._forget(next(iter(most)))

    def _forget(self, host: str) -> None:
        known = self._known.pop(host, None)
        if known is not None:
            _, tenant = known
            del self._hosts[tenant][host]
            if not self._hosts[tenant]:
                del self._hosts[tenant]
