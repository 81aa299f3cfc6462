"""The client for asyncio: the same methods, awaited."""

import asyncio
import builtins
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

import httpx

from dispatcher.client import calls
from dispatcher.client.batches import AsyncItems, async_batches, batch
from dispatcher.client.calls import AuditFilters, Filters, LineResult
from dispatcher.client.errors import BadAnswer, PostbackError, WaitTimeout
from dispatcher.client.results import Attempt, AuditEntry, Callback, Replay, StoredSecret
from dispatcher.client.retry import LAST_LOOK_S, RetryPolicy, exchange, poll_s
from dispatcher.client.transport import (
    ANSWER_BYTES_MAX,
    DEFAULT_URL,
    TIMEOUT_S,
    Call,
    Endpoint,
    Response,
    TransportError,
    async_time_limit,
    is_encoded,
    read_response,
    request_arguments,
)
from dispatcher.wire import Page

P = ParamSpec("P")
T = TypeVar("T")


def _method(
    build: Callable[P, Call[T]],
) -> "Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]":
    """Return the method that builds this call and makes it."""

    @wraps(build)
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.call(build(*args, **kwargs))

    return method


def _listing(build: Callable[..., Call[Page[T]]]) -> "Callable[[AsyncClient], AsyncIterator[T]]":
    """Return the method that goes through all pages of this call, one by one as you iterate."""

    def method(self: "AsyncClient", /) -> AsyncIterator[T]:
        return self._pages(build)

    method.__doc__ = build.__doc__
    return method


class AsyncClient:
    """Talks to a running dispatcher. Close it, or use `async with`. What lists or watches is
    iterated with `async for`; the rest is awaited.

    `tenant` is for platform keys (others have their own). `retries` bounds how often a call is
    tried again (429, 503, broken connections; `Retry-After` is honoured), `timeout_s` how long one
    try may take, from connecting to the last byte of the answer, and `retry_for_s` all tries
    together. A longer answer than `answer_bytes_max` is not read. `tls` says whom to trust over
    `https`, for a service behind a private authority; the usual ones where it is not given.
    Every method raises PostbackError.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        tenant: str | None = None,
        retries: int = 5,
        retry_for_s: float = 60.0,
        timeout_s: float = TIMEOUT_S,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
        tls: ssl.SSLContext | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Raise ValueError for a URL, key or tenant that cannot be used."""
        self._endpoint = Endpoint(url, api_key, tenant, tls)
        self._policy = RetryPolicy(retries=retries, total_s=retry_for_s, timeout_s=timeout_s)
        self._answer_bytes_max = answer_bytes_max
        self._http = self._endpoint.connect(httpx.AsyncClient, transport, timeout_s)

    def __repr__(self) -> str:
        return f"AsyncClient({self._endpoint!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    submit = _method(calls.submit)
    submit_encoded = _method(calls.submit_encoded)
    submit_raw = _method(calls.submit_raw)
    submit_batch = _method(calls.submit_batch)
    get = _method(calls.get)
    page = _method(calls.page)
    payload = _method(calls.payload)
    replay = _method(calls.replay)
    cancel = _method(calls.cancel)
    preview_replay = _method(calls.preview_replay)
    start_replay = _method(calls.start_replay)
    get_replay = _method(calls.get_replay)
    cancel_replay = _method(calls.cancel_replay)
    get_destination = _method(calls.get_destination)
    register_destination = _method(calls.register_destination)
    change_destination = _method(calls.change_destination)
    remove_destination = _method(calls.remove_destination)
    test_destination = _method(calls.test_destination)
    destinations = _listing(calls.destinations)
    endpoints = _listing(calls.endpoints)
    get_endpoint = _method(calls.get_endpoint)
    make_endpoint = _method(calls.make_endpoint)
    change_endpoint = _method(calls.change_endpoint)
    remove_endpoint = _method(calls.remove_endpoint)
    pause_endpoint = _method(calls.pause_endpoint)
    resume_endpoint = _method(calls.resume_endpoint)
    purge_endpoint = _method(calls.purge_endpoint)
    test_endpoint = _method(calls.test_endpoint)
    apply_endpoints = _method(calls.apply_endpoints)
    keys = _listing(calls.keys)
    create_key = _method(calls.create_key)
    rotate_key = _method(calls.rotate_key)
    revoke_key = _method(calls.revoke_key)
    secrets = _listing(calls.secrets)
    rotate_secret = _method(calls.rotate_secret)
    reveal_secret = _method(calls.reveal_secret)
    reencrypt = _method(calls.reencrypt)
    reencryption = _method(calls.reencryption)
    store_secret = _method(calls.store_secret)
    forget_secret = _method(calls.forget_secret)
    tenants = _listing(calls.tenants)
    get_tenant = _method(calls.get_tenant)
    change_tenant = _method(calls.change_tenant)
    erase_tenant = _method(calls.erase_tenant)
    audit_page = _method(calls.audit_page)
    stats = _method(calls.stats)

    def list(self, **filters: Unpack[Filters]) -> AsyncIterator[Callback]:
        """Every callback that matches, newest first, fetched page by page as you iterate. Raises
        ValueError for a filter that there is not."""
        calls.page(filters)
        return self._pages(partial(calls.page, filters))

    def audit(self, **filters: Unpack[AuditFilters]) -> AsyncIterator[AuditEntry]:
        """Every entry of the audit trail that matches, newest first, fetched page by page as you
        iterate. Raises ValueError for a filter that there is not."""
        calls.audit_page(filters)
        return self._pages(partial(calls.audit_page, filters))

    def stored_secrets(self, *, platform: bool = False) -> AsyncIterator[StoredSecret]:
        """Every secret that is stored for headers, of the tenant or of the platform, in the order
        of their names: never the secrets."""
        return self._pages(partial(calls.stored_secrets, platform=platform))

    async def attempts(self, id: str) -> builtins.list[Attempt]:
        """Every attempt of one callback, oldest first. Raises NotFound."""
        page = await self.call(calls.attempts(id))
        found = page.data
        while page.next_cursor is not None:
            page = await self.call(calls.attempts(id, cursor=page.next_cursor))
            found += page.data
        return found

    async def submit_many(self, items: AsyncItems) -> AsyncIterator[LineResult]:
        """Hand over any number of callbacks (values, or lines of JSON) in batches; one result
        each, in order. One that the service refuses is a result with its `error`, not an
        exception; one it has no room for is tried again first. Safe to run again: what arrived
        before is answered as a duplicate."""
        done = 0
        async for lines in async_batches(items):
            for result in await self._submit_batch(lines):
                yield result.after(done)
            done += len(lines)

    async def wait(self, id: str, timeout: float = 60.0) -> Callback:
        """Return the callback once it is delivered, dead or cancelled. Raises WaitTimeout after
        `timeout` seconds, whatever the service does, and NotFound."""
        deadline = time.monotonic() + timeout
        look = calls.get(id)
        status, reason = "", None
        polls = 0
        while True:
            left_s = max(deadline - time.monotonic(), LAST_LOOK_S)
            try:
                callback = look.read(await self.raw(look, within_s=left_s))
            except PostbackError as error:
                if left_s > self._policy.total_s or not isinstance(error.__cause__, TimeoutError):
                    raise
                await asyncio.sleep(max(0.0, deadline - time.monotonic()))
                raise WaitTimeout.of(id, status, timeout, reason or error.message) from error
            if callback.final:
                return callback
            status, reason = callback.status, callback.last_error
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise WaitTimeout.of(id, status, timeout, reason)
            await asyncio.sleep(min(poll_s(polls), left_s))
            polls += 1

    async def watch_replay(self, id: str) -> AsyncIterator[Replay]:
        """How far a filtered replay is, again and again until it is done or cancelled."""
        polls = 0
        while not (replay := await self.get_replay(id)).final:
            yield replay
            await asyncio.sleep(poll_s(polls))
            polls += 1
        yield replay

    async def call(self, call: Call[T]) -> T:
        """Make any call and read its response."""
        return call.read(await self.raw(call))

    async def raw(self, call: Call[Any], *, within_s: float | None = None) -> Response:
        """Make any call, `within_s` if that is given; the response of its success as it came."""
        policy = self._policy if within_s is None else self._policy.within(within_s)
        started_s = time.monotonic()
        steps = exchange(call, policy)
        wait_s, limit_s = next(steps), policy.timeout_s
        while True:
            await asyncio.sleep(wait_s)
            try:
                wait_s = steps.send(await self._send(call, limit_s))
                limit_s = policy.next_try_s(time.monotonic() - started_s + wait_s)
            except StopIteration as end:
                good: Response = end.value
                return good

    async def _submit_batch(self, lines: Sequence[bytes]) -> Sequence[LineResult]:
        steps = batch(lines, self._policy)
        wait_s, call = next(steps)
        while True:
            await asyncio.sleep(wait_s)
            try:
                wait_s, call = steps.send(await self.call(call))
            except StopIteration as end:
                results: Sequence[LineResult] = end.value
                return results

    async def _pages(self, build: Callable[..., Call[Page[T]]]) -> AsyncIterator[T]:
        cursor = None
        while True:
            page = await self.call(build(cursor=cursor))
            for item in page.data:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    async def _send(self, call: Call[Any], limit_s: float) -> Response | TransportError:
        started_s = time.monotonic()
        body = bytearray()
        try:
            async with (
                async_time_limit(limit_s),
                self._http.stream(**request_arguments(call, limit_s)) as response,
            ):
                if not is_encoded(response):
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > self._answer_bytes_max:
                            raise BadAnswer.too_large(response.status_code, self._answer_bytes_max)
        except (httpx.RequestError, TimeoutError) as error:
            return self._endpoint.failure(error, time.monotonic() - started_s)
        return read_response(response, bytes(body), time.monotonic() - started_s)
