"""Runs the receiver as a process: listen, say where, serve, finish what is in flight, leave."""

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from receiver import log
from receiver.app import create_app
from receiver.inbox import InboxError
from receiver.protocol import bounded_protocol
from receiver.settings import Settings

BACKLOG = 2048  # connections the kernel holds while we are busy; uvicorn's own default
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class CannotStart(Exception):
    """The service cannot start; the message says why, in one line."""


def serve(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM. Raises CannotStart, or SettingError."""
    log.configure(settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    app = create_app(settings)
    listener = _listen(settings)
    try:
        async with app:
            server = _Server(_config(app, settings), settings)
            await server.serve(sockets=[listener])
    except InboxError as error:
        raise CannotStart(str(error)) from None
    finally:
        listener.close()
    log.event("stopped")


class _Server(uvicorn.Server):
    """uvicorn's server; announces itself, and leaves signals to end it with exit code 0."""

    def __init__(self, config: uvicorn.Config, settings: Settings) -> None:
        super().__init__(config)
        self._settings = settings

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            log.event("listening", url=f"http://{at}{self._settings.path}", port=port)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's raises the signal again on leaving, before the inbox could be closed.
        previous = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; a second one leaves at once."""
        self.force_exit = self.should_exit
        self.should_exit = True


def _config(app: object, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # uvicorn's own ASGI types are private
        http=bounded_protocol(settings),
        ws="none",
        lifespan="off",  # the inbox is opened around the server, where its error can be told
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=round(settings.keep_alive),
        timeout_graceful_shutdown=round(settings.drain_grace),
        backlog=BACKLOG,
    )


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        # create_server() adds the address to the text, which is told already.
        reason = (getattr(error, "strerror", None) or "not an address").partition(" (")[0]
        where = f"{settings.host}:{settings.port}"
        raise CannotStart(f"cannot listen on {where}: {reason}") from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # there is none for this platform
        return None
    return uvloop.new_event_loop
