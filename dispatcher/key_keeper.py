"""What becomes of API keys over time: their last uses are recorded, off every request's path, and
the log says in advance which of them will expire."""

from collections.abc import Callable
from itertools import islice
from typing import Final

from dispatcher.access import PREVIOUS, Access
from dispatcher.store.access import USED_MS
from dispatcher.store.store import Store
from dispatcher.values import Key, KeyUse
from receiver.base import log
from receiver.base.clock import iso, monotonic_ms, now_ms

_LOG: Final = log.get("dispatcher.service")
# Keys whose uses one commit records: a few milliseconds of it.
SLICE: Final = 200
EXPIRES_SOON_MS: Final = 7 * 86_400_000
_LOOK_MS: Final = 3_600_000
_TOLD_MAX: Final = 20  # keys that expire soon, named one by one each time


class KeyKeeper:
    """Records uses, at most one a minute of each key, and tells of ends; `step` does a part of it
    now and then."""

    def __init__(
        self,
        access: Access,
        store: Store,
        *,
        clock: Callable[[], int] = now_ms,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._access = access
        self._store = store
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._due: dict[str, KeyUse] = {}
        self._recorded_ms: dict[str, int] = {}  # when, by the monotonic clock; of the last minute
        self._looked_ms: int | None = None
        self._told: dict[str, int] = {}  # which end of a key was told

    async def step(self) -> bool:
        """Record a slice; returns whether there is more to do. Raises StoreError."""
        self._tell()
        self._collect()
        now_ms = self._monotonic_ms()
        self._recorded_ms = {
            key: at_ms for key, at_ms in self._recorded_ms.items() if now_ms - at_ms < USED_MS
        }
        ripe = (key for key in self._due if key not in self._recorded_ms)
        return await self._record(list(islice(ripe, SLICE)))

    async def finish(self) -> None:
        """Record what is left, at the end. Raises StoreError."""
        self._collect()
        while await self._record(list(islice(self._due, SLICE))):
            pass

    def _collect(self) -> None:
        now_ms = self._clock()
        for mark in filter(None, self._access.take_used()):  # a key of the settings has none
            key = mark.removesuffix(PREVIOUS)
            before = self._due.get(key)
            previous_ms = None if before is None else before.previous_used_ms
            if mark != key:
                previous_ms = now_ms
            self._due[key] = KeyUse(key=key, used_ms=now_ms, previous_used_ms=previous_ms)

    async def _record(self, keys: list[str]) -> bool:
        """Record the uses of these keys; returns whether they were a whole slice."""
        if not keys:
            return False
        uses = {key: self._due[key] for key in keys}
        await self._store.mark_used(list(uses.values()))
        now_ms = self._monotonic_ms()
        for key, use in uses.items():
            self._recorded_ms[key] = now_ms
            if self._due.get(key) is use:  # else it was used again meanwhile
                del self._due[key]
        return len(keys) == SLICE

    def _tell(self) -> None:
        """Warn once of each key that expires soon, or has expired unsaid."""
        now_ms, at_ms = self._monotonic_ms(), self._clock()
        if self._looked_ms is not None and now_ms - self._looked_ms < _LOOK_MS:
            return
        self._looked_ms = now_ms
        soon = [key for key in self._access.keys(None) if expires_soon(key, at_ms)]
        self._told = {
            key.id: ends_ms for key in soon if (ends_ms := self._told.get(key.id)) is not None
        }
        news = [key for key in soon if self._told.get(key.id) != key.limits.expires_ms]
        for key in news[:_TOLD_MAX]:
            self._told[key.id] = key.limits.expires_ms or 0
            _LOG.warning(
                "an API key expires soon: rotate it with another end, or make another",
                keyId=key.id,
                label=key.label,
                tenant=key.tenant,
                expiresAt=iso(key.limits.expires_ms),
            )


def expires_soon(key: Key, now_ms: int) -> bool:
    """Return whether a key expires within a week, and has not yet."""
    expires_ms = key.limits.expires_ms
    return expires_ms is not None and now_ms < expires_ms <= now_ms + EXPIRES_SOON_MS
