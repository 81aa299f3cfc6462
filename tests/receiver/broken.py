"""A receiver as customers write it by hand: right, or with one planted fault."""

import asyncio
import hmac
import json
import time
from base64 import b64encode
from contextlib import suppress
from typing import Any, Literal, TypeAlias

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.signature import SignatureError, sign_sha256, v1_key, verify

Fault: TypeAlias = Literal[
    "none",
    "takes unsigned",  # verifies what is signed, and lets in what is not
    "re-serialises",  # verifies the JSON it would have written
    "no window",  # checks the signature and not its time
    "compares with NaN",  # an age that is no number is not over the limit
    "compares a prefix",  # of the signature that is right
    "checks one scheme",  # and believes it, whatever the other one says
    "check, then insert",  # two copies at once both find nothing
    "last one wins",  # a late message overwrites the end
    "dedupes by message",  # a job that comes in two messages is handled twice
    "dedupes by signature",  # a retry has another one
    "crashes",  # on what is no JSON
    "crashes on text",  # that its database cannot keep
    "fails when busy",  # in a way that is no "come back later"
    "no limit",  # on how much it reads
    "trusts the length",  # and where none is said, reads on
    "hangs",  # on what it cannot read
    "believes what it cannot read",  # is a completion, named by its message
    "knows four words",  # and drops what says an end otherwise, or not at all
    "loses the body of an offer",  # of HTTP/2
    "knows one name",  # of the standard's headers
    "breaks when a sender hangs up",  # for who comes next
]

BODY_BYTES_MAX = 1024 * 1024
BUSY_MAX = 5
WINDOW_S = 300
END = {"completed", "failed", "cancelled", "timeout"}


class HandMade:
    """Verifies, dedupes in memory, and handles at once; its effects can be asked for. It may be
    made to answer 503 when it is busy, which is no fault."""

    def __init__(self, secret: str, fault: Fault, *, is_often_busy: bool = False) -> None:
        self._secret = secret
        self._fault = fault
        self._is_often_busy = is_often_busy
        self._busy = 0
        self._is_broken = False
        self._effects: dict[str, list[str]] = {}
        self._seen: set[str] = set()
        self.app = Starlette(
            routes=[
                Route("/hook", self._receive, methods=["POST"]),
                Route("/effects", self._list, methods=["GET"]),
            ]
        )

    async def _list(self, request: Request) -> Response:
        return JSONResponse(self._effects)

    async def _receive(self, request: Request) -> Response:
        if not self._is_often_busy and self._fault != "fails when busy":
            return Response(status_code=await self._take(request))
        self._busy += 1
        is_too_many = self._busy > BUSY_MAX
        await asyncio.sleep(0.01)  # the time that another service takes
        status = await self._take(request) if not is_too_many else 500
        self._busy -= 1
        return Response(status_code=503 if is_too_many and self._is_often_busy else status)

    async def _take(self, request: Request) -> int:
        body = await self._read(request)
        if body is None:
            return 413
        if self._is_broken:
            return 500
        try:
            self._verify(body, request)
        except SignatureError:
            return 401
        try:
            document = json.loads(body.decode("utf-8"))
        except (ValueError, RecursionError):
            return await self._give_up(request)
        job = document.get("jobId") if isinstance(document, dict) else None
        if not isinstance(job, str) or not 0 < len(job) <= 200:
            return 422
        if not job.isprintable():
            return 500 if self._fault == "crashes on text" else 422
        status = str(document.get("status"))
        if self._fault != "knows four words" or status in {"running", *END}:
            await self._handle(job, status, request)
        return 200

    async def _read(self, request: Request) -> bytes | None:
        is_trusted = self._fault == "trusts the length" and "content-length" not in request.headers
        limit = 1e12 if is_trusted or self._fault == "no limit" else BODY_BYTES_MAX
        body = bytearray()
        if self._fault == "loses the body of an offer" and "http2-settings" in request.headers:
            return b""
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    return None
        except ClientDisconnect:
            self._is_broken = self._fault == "breaks when a sender hangs up"
            raise
        return bytes(body)

    async def _give_up(self, request: Request) -> int:
        if self._fault == "hangs":
            await request.receive()  # until the client has gone
        if self._fault == "believes what it cannot read":
            await self._handle(request.headers.get("webhook-id", ""), "completed", request)
            return 200
        return 500 if self._fault == "crashes" else 400

    def _verify(self, body: bytes, request: Request) -> None:
        headers = request.headers
        names = " ".join(headers)
        if self._fault == "takes unsigned" and "signature" not in names:
            return
        if self._fault == "compares a prefix" and self._is_prefix(body, headers):
            return
        if self._fault == "compares with NaN" and self._is_nan(body, headers):
            return
        pairs = headers.raw
        if self._fault == "knows one name":
            pairs = [(name, value) for name, value in pairs if not name.startswith(b"svix-")]
        if self._fault == "checks one scheme" and "x-webhook-signature" in headers:
            pairs = [(name, value) for name, value in pairs if not name.startswith(b"webhook-")]
        signed = body
        if self._fault == "re-serialises":
            with suppress(ValueError, RecursionError):
                signed = json.dumps(json.loads(body)).encode()
        window_s = 1e12 if self._fault == "no window" else WINDOW_S
        verify(signed, pairs, self._secret, now_s=time.time(), tolerance_s=window_s)

    def _is_prefix(self, body: bytes, headers: Any) -> bool:
        value = headers.get("x-webhook-signature", "")
        is_part = 0 < len(value) < len("sha256=") + 64
        return is_part and sign_sha256(self._secret, body).startswith(value)

    def _is_nan(self, body: bytes, headers: Any) -> bool:
        """What abs(now - float(timestamp)) > 300 lets through."""
        timestamp = headers.get("webhook-timestamp", "0")
        message = f"{headers.get('webhook-id')}.{timestamp}.".encode() + body
        digest = hmac.digest(v1_key(self._secret), message, "sha256")
        right = headers.get("webhook-signature") == "v1," + b64encode(digest).decode()
        age_s = abs(time.time() - float(timestamp))
        return right and not age_s > WINDOW_S

    async def _handle(self, job: str, status: str, request: Request) -> None:
        effects = self._effects.get(job, [])
        is_new = not END.intersection(effects) and status not in effects
        if self._fault == "last one wins":
            is_new = status not in effects
        elif self._fault.startswith("dedupes by"):
            by = "webhook-id" if self._fault == "dedupes by message" else "webhook-signature"
            is_new = request.headers.get(by, job) not in self._seen
            self._seen.add(request.headers.get(by, job))
        elif self._fault == "check, then insert":
            await asyncio.sleep(0.01)  # the time that a database takes to say that it has nothing
        if is_new:
            self._effects.setdefault(job, []).append(status)
