"""The API as one ASGI application: the route table, bound to its context."""

from collections.abc import Iterable
from typing import Final

from starlette.responses import Response
from starlette.routing import Route, Router

from dispatcher.api import docs, openapi
from dispatcher.api.call import JSON, Call, encode
from dispatcher.api.context import Context
from dispatcher.api.endpoint import Endpoint, not_found
from dispatcher.api.errors import unavailable
from dispatcher.api.operation import Handler, Operation
from dispatcher.api.routes import OPERATIONS
from receiver.base.http import Budget

# All bodies that are still arriving, together: eight of the largest batches.
BUFFERED_BYTES_MAX: Final = 128 * 1024 * 1024
_HTML: Final = "text/html; charset=utf-8"
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def create_api(context: Context) -> Router:
    """Return the whole HTTP interface over `context`. It owns nothing: whoever made the parts of
    the context opens and closes them."""
    bodies = Budget(BUFFERED_BYTES_MAX, unavailable)
    routes = [
        Route(operations[0].path, Endpoint(context, bodies, *operations))
        for operations in _by_path((*OPERATIONS, *_documentation()))
    ]
    return Router(routes, redirect_slashes=False, default=not_found)


def _documentation() -> tuple[Operation, ...]:
    document = openapi.document(OPERATIONS)
    page, text = docs.page(document).encode(), encode(document)

    async def show(_: Call) -> Response:
        return Response(page, headers={"Content-Type": _HTML, **_PAGE_HEADERS})

    async def download(_: Call) -> Response:
        return Response(text, media_type=JSON)

    def public(path: str, handler: Handler, summary: str) -> Operation:
        return Operation(method="GET", path=path, handler=handler, tag="service", summary=summary)

    return (
        public("/openapi.json", download, "This interface as OpenAPI 3.1"),
        public("/docs", show, "This interface as a page"),
    )


def _by_path(operations: Iterable[Operation]) -> Iterable[list[Operation]]:
    paths: dict[str, list[Operation]] = {}
    for operation in operations:
        paths.setdefault(operation.path, []).append(operation)
    return paths.values()
