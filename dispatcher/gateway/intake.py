"""Accept a job, whatever way it came in: validate it, see whether it came before, look for room,
store it. Nothing here knows of a request or a response."""

import re
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from hashlib import sha256
from typing import Final, Protocol

from dispatcher import ids, wire
from dispatcher.access import Access
from dispatcher.audit import MakeEntry
from dispatcher.blobs.spool import Spool
from dispatcher.gateway.figures import FigureBook
from dispatcher.intake import (
    IntakeError,
    Invalid,
    NotReady,
    PayloadTooLarge,
    check_content_type,
    check_key,
    check_length,
    check_name,
    check_tags,
    check_url,
    custom_headers,
    not_before_ms,
    read_policy,
)
from dispatcher.jobs import estimates, told
from dispatcher.jobs.blobs import INPUT_INLINE_BYTES_MAX, Blob, CannotKeep, What
from dispatcher.jobs.endpoint import Endpoint, EndpointRules
from dispatcher.jobs.rules import FUNCTION
from dispatcher.jobs.schema import check_body
from dispatcher.jobs.values import (
    CallbackTarget,
    Dialect,
    JobOptions,
    JobPriority,
    NewJob,
    SubmittedJob,
)
from dispatcher.metrics import Metrics
from dispatcher.policy import load
from dispatcher.quotas import QueueFull, Quotas, queue_full
from dispatcher.settings import Settings
from dispatcher.store.errors import (
    DestinationDisabled,
    JobQueueFull,
    KeyReused,
    NotFound,
    StoreFull,
    StoreUnavailable,
)
from dispatcher.store.rows import ROW_BYTES
from dispatcher.store.store import Store
from dispatcher.values import Headers
from receiver.base.clock import now_ms
from receiver.base.value import frozen

LIMIT_S_MIN: Final = 1.0
LIMIT_S_MAX: Final = 604_800.0
TTL_S_MIN: Final = 10.0
TTL_S_MAX: Final = 2_592_000.0
_SIZES_MS: Final = 5_000
_SIZES_KNOWN_MAX: Final = 10_000
_FUNCTION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class UnknownEndpoint(IntakeError):
    """There is no such endpoint, or none for this tenant: which of both is not told."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no endpoint {name[:64]}")
        self.name = name


@frozen
class JobSubmission:
    """A job as somebody hands it in, not validated. `body` is its input, byte for byte. Its end is
    told at one of `callback_url` and `destination` (a registered name), or at neither. `headers`
    are those of the caller that the upstream may see, `callback_headers` are added to the callback.
    `limit_s` is for how long it may run, `ttl_s` by when it must have ended. `input` is the value
    of the body's member of that name, where that alone is what the endpoint's schema is of.
    `secret` is for the upstream, or the callback, alone: see `NewJob`; `sync` and `waited` are
    `JobOptions`'. Of an input that is kept already there is a `blob` instead of its `body`, and the
    `id` that the job is to have."""

    endpoint: str
    body: bytes = field(repr=False)
    id: str | None = None
    blob: Blob | None = None
    input: bytes | None = field(default=None, repr=False)
    content_type: str
    dialect: Dialect = "v1"
    priority: JobPriority = "normal"
    tags: Mapping[str, str] = field(default_factory=dict)
    function: str | None = None
    headers: Headers = ()
    callback_url: str | None = None
    destination: str | None = None
    policy: wire.PolicyChoice | None = None
    callback_headers: Mapping[str, str] | None = None
    idempotency_key: str | None = None
    not_before: str | float | None = None  # an ISO-8601 time, or seconds from now
    limit_s: float | None = None
    ttl_s: float | None = None
    sync: bool = False
    waited: bool = False
    secret: str | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """How many bytes its input has."""
        return len(self.body) if self.blob is None else self.blob.size

    @property
    def digest(self) -> bytes:
        """The SHA-256 of its input."""
        return sha256(self.body).digest() if self.blob is None else self.blob.sha256


class Jobs(Protocol):
    """What takes accepted jobs on: stores them and runs them."""

    ready: bool

    def endpoint(self, name: str) -> Endpoint | None:
        """Return an endpoint as this process knows it, None where there is none of this name."""

    async def submit(self, new: NewJob) -> SubmittedJob:
        """Store a job, and start it where its endpoint is idle."""


class JobIntake:
    """The one way in for jobs."""

    def __init__(
        self,
        settings: Settings,
        access: Access,
        quotas: Quotas,
        store: Store,
        jobs: Jobs,
        figures: FigureBook,
        metrics: Metrics,
        *,
        spool: Callable[[str, str, What], Spool] | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._settings = settings
        self._access = access
        self._quotas = quotas
        self._store = store
        self._jobs = jobs
        self._figures = figures
        self._metrics = metrics
        self._spool = spool
        self._clock = clock
        self._output_sizes: dict[tuple[str, str], tuple[int, int]] = {}  # until when, and how many

    async def accept(
        self, tenant: str, submission: JobSubmission, entry: MakeEntry | None = None
    ) -> SubmittedJob:
        """Store the job durably and start it as soon as it may; one that came before is answered
        with the first. `entry` makes the audit trail's, where the tenant comes into being.

        Raises UnknownEndpoint, Invalid and PayloadTooLarge for what can never be taken; NotReady
        and QuotaError for what may be taken later; and of the store's errors KeyReused,
        DestinationDisabled, LimitReached, TenantErasing and StoreUnavailable.
        """
        rules = self.rules(tenant, submission.endpoint)
        new = new_job(submission, tenant, rules, self._settings, self._clock())
        if self._spool is None or len(new.body) <= INPUT_INLINE_BYTES_MAX:
            return await self._accept(tenant, new, rules, entry)
        spool = self._spool(new.id, tenant, "input")
        try:
            return await self._accept(tenant, await _kept(new, spool), rules, entry)
        finally:
            await spool.end()

    async def _accept(
        self, tenant: str, new: NewJob, rules: EndpointRules, entry: MakeEntry | None
    ) -> SubmittedJob:
        self.check_ready()
        await self._access.ensure_tenant(tenant, entry)
        target = new.options.callback
        if target is not None and target.destination_name is not None:
            await self._check_destination(tenant, target.destination_name)
        size = stored_bytes(new)
        await self._check_output(tenant, new.endpoint, rules)
        try:
            with self._quotas.room(tenant, size, of_job=True):
                submitted = await self._jobs.submit(new)
        except StoreFull:
            raise self._quotas.storage_full(tenant, size) from None
        except NotFound:  # removed a moment ago
            raise UnknownEndpoint(new.endpoint) from None
        except KeyReused as reused:
            raise KeyReused(ids.spelled(reused.first_id, new.dialect)) from None
        except JobQueueFull as full:
            raise await self.queue_full(full) from None
        result = "duplicate" if submitted.duplicate else "accepted"
        self._metrics.job_submitted(submitted.endpoint, result)
        return submitted

    def rules(self, tenant: str, name: str) -> EndpointRules:
        """Return the rules of an endpoint that takes this tenant's jobs. Raises UnknownEndpoint."""
        endpoint = self._jobs.endpoint(name)
        if endpoint is None or not endpoint.rules.admits(tenant):
            raise UnknownEndpoint(name)
        return endpoint.rules

    def check_ready(self) -> None:
        """Raise NotReady unless jobs are taken."""
        if not self._jobs.ready:
            raise NotReady

    async def _check_destination(self, tenant: str, name: str) -> None:
        """Raise Invalid or DestinationDisabled where a job's end could not be told."""
        try:
            destination = await self._store.get_destination(tenant, name)
        except NotFound:
            reason = "no destination of this name is registered"
            raise Invalid("destination", name, reason) from None
        if destination.disabled_reason is not None:
            raise DestinationDisabled(f"the destination {name} is disabled")

    async def _check_output(self, tenant: str, endpoint: str, rules: EndpointRules) -> None:
        """Raise StorageFull where there is no room for what this job is likely to bring, by what
        the tenant's jobs have brought there. Nothing is looked up while the most that may come has
        room."""
        left = self._quotas.output_bytes_left(tenant)
        if left >= rules.output_max:
            return
        at_ms, key = self._clock(), (tenant, endpoint)
        until_ms, size = self._output_sizes.get(key, (0, 0))
        if until_ms <= at_ms:
            found = await self._store.jobs.output_sizes(tenant, endpoint, limit=estimates.SIZES_MAX)
            size = estimates.output_size(found, rules.expected_output) or 0
            if len(self._output_sizes) >= _SIZES_KNOWN_MAX:
                self._output_sizes.clear()
            self._output_sizes[key] = (at_ms + _SIZES_MS, size)
        if size:
            self._quotas.check_output(tenant, size)

    async def queue_full(self, full: JobQueueFull) -> QueueFull:
        """Return the error for a queue that is full, with what is measured of its endpoint."""
        endpoint = self._jobs.endpoint(full.endpoint)
        rate = 0.0
        if endpoint is not None:
            rate = (await self._figures.estimates(endpoint)).drain_rate
        over = full.queued - full.max + 1
        return queue_full(full.queued, over=over, drain_rate=rate, what="jobs")


async def _kept(new: NewJob, spool: Spool) -> NewJob:
    """Return a job whose long input is kept outside of its row. Raises StoreUnavailable."""
    spool.content_type = new.content_type
    try:
        await spool.write(new.body)
        return replace(new, body=b"", blob=await spool.finish())
    except CannotKeep:
        raise StoreUnavailable("its input cannot be stored now; try again") from None


def stored_bytes(new: NewJob) -> int:
    """Return how many bytes a job takes up, until its output comes."""
    return ROW_BYTES + new.size


def new_job(
    submission: JobSubmission, tenant: str, rules: EndpointRules, settings: Settings, now_ms: int
) -> NewJob:
    """Return the value to store; pure but for the id that it makes. Raises Invalid and
    PayloadTooLarge."""
    _check(submission, rules, settings)
    key, limit_s, ttl_s = submission.idempotency_key, submission.limit_s, submission.ttl_s
    due_ms = not_before_ms(submission.not_before, now_ms)
    waits_ms = (now_ms if due_ms is None else due_ms) + round(rules.queue_timeout * 1000)
    ends_ms = waits_ms if ttl_s is None else now_ms + round(ttl_s * 1000)
    return NewJob(
        id=submission.id or ids.new_job_id(now_ms),
        tenant=tenant,
        endpoint=submission.endpoint,
        dialect=submission.dialect,
        priority=submission.priority,
        body=submission.body,
        blob=submission.blob,
        content_type=submission.content_type,
        options=JobOptions(
            function=_function(submission.function, rules),
            headers=submission.headers,
            callback=_target(submission, tenant, rules, settings),
            sync=submission.sync,
            waited=submission.waited,
            limit_s=limit_s,
            ttl_s=ttl_s,
        ),
        secret=submission.secret,
        tags=tuple(submission.tags.items()),
        key=None if key is None else ids.job_key(tenant, key),
        content=b"" if key is None else _content(submission),
        created_ms=now_ms,
        not_before_ms=due_ms,
        expires_ms=min(waits_ms, ends_ms),
    )


def _content(submission: JobSubmission) -> bytes:
    return ids.job_content(
        submission.endpoint,
        submission.function,
        submission.callback_url or submission.destination,
        submission.digest,
        submission.content_type,
    )


def _target(
    submission: JobSubmission, tenant: str, rules: EndpointRules, settings: Settings
) -> CallbackTarget | None:
    """Return where the end is told, as the request says or else the endpoint. Raises Invalid."""
    url, name = submission.callback_url, submission.destination
    if url is None and name is None:
        name = rules.callback.destination
    headers = custom_headers(submission.callback_headers, settings.signature_header)
    policy_text, _ = read_policy(submission.policy)
    if url is None and name is None:
        if headers or policy_text is not None:
            reason = "there is no callback: give its URL or a destination"
            raise Invalid("policy" if policy_text else "headers", None, reason)
        return None
    policy_text = told.callback_policy(policy_text, rules, submission.dialect)
    lane = ids.destination_id(tenant, name=name) if url is None else ids.lane_id(tenant, url)
    return CallbackTarget(
        url=url,
        destination_name=name if url is None else None,
        destination=ids.destination_of(lane),
        lane=lane,
        headers=headers,
        policy_text=policy_text,
        policy=None if policy_text is None else load(policy_text),
    )


def _function(name: str | None, rules: EndpointRules) -> str | None:
    """Return the function that is called. Raises Invalid for one that the endpoint has not."""
    if name is None:
        return rules.functions[0] if FUNCTION in rules.url and rules.functions else None
    if not _FUNCTION.fullmatch(name):
        raise Invalid("function", name, "1 to 64 letters, digits or any of . _ -")
    if FUNCTION not in rules.url and name not in rules.functions:
        raise Invalid("function", name, f"the endpoint has {', '.join(rules.functions)}")
    return name


def _check(submission: JobSubmission, rules: EndpointRules, settings: Settings) -> None:
    if submission.size > rules.input_max:
        raise PayloadTooLarge(rules.input_max)
    check_content_type(submission.content_type)
    check_tags(submission.tags)
    if rules.schema is not None:
        root = "" if submission.input is None else "input"
        fault = check_body(rules.schema, submission.input or submission.body, root)
        if fault is not None:
            raise Invalid(fault.field or "body", fault.value, fault.reason)
    if submission.idempotency_key is not None:
        check_key(submission.idempotency_key)
    if submission.callback_url is not None:
        if submission.destination is not None:
            raise Invalid("callbackUrl", None, "give either callbackUrl or destination")
        check_length("callbackUrl", submission.callback_url, 1, wire.URL_CHARS_MAX)
        check_url("callbackUrl", submission.callback_url, settings.allow_networks)
    elif submission.destination is not None:
        check_name("destination", submission.destination)
    limit_max = LIMIT_S_MAX if rules.timeout_max is None else rules.timeout_max
    _check_seconds("timeout", submission.limit_s, LIMIT_S_MIN, limit_max)
    _check_seconds("ttl", submission.ttl_s, TTL_S_MIN, TTL_S_MAX)


def _check_seconds(field: str, given: float | None, s_min: float, s_max: float) -> None:
    if given is not None and not s_min <= given <= s_max:
        raise Invalid(field, given, f"must be from {s_min:g} to {s_max:g} seconds")
