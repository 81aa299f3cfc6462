"""The endpoints, as this process knows them: all of them in memory, read again when any changed,
here or elsewhere. Rules are looked up when a call is about to be made, and so are the values of its
headers that are stored secrets, or stand on this server's own disk or in its environment."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from dispatcher.jobs.endpoint import Endpoint, HeaderValue, LocalRef
from dispatcher.settings import Settings, upstream_value
from dispatcher.signing import SecretCache
from dispatcher.store.errors import StoreError
from dispatcher.store.stored import PLATFORM
from dispatcher.values import Headers, SecretRef
from receiver.base import log
from receiver.base.clock import monotonic_ms
from receiver.base.lack import OwnLack
from receiver.base.settings import SettingError, read_file

_LOG: Final = log.get("dispatcher.gateway")
_RETRY_S: Final = 0.5
_LOCAL_MS: Final = 10_000  # a rotated value on disk is seen within this time
_LOCAL_MAX: Final = 1_000
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
VALUES: Final = "upstream_values"
"""What we lack where a value of our own disk or environment cannot be read."""


class LocalValues:
    """Values of `env:` and `file:`, kept for some seconds: reading a file may take long."""

    def __init__(
        self, settings: Settings, *, monotonic_ms: Callable[[], int] = monotonic_ms
    ) -> None:
        self._folder = settings.upstream_secrets
        self._monotonic_ms = monotonic_ms
        self._kept: dict[LocalRef, tuple[str, int]] = {}

    async def get(self, ref: LocalRef) -> str:
        """Raise OwnLack for a value that cannot be read, or be sent."""
        kept = self._kept.get(ref)
        if kept is not None and self._monotonic_ms() < kept[1]:
            return kept[0]
        try:
            value = await asyncio.to_thread(self.read, ref)
        except SettingError as error:
            raise OwnLack(VALUES, str(error)) from None
        if len(self._kept) >= _LOCAL_MAX:
            self._kept.clear()
        self._kept[ref] = value, self._monotonic_ms() + _LOCAL_MS
        return value

    def read(self, ref: LocalRef) -> str:
        """Raise SettingError, which never shows what was read."""
        if ref.kind == "env":
            value = upstream_value(ref.name)
        else:
            value = _read_below(self._folder, ref.name)
        if not value or not _HEADER_VALUE.fullmatch(value) or value != value.strip():
            what = "is not one line of ASCII text without outer spaces"
            raise SettingError(f"{ref.kind}:{ref.name}: what it holds {what}")
        return ref.prefix + value


def _read_below(folder: str | None, name: str) -> str:
    """Return the text of a regular file that is, with links followed, inside the folder."""
    given = f"file:{name}"
    if folder is None:
        raise SettingError(f"{given}: DISPATCHER_UPSTREAM_SECRETS names no folder to read it from")
    try:
        inside = Path(folder).resolve(strict=True)
        path = (inside / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "no path"
        raise SettingError(f"{given}: {reason}") from None
    if not path.is_relative_to(inside):
        raise SettingError(f"{given}: it is not inside DISPATCHER_UPSTREAM_SECRETS")
    text = read_file(given, str(path))
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


class EndpointBook:
    """Rules by name. `read` returns all endpoints as they are stored."""

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Awaitable[Sequence[Endpoint]]],
        secrets: SecretCache,
    ) -> None:
        self._read = read
        self._secrets = secrets
        self._local = LocalValues(settings)
        self._by_name: dict[str, Endpoint] = {}
        self._reloading: asyncio.Task[None] | None = None
        self._again = False

    def get(self, name: str) -> Endpoint | None:
        """Return an endpoint, None where there is none of this name."""
        return self._by_name.get(name)

    def all(self) -> Sequence[Endpoint]:
        """Return all endpoints, in the order of their names."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    async def reload(self) -> None:
        """Read all again: somebody changed one. Raises what the database does."""
        endpoints = await self._read()
        self._by_name = {one.name: one for one in endpoints}

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

    async def headers(self, endpoint: Endpoint) -> Headers:
        """Return the headers of a call that is made now. Raises OwnLack for one whose value is not
        to be had."""
        return tuple([(name, await self._value(one)) for name, one in endpoint.rules.headers])

    async def _value(self, value: HeaderValue) -> str:
        if isinstance(value, LocalRef):
            return await self._local.get(value)
        if isinstance(value, SecretRef):
            return value.prefix + await self._secrets.stored(PLATFORM, value.name)
        return value
