"""One call of an upstream on behalf of a job. Whatever the upstream does comes back as a value,
sorted by what is known of it (D23).

- **not_sent**: no byte of the request can have reached it: its name, a route, TLS or the connection
  failed. Nothing is written before there is a connection, so this is certain.
- **unknown**: the connection was lost after the request, or a part of it, went out, and no status
  line of an answer came; or what came is no HTTP. A pooled connection that its peer had closed is
  this too, once a byte was written to it: nothing is sent again by itself. What was not written at
  all goes out on a fresh connection within the same call: that is no resending.
- **broken_off**: a status line came, and then the answer broke off, or turned into garbage.
- **answered**: an answer that is complete. One that came before the request was out is one too, if
  the request was out when it ended, or if it is no 2xx: a refusal, whose body may be cut off (who
  refuses a request often resets the connection under what is still being sent). An early 2xx whose
  request never went out whole is `unknown`: it acknowledges half a request (D11).
- **too_large**: its body has more bytes than the endpoint takes. Reading stops; of an answer that
  is no 2xx, and says so by its code, the beginning is kept.
- **timeout**, **cancelled**: the connection is closed when the call returns. Whoever cancels the
  task of a call gets an outcome, and the task goes on: `cancel` is a word to the call alone.
- **interrupted**: our own lack (D21), never after a byte was sent, but for an answer that found no
  room in memory until its time was over.

Redirects are answers. Nothing is asked to be compressed and nothing is decompressed: a coding that
came all the same stands in the headers that are kept. `Expect` is not used. Upstreams are called
directly, never through `DISPATCHER_PROXY_URL`, which is for deliveries to the world outside.
"""

import asyncio
import io
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import aiohttp

from dispatcher.ids import new_id
from dispatcher.jobs import chunks, kinds
from dispatcher.jobs.blobs import HEAD_BYTES_MAX, CannotKeep
from dispatcher.jobs.chunks import Framing, Reader, TooManyChunks
from dispatcher.jobs.endpoint import EndpointRules, HealthCheck, StopCall
from dispatcher.jobs.values import CallKind, CallOutcome, Output
from dispatcher.sending import direct
from dispatcher.sending.asking import Reply, ask, telling
from dispatcher.sending.egress import UrlRefused, parse_url
from dispatcher.sending.faults import own_lack, reason_of
from dispatcher.sending.guard import UpstreamGuard
from dispatcher.sending.lasting import (
    Exchange,
    LastingHandler,
    LastingRequest,
    heed_not,
    keep_alive,
)
from dispatcher.sending.output import (
    BYTES_MAX,
    Discarding,
    OutputBudget,
    OutputRoom,
    TooLarge,
    read_chunks,
    read_whole,
)
from dispatcher.sending.output import LACK as NO_ROOM
from dispatcher.sending.probe import UpstreamTest, job_of_test, tested
from dispatcher.sending.request import (
    Request,
    Resolve,
    UpstreamCall,
    headers_of,
    request_of,
    stop_of,
)
from dispatcher.sending.resolver import ATTEMPT
from dispatcher.sending.response import kept_headers, kept_type, retry_after_ms
from dispatcher.sending.sessions import Dialling, Sessions, open_sessions
from dispatcher.settings import Settings
from dispatcher.signing import STORED_SECRETS, Secrets
from receiver.base.clock import now_ms
from receiver.base.deadline import Deadline
from receiver.base.lack import OwnLack, Uplink
from receiver.base.lookups import LACK as NO_LOOKUP
from receiver.base.lookups import Addresses, look_up

UNREACHABLE: Final = "the upstream could not be reached"
LOST: Final = "the connection was lost after the request went out"
NO_HTTP: Final = "the answer was not valid HTTP, or broke its limits"
TOO_EARLY: Final = "the answer ended before the request was sent whole"
BROKEN_OFF: Final = "the answer broke off"
TOO_LATE: Final = "no complete answer in time"
CLOSED: Final = "the call was closed"
INTERRUPTED: Final = "the gateway could not make this call: a fault of its own"

CONNECT_S: Final = 30.0
"""So long a call may take to reach its upstream: a name, a route, TLS."""
_TEST_S: Final = 30.0
_LOOKUPS_MAX: Final = 32  # endpoints are made by operators: they have few names
_IDLE_MAX: Final = 256  # idle connections
_WHOLE_BODY_BYTES_MAX: Final = 2**20  # aiohttp copies larger ones in pieces, given as a file
_ERROR_BYTES_MAX: Final = 64 * 1024  # of a body that is too large, and says what went wrong
_RETRY_HEADER: Final = "Postback-Retry"
_COMPLETE_HEADER: Final = "Postback-Complete"
_FAULT: Final = "fault"
_ARRAY: Final = "application/json"  # what chunks are joined to


class Upstreams:
    """Calls upstreams; `open` it on the running loop first, and `close` it at the end.

    `resolve` gives the values that headers of endpoints name. `tls` replaces the system's
    certificate store and `lookup` the system's resolver.
    """

    def __init__(
        self,
        settings: Settings,
        resolve: Resolve,
        *,
        tls: ssl.SSLContext | None = None,
        lookup: Callable[[str], Addresses] = look_up,
        output_bytes_max: int = BYTES_MAX,
        connect_s: float = CONNECT_S,
    ) -> None:
        self.guard = UpstreamGuard(settings)
        self.budget = OutputBudget(output_bytes_max)
        self._settings = settings
        self._resolve = resolve
        self._uplink = Uplink()
        # As much as a callback may carry.
        self._head_max = max(HEAD_BYTES_MAX, settings.payload_bytes_max)
        self._opened: Sessions | None = None
        self._dialling = Dialling(
            guard=self.guard,
            uplink=self._uplink,
            lookup=lookup,
            lookups_max=min(_LOOKUPS_MAX, settings.dns_lookups_max),
            calls_max=_IDLE_MAX,
            tls=tls,
            prepare=keep_alive,
            handler=LastingHandler,
            request=LastingRequest,
            connect_s=connect_s,
        )

    async def open(self) -> None:
        """Make the pools of connections and of name look-ups."""
        self._opened = open_sessions(self._settings, self._dialling)

    async def close(self) -> None:
        """Close every connection. Calls that still run end by what is known of them."""
        if self._opened is not None:
            opened, self._opened = self._opened, None
            await opened.close()

    def room(self, endpoint: str) -> OutputRoom:
        """Return what a call of this endpoint holds in memory of its answer: a `with` block that
        lasts until its outcome is stored."""
        return OutputRoom(self.budget, endpoint)

    async def call(self, call: UpstreamCall, room: OutputRoom | None = None) -> CallOutcome:
        """Make one call and say what it met, by its deadline. Raises nothing that the upstream
        could cause, and no CancelledError: see `cancelled`. What its output takes is `room`'s;
        without one it is given back when this returns."""
        exchange = Exchange(call.job.tenant)
        if room is not None:
            return await self._call(call, exchange, room)
        with self.room(call.job.endpoint) as room:
            return await self._call(call, exchange, room)

    async def test(
        self,
        rules: EndpointRules,
        *,
        secrets: Secrets | None = None,
        body: bytes = b"{}",
        path: str | None = None,
        limit_s: float | None = None,
    ) -> UpstreamTest:
        """Make one call for an operator and say all that is known of it, by `limit_s` (30 s). With
        `path` it goes there: to one that sleeps, for instance, to see what cuts a long call, and
        after how long."""
        call = UpstreamCall(
            job=job_of_test(body, now_ms()),
            rules=rules if path is None else replace(rules, url=_at(rules.url, path)),
            deadline_ms=now_ms() + round((limit_s or _TEST_S) * 1000),
            secrets=secrets,
            spool=Discarding(),
        )
        exchange, begun_s = Exchange(is_test=True), time.perf_counter()
        with self.room("") as room:
            outcome = await self._call(call, exchange, room)
        return tested(outcome, exchange, begun_s)

    async def stop(self, call: UpstreamCall, stop: StopCall, *, limit_s: float) -> Reply:
        """Have an upstream stop working for a call that was closed, by `stop`."""
        header = self._settings.signature_header
        try:
            request = await stop_of(
                call, stop, self._resolve, now_ms=now_ms(), sha256_header=header
            )
        except (OwnLack, UrlRefused) as error:
            return Reply(fault=str(error))
        return await self._ask(request, limit_s)

    async def look(self, rules: EndpointRules, check: HealthCheck, *, limit_s: float) -> Reply:
        """Ask an upstream how it is."""
        try:
            headers = await headers_of(rules, self._resolve)
            url = parse_url(kinds.health_url(rules, check))
        except (OwnLack, UrlRefused) as error:
            return Reply(fault=str(error))
        request = Request(method="GET", url=url, headers=headers, body=None)
        return await self._ask(request, limit_s)

    async def tell(
        self, url: str, said: dict[str, Any], secrets: Secrets | None, *, limit_s: float
    ) -> Reply:
        """Tell somebody beside an upstream something of it, in JSON."""
        at_ms, header = now_ms(), self._settings.signature_header
        try:
            request = telling(
                url, said, secrets, id=new_id("wake", at_ms), now_ms=at_ms, sha256_header=header
            )
        except UrlRefused as error:
            return Reply(fault=str(error))
        return await self._ask(request, limit_s)

    async def _ask(self, request: Request, limit_s: float) -> Reply:
        if self._opened is None:
            raise RuntimeError("the upstreams are not open")
        return await ask(self._opened, self.guard, request, limit_s=limit_s)

    async def _call(self, call: UpstreamCall, exchange: Exchange, room: OutputRoom) -> CallOutcome:
        started_ms, started_s = now_ms(), time.perf_counter()
        ATTEMPT.set(exchange)
        met = await self._meet(call, exchange, room, max(0, call.deadline_ms - started_ms) / 1000)
        if not exchange.is_whole:
            await exchange.close()
        head = exchange.head
        outcome = CallOutcome(
            kind=met.kind,
            sent=exchange.sent,
            started_ms=started_ms,
            duration_ms=(time.perf_counter() - started_s) * 1000,
            status_code=met.status_code if head is None else head.status,
            output=_output(met.kind, exchange),
            error=met.error,
            detail=met.detail,
            retry_after_ms=None if head is None else self._retry_after_ms(head),
            no_retry=head is not None and _forbids_retry(head),
            by_url=head is not None and _ends_by_url(head),
            lack=met.lack,
            chunks=None if exchange.chunks is None else exchange.chunks.count,
        )
        exchange.forget()
        return outcome

    async def _meet(
        self, call: UpstreamCall, exchange: Exchange, room: OutputRoom, limit_s: float
    ) -> "_Met":
        if self._opened is None:
            raise RuntimeError("the upstreams are not open")
        limit = Deadline(limit_s)
        try:
            with limit:
                return await self._exchange(self._opened, call, exchange, room)
        except asyncio.CancelledError:
            heed_not()
            return _Met("cancelled", CLOSED)
        except UrlRefused as refusal:
            return _Met("not_sent", UNREACHABLE, str(refusal))
        except Exception as error:  # also what nobody has thought of: a call has an outcome
            if limit.expired and isinstance(error, TimeoutError):
                return _late(exchange, room)
            return self._failed(error, exchange)

    async def _exchange(
        self, opened: Sessions, call: UpstreamCall, exchange: Exchange, room: OutputRoom
    ) -> "_Met":
        request = await self._request(call)
        if call.on_sent is not None:
            if request.long is None and len(request.body or b"") <= direct.SHORT_BYTES_MAX:
                call.on_sent()  # the rest of its input goes nowhere
            else:
                exchange.on_sent = partial(_let_go, request, call.on_sent)
        reason = self.guard.refuses_name(request.url)
        if reason is not None:
            raise UrlRefused(f"{request.url.raw_host} is not allowed: {reason}")
        await self.guard.look_up(request.url, opened.resolver)
        response = await self._send(opened, request, exchange, fresh=call.rules.once)
        exchange.head_s, exchange.response = time.perf_counter(), response
        exchange.early = exchange.handler is not None and exchange.handler.early
        if response.status < 200:
            return _Met("unknown", f"the answer had the status {response.status}")
        exchange.head = response
        bytes_max, length = call.rules.output_max, response.content_length
        how = None if call.sink is None else _framing(response)
        content, spool = response.content, call.spool
        if spool is not None:
            spool.content_type = kept_type(response.headers.get("Content-Type"))
        try:
            if how is None or call.sink is None:
                await read_whole(
                    content, length, bytes_max, room, exchange.body, spool, self._head_max
                )
            else:
                exchange.chunks = call.sink.joined
                if spool is not None:
                    spool.content_type = _ARRAY
                await read_chunks(content, Reader(how), bytes_max, room, call.sink, spool)
        except CannotKeep as error:
            # Of a refusal its code counts, and the beginning of what it says.
            return _Met("no_room" if 200 <= response.status < 300 else "too_large", str(error))
        except TooLarge:
            return _Met("too_large", f"the answer has more than {bytes_max} bytes")
        except TooManyChunks as error:
            return _Met("too_large", str(error), detail=str(error))
        if exchange.is_half_sent:
            return _early(exchange)
        exchange.is_whole = not exchange.early
        return _Met("answered")

    async def _request(self, call: UpstreamCall) -> Request:
        header = self._settings.signature_header
        try:
            return await request_of(call, self._resolve, now_ms=now_ms(), sha256_header=header)
        except (OwnLack, UrlRefused):
            raise
        except Exception as error:  # whatever kept a value from being read
            raise OwnLack(STORED_SECRETS, f"{type(error).__name__}: {error}") from error

    async def _send(
        self, opened: Sessions, request: Request, exchange: Exchange, *, fresh: bool
    ) -> aiohttp.ClientResponse:
        if not fresh:
            try:
                return await _sent(opened.pooled, request, exchange)
            except (aiohttp.ClientError, OSError):
                if exchange.sent or not exchange.is_reused:
                    raise
        return await _sent(opened.fresh, request, exchange)

    def _failed(self, error: Exception, exchange: Exchange) -> "_Met":
        """Return what an exception means. The true reason goes into `detail` alone: to a tenant,
        whatever keeps us from an upstream looks the same (D9)."""
        detail = reason_of(error)
        if not exchange.sent:
            lack = own_lack(error, self._uplink)
            if lack is None and exchange.lacking:
                lack, detail = NO_LOOKUP, "no place to look its name up in time"
            if lack is None and not isinstance(error, (aiohttp.ClientError, OSError)):
                lack = _FAULT
            if lack is not None:
                return _Met("interrupted", INTERRUPTED, detail, lack=lack)
            return _Met("not_sent", UNREACHABLE, detail)
        if exchange.head is not None:
            return _early(exchange) if exchange.early else _Met("broken_off", BROKEN_OFF, detail)
        status = None if exchange.handler is None else exchange.handler.status
        if status is not None:
            return _Met("broken_off", BROKEN_OFF, detail, status_code=status)
        garbled = isinstance(error, aiohttp.ClientResponseError)
        return _Met("unknown", NO_HTTP if garbled else LOST, detail)

    def _retry_after_ms(self, head: aiohttp.ClientResponse) -> int | None:
        """Return the wait that was asked for, capped."""
        if 200 <= head.status < 300:
            return None
        wait_ms = retry_after_ms(head.headers.get("Retry-After"), now_ms())
        wait_ms_max = round(self._settings.retry_after_max * 1000)
        return None if wait_ms is None else min(wait_ms, wait_ms_max)


@dataclass(frozen=True, slots=True)
class _Met:
    """What a call met, without what its head says."""

    kind: CallKind
    error: str | None = None
    detail: str | None = None
    lack: str | None = None
    status_code: int | None = None


async def _sent(
    session: aiohttp.ClientSession, request: Request, exchange: Exchange
) -> aiohttp.ClientResponse:
    url, headers = request.url, request.headers
    if request.long is None:
        data: Any = _data(request.body)
    else:
        headers = [*headers, ("Content-Length", str(request.long.size))]
        data = request.long.parts()
    return await direct.request(session, request.method, url, headers, data, exchange)


def _data(body: bytes | None) -> bytes | io.BytesIO | None:
    return body if body is None or len(body) <= _WHOLE_BODY_BYTES_MAX else io.BytesIO(body)


def _let_go(request: Request, on_sent: Callable[[], None]) -> None:
    request.body = None
    on_sent()


def _late(exchange: Exchange, room: OutputRoom) -> _Met:
    """Return what a call is whose time is over: our own lack where that was what it waited for."""
    if room.is_waiting:
        detail = "no room in memory for its answer in time"
        return _Met("interrupted", INTERRUPTED, detail, lack=NO_ROOM)
    if exchange.lacking and not exchange.sent:
        detail = "no place to look its name up in time"
        return _Met("interrupted", INTERRUPTED, detail, lack=NO_LOOKUP)
    return _Met("timeout", TOO_LATE)


def _early(exchange: Exchange) -> _Met:
    """Return what an answer is that ended, or broke off, before its request was out."""
    head = exchange.head
    refused = head is not None and not 200 <= head.status < 300
    return _Met("answered") if refused else _Met("unknown", TOO_EARLY)


def _framing(response: aiohttp.ClientResponse) -> Framing | None:
    """Return how an answer is read in chunks: one that says that it went well."""
    if not 200 <= response.status < 300:
        return None
    headers = response.headers
    return chunks.framing(headers.get("Content-Type", ""), headers.get("Content-Encoding"))


def _output(kind: CallKind, exchange: Exchange) -> Output | None:
    """Return what came of a body."""
    head, body = exchange.head, exchange.body
    if head is None or kind not in ("answered", "broken_off", "too_large"):
        return None
    if exchange.chunks is not None:
        joined = exchange.chunks
        if kind == "too_large" or (kind == "broken_off" and joined.spooled):
            return None  # what came of it is there as chunks
        array = b"" if joined.dropped else joined.array()
        return Output(body=array, content_type=_ARRAY, headers=kept_headers(head.headers))
    if kind == "too_large":
        if 200 <= head.status < 300:
            return None
        del body[_ERROR_BYTES_MAX:]
    headers = head.headers
    return Output(
        body=bytes(body),
        content_type=kept_type(headers.get("Content-Type")),
        headers=kept_headers(headers),
    )


def _forbids_retry(head: aiohttp.ClientResponse) -> bool:
    return head.headers.get(_RETRY_HEADER, "").strip().lower() == "no"


def _ends_by_url(head: aiohttp.ClientResponse) -> bool:
    return head.headers.get(_COMPLETE_HEADER, "").strip().lower() == "url"


def _at(url: str, path: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].partition('?')[0]}/{path.lstrip('/')}"
