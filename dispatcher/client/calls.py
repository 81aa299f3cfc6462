"""Every call of the API as a value: what to send, and how to read the response.

What is not Postback's becomes BadAnswer.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, TypedDict, TypeVar
from urllib.parse import quote

import msgspec

from dispatcher.audit import reason_fault
from dispatcher.client.errors import BadAnswer, NotFound, PostbackError, error_from
from dispatcher.client.results import (
    Applied,
    Attempt,
    AuditEntry,
    Callback,
    Destination,
    Endpoint,
    Key,
    NewKey,
    Preview,
    Purged,
    Reencryption,
    Registered,
    Replay,
    RevealedSecret,
    Secret,
    Stats,
    StoredSecret,
    Submitted,
    Tenant,
    TenantDetail,
    UpstreamTest,
)
from dispatcher.client.transport import Call, Response
from dispatcher.states import State
from dispatcher.values import Priority
from dispatcher.wire import Page

T = TypeVar("T")
_Read = Callable[[Response], T]
_Params = tuple[tuple[str, str], ...]

Policy = str | Mapping[str, Any]
"""A preset's name, or the policy object of the API."""

Moment = datetime | str | float
"""A time (a datetime, or ISO-8601 text), or seconds from now."""

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
NO_CONTENT: Final = 204
_FILTERS: Final = {
    "status": "status",
    "job_status": "jobStatus",
    "job_id": "jobId",
    "destination": "destination",
    "callback_url": "callbackUrl",
    "priority": "priority",
    "error": "error",
    "since": "since",
    "until": "until",
}
_VISIBLE: Final = re.compile(r"[!-~]{1,255}")
_CONTENT_TYPE: Final = re.compile(r"[!-~]([ -~]{0,254}[!-~])?")


class LineResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one callback of a batch came to: `n` is its place from 1; `submitted` or `error` is
    set. `raw` is the service's own line about it, numbered as the service saw it."""

    n: int
    submitted: Submitted | None = None
    error: PostbackError | None = None
    raw: bytes = b""

    def after(self, lines: int) -> "LineResult":
        """Return the same result, `lines` further down."""
        return msgspec.structs.replace(self, n=self.n + lines)


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """The stored bytes, and what they were declared to be."""

    body: bytes
    content_type: str


class Filters(TypedDict, total=False):
    """What a listing or a replay is about; everything given must match. `since` is inclusive,
    `until` exclusive, both on creation; a datetime without a zone is taken as UTC. Another key, or
    a value of another kind (None, too), raises ValueError: without it more would match."""

    status: State
    job_status: str
    job_id: str
    destination: str
    callback_url: str
    priority: Priority
    error: str
    since: datetime | str
    until: datetime | str
    tags: Mapping[str, str]


class AuditFilters(TypedDict, total=False):
    """What of the audit trail; everything given must match. `all_tenants`: with a platform key, of
    all of them and of the platform itself. Otherwise as `Filters`."""

    action: str
    actor: str
    target: str
    since: datetime | str
    until: datetime | str
    all_tenants: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One callback for `submit_many`. `payload` is any JSON value, or `bytes`: JSON text that is
    to be delivered byte for byte. Give `callback_url`, or `destination`: a registered name. `run`
    is which run of the job it was; `not_before` is when it may first be sent."""

    job_id: str
    payload: Any = field(repr=False)
    callback_url: str | None = None
    destination: str | None = None
    job_status: str | None = None
    priority: Priority | None = None
    tags: Mapping[str, str] | None = None
    policy: Policy | None = None
    headers: Mapping[str, str] | None = None
    idempotency_key: str | None = None
    run: int | None = None
    not_before: Moment | None = None

    def encode(self) -> bytes:
        """Return a batch line's JSON, in one line unless the payload's own bytes hold line breaks.

        Raises TypeError or ValueError for a payload that is not JSON (NaN, an object, …), also for
        bytes that are not exactly one JSON value: fields of the callback could hide in them.
        """
        fields = {
            "jobId": self.job_id,
            "callbackUrl": self.callback_url,
            "destination": self.destination,
            "jobStatus": self.job_status,
            "priority": self.priority,
            "tags": self.tags,
            "policy": self.policy,
            "headers": self.headers,
            "idempotencyKey": self.idempotency_key,
            "run": self.run,
            "notBefore": _moment(self.not_before),
        }
        head = _dumps(_given(fields), default=dict)
        is_text = isinstance(self.payload, bytes)
        body = one_value(self.payload) if is_text else _dumps(self.payload)
        return head[:-1] + b',"payload":' + body + b"}"


# --- callbacks ---


def submit(
    job_id: str,
    payload: Any,
    *,
    callback_url: str | None = None,
    destination: str | None = None,
    job_status: str | None = None,
    priority: Priority | None = None,
    tags: Mapping[str, str] | None = None,
    policy: Policy | None = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    run: int | None = None,
    not_before: Moment | None = None,
) -> Call[Submitted]:
    """Hand over one callback; when this returns it is safe on the service's disk.

    `payload` is any JSON value, or `bytes`: the text of exactly one, delivered byte for byte; what
    is not that raises ValueError. `run` is which run of the job it was, from 1; `not_before` is
    when it may first be sent. Sending it again is safe: the same idempotency key (by default:
    jobId, jobStatus, destination and run) with the same content answers with the first one's id
    and `duplicate`.
    """
    submission = Submission(
        job_id=job_id,
        payload=payload,
        callback_url=callback_url,
        destination=destination,
        job_status=job_status,
        priority=priority,
        tags=tags,
        policy=policy,
        headers=headers,
        run=run,
        not_before=not_before,
    )
    return submit_encoded(submission.encode(), idempotency_key=idempotency_key)


def submit_encoded(body: bytes, *, idempotency_key: str | None = None) -> Call[Submitted]:
    """Hand over one callback whose JSON, as `POST /callbacks` takes it, you have already."""
    return Call(
        method="POST",
        path=_path("callbacks"),
        read=_json(Submitted),
        repeatable=True,
        headers=_key(idempotency_key),
        body=body,
        content_type=JSON,
    )


def submit_raw(
    job_id: str,
    body: bytes,
    *,
    content_type: str,
    callback_url: str | None = None,
    destination: str | None = None,
    job_status: str | None = None,
    priority: Priority | None = None,
    idempotency_key: str | None = None,
    run: int | None = None,
    not_before: Moment | None = None,
) -> Call[Submitted]:
    """Hand over any bytes of any content type, delivered byte for byte."""
    if not _CONTENT_TYPE.fullmatch(content_type):
        raise ValueError("a content type is 1 to 256 visible ASCII characters")
    params = {
        "jobId": job_id,
        "callbackUrl": callback_url,
        "destination": destination,
        "jobStatus": job_status,
        "priority": priority,
        "run": None if run is None else str(run),
        "notBefore": None if not_before is None else str(_moment(not_before)),
    }
    return Call(
        method="POST",
        path=_path("callbacks", "raw"),
        read=_json(Submitted),
        repeatable=True,
        params=tuple(_given(params).items()),
        headers=_key(idempotency_key),
        body=body,
        content_type=content_type,
    )


def submit_batch(lines: Sequence[bytes]) -> Call[list[LineResult]]:
    """Hand over some callbacks in one request, each one line of JSON. A bad line fails alone.
    Raises ValueError for what is no line, or more than one."""
    if not all(line.strip() and b"\n" not in line for line in lines):
        raise ValueError("each callback of a batch is JSON in one line, and none is empty")

    def read(response: Response) -> list[LineResult]:
        return _read_lines(response, len(lines))

    return Call(
        method="POST",
        path=_path("callbacks", "batch"),
        read=read,
        repeatable=True,
        body=b"\n".join(lines) + b"\n",
        content_type=NDJSON,
    )


def get(id: str) -> Call[Callback]:
    """One callback with its state. Raises NotFound."""
    return _get(_json(Callback), "callbacks", id)


def page(
    filters: Filters | None = None, *, cursor: str | None = None, limit: int | None = None
) -> Call[Page[Callback]]:
    """Up to `limit` (1 to 500) callbacks that match, newest first, from `cursor` on."""
    params = (*_filter_params(filters or {}).items(), *_paging(cursor, limit))
    return _get(_page(Callback), "callbacks", params=params)


def attempts(
    id: str, *, cursor: str | None = None, limit: int | None = None
) -> Call[Page[Attempt]]:
    """Up to `limit` (1 to 500) attempts of one callback, oldest first, from `cursor` on. Raises
    NotFound."""
    return _get(_page(Attempt), "callbacks", id, "attempts", params=_paging(cursor, limit))


def payload(id: str) -> Call[Payload]:
    """Return the bytes that are delivered. Raises NotFound, and Gone once they are pruned."""
    return _get(_read_payload, "callbacks", id, "payload")


def replay(id: str, *, reason: str | None = None) -> Call[Callback]:
    """Deliver once more: same id, same bytes, a fresh budget of tries, history kept. `reason`, here
    and below, is why: for the audit trail. Raises NotFound, Conflict (it is pending or sending),
    Gone (the payload is pruned)."""
    return _post(_json(Callback), "callbacks", id, "replay", reason=reason)


def cancel(id: str, *, reason: str | None = None) -> Call[Callback]:
    """Deliver no more; a running attempt ends and nothing follows it. Raises NotFound, and
    Conflict from a final state."""
    return _post(_json(Callback), "callbacks", id, "cancel", reason=reason)


# --- filtered replays ---


def preview_replay(filters: Filters) -> Call[Preview]:
    """Return what a replay of everything that matches would be about. Changes nothing."""
    fields = {"filter": _filter_params(filters), "dryRun": True}
    return _post(_json(Preview), "replays", fields=fields, repeatable=True)


def start_replay(
    filters: Filters, *, rate_per_second: float | None = None, reason: str | None = None
) -> Call[Replay]:
    """Replay everything that matches and is in a final state now, in the background, at most
    `rate_per_second`. Raises ValidationFailed without a filter, and without a reason where the
    service wants one."""
    fields = _given({"filter": _filter_params(filters), "ratePerSecond": rate_per_second})
    return _post(_json(Replay), "replays", fields=fields, reason=reason)


def get_replay(id: str) -> Call[Replay]:
    """How far a filtered replay is. Raises NotFound."""
    return _get(_json(Replay), "replays", id)


def cancel_replay(id: str, *, reason: str | None = None) -> Call[Replay]:
    """Replay no more of it; what was replayed stays. Raises NotFound, and Conflict once it is
    done."""
    return _post(_json(Replay), "replays", id, "cancel", reason=reason)


# --- destinations ---


def destinations(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Destination]]:
    """Every destination, in the order of their ids."""
    return _get(_page(Destination), "destinations", params=_paging(cursor, limit))


def get_destination(id: str) -> Call[Destination]:
    """One destination, by id or registered name. Raises NotFound."""
    return _get(_json(Destination), "destinations", id)


def register_destination(
    name: str,
    url: str,
    *,
    secret: str | None = None,
    policy: Policy | None = None,
    headers: Mapping[str, str] | None = None,
    concurrency: int | None = None,
    rate_per_second: float | None = None,
    reason: str | None = None,
) -> Call[Registered]:
    """Give a URL a name, limits and a signing secret of its own (made unless given). Raises
    Conflict if the name is taken."""
    fields = {
        "name": name,
        "url": url,
        "secret": secret,
        "policy": policy,
        "headers": headers,
        "concurrency": concurrency,
        "ratePerSecond": rate_per_second,
    }
    return _post(_json(Registered), "destinations", fields=_given(fields), reason=reason)


def change_destination(
    id: str, changes: Mapping[str, Any], *, reason: str | None = None
) -> Call[Destination]:
    """Change the named fields, as `PATCH` takes them: `url policy headers paused disabled
    concurrency ratePerSecond`; None puts one back to its default. Raises NotFound and
    ValidationFailed."""
    return Call(
        method="PATCH",
        path=_path("destinations", id),
        read=_json(Destination),
        repeatable=True,
        headers=_reason(reason),
        body=json.dumps(changes).encode(),
        content_type=JSON,
    )


def remove_destination(id: str, *, reason: str | None = None) -> Call[None]:
    """Forget it and its secret; its backlog is made dead. Raises NotFound."""
    return _delete("destinations", id, reason=reason)


def test_destination(
    id: str,
    *,
    url: str | None = None,  # noqa: PT028 - a call
    reason: str | None = None,  # noqa: PT028
) -> Call[Attempt]:
    """Send a signed test callback now; its attempt. For a destination without a name `url` is one
    of its server, else the one used last. Raises NotFound."""
    fields = _given({"url": url}) or None
    return _post(_json(Attempt), "destinations", id, "test", fields=fields, reason=reason)


# --- endpoints ---


def endpoints(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Endpoint]]:
    """Return the endpoints that the tenant may submit to; for a platform's administrator all of
    them."""
    return _get(_page(Endpoint), "endpoints", params=_paging(cursor, limit))


def get_endpoint(name: str) -> Call[Endpoint]:
    """Return one endpoint. Raises NotFound."""
    return _get(_json(Endpoint), "endpoints", name)


def make_endpoint(
    name: str, url: str, rules: Mapping[str, Any] | None = None, *, reason: str | None = None
) -> Call[Endpoint]:
    """Name an upstream, with its rules as the API spells them. Raises Conflict if the name is
    taken, and ValidationFailed."""
    fields = {**(rules or {}), "name": name, "url": url}
    return _post(_json(Endpoint), "endpoints", fields=fields, reason=reason)


def change_endpoint(
    name: str, changes: Mapping[str, Any], *, reason: str | None = None
) -> Call[Endpoint]:
    """Change the named rules; None puts one back to its default. What waits is run by them. Raises
    NotFound, ValidationFailed, and Conflict for one that comes from a file."""
    return Call(
        method="PATCH",
        path=_path("endpoints", name),
        read=_json(Endpoint),
        repeatable=True,
        headers=_reason(reason),
        body=json.dumps(changes).encode(),
        content_type=JSON,
    )


def remove_endpoint(name: str, *, reason: str | None = None) -> Call[None]:
    """Forget it; what waits for it is cancelled, and told so. Raises NotFound."""
    return _delete("endpoints", name, reason=reason)


def pause_endpoint(name: str, *, reason: str | None = None) -> Call[Endpoint]:
    """Start no more of its jobs; more are taken. Raises NotFound."""
    return _post(_json(Endpoint), "endpoints", name, "pause", repeatable=True, reason=reason)


def resume_endpoint(name: str, *, reason: str | None = None) -> Call[Endpoint]:
    """Start its jobs again, as if nothing had been wrong with its upstream. Raises NotFound."""
    return _post(_json(Endpoint), "endpoints", name, "resume", repeatable=True, reason=reason)


def purge_endpoint(
    name: str,
    *,
    all_tenants: bool = False,
    callbacks: bool = True,
    reason: str | None = None,
) -> Call[Purged]:
    """Cancel all that waits there, of the tenant, or with a platform's administrator's key of
    `all_tenants`; without `callbacks` nobody is told. Raises NotFound."""
    fields = {"allTenants": all_tenants, "callbacks": callbacks}
    return _post(_json(Purged), "endpoints", name, "purge", fields=fields, reason=reason)


def test_endpoint(
    name: str,
    input: bytes | None = None,  # noqa: PT028 - a call
    *,
    path: str | None = None,  # noqa: PT028
    timeout_s: float | None = None,  # noqa: PT028
    reason: str | None = None,  # noqa: PT028
) -> Call[UpstreamTest]:
    """Call an upstream once, as a job would, with this JSON text (`{}`), or at another path of its
    server. Raises NotFound."""
    fields = _given({"path": path, "timeout": timeout_s})
    members = _dumps(fields)[1:-1]
    given = b"" if input is None else b'"input":' + one_value(input)
    return Call(
        method="POST",
        path=_path("endpoints", name, "test"),
        read=_json(UpstreamTest),
        repeatable=False,
        headers=_reason(reason),
        body=b"{" + b",".join(filter(None, (members, given))) + b"}",
        content_type=JSON,
    )


def apply_endpoints(
    documents: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    dry_run: bool = False,
    reason: str | None = None,
) -> Call[Applied]:
    """Make these endpoints, by name with their rules, the ones that come from a file; without any
    the service reads its own file again. Raises ValidationFailed, and Conflict where it has one."""
    return Call(
        method="PUT",
        path=_path("endpoints"),
        read=_json(Applied),
        repeatable=True,
        headers=_reason(reason),
        body=json.dumps(_given({"endpoints": documents, "dryRun": dry_run or None})).encode(),
        content_type=JSON,
    )


# --- keys, signing secrets, tenants, figures ---


def keys(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Key]]:
    """Every API key, without the keys themselves."""
    return _get(_page(Key), "keys", params=_paging(cursor, limit))


def create_key(
    scopes: Sequence[str],
    *,
    tenant: str | None = None,
    label: str = "",
    expires: Moment | None = None,
    networks: Sequence[str] = (),
    destinations: Sequence[str] = (),
    rate_per_second: float | None = None,
    reason: str | None = None,
) -> Call[NewKey]:
    """Make a key with these scopes (`submit`, `read`, `operate`, `admin`): for `tenant`, or with
    None another of the kind that asks (a platform's key makes a platform key). The answer is the
    only time the key is shown.

    It is good until `expires` (a time, or seconds from now), from `networks` (CIDRs), for submits
    to `destinations` (registered names, servers), and for `rate_per_second` requests; what is left
    out is as with the key that asks."""
    fields = {
        "scopes": list(scopes),
        "label": label,
        "tenant": tenant,
        "expiresAt": _moment(expires),
        "networks": list(networks) or None,
        "destinations": list(destinations) or None,
        "ratePerSecond": rate_per_second,
    }
    return _post(_json(NewKey), "keys", fields=_given(fields), reason=reason)


def rotate_key(
    id: str,
    *,
    overlap_s: float | None = None,
    force: bool = False,
    expires: Moment | None = None,
    reason: str | None = None,
) -> Call[NewKey]:
    """Give a key a new text, which the answer alone shows; the text before is good for `overlap_s`
    more (default a day). `expires` (a time, or seconds from now) is its new end. Raises NotFound,
    and Conflict while an earlier overlap lasts, unless `force`, which ends that one."""
    fields = {"overlap": overlap_s, "force": force or None, "expiresAt": _moment(expires)}
    return _post(_json(NewKey), "keys", id, "rotate", fields=_given(fields), reason=reason)


def revoke_key(id: str, *, reason: str | None = None) -> Call[None]:
    """Make a key worthless at once. Raises NotFound."""
    return _delete("keys", id, reason=reason)


def secrets(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Secret]]:
    """Return the signing secrets that sign or signed, oldest first, without their values."""
    return _get(_page(Secret), "secrets", params=_paging(cursor, limit))


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
    return _post(_json(RevealedSecret), "secrets", "rotate", fields=_given(fields), reason=reason)


def reveal_secret(
    *, id: str | None = None, destination: str | None = None, reason: str | None = None
) -> Call[RevealedSecret]:
    """Return a signing secret with its value: one by id, or the current one of a destination or of
    the tenant. That you looked is recorded. Raises ValidationFailed without a reason where the
    service wants one."""
    fields = _given({"id": id, "destination": destination})
    return _post(_json(RevealedSecret), "secrets", "reveal", fields=fields, reason=reason)


def reencrypt(*, reason: str | None = None) -> Call[Reencryption]:
    """Have everything that the service stores be sealed with its newest key, while it works; for
    platform keys. Raises Conflict where the service has no keys."""
    return _post(_json(Reencryption), "secrets", "reencrypt", reason=reason)


def reencryption() -> Call[Reencryption]:
    """How far that is, for platform keys."""
    return _get(_json(Reencryption), "secrets", "reencrypt")


def stored_secrets(
    *, platform: bool = False, cursor: str | None = None, limit: int | None = None
) -> Call[Page[StoredSecret]]:
    """Return what is told of the secrets that are stored for headers, of the tenant or of the
    platform, in the order of their names: never the secrets."""
    params = (*_flags(platform=platform), *_paging(cursor, limit))
    return _get(_page(StoredSecret), "stored-secrets", params=params)


def store_secret(
    name: str, secret: str, *, platform: bool = False, reason: str | None = None
) -> Call[StoredSecret]:
    """Store a secret by name, or replace the one of this name. A destination's header names it:
    `secret:NAME` or `Bearer secret:NAME`. `platform`: for the platform itself. Raises Conflict
    where the service has no keys to encrypt it with."""
    return Call(
        method="PUT",
        path=_path("stored-secrets", name),
        read=_json(StoredSecret),
        repeatable=True,
        params=_flags(platform=platform),
        headers=_reason(reason),
        body=json.dumps({"secret": secret}).encode(),
        content_type=JSON,
    )


def forget_secret(
    name: str, *, force: bool = False, platform: bool = False, reason: str | None = None
) -> Call[None]:
    """Delete a stored secret. Raises NotFound, and Conflict while a destination's header names it,
    unless `force`: then nothing is sent there until it is stored again."""
    return Call(
        method="DELETE",
        path=_path("stored-secrets", name),
        read=_read_nothing,
        repeatable=False,
        params=_flags(platform=platform, force=force),
        headers=_reason(reason),
    )


def tenants(*, cursor: str | None = None, limit: int | None = None) -> Call[Page[Tenant]]:
    """Every tenant there is."""
    return _get(_page(Tenant), "tenants", params=_paging(cursor, limit))


def get_tenant(name: str) -> Call[TenantDetail]:
    """One tenant with its limits and what it uses of them, for platform keys. Raises NotFound."""
    return _get(_json(TenantDetail), "tenants", name)


def change_tenant(
    name: str, changes: Mapping[str, Any], *, reason: str | None = None
) -> Call[TenantDetail]:
    """Change the named fields, as `PATCH` takes them: `label storageBytesMax queueMax
    ratePerSecond`; None puts one back to the service's default. Raises NotFound and
    ValidationFailed."""
    return Call(
        method="PATCH",
        path=_path("tenants", name),
        read=_json(TenantDetail),
        repeatable=True,
        headers=_reason(reason),
        body=json.dumps(changes).encode(),
        content_type=JSON,
    )


def erase_tenant(name: str, *, reason: str | None = None) -> Call[TenantDetail | None]:
    """Erase a tenant with all that it has, in the background; None where there is none of this
    name any more."""
    return Call(
        method="DELETE",
        path=_path("tenants", name),
        read=_read_erasing,
        repeatable=True,
        headers=_reason(reason),
    )


def audit_page(
    filters: AuditFilters | None = None, *, cursor: str | None = None, limit: int | None = None
) -> Call[Page[AuditEntry]]:
    """Up to `limit` (1 to 500) entries of the audit trail that match, newest first, from `cursor`
    on."""
    params = (*_audit_params(filters or {}).items(), *_paging(cursor, limit))
    return _get(_page(AuditEntry), "audit", params=params)


def stats(*, all_tenants: bool = False) -> Call[Stats]:
    """Count by state, oldest pending, rates: of the tenant, or with a platform key of all."""
    return _get(_json(Stats), "stats", params=(("all", "true"),) if all_tenants else ())


# --- what they send ---


def _get(read: _Read[T], *parts: str, params: _Params = ()) -> Call[T]:
    return Call(method="GET", path=_path(*parts), read=read, repeatable=True, params=params)


def _post(
    read: _Read[T],
    *parts: str,
    fields: Mapping[str, Any] | None = None,
    repeatable: bool = False,
    reason: str | None = None,
) -> Call[T]:
    return Call(
        method="POST",
        path=_path(*parts),
        read=read,
        repeatable=repeatable,
        headers=_reason(reason),
        body=b"" if fields is None else json.dumps(fields, default=dict).encode(),
        content_type=None if fields is None else JSON,
    )


def _delete(*parts: str, reason: str | None = None) -> Call[None]:
    return Call(
        method="DELETE",
        path=_path(*parts),
        read=_read_nothing,
        repeatable=False,
        headers=_reason(reason),
    )


def _path(*parts: str) -> str:
    """Return the path with these parts. Raises NotFound for an id that would make another one."""
    for part in parts:
        if part in ("", ".", ".."):
            raise NotFound("NOT_FOUND", f"nothing has the id {part!r}", status=404)
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _paging(cursor: str | None, limit: int | None) -> _Params:
    return tuple(_given({"cursor": cursor, "limit": None if limit is None else str(limit)}).items())


def _flags(**flags: bool) -> _Params:
    return tuple((name, "true") for name, given in flags.items() if given)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _filter_params(filters: Filters) -> dict[str, str]:
    """Return `filters` under the API's names. Raises ValueError for what cannot be one of them."""
    params: dict[str, str] = {}
    for name, value in filters.items():
        if name == "tags":
            params |= _tag_params(value)
        elif name not in _FILTERS:
            raise ValueError(f"there is no filter {name!r}, only: {', '.join(_FILTERS)}, tags")
        elif isinstance(value, datetime) and name in ("since", "until"):
            params[_FILTERS[name]] = _time(value)
        elif isinstance(value, str):
            params[_FILTERS[name]] = str(value)
        else:
            raise ValueError(f"the filter {name} cannot be {value!r}: leave it out, or give a text")
    return params


def _audit_params(filters: AuditFilters) -> dict[str, str]:
    """Return `filters` under the API's names. Raises ValueError for what cannot be one of them."""
    params: dict[str, str] = {}
    for name, value in filters.items():
        if name == "all_tenants" and isinstance(value, bool):
            params |= {"all": "true"} if value else {}
        elif name not in ("action", "actor", "target", "since", "until"):
            raise ValueError(f"the audit trail has no filter {name!r}, or not {value!r}")
        elif isinstance(value, datetime) and name in ("since", "until"):
            params[name] = _time(value)
        elif isinstance(value, str):
            params[name] = value
        else:
            raise ValueError(f"the filter {name} cannot be {value!r}: leave it out, or give a text")
    return params


def _tag_params(tags: object) -> dict[str, str]:
    pairs: Mapping[Any, Any] = tags if isinstance(tags, Mapping) else {"": tags}
    for key, value in pairs.items():
        if not (isinstance(key, str) and key and isinstance(value, str)):
            raise ValueError(f"the filter tags maps texts to texts, and cannot be {tags!r}")
    return {f"tag.{key}": value for key, value in pairs.items()}


def _time(moment: datetime) -> str:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _moment(given: Moment | None) -> str | float | None:
    """Return a time as text; one without a zone is taken as UTC."""
    if not isinstance(given, datetime):
        return given
    return (given if given.tzinfo else given.replace(tzinfo=UTC)).isoformat()


def _key(idempotency_key: str | None) -> _Params:
    if idempotency_key is None:
        return ()
    if not _VISIBLE.fullmatch(idempotency_key):
        raise ValueError("an idempotency key is 1 to 255 visible ASCII characters")
    return (("Idempotency-Key", idempotency_key),)


def _reason(reason: str | None) -> _Params:
    if not reason:
        return ()
    fault = reason_fault(reason)
    if fault is not None:
        raise ValueError(f"a reason {fault}")
    return (("Postback-Reason", reason),)


def one_value(text: bytes) -> bytes:
    """Return JSON text as it is. Raises ValueError unless it is exactly one value: behind it, it
    would be read as fields of ours."""
    try:
        text.decode()
        msgspec.json.decode(text, type=msgspec.Raw)  # looked through, not built
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"its bytes are not exactly one JSON value ({error})") from None
    return text


def _dumps(value: Any, default: Callable[[Any], Any] | None = None) -> bytes:
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=default
    )
    return text.encode()


# --- how they read ---


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a batch's response: a submit's response, or an error with its HTTP status."""

    line: int
    status: int | str
    error: str | None = None


def _json(type: type[T]) -> _Read[T]:
    """Return what reads one JSON value of this type."""

    def read(response: Response) -> T:
        return _decode(response.body, type, response.status)

    return read


def _page(type: type[T]) -> _Read[Page[T]]:
    """Return what reads `{"data": […], "nextCursor": …}`."""
    return _json(Page[type])  # type: ignore[valid-type]  # a type at run time


def _read_payload(response: Response) -> Payload:
    """Return the payload, whose digest the service sends with it. Raises BadAnswer."""
    if response.headers.get("x-payload-sha256") != sha256(response.body).hexdigest():
        raise BadAnswer.of(response.status, "the digest of a payload is missing, or another one's")
    kind = response.headers.get("content-type", "application/octet-stream")
    return Payload(body=response.body, content_type=kind)


def _read_nothing(response: Response) -> None:
    """Raise BadAnswer unless the service says that it is done, for which it has no other words."""
    if response.status != NO_CONTENT or response.body:
        raise BadAnswer.of(response.status, "it should be 204, without a body")


def _read_erasing(response: Response) -> TenantDetail | None:
    if response.status == NO_CONTENT:
        return None
    return _decode(response.body, TenantDetail, response.status)


def _read_lines(response: Response, count: int) -> list[LineResult]:
    """Read a batch's response: a line for each of the `count` that were sent, in their order."""
    lines = [line for line in response.body.split(b"\n") if line.strip()]
    results = [_read_line(line, response.status) for line in lines]
    if [result.n for result in results] != list(range(1, count + 1)):
        raise BadAnswer(
            "BAD_ANSWER",
            f"{count} callbacks were sent and {len(results)} answered: send them again",
            status=response.status,
        )
    return results


def _read_line(line: bytes, status: int) -> LineResult:
    shape = _decode(line, _Line, status)
    if shape.error is None:
        return LineResult(n=shape.line, submitted=_decode(line, Submitted, status), raw=line)
    code = shape.status if isinstance(shape.status, int) else status
    error = error_from(code, _decode(line, dict[str, Any], status))
    return LineResult(n=shape.line, error=error, raw=line)


def _decode(body: bytes, type: type[T], status: int) -> T:
    try:
        return msgspec.json.decode(body, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadAnswer.of(status, error) from None
