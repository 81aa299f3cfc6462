"""Unmodified workers behind our queue, webhook and SDKs: a cog server (the `cog` package of PyPI,
with a predictor as its users write them) and a RunPod worker (the local API server of PyPI's
`runpod`, with a handler as its users write them), each in an environment of its own (`make sdk`).
They outlive a dispatcher that is killed, and a cancel stops their work."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from receiver.signature import verify
from tests.ports import free_port
from tests.sdk.installed import SDK, needs
from tests.sdk.test_runpod import HERE, PYTHON
from tests.theft import ADMIN_KEY, Served, served

COG: Final = SDK / "cog" / "bin" / "python"
WORKERS: Final = HERE / "workers"
STOPPABLE: Final = HERE.parents[1] / "deploy" / "dispatcher" / "stoppable.py"
SECRET: Final = "whsec_dGVzdC1zZWNyZXQtb2YtdGhpcnR5LXR3by1ieXRlcyE="
PATIENCE_S: Final = 90.0
SAYS: Final = """
import os, runpod
runpod.api_key = os.environ["KEY"]
endpoint = runpod.Endpoint("ep")
print(endpoint.run_sync({"input": {"prompt": "through the sdk"}}, timeout=60))
"""

pytestmark = pytest.mark.timeout(300)


def until(met: Callable[[], Any]) -> Any:
    """What `met` returns, once that is something."""
    ends_s = time.monotonic() + PATIENCE_S
    while not (found := met()):
        assert time.monotonic() < ends_s, "it took too long"
        time.sleep(0.02)
    return found


@dataclass(slots=True)
class Sink:
    """A customer: verifies each callback, and keeps what it says."""

    url: str = ""
    told: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def sink() -> Iterator[Sink]:
    """A running one."""
    customer = Sink()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            verify(body, dict(self.headers), SECRET, now_s=time.time())
            customer.told.append(json.loads(body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    customer.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    try:
        yield customer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(slots=True)
class Worker:
    """A worker that runs, and what it did: a word and a prompt each."""

    url: str
    marks: Path
    rules: dict[str, Any]

    def did(self) -> list[str]:
        return self.marks.read_text("utf-8").splitlines() if self.marks.exists() else []

    def until_did(self, mark: str) -> None:
        until(lambda: mark in self.did())


@contextmanager
def process(command: list[str | Path], log: Path, **env: str) -> Iterator[None]:
    """A process group, killed at the end."""
    given = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    with (
        log.open("ab") as out,
        subprocess.Popen(
            [str(one) for one in command],
            env=given | {"PYTHONPATH": ""} | env,
            stdout=out,
            stderr=out,
            cwd=log.parent,
            start_new_session=True,
        ) as child,
    ):
        try:
            yield
        finally:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def answers(url: str, says: str = "") -> bool:
    with suppress(httpx.HTTPError):
        found = httpx.get(url, trust_env=False)
        return found.status_code == 200 and says in found.text
    return False


@contextmanager
def cog_server(tmp_path: Path) -> Iterator[Worker]:
    """The server that a cog image runs, with its own route to stop a prediction."""
    needs(COG)
    port, marks = free_port(), tmp_path / "marks"
    with process(
        [COG, "-m", "cog.server.http", "--host", "127.0.0.1"],
        tmp_path / "worker.log",
        PATH=f"{COG.parent}{os.pathsep}{os.environ['PATH']}",
        COG_PREDICT_TYPE_STUB=f"{WORKERS / 'cog_predictor.py'}:Predictor",
        PORT=str(port),
        MARKS=str(marks),
    ):
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{url}/health-check", "READY"))
        yield Worker(url, marks, {"kind": "cog", "url": url, "concurrency": 1})


@contextmanager
def runpod_worker(tmp_path: Path) -> Iterator[Worker]:
    """A worker's local API server. It has no way to give up a job: who runs it restarts it."""
    needs(PYTHON)
    port, stop, marks = free_port(), free_port(), tmp_path / "marks"
    serve = ["--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port)]
    command: list[str | Path] = [sys.executable, STOPPABLE, "--port", str(stop), "--"]
    with process(
        [*command, PYTHON, WORKERS / "runpod_handler.py", *serve],
        tmp_path / "worker.log",
        HOME=str(tmp_path),
        MARKS=str(marks),
    ):
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{url}/openapi.json"))
        rules = {
            "kind": "runpod",
            "url": url,
            "concurrency": 1,
            "cancel": {"url": f"http://127.0.0.1:{stop}/stop"},
            "retry": {"base": 0.2, "factor": 1, "cap": 0.2},
        }
        yield Worker(url, marks, rules)


@pytest.fixture(params=[cog_server, runpod_worker], ids=["cog", "runpod"])
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Worker]:
    with request.param(tmp_path) as running:
        yield running


@contextmanager
def gateway(tmp_path: Path, port: int) -> Iterator[Served]:
    """A dispatcher on the same database and port each time; killed at the end."""
    with served(
        f"sqlite:///{tmp_path}/jobs.db",
        tmp_path / "log",
        PORT=str(port),
        SIGNING_SECRET=SECRET,
    ) as running:
        yield running


def make(running: Served, worker: Worker) -> None:
    made = running.client.post("/v1/endpoints", json={"name": "ep", **worker.rules})
    assert made.status_code == 201, made.text


def submit(running: Served, customer: Sink, **given: Any) -> str:
    """A job whose end is told; its id."""
    taken = running.client.post(
        "/v1/endpoints/ep/jobs", json=given, headers={"Postback-Callback-Url": customer.url}
    )
    assert taken.status_code == 202, taken.text
    id: str = taken.json()["id"]
    return id


def shown(running: Served, id: str) -> dict[str, Any]:
    found: dict[str, Any] = running.client.get(f"/v1/jobs/{id}").json()
    return found


def until_status(running: Served, id: str, *status: str) -> dict[str, Any]:
    found: dict[str, Any] = until(
        lambda: one if (one := shown(running, id))["status"] in status else None
    )
    return found


def output_of(worker: Worker, prompt: str) -> Any:
    """What it answers, its numbers as they were written."""
    if worker.rules["kind"] == "cog":
        return f"said {prompt}"
    return {"said": prompt, "size": 1.1}


def test_it_runs_behind_queue_webhook_and_sdk(worker: Worker, tmp_path: Path) -> None:
    """A job ends with the worker's own output, told by a signed webhook; one that fails with its
    own words; and RunPod's client, which knows of nothing, gets the output too."""
    needs(PYTHON)
    with sink() as customer, gateway(tmp_path, free_port()) as running:
        make(running, worker)
        first = submit(running, customer, prompt="first")
        assert until_status(running, first, "completed")["output"] == output_of(worker, "first")
        second = submit(running, customer, prompt="second", fail=True)
        failed = until_status(running, second, "failed")
        assert (failed["reason"], "out of memory" in failed["error"]) == ("rejected", True)
        until(lambda: len(customer.told) == 2)
        assert [one["status"] for one in customer.told] == ["completed", "failed"]
        assert customer.told[0]["output"] == output_of(worker, "first")
        base = str(running.client.base_url).rstrip("/") + "/v2"
        said = subprocess.run(
            [PYTHON, "-c", SAYS],
            env={"KEY": ADMIN_KEY, "RUNPOD_ENDPOINT_BASE_URL": base, "HOME": str(tmp_path)},
            text=True,
            capture_output=True,
            timeout=200,
            check=False,
        )
        assert said.returncode == 0, said.stderr[-4000:]
        assert said.stdout.splitlines()[-1] == str(output_of(worker, "through the sdk"))


def test_it_runs_to_its_end_through_a_restart_of_ours(worker: Worker, tmp_path: Path) -> None:
    """The dispatcher is killed while the worker works, and started again: the job completes, its
    end told once. A cog server works on meanwhile, and its end comes by URL: it worked once. A
    RunPod worker is stopped first and called again, so that it never works twice at a time."""
    port = free_port()
    with sink() as customer:
        with gateway(tmp_path, port) as running:
            make(running, worker)
            # A worker that is stopped is so before it has done; one that goes on comes to its end.
            seconds = 3 if worker.rules["kind"] == "cog" else 600
            id = submit(running, customer, prompt="long", seconds=seconds)
            worker.until_did("begun long")
            if worker.rules["kind"] == "cog":  # until what it answered is stored
                until(lambda: "40%" in (shown(running, id).get("currentStep") or ""))
        with gateway(tmp_path, port) as running:
            found = until_status(running, id, "completed", "failed", "timeout")
            assert (found["status"], found["output"]) == ("completed", output_of(worker, "long"))
            until(lambda: customer.told)
            begun = worker.did().count("begun long")
            assert begun == (1 if worker.rules["kind"] == "cog" else 2)
            assert worker.did().count("ended long") == 1
            assert [one["jobId"] for one in customer.told] == [id]


def test_a_cog_server_ends_a_job_that_we_were_down_for(tmp_path: Path) -> None:
    """It is over while no dispatcher is there: the server tells of it again and again, until one
    is."""
    port = free_port()
    with cog_server(tmp_path) as worker, sink() as customer:
        with gateway(tmp_path, port) as running:
            make(running, worker)
            id = submit(running, customer, prompt="brief", seconds=0.8)
            worker.until_did("begun brief")
            until(lambda: "40%" in (shown(running, id).get("currentStep") or ""))
        worker.until_did("ended brief")
        with gateway(tmp_path, port) as running:
            assert until_status(running, id, "completed")["output"] == "said brief"
        assert worker.did().count("begun brief") == 1


def test_a_cancel_stops_its_work(worker: Worker, tmp_path: Path) -> None:
    """Cancelled at once; the worker stops, and only then does the next job begin."""
    with sink() as customer, gateway(tmp_path, free_port()) as running:
        make(running, worker)
        first = submit(running, customer, prompt="first", seconds=600)
        worker.until_did("begun first")
        if worker.rules["kind"] == "cog":
            until(lambda: shown(running, first).get("currentStep"))
        second = submit(running, customer, prompt="second")
        cancelled = running.client.post(f"/v1/jobs/{first}/cancel")
        assert cancelled.json()["status"] == "cancelled"
        assert until_status(running, second, "completed")["output"] == output_of(worker, "second")
        assert "ended first" not in worker.did()
        if worker.rules["kind"] == "cog":
            assert worker.did()[:2] == ["begun first", "stopped first"]
        until(lambda: len(customer.told) == 2)
        assert {one["status"] for one in customer.told} == {"cancelled", "completed"}
