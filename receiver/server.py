"""Runs the receiver as a process: listen, say where, serve, finish what is in flight, leave."""

import asyncio

from receiver import log, serving
from receiver.app import create_app
from receiver.asgi import DRAIN_BYTES_MAX
from receiver.protocol import Bounds
from receiver.settings import Settings
from receiver.store.inbox import InboxError


class CannotStart(Exception):
    """The service cannot start; the message says why, in one line."""


def serve(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM. Raises CannotStart, or SettingError."""
    log.configure(settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=serving.loop_factory()) as runner:
        try:
            runner.run(_serve(settings))
        except (InboxError, serving.CannotListen) as error:
            raise CannotStart(str(error)) from None


async def _serve(settings: Settings) -> None:
    app = create_app(settings)
    config = serving.config(
        app, _bounds(settings), keep_alive_s=settings.keep_alive, drain_s=settings.drain_grace
    )
    with serving.listen(settings.host, settings.port) as listener:
        url, port = serving.url_of(listener), listener.getsockname()[1]
        server = serving.Server(
            config,
            on_listening=lambda: log.event("listening", url=f"{url}{settings.path}", port=port),
        )
        with server.signals():
            async with app:  # here, not in the lifespan: the inbox's error is told in one line
                await server.serve(sockets=[listener])
    log.event("stopped")


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        connections_max=settings.connections_max,
        head_bytes_max=settings.header_bytes_max,
        head_timeout_s=settings.request_timeout,
        body_bytes_max=settings.body_bytes_max + DRAIN_BYTES_MAX,
    )
