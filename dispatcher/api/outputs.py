"""Outputs as they are fetched: whole or in part, by a key or by a link that is signed."""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dispatcher.api import job_views
from dispatcher.api.call import Call
from dispatcher.api.errors import ApiError
from dispatcher.api.job_views import SHOWN_BYTES_MAX
from dispatcher.api.route import Operation, Parameter
from dispatcher.blobs.blobs import Gone
from dispatcher.jobs.blobs import PART_BYTES, Range, Unsatisfiable, matches, parse_range
from dispatcher.jobs.states import FINAL
from dispatcher.jobs.told import output_expires_ms
from dispatcher.jobs.values import Job, Output
from dispatcher.store.errors import PayloadGone
from receiver.base import http
from receiver.base.http import Request, read_query

_PIECE_BYTES: Final = 128 * 1024
_REDIRECT_S: Final = 3_600
"""So long a link of another server's is good that we send somebody to."""
_QUERY: Final = ("expires", "signature")
_GONE: Final = "the output is past its retention"


@Operation(
    "GET",
    "/v1/outputs/{id}",
    tag="jobs",
    parameters=(
        Parameter(name="expires", about="Until when it is good: seconds since 1970.", type=int),
        Parameter(name="signature", about="What makes it good."),
    ),
    responses={200: "*/*", 206: "*/*", 304: None, 307: None},
    errors=(
        "VALIDATION_ERROR",
        "NOT_FOUND",
        "PAYLOAD_GONE",
        "RANGE_NOT_SATISFIABLE",
        "CANNOT_UNSEAL",
    ),
)
async def fetch(call: Call) -> Response:
    """Fetch an output by a link.

    As callbacks and views have it: no key is asked for, and 410 says that its time is over, or that
    the output is gone. `Range` and `If-None-Match` are understood; the `ETag` is the SHA-256 of the
    whole. Where outputs are kept by an S3 server, it may be a redirect to there.
    """
    query = read_query(call.request.query, _QUERY)
    given = (query.get("expires", ""), query.get("signature", ""))
    link = call.context.gateway.links.read_output(call.path["id"], *given)
    if link is None:
        raise ApiError("NOT_FOUND", "there is no such link to an output")
    left_s = link.expires_s - call.now_ms // 1000
    if left_s <= 0:
        raise ApiError("PAYLOAD_GONE", "the link has expired")
    found = await call.context.store.jobs.linked_output(link.job, link.run)
    if found is None:
        raise ApiError("PAYLOAD_GONE", _GONE)
    blob = found.output.blob
    if blob is not None and call.request.method == "GET":
        elsewhere = await call.context.gateway.blobs.link(blob, min(left_s, _REDIRECT_S))
        if elsewhere is not None:
            headers = {"Location": elsewhere, "Cache-Control": "no-store"}
            return Response(status_code=307, headers=headers)
    return await sent(call, found.output)


def expires_ms(call: Call, job: Job) -> int | None:
    """Return until when the output of a job is to be had; None where nobody knows, or it has not
    ended."""
    endpoint = call.context.gateway.book.find(job.endpoint)
    if endpoint is None or job.state not in FINAL or job.ended_ms is None:
        return None
    return output_expires_ms(endpoint.rules, job.ended_ms)


async def filled(call: Call, job: Job, bytes_max: int = SHOWN_BYTES_MAX) -> Job:
    """Return a job that was read with its output with the bytes of that, where it is short enough
    to be shown. Raises PayloadGone."""
    if job.output is None or job.output.is_here:
        return job
    try:
        output = await call.context.gateway.blobs.filled(job.output, bytes_max)
    except Gone:
        raise PayloadGone(_GONE) from None
    return job if output is job.output else replace(job, output=output)


async def sent(
    call: Call, output: Output, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the response that an output is, or the part of it that is asked for; with these
    `headers` it is what they say, and no file to save. Raises ApiError and PayloadGone."""
    etag = f'"{output.sha256}"'
    fields = {
        **(job_views.media_headers(output.content_type) if headers is None else headers),
        "Accept-Ranges": "bytes",
        "ETag": etag,
    }
    if call.request.method in ("GET", "HEAD"):
        if matches(call.header(b"if-none-match"), etag):
            return Response(status_code=304, headers={"ETag": etag})
        wanted = _range(call, output.size, etag)
        if wanted is not None:
            fields["Content-Range"] = f"bytes {wanted.start}-{wanted.end - 1}/{output.size}"
            return await _sent(call, output, wanted, 206, fields)
    return await _sent(call, output, Range(0, output.size), status, fields)


def _range(call: Call, size: int, etag: str) -> Range | None:
    condition = call.header(b"if-range")
    if condition is not None and condition.strip() != etag:
        return None
    try:
        return parse_range(call.header(b"range"), size)
    except Unsatisfiable:
        raise ApiError(
            "RANGE_NOT_SATISFIABLE",
            f"there are {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        ) from None


async def _sent(
    call: Call, output: Output, wanted: Range, status: int, fields: Mapping[str, str]
) -> Response:
    blob = output.blob
    if output.is_here or blob is None:
        body = output.body
        if wanted.size != len(body):
            body = body[wanted.start : wanted.end]
        return Response(body, status, dict(fields))
    pieces = call.context.gateway.blobs.stream(blob, wanted)
    try:
        first = await anext(pieces, b"")
    except Gone:
        raise PayloadGone(_GONE) from None
    return Streamed(call.request, status, fields, wanted.size, _all(first, pieces))


async def _all(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


class Streamed(Response):
    """A response of a known length that is read from where it is kept while it is sent: no more
    than a part of it is in memory. Whoever stops reading it is cut off, but however long it takes
    in all, it goes on."""

    held_bytes = 2 * PART_BYTES

    def __init__(
        self,
        request: Request,
        status: int,
        headers: Mapping[str, str],
        size: int,
        parts: AsyncGenerator[bytes, None],
    ) -> None:
        self._request = request
        self._parts = parts
        super().__init__(status_code=status, headers=dict(headers))
        self.headers["content-length"] = str(size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._parts):
            start = {"type": "http.response.start", "status": self.status_code}
            await send({**start, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                await self._request.while_there(self._go_on(scope, send))
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _go_on(self, scope: Scope, send: Send) -> None:
        async for part in self._parts:
            for piece in _pieces(part):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                http.renew(scope)


def _pieces(part: bytes) -> Iterator[bytes]:
    for at in range(0, len(part), _PIECE_BYTES):
        yield part[at : at + _PIECE_BYTES]


OPERATIONS: Final = (fetch,)
