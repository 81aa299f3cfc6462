"""The endpoints, as this process knows them: all of them in memory, read again when any changed,
here or elsewhere. Rules are looked up when a call is about to be made."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from dispatcher.jobs.endpoint import Endpoint
from dispatcher.jobs.schema import SchemaError
from dispatcher.store.errors import StoreError
from receiver.base import log
from receiver.base.lack import OwnLack

_LOG: Final = log.get("dispatcher.gateway")
_RETRY_S: Final = 0.5


class EndpointBook:
    """Rules by name. `read` returns all endpoints as they are stored."""

    def __init__(self, read: Callable[[], Awaitable[Sequence[Endpoint]]]) -> None:
        self._read = read
        self._by_name: dict[str, Endpoint] = {}
        self._reloading: asyncio.Task[None] | None = None
        self._again = False
        self._begun = 0  # readings, and which of them is in force
        self._in_force = 0

    def get(self, name: str) -> Endpoint | None:
        """Return an endpoint, None where there is none of this name. Raises OwnLack for one whose
        rules no key of ours opens: no other is kept from going on."""
        found = self._by_name.get(name)
        if found is not None and found.unopened is not None:
            raise OwnLack(found.unopened.lack, found.unopened.message)
        return found

    def find(self, name: str) -> Endpoint | None:
        """Return an endpoint as `all` does."""
        return self._by_name.get(name)

    def all(self) -> Sequence[Endpoint]:
        """Return all endpoints, in the order of their names, those too whose rules cannot be
        opened."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    async def reload(self) -> None:
        """Read all again: somebody changed one. Raises what the database does. Of several at once
        the one that began last is in force, whichever ends last."""
        self._begun += 1
        reading = self._begun
        endpoints = [self._kept(one) for one in await self._read()]
        if any(one.rules.schema is not None for one in endpoints):
            await asyncio.to_thread(_compile, endpoints)
        if reading > self._in_force:
            self._in_force = reading
            self._by_name = {one.name: one for one in endpoints}

    def _kept(self, one: Endpoint) -> Endpoint:
        """Return an endpoint with the schema that is compiled already, where that is the same."""
        before = self._by_name.get(one.name)
        if before is None or one.rules.schema is None or before.rules != one.rules:
            return one
        return replace(one, rules=before.rules)

    def changed(self) -> None:
        """Read all again soon, whatever that meets: another process changed one."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload(), name="reload-endpoints")
        else:
            self._again = True

    def stop(self) -> None:
        """Read no more."""
        if self._reloading is not None:
            self._reloading.cancel()

    async def _reload(self) -> None:
        """Until what was read is what was last announced."""
        while True:
            self._again = False
            try:
                await self.reload()
            except Exception as error:
                if isinstance(error, StoreError):
                    _LOG.warning("cannot read endpoints again yet", reason=str(error))
                else:
                    _LOG.exception("reading endpoints again failed", error)
                await asyncio.sleep(_RETRY_S)
                continue
            if not self._again:
                return


def _compile(endpoints: Sequence[Endpoint]) -> None:
    """Make schemas ready for use: the first one takes some 100 ms. One that no longer can be used
    refuses inputs, and says why."""
    for one in endpoints:
        if one.rules.schema is not None:
            with suppress(SchemaError):
                one.rules.schema.compile()
