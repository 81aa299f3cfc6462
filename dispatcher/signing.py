"""Which secrets sign a delivery, and the headers they make. Signed at send time, never stored."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Final

from dispatcher.store.errors import NotFound
from dispatcher.values import SigningSecret
from receiver.base import log
from receiver.base.clock import monotonic_ms
from receiver.base.secrets import is_weak
from receiver.signature import (
    ID_HEADER,
    PREVIOUS_SUFFIX,
    SHA256_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    Job,
    job_headers,
    sign_sha256,
    sign_standard,
    v1_key,
)

_LOG: Final = log.get("dispatcher.service")
# `forget` is what ends an entry; this is for rotations made by another process.
_FRESH_MS: Final = 30_000
_TENANTS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What signs now: the current secret, and during a rotation the one before it."""

    current: str = field(repr=False)
    previous: str | None = field(default=None, repr=False)


class SecretCache:
    """The tenants' signing secrets, kept in memory. The most specific one signs: a destination's
    own, else its tenant's. `read` gives all of a tenant's that sign or signed, newest first."""

    def __init__(
        self,
        read: Callable[[str], Awaitable[Sequence[SigningSecret]]],
        *,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._read = read
        self._monotonic_ms = monotonic_ms
        self._cached: OrderedDict[str, _TenantSecrets] = OrderedDict()
        self._loading = asyncio.Lock()
        self._forgotten = 0
        self._told: set[str] = set()

    async def for_delivery(self, tenant: str, destination: str, now_ms: int) -> Secrets:
        """Return what signs now. Raises NotFound for a tenant without secrets, and what `read`
        raises."""
        cached = self._cached.get(tenant)
        if cached is None or cached.fresh_until_ms <= self._monotonic_ms():
            cached = await self._load(tenant)
        return cached.secrets(destination, now_ms)

    def forget(self, tenant: str) -> None:
        """Read this tenant's secrets again at the next use: they have changed."""
        self._forgotten += 1
        self._cached.pop(tenant, None)

    def forget_all(self) -> None:
        """Read all secrets again at their next use: another process changed some."""
        self._forgotten += 1
        self._cached.clear()

    async def _load(self, tenant: str) -> "_TenantSecrets":
        async with self._loading:  # one read for all that wait, not one each
            cached = self._cached.get(tenant)
            if cached is not None and cached.fresh_until_ms > self._monotonic_ms():
                return cached
            forgotten = self._forgotten
            secrets = await self._read(tenant)
            self._warn(secrets)
            cached = _TenantSecrets(tenant, secrets, self._monotonic_ms() + _FRESH_MS)
            # What was read while a rotation committed may be the state before it.
            if forgotten == self._forgotten:
                self._cached[tenant] = cached
                self._cached.move_to_end(tenant)
                while len(self._cached) > _TENANTS_MAX:
                    self._cached.popitem(last=False)
            return cached

    def _warn(self, secrets: Sequence[SigningSecret]) -> None:
        """Say once of each weak secret, stored before there was a least strength, that it signs."""
        for secret in secrets:
            if is_weak(secret.value) and secret.id not in self._told:
                if len(self._told) < _TENANTS_MAX:
                    self._told.add(secret.id)
                _LOG.warning(
                    "a weak signing secret is in use: rotate it",
                    tenant=secret.tenant,
                    secretId=secret.id,
                    destination=secret.destination,
                )


class _TenantSecrets:
    """One tenant's secrets, by destination; the key None holds the tenant's own."""

    def __init__(self, tenant: str, secrets: Sequence[SigningSecret], fresh_until_ms: int) -> None:
        self.fresh_until_ms = fresh_until_ms
        self._tenant = tenant
        by_owner: dict[str | None, list[SigningSecret]] = {}
        for secret in sorted(secrets, key=_newest_first):
            by_owner.setdefault(secret.destination, []).append(secret)
        self._rotations = {owner: _Rotation(owned) for owner, owned in by_owner.items()}

    def secrets(self, destination: str, now_ms: int) -> Secrets:
        rotation = self._rotations.get(destination) or self._rotations.get(None)
        if rotation is None:
            raise NotFound(f"tenant {self._tenant} has no signing secret")
        return rotation.both if now_ms < rotation.previous_until_ms else rotation.current


class _Rotation:
    def __init__(self, newest_first: Sequence[SigningSecret]) -> None:
        current, *older = newest_first
        self.current = Secrets(current=current.value)
        self.both = self.current
        self.previous_until_ms = 0
        for secret in older:
            if secret.expires_ms is not None and secret.expires_ms > self.previous_until_ms:
                self.both = Secrets(current=current.value, previous=secret.value)
                self.previous_until_ms = secret.expires_ms


def _newest_first(secret: SigningSecret) -> tuple[bool, int]:
    return (secret.expires_ms is not None, -secret.created_ms)


def headers(
    *,
    message_id: str,
    body: bytes,
    secrets: Secrets,
    job: Job,
    now_s: int,
    sha256_header: str = SHA256_HEADER,
) -> list[tuple[str, str]]:
    """Return the headers of one attempt that sign it, in both schemes, and those that say which
    job it is about (D10).

    A secret that is not base64 cannot make the second scheme's signature; without any signature
    of it, its id and timestamp are left out too, since receivers take them as a claim to it.
    """
    signed = [(sha256_header, sign_sha256(secrets.current, body))]
    if secrets.previous is not None:
        signed.append((sha256_header + PREVIOUS_SUFFIX, sign_sha256(secrets.previous, body)))
    keys = [_v1_key(secrets.current)]
    if secrets.previous is not None:
        keys.append(_v1_key(secrets.previous))
    says = job_headers(job)
    standard = [
        sign_standard(key, message_id, now_s, body, says) for key in keys if key is not None
    ]
    if standard:
        signed += says.items()
        signed += (
            (ID_HEADER, message_id),
            (TIMESTAMP_HEADER, str(now_s)),
            (SIGNATURE_HEADER, " ".join(chain.from_iterable(zip(*standard, strict=True)))),
        )
    return signed


@lru_cache(maxsize=4_096)
def _v1_key(secret: str) -> bytes | None:
    """Return the key of the second scheme, None for a plain text, which serves the first only."""
    try:
        return v1_key(secret)
    except ValueError:
        return None
