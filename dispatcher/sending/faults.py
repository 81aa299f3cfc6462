"""What an exception of the HTTP client says: the true reason, and whether it was we who failed."""

import re
import ssl
from typing import Final

import aiohttp

from dispatcher.outcome import Cause
from dispatcher.sending.connections import NOT_ALLOWED
from receiver.base.lack import Uplink, descriptors_left, lack_of

_DETAIL_CHARS_MAX: Final = 300
_ENDED: Final = (
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientPayloadError,
    ConnectionResetError,
    BrokenPipeError,
)
_ANY_URL: Final = re.compile(r"https?://\S+")


def own_lack(error: BaseException, uplink: Uplink) -> str | None:
    """Return what of ours was lacking, None where it was not we who failed (D21)."""
    lack = lack_of(error)
    if lack is not None or not isinstance(error, aiohttp.ClientConnectorDNSError):
        return lack
    if not descriptors_left():
        return "descriptors"
    return "network" if uplink.is_down() else None


def cause_of(error: BaseException) -> Cause:
    """Return why no peer answered, in one word."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "dns"
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return "proxy"
    if isinstance(error, aiohttp.ClientSSLError) or isinstance(error.__cause__, ssl.SSLError):
        return "tls"
    met = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if NOT_ALLOWED in str(met):  # of several addresses all reasons are in one text
        return "blocked"
    if isinstance(met, ConnectionRefusedError):
        return "refused"
    return "closed" if isinstance(met, _ENDED) else "network"


def reason_of(error: BaseException) -> str:
    """Return the true reason, for our own log: without URLs, which may carry tokens."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        reason = f"{error.host}: {error.os_error}"
    elif isinstance(error, aiohttp.ClientConnectorError):
        reason = str(error.os_error)
    elif isinstance(error, aiohttp.ClientResponseError):
        reason = f"{error.status} {error.message}"
    else:
        reason = str(error)
    return f"{type(error).__name__}: {_ANY_URL.sub('…', reason)}"[:_DETAIL_CHARS_MAX]
