"""One attempt: one signed POST under one deadline. Whatever the peer does comes back as a value.

A reused connection may turn out to have been closed by the peer while it was idle. Where it ends
right after the request without a byte of an answer, the same POST goes out once more on a fresh
connection, within the same deadline: delivery is at least once anyway (I3), and the alternative is
to wait out a retry delay for a peer that is well. A connection that ends later, or after any byte
of an answer, is a failed attempt: its request may have been handled.

A complete head is the answer, once the request has been written whole: what its body does, be it
cut off, garbled or without an end, changes nothing. It is read for the excerpt, for a moment.

Behind an egress proxy (`DISPATCHER_PROXY_URL`) the proxy resolves and dials, so which networks may
be reached is the proxy's policy; the guard here would see the proxy itself only, and is left out.
"""

import asyncio
import io
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import aiohttp
from yarl import URL

from dispatcher import signing
from dispatcher.outcome import INTERRUPTED, Cause, Kind, Outcome
from dispatcher.policy import Policy
from dispatcher.sending import direct
from dispatcher.sending.connections import Response, StaleConnection
from dispatcher.sending.egress import Egress, UrlRefused, parse_url
from dispatcher.sending.faults import cause_of, own_lack, reason_of
from dispatcher.sending.resolver import ATTEMPT, Attempt
from dispatcher.sending.response import excerpt, retry_after_ms
from dispatcher.sending.sessions import Dialling, Sessions, open_sessions
from dispatcher.settings import Settings
from dispatcher.signing import Secrets
from dispatcher.values import Delivery, Headers
from receiver.base.clock import now_ms
from receiver.base.deadline import Deadline
from receiver.base.lack import Uplink
from receiver.base.lookups import LACK, Addresses, look_up
from receiver.base.settings import SettingError
from receiver.base.value import frozen
from receiver.signature import Job

UNREACHABLE: Final = "the destination could not be reached"

_PROXY_AUTH: Final = 407
_WHOLE_BODY_BYTES_MAX: Final = 2**20  # aiohttp copies larger ones in pieces, given as a file


class Sender:
    """Sends deliveries; `open` it on the running loop first, and `close` it at the end.

    `tls` replaces the system's certificate store and `lookup` the system's resolver.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        tls: ssl.SSLContext | None = None,
        lookup: Callable[[str], Addresses] = look_up,
    ) -> None:
        self._settings = settings
        self._egress = Egress(settings.allow_networks)
        self._proxy = _proxy(settings.proxy_url)
        self._tls = tls
        self._lookup = lookup
        self._body_s = settings.body_read_s
        self._uplink = Uplink()
        self._opened: Sessions | None = None

    async def open(self) -> None:
        """Make the pools of connections and of name look-ups."""
        settings = self._settings
        dialling = Dialling(
            guard=self._egress if self._proxy is None else None,
            uplink=self._uplink,
            lookup=self._lookup,
            lookups_max=settings.dns_lookups_max,
            calls_max=settings.slots,
            tls=self._tls,
            proxy=self._proxy,
        )
        self._opened = open_sessions(settings, dialling)

    async def close(self) -> None:
        """Close every connection. Attempts still running end as unreachable."""
        if self._opened is not None:
            opened, self._opened = self._opened, None
            await opened.close()

    async def send(self, delivery: Delivery, secrets: Secrets) -> Outcome:
        """Make one attempt and say what it met, within the policy's timeout and the moment in which
        a body is read, which its lease outlasts. Raises nothing that the peer could cause."""
        started_ms, started_s = now_ms(), time.perf_counter()
        result = await self._attempt(delivery, secrets, started_ms // 1000)
        return Outcome(
            kind=result.kind,
            connected=result.connected,
            started_ms=started_ms,
            duration_ms=(time.perf_counter() - started_s) * 1000,
            status_code=result.status_code,
            error=result.error,
            detail=result.detail,
            cause=result.cause,
            excerpt=result.excerpt,
            retry_after_ms=result.retry_after_ms,
            lack=result.lack,
        )

    async def _attempt(self, delivery: Delivery, secrets: Secrets, now_s: int) -> "_Result":
        if self._opened is None:
            raise RuntimeError("the sender is not open")
        pooled, fresh = self._opened.pooled, self._opened.fresh  # attempts outlive a closing
        timeout_s = delivery.policy.timeout
        attempt = Attempt(delivery.tenant)
        ATTEMPT.set(attempt)
        try:
            url = parse_url(delivery.url)
            headers = self._headers(delivery, secrets, now_s)
            with Deadline(timeout_s):
                try:
                    response = await self._post(pooled, url, headers, delivery.body)
                except StaleConnection:
                    response = await self._post(fresh, url, headers, delivery.body)
            return await self._result(response, delivery.policy)
        except TimeoutError:
            if attempt.lacking:
                detail = "no place to look its name up in time"
                return _Result(kind="interrupted", error=INTERRUPTED, detail=detail, lack=LACK)
            error = f"no complete answer within {timeout_s:g} s"
            return _Result(kind="timeout", error=error, connected=not attempt.connecting)
        except UrlRefused as refusal:
            return _Result(
                kind="unreachable", error=UNREACHABLE, cause="blocked", detail=str(refusal)
            )
        except (aiohttp.ClientError, OSError) as error:
            lack = self._lack_of(error)
            if lack is not None:
                detail = reason_of(error)
                return _Result(kind="interrupted", error=INTERRUPTED, detail=detail, lack=lack)
            return replace(_failure(error), connected=not attempt.connecting)

    def _lack_of(self, error: aiohttp.ClientError | OSError) -> str | None:
        """Return what of ours was lacking, None where it was not we who failed. Behind an egress
        proxy it is the proxy that we look up, dial and identify to."""
        lack = own_lack(error, self._uplink)
        if lack is not None or self._proxy is None:
            return lack
        is_lookup = isinstance(error, aiohttp.ClientConnectorDNSError)
        refused = isinstance(error, aiohttp.ClientHttpProxyError) and error.status == _PROXY_AUTH
        is_proxy = isinstance(error, aiohttp.ClientProxyConnectionError)
        return "proxy" if is_lookup or refused or is_proxy else None

    async def _post(
        self, session: aiohttp.ClientSession, url: URL, headers: list[tuple[str, str]], body: bytes
    ) -> aiohttp.ClientResponse:
        data = body if len(body) <= _WHOLE_BODY_BYTES_MAX else io.BytesIO(body)
        if self._proxy is not None:
            return await session.post(url, data=data, headers=headers, allow_redirects=False)
        return await direct.request(session, "POST", url, headers, data)

    async def _result(self, response: aiohttp.ClientResponse, policy: Policy) -> "_Result":
        """Return what a complete head says."""
        early = isinstance(response, Response) and response.early
        status, beginning = response.status, b""
        if early and policy.acknowledges(status):
            response.close()
            error = "the answer came before the request was sent whole"
            return _Result(kind="protocol_error", error=error)
        if status < 200:
            response.close()
            return _Result(kind="protocol_error", error=f"the answer had the status {status}")
        try:
            beginning = await self._read(response.content)
        finally:
            response.release()  # closes the connection unless the answer was read to its end
        failed = not 200 <= status < 300
        return _Result(
            kind="answered",
            status_code=status,
            error="redirects are not followed" if 300 <= status < 400 else None,
            excerpt=excerpt(beginning, self._settings.excerpt_bytes_max) if beginning else None,
            retry_after_ms=self._retry_after_ms(response) if failed else None,
        )

    async def _read(self, content: aiohttp.StreamReader) -> bytes:
        """Read the answer's body to its end, to the limit or for a moment, whatever befalls it;
        returns no more than an excerpt needs."""
        beginning = bytearray()
        try:
            if content.is_eof():
                await self._read_on(content, beginning)
            else:
                async with asyncio.timeout(self._body_s):
                    await self._read_on(content, beginning)
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass
        return bytes(beginning)

    async def _read_on(self, content: aiohttp.StreamReader, beginning: bytearray) -> None:
        excerpt_bytes = self._settings.excerpt_bytes_max + 1  # one more shows that there is more
        read = 0
        while read <= self._settings.response_bytes_max and not content.at_eof():
            chunk = await content.readany()
            read += len(chunk)
            beginning += chunk[: excerpt_bytes - len(beginning)]

    def _retry_after_ms(self, response: aiohttp.ClientResponse) -> int | None:
        """Return the wait that was asked for, capped here, once, for the delivery and its lane."""
        wait_ms = retry_after_ms(response.headers.get("Retry-After"), now_ms())
        wait_ms_max = round(self._settings.retry_after_max * 1000)
        return None if wait_ms is None else min(wait_ms, wait_ms_max)

    def _headers(self, delivery: Delivery, secrets: Secrets, now_s: int) -> list[tuple[str, str]]:
        own = delivery.headers
        if delivery.secret is not None:
            own += signing.cerebrium_headers(
                delivery.secret, request_id=delivery.job_id, body=delivery.body, now_s=now_s
            )
        return [
            *last_of_each(own),
            ("Content-Type", delivery.content_type),
            ("X-Postback-Attempt", str(delivery.attempt)),
            *signing.headers(
                message_id=delivery.id,
                body=delivery.body,
                secrets=secrets,
                job=Job(id=delivery.job_id, status=delivery.job_status, run=delivery.run),
                now_s=now_s,
                sha256_header=self._settings.signature_header,
            ),
        ]


def last_of_each(headers: Headers) -> Headers:
    """`headers` with one of each name: a destination's come first, and a callback's own win."""
    if len(headers) < 2:
        return headers
    return tuple({name.lower(): (name, value) for name, value in headers}.values())


@frozen
class _Result:
    """An outcome without its times."""

    kind: Kind
    connected: bool = True
    status_code: int | None = None
    error: str | None = None
    detail: str | None = None
    cause: Cause | None = None
    excerpt: str | None = None
    retry_after_ms: int | None = None
    lack: str | None = None


def _failure(error: aiohttp.ClientError | OSError) -> _Result:
    """Return what an exception means. The true reason goes into `detail` alone: to the tenant,
    blocked, refused, reset and unresolvable look the same, or they could map our network (D9)."""
    detail = reason_of(error)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "") or "it is not valid"
        return _Result(
            kind="tls_error",
            error=f"the certificate was not accepted: {reason}",
            cause="tls",
            detail=detail,
        )
    if isinstance(error, aiohttp.ClientSSLError) or isinstance(error.__cause__, ssl.SSLError):
        message = "the TLS connection failed"
        return _Result(kind="tls_error", error=message, cause="tls", detail=detail)
    if isinstance(error, aiohttp.ClientResponseError) and not isinstance(
        error, aiohttp.ClientHttpProxyError
    ):
        message = "the answer was not valid HTTP, or broke its limits"
        return _Result(kind="protocol_error", error=message, detail=detail)
    cause = cause_of(error)
    return _Result(kind="unreachable", error=UNREACHABLE, cause=cause, detail=detail)


def _proxy(text: str | None) -> URL | None:
    if text is None:
        return None
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.raw_host:
        # Not repeated in the message: it may carry a password.
        raise SettingError("DISPATCHER_PROXY_URL takes a URL such as http://proxy.internal:3128")
    return url
