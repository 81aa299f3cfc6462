"""Runs the dispatcher as a process: listen, say where, serve, drain, leave (D7)."""

import asyncio
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from dispatcher.app import Service, tell_of_links
from dispatcher.engine.claiming import RECORD_S
from dispatcher.settings import Settings, strays, within_files
from dispatcher.store.errors import CannotStart
from receiver.base import lack, log, server
from receiver.base.db.url import whereabouts
from receiver.base.protocol import Bounds
from receiver.base.secrets import write_no_core
from receiver.base.settings import listening_url
from receiver.base.stopping import CLOSE_S, Stop

_LOG: Final = log.get("dispatcher.server")
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
LOG_STYLE: Final = log.Style(
    root="dispatcher",
    value_chars_max=2_048,
    uvicorn_level="warning",  # that it starts and stops we say ourselves
    others=True,
    encode=lambda fields: _encode(fields).decode(),
)
_KEEP_ALIVE_S: Final = 75  # as nginx: longer than a client's pool keeps a connection
_HEAD_BYTES_MAX: Final = 32 * 1024  # as nginx: four buffers of 8 KiB
_HTTP_DRAIN_S: Final = 5  # for requests that are being answered, while deliveries go on

Announce = Callable[[str, str | None], None]
"""Told once the URL that is listened on and, at a first start, the platform key that was made."""


class UncleanStop(Exception):
    """The service has stopped, and left something undone; the message says what."""


def serve(
    settings: Settings,
    *,
    announce: Announce,
    listener: socket.socket | None = None,
    stop: Stop | None = None,
) -> None:
    """Serve until a signal, or who holds `stop`, ends it. A `listener` that is given is used, and
    closed, instead of a new one.

    Raises CannotStart, SettingError and UncleanStop.
    """
    log.configure(LOG_STYLE, settings.log_format, settings.log_level)
    if listener is None:  # else whoever made it has told
        strays().tell(_LOG)
    write_no_core()
    settings = within_files(settings, lack.raise_files_limit(), is_told=True)
    stop = Stop(_LOG) if stop is None else stop
    with stop.signals(), asyncio.Runner(loop_factory=server.loop_factory()) as runner:
        try:
            unrecorded = runner.run(_serve(settings, announce, listener, stop))
        except server.CannotListen as error:
            advice = "choose another with --port or DISPATCHER_PORT"
            raise CannotStart(f"{error}; {advice}") from None
    if unrecorded:
        raise UncleanStop(
            f"stopped, but {unrecorded} results could not be recorded: what they are about will be "
            "sent again"
        )


async def _serve(
    settings: Settings, announce: Announce, given: socket.socket | None, stop: Stop
) -> int:
    """Return how many results could not be recorded at the end."""
    unrecorded = 0
    with given or server.listen(settings.host, settings.port) as listener:
        host, port = listener.getsockname()[:2]
        url = listening_url(host, port)
        service = Service(settings, url=url)
        # The settings may have left it open; an upstream there would be ourselves.
        service.gateway.upstreams.guard.listens_at(port)
        if await stop.allows(service.start()):
            if given is None:  # else whoever made it tells
                tell_of_links(settings, url, [one.name for one in service.gateway.book.all()])
            stop.within_s = bound_s(settings, jobs=False)
            try:
                await _take_requests(service, announce, listener, stop)
            finally:
                unrecorded = await service.stop(_left_s(settings, stop))
    _LOG.info("stopped")
    return unrecorded


def bound_s(settings: Settings, *, jobs: bool = True) -> float:
    """Return how long a process takes to end at most, from when it is told to; with `jobs` that
    run."""
    jobs_s = settings.job_drain + 2 * RECORD_S if jobs else 0.0
    return jobs_s + settings.drain_grace + RECORD_S + CLOSE_S


def _left_s(settings: Settings, stop: Stop) -> float:
    """Return how long what is in flight may still take, of a process that was told to stop: jobs
    have had their time."""
    return min(settings.drain_grace, max(0.0, stop.left_s(stop.within_s) - RECORD_S - CLOSE_S))


async def _leave(service: Service, stop: Stop, asked: asyncio.Event, http: server.Server) -> None:
    """Once the process is to stop, let jobs end, while whoever asks is told how they do; then end
    the server."""
    await asked.wait()
    settings, after_s = service.settings, bound_s(service.settings, jobs=False)
    try:
        service.gateway.waiters.stop()
        if service.gateway.engine.running:
            stop.within_s = bound_s(settings)
        await service.drain_jobs(stop.left_s(settings.job_drain))
        stop.within_s += after_s - stop.left_s(stop.within_s)
    finally:
        http.stop()


async def _take_requests(
    service: Service, announce: Announce, listener: socket.socket, stop: Stop
) -> None:
    settings, url = service.settings, server.url_of(listener)
    server.tune_gc()

    def listening() -> None:
        announce(url, service.new_key)
        _LOG.info("listening", **_start_fields(settings, url))

    config = server.config(
        service.api,
        _bounds(settings),
        keep_alive_s=_KEEP_ALIVE_S,
        drain_s=min(_HTTP_DRAIN_S, settings.drain_grace),
        tally=service.metrics.connections,
    )
    http = server.Server(config, on_listening=listening)
    asked, loop = asyncio.Event(), asyncio.get_running_loop()
    leaving = asyncio.create_task(_leave(service, stop, asked, http), name="leave")

    def leave() -> None:
        service.refuse_submits()
        loop.call_soon_threadsafe(asked.set)

    with stop.calling(leave):
        if not stop.is_asked:
            await http.serve(sockets=[listener])
    leaving.cancel()
    await asyncio.wait({leaving})


def _start_fields(settings: Settings, url: str) -> dict[str, str]:
    """Return what whoever has started it looks for: where it listens and keeps its data, the
    description of its interface, its figures, where deliveries may go beside the internet, and
    which key opens it."""
    networks = ", ".join(map(str, settings.allow_networks))
    return {
        "url": url,
        "data": whereabouts(settings.database_url),
        "docs": f"{url}/docs",
        "metrics": f"{url}/metrics",
        "networks": f"global, {networks}" if networks else "global (DISPATCHER_ALLOW_NETWORKS)",
        "key": "DISPATCHER_ADMIN_KEY" if settings.admin_key else "see `dispatcher keys list`",
    }


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        connections_max=settings.connections_max,
        peer_share=settings.peer_share,
        write_timeout_s=settings.write_timeout,
        head_bytes_max=_HEAD_BYTES_MAX,
        head_timeout_s=settings.request_timeout,
        body_bytes_max=max(
            settings.payload_bytes_max, settings.batch_bytes_max, settings.input_bytes_max
        ),
    )
