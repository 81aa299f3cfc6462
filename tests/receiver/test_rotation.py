"""Keys come, change and go under load, at replicas that are restarted one after the other."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Final

import httpx
import pytest

from receiver.testing import signed_request
from tests.dispatcher.postgres.server import private_server
from tests.receiver.inbox.places import key
from tests.receiver.process import Process

SECRET: Final = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
ADMIN_KEY: Final = "test-admin-key-of-rotations"
WITHIN_S: Final = 60.0
# From none to one, and on to another one: what all know before one of them seals with it.
STEPS: Final = (
    (key("k1"),),
    (key("k1"), key("k2")),
    (key("k2"), key("k1")),
)
HANDLER: Final = """
def handle(event):
    with open("handled", "a") as file:
        file.write(f"{event.job_id} {len(event.raw)}\\n")
"""


class Replicas:
    """Two, of which one is always there; who sends goes to the one that is."""

    def __init__(self, folder: Path, url: str) -> None:
        (folder / "work.py").write_text(HANDLER)
        self._folder = folder
        self._url = url
        self._running: list[Process] = []

    @property
    def urls(self) -> list[str]:
        return [str(one.first["url"]) for one in self._running]

    def start(self, keys: tuple[str, ...]) -> None:
        environ = {
            "RECEIVER_SECRETS": SECRET,
            "RECEIVER_DATABASE_URL": self._url,
            "RECEIVER_PORT": "0",
            "RECEIVER_LOG_FORMAT": "json",
            "RECEIVER_ADMIN_KEY": ADMIN_KEY,
            "RECEIVER_POLL": "0.05",
            "RECEIVER_LEASE": "5",
            "RECEIVER_ENCRYPTION_KEYS": ",".join(keys),
        }
        words = ("--handler", "work:handle")
        self._running.append(Process(words, environ, self._folder))

    def restart_each(self, keys: tuple[str, ...]) -> None:
        for process in list(self._running):
            self._running.remove(process)  # a balancer takes it out before it is stopped
            process.end(signal.SIGTERM)
            self.start(keys)

    def run(self, *words: str) -> dict[str, object]:
        """What a command of one of them prints."""
        process = self._running[0]
        environ = {**process.environ, "RECEIVER_URL": self.urls[0].removesuffix("/webhooks")}
        done = subprocess.run(
            [sys.executable, "-m", "receiver", *words, "--json"],
            env=environ, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        printed: dict[str, object] = json.loads(done.stdout)
        return printed

    def end(self) -> None:
        for process in self._running:
            process.end(signal.SIGTERM)


class Load:
    """Sends each completion twice, to one replica and to the other, until it is to stop."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._stop = Event()
        self._http = httpx.Client(trust_env=False, timeout=WITHIN_S)
        self.sent: list[str] = []
        self.answers: Counter[str] = Counter()
        self._thread = Thread(target=self._send_all)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(WITHIN_S)
        self._http.close()

    def _send_all(self) -> None:
        while not self._stop.wait(0.01):
            n = len(self.sent)
            job = f"job_{n}"
            self.sent.append(job)
            body = b'{"jobId":"%b","status":"completed"}' % job.encode()
            for copy in (0, 1):
                self.answers[self._send(body, n + copy)] += 1

    def _send(self, body: bytes, turn: int) -> str:
        """The verdict, or what kept it from being one. Who was just taken out is asked no more."""
        headers = signed_request(body, SECRET)
        while True:
            urls = self._replicas.urls
            if not urls:
                continue
            url = urls[turn % len(urls)]
            try:
                answer = self._http.post(url, content=body, headers=headers)
            except httpx.TransportError as error:
                if url in self._replicas.urls:
                    return repr(error)
                continue
            return answer.json()["status"] if answer.status_code == 200 else answer.text


@contextmanager
def load_on(replicas: Replicas) -> Iterator[Load]:
    load = Load(replicas)
    try:
        yield load
    finally:
        load.stop()


@pytest.mark.slow
def test_keys_change_under_load_and_nothing_is_refused_lost_or_doubled(tmp_path: Path) -> None:
    """From none to a first key, and to a second one, at replicas of which one always serves: each
    completion is accepted once, known again at the other replica, and handled once, with its
    bytes; and in the end nothing needs the first key."""
    with ExitStack() as stack:
        server = stack.enter_context(private_server(durable=False))
        replicas = Replicas(tmp_path, server.url)
        stack.callback(replicas.end)
        for _ in range(2):
            replicas.start(())
        with load_on(replicas) as load:
            for keys in STEPS:
                replicas.restart_each(keys)
            assert replicas.run("inbox", "reencrypt")["unreadable"] == 0
            replicas.restart_each((key("k2"),))
        assert load.answers == {"accepted": len(load.sent), "duplicate": len(load.sent)}
        counts = replicas.run("inbox", "stats")
        encryption = counts["encryption"]
        assert isinstance(encryption, dict)
        assert (encryption["key"], encryption["missingKeys"]) == ("k2", [])
        messages = encryption["messages"]
        assert messages == {"plain": 0, "sealed": len(load.sent), "old": 0, "unreadable": 0}
        _wait_until_all_is_handled(replicas)
    handled = Counter((tmp_path / "handled").read_text().splitlines())
    sizes = {job: len(b'{"jobId":"%b","status":"completed"}' % job.encode()) for job in load.sent}
    assert handled == {f"{job} {size}": 1 for job, size in sizes.items()}


def _wait_until_all_is_handled(replicas: Replicas) -> None:
    end = time.monotonic() + WITHIN_S
    while True:
        messages = replicas.run("inbox", "stats")["messages"]
        assert isinstance(messages, dict)
        if not messages["pending"] + messages["running"]:
            return
        assert time.monotonic() < end, messages
