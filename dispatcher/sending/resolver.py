"""Name look-ups that cannot hurt each other: one per host, bounded in number and in time.

The system's resolver blocks, for as long as the slowest name server likes. Each look-up therefore
gets a thread of its own; a hung one keeps its thread, which is a place of its tenant's. What finds
no place waits for one as long as its attempt may last: that is our lack, and not the peer's fault.
"""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from dispatcher.sending.places import Places, domain_of
from dispatcher.sending.remembered import Addresses, Known, Remembered
from receiver.base.lack import OwnLack, lack_of

# A name that failed is asked again soon, since its owner may be repairing it.
_NEGATIVE_S: Final = 5.0
# How long an attempt waits for news of addresses that have served and are no longer fresh.
_PATIENCE_S: Final = 0.5
# Each address costs a connection attempt within the same deadline.
_ADDRESSES_MAX: Final = 8
# What name servers say of a name that there is not; any other error says nothing of the name.
_GONE: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
LACK: Final = "lookups"


@dataclass(slots=True)
class Asker:
    """For whom an attempt looks names up. `lacking` says that it waits, or had to wait, for a place
    and has no addresses yet: where it ends like that, it was our lack."""

    tenant: str
    lacking: bool = False


ASKER: Final[ContextVar[Asker]] = ContextVar("asker")
"""Whose attempt this task makes; unset, nobody's in particular."""


def look_up(host: str) -> Addresses:
    """Return the addresses of `host` as the system's resolver has them. Blocks. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"not a host name: {error}") from error
    except socket.gaierror as error:
        if error.errno == socket.EAI_MEMORY:
            raise OwnLack("memory", str(error)) from error
        raise
    return tuple(dict.fromkeys(str(info[4][0]) for info in found))


@dataclass(slots=True, eq=False)
class _Lookup:
    host: str
    domain: str
    begun: asyncio.Future[None]  # it has a place
    answer: asyncio.Future[Addresses]
    due: float = 0.0  # loop time by which it must have answered, once it has begun
    tenant: str = ""  # in whose place it runs
    waiting: Counter[str] = field(default_factory=Counter)  # who waits for it to begin, by tenant


class Resolver(AbstractResolver):
    """Resolves within `timeout_s`, with at most `lookups_max` look-ups at once and one per host.

    A look-up past its time still holds its place until the system lets go of it; `Places` says
    whom that keeps waiting. Addresses are used for `cache_s`, and for `stale_s` more while they
    cannot be looked up again.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        lookups_max: int,
        cache_s: float,
        stale_s: float,
        look_up: Callable[[str], Addresses] = look_up,
    ) -> None:
        self._timeout_s = timeout_s
        self._cache_s = cache_s
        self._stale_s = stale_s
        self._look_up = look_up
        self._loop = asyncio.get_running_loop()
        self._remembered = Remembered()
        self._lookups: dict[str, _Lookup] = {}  # waiting or running, by host
        self._places: Places[_Lookup] = Places(lookups_max)
        self._closed = False

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
            asker = ASKER.get(None) or Asker("")
            if known is None:
                addresses = await self._ask(host, asker)
            else:
                addresses = await self._ask_again(host, known, asker)
            asker.lacking = False
        return [_result(host, address, port) for address in addresses]

    async def close(self) -> None:
        """Forget all look-ups; their threads end by themselves and keep no process alive."""
        self._closed = True
        for lookup in self._lookups.values():
            lookup.begun.cancel()
            lookup.answer.cancel()
        self._lookups.clear()

    async def _ask_again(self, host: str, stale: Known, asker: Asker) -> Addresses:
        """Return what a host's addresses are now; those that it had, while that does not show."""
        now = self._loop.time()
        if now < stale.ask_again_at:
            return stale.addresses
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await self._ask(host, asker)
        except TimeoutError:
            stale.ask_again_at = self._loop.time() + _NEGATIVE_S
        except OSError as error:
            if is_gone(error):
                raise
        return stale.addresses

    async def _ask(self, host: str, asker: Asker) -> Addresses:
        if self._closed:
            raise OSError("the resolver is closed")
        lookup = self._lookups.get(host)
        if lookup is None:
            create = self._loop.create_future
            lookup = self._lookups[host] = _Lookup(host, domain_of(host), create(), create())
        if not lookup.begun.done():
            await self._wait_for_place(lookup, asker)
        return await self._answer(lookup)

    async def _wait_for_place(self, lookup: _Lookup, asker: Asker) -> None:
        tenant = asker.tenant
        lookup.waiting[tenant] += 1
        if lookup.waiting[tenant] == 1:
            self._places.add(tenant, lookup.domain, lookup)
            self._start_waiting()
        asker.lacking = not lookup.begun.done()
        try:
            # Whoever stops waiting must not take the place from the others.
            await asyncio.wait((lookup.begun,))
        finally:
            lookup.waiting[tenant] -= 1
            if not lookup.waiting[tenant]:
                del lookup.waiting[tenant]
                self._places.remove(tenant, lookup.domain, lookup)
            if not lookup.waiting and not lookup.begun.done():
                self._finish(lookup, OwnLack(LACK, "nobody waits for it any more"))

    async def _answer(self, lookup: _Lookup) -> Addresses:
        left_s = lookup.due - self._loop.time()
        if left_s <= 0 and not lookup.answer.done():
            raise OSError(f"the look-up of {lookup.host} still hangs")
        done, _ = await asyncio.wait((lookup.answer,), timeout=left_s)
        if not done:
            raise OSError(f"the look-up of {lookup.host} took longer than {self._timeout_s:g} s")
        if lookup.answer.cancelled():
            raise OSError("the resolver was closed")
        return lookup.answer.result()

    def _start_waiting(self) -> None:
        while (given := self._places.next()) is not None:
            tenant, domain, lookup = given
            if lookup.begun.done():  # another tenant's turn came first
                self._places.give_back(tenant, domain)
            else:
                self._start(lookup, tenant)

    def _start(self, lookup: _Lookup, tenant: str) -> None:
        lookup.tenant = tenant
        lookup.due = self._loop.time() + self._timeout_s
        lookup.begun.set_result(None)
        # Daemon threads: a hung look-up must not keep the process from ending.
        thread = threading.Thread(
            target=self._work, args=(lookup,), name=f"dns-{lookup.host[:32]}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # the system's limit of threads
            self._places.give_back(tenant, lookup.domain)
            self._finish(lookup, OwnLack("threads", f"no thread for a name look-up: {error}"))

    def _work(self, lookup: _Lookup) -> None:
        addresses: Addresses = ()
        error: OSError | None = None
        try:
            addresses = self._look_up(lookup.host)[:_ADDRESSES_MAX]
        except OSError as raised:
            error = raised
        if not addresses and error is None:
            error = socket.gaierror(socket.EAI_NONAME, "the name has no address")
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._ended, lookup, addresses, error)

    def _ended(self, lookup: _Lookup, addresses: Addresses, error: OSError | None) -> None:
        self._places.give_back(lookup.tenant, lookup.domain)
        if self._closed:
            return
        now = self._loop.time()
        if error is None:
            fresh_until = now + self._cache_s
            known = Known(fresh_until, fresh_until + self._stale_s, addresses)
            self._remembered.put(lookup.host, known, lookup.tenant)
        else:
            self._remember_failure(lookup, error, now + min(_NEGATIVE_S, self._cache_s))
        self._finish(lookup, error, addresses)
        self._start_waiting()

    def _remember_failure(self, lookup: _Lookup, error: OSError, until: float) -> None:
        if lack_of(error) is not None:
            return
        known = self._remembered.get(lookup.host, self._loop.time())
        if known is not None and known.addresses and not is_gone(error):
            known.ask_again_at = until
        else:
            self._remembered.put(lookup.host, Known(until, until, error=error), lookup.tenant)

    def _finish(self, lookup: _Lookup, error: OSError | None, addresses: Addresses = ()) -> None:
        if self._lookups.get(lookup.host) is lookup:
            del self._lookups[lookup.host]
        if lookup.answer.done():
            return
        if error is None:
            lookup.answer.set_result(addresses)
        else:
            lookup.answer.set_exception(error)
            lookup.answer.exception()  # seen, even when nobody waits any more


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
