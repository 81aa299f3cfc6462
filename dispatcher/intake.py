"""Accept a callback, whatever way it came in: validate it, see whether it came before, look for
room, store it. Nothing here knows of a request or a response."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Final

import msgspec

from dispatcher import headers as header_rules
from dispatcher import ids, wire
from dispatcher.access import Access
from dispatcher.audit import MakeEntry
from dispatcher.engine.engine import Engine
from dispatcher.headers import HeaderError
from dispatcher.metrics import Metrics
from dispatcher.policy import GONE, PRESETS, Policy, dump
from dispatcher.quotas import Quotas
from dispatcher.sending.egress import Egress
from dispatcher.settings import Settings
from dispatcher.store.errors import NotFound, StoreFull
from dispatcher.store.rows import stored_bytes
from dispatcher.values import (
    DestinationHeaders,
    Headers,
    NewCallback,
    Priority,
    SecretRef,
    Submitted,
)
from receiver.base.clock import now_ms, parse_iso
from receiver.base.completion import (
    HEADER_CHARS_MAX,
    HEADERS_MAX,
    JOB_ID_CHARS_MAX,
    STATUS_CHARS_MAX,
    UNFIT_TEXT,
    ends,
    names_two,
)
from receiver.base.settings import Network
from receiver.signature import RUN_MAX

JSON_TYPE: Final = "application/json"
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
_CONTENT_TYPE: Final = re.compile(r"[\x20-\x7e]{1,255}")
_NAME: Final = re.compile(wire.NAME.strip("^$"))  # a $ would let a line end through
# What frames the message, belongs to the connection, or is made by the sender.
_REFUSED: Final = frozenset({
    "host", "content-length", "content-type", "content-encoding", "transfer-encoding",
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "expect",
    "accept-encoding", "user-agent", "cookie",
})  # fmt: skip
_REFUSED_PREFIXES: Final = ("webhook-", "svix-", "x-postback-", "proxy-")


class IntakeError(Exception):
    """A callback that is not taken; the message is fit to show."""


class Invalid(IntakeError):
    """A value that its field (a dotted path, in the wire's names) cannot have."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.value = value
        self.reason = reason


class PayloadTooLarge(IntakeError):
    """The payload has more than `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(
            f"the payload is larger than {bytes_max:,} bytes, which DISPATCHER_PAYLOAD_BYTES_MAX "
            "allows"
        )
        self.bytes_max = bytes_max


class NotReady(IntakeError):
    """The service starts or stops."""

    def __init__(self) -> None:
        super().__init__("not taking callbacks now: starting or stopping")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A callback as somebody hands it in, not validated. `body` is delivered byte for byte; one of
    `callback_url` and `destination` (a registered name) says where to."""

    job_id: str
    body: bytes = field(repr=False)
    content_type: str = JSON_TYPE
    callback_url: str | None = None
    destination: str | None = None
    job_status: str | None = None
    is_end: bool = True  # of its job, where it has no `job_status`
    priority: Priority = "normal"
    tags: Mapping[str, str] = field(default_factory=dict)
    policy: wire.PolicyChoice | None = None
    headers: Mapping[str, str] | None = None
    idempotency_key: str | None = None
    run: int | None = None
    not_before: str | float | None = None  # an ISO-8601 time, or seconds from now


class Intake:
    """The one way in for callbacks."""

    def __init__(
        self,
        settings: Settings,
        access: Access,
        quotas: Quotas,
        engine: Engine,
        metrics: Metrics,
        *,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._settings = settings
        self._access = access
        self._quotas = quotas
        self._engine = engine
        self._metrics = metrics
        self._clock = clock

    async def accept(
        self, tenant: str, submission: Submission, entry: MakeEntry | None = None
    ) -> Submitted:
        """Store the callback durably and start to deliver it; one that came before is answered
        with the first. `entry` makes the audit trail's, where the tenant comes into being.

        Raises Invalid and PayloadTooLarge for what can never be taken; NotReady and QuotaError for
        what may be taken later; and of the store's errors KeyReused, DestinationDisabled,
        LimitReached, TenantErasing and StoreUnavailable.
        """
        new = new_callback(submission, tenant, self._settings, self._clock())
        self.check_ready()
        await self._access.ensure_tenant(tenant, entry)
        size = stored_bytes(new)
        try:
            with self._quotas.room(tenant, size):
                submitted = await self._engine.submit(new)
        except StoreFull:
            raise self._quotas.storage_full(tenant, size) from None
        except NotFound:
            reason = (
                "no destination of this name is registered; `dispatcher destinations list` shows "
                "those that are"
            )
            raise Invalid("destination", new.destination_name, reason) from None
        self._metrics.submitted("duplicate" if submitted.duplicate else "accepted")
        return submitted

    def check_ready(self) -> None:
        """Raise NotReady unless callbacks are taken."""
        if not self._engine.ready:
            raise NotReady


# --- from what is handed in to what is stored ---


class _Peek(msgspec.Struct):
    status: msgspec.Raw = msgspec.Raw(b"null")


_PEEK: Final = msgspec.json.Decoder(_Peek)
_TEXT: Final = msgspec.json.Decoder(str)
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_WHITESPACE: Final = b" \t\r\n"
_STATUS: Final = "status"
_ESCAPED_LETTER: Final = re.compile(rb"\\u00[67]")


def from_wire(shape: wire.Submit, idempotency_key: str | None) -> Submission:
    """Return the submission that a JSON document makes: its payload's bytes, as they stood there.
    Raises Invalid for a `status` in the payload that is no job status."""
    body, job_status, is_end = bytes(shape.payload), shape.job_status, True
    if job_status is None:
        job_status, is_end = payload_status(body)
    return Submission(
        job_id=shape.job_id,
        body=body,
        callback_url=shape.callback_url,
        destination=shape.destination,
        job_status=job_status,
        is_end=is_end,
        priority=shape.priority,
        tags=shape.tags,
        policy=shape.policy,
        headers=shape.headers,
        idempotency_key=idempotency_key,
        run=shape.run,
        not_before=shape.not_before,
    )


def payload_status(body: bytes) -> tuple[str | None, bool]:
    """Return `status` of a JSON payload, where it is an object that has one and it is a text; an
    empty one counts as none. And whether the job has ended, where there is none: one that is no
    text says nothing of it. Raises Invalid for one that is no job status, or is there twice."""
    if not body.startswith(b"{"):
        return None, True
    # Parsers silently keep the last of two; a key may be written with escapes.
    is_suspect = body.count(b'"status"') > 1 or _ESCAPED_LETTER.search(body) is not None
    if is_suspect and may_repeat_a_key(body) and names_two(body, _STATUS):
        raise Invalid("payload.status", None, "there twice; name a jobStatus beside it")
    raw = bytes(_PEEK.decode(body).status)
    if not raw.startswith(b'"'):
        return None, raw == b"null"
    status = _TEXT.decode(raw)
    if len(status) > STATUS_CHARS_MAX:
        reason = f"longer than {STATUS_CHARS_MAX} characters"
        raise Invalid("payload.status", status, f"{reason}; name a jobStatus beside it")
    return status or None, True


def may_repeat_a_key(body: bytes) -> bool:
    """Whether a JSON object may have a key of its own twice; False only where it has not.

    A parsed object accounts for every byte of its text that is not whitespace: keys, values and
    punctuation. What a duplicate's first value took is then left over. Escaped keys also leave
    bytes over.
    """
    members = _MEMBERS.decode(body)
    accounted = 1 + max(1, len(members))  # braces and commas
    for key, value in members.items():
        accounted += 3 + len(key.encode()) + _solid(bytes(value))  # quotes and colon
    return accounted != _solid(body)


def _solid(text: bytes) -> int:
    return len(text.translate(None, _WHITESPACE))


def new_callback(
    submission: Submission, tenant: str, settings: Settings, now_ms: int
) -> NewCallback:
    """Return the value to store; pure but for the id that it makes. Raises Invalid and
    PayloadTooLarge."""
    _check(submission, settings)
    policy_text, policy = read_policy(submission.policy)
    name, url, key = submission.destination, submission.callback_url, submission.idempotency_key
    lane = ids.destination_id(tenant, name=name) if url is None else ids.lane_id(tenant, url)
    destination, status = ids.destination_of(lane), submission.job_status
    digest = sha256(submission.body).digest()
    return NewCallback(
        id=ids.new_id("cb", now_ms),
        tenant=tenant,
        job_id=submission.job_id,
        job_status=submission.job_status,
        priority=submission.priority,
        destination=destination,
        lane=lane,
        destination_name=name,
        url=url,
        body=submission.body,
        body_sha256=digest,
        content_type=submission.content_type,
        headers=custom_headers(submission.headers, settings.signature_header),
        tags=tuple(submission.tags.items()),
        policy_text=policy_text,
        policy=policy,
        key=ids.natural_key(
            tenant,
            submission.job_id,
            submission.job_status,
            url or name or "",
            digest,
            submission.run,
            is_end=submission.is_end if status is None else ends(status),
        )
        if key is None
        else ids.explicit_key(tenant, key),
        explicit_key=key is not None,
        content=ids.content_digest(
            submission.job_id,
            submission.job_status,
            destination,
            url,
            digest,
            submission.content_type,
            submission.run,
        ),
        created_ms=now_ms,
        run=submission.run,
        not_before_ms=not_before_ms(submission.not_before, now_ms),
    )


def not_before_ms(given: str | float | None, now_ms: int) -> int | None:
    """Return when it may first go, None for now or a time that has passed. Raises Invalid."""
    if given is None:
        return None
    reason = f"a time, or seconds from now, at most {wire.NOT_BEFORE_S_MAX} s ahead"
    try:
        at_ms = parse_iso(given) if isinstance(given, str) else now_ms + round(given * 1000)
    except (ValueError, OverflowError):
        raise Invalid("notBefore", given, reason) from None
    if at_ms - now_ms > wire.NOT_BEFORE_S_MAX * 1000 or (not isinstance(given, str) and given < 0):
        raise Invalid("notBefore", given, reason)
    return at_ms if at_ms > now_ms else None


def _check(submission: Submission, settings: Settings) -> None:
    if len(submission.body) > settings.payload_bytes_max:
        raise PayloadTooLarge(settings.payload_bytes_max)
    if (submission.callback_url is None) == (submission.destination is None):
        raise Invalid("callbackUrl", None, "give either callbackUrl or destination")
    if submission.callback_url is not None:
        check_length("callbackUrl", submission.callback_url, 1, wire.URL_CHARS_MAX)
        check_url("callbackUrl", submission.callback_url, settings.allow_networks)
    elif submission.destination is not None:
        check_name("destination", submission.destination)
    check_text("jobId", submission.job_id, 1, JOB_ID_CHARS_MAX)
    if submission.job_status is not None:
        check_text("jobStatus", submission.job_status, 1, STATUS_CHARS_MAX)
    if submission.run is not None and not 1 <= submission.run <= RUN_MAX:
        raise Invalid("run", submission.run, f"a number from 1 to {RUN_MAX}")
    check_tags(submission.tags)
    check_content_type(submission.content_type)
    if submission.idempotency_key is not None:
        check_key(submission.idempotency_key)


def check_tags(tags: Mapping[str, str]) -> None:
    """Raise Invalid for what cannot be somebody's tags."""
    if len(tags) > wire.TAGS_MAX:
        raise Invalid("tags", len(tags), f"at most {wire.TAGS_MAX} tags")
    for tag, value in tags.items():
        check_text("tags", tag, 1, wire.TAG_CHARS_MAX)
        check_text(f"tags.{tag}", value, 0, wire.TAG_VALUE_CHARS_MAX)


def check_content_type(content_type: str) -> None:
    """Raise Invalid for what cannot be sent on as a content type."""
    if content_type != JSON_TYPE and not _CONTENT_TYPE.fullmatch(content_type):
        raise Invalid("Content-Type", None, "must be 1 to 255 printable ASCII characters")


def check_key(key: str) -> None:
    """Raise Invalid for what cannot be an `Idempotency-Key`."""
    if not _KEY.fullmatch(key):
        raise Invalid("Idempotency-Key", key, "must be 1 to 255 visible ASCII characters")


def check_text(field: str, text: str, chars_min: int, chars_max: int) -> None:
    """Raise Invalid unless the text has so many characters, none of which is a control."""
    check_length(field, text, chars_min, chars_max)
    if UNFIT_TEXT.search(text):
        raise Invalid(field, None, "must not hold control characters")


def check_length(field: str, text: str, chars_min: int, chars_max: int) -> None:
    """Raise Invalid unless the text has so many characters."""
    if not chars_min <= len(text) <= chars_max:
        raise Invalid(field, text, f"must have {chars_min} to {chars_max} characters")


# --- fields with rules of their own, of callbacks and of destinations ---


def check_name(field: str, name: str) -> None:
    """Raise Invalid for what is no name of a destination or tenant."""
    if not _NAME.fullmatch(name):
        raise Invalid(field, name, "a name is 1 to 64 letters, digits or any of . _ -")


def check_url(field: str, url: str, allow_networks: tuple[Network, ...]) -> None:
    """Raise Invalid for a URL that no delivery could go to."""
    reason = _url_fault(url, allow_networks)
    if reason is not None:
        raise Invalid(field, url, reason)


@lru_cache(maxsize=4_096)  # the URLs of busy destinations come again and again
def _url_fault(url: str, allow_networks: tuple[Network, ...]) -> str | None:
    return Egress(allow_networks).check_url(url)


def read_policy(choice: wire.PolicyChoice | None) -> tuple[str | None, Policy | None]:
    """Return what the store keeps of a choice, a preset's name or the policy as text, and the
    policy itself; None for the default. Raises Invalid where the fields contradict each other."""
    if choice is None:
        return None, None
    if isinstance(choice, str):
        return choice, PRESETS[choice]
    if choice.delays is not msgspec.UNSET and choice.exponential is not msgspec.UNSET:
        raise Invalid("policy", None, "give delays or exponential, not both")
    codes = choice.acknowledge
    if codes != "2xx" and GONE in codes:
        raise Invalid("policy.acknowledge", GONE, "410 always means gone")
    if not isinstance(choice.retry, str) and GONE in choice.retry:
        raise Invalid("policy.retry", GONE, "410 always means gone")
    grown = choice.exponential
    policy = Policy(
        attempts=choice.attempts,
        delays=() if choice.delays is msgspec.UNSET else tuple(choice.delays),
        jitter=choice.jitter,
        timeout=choice.timeout,
        acknowledge="2xx" if isinstance(codes, str) else frozenset(codes),
        max_age=choice.max_age,
        turned_away=choice.turned_away,
        retry="all" if isinstance(choice.retry, str) else frozenset(choice.retry),
        **({} if grown is msgspec.UNSET else msgspec.structs.asdict(grown)),
    )
    return dump(policy), policy


def custom_headers(headers: Mapping[str, str] | None, signature_header: str) -> Headers:
    """Return the headers that a callback adds to its delivery.

    Raises Invalid for names that are no tokens, belong to the connection or are ours, for values
    with anything but visible ASCII, spaces and tabs (others have no agreed encoding), and for those
    that name a stored secret, which is for a destination's: who may submit may not read it.
    """
    checked = []
    for name, value in destination_headers(headers, signature_header):
        if isinstance(value, SecretRef):
            hint = header_rules.literal_hint("secret")
            reason = f"a stored secret is for a destination's headers; {hint}"
            raise Invalid(f"headers.{name}", None, reason)
        checked.append((name, value))
    return tuple(checked)


def destination_headers(
    headers: Mapping[str, str] | None, signature_header: str
) -> DestinationHeaders:
    """Return the headers that a destination adds to its deliveries, those among them that name a
    stored secret as such. Raises Invalid."""
    if not headers:
        return ()
    if len(headers) > HEADERS_MAX:
        raise Invalid("headers", None, f"at most {HEADERS_MAX} headers")
    seen: set[str] = set()
    read = []
    for name, value in headers.items():
        _check_header(name, value, signature_header.lower())
        if name.lower() in seen:
            raise Invalid(f"headers.{name}", None, "there twice, in different case")
        seen.add(name.lower())
        read.append((name, header_value(f"headers.{name}", value)))
    return tuple(read)


def header_value(field: str, value: str) -> str | SecretRef:
    """Return what a header's value says, a stored secret that it names as such. Raises Invalid."""
    try:
        read = header_rules.read_value(value, "secret")
    except HeaderError as error:
        raise Invalid(field, None, str(error)) from None
    return read if isinstance(read, str) else SecretRef(read.name, read.prefix)


def check_header_value(field: str, value: str, chars_max: int) -> None:
    """Raise Invalid for what cannot be a header's value, or a part of one."""
    try:
        header_rules.check_value(value, chars_max)
    except HeaderError as error:
        raise Invalid(field, None, str(error)) from None


def _check_header(name: str, value: str, signature_header: str) -> None:
    field = f"headers.{name}"
    try:
        header_rules.check_name(name, _REFUSED, (*_REFUSED_PREFIXES, signature_header))
    except HeaderError as error:
        raise Invalid(field, None, str(error)) from None
    check_header_value(field, value, HEADER_CHARS_MAX)
