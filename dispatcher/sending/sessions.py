"""Sessions of aiohttp as both kinds of calls want them: no redirects that follow themselves, no
cookies, nothing from the environment, nothing decompressed, and no resending; one that pools its
connections, and one that makes a fresh one each time."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from dispatcher import VERSION
from dispatcher.sending.connections import Connector, Guard, Handler, Prepare, Response
from dispatcher.sending.resolver import Resolver
from dispatcher.settings import Settings
from receiver.base.lack import Uplink, files_limit
from receiver.base.lookups import Addresses

_HEADERS_MAX: Final = 100  # three times what common answers have
_READ_BYTES: Final = 16 * 1024  # the peer waits while more than this is unread
_DIALS_MAX: Final = 8  # addresses of one host at once, one each 250 ms
_DIALS_MIN: Final = 2  # an old and a new kind of address


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialling:
    """How connections are made: `guard` judges addresses (None: behind a proxy, which does),
    `prepare` sets options of a socket that is about to be dialled, `calls_max` at once."""

    guard: Guard | None
    uplink: Uplink
    lookup: Callable[[str], Addresses]
    lookups_max: int
    calls_max: int
    tls: ssl.SSLContext | None = None
    proxy: URL | None = None
    prepare: Prepare | None = None
    handler: type[Handler] = Handler
    request: type[aiohttp.ClientRequest] = aiohttp.ClientRequest
    connect_s: float | None = None  # None: the one deadline is the caller's


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """What calls are made with, on one loop."""

    pooled: aiohttp.ClientSession
    fresh: aiohttp.ClientSession  # never reuses a connection
    resolver: Resolver

    async def close(self) -> None:
        """Close every connection, and forget all look-ups."""
        await self.pooled.close()
        await self.fresh.close()
        await self.resolver.close()


def open_sessions(settings: Settings, dialling: Dialling) -> Sessions:
    """Return sessions on the running loop."""
    resolver = Resolver(
        timeout_s=settings.dns_timeout,
        lookups_max=dialling.lookups_max,
        cache_s=settings.dns_cache,
        stale_s=settings.dns_stale,
        look_up=dialling.lookup,
    )
    return Sessions(
        pooled=_session(settings, dialling, resolver, reuse=True),
        fresh=_session(settings, dialling, resolver, reuse=False),
        resolver=resolver,
    )


def _session(
    settings: Settings, dialling: Dialling, resolver: Resolver, *, reuse: bool
) -> aiohttp.ClientSession:
    header_bytes_max = settings.response_header_bytes_max
    dials = (files_limit() - settings.connections_max) // dialling.calls_max
    session = aiohttp.ClientSession(
        connector=Connector(
            egress=dialling.guard,
            resolver=resolver,
            reuse=reuse,
            tls=dialling.tls,
            uplink=dialling.uplink,
            dials_max=max(_DIALS_MIN, min(_DIALS_MAX, dials)),
            idle_max=dialling.calls_max,
            prepare=dialling.prepare,
            handler=dialling.handler,
        ),
        headers={"User-Agent": f"Postback/{VERSION}", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=dialling.connect_s),
        proxy=dialling.proxy,
        trust_env=False,
        auto_decompress=False,
        request_class=dialling.request,
        response_class=Response,
        read_bufsize=_READ_BYTES,
        max_line_size=header_bytes_max,
        max_field_size=header_bytes_max,
        max_headers=_HEADERS_MAX,
    )
    # For PUT, DELETE and GET it is on; what goes out again is decided where it is known what went
    # out before.
    session._retry_connection = False
    return session
