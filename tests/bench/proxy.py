"""The bare asynchronous proxy: `python -m tests.bench.proxy UPSTREAM_URL [CORES]`.

The gateway's route for jobs under Starlette and uvicorn: the same key, the same checks of what is
needed, a call of the upstream in a task in memory, and a signed callback. It stores nothing,
repeats nothing, limits nothing, and promises nothing: what it costs is what such a service costs
before it keeps a word. It says where it listens on standard output.
"""

import asyncio
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from receiver.base.clock import iso, now_ms
from receiver.signature import Job, signed_headers
from tests.bench.payload import ADMIN_KEY

_SECRET: Final = "whsec_dGVzdC1zZWNyZXQtb2YtdGhpcnR5LXR3by1ieXRlcyE="
_KEY: Final = f"Bearer {ADMIN_KEY}"
_BODY_BYTES_MAX: Final = 10 * 2**20


class Proxy:
    """Jobs in memory."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Keep one pool of connections."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            self._session = session
            yield

    async def submit(self, request: Request) -> Response:
        """Take a job and answer with its id."""
        if request.headers.get("authorization") != _KEY:
            return JSONResponse({"error": {"code": "UNAUTHORIZED"}}, 401)
        callback = urlsplit(request.headers.get("postback-callback-url", ""))
        body = await request.body()
        if callback.scheme not in ("http", "https") or len(body) > _BODY_BYTES_MAX:
            return JSONResponse({"error": {"code": "VALIDATION_ERROR"}}, 422)
        id, created_ms = f"job_{uuid.uuid4().hex}", now_ms()
        content_type = request.headers.get("content-type", "application/octet-stream")
        task = asyncio.create_task(self._run(id, body, content_type, callback.geturl()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        endpoint = request.path_params["name"]
        told = {"id": id, "endpoint": endpoint, "status": "queued", "createdAt": iso(created_ms)}
        return JSONResponse(told, 202, headers={"Location": f"/v1/jobs/{id}"})

    async def _run(self, id: str, body: bytes, content_type: str, callback_url: str) -> None:
        if self._session is None:
            return
        began_s = time.monotonic()
        signed = _signed(id, body)
        headers = {"Content-Type": content_type, "X-Job-Id": id, "Idempotency-Key": id, **signed}
        async with self._session.post(self._upstream, data=body, headers=headers) as answer:
            output, status = await answer.read(), answer.status
        told = json.dumps(
            {
                "jobId": id,
                "status": "completed" if status < 300 else "failed",
                "output": json.loads(output),
                "executionTime": time.monotonic() - began_s,
                "completedAt": iso(now_ms()),
            }
        ).encode()
        headers = {"Content-Type": "application/json", **_signed(id, told)}
        async with self._session.post(callback_url, data=told, headers=headers) as answer:
            await answer.read()


def _signed(id: str, body: bytes) -> dict[str, str]:
    now_s = int(time.time())
    return signed_headers(body, [_SECRET], message_id=id, timestamp_s=now_s, job=Job(id=id, run=1))


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where it listens."""
        await super().startup(sockets)
        print(f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}", flush=True)


def main(upstream: str, cores: str = "") -> None:
    """Serve until SIGTERM."""
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    proxy = Proxy(upstream)
    app = Starlette(
        routes=[Route("/v1/endpoints/{name}/jobs", proxy.submit, methods=["POST"])],
        lifespan=proxy.lifespan,
    )
    config = uvicorn.Config(app, port=0, access_log=False, log_level="warning", loop="uvloop")
    _Server(config).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
