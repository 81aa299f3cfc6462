"""Names of destinations: looked up with a share for each tenant, and remembered for a while."""

import asyncio
import socket
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from dispatcher.sending.remembered import Known, Remembered
from receiver.base.lack import lack_of
from receiver.base.lookups import Addresses, Asker, Lookups, look_up

# A name that failed is asked again soon, since its owner may be repairing it.
_NEGATIVE_S: Final = 5.0
# How long an attempt waits for news of addresses that have served and are no longer fresh.
_PATIENCE_S: Final = 0.5
# What name servers say of a name that there is not; any other error says nothing of the name.
_GONE: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


@dataclass(slots=True)
class Attempt(Asker):
    """For whom a task sends. `connecting` says that it has no connection yet: where it ends like
    that, its request has reached nobody."""

    connecting: bool = False


ATTEMPT: Final[ContextVar[Attempt]] = ContextVar("attempt")
"""The attempt that this task makes; unset, nobody's in particular."""


class Resolver(AbstractResolver):
    """Resolves within `timeout_s`, with at most `lookups_max` look-ups at once. Addresses are used
    for `cache_s`, and for `stale_s` more while they cannot be looked up again."""

    def __init__(
        self,
        *,
        timeout_s: float,
        lookups_max: int,
        cache_s: float,
        stale_s: float,
        look_up: Callable[[str], Addresses] = look_up,
    ) -> None:
        self._cache_s = cache_s
        self._stale_s = stale_s
        self._loop = asyncio.get_running_loop()
        self._remembered = Remembered()
        self._lookups = Lookups(
            timeout_s=timeout_s, lookups_max=lookups_max, look_up=look_up, on_end=self._remember
        )

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of `host`. Raises OSError with the reason when there are none in
        time, OwnLack where it is ours."""
        now = self._loop.time()
        known = self._remembered.get(host, now)
        if known is not None and now < known.fresh_until:
            addresses = known.usable()
        else:
            asker = ATTEMPT.get(None) or Asker()
            if known is None:
                addresses = await self._lookups.ask(host, asker)
            else:
                addresses = await self._ask_again(host, known, asker)
            asker.lacking = False
        return [_result(host, address, port) for address in addresses]

    async def close(self) -> None:
        """Forget all look-ups; their threads end by themselves and keep no process alive."""
        self._lookups.close()

    async def _ask_again(self, host: str, stale: Known, asker: Asker) -> Addresses:
        """Return what a host's addresses are now; those that it had, while that does not show."""
        now = self._loop.time()
        if now < stale.ask_again_at:
            return stale.addresses
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await self._lookups.ask(host, asker)
        except TimeoutError:
            stale.ask_again_at = self._loop.time() + _NEGATIVE_S
        except OSError as error:
            if is_gone(error):
                raise
        return stale.addresses

    def _remember(
        self, host: str, tenant: str, addresses: Addresses, error: OSError | None
    ) -> None:
        now = self._loop.time()
        if error is None:
            fresh_until = now + self._cache_s
            known = Known(fresh_until, fresh_until + self._stale_s, addresses)
            self._remembered.put(host, known, tenant)
            return
        if lack_of(error) is not None:
            return
        until = now + min(_NEGATIVE_S, self._cache_s)
        before = self._remembered.get(host, now)
        if before is not None and before.addresses and not is_gone(error):
            before.ask_again_at = until
        else:
            self._remembered.put(host, Known(until, until, error=error), tenant)


def is_gone(error: OSError) -> bool:
    """Whether name servers said that there is no such name, and not that they cannot say."""
    return isinstance(error, socket.gaierror) and error.errno in _GONE


def _result(host: str, address: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        proto=0,
        flags=socket.AI_NUMERICHOST,
    )
