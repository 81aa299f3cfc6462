"""Signs of life of calls whose endpoints ask for them (`heartbeat_timeout`): a call that gave none
for so long is given up. A report that another process took counts as one that came here, and so
does a chunk of an answer that comes in chunks."""

from collections.abc import Callable, Sequence
from typing import Final

from dispatcher.gateway.endpoints import EndpointBook
from dispatcher.gateway.open_calls import OpenCalls, Running
from dispatcher.ids import spelled
from dispatcher.store.jobs.store import JobStore
from receiver.base import log

_LOG: Final = log.get("dispatcher.gateway")
_ASKED_MAX: Final = 500


class Heartbeats:
    """Watches the calls that are open here, by this process's own clock."""

    def __init__(
        self,
        store: JobStore,
        book: EndpointBook,
        open_calls: OpenCalls,
        monotonic_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._book = book
        self._open = open_calls
        self._monotonic_ms = monotonic_ms

    async def look(self) -> None:
        """Close the calls that gave no sign of life in time. Raises what the database does."""
        if all(one.rules.heartbeat_timeout is None for one in self._book.all()):
            return
        silent = [one for one in self._open.all() if self._is_silent(one)]
        for at in range(0, len(silent), _ASKED_MAX):
            await self._look_at(silent[at : at + _ASKED_MAX])

    def _is_silent(self, one: Running) -> bool:
        wait_s = None if one.rules is None else one.rules.heartbeat_timeout
        if wait_s is None or one.sign_ms is None or not one.is_calling:
            return False
        if one.stream is not None and one.stream.joined.count > one.chunks:
            one.chunks, one.sign_ms = one.stream.joined.count, self._monotonic_ms()
        return self._monotonic_ms() - one.sign_ms >= wait_s * 1000

    async def _look_at(self, silent: Sequence[Running]) -> None:
        signs = await self._store.signs([(one.job.id, one.job.claim) for one in silent])
        for one in silent:
            n = signs.get((one.job.id, one.job.claim), 0)
            if n > one.signs:
                one.signs, one.sign_ms = n, self._monotonic_ms()
            elif self._is_silent(one):  # none has come meanwhile
                _LOG.warning("a call gave no sign of life", id=spelled(one.job.id, "v1"))
                one.close("silent")
