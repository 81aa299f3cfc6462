"""Keeping each tenant's part of the audit trail within its bound: the oldest entries go, a slice
at a time, and the log has them."""

from typing import Final

from dispatcher.engine.sweeper import SLICE
from dispatcher.settings import Settings
from dispatcher.store.store import Store
from receiver.base import log

_LOG: Final = log.get("dispatcher.sweeper")
_TENANTS: Final = 20  # looked at in one sweep, in turn: a look counts entries to the bound


class Trimmer:
    """A step of the sweeper's. Whoever changes things in a loop, with a key of its own, drives out
    its own tenant's entries and takes no room from others (I6, I7)."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._entries_max = settings.tenant_audit_max
        self._store = store
        self._after = ""
        self._looked = 0

    async def step(self) -> bool:
        """Do one slice; return whether there is more to do in this sweep."""
        gone, tenant = await self._store.trim_audit(
            self._after, entries_max=self._entries_max, limit=SLICE
        )
        if gone:
            _LOG.warning("a tenant's oldest audit entries went", tenant=tenant, entries=gone)
        if gone >= SLICE:
            return True
        self._after = tenant or ""
        self._looked += 1
        if tenant is not None and self._looked < _TENANTS:
            return True
        self._looked = 0
        return False
