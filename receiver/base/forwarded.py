"""Who asks, behind proxies: whose word on it counts, and what it says. Pure.

By default nobody's does: who asks is the peer of the connection. `X-Forwarded-For` and
`X-Forwarded-Proto` count where that is one of the trusted proxies, each of which adds the address
that it was asked from at the right. What stands left of the first address that is not trusted may
be anybody's invention.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

HOPS_MAX: Final = 32  # of proxies in a row; further ones are not looked at
_ENTRY_CHARS_MAX: Final = 64  # the longest address, with brackets and port, has 53
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_FOR: Final = b"x-forwarded-for"
_PROTO: Final = b"x-forwarded-proto"


@lru_cache(maxsize=4096)
def address_of(text: str) -> Address | None:
    """Return the address that this is, or None. An IPv4 address that is written as an IPv6 one is
    the IPv4 address; a zone is left out."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


@lru_cache(maxsize=4096)
def _plain(peer: str) -> str:
    """Return what all spellings of an address are written as."""
    known = address_of(peer)
    return peer if known is None else str(known)


def plain_network(network: Network) -> Network:
    """Return a network of IPv4 addresses that are written as IPv6 ones as the IPv4 network, which
    their addresses are compared as."""
    if isinstance(network, IPv4Network) or not network.subnet_of(_MAPPED):
        return network
    low = int(network.network_address) & 0xFFFF_FFFF
    return IPv4Network((low, network.prefixlen - _MAPPED.prefixlen))


def within(text: str, networks: Iterable[Network]) -> bool:
    """Return whether an address is in one of these (plain) networks; what is none is in none."""
    address = address_of(text)
    return address is not None and any(address in network for network in networks)


class Proxies:
    """The proxies whose word on who asks counts."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(plain_network(network) for network in networks)

    def address(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """Return the address that asks, over a connection from `peer`."""
        text = _plain(peer)
        if not self._networks or not within(text, self._networks):
            return text
        lines = [value for name, value in headers if name == _FOR]
        return self.walk(text, b",".join(lines).decode("latin-1")) if lines else text

    def walk(self, peer: str, forwarded: str) -> str:
        """Return the right-most address of `X-Forwarded-For` that is none of a trusted proxy, and
        where all are, the left-most. What is no address ends the walk: the hop before it counts."""
        asking = peer
        for hop in reversed(forwarded.rsplit(",", HOPS_MAX)[-HOPS_MAX:]):
            address = address_of(_without_port(hop.strip(" \t")))
            if address is None:
                return asking
            asking = str(address)
            if not within(asking, self._networks):
                return asking
        return asking

    def scheme(self, peer: str, scheme: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """Return what the request was made by, `http` or `https`: by the word of the proxy that
        `peer` is, where it is trusted and says so, else `scheme`, the connection's own."""
        if not self._networks or not within(peer, self._networks):
            return scheme
        said = [value for name, value in headers if name == _PROTO]
        word = said[-1].rpartition(b",")[2].strip(b" \t").lower() if said else b""
        return word.decode("ascii") if word in (b"http", b"https") else scheme


NOBODY_TRUSTED: Final = Proxies()


def _without_port(entry: str) -> str:
    """Return an entry without its brackets and its port; what is no such entry is returned so that
    it is no address either."""
    if len(entry) > _ENTRY_CHARS_MAX:
        return ""
    host, port = entry, ""
    if entry.startswith("["):
        host, closed, port = entry[1:].partition("]")
        if not closed or ":" not in host or (port and not port.startswith(":")):
            return ""
        port = port[1:] if port else "0"
    elif entry.count(":") == 1:
        host, _, port = entry.partition(":")
    else:
        port = "0"
    is_port = port.isascii() and port.isdecimal() and len(port) <= 5
    return host if is_port else ""
