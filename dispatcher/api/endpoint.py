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
from dispatcher.api import errors, headers
from dispatcher.api.body import BodyReader, ClientGone, Incoming
from dispatcher.api.call import Call, answer
from dispatcher.api.context import Context
from dispatcher.api.errors import ApiError
from dispatcher.api.operation import Operation
from dispatcher.filters import FilterError
from dispatcher.intake import IntakeError
from dispatcher.store.errors import StoreError
from receiver.base import log

_LOG: Final = log.get("dispatcher.api")
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,64}")
_PATH_PART: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_numbers: Final = itertools.count(1)
_process: Final = os.urandom(5).hex()


class Endpoint:
    """The operations of one path, as an ASGI application."""

    def __init__(self, context: Context, bodies: BodyReader, *operations: Operation) -> None:
        self._context = context
        self._path = operations[0].path
        self._bodies = bodies
        self._operations: dict[str, Operation] = {
            operation.method: operation for operation in operations
        }
        self._submits = any(operation.scope == "submit" for operation in operations)
        self._allow = ", ".join(sorted(self._operations))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun_s = time.perf_counter()
        request_id = _request_id(scope)
        incoming = Incoming(receive, scope["headers"])
        try:
            response = await self._answer(scope, incoming, request_id)
        except ClientGone:
            return
        if not incoming.complete:
            await self._finish_early(scope, incoming, response)
        method = scope["method"] if scope["method"] in self._operations else "other"
        self._context.metrics.requested(
            method, self._path, response.status_code, time.perf_counter() - begun_s
        )
        response.raw_headers.append((b"x-request-id", request_id.encode()))
        await response(scope, receive, send)

    async def _finish_early(self, scope: Scope, incoming: Incoming, response: Response) -> None:
        """Before an answer to a request that has not all been read: read on, or else close. Nobody
        would look at the time that the rest takes."""
        expects = any(name == b"expect" for name, _ in scope["headers"])
        if response.status_code != 408 and not expects:
            await self._bodies.discard(incoming)
        if not incoming.complete:
            response.headers["Connection"] = "close"

    async def _answer(self, scope: Scope, receive: Receive, request_id: str) -> Response:
        try:
            operation = self._operation(scope["method"])
            call = Call(
                context=self._context,
                bodies=self._bodies,
                receive=receive,
                headers=headers.single(scope["headers"]),
                query_string=scope["query_string"],
                path=_path(scope.get("path_params", {})),
                request_id=request_id,
            )
            if operation.scope is not None:
                await _admit(call, operation.scope)
            return await operation.handler(call)
        except ClientGone:
            raise
        except Exception as error:  # the last resort: no fault of ours may leak or hang
            refusal = to_api_error(error, request_id)
            if self._submits:
                self._context.metrics.refused(refusal.code)
            return refuse(refusal, request_id)

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
    request_id = _request_id(scope)
    response = refuse(ApiError("NOT_FOUND", "there is no such route; see /docs"), request_id)
    response.headers["X-Request-Id"] = request_id
    if not Incoming(receive, scope["headers"]).complete:
        response.headers["Connection"] = "close"
    await response(scope, receive, send)


async def _admit(call: Call, scope: str) -> None:
    principal = await call.context.access.principal(call.header(b"authorization"))
    principal.require(scope)
    named = call.header(b"postback-tenant")
    try:
        call.tenant = principal.act_for(named)
    except ValueError as error:
        raise errors.invalid("Postback-Tenant", named, str(error)) from None
    call.principal = principal


def to_api_error(error: Exception, request_id: str) -> ApiError:
    """Return what the caller is told about `error`; a fault of ours is logged with the request's
    id."""
    if isinstance(error, StoreError):
        try:
            error = errors.from_store(error)
        except StoreError as unknown:
            error = unknown
    if isinstance(error, ApiError):
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


def refuse(error: ApiError, request_id: str) -> Response:
    """Return the answer that `error` is."""
    return answer(error.body(request_id), error.status, error.headers)


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
