"""Runs the receiver as a process: listen, say where, serve, finish what is in flight, leave."""

import asyncio
from collections.abc import Awaitable, Callable

from receiver.app import Receiver
from receiver.base import log, server
from receiver.base.http import DRAIN_BYTES_MAX
from receiver.base.protocol import Bounds
from receiver.handling.tx import EffectsError
from receiver.inbox.inbox import InboxError
from receiver.settings import Settings


class CannotStart(Exception):
    """The service cannot start; the message says why, in one line."""


def serve(app: Receiver, *, on_stopped: Callable[[], Awaitable[None]] | None = None) -> None:
    """Serve until SIGINT or SIGTERM. Raises CannotStart, or SettingError."""
    settings = app.settings
    log.configure(settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=server.loop_factory()) as runner:
        try:
            runner.run(_serve(app, on_stopped))
        except (InboxError, EffectsError, server.CannotListen) as error:
            raise CannotStart(str(error)) from None


async def _serve(app: Receiver, on_stopped: Callable[[], Awaitable[None]] | None) -> None:
    settings = app.settings
    config = server.config(
        app, _bounds(settings), keep_alive_s=settings.keep_alive, drain_s=settings.drain_grace
    )
    with server.listen(settings.host, settings.port) as listener:
        url, port = server.url_of(listener), listener.getsockname()[1]
        http = server.Server(
            config,
            on_listening=lambda: log.event("listening", url=f"{url}{settings.path}", port=port),
        )
        with http.signals():
            async with app:  # here, not in the lifespan: the inbox's error is told in one line
                server.tame_collector()
                await http.serve(sockets=[listener])
    if on_stopped is not None:
        await on_stopped()
    log.event("stopped")


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        connections_max=settings.connections_max,
        head_bytes_max=settings.header_bytes_max,
        head_timeout_s=settings.request_timeout,
        body_bytes_max=settings.body_bytes_max + DRAIN_BYTES_MAX,
    )
