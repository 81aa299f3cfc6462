"""What headers of endpoints name: stored secrets of the platform, and values on this server's own
disk or in its environment, where the secret that signs may stand too. Looked up when a call is
made."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dispatcher.access import secret_fault
from dispatcher.jobs.endpoint import LocalRef
from dispatcher.settings import Settings, upstream_value
from dispatcher.signing import SecretCache, Secrets
from dispatcher.store.stored import PLATFORM
from dispatcher.values import SecretRef
from receiver.base.clock import monotonic_ms
from receiver.base.lack import OwnLack
from receiver.base.secrets import split_secrets
from receiver.base.settings import SettingError, read_file

_LOCAL_MS: Final = 10_000  # a rotated value on disk is seen within this time
_LOCAL_MAX: Final = 1_000
_SIGNING_MAX: Final = 2  # the current one, and during a rotation the one before it
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
VALUES: Final = "upstream_values"
"""What we lack where a value of our own disk or environment cannot be read."""


class HeaderValues:
    """Values that headers name, without their prefix. Those of `env:` and `file:` are kept for some
    seconds: reading a file may take long."""

    def __init__(
        self,
        settings: Settings,
        secrets: SecretCache,
        *,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._folder = settings.upstream_secrets
        self._secrets = secrets
        self._monotonic_ms = monotonic_ms
        self._kept: dict[LocalRef, tuple[str, int]] = {}

    async def get(self, ref: SecretRef | LocalRef) -> str:
        """Return a value as it is now. Raises OwnLack for one that is not to be had, or cannot be
        sent."""
        if isinstance(ref, SecretRef):
            return await self._secrets.stored(PLATFORM, ref.name)
        kept = self._kept.get(ref)
        if kept is not None and self._monotonic_ms() < kept[1]:
            return kept[0]
        try:
            value = await asyncio.to_thread(read_local, ref, self._folder)
        except SettingError as error:
            raise OwnLack(VALUES, str(error)) from None
        if len(self._kept) >= _LOCAL_MAX:
            self._kept.clear()
        self._kept[ref] = value, self._monotonic_ms() + _LOCAL_MS
        return value


def read_local(ref: LocalRef, folder: str | None) -> str:
    """Return a value of this server's own disk or environment, without its prefix; `folder` holds
    those of `file:`. Raises SettingError, which never shows what was read."""
    value = upstream_value(ref.name) if ref.kind == "env" else _read_below(folder, ref.name)
    if not value or not _HEADER_VALUE.fullmatch(value) or value != value.strip():
        what = "is not one line of ASCII text without outer spaces"
        raise SettingError(f"{ref.kind}:{ref.name}: what it holds {what}")
    return value


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


def signing_of(ref: LocalRef, value: str) -> Secrets:
    """Return what signs, by a value of this server's own: one secret, or two with a comma and a
    space between them, of which the first is the current one. Raises SettingError."""
    given = f"{ref.kind}:{ref.name}"
    try:
        secrets = split_secrets(value)
    except ValueError as error:
        raise SettingError(f"{given}: {error}") from None
    if not 1 <= len(secrets) <= _SIGNING_MAX:
        raise SettingError(f"{given}: must hold one signing secret, or the new and the old one")
    for one in secrets:
        fault = secret_fault(one)
        if fault is not None:
            raise SettingError(f"{given}: each signing secret {fault}")
    current, *previous = secrets
    return Secrets(current=current, previous=previous[0] if previous else None)
