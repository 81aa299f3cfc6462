"""Signing and verifying callbacks, in both schemes. The standard library is all it needs.

Two schemes travel side by side:

* `X-Webhook-Signature: sha256=<hex>`: HMAC-SHA256 over the body, keyed with the secret as
  UTF-8 text, prefix and all. It covers the body alone.
* Standard Webhooks: `webhook-id`, `webhook-timestamp` and `webhook-signature`, the last a
  space-separated list of `v1,<base64>`: HMAC-SHA256 over `id.timestamp.body`, keyed with the
  base64-decoded secret. It also binds the id and the time of sending. Senders that name them
  `svix-id`, `svix-timestamp` and `svix-signature` are understood: these count where no
  `webhook-*` header is there.

Which job a message is about, also where its body does not say so, stands in `X-Postback-Job-Id`,
`X-Postback-Job-Status` and `X-Postback-Job-Run`: UTF-8, percent-encoded except for
`A-Z a-z 0-9 - _ ~`. They count under a third token, `v1j,<base64>` in `webhook-signature`:
HMAC-SHA256 over `v1j.id.timestamp.Job-Id.Job-Status.Job-Run`, the values exactly as they stand in
the headers, an absent one empty, keyed as v1 is. A v1j counts only beside a valid v1 by the same
secret; verifiers that do not know it skip it.

A secret of ours is `whsec_` and the base64 of 24-64 random bytes; one string serves both schemes.
Secrets of other platforms work too: without the prefix the whole string is taken as base64 for v1
(the rule of the public libraries), and a string that is no base64 serves `sha256=` only.

This file may be copied into another project as it is.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote, unquote_to_bytes

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[object, object]]
Require: TypeAlias = Literal["any", "sha256", "standard"]
Scheme: TypeAlias = Literal["sha256", "standard", "cerebrium", "token"]
Reason: TypeAlias = Literal[
    "missing",  # the request does not carry what is required
    "malformed",  # a header, the body or an argument has not the right shape
    "ambiguous",  # a signature header is there twice
    "mismatch",  # well-formed, but not made with one of the secrets over these bytes
    "stale",  # validly signed, but too far from now, in the past or in the future
    "no_secret",  # the secrets handed to verify() cannot verify anything
]

SHA256_HEADER: Final = "X-Webhook-Signature"
PREVIOUS_SUFFIX: Final = "-Previous"
ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"
STANDARD_HEADERS: Final = (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)
SVIX_HEADERS: Final = ("svix-id", "svix-timestamp", "svix-signature")  # their name before that
JOB_ID_HEADER: Final = "X-Postback-Job-Id"
JOB_STATUS_HEADER: Final = "X-Postback-Job-Status"
JOB_RUN_HEADER: Final = "X-Postback-Job-Run"
JOB_HEADERS: Final = (JOB_ID_HEADER, JOB_STATUS_HEADER, JOB_RUN_HEADER)

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the public prefix, not a secret
SECRET_BYTES: Final = 32  # within the 24-64 that Standard Webhooks asks for
TOLERANCE_S: Final = 300  # the public libraries' window, to either side of now
HEADER_CHARS_MAX: Final = 4096  # room for some 80 signatures; servers cap a header line at 8 KiB
HEADERS_MAX: Final = 1000  # ten times what common servers let through
SECRETS_MAX: Final = 64  # each costs one HMAC over the whole body
RUN_MAX: Final = 999_999_999  # how often a job may be run again: fits any database's integer

_NUMBER: Final = (int, float)
_STANDARD_NAMES: Final = tuple(name.encode() for name in STANDARD_HEADERS)
_SVIX_NAMES: Final = tuple(name.encode() for name in SVIX_HEADERS)
_SHA256_VALUE: Final = re.compile(r"sha256=[0-9a-f]{64}")
# No full stop: it separates id, timestamp and body, so an id with one could be read two ways.
MESSAGE_ID: Final = re.compile(r"[!-\-/-~]{1,256}")
TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
MILLISECONDS: Final = re.compile(r"[0-9]{13}")
_V1_VALUE: Final = re.compile(r"v1,[A-Za-z0-9+/]{43}=")
_V1J_VALUE: Final = re.compile(r"v1j,[A-Za-z0-9+/]{43}=")
_V1J_PREFIX: Final = "v1j,"
_JOB_NAMES: Final = tuple(name.lower().encode() for name in JOB_HEADERS)
# As signed: without a full stop, so that three of them in a row can be read in one way only.
_JOB_VALUES: Final = re.compile(r"[A-Za-z0-9_~%-]*\.[A-Za-z0-9_~%-]*\.[A-Za-z0-9_~%-]*")
_ENCODED: Final = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_~-]*")
_RUN: Final = re.compile(r"[1-9][0-9]{0,8}")
# RFC 2104: of SHA-256.
_BLOCK_BYTES: Final = 64
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))


class SignatureError(Exception):
    """The request is not verified. `reason` is for programs, the message for people.

    Neither ever holds a secret or the signature that would have been right.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason: Reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The job that a message is about: its id, its status as the platform spells it, and which run
    of it that was (1 to `RUN_MAX`). What is None, or an empty text, is not said."""

    id: str | None = None
    status: str | None = None
    run: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What the signatures vouch for, besides the body.

    `message_id` and `timestamp` (Unix seconds of this attempt) are there only under a valid v1
    signature: `sha256=` does not cover them. `job` is there only under a v1j beside it.
    """

    schemes: tuple[Scheme, ...]
    message_id: str | None = None
    timestamp: int | None = None
    job: Job | None = None


def generate_secret() -> str:
    """Return a fresh signing secret: `whsec_` and the base64 of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(SECRET_BYTES)).decode("ascii")


def v1_key(secret: str) -> bytes:
    """Return the HMAC key of the v1 scheme: the base64 after `whsec_`, or of the whole string.

    Padding may be missing; anything else that is not standard base64 raises ValueError, where
    the public libraries would skip it and sign with a shorter key than the operator believes.
    """
    text = secret.removeprefix(SECRET_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError("the secret is not base64, which the v1 signature needs")
    return key


def sign_sha256(secret: str, body: bytes) -> str:
    """Return `sha256=<hex>` over the body. An empty secret raises ValueError."""
    return "sha256=" + hmac.digest(text_key(secret), body, hashlib.sha256).hex()


def sign_v1(secret: str, msg_id: str, timestamp_s: int, body: bytes) -> str:
    """Return `v1,<base64>` over `msg_id.timestamp_s.body`.

    ValueError: the secret is not base64; the id is not 1-256 visible ASCII characters without a
    full stop; or the timestamp (Unix seconds) is not 0 to 999999999999.
    """
    signed = _sent_as(msg_id, timestamp_s).encode("ascii") + body
    return _v1(hmac.digest(v1_key(secret), signed, hashlib.sha256))


def sign_v1j(secret: str, msg_id: str, timestamp_s: int, job: Job) -> str:
    """Return `v1j,<base64>` over `v1j.msg_id.timestamp_s.` and the job's three headers.

    ValueError: as `sign_v1` and `job_headers`.
    """
    return _sign(v1_key(secret), _sent_as(msg_id, timestamp_s), job_headers(job))


class Signer:
    """One prepared secret. Who signs often makes it once: checking, decoding and starting an HMAC
    take longer than the HMAC of a small body. Raises ValueError for an empty secret; one that is
    not base64 is not `standard`."""

    __slots__ = ("_sha256", "_v1")

    def __init__(self, secret: str) -> None:
        self._sha256 = Mac(text_key(secret))
        try:
            self._v1: Mac | None = Mac(v1_key(secret))
        except ValueError:
            self._v1 = None

    @property
    def is_standard(self) -> bool:
        """Whether it can make a v1."""
        return self._v1 is not None

    def sha256(self, body: bytes) -> str:
        """Return what `sign_sha256` does."""
        return "sha256=" + self._sha256.digest(body).hex()

    def standard(
        self, msg_id: str, timestamp_s: int, body: bytes, job: Mapping[str, str]
    ) -> tuple[str, str]:
        """Return the v1 and the v1j, given the `job_headers`. Raises ValueError as `sign_v1`."""
        if self._v1 is None:
            raise ValueError("the secret is not base64, which the v1 signature needs")
        sent_as = _sent_as(msg_id, timestamp_s)
        v1 = self._v1.digest(sent_as.encode("ascii") + body)
        return _v1(v1), _v1j(self._v1.digest(_stated(sent_as, job)))


class Sha256Signature:
    """What `sign_sha256` returns, of a body that comes in parts."""

    def __init__(self, secret: str) -> None:
        """Raise ValueError for an empty secret."""
        self._hmac = hmac.new(text_key(secret), None, hashlib.sha256)

    def update(self, part: bytes) -> None:
        """Take the next part of the body."""
        self._hmac.update(part)

    def text(self) -> str:
        """Return `sha256=<hex>`."""
        return "sha256=" + self._hmac.hexdigest()


class StandardSignature:
    """What `sign_standard` returns, of a body that comes in parts."""

    def __init__(self, key: bytes, msg_id: str, timestamp_s: int) -> None:
        """Raise ValueError as `sign_v1`."""
        self._key = key
        self._sent_as = _sent_as(msg_id, timestamp_s)
        self._hmac = hmac.new(key, self._sent_as.encode("ascii"), hashlib.sha256)

    def update(self, part: bytes) -> None:
        """Take the next part of the body."""
        self._hmac.update(part)

    def texts(self, job: Mapping[str, str]) -> tuple[str, str]:
        """Return the v1 and the v1j, given the `job_headers`."""
        return _v1(self._hmac.digest()), _sign(self._key, self._sent_as, job)


def _sign(key: bytes, sent_as: str, job: Mapping[str, str]) -> str:
    return _v1j(hmac.digest(key, _stated(sent_as, job), hashlib.sha256))


def _stated(sent_as: str, job: Mapping[str, str]) -> bytes:
    get, (id, status, run) = job.get, JOB_HEADERS
    return f"v1j.{sent_as}{get(id, '')}.{get(status, '')}.{get(run, '')}".encode("ascii")


def job_headers(job: Job) -> dict[str, str]:
    """Return the headers that say which job it is, without those that it leaves open.

    ValueError: a text that is not Unicode (half a surrogate pair) or is over `HEADER_CHARS_MAX`
    long as a header, or a run that is not 1 to `RUN_MAX`.
    """
    if job.run is not None and not 1 <= job.run <= RUN_MAX:
        raise ValueError(f"a run is a number from 1 to {RUN_MAX}")
    headers = {}
    if job.id:
        headers[JOB_ID_HEADER] = _encoded(job.id)
    if job.status:
        headers[JOB_STATUS_HEADER] = _encoded(job.status)
    if job.run is not None:
        headers[JOB_RUN_HEADER] = str(job.run)
    return headers


def signed_headers(
    body: bytes,
    secrets: Sequence[str],
    *,
    message_id: str,
    timestamp_s: int,
    sha256_header: str = SHA256_HEADER,
    job: Job | None = None,
) -> dict[str, str]:
    """Return the headers of both schemes. The first secret is current, a second one the previous.

    While two secrets are valid, `webhook-signature` lists both, and the previous secret's
    `sha256=` goes into `X-Webhook-Signature-Previous`. No secret raises ValueError. With `job`,
    its headers are there too, signed by each secret.
    """
    if not 1 <= len(secrets) <= 2:
        raise ValueError("sign with one secret, or with the current and the previous one")
    headers = {sha256_header: sign_sha256(secrets[0], body)}
    if len(secrets) == 2:
        headers[sha256_header + PREVIOUS_SUFFIX] = sign_sha256(secrets[1], body)
    headers[ID_HEADER] = message_id
    headers[TIMESTAMP_HEADER] = str(timestamp_s)
    signatures = [sign_v1(secret, message_id, timestamp_s, body) for secret in secrets]
    if job is not None:
        signatures += [sign_v1j(secret, message_id, timestamp_s, job) for secret in secrets]
        headers |= job_headers(job)
    headers[SIGNATURE_HEADER] = " ".join(signatures)
    return headers


class Keys:
    """Prepared secrets. Who verifies often makes them once and gives them to `verify` in place
    of the secrets: checking, decoding and starting an HMAC with each takes longer than the HMAC
    of a small body. Raises SignatureError, reason `no_secret`, when one is unusable."""

    __slots__ = ("sha256", "v1")

    def __init__(self, secrets: str | Iterable[str]) -> None:
        active = active_secrets(secrets)
        self.sha256 = [_started(text_key(secret)) for secret in active]
        self.v1 = [_started(key) for key in _v1_keys(active)]


class Fields:
    """The headers of a request by lower-case name. Raises SignatureError, reason `malformed`,
    for what is neither a mapping nor pairs.

    What a signature means may not depend on which of two headers a server looks at: one that is
    there twice cannot be read.
    """

    __slots__ = ("_fields", "_repeated")

    def __init__(self, headers: Headers) -> None:
        self._fields: dict[bytes, object] = {}
        self._repeated: set[bytes] = set()
        try:
            pairs: Any = headers if type(headers) is list else _pairs(headers)
            self._fields = dict(pairs)
            if len(self._fields) < len(pairs) or not _are_plain(self._fields):
                self._read(pairs)
        except Exception:  # an object of the caller's may raise anything
            message = "headers are a mapping, or pairs of name and value"
            raise SignatureError("malformed", message) from None
        if len(pairs) > HEADERS_MAX:
            raise SignatureError("malformed", f"there are more than {HEADERS_MAX} headers")

    def _read(self, pairs: list[tuple[object, object]]) -> None:
        self._fields.clear()
        for given, value in pairs[: HEADERS_MAX + 1]:
            name = _name(given)
            if name in self._fields:
                self._repeated.add(name)
            self._fields[name] = value

    def has(self, name: bytes) -> bool:
        """Whether the header is there, once or more often."""
        return name in self._fields

    def get(self, name: bytes) -> str | None:
        """Return the header's value, as ASCII text of bounded length; None where it is not there.
        Raises SignatureError."""
        value = self._fields.get(name)
        if value is None and name not in self._fields:
            return None
        if name in self._repeated:
            raise SignatureError("ambiguous", f"the header {_text(name)} is there more than once")
        if type(value) is bytes and len(value) <= HEADER_CHARS_MAX and value.isascii():
            return value.decode("ascii").strip(" \t")  # as nearly all are
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if not isinstance(text, str) or not text.isascii():
            raise SignatureError("malformed", f"the header {_text(name)} is not ASCII text")
        if len(text) > HEADER_CHARS_MAX:
            message = f"the header {_text(name)} is over {HEADER_CHARS_MAX} long"
            raise SignatureError("malformed", message)
        return text.strip(" \t")


def verify(
    body: bytes,
    headers: Headers | Fields,
    secrets: str | Iterable[str] | Keys,
    *,
    now_s: float,
    tolerance_s: float = TOLERANCE_S,
    require: Require = "any",
    sha256_header: str = SHA256_HEADER,
) -> Verified:
    """Verify the raw body of a request, or raise SignatureError and nothing else.

    Every scheme that the request carries must hold: one valid signature does not excuse a wrong
    one beside it, and any of the three `webhook-*` headers, or of `svix-*` where there is none of
    these, makes v1 obligatory. `require`
    additionally names the scheme that must be there. A signature may come from any of `secrets`;
    each is tried, in constant time. `headers` is a mapping, or pairs as in ASGI; names match in
    any case. `now_s` is Unix time; `webhook-timestamp` may differ by `tolerance_s` to
    either side. A v1j is no scheme of its own: one that does not hold counts for nothing.
    """
    check_arguments(now_s, tolerance_s, require, sha256_header)
    return check(
        raw_body(body),
        headers if isinstance(headers, Fields) else Fields(headers),
        secrets if isinstance(secrets, Keys) else Keys(secrets),
        now_s=now_s,
        tolerance_s=tolerance_s,
        require=require,
        sha256_header=sha256_header,
    )


def check(
    body: bytes,
    fields: Fields,
    keys: Keys,
    *,
    now_s: float,
    tolerance_s: float,
    require: Require,
    sha256_header: str,
) -> Verified:
    """Verify as `verify` does, with arguments that are prepared already."""
    name, previous = _sha256_names(sha256_header)
    values = [value for value in (fields.get(name), fields.get(previous)) if value is not None]
    message_id, timestamp, signatures = map(fields.get, _STANDARD_NAMES)
    if message_id is timestamp is signatures is None:
        message_id, timestamp, signatures = map(fields.get, _SVIX_NAMES)
    has_standard = not (message_id is timestamp is signatures is None)
    _check_presence(require, bool(values), has_standard, sha256_header)

    if values:
        _check_sha256(body, values, keys)
    if not has_standard:
        return Verified(schemes=("sha256",))
    if message_id is None or timestamp is None or signatures is None:
        raise SignatureError("missing", "a webhook-* header is missing beside its siblings")
    signers = _check_standard(body, message_id, timestamp, signatures, keys)
    check_window(int(timestamp), now_s, tolerance_s)
    job = None
    if _V1J_PREFIX in signatures:
        job = _verified_job(fields, f"{message_id}.{timestamp}.", signatures, signers)
    return Verified(
        schemes=("sha256", "standard") if values else ("standard",),
        message_id=message_id,
        timestamp=int(timestamp),
        job=job,
    )


def check_arguments(now_s: object, tolerance_s: object, require: object, header: object) -> None:
    """Raise SignatureError, reason `malformed`, for what the arguments of `verify` cannot be."""
    if not isinstance(now_s, _NUMBER) or not isinstance(tolerance_s, _NUMBER):
        raise SignatureError("malformed", "now_s and tolerance_s are numbers of seconds")
    if not isinstance(require, str) or require not in ("any", "sha256", "standard"):
        raise SignatureError("malformed", "require is one of: any, sha256, standard")
    if not isinstance(header, str) or not header:
        raise SignatureError("malformed", "sha256_header is the name of a header")


def raw_body(body: object) -> bytes:
    """Return the body of a request. Raises SignatureError for what is not bytes."""
    if not isinstance(body, (bytes, bytearray)):
        raise SignatureError("malformed", "the body must be the raw bytes of the request")
    return bytes(body)


def active_secrets(secrets: Any) -> list[str]:
    """Return all secrets, or SignatureError: one unusable secret hides a broken configuration."""
    try:
        given = [secrets] if isinstance(secrets, str) else secrets
        active: list[str] = list(islice(given, SECRETS_MAX + 1))
    except Exception:  # an object of the caller's may raise anything
        raise SignatureError("no_secret", "secrets is a string or a list of strings") from None
    if not 1 <= len(active) <= SECRETS_MAX:
        raise SignatureError("no_secret", f"give 1 to {SECRETS_MAX} secrets")
    for secret in active:
        try:
            text_key(secret)
        except ValueError:
            raise SignatureError("no_secret", "a secret is empty or not text") from None
    return active


def text_key(secret: object) -> bytes:
    """Return the HMAC key of the sha256= scheme. An empty one would let anybody sign."""
    if not isinstance(secret, str) or not secret.removeprefix(SECRET_PREFIX).strip():
        raise ValueError("the secret is empty or not text")
    return secret.encode()


def _pairs(headers: Any) -> list[tuple[object, object]]:
    """Return the pairs of a mapping, or of any iterable, as far as we count."""
    items = getattr(headers, "items", None)
    return list(islice(items() if callable(items) else headers, HEADERS_MAX + 1))


def _are_plain(names: Iterable[Any]) -> bool:
    """Whether all are bytes in lower case, as in ASGI. Tested together: a step of Python's for each
    header takes longer than an HMAC."""
    try:
        return b"".join(names).islower()
    except TypeError:
        return False


def _name(name: object) -> bytes:
    """Return it in lower case, but only that of ASCII: a letter of another script may have an ASCII
    one as its lower case."""
    if isinstance(name, str):
        name = name.encode("ascii", "backslashreplace")
    return name.lower() if isinstance(name, bytes) else b""


def _text(name: bytes) -> str:
    return name.decode("ascii", "backslashreplace")


@lru_cache(maxsize=64)
def _sha256_names(header: str) -> tuple[bytes, bytes]:
    return _name(header), _name(header + PREVIOUS_SUFFIX)


def _check_presence(require: Require, has_sha256: bool, has_standard: bool, header: str) -> None:
    if require == "sha256" and not has_sha256:
        raise SignatureError("missing", f"the header {header} is required")
    if require == "standard" and not has_standard:
        raise SignatureError("missing", "the webhook-* headers of Standard Webhooks are required")
    if not has_sha256 and not has_standard:
        raise SignatureError("missing", "the request carries no signature")


def _check_sha256(body: bytes, values: list[str], keys: Keys) -> None:
    expected = ["sha256=" + digest(key, body).hex() for key in keys.sha256]
    equal = any_equal(expected, values)
    if len(values) == 1 and equal:
        return  # so it is well-formed
    if not all(map(_SHA256_VALUE.fullmatch, values)):
        message = "the signature is not sha256= and 64 lower-case hex digits"
        raise SignatureError("malformed", message)
    if not equal:
        raise SignatureError("mismatch", "the sha256= signature does not match the body")


def _check_standard(
    body: bytes, message_id: str, timestamp: str, signatures: str, keys: Keys
) -> list[hmac.HMAC]:
    """Return the keys that signed."""
    if not MESSAGE_ID.fullmatch(message_id):
        raise SignatureError("malformed", "webhook-id is not 1-256 visible characters without dots")
    if not TIMESTAMP.fullmatch(timestamp):
        form = "in milliseconds" if MILLISECONDS.fullmatch(timestamp) else "not a number"
        message = f"webhook-timestamp is {form}: it must be whole seconds since 1970"
        raise SignatureError("malformed", message)
    # Other versions may stand beside v1 (v1a is asymmetric); they vouch for nothing here.
    values = [value for value in signatures.split(" ") if _V1_VALUE.fullmatch(value)]
    if not values:
        raise SignatureError("malformed", "webhook-signature holds no v1 signature")
    if not keys.v1:
        raise SignatureError("no_secret", "no secret is base64, which the v1 signature needs")
    signed = f"{message_id}.{timestamp}.".encode("ascii") + body
    signers = [key for key in keys.v1 if any_equal([_v1(digest(key, signed))], values)]
    if not signers:
        raise SignatureError("mismatch", "webhook-signature does not match id, timestamp and body")
    return signers


def _verified_job(
    fields: Fields, sent_as: str, signatures: str, signers: list[hmac.HMAC]
) -> Job | None:
    """Return the job that a v1j by one of these keys vouches for; None where none does."""
    given = [value for value in signatures.split(" ") if _V1J_VALUE.fullmatch(value)]
    values = [fields.get(name) or "" for name in _JOB_NAMES]
    stated = ".".join(values)
    if not given or not _JOB_VALUES.fullmatch(stated):
        return None
    signed = f"v1j.{sent_as}{stated}".encode("ascii")
    if not any_equal([_v1j(digest(key, signed)) for key in signers], given):
        return None
    id, status, run = map(_decoded, values)
    if run is not None and not _RUN.fullmatch(run):
        raise SignatureError("malformed", f"{JOB_RUN_HEADER} is not a number from 1 to {RUN_MAX}")
    return Job(id=id, status=status, run=None if run is None else int(run))


def _sent_as(msg_id: str, timestamp_s: int) -> str:
    if not MESSAGE_ID.fullmatch(msg_id):
        raise ValueError("a message id is 1-256 visible ASCII characters without a full stop")
    if not TIMESTAMP.fullmatch(str(timestamp_s)):
        raise ValueError("a timestamp is a whole number of seconds since 1970")
    return f"{msg_id}.{timestamp_s}."


def _encoded(text: str) -> str:
    value = text if _PLAIN.fullmatch(text) else quote(text, safe="").replace(".", "%2E")
    if len(value) > HEADER_CHARS_MAX:
        raise ValueError(f"a job's header is over {HEADER_CHARS_MAX} long")
    return value


def _decoded(value: str) -> str | None:
    if "%" not in value:
        return value or None
    try:
        text = unquote_to_bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if not text or not _ENCODED.fullmatch(value):
        raise SignatureError("malformed", "a header of the job is not percent-encoded UTF-8")
    return text


def _v1_keys(secrets: list[str]) -> list[bytes]:
    keys = []
    for secret in secrets:
        try:
            keys.append(v1_key(secret))
        except ValueError:
            continue  # a plain-text secret serves sha256= only
    return keys


def check_window(timestamp: int, now_s: float, tolerance_s: float) -> None:
    """Raise SignatureError unless `timestamp` lies within `tolerance_s` of `now_s`."""
    # "not within" rather than "beyond": NaN is then refused as well.
    if not abs(now_s - timestamp) <= tolerance_s:
        side = "old" if timestamp < now_s else "far in the future"
        raise SignatureError("stale", f"webhook-timestamp is too {side}")


def any_equal(expected: list[str], given: list[str]) -> bool:
    """Whether one of the given is expected; compares every pair in any case."""
    equal = False
    for one in expected:
        for other in given:
            equal |= hmac.compare_digest(one, other)
    return equal


def _started(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod=hashlib.sha256)


def digest(key: hmac.HMAC, message: bytes) -> bytes:
    """Return the HMAC of a message, with a key of `Keys`."""
    mac = key.copy()
    mac.update(message)
    return mac.digest()


class Mac:
    """HMAC-SHA256 by one key, of which all that does not depend on the message is done."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        if len(key) > _BLOCK_BYTES:
            key = hashlib.sha256(key).digest()
        key = key.ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(key.translate(_INNER))
        self._outer = hashlib.sha256(key.translate(_OUTER))

    def digest(self, message: bytes) -> bytes:
        """Return what `hmac.digest` does, in a third of the time that it takes for a short one."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


def _v1(digest: bytes) -> str:
    return "v1," + base64.b64encode(digest).decode("ascii")


def _v1j(digest: bytes) -> str:
    return _V1J_PREFIX + base64.b64encode(digest).decode("ascii")
