"""A receiver as customers write it by hand: right, or with one planted fault."""

import asyncio
import json
import time
from contextlib import suppress
from typing import Any, Literal, TypeAlias

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.signature import SignatureError, verify

Fault: TypeAlias = Literal[
    "none",
    "takes unsigned",  # verifies what is signed, and lets in what is not
    "re-serialises",  # verifies the JSON it would have written
    "no window",  # checks the signature and not its time
    "check, then insert",  # two copies at once both find nothing
    "last one wins",  # a late message overwrites the end
    "crashes",  # on what is no JSON
]

BODY_BYTES_MAX = 1024 * 1024
END = {"completed", "failed", "cancelled", "timeout"}


class HandMade:
    """Verifies, dedupes in memory, and handles at once; its effects can be asked for."""

    def __init__(self, secret: str, fault: Fault) -> None:
        self._secret = secret
        self._fault = fault
        self._effects: dict[str, list[str]] = {}
        self.app = Starlette(
            routes=[
                Route("/hook", self._receive, methods=["POST"]),
                Route("/effects", self._list, methods=["GET"]),
            ]
        )

    async def _list(self, request: Request) -> Response:
        return JSONResponse(self._effects)

    async def _receive(self, request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                return Response(status_code=413)
        try:
            self._verify(body, request.headers.raw)
        except SignatureError:
            return Response(status_code=401)
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return Response(status_code=500 if self._fault == "crashes" else 400)
        job = document.get("jobId") if isinstance(document, dict) else None
        if not isinstance(job, str) or len(job) > 200:
            return Response(status_code=422)
        await self._handle(job, str(document.get("status")))
        return Response(status_code=200)

    def _verify(self, body: bytes, headers: Any) -> None:
        if self._fault == "takes unsigned" and not any(b"signature" in name for name, _ in headers):
            return
        signed = body
        if self._fault == "re-serialises":
            with suppress(ValueError, RecursionError):
                signed = json.dumps(json.loads(body)).encode()
        window = 1e12 if self._fault == "no window" else 300
        verify(signed, headers, self._secret, now_s=time.time(), tolerance_s=window)

    async def _handle(self, job: str, status: str) -> None:
        effects = self._effects.get(job, [])
        ended = bool(END.intersection(effects))
        if self._fault == "last one wins":
            ended = status in effects
        if self._fault == "check, then insert":
            await asyncio.sleep(0.01)  # the time that a database takes to say that it has nothing
        if not ended and not (status in effects and self._fault != "check, then insert"):
            self._effects.setdefault(job, []).append(status)
