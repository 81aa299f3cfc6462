"""A database file has one owner, under whatever name it is opened and whoever was forked; and it is
its owner's alone from its first byte (D4, I8)."""

import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from dispatcher.settings import Settings
from dispatcher.store import open_store
from dispatcher.store.sqlite import database as databases
from receiver.app import Receiver
from receiver.base.db import sqlite
from receiver.settings import Settings as ReceiverSettings
from receiver.signature import signed_headers

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
ENDS_S = 60.0
HALVES = ["dispatcher", "receiver"]
# Its handler forks a child that waits for work, as a pool's does, and lives on.
SHOP = """
import os, time
from receiver import Receiver

receiver = Receiver()

@receiver.on("completed")
def handle(event):
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    with open("child", "w") as file:
        file.write(f"{child}.")
"""


@contextmanager
def serving(
    half: str, database: Path, *words: str, port: int = 0
) -> Iterator[subprocess.Popen[str]]:
    """A service on the file, killed with the block where it still lives."""
    prefix = half.upper()
    given = {"DATABASE_URL": f"sqlite:///{database}", "PORT": str(port), "LOG_FORMAT": "json"}
    env = os.environ | {f"{prefix}_{name}": value for name, value in given.items()}
    with subprocess.Popen(
        [sys.executable, "-m", half, "serve", *words],
        env=env | {"RECEIVER_SECRETS": SECRET},
        cwd=database.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def listening(process: subprocess.Popen[str]) -> int:
    """Its port, once it listens."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"listening.*?:(\d+)", line):
            return int(found[1])
    raise AssertionError("it did not start")


def end(process: subprocess.Popen[str], number: signal.Signals) -> int:
    """Its exit code."""
    process.send_signal(number)
    return process.wait(ENDS_S)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", ["symbolic link", "hard link", "moved"])
def test_a_file_has_one_owner_under_all_its_names(half: str, name: str, tmp_path: Path) -> None:
    """The second one cannot start; once the first one is gone, it can."""
    file, other = tmp_path / "file.db", tmp_path / "there" / "other.db"
    other.parent.mkdir()
    with serving(half, file) as first:
        listening(first)
        if name == "symbolic link":
            other.symlink_to(file)
        elif name == "hard link":
            other.hardlink_to(file)
        else:
            file.rename(other)
        with serving(half, other) as second:
            said, _ = second.communicate(timeout=ENDS_S)
            assert second.returncode == 3, said
            assert "is in use by" in said
            assert said.count("\n") == 1
    with serving(half, other) as third:
        listening(third)
        assert end(third, signal.SIGTERM) == 0


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[Path]:
    """Where the handler says whom it forked: a process that signals end as they end any."""
    file = tmp_path / "child"
    yield file
    child = file.read_text("ascii")[:-1]
    os.kill(int(child), signal.SIGTERM)
    until_s = time.monotonic() + ENDS_S
    while (state := Path(f"/proc/{child}/stat")).exists() and " Z " not in state.read_text("ascii"):
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_a_forked_child_keeps_neither_the_file_nor_the_address(
    orphan: Path, tmp_path: Path
) -> None:
    """A handler's child outlives a kill -9: the next start finds both free."""
    (tmp_path / "shop.py").write_text(SHOP, "ascii")
    words = ("--handler", "shop:receiver")
    with serving("receiver", tmp_path / "inbox.db", *words) as first:
        port = listening(first)
        body = b'{"jobId":"job_1","status":"completed"}'
        headers = signed_headers(body, [SECRET], message_id="a", timestamp_s=int(time.time()))
        url = f"http://127.0.0.1:{port}/webhooks"
        assert httpx.post(url, content=body, headers=headers, trust_env=False).status_code == 200
        until_s = time.monotonic() + ENDS_S
        while not (orphan.exists() and orphan.read_text("ascii").endswith(".")):
            assert time.monotonic() < until_s
            time.sleep(0.02)  # another process has no event to wait for
        end(first, signal.SIGKILL)
        assert first.stdout is not None
        first.stdout.close()  # which the child has as well
    with serving("receiver", tmp_path / "inbox.db", *words, port=port) as again:
        assert listening(again) == port
        assert end(again, signal.SIGTERM) == 0


# --- whose it is ---


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: mode(file) for file in folder.iterdir()}


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("half", HALVES)
async def test_a_new_database_is_its_owners_alone_before_anything_is_in_it(
    half: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so are its log files, and a file for effects that is made here."""
    modes = []
    connect = sqlite.connect_writer

    def connecting(path: Path, *, busy_ms: int) -> sqlite3.Connection:
        modes.append(mode(path))
        return connect(path, busy_ms=busy_ms)

    monkeypatch.setattr(sqlite, "connect_writer", connecting)
    url = f"sqlite:///{tmp_path}/new.db"
    if half == "dispatcher":
        store = open_store(Settings(database_url=url))
        await store.open()
        found = modes_in(tmp_path)
        await store.close()
    else:
        effects = f"sqlite:///{tmp_path}/effects.db"
        settings = ReceiverSettings(secrets=(SECRET,), database_url=url, effects_url=effects)
        async with Receiver(settings):
            found = modes_in(tmp_path)
        assert "effects.db" in found
    assert modes == [0o600]
    assert {"new.db", "new.db-wal", "new.db-shm", "new.db.lock"} <= set(found)
    assert set(found.values()) == {0o600}


@pytest.mark.usefixtures("open_umask")
async def test_a_backup_is_its_owners_alone_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it is killed; also where an earlier one that was killed left its part."""
    store = open_store(Settings(database_url=f"sqlite:///{tmp_path}/postback.db"))
    await store.open()
    await store.close()
    target = tmp_path / "copy.db"
    part = tmp_path / "copy.db.partial"
    part.write_bytes(b"left behind")
    modes = set()
    connect = sqlite.connect_reader

    def look() -> None:
        modes.add(mode(part))

    def connecting(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.set_progress_handler(look, 1)
        return connection

    monkeypatch.setattr(databases, "connect_reader", connecting)
    databases.backup_file(tmp_path / "postback.db", target)
    assert modes == {0o600}
    assert mode(target) == 0o600
    assert not part.exists()
