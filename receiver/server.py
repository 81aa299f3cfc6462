"""The receiver as a process: listen, say where, serve, finish what is in flight, leave."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from receiver.app import Receiver
from receiver.base import lack, log, server
from receiver.base.db.url import whereabouts
from receiver.base.lack import Need
from receiver.base.protocol import Bounds
from receiver.base.secrets import write_no_core
from receiver.base.stopping import CLOSE_S, Stop
from receiver.handling.tx import EffectsError
from receiver.http.router import DRAIN_BYTES_MAX
from receiver.inbox.inbox import InboxError
from receiver.settings import Settings, strays

_LOG: Final = log.get("receiver.server")
_FILES_SPARE: Final = 96  # inbox, effects, 16 status URLs, connections that are turned away
_FILES_PER_HANDLER: Final = 4
LOG_STYLE: Final = log.Style(
    root="receiver",
    line_chars_max=1_000,  # a request's has some 350; a path or an id can be made very long
    value_chars_max=300,
    uvicorn_level="error",  # a peer's nonsense is not our news
    others=False,  # a customer's own, and to be configured as the customer likes
)


class CannotStart(Exception):
    """The service cannot start; the message says why, in one line."""


def serve(app: Receiver, *, on_stopped: Callable[[], Awaitable[None]] | None = None) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; a second SIGINT or SIGTERM leaves at once. Raises
    CannotStart, or SettingError."""
    settings = app.settings
    log.configure(LOG_STYLE, settings.log_format, settings.log_level)
    strays().tell(_LOG)
    write_no_core()
    lack.raise_files_limit()
    stop = Stop(_LOG)
    with stop.signals(), asyncio.Runner(loop_factory=server.loop_factory()) as runner:
        try:
            runner.run(_serve(app, on_stopped, stop))
        except (InboxError, EffectsError, server.CannotListen) as error:
            raise CannotStart(str(error)) from None


async def _serve(
    app: Receiver, on_stopped: Callable[[], Awaitable[None]] | None, stop: Stop
) -> None:
    settings = app.settings
    with server.listen(settings.host, settings.port) as listener:
        # Here, not in the lifespan: the inbox's error is told in one line.
        if await stop.allows(app.open()):
            stop.within_s = settings.drain_grace + CLOSE_S
            try:
                await _take_requests(app, listener, stop)
            finally:
                await app.close()
    if on_stopped is not None:
        await on_stopped()
    _LOG.info("stopped")


async def _take_requests(app: Receiver, listener: socket.socket, stop: Stop) -> None:
    settings = app.settings
    server.tune_gc()
    url, port = server.url_of(listener), listener.getsockname()[1]
    config = server.config(
        app,
        _bounds(settings),
        keep_alive_s=settings.keep_alive,
        drain_s=settings.drain_grace,
        tally=app.metrics.connections,
    )
    fields = {
        "url": f"{url}{settings.path}",
        "port": port,
        "data": whereabouts(settings.database_url),
        "metrics": f"{url}/metrics",
        "inbox": f"{url}/inbox" if settings.admin_key else "closed (RECEIVER_ADMIN_KEY)",
    }
    http = server.Server(config, on_listening=lambda: _LOG.info("listening", **fields))
    with stop.calling(app.begin_to_stop), stop.calling(http.stop):
        if not stop.is_asked:
            await http.serve(sockets=[listener])


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        connections_max=connections_within(settings, lack.files_limit()),
        peer_share=settings.peer_share,
        write_timeout_s=settings.write_timeout,
        head_bytes_max=settings.header_bytes_max,
        head_timeout_s=settings.request_timeout,
        body_bytes_max=settings.body_bytes_max + DRAIN_BYTES_MAX,
    )


def connections_within(settings: Settings, limit: int) -> int:
    """Return how many connections `limit` has descriptors for, beside the inbox's and what handlers
    and questions to status URLs open. Warn where that is less than what is set."""
    spare = _FILES_SPARE + _FILES_PER_HANDLER * settings.handler_concurrency
    need = Need(setting="RECEIVER_CONNECTIONS_MAX", count=settings.connections_max)
    connections = need.within(limit - spare)
    lack.tell_of([(need, connections)], limit=limit)
    return connections
