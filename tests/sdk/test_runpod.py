"""RunPod's public clients, unmodified, in environments of their own (`make sdk`), against a running
dispatcher: with another base URL, and nothing else, what they promise holds."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

from tests.sdk.installed import SDK, needs
from tests.theft import ADMIN_KEY, Served, served

HERE: Final = Path(__file__).parent
PYTHON: Final = SDK / "python" / "bin" / "python"
NODE_MODULE: Final = SDK / "node" / "node_modules" / "runpod-sdk" / "dist" / "src" / "index.js"
TEN: Final = {
    "jobs": {"completed", "failed", "inProgress", "inQueue", "retried"},
    "workers": {"idle", "initializing", "ready", "running", "throttled"},
}

CHUNKS: Final = ["a", {"n": 2}, [3], None, 5]

pytestmark = pytest.mark.timeout(240)


# --- the model behind the endpoint ---


@dataclass(slots=True)
class Model:
    """Does as an input says: fails, takes its time, answers in chunks, or holds the call until the
    end."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def model_server() -> Iterator[Model]:
    """A running one."""
    model = Model()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model.bodies.append(body)
            given = body["input"]
            if given.get("hold"):
                model.over.wait(120)
            time.sleep(given.get("seconds", 0))
            if given.get("chunks"):
                self.stream(given["chunks"])
                return
            code = 500 if given.get("fail") else 200
            said = {"error": "out of memory"} if code == 500 else {"said": given.get("prompt")}
            answer = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def stream(self, chunks: list[Any]) -> None:
            """Answer bit by bit."""
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for one in chunks:
                self.wfile.write(f"data: {json.dumps(one)}\n\n".encode())
                time.sleep(0.4)

        def log_message(self, format: str, *args: object) -> None: ...

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:  # the call was cancelled
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    model.url = f"http://127.0.0.1:{server.server_address[1]}/run"
    try:
        yield model
    finally:
        model.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Served]:
    """A running dispatcher with the endpoint `ep`, one call at a time."""
    with (
        model_server() as model,
        served(f"sqlite:///{tmp_path}/sdk.db", tmp_path / "log") as running,
    ):
        made = running.client.post(
            "/v1/endpoints", json={"name": "ep", "url": model.url, "concurrency": 1}
        )
        assert made.status_code == 201, made.text
        yield running


def told(running: Served, *command: str | Path) -> dict[str, Any]:
    """What a client's script found."""
    base = str(running.client.base_url).rstrip("/") + "/v2"
    env = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    # Nothing of whoever runs this: neither settings nor packages.
    env |= {"RUNPOD_ENDPOINT_BASE_URL": base, "PYTHONPATH": "", "HOME": str(running.log.parent)}
    ended = subprocess.run(
        [str(one).replace("{base}", base) for one in command],
        env=env,
        text=True,
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def check_health(found: dict[str, Any]) -> None:
    """All ten counters, while one runs and two wait."""
    assert {part: set(counters) for part, counters in found.items()} == TEN
    assert all(isinstance(one, int) for part in found.values() for one in part.values())
    assert (found["jobs"]["inProgress"], found["jobs"]["inQueue"]) == (1, 2)
    assert found["jobs"]["failed"] == 1
    assert (found["workers"]["running"], found["workers"]["idle"]) == (1, 0)


# --- the clients ---


def test_the_python_client(gateway: Served) -> None:
    """run, status, output, run_sync, stream, health, purge_queue and cancel of PyPI's `runpod`."""
    needs(PYTHON)
    script = HERE / "clients" / "runpod_sync.py"
    found = told(gateway, PYTHON, script, ADMIN_KEY, "ep")
    assert len(found["id"]) == 36
    assert (found["status"], found["output"]) == ("COMPLETED", {"said": "hello"})
    assert found["run of a plain input"] == {"said": "plain"}
    assert found["run_sync"] == {"said": "wait"}
    assert found["stream"] == [{"said": "stream"}]
    assert found["chunks"] == CHUNKS
    assert found["output of what failed"] is None
    assert found["waiting"] == ["IN_QUEUE", "IN_QUEUE"]
    check_health(found["health"])
    assert found["purge"] == {"removed": 2, "status": "completed"}
    assert found["cancel"]["status"] == found["cancelled"] == "CANCELLED"


def test_the_python_client_for_asyncio(gateway: Served) -> None:
    """run, status, output, stream, health, purge_queue and cancel of its other half."""
    needs(PYTHON)
    script = HERE / "clients" / "runpod_asyncio.py"
    found = told(gateway, PYTHON, script, ADMIN_KEY, "ep")
    assert (found["status"], found["output"]) == ("COMPLETED", {"said": "hello"})
    assert found["stream"] == [{"said": "stream"}]
    assert found["chunks"] == CHUNKS
    assert found["output of what failed"] is None
    assert found["waiting"] == ["IN_QUEUE", "IN_QUEUE"]
    check_health(found["health"])
    assert found["purge"] == {"removed": 2, "status": "completed"}
    assert found["cancel"]["status"] == found["cancelled"] == "CANCELLED"


def test_the_javascript_client(gateway: Served) -> None:
    """run, status, statusSync, runSync, stream, health, purgeQueue and cancel of npm's
    `runpod-sdk`."""
    needs(NODE_MODULE)
    script = HERE / "clients" / "runpod.mjs"
    found = told(gateway, "node", script, NODE_MODULE.as_uri(), "{base}", ADMIN_KEY, "ep")
    assert found["run"]["status"] == "IN_QUEUE"
    for one in (found["status"], found["statusSync"]):
        assert (one["id"], one["status"]) == (found["run"]["id"], "COMPLETED")
        assert (one["output"], one["completed"], one["succeeded"]) == (
            {"said": "hello"},
            True,
            True,
        )
    assert found["runSync"]["output"] == {"said": "wait"}
    assert found["runSync"]["id"].startswith("sync-")
    assert found["slow"]["output"] == {"said": "slow"}
    assert found["slow"]["executionTime"] >= 1_400
    assert found["late"]["completed"] is False or found["late"]["status"] == "COMPLETED"
    assert found["stream"] == [{"output": {"said": "stream"}}]
    assert found["chunks"] == [{"output": one} for one in CHUNKS]
    assert found["failed"]["error"] == '{"error": "out of memory"}'
    assert found["failed"]["succeeded"] is False
    assert found["waiting"] == ["IN_QUEUE", "IN_QUEUE"]
    check_health(found["health"])
    assert found["purge"] == {"removed": 2, "status": "completed"}
    assert found["cancel"]["status"] == found["cancelled"] == "CANCELLED"
