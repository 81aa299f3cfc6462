"""A thief who has the inbox's files, and the log, finds neither what came nor what it was signed
with: where encryption was required from the beginning, on either database; and in a SQLite file
also where it came later, once all was sealed."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import pytest

from receiver.testing import signed_request
from tests.dispatcher.postgres.server import private_server
from tests.receiver.inbox.places import key
from tests.theft import beside, found

SECRET: Final = f"whsec_{b64encode(sha256(b'signing').digest()).decode()}"
ADMIN_KEY: Final = "the-admin-key-of-tests-of-thieves"
WITHIN_S: Final = 60.0
# Short enough for no database to compress it; and not the same twice.
SECRET_OUTPUT: Final = b"patient 4711 has 9f8e7d6c5b4a39281706f5e4d3c2b1a0 \xc3\xa4\xf0\x9f\xa6\x8a"
PART: Final = 24
TOKEN: Final = b"token-4c1d8b7a6f5e4d3c2b1a"

HANDLER: Final = """
import os

def handle(event):
    if event.job_id.startswith("bad") and not os.path.exists("mended"):
        raise ValueError(f"cannot use {event.raw!r} nor {event.output}")
"""


class Service:
    """`receiver serve`, with its log in a file."""

    def __init__(self, folder: Path, url: str, keys: tuple[str, ...]) -> None:
        (folder / "work.py").write_text(HANDLER)
        self.environ = {
            **os.environ,
            "RECEIVER_SECRETS": SECRET,
            "RECEIVER_DATABASE_URL": url,
            "RECEIVER_PORT": "0",
            "RECEIVER_LOG_FORMAT": "json",
            "RECEIVER_LOG_LEVEL": "debug",
            "RECEIVER_ADMIN_KEY": ADMIN_KEY,
            "RECEIVER_HANDLER_ATTEMPTS": "1",
            "RECEIVER_ENCRYPTION_KEYS": ",".join(keys),
            "RECEIVER_ENCRYPTION": "required" if keys else "auto",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        log = folder / f"log-{len(list(folder.glob('log-*')))}"
        with log.open("wb") as stderr:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "receiver", "serve", "--handler", "work:handle"],
                env=self.environ, cwd=folder, stderr=stderr,
            )  # fmt: skip
        first = until(lambda: log.read_text().partition("\n"), lambda parts: parts[1])
        listening = json.loads(first[0])
        assert listening["event"] == "listening", listening
        self.url = listening["url"].removesuffix("/webhooks")
        self.environ["RECEIVER_URL"] = self.url
        self.http = httpx.Client(trust_env=False, timeout=WITHIN_S)

    def send(self, body: bytes) -> str:
        response = self.http.post(
            f"{self.url}/webhooks", content=body, headers=signed_request(body, SECRET)
        )
        return str(response.json()["status"])

    def admin(self, path: str, **document: Any) -> Any:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        if document:
            return self.http.post(self.url + path, json=document, headers=headers).json()
        return self.http.get(self.url + path, headers=headers).json()

    def run(self, *words: str) -> Any:
        """What a command prints as JSON."""
        done = subprocess.run(
            [sys.executable, "-m", "receiver", *words, "--json"],
            env=self.environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def states(self) -> dict[str, str]:
        return {one["jobId"]: one["state"] for one in self.admin("/inbox")["data"]}

    def path_of(self, job: str) -> str:
        """Of its newest message."""
        return f"/inbox/{self.admin(f'/inbox?jobId={job}')['data'][0]['id']}"

    def end(self, number: signal.Signals) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        self.popen.wait(WITHIN_S)
        self.http.close()


def until(look: Callable[[], Any], is_so: Callable[[Any], object]) -> Any:
    """What a look finds once it is so."""
    end = time.monotonic() + WITHIN_S
    while not is_so(found := look()):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


@contextmanager
def running(folder: Path, url: str, keys: tuple[str, ...]) -> Iterator[Service]:
    """Killed at the end: what it would tidy up stays where it was."""
    service = Service(folder, url, keys)
    try:
        yield service
    finally:
        service.end(signal.SIGKILL)


def body(job: str, text: bytes = SECRET_OUTPUT) -> bytes:
    return b'{"jobId":"%b","status":"completed","output":"%b"}' % (job.encode(), text)


def values(*, of_settings: bool = True) -> list[str | bytes]:
    """What nobody is to find: each body in parts, since a row may be torn between two pages; its
    hash, which confirms a guess; the status URL; and what the settings hold."""
    bodies = [body("good"), body("bad"), body("good", SECRET_OUTPUT + b" other"), SECRET_OUTPUT]
    parts = {
        one[start : start + PART] for one in bodies for start in range(0, len(one) - PART, PART)
    }
    hashes = [sha256(one).digest() for one in bodies]
    in_settings = [
        SECRET,
        b64decode(SECRET.removeprefix("whsec_")),
        *(b64decode(key(kid).partition(":")[2]) for kid in ("k1", "k2")),
    ]
    return [*map(_text, parts), *hashes, TOKEN.decode(), *(in_settings if of_settings else ())]


def _text(part: bytes) -> str | bytes:
    try:
        return part.decode()
    except UnicodeDecodeError:
        return part


def receive_and_fail(service: Service) -> None:
    assert service.send(body("good")) == "accepted"
    assert service.send(body("good")) == "duplicate"
    assert service.send(body("good", SECRET_OUTPUT + b" other")) == "conflict"
    assert service.send(body("bad")) == "accepted"
    asked = service.admin(
        "/expected",
        jobId="silent",
        statusUrl=f"http://127.0.0.1:9/{TOKEN.decode()}",
        by=0,
    )
    assert TOKEN.decode() in asked["statusUrl"]
    until(
        lambda: service.admin("/expected")["data"][0]["lastError"],
        lambda error: error is not None,
    )
    until(lambda: [one["state"] for one in service.admin("/inbox")["data"]],
          lambda states: states == ["dead", "ignored", "handled"])  # fmt: skip
    shown = service.admin(service.path_of("bad"))
    assert SECRET_OUTPUT.decode() in shown["lastError"]
    assert shown["body"].encode() == body("bad")


def mend_and_prune(service: Service, folder: Path) -> None:
    (folder / "mended").touch()
    path = service.path_of("bad")
    assert service.run("inbox", "replay", path.rpartition("/")[2])["state"] == "pending"
    until(lambda: service.admin(path)["state"], lambda state: state == "handled")
    assert service.send(body("late")) == "accepted"
    assert service.run("inbox", "reencrypt")["unreadable"] == 0
    counts = service.run("inbox", "stats")["encryption"]
    for what in ("messages", "failures", "expectations"):
        assert (counts[what]["plain"], counts[what]["old"], counts[what]["unreadable"]) == (0, 0, 0)
    assert service.run("inbox", "prune", "--older-than-days", "0")["bodies"] >= 2


def story(folder: Path, url: str, first: tuple[str, ...]) -> None:
    """Received, handled, failed, replayed, sealed anew with another key, pruned; killed twice."""
    with running(folder, url, first) as service:
        receive_and_fail(service)
    with running(folder, url, (key("k2"), key("k1"))) as service:
        mend_and_prune(service, folder)


def test_a_thief_of_a_sqlite_file_finds_nothing(tmp_path: Path) -> None:
    """Neither in the file nor in its logs, at whatever moment it is taken; and the same search
    finds it all where nothing is sealed."""
    for folder, keys in (("plain", ()), ("sealed", (key("k1"),))):
        (tmp_path / folder).mkdir()
        url = f"sqlite:///{tmp_path / folder}/inbox.db"
        with running(tmp_path / folder, url, keys) as service:
            receive_and_fail(service)
            hits = found(values(), tmp_path / folder)
            assert bool(hits) is not bool(keys), hits
    sealed = tmp_path / "sealed"
    with running(sealed, f"sqlite:///{sealed}/inbox.db", (key("k2"), key("k1"))) as service:
        mend_and_prune(service, sealed)
        assert found(values(), sealed) == []
    assert found(values(), sealed) == []


def test_what_was_plain_leaves_nothing_in_a_sqlite_file_once_it_is_sealed(tmp_path: Path) -> None:
    """Neither in pages that nobody uses, nor in the log that it is written ahead to."""
    url = f"sqlite:///{tmp_path}/inbox.db"
    with running(tmp_path, url, ()) as service:
        receive_and_fail(service)
        for n in range(30):
            service.send(body(f"more-{n}"))
        until(lambda: set(service.states().values()), lambda states: "pending" not in states)
        service.run("inbox", "prune", "--older-than-days", "0")
        service.send(body("last"))
    files = beside(tmp_path / "inbox.db")
    assert found(values(of_settings=False), *files)
    with running(tmp_path, url, (key("k1"),)) as service:
        assert service.run("inbox", "stats")["encryption"]["messages"]["plain"] > 0
        assert service.run("inbox", "reencrypt")["sealed"] > 0
        assert found(values(), *files) == []
        assert service.admin(service.path_of("last"))["body"].encode() == body("last")
        with closing(sqlite3.connect(f"file:{files[0]}?mode=ro", uri=True)) as database:
            assert database.execute("PRAGMA auto_vacuum").fetchone() == (2,)  # still incremental
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
def test_a_thief_of_a_postgres_data_folder_finds_nothing(tmp_path: Path) -> None:
    """Neither in its tables nor in its write-ahead log; and the same search finds it all where
    nothing is sealed."""
    for keys in ((), (key("k1"),)):
        folder = tmp_path / ("sealed" if keys else "plain")
        folder.mkdir()
        with private_server(durable=True) as server:
            if keys:
                story(folder, server.url, keys)
            else:
                with running(folder, server.url, keys) as service:
                    receive_and_fail(service)
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute("CHECKPOINT")
            hits = found(values(), server.folder / "data", folder)
            assert bool(hits) is not bool(keys), hits
