"""One question to a status URL: whether it may be asked, with which credentials (by name, and never
kept in the inbox), and what the reply says of the job."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import httpx

from receiver.base.completion import JOB_ID_CHARS_MAX, ParseError, is_job_id
from receiver.inbox.dedupe import kind_of
from receiver.inbox.expectations import Expectation
from receiver.verification.identity import DIALECTS, Dialect, Identity, identify

# Given a name and the URL that will be asked: the headers that show who asks. KeyError: no such
# name; ValueError: the name is not for this URL.
Credentials: TypeAlias = Callable[[str, str], Mapping[str, str]]

REPLY_BYTES_MAX: Final = 1024 * 1024  # what a callback may carry, a status URL's reply may
REASON_CHARS_MAX: Final = 300
STATUS_URL_CHARS_MAX: Final = 2048  # what browsers and proxies agree on
BY_MAX: Final = timedelta(days=365)  # no job is silent for longer; what is, is a wrong unit
_MS: Final = timedelta(milliseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class AskError(Exception):
    """The question got no reply that says anything of the job; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReply:
    """What a status URL says of the job that was asked for."""

    identity: Identity
    body: bytes = field(repr=False)
    content_type: str | None

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return kind_of(self.identity.job_id, self.identity.status) == "terminal"


class Tokens:
    """Bearer tokens by name, each for one host and nothing else: a status URL is data, and data
    must not decide who gets to see a token."""

    def __init__(self, entries: Iterable[str]) -> None:
        """Each entry is `name@host=token`. Raises ValueError, without showing a token."""
        self._tokens: dict[str, tuple[str, str]] = {}
        for n, entry in enumerate(entries, start=1):
            what, equals, token = entry.partition("=")
            name, at, host = what.partition("@")
            if not (name and at and host and equals and token):
                raise ValueError(f"entry {n} is not name@host=token")
            if not token.isascii() or not token.isprintable() or name in self._tokens:
                raise ValueError(f"entry {n} repeats a name, or its token is not printable ASCII")
            self._tokens[name] = (host.lower(), token)

    def __call__(self, name: str, url: str) -> Mapping[str, str]:
        if name not in self._tokens:
            raise KeyError(name)
        host, token = self._tokens[name]
        parts = urlsplit(url)
        if (parts.hostname or "").lower() != host:
            raise ValueError(f"the credentials {name} are for {host} alone")
        if parts.scheme != "https" and host not in _LOOPBACK:
            raise ValueError(f"the credentials {name} are shown over https alone")
        return {"authorization": f"Bearer {token}"}


def check_job_id(job_id: str) -> None:
    """Raise ValueError for what cannot name a job."""
    if not is_job_id(job_id):
        message = f"jobId must be text of 1 to {JOB_ID_CHARS_MAX} characters without controls"
        raise ValueError(message)


def check_status_url(url: str) -> None:
    """Raise ValueError for what cannot be asked, or hold a secret."""
    unusable = ValueError("statusUrl must be an http or https URL of printable ASCII characters")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except (ValueError, TypeError, AttributeError):  # the last two: it is no text
        raise unusable from None
    if not usable or len(url) > STATUS_URL_CHARS_MAX or not url.isascii() or not url.isprintable():
        raise unusable
    if parts.username is not None or parts.password is not None:
        raise ValueError("statusUrl must hold no credentials: give their name instead")


def ask_ms(by: datetime | timedelta, now_ms: int) -> int:
    """Return when a job that stays silent is asked for, in Unix milliseconds: now, where that was
    earlier. Raises ValueError for a time without an offset, and for one more than a year away."""
    if isinstance(by, timedelta):
        wait_ms = by // _MS
    elif getattr(by, "tzinfo", None) is not None:
        wait_ms = (by - _EPOCH) // _MS - now_ms
    else:
        raise ValueError("by must be a time with its offset, or a duration")
    if wait_ms > BY_MAX // _MS:
        raise ValueError(f"by must lie within {BY_MAX.days} days: a time, or seconds from now")
    return now_ms + max(0, wait_ms)


def check_names(credentials: str | None, platform: str, source: str | None) -> None:
    """Raise ValueError for what can be none of these, whatever names there are."""
    for name, value in (("credentials", credentials), ("source", source)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{name} must be a text, not {type(value).__name__}")
    if platform not in DIALECTS:
        raise ValueError(f"platform must be one of {', '.join(DIALECTS)}, not {platform!r}")


async def ask(
    client: httpx.AsyncClient,
    expectation: Expectation,
    credentials: Credentials,
    *,
    timeout_s: float,
) -> StatusReply:
    """Ask for a job's status. Raises AskError where nothing is learned of it."""
    headers = _headers(expectation, credentials)
    try:
        async with asyncio.timeout(timeout_s):
            body, content_type = await _get(client, expectation.status_url, headers)
    except TimeoutError:
        raise AskError(f"no answer within {timeout_s:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise AskError(f"{type(error).__name__}: {error}"[:REASON_CHARS_MAX]) from error
    identity = read_reply(body, expectation.job_id, expectation.platform)
    return StatusReply(identity=identity, body=body, content_type=content_type)


def read_reply(body: bytes, job_id: str, platform: Dialect) -> Identity:
    """Return what a reply says of the job that was asked for. Raises AskError when it names another
    one, or no status: silence about the status is no completion."""
    dialect: Dialect = "auto" if platform == "cerebrium" else platform  # it has no status URLs
    try:
        identity = identify(body, None, dialect=dialect)
    except ParseError as error:
        raise AskError(f"the answer cannot be read: {error.message}") from None
    if identity.job_id != job_id:
        raise AskError("the answer names another job")
    if identity.status is None:
        raise AskError("the answer names no status")
    return identity


async def _get(
    client: httpx.AsyncClient, url: str, headers: dict[str, str]
) -> tuple[bytes, str | None]:
    async with client.stream("GET", url, headers=headers) as response:
        if response.status_code != 200:
            raise AskError(f"the status URL answered {response.status_code}")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > REPLY_BYTES_MAX:
                raise AskError(f"the answer is larger than {REPLY_BYTES_MAX} bytes")
        return bytes(body), response.headers.get("content-type")


def _headers(expectation: Expectation, credentials: Credentials) -> dict[str, str]:
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    if expectation.credentials is None:
        return headers
    try:
        return {**headers, **credentials(expectation.credentials, expectation.status_url)}
    except KeyError:
        raise AskError(f"there are no credentials named {expectation.credentials}") from None
    except ValueError as error:
        raise AskError(str(error)) from None
    except Exception as error:  # the customer's provider may fail in any way
        raise AskError(f"the credentials cannot be had: {type(error).__name__}") from None
