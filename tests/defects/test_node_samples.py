"""The receiver in Node.js that customers copy: strangers, spellings, and secrets that are none."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from receiver.signature import signed_headers
from tests.receiver.deployed import DEPLOY

SECRET = "whsec_dGVzdC10ZXN0LXRlc3QtdGVzdC10ZXN0"
SERVER = """
import { createServer } from "node:http";
import { receive } from %s;
const rows = [], unknown = [];
const hook = receive({
  secret: %s,
  insert: async (jobId, status) => (rows.push([jobId, status]), true),
  unknown: async (jobId, status) => { unknown.push([jobId, status]); },
});
const server = createServer((request, response) => {
  if (request.url !== "/rows") return hook(request, response);
  response.end(JSON.stringify({ rows, unknown }));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"""
WEAK_KEY = """
import { createHmac } from "node:crypto";
import { verify } from %s;
const body = Buffer.from('{"jobId":"forged","status":"completed"}');
const timestamp = String(Math.floor(Date.now() / 1000));
let forged = 0;
for (let key = 0; key < 256; key++) {
  const hmac = createHmac("sha256", Buffer.from([key])).update(`m.${timestamp}.`).update(body);
  const headers = {
    "webhook-id": "m",
    "webhook-timestamp": timestamp,
    "webhook-signature": "v1," + hmac.digest("base64"),
  };
  try { verify(body, headers, %s); forged++; } catch {}
}
console.log(forged);
"""


@pytest.fixture
def node() -> str:
    found = shutil.which("node")
    if found is None and os.environ.get("CI") != "true":
        pytest.skip("there is no Node.js on this machine")
    assert found is not None, "there is no Node.js on this CI machine"
    return found


@contextmanager
def serving(node: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The URL and the process of a server with receive.mjs."""
    script = SERVER % (json.dumps((DEPLOY / "receive.mjs").as_uri()), json.dumps(SECRET))
    argv = [node, "--input-type=module", "-e", script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}", process
        finally:
            process.terminate()


def test_a_stranger_who_hangs_up_ends_nothing(node: str) -> None:
    """Two of ten bytes, no signature, and away: the next delivery is taken."""
    with serving(node) as (url, process):
        where = urlsplit(url)
        assert where.port is not None
        for reset in (False, True):
            with socket.create_connection(("127.0.0.1", where.port)) as stranger:
                stranger.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12")
                time.sleep(0.05)
                if reset:
                    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            time.sleep(0.1)
        assert post(url, b'{"jobId":"job_1","status":"completed"}') == 200
        assert process.poll() is None


ENDS = [
    (None, "completed"),
    ('"COMPLETED"', "completed"),
    ('"succeeded"', "completed"),
    ('"Done"', "completed"),
    ('"finished"', "completed"),
    ("null", "completed"),
    ('"FAILED"', "failed"),
    ('"error"', "failed"),
    ('"errored"', "failed"),
    ('"canceled"', "cancelled"),
    ('"aborted"', "cancelled"),
    ('"TIMED_OUT"', "timeout"),
    ('"timed-out"', "timeout"),
    ('"expired"', "timeout"),
]


def test_every_end_is_inserted_however_it_is_written(node: str) -> None:
    """No status at all is a completion; a word that nobody knows is told, and ends nothing."""
    with serving(node) as (url, _):
        for n, (status, _) in enumerate(ENDS):
            said = "" if status is None else f',"status":{status}'
            assert post(url, f'{{"jobId":"job_{n}"{said}}}'.encode()) == 200
        for status in ('"running"', '"IN_PROGRESS"', '"queued"'):
            assert post(url, f'{{"jobId":"job_p","status":{status}}}'.encode()) == 200
        for status in ('"quux"', "7", '{"is":"completed"}'):
            assert post(url, f'{{"jobId":"job_u","status":{status}}}'.encode()) == 200
        seen = httpx.get(f"{url}/rows", trust_env=False).json()
    assert seen["rows"] == [[f"job_{n}", end] for n, (_, end) in enumerate(ENDS)]
    assert seen["unknown"] == [["job_u", "quux"], ["job_u", 7], ["job_u", {"is": "completed"}]]


@pytest.mark.parametrize(
    "secret", ["s3=Zk3v9qLw8XxT4mN7pR2yB6cD1fG5hJ0k", "whsec_AA=AAAAAAAAAAAAAAAAAAAAA", "AQ==="]
)
def test_a_secret_is_decoded_whole_or_not_at_all(node: str, secret: str) -> None:
    """Node.js would stop at "=": of one byte that is left there are 256 keys."""
    script = WEAK_KEY % (json.dumps((DEPLOY / "verify.mjs").as_uri()), json.dumps(secret))
    ran = subprocess.run(
        [node, "--input-type=module", "-e", script], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "0"


def test_a_placeholder_verifies_nothing(node: str) -> None:
    """Everybody can read it in the sample."""
    script = f"""
    import {{ createHmac }} from "node:crypto";
    import {{ verify }} from {json.dumps((DEPLOY / "verify.mjs").as_uri())};
    const body = Buffer.from('{{"jobId":"job_1"}}'), secret = "whsec_put-yours-here";
    const mac = createHmac("sha256", secret).update(body).digest("hex");
    try {{ verify(body, {{ "x-webhook-signature": "sha256=" + mac }}, secret); }}
    catch (error) {{ console.log(error.message); }}
    """
    ran = subprocess.run(
        [node, "--input-type=module", "-e", script], capture_output=True, text=True, check=True
    )
    assert "placeholder" in ran.stdout


def post(url: str, body: bytes) -> int:
    headers = signed_headers(body, [SECRET], message_id="m", timestamp_s=int(time.time()))
    return httpx.post(f"{url}/hook", content=body, headers=headers, trust_env=False).status_code
