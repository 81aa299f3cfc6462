"""Signing secrets, and those that are stored for headers."""

from dispatcher.client.calls import build, read
from dispatcher.client.results import Reencryption, RevealedSecret, Secret, StoredSecret
from dispatcher.client.transport import Call
from dispatcher.wire import Page


def secrets(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Secret]]:
    """Return the signing secrets that sign or signed, oldest first, without their values."""
    return build.get(read.page(Secret), "secrets", params=build.paging(cursor, limit))


def rotate_secret(
    *,
    destination: str | None = None,
    overlap_s: float | None = None,
    force: bool = False,
    reason: str | None = None,
) -> Call[RevealedSecret]:
    """Make a new signing secret; the one before signs beside it for `overlap_s` (default a day).
    Raises Conflict while an earlier overlap lasts, unless `force`, which ends that one."""
    fields = {"destination": destination, "overlap": overlap_s, "force": force or None}
    return build.post(
        read.json(RevealedSecret), "secrets", "rotate", fields=build.given(fields), reason=reason
    )


def reveal_secret(
    *, id: str | None = None, destination: str | None = None, reason: str | None = None
) -> Call[RevealedSecret]:
    """Return a signing secret with its value: one by id, or the current one of a destination or of
    the tenant. That you looked is recorded. Raises ValidationFailed without a reason where the
    service wants one."""
    fields = build.given({"id": id, "destination": destination})
    return build.post(read.json(RevealedSecret), "secrets", "reveal", fields=fields, reason=reason)


def reencrypt(*, reason: str | None = None) -> Call[Reencryption]:
    """Have everything that the service stores be sealed with its newest key, while it works; for
    platform keys. Raises Conflict where the service has no keys."""
    return build.post(read.json(Reencryption), "secrets", "reencrypt", reason=reason)


def reencryption() -> Call[Reencryption]:
    """How far that is, for platform keys."""
    return build.get(read.json(Reencryption), "secrets", "reencrypt")


def stored_secrets(
    *, platform: bool = False, cursor: str | None = None, limit: int | None = None
) -> Call[Page[StoredSecret]]:
    """Return what is told of the secrets that are stored for headers, of the tenant or of the
    platform, in the order of their names: never the secrets."""
    params = (*build.flags(platform=platform), *build.paging(cursor, limit))
    return build.get(read.page(StoredSecret), "stored-secrets", params=params)


def store_secret(
    name: str, secret: str, *, platform: bool = False, reason: str | None = None
) -> Call[StoredSecret]:
    """Store a secret by name, or replace the one of this name. A destination's header names it:
    `secret:NAME` or `Bearer secret:NAME`. `platform`: for the platform itself. Raises Conflict
    where the service has no keys to encrypt it with."""
    return build.put(
        read.json(StoredSecret),
        "stored-secrets",
        name,
        fields={"secret": secret},
        params=build.flags(platform=platform),
        reason=reason,
    )


def forget_secret(
    name: str, *, force: bool = False, platform: bool = False, reason: str | None = None
) -> Call[None]:
    """Delete a stored secret. Raises NotFound, and Conflict while a destination's header names it,
    unless `force`: then nothing is sent there until it is stored again."""
    params = build.flags(platform=platform, force=force)
    return build.delete("stored-secrets", name, params=params, reason=reason)
