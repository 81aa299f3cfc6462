"""The client for ordinary code."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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


def _does(build: Callable[P, Call[T]]) -> "Callable[Concatenate[Client, P], T]":
    """Return the method that builds this call and makes it."""

    @wraps(build)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.call(build(*args, **kwargs))

    return method


def _lists(build: Callable[..., Call[Page[T]]]) -> "Callable[[Client], Iterator[T]]":
    """Return the method that goes through all pages of this call, one by one as you iterate."""

    def method(self: "Client", /) -> Iterator[T]:
        return self._pages(build)

    method.__doc__ = build.__doc__
    return method


class Client:
    """Talks to a running dispatcher. One client serves many threads; close it, or use `with`.

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Raise ValueError for a URL, key or tenant that cannot be used."""
        self._link = Link(url, api_key, tenant)
        self._patience = Patience(retries=retries, total_s=retry_for_s)
        self._http = httpx.Client(transport=transport, **self._link.options(timeout_s))

    def __repr__(self) -> str:
        return f"Client({self._link!r})"

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

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

    def list(self, **filters: Unpack[Filters]) -> Iterator[Callback]:
        """Every callback that matches, newest first, fetched page by page as you iterate."""
        return self._pages(partial(callbacks.page, filters))

    def submit_many(self, items: Iterable[Submission | bytes]) -> Iterator[LineResult]:
        """Hand over any number of callbacks (values, or lines of JSON) in batches; one result
        each, in order. One that the service refuses is a result with its `error`, not an
        exception; one it has no room for is tried again first. Safe to run again: what arrived
        before is answered as a duplicate."""
        done = 0
        for lines in _batches(items):
            for result in self._see_through(lines):
                yield result.after(done)
            done += len(lines)

    def wait(self, id: str, timeout: float = 60.0) -> Callback:
        """Return the callback once it is delivered, dead or cancelled. Raises WaitTimeout after
        `timeout` seconds, and NotFound."""
        deadline = time.monotonic() + timeout
        polls = 0
        while not (callback := self.get(id)).final:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise WaitTimeout.of(callback.id, callback.status, timeout)
            time.sleep(min(poll_s(polls), left_s))
            polls += 1
        return callback

    def watch_replay(self, id: str) -> Iterator[Replay]:
        """How far a filtered replay is, again and again until it is done or cancelled."""
        polls = 0
        while not (replay := self.get_replay(id)).final:
            yield replay
            time.sleep(poll_s(polls))
            polls += 1
        yield replay

    def call(self, call: Call[T]) -> T:
        """Make any call and read its answer."""
        return call.read(self.raw(call))

    def raw(self, call: Call[Any]) -> Answer:
        """Make any call; the good answer as it came."""
        steps = exchange(call, self._patience)
        wait_s = next(steps)
        while True:
            time.sleep(wait_s)
            try:
                wait_s = steps.send(self._send(call))
            except StopIteration as end:
                good: Answer = end.value
                return good

    def _see_through(self, lines: Sequence[bytes]) -> Sequence[LineResult]:
        steps = batch(lines, self._patience)
        wait_s, call = next(steps)
        while True:
            time.sleep(wait_s)
            try:
                wait_s, call = steps.send(self.call(call))
            except StopIteration as end:
                results: Sequence[LineResult] = end.value
                return results

    def _pages(self, build: Callable[..., Call[Page[T]]]) -> Iterator[T]:
        cursor = None
        while True:
            page = self.call(build(cursor=cursor))
            yield from page.data
            cursor = page.next_cursor
            if cursor is None:
                return

    def _send(self, call: Call[Any]) -> Answer | Lost:
        started_s = time.monotonic()
        try:
            response = self._http.request(**request(call))
        except httpx.RequestError as error:
            return self._link.lost(error, time.monotonic() - started_s)
        return answer(response, time.monotonic() - started_s)


def _batches(items: Iterable[Submission | bytes]) -> Iterator[list[bytes]]:
    chunker = Chunker()
    for item in items:
        if full := chunker.add(item):
            yield full
    if rest := chunker.rest():
        yield rest
