"""`receiver serve` with the customer's code, or in front of a local service; and its commands."""

import json
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from receiver.testing import signed_request
from tests import commands
from tests.receiver.process import Process
from tests.receiver.waiting import wait_until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
BODY = b'{"jobId":"job_1","status":"completed","output":[1]}'

SHOP = """
import os
from receiver import Receiver

def fulfil(event, tx):
    tx.execute("INSERT INTO effects VALUES (?, ?)", (event.job_id, event.status))

def hang(event):
    import time
    open(f"hangs-{event.attempt}", "w").close()
    time.sleep(0 if event.attempt > 1 else 600)

def fail(event):
    if not os.path.exists("mended"):
        raise ValueError("no such order")

receiver = Receiver()

@receiver.on("completed")
def own(event, tx):
    tx.execute("INSERT INTO effects VALUES (?, 'own')", (event.job_id,))
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    (tmp_path / "shop_jobs.py").write_text(SHOP)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.execute("CREATE TABLE effects (job TEXT, status TEXT)")
    started: list[Process] = []

    def start(*words: str, **environ: str) -> Process:
        settings = {
            "RECEIVER_SECRETS": SECRET,
            "RECEIVER_DATABASE_URL": f"sqlite:///{tmp_path}/receiver.db",
            "RECEIVER_EFFECTS_URL": f"sqlite:///{tmp_path}/shop.db",
            "RECEIVER_PORT": "0",
            "RECEIVER_LOG_FORMAT": "json",
            "RECEIVER_ADMIN_KEY": "test-admin-key-of-tests",
            "RECEIVER_HANDLER_RETRY_BASE": "0.05",
            "RECEIVER_HANDLER_ATTEMPTS": "2",
        }
        process = Process(words, {**settings, **environ}, tmp_path)
        started.append(process)
        return process

    yield start
    for process in started:
        process.end(signal.SIGKILL)


def effects(folder: Path) -> list[Any]:
    with closing(sqlite3.connect(folder / "shop.db")) as db:
        return db.execute("SELECT job, status FROM effects").fetchall()


def post(process: Process, body: bytes = BODY) -> str:
    headers = signed_request(body, SECRET, message_id="cb_1")
    return str(process.post(body, headers).json()["status"])


@pytest.mark.parametrize(("name", "status"), [("fulfil", "completed"), ("receiver", "own")])
def test_a_function_or_a_receiver_of_the_customers_is_served(
    start: Callable[..., Process], tmp_path: Path, name: str, status: str
) -> None:
    """Found in the working directory; its effect is in the customer's table, once."""
    process = start("--handler", f"shop_jobs:{name}")
    assert [post(process), post(process)] == ["accepted", "duplicate"]
    wait_until(lambda: effects(tmp_path) == [("job_1", status)])
    assert process.end(signal.SIGTERM) == 0
    again = start("--handler", f"shop_jobs:{name}")
    assert post(again) == "duplicate"
    assert again.end(signal.SIGTERM) == 0
    assert effects(tmp_path) == [("job_1", status)]


def test_a_dead_message_is_found_replayed_and_pruned_by_command(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    """The operator's day: list, show, mend, replay, prune; expect and expected beside them."""
    process = start("--handler", "shop_jobs:fail", "--on", "completed")
    ask = {
        "RECEIVER_URL": f"http://127.0.0.1:{process.port}",
        "RECEIVER_ADMIN_KEY": "test-admin-key-of-tests",
    }

    def run(*words: str) -> str:
        ran = command(*words, **ask)
        assert (ran.returncode, ran.stderr) == (0, "")
        return ran.stdout

    def dead() -> list[Any]:
        found = json.loads(run("inbox", "list", "--state", "dead", "--json"))
        return list(found["data"])

    assert post(process) == "accepted"
    wait_until(lambda: len(dead()) == 1)
    id = str(dead()[0]["id"])
    assert "ValueError: no such order" in run("inbox", "show", id)
    (tmp_path / "mended").touch()
    assert run("inbox", "replay", id) == f"message {id} is pending\n"
    wait_until(lambda: dead() == [])
    assert run("inbox", "replay", "--dead") == "replayed: 0\n"
    assert "is known" in run("expect", "job_1", "--status-url", "http://127.0.0.1/x", "--by", "60")
    assert "job_1" in run("expected", "--state", "known")
    wait_until(lambda: '"handled"' in run("inbox", "list", "--json"))
    assert run("inbox", "prune", "--older-than-days", "0") == "pruned: 1 bodies, 1 messages\n"


def test_a_handler_that_hangs_keeps_no_process_from_leaving(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    """SIGTERM ends it after the grace; the next start counts that attempt as spent, and goes on."""
    words = ("--handler", "shop_jobs:hang")
    process = start(*words, RECEIVER_DRAIN_GRACE="0.2")
    assert post(process) == "accepted"
    wait_until((tmp_path / "hangs-1").exists)
    assert process.end(signal.SIGTERM) == 0
    start(*words)
    wait_until((tmp_path / "hangs-2").exists)


class Local(BaseHTTPRequestHandler):
    """A local service in another language: fails at first, then takes it."""

    posts: list[tuple[dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posts.append(({name.lower(): v for name, v in self.headers.items()}, body))
        self.send_response(500 if len(self.posts) == 1 else 204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_each_completion_is_forwarded_until_the_local_service_takes_it(
    start: Callable[..., Process],
) -> None:
    """Byte for byte, with what we know of it in headers, and one key for all attempts."""
    posts: list[tuple[dict[str, str], bytes]] = []
    handler = type("Service", (Local,), {"posts": posts})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/completions"
        process = start("--forward", url)
        assert [post(process), post(process)] == ["accepted", "duplicate"]
        wait_until(lambda: len(posts) == 2)
        assert process.end(signal.SIGTERM) == 0
        server.shutdown()
        thread.join()
    for n, (headers, body) in enumerate(posts, start=1):
        assert body == BODY
        assert headers["postback-job-id"] == "job_1"
        assert headers["postback-job-status"] == "completed"
        assert headers["postback-attempt"] == str(n)
        assert headers["idempotency-key"] == f"cb_1.sha256:{sha256(BODY).hexdigest()}"
        assert headers["content-type"] == "application/json"


def command(*words: str, **environ: str) -> commands.Ran:
    given = {"RECEIVER_PORT": "0", "COLUMNS": "200", **environ}
    return commands.command("receiver", *words, **given)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--handler", "nowhere"), 2, "MODULE:NAME"),
        (("--handler", "nowhere:x"), 2, "cannot load nowhere:x"),
        (("--handler", "json:nothing"), 2, "cannot load json:nothing"),
        (("--handler", "json:__doc__"), 2, "not a function"),
        (("--handler", "json:dumps", "--on", "done"), 2, "'done' is none of"),
        (("--forward", "ftp://x/"), 2, "not an http"),
        (("--forward", "http://x/", "--handler", "json:dumps"), 2, "not both"),
        (("--on", "failed"), 2, "--on needs"),
        (("--handler", "operator:add"), 3, "RECEIVER_EFFECTS_URL"),
    ],
)
def test_a_bad_argument_to_serve_is_one_line(
    tmp_path: Path, words: tuple[str, ...], code: int, told: str
) -> None:
    """And nothing is started."""
    environ = {
        "RECEIVER_SECRETS": SECRET,
        "RECEIVER_DATABASE_URL": f"sqlite:///{tmp_path}/x.db",
        "RECEIVER_EFFECTS_URL": "",
    }
    ran = command("serve", *words, **environ)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert told in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_an_effects_database_that_cannot_be_is_told_at_the_start(tmp_path: Path) -> None:
    """Exit 3, as for the inbox."""
    environ = {
        "RECEIVER_SECRETS": SECRET,
        "RECEIVER_DATABASE_URL": f"sqlite:///{tmp_path}/x.db",
        "RECEIVER_EFFECTS_URL": "sqlite:////nowhere/shop.db",
    }
    ran = command("serve", **environ)
    assert (ran.returncode, ran.stdout) == (3, "")
    assert "/nowhere/shop.db" in ran.stderr
