"""The API as one ASGI application: the route table, bound to its context."""

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from dispatcher.api import (
    access,
    audit,
    callbacks,
    destinations,
    endpoint_files,
    endpoint_secrets,
    endpoints,
    failures,
    job_events,
    job_reports,
    job_submits,
    jobs,
    outputs,
    replays,
    service,
    submits,
    sweeps,
    tenants,
    usage,
)
from dispatcher.api.call import JSON_BYTES_MAX, Call, Context
from dispatcher.api.dialects import cerebrium, runpod, tensorone
from dispatcher.api.errors import unavailable
from dispatcher.api.json import JSON, encode
from dispatcher.api.reference import docs, openapi
from dispatcher.api.route import Operation, Resource, not_found
from receiver.base.budget import Budget
from receiver.base.http import Bodies

# All bodies that are arriving or being worked on, together: eight of the largest batches. A tenant
# alone may have half of it.
BODIES_BYTES_MAX: Final = 128 * 1024 * 1024
BODIES_SHARE: Final = 1 / 2
# All long responses whose clients have not read them yet: two of the largest payloads there can be.
# A tenant alone may have two thirds of it, so that there is room for the others'.
OUTGOING_BYTES_MAX: Final = 192 * 1024 * 1024
OUTGOING_SHARE: Final = 2 / 3

# In the order of how often they are used, since they are looked for from the top.
OPERATIONS: Final[tuple[Operation, ...]] = (
    *submits.OPERATIONS,
    *job_submits.OPERATIONS,
    *callbacks.OPERATIONS,
    *jobs.OPERATIONS,
    *job_events.OPERATIONS,
    *job_reports.OPERATIONS,
    *tensorone.OPERATIONS,
    *cerebrium.OPERATIONS,
    *runpod.OPERATIONS,  # last of these: an endpoint's name stands where the others have words
    *outputs.OPERATIONS,
    *sweeps.OPERATIONS,
    *usage.OPERATIONS,
    *replays.OPERATIONS,
    *failures.OPERATIONS,
    *destinations.OPERATIONS,
    *endpoints.OPERATIONS,
    *endpoint_files.OPERATIONS,
    *endpoint_secrets.OPERATIONS,
    *access.OPERATIONS,
    *tenants.OPERATIONS,
    *audit.OPERATIONS,
    *service.OPERATIONS,
)
_PAGE_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_api(context: Context) -> Router:
    """Return the whole HTTP interface over `context`. It owns nothing: whoever made the parts of
    the context opens and closes them."""
    settings = context.settings
    bodies = Bodies(
        BODIES_BYTES_MAX,
        share=BODIES_SHARE,
        body_bytes_max=max(settings.batch_bytes_max, settings.payload_bytes_max + JSON_BYTES_MAX),
        refusal=unavailable,
    )
    outgoing = Budget(OUTGOING_BYTES_MAX, OUTGOING_SHARE)
    routes = [
        Route(operations[0].path, Resource(context, bodies, outgoing, *operations))
        for operations in _by_path((*OPERATIONS, *_documentation()))
    ]
    return _Router(routes, redirect_slashes=False, default=not_found)


class _Router(Router):
    """As Starlette's, but a path without parameters is looked up, and one with some is matched with
    those alone that have as many parts: to match what is requested most costs one part in sixty of
    a delivery."""

    def __init__(self, routes: list[Route], **named: Any) -> None:
        super().__init__(routes, **named)
        self._plain = {route.path: route.app for route in routes if not route.param_convertors}
        self._parts: dict[int, list[Route]] = {}
        for route in routes:  # a parameter is one part
            if route.param_convertors:
                self._parts.setdefault(route.path.count("/"), []).append(route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope.get("root_path"):
            await super().__call__(scope, receive, send)
            return
        path = scope["path"]
        app = self._plain.get(path)
        if app is None:
            for route in self._parts.get(path.count("/"), ()):
                found = route.path_regex.match(path)
                if found is not None:
                    scope["path_params"] = found.groupdict()
                    app = route.app
                    break
        await (app or self.default)(scope, receive, send)


def _documentation() -> tuple[Operation, ...]:
    @cache  # made when somebody asks for one: a start takes 25 ms less
    def written() -> tuple[bytes, bytes]:
        document = openapi.document(OPERATIONS)
        return docs.page(document).encode(), encode(document)

    @Operation("GET", "/openapi.json", tag="service")
    async def download(_: Call) -> Response:
        """This interface as OpenAPI 3.1."""  # noqa: D401
        return Response(written()[1], media_type=JSON)

    @Operation("GET", "/docs", tag="service")
    async def show(_: Call) -> Response:
        """This interface as a page."""  # noqa: D401
        return Response(written()[0], headers=_PAGE_HEADERS)

    return download, show


def _by_path(operations: Iterable[Operation]) -> Iterable[list[Operation]]:
    paths: dict[str, list[Operation]] = {}
    for operation in operations:
        paths.setdefault(operation.path, []).append(operation)
    return paths.values()
