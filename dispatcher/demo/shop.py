"""The customer's code: one handler, whose effect is a row in the customer's own database.

Run as `receiver serve --handler dispatcher.demo.shop:receiver`.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from receiver import Event, Receiver

# No constraint keeps a job from being fulfilled twice: only the receiver does.
_TABLE = "CREATE TABLE IF NOT EXISTS fulfilled (job_id TEXT NOT NULL)"


def make_receiver() -> Receiver:
    """Return a receiver with the customer's handler, set up by the RECEIVER_* variables."""
    receiver = Receiver()

    @receiver.on("*")
    def fulfil(event: Event, tx: Any) -> None:
        tx.execute(_TABLE)
        tx.execute("INSERT INTO fulfilled (job_id) VALUES (?)", (event.job_id,))

    return receiver


def fulfilled(database: Path) -> list[str]:
    """Return the jobs that were fulfilled, one for each time."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT job_id FROM fulfilled")]


def __getattr__(name: str) -> Receiver:
    if name == "receiver":  # made when `receiver serve` asks for it, not when this is imported
        return make_receiver()
    raise AttributeError(name)
