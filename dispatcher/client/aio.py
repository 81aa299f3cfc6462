"""The client for asyncio: the same methods, awaited."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Sequence
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack

import httpx

from dispatcher.client import access, callbacks, destinations, replays
from dispatcher.client.batches import batch
from dispatcher.client.call import Answer, Call, Lost
from dispatcher.client.callbacks import Filters, Submission
from dispatcher.client.chunks import Chunker
from dispatcher.client.errors import WaitTimeout
from dispatcher.client.exchange import Patience, exchange, poll_s
from dispatcher.client.link import DEFAULT_URL, TIMEOUT_S, Link, answer, request
from dispatcher.client.results import Callback, LineResult, Page, Replay

P = ParamSpec("P")
T = TypeVar("T")


def _does(
    build: Callable[P, Call[T]],
) -> "Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]":
    """Return the method that builds this call and makes it."""

    @wraps(build)
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.call(build(*args, **kwargs))

    return method


def _lists(build: Callable[..., Call[Page[T]]]) -> "Callable[[AsyncClient], AsyncIterator[T]]":
    """Return the method that goes through all pages of this call, one by one as you iterate."""

    def method(self: "AsyncClient", /) -> AsyncIterator[T]:
        return self._pages(build)

    method.__doc__ = build.__doc__
    return method


class AsyncClient:
    """Talks to a running dispatcher. Close it, or use `async with`. Iterate `list()`,
    `submit_many()` and `watch_replay()` with `async for`; the rest is awaited.

    `tenant` is for platform keys (others have their own). `retries` bounds how often a call is
    tried again (429, 503, broken connections; `Retry-After` is honoured), `retry_for_s` how long
    all its tries may take together. Every method raises PostbackError.
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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Raise ValueError for a URL, key or tenant that cannot be used."""
        self._link = Link(url, api_key, tenant)
        self._patience = Patience(retries=retries, total_s=retry_for_s)
        self._http = httpx.AsyncClient(transport=transport, **self._link.options(timeout_s))

    def __repr__(self) -> str:
        return f"AsyncClient({self._link!r})"

    async def __aenter__(self) -> "AsyncClient":
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

    submit = _does(callbacks.submit)
    submit_encoded = _does(callbacks.submit_encoded)
    submit_raw = _does(callbacks.submit_raw)
    submit_batch = _does(callbacks.submit_batch)
    get = _does(callbacks.get)
    page = _does(callbacks.page)
    attempts = _does(callbacks.attempts)
    payload = _does(callbacks.payload)
    replay = _does(callbacks.replay)
    cancel = _does(callbacks.cancel)
    preview_replay = _does(replays.preview_replay)
    start_replay = _does(replays.start_replay)
    get_replay = _does(replays.get_replay)
    cancel_replay = _does(replays.cancel_replay)
    get_destination = _does(destinations.get_destination)
    register_destination = _does(destinations.register_destination)
    change_destination = _does(destinations.change_destination)
    remove_destination = _does(destinations.remove_destination)
    test_destination = _does(destinations.test_destination)
    destinations = _lists(destinations.destinations)
    keys = _lists(access.keys)
    create_key = _does(access.create_key)
    revoke_key = _does(access.revoke_key)
    secrets = _lists(access.secrets)
    rotate_secret = _does(access.rotate_secret)
    reveal_secret = _does(access.reveal_secret)
    tenants = _lists(access.tenants)
    stats = _does(access.stats)

    async def list(self, **filters: Unpack[Filters]) -> AsyncIterator[Callback]:
        """Every callback that matches, newest first, fetched page by page as you iterate."""
        async for callback in self._pages(partial(callbacks.page, filters)):
            yield callback

    async def submit_many(
        self, items: Iterable[Submission | bytes] | AsyncIterable[Submission | bytes]
    ) -> AsyncIterator[LineResult]:
        """Hand over any number of callbacks (values, or lines of JSON) in batches; one result
        each, in order. One that the service refuses is a result with its `error`, not an
        exception; one it has no room for is tried again first. Safe to run again: what arrived
        before is answered as a duplicate."""
        done = 0
        async for lines in _batches(items):
            for result in await self._see_through(lines):
                yield result.after(done)
            done += len(lines)

    async def wait(self, id: str, timeout: float = 60.0) -> Callback:
        """Return the callback once it is delivered, dead or cancelled. Raises WaitTimeout after
        `timeout` seconds, and NotFound."""
        deadline = time.monotonic() + timeout
        polls = 0
        while not (callback := await self.get(id)).final:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise WaitTimeout.of(callback.id, callback.status, timeout)
            await asyncio.sleep(min(poll_s(polls), left_s))
            polls += 1
        return callback

    async def watch_replay(self, id: str) -> AsyncIterator[Replay]:
        """How far a filtered replay is, again and again until it is done or cancelled."""
        polls = 0
        while not (replay := await self.get_replay(id)).final:
            yield replay
            await asyncio.sleep(poll_s(polls))
            polls += 1
        yield replay

    async def call(self, call: Call[T]) -> T:
        """Make any call and read its answer."""
        return call.read(await self.raw(call))

    async def raw(self, call: Call[Any]) -> Answer:
        """Make any call; the good answer as it came."""
        steps = exchange(call, self._patience)
        wait_s = next(steps)
        while True:
            await asyncio.sleep(wait_s)
            try:
                wait_s = steps.send(await self._send(call))
            except StopIteration as end:
                good: Answer = end.value
                return good

    async def _see_through(self, lines: Sequence[bytes]) -> Sequence[LineResult]:
        steps = batch(lines, self._patience)
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
            for found in page.data:
                yield found
            cursor = page.next_cursor
            if cursor is None:
                return

    async def _send(self, call: Call[Any]) -> Answer | Lost:
        started_s = time.monotonic()
        try:
            response = await self._http.request(**request(call))
        except httpx.RequestError as error:
            return self._link.lost(error, time.monotonic() - started_s)
        return answer(response, time.monotonic() - started_s)


async def _batches(
    items: Iterable[Submission | bytes] | AsyncIterable[Submission | bytes],
) -> AsyncIterator[list[bytes]]:
    chunker = Chunker()
    if isinstance(items, AsyncIterable):
        async for item in items:
            if full := chunker.add(item):
                yield full
    else:
        for item in items:
            if full := chunker.add(item):
                yield full
    if rest := chunker.rest():
        yield rest
