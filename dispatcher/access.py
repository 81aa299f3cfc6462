"""Who may do what: API keys, tenants, and the check that every request passes.

Keys are kept in memory as digests, so a check costs one hash and one look-up; what a key is bound
to costs the requests of that key alone.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, get_args

from dispatcher import keys as keys_
from dispatcher.audit import Entry, MakeEntry, by_service
from dispatcher.ids import new_id, server_of
from dispatcher.jobs.values import RunningLimits
from dispatcher.keys import UNLIMITED, Limits
from dispatcher.pace import Quota, paced, quota
from dispatcher.settings import Settings
from dispatcher.store.access import Rotation
from dispatcher.store.errors import LimitReached, NotFound, StoreError, TenantErasing
from dispatcher.store.store import Store
from dispatcher.values import Key, Scope, SigningSecret, Tenant
from receiver.base import log
from receiver.base.clock import iso, monotonic_ms, now_ms
from receiver.base.secrets import BYTES_MIN, PREFIX, decoded_bytes
from receiver.base.secrets import secret_fault as given_fault
from receiver.base.settings import SettingError
from receiver.signature import generate_secret

_LOG: Final = log.get("dispatcher.service")
SCOPES: Final[frozenset[str]] = frozenset(get_args(Scope))
TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEFAULT_TENANT: Final = "default"
BOOTSTRAP_ID: Final = "key_bootstrap"
PREVIOUS: Final = " previous"
"""What ends the mark of a use by the text before the last rotation."""
_SECRET_BYTES_MAX: Final = 64  # what Standard Webhooks allows
_KEY_CHARS_MAX: Final = 512  # longer ones are refused before they are hashed
_TARGET_CHARS_MAX: Final = 200  # of one that an error names
# Keys a second that are looked for in a shared database, since another process may have made them.
_LOOKUPS_PER_SECOND: Final = 10
_ADMIN_KEY: Final = re.compile(r"[\x21-\x7e]{8,512}")


class AccessError(Exception):
    """A request that may not go on; the message is fit to show."""


class Unauthorized(AccessError):
    """There is no valid API key."""


class Forbidden(AccessError):
    """The key is valid, but not for this."""


class Elsewhere(Forbidden):
    """The key is valid, but not from `address`."""

    def __init__(self, address: str) -> None:
        super().__init__(f"this key may not be used from {address or 'an unknown address'}")
        self.address = address


class TooFast(AccessError):
    """The key is used faster than it may."""

    def __init__(self, key_id: str, rate_per_second: float, wait_ms: float) -> None:
        super().__init__(f"more than {rate_per_second:g} requests a second with this key")
        self.key_id = key_id
        self.rate_per_second = rate_per_second
        self.retry_after_s = max(1, math.ceil(wait_ms / 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whose request it is: one key, its tenant (None: any, a platform key), its scopes and what it
    is bound to (`UNLIMITED` itself, where that is nothing). `ends_ms` is when the text that came is
    good no longer; `mark` names the key, and whether it came by the text before its last rotation,
    for the record of its uses."""

    key_id: str
    tenant: str | None
    scopes: frozenset[str]
    limits: Limits = UNLIMITED
    ends_ms: int | None = None
    mark: str = ""

    def require(self, scope: str) -> None:
        """Raise Forbidden unless the key carries `scope`; none implies another."""
        if scope not in self.scopes:
            raise Forbidden(
                f"this needs a key with the scope {scope}; an admin key makes one: "
                f"`dispatcher keys create --scope {scope}`"
            )

    def require_platform(self) -> None:
        """Raise Forbidden unless it is a platform key."""
        if self.tenant is not None:
            raise Forbidden("this needs a platform key")

    def require_no_more(self, scopes: Collection[str], limits: Limits) -> None:
        """Raise Forbidden unless all that a key with these scopes and limits may do, this one
        may."""
        for scope in scopes:
            self.require(scope)
        excess = keys_.excess(self.limits, limits)
        if excess is not None:
            raise Forbidden(f"{excess}: that would be more than the key may that asks for it")

    def require_target(self, name: str | None, url: str | None) -> None:
        """Raise Forbidden unless the key may submit to the destination of this name, or to the
        server of this URL."""
        allowed = self.limits.destinations
        if not allowed:
            return
        target = name if url is None else server_of(url)
        if target is not None and target not in allowed:
            raise Forbidden(f"this key may not submit to {target[:_TARGET_CHARS_MAX]}")

    def act_for(self, named: str | None) -> str:
        """Return the tenant that the request is about, where it names `named` or none.

        Raises Forbidden where a tenant's key names another, ValueError for what is no name.
        """
        if named is None:
            return self.tenant or DEFAULT_TENANT
        if not TENANT.fullmatch(named):
            raise ValueError("a tenant is 1 to 64 letters, digits or any of . _ -")
        if self.tenant is not None and named != self.tenant:
            raise Forbidden("this key is for another tenant")
        return named


class Access:
    """The keys and tenants of the service. Call `bootstrap` once before use."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        clock: Callable[[], int] = now_ms,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._monotonic_ms = monotonic_ms
        self._by_service = by_service(clock)
        self._bootstrap = Principal(key_id=BOOTSTRAP_ID, tenant=None, scopes=SCOPES)
        self.unused_bootstrap: Principal | None = self._bootstrap
        self._keys: dict[str, Key] = {}
        self._principals: dict[bytes, Principal] = {}
        self._tenants: dict[str, Tenant] = {}
        self._paces: dict[str, float] = {}  # until when each key's rate is used, here
        self._lookups_ms = 0.0  # until when the rate of look-ups is used
        self._used: set[str] = set()
        self._changes = 0  # made by this process
        self._loads = 0
        self._running_limits: RunningLimits | None = None
        self._running_limits_of: tuple[int, int] | None = None  # of what it was made

    async def bootstrap(self) -> str | None:
        """Load keys and tenants, and make what a first start lacks. Returns the platform key it
        made, to be printed this once, where neither the settings nor the store have one.

        Raises SettingError for an admin key or a signing secret that cannot be used.
        """
        _check_settings(self._settings)
        await self.reload()
        if DEFAULT_TENANT not in self._tenants:
            await self._make_tenant(DEFAULT_TENANT, self._settings.signing_secret, self._by_service)
        elif self._settings.signing_secret is not None:
            await self._compare(self._settings.signing_secret)
        if self._settings.admin_key is not None or any(map(self._administers, self._keys.values())):
            return None
        _, text = await self.make_key(tenant=None, scopes=SCOPES, label="made at the first start")
        return text

    async def reload(self) -> None:
        """Read keys and tenants again, for changes made by another process."""
        while True:
            changes = self._changes
            keys, tenants = await self._store.keys(), await self._store.tenants()
            if changes == self._changes:  # else what was read may be older than a change made here
                break
        self._tenants = {tenant.name: tenant for tenant in tenants}
        self._keys = {key.id: key for key in keys}
        self._loads += 1
        self._index()

    async def principal(self, authorization: str | None) -> Principal:
        """Whose key this `Authorization` header carries. Raises Unauthorized, and StoreUnavailable
        where another process may have made the key."""
        scheme, _, text = (authorization or "").partition(" ")
        text = text.strip(" ")
        if scheme.lower() != "bearer" or not text or len(text) > _KEY_CHARS_MAX:
            raise Unauthorized("send an API key: `Authorization: Bearer pbk_…`")
        # Comparing digests tells no caller how much of a key was right.
        digest = _digest(text)
        principal = self._principals.get(digest) or await self._unknown(text, digest)
        if principal.ends_ms is not None and principal.ends_ms <= self._clock():
            raise Unauthorized(self._ended(principal))
        return principal

    def admit(self, principal: Principal, address: str) -> Quota | None:
        """Hold a request from this address against what its key is bound to. Returns what is left
        of the key's rate, if it has one. Raises Elsewhere."""
        if not principal.limits.admits(address):
            raise Elsewhere(address)
        rate = principal.limits.rate_per_second
        if rate is None:
            return None
        now_ms, used_ms = self._monotonic_ms(), self._paces.get(principal.key_id, 0.0)
        used_ms, wait_ms = paced(used_ms, rate, now_ms)
        self._paces[principal.key_id] = used_ms
        return quota(used_ms, rate, now_ms, wait_ms)

    def mark_used(self, principal: Principal) -> None:
        """Remember that a key was used, for the record."""
        self._used.add(principal.mark)

    def take_used(self) -> set[str]:
        """Return the marks of what was used since this was last asked."""
        used, self._used = self._used, set()
        return used

    async def record_bootstrap(self, entry: MakeEntry) -> None:
        """Record that the bootstrap key was used, for the first time in this process. A database
        that takes nothing now keeps nobody from looking what is wrong: then the next use is."""
        self.unused_bootstrap = None
        try:
            await self._store.record(entry("key.bootstrap", BOOTSTRAP_ID, tenant=None))
        except StoreError as error:
            self.unused_bootstrap = self._bootstrap
            _LOG.warning("the bootstrap key's use is not in the audit trail", reason=str(error))

    async def ensure_tenant(self, tenant: str, entry: MakeEntry | None = None) -> None:
        """Make the tenant, with a signing secret of its own, unless it exists; `entry` makes the
        audit trail's, by default as the service's own doing. Raises TenantErasing, and LimitReached
        where there are as many as there may be."""
        known = self._tenants.get(tenant)
        if known is None:
            if len(self._tenants) >= self._settings.tenants_max:
                setting, max = "DISPATCHER_TENANTS_MAX", self._settings.tenants_max
                raise LimitReached("the service", "tenants", setting, max)
            await self._make_tenant(tenant, None, entry or self._by_service)
        elif known.erasing_ms is not None:
            raise TenantErasing(tenant)

    def tenant(self, tenant: str) -> Tenant | None:
        """Return what is known of a tenant, None where there is none of this name."""
        return self._tenants.get(tenant)

    def running_limits(self) -> RunningLimits | None:
        """Return how many jobs of tenants may run at once; None where no tenant has a limit."""
        state = (self._changes, self._loads)
        if self._running_limits_of != state:
            self._running_limits_of = state
            own = {
                one.name: one.jobs_running_max
                for one in self._tenants.values()
                if one.jobs_running_max is not None
            }
            default = self._settings.tenant_jobs_running_max or None
            limited = bool(own) or default is not None
            self._running_limits = RunningLimits(default=default, own=own) if limited else None
        return self._running_limits

    async def change_tenant(
        self, tenant: str, changes: Mapping[str, object], *entries: Entry
    ) -> Tenant:
        """Change the named fields of a tenant. Raises NotFound, TenantErasing."""
        changed = await self._store.change_tenant(tenant, changes, entries=entries)
        self._changes += 1
        self._tenants[tenant] = changed
        return changed

    async def erase_tenant(self, tenant: str, entry: Entry | None = None) -> Tenant:
        """Have a tenant end: its keys are worthless at once, and it takes nothing new. Raises
        NotFound."""
        erasing = await self._store.begin_erasing(tenant, now_ms=self._clock(), entry=entry)
        self._changes += 1
        self._tenants[tenant] = erasing
        for key in [key for key in self._keys.values() if key.tenant == tenant]:
            self._leave(key)
        return erasing

    def forget_tenant(self, tenant: str) -> None:
        """Know nothing more of a tenant that was erased."""
        self._changes += 1
        self._tenants.pop(tenant, None)

    def keys(self, tenant: str | None) -> Sequence[Key]:
        """Return the keys of one tenant, or with None all there are, in the order they were
        made."""
        found = (key for key in self._keys.values() if tenant is None or key.tenant == tenant)
        return sorted(found, key=lambda key: key.id)

    async def make_key(
        self,
        *,
        tenant: str | None,
        scopes: Collection[str],
        label: str,
        limits: Limits = UNLIMITED,
        entry: MakeEntry | None = None,
    ) -> tuple[Key, str]:
        """Return a new key (`tenant` None: a platform key) and its text, which nothing keeps.
        `entry` makes the audit trail's, by default as the service's own doing."""
        entry = entry or self._by_service
        text = keys_.new_text()
        now = self._clock()
        key = Key(
            id=new_id("key", now),
            digest=_digest(text),
            tenant=tenant,
            scopes=frozenset(scopes),
            label=label,
            created_ms=now,
            limits=limits,
        )
        if tenant is not None:
            await self.ensure_tenant(tenant, entry)
        keys_max = self._settings.tenant_keys_max
        if sum(one.tenant == tenant for one in self._keys.values()) >= keys_max:
            owner = "the platform" if tenant is None else f"the tenant {tenant}"
            raise LimitReached(owner, "keys", "DISPATCHER_TENANT_KEYS_MAX", keys_max)
        made = entry(
            "key.create",
            key.id,
            tenant=tenant,
            scopes=sorted(scopes),
            label=label,
            **_told(limits),
        )
        await self._store.add_key(key, entries=[made])
        self._enter(key)
        return key, text

    async def rotate_key(
        self,
        key_id: str,
        by: Principal,
        *,
        overlap_ms: int | None = None,
        force: bool = False,
        expires_ms: int | None = None,
        entry: MakeEntry | None = None,
    ) -> tuple[Key, str]:
        """Give a key a new text, which is returned and which nothing keeps; the one before is good
        until the overlap (by default the setting's) ends. Raises NotFound; Forbidden where the key
        may do more than the one it is rotated `by`, who is told the text; and Conflict while an
        earlier overlap lasts, unless it is forced to end."""
        key = self._key(key_id, by.tenant)
        limits = key.limits if expires_ms is None else replace(key.limits, expires_ms=expires_ms)
        by.require_no_more(key.scopes, limits)
        text = keys_.new_text()
        if overlap_ms is None:
            overlap_ms = round(self._settings.secret_overlap * 1000)
        rotation = Rotation(
            digest=_digest(text),
            overlap_ms=overlap_ms,
            force=force,
            expires_ms=expires_ms,
            now_ms=self._clock(),
        )
        entry = entry or self._by_service
        made = entry(
            "key.rotate",
            key_id,
            tenant=key.tenant,
            overlap=overlap_ms / 1000,
            force=force,
            expiresAt=iso(expires_ms),
        )
        rotated = await self._store.rotate_key(key_id, rotation, entries=[made])
        self._enter(rotated)
        return rotated, text

    async def remove_key(
        self, key_id: str, tenant: str | None, entry: MakeEntry | None = None
    ) -> None:
        """Make a key of this tenant (None: of any) worthless at once. Raises NotFound."""
        known = self._key(key_id, tenant)
        entry = entry or self._by_service
        removed = entry("key.revoke", key_id, tenant=known.tenant, label=known.label)
        await self._store.remove_key(key_id, entries=[removed])
        self._changes += 1
        key = self._keys.get(key_id)
        if key is not None:
            self._leave(key)

    def _key(self, key_id: str, tenant: str | None) -> Key:
        key = self._keys.get(key_id)
        if key is None or (tenant is not None and key.tenant != tenant):
            raise NotFound("no such key")
        return key

    async def _compare(self, configured: str) -> None:
        """Say where the setting is not what signs: it counts at the first start alone."""
        for secret in await self._store.secrets(DEFAULT_TENANT):
            current = secret.destination is None and secret.expires_ms is None
            if current and secret.unopened is None and secret.value != configured:
                _LOG.warning(
                    "DISPATCHER_SIGNING_SECRET has no effect: the tenant has another secret, which "
                    "signs. Unset it, or make it the secret: POST /v1/secrets/rotate",
                    tenant=DEFAULT_TENANT,
                    secretId=secret.id,
                )

    async def _unknown(self, text: str, digest: bytes) -> Principal:
        """Return whose key this is that is not known here. Raises Unauthorized."""
        if keys_.is_mistyped(text):
            raise Unauthorized("the API key is mistyped: a character is wrong or missing")
        if self._store.shared and keys_.is_whole(text) and self._may_look():
            loads = self._loads
            key = await self._store.key_of(digest)
            if key is not None and loads == self._loads:  # else what was loaded is newer
                self._enter(key)
        principal = self._principals.get(digest)
        if principal is None:
            raise Unauthorized("the API key is not valid")
        return principal

    def _may_look(self) -> bool:
        now_ms = self._monotonic_ms()
        self._lookups_ms, wait_ms = paced(self._lookups_ms, _LOOKUPS_PER_SECOND, now_ms)
        return not wait_ms

    def _ended(self, principal: Principal) -> str:
        """Return why a text is good no longer."""
        expires_ms = principal.limits.expires_ms
        if expires_ms is not None and expires_ms <= self._clock():
            return f"the API key expired at {iso(expires_ms)}"
        return "the API key was rotated, and this is its text of before: use the new one"

    def _administers(self, key: Key) -> bool:
        """Return whether it is a platform key that can make others."""
        is_over = key.limits.expires_ms is not None and key.limits.expires_ms <= self._clock()
        return key.tenant is None and "admin" in key.scopes and not is_over

    def _enter(self, key: Key) -> None:
        """Know a key as it is now."""
        self._changes += 1
        before = self._keys.get(key.id)
        if before is not None:
            self._forget(before)
        self._keys[key.id] = key
        self._principals.update(_principals(key))

    def _leave(self, key: Key) -> None:
        """Know a key no more."""
        self._forget(key)
        self._keys.pop(key.id, None)
        self._paces.pop(key.id, None)

    def _forget(self, key: Key) -> None:
        for digest, _ in _principals(key):
            self._principals.pop(digest, None)

    def _index(self) -> None:
        self._principals = dict(pair for key in self._keys.values() for pair in _principals(key))
        self._paces = {id: used for id, used in self._paces.items() if id in self._keys}
        admin_key = self._settings.admin_key
        if admin_key is not None:
            self._principals[_digest(admin_key)] = self._bootstrap

    async def _make_tenant(self, tenant: str, value: str | None, entry: MakeEntry) -> None:
        now = self._clock()
        made = entry("tenant.create", tenant, tenant=tenant)
        secret = new_secret(tenant, now, value=value)
        created_ms = await self._store.ensure_tenant(tenant, secret, entry=made)
        self._changes += 1
        self._tenants.setdefault(tenant, Tenant(name=tenant, created_ms=created_ms))


def new_secret(
    tenant: str,
    now: int,
    *,
    destination: str | None = None,
    endpoint: str | None = None,
    value: str | None = None,
) -> SigningSecret:
    """Return a signing secret of a tenant, of one of its destinations, or of an endpoint, made
    unless `value` is given."""
    return SigningSecret(
        id=new_id("sec", now),
        tenant=tenant,
        destination=destination,
        endpoint=endpoint,
        value=value or generate_secret(),
        created_ms=now,
        expires_ms=None,
    )


def secret_fault(value: str) -> str | None:
    """Why this text cannot be a signing secret, or None if it can. Never repeats it."""
    size = decoded_bytes(value) if value.startswith(PREFIX) else None
    if size is not None and BYTES_MIN <= size <= _SECRET_BYTES_MAX:
        return None
    why = given_fault(value)
    hint = "" if why is None else f"; this one {why}"
    return f"must be {PREFIX} and the base64 of {BYTES_MIN} to {_SECRET_BYTES_MAX} bytes{hint}"


def _check_settings(settings: Settings) -> None:
    if settings.admin_key is not None and not _ADMIN_KEY.fullmatch(settings.admin_key):
        raise SettingError("DISPATCHER_ADMIN_KEY must be 8 to 512 visible ASCII characters")
    fault = None if settings.signing_secret is None else secret_fault(settings.signing_secret)
    if fault is not None:
        raise SettingError(f"DISPATCHER_SIGNING_SECRET {fault}")


def _told(limits: Limits) -> dict[str, object]:
    """Return what the audit trail says of what a key is bound to."""
    return {
        "expiresAt": iso(limits.expires_ms),
        "networks": [str(network) for network in limits.networks] or None,
        "destinations": sorted(limits.destinations) or None,
        "ratePerSecond": limits.rate_per_second,
    }


def _principals(key: Key) -> Iterator[tuple[bytes, Principal]]:
    """Yield whose request it is that comes by each text of a key, by the text's digest."""
    expires_ms, until_ms = key.limits.expires_ms, key.previous_until_ms
    own = Principal(
        key_id=key.id,
        tenant=key.tenant,
        scopes=key.scopes,
        limits=UNLIMITED if key.limits == UNLIMITED else key.limits,
        ends_ms=expires_ms,
        mark=key.id,
    )
    if key.previous_digest is not None and until_ms is not None:
        ends_ms = until_ms if expires_ms is None else min(until_ms, expires_ms)
        yield key.previous_digest, replace(own, ends_ms=ends_ms, mark=f"{key.id}{PREVIOUS}")
    yield key.digest, own


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogateescape")).digest()
