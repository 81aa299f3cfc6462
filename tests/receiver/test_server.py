"""The receiver as a process: it starts, serves, is killed, and everything it answered is there."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from receiver.signature import signed_headers
from tests import commands
from tests.receiver.process import ENDS_WITHIN_S, Process

CHUNKED = b"POST /webhooks HTTP/1.1\r\nHost: r\r\nTransfer-Encoding: chunked\r\n\r\n"
SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def start(**environ: str) -> Process:
        settings = {
            "RECEIVER_SECRETS": SECRET,
            "RECEIVER_DATABASE_URL": f"sqlite:///{tmp_path}/receiver.db",
            "RECEIVER_PORT": "0",
            "RECEIVER_LOG_FORMAT": "json",
            "RECEIVER_ADMIN_KEY": "test-admin-key-of-tests",
        }
        process = Process((), {**settings, **environ})
        started.append(process)
        return process

    yield start
    for process in started:
        process.end(signal.SIGKILL)


def post(process: Process, body: bytes, id: str = "cb_1") -> httpx.Response:
    headers = signed_headers(body, [SECRET], message_id=id, timestamp_s=int(time.time()))
    return process.post(body, headers)


def command(*words: str, **environ: str) -> commands.Ran:
    return commands.command("receiver", *words, **{"RECEIVER_PORT": "0", **environ})


def served(**environ: str) -> subprocess.CompletedProcess[str]:
    """What comes of a process that cannot start."""
    return subprocess.run(
        [sys.executable, "-m", "receiver", "serve"],
        env={**os.environ, "RECEIVER_PORT": "0", **environ},
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )


def test_what_was_answered_200_survives_kill_9(start: Start) -> None:
    """Killed right after the answer, started again: each one is there, once."""
    process = start()
    bodies = {f"cb_{n}": b'{"jobId":"job_%d","status":"completed"}' % n for n in range(5)}
    for id, body in bodies.items():
        assert post(process, body, id).json() == {"status": "accepted"}
    process.end(signal.SIGKILL)
    again = start()
    for id, body in bodies.items():
        assert post(again, body, id).json() == {"status": "duplicate"}


@pytest.mark.slow
def test_kill_9_under_load_loses_nothing_that_was_answered(start: Start) -> None:
    """Cycle after cycle, killed between whichever two steps: each 200 is a row afterwards."""
    answered: set[int] = set()

    def send(process: Process, n: int) -> None:
        with suppress(httpx.TransportError):
            answer = post(process, b'{"jobId":"job_%d","status":"completed"}' % n, f"cb_{n}")
            assert answer.json()["status"] == "accepted"
            answered.add(n)
            if len(answered) % 40 == 0:
                process.popen.kill()

    numbers = itertools.count()
    for _ in range(5 * int(os.environ.get("POSTBACK_TEST_SCALE", "1"))):
        process = start()
        with ThreadPoolExecutor(8) as pool:
            while process.popen.poll() is None:
                list(pool.map(partial(send, process), itertools.islice(numbers, 16)))
    last = start()
    for n in sorted(answered):
        answer = post(last, b'{"jobId":"job_%d","status":"completed"}' % n, f"cb_{n}")
        assert answer.json() == {"status": "duplicate"}


def test_sigterm_finishes_what_is_in_flight(start: Start) -> None:
    """A request whose body is on its way is still answered; the exit code is 0."""
    process = start()
    body = b'{"jobId":"job_1","status":"completed"}'
    headers = signed_headers(body, [SECRET], message_id="a", timestamp_s=int(time.time()))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /webhooks HTTP/1.1\r\nHost: r\r\nContent-Length: {len(body)}\r\n"
    with process.connect() as peer:
        peer.sendall((head + "Expect: 100-continue\r\n" + lines + "\r\n").encode())
        assert b"100 Continue" in peer.recv(1000)  # the request is being handled
        process.popen.send_signal(signal.SIGTERM)
        wait_until_refused(process)
        peer.sendall(body)
        assert b'{"status":"accepted"}' in read_all(peer)
    assert process.popen.wait(ENDS_WITHIN_S) == 0


def test_a_second_signal_leaves_at_once(start: Start) -> None:
    """It does not wait for the grace period to end: the process dies by the signal."""
    process = start()
    with process.connect() as peer:
        peer.sendall(b"POST /webhooks HTTP/1.1\r\nHost: r\r\nContent-Length: 9\r\n")
        peer.sendall(b"Expect: 100-continue\r\n\r\n")
        assert b"100 Continue" in peer.recv(1000)
        process.popen.send_signal(signal.SIGTERM)
        wait_until_refused(process)
        started = time.monotonic()
        assert process.end(signal.SIGTERM) == -signal.SIGTERM
        assert time.monotonic() - started < 8  # the request alone would have taken 10


def wait_until_refused(process: Process) -> None:
    """Until the listener is closed: the drain has begun."""
    deadline = time.monotonic() + ENDS_WITHIN_S
    while time.monotonic() < deadline:
        try:
            process.connect().close()
        except OSError:
            return
    raise AssertionError("still listening")


def read_all(peer: socket.socket) -> bytes:
    data = b""
    while chunk := peer.recv(65536):
        data += chunk
    return data


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 408),
        (b"POST /webhooks HTTP/1.1\r\nHost:", 408),
        (b"\r\n\r\n", 408),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"POST /webhooks HTTP/1.1\r\nX: " + b"x" * 300_000, 431),
        (b"POST /" + b"x" * 300_000, 431),
        (b"POST /webhooks HTTP/1.1\r\n" + b"X: y\r\n" * 50_000, 431),
        (b"POST /webhooks HTTP/1.1\r\nHost: r\r\nContent-Length: 9\r\n\r\n{", 408),
        (CHUNKED + b"1\r\n{\r\n", 408),
        (CHUNKED + b"zz\r\n", 400),
        (b"POST /webhooks HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{", 400),
    ],
)
def test_every_broken_or_endless_request_is_answered_and_closed(
    start_once: Process, sent: bytes, status: int
) -> None:
    """Within the request timeout and bounded memory, with a JSON error."""
    with start_once.connect() as peer:
        try:
            peer.sendall(sent)
            answer = read_all(peer)
        except ConnectionError:
            # Closed on us while we were still flooding: the answer may be lost, the bound held.
            assert status == 431
            return
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode()
    assert json.loads(body)["error"]


@pytest.fixture(scope="module")
def start_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("receiver")
    process = Process(
        (),
        {
            "RECEIVER_SECRETS": SECRET,
            "RECEIVER_DATABASE_URL": f"sqlite:///{folder}/receiver.db",
            "RECEIVER_PORT": "0",
            "RECEIVER_LOG_FORMAT": "json",
            "RECEIVER_REQUEST_TIMEOUT": "0.3",
        },
    )
    yield process
    process.end(signal.SIGTERM)


def test_too_many_connections_are_503_in_the_one_shape(start: Start) -> None:
    """The surplus one is asked to come back; when one of the others ends, it is served."""
    process = start(RECEIVER_CONNECTIONS_MAX="2")
    url = f"http://127.0.0.1:{process.port}/healthz"
    request = b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n"
    with process.connect() as first, process.connect() as second:
        for held in (first, second):
            held.sendall(request)
            assert b"200 OK" in held.recv(1000)
        refused = httpx.get(url, trust_env=False)
        assert (refused.status_code, refused.json()["error"]) == (503, "BUSY")
        assert refused.headers["retry-after"] == "1"
        second.sendall(request.replace(b"Host", b"Connection: close\r\nHost"))
        assert b"200 OK" in read_all(second)
        while (served := httpx.get(url, trust_env=False)).status_code == 503:
            time.sleep(0.01)  # a closed connection counts until the server has let go of it
        assert served.json() == {"status": "ok"}


def test_requests_on_one_connection_are_served_in_turn(start_once: Process) -> None:
    """Bounds are per message: a kept-alive connection is not worn out by them."""
    with httpx.Client(trust_env=False) as client:
        for n in range(50):
            url = f"http://127.0.0.1:{start_once.port}/healthz?{'x' * 1000}{n}"
            assert client.get(url).json() == {"status": "ok"}


def test_pipelined_requests_are_all_answered(start_once: Process) -> None:
    """Heads that arrive together with others are no endless head."""
    with start_once.connect() as peer:
        request = b"GET /healthz HTTP/1.1\r\nHost: r\r\n\r\n"
        last = b"GET /healthz HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n"
        peer.sendall(request * 9 + last)
        assert read_all(peer).count(b'{"status":"ok"}') == 10


def test_the_inbox_commands_ask_the_running_service(start: Start) -> None:
    """A table for people, JSON for programs, and a body as it came."""
    process = start()
    post(process, b'{"jobId":"job_[red]1","status":"completed"}')
    ask = {
        "RECEIVER_URL": f"http://127.0.0.1:{process.port}",
        "RECEIVER_ADMIN_KEY": "test-admin-key-of-tests",
    }
    table = command("inbox", "list", **ask)
    assert (table.returncode, table.stderr) == (0, "")
    assert "job_[red]1" in table.stdout
    page = json.loads(command("inbox", "list", "--json", "--status", "accepted", **ask).stdout)
    (message,) = page["data"]
    shown = command("inbox", "show", str(message["id"]), **ask)
    assert '{"jobId":"job_[red]1","status":"completed"}' in shown.stdout
    document = json.loads(command("inbox", "show", str(message["id"]), "--json", **ask).stdout)
    assert document["jobId"] == "job_[red]1"


def test_the_inbox_commands_say_in_one_line_why_they_fail(start: Start) -> None:
    """A wrong key, a bad filter, no such message, nobody there, no key."""
    process = start()
    url = f"http://127.0.0.1:{process.port}"
    good = {"RECEIVER_URL": url, "RECEIVER_ADMIN_KEY": "test-admin-key-of-tests"}
    closed = start(
        RECEIVER_DATABASE_URL=process.environ["RECEIVER_DATABASE_URL"] + "2", RECEIVER_ADMIN_KEY=""
    )
    cases = [
        (("inbox", "list"), {**good, "RECEIVER_ADMIN_KEY": "wrong"}, 1, "admin key"),
        (("inbox", "list", "--status", "lost"), good, 2, "'lost'"),
        (("inbox", "list", "--cursor", "x"), good, 1, "not one of ours"),
        (("inbox", "show", "99"), good, 1, "no such message"),
        (("inbox", "list"), {**good, "RECEIVER_URL": "http://127.0.0.1:1"}, 1, "is it running?"),
        (("inbox", "list"), {**good, "RECEIVER_URL": "file:///etc/passwd"}, 1, "RECEIVER_URL"),
        (
            ("inbox", "list"),
            {**good, "RECEIVER_URL": f"http://127.0.0.1:{closed.port}"},
            1,
            "no admin",
        ),
        (("inbox", "list"), {**good, "RECEIVER_ADMIN_KEY": ""}, 2, "RECEIVER_ADMIN_KEY"),
        (("inbox", "list"), {**good, "RECEIVER_PORT": "x"}, 2, "RECEIVER_PORT"),
    ]
    for words, environ, code, told in cases:
        ran = command(*words, **environ)
        assert (ran.returncode, ran.stdout) == (code, "")
        assert told in ran.stderr
        assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"RECEIVER_SECRETS": ""}, "RECEIVER_SECRETS"),
        ({"RECEIVER_PORT": "http"}, "RECEIVER_PORT"),
        ({"RECEIVER_HOST": "203.0.113.1"}, "cannot listen on 203.0.113.1"),
        ({"RECEIVER_HOST": "no such host"}, "cannot listen"),
        ({"RECEIVER_DATABASE_URL": "sqlite:////nowhere/x.db"}, "/nowhere/x.db"),
    ],
)
def test_what_cannot_start_says_why_in_one_line_and_exits_3(
    tmp_path: Path, environ: dict[str, str], told: str
) -> None:
    """No traceback, no half-started service."""
    database = {"RECEIVER_DATABASE_URL": f"sqlite:///{tmp_path}/x.db"}
    ran = command("serve", **{"RECEIVER_SECRETS": SECRET, **database, **environ})
    assert (ran.returncode, ran.stdout) == (3, "")
    assert told in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_a_second_service_on_the_file_or_the_port_exits_3(start: Start) -> None:
    """And says who is there."""
    process = start()
    other = served(**process.environ)
    assert other.returncode == 3
    assert f"in use by process {process.popen.pid}" in other.stderr
    port = {"RECEIVER_PORT": str(process.port), "RECEIVER_DATABASE_URL": "sqlite:////tmp/none/x"}
    taken = served(**{**process.environ, **port})
    assert taken.returncode == 3
    assert "Address already in use" in taken.stderr
