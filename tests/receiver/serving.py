"""Any ASGI application on a free loopback port, for as long as a test needs it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from receiver.base import server
from receiver.base.protocol import Bounds

BOUNDS = Bounds(
    connections_max=1000,
    peer_share=1.0,
    head_bytes_max=96 * 1024,
    head_timeout_s=10,
    body_bytes_max=100 * 2**20,
    write_timeout_s=10,
)


@asynccontextmanager
async def served(
    app: Any,
    *,
    keep_alive_s: float = 75,
    bounds: Bounds = BOUNDS,
    given: socket.socket | None = None,
) -> AsyncIterator[str]:
    """Its URL; where a listener is `given`, that one's."""
    listening = asyncio.Event()
    with given or server.listen("127.0.0.1", 0) as listener:
        config = server.config(app, bounds, keep_alive_s=keep_alive_s, drain_s=5)
        listener_server = server.Server(config, on_listening=listening.set)
        running = asyncio.create_task(listener_server.serve(sockets=[listener]))
        await listening.wait()
        try:
            yield server.url_of(listener)
        finally:
            listener_server.stop()
            await running
