"""Rows of jobs as values: the columns that verbs read and write, by name, once for every
database."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from dispatcher import policy as policies
from dispatcher.dialects.callbacks import SIGNS_CALLBACK
from dispatcher.jobs.blobs import Blob
from dispatcher.jobs.values import (
    CLASS_OF,
    CallbackTarget,
    ClaimedJob,
    Dialect,
    Job,
    JobAttempt,
    JobOptions,
    JobPriority,
    NewJob,
)
from dispatcher.store import rows
from dispatcher.store.errors import CannotUnseal
from dispatcher.store.jobs import blobs
from dispatcher.store.sealing import INPUTS, JOB_OPTIONS, JOB_SECRETS
from dispatcher.store.tx import Row, Tx
from dispatcher.values import Unopened

Tags = tuple[tuple[str, str], ...]
PRIORITY_OF: Final[Mapping[int, JobPriority]] = {number: one for one, number in CLASS_OF.items()}
# Later than any time there is, and an integer that every database and JSON holds.
NEVER_MS: Final = 9_000_000_000_000_000


def queue_id(endpoint: str, tenant: str) -> str:
    """Return the id of a tenant's queue at an endpoint, whose name holds no slash."""
    return f"{endpoint}/{tenant}"


def tenant_of(queue: str) -> str:
    """Return the tenant of a queue."""
    return queue.partition("/")[2]


# What a job takes up beside its input and its output.
ROW_BYTES: Final = 1_024
STORED_BYTES: Final = (
    f"sum({ROW_BYTES} + coalesce(output_bytes, 0) "
    "+ CASE WHEN pruned IN (0, 2) THEN input_bytes ELSE 0 END "
    "+ coalesce((SELECT sum(bytes) FROM chunks WHERE job = jobs.id), 0) "
    "+ coalesce((SELECT bytes FROM job_progress WHERE job = jobs.id), 0))"
)
"""What jobs take up; with what callbacks do it is compared with what a tenant may store."""

# --- columns, with their types on PostgreSQL ---

NEW_JOB: Final = {
    "id": "text",
    "tenant": "text",
    "endpoint": "text",
    "queue": "text",
    "dialect": "text",
    "class": "bigint",
    "epoch": "bigint",
    "ticket": "bigint",
    "state": "text",
    "claim": "bigint",
    "process": "text",
    "due_ms": "bigint",
    "created_ms": "bigint",
    "queued_ms": "bigint",
    "started_ms": "bigint",
    "expires_ms": "bigint",
    "ends_ms": "bigint",
    "options": "text",
    "secret": "text",
    "lane": "text",
    "key": "bytea",
    "content": "bytea",
    "input_bytes": "bigint",
}
SETTLED: Final = {
    "state": "text",
    "reason": "text",
    "calls": "bigint",
    "tries": "bigint",
    "turned_away": "bigint",
    "due_ms": "bigint",
    "expires_ms": "bigint",
    "ended_ms": "bigint",
    "status_code": "bigint",
    "error": "text",
    "callback": "text",
    "output_bytes": "bigint",
    "output_type": "text",
    "chunks": "bigint",
    "releasing": "bigint",
}
ENDED: Final = {
    "state": "text",
    "reason": "text",
    "ended_ms": "bigint",
    "releasing": "bigint",
    "error": "text",
    "callback": "text",
}
REQUEUED: Final = {"interruptions": "bigint", "expires_ms": "bigint"}
OUTPUT: Final = {
    "job": "text",
    "run": "bigint",
    "content_type": "text",
    "headers": "text",
    "body": "bytea",
    "kid": "text",
    "ended_ms": "bigint",
    "blob": "text",
}
ATTEMPT: Final = {
    "job": "text",
    "run": "bigint",
    "n": "bigint",
    "started_ms": "bigint",
    "duration_ms": "float8",
    "outcome": "text",
    "status_code": "bigint",
    "error": "text",
    "process": "text",
}
USAGE: Final = {
    "tenant": "text",
    "endpoint": "text",
    "day": "bigint",
    "runs": "bigint",
    "failed": "bigint",
    "run_ms": "bigint",
    "cost": "float8",
    "bytes": "bigint",
}
ADDED: Final = ", ".join(
    f"{name} = {{table}}.{name} + excluded.{name}"
    for name in USAGE
    if name not in ("tenant", "endpoint", "day")
)
"""How rows of usage are added to those of `table` that there are."""
# `p` is the job's input.
CLAIMED: Final = """
j.id, j.tenant, j.endpoint, j.dialect, j.class, j.run, j.claim, j.calls, j.tries, j.turned_away,
j.interruptions, p.body, p.content_type, p.kid, j.options, j.created_ms, j.queued_ms, j.started_ms,
j.expires_ms, j.ends_ms, j.secret, p.blob
"""
_JOB: Final = (
    "id",
    "tenant",
    "endpoint",
    "dialect",
    "state",
    "reason",
    "class",
    "run",
    "calls",
    "options",
    "created_ms",
    "queued_ms",
    "due_ms",
    "started_ms",
    "ended_ms",
    "expires_ms",
    "status_code",
    "error",
    "callback",
    "output_bytes",
    "output_type",
    "releasing",
    "epoch",
    "ticket",
)
JOB: Final = ", ".join(_JOB)
_JOB_ATTEMPT: Final = tuple(name for name in ATTEMPT if name != "job")
JOB_ATTEMPT: Final = ", ".join(_JOB_ATTEMPT)


# --- options ---


def options_text(tx: Tx, new: NewJob) -> str:
    """Return what is stored of a request beside its body: its options and tags, sealed where they
    hold headers."""
    options, target = new.options, new.options.callback
    parts: dict[str, Any] = {}
    if options.function is not None:
        parts["function"] = options.function
    if options.headers:
        parts["headers"] = options.headers
    if options.sync:
        parts["sync"] = True
    if options.waited:
        parts["waited"] = True
    if options.limit_s is not None:
        parts["limit"] = options.limit_s
    if options.ttl_s is not None:
        parts["ttl"] = options.ttl_s
    if new.tags:
        parts["tags"] = new.tags
    if target is not None:
        parts["callback"] = [
            target.url,
            target.destination_name,
            target.destination,
            target.lane,
            target.policy_text,
        ]
        if target.headers:
            parts["callback_headers"] = target.headers
    text = json.dumps(parts) if parts else "{}"
    return rows.seal_marked(tx, text, JOB_OPTIONS, new.id, new.tenant)


def read_options(tx: Tx, stored: str, job: str, tenant: str) -> tuple[JobOptions, Tags]:
    """Return a job's options and tags. Raises CannotUnseal."""
    if stored == "{}":
        return JobOptions(), ()
    parts = json.loads(rows.open_text(tx, stored, JOB_OPTIONS, job, tenant))
    target = parts.get("callback")
    options = JobOptions(
        function=parts.get("function"),
        headers=_pairs(parts.get("headers", ())),
        callback=None if target is None else _target(target, parts.get("callback_headers", ())),
        sync=parts.get("sync", False),
        waited=parts.get("waited", False),
        limit_s=parts.get("limit"),
        ttl_s=parts.get("ttl"),
    )
    return options, _pairs(parts.get("tags", ()))


def _target(parts: list[Any], headers: list[list[str]]) -> CallbackTarget:
    url, name, destination, lane, policy = parts
    return CallbackTarget(
        url=url,
        destination_name=name,
        destination=destination,
        lane=lane,
        headers=_pairs(headers),
        policy_text=policy,
        policy=None if policy is None else policies.load(policy),
    )


def _pairs(found: list[list[str]]) -> Tags:
    return tuple((one[0], one[1]) for one in found)


# --- secrets ---

SECRET_GONE: Final = ""
"""Stands where a job had a secret that went when it completed."""


def seal_secret(tx: Tx, new: NewJob) -> str | None:
    """Return what is stored of a new job's secret, which is never plain. Raises NoKeyring."""
    if new.secret is None:
        return None
    return rows.seal_secret(tx, new.secret, JOB_SECRETS, new.id, new.tenant)


def open_secret(tx: Tx, stored: str | None, job: str, tenant: str) -> str | None:
    """Return a job's secret, None where it has none, or none any more. Raises CannotUnseal."""
    return rows.open_text(tx, stored, JOB_SECRETS, job, tenant) if stored else None


def callbacks_secret(tx: Tx, job: Job, stored: str | None) -> str | None:
    """Return what signs the callback of a job; what its upstream alone sees is not opened. Raises
    CannotUnseal."""
    if job.dialect not in SIGNS_CALLBACK or job.options.callback is None:
        return None
    return open_secret(tx, stored, job.id, job.tenant)


# --- values ---


def job(tx: Tx, row: Row) -> Job:
    """Return a row of JOB as a value; one that cannot be opened says so, and stops no other."""
    named = dict(zip(_JOB, row, strict=True))
    named["priority"] = PRIORITY_OF[named.pop("class")]
    id = named["id"]
    try:
        named["options"], named["tags"] = read_options(tx, named["options"], id, named["tenant"])
    except CannotUnseal as error:
        named["options"], named["unopened"] = JobOptions(), error.unopened
        sql = "SELECT key, value FROM job_tags WHERE job = ? ORDER BY key"
        named["tags"] = tuple((key, value) for key, value in tx.all(sql, id))
    named["releasing"] = bool(named["releasing"])
    return Job(**named)


def attempt(row: Row) -> JobAttempt:
    """Return a row of JOB_ATTEMPT as a value."""
    named = dict(zip(_JOB_ATTEMPT, row, strict=True))
    return JobAttempt(**named)


def claimed(tx: Tx, row: Row, epoch: int, claimed_ms: int) -> ClaimedJob:
    """Return a row of CLAIMED as a value; one that cannot be opened says so, and stops no other.
    `epoch` is its endpoint's, and `claimed_ms` now by this process's clock."""
    (
        id,
        tenant,
        endpoint,
        dialect,
        class_number,
        run,
        claim,
        calls,
        tries,
        turned_away,
        interruptions,
        body,
        content_type,
        kid,
        stored,
        created_ms,
        queued_ms,
        started_ms,
        expires_ms,
        ends_ms,
        secret,
        blob_id,
    ) = row
    options, tags, secret, unopened = _opened(tx, id, tenant, dialect, stored, secret)
    place = INPUTS.place(id, tenant)
    body, blob, input_unopened = _opened_input(tx, kid, body, place, blob_id)
    return ClaimedJob(
        id=id,
        tenant=tenant,
        endpoint=endpoint,
        dialect=dialect,
        priority=PRIORITY_OF[class_number],
        run=run,
        claim=claim,
        calls=calls,
        tries=tries,
        turned_away=turned_away,
        interruptions=interruptions,
        body=body,
        content_type=content_type,
        options=options,
        secret=secret,
        tags=tags,
        created_ms=created_ms,
        queued_ms=tx.here(queued_ms),
        started_ms=tx.here(started_ms),
        claimed_ms=claimed_ms,
        expires_ms=tx.here(expires_ms),
        ends_ms=None if ends_ms is None else tx.here(ends_ms),
        epoch=epoch,
        unopened=unopened or input_unopened,
        blob=blob,
    )


def _opened_input(
    tx: Tx, kid: str | None, stored: bytes, place: tuple[str, str, str, str], blob_id: str | None
) -> tuple[bytes, Blob | None, Unopened | None]:
    """Return a job's input, or what it is kept as where that is elsewhere; or why neither can be
    had."""
    try:
        body = open_body(tx, kid, stored, place)
        blob = None if blob_id is None else blobs.get(tx, blob_id, place[1])
    except CannotUnseal as error:
        return b"", None, error.unopened
    if blob is None and blob_id is not None:
        message = "what its input is kept as is not there"
        return body, None, Unopened(lack="damage", message=message)
    return body, blob, None


def _opened(
    tx: Tx, id: str, tenant: str, dialect: Dialect, stored: str, sealed: str | None
) -> tuple[JobOptions, Tags, str | None, Unopened | None]:
    """Return the options, the tags and the secret of a job; what can be opened of them, and why the
    rest cannot."""
    options = JobOptions()
    tags: Tags = ()
    try:
        options, tags = read_options(tx, stored, id, tenant)
        return options, tags, open_secret(tx, sealed, id, tenant), None
    except CannotUnseal as error:
        if dialect in SIGNS_CALLBACK:  # its end is told once that can be signed
            options = replace(options, callback=None)
        return options, tags, None, error.unopened


# --- what an upstream said ---


def fit_text(said: str | None) -> str | None:
    """Return a text without what no database, or not all, can hold: NUL, and what was no UTF-8 in a
    header. So nothing that an upstream says keeps its job from being settled."""
    if said is None or (said.isascii() and "\0" not in said):
        return said
    return said.replace("\0", "\ufffd").encode(errors="replace").decode()


# --- bodies ---


def seal_body(tx: Tx, body: bytes, place: tuple[str, str, str, str]) -> tuple[bytes, str | None]:
    """Return a body as it is stored, and the name of the key that seals it."""
    if not tx.seals_payloads or tx.ring is None:
        return body, None
    return tx.ring.seal(body, *place), tx.ring.kid


def open_body(tx: Tx, kid: str | None, stored: bytes, place: tuple[str, str, str, str]) -> bytes:
    """Return a stored body. Raises CannotUnseal."""
    return stored if kid is None else rows.open_sealed(tx, kid, stored, place)
