"""Rows as values: the columns that verbs read and write, by name, once for every database."""

import json
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import Final, Literal

from dispatcher import policy as policies
from dispatcher.fairness import RATE_MIN
from dispatcher.ids import destination_of
from dispatcher.keys import Limits
from dispatcher.policy import Policy
from dispatcher.store.errors import KEYS_SETTING, CannotUnseal
from dispatcher.store.sealing import (
    CALLBACK_SECRETS,
    DESTINATIONS,
    PAYLOAD_BODIES,
    PAYLOADS,
    SECRETS,
    STORED_SECRETS,
    Column,
    ring_of,
)
from dispatcher.store.tx import Row, Tx, marks
from dispatcher.values import (
    HIGH,
    NORMAL,
    Attempt,
    Callback,
    Delivery,
    Destination,
    DestinationHeaders,
    Key,
    NewCallback,
    Replay,
    Schedule,
    SecretRef,
    SigningSecret,
    StoredSecret,
    Tenant,
    Unopened,
    plain_headers,
    secret_headers,
)
from receiver.base import keyring
from receiver.base.keyring import PREFIX, SealedError


def _select(columns: Mapping[str, str], source: str = "") -> str:
    return f"SELECT {', '.join(columns.values())} {source}"


def _same(names: str) -> dict[str, str]:
    """Columns that are called what the value's fields are."""
    return {name: name for name in names.split()}


# --- callbacks ---

_CALLBACK: Final = {
    "id": "c.id",
    "tenant": "c.tenant",
    "job_id": "c.job_id",
    "job_status": "c.job_status",
    "state": "c.state",
    "priority": "c.priority",
    "lane": "c.destination",
    "destination_name": "d.name",
    "url": "coalesce(c.url, d.url)",
    "created_ms": "c.created_ms",
    "attempts": "c.attempts",
    "tries": "c.tries",
    "due_ms": "c.due_ms",
    "finished_ms": "c.finished_ms",
    "last_error": "c.last_error",
    "policy": "coalesce(c.policy, d.policy)",
    "payload_size": "c.payload_size",
    "payload_sha256": "c.payload_sha256",
    "payload_pruned": "c.pruned",
    "run": "c.run",
}
# What it may wait for, beside its own time.
_SCHEDULE: Final = {
    "not_before_ms": "c.not_before_ms",
    "is_paused": "l.paused",
    "disabled_reason": "l.doomed",
    "held_until_ms": "l.held_until_ms",
    "held_reason": "l.held_reason",
    "server_held_ms": "d.held_until_ms",
    "openings": "l.openings + d.openings",
    "ready_ms": "CASE c.class WHEN 0 THEN l.ready_high WHEN 1 THEN l.ready_normal "
    "ELSE l.ready_replay END",
}
CALLBACK: Final = _select(_CALLBACK | _SCHEDULE)
# What a callback `c` goes to; the unregistered one of an earlier rule may be forgotten. And its
# lane where it waits in one.
JOIN_DESTINATION: Final = (
    "LEFT JOIN destinations d ON d.id = substr(c.destination, 1, 35) "
    "LEFT JOIN lanes l ON l.id = c.destination AND c.state = 'pending'"
)


def callbacks(tx: Tx, rows: Sequence[Row]) -> list[Callback]:
    """Return rows of CALLBACK as values, with their tags."""
    tags: dict[str, dict[str, str]] = {}
    if rows:
        ids = [row[0] for row in rows]
        for callback, key, value in tx.all(
            f"SELECT callback, key, value FROM tags WHERE callback IN ({marks(ids)}) ORDER BY key",
            *ids,
        ):
            tags.setdefault(callback, {})[key] = value
    return [_callback(row, tags.get(row[0], {})) for row in rows]


def callbacks_by_id(tx: Tx, ids: Sequence[str]) -> list[Callback]:
    """Return these callbacks, in this order."""
    if not ids:
        return []
    sql = f"{CALLBACK} FROM callbacks c {JOIN_DESTINATION} WHERE c.id IN ({marks(ids)})"
    found = {one.id: one for one in callbacks(tx, tx.all(sql, *ids))}
    return [found[id] for id in ids if id in found]


def _callback(row: Row, tags: dict[str, str]) -> Callback:
    named = dict(zip(_CALLBACK, row, strict=False))
    if named["state"] == "pending":
        named["schedule"] = _schedule(row[len(_CALLBACK) :])
    named["priority"] = "high" if named["priority"] == HIGH else "normal"
    named["url"] = named["url"] or ""
    named["destination"] = destination_of(named["lane"])
    named["payload_pruned"] = bool(named["payload_pruned"])
    return Callback(**named, tags=tags)


def _schedule(row: Row) -> Schedule | None:
    named = dict(zip(_SCHEDULE, row, strict=True))
    if named["is_paused"] is None:  # its lane is being made
        return None
    server_held_ms, openings = named.pop("server_held_ms") or 0, named.pop("openings")
    if server_held_ms > named["held_until_ms"]:
        named |= {"held_until_ms": server_held_ms, "held_reason": "circuit"}
    named["is_paused"] = bool(named["is_paused"])
    return Schedule(**named, circuit_open=bool(openings))


# What a callback takes up beside its payload: its rows and their index entries, measured; and what
# one more row of its tags or attempts does, beside what stands in it.
ROW_BYTES: Final = 1_024
_TAG_BYTES: Final = 160
_ATTEMPT_BYTES: Final = 128
# What callbacks take up; what a tenant may store is compared with this.
STORED_BYTES: Final = (
    f"sum({ROW_BYTES} + extra_bytes + CASE WHEN pruned = 0 THEN payload_size ELSE 0 END)"
)


def extra_bytes(new: NewCallback) -> int:
    """Return what a new callback takes up beside its row and its payload."""
    size = len(new.policy_text) if new.policy_text else 0
    if new.headers:
        size += sum(len(name) + len(value) for name, value in new.headers)
    if new.tags:  # each is in the table and in an index
        size += sum(_TAG_BYTES + 2 * len((key + value).encode()) for key, value in new.tags)
    return size


def stored_bytes(new: NewCallback) -> int:
    """Return what a new callback takes up."""
    return ROW_BYTES + len(new.body) + extra_bytes(new)


def attempt_bytes(error: str | None, excerpt: str | None, detail: str | None = None) -> int:
    """Return what an attempt takes up."""
    return _ATTEMPT_BYTES + len(error or "") + len(excerpt or "") + len(detail or "")


# The columns of a new callback that the submit says, with their types on PostgreSQL; the rest
# (state, class, fence) follows from them.
NEW_CALLBACK: Final = {
    "id": "text",
    "tenant": "text",
    "job_id": "text",
    "job_status": "text",
    "priority": "bigint",
    "destination": "text",
    "url": "text",
    "policy": "text",
    "payload_size": "bigint",
    "payload_sha256": "bytea",
    "key": "bytea",
    "explicit_key": "bigint",
    "content": "bytea",
    "created_ms": "bigint",
    "expires_ms": "bigint",
    "due_ms": "bigint",
    "lease_ms": "bigint",
    "run": "bigint",
    "not_before_ms": "bigint",
    "extra_bytes": "bigint",
}


def new_callback(new: NewCallback, rule: Policy, lease_margin_ms: int | None, now_ms: int) -> Row:
    """Return the values of NEW_CALLBACK. `lease_margin_ms` is set for a delivery that is stored
    already leased; `now_ms` is when it was made, by the database's clock."""
    leased = lease_margin_ms is not None
    # The age counts from when it may first go: nothing expires before it was tried.
    starts_ms = now_ms
    if new.not_before_ms is not None:
        starts_ms = max(now_ms, now_ms + new.not_before_ms - new.created_ms)
    return (
        new.id,
        new.tenant,
        new.job_id,
        new.job_status,
        HIGH if new.priority == "high" else NORMAL,
        new.lane,
        new.url,
        new.policy_text,
        len(new.body),
        new.body_sha256,
        new.key,
        int(new.explicit_key),
        new.content,
        new.created_ms,
        starts_ms + round(rule.max_age * 1000),
        None if leased else starts_ms,
        now_ms + round(rule.timeout * 1000) + (lease_margin_ms or 0) if leased else None,
        new.run,
        None if new.not_before_ms is None else starts_ms,
        extra_bytes(new),
    )


# --- deliveries ---

LEASED: Final = """
c.id, c.tenant, c.job_id, c.destination, c.url, d.url, p.body, p.content_type, d.headers, p.headers,
coalesce(c.policy, d.policy), c.claim, c.attempts, c.tries, c.created_ms, c.expires_ms, c.class,
c.turned_away, c.turned_away_ms, d.epoch, c.job_status, c.run, p.kid, p.secret
"""


def leased(tx: Tx, row: Row) -> Delivery:
    """Return a row of LEASED as a value; one that cannot be opened says so, and stops no other."""
    (
        callback,
        tenant,
        job_id,
        lane,
        own_url,
        registered_url,
        body,
        content_type,
        destination_headers,
        own_headers,
        policy,
        fence,
        attempts,
        tries,
        created_ms,
        expires_ms,
        class_number,
        turned_away,
        turned_away_ms,
        epoch,
        job_status,
        run,
        kid,
        secret,
    ) = row
    destination = destination_of(lane)
    sealed = (destination_headers, own_headers, kid, body, secret)
    found, own, body, secret, unopened = _opened(tx, callback, tenant, destination, sealed)
    return Delivery(
        id=callback,
        tenant=tenant,
        job_id=job_id,
        destination=destination,
        lane=lane,
        registered=own_url is None,
        url=own_url or registered_url,
        body=body,
        content_type=content_type,
        headers=plain_headers(found) + plain_headers(own),
        secret_headers=secret_headers(found),
        policy=policies.load(policy),
        fence=fence,
        attempt=attempts + 1,
        tries=tries,
        created_ms=created_ms,
        expires_ms=tx.here(expires_ms),
        high=class_number == HIGH,
        turned_away=turned_away,
        turned_away_ms=None if turned_away_ms is None else tx.here(turned_away_ms),
        epoch=epoch,
        job_status=job_status,
        run=run,
        secret=secret,
        unopened=unopened,
    )


def _opened(
    tx: Tx, callback: str, tenant: str, destination: str, sealed: Row
) -> tuple[DestinationHeaders, DestinationHeaders, bytes, str | None, Unopened | None]:
    """Return the headers, the body and the secret of a callback; nothing of them, and why, where
    one of them cannot be opened."""
    destination_headers, own_headers, kid, body, secret = sealed
    try:
        found = read_headers(tx, destination_headers, DESTINATIONS, destination, tenant)
        own = read_headers(tx, own_headers, PAYLOADS, callback, tenant)
        body = body if kid is None else open_body(tx, kid, body, callback, tenant)
        if secret is not None:
            secret = open_text(tx, secret, CALLBACK_SECRETS, callback, tenant)
    except CannotUnseal as error:
        return (), (), b"", None, error.unopened
    return found, own, body, secret, None


# --- what is sealed ---


def seal_text(tx: Tx, plain: str, column: Column, id: str, tenant: str) -> str:
    """Return what to store in a row's column: plain where there are no keys."""
    return plain if tx.ring is None else tx.ring.seal_text(plain, *column.place(id, tenant))


def seal_marked(tx: Tx, plain: str, column: Column, id: str, tenant: str) -> str:
    """Return what to store in a row's column: plain where there is nothing to seal in it."""
    return seal_text(tx, plain, column, id, tenant) if column.is_marked(plain) else plain


def open_text(tx: Tx, stored: str, column: Column, id: str, tenant: str) -> str:
    """Return what a row's column says. Raises CannotUnseal."""
    if not stored.startswith(PREFIX):
        return stored
    try:
        return keyring.open_text(tx.ring, stored, *column.place(id, tenant))
    except SealedError as error:
        raise cannot_unseal(error) from None


def seal_body(tx: Tx, body: bytes, callback: str, tenant: str) -> tuple[bytes, str | None]:
    """Return the body of a payload as it is stored, and the name of the key that seals it."""
    if not tx.seals_payloads or tx.ring is None:
        return body, None
    return tx.ring.seal(body, *PAYLOAD_BODIES.place(callback, tenant)), tx.ring.kid


def open_body(tx: Tx, kid: str | None, stored: bytes, callback: str, tenant: str) -> bytes:
    """Return the body of a payload. Raises CannotUnseal."""
    return open_sealed(tx, kid, stored, PAYLOAD_BODIES.place(callback, tenant))


def open_sealed(tx: Tx, kid: str | None, stored: bytes, place: tuple[str, str, str, str]) -> bytes:
    """Return a body that is bound to a place. Raises CannotUnseal."""
    try:
        return keyring.open_body(tx.ring, kid, stored, *place)
    except SealedError as error:
        raise cannot_unseal(error) from None


def cannot_unseal(error: SealedError) -> CannotUnseal:
    """Return what the caller is told of a value that no key of ours opens."""
    advice = f": put it into {KEYS_SETTING}" if error.missing else ""
    lack: Literal["keys", "damage"] = "keys" if error.missing else "damage"
    return CannotUnseal(Unopened(lack=lack, message=f"{error}{advice}"))


def payload(tx: Tx, new: NewCallback) -> Row:
    """Return the row of a new callback's payload."""
    headers = write_headers(tx, new.headers, PAYLOADS, new.id, new.tenant)
    return (new.id, new.content_type, headers, *seal_body(tx, new.body, new.id, new.tenant))


def put_secrets(tx: Tx, stored: Iterable[NewCallback]) -> None:
    """Store the secrets of new callbacks that have one of their own, never plain, with their
    payloads. Raises NoKeyring."""
    values = [
        (seal_secret(tx, new.secret, CALLBACK_SECRETS, new.id, new.tenant), new.id)
        for new in stored
        if new.secret is not None
    ]
    if values:
        tx.many("UPDATE payloads SET secret = ? WHERE callback = ?", values)


def seal_secret(tx: Tx, plain: str, column: Column, id: str, tenant: str) -> str:
    """Return what to store of what may be stored sealed only. Raises NoKeyring."""
    return ring_of(tx, column.what).seal_text(plain, *column.place(id, tenant))


def write_headers(tx: Tx, headers: DestinationHeaders, column: Column, id: str, tenant: str) -> str:
    """Return the text for `headers` of a row; none are as plain as can be. One that a stored secret
    makes has three parts: its name, what stands before the secret, and the secret's name."""
    if not headers:
        return "[]"
    parts = [
        (name, value.prefix, value.name) if isinstance(value, SecretRef) else (name, value)
        for name, value in headers
    ]
    return seal_text(tx, json.dumps(parts), column, id, tenant)


def read_headers(
    tx: Tx, text: str | None, column: Column, id: str, tenant: str
) -> DestinationHeaders:
    """Return the headers of a row; none for none. Raises CannotUnseal."""
    if text is None or text == "[]":
        return ()
    found: list[list[str]] = json.loads(open_text(tx, text, column, id, tenant))
    return tuple(
        (part[0], part[1] if len(part) == 2 else SecretRef(part[2], part[1])) for part in found
    )


# --- the rest ---

_ATTEMPT: Final = _same("n started_ms duration_ms outcome status_code error excerpt detail")
ATTEMPT: Final = _select(_ATTEMPT, "FROM attempts")
_REPLAY: Final = _same(
    "id tenant filter state matched matched_exactly replayed skipped created_ms finished_ms"
) | {"rate_per_second": "rate"}
REPLAY: Final = _select(_REPLAY, "FROM replays")
_SECRET: Final = _same("id tenant destination value created_ms expires_ms revealed_ms")
SECRET: Final = _select(_SECRET, "FROM secrets")
_STORED_SECRET: Final = _same("id tenant name value updated_ms")
STORED_SECRET: Final = _select(_STORED_SECRET, "FROM stored_secrets")
_TENANT: Final = _same(
    "name created_ms label storage_bytes_max queue_max jobs_running_max outputs_bytes_max "
    "erasing_ms"
) | {"rate_per_second": "rate"}
TENANT: Final = _select(_TENANT, "FROM tenants")
_KEY: Final = _same(
    "id digest tenant label created_ms scopes expires_ms networks destinations "
    "previous_digest previous_until_ms"
) | {"rate_per_second": "rate"}
KEY: Final = _select(_KEY, "FROM keys")
_LIMITS: Final = ("expires_ms", "networks", "destinations", "rate_per_second")


def _of_lanes(what: str, order: str = "") -> str:
    return f"(SELECT {what} FROM lanes WHERE id >= d.id AND id < d.id || '/'{order})"


_OF_LANES: Final = "callbacks WHERE destination >= d.id AND destination < d.id || '/' AND state"
# As many as the parameter says: counting a million takes longer than anybody should wait.
_BACKLOG: Final = f"(SELECT count(*) FROM (SELECT 1 FROM {_OF_LANES} = 'pending' LIMIT ?) counted)"


# Exact where the destination is among the last that its tenant used; the one that is stored may be
# a second older than that.
_LAST_URL: Final = """
(SELECT url FROM (SELECT id, destination, url FROM callbacks WHERE tenant = d.tenant
                  ORDER BY id DESC LIMIT 20) newest
 WHERE destination > d.id AND destination < d.id || '/' ORDER BY id DESC LIMIT 1)
"""
_DESTINATION: Final = {
    "id": "d.id",
    "tenant": "d.tenant",
    "name": "d.name",
    "url": "d.url",
    "policy": "d.policy",
    "headers": "d.headers",
    "paused": "d.paused",
    "disabled_reason": "d.disabled_reason",
    "concurrency": "d.concurrency",
    "rate_per_second": "d.rate",
    "created_ms": "d.created_ms",
    "last_url": f"CASE WHEN d.name IS NULL THEN coalesce({_LAST_URL}, d.last_url) END",
    "failures": "d.failures",
    "lane_failures": _of_lanes("max(failures)"),
    "circuit_open": f"d.openings + {_of_lanes('coalesce(max(openings), 0)')}",
    "server_held_ms": "d.held_until_ms",
    "held_until_ms": _of_lanes("max(held_until_ms)"),
    "held_reason": _of_lanes("held_reason", " ORDER BY held_until_ms DESC LIMIT 1"),
    "last_error": _of_lanes("max(last_error)"),
    "backlog": _BACKLOG,
    "sending": f"(SELECT count(*) FROM {_OF_LANES} = 'sending')",
}
DESTINATION: Final = _select(_DESTINATION, "FROM destinations d")  # ?: how many to count


def attempt(row: Row) -> Attempt:
    """Return a row of ATTEMPT as a value."""
    return Attempt(**dict(zip(_ATTEMPT, row, strict=True)))


def replay(row: Row) -> Replay:
    """Return a row of REPLAY as a value. One that was not counted to its end matches at least what
    it has walked."""
    named = dict(zip(_REPLAY, row, strict=True))
    named["matched_exactly"] = bool(named["matched_exactly"])
    if not named["matched_exactly"]:
        named["matched"] = max(named["matched"], named["replayed"] + named["skipped"])
    return Replay(**named)


def secret(tx: Tx, row: Row) -> SigningSecret:
    """Return a row of SECRET as a value: one that cannot be opened says so, and has none."""
    named = dict(zip(_SECRET, row, strict=True))
    try:
        named["value"] = open_text(tx, named["value"], SECRETS, named["id"], named["tenant"])
    except CannotUnseal as error:
        named |= {"value": "", "unopened": error.unopened}
    return SigningSecret(**named)


def tenant(row: Row) -> Tenant:
    """Return a row of TENANT as a value."""
    return Tenant(**dict(zip(_TENANT, row, strict=True)))


def key(row: Row) -> Key:
    """Return a row of KEY as a value."""
    named = dict(zip(_KEY, row, strict=True))
    named["scopes"] = frozenset(named["scopes"].split())
    expires_ms, networks, destinations, rate = (named.pop(name) for name in _LIMITS)
    limits = Limits(
        expires_ms=expires_ms,
        networks=tuple(ip_network(text) for text in (networks or "").split()),
        destinations=frozenset((destinations or "").split()),
        rate_per_second=rate,
    )
    return Key(**named, limits=limits)


def limits_columns(limits: Limits) -> tuple[object, ...]:
    """Return a key's limits as they are stored: expires_ms, networks, destinations, rate."""
    networks = " ".join(map(str, limits.networks))
    destinations = " ".join(sorted(limits.destinations))
    return limits.expires_ms, networks or None, destinations or None, limits.rate_per_second


def destination(tx: Tx, row: Row, *, now_ms: int, counted_max: int) -> Destination:
    """Return a row of DESTINATION (its parameter `counted_max + 1`) as a value; holds that are over
    are not shown. Headers that cannot be opened are not there, and it says so."""
    named = dict(zip(_DESTINATION, row, strict=True))
    named["failures"] = max(named["failures"], named.pop("lane_failures") or 0)
    server_held_ms = named.pop("server_held_ms")
    if server_held_ms > (named["held_until_ms"] or 0):
        named["held_until_ms"], named["held_reason"] = server_held_ms, "circuit"
    if (named["held_until_ms"] or 0) <= now_ms:
        named["held_until_ms"] = named["held_reason"] = None
    if named["paused"]:
        named["held_reason"] = "paused"
    named["backlog_exactly"] = named["backlog"] <= counted_max
    named["backlog"] = min(named["backlog"], counted_max)
    stored, id, tenant = named["headers"], named["id"], named["tenant"]
    try:
        named["headers"] = read_headers(tx, stored, DESTINATIONS, id, tenant)
    except CannotUnseal as error:
        named |= {"headers": (), "unopened": error.unopened}
    named["paused"] = bool(named["paused"])
    if named["rate_per_second"] is not None:  # what it counts as
        named["rate_per_second"] = max(named["rate_per_second"], RATE_MIN)
    named["circuit_open"] = bool(named["circuit_open"])
    return Destination(**named)


def stored_secret(tx: Tx, row: Row) -> StoredSecret:
    """Return a row of STORED_SECRET as a value: one that cannot be opened says so, and has none."""
    id, owner, name, sealed, updated_ms = row
    try:
        value = open_text(tx, sealed, STORED_SECRETS, id, owner)
    except CannotUnseal as error:
        return StoredSecret(name=name, updated_ms=updated_ms, unopened=error.unopened)
    return StoredSecret(name=name, updated_ms=updated_ms, value=value)


def seal_stored_secret(tx: Tx, id: str, owner: str, value: str) -> str:
    """Return what is kept of a stored secret, which is never plain. Raises NoKeyring."""
    ring_of(tx, "a stored secret")
    return seal_text(tx, value, STORED_SECRETS, id, owner)
