"""The customers of the demonstration.

One has a receiver with a handler, whose effect is a row in a database of its own: run as
`receiver serve --handler dispatcher.demo.customers:receiver`. Two difficult ones stand in one small
server, a slow one and one with a bug until it is fixed, and beside them a model, which answers
while one waits: run as `python -m dispatcher.demo.customers PORT`.
"""

import asyncio
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver import Event, Receiver

SLOW_S = 1.0
MODEL_S = 0.2
# No constraint keeps a job from being fulfilled twice: only the receiver does.
_TABLE = "CREATE TABLE IF NOT EXISTS fulfilled (job_id TEXT NOT NULL)"


def make_receiver() -> Receiver:
    """Return a receiver with the customer's handler, set up by the RECEIVER_* variables."""
    receiver = Receiver()

    @receiver.on("*")
    def fulfil(event: Event, tx: Any) -> None:
        tx.execute(_TABLE)
        tx.execute("INSERT INTO fulfilled (job_id) VALUES (?)", (event.job_id,))

    return receiver


def fulfilled(database: Path) -> list[str]:
    """Return the jobs that were fulfilled, one for each time."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT job_id FROM fulfilled")]


def __getattr__(name: str) -> Receiver:
    if name == "receiver":  # made when `receiver serve` asks for it, not when this is imported
        return make_receiver()
    raise AttributeError(name)


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
                Route("/model", _model, methods=["POST"]),
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


async def _model(request: Request) -> Response:
    given = await request.json()
    await asyncio.sleep(MODEL_S)
    return JSONResponse({"text": f"answer {given['number']}"})


if __name__ == "__main__":
    uvicorn.run(Customers().app(), port=int(sys.argv[1]), log_level="error")
