"""A customer's process that is killed at one point of a message's handling: posts one completion,
waits until it is handled, and ends. Run again, it goes on where it was killed."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psycopg

from receiver import Event, Receiver, Settings
from receiver.base.db.url import is_postgres, sqlite_path
from receiver.handling.run import Run
from receiver.handling.tx import Transaction
from receiver.inbox.inbox import Inbox
from receiver.testing import Client

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
BODY = {"jobId": "job_1", "status": "completed"}
LEASE_S = 0.6
ENDS_WITHIN_S = 60.0

Kind = Literal["tx", "plain"]

# What is killed before or after which of the inbox's verbs, or of the handler's steps.
POINTS: dict[str, tuple[type | str, str, str] | None] = {
    "before the insert": ("inbox", "receive", "before"),
    "after the insert, before the answer": ("inbox", "receive", "after"),
    "before the claim": ("inbox", "claim", "before"),
    "after the claim, before the handler": (Run, "__init__", "before"),
    "inside the handler, before its write": None,
    "inside the handler, after its write": None,
    "after the handler, before the mark": (Transaction, "commit", "before"),
    "after the mark, before the inbox knows": ("inbox", "settle", "before"),
    "after the inbox knows": ("inbox", "settle", "after"),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Where it is killed, and on which databases; `armed` is a file that is there until then."""

    point: str
    kind: Kind
    inbox_url: str
    shop_url: str
    armed: Path


def main(case: Case) -> None:
    target = POINTS[case.point]
    if target is not None and not (case.kind == "plain" and target[0] is Transaction):
        owner, step, when = target
        kill_at(case.armed, Inbox if owner == "inbox" else owner, step, when)
    settings = Settings(
        secrets=(SECRET,),
        database_url=case.inbox_url,
        effects_url=case.shop_url,
        lease=LEASE_S,
        log_level="error",
    )
    receiver = Receiver(settings)
    receiver.on("completed")(handler(case))
    asyncio.run(run(receiver))


def handler(case: Case) -> Callable[..., None]:
    """Writes once, on the transaction that it is given or on a connection of its own."""

    def write(execute: Callable[..., Any]) -> None:
        if "before its write" in case.point:
            die(case.armed)
        execute("INSERT INTO effects VALUES ('job_1')")
        if "after its write" in case.point:
            die(case.armed)

    def with_tx(event: Event, tx: Any) -> None:
        write(tx.execute)

    def plain(event: Event) -> None:
        with closing(connect(case.shop_url)) as db:
            write(db.execute)
        if "before the mark" in case.point:
            die(case.armed)

    return with_tx if case.kind == "tx" else plain


def connect(url: str) -> Any:
    """To the customer's own database; each statement commits."""
    if is_postgres(url):
        return psycopg.connect(url, autocommit=True)
    return sqlite3.connect(sqlite_path(url), isolation_level=None)


async def run(receiver: Receiver) -> None:
    async with Client(receiver, SECRET) as client:
        await client.send(BODY, message_id="cb_1")
        await client.idle(timeout_s=ENDS_WITHIN_S)


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
