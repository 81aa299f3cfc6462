"""A PostgreSQL server of the benchmark's own: durable, in a folder of its own, watched from
outside. Its CPU time is told apart from the dispatcher's."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from tests.bench.process import TICKS_PER_S, stat
from tests.dispatcher.postgres import server as servers
from tests.dispatcher.postgres.server import Server

ABSENT: Final = "no PostgreSQL: no server's binaries (initdb, postgres) were found"
_OURS: Final = "bench_"


class Postgres:
    """A running server and the databases that the parts make on it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._names: set[str] = set()
        with psycopg.connect(server.url) as connection:
            self.version = str(connection.info.parameter_status("server_version"))

    def url(self, name: str) -> str:
        """The URL of the database of this name, which is made where there is none yet."""
        name = _OURS + name
        if name not in self._names:
            self._names.add(name)
            self._run("CREATE DATABASE {} TEMPLATE template0", name)
        return servers.with_database(self._server.url, name)

    def forget(self) -> None:
        """Drop the databases that were made, so that nobody vacuums them beside later parts."""
        while self._names:
            self._run("DROP DATABASE {} WITH (FORCE)", self._names.pop())

    def pids(self) -> list[int]:
        """Of all its processes."""
        return [] if self._server.process is None else _family(self._server.process.pid)

    def cpu_s(self) -> float | None:
        """CPU time of all its processes so far, of those that have ended too, in seconds."""
        times = [stat(pid) for pid in self.pids()]
        # Own and reaped children's user and system time: what has ended is in its parent's.
        ticks = sum(int(field) for fields in times if fields for field in fields[11:15])
        return ticks / TICKS_PER_S if ticks else None

    def _run(self, statement: str, name: str) -> None:
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


def found() -> bool:
    """Whether a server's binaries are installed."""
    return servers.binaries() is not None


@contextmanager
def serving() -> Iterator[Postgres]:
    """A server with fsync on, on the cores of its caller, removed at the end."""
    with servers.private_server(durable=True) as server:
        yield Postgres(server)


def _family(pid: int) -> list[int]:
    """A process and all that descend from it, where the system tells."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc") if Path("/proc").is_dir() else ():
        if entry.name.isdecimal():
            fields = stat(int(entry.name))
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    family = [pid]
    for member in family:  # grows while it is walked
        family += children.get(member, ())
    return family
