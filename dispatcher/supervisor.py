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
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Final

from dispatcher.access import Access
from dispatcher.server import LOG_STYLE, Announce, serve
from dispatcher.settings import Settings
from dispatcher.store import open_store
from dispatcher.store.errors import CannotStart
from receiver.base import log, server
from receiver.base.db.url import is_postgres
from receiver.base.settings import SettingError

WORKERS_MAX: Final = 64
_LOG: Final = log.get("dispatcher.workers")
_SPAWN: Final = multiprocessing.get_context("spawn")
_RESTART_S: Final = 1.0  # one that dies at once is not started more often than this
_START_S: Final = 60.0
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def serve_many(settings: Settings, workers: int, *, announce: Announce) -> None:
    """Serve with so many processes until SIGINT or SIGTERM; a second one leaves at once.

    Raises CannotStart, also where the database is one that processes cannot share, and
    SettingError.
    """
    if not is_postgres(settings.database_url):
        raise CannotStart(
            "--workers needs PostgreSQL: a SQLite file belongs to one process; "
            "leave --workers out, or move the data with `dispatcher move`"
        )
    log.configure(LOG_STYLE, settings.log_format, settings.log_level)
    new_key = asyncio.run(_prepare(settings))
    try:
        listener = server.listen(settings.host, settings.port)
    except server.CannotListen as error:
        advice = "choose another with --port or DISPATCHER_PORT"
        raise CannotStart(f"{error}; {advice}") from None
    with listener:
        team = Team(settings, listener, workers)
        with team.signals():
            team.run(lambda: announce(server.url_of(listener), new_key))


async def _prepare(settings: Settings) -> str | None:
    """Do what a first start does once, not once a process: make the schema and the first key."""
    store = open_store(settings)
    await store.open()
    try:
        return await Access(store, settings).bootstrap()
    finally:
        await store.close()


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    ready: Connection
    started_s: float


class Team:
    """The processes, and the loop that watches them."""

    def __init__(self, settings: Settings, listener: socket.socket, size: int) -> None:
        self._settings = settings
        self._listener = listener
        self._size = size
        self._workers: list[_Worker] = []
        self._stopping = False

    def run(self, announce: Callable[[], None]) -> None:
        """Start all, say so when all listen, and keep that many alive until told to stop."""
        self._workers = [self._start() for _ in range(self._size)]
        self._await_ready()
        if not self._stopping:
            announce()
        while self._workers:
            ended = wait([worker.process.sentinel for worker in self._workers], timeout=1.0)
            for worker in [one for one in self._workers if one.process.sentinel in ended]:
                self._replace(worker)

    def signals(self) -> "_Signals":
        """Inside, SIGINT and SIGTERM are passed on to all."""
        return _Signals(self._stop)

    def _start(self) -> _Worker:
        ready, tell = _SPAWN.Pipe(duplex=False)
        process = _SPAWN.Process(target=_work, args=(self._settings, self._listener, tell))
        process.start()
        tell.close()
        return _Worker(process=process, ready=ready, started_s=time.monotonic())

    def _await_ready(self) -> None:
        until_s = time.monotonic() + _START_S
        for worker in self._workers:
            try:
                if worker.ready.poll(max(0.0, until_s - time.monotonic())):
                    worker.ready.recv()
            except (EOFError, OSError):
                _LOG.error("a worker ended at its start", pid=worker.process.pid)

    def _replace(self, worker: _Worker) -> None:
        worker.process.join()
        worker.ready.close()
        self._workers.remove(worker)
        if self._stopping:
            return
        _LOG.error("a worker ended: starting another", pid=worker.process.pid)
        time.sleep(max(0.0, worker.started_s + _RESTART_S - time.monotonic()))
        if not self._stopping:
            self._workers.append(self._start())

    def _stop(self) -> None:
        self._stopping = True
        for worker in self._workers:
            if worker.process.pid is not None and worker.process.exitcode is None:
                os.kill(worker.process.pid, signal.SIGTERM)


class _Signals:
    """Passes signals on, all as SIGTERM: a terminal's Ctrl-C reaches every process of its group,
    and two signals would be taken as the wish to leave at once. So workers ignore SIGINT."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> None:
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._take)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as it was

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        self._stop()


def _work(settings: Settings, listener: socket.socket, tell: Connection) -> None:
    """One worker. It takes SIGTERM, from its parent, and leaves too when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()

    def announce(_url: str, _new_key: str | None) -> None:
        tell.send(True)
        tell.close()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C comes by the parent

    try:
        serve(settings, announce=announce, listener=listener)
    except (CannotStart, SettingError) as error:
        _LOG.error("a worker cannot start", reason=str(error))
        sys.exit(1)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
