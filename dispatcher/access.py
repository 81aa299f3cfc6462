"""Who may do what: API keys, tenants, and the check that every request passes.

Keys are kept in memory as digests, so a check costs one hash and one look-up.
"""

import os
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, get_args

from dispatcher.ids import new_id
from dispatcher.settings import Settings
from dispatcher.store.errors import LimitReached, NotFound, TenantErasing
from dispatcher.store.store import Store
from dispatcher.values import Key, Scope, SigningSecret, Tenant
from receiver.base import log
from receiver.base.clock import now_ms
from receiver.base.secrets import BYTES_MIN, PREFIX, decoded_bytes
from receiver.base.secrets import secret_fault as given_fault
from receiver.base.settings import SettingError
from receiver.signature import generate_secret

_LOG: Final = log.get("dispatcher.service")
SCOPES: Final[frozenset[str]] = frozenset(get_args(Scope))
KEY_PREFIX: Final = "pbk_"
TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEFAULT_TENANT: Final = "default"
BOOTSTRAP_ID: Final = "key_bootstrap"
_KEY_RANDOM_BYTES: Final = 32
_SECRET_BYTES_MAX: Final = 64  # what Standard Webhooks allows
_KEY_CHARS_MAX: Final = 512  # longer ones are refused before they are hashed
_ADMIN_KEY: Final = re.compile(r"[\x21-\x7e]{8,512}")


class AccessError(Exception):
    """A request that may not go on; the message is fit to show."""


class Unauthorized(AccessError):
    """There is no valid API key."""


class Forbidden(AccessError):
    """The key is valid, but not for this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whose request it is: one key, its tenant (None: any, a platform key) and its scopes."""

    key_id: str
    tenant: str | None
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Raise Forbidden unless the key carries `scope`; none implies another."""
        if scope not in self.scopes:
            raise Forbidden(f"this needs a key with the scope {scope}")

    def require_platform(self) -> None:
        """Raise Forbidden unless it is a platform key."""
        if self.tenant is not None:
            raise Forbidden("this needs a platform key")

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
        self, store: Store, settings: Settings, *, clock: Callable[[], int] = now_ms
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._principals: dict[bytes, Principal] = {}
        self._tenants: dict[str, Tenant] = {}
        self._changes = 0  # made by this process

    async def bootstrap(self) -> str | None:
        """Load keys and tenants, and make what a first start lacks. Returns the platform key it
        made, to be printed this once, where neither the settings nor the store have one.

        Raises SettingError for an admin key or a signing secret that cannot be used.
        """
        _check_settings(self._settings)
        await self.reload()
        if DEFAULT_TENANT not in self._tenants:
            await self._make_tenant(DEFAULT_TENANT, self._settings.signing_secret)
        elif self._settings.signing_secret is not None:
            await self._compare(self._settings.signing_secret)
        if self._settings.admin_key is not None or any(
            key.tenant is None and "admin" in key.scopes for key in self._keys.values()
        ):
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
        self._index()

    async def principal(self, authorization: str | None) -> Principal:
        """Whose key this `Authorization` header carries. Raises Unauthorized."""
        scheme, _, text = (authorization or "").partition(" ")
        text = text.strip(" ")
        if scheme.lower() != "bearer" or not text or len(text) > _KEY_CHARS_MAX:
            raise Unauthorized("send an API key: `Authorization: Bearer pbk_…`")
        # Comparing digests tells no caller how much of a key was right.
        principal = self._principals.get(_digest(text))
        if principal is None:
            raise Unauthorized("the API key is not valid")
        return principal

    async def ensure_tenant(self, tenant: str) -> None:
        """Make the tenant, with a signing secret of its own, unless it exists. Raises
        TenantErasing, and LimitReached where there are as many as there may be."""
        known = self._tenants.get(tenant)
        if known is None:
            if len(self._tenants) >= self._settings.tenants_max:
                setting, max = "DISPATCHER_TENANTS_MAX", self._settings.tenants_max
                raise LimitReached("the service", "tenants", setting, max)
            await self._make_tenant(tenant, None)
        elif known.erasing_ms is not None:
            raise TenantErasing(tenant)

    def tenant(self, tenant: str) -> Tenant | None:
        """Return what is known of a tenant, None where there is none of this name."""
        return self._tenants.get(tenant)

    async def change_tenant(self, tenant: str, changes: Mapping[str, object]) -> Tenant:
        """Change the named fields of a tenant. Raises NotFound, TenantErasing."""
        changed = await self._store.change_tenant(tenant, changes)
        self._changes += 1
        self._tenants[tenant] = changed
        return changed

    async def erase_tenant(self, tenant: str) -> Tenant:
        """Have a tenant end: its keys are worthless at once, and it takes nothing new. Raises
        NotFound."""
        erasing = await self._store.begin_erasing(tenant, now_ms=self._clock())
        self._changes += 1
        self._tenants[tenant] = erasing
        self._keys = {id: key for id, key in self._keys.items() if key.tenant != tenant}
        self._index()
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
        self, *, tenant: str | None, scopes: Collection[str], label: str
    ) -> tuple[Key, str]:
        """Return a new key (`tenant` None: a platform key) and its text, which nothing keeps."""
        text = KEY_PREFIX + _random_text()
        now = self._clock()
        key = Key(
            id=new_id("key", now),
            digest=_digest(text),
            tenant=tenant,
            scopes=frozenset(scopes),
            label=label,
            created_ms=now,
        )
        if tenant is not None:
            await self.ensure_tenant(tenant)
        keys_max = self._settings.tenant_keys_max
        if sum(one.tenant == tenant for one in self._keys.values()) >= keys_max:
            owner = "the platform" if tenant is None else f"the tenant {tenant}"
            raise LimitReached(owner, "keys", "DISPATCHER_TENANT_KEYS_MAX", keys_max)
        await self._store.add_key(key)
        self._changes += 1
        self._keys[key.id] = key
        self._index()
        return key, text

    async def remove_key(self, key_id: str, tenant: str | None) -> None:
        """Make a key of this tenant (None: of any) worthless at once. Raises NotFound."""
        key = self._keys.get(key_id)
        if key is None or (tenant is not None and key.tenant != tenant):
            raise NotFound("no such key")
        await self._store.remove_key(key_id)
        self._changes += 1
        self._keys.pop(key_id, None)
        self._index()

    async def _compare(self, configured: str) -> None:
        """Say where the setting is not what signs: it counts at the first start alone."""
        for secret in await self._store.secrets(DEFAULT_TENANT):
            current = secret.destination is None and secret.expires_ms is None
            if current and secret.value != configured:
                _LOG.warning(
                    "DISPATCHER_SIGNING_SECRET has no effect: the tenant has another secret, which "
                    "signs. Unset it, or make it the secret: POST /v1/secrets/rotate",
                    tenant=DEFAULT_TENANT,
                    secretId=secret.id,
                )

    def _index(self) -> None:
        self._principals = {
            key.digest: Principal(key_id=key.id, tenant=key.tenant, scopes=key.scopes)
            for key in self._keys.values()
        }
        admin_key = self._settings.admin_key
        if admin_key is not None:
            self._principals[_digest(admin_key)] = Principal(
                key_id=BOOTSTRAP_ID, tenant=None, scopes=SCOPES
            )

    async def _make_tenant(self, tenant: str, value: str | None) -> None:
        now = self._clock()
        await self._store.ensure_tenant(tenant, new_secret(tenant, now, value=value))
        self._changes += 1
        self._tenants.setdefault(tenant, Tenant(name=tenant, created_ms=now))


def new_secret(
    tenant: str, now: int, *, destination: str | None = None, value: str | None = None
) -> SigningSecret:
    """Return a signing secret of a tenant or of one of its destinations, made unless `value` is
    given."""
    return SigningSecret(
        id=new_id("sec", now),
        tenant=tenant,
        destination=destination,
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


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogateescape")).digest()


def _random_text() -> str:
    return urlsafe_b64encode(os.urandom(_KEY_RANDOM_BYTES)).decode().rstrip("=")
