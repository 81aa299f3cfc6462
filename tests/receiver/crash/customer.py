"""A customer's process that is killed at one point of a message's handling: posts one completion,
waits until it is handled, and ends. Run again, it goes on where it was killed.

    python -m tests.receiver.crash.customer FOLDER POINT tx|plain
"""

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from receiver import Event, Receiver, Settings
from receiver.handling.effects.base import Transaction
from receiver.handling.run import Run
from receiver.store.sqlite.inbox import SqliteInbox
from receiver.testing import Client

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
BODY = {"jobId": "job_1", "status": "completed"}

POINTS = {
    "before the insert": (SqliteInbox, "receive", "before"),
    "after the insert, before the answer": (SqliteInbox, "receive", "after"),
    "before the claim": (SqliteInbox, "claim", "before"),
    "after the claim, before the handler": (Run, "__init__", "before"),
    "inside the handler, before its write": None,
    "inside the handler, after its write": None,
    "after the handler, before the mark": (Transaction, "commit", "before"),
    "after the mark, before the inbox knows": (SqliteInbox, "settle", "before"),
    "after the inbox knows": (SqliteInbox, "settle", "after"),
}


def main(folder: Path, point: str, kind: str) -> None:
    armed = folder / "armed"
    target = POINTS[point]
    if target is not None and not (kind == "plain" and target[0] is Transaction):
        kill_at(armed, *target)
    settings = Settings(
        secrets=(SECRET,),
        database_url=f"sqlite:///{folder}/inbox.db",
        effects_url=f"sqlite:///{folder}/shop.db",
        log_level="error",
    )
    receiver = Receiver(settings)

    def write(execute: Callable[..., Any]) -> None:
        if "before its write" in point:
            die(armed)
        execute("INSERT INTO effects VALUES ('job_1')")
        if "after its write" in point:
            die(armed)

    def with_tx(event: Event, tx: Any) -> None:
        write(tx.execute)

    def plain(event: Event) -> None:
        with closing(sqlite3.connect(folder / "shop.db", isolation_level=None)) as db:
            write(db.execute)
        if "before the mark" in point:
            die(armed)

    receiver.on("completed")(with_tx if kind == "tx" else plain)
    asyncio.run(run(receiver))


async def run(receiver: Receiver) -> None:
    async with Client(receiver, SECRET) as client:
        await client.send(BODY, message_id="cb_1")
        await client.idle()


def kill_at(armed: Path, owner: Any, name: str, when: str) -> None:
    """Kills this process the first time that a step begins, or has ended."""
    step = getattr(owner, name)

    async def async_step(*args: Any, **more: Any) -> Any:
        if when == "before":
            die(armed)
        result = await step(*args, **more)
        die(armed)
        return result

    def sync_step(*args: Any, **more: Any) -> Any:
        die(armed)
        return step(*args, **more)

    setattr(owner, name, async_step if asyncio.iscoroutinefunction(step) else sync_step)


def die(armed: Path) -> None:
    """As a power cut would: once."""
    if armed.exists():
        armed.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
