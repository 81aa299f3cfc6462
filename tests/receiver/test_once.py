"""Fifty copies at once of each of two hundred completions: two hundred effects."""

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import psycopg
import pytest

from receiver import Event, Receiver, Settings
from receiver.testing import Client
from tests.dispatcher.postgres.server import database
from tests.receiver.copies import post_copies
from tests.receiver.process import Process
from tests.receiver.serving import served
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
COPIES, COMPLETIONS, REPLICAS = 50, 200, 4
VERDICTS = {"accepted": COMPLETIONS, "duplicate": COMPLETIONS * (COPIES - 1)}


async def test_fifty_copies_of_two_hundred_completions_have_two_hundred_effects(
    tmp_path: Path,
) -> None:
    """Counted in the customer's table, which would take a second one."""
    shop = tmp_path / "shop.db"
    with closing(sqlite3.connect(shop)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE effects (job TEXT)")
    receiver = Receiver(
        Settings(
            secrets=(SECRET,),
            database_url=f"sqlite:///{tmp_path}/inbox.db",
            effects_url=f"sqlite:///{shop}",
            log_level="error",
        )
    )

    @receiver.on("completed")
    def fulfil(event: Event, tx: Any) -> None:
        tx.execute("INSERT INTO effects VALUES (?)", (event.job_id,))

    jobs = [f"job_{n}" for n in range(COMPLETIONS)]
    async with Client(receiver, SECRET) as client, served(receiver) as url:
        assert await post_copies([url], SECRET, jobs, COPIES) == VERDICTS
        await client.idle(timeout_s=60)
    with closing(sqlite3.connect(shop)) as db:
        effects = Counter(job for (job,) in db.execute("SELECT job FROM effects"))
    assert effects == dict.fromkeys(jobs, 1)


SHOP = """
import os
from pathlib import Path

def fulfil(event, tx):
    tx.execute("INSERT INTO effects VALUES (%s)", (event.job_id,))
    if event.job_id.startswith("slow"):
        tx.execute("SELECT pg_sleep(0.1)")
    if event.job_id == "frozen" and event.attempt == 1:
        Path("pid.new").write_text(str(os.getpid()))
        os.rename("pid.new", "pid")
        tx.execute("SELECT pg_sleep(0.5)")
"""


class Fleet:
    """`receiver serve`, several times on one PostgreSQL."""

    def __init__(self, processes: list[Process], db: psycopg.Connection, folder: Path) -> None:
        self.processes = processes
        self.folder = folder
        self.urls = [f"http://127.0.0.1:{process.port}" for process in processes]
        self._db = db

    def effects(self, prefix: str) -> Counter[str]:
        """By job, as the customer's own table has them."""
        found = self._db.execute(f"SELECT job FROM effects WHERE job LIKE '{prefix}%'").fetchall()
        return Counter(job for (job,) in found)

    def attempts(self, job: str) -> int:
        """At its one message."""
        found = self._db.execute(
            f"SELECT attempts FROM postback_receiver.messages WHERE job_id = '{job}'"
        ).fetchone()
        return 0 if found is None else int(found[0])

    def states(self, prefix: str) -> Counter[str]:
        """Of the messages in the inbox."""
        found = self._db.execute(
            f"SELECT state FROM postback_receiver.messages WHERE job_id LIKE '{prefix}%'"
        ).fetchall()
        return Counter(state for (state,) in found)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Whose handler takes a moment between its write and its end where the job says so."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "shop.py").write_text(SHOP)
    with ExitStack() as stack:
        url = stack.enter_context(database())
        db = stack.enter_context(psycopg.connect(url, autocommit=True))
        db.execute("CREATE TABLE effects (job text)")
        environ = {
            "RECEIVER_SECRETS": SECRET,
            "RECEIVER_DATABASE_URL": url,
            "RECEIVER_EFFECTS_URL": url,
            "RECEIVER_PORT": "0",
            "RECEIVER_LEASE": "1",
            "RECEIVER_POLL": "0.1",
            "RECEIVER_LOG_FORMAT": "json",
        }
        with ThreadPoolExecutor(REPLICAS) as pool:
            starting = [
                pool.submit(Process, ("--handler", "shop:fulfil"), environ, folder)
                for _ in range(REPLICAS)
            ]
        processes = [one.result() for one in starting]
        for one in processes:
            stack.callback(one.end, SIGKILL)
        yield Fleet(processes, db, folder)


async def test_fifty_copies_of_two_hundred_completions_over_four_processes(fleet: Fleet) -> None:
    """Twelve or thirteen copies at each of them at the same time: one of them all is the first."""
    jobs = [f"job_{n}" for n in range(COMPLETIONS)]
    assert await post_copies(fleet.urls, SECRET, jobs, COPIES) == VERDICTS
    await until(lambda: fleet.states("job") == {"handled": COMPLETIONS})
    assert fleet.effects("job") == dict.fromkeys(jobs, 1)


async def test_a_process_that_is_frozen_for_longer_than_its_lease_does_nothing_twice(
    fleet: Fleet,
) -> None:
    """Another one takes the message over meanwhile, and waits at the mark; then the first one goes
    on, in the middle of its handler."""
    await post_copies(fleet.urls, SECRET, ["frozen"], copies=1)
    await until((fleet.folder / "pid").exists)
    pid = int((fleet.folder / "pid").read_text())
    os.kill(pid, SIGSTOP)
    try:
        await until(lambda: fleet.attempts("frozen") == 2)
    finally:
        os.kill(pid, SIGCONT)
    await until(lambda: fleet.states("frozen") == {"handled": 1})
    assert fleet.effects("frozen") == {"frozen": 1}


async def test_what_killed_processes_were_at_is_taken_over_by_the_others(fleet: Fleet) -> None:
    """Two of four are killed while their handlers stand between write and commit. Their leases
    end, and the other two begin again; every effect is there once."""
    jobs = [f"slow_{n}" for n in range(100)]
    await post_copies(fleet.urls, SECRET, jobs, copies=4)
    await until(
        lambda: len(fleet.effects("slow")) > 5 and fleet.states("slow").get("running", 0) > 0
    )
    killed = fleet.processes[:2]
    await asyncio.gather(*(asyncio.to_thread(one.end, SIGKILL) for one in killed))
    await until(lambda: fleet.states("slow") == {"handled": len(jobs)})
    assert fleet.effects("slow") == dict.fromkeys(jobs, 1)
    ended = [await asyncio.to_thread(one.end, SIGTERM) for one in fleet.processes[2:]]
    assert ended == [0, 0]
