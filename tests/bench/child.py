"""The dispatcher as a process of its own: `python -m tests.bench.child STORE [CORES]`.

STORE is sqlite, postgres or relay, CORES a list such as 0,1.

The real server on the real settings, which come from the environment. It says where it listens on
standard output and logs to standard error.
"""

import functools
import os
import sys
from unittest import mock

from dispatcher import server, settings
from dispatcher.app import Service
from tests.bench.relay import open_relay


def main(store: str, cores: str = "") -> None:
    """Serve until SIGTERM."""
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
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
