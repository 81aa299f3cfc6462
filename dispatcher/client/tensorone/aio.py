"""TensorOne's client for asyncio: the same methods, awaited."""

import asyncio
import builtins
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

import httpx
from msgspec.structs import replace

from dispatcher.client.aio import AsyncClient
from dispatcher.client.retry import poll_s
from dispatcher.client.tensorone import calls
from dispatcher.client.tensorone.calls import Update, is_new
from dispatcher.client.tensorone.results import Chunk, Execution, Job, JobStatus
from dispatcher.client.transport import DEFAULT_URL, TIMEOUT_S


class AsyncEndpoints:
    """Running jobs at endpoints."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def execute_async(
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
        return await self._client.call(call)

    async def execute(
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
        return await self._client.call(call)


class AsyncJobs:
    """What becomes of jobs."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def get_status(self, job_id: str) -> JobStatus:
        """Return a job as it is now. Raises NotFound."""
        return await self._client.call(calls.get_status(job_id))

    async def watch_status(self, job_id: str) -> AsyncIterator[JobStatus]:
        """Yield a job as it is now, and each time that this changes, until it has ended; where the
        connection breaks it is made again. Raises NotFound."""
        last, polls = None, 0
        chunks: builtins.list[Any] = []
        while True:
            status = await self.get_status(job_id)
            if status != last:
                last = status
                yield status
            if status.final:
                return
            async with aclosing(self._updates(job_id)) as updates:
                async for update in updates:
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
            await asyncio.sleep(poll_s(polls))
            polls += 1

    async def _updates(self, job_id: str) -> AsyncGenerator[Update]:
        """Yield the updates of one stream; none where there is no stream."""
        async with aclosing(self._client.events(calls.watch_status(job_id))) as events:
            async for event in events:
                update = calls.read_update(event)
                if update is not None:
                    yield update

    async def cancel(self, job_id: str) -> JobStatus:
        """Cancel a job. One that has ended stays as it is. Raises NotFound."""
        return await self._client.call(calls.cancel(job_id))

    async def retry(self, job_id: str) -> JobStatus:
        """Run a job again that failed, timed out or was cancelled. Raises NotFound, Conflict and
        InputGone."""
        return await self._client.call(calls.retry(job_id))

    async def list(
        self,
        status: str | None = None,
        tags: Mapping[str, str] | None = None,
        endpoint_id: str | None = None,
    ) -> AsyncIterator[JobStatus]:
        """Every job in this state, of this endpoint and with these tags, newest first, fetched page
        by page as you iterate."""
        cursor = None
        while True:
            call = calls.list_jobs(status=status, endpoint_id=endpoint_id, tags=tags, cursor=cursor)
            page = await self._client.call(call)
            for one in page.jobs:
                yield one
            cursor = page.next_cursor
            if cursor is None:
                return


class AsyncTensorOneClient:
    """Talks to a gateway as to TensorOne. Close it, or use `async with`. What lists or watches is
    iterated with `async for`; the rest is awaited.

    `base_url` is the gateway's, with or without `/v2`. The rest, retries and errors, is as of
    `AsyncClient`.
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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Raise ValueError for a URL, key or tenant that cannot be used."""
        self._client = AsyncClient(
            calls.server_of(base_url),
            api_key,
            tenant=tenant,
            retries=retries,
            retry_for_s=retry_for_s,
            timeout_s=timeout_s,
            tls=tls,
            transport=transport,
        )
        self.endpoints = AsyncEndpoints(self._client)
        self.jobs = AsyncJobs(self._client)

    def __repr__(self) -> str:
        return f"AsyncTensorOneClient({self._client!r})"

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
        await self._client.aclose()
