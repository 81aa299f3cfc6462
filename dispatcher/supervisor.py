"""Several dispatchers on one machine behind one address, for a database that they can share:
started, watched, started again when they die, and stopped together."""

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Final

from dispatcher.access import Access
from dispatcher.app import tell_of_links
from dispatcher.sending.sender import Sender
from dispatcher.sending.trust import authorities
from dispatcher.server import LOG_STYLE, Announce, UncleanStop, bound_s, serve
from dispatcher.settings import Settings, strays
from dispatcher.store import open_store
from dispatcher.store.errors import CannotStart, StoreError
from receiver.base import log, server
from receiver.base.db.url import is_postgres
from receiver.base.settings import SettingError, listening_url
from receiver.base.stopping import Stop

WORKERS_MAX: Final = 64
_LOG: Final = log.get("dispatcher.workers")
_SPAWN: Final = multiprocessing.get_context("spawn")
_RESTART_S: Final = 1.0  # one that dies at once is not started more often than this
_START_S: Final = 60.0
_AFTER_WORKERS_S: Final = 1.0  # which end by themselves, within the same bound


def serve_many(settings: Settings, workers: int, *, announce: Announce) -> None:
    """Serve with so many processes until SIGINT, SIGTERM or SIGHUP; a second SIGINT or SIGTERM
    leaves at once.

    Raises CannotStart, also where the database is one that processes cannot share, SettingError
    and UncleanStop.
    """
    if not is_postgres(settings.database_url):
        raise CannotStart(
            "--workers needs PostgreSQL: a SQLite file belongs to one process; "
            "leave --workers out, or move the data with `dispatcher move`"
        )
    log.configure(LOG_STYLE, settings.log_format, settings.log_level)
    strays().tell(_LOG)
    # What no worker can use is told once, not by each.
    Sender(settings, tls=authorities(settings))
    stop = Stop(_LOG)
    with stop.signals():
        new_key, endpoints = asyncio.run(_prepare(settings, stop))
        if stop.is_asked:
            return
        try:
            listener = server.listen(settings.host, settings.port)
        except server.CannotListen as error:
            advice = "choose another with --port or DISPATCHER_PORT"
            raise CannotStart(f"{error}; {advice}") from None
        with listener:
            tell_of_links(settings, listening_url(*listener.getsockname()[:2]), endpoints)
            Team(settings, listener, workers, stop).run(
                lambda: announce(server.url_of(listener), new_key)
            )


async def _prepare(settings: Settings, stop: Stop) -> tuple[str | None, Sequence[str]]:
    """Do what a first start does once, not once a process: make the schema and the first key.
    Returns the key, if one was made, and the endpoints that there are, by name."""
    store, new_key = open_store(settings), None
    endpoints: list[str] = []

    async def prepare() -> None:
        nonlocal new_key
        await store.open()
        try:
            new_key = await Access(store, settings).bootstrap()
            with suppress(StoreError):  # the workers say what is wrong
                endpoints.extend(one.name for one in await store.jobs.endpoints())
        finally:
            await store.close()

    await stop.allows(prepare())
    return new_key, endpoints


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    ready: Connection
    parent: Connection  # open for as long as it is to work
    started_s: float


class Team:
    """The processes, and the loop that watches them.

    They are told to stop by the end of a pipe, which tells them too when their parent is gone in
    whatever way, and by a SIGHUP, which ends those at once that do not listen yet. Never by a
    SIGTERM: a service manager's reaches all processes itself, and a second one would be taken as
    the wish to leave at once.
    """

    def __init__(self, settings: Settings, listener: socket.socket, size: int, stop: Stop) -> None:
        self._settings = settings
        self._listener = listener
        self._size = size
        self._stop = stop
        self._workers: list[_Worker] = []
        self._unclean = 0

    def run(self, announce: Callable[[], None]) -> None:
        """Start all, say so when all listen, and keep that many alive until told to stop. Raises
        UncleanStop where not all of them ended in order then."""
        within_s = bound_s(self._settings)
        self._stop.within_s = within_s + 2 * _AFTER_WORKERS_S
        self._stop.at_once = self._kill
        with self._stop.calling(self._tell):
            try:
                self._run(announce, within_s + _AFTER_WORKERS_S)
            except BaseException:
                self._kill()
                raise
        if self._unclean:
            raise UncleanStop(
                f"stopped, but {self._unclean} of {self._size} workers did not end in order"
            )

    def _run(self, announce: Callable[[], None], bound_s: float) -> None:
        while len(self._workers) < self._size and not self._stop.is_asked:
            self._start()
        self._await_ready()
        if not self._stop.is_asked:
            announce()
        while self._workers:
            ended = wait([worker.process.sentinel for worker in self._workers], timeout=1.0)
            for worker in [one for one in self._workers if one.process.sentinel in ended]:
                self._replace(worker)
            if self._stop.left_s(bound_s) <= 0:
                self._kill()

    def _start(self) -> None:
        ready, tell = _SPAWN.Pipe(duplex=False)
        until, parent = _SPAWN.Pipe(duplex=False)
        process = _SPAWN.Process(target=_work, args=(self._settings, self._listener, tell, until))
        # Inherited: a terminal's Ctrl-C comes by the parent, from the worker's first instant.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        tell.close()
        until.close()
        self._workers.append(_Worker(process, ready, parent, time.monotonic()))
        if self._stop.is_asked:  # since it was begun: nobody has told it
            self._tell()

    def _await_ready(self) -> None:
        until_s = time.monotonic() + _START_S
        for worker in self._workers:
            try:
                if worker.ready.poll(max(0.0, until_s - time.monotonic())):
                    worker.ready.recv()
            except (EOFError, OSError):
                if not self._stop.is_asked:
                    _LOG.error("a worker ended at its start", pid=worker.process.pid)

    def _replace(self, worker: _Worker) -> None:
        worker.process.join()
        worker.ready.close()
        worker.parent.close()
        self._workers.remove(worker)
        if self._stop.is_asked:
            # One that was told before it could hear has nothing to finish.
            self._unclean += worker.process.exitcode not in (0, -signal.SIGTERM, -signal.SIGHUP)
            return
        _LOG.error("a worker ended: starting another", pid=worker.process.pid)
        time.sleep(max(0.0, worker.started_s + _RESTART_S - time.monotonic()))
        self._start()

    def _tell(self) -> None:
        for worker in tuple(self._workers):
            with suppress(OSError):
                worker.parent.close()
                if worker.process.pid is not None and worker.process.exitcode is None:
                    os.kill(worker.process.pid, signal.SIGHUP)

    def _kill(self) -> None:
        for worker in self._workers:
            worker.process.kill()


def _work(settings: Settings, listener: socket.socket, tell: Connection, until: Connection) -> None:
    """One worker: until it is told to stop, or its parent is gone."""
    stop = Stop(_LOG, signals=(signal.SIGTERM, signal.SIGHUP))
    threading.Thread(target=_stop_with, args=(until, stop), daemon=True).start()

    def announce(_url: str, _new_key: str | None) -> None:
        tell.send(True)
        tell.close()

    try:
        serve(settings, announce=announce, listener=listener, stop=stop)
    except (CannotStart, SettingError) as error:
        _LOG.error("a worker cannot start", reason=str(error))
        sys.exit(1)
    except UncleanStop as error:
        _LOG.error("a worker did not end in order", reason=str(error))
        sys.exit(1)


def _stop_with(until: Connection, stop: Stop) -> None:
    with suppress(EOFError, OSError):
        until.recv()
    stop.ask()
