"""Where the receiver is the client: names are looked up on threads of their own.

Python does that in the threads that everything beside the loop shares, handlers' statements among
it: a few names whose servers never answer would stop all of them.
"""

import asyncio
import ipaddress
from typing import Any, Final

import httpx

from receiver.base.lack import OwnLack
from receiver.base.lookups import LACK, Addresses, Asker, Lookups, look_up

_TIMEOUT_S: Final = 5.0
_LOOKUPS_MAX: Final = 32  # twice as many as status URLs are asked at once


def with_own_lookups(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Return the client, which looks names up so from now on; httpx has no public place for it."""
    pool: Any = getattr(client._transport, "_pool", None)
    if hasattr(pool, "_network_backend"):  # else it looks names up as it always does
        pool._network_backend = _Backend(pool._network_backend)
    return client


class _Backend:
    """A network backend of httpcore, given addresses in place of names."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._lookups: Lookups | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **more: Any
    ) -> Any:
        """Connect to one of the host's addresses, each within its part of the time."""
        *others, last = await self._addresses(host, timeout)
        part_s = None if timeout is None else timeout / (len(others) + 1)
        for address in others:
            try:
                return await self._inner.connect_tcp(address, port, timeout=part_s, **more)
            except Exception:  # noqa: S112 - the last one says why
                continue
        return await self._inner.connect_tcp(last, port, timeout=part_s, **more)

    async def _addresses(self, host: str, timeout_s: float | None) -> Addresses:
        """Raise httpx.ConnectError, OwnLack where it is ours."""
        try:
            return (str(ipaddress.ip_address(host)),)
        except ValueError:
            pass
        if self._lookups is None:
            self._lookups = Lookups(
                timeout_s=_TIMEOUT_S,
                lookups_max=_LOOKUPS_MAX,
                look_up=look_up,
            )
        asker = Asker()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._lookups.ask(host, asker)
        except OwnLack:
            raise
        except OSError as error:  # TimeoutError is one
            if isinstance(error, TimeoutError) and asker.lacking:
                raise OwnLack(LACK, "no place to look a name up in time") from None
            reason = str(error) or f"the look-up of {host} took too long"
            raise httpx.ConnectError(reason) from error
