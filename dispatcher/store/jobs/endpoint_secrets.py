"""What calls of an endpoint are signed with: a secret of its own, rotated with an overlap. The
endpoint's row is held by whoever makes or rotates one, so that there is one that is current.
Portable."""

from collections.abc import Sequence
from typing import Final

from dispatcher.store import access, rows
from dispatcher.store.errors import CannotUnseal, NotFound
from dispatcher.store.jobs import endpoints
from dispatcher.store.sealing import ENDPOINT_SECRETS
from dispatcher.store.tx import Row, Tx
from dispatcher.values import SigningSecret

_SECRETS: Final = (
    "SELECT id, endpoint, value, created_ms, expires_ms, revealed_ms FROM endpoint_secrets "
    "WHERE endpoint = ? ORDER BY id DESC"
)
_OF: Final = "endpoint_secrets WHERE endpoint = ?"


def secrets(tx: Tx, endpoint: str) -> list[SigningSecret]:
    """Newest first. Raises NotFound where there is no such endpoint."""
    endpoints.check_there(tx, endpoint)
    return [_secret(tx, row) for row in tx.all(_SECRETS, endpoint)]


def _secret(tx: Tx, row: Row) -> SigningSecret:
    """Return a row as a value: one that cannot be opened says so, and has none."""
    id, endpoint, stored, created_ms, expires_ms, revealed_ms = row
    value, unopened = "", None
    try:
        value = rows.open_text(tx, stored, ENDPOINT_SECRETS, id, endpoint)
    except CannotUnseal as error:
        unopened = error.unopened
    return SigningSecret(
        id=id,
        tenant="",
        destination=None,
        endpoint=endpoint,
        value=value,
        created_ms=created_ms,
        expires_ms=expires_ms,
        revealed_ms=revealed_ms,
        unopened=unopened,
    )


def ensure(tx: Tx, new: SigningSecret) -> list[SigningSecret]:
    """Have `new` sign where nothing does; return what signs. Raises NotFound."""
    name = _owner(new)
    found = secrets(tx, name)
    if found:
        return found
    _add(tx, new)
    return secrets(tx, name)


def rotate(
    tx: Tx, new: SigningSecret, *, overlap_ms: int, force: bool, now_ms: int
) -> Sequence[SigningSecret]:
    """Sign with `new` from now on, with the one before it too until the overlap ends; older ones
    go. Raises NotFound, and Conflict while an earlier overlap lasts, unless `force` ends that
    one."""
    name = _owner(new)
    endpoints.check_there(tx, name)
    until_ms = now_ms + overlap_ms
    access.rotate_out(tx, _OF, (name,), until_ms=until_ms, force=force, now_ms=now_ms)
    _add(tx, new)
    return secrets(tx, name)


def begin(tx: Tx, endpoint: str, new: SigningSecret | None) -> None:
    """Have a new endpoint's calls be signed with this, if it is given; whatever an earlier one of
    its name left is forgotten."""
    forget(tx, endpoint)
    if new is not None:
        _add(tx, new)


def forget(tx: Tx, endpoint: str) -> None:
    """Delete what an endpoint's calls were signed with."""
    tx.run(f"DELETE FROM {_OF}", endpoint)


def mark_revealed(tx: Tx, endpoint: str, secret: str, *, by: str, now_ms: int) -> None:
    """Raise NotFound."""
    sql = "UPDATE endpoint_secrets SET revealed_ms = ?, revealed_by = ? WHERE id = ?"
    if not tx.run(f"{sql} AND endpoint = ?", now_ms, by, secret, endpoint):
        raise NotFound(f"there is no secret {secret}")


def _owner(secret: SigningSecret) -> str:
    assert secret.endpoint is not None  # noqa: S101 - for the type checker
    return secret.endpoint


def _add(tx: Tx, new: SigningSecret) -> None:
    name = _owner(new)
    tx.run(
        "INSERT INTO endpoint_secrets (id, endpoint, value, created_ms) VALUES (?, ?, ?, ?)",
        new.id,
        name,
        rows.seal_text(tx, new.value, ENDPOINT_SECRETS, new.id, name),
        new.created_ms,
    )
    tx.notify("endpoints")
