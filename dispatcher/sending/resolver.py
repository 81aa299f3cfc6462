"""Name look-ups that cannot hurt each other: one per host, bounded in number and in time.

The system's resolver blocks, for as long as the slowest name server likes. Each look-up therefore
gets a thread of its own; a hung one keeps its thread and nothing else.
"""

import asyncio
import socket
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

# A name that failed is asked again soon, since its owner may be repairing it.
_NEGATIVE_S: Final = 5.0
_CACHE_HOSTS_MAX: Final = 4_096
# Each address costs a connection attempt within the same deadline.
_ADDRESSES_MAX: Final = 8

Addresses = tuple[str, ...]


def look_up(host: str) -> Addresses:
    """Return the addresses of `host` as the system's resolver has them. Blocks. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise OSError(f"not a host name: {error}") from error
    return tuple(dict.fromkeys(str(info[4][0]) for info in found))


@dataclass(slots=True, eq=False)
class _Lookup:
    host: str
    answer: asyncio.Future[Addresses]
    due: float  # loop time by which it must have answered


@dataclass(frozen=True, slots=True)
class _Known:
    until: float  # loop time
    addresses: Addresses
    error: OSError | None


class Resolver(AbstractResolver):
    """Resolves within `timeout_s`, with at most `lookups_max` look-ups at once and one per host.

    A look-up past its time still holds its place until the system lets go of it. Other hosts wait
    for a free place, or fail at once when every place is held like that.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        lookups_max: int,
        cache_s: float,
        look_up: Callable[[str], Addresses] = look_up,
    ) -> None:
        self._timeout_s = timeout_s
        self._lookups_max = lookups_max
        self._cache_s = cache_s
        self._look_up = look_up
        self._loop = asyncio.get_running_loop()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lookups: dict[str, _Lookup] = {}  # waiting or running, by host
        self._waiting: deque[_Lookup] = deque()
        self._running: set[_Lookup] = set()
        self._closed = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of `host`. Raises OSError with the reason when there are none in
        time."""
        known = self._recall(host)
        if known is None:
            addresses = await self._ask(host)
        elif known.error is not None:
            raise OSError(str(known.error))
        else:
            addresses = known.addresses
        return [_result(host, address, port) for address in addresses]

    async def close(self) -> None:
        """Forget all look-ups; their threads end by themselves and keep no process alive."""
        self._closed = True
        for lookup in self._lookups.values():
            lookup.answer.cancel()
        self._lookups.clear()
        self._waiting.clear()

    def _recall(self, host: str) -> _Known | None:
        known = self._known.get(host)
        if known is not None and known.until <= self._loop.time():
            del self._known[host]
            return None
        return known

    async def _ask(self, host: str) -> Addresses:
        if self._closed:
            raise OSError("the resolver is closed")
        lookup = self._lookups.get(host) or self._enqueue(host)
        left_s = lookup.due - self._loop.time()
        if left_s <= 0:
            raise OSError(f"the look-up of {host} still hangs")
        # Whoever stops waiting must not take the answer from the others.
        done, _ = await asyncio.wait((lookup.answer,), timeout=left_s)
        if not done:
            raise OSError(f"the look-up of {host} took longer than {self._timeout_s:g} s")
        if lookup.answer.cancelled():
            raise OSError("the resolver was closed")
        return lookup.answer.result()

    def _enqueue(self, host: str) -> _Lookup:
        now = self._loop.time()
        full = len(self._running) >= self._lookups_max
        if full and all(running.due <= now for running in self._running):
            raise OSError(f"all {self._lookups_max} name look-ups hang")
        lookup = _Lookup(host, self._loop.create_future(), now + self._timeout_s)
        self._lookups[host] = lookup
        self._waiting.append(lookup)
        self._start_waiting()
        return lookup

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self._lookups_max:
            lookup = self._waiting.popleft()
            if lookup.due <= self._loop.time():  # nobody waits for it any more
                self._finish(lookup, (), OSError("no look-up was free in time"))
                continue
            self._start(lookup)

    def _start(self, lookup: _Lookup) -> None:
        # Daemon threads: a hung look-up must not keep the process from ending.
        thread = threading.Thread(
            target=self._work, args=(lookup,), name=f"dns-{lookup.host[:32]}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # the system's limit of threads
            self._finish(lookup, (), OSError(f"no thread for a name look-up: {error}"))
        else:
            self._running.add(lookup)

    def _work(self, lookup: _Lookup) -> None:
        addresses: Addresses = ()
        error: OSError | None = None
        try:
            addresses = self._look_up(lookup.host)[:_ADDRESSES_MAX]
        except OSError as raised:
            error = raised
        if not addresses and error is None:
            error = OSError("the name has no address")
        with suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._ended, lookup, addresses, error)

    def _ended(self, lookup: _Lookup, addresses: Addresses, error: OSError | None) -> None:
        self._running.discard(lookup)
        if self._closed:
            return
        keep_s = self._cache_s if error is None else min(_NEGATIVE_S, self._cache_s)
        self._known[lookup.host] = _Known(self._loop.time() + keep_s, addresses, error)
        while len(self._known) > _CACHE_HOSTS_MAX:
            self._known.popitem(last=False)
        self._finish(lookup, addresses, error)
        self._start_waiting()

    def _finish(self, lookup: _Lookup, addresses: Addresses, error: OSError | None) -> None:
        if self._lookups.get(lookup.host) is lookup:
            del self._lookups[lookup.host]
        if lookup.answer.done():
            return
        if error is None:
            lookup.answer.set_result(addresses)
        else:
            lookup.answer.set_exception(error)
            lookup.answer.exception()  # seen, even when nobody waits any more


def _result(host: str, address: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        proto=0,
        flags=socket.AI_NUMERICHOST,
    )
