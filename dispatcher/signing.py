"""Which secrets sign a delivery, and the headers they make. Signed at send time, never stored."""

import asyncio
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import chain
from typing import Final, Generic, TypeVar

from dispatcher.store.errors import NotFound
from dispatcher.values import Delivery, Headers, SigningSecret, StoredSecret, Unopened
from receiver.base import log
from receiver.base.clock import monotonic_ms
from receiver.base.lack import OwnLack
from receiver.base.secrets import is_weak
from receiver.signature import (
    ID_HEADER,
    PREVIOUS_SUFFIX,
    SHA256_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    Job,
    Sha256Signature,
    Signer,
    StandardSignature,
    job_headers,
    v1_key,
)

_LOG: Final = log.get("dispatcher.service")
# `forget` is what ends an entry; this is for rotations made by another process.
_FRESH_MS: Final = 30_000
_CACHED_MAX: Final = 10_000  # tenants' signing secrets, and stored secrets: of those 40 MiB
# While secrets cannot be read again, those that were read last sign: so long is waited for others,
# so often it is tried, and told.
_PATIENCE_S: Final = 0.5
_AGAIN_MS: Final = 1_000
_TELL_EVERY_MS: Final = 10_000
STORED_SECRETS: Final = "stored_secrets"
"""What we lack where a header cannot be made."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What signs now: the current secret, and during a rotation the one before it; and, where the
    delivery's headers name any, the tenant's stored secrets."""

    current: str = field(repr=False)
    previous: str | None = field(default=None, repr=False)
    stored: Mapping[str, StoredSecret] = field(default_factory=dict, repr=False, hash=False)


class SecretMissing(OwnLack):
    """A header's stored secret is not there, or cannot be opened: the message is fit to show,
    `detail` is for our own log."""

    def __init__(self, name: str, unopened: Unopened | None = None) -> None:
        reason = "is not there" if unopened is None else "cannot be opened"
        super().__init__(
            STORED_SECRETS if unopened is None else unopened.lack,
            f"not sent: a header names the stored secret {name}, which {reason}",
        )
        self.detail = str(self) if unopened is None else unopened.message


class SecretCache:
    """The tenants' secrets, kept in memory: those that sign, of which the most specific one does (a
    destination's own, else its tenant's), and those that are stored for headers. `read` gives all
    of a tenant's that sign or signed, newest first, and `read_stored` those that are stored, of a
    tenant or of the platform, which are read where a header names one.

    A tenant's reading keeps no other tenant waiting. Where it fails or takes long, what was read
    last goes on being used, unless it is known to have changed.
    """

    def __init__(
        self,
        read: Callable[[str], Awaitable[Sequence[SigningSecret]]],
        read_stored: Callable[[str], Awaitable[Mapping[str, StoredSecret]]] | None = None,
        *,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._read = read
        self._read_stored = read_stored
        self._monotonic_ms = monotonic_ms
        what = "signing secrets: those read before go on signing"
        self._signing = _Cache(self._load, what, lambda _: 1, monotonic_ms)
        what = "stored secrets: those read before go on being sent"
        self._stored = _Cache(self._load_stored, what, lambda read: 1 + len(read), monotonic_ms)
        self._told: set[str] = set()

    async def for_delivery(
        self, tenant: str, destination: str, now_ms: int, names: Collection[str] = ()
    ) -> Secrets:
        """Return what signs now, and the stored secrets where headers have `names` of some. Raises
        NotFound for a tenant without secrets, OwnLack where one that signs cannot be opened, and
        what `read` raises where there are none that were read before."""
        secrets = (await self._signing.get(tenant)).secrets(destination, now_ms)
        return replace(secrets, stored=await self._named(tenant, names)) if names else secrets

    async def stored(self, owner: str, name: str) -> str:
        """Return a stored secret of a tenant or of the platform. Raises SecretMissing, and what
        `read_stored` raises where nothing was read before."""
        return value_of(name, await self._named(owner, (name,)))

    async def _named(self, owner: str, names: Collection[str]) -> Mapping[str, StoredSecret]:
        """Return an owner's stored secrets. One that another process has just stored may be news:
        they are read again for it, though not for each delivery."""
        stored = await self._stored.get(owner)
        if all(name in stored for name in names):
            return stored
        return await self._stored.get_again(owner)

    def forget(self, tenant: str) -> None:
        """Read this tenant's secrets again at the next use: they have changed."""
        self._signing.forget(tenant)
        self._stored.forget(tenant)

    def forget_all(self) -> None:
        """Read all secrets again at their next use: another process changed some."""
        self._signing.forget_all()
        self._stored.forget_all()

    async def _load(self, tenant: str, before: "_TenantSecrets | None") -> "_TenantSecrets":
        secrets = [_known(one, before) for one in await self._read(tenant)]
        self._warn(secrets)
        return _TenantSecrets(tenant, secrets)

    async def _load_stored(
        self, owner: str, before: Mapping[str, StoredSecret] | None
    ) -> Mapping[str, StoredSecret]:
        if self._read_stored is None:
            return {}
        read = await self._read_stored(owner)
        return {name: _known_stored(one, before or {}) for name, one in read.items()}

    def _warn(self, secrets: Sequence[SigningSecret]) -> None:
        """Say once of each weak secret, stored before there was a least strength, that it signs."""
        for secret in secrets:
            if secret.unopened is not None:
                continue
            if is_weak(secret.value) and secret.id not in self._told:
                if len(self._told) < _CACHED_MAX:
                    self._told.add(secret.id)
                _LOG.warning(
                    "a weak signing secret is in use: rotate it",
                    tenant=secret.tenant,
                    secretId=secret.id,
                    destination=secret.destination,
                )


@dataclass(slots=True)
class _Cached(Generic[T]):
    value: T = field(repr=False)
    weight: int
    fresh_until_ms: int
    again_from_ms: int = 0  # before that it is not read again for what it lacks


class _Cache(Generic[T]):
    """What was read of each tenant, of those that were read last: not more than `_CACHED_MAX`.
    `read` is given what it read before, where that goes on."""

    def __init__(
        self,
        read: Callable[[str, T | None], Awaitable[T]],
        what: str,
        weigh: Callable[[T], int],
        monotonic_ms: Callable[[], int],
    ) -> None:
        self._read = read
        self._what = what
        self._weigh = weigh
        self._monotonic_ms = monotonic_ms
        self._cached: OrderedDict[str, _Cached[T]] = OrderedDict()
        self._weight = 0
        self._reading: dict[str, asyncio.Task[_Cached[T]]] = {}
        self._tell_from_ms = 0

    async def get(self, tenant: str) -> T:
        """Return what was read, or read it."""
        cached = self._cached.get(tenant)
        if cached is None or cached.fresh_until_ms <= self._monotonic_ms():
            cached = await self._read_again(tenant, cached)
        return cached.value

    async def get_again(self, tenant: str) -> T:
        """Return what is read anew, at most once a second."""
        cached = self._cached.get(tenant)
        if cached is not None and self._monotonic_ms() < cached.again_from_ms:
            return cached.value
        cached = await self._read_again(tenant, cached)
        cached.again_from_ms = self._monotonic_ms() + _AGAIN_MS
        return cached.value

    def forget(self, tenant: str) -> None:
        """Read it again at its next use, whatever happens."""
        self._reading.pop(tenant, None)
        self._drop(tenant)

    def forget_all(self) -> None:
        """Read all again at their next use, if that can be."""
        self._reading.clear()
        for cached in self._cached.values():
            cached.fresh_until_ms = 0

    async def _read_again(self, tenant: str, stale: _Cached[T] | None) -> _Cached[T]:
        reading = self._reading.get(tenant)
        if reading is None:  # one for all that wait, not one each
            reading = asyncio.create_task(self._load(tenant, stale), name="read-secrets")
            self._reading[tenant] = reading
            reading.add_done_callback(partial(self._ended, tenant))
        if stale is None:
            return await asyncio.shield(reading)  # whoever goes away does not end it for others
        await asyncio.wait((reading,), timeout=_PATIENCE_S)
        if reading.done() and not reading.cancelled() and reading.exception() is None:
            return reading.result()
        stale.fresh_until_ms = self._monotonic_ms() + _AGAIN_MS
        return stale

    async def _load(self, tenant: str, stale: _Cached[T] | None) -> _Cached[T]:
        value = await self._read(tenant, None if stale is None else stale.value)
        return _Cached(value, self._weigh(value), self._monotonic_ms() + _FRESH_MS)

    def _ended(self, tenant: str, reading: "asyncio.Task[_Cached[T]]") -> None:
        # What was read while a rotation committed may be the state before it.
        is_current = self._reading.get(tenant) is reading
        if is_current:
            del self._reading[tenant]
        error = None if reading.cancelled() else reading.exception()
        if error is not None:
            self._tell(error)
        elif is_current and not reading.cancelled():
            self._drop(tenant)
            self._cached[tenant] = reading.result()
            self._weight += reading.result().weight
            while self._weight > _CACHED_MAX and len(self._cached) > 1:
                self._drop(next(iter(self._cached)))

    def _drop(self, tenant: str) -> None:
        cached = self._cached.pop(tenant, None)
        if cached is not None:
            self._weight -= cached.weight

    def _tell(self, error: BaseException) -> None:
        now_ms = self._monotonic_ms()
        if now_ms >= self._tell_from_ms:
            self._tell_from_ms = now_ms + _TELL_EVERY_MS
            _LOG.error(f"cannot read {self._what}", reason=str(error))


def value_of(name: str, stored: Mapping[str, StoredSecret]) -> str:
    """Return a stored secret. Raises SecretMissing."""
    secret = stored.get(name)
    if secret is None or secret.unopened is not None:
        raise SecretMissing(name, None if secret is None else secret.unopened)
    return secret.value


def with_secrets(delivery: Delivery, secrets: Secrets) -> Delivery:
    """Return a delivery with the headers that stored secrets make, but for those that the
    callback's own replace. Raises SecretMissing."""
    if not delivery.secret_headers:
        return delivery
    own = {name.lower() for name, _ in delivery.headers}
    made = tuple(
        (name, ref.prefix + value_of(ref.name, secrets.stored))
        for name, ref in delivery.secret_headers
        if name.lower() not in own
    )
    return replace(delivery, headers=made + delivery.headers, secret_headers=())


class _TenantSecrets:
    """One tenant's secrets, by destination; the key None holds the tenant's own."""

    def __init__(self, tenant: str, secrets: Sequence[SigningSecret]) -> None:
        self._tenant = tenant
        self.values = {one.id: one.value for one in secrets if one.unopened is None}
        by_owner: dict[str | None, list[SigningSecret]] = {}
        for secret in sorted(secrets, key=_newest_first):
            by_owner.setdefault(secret.destination, []).append(secret)
        self._rotations = {owner: _Rotation(owned) for owner, owned in by_owner.items()}

    def secrets(self, destination: str, now_ms: int) -> Secrets:
        rotation = self._rotations.get(destination) or self._rotations.get(None)
        if rotation is None:
            raise NotFound(f"tenant {self._tenant} has no signing secret")
        overlap = now_ms < rotation.previous_until_ms
        unopened = rotation.unopened or (rotation.previous_unopened if overlap else None)
        if unopened is not None:  # nothing goes out unsigned, or signed by half
            raise OwnLack(unopened.lack, unopened.message)
        return rotation.both if overlap else rotation.current


class _Rotation:
    def __init__(self, newest_first: Sequence[SigningSecret]) -> None:
        current, *older = newest_first
        self.current = Secrets(current=current.value)
        self.unopened = current.unopened
        self.previous_unopened: Unopened | None = None
        self.both = self.current
        self.previous_until_ms = 0
        for secret in older:
            if secret.expires_ms is not None and secret.expires_ms > self.previous_until_ms:
                self.both = Secrets(current=current.value, previous=secret.value)
                self.previous_unopened = secret.unopened
                self.previous_until_ms = secret.expires_ms


def _known(secret: SigningSecret, before: _TenantSecrets | None) -> SigningSecret:
    """Return a secret that cannot be opened any more, since another process has sealed it with a
    key that we lack, as it was read before: the value of one never changes."""
    if secret.unopened is None or before is None or secret.id not in before.values:
        return secret
    return replace(secret, value=before.values[secret.id], unopened=None)


def _known_stored(secret: StoredSecret, before: Mapping[str, StoredSecret]) -> StoredSecret:
    """Return a stored secret as `_known` does: one that was not replaced meanwhile."""
    known = before.get(secret.name)
    is_same = known is not None and known.updated_ms == secret.updated_ms
    return known if secret.unopened is not None and known is not None and is_same else secret


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
    signer = _signer(secrets.current)
    signers = [signer]
    signed = [(sha256_header, signer.sha256(body))]
    if secrets.previous is not None:
        signers.append(_signer(secrets.previous))
        signed.append((sha256_header + PREVIOUS_SUFFIX, signers[1].sha256(body)))
    says = job_headers(job)
    standard = [one.standard(message_id, now_s, body, says) for one in signers if one.is_standard]
    return signed + _standard_headers(message_id, now_s, says, standard)


class LongSignature:
    """The same of a body that is read part by part, never whole."""

    def __init__(self, *, message_id: str, secrets: Secrets, job: Job, now_s: int) -> None:
        given = [one for one in (secrets.current, secrets.previous) if one is not None]
        keys = [v1_key(one) for one in given if _signer(one).is_standard]
        self._id = message_id
        self._now_s = now_s
        self._says = job_headers(job)
        self._sha256 = [Sha256Signature(secret) for secret in given]
        self._standard = [StandardSignature(key, message_id, now_s) for key in keys]

    def update(self, part: bytes) -> None:
        """Take the next part of the body."""
        for plain in self._sha256:
            plain.update(part)
        for standard in self._standard:
            standard.update(part)

    def headers(self, sha256_header: str = SHA256_HEADER) -> list[tuple[str, str]]:
        """Return the headers, once all of the body was taken."""
        names = (sha256_header, sha256_header + PREVIOUS_SUFFIX)
        signed = [(name, one.text()) for name, one in zip(names, self._sha256, strict=False)]
        standard = [one.texts(self._says) for one in self._standard]
        return signed + _standard_headers(self._id, self._now_s, self._says, standard)


def _standard_headers(
    message_id: str, now_s: int, says: Mapping[str, str], standard: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    if not standard:
        return []
    return [
        *says.items(),
        (ID_HEADER, message_id),
        (TIMESTAMP_HEADER, str(now_s)),
        (SIGNATURE_HEADER, " ".join(chain.from_iterable(zip(*standard, strict=True)))),
    ]


def cerebrium_headers(secret: str, *, request_id: str, body: bytes, now_s: int) -> Headers:
    """Return the headers of one attempt that sign it in Cerebrium's own scheme, with the secret
    that its caller gave: HMAC-SHA256 over id, time and body, with dots between them. `request_id`
    is what `X-Request-Id` says, which stands among a callback's own headers."""
    signed = f"{request_id}.{now_s}.".encode() + body
    digest = hmac.digest(secret.encode(), signed, hashlib.sha256).hex()
    return (
        ("X-Cerebrium-Webhook-Timestamp", str(now_s)),
        ("X-Cerebrium-Webhook-Signature", f"v1,{digest}"),
    )


_signer: Final = lru_cache(maxsize=4_096)(Signer)
