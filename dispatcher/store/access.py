"""Tenants, API keys and signing secrets. Portable."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dispatcher.store import rows
from dispatcher.store.errors import Conflict, NotFound
from dispatcher.store.tx import Tx
from dispatcher.values import Key, SigningSecret
from receiver.base.secrets import is_weak

CURRENT_SECRETS: Final = "SELECT tenant, destination, value FROM secrets WHERE expires_ms IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentSecrets:
    """What the doctor wants to know of the secrets that sign: how many are weaker than a new one
    may be, and the own one of the tenant `default`."""

    weak: int = 0
    default: str | None = field(default=None, repr=False)


def current_secrets(rows: Iterable[Sequence[Any]]) -> CurrentSecrets:
    """Return what `rows` of CURRENT_SECRETS come to."""
    weak, default = 0, None
    for tenant, destination, value in rows:
        weak += is_weak(value)
        if tenant == "default" and destination is None:
            default = value
    return CurrentSecrets(weak=weak, default=default)


def ensure_tenant(tx: Tx, tenant: str, secret: SigningSecret) -> None:
    """Make the tenant and its secret, unless it exists."""
    made = tx.run(
        "INSERT INTO tenants (name, created_ms) VALUES (?, ?) ON CONFLICT DO NOTHING",
        tenant,
        secret.created_ms,
    )
    if made:
        add_secret(tx, secret)


def keys(tx: Tx) -> list[Key]:
    """Oldest first."""
    return [rows.key(row) for row in tx.all(f"{rows.KEY} ORDER BY id")]


def add_key(tx: Tx, key: Key) -> None:
    """Store a key's digest; nothing happens if it is there."""
    tx.run(
        "INSERT INTO keys (id, digest, tenant, scopes, label, created_ms) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        key.id,
        key.digest,
        key.tenant,
        " ".join(sorted(key.scopes)),
        key.label,
        key.created_ms,
    )


def remove_key(tx: Tx, key: str) -> Key:
    """Raise NotFound."""
    row = tx.one(f"{rows.KEY} WHERE id = ?", key)
    if row is None or not tx.run("DELETE FROM keys WHERE id = ?", key):
        raise NotFound(f"there is no key {key}")
    return rows.key(row)


def secrets(tx: Tx, tenant: str) -> list[SigningSecret]:
    """Return the tenant's and its destinations', newest first."""
    sql = f"{rows.SECRET} WHERE tenant = ? ORDER BY id DESC"
    return [rows.secret(row) for row in tx.all(sql, tenant)]


def add_secret(tx: Tx, secret: SigningSecret) -> None:
    """Store a secret."""
    tx.run(
        "INSERT INTO secrets (id, tenant, destination, value, created_ms, expires_ms) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        secret.id,
        secret.tenant,
        secret.destination,
        secret.value,
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
    of_owner = "tenant = ? AND coalesce(destination, '') = ?"
    owner = (new.tenant, new.destination or "")
    overlapping = tx.one(
        f"SELECT expires_ms FROM secrets WHERE {of_owner} AND expires_ms > ?", *owner, now_ms
    )
    if overlapping is not None and not force:
        raise Conflict(
            "an earlier rotation's overlap has not ended: wait for it, or force this one"
        )
    tx.run(f"DELETE FROM secrets WHERE {of_owner} AND expires_ms IS NOT NULL", *owner)
    tx.run(
        f"UPDATE secrets SET expires_ms = ? WHERE {of_owner} AND expires_ms IS NULL",
        now_ms + overlap_ms,
        *owner,
    )
    add_secret(tx, new)
    return secrets(tx, new.tenant)


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
