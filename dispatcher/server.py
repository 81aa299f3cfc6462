"""Runs the dispatcher as a process: listen, say where, serve, drain, leave (D7)."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from dispatcher.app import Service
from dispatcher.settings import Settings
from dispatcher.store.errors import CannotStart
from receiver.base import log, server
from receiver.base.protocol import Bounds

_LOG: Final = log.get("dispatcher.server")
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
LOG_STYLE: Final = log.Style(
    root="dispatcher",
    time="ts",
    traceback="traceback",
    nulls=True,
    value_chars_max=2_048,
    others=True,
    encode=lambda fields: _encode(fields).decode(),
)
_KEEP_ALIVE_S: Final = 75  # as nginx: longer than a client's pool keeps a connection
_HEAD_BYTES_MAX: Final = 32 * 1024  # as nginx: four buffers of 8 KiB
_HTTP_DRAIN_S: Final = 5  # for requests that are being answered; deliveries have theirs after it

Announce = Callable[[str, str | None], None]
"""Told once the URL that is listened on and, at a first start, the platform key that was made."""


def serve(settings: Settings, *, announce: Announce, listener: socket.socket | None = None) -> None:
    """Serve until SIGINT or SIGTERM; a second one leaves at once. A `listener` that is given is
    used, and closed, instead of a new one.

    Raises CannotStart and SettingError.
    """
    log.configure(LOG_STYLE, settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=server.loop_factory()) as runner:
        try:
            runner.run(_serve(settings, announce, listener))
        except server.CannotListen as error:
            advice = "choose another with --port or DISPATCHER_PORT"
            raise CannotStart(f"{error}; {advice}") from None


async def _serve(settings: Settings, announce: Announce, given: socket.socket | None) -> None:
    with given or server.listen(settings.host, settings.port) as listener:
        url = server.url_of(listener)
        service = Service(settings)
        await service.start()
        server.tune_gc()

        def listening() -> None:
            announce(url, service.new_key)
            _LOG.info("listening", url=url)

        config = server.config(
            service.api,
            _bounds(settings),
            keep_alive_s=_KEEP_ALIVE_S,
            drain_s=min(_HTTP_DRAIN_S, settings.drain_grace),
        )
        http = server.Server(config, on_listening=listening)
        with http.signals(service.engine.refuse_submits):
            try:
                await http.serve(sockets=[listener])
            finally:
                await service.stop()
    _LOG.info("stopped")


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        connections_max=settings.connections_max,
        head_bytes_max=_HEAD_BYTES_MAX,
        head_timeout_s=settings.request_timeout,
        body_bytes_max=max(settings.payload_bytes_max, settings.batch_bytes_max),
    )
