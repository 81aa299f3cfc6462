"""What many share of something bounded: one that takes much leaves room for the others."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Final

NOBODY: Final = ""
_SITE_BITS: Final = 64  # of an IPv6 address: who has one of a site has them all


def may_take(size: int, held: int, free: int, share: float) -> bool:
    """Return whether a holder of `held` may take `size` more, of what is `free`: it gets about
    `share` of what the others leave, so that there is something for the next one too, and what
    nobody else wants is of use."""
    return size <= free and (held + size) * (1 - share) <= share * free


class Budget:
    """So many of something (bytes, connections), shared by holders: none gets all of it unless
    `share` is 1."""

    def __init__(self, total: int, share: float = 1.0) -> None:
        self._free = total
        self._share = share
        self._held: dict[Hashable, int] = {}

    def take(self, size: int, holder: Hashable = NOBODY) -> bool:
        """Take so many until they are given back; return False where the holder may not."""
        held, free, share = self._held.get(holder, 0), self._free, self._share
        if not may_take(size, held, free, share):
            return False
        self._free = free - size
        self._held[holder] = held + size
        return True

    def give_back(self, size: int, holder: Hashable = NOBODY) -> None:
        """Give back what was taken. Whoever holds nothing is forgotten."""
        self._free += size
        held = self._held.get(holder, 0) - size
        if held > 0:
            self._held[holder] = held
        else:
            self._held.pop(holder, None)

    @property
    def held(self) -> int:
        """How many are taken, by all together."""
        return sum(self._held.values())


@lru_cache(maxsize=4096)
def site_of(host: str) -> str:
    """Return whose a connection from there is: of an IPv4 address, or of an IPv6 network."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((int(address) >> _SITE_BITS << _SITE_BITS, _SITE_BITS)))


@dataclass(slots=True)
class Tally:
    """How many connections were closed as they came, because there were too many in all or from
    their address, and how many were ended because their peer did not read."""

    refused: int = 0
    cut: int = 0
