"""A dispatcher process that can be told to die, without any warning, at a named point.

`serve.py DATABASE KEY POINT COUNT GRACE CLOCK`: prints its URL and serves; kills itself the
COUNT-th time that it comes to POINT (`never` for a process that others kill); drains for GRACE
seconds. Its clock is ahead by what stands in the file CLOCK, a number of seconds as eight bytes, at
any moment. DATABASE is a file, or the URL of a database.
"""

import mmap
import os
import signal
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import Any, Final

from dispatcher.outcome import Outcome
from dispatcher.sending.sender import Sender
from dispatcher.server import serve
from dispatcher.settings import Settings
from dispatcher.signing import Secrets
from dispatcher.store.requests import Settlement, SubmitRequest
from dispatcher.store.sqlite import database as databases
from dispatcher.store.tx import Tx
from dispatcher.values import Delivery
from receiver.base.db import sqlite

POINTS: Final = (
    "before-commit",
    "after-commit",
    "before-send",
    "after-answer",
    "after-settle",
)


class Fuse:
    """Burns down by one each time it is touched at its point."""

    def __init__(self, point: str, count: int) -> None:
        self._point = point
        self._left = count

    def touch(self, point: str) -> None:
        if point != self._point:
            return
        self._left -= 1
        if self._left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def arm(fuse: Fuse) -> None:
    """Put the fuse into the path of a delivery."""
    apply, count, end, send = databases._apply, databases._count, sqlite.end_batch, Sender.send
    applied: list[object] = []

    def counting(tx: Tx) -> None:
        count(tx)
        if "accepted" in {event for _, event in tx.changes.events}:
            fuse.touch("before-commit")

    def applying(connection: sqlite3.Connection, operations: Sequence[object], *given: Any) -> Any:
        applied[:] = operations
        return apply(connection, operations, *given)

    def ending(connection: sqlite3.Connection) -> None:
        end(connection)
        if any(isinstance(one, SubmitRequest) for one in applied):
            fuse.touch("after-commit")
        if any(isinstance(one, Settlement) for one in applied):
            fuse.touch("after-settle")

    async def sending(self: Sender, delivery: Delivery, secrets: Secrets) -> Outcome:
        fuse.touch("before-send")
        outcome = await send(self, delivery, secrets)
        fuse.touch("after-answer")
        return outcome

    replacements: tuple[tuple[object, str, Callable[..., object]], ...] = (
        (databases, "_count", counting),
        (databases, "_apply", applying),
        (sqlite, "end_batch", ending),
        (Sender, "send", sending),
    )
    for where, name, replacement in replacements:
        setattr(where, name, replacement)


def step(clock: str) -> None:
    """From now on the wall clock, and no other, is ahead by what the file says."""
    with open(clock, "r+b") as file:
        ahead = mmap.mmap(file.fileno(), 8)
    true = time.time

    def stepped() -> float:
        (seconds,) = struct.unpack("d", ahead)
        return true() + float(seconds)

    time.time = stepped


def main(database: str, key: str, point: str, count: str, grace: str, clock: str) -> None:
    arm(Fuse(point, int(count)))
    step(clock)
    settings = Settings(
        database_url=database if "://" in database else f"sqlite:///{database}",
        port=0,
        admin_key=key,
        allow_networks=(ip_network("127.0.0.0/8"),),
        log_format="json",
        log_level="error",
        sweep_interval=0.2,
        lease_margin=1 if "://" in database else 10,
        drain_grace=float(grace),
    )
    serve(settings, announce=lambda url, _key: print(url, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
