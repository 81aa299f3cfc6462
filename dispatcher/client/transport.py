"""Requests and responses as values, and the server that they go to."""

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

import httpx

from dispatcher import VERSION

T_co = TypeVar("T_co", covariant=True)
AnyClient = TypeVar("AnyClient", httpx.Client, httpx.AsyncClient)

DEFAULT_URL: Final = "http://127.0.0.1:8600"
TIMEOUT_S: Final = 35.0  # a little above the service's own limit on a request
CONNECT_TIMEOUT_S: Final = 5.0
EVENTS_S: Final = 60.0  # without a word of a stream of events; then somebody is to ask again
# Twice the largest payload that a service can be set to take; a page of callbacks is far below it.
ANSWER_BYTES_MAX: Final = 128 * 1024 * 1024
_WRITE_BYTES: Final = 64 * 1024  # a peer that hardly reads ends no write of this size late
_VISIBLE: Final = re.compile(r"[!-~]{1,512}")
_DEADLINE: Final[ContextVar[float]] = ContextVar("deadline", default=float("inf"))
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What came back; header names are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    elapsed_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it is a success."""
        return 200 <= self.status < 300

    @property
    def retry_after_s(self) -> float | None:
        """The wait that `Retry-After` asks for (seconds, or a date beside the response's own)."""
        text = self.headers.get("retry-after", "").strip()
        if not text:
            return None
        if text.isdecimal():
            return float(text[:9])
        try:
            until = parsedate_to_datetime(text)
            return max(0.0, (until - parsedate_to_datetime(self.headers["date"])).total_seconds())
        except (KeyError, ValueError, TypeError):
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportError:
    """Why no response came. `sent` is False where the request certainly never left."""

    sent: bool
    reason: str
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T_co]):
    """One request under `root`, and how to read its response.

    `repeatable`: doing it twice leaves what doing it once would, so it may be sent again when its
    response was lost. Submits are: the service knows them by their idempotency key. `hold_s`: the
    service may hold its answer for so long. `errors`: what a code of an error means here.
    """

    method: str
    path: str
    read: Callable[[Response], T_co]
    repeatable: bool
    params: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    content_type: str | None = None
    root: str = "/v1"
    hold_s: float = 0.0
    errors: Mapping[str, Any] = field(default_factory=dict)


class Server:
    """Where the service is, and who calls it. Its repr, like every error, is free of the API
    key."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        tenant: str | None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Raise ValueError for a URL, key or tenant that cannot be used."""
        self.url = _checked_url(url)
        self.tenant = tenant
        self._tls = tls
        self._headers = _headers(api_key, tenant)

    def __repr__(self) -> str:
        return f"{self.url!r}, tenant={self.tenant!r}"

    def options(self, timeout_s: float) -> dict[str, Any]:
        """Return the arguments of httpx's clients. Connections to this machine itself do not go
        through a proxy of the environment."""
        parts = urlsplit(self.url)
        local = parts.hostname in ("127.0.0.1", "::1", "localhost")
        return {
            "base_url": self.url,
            "headers": self._headers,
            "timeout": httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            "follow_redirects": False,
            "trust_env": not local,
            # Loading the certificate authorities takes 20 ms of CPU: only where there can be TLS.
            "verify": self._tls or parts.scheme == "https" or not local,
        }

    def connect(self, kind: type[AnyClient], transport: Any, timeout_s: float) -> AnyClient:
        """Return httpx's client of this kind for the server, for use within a time limit. Raises
        ValueError for authorities of the environment that cannot be read."""
        try:
            client = kind(transport=transport, **self.options(timeout_s))
        except OSError as error:
            message = f"SSL_CERT_FILE or SSL_CERT_DIR cannot be used: {error.strerror or error}"
            raise ValueError(message) from None
        if isinstance(client, httpx.Client):
            _limit(client)
        return client

    def failure(self, error: Exception, elapsed_s: float) -> TransportError:
        """Return what a failure of the connection, or one that took too long, means."""
        never = isinstance(error, _NEVER_SENT)
        what = "cannot connect" if never else "the connection broke before the answer"
        if isinstance(error, TimeoutError | httpx.ReadTimeout | httpx.WriteTimeout):
            what = f"no whole answer within {elapsed_s:.3g} s"
        why = str(error) or type(error).__name__
        return TransportError(
            sent=not never, reason=f"{self.url}: {what} ({why})", elapsed_s=elapsed_s
        )


def request_arguments(call: Call[Any], limit_s: float) -> dict[str, Any]:
    """Return the arguments of httpx's `stream` for `call`, which may take `limit_s`."""
    headers = {name: value.encode() for name, value in call.headers}  # a reason may be any text
    if call.content_type is not None:
        headers["Content-Type"] = call.content_type.encode()
    return {
        "method": call.method,
        "url": call.root + call.path,
        "params": list(call.params),
        "headers": headers,
        "content": call.body or None,
        "timeout": httpx.Timeout(limit_s, connect=min(limit_s, CONNECT_TIMEOUT_S)),
    }


def is_encoded(response: httpx.Response) -> bool:
    """Whether its body is compressed, though we asked that it be not: it is not unpacked, since a
    little of it may be very much."""
    encoding: str = response.headers.get("content-encoding", "identity")
    return encoding.strip().lower() != "identity"


def is_events(response: httpx.Response) -> bool:
    """Whether it is a stream of events."""
    kind: str = response.headers.get("content-type", "")
    return response.is_success and kind.startswith("text/event-stream") and not is_encoded(response)


def read_response(response: httpx.Response, body: bytes, elapsed_s: float) -> Response:
    """Return httpx's response as a value."""
    return Response(
        status=response.status_code,
        headers={name.lower(): value for name, value in response.headers.items()},
        body=body,
        elapsed_s=elapsed_s,
    )


async_time_limit = asyncio.timeout


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let all that the clients of a `Server` read and write within the block, in this thread,
    end after `seconds`, with TimeoutError or httpx's."""
    token = _DEADLINE.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def _limit(client: httpx.Client) -> None:
    """Make `time_limit` hold for `client`, which has no public place for it. Its own time-outs are
    for each operation on the socket: a service that drips would never meet them. Looking a name up
    is the one thing that Python gives no time-out for."""
    for transport in (client._transport, *client._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        if hasattr(pool, "_network_backend"):  # of a caller's own transport it need not be there
            pool._network_backend = _Limited(pool._network_backend)


class _Limited:
    """A network backend of httpcore, or a stream of one, whose operations end at the deadline."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def connect_tcp(self, host: str, port: int, timeout: float | None, **more: Any) -> "_Limited":
        """Connect as httpcore does."""
        return _Limited(self._inner.connect_tcp(host, port, timeout=_left_s(timeout), **more))

    def start_tls(self, ssl_context: Any, server_hostname: Any, timeout: Any = None) -> "_Limited":
        """Go on in TLS."""
        return _Limited(self._inner.start_tls(ssl_context, server_hostname, _left_s(timeout)))

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what is there."""
        received: bytes = self._inner.read(max_bytes, _left_s(timeout))
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all of it."""
        for start in range(0, len(buffer), _WRITE_BYTES):
            self._inner.write(buffer[start : start + _WRITE_BYTES], _left_s(timeout))


def _left_s(timeout_s: float | None) -> float | None:
    """Return the shorter of the operation's own time and what is left. Raises TimeoutError where
    nothing is."""
    left_s = _DEADLINE.get() - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("the time for this call is over")
    if left_s == float("inf"):
        return timeout_s
    return left_s if timeout_s is None else min(timeout_s, left_s)


def _headers(api_key: str | None, tenant: str | None) -> dict[str, str]:
    headers = {"User-Agent": f"postback-python/{VERSION}", "Accept": "*/*"}
    headers["Accept-Encoding"] = "identity"
    if api_key is not None:
        if not _VISIBLE.fullmatch(api_key):
            raise ValueError("the API key must be visible ASCII characters, without spaces")
        headers["Authorization"] = f"Bearer {api_key}"
    if tenant is not None:
        if not _VISIBLE.fullmatch(tenant):
            raise ValueError("the tenant must be visible ASCII characters, without spaces")
        headers["Postback-Tenant"] = tenant
    return headers


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        plain = not (parts.query or parts.fragment or parts.username or parts.password)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        plain = usable = False
    if not (plain and usable):
        raise ValueError("the service's URL must look like http://127.0.0.1:8600")
    return url.rstrip("/")
