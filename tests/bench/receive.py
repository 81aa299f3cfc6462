"""The receiver as a process of its own: `python -m tests.bench.receive receiver|bare [CORES]`.

The real server on the real settings, which come from the environment. `bare` is a Starlette
handler in the receiver's place, under the same server. It says where it listens on standard output
and logs to standard error.
"""

import os
import sys
from typing import Any, cast
from unittest import mock

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from receiver import server
from receiver.app import Receiver
from receiver.base import log
from receiver.metrics import Metrics
from receiver.settings import Settings, load


class Bare:
    """Answers 200 to every message, and does nothing else."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._app = Starlette(routes=[Route(settings.path, _accept, methods=["POST"])])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    def begin_to_stop(self) -> None:
        """Nothing to finish."""


async def _accept(_request: Request) -> JSONResponse:
    return JSONResponse({"status": "accepted"})


def main(kind: str, cores: str = "") -> None:
    """Serve until SIGTERM."""
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    settings = load()
    # The server asks of its application what the bare one has, and no more.
    app = cast(Receiver, Bare(settings)) if kind == "bare" else Receiver(settings)
    _announce()
    server.serve(app)


def _announce() -> None:
    """Tell of the first event that has a URL: the server listens. Then be out of the way."""
    info = log.Log.info

    def told(self: log.Log, event: str, /, **fields: Any) -> None:
        info(self, event, **fields)
        if event == "listening":
            listening.stop()
            print(fields["url"], flush=True)

    listening = mock.patch.object(log.Log, "info", told)
    listening.start()


if __name__ == "__main__":
    main(*sys.argv[1:])
