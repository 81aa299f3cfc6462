"""Secrets that are stored by name, write-only: a tenant's, for the headers of its destinations, and
the platform's. Always sealed. Portable.

Which of them a destination's headers name stands beside the headers (`secret_names`), so that
nobody has to open any to know. Whoever changes either holds the tenant: none goes while a header
comes to name it.
"""

from collections.abc import Iterable
from typing import Final

from dispatcher.ids import new_id
from dispatcher.store import rows
from dispatcher.store.errors import Conflict, LimitReached, NotFound, UnknownSecret
from dispatcher.store.tx import Tx
from dispatcher.values import StoredSecret, StoredSecretEntry

PLATFORM: Final = ""
"""Owns the platform's: no tenant is called so."""
USED_BY_MAX: Final = 20  # destinations that are named; the rest is counted
_OF_OWNER: Final = "FROM stored_secrets WHERE tenant = ?"


def put(tx: Tx, owner: str, name: str, value: str, *, count_max: int, now_ms: int) -> bool:
    """Store a secret, in place of one of this name; returns whether it is new. Raises NoKeyring,
    LimitReached, and NotFound for a tenant that there is not."""
    if owner and tx.one("SELECT 1 FROM tenants WHERE name = ?", owner) is None:
        raise NotFound(f"there is no tenant {owner}")
    found = tx.one(f"SELECT id {_OF_OWNER} AND name = ?", owner, name)
    if found is None and _add(tx, owner, name, value, count_max, now_ms):
        return True
    # Nobody holds the platform: another process may have made it at this moment.
    found = found or tx.one(f"SELECT id {_OF_OWNER} AND name = ?", owner, name)
    replaced = found is not None and tx.run(
        "UPDATE stored_secrets SET value = ?, updated_ms = ? WHERE id = ?",
        rows.seal_stored_secret(tx, found[0], owner, value),
        now_ms,
        found[0],
    )
    if not replaced:
        raise Conflict("somebody else deleted it at this moment; try again")
    return False


def _add(tx: Tx, owner: str, name: str, value: str, count_max: int, now_ms: int) -> bool:
    """Store a new one; False if it is there."""
    number = tx.one(f"SELECT count(*) {_OF_OWNER}", owner)
    if number is not None and number[0] >= count_max:
        who = f"the tenant {owner}" if owner else "the platform"
        raise LimitReached(who, "stored secrets", "DISPATCHER_TENANT_SECRETS_MAX", count_max)
    id = new_id("ss", now_ms)
    added = tx.run(
        "INSERT INTO stored_secrets (id, tenant, name, value, created_ms, updated_ms) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, name) DO NOTHING",
        id,
        owner,
        name,
        rows.seal_stored_secret(tx, id, owner, value),
        now_ms,
        now_ms,
    )
    return bool(added)


def entries(tx: Tx, owner: str) -> list[StoredSecretEntry]:
    """Return an owner's, in the order of their names."""
    found = tx.all(f"SELECT name, created_ms, updated_ms {_OF_OWNER} ORDER BY name", owner)
    users = _users(tx, owner, {row[0] for row in found})
    return [_entry(name, made_ms, changed_ms, users[name]) for name, made_ms, changed_ms in found]


def get(tx: Tx, owner: str, name: str) -> StoredSecretEntry:
    """Raise UnknownSecret."""
    found = tx.one(f"SELECT created_ms, updated_ms {_OF_OWNER} AND name = ?", owner, name)
    if found is None:
        raise UnknownSecret(name)
    return _entry(name, found[0], found[1], _users(tx, owner, {name})[name])


def forget(tx: Tx, owner: str, name: str, *, force: bool) -> StoredSecretEntry:
    """Delete a secret; returns what it was. Raises UnknownSecret, and Conflict while a
    destination's header names it, unless `force`."""
    entry = get(tx, owner, name)
    if entry.uses and not force:
        shown = ", ".join(entry.used_by) + (", …" if entry.uses > len(entry.used_by) else "")
        raise Conflict(
            f"headers of {shown} name it: change them first, or force this: then nothing is sent "
            "there until it is stored again"
        )
    tx.run("DELETE FROM stored_secrets WHERE tenant = ? AND name = ?", owner, name)
    return entry


def values(tx: Tx, owner: str) -> dict[str, StoredSecret]:
    """Return the secrets by name. One that cannot be opened has no value, and keeps no other from
    being used."""
    found = tx.all(f"{rows.STORED_SECRET} WHERE tenant = ?", owner)
    return {one.name: one for one in (rows.stored_secret(tx, row) for row in found)}


def check(tx: Tx, tenant: str, names: Iterable[str]) -> None:
    """Raise UnknownSecret for a name of which the tenant has none."""
    for name in sorted(names):
        if tx.one(f"SELECT 1 {_OF_OWNER} AND name = ?", tenant, name) is None:
            raise UnknownSecret(name)


def _users(tx: Tx, owner: str, names: set[str]) -> dict[str, list[str]]:
    """Return the destinations whose headers name each of these, in the order of their names."""
    users: dict[str, list[str]] = {name: [] for name in names}
    naming = tx.all(
        "SELECT name, secret_names FROM destinations "
        "WHERE tenant = ? AND secret_names IS NOT NULL AND removed_ms IS NULL ORDER BY name",
        owner,
    )
    for destination, named in naming:
        for name in names.intersection(named.split()):
            users[name].append(destination)
    return users


def _entry(name: str, created_ms: int, updated_ms: int, users: list[str]) -> StoredSecretEntry:
    return StoredSecretEntry(
        name=name,
        created_ms=created_ms,
        updated_ms=updated_ms,
        uses=len(users),
        used_by=tuple(users[:USED_BY_MAX]),
    )
