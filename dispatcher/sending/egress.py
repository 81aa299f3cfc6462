"""Where deliveries and calls of upstreams may go: deliveries only to global unicast addresses,
unless a network is opened; upstreams to private and loopback ones too, never to a cloud's metadata.

Pure. An explicit table rather than `ipaddress.is_global`, whose answers change between Python
versions. Names are judged by the addresses they resolve to, when they are dialled (D9).
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

from yarl import URL

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# The length that every browser, proxy and server in common use takes.
URL_CHARS_MAX: Final = 2_048
_HOST_CHARS_MAX: Final = 253  # RFC 1035: 255 octets on the wire

# The IANA special-purpose address registries for IPv4 and IPv6, entries that are not globally
# reachable, with the few reserved ranges beside them.
_TABLE: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ip_network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "this network (RFC 791)"),
        ("10.0.0.0/8", "private (RFC 1918)"),
        ("100.64.0.0/10", "shared address space (RFC 6598)"),
        ("127.0.0.0/8", "loopback (RFC 1122)"),
        ("169.254.0.0/16", "link-local, where clouds keep their metadata (RFC 3927)"),
        ("172.16.0.0/12", "private (RFC 1918)"),
        ("192.0.0.0/24", "IETF protocol assignments (RFC 6890)"),
        ("192.0.2.0/24", "documentation (RFC 5737)"),
        ("192.88.99.0/24", "deprecated 6to4 relays (RFC 7526)"),
        ("192.168.0.0/16", "private (RFC 1918)"),
        ("198.18.0.0/15", "benchmarking (RFC 2544)"),
        ("198.51.100.0/24", "documentation (RFC 5737)"),
        ("203.0.113.0/24", "documentation (RFC 5737)"),
        ("240.0.0.0/4", "reserved (RFC 1112)"),
        ("::1/128", "loopback (RFC 4291)"),
        ("::/96", "deprecated IPv4-compatible (RFC 4291)"),
        ("::ffff:0:0:0/96", "IPv4-translated (RFC 7915)"),
        ("64:ff9b:1::/48", "local-use NAT64 (RFC 8215)"),
        ("100::/64", "discard-only (RFC 6666)"),
        ("100:0:0:1::/64", "dummy prefix (RFC 9780)"),
        ("2001::/23", "IETF protocol assignments (RFC 2928)"),
        ("2001:db8::/32", "documentation (RFC 3849)"),
        ("3fff::/20", "documentation (RFC 9637)"),
        ("5f00::/16", "segment routing (RFC 9602)"),
        ("fc00::/7", "unique local (RFC 4193)"),
        ("fe80::/10", "link-local (RFC 4291)"),
        ("fec0::/10", "deprecated site-local (RFC 3879)"),
    )
)
# Where upstreams are by default, beside the global addresses.
PRIVATE: Final[tuple[Network, ...]] = tuple(
    map(
        ip_network,
        (
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "::1/128",
            "fc00::/7",
        ),
    )
)
# Where clouds keep their metadata: a name there answers whoever asks with keys of the machine.
METADATA: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ip_network(network), f"a cloud's metadata service ({whose})")
    for network, whose in (
        ("169.254.0.0/16", "link-local: all of them"),
        ("fe80::/10", "link-local"),
        ("fd00:ec2::/32", "Amazon"),
        ("fd20:ce::/32", "Google"),
        ("fd00:42::/32", "Scaleway"),
        ("100.100.100.200/32", "Alibaba"),
        ("168.63.129.16/32", "Azure"),
        ("192.0.0.192/32", "Oracle"),
    )
)
_GLOBAL_V6: Final = IPv6Network("2000::/3")  # all that has been given out so far
_NAT64: Final = IPv6Network("64:ff9b::/96")
_BROADCAST: Final = IPv4Address("255.255.255.255")

# RFC 3986 without userinfo's "@" in the authority, which is looked at by itself.
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL
)
_AUTHORITY: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*)(?P<port>:.*)?", re.DOTALL)
_REST: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


class UrlRefused(ValueError):
    """A URL that is never dialled; the message says why and may be shown to its author."""


class Egress:
    """Judges addresses and URLs. `allow_networks`, which `setting` names, opens networks that the
    table closes, or are all there is (`only`); multicast, broadcast, unspecified and scoped
    addresses stay closed whatever is allowed, and so do those of `never`."""

    def __init__(
        self,
        allow_networks: Iterable[Network] = (),
        *,
        only: bool = False,
        never: tuple[tuple[Network, str], ...] = (),
        setting: str = "DISPATCHER_ALLOW_NETWORKS",
    ) -> None:
        self._allowed = tuple(allow_networks)
        self._only = only
        self._closed_always = never
        self._setting = setting

    def refuses(self, address: str, port: int = 0) -> str | None:
        """Why this IP address must not be dialled, or None if it may be. An address that carries
        another (IPv4-mapped, NAT64, 6to4, Teredo) is judged by the one it carries."""
        try:
            parsed = ip_address(address)
        except ValueError:
            return "not an IP address"
        return self._judge(parsed)

    def check_url(self, url: str) -> str | None:
        """Why a callback URL cannot be accepted, or None if it can.

        Reads the URL and judges a host that is an IP address. A host that is a name is accepted:
        only when it is dialled is it known where it leads.
        """
        try:
            host = parse_url(url).raw_host
        except UrlRefused as refusal:
            return str(refusal)
        if host is None or not is_address(host):
            return None
        reason = self.refuses(host)
        return reason and f"the address {host} is not allowed: {reason}"

    def _judge(self, address: Address) -> str | None:
        never = _never(address) or _within(address, self._closed_always)
        if never is not None:
            return never
        carried = carried_by(address)
        if carried:
            return next(filter(None, map(self._judge, carried)), None)
        # A mismatch of versions is simply "not in".
        if any(address in network for network in self._allowed):
            return None
        reason = "not in a network that is allowed" if self._only else _closed(address)
        return reason and f"{reason}; {self._setting} opens networks"


@lru_cache(maxsize=4_096)  # parsing takes 20 µs; the URLs of busy destinations come again and again
def parse_url(url: str) -> URL:
    """`url` as it is dialled: its path and query exactly as given, its host in ASCII.

    Both the check at accept time and the sender read URLs with this one function, so that there
    can be no URL that is checked as one host and dialled as another. Raises UrlRefused.
    """
    if len(url) > URL_CHARS_MAX:
        raise UrlRefused(f"a URL is at most {URL_CHARS_MAX} characters long")
    if any(char <= " " or char in "\\\x7f" for char in url):
        raise UrlRefused("a URL holds no spaces, control characters or backslashes")
    parts = _URL.fullmatch(url)
    if parts is None or parts["scheme"].lower() not in ("http", "https"):
        raise UrlRefused("a URL starts with http:// or https:// and a host")
    if "@" in parts["authority"]:
        raise UrlRefused("a URL carries no user name or password: use a header")
    if not _REST.fullmatch(parts["rest"]):
        raise UrlRefused("path and query must be percent-encoded ASCII")
    authority = _AUTHORITY.fullmatch(parts["authority"])
    if authority is None:
        raise UrlRefused("the host is malformed")
    host, port = _host(authority["host"]), _port(authority["port"])
    return URL(f"{parts['scheme'].lower()}://{host}{port}{parts['rest']}", encoded=True)


def _never(address: Address) -> str | None:
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "scoped to an interface"
    if address.is_multicast:
        return "multicast"
    if address.is_unspecified:
        return "unspecified"
    return "broadcast" if address == _BROADCAST else None


def carried_by(address: Address) -> tuple[Address, ...]:
    """Return the IPv4 addresses inside an IPv6 one, all of which its packets may reach."""
    if isinstance(address, IPv4Address):
        return ()
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address in _NAT64:
        return (IPv4Address(int(address) & 0xFFFF_FFFF),)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    return address.teredo or ()


def _closed(address: Address) -> str | None:
    if isinstance(address, IPv6Address) and address not in _GLOBAL_V6:
        return _within(address, _TABLE) or "not global unicast"
    return _within(address, _TABLE)


def _within(address: Address, table: tuple[tuple[Network, str], ...]) -> str | None:
    return next((reason for network, reason in table if address in network), None)


def _host(host: str) -> str:
    if host.startswith("["):
        return _ipv6(host[1:-1])
    name = _ascii(host)
    labels = name.removesuffix(".").split(".")
    if len(name) > _HOST_CHARS_MAX or not all(map(_LABEL.fullmatch, labels)):
        raise UrlRefused("the host is missing or is not a valid name")
    # Resolvers read 2130706433, 0x7f.1 and 0177.0.0.1 as addresses, each in its own way.
    if _NUMERIC.fullmatch(labels[-1]) and not is_address(name):
        raise UrlRefused("a numeric host must be an IPv4 address of four decimal numbers")
    return name


def _ipv6(text: str) -> str:
    try:
        address = IPv6Address(text)
    except ValueError:
        raise UrlRefused("the host in brackets is not an IPv6 address") from None
    if address.scope_id is not None:
        raise UrlRefused("an IPv6 address scoped to an interface is not allowed")
    return f"[{address.compressed}]"


def _ascii(host: str) -> str:
    """Return the host's ASCII form; one with other characters goes through IDNA, once and only
    here."""
    if host.isascii():
        return host.lower()
    try:
        return (URL(f"http://{host}/").raw_host or "").lower()
    except ValueError:  # UnicodeError is one
        raise UrlRefused("the host is not a valid international name") from None


def _port(port: str | None) -> str:
    if port is None:
        return ""
    digits = port[1:]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5):
        raise UrlRefused("the port is not a number")
    if not 1 <= int(digits) <= 65_535:
        raise UrlRefused("the port is not from 1 to 65535")
    return f":{int(digits)}"


def is_address(host: str) -> bool:
    """Whether a host is an IP address and no name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
