"""TensorOne's client for ordinary code.

Generated from aio.py by `make generate`: change that file, not this one.
"""

import builtins
import ssl
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from types import TracebackType
from typing import Any, Self

import httpx
from msgspec.structs import replace

from dispatcher.client.retry import poll_s
from dispatcher.client.sync import Client
from dispatcher.client.tensorone import calls
from dispatcher.client.tensorone.calls import Update, is_new
from dispatcher.client.tensorone.results import Chunk, Execution, Job, JobStatus
from dispatcher.client.transport import DEFAULT_URL, TIMEOUT_S


class Endpoints:
    """Running jobs at endpoints."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def execute_async(
        self,
        endpoint_id: str,
        input: Any,
        callback_url: str | None = None,
        tags: Mapping[str, str] | None = None,
        priority: str | None = None,
        *,
        timeout: float | str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Have an endpoint run a job in the background: its end is told to `callback_url`, or asked
        for. `priority` is `normal` or `high`, `timeout` how long a call may take (seconds, or as
        `15m`). One whose answer was lost is sent again, and is the same job."""
        call = calls.execute_async(
            endpoint_id,
            input,
            callback_url,
            tags,
            priority,
            timeout=timeout,
            idempotency_key=idempotency_key,
        )
        return self._client.call(call)

    def execute(
        self,
        endpoint_id: str,
        input: Any,
        tags: Mapping[str, str] | None = None,
        priority: str | None = None,
        *,
        timeout: float | str | None = None,
        idempotency_key: str | None = None,
    ) -> Execution:
        """Have an endpoint run a job, and wait for its output. Raises JobFailed where there will be
        none."""
        call = calls.execute(
            endpoint_id, input, tags, priority, timeout=timeout, idempotency_key=idempotency_key
        )
        return self._client.call(call)


class Jobs:
    """What becomes of jobs."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get_status(self, job_id: str) -> JobStatus:
        """Return a job as it is now. Raises NotFound."""
        return self._client.call(calls.get_status(job_id))

    def watch_status(self, job_id: str) -> Iterator[JobStatus]:
        """Yield a job as it is now, and each time that this changes, until it has ended; where the
        connection breaks it is made again. Raises NotFound."""
        last, polls = None, 0
        chunks: builtins.list[Any] = []
        while True:
            status = self.get_status(job_id)
            if status != last:
                last = status
                yield status
            if status.final:
                return
            with closing(self._updates(job_id)) as updates:
                for update in updates:
                    if isinstance(update, Chunk):
                        if is_new(chunks, update):
                            chunks = [*chunks[: update.index], update.output]
                            yield replace(last, output=chunks)
                        polls = 0
                        continue
                    if update != last:
                        last = update
                        yield update
                    if update.final:
                        return
                    polls = 0
            time.sleep(poll_s(polls))
            polls += 1

    def _updates(self, job_id: str) -> Generator[Update, None, None]:
        """Yield the updates of one stream; none where there is no stream."""
        with closing(self._client.events(calls.watch_status(job_id))) as events:
            for event in events:
                update = calls.read_update(event)
                if update is not None:
                    yield update

    def cancel(self, job_id: str) -> JobStatus:
        """Cancel a job. One that has ended stays as it is. Raises NotFound."""
        return self._client.call(calls.cancel(job_id))

    def retry(self, job_id: str) -> JobStatus:
        """Run a job again that failed, timed out or was cancelled. Raises NotFound, Conflict and
        InputGone."""
        return self._client.call(calls.retry(job_id))

    def list(
        self,
        status: str | None = None,
        tags: Mapping[str, str] | None = None,
        endpoint_id: str | None = None,
    ) -> Iterator[JobStatus]:
        """Every job in this state, of this endpoint and with these tags, newest first, fetched page
        by page as you iterate."""
        cursor = None
        while True:
            call = calls.list_jobs(status=status, endpoint_id=endpoint_id, tags=tags, cursor=cursor)
            page = self._client.call(call)
            yield from page.jobs
            cursor = page.next_cursor
            if cursor is None:
                return


class TensorOneClient:
    """Talks to a gateway as to TensorOne. Close it, or use `with`. One client serves many threads.

    `base_url` is the gateway's, with or without `/v2`. The rest, retries and errors, is as of
    `Client`.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str = DEFAULT_URL,
        tenant: str | None = None,
        retries: int = 5,
        retry_for_s: float = 60.0,
        timeout_s: float = TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Raise ValueError for a URL, key or tenant that cannot be used."""
        self._client = Client(
            calls.server_of(base_url),
            api_key,
            tenant=tenant,
            retries=retries,
            retry_for_s=retry_for_s,
            timeout_s=timeout_s,
            tls=tls,
            transport=transport,
        )
        self.endpoints = Endpoints(self._client)
        self.jobs = Jobs(self._client)

    def __repr__(self) -> str:
        return f"TensorOneClient({self._client!r})"

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
        self._client.close()
