"""Tenants, API keys and signing secrets. Portable."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from dispatcher.audit import Entry
from dispatcher.store import audit, rows
from dispatcher.store.errors import CannotUnseal, Conflict, NotFound
from dispatcher.store.sealing import SECRETS
from dispatcher.store.tx import Tx, marks
from dispatcher.values import Key, KeyUse, SigningSecret
from receiver.base.secrets import is_weak

_CURRENT: Final = "SELECT id, tenant, destination, value FROM secrets WHERE expires_ms IS NULL"


ENDING_KEYS: Final = (
    "SELECT id, label, expires_ms FROM keys WHERE expires_ms IS NOT NULL ORDER BY expires_ms "
    "LIMIT 1000"
)
KEYS_SCHEMA: Final = 7
"""From which schema on keys have an end."""
USED_MS: Final = 60_000
"""How far apart the times are that are recorded of a key's use, whichever process it came to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndingKey:
    """What the doctor wants to know of a key that has an end."""

    id: str
    label: str
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What a key becomes: the digest of its new text, how long the one before is good, whether an
    earlier overlap ends at once, and when it expires, where that changes."""

    digest: bytes = field(repr=False)
    overlap_ms: int
    force: bool
    expires_ms: int | None
    now_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentSecrets:
    """What the doctor wants to know of the secrets that sign, as far as they can be opened: how
    many are weaker than a new one may be, and the own one of the tenant `default`."""

    weak: int = 0
    default: str | None = field(default=None, repr=False)


def current_secrets(tx: Tx) -> CurrentSecrets:
    """Return what there is of the secrets that sign."""
    weak, default = 0, None
    for id, tenant, destination, stored in tx.all(_CURRENT):
        try:
            value = rows.open_text(tx, stored, SECRETS, id, tenant)
        except CannotUnseal:
            continue
        weak += is_weak(value)
        if tenant == "default" and destination is None:
            default = value
    return CurrentSecrets(weak=weak, default=default)


def ending_keys(rows: Iterable[Sequence[Any]]) -> tuple[EndingKey, ...]:
    """Return what `rows` of ENDING_KEYS say, those that end first first."""
    return tuple(EndingKey(id=id, label=label, expires_ms=ends) for id, label, ends in rows)


def ensure_tenant(tx: Tx, tenant: str, secret: SigningSecret, entry: Entry | None = None) -> int:
    """Make the tenant and its secret, and record that, unless it exists; return when it was made.
    That is later than all that the audit trail has of an erased one of this name, whatever the
    clock: it was somebody else's."""
    created_ms = max(secret.created_ms, audit.last_ms(tx, tenant) + 1)
    made = tx.run(
        "INSERT INTO tenants (name, created_ms) VALUES (?, ?) ON CONFLICT DO NOTHING",
        tenant,
        created_ms,
    )
    if not made:
        row = tx.one("SELECT created_ms FROM tenants WHERE name = ?", tenant)
        return created_ms if row is None else int(row[0])
    add_secret(tx, secret)
    if entry is not None:
        audit.append(tx, entry)
    return created_ms


def keys(tx: Tx) -> list[Key]:
    """Oldest first."""
    return [rows.key(row) for row in tx.all(f"{rows.KEY} ORDER BY id")]


def add_key(tx: Tx, key: Key) -> None:
    """Store a key's digest; nothing happens if it is there."""
    tx.run(
        "INSERT INTO keys (id, digest, tenant, scopes, label, created_ms, expires_ms, networks, "
        "destinations, rate) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        key.id,
        key.digest,
        key.tenant,
        " ".join(sorted(key.scopes)),
        key.label,
        key.created_ms,
        *rows.limits_columns(key.limits),
    )


def remove_key(tx: Tx, key: str) -> Key:
    """Raise NotFound."""
    row = tx.one(f"{rows.KEY} WHERE id = ?", key)
    if row is None or not tx.run("DELETE FROM keys WHERE id = ?", key):
        raise NotFound(f"there is no key {key}")
    return rows.key(row)


def key_of(tx: Tx, digest: bytes) -> Key | None:
    """Return the key whose text has this digest."""
    row = tx.one(f"{rows.KEY} WHERE digest = ?", digest)
    return None if row is None else rows.key(row)


def rotate_key(tx: Tx, key: str, rotation: Rotation) -> Key:
    """Give a key another text; the one before is good until the overlap ends, and no longer than it
    was. Raises NotFound, and Conflict while an earlier overlap lasts, unless that is forced to
    end."""
    row = tx.one(f"{rows.KEY} WHERE id = ?{tx.for_update}", key)
    if row is None:
        raise NotFound(f"there is no key {key}")
    before = rows.key(row)
    until_ms = before.previous_until_ms
    if until_ms is not None and until_ms > rotation.now_ms and not rotation.force:
        raise Conflict(
            "an earlier rotation's overlap has not ended: wait for it, or force this one"
        )
    ends_ms = rotation.now_ms + rotation.overlap_ms
    if before.limits.expires_ms is not None:
        ends_ms = min(ends_ms, before.limits.expires_ms)
    expires_ms = rotation.expires_ms
    after = replace(
        before,
        digest=rotation.digest,
        limits=before.limits
        if expires_ms is None
        else replace(before.limits, expires_ms=expires_ms),
        previous_digest=before.digest,
        previous_until_ms=ends_ms,
    )
    tx.run(
        "UPDATE keys SET digest = ?, expires_ms = ?, previous_digest = ?, previous_until_ms = ?, "
        "previous_used_ms = NULL WHERE id = ?",
        after.digest,
        after.limits.expires_ms,
        after.previous_digest,
        after.previous_until_ms,
        key,
    )
    return after


def mark_used(tx: Tx, uses: Sequence[KeyUse]) -> None:
    """Record when keys were used, where that was not recorded within the last minute."""
    marked = [
        (one.used_ms, one.previous_used_ms, one.key)
        for one in sorted(uses, key=lambda use: use.key)
    ]
    tx.bulk(tx.statements.SET_KEYS_USED, marked)


def uses(tx: Tx, keys: Sequence[str]) -> list[KeyUse]:
    """Return when these keys were used last, as far as that is recorded."""
    if not keys:
        return []
    found = tx.all(
        f"SELECT id, used_ms, previous_used_ms FROM keys WHERE id IN ({marks(keys)})", *keys
    )
    return [KeyUse(key=id, used_ms=used, previous_used_ms=previous) for id, used, previous in found]


def secrets(tx: Tx, tenant: str) -> list[SigningSecret]:
    """Return the tenant's and its destinations', newest first."""
    sql = f"{rows.SECRET} WHERE tenant = ? ORDER BY id DESC"
    return [rows.secret(tx, row) for row in tx.all(sql, tenant)]


def add_secret(tx: Tx, secret: SigningSecret) -> None:
    """Store a secret."""
    tx.run(
        "INSERT INTO secrets (id, tenant, destination, value, created_ms, expires_ms) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        secret.id,
        secret.tenant,
        secret.destination,
        rows.seal_text(tx, secret.value, SECRETS, secret.id, secret.tenant),
        secret.created_ms,
        secret.expires_ms,
    )


def rotate_secret(
    tx: Tx, new: SigningSecret, *, overlap_ms: int, force: bool, now_ms: int
) -> Sequence[SigningSecret]:
    """Sign with `new` from now on, with the one before it too until the overlap ends; older ones
    go.

    Raises NotFound for an unknown tenant, and Conflict while an earlier overlap lasts, unless
    `force` ends that one.
    """
    if tx.one("SELECT 1 FROM tenants WHERE name = ?", new.tenant) is None:
        raise NotFound(f"there is no tenant {new.tenant}")
    of_owner = "secrets WHERE tenant = ? AND coalesce(destination, '') = ?"
    owner = (new.tenant, new.destination or "")
    rotate_out(tx, of_owner, owner, until_ms=now_ms + overlap_ms, force=force, now_ms=now_ms)
    add_secret(tx, new)
    return secrets(tx, new.tenant)


def rotate_out(
    tx: Tx, of_owner: str, owner: tuple[str, ...], *, until_ms: int, force: bool, now_ms: int
) -> None:
    """Have the current secret of an owner sign until a time, and forget those before it; `of_owner`
    is its table and condition. Raises Conflict while an earlier overlap lasts, unless `force` ends
    that one."""
    overlapping = tx.one(f"SELECT 1 FROM {of_owner} AND expires_ms > ? LIMIT 1", *owner, now_ms)
    if overlapping is not None and not force:
        raise Conflict(
            "an earlier rotation's overlap has not ended: wait for it, or force this one"
        )
    tx.run(f"DELETE FROM {of_owner} AND expires_ms IS NOT NULL", *owner)
    table, _, condition = of_owner.partition(" ")
    tx.run(
        f"UPDATE {table} SET expires_ms = ? {condition} AND expires_ms IS NULL", until_ms, *owner
    )


def mark_revealed(tx: Tx, tenant: str, secret: str, *, by: str, now_ms: int) -> None:
    """Raise NotFound."""
    marked = tx.run(
        "UPDATE secrets SET revealed_ms = ?, revealed_by = ? WHERE id = ? AND tenant = ?",
        now_ms,
        by,
        secret,
        tenant,
    )
    if not marked:
        raise NotFound(f"there is no secret {secret}")
