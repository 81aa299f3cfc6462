"""What every request passes, in order: its id, its route, its key, its tenant, its handler; and
where every error becomes an answer."""

import itertools
import os
import re
import time
from collections.abc import Mapping
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dispatcher.access import Forbidden, Unauthorized
from dispatcher.api import errors
from dispatcher.api.call import Call, answer
from dispatcher.api.context import Context
from dispatcher.api.errors import ApiError
from dispatcher.api.operation import Operation
from dispatcher.filters import FilterError
from dispatcher.intake import IntakeError
from dispatcher.store.errors import StoreError
from receiver.base import http, log
from receiver.base.http import Budget, Disconnected, Refusal, Request, invalid

_LOG: Final = log.get("dispatcher.api")
# Read and forgotten before an early answer: a peer that is still sending would not see it.
DISCARDED_BYTES_MAX: Final = 64 * 1024 * 1024
# A second one of these would make the request say two things.
_SINGLE: Final = (
    b"authorization",
    b"content-length",
    b"content-type",
    b"content-encoding",
    b"idempotency-key",
    b"postback-tenant",
    b"x-request-id",
)
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,64}")
_PATH_PART: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_numbers: Final = itertools.count(1)
_process: Final = os.urandom(5).hex()


class Endpoint:
    """The operations of one path, as an ASGI application."""

    def __init__(self, context: Context, bodies: Budget, *operations: Operation) -> None:
        self._context = context
        self._path = operations[0].path
        self._bodies = bodies
        self._timeout_s = context.settings.request_timeout
        self._operations: dict[str, Operation] = {
            operation.method: operation for operation in operations
        }
        self._submits = any(operation.scope == "submit" for operation in operations)
        self._allow = ", ".join(sorted(self._operations))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun_s = time.perf_counter()
        request = Request(scope, receive, _request_id(scope))
        try:
            response = await self._answer(scope, request)
            close = await request.finish(
                response.status_code, timeout_s=self._timeout_s, bytes_max=DISCARDED_BYTES_MAX
            )
        except Disconnected:
            return
        method = scope["method"] if scope["method"] in self._operations else "other"
        self._context.metrics.requested(
            method, self._path, response.status_code, time.perf_counter() - begun_s
        )
        await _send(scope, receive, send, response, request.id, close=close)

    async def _answer(self, scope: Scope, request: Request) -> Response:
        try:
            operation = self._operation(request.method)
            request.check_single(_SINGLE)
            call = Call(
                context=self._context,
                request=request,
                bodies=self._bodies,
                path=_path(scope.get("path_params", {})),
            )
            if operation.scope is not None:
                await _admit(call, operation.scope)
            return await operation.handler(call)
        except Disconnected:
            raise
        except Exception as error:  # the last resort: no fault of ours may leak or hang
            refusal = to_api_error(error, request.id)
            if self._submits:
                self._context.metrics.refused(refusal.code)
            return refuse(refusal, request.id)

    def _operation(self, method: str) -> Operation:
        operation = self._operations.get("GET" if method == "HEAD" else method)
        if operation is None:
            raise ApiError(
                "METHOD_NOT_ALLOWED",
                f"{method[:16]} is not possible here; there are {self._allow}",
                headers={"Allow": self._allow},
            )
        return operation


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Return the answer to a path that there is not."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000, "reason": ""})
        return
    request = Request(scope, receive, _request_id(scope))
    response = refuse(ApiError("NOT_FOUND", "there is no such route; see /docs"), request.id)
    await _send(scope, receive, send, response, request.id, close=not request.has_arrived)


async def _send(
    scope: Scope,
    receive: Receive,
    send: Send,
    response: Response,
    request_id: str,
    *,
    close: bool,
) -> None:
    response.raw_headers.append((b"x-request-id", request_id.encode()))
    if type(response) is Response:
        head = b"".join([b"%b: %b\r\n" % pair for pair in response.raw_headers])
        body = bytes(response.body)
        await http.send_bytes(scope, send, response.status_code, head, body, close=close)
        return
    if close:
        response.headers["connection"] = "close"
    await response(scope, receive, send)


async def _admit(call: Call, scope: str) -> None:
    principal = await call.context.access.principal(call.header(b"authorization"))
    principal.require(scope)
    named = call.header(b"postback-tenant")
    try:
        call.tenant = principal.act_for(named)
    except ValueError as error:
        raise invalid("Postback-Tenant", named, str(error)) from None
    call.principal = principal


def to_api_error(error: Exception, request_id: str) -> Refusal:
    """Return what the caller is told about `error`; a fault of ours is logged with the request's
    id."""
    if isinstance(error, StoreError):
        try:
            error = errors.from_store(error)
        except StoreError as unknown:
            error = unknown
    if isinstance(error, Refusal):
        return error
    if isinstance(error, IntakeError):
        return errors.from_intake(error)
    if isinstance(error, FilterError):
        return errors.from_filter(error)
    if isinstance(error, Unauthorized):
        return ApiError("UNAUTHORIZED", str(error), headers={"WWW-Authenticate": "Bearer"})
    if isinstance(error, Forbidden):
        return ApiError("FORBIDDEN", str(error))
    _LOG.exception("request failed", requestId=request_id)
    return ApiError("INTERNAL", "a fault of ours; its requestId finds it in the log")


def refuse(error: Refusal, request_id: str) -> Response:
    """Return the answer that `error` is."""
    return answer(error.document(request_id), error.status, error.headers)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            given: str = value.decode("ascii")
            return given
    return f"req_{_process}{next(_numbers):08x}"


def _path(parts: Mapping[str, str]) -> Mapping[str, str]:
    # What no id or name of ours looks like is simply unknown, and no store has to bear it.
    for part in parts.values():
        if not _PATH_PART.fullmatch(part):
            raise ApiError("NOT_FOUND", "no such thing")
    return parts
