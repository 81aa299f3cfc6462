"""Serving an ASGI application as a process: listen, drain, leave."""

import asyncio
import gc
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import uvicorn

from receiver.base.budget import Tally
from receiver.base.connections import Connections
from receiver.base.forks import not_for_children
from receiver.base.protocol import Bounds

BACKLOG: Final = 2048  # connections the kernel holds while we are busy; uvicorn's own default
# What the kernel takes beyond what is on its way; otherwise up to 4 MiB for who does not read.
_UNSENT_BYTES_MAX: Final = 64 * 1024
# A client that has vanished without a word is noticed within a minute, however long it waits for an
# answer; and nothing on the way forgets a connection that is quiet for that long.
_KEEP_ALIVE: Final = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
_ANY_IPV6: Final = "::"
_DATE_S: Final = 1.0  # how often the responses' Date header is made again
_TICKS_PER_DATE: Final = 10  # as uvicorn counts
_CLOSE_S: Final = 0.1  # for connections to close where there is no time to finish anything
_CLOSED_POLL_S: Final = 0.005


class CannotListen(Exception):
    """The address cannot be listened on; the message says why, in one line."""


class Server(uvicorn.Server):
    """uvicorn's server; announces itself, leaves signals to who runs it, and stops when it is told
    to, where uvicorn's polls ten times a second."""

    def __init__(self, config: uvicorn.Config, *, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Take no more connections, finish the requests in flight, and leave `serve`. For any
        thread, and for signal handlers."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self._on_listening()

    async def main_loop(self) -> None:
        tick = 0
        while not await self.on_tick(tick):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _DATE_S)
            tick += _TICKS_PER_DATE

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown or _CLOSE_S):
                # A connection notifies nobody when it is closed.
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110
                    await asyncio.sleep(_CLOSED_POLL_S)
        except TimeoutError:
            for task in self.server_state.tasks:
                task.cancel()
            for connection in list(self.server_state.connections):
                connection.transport.abort()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's raises the signal again on leaving, before anything could be closed.
        yield


def config(
    app: Any, bounds: Bounds, *, keep_alive_s: float, drain_s: float, tally: Tally | None = None
) -> uvicorn.Config:
    """Return uvicorn's configuration for `app`, whose lifespan is the caller's affair."""
    connections: Any = Connections(bounds, tally or Tally())
    return uvicorn.Config(
        app,
        http=connections,  # it is called, whatever it is
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=round(keep_alive_s),
        timeout_graceful_shutdown=drain_s,  # type: ignore[arg-type]  # we wait, not uvicorn
        backlog=BACKLOG,
    )


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. `::` takes clients of both families,
    where the system can. Raises CannotListen."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == _ANY_IPV6 and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both
        )
    except (OSError, UnicodeError) as error:
        # create_server() adds the address to the text, where it stands already.
        reason = (getattr(error, "strerror", None) or "not an address").partition(" (")[0]
        raise CannotListen(f"cannot listen on {host}:{port}: {reason}") from None
    # Connections inherit what is set here, where there is such a thing.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {**_KEEP_ALIVE, "TCP_NOTSENT_LOWAT": _UNSENT_BYTES_MAX}.items():
        with suppress(AttributeError, OSError):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    # Not by its own close(), which leaves it open for the event loop that uses it.
    return not_for_children(listener, lambda one: os.close(one.detach()))


def url_of(listener: socket.socket) -> str:
    """Return the URL that a socket listens at."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def tune_gc() -> None:
    """Make garbage collection rarer; call it when everything is set up. Requests make many objects
    and few cycles: at Python's own thresholds looking for cycles took 25 to 60 µs of CPU from each
    of the dispatcher's deliveries (measured at saturation, of some 350)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's, where there is one for this platform."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
