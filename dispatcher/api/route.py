"""An operation of the interface, and what every request to it passes, in order: its id, its route,
its key, its tenant, its query, its handler; and where every error becomes a response."""

import inspect
import itertools
import os
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, Literal

from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as Asgi

from dispatcher import audit
from dispatcher.access import Principal, TooFast
from dispatcher.api.call import Call, Context
from dispatcher.api.errors import ApiError, to_refusal, unavailable
from dispatcher.api.json import respond
from dispatcher.api.manner import OURS, Manner
from dispatcher.keys import UNLIMITED
from dispatcher.values import Scope
from receiver.base import http
from receiver.base.budget import Budget
from receiver.base.forwarded import Proxies
from receiver.base.http import Bodies, Disconnected, Refusal, Request, invalid, read_query

Handler = Callable[[Call], Coroutine[Any, Any, Response]]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

# Read and forgotten before an early response: a peer that is still sending would not see it.
DISCARDED_BYTES_MAX: Final = 64 * 1024 * 1024
# Of a shorter response the kernel mostly takes all at once.
_LONG_BYTES: Final = 64 * 1024
TENANT_CREATED: Final = b"postback-tenant-created"
_UNREAD: Final = "too much of what was asked for is unread yet; read it, and try again"
# A second one of these would make the request say two things.
_SINGLE: Final = (
    b"authorization", b"content-length", b"content-type", b"content-encoding", b"idempotency-key",
    b"postback-tenant", b"postback-reason", b"x-request-id",
)  # fmt: skip
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,64}")
_PATH_PART: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_numbers: Final = itertools.count(1)
_process: Final = os.urandom(5).hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A query parameter or header, as it is documented."""

    name: str
    about: str
    where: Literal["query", "header"] = "query"
    required: bool = False
    type: Any = str


@dataclass(slots=True)
class Operation:
    """One method on one path: who may call it, what it takes and what it responds with. It
    decorates its handler, whose docstring documents it: a summary, and what else there is to say.

    `scope` None is public. `body` is the type of its JSON body, or None where `media` is taken as
    it is. `responses` names what each success status carries: a type, or one of several, a media
    type, or nothing.
    `errors` are the codes that this operation adds to those which every one may answer. The query
    may hold its `parameters` alone, unless one is named like `tag.KEY`: then its handler checks.
    `refused` counts a request to its path that was refused with a code.
    `actions` are what the audit trail calls the changes that it makes, which the caller may give a
    reason for. `manner` is its dialect's: the same for all operations of a path.
    """

    method: Method
    path: str
    _: KW_ONLY
    tag: str
    scope: Scope | None = None
    body: Any = None
    body_optional: bool = False
    media: tuple[str, ...] = ()
    example: Any = None
    parameters: tuple[Parameter, ...] = ()
    responses: Mapping[int, Any] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    refused: Callable[[Context, Asgi, str], None] | None = None
    manner: Manner = OURS
    handler: Handler = field(init=False)
    summary: str = field(init=False)
    about: str = field(init=False)

    def __call__(self, handler: Handler) -> "Operation":
        summary, _, about = inspect.cleandoc(handler.__doc__ or "").partition("\n\n")
        self.handler = handler
        self.summary, self.about = summary.removesuffix("."), " ".join(about.split())
        return self

    @property
    def query_names(self) -> tuple[str, ...] | None:
        """The only parameters that its query may hold, or None where its handler checks."""
        names = tuple(one.name for one in self.parameters if one.where == "query")
        return None if any(name.endswith(".KEY") for name in names) else names


class Resource:
    """The operations of one path, as an ASGI application."""

    def __init__(
        self, context: Context, bodies: Bodies, outgoing: Budget, *operations: Operation
    ) -> None:
        """`outgoing` is the bytes of long responses that are being read, shared by tenants."""
        self._context = context
        self._outgoing = outgoing
        self._path = operations[0].path
        self._manner = operations[0].manner
        self._bodies = bodies
        self._timeout_s = context.settings.request_timeout
        self._proxies = Proxies(context.settings.trusted_proxies)
        self._operations: dict[str, Operation] = {one.method: one for one in operations}
        self._query_names = {one.method: one.query_names for one in operations}
        self._counted = next((one.refused for one in operations if one.refused), None)
        self._allow = ", ".join(sorted(self._operations))

    async def __call__(self, scope: Asgi, receive: Receive, send: Send) -> None:
        if http.has_encoded_slash(scope):
            await not_found(scope, receive, send)
            return
        begun_s = time.perf_counter()
        request = Request(scope, receive, _request_id(scope), self._proxies)
        held, holder = 0, ""
        try:
            response, holder = await self._respond(scope, request)
            held = _held(response)
            if held and not self._outgoing.take(held, holder):
                held, response = 0, error_response(unavailable(_UNREAD), request.id)
            close = not request.is_read and await request.finish(
                response.status_code, timeout_s=self._timeout_s, bytes_max=DISCARDED_BYTES_MAX
            )
            method = scope["method"] if scope["method"] in self._operations else "other"
            self._context.metrics.requested(
                method, self._path, response.status_code, time.perf_counter() - begun_s
            )
            await _send(scope, receive, send, response, request, close=close)
            del response  # it may be as large again
            if held:
                await http.sent(scope)
        except Disconnected:
            return
        finally:
            self._bodies.give_back(request)
            if held:
                self._outgoing.give_back(held, holder)

    async def _respond(self, scope: Asgi, request: Request) -> tuple[Response, str]:
        """Return the response, and the tenant that it is for."""
        tenant = ""
        try:
            operation = self._operation(request.method)
            request.check_single(_SINGLE)
            call = Call(
                context=self._context,
                request=request,
                bodies=self._bodies,
                path=_path(scope.get("path_params", {})),
                manner=self._manner,
            )
            if operation.scope is not None:
                await admit(call, operation.scope)
                tenant = call.tenant
                call.query = read_query(request.query, self._query_names[operation.method])
                if operation.actions:
                    call.reason = _reason(call)
                if operation.method == "GET":  # what nobody waits for need not be looked up
                    return await request.while_there(operation.handler(call)), tenant
            response = await operation.handler(call)
        except Disconnected:
            raise
        except Exception as error:  # the last resort: no fault of ours may leak or hang
            refusal = to_refusal(error, request.id)
            refusal.__traceback__ = None  # it would keep itself, and the body, until a collection
            refusal.status = self._manner.statuses.get(refusal.code, refusal.status)
            if self._counted is not None:
                self._counted(self._context, scope, refusal.code)
            return error_response(refusal, request.id), tenant
        # What made the tenant that it names says so: a misspelt name is seen.
        if call.is_new_tenant and self._context.access.tenant(tenant) is not None:
            request.response_headers += ((TENANT_CREATED, tenant.encode()),)
        return response, tenant

    def _operation(self, method: str) -> Operation:
        operation = self._operations.get("GET" if method == "HEAD" else method)
        if operation is None:
            raise ApiError(
                "METHOD_NOT_ALLOWED",
                f"{method[:16]} is not possible here; there are {self._allow}",
                headers={"Allow": self._allow},
            )
        return operation


def _held(response: Response) -> int:
    """Return how many bytes a response takes up until its client has read it, if they matter."""
    if type(response) is not Response:
        return getattr(response, "held_bytes", 0)
    size = len(response.body)
    return size if size > _LONG_BYTES else 0


async def not_found(scope: Asgi, receive: Receive, send: Send) -> None:
    """Respond to a path that there is not."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000, "reason": ""})
        return
    request = Request(scope, receive, _request_id(scope))
    unknown = ApiError("NOT_FOUND", "there is no such route; see /docs")
    response = error_response(unknown, request.id)
    await _send(scope, receive, send, response, request, close=not request.has_arrived)


async def _send(
    scope: Asgi,
    receive: Receive,
    send: Send,
    response: Response,
    request: Request,
    *,
    close: bool,
) -> None:
    response.raw_headers.append((b"x-request-id", request.id.encode()))
    response.raw_headers.extend(request.response_headers)
    if type(response) is Response:
        head = b"".join([b"%b: %b\r\n" % pair for pair in response.raw_headers])
        body = bytes(response.body)
        await http.send_bytes(scope, send, response.status_code, head, body, close=close)
        return
    if close:
        response.headers["connection"] = "close"
    await response(scope, receive, send)


async def admit(call: Call, scope: Scope) -> None:
    """Find out who asks, with a key of this scope, and for which tenant. Raises what a key that may
    not is refused with."""
    access = call.context.access
    header = call.manner.authorization(call.header(b"authorization"))
    principal = await access.principal(header)
    if principal.limits is not UNLIMITED:
        _check_limits(call, principal)
    access.mark_used(principal)
    principal.require(scope)
    named = call.header(b"postback-tenant")
    try:
        call.tenant = principal.act_for(named)
    except ValueError as error:
        raise invalid("Postback-Tenant", named, str(error)) from None
    call.is_new_tenant = named is not None and access.tenant(call.tenant) is None
    call.principal = principal
    call.request.holder = call.tenant
    if principal is access.unused_bootstrap:
        await access.record_bootstrap(call.entry)


def _reason(call: Call) -> str | None:
    """Return why the caller asks, None where it does not say. Raises Refusal (422)."""
    given = call.header(b"postback-reason")
    if not given:
        return None
    text = given.encode("latin-1").decode("utf-8", "surrogateescape")
    fault = audit.reason_fault(text)
    if fault is not None:
        raise invalid("Postback-Reason", None, fault)
    return text


def _check_limits(call: Call, principal: Principal) -> None:
    """Hold a request against what its key is bound to, and have the response say what is left of
    its rate. Raises Elsewhere and TooFast."""
    quota, rate = call.context.access.admit(principal, call.address), principal.limits
    if quota is None or rate.rate_per_second is None:
        return
    policy = f'"key";q={quota.quota};w={quota.window_s}'
    left = f'"key";r={quota.left};t={quota.reset_s}'
    call.request.response_headers += (
        (b"ratelimit-policy", policy.encode()),
        (b"ratelimit", left.encode()),
    )
    if quota.wait_ms:
        raise TooFast(principal.key_id, rate.rate_per_second, quota.wait_ms)


def error_response(error: Refusal, request_id: str) -> Response:
    """Return the response that `error` is."""
    return respond(error.document(request_id), error.status, error.headers)


def _request_id(scope: Asgi) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            request_id: str = value.decode("ascii")
            return request_id
    return f"req_{_process}{next(_numbers):08x}"


def _path(parts: Mapping[str, str]) -> Mapping[str, str]:
    # What no id or name of ours looks like is simply unknown, and no store has to bear it.
    for part in parts.values():
        if not _PATH_PART.fullmatch(part):
            raise ApiError("NOT_FOUND", "no such thing")
    return parts
