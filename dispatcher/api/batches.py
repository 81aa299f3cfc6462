"""Taking many callbacks in one request: a line each, and a result for each."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dispatcher import wire
from dispatcher.api import documents, show
from dispatcher.api.call import JSON, Call, decoder, encode
from dispatcher.api.endpoint import to_api_error
from dispatcher.api.errors import ApiError
from dispatcher.api.operation import Operation
from dispatcher.intake import from_wire
from dispatcher.wire import BatchLine
from receiver.base.http import invalid

NDJSON: Final = "application/x-ndjson"
# Lines submitted at once: enough to share a commit, few enough to let other requests between.
LINES_AT_ONCE: Final = 64

Line = tuple[int, bytes]


class Lines(Response):
    """An answer that is sent piece by piece. It goes on when the client hangs up: what was begun
    is not left half done."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        super().__init__(media_type=NDJSON)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def submit_batch(call: Call) -> Response:
    """`POST /v1/callbacks/batch`. The whole request is read before the answer begins, so that a
    client may do the same the other way round."""
    call.query(())
    if call.header(b"idempotency-key") is not None:
        raise invalid("Idempotency-Key", None, "in a batch, each line has its own idempotencyKey")
    call.request.check_media_type((NDJSON, JSON))
    settings = call.context.settings
    raw = await call.body(settings.batch_bytes_max)
    if raw.count(b"\n") > settings.batch_lines_max:
        raise ApiError("PAYLOAD_TOO_LARGE", f"more than {settings.batch_lines_max} lines")
    call.context.intake.check_ready()
    lines = [(n, line) for n, line in enumerate(raw.split(b"\n"), 1) if line.strip()]
    return Lines(_results(call, lines))


async def _results(call: Call, lines: Sequence[Line]) -> AsyncIterator[bytes]:
    waiting = iter(lines)
    while some := tuple(islice(waiting, LINES_AT_ONCE)):
        yield b"".join(await asyncio.gather(*(_result(call, n, line) for n, line in some)))


async def _result(call: Call, n: int, line: bytes) -> bytes:
    """One line's result. Whatever is wrong with it stays with it."""
    try:
        depth_max = call.context.settings.json_depth_max
        shape = documents.decode(decoder(BatchLine), line, depth_max=depth_max)
        given = from_wire(shape, shape.idempotency_key)
        submitted = await call.context.intake.accept(call.tenant, given)
    except Exception as error:  # answered in its line, and logged where it is ours
        refusal = to_api_error(error, call.request.id)
        call.context.metrics.refused(refusal.code)
        return encode({"line": n, "status": refusal.status, **refusal.document()}) + b"\n"
    return encode(show.line(n, submitted)) + b"\n"


OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/v1/callbacks/batch",
        handler=submit_batch,
        scope="submit",
        tag="callbacks",
        summary="Submit many callbacks",
        about="A submit in each line, and in the same order a result in each line of the answer: "
        "a submit's answer or an error, with its `line` number. A bad line fails alone. A line "
        "may hold its own `idempotencyKey`. Blank lines are skipped.",
        body=BatchLine,
        media=(NDJSON, JSON),
        example={
            "jobId": "job_1",
            "callbackUrl": "https://example.com/webhooks",
            "payload": {"status": "completed"},
        },
        answers={200: wire.LineView[str]},
        errors=("PAYLOAD_TOO_LARGE",),
    ),
)
