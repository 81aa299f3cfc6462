"""A dispatcher that is switched off for good after the submit: the job is handled all the same."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from receiver import Event, Receiver, Settings
from receiver.base import server
from tests.receiver.serving import served
from tests.receiver.waiting import until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
KEY = "test-key-of-the-platform"
DONE = {"jobId": "job_1", "status": "completed", "output": {"pages": 50}}
STARTS_WITHIN_S = 60


def submit_and_switch_off(folder: Path, callback_url: str) -> None:
    """A real dispatcher accepts the completion, and never delivers it."""
    with server.listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    environ = {
        "DISPATCHER_DATABASE_URL": f"sqlite:///{folder}/dispatcher.db",
        "DISPATCHER_PORT": str(port),
        "DISPATCHER_ADMIN_KEY": KEY,
        "DISPATCHER_SIGNING_SECRET": SECRET,
        "DISPATCHER_ALLOW_NETWORKS": "127.0.0.0/8",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "dispatcher", "serve"],
        env={**os.environ, **environ},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {KEY}"}) as http:
            wait_until_ready(http, url, process)
            document = {"jobId": "job_1", "callbackUrl": callback_url, "payload": DONE}
            assert http.post(f"{url}/v1/callbacks", json=document).status_code == 202
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def wait_until_ready(http: httpx.Client, url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the dispatcher did not start"
        try:
            if http.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail("the dispatcher did not get ready")


async def test_the_job_is_handled_through_its_status_url(tmp_path: Path) -> None:
    """No callback ever comes; the platform's status URL is asked, and its answer is the event."""
    submit_and_switch_off(tmp_path, "http://127.0.0.1:1/webhooks")
    handled: list[Event] = []
    settings = Settings(secrets=(SECRET,), database_url=f"sqlite:///{tmp_path}/inbox.db")
    receiver = Receiver(settings)
    receiver.on("completed")(handled.append)

    async def status(request: Request) -> JSONResponse:
        return JSONResponse(DONE)

    platform = Starlette(routes=[Route("/v2/jobs/job_1/status", status)])
    async with receiver, served(platform) as url:
        await receiver.expect(
            "job_1", f"{url}/v2/jobs/job_1/status", by=timedelta(milliseconds=100)
        )
        await until(lambda: len(handled) == 1)
    assert (handled[0].job_id, handled[0].output) == ("job_1", {"pages": 50})
