"""Links that upstreams are given with a call, to tell of it themselves, and links to outputs: made
with a key that the database keeps, and checked by it alone."""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Final

from dispatcher.ids import made_ms, new_id, spelled
from dispatcher.jobs import output_links, tokens
from dispatcher.jobs.output_links import OutputLink
from dispatcher.jobs.tokens import KEY_BYTES, Grant, Purpose
from dispatcher.jobs.values import ClaimedJob
from dispatcher.store.clocks import SLACK_MS
from dispatcher.store.errors import StoreError
from dispatcher.store.jobs.store import JobStore
from dispatcher.values import LinkKey
from receiver.base import log
from receiver.base.clock import now_ms

_LOG: Final = log.get("dispatcher.gateway")
_RETRY_S: Final = 0.5
# A token outlasts its call: what comes late is told so, and clocks differ.
_AFTER_MS: Final = 300_000
# A key makes links for so long, and those are good for as long again: far longer than any lasts.
ROTATE_MS: Final = 30 * 86_400_000


class Links:
    """The keys, newest first, and what is made of them; `base_url` is where upstreams reach us."""

    def __init__(
        self, store: JobStore, base_url: str, *, clock: Callable[[], int] = now_ms
    ) -> None:
        self._store = store
        self._base_url = base_url.rstrip("/")
        self._clock = clock
        self._keys: tuple[bytes, ...] = ()
        self._newest: LinkKey | None = None
        self._reloading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Get to know the keys, the first of which is made where there is none. Where they cannot
        be had, calls go out without links, until they can. Raises StoreUnavailable and such."""
        self._take(await self._store.ensure_link_key(self.new_key()))

    async def step(self) -> bool:
        """Make links with another key where this one has made them for long: at the longest since
        now."""
        newest, at_ms = self._newest, self._clock()
        if newest is not None and newest.created_ms > at_ms + SLACK_MS:
            self._take(await self._store.bring_link_key_back(newest.id, now_ms=at_ms))
        elif newest is not None and at_ms - newest.created_ms >= ROTATE_MS:
            self._take(await self._store.rotate_link_key(self.new_key(), after=newest.id))
        return False

    def _take(self, found: Sequence[LinkKey]) -> None:
        self._keys = tuple(one.value for one in found)
        self._newest = found[0] if found else None

    def new_key(self) -> LinkKey:
        """Return a new key, that is the newest whatever the clock says."""
        at_ms = self._clock()
        id_ms = at_ms if self._newest is None else max(at_ms, made_ms(self._newest.id) + 1)
        return LinkKey(id=new_id("lk", id_ms), value=os.urandom(KEY_BYTES), created_ms=at_ms)

    def changed(self) -> None:
        """Read the keys again soon: another process may have rotated them."""
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload(), name="reload-link-keys")

    def stop(self) -> None:
        """Read no more."""
        if self._reloading is not None:
            self._reloading.cancel()

    def of_call(self, job: ClaimedJob, deadline_ms: int) -> tuple[str, str] | None:
        """Return where the upstream of a call tells of its progress, and of its end; None while
        there is no key."""
        if not self._keys:
            return None
        grant = Grant(job.id, job.run, job.claim, deadline_ms + _AFTER_MS)
        path = f"{self._base_url}/v1/jobs/{spelled(job.id, 'v1')}"
        progress = tokens.make(self._keys[0], "progress", grant)
        complete = tokens.make(self._keys[0], "complete", grant)
        return f"{path}/progress/{progress}", f"{path}/complete/{complete}"

    def of_output(self, job: str, run: int, expires_ms: int) -> str | None:
        """Return the path of what a run of a job brought, which needs no key and is good until
        then; None while there is no key to sign it with."""
        if not self._keys:
            return None
        return output_links.path(self._keys[0], OutputLink(job, run, expires_ms // 1000))

    def read_output(self, id: str, expires: str, signature: str) -> OutputLink | None:
        """Return what such a link is to, None where it is none of ours."""
        return output_links.read(self._keys, id, expires, signature)

    def read(self, purpose: Purpose, job: str, token: str) -> Grant | None:
        """Return what a token of a job stands for, None where it is none of ours for this."""
        return tokens.read(self._keys, purpose, job, token)

    async def _reload(self) -> None:
        while True:
            try:
                await self.open()
            except StoreError as error:
                _LOG.warning("cannot read the keys of links again yet", reason=str(error))
            except Exception as error:
                _LOG.exception("reading the keys of links failed", error)
            else:
                return
            await asyncio.sleep(_RETRY_S)
