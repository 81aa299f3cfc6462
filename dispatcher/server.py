"""Runs the dispatcher as a process: listen, say where, serve, drain, leave (D7)."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import uvicorn

from dispatcher import logs
from dispatcher.app import Service
from dispatcher.settings import Settings
from dispatcher.store.base import CannotStart
from receiver.protocol import BoundedProtocol

_LOG: Final = logs.get("server")
_BACKLOG: Final = 2_048  # connections the kernel holds while we are busy; uvicorn's own default
_KEEP_ALIVE_S: Final = 75  # as nginx: longer than a client's pool keeps a connection
_HEAD_BYTES_MAX: Final = 32 * 1024  # as nginx: four buffers of 8 KiB
# Chunked framing costs up to 6 bytes for one of the body; more is padding, or endless trailers.
_WIRE_FACTOR_MAX: Final = 8
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def serve(settings: Settings, *, announce: Callable[[str, str | None], None]) -> None:
    """Serve until SIGINT or SIGTERM; a second one leaves at once.

    `announce` is called once with the URL that is listened on and, at a first start, the platform
    key that was made. Raises CannotStart and SettingError.
    """
    logs.configure(settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, announce))


async def _serve(settings: Settings, announce: Callable[[str, str | None], None]) -> None:
    with _listen(settings) as listener:
        service = Service(settings)
        await service.start()
        try:
            url = _url(listener)
            announce(url, service.new_key)
            _LOG.info("listening", url=url)
            await _Server(_config(service), service).serve(sockets=[listener])
        finally:
            await service.stop()
    _LOG.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn's server; leaves signals to end it with exit code 0."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's raises the signal again on leaving, before the store could be closed.
        previous = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; a second one leaves at once, which is always safe (I1)."""
        self._service.engine.ready = False
        if self.should_exit:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.should_exit = True


def _config(service: Service) -> uvicorn.Config:
    settings = service.settings
    body_bytes_max = max(settings.payload_bytes_max, settings.batch_bytes_max)
    bounds = {
        "head_bytes_max": _HEAD_BYTES_MAX,
        "head_timeout_s": settings.request_timeout,
        "wire_bytes_max": _HEAD_BYTES_MAX + _WIRE_FACTOR_MAX * body_bytes_max,
    }
    return uvicorn.Config(
        service.api,
        http=type("ConfiguredProtocol", (BoundedProtocol,), bounds),
        ws="none",
        lifespan="off",  # the service is opened around the server, where its errors can be told
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=settings.connections_max,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.drain_grace),
        backlog=_BACKLOG,
    )


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        # create_server() adds the address to the text, which is told already.
        reason = (getattr(error, "strerror", None) or "not an address").partition(" (")[0]
        where = f"{settings.host}:{settings.port}"
        raise CannotStart(
            f"cannot listen on {where}: {reason}; choose another with --port or DISPATCHER_PORT"
        ) from None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return None
    return uvloop.new_event_loop
