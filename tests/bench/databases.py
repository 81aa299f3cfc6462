"""PostgreSQL databases for the benchmark: on a private server that really syncs, or on the one that
the tests are told of."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg

from tests.dispatcher.postgres import server


def available() -> bool:
    """Whether a PostgreSQL can be had."""
    return server.available()


@cache
def url_for(path: Path) -> str:
    """The URL of this name's database, made when it is first asked for."""
    name = f"postback_bench_{path.name}_{os.getpid()}"
    with psycopg.connect(_server(), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}"'.encode())
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    atexit.register(_drop, _server(), name)
    return server.with_database(_server(), name)


def cpu_s() -> float | None:
    """CPU time of the server's processes on this machine so far, in seconds: of those that live."""
    total = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = path.read_text("ascii", errors="replace").split("(", 1)[1].rsplit(")", 1)
        except (OSError, IndexError, ValueError):
            continue
        if name == "postgres":
            times = fields.split()
            total += (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    return total or None


@cache
def _server() -> str:
    named = os.environ.get(server.VARIABLE)
    if named:
        return named
    context = server.private_server(durable=True)
    running = context.__enter__()
    atexit.register(context.__exit__, None, None, None)
    return running.url


def _drop(server_url: str, name: str) -> None:
    with _closing(server_url) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())


@contextmanager
def _closing(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection
