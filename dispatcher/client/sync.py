"""The client for ordinary code.

Generated from aio.py by `make generate`: change that file, not this one.
"""

import builtins
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

import httpx

from dispatcher.client.batches import Items, batch, batches
from dispatcher.client.calls import (
    callback,
    destination,
    endpoint,
    job,
    key,
    secret,
    submission,
    tenant,
)
from dispatcher.client.calls.callback import Filters
from dispatcher.client.calls.job import JobFilters
from dispatcher.client.calls.submission import LineResult
from dispatcher.client.calls.tenant import AuditFilters
from dispatcher.client.errors import (
    BadAnswer,
    NotFound,
    PostbackError,
    QueueFull,
    Unavailable,
    Unreachable,
    WaitTimeout,
)
from dispatcher.client.events import Event, EventReader
from dispatcher.client.results import (
    Attempt,
    AuditEntry,
    Callback,
    Endpoint,
    Job,
    JobAttempt,
    JobEvent,
    Replay,
    StoredSecret,
    Sweep,
    Usage,
)
from dispatcher.client.retry import HOLD_S, LAST_LOOK_S, RetryPolicy, exchange, poll_s
from dispatcher.client.shown import as_built_by
from dispatcher.client.transport import (
    ANSWER_BYTES_MAX,
    DEFAULT_URL,
    EVENTS_S,
    TIMEOUT_S,
    Call,
    Response,
    Server,
    TransportError,
    is_encoded,
    is_events,
    read_response,
    request_arguments,
    time_limit,
)
from dispatcher.wire import Page

P = ParamSpec("P")
T = TypeVar("T")


def _method(
    build: Callable[P, Call[T]],
) -> "Callable[Concatenate[Client, P], T]":
    """Return the method that builds this call and makes it."""

    @wraps(build)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.call(build(*args, **kwargs))

    return as_built_by(build, method)


def _listing(build: Callable[..., Call[Page[T]]]) -> "Callable[[Client], Iterator[T]]":
    """Return the method that goes through all pages of this call, one by one as you iterate."""

    def method(self: "Client", /) -> Iterator[T]:
        return self._pages(build)

    method.__doc__ = build.__doc__
    return method


class Client:
    """Talks to a running dispatcher. Close it, or use `with`. One client serves many threads.

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Raise ValueError for a URL, key or tenant that cannot be used."""
        self._server = Server(url, api_key, tenant, tls)
        self._policy = RetryPolicy(retries=retries, total_s=retry_for_s, timeout_s=timeout_s)
        self._answer_bytes_max = answer_bytes_max
        self._http = self._server.connect(httpx.Client, transport, timeout_s)

    def __repr__(self) -> str:
        return f"Client({self._server!r})"

    def __enter__(self) -> Self:
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

    submit = _method(submission.submit)
    submit_encoded = _method(submission.submit_encoded)
    submit_raw = _method(submission.submit_raw)
    submit_batch = _method(submission.submit_batch)
    get = _method(callback.get)
    page = _method(callback.page)
    payload = _method(callback.payload)
    replay = _method(callback.replay)
    cancel = _method(callback.cancel)
    failures = _method(callback.failures)
    preview_replay = _method(callback.preview_replay)
    start_replay = _method(callback.start_replay)
    get_replay = _method(callback.get_replay)
    cancel_replay = _method(callback.cancel_replay)
    get_destination = _method(destination.get_destination)
    destinations_of = _method(destination.destinations_of)
    register_destination = _method(destination.register_destination)
    change_destination = _method(destination.change_destination)
    remove_destination = _method(destination.remove_destination)
    test_destination = _method(destination.test_destination)
    destinations = _listing(destination.destinations)
    endpoints = _listing(endpoint.endpoints)
    get_endpoint = _method(endpoint.get_endpoint)
    make_endpoint = _method(endpoint.make_endpoint)
    change_endpoint = _method(endpoint.change_endpoint)
    remove_endpoint = _method(endpoint.remove_endpoint)
    pause_endpoint = _method(endpoint.pause_endpoint)
    resume_endpoint = _method(endpoint.resume_endpoint)
    purge_endpoint = _method(endpoint.purge_endpoint)
    test_endpoint = _method(endpoint.test_endpoint)
    rotate_endpoint_secret = _method(endpoint.rotate_endpoint_secret)
    reveal_endpoint_secret = _method(endpoint.reveal_endpoint_secret)
    apply_endpoints = _method(endpoint.apply_endpoints)
    endpoint_load = _method(endpoint.endpoint_load)
    submit_job = _method(job.submit_job)
    get_job = _method(job.get_job)
    job_input = _method(job.job_input)
    job_output = _method(job.job_output)
    cancel_job = _method(job.cancel_job)
    retry_job = _method(job.retry_job)
    jobs_page = _method(job.jobs_page)
    preview_jobs = _method(job.preview_jobs)
    cancel_jobs = _method(job.cancel_jobs)
    retry_jobs = _method(job.retry_jobs)
    sweeps = _listing(job.sweeps)
    get_sweep = _method(job.get_sweep)
    cancel_sweep = _method(job.cancel_sweep)
    keys = _listing(key.keys)
    create_key = _method(key.create_key)
    rotate_key = _method(key.rotate_key)
    revoke_key = _method(key.revoke_key)
    secrets = _listing(secret.secrets)
    rotate_secret = _method(secret.rotate_secret)
    reveal_secret = _method(secret.reveal_secret)
    reencrypt = _method(secret.reencrypt)
    reencryption = _method(secret.reencryption)
    store_secret = _method(secret.store_secret)
    forget_secret = _method(secret.forget_secret)
    tenants = _listing(tenant.tenants)
    get_tenant = _method(tenant.get_tenant)
    change_tenant = _method(tenant.change_tenant)
    erase_tenant = _method(tenant.erase_tenant)
    audit_page = _method(tenant.audit_page)
    stats = _method(tenant.stats)
    service_info = _method(tenant.service_info)

    def list(self, **filters: Unpack[Filters]) -> Iterator[Callback]:
        """Every callback that matches, newest first, fetched page by page as you iterate. Raises
        ValueError for a filter that there is not."""
        callback.page(filters)
        return self._pages(partial(callback.page, filters))

    def audit(self, **filters: Unpack[AuditFilters]) -> Iterator[AuditEntry]:
        """Every entry of the audit trail that matches, newest first, fetched page by page as you
        iterate. Raises ValueError for a filter that there is not."""
        tenant.audit_page(filters)
        return self._pages(partial(tenant.audit_page, filters))

    def jobs(self, **filters: Unpack[JobFilters]) -> Iterator[Job]:
        """Every job that matches, newest first, fetched page by page as you iterate. Raises
        ValueError for a filter that there is not."""
        job.jobs_page(filters)
        return self._pages(partial(job.jobs_page, filters))

    def stored_secrets(self, *, platform: bool = False) -> Iterator[StoredSecret]:
        """Every secret that is stored for headers, of the tenant or of the platform, in the order
        of their names: never the secrets."""
        return self._pages(partial(secret.stored_secrets, platform=platform))

    def attempts(self, id: str) -> builtins.list[Attempt]:
        """Every attempt of one callback, oldest first. Raises NotFound."""
        return list(self._pages(partial(callback.attempts, id)))

    def job_attempts(self, id: str) -> builtins.list[JobAttempt]:
        """Every call that was made for a job, of all its runs, oldest first. Raises NotFound."""
        return list(self._pages(partial(job.job_attempts, id)))

    def usage(
        self,
        *,
        endpoint: str | None = None,
        since: date | str | None = None,
        until: date | str | None = None,
    ) -> builtins.list[Usage]:
        """Return what was used of each endpoint on each day (UTC) from `since` (30 days ago) to
        `until` (today), both included."""
        asked = partial(job.usage, endpoint=endpoint, since=since, until=until)
        return list(self._pages(asked))

    def set_endpoint(
        self, name: str, rules: Mapping[str, Any], *, reason: str | None = None
    ) -> Endpoint:
        """Change the rules of an endpoint that are named, or make it: then `url` is among them.
        Raises NotFound where there is none and no `url`, ValidationFailed, and Conflict for one
        that comes from a file."""
        try:
            return self.change_endpoint(name, rules, reason=reason)
        except NotFound:
            if "url" not in rules:
                raise
        given = {**rules}
        return self.make_endpoint(name, given.pop("url"), given, reason=reason)

    def submit_many(self, items: Items) -> Iterator[LineResult]:
        """Hand over any number of callbacks (values, or lines of JSON) in batches; one result
        each, in order. One that the service refuses is a result with its `error`, not an
        exception; one it has no room for is tried again first. Safe to run again: what arrived
        before is answered as a duplicate."""
        done = 0
        for lines in batches(items):
            for result in self._submit_batch(lines):
                yield result.after(done)
            done += len(lines)

    def wait(self, id: str, timeout: float = 60.0) -> Callback:
        """Return the callback once it is delivered, dead or cancelled. Raises WaitTimeout after
        `timeout` seconds, whatever the service does, and NotFound."""
        deadline = time.monotonic() + timeout
        look = callback.get(id)
        status, reason, waits = "", None, ""
        polls = 0
        while True:
            left_s = max(deadline - time.monotonic(), LAST_LOOK_S)
            try:
                found = look.read(self.raw(look, within_s=left_s))
            except PostbackError as error:
                if left_s > self._policy.total_s or not isinstance(error.__cause__, TimeoutError):
                    raise
                time.sleep(max(0.0, deadline - time.monotonic()))
                raise WaitTimeout.of(id, status, timeout, reason or error.message) from error
            if found.final:
                return found
            status, reason, waits = found.status, found.last_error, found.waits
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise WaitTimeout.of(id, status, timeout, reason, waits)
            time.sleep(min(poll_s(polls), left_s))
            polls += 1

    def wait_job(self, id: str, timeout: float | None = 60.0) -> Job:
        """Return the job once it has ended, however it has: `status` says. The service holds its
        answers until then, and is asked again where one is lost, or it starts again. Raises
        WaitTimeout, which keeps the `id`, after `timeout` seconds (None: never), and NotFound."""
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        status, why = "", None
        polls = 0
        while True:
            begun_s = time.monotonic()
            left_s = max(deadline - begun_s, LAST_LOOK_S)
            hold_s = int(min(HOLD_S, left_s))
            look = job.get_job(id, hold_s=hold_s)
            try:
                found = look.read(self.raw(look, within_s=left_s))
            except (QueueFull, Unavailable, Unreachable) as error:
                is_late = left_s <= self._policy.total_s
                if not status and not (is_late and isinstance(error.__cause__, TimeoutError)):
                    raise  # it was never there
                why = error.message
            else:
                if found.final:
                    return found
                status, why = found.status, None
            now_s = time.monotonic()
            if now_s >= deadline:
                raise WaitTimeout.of(id, status, timeout or 0.0, why)
            if now_s - begun_s >= hold_s > 0:  # it was held
                polls = 0
                continue
            time.sleep(min(poll_s(polls), deadline - now_s))
            polls += 1

    def watch(self, id: str) -> Iterator[JobEvent]:
        """Yield what a job does, as it does: each state that it comes to, and while it waits its
        position; its progress; each chunk of an answer that comes in chunks; at last its end.
        Where the connection breaks it goes on behind what was there. Raises NotFound."""
        last, polls = None, 0
        while True:
            with closing(self.events(job.follow_job(id, last))) as events:
                for event in events:
                    last, polls = event.id or last, 0
                    update = job.read_event(event)
                    if update is None:
                        continue
                    yield update
                    if update.what == "end":
                        return
            self.get_job(id)  # tells why there is no stream, if there is a reason
            time.sleep(poll_s(polls))
            polls += 1

    def watch_sweep(self, id: str) -> Iterator[Sweep]:
        """How far a bulk change of jobs is, again and again until it is done or cancelled."""
        polls = 0
        while not (sweep := self.get_sweep(id)).final:
            yield sweep
            time.sleep(poll_s(polls))
            polls += 1
        yield sweep

    def watch_replay(self, id: str) -> Iterator[Replay]:
        """How far a filtered replay is, again and again until it is done or cancelled."""
        polls = 0
        while not (replay := self.get_replay(id)).final:
            yield replay
            time.sleep(poll_s(polls))
            polls += 1
        yield replay

    def call(self, call: Call[T]) -> T:
        """Make any call and read its response."""
        return call.read(self.raw(call))

    def raw(self, call: Call[Any], *, within_s: float | None = None) -> Response:
        """Make any call, `within_s` if that is given; the response of its success as it came."""
        policy = self._policy.holding(call.hold_s)
        if within_s is not None:
            policy = policy.within(within_s)
        started_s = time.monotonic()
        steps = exchange(call, policy)
        wait_s, limit_s = next(steps), policy.timeout_s
        while True:
            time.sleep(wait_s)
            try:
                wait_s = steps.send(self._send(call, limit_s))
                limit_s = policy.next_try_s(time.monotonic() - started_s + wait_s)
            except StopIteration as end:
                good: Response = end.value
                return good

    def events(self, call: Call[Any]) -> Generator[Event, None, None]:
        """Make a call that is answered with server-sent events; yield each as it comes. Ends where
        the stream ends, or breaks, and at once where the answer is none."""
        reader = EventReader()
        try:
            with self._http.stream(**request_arguments(call, EVENTS_S)) as response:
                if not is_events(response):
                    return
                for chunk in response.iter_bytes():
                    yield from reader.feed(chunk)
        except (httpx.RequestError, ValueError):
            return

    def _submit_batch(self, lines: Sequence[bytes]) -> Sequence[LineResult]:
        steps = batch(lines, self._policy)
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

    def _send(self, call: Call[Any], limit_s: float) -> Response | TransportError:
        started_s = time.monotonic()
        body = bytearray()
        try:
            with (
                time_limit(limit_s),
                self._http.stream(**request_arguments(call, limit_s)) as response,
            ):
                if not is_encoded(response):
                    for chunk in response.iter_bytes():
                        body += chunk
                        if len(body) > self._answer_bytes_max:
                            raise BadAnswer.too_large(response.status_code, self._answer_bytes_max)
        except (httpx.RequestError, TimeoutError) as error:
            return self._server.failure(error, time.monotonic() - started_s)
        return read_response(response, bytes(body), time.monotonic() - started_s)
