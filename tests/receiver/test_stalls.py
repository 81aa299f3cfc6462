"""An async handler that blocks the event loop of a receiver."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from receiver.testing import signed_request
from tests.receiver.waiting import ENDS_WITHIN_S, wait_until

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
SHOP = """
import os
import time
from receiver.base import stalls

stalls._TELL_S = stalls.STALL_S  # a test does not wait for five seconds

async def fulfil(event):
    while not os.path.exists("go_on"):
        time.sleep(0.01)
"""


def test_a_handler_that_blocks_is_named_and_a_process_that_was_stopped_is_not_blamed(
    tmp_path: Path,
) -> None:
    """One warning, while it lasts: the handler, the line it stands at, and what to do. The figures
    have it afterwards."""
    (tmp_path / "shop_jobs.py").write_text(SHOP)
    log = tmp_path / "log"

    def lines() -> list[dict[str, Any]]:
        whole = log.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def events() -> list[str]:
        return [line["event"] for line in lines()]

    settings = {
        "RECEIVER_SECRETS": SECRET,
        "RECEIVER_DATABASE_URL": f"sqlite:///{tmp_path}/receiver.db",
        "RECEIVER_PORT": "0",
        "RECEIVER_LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "receiver", "serve", "--handler", "shop_jobs:fulfil"]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command, env={**os.environ, **settings}, cwd=tmp_path, stderr=stderr
        )
    try:
        wait_until(lambda: "listening" in events())
        first = next(line for line in lines() if line["event"] == "listening")
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)  # longer than what a stall is
        process.send_signal(signal.SIGCONT)
        body = b'{"jobId":"job_1","status":"completed"}'
        with httpx.Client(trust_env=False, timeout=ENDS_WITHIN_S) as http:
            headers = signed_request(body, SECRET, message_id="cb_1")
            assert http.post(first["url"], content=body, headers=headers).status_code == 200
            wait_until(lambda: "the event loop stands still" in events())
            (tmp_path / "go_on").touch()
            wait_until(lambda: "the event loop turns again" in events())
            figures = http.get(first["metrics"]).text
        assert "\nreceiver_loop_stalls_total 1\n" in figures
        assert float(figures.split("\nreceiver_longest_stall_seconds ")[1].split("\n")[0]) >= 1
    finally:
        process.terminate()
        code = process.wait(ENDS_WITHIN_S)
    assert code == 0
    (told,) = [line for line in lines() if line.get("logger") == "loop" and "at" in line]
    assert (told["level"], told["handler"]) == ("warning", "fulfil")
    shop = tmp_path / "shop_jobs.py"  # the two lines of its loop
    assert told["at"] in (f"{shop}:9 in fulfil", f"{shop}:10 in fulfil")
    assert "`def`" in told["advice"]
