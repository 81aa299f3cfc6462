"""Name look-ups that cannot hurt each other: one per host, bounded in number and in time.

The system's resolver blocks, for as long as the slowest name server likes. Each look-up therefore
gets a thread of its own; a hung one keeps its thread, which is a place of its tenant's. What finds
no place waits for one as long as its caller likes: that is our lack, and not the peer's fault.
"""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from receiver.base.lack import OwnLack
from receiver.base.places import Places, domain_of

# Each address costs a connection attempt within the same deadline.
_ADDRESSES_MAX: Final = 8
LACK: Final = "lookups"

Addresses: TypeAlias = tuple[str, ...]
OnEnd: TypeAlias = Callable[[str, str, Addresses, OSError | None], None]
"""Told what became of a look-up: its host, the tenant in whose place it ran, and its result."""


@dataclass(slots=True)
class Asker:
    """For whom names are looked up. `lacking` says that it waits, or had to wait, for a place and
    has no addresses yet: where it ends like that, it was our lack."""

    tenant: str = ""
    lacking: bool = False


@dataclass(slots=True, eq=False)
class _Lookup:
    host: str
    domain: str
    begun: asyncio.Future[None]  # it has a place
    answer: asyncio.Future[Addresses]
    due: float = 0.0  # loop time by which it must have answered, once it has begun
    tenant: str = ""  # in whose place it runs
    waiting: Counter[str] = field(default_factory=Counter)  # who waits for it to begin, by tenant


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


class Lookups:
    """Each within `timeout_s` of its beginning, at most `lookups_max` at once. One past its time
    still holds its place until the system lets go of it; `Places` says whom that keeps waiting."""

    def __init__(
        self,
        *,
        timeout_s: float,
        lookups_max: int,
        look_up: Callable[[str], Addresses] = look_up,
        on_end: OnEnd = lambda _host, _tenant, _addresses, _error: None,
    ) -> None:
        self._timeout_s = timeout_s
        self._look_up = look_up
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._lookups: dict[str, _Lookup] = {}  # waiting or running, by host
        self._places: Places[_Lookup] = Places(lookups_max)
        self._closed = False

    async def ask(self, host: str, asker: Asker) -> Addresses:
        """Return the addresses of `host`. Raises OSError, OwnLack where it is ours."""
        if self._closed:
            raise OSError("the resolver is closed")
        lookup = self._lookups.get(host)
        if lookup is None:
            create = self._loop.create_future
            lookup = self._lookups[host] = _Lookup(host, domain_of(host), create(), create())
        if not lookup.begun.done():
            await self._wait_for_place(lookup, asker)
        return await self._answer(lookup)

    def close(self) -> None:
        """Forget all look-ups; their threads end by themselves and keep no process alive."""
        self._closed = True
        for lookup in self._lookups.values():
            lookup.begun.cancel()
            lookup.answer.cancel()
        self._lookups.clear()

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
        self._on_end(lookup.host, lookup.tenant, addresses, error)
        self._finish(lookup, error, addresses)
        self._start_waiting()

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
