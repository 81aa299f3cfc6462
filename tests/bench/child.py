"""The dispatcher as a process of its own: `python -m tests.bench.child STORE [CORES]`.

STORE is sqlite, postgres or relay, CORES a list such as 0,1. Names that end with `.here.test` are
this machine's, look-ups of those that end with `.hang.test` hang.

The real server on the real settings, which come from the environment. It says where it listens on
standard output and logs to standard error.
"""

import functools
import os
import sys
import time
from typing import Final
from unittest import mock

from dispatcher import app, server, settings
from dispatcher.app import Service
from dispatcher.sending.sender import Sender
from receiver.base.lookups import Addresses, look_up
from tests.bench.relay import open_relay

_HANG_S: Final = 20.0  # as glibc does, whose servers do not answer


def main(store: str, cores: str = "") -> None:
    """Serve until SIGTERM."""
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    with mock.patch.object(app, "Sender", functools.partial(Sender, lookup=_look_up)):
        _serve(store)


def _look_up(host: str) -> Addresses:
    if host.endswith(".here.test"):
        return look_up("127.0.0.1")
    if host.endswith(".hang.test"):
        time.sleep(_HANG_S)
    return look_up(host)


def _serve(store: str) -> None:
    if store == "relay":
        # The server makes its own service; this is the one thing that differs.
        service = functools.partial(Service, store=open_relay())
        with mock.patch.object(server, "Service", service):
            server.serve(settings.load(), announce=_announce)
    else:
        server.serve(settings.load(), announce=_announce)


def _announce(url: str, _new_key: str | None) -> None:
    print(url, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
