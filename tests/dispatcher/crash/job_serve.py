"""Dispatchers that run jobs and can be told to die, without any warning, at a named point.

Reads a line of JSON for each (`Life`), and makes it by a fork, since to import all of it takes
longer than most of them live. Writes what happens, a line each: `pid N`, `url U`, `exit CODE`.
"""

import ctypes
import json
import mmap
import os
import signal
import struct
import sys
import traceback
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Final

from dispatcher.gateway import upkeep
from dispatcher.server import serve
from dispatcher.settings import Settings
from dispatcher.store import store
from dispatcher.store.jobs import clocks
from dispatcher.store.postgres import session
from receiver.base import settings as bounds
from tests.dispatcher.crash import job_points
from tests.dispatcher.crash.serve import step

_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, kw_only=True)
class Life:
    """How a dispatcher lives, and at the `count`-th time of which point it dies (none: "")."""

    database: str
    key: str
    clock: str
    point: str = ""
    count: int = 1
    lost: int = 0
    lease_s: float = 1.2
    job_drain_s: float = 0.1
    hold_s: float = 0.0
    log_level: str = "warning"


def live(life: Life) -> None:
    """Serve until the end, whatever that is."""
    job_points.arm(job_points.Fuse(life.point, life.count, life.lost))
    step(life.clock)
    _step_database(life.clock)
    if life.hold_s:
        _hold_no_longer(life.hold_s)
    # Leases of a second or two, which nobody may choose, take a test's time instead of minutes.
    job_points.replace(bounds, "check_bounds", lambda *_: None)
    given: dict[str, Any] = {"log_level": life.log_level}
    settings = Settings(
        database_url=life.database,
        port=0,
        admin_key=life.key,
        allow_networks=(ip_network("127.0.0.0/8"),),
        log_format="json",
        sweep_interval=0.1,
        lease_margin=10 if life.database.startswith("sqlite:") else 1,
        drain_grace=5,
        job_drain=life.job_drain_s,
        job_lease=life.lease_s,
        retry_after_max=life.hold_s or 86_400.0,
        **given,
    )
    serve(settings, announce=lambda url, _key: print(f"url {url}", flush=True))


def _hold_no_longer(seconds: float) -> None:
    """What a corrected clock leaves waiting for minutes, it leaves so for seconds."""
    hold_ms = round(seconds * 1000)
    for module in (upkeep, clocks):
        vars(module)["HOLD_MS"] = hold_ms
    vars(store)["TIMEOUT_MS_MAX"] = hold_ms


def _step_database(clock: str) -> None:
    """From now on the database's clock, as this process reads it, is ahead by what the file says
    behind what it says of our own."""
    with open(clock, "r+b") as file:
        ahead = mmap.mmap(file.fileno(), 16)
    true, begin = session._BEGIN, session.Session._begin

    def beginning(self: session.Session, connection: Any) -> Any:
        (seconds,) = struct.unpack_from("d", ahead, 8)
        session._BEGIN = f"{true} + {round(seconds * 1000)}"  # type: ignore[misc]
        return begin(self, connection)

    job_points.replace(session.Session, "_begin", beginning)


def main() -> None:
    """Make one after another, as long as somebody asks."""
    for line in sys.stdin:
        life = Life(**json.loads(line))
        pid = os.fork()
        if not pid:
            _end_with_parent()
            code = 1
            try:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                live(life)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(f"pid {pid}", flush=True)
        _, status = os.waitpid(pid, 0)
        print(f"exit {os.waitstatus_to_exitcode(status)}", flush=True)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
