"""Server-sent events: a response that goes on for as long as there is something to tell."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from receiver.base.http import Request

EVENTS: Final = "text/event-stream"
KEEP_ALIVE: Final = b": \n\n"
"""Says nothing, and keeps a proxy from taking the connection for a dead one."""
_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_START: Final = b"retry: 1000\n\n"  # who lost the connection comes again after so many milliseconds


def event(data: bytes, name: str | None = None, id: str | None = None) -> bytes:
    """Return an event; one without a name is a `message`. Who comes again says the last `id`."""
    head = b"" if name is None else b"event: %b\n" % name.encode()
    if id is not None:
        head += b"id: %b\n" % id.encode()
    lines = b"".join(b"data: %b\n" % line for line in _LINE_END.split(data))
    return head + lines + b"\n"


def wants_events(accept: str | None) -> bool:
    """Whether an `Accept` header names events, and does not refuse them."""
    for one in (accept or "").lower().split(","):
        kind, *parameters = (part.replace(" ", "") for part in one.split(";"))
        if kind == EVENTS:
            return not any(re.fullmatch(r"q=0(?:\.0*)?", part) for part in parameters)
    return False


class Events(Response):
    """A response that is sent piece by piece, until its `pieces` end or the client hangs up. They
    are closed in either case; what they raise is theirs to tell."""

    def __init__(self, request: Request, pieces: AsyncGenerator[bytes, None]) -> None:
        self._request = request
        self._pieces = pieces
        super().__init__(headers=_HEADERS, media_type=EVENTS)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        await send({"type": "http.response.body", "body": _START, "more_body": True})
        await self._request.while_there(self._go_on(send))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _go_on(self, send: Send) -> None:
        async with aclosing(self._pieces) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
