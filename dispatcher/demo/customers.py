"""Two difficult customers in one small server: a slow one, and one with a bug until it is fixed.

Run as `python -m dispatcher.demo.customers PORT`.
"""

import asyncio
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

SLOW_S = 1.0


class Customers:
    """Remembers which callbacks it has handled, by their `webhook-id`."""

    def __init__(self) -> None:
        self._handled: dict[str, set[str]] = {"slow": set(), "buggy": set()}
        self._fixed = False

    def app(self) -> Starlette:
        """Return the application that listens."""
        return Starlette(
            routes=[
                Route("/slow", self._slow, methods=["POST"]),
                Route("/buggy", self._buggy, methods=["POST"]),
                Route("/fix", self._fix, methods=["POST"]),
                Route("/handled", self._show),
            ]
        )

    async def _slow(self, request: Request) -> Response:
        await asyncio.sleep(SLOW_S)
        return self._handle("slow", request)

    async def _buggy(self, request: Request) -> Response:
        if not self._fixed:
            return Response("KeyError: 'invoice'", 500)
        return self._handle("buggy", request)

    async def _fix(self, _request: Request) -> Response:
        self._fixed = True
        return Response("fixed")

    async def _show(self, _request: Request) -> Response:
        return JSONResponse({name: len(ids) for name, ids in self._handled.items()})

    def _handle(self, name: str, request: Request) -> Response:
        self._handled[name].add(request.headers["webhook-id"])
        return Response("thank you")


if __name__ == "__main__":
    uvicorn.run(Customers().app(), port=int(sys.argv[1]), log_level="error")
