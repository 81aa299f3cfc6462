"""Where calls of upstreams may go: to private and loopback addresses too, since a model server
stands next to us; never to a cloud's metadata service, to our own listener or to our database.

A name is judged by the addresses that it resolves to, when they are dialled, as for deliveries
(D9). `DISPATCHER_UPSTREAM_NETWORKS`, where it is set, is all there is.
"""

import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import Final
from urllib.parse import quote

from aiohttp.abc import AbstractResolver
from yarl import URL

from dispatcher.jobs.rules import FUNCTION
from dispatcher.sending.egress import (
    METADATA,
    PRIVATE,
    Address,
    Egress,
    UrlRefused,
    carried_by,
    is_address,
    parse_url,
)
from dispatcher.settings import Settings
from receiver.base.db.url import addresses

_OURS: Final = "our own listener"
_DATABASE: Final = "our database"
_ANY_FUNCTION: Final = "run"
_DOTS: Final = (".", "..")


class UpstreamGuard:
    """Judges upstreams, by their URL and by each address that is about to be dialled."""

    def __init__(self, settings: Settings) -> None:
        networks = settings.upstream_networks
        self._egress = Egress(
            networks or PRIVATE,
            only=bool(networks),
            never=METADATA,
            setting="DISPATCHER_UPSTREAM_NETWORKS",
        )
        self._ports = {settings.port} - {0}
        self._names = _public(settings.public_url) | _public(settings.upstream_callback_url)
        self._database = tuple(
            (host.lower().rstrip("."), port) for host, port in addresses(settings.database_url)
        )
        self._database_ports = frozenset(port for _, port in self._database)
        # By port, with those that were looked up last.
        self._database_at: dict[tuple[str, int], tuple[Address, ...]] = {
            (host, port): _unwrapped(host) for host, port in self._database if is_address(host)
        }

    def listens_at(self, port: int) -> None:
        """Note a port of our own that the settings left open."""
        self._ports.add(port)

    def check_url(self, url: str) -> str | None:
        """Why an endpoint's URL cannot be accepted, or None if it can. Reads it, with `{function}`
        or without, and judges a host that is an IP address or a name of ours."""
        try:
            parsed = url_of(url, _ANY_FUNCTION)
        except UrlRefused as refusal:
            return str(refusal)
        host = parsed.raw_host or ""
        reason = self.refuses_name(parsed)
        if reason is None and is_address(host):
            reason = self.refuses(host, parsed.port or 0)
        return reason and f"the address {host} is not allowed: {reason}"

    def refuses_name(self, url: URL) -> str | None:
        """Why a URL must not be called whatever its name resolves to, or None if it may be."""
        at = ((url.raw_host or "").rstrip("."), url.port or 0)
        if at in self._names:
            return _OURS
        return _DATABASE if at in self._database else None

    async def look_up(self, url: URL, resolver: AbstractResolver) -> None:
        """Learn where our database is now, before a URL with its port is dialled: the one case in
        which that is of interest. Raises OSError where nobody can say."""
        if url.port not in self._database_ports:
            return
        for host, port in self._database:
            if is_address(host) or port != url.port:
                continue
            try:
                found = await resolver.resolve(host, port)
            except OSError:
                if (host, port) not in self._database_at:
                    raise
                continue
            self._database_at[host, port] = tuple(
                address for one in found for address in _unwrapped(one["host"])
            )

    def refuses(self, address: str, port: int) -> str | None:
        """Why this IP address must not be dialled at this port, or None if it may be."""
        reason = self._egress.refuses(address, port)
        if reason is not None:
            return reason
        if port in self._ports and any(map(_is_here, _unwrapped(address))):
            return _OURS
        if port in self._database_ports and self._is_database(_unwrapped(address), port):
            return _DATABASE
        return None

    def _is_database(self, dialled: Iterable[Address], port: int) -> bool:
        known = [one for (_, at), found in self._database_at.items() if at == port for one in found]
        here = any(map(_is_here, known))
        return any(address in known or (here and _is_here(address)) for address in dialled)


def url_of(url: str, function: str | None) -> URL:
    """Return an endpoint's URL as it is dialled, with a job's function in its place. Raises
    UrlRefused."""
    if FUNCTION not in url:
        return parse_url(url)
    if FUNCTION in url.partition("://")[2].partition("/")[0]:
        raise UrlRefused(f"{FUNCTION} stands in the path or in the query, never in the host")
    if not function or function in _DOTS:
        raise UrlRefused("no function that its URL could name")
    return parse_url(url.replace(FUNCTION, quote(function, safe="")))


def _public(url: str | None) -> frozenset[tuple[str, int]]:
    if url is None:
        return frozenset()
    with suppress(UrlRefused):
        parsed = parse_url(url)
        return frozenset({((parsed.raw_host or "").rstrip("."), parsed.port or 0)})
    return frozenset()


def _unwrapped(address: str) -> tuple[Address, ...]:
    """Return an address, or those that it carries."""
    parsed = ip_address(address)
    return carried_by(parsed) or (parsed,)


def _is_here(address: Address) -> bool:
    """Whether an address is one of this machine: only these can be bound."""
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
